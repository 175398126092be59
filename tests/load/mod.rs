//! Weir under load: clients of all kinds come, go, stall and come back while writers write and all
//! that can break breaks. Whether each got all it asked for, once and in order, and whether the
//! servers let go of all they took.
//!
//! In reading order: what is written ([`writing`]), what clients ask for ([`asking`]), the clients
//! ([`follower`], [`connections`]), what they talk to ([`servers`]), what breaks ([`faults`]), what was
//! counted ([`figures`], [`report`]), and here the whole, in cycles: under load, in calm until
//! everybody has everything, and without anybody. What each client has to get, and in what order,
//! [`crate::support::ledger`] judges.

mod asking;
mod connections;
mod faults;
mod figures;
mod follower;
mod report;
mod servers;
mod writing;

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

use asking::Asking;
use connections::Connections;
use faults::Faults;
use figures::Figures;
use follower::{Common, Follower, Phase, begin_only};
use report::{Peaks, Rest, Table, mebibytes};
use servers::{Holding, Replica};
use writing::{COLLECTIONS, ORDER_WRITERS, ORDERS, WRITERS, write};

/// How long writers may take to bring to an end what they began, and clients to leave.
const ENDING: Duration = Duration::from_secs(60);
/// How many tasks and descriptors more than at first a server may have when nobody watches: such as
/// come and go by themselves.
const SLACK: f64 = 8.0;
/// How many failures are told.
const TOLD: usize = 8;

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
    pub telling: Duration,
    /// From which all choices follow; what the machine makes of them differs each time.
    pub seed: u64,
}

/// One run.
struct Run<'a> {
    settings: &'a Settings,
    began: Instant,
    dice: Rng,
    replicas: Arc<[Replica; 2]>,
    ledger: Arc<Ledger>,
    figures: Arc<Figures>,
    peaks: Peaks,
    rests: Vec<Rest>,
    failures: Vec<String>,
    /// Clients that go on in the next cycle.
    going_on: Vec<Follower>,
}

/// Clients at work: each ends with its place, or with what it must not have seen.
type Followers = JoinSet<Result<Follower, String>>;

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
        dice: Rng::with_seed(settings.seed),
        replicas: Arc::new([replica("first").await, replica("second").await]),
        ledger: Ledger::new(&COLLECTIONS, WRITERS),
        figures: Arc::default(),
        peaks: Peaks::default(),
        rests: Vec::new(),
        failures: Vec::new(),
        going_on: Vec::new(),
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
        let ways = self.replicas.iter().flat_map(|it| &it.downstream);
        let longest_pause = self.settings.longest_pause.as_millis();
        let common = Arc::new(Common {
            database: database.name().to_owned(),
            ledger: Arc::clone(&self.ledger),
            connections: Connections::to(ways.map(|it| it.address())),
            figures: Arc::clone(&self.figures),
            complete: AtomicU32::new(0),
            longest_pause: u64::try_from(longest_pause).expect("pauses are short"),
        });
        let stop = CancellationToken::new();
        let writers = self.start_writers(database, &stop);
        let mut followers = JoinSet::new();
        for _ in 0..self.settings.watchers {
            let follower = self.going_on.pop();
            let follower =
                follower.unwrap_or_else(|| Follower::new(Asking::random(&mut self.dice)));
            let seed = self.dice.u64(..);
            followers.spawn(follower.follow(Arc::clone(&common), phases.clone(), seed));
        }
        let mut beginners = JoinSet::new();
        for _ in 0..=self.settings.watchers / 200 {
            let seed = self.dice.u64(..);
            beginners.spawn(begin_only(Arc::clone(&common), phases.clone(), seed));
        }

        let faults = Arc::new(Faults {
            replicas: Arc::clone(&self.replicas),
            figures: Arc::clone(&self.figures),
            pause: self.settings.fault_pause,
            longest: self.settings.fault_length,
            stop: CancellationToken::new(),
        });
        if with_faults {
            let (networks, processes) = (self.dice.u64(..), self.dice.u64(..));
            let ((), broken, ()) = tokio::join!(
                faults.of_networks(networks),
                faults.of_processes(database, processes),
                async {
                    self.look_on(name, load, &mut followers).await;
                    faults.stop.cancel();
                }
            );
            self.failures.extend(broken.err());
        } else {
            self.look_on(name, load, &mut followers).await;
        }

        stop.cancel();
        if timeout(ENDING, writers.join_all()).await.is_err() {
            let (begun, done) = (self.ledger.all_begun(), self.ledger.all_done());
            self.failures.push(format!(
                "writes do not come to an end: {done:?} of {begun:?}"
            ));
        }
        let calm = Instant::now();
        phase.send_replace(Phase::Calm(mark(database).await));
        let mut complete = 0;
        while complete < followers.len() && calm.elapsed() < self.settings.calm {
            sleep(Duration::from_millis(50)).await;
            self.collect(&mut followers);
            complete = common.complete.load(Ordering::SeqCst) as usize;
        }
        let complete_after = calm.elapsed();
        self.tell(name, "calm").await;
        if complete < followers.len() {
            for replica in self.replicas.iter() {
                let states = replica.states().await;
                self.failures.push(format!("{name}: {states}"));
            }
        }

        let empty = Instant::now();
        phase.send_replace(Phase::Empty);
        let all = async {
            while let Some(ended) = followers.join_next().await {
                self.ended(ended);
            }
            beginners.join_all().await;
        };
        if timeout(ENDING, all).await.is_err() {
            self.failures.push("clients do not leave".to_owned());
        }
        // With the last client go the connections.
        drop(common);
        self.becomes_empty(name, complete_after, empty, database)
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
    async fn look_on(&mut self, name: &str, load: Duration, followers: &mut Followers) {
        let end = Instant::now() + load;
        let mut tell = Instant::now() + self.settings.telling;
        while Instant::now() < end {
            sleep(Duration::from_secs(1)).await;
            self.collect(followers);
            self.holdings().await;
            if Instant::now() >= tell {
                tell += self.settings.telling;
                self.tell(name, "load").await;
            }
        }
    }

    /// What both servers hold.
    async fn holdings(&mut self) -> [Holding; 2] {
        let mut holdings = [Holding::default(); 2];
        for (replica, place) in self.replicas.iter().zip(&mut holdings) {
            match replica.holding().await {
                Ok(holding) => {
                    self.peaks.see(&holding);
                    *place = holding;
                }
                Err(failure) => self.failures.push(failure),
            }
        }
        holdings
    }

    /// Takes note of clients that have ended.
    fn collect(&mut self, followers: &mut Followers) {
        while let Some(ended) = followers.try_join_next() {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Result<Result<Follower, String>, tokio::task::JoinError>) {
        match ended.map_err(|panic| panic.to_string()).flatten() {
            // Some go on from where they are; those who begin anew find other ways to begin.
            Ok(follower) if self.dice.u32(..4) == 0 => self.going_on.push(follower),
            Ok(_) => {}
            Err(problem) => self.failures.push(problem),
        }
    }

    /// One line on how things stand.
    async fn tell(&mut self, name: &str, phase: &str) {
        let [first, second] = self.holdings().await.map(|it| mebibytes(it.resident));
        let figures = &self.figures;
        let faults: u64 = figures.faults().values().sum();
        eprintln!(
            "{:4} s  {name}, {phase}: {} watches, {} written, {} delivered, {faults} faults, {first} \
             and {second} resident{}",
            self.began.elapsed().as_secs(),
            figures.held.now(),
            self.ledger.len(),
            figures.events.get(),
            match self.failures.len() {
                0 => String::new(),
                failures => format!(", {failures} FAILURES"),
            },
        );
    }

    /// Waits until the servers hold what they held at first and MongoDB's cursors are gone, but for those
    /// that nobody could close, as their connection broke or their opening took too long: they must not
    /// be in use.
    async fn becomes_empty(
        &mut self,
        name: &str,
        complete_after: Duration,
        empty: Instant,
        database: &Database,
    ) {
        let first = self.rests.first().map(|it| it.holding);
        let (holding, cursors) = loop {
            let holding = self.holdings().await;
            let cursors = database.open_cursors().await;
            let as_before = holding.iter().enumerate().all(|(which, now)| {
                let before = first.map_or(*now, |first| first[which]);
                now.is_empty()
                    && now.tasks <= before.tasks + SLACK
                    && now.descriptors <= before.descriptors + SLACK
            });
            if as_before && (cursors == 0 || is_idle(database).await) {
                break (holding, cursors);
            }
            if empty.elapsed() > self.settings.empty {
                let rest = format!("{holding:#?} and {cursors} cursors; at first {first:#?}");
                self.failures
                    .push(format!("{name}: not all is given back: {rest}"));
                break (holding, cursors);
            }
            sleep(Duration::from_millis(100)).await;
        };
        self.rests.push(Rest {
            name: name.to_owned(),
            holding,
            cursors,
            complete_after,
            empty_after: empty.elapsed(),
        });
        self.tell(name, "empty").await;
    }

    /// The table, the tally, and the verdict.
    async fn conclude(mut self) -> Result<(), Vec<String>> {
        let mut table = Table::default();
        let written = self.ledger.len();
        table.figures(&self.figures, written);
        table.peaks(&self.peaks);
        for rest in &self.rests {
            table.rest(rest);
        }
        for replica in self.replicas.iter() {
            let said = replica.said().await;
            for (words, count) in &said.warnings {
                table.row(format!("{} server warned: {words}", replica.name), count);
            }
            let bad = said.bad.iter();
            let bad = bad.map(|line| format!("{} server said: {line}", replica.name));
            self.failures.extend(bad);
        }
        // The first cycle with faults still finds what to keep.
        if let [_, first, .., last] = &self.rests[..] {
            let grown = last.holding[0].resident - first.holding[0].resident;
            table.row("growth of the first server", mebibytes(grown));
            if grown > self.settings.growth {
                let grown = mebibytes(grown);
                self.failures
                    .push(format!("the first server grew by {grown} at rest"));
            }
        }
        eprintln!("\n{table}");

        tally(Figure::Faults, self.figures.faults().values().sum());
        tally(Figure::EventsWritten, written);
        tally(Figure::EventsLost, self.figures.lost.get());
        tally(Figure::Repeats, self.figures.repeats.get());
        tally(Figure::WatchesHeld, self.figures.held.peak());
        tally(Figure::PeakBytes, self.peaks.resident as u64);
        if self.failures.is_empty() {
            return Ok(());
        }
        let more = self.failures.len().saturating_sub(TOLD);
        self.failures.truncate(TOLD);
        if more > 0 {
            self.failures.push(format!("and {more} more"));
        }
        Err(self.failures)
    }
}
