//! A client's connection, which ends at its deadline.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::{
    demand::{ConnectionDemand, Demand},
    permits::ConnectionPermit,
    protocol::{FirstBytes, Protocol},
};
use crate::{
    auth::Peer,
    metrics::{GaugeGuard, Metrics},
};

/// The bytes that an HTTP/2 client sends first: the preface and the frame header of its SETTINGS.
const HTTP2_GREETING_BYTES: usize = 24 + 9;

/// The most that is read of a connection before others have their turn, in bytes. A frame of 100 bytes may open a
/// call, which takes tens of microseconds, and a client may have sent thousands of them.
const MAX_READ_PER_TURN: usize = 4 << 10;

/// The event that must happen before a connection's timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionDeadline {
    /// The client has sent its HTTP/2 greeting. From then on HTTP/2 pings detect dead connections.
    Greeting,
    /// The connection is closed.
    Close,
}

/// What a connection keeps from its acceptance to its end.
#[derive(Debug)]
pub(super) struct Admission {
    address: Option<SocketAddr>,
    /// `None` once the deadline is met.
    timer: Option<DeadlineTimer>,
    metrics: Arc<Metrics>,
    demand: Arc<ConnectionDemand>,
    permit: ConnectionPermit,
    /// Counts the connection, if clients of gRPC use it.
    _gauge: Option<GaugeGuard>,
}

/// The deadline of a connection that has not met it yet.
#[derive(Debug)]
struct DeadlineTimer {
    /// The remaining bytes of the greeting; `None` if the connection must close instead.
    greeting: Option<usize>,
    sleep: Pin<Box<Sleep>>,
}

impl Admission {
    /// Admits the connection of the client at `address`. Its deadline is `timeout` from now.
    pub(super) fn new(
        address: Option<SocketAddr>,
        (deadline, timeout): (ConnectionDeadline, Duration),
        metrics: &Arc<Metrics>,
        demand: &Arc<Demand>,
        permit: ConnectionPermit,
    ) -> Self {
        let is_grpc = deadline == ConnectionDeadline::Greeting;
        Self {
            address,
            timer: Some(DeadlineTimer {
                greeting: is_grpc.then_some(HTTP2_GREETING_BYTES),
                sleep: Box::pin(tokio::time::sleep(timeout)),
            }),
            metrics: Arc::clone(metrics),
            demand: demand.connection(),
            permit,
            _gauge: is_grpc.then(|| GaugeGuard::one(&metrics.connections)),
        }
    }

    /// Returns the address of the client, if it is still connected.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Returns the metrics that count the connection.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Waits until the deadline passes, and counts that.
    pub(super) async fn deadline_passed(&mut self) {
        match &mut self.timer {
            Some(timer) => timer.sleep.as_mut().await,
            None => std::future::pending().await,
        }
        self.metrics
            .limit_rejections
            .of("request_timeout")
            .increment(1);
    }

    fn check_open(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.permit.poll_withdrawn(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let Some(timer) = &mut self.timer else {
            return Ok(());
        };
        if timer.sleep.as_mut().poll(cx).is_pending() {
            return Ok(());
        }
        self.metrics
            .limit_rejections
            .of("request_timeout")
            .increment(1);
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

/// Completes when the client's certificate is no longer trusted.
pub(super) type CertificateRevoked = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A client's connection. Reads and writes fail after the deadline, once the client's certificate is no
/// longer trusted, and when the connection makes room for another one.
pub struct Connection {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    peer: Peer,
    /// `None` without a client certificate.
    revoked: Option<CertificateRevoked>,
    /// What was read to tell the protocol, until it is read again.
    first_bytes: FirstBytes,
    /// The bytes that were read since others had their turn.
    read_in_turn: usize,
    /// The bytes that were written to it since the last read.
    written: usize,
    /// Set while nothing is read, because too many calls were begun.
    pause: Option<Pin<Box<Sleep>>>,
    admission: Admission,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Connection");
        debug.field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connection {
    /// Returns a connection without TLS.
    pub(super) fn plaintext(stream: TcpStream, admission: Admission) -> Self {
        Self::new(Either::Left(stream), admission, None, None)
    }

    /// Returns a connection with TLS, of a client that may have shown a certificate (in DER), until that is
    /// revoked.
    pub(super) fn encrypted(
        stream: TlsStream<TcpStream>,
        admission: Admission,
        certificate: Option<Arc<[u8]>>,
        revoked: Option<CertificateRevoked>,
    ) -> Self {
        let stream = Either::Right(Box::new(stream));
        Self::new(stream, admission, certificate, revoked)
    }

    fn new(
        stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
        admission: Admission,
        certificate: Option<Arc<[u8]>>,
        revoked: Option<CertificateRevoked>,
    ) -> Self {
        Self {
            stream,
            peer: Peer {
                address: admission.address,
                certificate,
            },
            revoked,
            first_bytes: FirstBytes::default(),
            read_in_turn: 0,
            written: 0,
            pause: None,
            admission,
        }
    }

    /// Returns what it asks for.
    pub(super) fn demand(&self) -> &Arc<ConnectionDemand> {
        &self.admission.demand
    }

    /// Waits until it may begin another call.
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.admission.demand.pause() {
                Some(wait) => self.pause = Some(Box::pin(tokio::time::sleep(wait))),
                None => return Poll::Ready(()),
            }
        }
    }

    /// Returns the other end of the connection.
    pub(super) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Reads until the protocol is clear. May be dropped before. A client of TLS has chosen it by ALPN.
    ///
    /// # Errors
    /// Reading fails, or the deadline passes.
    pub(super) async fn protocol(&mut self) -> io::Result<Protocol> {
        if let Either::Right(_) = self.stream {
            return Ok(Protocol::Http2);
        }
        std::future::poll_fn(|cx| self.poll_protocol(cx)).await
    }

    fn poll_protocol(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Protocol>> {
        loop {
            if let Some(protocol) = self.first_bytes.protocol() {
                return Poll::Ready(Ok(protocol));
            }
            self.check_alive(cx)?;
            let mut buffer = ReadBuf::new(self.first_bytes.room());
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let read = buffer.filled().len();
            self.first_bytes.fill(read);
            self.admission.count_greeting(read);
            if read == 0 {
                return Poll::Ready(Ok(Protocol::Http2));
            }
        }
    }

    /// Requires that the connection is closed before its deadline: the greeting alone does not meet it.
    pub(super) fn must_close_in_time(&mut self) {
        if let Some(timer) = &mut self.admission.timer {
            timer.greeting = None;
        }
    }

    fn check_alive(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(revoked) = &mut self.revoked
            && revoked.as_mut().poll(cx).is_ready()
        {
            // A completed future must not be polled again, but this function may be called again.
            self.revoked = Some(Box::pin(std::future::ready(())));
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.admission.check_open(cx)
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
        ready!(self.poll_pause(cx));
        let left = MAX_READ_PER_TURN.saturating_sub(self.read_in_turn);
        if left == 0 {
            self.read_in_turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let room = left.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
        if Pin::new(&mut self.stream)
            .poll_read(cx, &mut part)?
            .is_pending()
        {
            self.read_in_turn = 0;
            return Poll::Pending;
        }
        let read = part.filled().len();
        buffer.advance(read);
        self.read_in_turn += read;
        let written = std::mem::take(&mut self.written);
        self.admission.demand.transfer(read, written);
        self.admission.count_greeting(read);
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
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.written = self.written.saturating_add(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_alive(cx)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        self.written = self.written.saturating_add(written);
        Poll::Ready(Ok(written))
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
