//! Feeds that watches have left stay open for clients that come back, and few of them.

use std::time::Duration;

use crate::conversions::eq;
use crate::support::orders::ORDERS;
use crate::support::{Database, Weir, eventually};
use futures::future::join_all;
use serde_json::json;
use weir::pb;

const LINGER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn watches_that_come_and_go_leave_few_feeds_behind() {
    const WATCHES: usize = 40;
    const MAX_FEEDS: usize = 64;
    let database = Database::options().start().await;
    let weir = Weir::with(&database, |config| {
        config.max_feeds = MAX_FEEDS;
        config.feed_linger = LINGER;
    })
    .await;
    let request = |number: usize| pb::WatchRequest {
        filters: vec![eq("kind", json!(number))],
        feed_mode: pb::FeedMode::Dedicated.into(),
        ..database.watch_request(&[ORDERS])
    };
    let opening = (0..WATCHES).map(|number| weir.watch(request(number)));
    let watches = join_all(opening).await;
    let feeds = async || weir.metrics().await.sum("weir_feeds");
    assert_eq!(feeds().await, WATCHES as f64);
    drop(watches);
    eventually("a quarter of all feeds is left", async || {
        feeds().await == (MAX_FEEDS / 4) as f64
    })
    .await;
    eventually("their change streams are closed", async || {
        usize::try_from(database.open_cursors().await) == Ok(MAX_FEEDS / 4)
    })
    .await;
}
