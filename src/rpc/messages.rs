//! The messages of a watch that carry no events.

use crate::{
    hub::{Invalidation, Watcher},
    model::{Operation, Scope, Start},
    pb::{self, watch_response::Kind},
    pipeline::Watch,
    source::ClusterTime,
    wire::TIMESTAMP_MILLIS,
};

/// Returns the first message of a watch.
pub(super) fn opened(id: String, watch: &Watch, watcher: &Watcher) -> Kind {
    let start = watcher.start_position();
    let start_mode = match (&watch.start, start.opened_by_time) {
        (Start::Now, _) => pb::StartMode::Now,
        (Start::Token(_), false) => pb::StartMode::Token,
        (Start::Token(_), true) => pb::StartMode::TokenTime,
        (Start::Time(_), _) => pb::StartMode::Time,
    };
    let start_time = Some(start.position.time()).filter(|time| time.seconds > 0);
    Kind::Opened(pb::Opened {
        watch_id: id,
        start_mode: start_mode.into(),
        start_time: start_time.map(cluster_time),
        progress_interval: watch.progress_interval.try_into().ok(),
        max_message_bytes: watch.max_message_bytes,
        feed_mode: watcher.mode().to_pb().into(),
    })
}

/// Returns the message that the watched collection or database is gone.
pub(super) fn invalidated(scope: &Scope, invalidation: &Invalidation) -> Kind {
    let (database, collection) = match scope {
        Scope::Collection {
            database,
            collection,
        } => (database.clone(), collection.clone()),
        Scope::Collections { database, .. } | Scope::Database { database } => {
            (database.clone(), String::new())
        }
        Scope::Deployment => Default::default(),
    };
    let cause = invalidation.cause.map(Operation::to_pb).unwrap_or_default();
    Kind::Invalidated(pb::Invalidated {
        cause: cause.into(),
        namespace: Some(pb::Namespace {
            database,
            collection,
        }),
        cluster_time: Some(cluster_time(invalidation.position.time())),
        wall_time: invalidation.wall_time.and_then(timestamp),
    })
}

/// Returns the timestamp of milliseconds since 1970, `None` beyond the years 1 to 9999 of the type.
fn timestamp(millis: i64) -> Option<prost_types::Timestamp> {
    TIMESTAMP_MILLIS
        .contains(&millis)
        .then(|| prost_types::Timestamp {
            seconds: millis.div_euclid(1000),
            // Below a thousand million.
            nanos: i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or_default(),
        })
}

/// Returns the message that the watch has changed its state.
pub(super) fn state_change(state: pb::WatchState, reason: &str) -> Kind {
    Kind::StateChange(pb::StateChange {
        state: state.into(),
        reason: reason.to_owned(),
    })
}

/// Returns a cluster time as it is sent.
pub(super) fn cluster_time(time: ClusterTime) -> pb::ClusterTime {
    pb::ClusterTime {
        seconds: time.seconds,
        increment: time.increment,
    }
}
