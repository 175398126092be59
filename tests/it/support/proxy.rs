//! A TCP proxy that lets a test break the network.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// The treatment of the bytes of every connection, present and future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// Connections are accepted and stay open, and no byte passes. What was held back passes when
    /// the mode changes, as after a network outage.
    Blackhole,
    /// Each piece is delayed by this much.
    Delay(Duration),
    /// Each piece is delayed by a random time up to this.
    Jitter(Duration),
    /// At most `bytes` pass at a time, after a `pause`.
    Trickle { bytes: usize, pause: Duration },
    /// Every connection is reset at once.
    Refuse,
}

/// The direction in which bytes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// A TCP proxy between clients and one server. It stops when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    up: watch::Sender<Mode>,
    down: watch::Sender<Mode>,
    breaks: watch::Sender<Breaks>,
    counts: Arc<Counts>,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
    awaited: AtomicUsize,
    idle: AtomicUsize,
    busy: AtomicUsize,
    resets: AtomicUsize,
    up: ByteLimit,
    down: ByteLimit,
}

/// The number of bytes that may pass before a connection breaks; practically unlimited unless a
/// test sets it.
struct ByteLimit(AtomicI64);

impl Default for ByteLimit {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MAX / 2))
    }
}

impl ByteLimit {
    /// Returns how many of these bytes may pass, and whether the connection breaks then. Triggers
    /// once.
    fn consume(&self, bytes: usize) -> (usize, bool) {
        let wanted = i64::try_from(bytes).expect("a buffer is small");
        let left = self.0.fetch_sub(wanted, Ordering::SeqCst);
        if left >= wanted {
            return (bytes, false);
        }
        self.0.store(i64::MAX / 2, Ordering::SeqCst);
        (usize::try_from(left).unwrap_or(0), true)
    }
}

/// The number of times that open connections were broken, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Breaks {
    cuts: u64,
    half_opens: u64,
    losses: u64,
    idle_closes: u64,
    idle_losses: u64,
    /// The side that is not told of the last half-open break.
    kept: Option<Side>,
}

/// The state that each connection observes.
#[derive(Clone)]
struct Controls {
    up: watch::Receiver<Mode>,
    down: watch::Receiver<Mode>,
    breaks: watch::Receiver<Breaks>,
    counts: Arc<Counts>,
}

impl Proxy {
    /// Listens on a free loopback port in front of the server at `upstream`.
    pub async fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let (up, up_receiver) = watch::channel(Mode::Pass);
        let (down, down_receiver) = watch::channel(Mode::Pass);
        let (breaks, breaks_receiver) = watch::channel(Breaks::default());
        let counts = Arc::new(Counts::default());
        let controls = Controls {
            up: up_receiver,
            down: down_receiver,
            breaks: breaks_receiver,
            counts: Arc::clone(&counts),
        };
        let accepting = tokio::spawn(accept(listener, upstream, controls));
        Self {
            address,
            up,
            down,
            breaks,
            counts,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URI of a MongoDB server behind it.
    pub fn mongodb_uri(&self) -> String {
        super::database_process::uri_at(self.address)
    }

    /// Sets the mode of both directions. [`Mode::Refuse`] also resets open connections.
    pub fn set(&self, mode: Mode) {
        self.up.send_replace(mode);
        self.down.send_replace(mode);
        if mode == Mode::Refuse {
            self.cut();
        }
    }

    /// Sets the mode of one direction.
    pub fn set_one_way(&self, direction: Direction, mode: Mode) {
        match direction {
            Direction::Up => self.up.send_replace(mode),
            Direction::Down => self.down.send_replace(mode),
        };
    }

    /// Resets every open connection. The mode decides about new ones.
    pub fn cut(&self) {
        self.breaks.send_modify(|breaks| breaks.cuts += 1);
    }

    /// Resets one connection once this many more bytes have passed in this direction, in the middle
    /// of a message.
    pub fn cut_after(&self, direction: Direction, bytes: usize) {
        let limit = match direction {
            Direction::Up => &self.counts.up,
            Direction::Down => &self.counts.down,
        };
        let bytes = i64::try_from(bytes).expect("a test counts less");
        limit.0.store(bytes, Ordering::SeqCst);
    }

    /// The number of connections that [`Proxy::cut_after`] has reset.
    pub fn resets(&self) -> usize {
        self.counts.resets.load(Ordering::SeqCst)
    }

    /// Makes every open connection half-open: the `kept` side believes it is alive, while the other
    /// side is reset. What the kept side sends is discarded, and it receives nothing. The mode
    /// decides about new connections.
    pub fn half_open(&self, kept: Side) {
        self.breaks.send_modify(|breaks| {
            breaks.half_opens += 1;
            breaks.kept = Some(kept);
        });
    }

    /// Blocks forever the connections on which an answer is awaited, and notifies neither side:
    /// both are half-open. Other connections, and new ones, are not affected.
    pub fn lose_answers(&self) {
        self.breaks.send_modify(|breaks| breaks.losses += 1);
    }

    /// Closes in order the connections on which no answer is awaited, as load balancers do with
    /// connections that were idle for long. Those on which a driver monitors the server stay open.
    pub fn close_idle(&self) {
        self.breaks.send_modify(|breaks| breaks.idle_closes += 1);
    }

    /// Makes the connections half-open that [`Proxy::close_idle`] would close, as firewalls do which forget
    /// them: what either side sends is lost, and neither is told. Other connections, and new ones, are not
    /// affected.
    pub fn lose_idle(&self) {
        self.breaks.send_modify(|breaks| breaks.idle_losses += 1);
    }

    /// The number of connections that [`Proxy::close_idle`] would close.
    pub fn idle(&self) -> usize {
        self.counts.idle.load(Ordering::SeqCst)
    }

    /// The number of connections on which the answer to a command is awaited.
    pub fn busy(&self) -> usize {
        self.counts.busy.load(Ordering::SeqCst)
    }

    /// The number of connections on which an answer is awaited.
    pub fn awaited(&self) -> usize {
        self.counts.awaited.load(Ordering::SeqCst)
    }

    /// The number of connections accepted since the start, refused ones included.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// The number of open connections, half-open ones included.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, controls: Controls) {
    // Dropped with this task, and the connections with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        controls.counts.accepted.fetch_add(1, Ordering::SeqCst);
        let mut controls = controls.clone();
        // Before the mode is read, so that a cut that comes with a new mode is not missed.
        controls.breaks.mark_unchanged();
        if *controls.up.borrow() == Mode::Refuse {
            reset(&client);
            continue;
        }
        let open = Open::new(Arc::clone(&controls.counts));
        connections.spawn(async move { forward(client, upstream, controls, &open).await });
    }
}

/// Counts one open connection while it lives.
struct Open {
    counts: Arc<Counts>,
    /// True if the client was the last to send.
    awaits: AtomicBool,
    /// True if a driver monitors the server on it.
    is_monitor: AtomicBool,
}

impl Open {
    fn new(counts: Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::SeqCst);
        counts.idle.fetch_add(1, Ordering::SeqCst);
        Self {
            counts,
            awaits: AtomicBool::new(false),
            is_monitor: AtomicBool::new(false),
        }
    }

    fn is_idle(&self) -> bool {
        !self.is_monitor.load(Ordering::SeqCst) && !self.awaits()
    }

    /// The client has sent these bytes. Only monitors tell the server the state that they know of.
    fn asked(&self, bytes: &[u8]) {
        self.change(|| {
            if bytes.windows(15).any(|name| name == b"topologyVersion") {
                self.is_monitor.store(true, Ordering::SeqCst);
            }
            self.set_awaits(true);
        });
    }

    /// The server has sent something.
    fn answered(&self) {
        self.change(|| self.set_awaits(false));
    }

    fn is_busy(&self) -> bool {
        !self.is_monitor.load(Ordering::SeqCst) && self.awaits()
    }

    /// Applies a change and counts this connection as idle or busy if it is so now. The two directions
    /// of a connection belong to one task.
    fn change(&self, change: impl FnOnce()) {
        let before = (self.is_idle(), self.is_busy());
        change();
        let counted = |count: &AtomicUsize, before: bool, now: bool| match (before, now) {
            (false, true) => count.fetch_add(1, Ordering::SeqCst),
            (true, false) => count.fetch_sub(1, Ordering::SeqCst),
            _ => 0,
        };
        counted(&self.counts.idle, before.0, self.is_idle());
        counted(&self.counts.busy, before.1, self.is_busy());
    }

    fn awaits(&self) -> bool {
        self.awaits.load(Ordering::SeqCst)
    }

    fn set_awaits(&self, awaits: bool) {
        match (self.awaits.swap(awaits, Ordering::SeqCst), awaits) {
            (false, true) => self.counts.awaited.fetch_add(1, Ordering::SeqCst),
            (true, false) => self.counts.awaited.fetch_sub(1, Ordering::SeqCst),
            _ => 0,
        };
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // No longer idle, whatever it was.
        self.change(|| {
            self.set_awaits(false);
            self.is_monitor.store(true, Ordering::SeqCst);
        });
        self.counts.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Forwards one connection until either side closes it or it is broken.
async fn forward(client: TcpStream, upstream: SocketAddr, controls: Controls, open: &Open) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        reset(&client);
        return;
    };
    // Small messages should not wait for each other.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let Controls {
        up,
        down,
        mut breaks,
        counts,
    } = controls;
    let before = *breaks.borrow();
    let mut seen = before;
    let (mut client_reads, client_writes) = client.into_split();
    let (mut server_reads, server_writes) = server.into_split();
    let mut client_writes = ResetUnlessClosed(Some(client_writes));
    let mut server_writes = ResetUnlessClosed(Some(server_writes));
    {
        let mut both = pin!(async {
            let asked = |bytes: &[u8]| open.asked(bytes);
            let resets = &counts.resets;
            let up = pump(
                &mut client_reads,
                &mut server_writes,
                up,
                (&counts.up, resets),
                (asked, || ()),
            );
            let down = pump(
                &mut server_reads,
                &mut client_writes,
                down,
                (&counts.down, resets),
                // Only once the client has it: a connection on which a reply waits is not idle.
                (|_: &[u8]| (), || open.answered()),
            );
            // A broken direction breaks the other.
            let _ = tokio::try_join!(up, down);
        });
        loop {
            tokio::select! {
                () = &mut both => return,
                _ = breaks.changed() => {}
            }
            let now = *breaks.borrow_and_update();
            if (now.cuts, now.half_opens) != (before.cuts, before.half_opens) {
                break;
            }
            let is_loss = now.losses != seen.losses;
            let closes_idle = now.idle_closes != seen.idle_closes;
            let loses_idle = now.idle_losses != seen.idle_losses && open.is_idle();
            seen = now;
            if closes_idle && open.is_idle() {
                break;
            }
            if is_loss && open.awaits() || loses_idle {
                // Both ends stay open until a cut.
                let _ = breaks.wait_for(|breaks| breaks.cuts != before.cuts).await;
                return;
            }
        }
    }
    let now = *breaks.borrow();
    if now.idle_closes != before.idle_closes && now.half_opens == before.half_opens {
        // Either may have closed it already.
        let _ = tokio::join!(client_writes.close(), server_writes.close());
    } else if now.cuts == before.cuts {
        match now.kept {
            Some(Side::Client) => {
                drop((server_reads, server_writes));
                swallow(client_reads, breaks).await;
            }
            Some(Side::Server) => {
                drop((client_reads, client_writes));
                swallow(server_reads, breaks).await;
            }
            None => {}
        }
    }
}

/// Keeps one side of a connection open and discards what it sends, until it closes or is cut.
async fn swallow(mut kept: OwnedReadHalf, mut breaks: watch::Receiver<Breaks>) {
    let before = breaks.borrow().cuts;
    let mut buffer = vec![0; 16 * 1024];
    let until_it_leaves =
        async { while kept.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    tokio::select! {
        () = until_it_leaves => {}
        _ = breaks.wait_for(|breaks| breaks.cuts != before) => {}
    }
}

/// Forwards one direction; its end is passed on to the other side, as TCP does.
async fn pump(
    source: &mut OwnedReadHalf,
    sink: &mut ResetUnlessClosed,
    mut mode: watch::Receiver<Mode>,
    (limit, resets): (&ByteLimit, &AtomicUsize),
    (before, after): (impl Fn(&[u8]), impl Fn()),
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = source.read(&mut buffer).await?;
        before(&buffer[..read]);
        if read == 0 {
            passing(&mut mode).await?;
            return sink.close().await;
        }
        let (may_pass, breaks) = limit.consume(read);
        let mut rest = &buffer[..may_pass];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(passing(&mut mode).await?.min(rest.len()));
            sink.write(now).await?;
            rest = later;
        }
        after();
        if breaks {
            resets.fetch_add(1, Ordering::SeqCst);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
}

/// Waits as the mode requires and returns how many bytes may pass then.
async fn passing(mode: &mut watch::Receiver<Mode>) -> io::Result<usize> {
    let now = *mode.borrow();
    match now {
        Mode::Delay(delay) => tokio::time::sleep(delay).await,
        Mode::Jitter(most) => tokio::time::sleep(most.mul_f64(fastrand::f64())).await,
        Mode::Trickle { bytes, pause } => {
            tokio::time::sleep(pause).await;
            return Ok(bytes);
        }
        Mode::Blackhole => {
            let passing = mode.wait_for(|mode| *mode != Mode::Blackhole).await;
            passing.map_err(io::Error::other)?;
        }
        Mode::Pass | Mode::Refuse => {}
    }
    Ok(usize::MAX)
}

/// Half of a connection, which is reset if it is dropped before it is closed: a cut must look like
/// a network fault, not like an orderly close.
struct ResetUnlessClosed(Option<OwnedWriteHalf>);

impl ResetUnlessClosed {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Some(sink) => sink.write_all(bytes).await,
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        match self.0.take() {
            Some(mut sink) => sink.shutdown().await,
            None => Ok(()),
        }
    }
}

impl Drop for ResetUnlessClosed {
    fn drop(&mut self) {
        if let Some(sink) = self.0.take() {
            reset(sink.as_ref());
            // Dropping a half would send FIN first.
            sink.forget();
        }
    }
}

/// Makes the kernel send RST instead of FIN when the stream is dropped.
fn reset(stream: &TcpStream) {
    // The other side may have closed it already.
    let _ = stream.set_zero_linger();
}
