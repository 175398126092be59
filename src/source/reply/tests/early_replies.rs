//! A server that answers early, empty and late at random places of its scan: what a stream says of its position is
//! true after every reply.

use bson::{Bson, Document, doc};
use proptest::prelude::*;

use super::super::ReplyDecoder;
use crate::source::scripted::{at, event};
use crate::source::{ClusterTime, Position};

/// What the tokens of the server tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tokens {
    /// They have MongoDB's form and rise with the scan.
    Rising,
    /// They have MongoDB's form, and empty replies repeat the one before.
    Staying,
    /// They have another form and rise with the scan.
    Opaque,
    /// The same, and empty replies repeat the one before.
    OpaqueStaying,
}

/// The scan for one reply.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// The number of oplog entries that are read at most.
    scanned: usize,
    /// The number of entries that are written before.
    written: usize,
    /// The reply took about as long as MongoDB waits.
    is_slow: bool,
}

/// An oplog entry: its events that the stream contains.
type Entry = usize;

#[derive(Debug, Clone)]
struct Schedule {
    tokens: Tokens,
    /// The stream is opened by the token of the first entry instead of by its time.
    by_token: bool,
    entries: Vec<Entry>,
    steps: Vec<Step>,
}

fn schedules() -> impl Strategy<Value = Schedule> {
    let tokens = prop::sample::select(vec![
        Tokens::Rising,
        Tokens::Staying,
        Tokens::Opaque,
        Tokens::OpaqueStaying,
    ]);
    // Most entries are not for the stream, and few hold several of its events, as transactions do.
    let entry = prop::sample::select(vec![0, 0, 0, 0, 0, 1, 3]);
    let step =
        (1..6_usize, 0..3_usize, any::<bool>()).prop_map(|(scanned, written, is_slow)| Step {
            scanned,
            written,
            is_slow,
        });
    let entries = prop::collection::vec(entry, 1..30);
    (
        tokens,
        any::<bool>(),
        entries,
        prop::collection::vec(step, 1..30),
    )
        .prop_map(|(tokens, by_token, entries, steps)| Schedule {
            tokens,
            by_token,
            entries,
            steps,
        })
}

/// The time of the entry at an index.
fn time_of(index: usize) -> ClusterTime {
    at(u32::try_from(index).expect("few entries") + 1)
}

fn token(tokens: Tokens, index: usize, event: Option<usize>) -> String {
    let ClusterTime { seconds, increment } = time_of(index);
    match (tokens, event) {
        (Tokens::Opaque | Tokens::OpaqueStaying, event) => format!("{index}-{event:?}"),
        (_, None) => format!("82{seconds:08X}{increment:08X}2B0429296E1404"),
        (_, Some(event)) => format!("82{seconds:08X}{increment:08X}2B042C01002B{event:02X}6E04"),
    }
}

fn document(token: &str) -> Document {
    doc! { "_data": token }
}

/// The server, and what it has sent.
struct Server {
    schedule: Schedule,
    /// The index of the next entry to read.
    next: usize,
    token: String,
    delivered: Vec<usize>,
}

impl Server {
    fn reply(&mut self, step: Step, first: bool) -> Document {
        if !first {
            let written = (0..step.written).map(|index| usize::from(index % 2 == 1));
            self.schedule.entries.extend(written);
        }
        let end = (self.next + step.scanned).min(self.schedule.entries.len());
        let mut events = Vec::new();
        let tokens = self.schedule.tokens;
        let mut risen = self.token.clone();
        for index in self.next..end {
            for number in 0..self.schedule.entries[index] {
                risen = token(tokens, index, Some(number));
                events.push(event(&risen, "insert", time_of(index).increment, doc! {}));
            }
            if self.schedule.entries[index] == 0 {
                risen = token(tokens, index, None);
            }
            self.delivered.push(index);
        }
        self.next = end;
        let stays = matches!(tokens, Tokens::Staying | Tokens::OpaqueStaying);
        if !(stays && events.is_empty()) {
            self.token = risen;
        }
        let last = time_of(self.schedule.entries.len() - 1);
        let batch = if first { "firstBatch" } else { "nextBatch" };
        doc! {
            "cursor": { batch: events, "id": 7_i64, "postBatchResumeToken": document(&self.token) },
            "operationTime": Bson::Timestamp(bson::Timestamp { time: last.seconds, increment: last.increment }),
        }
    }

    /// Checks that every event up to a time was delivered, or before it.
    fn has_delivered(&self, until: ClusterTime, inclusive: bool) -> bool {
        let is_before = |index: usize| match inclusive {
            true => time_of(index) <= until,
            false => time_of(index) < until,
        };
        let entries = self.schedule.entries.iter().enumerate();
        entries
            .filter(|(index, events)| **events > 0 && is_before(*index))
            .all(|(index, _)| self.delivered.contains(&index))
    }
}

/// Runs a schedule. Returns whether the stream says in the end that it has caught up.
fn run(schedule: &Schedule) -> bool {
    let tokens = schedule.tokens;
    let opened_with = token(tokens, 0, None);
    let from = if schedule.by_token {
        Position::HighWater {
            token: document(&opened_with).to_vec().unwrap().into(),
            time: time_of(0),
        }
    } else {
        Position::Time(time_of(0))
    };
    let target = time_of(schedule.entries.len() - 1);
    let mut decoder =
        ReplyDecoder::new(Some(&from), Some(from.time())).with_contiguous_transactions(true);
    let mut server = Server {
        schedule: schedule.clone(),
        next: 0,
        token: opened_with,
        delivered: Vec::new(),
    };
    let mut caught_up = false;
    for (index, step) in schedule.steps.iter().enumerate() {
        let reply = server.reply(*step, index == 0);
        let contents = decoder.decode(reply.to_vec().unwrap().into(), step.is_slow);
        for batch in contents.batches {
            if let Some(position) = &batch.position {
                let time = position.time();
                // Nothing is known of the time at which the stream was opened until something else has come.
                assert!(
                    server.has_delivered(time, time > from.time()),
                    "{time} after {index}: {schedule:?}"
                );
            }
            if batch.caught_up {
                assert!(
                    server.has_delivered(target, true),
                    "caught up after {index}: {schedule:?}"
                );
            }
            caught_up = batch.caught_up;
        }
    }
    caught_up
}

/// MongoDB opens a stream from now at the time after its last entry, and the next event may have that time.
#[test]
fn a_stream_from_now_has_not_reached_the_time_of_its_first_token() {
    let reply = |time: usize, batch: &str, events: Vec<Document>, token: &str| {
        doc! {
            "cursor": { batch: events, "id": 7_i64, "postBatchResumeToken": document(token) },
            "operationTime": Bson::Timestamp(bson::Timestamp { time: time_of(time).seconds, increment: time_of(time).increment }),
        }
    };
    let mut decoder = ReplyDecoder::new(None, Some(time_of(4)));
    let mut time_after = |reply: Document| {
        let mut contents = decoder.decode(reply.to_vec().unwrap().into(), true);
        let batch = contents.batches.pop().expect("a batch");
        assert!(batch.caught_up, "it has no event before its first reply");
        batch.position.expect("a position").time()
    };
    let start = token(Tokens::Rising, 5, None);
    assert_eq!(
        time_after(reply(4, "firstBatch", vec![], &start)),
        time_of(4)
    );
    assert_eq!(
        time_after(reply(4, "nextBatch", vec![], &start)),
        time_of(4)
    );
    let first = token(Tokens::Rising, 5, Some(0));
    let change = event(&first, "insert", time_of(5).increment, doc! {});
    assert_eq!(
        time_after(reply(5, "nextBatch", vec![change], &first)),
        time_of(5)
    );
    let later = token(Tokens::Rising, 7, None);
    assert_eq!(
        time_after(reply(7, "nextBatch", vec![], &later)),
        time_of(7)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_position_never_claims_more_than_was_delivered(schedule in schedules()) {
        run(&schedule);
    }

    /// Latency: a token of MongoDB's form that has reached the target needs nothing else.
    #[test]
    fn a_stream_with_rising_tokens_has_caught_up_once_it_has_read_everything(schedule in schedules()) {
        let more = Step { scanned: 100, written: 0, is_slow: false };
        let mut schedule = Schedule { tokens: Tokens::Rising, ..schedule };
        schedule.entries.push(0);
        // A reply with events is followed by an empty one.
        schedule.steps.extend([more, more]);
        prop_assert!(run(&schedule));
    }
}
