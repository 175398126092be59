//! Whose turn it is to have the stream of a catch-up opened.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::sync::{Mutex, lock};
use crate::{
    limit::{Limit, Turn, Turns},
    model::Caller,
};

/// The maximum number of streams that are being opened at once, or that were just opened and nobody has read yet.
/// MongoDB scans its history for each.
const MAX_OPENINGS: usize = 6;

/// The maximum number of them for the watches of one caller, so that it takes two to delay a third.
const MAX_OPENINGS_PER_CALLER: usize = 3;

/// The time for which a caller counts as one whose clients read.
const READER_TIME: Duration = Duration::from_secs(60);

/// The number of callers that count so at once; further ones have one stream opened after the other.
const MAX_READERS: usize = 1_024;

/// The turns to open streams. One caller has one at a time until a client of it has read, and three from then on:
/// whoever opens many and reads none would else have MongoDB do nothing but that.
#[derive(Debug)]
pub(super) struct CatchUpOpenings {
    turns: Turns<Caller>,
    /// The turns of callers none of whose clients has read.
    first: Turns<Caller>,
    /// The callers whose clients read, with the time of the last such catch-up.
    readers: Mutex<HashMap<Caller, Instant>>,
}

/// The turn to open one stream.
#[derive(Debug)]
pub(super) struct OpeningTurn {
    _turn: Turn<Caller>,
    _first: Option<Turn<Caller>>,
}

impl CatchUpOpenings {
    pub(super) fn new() -> Self {
        let openings = |max| Limit::new("openings of catch-ups", max);
        Self {
            turns: Turns::new(openings(MAX_OPENINGS), MAX_OPENINGS_PER_CALLER),
            first: Turns::new(openings(usize::MAX), 1),
            readers: Mutex::default(),
        }
    }

    /// Waits for a turn. Cancel safe.
    pub(super) async fn acquire(&self, caller: &Caller) -> OpeningTurn {
        let mut first = None;
        if !self.is_reader(caller) {
            let turn = self.first.acquire(caller).await;
            // The one before may have shown that its client reads.
            first = (!self.is_reader(caller)).then_some(turn);
        }
        OpeningTurn {
            _turn: self.turns.acquire(caller).await,
            _first: first,
        }
    }

    /// Notes whether the client of a catch-up of this caller reads.
    pub(super) fn note(&self, caller: &Caller, reads: bool) {
        let mut readers = lock(&self.readers);
        if !reads {
            readers.remove(caller);
            return;
        }
        if readers.len() >= MAX_READERS {
            readers.retain(|_, last| last.elapsed() < READER_TIME);
        }
        if readers.len() < MAX_READERS || readers.contains_key(caller) {
            readers.insert(caller.clone(), Instant::now());
        }
    }

    fn is_reader(&self, caller: &Caller) -> bool {
        let readers = lock(&self.readers);
        let last = readers.get(caller);
        last.is_some_and(|last| last.elapsed() < READER_TIME)
    }

    /// Returns the number of turns in use.
    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        self.turns.in_use() + self.first.in_use()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn callers_count_as_readers_for_a_minute_and_their_number_is_bounded() {
        let openings = CatchUpOpenings::new();
        let caller = |number: usize| Caller::Principal(number.to_string().into());
        for number in 0..MAX_READERS + 5 {
            openings.note(&caller(number), true);
        }
        let known = |from: usize, to: usize| {
            let callers = (from..to).filter(|number| openings.is_reader(&caller(*number)));
            callers.count()
        };
        assert_eq!(known(0, 2 * MAX_READERS), MAX_READERS);
        openings.note(&caller(0), false);
        assert_eq!(known(0, 1), 0);
        advance(READER_TIME).await;
        assert_eq!(known(0, 2 * MAX_READERS), 0);
        for number in [0, 1, MAX_READERS + 1] {
            openings.note(&caller(number), true);
        }
        assert_eq!(known(0, 2 * MAX_READERS), 3);
        assert_eq!(lock(&openings.readers).len(), 3);
    }
}
