//! Weir under load: clients of all kinds come, go, stall and come back while writers write and all
//! that can break breaks. Whether each got all it asked for, once and in order, and whether the
//! servers let go of all they took.
//!
//! In reading order: what is written ([`write_options`]), what clients ask for ([`spec`]), the clients
//! ([`client`], [`connections`]), what they talk to ([`servers`]), what breaks ([`faults`]), what was
//! counted ([`counters`], [`report`]), and here the whole, in cycles: under load, in calm until
//! everybody has everything, and without anybody. What each client has to get, and in what order,
//! [`crate::support::ledger`] judges.

mod client;
mod connections;
mod counters;
mod faults;
mod report;
mod servers;
mod watch_spec;
mod workload;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fastrand::Rng;
use mongodb::bson::doc;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::ledger::{Ledger, Time};
use crate::support::{Database, Figure, tally};

use client::{LoadClient, Phase, Shared, open_and_abandon};
use connections::Connections;
use counters::Counters;
use faults::Faults;
use report::{IdleState, Peaks, Table, mebibytes};
use servers::{Replica, ResourceUsage};
use watch_spec::WatchSpec;
use workload::{COLLECTIONS, ORDER_WRITERS, ORDERS, WRITERS, write};

/// How long writers may take to bring to an end what they began, and clients to leave.
const END_LIMIT: Duration = Duration::from_secs(60);
/// How many tasks and descriptors more than at first a server may have when nobody watches: such as
/// come and go by themselves.
const SLACK: f64 = 8.0;
/// How many failures are told.
const MAX_FAILURES_SHOWN: usize = 8;

/// How much of it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Clients at once.
    pub watchers: usize,
    /// Connections of theirs to each server.
    pub connections: usize,
    /// Small changes a second.
    pub rate: f64,
    /// Large ones.
    pub large_rate: f64,
    /// How long all of it lasts, about: at least one cycle.
    pub whole: Duration,
    /// How long a cycle is under load.
    pub load: Duration,
    /// How long the first one is, without faults, after which the servers have all that they keep.
    pub warm_up: Duration,
    /// About how long it takes from one fault to the next, of networks and of processes each.
    pub fault_pause: Duration,
    /// How long a fault of the network lasts, about.
    pub fault_length: Duration,
    /// How long a client stays away or stops reading at most.
    pub longest_pause: Duration,
    /// How long it may take in calm until every client has everything.
    pub calm: Duration,
    /// How long it may take until everything is as it was when nobody watched.
    pub empty: Duration,
    /// How many bytes more the first server may take at rest than after the first cycle.
    pub growth: f64,
    /// How often it is told how things stand.
    pub status_interval: Duration,
    /// From which all choices follow; what the machine makes of them differs each time.
    pub seed: u64,
}

/// One run.
struct Run<'a> {
    settings: &'a Settings,
    began: Instant,
    rng: Rng,
    replicas: Arc<[Replica; 2]>,
    ledger: Arc<Ledger>,
    counters: Arc<Counters>,
    peaks: Peaks,
    idle_states: Vec<IdleState>,
    failures: Vec<String>,
    /// Clients that go on in the next cycle.
    resuming: Vec<LoadClient>,
}

/// Clients at work: each ends with its place, or with what it must not have seen.
type ClientTasks = JoinSet<Result<LoadClient, String>>;

/// Runs it, and tells what it found: on standard error as it goes, and a table at the end.
///
/// # Errors
/// Everything that was not as it must be.
pub async fn run(settings: &Settings) -> Result<(), Vec<String>> {
    let mut database = Database::options().on_disk().start().await;
    prepare(&database).await;
    let replica = |name| Replica::start(name, database.address(), settings.connections);
    let mut run = Run {
        settings,
        began: Instant::now(),
        rng: Rng::with_seed(settings.seed),
        replicas: Arc::new([replica("first").await, replica("second").await]),
        ledger: Ledger::new(&COLLECTIONS, WRITERS),
        counters: Arc::default(),
        peaks: Peaks::default(),
        idle_states: Vec::new(),
        failures: Vec::new(),
        resuming: Vec::new(),
    };
    run.cycle("warm-up", settings.warm_up, false, &mut database)
        .await;
    for number in 1.. {
        let name = format!("cycle {number}");
        run.cycle(&name, settings.load, true, &mut database).await;
        let next = settings.load + settings.load / 2;
        if !run.failures.is_empty() || run.began.elapsed() + next > settings.whole {
            break;
        }
    }
    run.conclude().await
}

/// Makes the collections; one of them keeps images.
async fn prepare(database: &Database) {
    for name in COLLECTIONS {
        let images = doc! { "enabled": name == ORDERS };
        let create = doc! { "create": name, "changeStreamPreAndPostImages": images };
        let created = database.database().run_command(create).await;
        created.expect("a collection can be made");
    }
}

/// Writes what no watch is about: the time of that, after which nothing was written.
async fn mark(database: &Database) -> Time {
    let marks = database.client().database("marks");
    let insert = doc! { "insert": "marks", "documents": [{ "mark": true }] };
    let answer = marks.run_command(insert).await.expect("a mark");
    let time = answer.get_timestamp("operationTime");
    let time = time.expect("a replica set tells the time");
    (time.time, time.increment)
}

/// Whether nobody reads a cursor: for longer than MongoDB holds back a reply nothing is asked.
async fn is_idle(database: &Database) -> bool {
    let before = database.getmore_count().await;
    sleep(Duration::from_secs(2)).await;
    database.getmore_count().await == before
}

impl Run<'_> {
    /// Load, calm, and nobody.
    async fn cycle(
        &mut self,
        name: &str,
        load: Duration,
        with_faults: bool,
        database: &mut Database,
    ) {
        let (phase, phases) = watch::channel(Phase::Load);
        let proxies = self.replicas.iter().flat_map(|it| &it.client_proxies);
        let longest_pause = self.settings.longest_pause.as_millis();
        let shared = Arc::new(Shared {
            database: database.name().to_owned(),
            ledger: Arc::clone(&self.ledger),
            connections: Connections::to(proxies.map(|it| it.address())),
            counters: Arc::clone(&self.counters),
            complete: AtomicU32::new(0),
            longest_pause: u64::try_from(longest_pause).expect("pauses are short"),
        });
        let stop = CancellationToken::new();
        let writers = self.start_writers(database, &stop);
        let mut clients = JoinSet::new();
        for _ in 0..self.settings.watchers {
            let client = self.resuming.pop();
            let client =
                client.unwrap_or_else(|| LoadClient::new(WatchSpec::random(&mut self.rng)));
            let seed = self.rng.u64(..);
            clients.spawn(client.run(Arc::clone(&shared), phases.clone(), seed));
        }
        let mut abandoning_clients = JoinSet::new();
        for _ in 0..=self.settings.watchers / 200 {
            let seed = self.rng.u64(..);
            abandoning_clients.spawn(open_and_abandon(Arc::clone(&shared), phases.clone(), seed));
        }

        let faults = Arc::new(Faults {
            replicas: Arc::clone(&self.replicas),
            counters: Arc::clone(&self.counters),
            pause: self.settings.fault_pause,
            longest: self.settings.fault_length,
            stop: CancellationToken::new(),
        });
        if with_faults {
            let (networks, processes) = (self.rng.u64(..), self.rng.u64(..));
            let ((), broken, ()) = tokio::join!(
                faults.break_networks(networks),
                faults.break_processes(database, processes),
                async {
                    self.observe(name, load, &mut clients).await;
                    faults.stop.cancel();
                }
            );
            self.failures.extend(broken.err());
        } else {
            self.observe(name, load, &mut clients).await;
        }

        stop.cancel();
        if timeout(END_LIMIT, writers.join_all()).await.is_err() {
            let (begun, done) = (self.ledger.all_begun(), self.ledger.all_done());
            self.failures.push(format!(
                "writes do not come to an end: {done:?} of {begun:?}"
            ));
        }
        let calm = Instant::now();
        phase.send_replace(Phase::Calm(mark(database).await));
        let mut complete = 0;
        while complete < clients.len() && calm.elapsed() < self.settings.calm {
            sleep(Duration::from_millis(50)).await;
            self.collect(&mut clients);
            complete = shared.complete.load(Ordering::SeqCst) as usize;
        }
        let complete_after = calm.elapsed();
        self.print_status(name, "calm").await;
        if complete < clients.len() {
            for replica in self.replicas.iter() {
                let state = replica.describe_state().await;
                self.failures.push(format!("{name}: {state}"));
            }
        }

        let empty = Instant::now();
        phase.send_replace(Phase::Empty);
        let all = async {
            while let Some(ended) = clients.join_next().await {
                self.ended(ended);
            }
            abandoning_clients.join_all().await;
        };
        if timeout(END_LIMIT, all).await.is_err() {
            self.failures.push("clients do not leave".to_owned());
        }
        // With the last client go the connections.
        drop(shared);
        self.wait_until_released(name, complete_after, empty, database)
            .await;
    }

    fn start_writers(&self, database: &Database, stop: &CancellationToken) -> JoinSet<()> {
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let rate = if writer < ORDER_WRITERS {
                self.settings.rate / ORDER_WRITERS as f64
            } else {
                self.settings.large_rate
            };
            let (database, ledger) = (database.database(), Arc::clone(&self.ledger));
            writers.spawn(write(database, ledger, writer, rate, stop.clone()));
        }
        writers
    }

    /// Watches what happens for so long.
    async fn observe(&mut self, name: &str, load: Duration, clients: &mut ClientTasks) {
        let end = Instant::now() + load;
        let mut next_status = Instant::now() + self.settings.status_interval;
        while Instant::now() < end {
            sleep(Duration::from_secs(1)).await;
            self.collect(clients);
            self.record_usage().await;
            if Instant::now() >= next_status {
                next_status += self.settings.status_interval;
                self.print_status(name, "load").await;
            }
        }
    }

    /// What both servers hold.
    async fn record_usage(&mut self) -> [ResourceUsage; 2] {
        let mut usages = [ResourceUsage::default(); 2];
        for (replica, slot) in self.replicas.iter().zip(&mut usages) {
            match replica.usage().await {
                Ok(usage) => {
                    self.peaks.see(&usage);
                    *slot = usage;
                }
                Err(failure) => self.failures.push(failure),
            }
        }
        usages
    }

    /// Takes note of clients that have ended.
    fn collect(&mut self, clients: &mut ClientTasks) {
        while let Some(ended) = clients.try_join_next() {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Result<Result<LoadClient, String>, tokio::task::JoinError>) {
        match ended.map_err(|panic| panic.to_string()).flatten() {
            // Some go on from where they are; those who begin anew find other ways to begin.
            Ok(client) if self.rng.u32(..4) == 0 => self.resuming.push(client),
            Ok(_) => {}
            Err(problem) => self.failures.push(problem),
        }
    }

    /// One line on how things stand.
    async fn print_status(&mut self, name: &str, phase: &str) {
        let [first, second] = self.record_usage().await.map(|it| mebibytes(it.resident));
        let counters = &self.counters;
        let faults: u64 = counters.faults().values().sum();
        eprintln!(
            "{:4} s  {name}, {phase}: {} watches, {} written, {} delivered, {faults} faults, {first} \
             and {second} resident{}",
            self.began.elapsed().as_secs(),
            counters.open_watches.now(),
            self.ledger.len(),
            counters.events.get(),
            match self.failures.len() {
                0 => String::new(),
                failures => format!(", {failures} FAILURES"),
            },
        );
    }

    /// Waits until the servers hold what they held at first and MongoDB's cursors are gone, but for those
    /// that nobody could close, as their connection broke or their opening took too long: they must not
    /// be in use.
    async fn wait_until_released(
        &mut self,
        name: &str,
        complete_after: Duration,
        empty: Instant,
        database: &Database,
    ) {
        let first = self.idle_states.first().map(|it| it.usage);
        let (usage, cursors) = loop {
            let usage = self.record_usage().await;
            let cursors = database.open_cursors().await;
            let as_before = usage.iter().enumerate().all(|(which, now)| {
                let before = first.map_or(*now, |first| first[which]);
                now.is_empty()
                    && now.tasks <= before.tasks + SLACK
                    && now.descriptors <= before.descriptors + SLACK
            });
            if as_before && (cursors == 0 || is_idle(database).await) {
                break (usage, cursors);
            }
            if empty.elapsed() > self.settings.empty {
                let idle = format!("{usage:#?} and {cursors} cursors; at first {first:#?}");
                self.failures
                    .push(format!("{name}: not all is given back: {idle}"));
                break (usage, cursors);
            }
            sleep(Duration::from_millis(100)).await;
        };
        self.idle_states.push(IdleState {
            name: name.to_owned(),
            usage,
            cursors,
            complete_after,
            empty_after: empty.elapsed(),
        });
        self.print_status(name, "empty").await;
    }

    /// The table, the tally, and the verdict.
    async fn conclude(mut self) -> Result<(), Vec<String>> {
        let mut table = Table::default();
        let written = self.ledger.len();
        table.counters(&self.counters, written);
        table.peaks(&self.peaks);
        for idle in &self.idle_states {
            table.idle(idle);
        }
        for replica in self.replicas.iter() {
            let log_findings = replica.log_findings().await;
            for (words, count) in &log_findings.warnings {
                table.row(format!("{} server warned: {words}", replica.name), count);
            }
            let errors = log_findings.errors.iter();
            let errors = errors.map(|line| format!("{} server said: {line}", replica.name));
            self.failures.extend(errors);
        }
        // The first cycle with faults still finds what to keep.
        if let [_, first, .., last] = &self.idle_states[..] {
            let grown = last.usage[0].resident - first.usage[0].resident;
            table.row("growth of the first server", mebibytes(grown));
            if grown > self.settings.growth {
                let grown = mebibytes(grown);
                self.failures
                    .push(format!("the first server grew by {grown} at rest"));
            }
        }
        eprintln!("\n{table}");

        tally(Figure::Faults, self.counters.faults().values().sum());
        tally(Figure::EventsWritten, written);
        tally(Figure::EventsLost, self.counters.lost.get());
        tally(Figure::Repeats, self.counters.repeats.get());
        tally(Figure::WatchesHeld, self.counters.open_watches.peak());
        tally(Figure::PeakBytes, self.peaks.resident as u64);
        if self.failures.is_empty() {
            return Ok(());
        }
        let more = self.failures.len().saturating_sub(MAX_FAILURES_SHOWN);
        self.failures.truncate(MAX_FAILURES_SHOWN);
        if more > 0 {
            self.failures.push(format!("and {more} more"));
        }
        Err(self.failures)
    }
}
