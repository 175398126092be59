//! Watches whose stages leave out what others write all the time: they reach the end of what there is all the same.

use super::{ORDERS, insert, staged};
use crate::support::{Database, Weir, eventually, within};
use mongodb::bson::{Document, doc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_util::task::AbortOnDropHandle;
use weir::pb;
use weir::pb::watch_request::Start;
use weir::pb::watch_response::Kind;

/// Stages that leave every event out, with and without the events' times.
fn nothing() -> [Vec<Document>; 2] {
    let none = doc! { "$match": { "fullDocument.status": "never" } };
    [
        vec![none.clone()],
        vec![none, doc! { "$project": { "documentKey": 1 } }],
    ]
}

/// Writes all the time, until it is dropped.
fn writer(database: &Database) -> AbortOnDropHandle<()> {
    let busy = database.collection(ORDERS);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        loop {
            pace.tick().await;
            busy.insert_one(doc! { "status": "busy" })
                .await
                .expect("an insert");
        }
    }))
}

#[tokio::test]
async fn a_catch_up_joins_while_others_write_what_the_stages_leave_out() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| {
        config.allow_pipeline = true;
        config.max_catch_ups = 1;
    })
    .await;
    let request = database.watch_request(&[ORDERS]);
    let start = weir.watch(request.clone()).await.token();
    insert(&database, 0..5).await;
    let _writer = writer(&database);
    for stages in nothing() {
        let request = pb::WatchRequest {
            start: Some(Start::ResumeToken(start.clone())),
            ..staged(request.clone(), &stages)
        };
        let _watch = weir.watch(request).await;
        eventually("the watch is live and its permit free", async || {
            let metrics = weir.metrics().await;
            metrics.sum("weir_catch_ups") == 0.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_watch_ends_at_its_end_time_while_others_write_what_the_stages_leave_out() {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| config.allow_pipeline = true).await;
    let start = weir.watch(database.watch_request(&[ORDERS])).await.token();
    let _writer = writer(&database);
    for stages in nothing() {
        // It begins in the past, and ends after it has become live.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seconds = i64::try_from(now.as_secs()).unwrap();
        let end = prost_types::Timestamp {
            seconds: seconds + 2,
            nanos: 0,
        };
        let request = pb::WatchRequest {
            start: Some(Start::ResumeToken(start.clone())),
            end_time: Some(end),
            ..staged(database.watch_request(&[ORDERS]), &stages)
        };
        let mut watch = weir.watch(request).await;
        let end = async {
            while let Some(message) = watch.try_next().await.expect("it ends well") {
                assert!(!matches!(message.kind, Some(Kind::Changes(_))));
            }
        };
        within("the end", end).await;
    }
}
