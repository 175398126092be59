//! Stages whose output looks like something that MongoDB says of an event, made of what clients have stored.

use super::{ORDERS, insert, other, staged, weir};
use crate::conversions::bson;
use crate::support::{Database, error_info};
use mongodb::bson::{Bson, DateTime, Document, doc};
use pb::change_event::Change;
use tonic::Code;
use weir::pb;

#[tokio::test]
async fn stored_marks_of_a_split_event_neither_hold_events_back_nor_join_them() {
    let database = Database::start().await;
    let weir = weir(&database).await;
    let root = doc! { "$mergeObjects": ["$fullDocument", { "_id": "$_id" }] };
    let stage = doc! { "$replaceWith": root };
    let request = staged(database.watch_request(&[ORDERS]), &[stage]);
    let mut watch = weir.watch(request).await;
    let marks = [(1, 2), (2, 2), (1, 2), (7, 3)];
    for (number, (fragment, of)) in (0..).zip(marks) {
        let stored = doc! { "n": number, "splitEvent": { "fragment": fragment, "of": of } };
        let orders = database.collection(ORDERS);
        orders.insert_one(stored).await.expect("an insert");
    }
    for number in 0..4 {
        let (_, mut event) = other(&watch.next_change().await);
        event.remove("_id");
        assert_eq!(event, doc! { "n": number });
    }
    assert_eq!(weir.metrics().await.sum("weir_feed_restarts_total"), 0.0);
}

#[tokio::test]
async fn a_document_whose_id_was_cut_is_no_other_document() {
    let database = Database::start().await;
    let weir = weir(&database).await;
    let orders = database.collection(ORDERS);
    let id = doc! { "region": "eu", "n": 1 };
    orders
        .insert_one(doc! { "_id": &id, "t": 1 })
        .await
        .expect("an insert");
    let kept =
        doc! { "operationType": 1, "clusterTime": 1, "documentKey._id.n": 1, "fullDocument": 1 };
    let whole = doc! { "$cond": [{ "$eq": ["$region", "eu"] }, "$$KEEP", "$$DESCEND"] };
    let cut = doc! { "n": 1 };
    for (t, (stage, shown_id)) in (2..).zip([
        (doc! { "$unset": "fullDocument._id.region" }, &cut),
        (doc! { "$project": { "fullDocument._id.region": 0 } }, &cut),
        (doc! { "$project": kept }, &id),
        (doc! { "$redact": whole }, &id),
    ]) {
        let request = pb::WatchRequest {
            full_document: pb::FullDocument::UpdateLookup.into(),
            ..staged(
                database.watch_request(&[ORDERS]),
                std::slice::from_ref(&stage),
            )
        };
        let mut watch = weir.watch(request).await;
        let set = doc! { "$set": { "t": t } };
        let updated = orders.update_one(doc! { "_id": &id }, set).await;
        updated.expect("an update");
        let change = watch.next_change().await;
        let Some(Change::Update(update)) = &change.change else {
            panic!("{change:?}");
        };
        let expected = doc! { "_id": shown_id, "t": t };
        let seen = bson(update.full_document.as_ref());
        assert_eq!(seen, Some(expected.into()), "{stage}");
    }
}

#[tokio::test]
async fn a_stage_that_needs_too_much_memory_is_refused_and_mongodb_not_called_overloaded() {
    let database = Database::start().await;
    let weir = weir(&database).await;
    let range = doc! { "$range": [0, "$fullDocument.n"] };
    let stage = doc! { "$set": { "numbers": range } };
    let mut watch = weir
        .watch(staged(database.watch_request(&[ORDERS]), &[stage]))
        .await;
    let orders = database.collection(ORDERS);
    let large = doc! { "n": 2_000_000_000 };
    orders.insert_one(large).await.expect("an insert");
    let status = watch.end().await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(error_info(&status).reason, "INVALID_REQUEST");
    assert_eq!(error_info(&status).metadata["mongodb_code"], "146");
}

#[tokio::test]
async fn a_made_up_wall_time_is_shown_and_not_counted_as_a_lag() {
    let database = Database::start().await;
    let weir = weir(&database).await;
    let long_ago = Document::from_iter([(
        "wallTime".to_owned(),
        Bson::DateTime(DateTime::from_millis(1_000)),
    )]);
    let stage = doc! { "$set": long_ago };
    let mut watch = weir
        .watch(staged(database.watch_request(&[ORDERS]), &[stage]))
        .await;
    insert(&database, 0..4).await;
    for change in watch.changes(4).await {
        assert_eq!(change.wall_time.map(|it| it.seconds), Some(1));
    }
    let metrics = weir.metrics().await;
    assert!(metrics.sum("weir_delivery_lag_seconds_sum") < 60.0);
}
