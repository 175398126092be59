//! Resuming across the end of a collection: the tokens around a drop.

use crate::support::{Database, WatchStream, Weir, error_reason, within};
use bytes::Bytes;
use mongodb::bson::{Document, doc};
use weir::pb;
use weir::pb::watch_request::Start;
use weir::pb::watch_response::Kind;

fn after(token: &Bytes, request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token.clone())),
        ..request
    }
}

async fn insert(database: &Database, id: i32) {
    let orders = database.collection("orders");
    let document = doc! {"_id": id, "status": "new"};
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

/// Requests for one collection that differ in everything that may differ at a resume.
fn requests(database: &Database) -> Vec<pb::WatchRequest> {
    let request = database.watch_request(&["orders"]);
    let at_least_one = pb::Filter {
        kind: Some(pb::filter::Kind::Field(pb::FieldFilter {
            path: "_id".to_owned(),
            operator: Some(pb::field_filter::Operator::Gte(prost_types::Value {
                kind: Some(prost_types::value::Kind::NumberValue(1.0)),
            })),
        })),
    };
    vec![
        request.clone(),
        pb::WatchRequest {
            operations: vec![pb::OperationType::Insert.into()],
            ..request.clone()
        },
        pb::WatchRequest {
            filters: vec![at_least_one],
            ..request.clone()
        },
        pb::WatchRequest {
            full_document: pb::FullDocument::UpdateLookup.into(),
            invalidate_policy: pb::InvalidatePolicy::Continue.into(),
            ..request
        },
    ]
}

/// The end of a watch of `orders`, and the tokens around it.
struct Dropped {
    before: Bytes,
    drop: Bytes,
    invalidate: Bytes,
}

/// Inserts 1 and 2, drops the collection, and recreates it with 3.
async fn drop_and_recreate(weir: &Weir, database: &Database) -> Dropped {
    let mut watch = weir.watch(database.watch_request(&["orders"])).await;
    insert(database, 1).await;
    let before = watch.next_change().await.resume_token;
    insert(database, 2).await;
    watch.next_change().await;
    database.collection("orders").drop().await.expect("a drop");
    let drop = watch.next_change().await;
    assert_eq!(drop.operation(), pb::OperationType::Drop);
    let invalidated = watch.next_invalidated().await;
    assert_eq!(invalidated.cause(), pb::OperationType::Drop);
    let invalidate = watch.token();
    assert_eq!(
        error_reason(&watch.end().await),
        "WATCH_INVALIDATED",
        "the default is to end"
    );
    insert(database, 3).await;
    Dropped {
        before,
        drop: drop.resume_token,
        invalidate,
    }
}

/// Reads up to and including `Invalidated`. Returns the ids of the inserts before it.
async fn inserts_before_the_end(watch: &mut WatchStream) -> Vec<i32> {
    let whole = async {
        let mut inserts = Vec::new();
        loop {
            let message = watch.next().await;
            match message.kind {
                Some(Kind::Changes(batch)) => {
                    let changed = batch.changes.iter();
                    let changed = changed.filter(|it| it.operation() == pb::OperationType::Insert);
                    inserts.extend(changed.map(id));
                }
                Some(Kind::Invalidated(_)) => return inserts,
                Some(Kind::StateChange(_) | Kind::Progress(_)) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    };
    within("Invalidated", whole).await
}

/// MongoDB accepts the token of an invalidate only as `startAfter`.
#[tokio::test]
async fn the_token_of_invalidated_resumes_with_the_recreated_collection() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let tokens = drop_and_recreate(&weir, &database).await;
    for request in requests(&database) {
        let mut resumed = weir.watch(after(&tokens.invalidate, request)).await;
        assert_eq!(resumed.opened.start_mode(), pb::StartMode::Token);
        assert_eq!(resumed.token(), tokens.invalidate);
        let first = resumed.next_change().await;
        assert_eq!(first.operation(), pb::OperationType::Insert);
        assert_eq!(id(&first), 3);
    }
}

/// The token belongs to a collection whose UUID differs from that of the current one.
#[tokio::test]
async fn a_token_from_before_the_drop_delivers_the_end_first() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let tokens = drop_and_recreate(&weir, &database).await;
    for request in requests(&database) {
        let continues = request.invalidate_policy() == pb::InvalidatePolicy::Continue;
        let mut resumed = weir.watch(after(&tokens.before, request.clone())).await;
        assert_eq!(inserts_before_the_end(&mut resumed).await, [2]);
        let there = resumed.token();
        if continues {
            assert_eq!(id(&resumed.next_change().await), 3);
        } else {
            assert_eq!(error_reason(&resumed.end().await), "WATCH_INVALIDATED");
        }
        let mut resumed = weir.watch(after(&there, request)).await;
        assert_eq!(id(&resumed.next_change().await), 3);
    }
}

/// MongoDB sends the invalidate again after the drop's token. The stand-in continues with the new
/// collection instead. Either way nothing of the new collection is missed.
#[tokio::test]
async fn the_token_of_the_drop_misses_nothing_that_comes_after() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let tokens = drop_and_recreate(&weir, &database).await;
    let request = pb::WatchRequest {
        invalidate_policy: pb::InvalidatePolicy::Continue.into(),
        ..database.watch_request(&["orders"])
    };
    let mut resumed = weir.watch(after(&tokens.drop, request.clone())).await;
    let whole = async {
        loop {
            match resumed.next().await.kind {
                Some(Kind::Changes(batch)) => return batch.changes,
                Some(Kind::StateChange(_) | Kind::Progress(_) | Kind::Invalidated(_)) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    };
    let changes = within("the new collection's insert", whole).await;
    assert_eq!(id(&changes[0]), 3);
}

/// The tokens of a watch that continues by itself work like any other.
#[tokio::test]
async fn every_token_of_a_continuing_watch_is_followed_by_the_rest() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let request = || pb::WatchRequest {
        invalidate_policy: pb::InvalidatePolicy::Continue.into(),
        operations: vec![pb::OperationType::Insert.into()],
        ..database.watch_request(&["orders"])
    };
    let mut watch = weir.watch(request()).await;
    insert(&database, 1).await;
    let mut tokens = vec![(watch.next_change().await.resume_token, 2)];
    database.collection("orders").drop().await.expect("a drop");
    watch.next_invalidated().await;
    tokens.push((watch.token(), 2));
    insert(&database, 2).await;
    let second = watch.next_change().await;
    assert_eq!(id(&second), 2);
    tokens.push((second.resume_token, 3));
    insert(&database, 3).await;
    assert_eq!(id(&watch.next_change().await), 3);

    for (token, expected) in tokens {
        let mut resumed = weir.watch(after(&token, request())).await;
        let whole = async {
            loop {
                match resumed.next().await.kind {
                    Some(Kind::Changes(batch)) => return id(&batch.changes[0]),
                    Some(Kind::StateChange(_) | Kind::Progress(_) | Kind::Invalidated(_)) => {}
                    other => panic!("unexpected {other:?}"),
                }
            }
        };
        assert_eq!(within("the next insert", whole).await, expected);
    }
}
