//! A network that a test can break.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What happens to the bytes of every connection, present and future.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// Connections are made and stay open, and nothing passes in either direction. What was held
    /// back passes when the mode changes, as after a network's outage.
    Blackhole,
    /// Each piece passes this much later.
    Delay(Duration),
    /// Every connection is reset at once.
    Refuse,
}

/// A TCP proxy between clients and one server. It stops when it is dropped.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Rises by one at each [`Proxy::cut`].
    cuts: watch::Sender<u64>,
    /// Rises by one at each [`Proxy::lose_answers`].
    losses: watch::Sender<u64>,
    counts: Arc<Counts>,
    _accepting: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
    awaited: AtomicUsize,
}

/// What each connection listens to.
#[derive(Clone)]
struct Controls {
    mode: watch::Receiver<Mode>,
    cuts: watch::Receiver<u64>,
    losses: watch::Receiver<u64>,
}

impl Proxy {
    /// Listens on a free port of the loopback, for a server at `upstream`.
    pub async fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let (mode, mode_receiver) = watch::channel(Mode::Pass);
        let (cuts, cuts_receiver) = watch::channel(0);
        let (losses, losses_receiver) = watch::channel(0);
        let counts = Arc::new(Counts::default());
        let controls = Controls {
            mode: mode_receiver,
            cuts: cuts_receiver,
            losses: losses_receiver,
        };
        let accepting = tokio::spawn(accept(listener, upstream, controls, Arc::clone(&counts)));
        Self {
            address,
            mode,
            cuts,
            losses,
            counts,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URI of a MongoDB server behind it.
    pub fn mongodb_uri(&self) -> String {
        super::database_process::uri_at(self.address)
    }

    /// Sets what happens to the bytes from now on. [`Mode::Refuse`] also cuts what is open.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
        if mode == Mode::Refuse {
            self.cut();
        }
    }

    /// Resets every open connection. New ones are treated by the mode.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From now on nothing passes, ever, over the connections on which an answer is awaited, and
    /// neither side is told: they are half-open. Others, and new ones, are not touched.
    pub fn lose_answers(&self) {
        self.losses.send_modify(|losses| *losses += 1);
    }

    /// On how many connections an answer is awaited.
    pub fn awaited(&self) -> usize {
        self.counts.awaited.load(Ordering::SeqCst)
    }

    /// How many connections clients have made since the start, refused ones included.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    controls: Controls,
    counts: Arc<Counts>,
) {
    // Dropped with this task, and the connections with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        counts.accepted.fetch_add(1, Ordering::SeqCst);
        let mut controls = controls.clone();
        // Before the mode is looked at: a cut that comes with a new mode is not missed then.
        controls.cuts.mark_unchanged();
        controls.losses.mark_unchanged();
        if *controls.mode.borrow() == Mode::Refuse {
            reset(&client);
            continue;
        }
        let open = Open::new(Arc::clone(&counts));
        connections.spawn(async move { carry(client, upstream, controls, &open).await });
    }
}

/// Counts one open connection for as long as it lives.
struct Open {
    counts: Arc<Counts>,
    /// Whether the client spoke last.
    awaits: AtomicBool,
}

impl Open {
    fn new(counts: Arc<Counts>) -> Self {
        counts.open.fetch_add(1, Ordering::SeqCst);
        Self {
            counts,
            awaits: AtomicBool::new(false),
        }
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
        self.set_awaits(false);
        self.counts.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Carries one connection until either side closes it or it is cut.
async fn carry(client: TcpStream, upstream: SocketAddr, controls: Controls, open: &Open) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        reset(&client);
        return;
    };
    // Small messages should not wait for each other.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (mut cuts, mut losses) = (controls.cuts, controls.losses);
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let mode = controls.mode;
    let up = pump(client_reads, server_writes, mode.clone(), || {
        open.set_awaits(true);
    });
    let down = pump(server_reads, client_writes, mode, || open.set_awaits(false));
    // A direction that breaks takes the other one with it: both sides hear of it.
    let mut passing = pin!(async { tokio::try_join!(up, down) });
    loop {
        tokio::select! {
            _ = &mut passing => return,
            _ = cuts.changed() => return,
            _ = losses.changed() => {
                if open.awaits() {
                    // Until it is cut both ends stay open.
                    let _ = cuts.changed().await;
                    return;
                }
            }
        }
    }
}

/// Carries one direction; at its end the other side is told, as TCP does.
async fn pump(
    mut source: OwnedReadHalf,
    sink: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    spoke: impl Fn(),
) -> io::Result<()> {
    let mut sink = ResetUnlessClosed(Some(sink));
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = source.read(&mut buffer).await?;
        spoke();
        let now = *mode.borrow();
        match now {
            Mode::Delay(delay) => tokio::time::sleep(delay).await,
            Mode::Blackhole => {
                let passing = mode.wait_for(|mode| *mode != Mode::Blackhole).await;
                passing.map_err(io::Error::other)?;
            }
            Mode::Pass | Mode::Refuse => {}
        }
        if read == 0 {
            return sink.close().await;
        }
        sink.write(&buffer[..read]).await?;
    }
}

/// A half of a connection that is reset when it is dropped in the midst of things: a cut must look
/// like a fault of the network, not like a server that closed in peace.
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

/// Has the kernel send RST instead of FIN when the stream is dropped.
fn reset(stream: &TcpStream) {
    // The other side may have closed it already.
    let _ = stream.set_zero_linger();
}
