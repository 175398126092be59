//! Checks that what a client receives is exactly what it has to receive.

use std::sync::Arc;

use bytes::Bytes;
use weir::pb;

use super::{Ledger, Time, Write, WriteFilter};

/// A change as a client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedChange {
    pub writer: usize,
    /// The number of the write; a deletion does not carry it.
    pub number: Option<u32>,
    /// The number of the insert that created the document.
    pub document: u32,
    pub operation: pb::OperationType,
    pub collection: String,
    pub time: Time,
}

/// Compares what a client receives with the ledger.
pub struct DeliveryChecker {
    ledger: Arc<Ledger>,
    expects: WriteFilter,
    /// The client's position in the writes of each writer.
    positions: Vec<WriterPosition>,
    /// The first write of each writer that it has never received.
    first_never_seen: Vec<u32>,
    /// Every further change has to be later than this: the time of the last change or progress. Only
    /// writes of one transaction share a time.
    min_time: Time,
    /// The time of the last progress, after which not even the rest of a transaction may come.
    progress_time: Time,
    /// The time in the last message's token.
    token_time: Time,
    /// The last message's token.
    last_token: Option<Bytes>,
    stored: Option<Stored>,
    /// Nothing new has come since the client resumed.
    resumed: bool,
    /// Changes received, without repeats.
    pub got: u64,
    /// Changes received again after a resume.
    pub repeats: u64,
    /// The number of resumes.
    pub reconnects: u64,
}

#[derive(Debug, Clone, Copy)]
struct WriterPosition {
    /// Writes before this one must not come (again).
    next: u32,
    /// Writes from this one on must not be missing. Equal to `next` once a change has come; before
    /// that, nobody can tell whether a write in flight lies before the start of the watch.
    required_from: u32,
}

#[derive(Clone)]
struct Stored {
    token: Bytes,
    positions: Vec<WriterPosition>,
    min_time: Time,
    progress_time: Time,
    token_time: Time,
}

impl DeliveryChecker {
    /// A checker for a client that starts after the writes `done` and at some point before `begun`.
    pub fn new(ledger: &Arc<Ledger>, expects: WriteFilter, done: &[u32], begun: &[u32]) -> Self {
        let positions = done
            .iter()
            .zip(begun)
            .map(|(&next, &required_from)| WriterPosition {
                next,
                required_from,
            });
        Self {
            ledger: Arc::clone(ledger),
            expects,
            positions: positions.collect(),
            first_never_seen: done.to_vec(),
            min_time: (0, 0),
            progress_time: (0, 0),
            token_time: (0, 0),
            last_token: None,
            stored: None,
            resumed: false,
            got: 0,
            repeats: 0,
            reconnects: 0,
        }
    }

    /// Checks the next change.
    ///
    /// # Errors
    /// The problem, if it must not come now.
    pub fn change(&mut self, observed: &ObservedChange) -> Result<(), String> {
        let writer = observed.writer;
        let (number, write) = self.find(observed)?;
        let WriterPosition {
            next,
            required_from,
        } = self.positions[writer];
        if number < next {
            // A resume by time brings all changes of that time again.
            if self.resumed && observed.time == self.min_time {
                self.repeats += 1;
                return Ok(());
            }
            return Err(format!("{} comes again", describe(writer, number, &write)));
        }
        if let Some((missing, write)) = self.first_wanted(writer, required_from, number) {
            let missing = describe(writer, missing, &write);
            return Err(format!("{missing} is missing before {observed:?}"));
        }
        if !(self.expects)(&write) {
            return Err(format!(
                "{} does not match the request",
                describe(writer, number, &write)
            ));
        }
        let of_transaction = observed.time == self.min_time
            && observed.time > self.progress_time
            && self.ledger.writer_log(writer).same_time.contains(&number);
        if observed.time <= self.min_time && !of_transaction {
            let min_time = self.min_time;
            return Err(format!(
                "{observed:?} comes after the time {min_time:?} was passed"
            ));
        }
        self.min_time = observed.time;
        self.resumed = false;
        let next = number + 1;
        self.positions[writer] = WriterPosition {
            next,
            required_from: next,
        };
        if number < self.first_never_seen[writer] {
            self.repeats += 1;
        } else {
            self.first_never_seen[writer] = next;
            self.got += 1;
        }
        Ok(())
    }

    /// Finds the write of a change. The first client that sees a write records its time for all
    /// others.
    fn find(&self, observed: &ObservedChange) -> Result<(u32, Write), String> {
        let unknown = || format!("nobody wrote {observed:?}");
        if observed.writer >= self.positions.len() {
            return Err(unknown());
        }
        let mut writer_log = self.ledger.writer_log(observed.writer);
        let number = observed
            .number
            .or_else(|| writer_log.deletions.get(&observed.document).copied())
            .ok_or_else(unknown)?;
        let index = usize::try_from(number).map_err(|_| unknown())?;
        let write = *writer_log.writes.get(index).ok_or_else(unknown)?;
        let same = write.operation == observed.operation
            && write.document == observed.document
            && self.ledger.collections[write.collection] == observed.collection;
        if !same {
            return Err(format!("{observed:?} was written as {write:?}"));
        }
        let time = *writer_log.times[index].get_or_insert(observed.time);
        if time != observed.time {
            return Err(format!(
                "other clients saw {observed:?} at the time {time:?}"
            ));
        }
        Ok((number, write))
    }

    fn first_wanted(&self, writer: usize, from: u32, to: u32) -> Option<(u32, Write)> {
        let writer_log = self.ledger.writer_log(writer);
        let wanted = (from..to).map(|number| (number, writer_log.writes[number as usize]));
        let mut wanted = wanted.filter(|(_, write)| (self.expects)(write));
        wanted.next()
    }

    /// Checks an event that no writer of the ledger made: it must not lie before what has come.
    ///
    /// # Errors
    /// If it does.
    pub fn other(&mut self, time: Time) -> Result<(), String> {
        if time < self.min_time || time <= self.progress_time {
            let min_time = self.min_time;
            return Err(format!(
                "an event of {time:?} comes after the time {min_time:?} was passed"
            ));
        }
        self.min_time = time;
        Ok(())
    }

    /// Stores a token that stands right after an event that can't be sent.
    pub fn skip_to(&mut self, token: Bytes) {
        self.stored = Some(Stored {
            token,
            positions: self.positions.clone(),
            min_time: self.min_time,
            progress_time: self.progress_time,
            token_time: self.token_time,
        });
    }

    /// Checks a progress: no later change may have its time or an earlier one.
    ///
    /// # Errors
    /// If it lies before a change that has come already.
    pub fn progress(&mut self, time: Time) -> Result<(), String> {
        if time < self.min_time {
            let min_time = self.min_time;
            return Err(format!("progress goes back to {time:?}, from {min_time:?}"));
        }
        self.min_time = time;
        self.progress_time = time;
        Ok(())
    }

    /// Checks the token of a message after all its changes, and stores it if `store`.
    ///
    /// # Errors
    /// If its time is before that of the previous token.
    pub fn token(&mut self, token: &Bytes, time: Time, store: bool) -> Result<(), String> {
        // Before the first change, a token has MongoDB's time at the opening. The stand-in's time
        // may be ahead of a write that is not done yet, and so of the first change.
        let time = if self.min_time == (0, 0) {
            (0, 0)
        } else {
            time
        };
        if time < self.token_time {
            let last = self.token_time;
            return Err(format!("the token goes back to {time:?}, from {last:?}"));
        }
        self.token_time = time;
        self.last_token = Some(token.clone());
        if store || self.stored.is_none() {
            self.stored = Some(Stored {
                token: token.clone(),
                positions: self.positions.clone(),
                min_time: self.min_time,
                progress_time: self.progress_time,
                token_time: time,
            });
        }
        Ok(())
    }

    /// The token of the last message.
    pub fn last_token(&self) -> Option<&Bytes> {
        self.last_token.as_ref()
    }

    /// Goes back to the stored token, from which the client resumes, and returns it.
    pub fn resume(&mut self) -> Option<Bytes> {
        let stored = self.stored.clone()?;
        self.positions = stored.positions;
        self.min_time = stored.min_time;
        self.progress_time = stored.progress_time;
        self.token_time = stored.token_time;
        self.resumed = true;
        self.reconnects += 1;
        Some(stored.token)
    }

    /// Describes the first expected change that has not come; `None` when all have come.
    pub fn missing(&mut self) -> Option<String> {
        for writer in 0..self.positions.len() {
            let end = self.end(writer);
            let required_from = self.positions[writer].required_from;
            if let Some((number, write)) = self.first_wanted(writer, required_from, end) {
                // Writes that were checked once need not be checked again.
                self.positions[writer].required_from = number;
                return Some(format!("{} is missing", describe(writer, number, &write)));
            }
            self.positions[writer].required_from = end.max(required_from);
        }
        None
    }

    /// The number of expected changes that have never come.
    pub fn lost(&self) -> u64 {
        let writers = 0..self.positions.len();
        let lost = writers.map(|writer| {
            let from = self.first_never_seen[writer].max(self.positions[writer].required_from);
            let writer_log = self.ledger.writer_log(writer);
            let rest = writer_log.writes.get(from as usize..).unwrap_or_default();
            rest.iter().filter(|write| (self.expects)(write)).count() as u64
        });
        lost.sum()
    }

    fn end(&self, writer: usize) -> u32 {
        u32::try_from(self.ledger.writer_log(writer).writes.len()).expect("a test writes less")
    }
}

fn describe(writer: usize, number: u32, write: &Write) -> String {
    let Write {
        collection,
        operation,
        document,
        before,
        after,
    } = write;
    let operation = operation.as_str_name();
    let operation = operation.trim_start_matches("OPERATION_TYPE_");
    format!(
        "writer {writer}'s write {number} ({operation} of {document} in collection {collection}, group \
         {before:?} to {after:?})"
    )
}
