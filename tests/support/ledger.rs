//! What was written, held against what clients got.
//!
//! [`Writers`] write into a database that may be away, and note each write here before they make it.
//! A [`ResumingClient`] watches as a client should, goes on after every end that it may go on after, and its
//! [`DeliveryChecker`] holds what comes against the notes as it comes: a hole, a swap or a repeat is told at
//! once, with its place. Nobody keeps a log: a reading is a number for each writer, so that thousands
//! of followers can be held.
//!
//! ```ignore
//! let writers = Writers::start(&database.database(), &WriteOptions::default()).await;
//! let ledger = writers.ledger();
//! let follower = ResumingClient::start(&ledger, weir.grpc_addr(), ClientOptions::all("all", request)).await;
//! // ... faults ...
//! writers.finish().await;
//! DeliveryTotals::of(&ledger, &[follower]).await.tally();
//! ```

mod checker;
mod resuming_client;
mod writers;

pub use checker::{DeliveryChecker, ObservedChange};
pub use resuming_client::{ClientOptions, Pieces, ResumingClient, may_resume, number, time_of};
pub use writers::{WriteOptions, Writers};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use weir::pb;

use super::{Figure, WAIT_LIMIT, tally};

/// A cluster time: seconds and increment.
pub type Time = (u32, u32);

/// Which writes a follower asked for.
pub type WriteFilter = Arc<dyn Fn(&Write) -> bool + Send + Sync>;

/// One write, as it was meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// Which of the ledger's collections.
    pub collection: usize,
    pub operation: pb::OperationType,
    /// The number of the insert that made the document. No document comes a second time.
    pub document: u32,
    /// The document's group before; none where there was no document.
    pub before: Option<i32>,
    /// Its group after; none where there is no document any more.
    pub after: Option<i32>,
}

/// All writes, by writer and number.
#[derive(Debug)]
pub struct Ledger {
    collections: Vec<String>,
    writers: Vec<Mutex<WriterLog>>,
}

/// The writes of one writer, in order.
#[derive(Debug, Default)]
struct WriterLog {
    writes: Vec<Write>,
    /// The cluster time of each, once somebody has seen it.
    times: Vec<Option<Time>>,
    /// The number of each document's deletion, which an event cannot tell.
    deletions: HashMap<u32, u32>,
    /// How many of the writes are known to be done.
    done: u32,
}

impl Ledger {
    /// An empty one.
    pub fn new(collections: &[&str], writers: usize) -> Arc<Self> {
        Arc::new(Self {
            collections: collections.iter().map(|&name| name.to_owned()).collect(),
            writers: (0..writers).map(|_| Mutex::default()).collect(),
        })
    }

    /// WriterLog a write that is about to be made, and gives its number.
    pub fn record(&self, writer: usize, write: Write) -> u32 {
        let mut writer_log = self.writer_log(writer);
        let number = u32::try_from(writer_log.writes.len()).expect("a test writes less");
        if write.operation == pb::OperationType::Delete {
            writer_log.deletions.insert(write.document, number);
        }
        writer_log.writes.push(write);
        writer_log.times.push(None);
        number
    }

    /// Says that the writer's writes before this number are done for certain.
    pub fn done(&self, writer: usize, before: u32) {
        self.writer_log(writer).done = before;
    }

    /// How many writes of each writer are known to be done.
    pub fn all_done(&self) -> Vec<u32> {
        let writers = 0..self.writers.len();
        writers.map(|writer| self.writer_log(writer).done).collect()
    }

    /// How many writes of each writer may have begun.
    pub fn all_begun(&self) -> Vec<u32> {
        let begun = |writer| u32::try_from(self.writer_log(writer).writes.len());
        let writers = 0..self.writers.len();
        writers
            .map(|writer| begun(writer).expect("a test writes less"))
            .collect()
    }

    /// The number of each writer's first write of this second or later; none where that is not known,
    /// as nobody has seen the writes around it.
    pub fn first_since(&self, second: u32) -> Option<Vec<u32>> {
        let first = |writer: usize| {
            let writer_log = self.writer_log(writer);
            let is_before = |time: &Option<Time>| time.is_some_and(|(it, _)| it < second);
            let first = writer_log
                .times
                .iter()
                .rposition(is_before)
                .map_or(0, |at| at + 1);
            // Unless it is the very next one, nobody can tell of which side those between are.
            match writer_log.times.get(first) {
                Some(None) => None,
                _ => u32::try_from(first).ok(),
            }
        };
        (0..self.writers.len()).map(first).collect()
    }

    /// The time of the last write that somebody has seen.
    pub fn last_seen(&self) -> Option<Time> {
        let last = |writer| {
            self.writer_log(writer)
                .times
                .iter()
                .rev()
                .find_map(|it| *it)
        };
        (0..self.writers.len()).filter_map(last).max()
    }

    /// How many writes there are.
    pub fn len(&self) -> u64 {
        self.all_begun().into_iter().map(u64::from).sum()
    }

    fn writer_log(&self, writer: usize) -> MutexGuard<'_, WriterLog> {
        self.writers[writer]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What writers and followers did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliveryTotals {
    /// The writes.
    pub written: u64,
    /// The changes that followers got, repeats left out.
    pub got: u64,
    /// The changes that they did not get and should have.
    pub lost: u64,
    /// The changes that they got once more after they came back.
    pub repeats: u64,
    /// How often they came back.
    pub reconnects: u64,
}

impl DeliveryTotals {
    /// Waits until each follower has everything that it asked for. The writers have finished.
    ///
    /// # Panics
    /// With the first thing that went wrong, or that is still missing when nothing has come to
    /// anybody for [`WAIT_LIMIT`].
    pub async fn of(ledger: &Ledger, clients: &[ResumingClient]) -> Self {
        let mut last = (Self::now(ledger, clients), Instant::now());
        loop {
            let now = Self::now(ledger, clients);
            if now != last.0 {
                last = (now, Instant::now());
            }
            let problems: Vec<String> =
                clients.iter().filter_map(ResumingClient::problem).collect();
            let missing = || clients.iter().filter_map(ResumingClient::missing);
            let idle = last.1.elapsed() > WAIT_LIMIT;
            if !problems.is_empty() || idle {
                let missing: Vec<String> = missing().collect();
                now.tally();
                panic!("{now:?}\n{}\n{}", problems.join("\n"), missing.join("\n"));
            }
            if missing().next().is_none() {
                return now;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn now(ledger: &Ledger, clients: &[ResumingClient]) -> Self {
        let mut totals = Self {
            written: ledger.len(),
            ..Self::default()
        };
        for client in clients {
            client.with(|checker| {
                totals.got += checker.got;
                totals.lost += checker.lost();
                totals.repeats += checker.repeats;
                totals.reconnects += checker.reconnects;
            });
        }
        totals
    }

    /// Adds them to the figures of this run.
    pub fn tally(&self) {
        tally(Figure::EventsWritten, self.written);
        tally(Figure::EventsLost, self.lost);
        tally(Figure::Repeats, self.repeats);
        println!("{self:?}");
    }
}
