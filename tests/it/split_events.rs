//! Events that MongoDB sends in fragments, with faults between the fragments.

use crate::conversions::{after, before};
use crate::support::{Database, FailCommand, Figure, Weir, tally};
use mongodb::bson::{Bson, doc};
use weir::pb;

/// A pre-image, a post-image and the change together are more than MongoDB puts into a reply.
/// Whatever fails between the replies, the client sees one event, once.
#[tokio::test]
async fn a_fault_between_two_fragments_neither_loses_nor_repeats_the_event() {
    let database = Database::options().start().await;
    let images = doc! {"create": "orders", "changeStreamPreAndPostImages": {"enabled": true}};
    database.database().run_command(images).await.unwrap();
    let weir = Weir::start(&database).await;
    let orders = database.collection("orders");
    let text = |number: i32| format!("{number} {}", "x".repeat(6_000_000));
    let document = |number: i32| Some(Bson::from(doc! {"_id": 1, "text": text(number)}));
    let insert = orders.insert_one(doc! {"_id": 1, "text": text(0)});
    insert.await.unwrap();
    let request = pb::WatchRequest {
        full_document: pb::FullDocument::Required.into(),
        full_document_before_change: pb::FullDocumentBeforeChange::Required.into(),
        operations: vec![pb::OperationType::Update.into()],
        ..database.watch_request(&["orders"])
    };
    let mut watch = weir.watch(request).await;
    let restarts = async || weir.metrics().await.sum("weir_feed_restarts_total");
    // A lost cursor before, between and after the fragments; and the failure after which each
    // fragment comes in its own reply.
    let faults = [(43, 0), (43, 1), (10334, 0)];
    for (number, (code, skipped)) in (1..).zip(faults) {
        let before_it = restarts().await;
        let failure = FailCommand::on(&["getMore"]).code(code).app_name("weir");
        database.fail(failure.times_after(skipped, 1)).await;
        let set = doc! {"$set": {"text": text(number)}};
        orders.update_one(doc! {}, set).await.unwrap();
        let event = watch.next_change().await;
        assert!(
            before(&event) == document(number - 1),
            "before, {code} {skipped}"
        );
        assert!(after(&event) == document(number), "after, {code} {skipped}");
        crate::support::eventually("it was opened again", async || restarts().await > before_it)
            .await;
        tally(Figure::Faults, 1);
    }
    // Nothing came twice.
    orders.delete_one(doc! {}).await.unwrap();
    orders.insert_one(doc! {"_id": 2}).await.unwrap();
    let touch = orders.update_one(doc! {}, doc! {"$set": {"a": 1}});
    touch.await.unwrap();
    let last = watch.next_change().await;
    assert!(before(&last) == Some(doc! {"_id": 2}.into()));
}
