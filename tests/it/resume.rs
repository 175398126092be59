//! Resuming from a token is exact, whatever else the request asks for.
//!
//! Each position is tried on two replicas: one whose feeds may hold what follows it, and one that
//! has to ask MongoDB.

use crate::support::{Database, FailCommand, WatchStream, Weir};
use bytes::Bytes;
use mongodb::bson::{Document, doc};
use pb::StartMode::{Token, TokenTime};
use pb::field_filter::Operator;
use prost_types::value::Kind as ValueKind;
use weir::pb;
use weir::pb::watch_request::Start;

fn after(token: &Bytes, request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token.clone())),
        ..request
    }
}

fn number(number: i32) -> prost_types::Value {
    prost_types::Value {
        kind: Some(ValueKind::NumberValue(number.into())),
    }
}

fn text(text: &str) -> prost_types::Value {
    prost_types::Value {
        kind: Some(ValueKind::StringValue(text.to_owned())),
    }
}

fn field(path: &str, operator: Operator) -> pb::Filter {
    pb::Filter {
        kind: Some(pb::filter::Kind::Field(pb::FieldFilter {
            path: path.to_owned(),
            operator: Some(operator),
        })),
    }
}

fn from_id(id: i32) -> pb::Filter {
    field("_id", Operator::Gte(number(id)))
}

fn filtered(database: &Database, filter: pb::Filter) -> pb::WatchRequest {
    pb::WatchRequest {
        filters: vec![filter],
        ..database.watch_request(&["orders"])
    }
}

async fn insert(database: &Database, document: Document) {
    let orders = database.collection("orders");
    orders.insert_one(document).await.expect("an insert");
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

async fn ids(watch: &mut WatchStream, count: usize) -> Vec<i32> {
    watch.changes(count).await.iter().map(id).collect()
}

/// Five inserts, as a watch with this request delivers them.
async fn five_inserts(
    weir: &Weir,
    database: &Database,
    request: pb::WatchRequest,
) -> Vec<pb::ChangeEvent> {
    let mut watch = weir.watch(request).await;
    for id in 1..=5 {
        insert(database, doc! {"_id": id}).await;
    }
    watch.changes(5).await
}

#[tokio::test]
async fn the_same_request_resumes_exactly() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    for request in [
        database.watch_request(&["orders"]),
        filtered(&database, from_id(1)),
    ] {
        let changes = five_inserts(&weir, &database, request.clone()).await;
        for (index, change) in changes.iter().enumerate() {
            let mut resumed = weir
                .watch(after(&change.resume_token, request.clone()))
                .await;
            assert_eq!(resumed.opened.start_mode(), Token);
            assert_eq!(resumed.opened.start_time, change.cluster_time);
            let rest = &changes[index + 1..];
            assert_eq!(resumed.changes(rest.len()).await, rest, "and as they were");
        }
        database.collection("orders").drop().await.expect("a drop");
    }
}

/// The filter hides the token's event from MongoDB, which would answer with error 280.
#[tokio::test]
async fn a_narrower_filter_resumes_exactly() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let replica = Weir::start(&database).await;
    let changes = five_inserts(&weir, &database, database.watch_request(&["orders"])).await;
    let token = &changes[1].resume_token;

    let mut both = Vec::new();
    for weir in [&weir, &replica] {
        let narrower = after(token, filtered(&database, from_id(4)));
        let mut resumed = weir.watch(narrower).await;
        assert_eq!(resumed.opened.start_mode(), Token);
        assert_eq!(resumed.opened.start_time, changes[1].cluster_time);
        assert_eq!(ids(&mut resumed, 2).await, [4, 5]);
        both.push(resumed);
    }
    // From then on it is like any other watch.
    insert(&database, doc! {"_id": 6}).await;
    for mut resumed in both {
        let sixth = resumed.next_change().await;
        assert_eq!(id(&sixth), 6);
        let again = after(&sixth.resume_token, filtered(&database, from_id(4)));
        assert_eq!(weir.watch(again).await.opened.start_mode(), Token);
    }
}

#[tokio::test]
async fn a_wider_filter_resumes_exactly_and_repeats_nothing() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let replica = Weir::start(&database).await;
    let mut watch = weir.watch(filtered(&database, from_id(3))).await;
    for id in 1..=5 {
        insert(&database, doc! {"_id": id}).await;
    }
    let changes = watch.changes(3).await;

    let wider = after(
        &changes[0].resume_token,
        database.watch_request(&["orders"]),
    );
    for weir in [&weir, &replica] {
        let mut resumed = weir.watch(wider.clone()).await;
        assert_eq!(resumed.opened.start_mode(), Token);
        assert_eq!(ids(&mut resumed, 2).await, [4, 5]);
    }
}

/// Until a message advances the position of the new watch, its token stays the one that it was opened
/// with, which was made for another filter.
#[tokio::test]
async fn the_token_of_an_opening_by_time_is_the_one_it_was_opened_with() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let changes = five_inserts(&weir, &database, database.watch_request(&["orders"])).await;
    let token = &changes[1].resume_token;
    // With its feed already open, only the openings after the token meet the failure: on the watch's own
    // stream and on the shared one.
    let replica = Weir::start(&database).await;
    let _open = replica.watch(filtered(&database, from_id(4))).await;
    for _ in 0..3 {
        let not_found = FailCommand::on(&["aggregate"]).code(280).times(2);
        database.fail(not_found.app_name("weir")).await;
        let narrower = after(token, filtered(&database, from_id(4)));
        let mut resumed = replica.watch(narrower).await;
        assert_eq!(resumed.opened.start_mode(), TokenTime);
        assert_eq!(resumed.opened.start_time, changes[1].cluster_time);
        assert_eq!(resumed.token(), token);
        assert_eq!(ids(&mut resumed, 2).await, [4, 5]);
    }
}

#[tokio::test]
async fn the_token_of_an_opening_is_the_one_it_was_opened_with_whatever_the_filter() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let replica = Weir::start(&database).await;
    let changes = five_inserts(&weir, &database, database.watch_request(&["orders"])).await;
    let token = &changes[1].resume_token;
    for weir in [&weir, &replica, &weir, &replica] {
        let narrower = after(token, filtered(&database, from_id(4)));
        let resumed = weir.watch(narrower).await;
        assert_eq!(resumed.opened.start_mode(), Token);
        assert_eq!(resumed.token(), token);
    }
}

fn new_orders(database: &Database) -> pb::WatchRequest {
    pb::WatchRequest {
        full_document: pb::FullDocument::UpdateLookup.into(),
        ..filtered(database, field("status", Operator::Eq(text("new"))))
    }
}

/// Makes an update that matches when it is read. Returns the token after it.
async fn a_matching_update(weir: &Weir, database: &Database) -> Bytes {
    let mut watch = weir.watch(new_orders(database)).await;
    insert(database, doc! {"_id": 1, "status": "new"}).await;
    assert_eq!(id(&watch.next_change().await), 1);
    database
        .collection("orders")
        .update_one(doc! {"_id": 1}, doc! {"$set": {"total": 5}})
        .await
        .expect("an update");
    let update = watch.next_change().await;
    assert_eq!(update.operation(), pb::OperationType::Update);
    update.resume_token
}

/// MongoDB looks the document up again, finds that it no longer matches, and so does not find the
/// token's event. (The stand-in finds tokens whatever the filter; a resume by time is also tested
/// with a scripted source.)
#[tokio::test]
async fn a_token_works_although_its_document_no_longer_matches() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let token = a_matching_update(&weir, &database).await;
    let paid = doc! {"$set": {"status": "paid"}};
    database
        .collection("orders")
        .update_one(doc! {"_id": 1}, paid)
        .await
        .expect("an update");
    insert(&database, doc! {"_id": 2, "status": "new"}).await;

    let mut resumed = weir.watch(after(&token, new_orders(&database))).await;
    assert_eq!(id(&resumed.next_change().await), 2);
}

#[tokio::test]
async fn a_token_works_although_its_document_was_deleted() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let token = a_matching_update(&weir, &database).await;
    database
        .collection("orders")
        .delete_one(doc! {"_id": 1})
        .await
        .expect("a deletion");
    insert(&database, doc! {"_id": 2, "status": "new"}).await;

    let mut resumed = weir.watch(after(&token, new_orders(&database))).await;
    // A delete has no document to filter, so it comes under the default missing_image_policy.
    let delete = resumed.next_change().await;
    assert_eq!(delete.operation(), pb::OperationType::Delete);
    assert_eq!(id(&resumed.next_change().await), 2);
}

/// Only changes whose tokens were not stored come again.
#[tokio::test]
async fn a_client_that_dies_before_it_stores_a_token_gets_a_repeat_and_loses_nothing() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let request = || database.watch_request(&["orders"]);
    let mut watch = weir.watch(request()).await;
    let mut stored = watch.token();
    let mut handled = Vec::new();
    for round in 0..5 {
        for id in 0..4 {
            insert(&database, doc! {"_id": round * 4 + id}).await;
        }
        // Handled one by one; the last one's token is never stored.
        let changes = watch.changes(4).await;
        handled.extend(changes.iter().map(id));
        stored = changes[2].resume_token.clone();
        drop(watch);
        watch = weir.watch(after(&stored, request())).await;
        let repeated = watch.next_change().await;
        assert_eq!(repeated, changes[3], "its token is its identity");
    }
    assert_eq!(handled, (0..20).collect::<Vec<_>>());
    assert!(!stored.is_empty());
}

/// Three inserts in one transaction, then one more. Their times may be equal, and are equal here.
async fn a_transaction(database: &Database, first: i32) {
    let orders = database.collection("orders");
    let mut session = database.client().start_session().await.expect("a session");
    session.start_transaction().await.expect("a transaction");
    for id in first..first + 3 {
        let insert = orders.insert_one(doc! {"_id": id}).session(&mut session);
        insert.await.expect("an insert");
    }
    session.commit_transaction().await.expect("a commit");
    insert(database, doc! {"_id": first + 3}).await;
}

/// A transaction's events share one time, so time alone can't tell which of them were received.
#[tokio::test]
async fn a_position_within_a_transaction_resumes_exactly() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    insert(&database, doc! {"_id": 0}).await;
    let mut watch = weir.watch(database.watch_request(&["orders"])).await;
    a_transaction(&database, 1).await;
    let changes = watch.changes(4).await;
    let transaction = |change: &pb::ChangeEvent| {
        let transaction = change.transaction.clone().expect("it is in a transaction");
        (transaction.session_id, transaction.number)
    };
    for change in &changes[..3] {
        assert_eq!(transaction(change), transaction(&changes[0]));
        assert_eq!(change.cluster_time, changes[0].cluster_time);
    }
    assert_ne!(changes[3].cluster_time, changes[0].cluster_time);

    let replica = Weir::start(&database).await;
    for seen in 1..=3 {
        let token = &changes[seen - 1].resume_token;
        let rest: Vec<i32> = (1..=4).skip(seen).collect();
        for request in [
            database.watch_request(&["orders"]),
            filtered(&database, from_id(1)),
        ] {
            for weir in [&weir, &replica] {
                let mut resumed = weir.watch(after(token, request.clone())).await;
                assert_eq!(resumed.opened.start_mode(), Token);
                assert_eq!(ids(&mut resumed, rest.len()).await, rest, "after {seen}");
            }
        }
    }
}

/// The position is looked up in an unfiltered stream, so that nothing of its time comes again.
#[tokio::test]
async fn a_filter_that_hides_the_position_within_a_transaction_repeats_nothing() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let replica = Weir::start(&database).await;
    let mut watch = weir.watch(database.watch_request(&["orders"])).await;
    insert(&database, doc! {"_id": 0}).await;
    a_transaction(&database, 1).await;
    let changes = watch.changes(5).await;
    let second = &changes[2];
    assert_eq!(id(second), 2);

    let without_it = filtered(&database, field("_id", Operator::Ne(number(2))));
    for weir in [&weir, &replica] {
        let request = after(&second.resume_token, without_it.clone());
        let mut resumed = weir.watch(request).await;
        assert_eq!(resumed.opened.start_mode(), Token);
        assert_eq!(ids(&mut resumed, 2).await, [3, 4]);
    }
}
