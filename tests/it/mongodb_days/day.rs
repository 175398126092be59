//! A scripted MongoDB whose every write is in a ledger, and the clients that watch it.

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Binary, Document, Timestamp, doc, spec::BinarySubtype};
use pb::OperationType::{Delete, Insert, Replace, Update};
use tokio::time::Instant;
use weir::pb;

use crate::support::ledger::{DeliveryTotals, Ledger, ResumingClient, Write};
use crate::support::stand_in::{
    Answer, DATABASE, Event, Log, Rule, ServerError, StandIn, Version, time,
};
use crate::support::{Weir, eventually, within};

/// The collections of the ledger.
pub const COLLECTIONS: [&str; 2] = ["orders", "customers"];

/// The only writer: its writes are in one order.
const WRITER: usize = 0;

/// The groups of documents that fail when MongoDB enriches their change.
pub const TOO_LARGE: i32 = 90;
pub const WITHOUT_PRE_IMAGE: i32 = 91;
pub const WITHOUT_POST_IMAGE: i32 = 92;
pub const AMBIGUOUS: i32 = 93;
/// Fails without any image too.
pub const UNSENDABLE: i32 = 94;

/// A document of the ledger.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    collection: usize,
    /// The number of the insert that created it.
    document: u32,
    /// The number of the last write to it.
    last: u32,
    group: i32,
}

/// A server, its clients, and what was written.
pub struct Day {
    pub stand_in: StandIn,
    pub weir: Weir,
    pub ledger: Arc<Ledger>,
    pub clients: Vec<ResumingClient>,
    pub version: Version,
    /// The number of transactions.
    transactions: i64,
    began: Instant,
}

impl Day {
    pub async fn begin(version: Version) -> Self {
        let stand_in = StandIn::start_as(version.clone());
        let weir = Weir::at(stand_in.uri(), |config| {
            config.allow_deployment_watch = true;
            config.deployment_name = Some("days".to_owned());
            config.feed_linger = Duration::ZERO;
            config.upstream_reply_timeout = Duration::from_secs(2);
        })
        .await;
        Self {
            stand_in,
            weir,
            ledger: Ledger::new(&COLLECTIONS, 1),
            clients: Vec::new(),
            version,
            transactions: 0,
            began: Instant::now(),
        }
    }

    fn log(&self, collection: usize) -> Log {
        self.stand_in.log(COLLECTIONS[collection])
    }

    /// Makes a write and pushes its event, which `finish` completes.
    fn write(&self, write: Write, known: Known, finish: impl FnOnce(Document) -> Event) -> Known {
        let number = self.ledger.record(WRITER, write);
        let mut event = event(&write, number, known.last);
        event.insert("clusterTime", self.next_time());
        self.log(write.collection).push(finish(event));
        self.ledger.done(WRITER, number + 1);
        Known {
            last: number,
            group: write.after.unwrap_or(known.group),
            ..known
        }
    }

    /// The time of the next event: twenty have the same second.
    pub fn next_time(&self) -> Timestamp {
        let now = self.stand_in.now();
        if now.increment < 20 {
            time(now.time, now.increment + 1)
        } else {
            time(now.time + 1, 1)
        }
    }

    /// Inserts a document of a group.
    pub fn insert(&self, collection: usize, group: i32) -> Known {
        self.insert_as(collection, group, Event::Document)
    }

    /// Inserts a document; `finish` makes the event.
    pub fn insert_as(
        &self,
        collection: usize,
        group: i32,
        finish: impl FnOnce(Document) -> Event,
    ) -> Known {
        let document = self.ledger.all_begun()[WRITER];
        let known = Known {
            collection,
            document,
            last: document,
            group,
        };
        self.write(inserted(known), known, finish)
    }

    /// Changes a document of the ledger.
    pub fn change(&self, known: Known, operation: pb::OperationType, group: i32) -> Known {
        self.change_as(known, operation, group, Event::Document)
    }

    /// Changes a document of the ledger; `finish` makes the event.
    pub fn change_as(
        &self,
        known: Known,
        operation: pb::OperationType,
        group: i32,
        finish: impl FnOnce(Document) -> Event,
    ) -> Known {
        self.write(changed(known, operation, group), known, finish)
    }

    /// One write of each kind in each collection and group.
    pub fn ordinary_writes(&self) {
        for collection in 0..COLLECTIONS.len() {
            for group in 1..=2 {
                let known = self.insert(collection, group);
                let known = self.change(known, Update, 3 - group);
                let known = self.change(known, Replace, group);
                self.change(known, Delete, 0);
            }
        }
    }

    /// Inserts of one transaction, which have one cluster time. `finish` completes the events.
    pub fn transaction(&mut self, inserts: usize, finish: impl Fn(&mut Document)) {
        self.transactions += 1;
        let session = self.session();
        let first = self.ledger.all_begun()[WRITER];
        let mut events = Vec::new();
        for index in 0..inserts {
            let known = Known {
                collection: 0,
                document: first + u32::try_from(index).expect("a transaction is short"),
                last: 0,
                group: 1,
            };
            let write = inserted(known);
            let number = match index {
                0 => self.ledger.record(WRITER, write),
                _ => self.ledger.record_with_last(WRITER, write),
            };
            let mut event = event(&write, number, 0);
            event.insert("clusterTime", self.next_time());
            event.extend(session.clone());
            finish(&mut event);
            events.push(Event::from(event));
        }
        self.log(0).push_at_once(events);
        let done = self.ledger.all_begun()[WRITER];
        self.ledger.done(WRITER, done);
    }

    /// The fields of the last transaction.
    pub fn session(&self) -> Document {
        let id = Binary {
            subtype: BinarySubtype::Uuid,
            bytes: vec![7; 16],
        };
        doc! { "lsid": { "id": id }, "txnNumber": self.transactions }
    }

    /// Answers as many of these commands as given with an error, while there is something to read,
    /// and waits until all were answered.
    pub async fn fail(&self, command: &str, times: u64, error: ServerError) {
        let what = format!("{times} times {error:?}");
        let rule = Rule::on(command).when(|request| request.is_change_stream());
        let played = self.stand_in.play(rule.times(times).answer(error));
        self.ordinary_writes();
        eventually(&what, async || played.count() == times).await;
    }

    /// Answers one `getMore` like this, and waits until it was.
    pub async fn answer_once(&self, answer: Answer) {
        let rule = Rule::on("getMore").when(|request| request.is_change_stream());
        let played = self.stand_in.play(rule.once().answer(answer));
        eventually("the answer was given", async || played.count() == 1).await;
    }

    /// Waits until every client has what it has to get.
    pub async fn catch_up(&self, hour: &str) {
        DeliveryTotals::of(&self.ledger, &self.clients).await;
        let version = self.version.text();
        println!("{version} after {:?}: {hour}", self.began.elapsed());
    }

    /// Disconnects a client, and waits until it has resumed.
    pub async fn resume(&self, name: &str) {
        let client = self.client(name);
        let before = client.reconnects();
        client.disconnect();
        within(name, async {
            eventually("the client has resumed", async || {
                client.reconnects() > before
            })
            .await;
        })
        .await;
    }

    pub fn client(&self, name: &str) -> &ResumingClient {
        let client = self.clients.iter().find(|client| client.name() == name);
        client.expect("there is such a client")
    }

    /// Pushes an event that no writer made.
    pub fn push_other(&self, collection: &str, operation: &str, description: Document) {
        let mut event = doc! {
            "operationType": operation,
            "ns": { "db": DATABASE, "coll": collection },
            "clusterTime": self.next_time(),
        };
        if !description.is_empty() {
            event.insert("operationDescription", description);
        }
        self.stand_in.log(collection).push(event);
    }
}

fn inserted(known: Known) -> Write {
    Write {
        collection: known.collection,
        operation: Insert,
        document: known.document,
        before: None,
        after: Some(known.group),
    }
}

fn changed(known: Known, operation: pb::OperationType, group: i32) -> Write {
    Write {
        collection: known.collection,
        operation,
        document: known.document,
        before: Some(known.group),
        after: (operation != Delete).then_some(group),
    }
}

/// The event of a write, with both images. `last` is the number of the write before it.
fn event(write: &Write, number: u32, last: u32) -> Document {
    let id = i64::from(write.document);
    let document = |number: u32, group: Option<i32>| {
        doc! { "_id": id, "n": i64::from(number), "group": group.unwrap_or_default() }
    };
    let operation = match write.operation {
        Insert => "insert",
        Update => "update",
        Replace => "replace",
        _ => "delete",
    };
    let mut event = doc! {
        "operationType": operation,
        "ns": { "db": DATABASE, "coll": COLLECTIONS[write.collection] },
        "documentKey": { "_id": id },
    };
    if write.operation == Update {
        let mut updated = document(number, write.after);
        updated.remove("_id");
        event.insert(
            "updateDescription",
            doc! { "updatedFields": updated, "removedFields": [], "truncatedArrays": [] },
        );
    }
    if write.operation != Delete {
        event.insert("fullDocument", document(number, write.after));
    }
    if write.operation != Insert {
        event.insert("fullDocumentBeforeChange", document(last, write.before));
    }
    event
}
