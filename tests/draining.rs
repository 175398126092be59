//! A stream that a shutdown ends in the middle of something loses nothing.

mod support;

use mongodb::bson::doc;
use support::{Database, Weir, error_reason, within};
use weir::pb::{self, watch_request::Start, watch_response::Kind};

/// T36, for pieces of an event that wait for a client which reads slowly: the token of the last
/// message must not stand for pieces that were never sent.
#[tokio::test]
async fn a_shutdown_amid_the_pieces_of_an_event_gives_the_token_before_it() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let request = pb::WatchRequest {
        max_message_bytes: 64 << 10,
        ..database.watch_request(&["orders"])
    };
    let mut watching = weir.watch(request.clone()).await;
    // More than HTTP/2 and its windows hold back, so that most pieces wait in the stream.
    let large = doc! {"_id": 1, "text": "x".repeat(12 << 20)};
    let orders = database.collection("orders");
    orders.insert_one(large).await.expect("an insert");
    while !matches!(watching.next().await.kind, Some(Kind::EventChunk(_))) {}

    let (status, ()) = tokio::join!(watching.end(), weir.shutdown());

    assert_eq!(error_reason(&status), "SERVER_DRAINING");
    let again = Weir::start(&database).await;
    let resumed = pb::WatchRequest {
        max_message_bytes: 0,
        start: Some(Start::ResumeToken(watching.token())),
        ..request
    };
    let mut resumed = again.watch(resumed).await;
    let change = within("the whole event", resumed.next_change()).await;
    assert_eq!(change.operation(), pb::OperationType::Insert);
}
