//! The requests of watches, and the writes that they have to receive.

use fastrand::Rng;
use serde_json::json;
use weir::pb;
use weir::pb::OperationType::{Delete, Insert, Replace, Update};
use weir::pb::field_filter::Operator;

use crate::conversions::{eq, field, value};
use crate::support::ledger::Write;

use super::workload::{COLLECTIONS, FILES, GROUPS, ORDERS};

/// The request of one watch, and the behaviour of its client.
#[derive(Debug, Clone)]
pub struct WatchSpec {
    scope: Scope,
    selection: Selection,
    /// A condition that always holds and that is unique, so that no two filters are equal.
    unique: Option<u32>,
    mode: pb::FeedMode,
    format: pb::DocumentFormat,
    /// In seconds.
    pub progress_interval: u32,
    /// On a connection with a small window.
    pub narrow: bool,
    /// After each message, waits up to this many milliseconds.
    pub max_read_delay_ms: Option<u64>,
    /// Stores the token after this many changes.
    pub store_every: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Orders,
    Files,
    /// Both by name.
    Both,
    Database,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Selection {
    Everything,
    /// Changes of one group of documents.
    Group(u32),
    /// Inserts and deletes.
    ComingAndGoing,
    /// Updates of the field `a`.
    Changed,
    /// Documents with state "open", where the event holds the document.
    Open,
    /// Documents that had the state "paid", by their pre-image.
    WasPaid,
    /// Matches no document.
    Nothing,
}

impl WatchSpec {
    /// A random spec; most are of kinds that scale to thousands of watches.
    pub fn random(rng: &mut Rng) -> Self {
        let group = Selection::Group(rng.u32(..GROUPS));
        let (scope, selection) = match rng.u32(..1000) {
            0..10 => (Scope::Orders, Selection::Everything),
            10..15 => (Scope::Database, Selection::Everything),
            15..20 => (Scope::Both, Selection::Everything),
            20..30 => (Scope::Files, Selection::Everything),
            30..50 => (Scope::Files, group),
            50..60 => (Scope::Orders, Selection::ComingAndGoing),
            60..70 => (Scope::Orders, Selection::Changed),
            70..80 => (Scope::Orders, Selection::Open),
            80..90 => (Scope::Orders, Selection::WasPaid),
            90..110 => (Scope::Database, group),
            110..130 => (Scope::Both, group),
            130..250 => (Scope::Orders, Selection::Nothing),
            _ => (Scope::Orders, group),
        };
        let mode = match rng.u32(..20) {
            0..12 => pb::FeedMode::Auto,
            12..19 => pb::FeedMode::Shared,
            // Only a few, as each has its own change stream.
            _ if scope == Scope::Orders && rng.u32(..20) == 0 => pb::FeedMode::Dedicated,
            _ => pb::FeedMode::Auto,
        };
        let format = match rng.u32(..10) {
            0..7 => pb::DocumentFormat::Bson,
            7 => pb::DocumentFormat::Json,
            8 => pb::DocumentFormat::CanonicalJson,
            _ => pb::DocumentFormat::Struct,
        };
        Self {
            scope,
            selection,
            unique: rng.bool().then(|| rng.u32(..)),
            mode,
            format,
            progress_interval: rng.u32(1..=3),
            narrow: rng.u32(..10) == 0,
            max_read_delay_ms: (rng.u32(..20) == 0).then(|| rng.u64(20..500)),
            store_every: if rng.bool() { 1 } else { rng.u32(2..20) },
        }
    }

    /// Returns whether the watch has to receive this write.
    pub fn expects(&self, write: &Write) -> bool {
        let in_scope = match self.scope {
            Scope::Orders => COLLECTIONS[write.collection] == ORDERS,
            Scope::Files => COLLECTIONS[write.collection] == FILES,
            Scope::Both | Scope::Database => true,
        };
        let operation = write.operation;
        in_scope
            && match self.selection {
                Selection::Everything => true,
                Selection::Group(group) => {
                    write.before.or(write.after) == i32::try_from(group).ok()
                }
                Selection::ComingAndGoing => matches!(operation, Insert | Delete),
                // A replacement touches every field.
                Selection::Changed => matches!(operation, Update | Replace),
                Selection::Open => matches!(operation, Insert | Replace),
                // A payment itself is not known to match, as no post-image is requested.
                Selection::WasPaid => operation == Replace,
                Selection::Nothing => false,
            }
    }

    /// The request.
    pub fn request(
        &self,
        database: &str,
        start: Option<pb::watch_request::Start>,
    ) -> pb::WatchRequest {
        let collections: &[&str] = match self.scope {
            Scope::Orders => &[ORDERS],
            Scope::Files => &[FILES],
            Scope::Both => &[ORDERS, FILES],
            Scope::Database => &[],
        };
        let mut filters = match self.selection {
            Selection::Everything | Selection::ComingAndGoing => vec![],
            Selection::Group(group) => vec![eq("_id.g", json!(group))],
            Selection::Changed => vec![field("a", Operator::Changed(true))],
            Selection::Open => vec![eq("state", json!("open"))],
            Selection::WasPaid => vec![eq("state", json!("paid"))],
            Selection::Nothing => vec![eq("_id.g", json!(GROUPS))],
        };
        if let Some(unique) = self.unique.filter(|_| !filters.is_empty()) {
            filters.push(field(
                "_id.l",
                Operator::Ne(value(json!(-i64::from(unique) - 1))),
            ));
        }
        let mut request = pb::WatchRequest {
            database: database.to_owned(),
            collections: collections.iter().map(|&it| it.to_owned()).collect(),
            filters,
            start,
            document_format: self.format.into(),
            feed_mode: self.mode.into(),
            progress_interval: Some(prost_types::Duration {
                seconds: self.progress_interval.into(),
                nanos: 0,
            }),
            // The smallest allowed value, so that large events come in many pieces.
            max_message_bytes: if self.scope == Scope::Files {
                64 << 10
            } else {
                0
            },
            ..pb::WatchRequest::default()
        };
        match self.selection {
            Selection::ComingAndGoing => {
                request.operations = vec![Insert.into(), Delete.into()];
            }
            Selection::Open => request.missing_image_policy = pb::MissingImagePolicy::Drop.into(),
            Selection::WasPaid => {
                request.missing_image_policy = pb::MissingImagePolicy::Drop.into();
                request.full_document_before_change =
                    pb::FullDocumentBeforeChange::WhenAvailable.into();
            }
            _ => {}
        }
        request
    }
}
