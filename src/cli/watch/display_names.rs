//! The names of the API's enum values in the output. An unknown number becomes "unknown", so that this client
//! can print messages of a newer server.

use crate::model::Operation;
use crate::pb;
use crate::pb::change_event::Change;

pub(super) const UNKNOWN: &str = "unknown";

/// Returns the operation as MongoDB's operationType has it.
pub(super) fn operation(operation: pb::OperationType) -> &'static str {
    Operation::from_pb(operation).map_or(UNKNOWN, Operation::name)
}

/// Returns the operation of an event; MongoDB's operationType if Weir has no name for it.
pub(super) fn operation_of(event: &pb::ChangeEvent) -> &str {
    match &event.change {
        Some(Change::Other(other)) if !other.operation_type.is_empty() => &other.operation_type,
        _ => pb::OperationType::try_from(event.operation).map_or(UNKNOWN, operation),
    }
}

pub(super) fn start_mode(number: i32) -> &'static str {
    match pb::StartMode::try_from(number) {
        Ok(pb::StartMode::Now) => "now",
        Ok(pb::StartMode::Token) => "token",
        Ok(pb::StartMode::TokenTime) => "tokenTime",
        Ok(pb::StartMode::Time) => "time",
        Ok(pb::StartMode::Unspecified) | Err(_) => UNKNOWN,
    }
}

pub(super) fn feed_mode(number: i32) -> &'static str {
    match pb::FeedMode::try_from(number) {
        Ok(pb::FeedMode::Auto) => "auto",
        Ok(pb::FeedMode::Shared) => "shared",
        Ok(pb::FeedMode::Dedicated) => "dedicated",
        Ok(pb::FeedMode::Unspecified) | Err(_) => UNKNOWN,
    }
}

pub(super) fn watch_state(number: i32) -> &'static str {
    match pb::WatchState::try_from(number) {
        Ok(pb::WatchState::Live) => "live",
        Ok(pb::WatchState::CatchingUp) => "catchingUp",
        Ok(pb::WatchState::UpstreamReconnecting) => "upstreamReconnecting",
        Ok(pb::WatchState::Draining) => "draining",
        Ok(pb::WatchState::Unspecified) | Err(_) => UNKNOWN,
    }
}

/// Returns `None` if the server did not set it.
pub(super) fn filter_match(number: i32) -> Option<&'static str> {
    match pb::FilterMatch::try_from(number) {
        Ok(pb::FilterMatch::Entered) => Some("entered"),
        Ok(pb::FilterMatch::Stayed) => Some("stayed"),
        Ok(pb::FilterMatch::Left) => Some("left"),
        Ok(pb::FilterMatch::Unspecified) | Err(_) => None,
    }
}

/// Returns "database.collection", or only the database.
pub(super) fn namespace(namespace: Option<&pb::Namespace>) -> String {
    match namespace {
        None => String::new(),
        Some(it) if it.collection.is_empty() => it.database.clone(),
        Some(it) => format!("{}.{}", it.database, it.collection),
    }
}
