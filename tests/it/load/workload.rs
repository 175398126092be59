//! The writes, and how their events are recognised: everything about a change follows from its
//! writer and its number.

use std::sync::Arc;
use std::time::Duration;

use bson::spec::BinarySubtype;
use mongodb::Collection;
use mongodb::bson::{Binary, Document, RawDocument, doc};
use mongodb::error::{ErrorKind, WriteFailure};
use tokio_util::sync::CancellationToken;
use weir::pb;
use weir::pb::OperationType;
use weir::pb::change_event::Change;

use crate::support::ledger::{Ledger, ObservedChange, Write, number};

/// The collections, of small and of large documents.
pub const COLLECTIONS: [&str; 2] = [ORDERS, FILES];
pub const ORDERS: &str = "orders";
pub const FILES: &str = "files";
/// The number of writers of [`ORDERS`]. One more writes to [`FILES`].
pub const ORDER_WRITERS: usize = 4;
/// The number of writers.
pub const WRITERS: usize = ORDER_WRITERS + 1;
/// The number of groups of documents.
pub const GROUPS: u32 = 64;

/// The operations on a document, step by step; then the next document follows. The first update
/// leaves `state` "open", the second sets it to "paid".
const LIFE: [OperationType; 5] = [
    OperationType::Insert,
    OperationType::Update,
    OperationType::Update,
    OperationType::Replace,
    OperationType::Delete,
];

/// The pause before a failed write is retried.
const PAUSE: Duration = Duration::from_millis(50);
const DUPLICATE_KEY: i32 = 11_000;

/// A document, identified by its writer and the number of its insert.
#[derive(Debug, Clone, Copy)]
struct TestDocument {
    writer: usize,
    insert: u32,
}

impl TestDocument {
    /// Consecutive documents have different groups, so that a group's changes are evenly spread.
    fn group(self) -> u32 {
        (self.insert.wrapping_mul(2_654_435_761) >> 16) % GROUPS
    }

    /// The number of bytes besides its fields.
    fn padding(self) -> usize {
        let rng = self.insert.wrapping_mul(2_246_822_519) >> 8;
        if self.writer < ORDER_WRITERS {
            20 + rng as usize % 400
        } else if rng.is_multiple_of(16) {
            // More than fits into any message.
            3_400_000
        } else {
            10_000 + rng as usize % 300_000
        }
    }

    /// The key alone identifies an event, so that every watch recognises it, a delete too.
    fn key(self) -> Document {
        let [w, g, i] = [self.writer as u32, self.group(), self.insert].map(i64::from);
        doc! { "w": w, "g": g, "i": i }
    }

    /// The whole document, as the write with this number leaves it.
    fn document(self, number: u32) -> Document {
        let padding = Binary {
            subtype: BinarySubtype::Generic,
            bytes: vec![filler(number); self.padding()],
        };
        let number = i64::from(number);
        doc! { "_id": self.key(), "n": number, "state": "open", "padding": padding }
    }

    /// Makes the write with this number and returns whether it is done. It may have been done
    /// although its answer was lost; the number of the last write, which the document holds, then
    /// shows it.
    async fn attempt(
        self,
        number: u32,
        collection: &Collection<Document>,
    ) -> mongodb::error::Result<bool> {
        let n = i64::from(number);
        let before = doc! { "_id": self.key(), "n": n - 1 };
        let matched = match number - self.insert {
            0 => {
                return match collection.insert_one(self.document(number)).await {
                    Err(error) if !is_duplicate(&error) => Err(error),
                    _ => Ok(true),
                };
            }
            1 | 2 => {
                let state = if number - self.insert == 1 {
                    "open"
                } else {
                    "paid"
                };
                let change = doc! { "$set": { "n": n, "a": n, "state": state } };
                collection.update_one(before, change).await?.matched_count
            }
            3 => {
                let replaced = collection
                    .replace_one(before, self.document(number))
                    .await?;
                replaced.matched_count
            }
            _ => {
                collection.delete_one(before).await?;
                return Ok(true);
            }
        };
        if matched == 1 {
            return Ok(true);
        }
        let found = collection.find_one(doc! { "_id": self.key() }).await?;
        Ok(found.is_some_and(|it| it.get_i64("n").ok() == Some(n)))
    }
}

/// The byte that fills the document after the write with this number.
fn filler(number: u32) -> u8 {
    (number % 251) as u8
}

fn is_duplicate(error: &mongodb::error::Error) -> bool {
    matches!(&*error.kind, ErrorKind::Write(WriteFailure::WriteError(it)) if it.code == DUPLICATE_KEY)
}

/// Continues the writes of `writer` at this rate per second until it is stopped; a write in
/// progress is finished first.
pub async fn write(
    database: mongodb::Database,
    ledger: Arc<Ledger>,
    writer: usize,
    rate: f64,
    stop: CancellationToken,
) {
    let collection = usize::from(writer >= ORDER_WRITERS);
    let documents = database.collection(COLLECTIONS[collection]);
    loop {
        let pause = Duration::from_secs_f64(fastrand::f64() * 2.0 / rate);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        let next = ledger.all_begun()[writer];
        let step = next as usize % LIFE.len();
        let written = TestDocument {
            writer,
            insert: next - step as u32,
        };
        let group = i32::try_from(written.group()).ok();
        let number = ledger.record(
            writer,
            Write {
                collection,
                operation: LIFE[step],
                document: written.insert,
                before: group.filter(|_| LIFE[step] != OperationType::Insert),
                after: group.filter(|_| LIFE[step] != OperationType::Delete),
            },
        );
        // The database may be unavailable for any length of time.
        while !matches!(written.attempt(number, &documents).await, Ok(true)) {
            tokio::time::sleep(PAUSE).await;
        }
        ledger.done(writer, number + 1);
    }
}

/// Converts a change to the ledger's terms.
///
/// # Errors
/// If no writer can have made it.
pub fn observed(event: &pb::ChangeEvent) -> Result<ObservedChange, String> {
    let broken = |what: &str| {
        let short: String = format!("{event:?}").chars().take(400).collect();
        format!("{what}: {short}")
    };
    let of_key = |name: &str| {
        let number = number(event.document_key.as_ref(), &["_id", name]);
        let number = number.and_then(|it| u32::try_from(it).ok());
        number.ok_or_else(|| broken("no key of ours"))
    };
    let (writer, group, insert) = (of_key("w")? as usize, of_key("g")?, of_key("i")?);
    let written = TestDocument { writer, insert };
    if written.group() != group {
        return Err(broken("a key that no writer made"));
    }
    let (document, whole) = match event.change.as_ref() {
        Some(Change::Insert(it)) => (it.full_document.as_ref(), true),
        Some(Change::Replace(it)) => (it.full_document.as_ref(), true),
        Some(Change::Update(it)) => {
            let description = it.update_description.as_ref();
            (description.and_then(|it| it.updated_fields.as_ref()), false)
        }
        Some(Change::Delete(_)) => (None, false),
        _ => return Err(broken("a change that no writer makes")),
    };
    let reported = number(document, &["n"]).and_then(|it| u32::try_from(it).ok());
    if reported.is_none() && event.operation() != OperationType::Delete {
        return Err(broken("no number"));
    }
    if whole
        && let Some(pb::document::Value::Bson(bytes)) = document.and_then(|it| it.value.as_ref())
    {
        let document = RawDocument::from_bytes(bytes).ok();
        let padding = document.and_then(|it| it.get_binary("padding").ok());
        let as_written = padding.is_some_and(|it| {
            let filler = filler(reported.unwrap_or_default());
            it.bytes.len() == written.padding() && it.bytes.iter().all(|byte| *byte == filler)
        });
        if !as_written {
            return Err(format!(
                "the document of {written:?} is not what was written"
            ));
        }
    }
    let time = event
        .cluster_time
        .ok_or_else(|| broken("no cluster time"))?;
    let namespace = event.namespace.as_ref();
    let collection = namespace
        .ok_or_else(|| broken("no namespace"))?
        .collection
        .clone();
    Ok(ObservedChange {
        writer,
        number: reported,
        document: insert,
        operation: event.operation(),
        collection,
        time: (time.seconds, time.increment),
    })
}
