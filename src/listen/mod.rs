//! Listening ports: limits on connections, TLS, and the deadlines of connections.

mod connection;
mod demand;
mod handshake;
mod http2;
mod permits;
mod priority;
mod protocol;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use metrics::Gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::server::TcpIncoming;

use crate::metrics::Metrics;

use connection::Admission;
pub use connection::{Connection, ConnectionDeadline};
use demand::Demand;
pub use handshake::Handshakes;
pub use http2::{Http2Settings, serve};
use permits::ConnectionPermits;

/// The pause after the system could not accept a connection.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A listening port with a limit on its connections.
#[derive(Debug)]
pub struct Listener {
    incoming: TcpIncoming,
    permits: ConnectionPermits,
    deadline: ConnectionDeadline,
    timeout: Duration,
    demand: Arc<Demand>,
    metrics: Arc<Metrics>,
}

impl Listener {
    /// Creates a listener for at most `max` connections at once. Each must meet its deadline within the
    /// timeout.
    #[must_use]
    pub fn new(
        listener: TcpListener,
        max: usize,
        (deadline, timeout): (ConnectionDeadline, Duration),
        keepalive: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            incoming: TcpIncoming::from(listener)
                .with_nodelay(Some(true))
                .with_keepalive(Some(keepalive)),
            permits: ConnectionPermits::new(max, metrics.limit_rejections.of("connections")),
            deadline,
            timeout,
            demand: Demand::new(if deadline == ConnectionDeadline::Greeting {
                metrics.low_priority_connections.clone()
            } else {
                // Other connections have no priority.
                Gauge::noop()
            }),
            metrics,
        }
    }

    /// Closes old connections in favour of new ones beyond the limit, instead of refusing these.
    #[must_use]
    pub fn with_newest_first(self) -> Self {
        Self {
            permits: self.permits.with_newest_first(),
            ..self
        }
    }

    /// Returns the accepted connections as an endless stream. With `handshakes`, connections appear when
    /// their handshake completes, in any order, so a slow one delays no other.
    pub fn connections(self, handshakes: Option<Handshakes>) -> impl Stream<Item = Connection> {
        let accepted = stream::unfold(self, |mut listener| async move {
            let accepted = listener.next().await;
            Some((accepted, listener))
        });
        let Some(handshakes) = handshakes else {
            let plaintext = |(stream, admission)| Connection::plaintext(stream, admission);
            return accepted.map(plaintext).left_stream();
        };
        let encrypted = accepted.map(move |(stream, admission)| {
            // One task each, because a signature takes a large part of a millisecond.
            let task = tokio::spawn(handshakes.clone().perform(stream, admission));
            AbortOnDropHandle::new(task)
        });
        // The number of connections is bounded by the permits.
        let encrypted = encrypted.buffer_unordered(usize::MAX);
        let done = |ended: Result<Option<Connection>, _>| async { ended.ok().flatten() };
        encrypted.filter_map(done).right_stream()
    }

    /// Returns the next connection, from which nothing has been read yet.
    async fn next(&mut self) -> (TcpStream, Admission) {
        loop {
            match self.incoming.next().await {
                Some(Ok(stream)) => {
                    let address = stream.peer_addr().ok();
                    if let Ok(permit) = self.permits.acquire(address).await {
                        let limit = (self.deadline, self.timeout);
                        let demand = &self.demand;
                        let admission =
                            Admission::new(address, limit, &self.metrics, demand, permit);
                        return (stream, admission);
                    }
                    // Reset instead of closed, so that a flood leaves no state in the kernel.
                    let _ = stream.set_zero_linger();
                }
                // The client closed before it was accepted.
                Some(Err(error)) if is_connection_error(&error) => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, "a connection can't be accepted; trying again");
                    tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
                }
                // A listener never ends.
                None => std::future::pending().await,
            }
        }
    }
}

fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | NotConnected
    )
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = Option<SocketAddr>;

    async fn accept(&mut self) -> (Connection, Option<SocketAddr>) {
        let (stream, admission) = self.next().await;
        let peer = admission.address();
        (Connection::plaintext(stream, admission), peer)
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.incoming.local_addr().map(Some)
    }
}

#[cfg(test)]
mod tests;
