//! The events of the stand-in, and the cursors that read them.

use std::collections::HashMap;

use mongodb::bson::{Bson, Document};

use super::reply::{position_of_time, position_of_token};
use crate::upstream::document::{Stamp, group_of};

/// All events, in order. A position is the number of events before it.
#[derive(Debug)]
pub struct Log {
    groups: i64,
    /// The time at which each was sent.
    sent: Vec<i64>,
    /// The events of each group.
    by_group: HashMap<i64, Vec<u64>>,
}

impl Log {
    pub fn new(groups: i64) -> Self {
        Self {
            groups,
            sent: Vec::new(),
            by_group: HashMap::new(),
        }
    }

    pub fn len(&self) -> u64 {
        self.sent.len() as u64
    }

    /// Adds an event that was sent at this time.
    pub fn push(&mut self, sent: i64) {
        let id = self.len();
        if self.groups > 1 {
            let group = group_of(id.cast_signed(), self.groups);
            self.by_group.entry(group).or_default().push(id);
        }
        self.sent.push(sent);
    }

    fn stamp(&self, id: u64) -> Stamp {
        Stamp {
            id: id.cast_signed(),
            sent: self.sent[id as usize],
            group: group_of(id.cast_signed(), self.groups),
        }
    }
}

/// The result of one `getMore`.
#[derive(Debug)]
pub struct Batch {
    pub events: Vec<Stamp>,
    /// The position up to which the cursor has seen everything.
    pub position: u64,
}

#[derive(Debug)]
struct Cursor {
    position: u64,
    /// The only group to return.
    group: Option<i64>,
}

impl Cursor {
    /// The events after its position, at most this many.
    fn ahead(&self, log: &Log, limit: usize) -> Vec<u64> {
        match self.group {
            // With a single group, a filter passes all or none.
            Some(group) if log.groups <= 1 && group != 0 => Vec::new(),
            Some(group) if log.groups > 1 => {
                let ids = log.by_group.get(&group).map_or(&[][..], Vec::as_slice);
                let from = ids.partition_point(|&id| id < self.position);
                ids[from..].iter().take(limit).copied().collect()
            }
            _ => (self.position..log.len()).take(limit).collect(),
        }
    }
}

/// The open cursors.
#[derive(Debug, Default)]
pub struct Cursors(HashMap<i64, Cursor>);

impl Cursors {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Opens a cursor for an `aggregate`. Returns its id and its position.
    pub fn open(&mut self, aggregate: &Document, log: &Log, from_start: bool) -> (i64, u64) {
        let pipeline = aggregate.get("pipeline").unwrap_or(&Bson::Null);
        let from_now = if from_start { 0 } else { log.len() };
        let position = requested_position(pipeline).unwrap_or(from_now);
        let group = requested_group(pipeline);
        let id = fastrand::i64(1..);
        self.0.insert(id, Cursor { position, group });
        (id, position)
    }

    pub fn close(&mut self, id: i64) {
        self.0.remove(&id);
    }

    /// Returns whether there is something to return at once.
    pub fn has_more(&self, id: i64, log: &Log) -> bool {
        self.0
            .get(&id)
            .is_none_or(|cursor| !cursor.ahead(log, 1).is_empty())
    }

    /// Advances a cursor by a batch.
    pub fn advance(&mut self, id: i64, log: &Log, limit: usize) -> Option<Batch> {
        let cursor = self.0.get_mut(&id)?;
        let ids = cursor.ahead(log, limit);
        cursor.position = match ids.last() {
            Some(last) if ids.len() == limit => last + 1,
            _ => log.len().max(cursor.position),
        };
        Some(Batch {
            events: ids.into_iter().map(|id| log.stamp(id)).collect(),
            position: cursor.position,
        })
    }
}

/// The position at which a pipeline's `$changeStream` starts.
fn requested_position(pipeline: &Bson) -> Option<u64> {
    let stage = pipeline.as_array()?.first()?.as_document()?;
    let options = stage.get_document("$changeStream").ok()?;
    for option in ["resumeAfter", "startAfter"] {
        if let Ok(token) = options.get_document(option) {
            return position_of_token(token.get_str("_data").ok()?);
        }
    }
    let time = options.get_timestamp("startAtOperationTime").ok()?;
    // The event at that time is included.
    Some(position_of_time(time).saturating_sub(1))
}

/// The group that a pipeline selects, anywhere in it: every event is an insert with a document, so
/// other conditions do not matter.
fn requested_group(pipeline: &Bson) -> Option<i64> {
    match pipeline {
        Bson::Array(parts) => parts.iter().find_map(requested_group),
        Bson::Document(document) => document.iter().find_map(|(key, value)| {
            if key == "fullDocument.group" {
                number(value)
            } else {
                requested_group(value)
            }
        }),
        _ => None,
    }
}

fn number(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(number) => Some((*number).into()),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) => Some(*number as i64),
        Bson::Document(condition) => number(condition.get("$eq")?),
        _ => None,
    }
}
