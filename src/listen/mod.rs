//! Listening ports: limits on connections, TLS, and the deadlines of connections.

mod handshake;
mod http2;
mod permits;
mod protocol;

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, StreamExt as _, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::Sleep,
};
use tokio_rustls::server::TlsStream;
use tokio_util::{either::Either, task::AbortOnDropHandle};
use tonic::transport::server::TcpIncoming;

use crate::{
    auth::Peer,
    metrics::{GaugeGuard, Metrics},
};

pub use handshake::Handshakes;
pub use http2::{Http2Settings, serve};
use permits::{ConnectionPermit, ConnectionPermits};
use protocol::FirstBytes;

/// The pause after the system could not accept a connection.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The bytes that an HTTP/2 client sends first: the preface and the frame header of its SETTINGS.
const HTTP2_GREETING_BYTES: usize = 24 + 9;

/// The event that must happen before a connection's timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionDeadline {
    /// The client has sent its HTTP/2 greeting. From then on HTTP/2 pings detect dead connections.
    Greeting,
    /// The connection is closed.
    Close,
}

/// A listening port with a limit on its connections.
#[derive(Debug)]
pub struct Listener {
    incoming: TcpIncoming,
    permits: ConnectionPermits,
    deadline: ConnectionDeadline,
    timeout: Duration,
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
            permits: ConnectionPermits::new(max),
            deadline,
            timeout,
            metrics,
        }
    }

    /// Limits the connections from each address.
    #[must_use]
    pub fn with_max_per_address(self, max: usize) -> Self {
        Self {
            permits: self.permits.with_max_per_address(max),
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
            return accepted.map(Accepted::into_plaintext).left_stream();
        };
        let encrypted = accepted.map(move |accepted| {
            // One task each, because a signature takes a large part of a millisecond.
            let task = tokio::spawn(handshakes.clone().perform(accepted));
            AbortOnDropHandle::new(task)
        });
        // The number of connections is bounded by the permits.
        let encrypted = encrypted.buffer_unordered(usize::MAX);
        let done = |ended: Result<Option<Connection>, _>| async { ended.ok().flatten() };
        encrypted.filter_map(done).right_stream()
    }

    async fn next(&mut self) -> Accepted {
        loop {
            match self.incoming.next().await {
                Some(Ok(stream)) => {
                    if let Some(permit) = self.permits.try_acquire(stream.peer_addr().ok()) {
                        return self.accept_stream(stream, permit);
                    }
                    self.metrics.count_limit_rejection("connections");
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

    fn accept_stream(&self, stream: TcpStream, permit: ConnectionPermit) -> Accepted {
        Accepted {
            address: stream.peer_addr().ok(),
            stream,
            timer: DeadlineTimer {
                greeting: match self.deadline {
                    ConnectionDeadline::Greeting => Some(HTTP2_GREETING_BYTES),
                    ConnectionDeadline::Close => None,
                },
                sleep: Box::pin(tokio::time::sleep(self.timeout)),
            },
            metrics: Arc::clone(&self.metrics),
            permit,
            gauge: (self.deadline == ConnectionDeadline::Greeting)
                .then(|| GaugeGuard::one(&self.metrics.connections)),
        }
    }
}

/// A connection from which nothing has been read yet.
#[derive(Debug)]
struct Accepted {
    stream: TcpStream,
    address: Option<SocketAddr>,
    /// Starts when the connection is accepted, and continues in the [`Connection`].
    timer: DeadlineTimer,
    metrics: Arc<Metrics>,
    permit: ConnectionPermit,
    gauge: Option<GaugeGuard>,
}

impl Accepted {
    fn into_plaintext(self) -> Connection {
        Connection {
            stream: Either::Left(self.stream),
            peer: Peer {
                address: self.address,
                certificate: None,
            },
            revoked: None,
            first_bytes: FirstBytes::default(),
            timer: Some(self.timer),
            metrics: self.metrics,
            _permit: self.permit,
            _gauge: self.gauge,
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
        let accepted = self.next().await;
        let peer = accepted.address;
        (accepted.into_plaintext(), peer)
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.incoming.local_addr().map(Some)
    }
}

/// Completes when the client's certificate is no longer trusted.
type CertificateRevoked = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A client's connection. Reads and writes fail after the deadline, and once the client's certificate is no
/// longer trusted.
pub struct Connection {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    peer: Peer,
    /// `None` without a client certificate.
    revoked: Option<CertificateRevoked>,
    /// What was read to tell the protocol, until it is read again.
    first_bytes: FirstBytes,
    /// `None` once the deadline is met.
    timer: Option<DeadlineTimer>,
    metrics: Arc<Metrics>,
    _permit: ConnectionPermit,
    _gauge: Option<GaugeGuard>,
}

#[derive(Debug)]
struct DeadlineTimer {
    /// The remaining bytes of the greeting; `None` if the connection must close instead.
    greeting: Option<usize>,
    sleep: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Connection");
        debug.field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connection {
    fn check_alive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(revoked) = &mut self.revoked
            && revoked.as_mut().poll(cx).is_ready()
        {
            // A completed future must not be polled again, but this function may be called again.
            self.revoked = Some(Box::pin(std::future::ready(())));
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let Some(timer) = &mut self.timer else {
            return Ok(());
        };
        if timer.sleep.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        self.metrics.count_limit_rejection("request_timeout");
        Err(io::ErrorKind::TimedOut.into())
    }

    fn count_greeting(&mut self, bytes: usize) {
        if let Some(DeadlineTimer {
            greeting: Some(left),
            ..
        }) = &mut self.timer
        {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.timer = None;
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_alive(cx)?;
        if self.first_bytes.read_again(buffer) {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.count_greeting(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_alive(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_alive(cx)?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
