//! Watches are isolated: a feed that fails does not affect other feeds of the same server and
//! database.

use crate::support::{Database, FailCommand, Figure, WatchStream, Weir, error_reason, tally};
use mongodb::bson::doc;
use tonic::Code;
use weir::pb;
use weir::pb::watch_response::Kind;

const ONE: &str = "orders";
const OTHER: &str = "customers";

async fn insert(database: &Database, collection: &str) {
    let collection = database.collection(collection);
    collection.insert_one(doc! {}).await.expect("an insert");
}

/// Checks that the next change comes without a state change before it.
async fn assert_gets_only_a_change(database: &Database, watch: &mut WatchStream) {
    insert(database, OTHER).await;
    loop {
        match watch.next().await.kind {
            Some(Kind::Changes(batch)) => {
                assert_eq!(batch.changes.len(), 1);
                return;
            }
            Some(Kind::Progress(_)) => {}
            other => panic!("expected a change, got {other:?}"),
        }
    }
}

/// Whatever error ends one feed, at once or after a reopening, the other one keeps its cursor.
#[tokio::test]
async fn an_error_on_one_feed_does_not_affect_another() {
    let database = Database::options().start().await;
    let weir = Weir::without_linger(&database).await;
    insert(&database, OTHER).await;
    let mut other = weir.watch(database.watch_request(&[OTHER])).await;
    other.next_state(pb::WatchState::Live).await;
    let before = database.cursors(&[OTHER]).await;
    let fail = || FailCommand::on(&["aggregate"]).app_name("weir");
    for (failure, ends) in [
        (fail().code(286), Some(Code::OutOfRange)),
        (fail().code(13), Some(Code::FailedPrecondition)),
        (fail().code(20), Some(Code::FailedPrecondition)),
        // An assertion of the server, which it does not document.
        (fail().code(50865), Some(Code::Internal)),
        (fail().code(43).times(2), None),
        // These make the driver drop its pooled connections.
        (fail().code(91).times(3), None),
        (fail().code(10107).times(3), None),
        (fail().close_connection().times(3), None),
    ] {
        let mut one = weir.watch(database.watch_request(&[ONE])).await;
        one.next_state(pb::WatchState::Live).await;
        database.fail(failure.clone()).await;
        // The stream of the watch before may still wait for its last reply.
        assert!(database.kill_cursors(&[ONE]).await >= 1);
        match ends {
            Some(expected) => {
                let status = one.end().await;
                assert_eq!(status.code(), expected, "{failure:?}: {status:?}");
            }
            None => {
                one.next_state(pb::WatchState::UpstreamReconnecting).await;
                one.next_state(pb::WatchState::Live).await;
                insert(&database, ONE).await;
                one.next_change().await;
            }
        }
        assert_gets_only_a_change(&database, &mut other).await;
        database.clear_failures().await;
        tally(Figure::Faults, 2);
    }
    // Others come and go, which look for the next event.
    let after = database.cursors(&[OTHER]).await;
    let is_kept = before.iter().any(|cursor| after.contains(cursor));
    assert!(
        is_kept,
        "the other feed was reopened: {before:?}, {after:?}"
    );
}

/// A MongoDB error that one watch's options cause: other watches of the same collection have
/// another feed, and keep it.
#[tokio::test]
async fn a_missing_required_image_does_not_affect_another_watch() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    insert(&database, OTHER).await;
    let mut other = weir.watch(database.watch_request(&[OTHER])).await;
    other.next_state(pb::WatchState::Live).await;
    let demanding = pb::WatchRequest {
        full_document_before_change: pb::FullDocumentBeforeChange::Required.into(),
        ..database.watch_request(&[OTHER])
    };
    let mut one = weir.watch(demanding).await;
    one.next_state(pb::WatchState::Live).await;
    let change = doc! { "$set": { "a": 1 } };
    let customers = database.collection(OTHER);
    customers
        .update_one(doc! {}, change)
        .await
        .expect("an update");
    let status = one.end().await;
    assert_eq!(error_reason(&status), "IMAGE_UNAVAILABLE", "{status:?}");
    assert_eq!(
        other.next_change().await.operation(),
        pb::OperationType::Update
    );
    assert_gets_only_a_change(&database, &mut other).await;
    // The failed feed was opened once more, for the events before that one.
    assert_eq!(weir.metrics().await.sum("weir_feed_restarts_total"), 1.0);
}
