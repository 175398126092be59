//! Bytes that no MongoDB should send: what a client gets of them, and that nothing else suffers.

mod support;

use support::orders::id;
use support::stand_in::{StandIn, insert};
use support::{Weir, eventually};

#[tokio::test]
async fn a_stand_in_plays_mongodb() {
    let stand_in = StandIn::start();
    let orders = stand_in.log("orders");
    let weir = Weir::at(stand_in.uri(), |_| {}).await;
    let mut watching = weir.watch(stand_in.watch_request(&["orders"])).await;
    orders.push(insert(1));
    assert_eq!(id(&watching.next_change().await), 1);
    let token = watching.token();
    orders.push(insert(2));
    assert_eq!(id(&watching.next_change().await), 2);
    stand_in.cut();
    orders.push(insert(3));
    assert_eq!(id(&watching.next_change().await), 3);
    let mut again = weir
        .watch(weir::pb::WatchRequest {
            start: Some(weir::pb::watch_request::Start::ResumeToken(token)),
            ..stand_in.watch_request(&["orders"])
        })
        .await;
    assert_eq!(id(&again.next_change().await), 2);
    assert_eq!(id(&again.next_change().await), 3);
    drop((watching, again));
    weir.shutdown().await;
    eventually("no cursor is left", async || stand_in.open_cursors() == 0).await;
}
