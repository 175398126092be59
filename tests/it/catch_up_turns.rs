//! A caller whose watches catch up and do not read holds up no other caller.

use std::time::Duration;

use crate::support::orders::{ORDERS, Received};
use crate::support::policy_server::by;
use crate::support::{Database, PolicyServer, WatchStream, within};
use futures::future::join_all;
use mongodb::bson::doc;
use serde_json::json;
use tokio::time::Instant;
use weir::pb;

const POLICY: &str = "
version: 1
rules:
  - {name: all, namespaces: ['$db.*']}
";

const UNREAD: usize = 8;
const WRITES: i32 = 40;

/// Each of them used to keep its turn for 10 s, so that the other caller waited for all of them.
#[tokio::test]
async fn a_caller_whose_watches_never_read_holds_up_no_other_caller() {
    let database = Database::options().start().await;
    let clients = ["deaf", "reader"].map(|name| (name, json!({})));
    let server = PolicyServer::with(&database, &clients, POLICY, |config| {
        config.max_catch_ups = 2;
        config.feed_linger = Duration::ZERO;
    })
    .await;
    let request = || database.watch_request(&[ORDERS]);
    let tokens = join_all(["deaf", "reader"].map(async |name| {
        let watch = server.watch(name, request()).await;
        watch.token()
    }));
    let [deaf, reader] = <[_; 2]>::try_from(tokens.await).expect("two tokens");
    let behind = |token| pb::WatchRequest {
        start: Some(pb::watch_request::Start::ResumeToken(token)),
        ..request()
    };
    let orders = database.collection(ORDERS);
    // More than what HTTP/2 and a catch-up take unread.
    let many = (0..WRITES).map(|number| doc! {"_id": number, "text": "x".repeat(100_000)});
    within("inserts", orders.insert_many(many).into_future())
        .await
        .expect("inserts");

    let address = server.weir.grpc_addr();
    let opening =
        (0..UNREAD).map(|_| WatchStream::narrow(address, by("deaf", behind(deaf.clone()))));
    let mut unread = join_all(opening).await;
    let begin = Instant::now();
    let mut watch = server.watch("reader", behind(reader)).await;
    let mut received = Received::default();
    received.until_id(&mut watch, WRITES - 1).await;
    let waited = begin.elapsed();
    assert_eq!(received.ids, (0..WRITES).collect::<Vec<_>>());
    assert!(waited < Duration::from_secs(8), "{waited:?}");

    // The others have lost nothing when they read.
    let reading = unread.iter_mut().map(async |watch| {
        let mut received = Received::default();
        received.until_id(watch, WRITES - 1).await;
        received.ids
    });
    for ids in within("everybody's turn", join_all(reading)).await {
        assert_eq!(ids, (0..WRITES).collect::<Vec<_>>());
    }
}
