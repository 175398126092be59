//! What MongoDB 8.1 to 9.0 sends, and what other servers send that MongoDB does not: each event reaches a
//! client typed and whole, or is left out as the API says.
//!
//! A stand-in plays what the database of the tests cannot send; each test names the version and its source.

mod consumer;

use crate::conversions::{as_mongodb_event, eq, operations};
use crate::support::stand_in::{DATABASE, Event, FIRST_SECOND, StandIn, Version, insert, time};
use crate::support::{Database, WatchStream, Weir};
use consumer::{Consumer, Store};
use mongodb::bson::{Binary, Bson, Document, Timestamp, Uuid, bson, doc, spec::BinarySubtype};
use weir::pb;
use weir::pb::change_event::Change;
use weir::pb::document::Value;
use weir::pb::{DocumentFormat, FeedMode, OperationType};
use weir::pipeline::{Plan, RequestLimits, Watch};

const MODES: [FeedMode; 3] = [FeedMode::Auto, FeedMode::Shared, FeedMode::Dedicated];

/// The collections of each scope, and whether the scope is the whole deployment.
const SCOPES: [(&[&str], bool); 4] = [
    (&["orders"], false),
    (&["orders", "items"], false),
    (&[], false),
    (&[], true),
];

async fn weir_at(stand_in: &StandIn) -> Weir {
    // The events are later: no watch from now begins after one.
    stand_in.set_clock(time(FIRST_SECOND - 1, 1));
    Weir::at(stand_in.uri(), |config| {
        config.allow_deployment_watch = true;
    })
    .await
}

fn request(collections: &[&str], deployment: bool) -> pb::WatchRequest {
    pb::WatchRequest {
        database: if deployment { "" } else { DATABASE }.to_owned(),
        collections: collections.iter().map(|&name| name.to_owned()).collect(),
        ..pb::WatchRequest::default()
    }
}

/// One watch for each scope and mode, after `change` of its request.
async fn watches(
    weir: &Weir,
    change: impl Fn(&mut pb::WatchRequest),
) -> Vec<(String, WatchStream)> {
    let mut watches = Vec::new();
    for (collections, deployment) in SCOPES {
        for mode in MODES {
            let mut request = request(collections, deployment);
            request.feed_mode = mode.into();
            change(&mut request);
            let name = format!("{collections:?}, deployment: {deployment}, {mode:?}");
            watches.push((name, weir.watch(request).await));
        }
    }
    watches
}

/// Appends events to the stream of the collection, and to that of the database and of the deployment.
fn push(stand_in: &StandIn, events: &[Document]) {
    for name in ["orders", ""] {
        let events = events.iter().cloned().map(Event::Document);
        stand_in.log(name).push_all(events);
    }
}

/// The session of every transaction here, as MongoDB names it where the user has logged in.
fn lsid() -> Document {
    let digest = Binary {
        subtype: BinarySubtype::Generic,
        bytes: vec![3; 32],
    };
    doc! { "id": Uuid::from_bytes([7; 16]), "uid": digest }
}

/// The event as part of a transaction that was committed at a second.
fn in_transaction(mut event: Document, number: i64, second: u32) -> Document {
    event.extend(doc! {
        "lsid": lsid(), "txnNumber": number, "clusterTime": time(FIRST_SECOND + second, 1),
    });
    event
}

/// MongoDB's event at the end of a transaction (7.1 to 9.0, jstests/change_streams/end_of_transaction.js).
fn end_of_transaction(number: i64, second: u32) -> Document {
    let event = doc! {
        "operationType": "endOfTransaction",
        "operationDescription": { "lsid": lsid(), "txnNumber": number },
    };
    in_transaction(event, number, second)
}

fn at_second(mut event: Document, second: u32) -> Document {
    event.insert("clusterTime", time(FIRST_SECOND + second, 1));
    event
}

/// `{session, number, last}` of each change; `None` outside of transactions.
fn transactions(changes: &[pb::ChangeEvent]) -> Vec<Option<(i64, bool)>> {
    let of = |change: &pb::ChangeEvent| {
        let transaction = change.transaction.as_ref()?;
        assert_eq!(transaction.session_id, [7; 16].as_slice());
        Some((transaction.number, transaction.last))
    };
    changes.iter().map(of).collect()
}

/// MongoDB 7.1 to 9.0 with featureFlagEndOfTransactionChangeEvent (SERVER-78269). The event has neither a
/// namespace nor a key, and a filter says nothing about it.
#[tokio::test]
async fn the_end_of_a_transaction_comes_typed_in_every_scope_and_mode() {
    let stand_in = StandIn::start();
    let weir = weir_at(&stand_in).await;
    let expanded = |request: &mut pb::WatchRequest| request.show_expanded_events = true;
    let mut all = watches(&weir, expanded).await;
    all.extend(
        watches(&weir, |request| {
            expanded(request);
            request.filters = vec![eq("_id", 1.into())];
        })
        .await,
    );
    let mut only_ends = watches(&weir, |request| {
        expanded(request);
        request.operations = vec![OperationType::EndOfTransaction.into()];
    })
    .await;
    let mut no_ends = watches(&weir, |request| {
        expanded(request);
        request.operations = vec![OperationType::Insert.into(), OperationType::Other.into()];
    })
    .await;

    let events = [
        in_transaction(insert(1), 4, 1),
        end_of_transaction(4, 1),
        at_second(insert(1), 2),
    ];
    push(&stand_in, &events);
    for (name, watch) in &mut all {
        let changes = watch.changes(3).await;
        let names = operations(&changes);
        assert_eq!(names, ["insert", "endOfTransaction", "insert"], "{name}");
        let end = &changes[1];
        assert_eq!(
            (&end.namespace, &end.document_key),
            (&None, &None),
            "{name}"
        );
        assert!(matches!(end.change, Some(Change::EndOfTransaction(_))));
        let mut expected = events[1].clone();
        expected.insert("wallTime", as_mongodb_event(end).remove("wallTime"));
        assert_eq!(sorted(as_mongodb_event(end)), sorted(expected), "{name}");
    }
    for (name, watch) in &mut only_ends {
        assert_eq!(
            operations(&watch.changes(1).await),
            ["endOfTransaction"],
            "{name}"
        );
    }
    for (name, watch) in &mut no_ends {
        assert_eq!(
            operations(&watch.changes(2).await),
            ["insert", "insert"],
            "{name}"
        );
    }
}

/// The fields in the order of their names.
fn sorted(document: Document) -> Vec<(String, Bson)> {
    let mut fields: Vec<(String, Bson)> = document.into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
}

/// MongoDB's own evaluation of the pipeline's conditions: on documents in the form of events.
#[tokio::test]
async fn the_pipeline_of_several_collections_passes_the_end_of_a_transaction() {
    let database = Database::start().await;
    let events = database.collection("events");
    let ns = |name: &str| doc! { "db": "shop", "coll": name };
    let documents = [
        doc! { "_id": "orders", "operationType": "insert", "ns": ns("orders") },
        doc! { "_id": "other", "operationType": "insert", "ns": ns("other") },
        doc! { "_id": "end", "operationType": "endOfTransaction", "lsid": lsid() },
    ];
    events.insert_many(documents).await.unwrap();
    let end = OperationType::EndOfTransaction;
    for (operations, expected) in [
        (vec![], vec!["end", "orders"]),
        (vec![end.into()], vec!["end"]),
        (vec![OperationType::Insert.into()], vec!["orders"]),
    ] {
        let request = pb::WatchRequest {
            database: "shop".to_owned(),
            collections: vec!["orders".to_owned(), "items".to_owned()],
            show_expanded_events: true,
            filters: vec![eq("status", "paid".into())],
            operations: operations.clone(),
            ..pb::WatchRequest::default()
        };
        let watch = Watch::from_request(request, &RequestLimits::default()).unwrap();
        let dedicated = passing(&database, Plan::dedicated(&watch).stages()).await;
        assert_eq!(dedicated, expected, "{operations:?}");
        let shared = passing(&database, Plan::shared(&watch).stages()).await;
        assert_eq!(shared, ["end", "orders"], "{operations:?}");
    }
}

/// The `_id`s of the documents in `events` that pass a pipeline, sorted.
async fn passing(database: &Database, stages: Vec<Document>) -> Vec<String> {
    let events = database.collection("events");
    let mut passed = events.aggregate(stages).await.unwrap();
    let mut ids = Vec::new();
    while passed.advance().await.unwrap() {
        ids.push(passed.current().get_str("_id").unwrap().to_owned());
    }
    ids.sort();
    ids
}

/// A replica set of any version: a mongod returns the events of a transaction one after the other
/// (change_stream_unwind_transaction_stage.cpp).
#[tokio::test]
async fn the_last_change_of_a_transaction_is_known_where_a_later_event_came_with_it() {
    let stand_in = StandIn::start();
    let weir = weir_at(&stand_in).await;
    let mut all = watches(&weir, |_| {}).await;
    push(
        &stand_in,
        &[
            in_transaction(insert(1), 1, 1),
            in_transaction(insert(2), 1, 1),
            in_transaction(insert(3), 2, 2),
            at_second(insert(4), 3),
            in_transaction(insert(5), 3, 4),
        ],
    );
    let expected = [
        Some((1, false)),
        Some((1, true)),
        Some((2, true)),
        None,
        // The end of the reply: there may be more of it.
        Some((3, false)),
    ];
    for (name, watch) in &mut all {
        assert_eq!(transactions(&watch.changes(5).await), expected, "{name}");
    }
    push(
        &stand_in,
        &[in_transaction(insert(6), 3, 4), at_second(insert(7), 5)],
    );
    for (name, watch) in &mut all {
        let rest = transactions(&watch.changes(2).await);
        assert_eq!(rest, [Some((3, true)), None], "{name}");
    }
}

/// What a filter leaves out is the last change nevertheless: no other one is marked in its place.
#[tokio::test]
async fn a_change_is_marked_only_if_no_other_follows_whatever_the_watch_leaves_out() {
    let stand_in = StandIn::start();
    let weir = weir_at(&stand_in).await;
    let mut filtered = watches(&weir, |request| request.filters = vec![eq("_id", 1.into())]).await;
    push(
        &stand_in,
        &[
            in_transaction(insert(1), 1, 1),
            in_transaction(insert(2), 1, 1),
            in_transaction(insert(1), 2, 2),
            at_second(insert(1), 3),
        ],
    );
    // The stand-in evaluates no pipeline, so the stream of every watch has the whole of both.
    for (name, watch) in filtered
        .iter_mut()
        .filter(|(name, _)| name.contains("Shared"))
    {
        let changes = watch.changes(3).await;
        let expected = [Some((1, false)), Some((2, true)), None];
        assert_eq!(transactions(&changes), expected, "{name}");
    }
}

/// A reply with one event tells nothing about what follows.
#[tokio::test]
async fn no_change_is_marked_where_each_comes_in_a_reply_of_its_own() {
    let stand_in = StandIn::start();
    let weir = weir_at(&stand_in).await;
    for name in ["orders", ""] {
        stand_in.log(name).set_batch(1);
    }
    let mut all = watches(&weir, |_| {}).await;
    let events = [in_transaction(insert(1), 1, 1), at_second(insert(2), 2)];
    push(&stand_in, &events);
    for (name, watch) in &mut all {
        let changes = watch.changes(2).await;
        assert_eq!(transactions(&changes), [Some((1, false)), None], "{name}");
    }
}

/// MongoDB 8.2 as a mongod, and 9.0.1 as a mongos: a mongos merges its shards, so that a change of a
/// transaction may come after those of others, unless the transaction's end came
/// (jstests/change_streams/end_of_transaction.js: "may interleave", TOOLS-3416).
#[tokio::test]
async fn behind_a_mongos_a_last_change_is_known_only_from_the_end_of_the_transaction() {
    for (version, is_sharded) in [
        (Version::mongod([8, 2, 11]), false),
        (Version::mongos([9, 0, 1]), true),
    ] {
        let stand_in = StandIn::start_as(version);
        let weir = weir_at(&stand_in).await;
        let mut all = watches(&weir, |request| request.show_expanded_events = true).await;
        // One transaction on two shards, another one between its changes, and a third.
        let orders = stand_in.log("orders");
        let whole_database = stand_in.log("");
        orders.push_all([
            in_transaction(insert(1), 1, 1).into(),
            in_transaction(insert(2), 2, 1).into(),
            in_transaction(insert(3), 1, 1).into(),
            at_second(insert(4), 2).into(),
        ]);
        whole_database.push_for(&["orders", "items"], end_of_transaction(1, 3));
        orders.push(in_transaction(insert(5), 3, 4));
        orders.push(at_second(insert(6), 5));
        for (name, watch) in &mut all {
            let changes = watch.changes(7).await;
            let names = operations(&changes);
            assert_eq!(names[4], "endOfTransaction", "{name}");
            let transactions = transactions(&changes);
            assert_eq!(transactions[4], Some((1, true)), "{name}");
            assert_last_is_last(&changes);
            if is_sharded {
                // Only what the end proves, if it came with the change.
                let others = [0, 1, 3, 5, 6].map(|at| transactions[at]);
                assert!(
                    !others.into_iter().flatten().any(|(_, last)| last),
                    "{name}"
                );
            }
        }
    }
}

/// Random transactions on a real server, live and read again from the start: no change follows the one that
/// is marked as the last, and those that were read with later events are marked.
#[tokio::test]
async fn no_change_of_a_transaction_follows_its_last_one() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    for name in ["orders", "items"] {
        database.database().create_collection(name).await.unwrap();
    }
    let mut live = Vec::new();
    for (names, mode) in [
        (&["orders"][..], FeedMode::Dedicated),
        (&["orders", "items"], FeedMode::Shared),
        (&[], FeedMode::Auto),
    ] {
        let request = pb::WatchRequest {
            feed_mode: mode.into(),
            ..database.watch_request(names)
        };
        live.push((names, weir.watch(request).await));
    }
    let start = live[0].1.token();
    let start_of_several = live[1].1.token();
    let start_of_all = live[2].1.token();

    let mut session = database.client().start_session().await.unwrap();
    let (mut in_orders, mut in_items) = (0, 0);
    for round in 0..20 {
        session.start_transaction().await.unwrap();
        for write in 0..=round % 4 {
            let name = if (round + write) % 3 == 0 {
                "items"
            } else {
                "orders"
            };
            *if name == "items" {
                &mut in_items
            } else {
                &mut in_orders
            } += 1;
            let collection = database.collection(name);
            let insert = collection.insert_one(doc! { "_id": round * 10 + write });
            insert.session(&mut session).await.unwrap();
        }
        session.commit_transaction().await.unwrap();
        if round % 5 == 0 {
            in_orders += 1;
            let document = doc! { "_id": round * 10 + 9 };
            database
                .collection("orders")
                .insert_one(document)
                .await
                .unwrap();
        }
    }

    for (names, watch) in &mut live {
        let count = in_orders + if names.len() == 1 { 0 } else { in_items };
        assert_last_is_last(&watch.changes(count).await);
    }
    // Another replica reads everything again, many events a reply.
    let other = Weir::start(&database).await;
    for ((names, _), token) in live.iter().zip([start, start_of_several, start_of_all]) {
        let again = pb::WatchRequest {
            start: Some(pb::watch_request::Start::ResumeToken(token)),
            ..database.watch_request(names)
        };
        let count = in_orders + if names.len() == 1 { 0 } else { in_items };
        let changes = other.watch(again).await.changes(count).await;
        assert_last_is_last(&changes);
        let marked = changes.iter().filter(|it| is_last(it)).count();
        assert!(
            marked >= 10,
            "{marked} of 20 transactions have a known last change"
        );
    }
}

/// The rules of docs/transactions.md: a consumer that is stopped at any message, and continues with its own
/// token, applies every transaction once and whole.
#[tokio::test]
async fn a_consumer_that_follows_the_documented_rules_applies_whole_transactions() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    for name in ["orders", "items"] {
        database.database().create_collection(name).await.unwrap();
    }
    let start = weir.watch(database.watch_request(&["orders"])).await;
    let mut store = Store::at(start.token());
    let mut session = database.client().start_session().await.unwrap();
    let orders = database.collection("orders");
    let mut written: Vec<Vec<i32>> = Vec::new();
    let mut next_id = 0;
    for round in 0..15 {
        // Several transactions at a time, so that some come in one reply and some alone.
        for _ in 0..fastrand::usize(1..4) {
            let ids: Vec<i32> = (next_id..next_id + fastrand::i32(1..5)).collect();
            next_id += ids.len() as i32;
            if fastrand::bool() {
                session.start_transaction().await.unwrap();
                for id in &ids {
                    let insert = orders.insert_one(doc! { "_id": id });
                    insert.session(&mut session).await.unwrap();
                }
                session.commit_transaction().await.unwrap();
                written.push(ids);
            } else {
                for id in ids {
                    orders.insert_one(doc! { "_id": id }).await.unwrap();
                    written.push(vec![id]);
                }
            }
        }
        // Something else happens, so that MongoDB's time goes on.
        let document = doc! { "_id": round };
        database
            .collection("items")
            .insert_one(document)
            .await
            .unwrap();
        let mut consumer = Consumer::open(&weir, &database, &store).await;
        for _ in 0..fastrand::usize(0..4) {
            consumer.step(&mut store).await;
        }
        assert!(written.starts_with(&store.applied), "{:?}", store.applied);
    }
    // Nothing in the stream follows this one: only `Progress` shows that it is complete.
    session.start_transaction().await.unwrap();
    let insert = orders.insert_one(doc! { "_id": next_id });
    insert.session(&mut session).await.unwrap();
    session.commit_transaction().await.unwrap();
    written.push(vec![next_id]);
    let items = database.collection("items");
    items.insert_one(doc! { "_id": "last" }).await.unwrap();
    let mut consumer = Consumer::open(&weir, &database, &store).await;
    while store.applied.len() < written.len() {
        consumer.step(&mut store).await;
        assert!(written.starts_with(&store.applied), "{:?}", store.applied);
    }
}

fn is_last(change: &pb::ChangeEvent) -> bool {
    change.transaction.as_ref().is_some_and(|it| it.last)
}

fn assert_last_is_last(changes: &[pb::ChangeEvent]) {
    let key = |change: &pb::ChangeEvent| {
        let transaction = change.transaction.as_ref()?;
        Some((transaction.session_id.clone(), transaction.number))
    };
    for (at, change) in changes.iter().enumerate().filter(|(_, it)| is_last(it)) {
        let is_end = |it: &pb::ChangeEvent| it.operation() == OperationType::EndOfTransaction;
        let follows = changes[at + 1..]
            .iter()
            .any(|it| key(it) == key(change) && !is_end(it));
        assert!(!follows, "{change:?} is not the last of its transaction");
    }
}

/// MongoDB 8.2.0 (SERVER-101553): on events of a transaction over several shards. The manual documents the
/// digest of the user, `lsid.uid`, for every version.
#[tokio::test]
async fn the_commit_timestamp_and_the_digest_of_the_user_are_delivered() {
    let stand_in = StandIn::start();
    let weir = weir_at(&stand_in).await;
    let mut all = watches(&weir, |_| {}).await;
    let mut event = in_transaction(insert(1), 5, 3);
    let committed = Timestamp {
        time: FIRST_SECOND + 2,
        increment: 8,
    };
    event.insert("commitTimestamp", committed);
    push(&stand_in, &[event.clone()]);
    for (name, watch) in &mut all {
        let change = watch.next_change().await;
        let transaction = change.transaction.clone().expect("it is in a transaction");
        let time = transaction.commit_timestamp.expect("MongoDB sent it");
        assert_eq!(
            (time.seconds, time.increment),
            (FIRST_SECOND + 2, 8),
            "{name}"
        );
        let unknown = crate::conversions::bson(change.unknown_fields.as_ref());
        assert_eq!(unknown, Some(bson!({ "lsid": lsid() })), "{name}");
        let mut expected = event.clone();
        expected.insert("wallTime", as_mongodb_event(&change).remove("wallTime"));
        assert_eq!(
            sorted(as_mongodb_event(&change)),
            sorted(expected),
            "{name}"
        );
    }
}

/// The digest of the user is passed on in every format, as all fields without a place of their own are.
#[tokio::test]
async fn the_digest_of_the_user_is_delivered_in_every_format() {
    let stand_in = StandIn::start();
    let weir = weir_at(&stand_in).await;
    let format = |format: DocumentFormat| {
        weir.watch(pb::WatchRequest {
            document_format: format.into(),
            ..request(&["orders"], false)
        })
    };
    let mut bson = format(DocumentFormat::Bson).await;
    let mut texts = vec![
        format(DocumentFormat::Json).await,
        format(DocumentFormat::CanonicalJson).await,
    ];
    let mut fields = format(DocumentFormat::Struct).await;
    push(&stand_in, &[in_transaction(insert(1), 5, 3)]);
    let expected = bson!({ "lsid": lsid() });
    let change = bson.next_change().await;
    let unknown = crate::conversions::bson(change.unknown_fields.as_ref());
    assert_eq!(unknown, Some(expected.clone()));
    for watch in &mut texts {
        let unknown = watch.next_change().await.unknown_fields;
        let Some(Value::Json(text)) = unknown.and_then(|it| it.value) else {
            panic!("no JSON");
        };
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(Bson::try_from(json).unwrap(), expected);
    }
    let unknown = fields.next_change().await.unknown_fields;
    let Some(Value::Struct(fields)) = unknown.and_then(|it| it.value) else {
        panic!("no struct");
    };
    let lsid = match &fields.fields["lsid"].kind {
        Some(prost_types::value::Kind::StructValue(lsid)) => lsid,
        other => panic!("{other:?}"),
    };
    assert!(lsid.fields.contains_key("uid"), "{lsid:?}");
}

/// MongoDB 8.2.0 (SERVER-86688), undone in 8.2.1 (SERVER-109626): some fields come although expanded events
/// were not asked for (jstests/change_streams/always_show_expanded_fields.js).
#[tokio::test]
async fn expanded_fields_are_typed_although_they_were_not_requested() {
    let stand_in = StandIn::start();
    let weir = weir_at(&stand_in).await;
    let uuid = Uuid::from_bytes([9; 16]);
    let ns = |name: &str| doc! { "db": DATABASE, "coll": name };
    let events = [
        doc! {
            "operationType": "update", "ns": ns("orders"), "documentKey": { "_id": 1 },
            "collectionUUID": uuid,
            "updateDescription": {
                "updatedFields": { "a.0.1": 1 }, "removedFields": [], "truncatedArrays": [],
                "disambiguatedPaths": { "a.0.1": ["a", 0, "1"] },
            },
        },
        doc! {
            "operationType": "rename", "ns": ns("orders"), "to": ns("items"),
            "collectionUUID": uuid, "operationDescription": { "to": ns("items") },
        },
    ];
    let mut watch = weir.watch(request(&[], false)).await;
    push(&stand_in, &events);
    for (event, change) in events.iter().zip(watch.changes(2).await) {
        assert_eq!(change.unknown_fields, None);
        assert_eq!(change.collection_uuid, [9; 16].as_slice());
        let mut received = as_mongodb_event(&change);
        for added in ["clusterTime", "wallTime"] {
            received.remove(added);
        }
        assert_eq!(sorted(received), sorted(event.clone()));
        match change.change {
            Some(Change::Update(update)) => {
                let description = update.update_description.expect("an update has one");
                assert_eq!(description.disambiguated_paths.len(), 1);
            }
            Some(Change::Rename(rename)) => assert!(rename.operation_description.is_some()),
            other => panic!("{other:?}"),
        }
    }
}

/// MongoDB 8.0 and later (jstests/change_streams/reshard_collection_event.js), and a server that is set to
/// show migrations. Fields without a place of their own are passed on.
#[tokio::test]
async fn moved_collections_migrated_documents_and_batched_inserts_pass_whole() {
    let stand_in = StandIn::start();
    let weir = weir_at(&stand_in).await;
    let mut watch = weir
        .watch(pb::WatchRequest {
            show_expanded_events: true,
            ..request(&[], false)
        })
        .await;
    let ns = doc! { "db": DATABASE, "coll": "orders" };
    let resharded = |provenance: &str| {
        doc! {
            "operationType": "reshardCollection", "ns": ns.clone(),
            "collectionUUID": Uuid::from_bytes([1; 16]),
            "operationDescription": {
                "reshardUUID": Uuid::from_bytes([2; 16]), "shardKey": { "_id": 1 },
                "oldShardKey": { "_id": 1 }, "unique": false, "numInitialChunks": 1_i64,
                "provenance": provenance,
            },
        }
    };
    let mut migrated = insert(1);
    migrated.insert("fromMigrate", true);
    let events = [
        resharded("moveCollection"),
        resharded("unshardCollection"),
        migrated,
        // One oplog entry with a batch of inserts: equal times, no transaction
        // (jstests/change_streams/apply_ops_vectored_insert.js).
        insert(2),
        insert(3),
    ];
    let events = events.map(|event| at_second(event, 1));
    push(&stand_in, &events);
    let changes = watch.changes(events.len()).await;
    for (event, change) in events.iter().zip(&changes) {
        let mut received = as_mongodb_event(change);
        received.remove("wallTime");
        assert_eq!(sorted(received), sorted(event.clone()));
        assert_eq!(change.transaction, None);
    }
    let migrated = crate::conversions::bson(changes[2].unknown_fields.as_ref());
    assert_eq!(migrated, Some(bson!({ "fromMigrate": true })));
}

/// The database of the tests sends what happens in admin, config and local; MongoDB does not
/// (`DocumentSourceChangeStream::kRegexAllDBs`).
#[tokio::test]
async fn a_watch_of_the_deployment_leaves_out_mongodbs_own_databases() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| config.allow_deployment_watch = true).await;
    let mut watches = Vec::new();
    for mode in MODES {
        for expanded in [false, true] {
            let request = pb::WatchRequest {
                feed_mode: mode.into(),
                show_expanded_events: expanded,
                ..pb::WatchRequest::default()
            };
            watches.push((mode, expanded, weir.watch(request).await));
        }
    }
    let names = ["admin", "config", "local"];
    for name in names {
        let own = database.client().database(name);
        let rows = own.collection::<Document>("rows");
        own.create_collection("rows").await.unwrap();
        let index = mongodb::IndexModel::builder().keys(doc! { "a": 1 }).build();
        rows.create_index(index).await.unwrap();
        rows.insert_one(doc! { "_id": 1 }).await.unwrap();
        rows.update_one(doc! { "_id": 1 }, doc! { "$set": { "a": 2 } })
            .await
            .unwrap();
        rows.replace_one(doc! { "_id": 1 }, doc! { "b": 2 })
            .await
            .unwrap();
        rows.delete_one(doc! { "_id": 1 }).await.unwrap();
        let rename =
            doc! { "renameCollection": format!("{name}.rows"), "to": format!("{name}.moved") };
        database.admin(rename).await;
        own.collection::<Document>("moved").drop().await.unwrap();
    }
    let config = database.client().database("config");
    config
        .collection::<Document>("rows")
        .insert_one(doc! {})
        .await
        .unwrap();
    config.drop().await.unwrap();
    let own = database.collection("system.js");
    own.insert_one(doc! { "_id": "twice" }).await.unwrap();
    database
        .database()
        .create_collection("orders")
        .await
        .unwrap();
    database
        .collection("orders")
        .insert_one(doc! { "_id": 1 })
        .await
        .unwrap();

    for (mode, expanded, watch) in &mut watches {
        // The creation of the collection comes first.
        let count = if *expanded { 2 } else { 1 };
        let changes = watch.changes(count).await;
        for change in &changes {
            let namespace = change.namespace.clone().unwrap_or_default();
            assert_eq!(namespace.database, database.name(), "{mode:?}: {change:?}");
            assert_eq!(namespace.collection, "orders", "{mode:?}: {change:?}");
        }
        assert_eq!(changes[count - 1].operation(), OperationType::Insert);
    }
}

/// The position after such an event is one like any other: it resumes on the same server and on another one.
#[tokio::test]
async fn a_position_after_an_event_that_is_left_out_resumes() {
    let database = Database::start().await;
    let allow = |config: &mut weir::config::ServeConfig| config.allow_deployment_watch = true;
    let weir = Weir::with(&database, allow).await;
    let other = Weir::with(&database, allow).await;
    let second = Some(prost_types::Duration {
        seconds: 1,
        nanos: 0,
    });
    let orders = database.collection("orders");
    for (number, of) in [database.watch_request(&[]), pb::WatchRequest::default()]
        .into_iter()
        .enumerate()
    {
        let mut request = of;
        request.progress_interval = second;
        let mut watch = weir.watch(request.clone()).await;
        let id = |which: usize| (number * 10 + which) as i32;
        orders.insert_one(doc! { "_id": id(1) }).await.unwrap();
        let first = watch.next_change().await;
        assert_eq!(crate::conversions::id(&first), Bson::Int32(id(1)));
        let own = database.collection("system.js");
        for which in [2, 3] {
            own.insert_one(doc! { "_id": id(which) }).await.unwrap();
        }
        let time = |time: Option<pb::ClusterTime>| time.map(|it| (it.seconds, it.increment));
        while time(watch.next_progress().await.cluster_time) <= time(first.cluster_time) {}
        request.start = Some(pb::watch_request::Start::ResumeToken(watch.token()));
        orders.insert_one(doc! { "_id": id(4) }).await.unwrap();
        for weir in [&weir, &other] {
            let mut resumed = weir.watch(request.clone()).await;
            assert_eq!(resumed.opened.start_mode(), pb::StartMode::Token);
            let change = resumed.next_change().await;
            assert_eq!(crate::conversions::id(&change), Bson::Int32(id(4)));
        }
    }
}

/// Whatever a server lets pass: each kind of event about one of MongoDB's own places is left out in process
/// too, and a rename counts by both of its names, as on MongoDB.
#[tokio::test]
async fn events_of_mongodbs_own_places_are_left_out_whatever_their_kind() {
    let stand_in = StandIn::start();
    let weir = weir_at(&stand_in).await;
    let mut watches = watches(&weir, |request| request.show_expanded_events = true).await;
    let place = |database: &str, name: &str| doc! { "db": database, "coll": name };
    let mut events = Vec::new();
    for own in [
        place("admin", "rows"),
        place("config", "rows"),
        place("local", "rows"),
        place(DATABASE, "system.js"),
        place(DATABASE, "system.buckets.times"),
        place(DATABASE, "$cmd"),
    ] {
        for operation in [
            "insert",
            "update",
            "replace",
            "delete",
            "drop",
            "create",
            "createIndexes",
            "modify",
            "dropIndexes",
            "startIndexBuild",
        ] {
            events.push(doc! {
                "operationType": operation, "ns": own.clone(), "documentKey": { "_id": 1 },
            });
        }
        events.push(doc! { "operationType": "rename", "ns": own.clone(), "to": own });
    }
    // Ends the stream of a database, so it must be another one.
    events.push(doc! { "operationType": "dropDatabase", "ns": { "db": "config" } });
    let visible = [
        doc! { "operationType": "rename", "ns": place("config", "rows"), "to": place(DATABASE, "orders") },
        insert(1),
        doc! { "operationType": "rename", "ns": place(DATABASE, "orders"), "to": place("config", "rows") },
        doc! { "operationType": "insert", "ns": place("administration", "systems"), "documentKey": { "_id": 1 } },
        doc! { "operationType": "insert", "ns": place(DATABASE, "systemic"), "documentKey": { "_id": 1 } },
    ];
    events.extend(visible.iter().cloned());
    push(&stand_in, &events);
    for (name, watch) in &mut watches {
        for (change, expected) in watch.changes(visible.len()).await.iter().zip(&visible) {
            let received = as_mongodb_event(change);
            let ns = expected.get_document("ns").unwrap();
            assert_eq!(received.get_document("ns").unwrap(), ns, "{name}");
        }
    }
}

/// MongoDB 6.0 and later send `wallTime` with `invalidate` (the manual's page on the event).
#[tokio::test]
async fn invalidated_has_the_wall_time_of_the_operation() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let orders = database.collection("orders");
    orders.insert_one(doc! { "_id": 1 }).await.unwrap();
    let mut watch = weir.watch(database.watch_request(&["orders"])).await;
    orders.drop().await.unwrap();
    let dropped = watch.next_change().await;
    let invalidated = watch.next_invalidated().await;
    assert!(invalidated.wall_time.is_some());
    assert_eq!(invalidated.wall_time, dropped.wall_time);
}
