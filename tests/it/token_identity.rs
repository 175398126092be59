//! An event's token is its identity: the same in every mode, for every request of the scope, and on
//! every replica. A client that drops repeats by token relies on it.

use std::collections::HashMap;

use crate::conversions::{eq, field, id, value};
use crate::support::{Database, WatchStream, Weir};
use bytes::{Bytes, BytesMut};
use fastrand::Rng;
use mongodb::bson::{Bson, doc};
use pb::field_filter::Operator;
use pb::watch_request::Start;
use pb::watch_response::Kind;
use prost::Message as _;
use serde_json::json;
use weir::pb;

/// The number of the last document that a test writes. Every request passes its insert.
const LAST: i32 = 1_000_000;

/// The number of AUTO watches that fill a scope's share of dedicated streams.
const CROWD: i32 = 6;

/// A change without its token: its time, operation, collection and document.
type Change = (u32, u32, i32, String, i32);

/// A change with its token, as a client received it.
type Received = (Change, Bytes);

fn number(change: &pb::ChangeEvent) -> i32 {
    match id(change) {
        Bson::Int32(number) => number,
        Bson::Document(long) => long.get_i32("n").expect("a number"),
        other => panic!("an unexpected _id: {other:?}"),
    }
}

/// The change without its token. The key of an event in another format is read from its text.
fn identify(change: &pb::ChangeEvent) -> Change {
    let time = change.cluster_time.expect("a cluster time");
    let key = change
        .document_key
        .as_ref()
        .and_then(|key| key.value.as_ref());
    let number = match key.expect("a document key") {
        pb::document::Value::Bson(_) => number(change),
        pb::document::Value::Json(text) => number_in_json(text),
        pb::document::Value::Struct(fields) => {
            let json = json_of(prost_types::value::Kind::StructValue(fields.clone()));
            number_of(&json["_id"])
        }
        other => panic!("an unexpected key: {other:?}"),
    };
    let namespace = change.namespace.as_ref().expect("a namespace");
    let collection = namespace.collection.clone();
    (
        time.seconds,
        time.increment,
        change.operation,
        collection,
        number,
    )
}

fn number_in_json(text: &str) -> i32 {
    let key: serde_json::Value = serde_json::from_str(text).expect("JSON");
    number_of(&key["_id"])
}

/// A number in relaxed or canonical Extended JSON.
fn number_of(id: &serde_json::Value) -> i32 {
    let number = match &id["$numberInt"] {
        serde_json::Value::String(digits) => digits.parse().ok(),
        _ => id.as_f64(),
    };
    number.expect("a number") as i32
}

fn json_of(kind: prost_types::value::Kind) -> serde_json::Value {
    use prost_types::value::Kind as ValueKind;
    match kind {
        ValueKind::NumberValue(number) => json!(number),
        ValueKind::StringValue(text) => json!(text),
        ValueKind::StructValue(fields) => {
            let fields = fields.fields.into_iter();
            let fields = fields.map(|(name, value)| (name, json_of(value.kind.expect("a kind"))));
            serde_json::Value::Object(fields.collect())
        }
        other => panic!("an unexpected value: {other:?}"),
    }
}

/// Reads up to the insert of [`LAST`]. Every message that ends with a change carries that change's
/// token.
async fn read_to_last(watch: &mut WatchStream) -> Vec<Received> {
    let mut received: Vec<Received> = Vec::new();
    let mut pieces = BytesMut::new();
    while received.last().is_none_or(|(change, _)| change.4 != LAST) {
        let message = watch.next().await;
        let changes = match message.kind.expect("a kind that this test knows") {
            Kind::Changes(batch) => batch.changes,
            Kind::EventChunk(chunk) => {
                if chunk.index == 0 {
                    pieces.clear();
                }
                pieces.extend_from_slice(&chunk.data);
                if !chunk.last {
                    continue;
                }
                vec![pb::ChangeEvent::decode(pieces.split().freeze()).expect("a change")]
            }
            _ => continue,
        };
        let last = changes.last().expect("a batch has a change");
        assert_eq!(last.resume_token, message.resume_token);
        let tokens = changes
            .iter()
            .map(|it| (identify(it), it.resume_token.clone()));
        received.extend(tokens);
    }
    received
}

/// What a request asks for, beyond its scope.
#[derive(Clone)]
struct Variant {
    name: &'static str,
    request: pb::WatchRequest,
    /// Whether an event of this operation and number passes.
    passes: fn(pb::OperationType, i32) -> bool,
}

/// Requests of every kind for one scope.
fn variants(scope: &pb::WatchRequest) -> Vec<Variant> {
    use pb::DocumentFormat::{CanonicalJson, Json, Struct};
    use pb::FeedMode::{Auto, Dedicated, Shared};
    use pb::OperationType::{Delete, Insert};
    let all = |_, _| true;
    let low = || vec![field("_id", Operator::In(low_numbers()))];
    let variant = |name, request, passes| Variant {
        name,
        request,
        passes,
    };
    let with = |change: &dyn Fn(&mut pb::WatchRequest)| {
        let mut request = scope.clone();
        change(&mut request);
        request
    };
    vec![
        variant("everything, AUTO", scope.clone(), all),
        variant(
            "everything, DEDICATED",
            with(&|it| it.feed_mode = Dedicated.into()),
            all,
        ),
        variant(
            "low numbers, AUTO",
            with(&|it| {
                it.filters = low();
                it.feed_mode = Auto.into();
            }),
            |_, number| number < 20 || number == LAST,
        ),
        variant(
            "low numbers, SHARED, as JSON",
            with(&|it| {
                it.filters = low();
                it.feed_mode = Shared.into();
                it.document_format = Json.into();
            }),
            |_, number| number < 20 || number == LAST,
        ),
        variant(
            "low numbers, DEDICATED, as canonical JSON",
            with(&|it| {
                it.filters = low();
                it.feed_mode = Dedicated.into();
                it.document_format = CanonicalJson.into();
            }),
            |_, number| number < 20 || number == LAST,
        ),
        variant(
            "inserts, AUTO, as structs",
            with(&|it| {
                it.operations = vec![Insert.into()];
                it.document_format = Struct.into();
            }),
            |operation, _| operation == Insert,
        ),
        variant(
            "inserts and deletes, SHARED",
            with(&|it| {
                it.operations = vec![Insert.into(), Delete.into()];
                it.feed_mode = Shared.into();
            }),
            |operation, _| operation == Insert || operation == Delete,
        ),
        variant(
            "with looked-up documents, in pieces",
            with(&|it| {
                it.full_document = pb::FullDocument::UpdateLookup.into();
                it.max_message_bytes = 64 << 10;
            }),
            all,
        ),
        variant(
            "with stored documents, large ones as stubs",
            with(&|it| {
                it.full_document = pb::FullDocument::WhenAvailable.into();
                it.full_document_before_change = pb::FullDocumentBeforeChange::WhenAvailable.into();
                it.max_message_bytes = 64 << 10;
                it.oversize_policy = pb::OversizePolicy::Omit.into();
                it.feed_mode = Dedicated.into();
            }),
            all,
        ),
        variant(
            "with expanded events left out by operation",
            with(&|it| {
                it.show_expanded_events = true;
                it.operations = [
                    Insert,
                    pb::OperationType::Update,
                    pb::OperationType::Replace,
                ]
                .map(Into::into)
                .to_vec();
            }),
            |operation, _| operation != Delete,
        ),
    ]
}

fn low_numbers() -> prost_types::ListValue {
    prost_types::ListValue {
        values: (0..20).chain([LAST]).map(|it| value(json!(it))).collect(),
    }
}

/// Opens AUTO watches with filters of their own, so that the scope's share of dedicated streams is
/// used up.
async fn crowd(weir: &Weir, scope: &pb::WatchRequest) -> Vec<WatchStream> {
    let mut watches = Vec::new();
    for number in 0..CROWD {
        let request = pb::WatchRequest {
            filters: vec![eq("crowd", json!(number))],
            ..scope.clone()
        };
        watches.push(weir.watch(request).await);
    }
    watches
}

/// Writes documents at random: alone and in transactions, small and larger than a message.
async fn write(rng: &mut Rng, database: &Database) {
    let collections = ["orders", "items"].map(|name| database.collection(name));
    let mut written = Vec::new();
    for next in 0..40 {
        let collection = &collections[usize::from(rng.u8(..4) == 0)];
        let known = rng.usize(..written.len().max(1));
        match rng.u8(..8) {
            0..=1 if !written.is_empty() => {
                let (owner, number): (usize, i32) = written[known];
                let set = doc! { "$set": { "n": rng.i32(..) } };
                let update = collections[owner].update_one(doc! { "_id": number }, set);
                update.await.expect("an update");
            }
            2 if !written.is_empty() => {
                let (owner, number) = written.swap_remove(known);
                let delete = collections[owner].delete_one(doc! { "_id": number });
                delete.await.expect("a delete");
            }
            3 if !written.is_empty() => {
                let (owner, number) = written[known];
                let replace =
                    collections[owner].replace_one(doc! { "_id": number }, doc! { "n": next });
                replace.await.expect("a replace");
            }
            4 => {
                let mut session = database.client().start_session().await.expect("a session");
                session.start_transaction().await.expect("a transaction");
                for part in 1..4 {
                    let owner = rng.usize(..2);
                    let number = next + part * 100;
                    let insert = collections[owner].insert_one(doc! { "_id": number });
                    insert.session(&mut session).await.expect("an insert");
                    written.push((owner, number));
                }
                session.commit_transaction().await.expect("a commit");
            }
            5 if rng.bool() => {
                let text = "x".repeat(150 << 10);
                let insert = collection.insert_one(doc! { "_id": next, "text": text });
                insert.await.expect("an insert");
                written.push((usize::from(collection.name() == "items"), next));
            }
            _ => {
                let insert = collection.insert_one(doc! { "_id": next });
                insert.await.expect("an insert");
                written.push((usize::from(collection.name() == "items"), next));
            }
        }
    }
    let last = collections[0].insert_one(doc! { "_id": LAST });
    last.await.expect("an insert");
}

/// The operation with a number in the API.
fn operation(number: i32) -> pb::OperationType {
    pb::OperationType::try_from(number).expect("an operation")
}

/// Whatever asks, on whichever replica, alone or in a crowd, live or from a token: an event has one
/// token.
async fn assert_one_token_for_each_event(scope: impl Fn(&Database) -> pb::WatchRequest) {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let database = Database::start().await;
    for name in ["orders", "items"] {
        let images = mongodb::options::ChangeStreamPreAndPostImages::builder().enabled(true);
        let database = database.database();
        let create = database.create_collection(name);
        let create = create.change_stream_pre_and_post_images(images.build());
        create.await.expect("a collection");
    }
    let configure = |config: &mut weir::config::ServeConfig| config.allow_deployment_watch = true;
    let replicas = [
        Weir::with(&database, configure).await,
        Weir::with(&database, configure).await,
    ];
    let scope = scope(&database);
    let _crowd = crowd(&replicas[1], &scope).await;
    let variants = variants(&scope);
    let start = replicas[0].watch(scope.clone()).await.token();
    let mut watches = Vec::new();
    for replica in &replicas {
        for variant in &variants {
            watches.push((variant, replica.watch(variant.request.clone()).await));
        }
    }
    let modes: std::collections::HashSet<i32> = watches
        .iter()
        .filter(|(variant, _)| variant.name == "low numbers, AUTO")
        .map(|(_, watch)| watch.opened.feed_mode)
        .collect();
    assert_eq!(
        modes.len(),
        2,
        "one replica is in a crowd and the other is not"
    );
    write(&mut rng, &database).await;

    let mut whole = replicas[0].watch(after(&start, &scope)).await;
    let everything = read_to_last(&mut whole).await;
    let tokens: HashMap<&Change, &Bytes> = everything
        .iter()
        .map(|(change, token)| (change, token))
        .collect();
    assert_eq!(tokens.len(), everything.len(), "no change comes twice");
    let distinct: std::collections::HashSet<&Bytes> = tokens.values().copied().collect();
    assert_eq!(
        distinct.len(),
        everything.len(),
        "no two events share a token"
    );
    let expected = |variant: &Variant, from: usize| -> Vec<Received> {
        let rest = everything[from..].iter();
        rest.filter(|(change, _)| (variant.passes)(operation(change.2), change.4))
            .cloned()
            .collect()
    };
    for (variant, watch) in &mut watches {
        assert_eq!(
            read_to_last(watch).await,
            expected(variant, 0),
            "{}",
            variant.name
        );
    }
    // From any event on, whatever the request.
    for _ in 0..30 {
        let from = rng.usize(..everything.len() - 1);
        let token = &everything[from].1;
        let variant = &variants[rng.usize(..variants.len())];
        let replica = &replicas[rng.usize(..2)];
        let mut resumed = replica.watch(after(token, &variant.request)).await;
        assert_eq!(resumed.token(), token, "the place is the event's");
        assert_eq!(resumed.opened.start_mode(), pb::StartMode::Token);
        let rest = read_to_last(&mut resumed).await;
        assert_eq!(
            rest,
            expected(variant, from + 1),
            "{} after {from}",
            variant.name
        );
    }
}

fn after(token: &Bytes, request: &pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token.clone())),
        ..request.clone()
    }
}

#[tokio::test]
async fn an_event_of_a_collection_has_one_token() {
    assert_one_token_for_each_event(|database| database.watch_request(&["orders"])).await;
}

#[tokio::test]
async fn an_event_of_several_collections_has_one_token() {
    assert_one_token_for_each_event(|database| database.watch_request(&["orders", "items"])).await;
}

#[tokio::test]
async fn an_event_of_a_database_has_one_token() {
    assert_one_token_for_each_event(|database| database.watch_request(&[])).await;
}
