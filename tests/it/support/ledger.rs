//! Compares what was written with what clients received.
//!
//! [`Writers`] write into a database that may be unavailable, and record each write here before they
//! make it. A [`ResumingClient`] watches and resumes after every end that allows it. Its
//! [`DeliveryChecker`] compares each change with the records as it comes, and reports a missing,
//! reordered or repeated change at once, with its number. No client keeps a log: a checker holds
//! one number for each writer, so that a test can have thousands of clients.
//!
//! ```ignore
//! let writers = Writers::start(&database.database(), &WriteOptions::default()).await;
//! let ledger = writers.ledger();
//! let options = ClientOptions::all("all", request);
//! let client = ResumingClient::start(&ledger, weir.grpc_addr(), options).await;
//! // ... faults ...
//! writers.finish().await;
//! DeliveryTotals::of(&ledger, &[client]).await.tally();
//! ```

mod checker;
mod resuming_client;
mod writers;

pub use checker::{DeliveryChecker, ObservedChange};
pub use resuming_client::{
    ClientOptions, OtherEvent, Pieces, ResumingClient, may_resume, number, time_of,
};
pub use writers::{WriteOptions, Writers};

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use weir::pb;

use super::{Figure, WAIT_LIMIT, tally};

/// A cluster time: seconds and increment.
pub type Time = (u32, u32);

/// Selects the writes that a client has to receive.
pub type WriteFilter = Arc<dyn Fn(&Write) -> bool + Send + Sync>;

/// One write, as it was intended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// The index in the ledger's collections.
    pub collection: usize,
    pub operation: pb::OperationType,
    /// The number of the insert that created the document. No document is created twice.
    pub document: u32,
    /// The document's group before the write; `None` where there was no document.
    pub before: Option<i32>,
    /// The document's group after the write; `None` where it was deleted.
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
    /// The cluster time of each write, once a client has seen it.
    times: Vec<Option<Time>>,
    /// The number of each document's deletion, which its event does not carry.
    deletions: HashMap<u32, u32>,
    /// The writes that have the cluster time of the write before them, as in a transaction.
    same_time: HashSet<u32>,
    /// The number of writes that are known to be done.
    done: u32,
}

impl Ledger {
    /// Creates an empty ledger.
    pub fn new(collections: &[&str], writers: usize) -> Arc<Self> {
        Arc::new(Self {
            collections: collections.iter().map(|&name| name.to_owned()).collect(),
            writers: (0..writers).map(|_| Mutex::default()).collect(),
        })
    }

    /// Records a write that is about to be made and returns its number.
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

    /// Records a write of the same transaction as the writer's last one, so that both have the same
    /// cluster time.
    pub fn record_with_last(&self, writer: usize, write: Write) -> u32 {
        let number = self.record(writer, write);
        self.writer_log(writer).same_time.insert(number);
        number
    }

    /// Marks the writer's writes before this number as done.
    pub fn done(&self, writer: usize, before: u32) {
        self.writer_log(writer).done = before;
    }

    /// The number of writes of each writer that are known to be done.
    pub fn all_done(&self) -> Vec<u32> {
        let writers = 0..self.writers.len();
        writers.map(|writer| self.writer_log(writer).done).collect()
    }

    /// The number of writes of each writer that may have begun.
    pub fn all_begun(&self) -> Vec<u32> {
        let begun = |writer| u32::try_from(self.writer_log(writer).writes.len());
        let writers = 0..self.writers.len();
        writers
            .map(|writer| begun(writer).expect("a test writes less"))
            .collect()
    }

    /// The number of each writer's first write in or after this second; `None` where that is
    /// unknown because no client has seen the writes around it.
    pub fn first_since(&self, second: u32) -> Option<Vec<u32>> {
        let first = |writer: usize| {
            let writer_log = self.writer_log(writer);
            let is_before = |time: &Option<Time>| time.is_some_and(|(it, _)| it < second);
            let first = writer_log
                .times
                .iter()
                .rposition(is_before)
                .map_or(0, |at| at + 1);
            // If writes of unknown time lie between, they may belong to either side.
            match writer_log.times.get(first) {
                Some(None) => None,
                _ => u32::try_from(first).ok(),
            }
        };
        (0..self.writers.len()).map(first).collect()
    }

    /// The time of the last write that a client has seen.
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

    /// The number of writes.
    pub fn len(&self) -> u64 {
        self.all_begun().into_iter().map(u64::from).sum()
    }

    fn writer_log(&self, writer: usize) -> MutexGuard<'_, WriterLog> {
        self.writers[writer]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The totals of all writers and clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliveryTotals {
    /// The writes.
    pub written: u64,
    /// The changes that clients received, without repeats.
    pub got: u64,
    /// The changes that clients should have received and did not.
    pub lost: u64,
    /// The changes that clients received again after a resume.
    pub repeats: u64,
    /// The number of resumes.
    pub reconnects: u64,
}

impl DeliveryTotals {
    /// Waits until each client has received everything it expects. The writers have finished by
    /// then.
    ///
    /// # Panics
    /// With the first problem, or with what is still missing when no client has received anything
    /// for [`WAIT_LIMIT`].
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

    /// Adds the totals to the figures of this run.
    pub fn tally(&self) {
        tally(Figure::EventsWritten, self.written);
        tally(Figure::EventsLost, self.lost);
        tally(Figure::Repeats, self.repeats);
        println!("{self:?}");
    }
}
