//! The messages of a watch that carry no events.

use crate::{
    hub::{Invalidation, Watcher},
    pb::{self, watch_response::Kind},
    plan::{Operation, Scope, Start, Watch},
    rpc::to_pb,
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
        start_time: start_time.map(to_pb),
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
        cluster_time: Some(to_pb(invalidation.position.time())),
    })
}

/// Returns the message that the watch has changed its state.
pub(super) fn state_change(state: pb::WatchState, reason: &str) -> Kind {
    Kind::StateChange(pb::StateChange {
        state: state.into(),
        reason: reason.to_owned(),
    })
}
