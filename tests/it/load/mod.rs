//! Weir under load: clients of all kinds connect, leave, stall and resume while writers write and
//! networks and processes fail. Checks that each client receives everything it asked for, once and
//! in order, and that the servers release everything.
//!
//! In reading order: the writes ([`workload`]), the requests ([`watch_spec`]), the clients
//! ([`client`], [`connections`]), the servers ([`servers`]), the faults ([`faults`]), the counters
//! ([`counters`], [`report`]), and here the cycles: under load, in calm until every client has
//! everything, and without clients. [`crate::support::ledger`] checks what each client receives,
//! and in what order.

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

/// The time that writers may take to finish, and clients to leave.
const END_LIMIT: Duration = Duration::from_secs(60);
/// The number of tasks and descriptors that an idle server may have beyond those at first: a few
/// come and go without clients.
const SLACK: f64 = 8.0;
/// The number of failures shown.
const MAX_FAILURES_SHOWN: usize = 8;

/// The sizes and durations of a run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The number of concurrent clients.
    pub watchers: usize,
    /// The number of connections to each server.
    pub connections: usize,
    /// Small changes per second.
    pub rate: f64,
    /// Large changes per second.
    pub large_rate: f64,
    /// The approximate duration of the whole run: at least one cycle.
    pub whole: Duration,
    /// The duration of the load of a cycle.
    pub load: Duration,
    /// The duration of the first cycle, without faults, after which the servers have allocated what
    /// they keep.
    pub warm_up: Duration,
    /// The mean pause between two network faults, and between two process faults.
    pub fault_pause: Duration,
    /// The approximate duration of a network fault.
    pub fault_length: Duration,
    /// The longest time that a client stays away or stops reading.
    pub longest_pause: Duration,
    /// The limit for every client to receive everything in calm.
    pub calm: Duration,
    /// The limit for the release of everything after the clients have left.
    pub empty: Duration,
    /// The number of bytes by which the idle first server may grow after the first cycle.
    pub growth: f64,
    /// The interval of status lines.
    pub status_interval: Duration,
    /// The seed of all choices; the timing still differs in each run.
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
    /// Clients that resume in the next cycle.
    resuming: Vec<LoadClient>,
}

/// Running clients: each ends with its state, or with a failure.
type ClientTasks = JoinSet<Result<LoadClient, String>>;

/// Runs all cycles. Prints status lines to standard error, and a table at the end.
///
/// # Errors
/// Everything that went wrong.
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

/// Creates the collections; one of them keeps images.
async fn prepare(database: &Database) {
    for name in COLLECTIONS {
        let images = doc! { "enabled": name == ORDERS };
        let create = doc! { "create": name, "changeStreamPreAndPostImages": images };
        let created = database.database().run_command(create).await;
        created.expect("a collection can be made");
    }
}

/// Writes a document that no watch covers and returns its time, after which nothing was written.
async fn mark(database: &Database) -> Time {
    let marks = database.client().database("marks");
    let insert = doc! { "insert": "marks", "documents": [{ "mark": true }] };
    let answer = marks.run_command(insert).await.expect("a mark");
    let time = answer.get_timestamp("operationTime");
    let time = time.expect("a replica set reports the time");
    (time.time, time.increment)
}

/// Returns whether no cursor is read for longer than MongoDB may delay a reply.
async fn is_idle(database: &Database) -> bool {
    let before = database.getmore_count().await;
    sleep(Duration::from_secs(2)).await;
    database.getmore_count().await == before
}

impl Run<'_> {
    /// Runs one cycle: load, calm, and idle.
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
        // The connections are dropped with the last client.
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

    /// Watches the run for this long.
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

    /// Records what both servers hold.
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

    /// Collects clients that have ended.
    fn collect(&mut self, clients: &mut ClientTasks) {
        while let Some(ended) = clients.try_join_next() {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Result<Result<LoadClient, String>, tokio::task::JoinError>) {
        match ended.map_err(|panic| panic.to_string()).flatten() {
            // Some resume; those that start anew have new requests.
            Ok(client) if self.rng.u32(..4) == 0 => self.resuming.push(client),
            Ok(_) => {}
            Err(problem) => self.failures.push(problem),
        }
    }

    /// Prints one status line.
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

    /// Waits until the servers hold what they held at first and MongoDB's cursors are closed.
    /// Cursors that nobody could close, because their connection broke or their opening took too
    /// long, may remain, but must not be in use.
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

    /// Prints the table, writes the tally and returns the result.
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
        // The first cycle with faults may still allocate what is kept.
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
