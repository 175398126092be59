//! Random schedules: clients of many kinds, and steps in any order.

use std::fmt;

use proptest::prelude::*;
use proptest::sample::select;
use weir::pb;
use weir::pb::FeedMode::{Auto, Dedicated, Shared};
use weir::pb::OperationType::{Delete, Insert, Update};

/// The number of clients in a schedule.
pub const CLIENTS: usize = 5;

/// From this id on, documents match every client's filter.
pub const WANTED_BY_ALL: i32 = 900;

#[derive(Clone, Debug)]
pub struct Schedule {
    pub clients: Vec<WatchSpec>,
    pub steps: Vec<Step>,
}

/// The request of a client.
#[derive(Clone, Debug)]
pub struct WatchSpec {
    pub collections: &'static [&'static str],
    pub operations: &'static [pb::OperationType],
    /// Ids from the first up to, but not including, the second, and those that match every filter.
    pub ids: Option<(i32, i32)>,
    pub mode: pb::FeedMode,
    pub format: pb::DocumentFormat,
    /// Has a small HTTP/2 window.
    pub narrow: bool,
}

#[derive(Clone, Debug)]
pub enum Step {
    /// Inserts the document if it does not exist, else updates or deletes it.
    Write {
        collection: usize,
        id: i32,
        delete: bool,
    },
    /// Inserts this many large documents into a collection: more than a ring holds.
    Burst { collection: usize, count: usize },
    /// Opens a watch on one of the servers, from the client's token if it has one, while this many
    /// documents are written.
    Join {
        client: usize,
        server: usize,
        writes: usize,
    },
    /// Reads at most this many messages, or everything there is for the client.
    Read {
        client: usize,
        messages: Option<usize>,
    },
    /// Disconnects, and forgets the last tokens.
    Leave { client: usize, forgets: usize },
}

impl WatchSpec {
    pub fn wants(&self, collection: &str, operation: pb::OperationType, id: i32) -> bool {
        let here = self.collections.is_empty() || self.collections.contains(&collection);
        let asked = self.operations.is_empty() || self.operations.contains(&operation);
        let within = |(from, to)| (from..to).contains(&id) || id >= WANTED_BY_ALL;
        here && asked && self.ids.is_none_or(within)
    }
}

fn watch_specs() -> impl Strategy<Value = WatchSpec> {
    let collections: Vec<&[&str]> = vec![&["a"], &["a"], &["a"], &["a"], &["b"], &["a", "b"], &[]];
    let operations: Vec<&[pb::OperationType]> = vec![
        &[],
        &[],
        &[],
        &[Insert],
        &[Insert, Update],
        &[Insert, Delete],
    ];
    let modes = vec![Shared, Shared, Shared, Shared, Auto, Dedicated];
    let formats = vec![pb::DocumentFormat::Bson, pb::DocumentFormat::Json];
    // Few kinds, so that several clients are of one and share what they can.
    let ids = vec![
        None,
        None,
        None,
        Some((0, 4)),
        Some((2, 8)),
        Some((100, 900)),
    ];
    (
        select(collections),
        select(operations),
        select(ids),
        select(modes),
        select(formats),
        prop::bool::weighted(0.5),
    )
        .prop_map(
            |(collections, operations, ids, mode, format, narrow)| WatchSpec {
                collections,
                operations,
                ids,
                mode,
                format,
                narrow,
            },
        )
}

fn steps() -> impl Strategy<Value = Step> {
    let client = 0..CLIENTS;
    prop_oneof![
        3 => (0..2_usize, 0..8, any::<bool>())
            .prop_map(|(collection, id, delete)| Step::Write { collection, id, delete }),
        5 => (select(vec![0, 0, 0, 1]), 10..40_usize)
            .prop_map(|(collection, count)| Step::Burst { collection, count }),
        5 => (client.clone(), select(vec![0, 0, 0, 1]), 0..12_usize)
            .prop_map(|(client, server, writes)| Step::Join { client, server, writes }),
        2 => (client.clone(), prop::option::weighted(0.6, 1..6_usize))
            .prop_map(|(client, messages)| Step::Read { client, messages }),
        1 => (client, 0..4_usize).prop_map(|(client, forgets)| Step::Leave { client, forgets }),
    ]
}

pub fn schedules() -> impl Strategy<Value = Schedule> {
    (
        prop::collection::vec(watch_specs(), CLIENTS),
        prop::collection::vec(steps(), 20..70),
    )
        .prop_map(|(clients, steps)| Schedule { clients, steps })
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, spec) in self.clients.iter().enumerate() {
            writeln!(f, "client {number}: {spec:?}")?;
        }
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{number}. {step:?}")?;
        }
        Ok(())
    }
}
