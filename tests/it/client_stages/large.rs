//! Large events behind stages: in fragments, and over the limit of a message.

use super::{ORDERS, staged, weir, without_ring};
use crate::conversions::{after, before, id};
use crate::support::Database;
use mongodb::bson::{Bson, doc};
use weir::pb;
use weir::pb::change_event::Change;

/// A pre-image, a post-image and the change together are more than MongoDB puts into a reply. The tests' database splits
/// an event before the stages, so these change nothing that a fragment may lack.
#[tokio::test]
async fn an_event_in_fragments_comes_whole_and_goes_on_behind_itself() {
    let database = Database::options().start().await;
    let images = doc! {"create": ORDERS, "changeStreamPreAndPostImages": {"enabled": true}};
    database.database().run_command(images).await.unwrap();
    let weir = weir(&database).await;
    let orders = database.collection(ORDERS);
    let text = |number: i32| format!("{number} {}", "x".repeat(6_000_000));
    let document = |number: i32| Some(Bson::from(doc! {"_id": 1, "text": text(number)}));
    orders
        .insert_one(doc! {"_id": 1, "text": text(0)})
        .await
        .unwrap();
    for stage in [
        doc! { "$set": { "label": "large" } },
        doc! { "$unset": ["clusterTime", "wallTime"] },
    ] {
        let request = pb::WatchRequest {
            full_document: pb::FullDocument::Required.into(),
            full_document_before_change: pb::FullDocumentBeforeChange::Required.into(),
            operations: vec![pb::OperationType::Update.into()],
            ..staged(
                database.watch_request(&[ORDERS]),
                std::slice::from_ref(&stage),
            )
        };
        let mut watch = weir.watch(request.clone()).await;
        let mut tokens = Vec::new();
        for number in 1..=3 {
            let set = doc! {"$set": {"text": text(number)}};
            orders.update_one(doc! {}, set).await.unwrap();
            let event = watch.next_change().await;
            let was = if number == 1 { 0 } else { number - 1 };
            assert!(before(&event) == document(was), "before, {stage}");
            assert!(after(&event) == document(number), "after, {stage}");
            tokens.push(event.resume_token);
        }
        let replica = without_ring(database.uri()).await;
        let mut back = replica
            .watch(super::tokens::after(&tokens[0], &request))
            .await;
        for number in [2, 3] {
            let event = back.next_change().await;
            // The tests' database shows the present document as the post-image.
            assert!(before(&event) == document(number - 1), "resumed, {stage}");
        }
        let set = doc! {"$set": {"text": text(0)}};
        orders.update_one(doc! {}, set).await.unwrap();
    }
}

#[tokio::test]
async fn an_event_over_the_limit_follows_the_policy_of_the_watch() {
    let database = Database::start().await;
    let weir = weir(&database).await;
    let stage = doc! { "$set": { "fullDocument.label": "large" } };
    let request = |policy: pb::OversizePolicy| pb::WatchRequest {
        oversize_policy: policy.into(),
        max_message_bytes: 64 << 10,
        ..staged(
            database.watch_request(&[ORDERS]),
            std::slice::from_ref(&stage),
        )
    };
    let mut omitted = weir.watch(request(pb::OversizePolicy::Omit)).await;
    let mut chunked = weir.watch(request(pb::OversizePolicy::Chunk)).await;
    let mut failed = weir.watch(request(pb::OversizePolicy::Fail)).await;
    let document = doc! { "_id": 1, "text": "x".repeat(200_000) };
    database
        .collection(ORDERS)
        .insert_one(&document)
        .await
        .unwrap();
    let event = omitted.next_change().await;
    assert!(matches!(event.change, Some(Change::Omitted(_))));
    assert_eq!(id(&event), 1.into());
    let mut expected = document;
    expected.insert("label", "large");
    assert!(after(&chunked.next_change().await) == Some(expected.into()));
    let status = failed.end().await;
    assert_eq!(crate::support::error_reason(&status), "EVENT_TOO_LARGE");
}
