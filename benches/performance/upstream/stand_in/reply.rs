//! Replies to `getMore`, written from copies of one event.

use mongodb::bson::{DateTime, Timestamp, doc, spec::ElementType};

use super::{COLLECTION, DATABASE, cursor::Batch};
use crate::{system::now_micros, upstream::document::Stamp};

/// Events per second of cluster time; the increment tells them apart.
const EVENTS_A_SECOND: u64 = 10_000;
/// The second of the first event.
const FIRST_SECOND: u32 = 1_700_000_000;

/// Numbers that mark where others will be written, and occur nowhere else.
const ID_MARK: i64 = 0x7153_2a0b_4ce9_11d7;
const WALL_TIME_MARK: i64 = 0x0102_0915_4bd3_7765;
const TIME_MARK: Timestamp = Timestamp {
    time: 0x51c3_90fe,
    increment: 0x60d7_1f2b,
};
const TOKEN_MARK: &str = "token-goes-here-";

/// An event with the offsets of its variable numbers.
#[derive(Debug)]
pub struct Template {
    event: Vec<u8>,
    token: usize,
    time: usize,
    wall_time: usize,
    document: usize,
    key: usize,
}

impl Template {
    /// For documents of this size, and of thirty fields if `wide`.
    pub fn new(bytes: usize, wide: bool) -> Self {
        let stamp = Stamp {
            id: ID_MARK,
            sent: 0,
            group: 0,
        };
        let document = if wide {
            stamp.wide_document(bytes)
        } else {
            stamp.document(bytes)
        };
        let event = doc! {
            "_id": { "_data": mark() },
            "operationType": "insert",
            "clusterTime": TIME_MARK,
            "wallTime": DateTime::from_millis(WALL_TIME_MARK),
            "fullDocument": document,
            "ns": { "db": DATABASE, "coll": COLLECTION },
            "documentKey": { "_id": ID_MARK },
        };
        let event = event.to_vec().expect("the event is valid BSON");
        let ids = positions(&event, &ID_MARK.to_le_bytes());
        let time = u64::from(TIME_MARK.time) << 32 | u64::from(TIME_MARK.increment);
        Self {
            token: positions(&event, mark().as_bytes())[0],
            time: positions(&event, &time.to_le_bytes())[0],
            wall_time: positions(&event, &WALL_TIME_MARK.to_le_bytes())[0],
            // Its length, and the type and name of its id, come before that.
            document: ids[0] - 9,
            key: ids[1],
            event,
        }
    }

    /// Writes the reply with this batch.
    pub fn write(&self, cursor: i64, batch: &Batch, out: &mut Vec<u8>) {
        let wall_time = (now_micros() / 1_000).to_le_bytes();
        in_frame(out, |out| {
            element(out, ElementType::EmbeddedDocument, "cursor");
            in_frame(out, |out| {
                element(out, ElementType::Array, "nextBatch");
                in_frame(out, |out| {
                    for (index, stamp) in batch.events.iter().enumerate() {
                        element(out, ElementType::EmbeddedDocument, &index.to_string());
                        self.write_event(*stamp, wall_time, out);
                    }
                });
                element(out, ElementType::EmbeddedDocument, "postBatchResumeToken");
                in_frame(out, |out| string(out, "_data", &token(batch.position)));
                element(out, ElementType::Int64, "id");
                out.extend(cursor.to_le_bytes());
                string(out, "ns", &format!("{DATABASE}.{COLLECTION}"));
            });
            element(out, ElementType::Double, "ok");
            out.extend(1.0_f64.to_le_bytes());
            element(out, ElementType::Timestamp, "operationTime");
            out.extend(time_bytes(batch.position));
        });
    }

    fn write_event(&self, stamp: Stamp, wall_time: [u8; 8], out: &mut Vec<u8>) {
        let from = out.len();
        out.extend_from_slice(&self.event);
        let event = &mut out[from..];
        let mut put = |at: usize, bytes: &[u8]| {
            event[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let position = stamp.id.cast_unsigned() + 1;
        put(self.token, token(position).as_bytes());
        put(self.time, &time_bytes(position));
        put(self.wall_time, &wall_time);
        put(self.key, &stamp.id.to_le_bytes());
        stamp.write(&mut event[self.document..]);
    }
}

/// Writes the frame of a document or array: its length, and a zero at its end.
fn in_frame(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend([0; 4]);
    content(out);
    out.push(0);
    let length = i32::try_from(out.len() - at).expect("a reply is below 2 GiB");
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

fn element(out: &mut Vec<u8>, of: ElementType, name: &str) {
    out.push(of as u8);
    out.extend_from_slice(name.as_bytes());
    out.push(0);
}

fn string(out: &mut Vec<u8>, name: &str, value: &str) {
    element(out, ElementType::String, name);
    let length = i32::try_from(value.len() + 1).expect("a string here is short");
    out.extend(length.to_le_bytes());
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

/// A placeholder as long as MongoDB's tokens.
fn mark() -> String {
    TOKEN_MARK.repeat(8)
}

/// The token of a position: rising hexadecimal digits.
pub fn token(position: u64) -> String {
    let Timestamp { time, increment } = time(position);
    format!(
        "82{time:08x}{increment:08x}{:0<110}",
        "2b042c0100296e5a1004"
    )
}

/// The position of a token.
pub fn position_of_token(token: &str) -> Option<u64> {
    let number = |digits| u32::from_str_radix(token.get(digits)?, 16).ok();
    Some(position_of_time(Timestamp {
        time: number(2..10)?,
        increment: number(10..18)?,
    }))
}

/// The time of a position.
pub fn time(position: u64) -> Timestamp {
    let second = u32::try_from(position / EVENTS_A_SECOND).unwrap_or(u32::MAX);
    Timestamp {
        time: FIRST_SECOND.saturating_add(second),
        increment: (position % EVENTS_A_SECOND) as u32 + 1,
    }
}

/// The position of a time.
pub fn position_of_time(time: Timestamp) -> u64 {
    let seconds = u64::from(time.time.saturating_sub(FIRST_SECOND));
    seconds * EVENTS_A_SECOND + u64::from(time.increment.saturating_sub(1))
}

fn time_bytes(position: u64) -> [u8; 8] {
    let Timestamp { time, increment } = time(position);
    (u64::from(time) << 32 | u64::from(increment)).to_le_bytes()
}

fn positions(bytes: &[u8], mark: &[u8]) -> Vec<usize> {
    let windows = bytes.windows(mark.len()).enumerate();
    let found = windows.filter(|(_, window)| *window == mark);
    found.map(|(at, _)| at).collect()
}
