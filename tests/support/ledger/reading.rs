//! How far one client is, and whether what comes next is what had to come.

use std::sync::Arc;

use bytes::Bytes;
use weir::pb;

use super::{Ledger, Time, Wants, Write};

/// A change as a client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub writer: usize,
    /// The number of the write; a deletion does not tell.
    pub number: Option<u32>,
    /// The number of the insert that made the document.
    pub document: u32,
    pub operation: pb::OperationType,
    pub collection: String,
    pub time: Time,
}

/// What a client has read, held against the ledger.
pub struct Reading {
    ledger: Arc<Ledger>,
    wants: Wants,
    /// Where it is in the writes of each writer.
    places: Vec<Place>,
    /// The first write of each writer that it has never got.
    highest: Vec<u32>,
    /// Whatever comes has to be later than this: the last change, or what a progress told.
    floor: Time,
    /// The time in the last message's token.
    token_time: Time,
    /// The last message's token.
    last_token: Option<Bytes>,
    stored: Option<Stored>,
    /// Nothing new has come since the client came back.
    just_back: bool,
    /// Changes that it got, repeats left out.
    pub got: u64,
    /// Changes that it got once more after it came back.
    pub repeats: u64,
    /// How often it came back.
    pub reconnects: u64,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    /// Writes before this one must not come (again).
    next: u32,
    /// Writes from this one on must not be missing. They are the same once something has come; before,
    /// nobody can tell whether what is being written at that moment comes before the beginning.
    sure: u32,
}

#[derive(Clone)]
struct Stored {
    token: Bytes,
    places: Vec<Place>,
    floor: Time,
    token_time: Time,
}

impl Reading {
    /// Of a client that begins after the writes `done`, and at any point before `begun`.
    pub fn new(ledger: &Arc<Ledger>, wants: Wants, done: &[u32], begun: &[u32]) -> Self {
        let places = done
            .iter()
            .zip(begun)
            .map(|(&next, &sure)| Place { next, sure });
        Self {
            ledger: Arc::clone(ledger),
            wants,
            places: places.collect(),
            highest: done.to_vec(),
            floor: (0, 0),
            token_time: (0, 0),
            last_token: None,
            stored: None,
            just_back: false,
            got: 0,
            repeats: 0,
            reconnects: 0,
        }
    }

    /// Takes the next change.
    ///
    /// # Errors
    /// What is wrong with its coming now.
    pub fn change(&mut self, seen: &Seen) -> Result<(), String> {
        let writer = seen.writer;
        let (number, write) = self.find(seen)?;
        let Place { next, sure } = self.places[writer];
        if number < next {
            // A place that was come back to by its time brings all of that time again.
            if self.just_back && seen.time == self.floor {
                self.repeats += 1;
                return Ok(());
            }
            return Err(format!("{} comes again", named(writer, number, &write)));
        }
        if let Some((missing, write)) = self.first_wanted(writer, sure, number) {
            let missing = named(writer, missing, &write);
            return Err(format!("{missing} is missing before {seen:?}"));
        }
        if !(self.wants)(&write) {
            return Err(format!(
                "{} was not asked for",
                named(writer, number, &write)
            ));
        }
        if seen.time <= self.floor {
            let floor = self.floor;
            return Err(format!(
                "{seen:?} comes after the time {floor:?} was passed"
            ));
        }
        self.floor = seen.time;
        self.just_back = false;
        let next = number + 1;
        self.places[writer] = Place { next, sure: next };
        if number < self.highest[writer] {
            self.repeats += 1;
        } else {
            self.highest[writer] = next;
            self.got += 1;
        }
        Ok(())
    }

    /// The write that a change stands for; whoever sees it first notes its time for all others.
    fn find(&self, seen: &Seen) -> Result<(u32, Write), String> {
        let unknown = || format!("nobody wrote {seen:?}");
        if seen.writer >= self.places.len() {
            return Err(unknown());
        }
        let mut notes = self.ledger.notes(seen.writer);
        let number = seen
            .number
            .or_else(|| notes.deletions.get(&seen.document).copied())
            .ok_or_else(unknown)?;
        let index = usize::try_from(number).map_err(|_| unknown())?;
        let write = *notes.writes.get(index).ok_or_else(unknown)?;
        let same = write.operation == seen.operation
            && write.document == seen.document
            && self.ledger.collections[write.collection] == seen.collection;
        if !same {
            return Err(format!("{seen:?} was written as {write:?}"));
        }
        let time = *notes.times[index].get_or_insert(seen.time);
        if time != seen.time {
            return Err(format!("others saw {seen:?} at the time {time:?}"));
        }
        Ok((number, write))
    }

    fn first_wanted(&self, writer: usize, from: u32, to: u32) -> Option<(u32, Write)> {
        let notes = self.ledger.notes(writer);
        let wanted = (from..to).map(|number| (number, notes.writes[number as usize]));
        let mut wanted = wanted.filter(|(_, write)| (self.wants)(write));
        wanted.next()
    }

    /// Takes a progress: nothing that is still to come may be of its time or before.
    ///
    /// # Errors
    /// When it is behind what has come already.
    pub fn progress(&mut self, time: Time) -> Result<(), String> {
        if time < self.floor {
            let floor = self.floor;
            return Err(format!("progress goes back to {time:?}, from {floor:?}"));
        }
        self.floor = time;
        Ok(())
    }

    /// Takes the token of a message all of whose changes were taken, and keeps it if `store`.
    ///
    /// # Errors
    /// When its time is before that of the token before it.
    pub fn token(&mut self, token: &Bytes, time: Time, store: bool) -> Result<(), String> {
        // Before anything has come it is MongoDB's time at the opening. The stand-in's may be ahead of a
        // write that is not done yet, and so of the first change.
        let time = if self.floor == (0, 0) { (0, 0) } else { time };
        if time < self.token_time {
            let last = self.token_time;
            return Err(format!("the token goes back to {time:?}, from {last:?}"));
        }
        self.token_time = time;
        self.last_token = Some(token.clone());
        if store || self.stored.is_none() {
            self.stored = Some(Stored {
                token: token.clone(),
                places: self.places.clone(),
                floor: self.floor,
                token_time: time,
            });
        }
        Ok(())
    }

    /// The token of the last message.
    pub fn last_token(&self) -> Option<&Bytes> {
        self.last_token.as_ref()
    }

    /// Goes back to the stored token, which is what the client goes on from.
    pub fn come_back(&mut self) -> Option<Bytes> {
        let stored = self.stored.clone()?;
        self.places = stored.places;
        self.floor = stored.floor;
        self.token_time = stored.token_time;
        self.just_back = true;
        self.reconnects += 1;
        Some(stored.token)
    }

    /// What had to come and has not, in words; none when everything has.
    pub fn missing(&mut self) -> Option<String> {
        for writer in 0..self.places.len() {
            let end = self.end(writer);
            let sure = self.places[writer].sure;
            if let Some((number, write)) = self.first_wanted(writer, sure, end) {
                // What was looked through once need not be again.
                self.places[writer].sure = number;
                return Some(format!("{} is missing", named(writer, number, &write)));
            }
            self.places[writer].sure = end.max(sure);
        }
        None
    }

    /// How many changes had to come and have never.
    pub fn lost(&self) -> u64 {
        let writers = 0..self.places.len();
        let lost = writers.map(|writer| {
            let from = self.highest[writer].max(self.places[writer].sure);
            let notes = self.ledger.notes(writer);
            let rest = notes.writes.get(from as usize..).unwrap_or_default();
            rest.iter().filter(|write| (self.wants)(write)).count() as u64
        });
        lost.sum()
    }

    fn end(&self, writer: usize) -> u32 {
        u32::try_from(self.ledger.notes(writer).writes.len()).expect("a test writes less")
    }
}

fn named(writer: usize, number: u32, write: &Write) -> String {
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
