//! The API's enums in the words that MongoDB and people use. A number this client does not know
//! becomes "unknown": it must still print what a newer server sends.

use crate::pb;
use crate::pb::change_event::Change;
use crate::plan::Operation;

pub(super) const UNKNOWN: &str = "unknown";

/// The operation as MongoDB's operationType spells it.
pub(super) fn operation(operation: pb::OperationType) -> &'static str {
    Operation::from_pb(operation).map_or(UNKNOWN, Operation::name)
}

/// An event's operation; for a type that Weir has no name for, MongoDB's own.
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

/// `None` where the server does not tell.
pub(super) fn filter_match(number: i32) -> Option<&'static str> {
    match pb::FilterMatch::try_from(number) {
        Ok(pb::FilterMatch::Entered) => Some("entered"),
        Ok(pb::FilterMatch::Stayed) => Some("stayed"),
        Ok(pb::FilterMatch::Left) => Some("left"),
        Ok(pb::FilterMatch::Unspecified) | Err(_) => None,
    }
}

/// "database.collection", or the database alone.
pub(super) fn namespace(namespace: Option<&pb::Namespace>) -> String {
    match namespace {
        None => String::new(),
        Some(place) if place.collection.is_empty() => place.database.clone(),
        Some(place) => format!("{}.{}", place.database, place.collection),
    }
}
