//! Consumers that are stopped and started while documents are written, compared with what was written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::{COLLECTION, request};
use crate::support::{Database, WatchStream, Weir, within};
use bytes::Bytes;
use fastrand::Rng;
use futures::future::join_all;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{ClientSession, Collection};
use weir::filter::canonical_bytes;
use weir::model::Shard;
use weir::pb;
use weir::pb::OperationType::{Delete, Insert, Update};
use weir::pb::watch_request::Start;
use weir::pb::watch_response::Kind;
use weir::raw::Elements;

/// The canonical form of an `_id`.
type Key = Vec<u8>;
/// A cluster time.
type Time = (u32, u32);

/// A change of a document: the operation, and the number that the write gave the document.
type Change = (pb::OperationType, Option<i32>);

/// The changes of each document, in order.
type Changes = HashMap<Key, Vec<Change>>;

fn key_of(document: &[u8]) -> Key {
    let fields = Elements::new(document).expect("BSON");
    let id = fields
        .map(|field| field.expect("BSON"))
        .find(|it| it.key == b"_id");
    canonical_bytes(&id.expect("an _id"))
}

fn owner(key: &Key, count: u16) -> u16 {
    let hash = twox_hash::XxHash3_64::oneshot(key);
    Shard::index_of(hash, count).expect("there are consumers")
}

/// The writer, which knows what was written to each document without a change stream.
struct Writer {
    rng: Rng,
    orders: Collection<Document>,
    number: i32,
    alive: Vec<Bson>,
    /// Deleted, and perhaps inserted again later.
    deleted: Vec<Bson>,
    written: Changes,
}

impl Writer {
    fn new(database: &Database, rng: Rng) -> Self {
        Self {
            rng,
            orders: database.collection(COLLECTION),
            number: 0,
            alive: Vec::new(),
            deleted: Vec::new(),
            written: Changes::new(),
        }
    }

    /// Writes alone, or several writes in a transaction.
    async fn write(&mut self) {
        if self.rng.u8(..5) > 0 {
            return self.write_one(None).await;
        }
        let client = self.orders.client().clone();
        let mut session = client.start_session().await.expect("a session");
        session.start_transaction().await.expect("a transaction");
        for _ in 0..self.rng.usize(2..6) {
            self.write_one(Some(&mut session)).await;
        }
        session.commit_transaction().await.expect("a commit");
    }

    async fn write_one(&mut self, session: Option<&mut ClientSession>) {
        self.number += 1;
        let number = self.number;
        let (operation, id) = match self.rng.u8(..10) {
            0..=1 if !self.alive.is_empty() => {
                let id = self.alive.swap_remove(self.rng.usize(..self.alive.len()));
                self.deleted.push(id.clone());
                (Delete, id)
            }
            2..=5 if !self.alive.is_empty() => {
                let at = self.rng.usize(..self.alive.len());
                (Update, self.alive[at].clone())
            }
            _ => {
                let id = self.new_id();
                self.alive.push(id.clone());
                (Insert, id)
            }
        };
        let key = doc! {"_id": id.clone()};
        let change = match operation {
            Insert => (Insert, Some(number)),
            Update => (Update, Some(number)),
            _ => (Delete, None),
        };
        let canonical = key_of(&key.to_vec().expect("BSON"));
        self.written.entry(canonical).or_default().push(change);
        let set = doc! {"$set": {"n": number}};
        let orders = &self.orders;
        let insert = doc! {"_id": id, "n": number};
        let done = match (operation, session) {
            (Insert, None) => orders.insert_one(insert).await.map(drop),
            (Insert, Some(it)) => orders.insert_one(insert).session(it).await.map(drop),
            (Update, None) => orders.update_one(key, set).await.map(drop),
            (Update, Some(it)) => orders.update_one(key, set).session(it).await.map(drop),
            (_, None) => orders.delete_one(key).await.map(drop),
            (_, Some(it)) => orders.delete_one(key).session(it).await.map(drop),
        };
        done.expect("a write");
    }

    /// One that was deleted, as an equal number of another type where it is a number, or a new one.
    fn new_id(&mut self) -> Bson {
        if !self.deleted.is_empty() && self.rng.u8(..3) == 0 {
            let at = self.rng.usize(..self.deleted.len());
            return match self.deleted.swap_remove(at) {
                Bson::Int32(number) => Bson::Double(number.into()),
                Bson::Double(number) => Bson::Int64(number as i64),
                Bson::Int64(number) => Bson::Int32(i32::try_from(number).expect("it was one")),
                other => other,
            };
        }
        let number = self.number;
        match self.rng.u8(..4) {
            0 => ObjectId::new().into(),
            1 => format!("order {number}").into(),
            2 => doc! {"region": "eu", "number": number}.into(),
            _ => number.into(),
        }
    }
}

/// What all consumers together have received of each document, and who.
#[derive(Default)]
struct Owners(Mutex<HashMap<Key, u16>>);

impl Owners {
    fn note(&self, key: &Key, index: u16) {
        let mut owners = self.0.lock().expect("no consumer panicked");
        let owner = *owners.entry(key.clone()).or_insert(index);
        assert_eq!(owner, index, "two consumers have got changes of {key:?}");
    }
}

/// One consumer, with what it stored.
struct Consumer {
    index: u16,
    count: u16,
    token: Bytes,
    /// The number of changes of each document before the token, and since then.
    stored: HashMap<Key, usize>,
    received: HashMap<Key, usize>,
    /// All changes that it has received, with their times.
    changes: BTreeMap<Key, Vec<(Change, Time)>>,
    /// The times that it was told, and the number of changes that it had received by then.
    progress: Vec<(Time, usize)>,
}

impl Consumer {
    fn new(index: u16, count: u16, token: Bytes) -> Self {
        Self {
            index,
            count,
            token,
            stored: HashMap::new(),
            received: HashMap::new(),
            changes: BTreeMap::new(),
            progress: Vec::new(),
        }
    }

    async fn open(&self, weir: &Weir, database: &Database) -> WatchStream {
        let resumed = pb::WatchRequest {
            start: Some(Start::ResumeToken(self.token.clone())),
            ..request(database, self.index, self.count)
        };
        weir.watch(resumed).await
    }

    fn store(&mut self, token: Bytes) {
        self.token = token;
        self.stored.clone_from(&self.received);
    }

    /// A change has to be new, or one after the stored token that comes again.
    fn receive(&mut self, change: &pb::ChangeEvent) -> Key {
        let key = change
            .document_key
            .as_ref()
            .and_then(|it| it.value.as_ref());
        let Some(pb::document::Value::Bson(document)) = key else {
            panic!("no document key in BSON: {change:?}");
        };
        let key = key_of(document);
        assert_eq!(owner(&key, self.count), self.index, "{change:?}");
        let time = change.cluster_time.expect("a time");
        let change = (
            (change.operation(), number_of(change)),
            (time.seconds, time.increment),
        );
        let received = self.received.entry(key.clone()).or_default();
        let changes = self.changes.entry(key.clone()).or_default();
        match changes.get(*received) {
            None => changes.push(change),
            Some(again) => assert_eq!(*again, change, "another change comes again"),
        }
        *received += 1;
        key
    }

    fn total(&self) -> usize {
        self.received.values().sum()
    }

    /// Whether it has received all that was written of its documents.
    fn is_complete(&self, written: &Changes) -> bool {
        written
            .iter()
            .filter(|(key, _)| owner(key, self.count) == self.index)
            .all(|(key, changes)| self.received.get(key) == Some(&changes.len()))
    }

    /// Each document's changes are those that were written, in their order.
    fn check(&self, written: &Changes) {
        for (key, changes) in &self.changes {
            let got: Vec<Change> = changes.iter().map(|(change, _)| *change).collect();
            assert_eq!(got, written[key], "{key:?} at {}", self.index);
        }
        assert!(self.is_complete(written), "changes are missing");
        let times: Vec<Time> = self.changes.values().flatten().map(|it| it.1).collect();
        for (time, received) in &self.progress {
            let due = times.iter().filter(|it| *it <= time).count();
            assert!(due <= *received, "{received} of {due} by {time:?}");
        }
    }
}

/// The number that an insert or an update gave the document.
fn number_of(change: &pb::ChangeEvent) -> Option<i32> {
    use pb::change_event::Change;
    let document = match change.change.as_ref()? {
        Change::Insert(insert) => insert.full_document.as_ref(),
        Change::Update(update) => {
            let description = update.update_description.as_ref()?;
            description.updated_fields.as_ref()
        }
        _ => return None,
    };
    let Some(pb::document::Value::Bson(document)) = document?.value.as_ref() else {
        panic!("no document in BSON: {change:?}");
    };
    let document = Document::from_reader(&document[..]).expect("BSON");
    document.get_i32("n").ok()
}

/// Reads a random number of messages, stores some of the tokens, and dies; again and again until it has everything.
async fn run(
    mut consumer: Consumer,
    mut rng: Rng,
    database: Arc<Database>,
    servers: Arc<[Weir; 2]>,
    owners: Arc<Owners>,
    written: Arc<Mutex<Option<Changes>>>,
) -> (Consumer, usize) {
    for life in 0.. {
        let server = &servers[rng.usize(..2)];
        consumer.received.clone_from(&consumer.stored);
        let mut watch = consumer.open(server, &database).await;
        'life: for _ in 0..rng.usize(1..8) {
            let message = watch.next().await;
            match message.kind {
                Some(Kind::Changes(batch)) => {
                    for change in &batch.changes {
                        let key = consumer.receive(change);
                        owners.note(&key, consumer.index);
                        // Within a message, an event's own token is as good as the message's.
                        if rng.u8(..4) == 0 {
                            consumer.store(change.resume_token.clone());
                        }
                        if rng.u8(..30) == 0 {
                            break 'life;
                        }
                    }
                    if consumer.total() > 0 && rng.bool() {
                        break;
                    }
                }
                Some(Kind::Progress(progress)) => {
                    if let Some(time) = progress.cluster_time {
                        let time = (time.seconds, time.increment);
                        consumer.progress.push((time, consumer.total()));
                    }
                    consumer.store(message.resume_token);
                }
                Some(Kind::StateChange(_)) => {}
                other => panic!("unexpected {other:?}"),
            }
            let written = written.lock().expect("the writer did not panic");
            if written.as_ref().is_some_and(|it| consumer.is_complete(it)) {
                drop(written);
                return (consumer, life);
            }
        }
    }
    unreachable!("a consumer ends with the last change")
}

/// Over any chain of deaths and resumes, each document's changes come to one consumer, in order; none is missing, and
/// none that was before the stored token comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_consumers_that_die_and_resume_at_random_share_every_change_out() {
    const CONSUMERS: u16 = 16;
    const WRITES: usize = 600;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let database = Arc::new(Database::start().await);
    let servers = Arc::new([Weir::start(&database).await, Weir::start(&database).await]);
    let begin = servers[0].watch(request(&database, 0, 1)).await.token();
    let owners = Arc::new(Owners::default());
    let written = Arc::new(Mutex::new(None));
    let consumers: Vec<_> = (0..CONSUMERS)
        .map(|index| {
            tokio::spawn(run(
                Consumer::new(index, CONSUMERS, begin.clone()),
                rng.fork(),
                Arc::clone(&database),
                Arc::clone(&servers),
                Arc::clone(&owners),
                Arc::clone(&written),
            ))
        })
        .collect();
    let mut writer = Writer::new(&database, rng.fork());
    for _ in 0..WRITES {
        writer.write().await;
    }
    let all = writer.written.clone();
    *written.lock().expect("no consumer panicked") = Some(writer.written);
    let ended = within("the last change", join_all(consumers)).await;
    let mut keys = BTreeSet::new();
    let mut deaths = 0;
    for ended in ended {
        let (consumer, lives) = ended.expect("a consumer found no fault");
        consumer.check(&all);
        keys.extend(consumer.changes.into_keys());
        deaths += lives;
    }
    assert_eq!(keys.len(), all.len(), "of {} documents", all.len());
    assert!(deaths > 50, "only {deaths} deaths");
}

/// Reads until the watch ends with OK at its `end_time`.
async fn read_to_the_end(consumer: &mut Consumer, mut watch: WatchStream) {
    while let Some(message) = watch.try_next().await.expect("it ends with OK") {
        if let Some(Kind::Changes(batch)) = message.kind {
            for change in &batch.changes {
                consumer.receive(change);
            }
        }
    }
}

fn ending(second: u32, request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        end_time: Some(prost_types::Timestamp {
            seconds: second.into(),
            nanos: 0,
        }),
        ..request
    }
}

/// Until `stop`, and then it says what it has written.
async fn write_until(mut writer: Writer, stop: &AtomicBool) -> Changes {
    while !stop.load(Ordering::Relaxed) {
        writer.write().await;
    }
    writer.written
}

fn from(second: u32, request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::StartTime(prost_types::Timestamp {
            seconds: second.into(),
            nanos: 0,
        })),
        ..request
    }
}

/// The changes of a document in the order in which `count` consumers received them, with their times.
fn of_document<'c>(consumers: &'c [Consumer], key: &Key) -> &'c [(Change, Time)] {
    let count = u16::try_from(consumers.len()).expect("few");
    let changes = consumers[usize::from(owner(key, count))].changes.get(key);
    changes.map_or(&[], Vec::as_slice)
}

/// Four consumers go up to one second, and five go on with the next, while the writer does not stop.
#[tokio::test]
async fn five_consumers_go_on_where_four_have_ended_by_their_end_time() {
    let database = Database::start().await;
    let server = Weir::start(&database).await;
    let begin = server.watch(request(&database, 0, 1)).await;
    let end = begin.opened.start_time.expect("a time").seconds + 2;
    let begin = begin.token();
    let stop = AtomicBool::new(false);
    let writer = Writer::new(&database, Rng::with_seed(fastrand::u64(..)));
    let consume = async {
        let four = (0..4).map(async |index| {
            let mut consumer = Consumer::new(index, 4, begin.clone());
            let request = pb::WatchRequest {
                start: Some(Start::ResumeToken(begin.clone())),
                ..ending(end, request(&database, index, 4))
            };
            read_to_the_end(&mut consumer, server.watch(request).await).await;
            consumer
        });
        let four = join_all(four).await;
        let five = (0..5).map(async |index| {
            let mut consumer = Consumer::new(index, 5, Bytes::new());
            let request = from(end + 1, ending(end + 3, request(&database, index, 5)));
            read_to_the_end(&mut consumer, server.watch(request).await).await;
            consumer
        });
        let five = join_all(five).await;
        stop.store(true, Ordering::Relaxed);
        (four, five)
    };
    let both = async { tokio::join!(write_until(writer, &stop), consume) };
    let (written, (four, five)) = within("both generations", both).await;

    // A watch without a shard has the same.
    let mut single = Consumer::new(0, 1, begin.clone());
    let request = pb::WatchRequest {
        start: Some(Start::ResumeToken(begin)),
        ..ending(end + 3, request(&database, 0, 1))
    };
    read_to_the_end(&mut single, server.watch(request).await).await;
    let (mut before, mut after) = (0, 0);
    for (key, changes) in &written {
        let (first, second) = (of_document(&four, key), of_document(&five, key));
        assert!(first.iter().all(|(_, time)| time.0 <= end));
        assert!(second.iter().all(|(_, time)| time.0 > end));
        let both = [first, second].concat();
        assert_eq!(both, of_document(std::slice::from_ref(&single), key));
        // The writer goes on for a moment after the last second.
        let got: Vec<Change> = both.iter().map(|(change, _)| *change).collect();
        assert_eq!(got, changes[..got.len()], "{key:?}");
        before += first.len();
        after += second.len();
    }
    assert!(before > 20 && after > 20, "{before} and {after}");
    let received =
        |consumers: &[Consumer]| -> usize { consumers.iter().map(Consumer::total).sum() };
    assert_eq!((received(&four), received(&five)), (before, after));
}

/// Where the consumers could not end at one time, the new ones start with the second that the slowest had reached.
#[tokio::test]
async fn five_consumers_that_start_where_the_slowest_of_four_was_miss_nothing() {
    let database = Database::start().await;
    let server = Weir::start(&database).await;
    let begin = server.watch(request(&database, 0, 1)).await;
    let start = begin.opened.start_time.expect("a time").seconds;
    let begin = begin.token();
    let stop = AtomicBool::new(false);
    let writer = Writer::new(&database, Rng::with_seed(fastrand::u64(..)));
    let consume = async {
        let four = (0..4).map(async |index| {
            let mut consumer = Consumer::new(index, 4, begin.clone());
            let mut watch = consumer.open(&server, &database).await;
            let mut reached = start;
            for _ in 0..fastrand::usize(10..100) {
                let change = watch.next_change().await;
                reached = change.cluster_time.expect("a time").seconds;
                consumer.receive(&change);
            }
            (consumer, reached)
        });
        let (four, reached): (Vec<Consumer>, Vec<u32>) = join_all(four).await.into_iter().unzip();
        stop.store(true, Ordering::Relaxed);
        (four, reached.into_iter().min().expect("four"))
    };
    let both = async { tokio::join!(write_until(writer, &stop), consume) };
    let (written, (four, slowest)) = within("the first generation", both).await;
    for index in 0..5 {
        let mut consumer = Consumer::new(index, 5, Bytes::new());
        let mut watch = server
            .watch(from(slowest, request(&database, index, 5)))
            .await;
        for (key, changes) in &written {
            if owner(key, 5) != index {
                continue;
            }
            let had = of_document(&four, key);
            let again = had.iter().filter(|(_, time)| time.0 >= slowest).count();
            let due = changes.len() - (had.len() - again);
            while consumer.received.get(key).copied().unwrap_or_default() < due {
                consumer.receive(&watch.next_change().await);
            }
            let got = of_key(&consumer, key);
            assert_eq!(got, changes[changes.len() - got.len()..], "{key:?}");
            assert!(got.len() >= due, "{key:?}");
        }
    }
}

fn of_key(consumer: &Consumer, key: &Key) -> Vec<Change> {
    let changes = consumer.changes.get(key).into_iter().flatten();
    changes.map(|(change, _)| *change).collect()
}
