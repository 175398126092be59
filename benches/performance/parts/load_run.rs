//! One run: a gateway between a source and a load generator.

use std::time::Duration;

use ::weir::wire::Compression;
use tokio::time::Instant;

use crate::{
    client::load_generator::{LoadGenerator, Plan},
    gateway::{
        Gateway, naive, ready,
        weir::{self, Build},
    },
    system::{
        cpu::{Spent, Usage},
        pause,
        process::ChildError,
    },
    upstream::source::{Content, Kind, Source},
};

/// The number of bursts in flight, so that the gateway never waits for the next.
const AHEAD: u64 = 2;
/// Bursts of the warm-up, which do not count.
const WARM_UP: u64 = 2;
/// The pause after watches are opened, before memory is measured.
const SETTLING: Duration = Duration::from_secs(1);

/// The servers that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    Weir,
    Naive,
    /// Ready bytes, one event per message.
    Ready,
    /// Ready bytes, one burst per message.
    ReadyBursts,
    /// Weir, for clients that accept this encoding.
    WeirCompressing(Compression),
    /// Weir, for clients that ask for two fields of each document.
    WeirProjecting,
    /// Ready bytes, one burst per message, compressed by tonic for each watcher.
    ReadyCompressing(Compression),
}

impl ServerKind {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weir => "Weir",
            Self::Naive => "naive gateway",
            Self::Ready => "ready bytes, an event a message",
            Self::ReadyBursts => "ready bytes, a burst a message",
            Self::WeirProjecting => "Weir, 2 fields",
            Self::WeirCompressing(Compression::Gzip) => "Weir, gzip",
            Self::WeirCompressing(Compression::Zstd) => "Weir, zstd",
            Self::ReadyCompressing(Compression::Gzip) => "ready bytes, gzip for each watcher",
            Self::ReadyCompressing(Compression::Zstd) => "ready bytes, zstd for each watcher",
        }
    }

    /// The encoding that its clients accept.
    fn compression(self) -> Option<Compression> {
        match self {
            Self::WeirCompressing(compression) | Self::ReadyCompressing(compression) => {
                Some(compression)
            }
            Self::Weir | Self::WeirProjecting | Self::Naive | Self::Ready | Self::ReadyBursts => {
                None
            }
        }
    }

    /// The fields that its clients ask for, beside `_id`; none for all. The load generator reads these.
    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::WeirProjecting => &["sent", "group"],
            _ => &[],
        }
    }

    /// Starts it in front of a source; `build` is only for Weir.
    pub fn start(
        self,
        source: Option<&Source>,
        watchers: u64,
        load: Workload,
        build: &Build,
    ) -> Gateway {
        let uri = source.map_or("", Source::uri);
        match self {
            Self::Weir | Self::WeirProjecting | Self::WeirCompressing(_) => {
                // Enough for stalled watches too, and no less than the default.
                let most = (watchers + 10).max(10_000);
                let mut flags = vec![format!("--max-watches={most}")];
                flags.extend(
                    self.compression()
                        .map(|it| format!("--compression={}", it.name())),
                );
                flags.extend_from_slice(&build.flags);
                let program = build.program.clone();
                weir::start(uri, &Build { program, flags })
            }
            Self::Naive => naive::start(uri, watchers),
            Self::Ready => ready::start(load.content.bytes, 1),
            Self::ReadyBursts | Self::ReadyCompressing(_) => {
                ready::start(load.content.bytes, load.burst)
            }
        }
    }
}

/// The events to send.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    pub content: Content,
    pub events: u64,
    pub burst: u64,
}

/// The results of one run.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub events: u64,
    pub burst: u64,
    pub deliveries: u64,
    pub wall: Duration,
    pub gateway: Spent,
    /// The database's CPU use, where it is known.
    pub database: Option<Spent>,
    /// The load generator's CPU use.
    pub load_generator: Spent,
    /// Bytes per watcher once all are open and nothing has been sent.
    pub idle_memory: f64,
    /// Bytes per watcher after everything was sent.
    pub busy_memory: f64,
    /// The cursors open on the source.
    pub change_streams: Option<u64>,
    /// The change streams that Weir reports.
    pub feeds: Option<u64>,
    /// The time that it took to open all watches.
    pub opening: Duration,
    /// The bytes of messages that the gateway reports, from before the warm-up.
    pub bytes: Option<u64>,
}

impl Run {
    /// Deliveries per second.
    pub fn rate(&self) -> f64 {
        self.deliveries as f64 / self.wall.as_secs_f64()
    }

    /// The gateway's microseconds per delivery.
    pub fn cost(&self) -> f64 {
        self.gateway.each(self.deliveries)
    }

    /// The database's microseconds per delivery.
    pub fn database_cost(&self) -> Option<f64> {
        Some(self.database?.each(self.deliveries))
    }

    /// The gateway's bytes per delivery.
    pub fn bytes_each(&self) -> Option<f64> {
        let sent = self.events + WARM_UP * self.burst;
        let deliveries = self.deliveries as f64 / self.events as f64 * sent as f64;
        Some(self.bytes? as f64 / deliveries)
    }

    /// The gateway's microseconds per event.
    pub fn event_cost(&self) -> f64 {
        self.gateway.each(self.events)
    }
}

/// Measures a server: sends all of `load` to `plan`'s watchers. `kind` is `None` for servers that
/// need no source.
pub fn run(
    server_kind: ServerKind,
    kind: Kind,
    (watchers, matches): (u64, u64),
    load: Workload,
    limit: Duration,
    build: &Build,
) -> Result<Run, ChildError> {
    let needs_source = matches!(
        server_kind,
        ServerKind::Weir
            | ServerKind::WeirProjecting
            | ServerKind::WeirCompressing(_)
            | ServerKind::Naive
    );
    let mut source = needs_source.then(|| Source::start(kind, load.content));
    let mut gateway = server_kind.start(source.as_ref(), watchers, load, build);
    let plan = Plan {
        accept: server_kind.compression(),
        fields: server_kind.fields(),
        database: source.as_ref().map_or("", Source::database).to_owned(),
        collection: source.as_ref().map_or("", Source::collection).to_owned(),
        watchers,
        groups: load.content.groups,
        matches,
        stalled: 0,
    };
    let deadline = Instant::now() + limit;
    let left = || deadline.saturating_duration_since(Instant::now());
    // The first request allocates some of a server's memory, whoever makes it.
    drop(LoadGenerator::open(
        &gateway,
        &Plan {
            watchers: 1,
            ..plan.clone()
        },
        left(),
    )?);
    pause(SETTLING / 4);

    let before = gateway.resident();
    let mut load_generator = LoadGenerator::open(&gateway, &plan, left())?;
    pause(SETTLING);
    let idle = gateway.resident();
    let change_streams = source.as_ref().and_then(Source::open_cursors);
    let feeds = gateway.feeds();
    let bytes_before = gateway.bytes_sent().unwrap_or(0);

    let mut line = EventPipeline {
        plan: &plan,
        load_generator: &mut load_generator,
        sent: 0,
    };
    let mut send = |events: u64, limit: Duration| match &mut source {
        Some(source) => source.burst(events, limit),
        None => gateway.burst(events, limit),
    };
    line.send(&mut send, WARM_UP * load.burst, load.burst, deadline)?;

    let started = Instant::now();
    let earlier = Usages::now(&gateway, source.as_ref(), line.load_generator);
    let mut send = |events: u64, limit: Duration| match &mut source {
        Some(source) => source.burst(events, limit),
        None => gateway.burst(events, limit),
    };
    line.send(&mut send, load.events, load.burst, deadline)?;
    let wall = started.elapsed();
    let sent = line.sent;
    let now = Usages::now(&gateway, source.as_ref(), &load_generator);
    load_generator.check(sent)?;
    let each = |bytes: u64| bytes.saturating_sub(before) as f64 / watchers as f64;
    Ok(Run {
        events: load.events,
        burst: load.burst,
        deliveries: load.events * plan.deliveries_an_event(),
        wall,
        gateway: spent(now.gateway, earlier.gateway).ok_or_else(gone)?,
        database: spent(now.database, earlier.database),
        load_generator: spent(now.load_generator, earlier.load_generator).ok_or_else(gone)?,
        idle_memory: each(idle),
        busy_memory: each(gateway.resident()),
        change_streams,
        feeds,
        opening: load_generator.opening,
        bytes: gateway.bytes_sent().map(|bytes| bytes - bytes_before),
    })
}

/// The CPU use of all processes so far.
struct Usages {
    gateway: Option<Usage>,
    database: Option<Usage>,
    load_generator: Option<Usage>,
}

impl Usages {
    fn now(gateway: &Gateway, source: Option<&Source>, load_generator: &LoadGenerator) -> Self {
        Self {
            gateway: gateway.usage(),
            database: source.and_then(Source::usage),
            load_generator: load_generator.usage(),
        }
    }
}

fn spent(now: Option<Usage>, earlier: Option<Usage>) -> Option<Spent> {
    Some(now?.since(&earlier?))
}

fn gone() -> ChildError {
    ChildError::Failed("a process ended before it was measured".to_owned())
}

/// Events on their way to a load generator.
struct EventPipeline<'a> {
    plan: &'a Plan,
    load_generator: &'a mut LoadGenerator,
    sent: u64,
}

impl EventPipeline<'_> {
    /// Sends this many events in bursts, at most a few bursts ahead of the slowest watcher, and
    /// waits for the last to arrive.
    fn send(
        &mut self,
        send: &mut impl FnMut(u64, Duration) -> Result<(), ChildError>,
        events: u64,
        burst: u64,
        deadline: Instant,
    ) -> Result<(), ChildError> {
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut to_send = events;
        while to_send > 0 {
            let now = burst.min(to_send);
            send(now, left())?;
            to_send -= now;
            self.sent += now;
            let arrived = self.sent.saturating_sub(burst * (AHEAD - 1));
            self.wait_for(arrived, left())?;
        }
        self.wait_for(self.sent, left())
    }

    fn wait_for(&mut self, events: u64, limit: Duration) -> Result<(), ChildError> {
        let deliveries = events * self.plan.deliveries_an_event();
        self.load_generator.wait_for(deliveries, limit)
    }
}
