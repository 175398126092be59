//! Random writes, cut at random, with a random request at each resume.

use crate::support::{Database, WatchStream, Weir};
use bytes::Bytes;
use fastrand::Rng;
use mongodb::bson::{Document, doc};
use weir::pb;
use weir::pb::OperationType::{Delete, Insert, Update};
use weir::pb::watch_request::Start;
use weir::pb::watch_response::Kind;

/// The number of cuts per run. A failing test prints its seed.
const SEGMENTS: usize = 12;
const WRITES_IN_A_SEGMENT: usize = 16;

/// A write, in the order of the oplog. No document gets the same operation twice, so this
/// identifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Write {
    operation: pb::OperationType,
    id: i32,
}

/// The writer, which knows all writes and their order without a change stream.
struct Writer {
    rng: Rng,
    collection: mongodb::Collection<Document>,
    done: Vec<Write>,
    next_id: i32,
    /// Documents that can still be updated, and those that can still be deleted.
    fresh: Vec<i32>,
    alive: Vec<i32>,
}

impl Writer {
    async fn write(&mut self) {
        match self.rng.u8(..10) {
            0..=1 if !self.fresh.is_empty() => {
                let index = self.rng.usize(..self.fresh.len());
                let id = self.fresh.swap_remove(index);
                let set = doc! {"$set": {"touched": true}};
                let updated = self.collection.update_one(doc! {"_id": id}, set).await;
                updated.expect("an update");
                self.record(Update, id);
            }
            2..=3 if !self.alive.is_empty() => {
                let index = self.rng.usize(..self.alive.len());
                let id = self.alive.swap_remove(index);
                self.fresh.retain(|&fresh| fresh != id);
                let deleted = self.collection.delete_one(doc! {"_id": id}).await;
                deleted.expect("a deletion");
                self.record(Delete, id);
            }
            4..=7 => {
                let mut session = self
                    .collection
                    .client()
                    .start_session()
                    .await
                    .expect("a session");
                session.start_transaction().await.expect("a transaction");
                for _ in 0..self.rng.usize(2..5) {
                    let document = self.new_document();
                    let insert = self.collection.insert_one(document).session(&mut session);
                    insert.await.expect("an insert");
                }
                session.commit_transaction().await.expect("a commit");
            }
            _ => {
                let document = self.new_document();
                self.collection
                    .insert_one(document)
                    .await
                    .expect("an insert");
            }
        }
    }

    fn new_document(&mut self) -> Document {
        let id = self.next_id;
        self.next_id += 1;
        self.fresh.push(id);
        self.alive.push(id);
        self.record(Insert, id);
        doc! {"_id": id}
    }

    fn record(&mut self, operation: pb::OperationType, id: i32) {
        self.done.push(Write { operation, id });
    }
}

/// A request in the terms of both sides.
#[derive(Debug, Clone, PartialEq)]
struct RequestSpec {
    operations: Vec<pb::OperationType>,
    /// Ids from the first up to, but not including, the second.
    ids: Option<(i32, i32)>,
    lookup: bool,
}

impl RequestSpec {
    /// Often hides the change that was received last, with `last_id`, and shows the next one of its
    /// transaction.
    fn random(rng: &mut Rng, ids: i32, last_id: i32) -> Self {
        if rng.bool() {
            return Self {
                operations: Vec::new(),
                ids: Some((last_id + 1, last_id + 60)),
                lookup: rng.bool(),
            };
        }
        let operations = [Insert, Update, Delete].into_iter();
        let lowest = rng.i32(0..=ids);
        Self {
            operations: operations.filter(|_| rng.bool()).collect(),
            ids: rng.bool().then(|| (lowest, lowest + rng.i32(5..60))),
            lookup: rng.bool(),
        }
    }

    fn matches(&self, write: &Write) -> bool {
        (self.operations.is_empty() || self.operations.contains(&write.operation))
            && self
                .ids
                .is_none_or(|(from, to)| (from..to).contains(&write.id))
    }

    fn request(&self, database: &Database, token: &Bytes) -> pb::WatchRequest {
        use pb::field_filter::Operator::{Gte, Lt};
        let bound = |operator: fn(prost_types::Value) -> pb::field_filter::Operator, id: i32| {
            let value = prost_types::Value {
                kind: Some(prost_types::value::Kind::NumberValue(id.into())),
            };
            pb::Filter {
                kind: Some(pb::filter::Kind::Field(pb::FieldFilter {
                    path: "_id".to_owned(),
                    operator: Some(operator(value)),
                })),
            }
        };
        let filters = self
            .ids
            .map(|(from, to)| vec![bound(Gte, from), bound(Lt, to)]);
        let full_document = if self.lookup {
            pb::FullDocument::UpdateLookup
        } else {
            pb::FullDocument::Default
        };
        pb::WatchRequest {
            start: Some(Start::ResumeToken(token.clone())),
            operations: self.operations.iter().map(|&it| it.into()).collect(),
            filters: filters.unwrap_or_default(),
            full_document: full_document.into(),
            progress_interval: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..database.watch_request(&["orders"])
        }
    }
}

fn id(change: &pb::ChangeEvent) -> i32 {
    let key = change
        .document_key
        .as_ref()
        .and_then(|key| key.value.as_ref());
    let Some(pb::document::Value::Bson(key)) = key else {
        panic!("no document key in BSON: {change:?}");
    };
    let key = Document::from_reader(&key[..]).expect("BSON");
    key.get_i32("_id").expect("a number")
}

/// Over any chain of resumes nothing is missing, out of order or repeated.
async fn check_chain_of_resumes(seed: u64) {
    println!("seed {seed}");
    let database = Database::start().await;
    let replicas = [Weir::start(&database).await, Weir::start(&database).await];
    let mut rng = Rng::with_seed(seed);
    let mut writer = Writer {
        rng: rng.fork(),
        collection: database.collection("orders"),
        done: Vec::new(),
        next_id: 0,
        fresh: Vec::new(),
        alive: Vec::new(),
    };
    writer.write().await;

    // The position: a token, and the number of writes before it.
    let mut token = replicas[0]
        .watch(database.watch_request(&["orders"]))
        .await
        .token();
    let mut position = writer.done.len();
    let mut spec = RequestSpec::random(&mut rng, 10, 0);
    let mut may_change = true;
    for segment in 0..SEGMENTS {
        if may_change && rng.u8(..3) > 0 {
            spec = RequestSpec::random(&mut rng, writer.next_id, writer.done[position - 1].id);
        }
        println!(
            "segment {segment} after {position} of {}: {spec:?}",
            writer.done.len()
        );
        // Some writes are history when the watch opens, and some come live.
        let live = rng.usize(..WRITES_IN_A_SEGMENT);
        for _ in live..WRITES_IN_A_SEGMENT {
            writer.write().await;
        }
        let replica = &replicas[rng.usize(..replicas.len())];
        let mut watch = replica.watch(spec.request(&database, &token)).await;
        for _ in 0..live {
            writer.write().await;
        }
        // Whatever the filter and the server that issued it.
        assert_eq!(watch.opened.start_mode(), pb::StartMode::Token);

        let due: Vec<usize> = (position..writer.done.len())
            .filter(|&index| spec.matches(&writer.done[index]))
            .collect();
        // The client dies after any of them, or before the first.
        let cut = rng.usize(..=due.len());
        for &index in &due[..cut] {
            let expected = writer.done[index];
            let change = watch.next_change().await;
            let got = (change.operation(), id(&change));
            assert_eq!(got, (expected.operation, expected.id), "of {due:?}");
            token = change.resume_token;
            position = index + 1;
            may_change = true;
        }
        // With nothing left to come, a progress may be the last thing that the client stores. It
        // lies after an unknown number of changes that did not pass this filter.
        if cut == due.len() && rng.u8(..6) == 0 {
            token = progress(&mut watch).await;
            may_change = false;
        }
    }
}

/// The token of the next progress. A change before it is a repeat, or fails later.
async fn progress(watch: &mut WatchStream) -> Bytes {
    loop {
        if let Some(Kind::Progress(_)) = watch.next().await.kind {
            return watch.token();
        }
    }
}

#[tokio::test]
async fn a_chain_of_resumes_is_complete() {
    check_chain_of_resumes(fastrand::u64(..)).await;
}

#[tokio::test]
async fn another_chain_of_resumes_is_complete() {
    check_chain_of_resumes(fastrand::u64(..)).await;
}
