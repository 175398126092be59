//! The ports: how many clients may be connected, how their connections are encrypted, and how long they
//! may take to say what they want.

mod handshake;
mod places;

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
use tonic::transport::server::{Connected, TcpIncoming};

use crate::{
    auth::Peer,
    metrics::{GaugeGuard, Metrics},
};

pub use handshake::Handshakes;
use places::{Place, Places};

/// How long to wait when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client of HTTP/2 sends without being asked: the preface and the head of its SETTINGS.
const HTTP2_GREETING: usize = 24 + 9;

/// What a connection must do in its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hurry {
    /// Greet as a client of HTTP/2 does. From then on HTTP/2's own pings tell whether it is there.
    Greet,
    /// End.
    End,
}

/// A port that takes so many connections and no more.
#[derive(Debug)]
pub struct Port {
    incoming: TcpIncoming,
    places: Places,
    hurry: Hurry,
    patience: Duration,
    metrics: Arc<Metrics>,
}

impl Port {
    /// At most `max` connections at once, each of which does within `patience` what it must.
    #[must_use]
    pub fn new(
        listener: TcpListener,
        max: usize,
        (hurry, patience): (Hurry, Duration),
        keepalive: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            incoming: TcpIncoming::from(listener)
                .with_nodelay(Some(true))
                .with_keepalive(Some(keepalive)),
            places: Places::new(max),
            hurry,
            patience,
            metrics,
        }
    }

    /// The same with at most so many connections at once from one address.
    #[must_use]
    pub fn with_most_of_one(self, most: usize) -> Self {
        Self {
            places: self.places.with_most_of_one(most),
            ..self
        }
    }

    /// The connections as they come, without an end. With `handshakes` they come when theirs is done, in
    /// whichever order that is; one that takes its time holds up no other.
    pub fn connections(
        self,
        handshakes: Option<Handshakes>,
    ) -> impl Stream<Item = io::Result<Connection>> {
        let accepted = stream::unfold(self, |mut port| async move {
            let accepted = port.next().await;
            Some((accepted, port))
        });
        let Some(handshakes) = handshakes else {
            return accepted.map(|it| Ok(it.in_plain_text())).left_stream();
        };
        let encrypted = accepted.map(move |accepted| {
            // A task each, as a signature takes a good part of a millisecond.
            let task = tokio::spawn(handshakes.clone().shake(accepted));
            AbortOnDropHandle::new(task)
        });
        // The port bounds how many there are.
        let encrypted = encrypted.buffer_unordered(usize::MAX);
        let done = |ended: Result<Option<Connection>, _>| async { ended.ok().flatten().map(Ok) };
        encrypted.filter_map(done).right_stream()
    }

    async fn next(&mut self) -> Accepted {
        loop {
            match self.incoming.next().await {
                Some(Ok(stream)) => {
                    if let Some(permit) = self.places.take(stream.peer_addr().ok()) {
                        return self.take(stream, permit);
                    }
                    self.metrics.count_limit_rejection("connections");
                    // Reset rather than closed, so that a flood leaves nothing behind in the kernel.
                    let _ = stream.set_zero_linger();
                }
                // The client gave up before it was let in.
                Some(Err(error)) if is_of_one_connection(&error) => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, "a connection can't be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                // A listener has no end.
                None => std::future::pending().await,
            }
        }
    }

    fn take(&self, stream: TcpStream, permit: Place) -> Accepted {
        Accepted {
            address: stream.peer_addr().ok(),
            stream,
            deadline: Deadline {
                greeting: match self.hurry {
                    Hurry::Greet => Some(HTTP2_GREETING),
                    Hurry::End => None,
                },
                sleep: Box::pin(tokio::time::sleep(self.patience)),
            },
            metrics: Arc::clone(&self.metrics),
            permit,
            counted: (self.hurry == Hurry::Greet)
                .then(|| GaugeGuard::one(&self.metrics.connections)),
        }
    }
}

/// A connection of which nothing has been read yet.
#[derive(Debug)]
struct Accepted {
    stream: TcpStream,
    address: Option<SocketAddr>,
    /// Runs from now on, and goes on in the [`Connection`].
    deadline: Deadline,
    metrics: Arc<Metrics>,
    permit: Place,
    counted: Option<GaugeGuard>,
}

impl Accepted {
    fn in_plain_text(self) -> Connection {
        Connection {
            stream: Either::Left(self.stream),
            peer: Peer {
                address: self.address,
                certificate: None,
            },
            distrusted: None,
            hurry: Some(self.deadline),
            metrics: self.metrics,
            _permit: self.permit,
            _counted: self.counted,
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | NotConnected
    )
}

impl axum::serve::Listener for Port {
    type Io = Connection;
    type Addr = Option<SocketAddr>;

    async fn accept(&mut self) -> (Connection, Option<SocketAddr>) {
        let accepted = self.next().await;
        let peer = accepted.address;
        (accepted.in_plain_text(), peer)
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.incoming.local_addr().map(Some)
    }
}

/// Ends when the client's certificate is trusted no more.
type Distrusted = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A client's connection. It fails when it has not done in time what it must, and when its client is trusted
/// no more: neither what is open on it nor what would come goes on.
pub struct Connection {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    peer: Peer,
    /// `None` where no certificate was shown.
    distrusted: Option<Distrusted>,
    /// `None` once it is done.
    hurry: Option<Deadline>,
    metrics: Arc<Metrics>,
    _permit: Place,
    _counted: Option<GaugeGuard>,
}

#[derive(Debug)]
struct Deadline {
    /// How many bytes of the greeting are still to come; `None` where no greeting will do.
    greeting: Option<usize>,
    sleep: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Connection");
        shown.field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connection {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(distrusted) = &mut self.distrusted
            && distrusted.as_mut().poll(cx).is_ready()
        {
            // It may be asked again, which no future stands that has ended.
            self.distrusted = Some(Box::pin(std::future::ready(())));
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let Some(deadline) = &mut self.hurry else {
            return Ok(());
        };
        if deadline.sleep.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        self.metrics.count_limit_rejection("request_timeout");
        Err(io::ErrorKind::TimedOut.into())
    }

    fn heard(&mut self, bytes: usize) {
        if let Some(Deadline {
            greeting: Some(left),
            ..
        }) = &mut self.hurry
        {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.hurry = None;
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
        self.check(cx)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.heard(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
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

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

#[cfg(test)]
mod tests;
