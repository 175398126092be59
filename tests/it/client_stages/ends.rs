//! How a watch with stages ends: at its end time, and with its namespace.

use super::{ORDERS, ids, insert, order, staged, weir};
use crate::support::{Database, WatchStream, error_info, eventually};
use mongodb::bson::{Document, doc};
use tonic::Code;
use weir::pb;
use weir::pb::watch_response::Kind;

/// Stages behind which nothing tells of an `invalidate`.
fn stages() -> [Vec<Document>; 3] {
    [
        vec![doc! { "$match": { "operationType": "insert" } }],
        vec![doc! { "$project": { "documentKey": 1 } }],
        vec![doc! { "$set": { "clusterTime": "never", "operationType": "insert" } }],
    ]
}

async fn remove(database: &Database, scope: &[&str]) {
    if scope.is_empty() {
        database.database().drop().await.expect("a drop");
    } else {
        database.collection(ORDERS).drop().await.expect("a drop");
    }
}

/// Reads up to the invalidation, and returns the ids of the changes before it.
async fn until_invalidated(watch: &mut WatchStream) -> (usize, pb::Invalidated) {
    let mut changes = 0;
    loop {
        match watch.next().await.kind {
            Some(Kind::Changes(batch)) => changes += batch.changes.len(),
            Some(Kind::Invalidated(invalidated)) => return (changes, invalidated),
            _ => {}
        }
    }
}

#[tokio::test]
async fn the_end_of_the_namespace_ends_a_watch_whatever_its_stages_leave_out() {
    let database = Database::options().start().await;
    let weir = weir(&database).await;
    let insert_only = vec![pb::OperationType::Insert.into()];
    for (scope, operations) in [(&[ORDERS][..], vec![]), (&[], insert_only)] {
        for stages in stages() {
            let what = format!("{scope:?}, {stages:?}, operations {operations:?}");
            insert(&database, [0]).await;
            let request = pb::WatchRequest {
                operations: operations.clone(),
                ..staged(database.watch_request(scope), &stages)
            };
            let mut watch = weir.watch(request.clone()).await;
            insert(&database, [1]).await;
            remove(&database, scope).await;
            let (changes, invalidated) = until_invalidated(&mut watch).await;
            let causes = [pb::OperationType::Drop, pb::OperationType::DropDatabase];
            assert!(causes.contains(&invalidated.cause()), "{what}");
            assert!(invalidated.cluster_time.is_some(), "{what}");
            // An insert, and the drops themselves where they pass the stages and were asked for.
            let is_filtered = stages[0].contains_key("$match") || !operations.is_empty();
            assert!(changes == 1 || !is_filtered, "{what}: {changes} changes");
            assert!(changes >= 1, "{what}");
            let token = watch.token();
            let status = watch.end().await;
            assert_eq!(status.code(), Code::Aborted, "{what}: {status:?}");
            assert_eq!(error_info(&status).reason, "WATCH_INVALIDATED");

            // With and without the stages the token goes on behind the end.
            let plain = pb::WatchRequest {
                pipeline: Vec::new(),
                ..request.clone()
            };
            for request in [&request, &plain] {
                let mut back = weir.watch(super::tokens::after(&token, request)).await;
                assert_eq!(back.opened.start_mode(), pb::StartMode::Token, "{what}");
                insert(&database, [2]).await;
                let change = loop {
                    let change = back.next_change().await;
                    if change.operation() != pb::OperationType::Create {
                        break change;
                    }
                };
                assert_eq!(crate::conversions::id(&change), 2.into(), "{what}");
                database
                    .collection(ORDERS)
                    .delete_one(doc! {"_id": 2})
                    .await
                    .unwrap();
            }
            database.database().drop().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_watch_that_continues_gets_what_follows_each_end_of_its_namespace() {
    let database = Database::options().start().await;
    let weir = weir(&database).await;
    for stages in stages() {
        insert(&database, [0]).await;
        let request = pb::WatchRequest {
            operations: vec![pb::OperationType::Insert.into()],
            invalidate_policy: pb::InvalidatePolicy::Continue.into(),
            ..staged(database.watch_request(&[ORDERS]), &stages)
        };
        let mut watch = weir.watch(request.clone()).await;
        for round in 1..=3 {
            insert(&database, [round]).await;
            assert_eq!(ids(&mut watch, 1).await, [round], "{stages:?}");
            remove(&database, &[ORDERS]).await;
            let invalidated = watch.next_invalidated().await;
            assert_eq!(invalidated.cause(), pb::OperationType::Drop, "{stages:?}");
        }
        // A catch-up from before all of it sees the same.
        insert(&database, [4]).await;
        assert_eq!(ids(&mut watch, 1).await, [4], "{stages:?}");
        database.database().drop().await.unwrap();
    }
}

#[tokio::test]
async fn a_catch_up_passes_the_ends_that_its_stages_leave_out() {
    let database = Database::options().start().await;
    let weir = weir(&database).await;
    for stages in stages() {
        let request = pb::WatchRequest {
            operations: vec![pb::OperationType::Insert.into()],
            invalidate_policy: pb::InvalidatePolicy::Continue.into(),
            ..staged(database.watch_request(&[ORDERS]), &stages)
        };
        let start = weir.watch(request.clone()).await.token();
        for round in 1..=2 {
            insert(&database, [round]).await;
            remove(&database, &[ORDERS]).await;
        }
        insert(&database, [3]).await;
        let mut late = weir.watch(super::tokens::after(&start, &request)).await;
        for round in 1..=2 {
            assert_eq!(ids(&mut late, 1).await, [round], "{stages:?}");
            late.next_invalidated().await;
        }
        assert_eq!(ids(&mut late, 1).await, [3], "{stages:?}");
        database.database().drop().await.unwrap();
    }
}

/// With an end time a watch has the shared stream otherwise, whose empty replies mean that there is nothing.
#[tokio::test]
async fn a_watch_with_stages_ends_at_its_end_time() {
    let database = Database::start().await;
    let weir = weir(&database).await;
    let mut plain = weir.watch(database.watch_request(&[ORDERS])).await;
    let mut last = 0;
    let mut seconds: Vec<u32> = Vec::new();
    eventually("three seconds have passed", async || {
        last += 1;
        database
            .collection(ORDERS)
            .insert_one(order(last))
            .await
            .unwrap();
        let time = plain.next_change().await.cluster_time.expect("a time");
        seconds.push(time.seconds);
        time.seconds >= seconds[0] + 3
    })
    .await;
    let at = |seconds: u32| prost_types::Timestamp {
        seconds: seconds.into(),
        nanos: 0,
    };
    let end = seconds[0] + 1;
    let expected: Vec<i32> = (1..)
        .zip(&seconds)
        .filter(|(_, second)| **second <= end)
        .map(|(id, _)| id)
        .collect();
    for stage in [
        doc! { "$match": { "operationType": "insert" } },
        doc! { "$project": { "documentKey": 1, "operationType": 1 } },
        doc! { "$set": { "clusterTime": 7 } },
        doc! { "$match": { "operationType": "nothing" } },
    ] {
        let none = stage == doc! { "$match": { "operationType": "nothing" } };
        let request = pb::WatchRequest {
            start: Some(pb::watch_request::Start::StartTime(at(seconds[0]))),
            end_time: Some(at(end)),
            ..staged(
                database.watch_request(&[ORDERS]),
                std::slice::from_ref(&stage),
            )
        };
        let mut watch = weir.watch(request).await;
        assert_eq!(watch.opened.feed_mode(), pb::FeedMode::Dedicated);
        let mut received = Vec::new();
        while let Some(message) = watch.try_next().await.expect("no failure") {
            if let Some(Kind::Changes(batch)) = message.kind {
                let ids = batch.changes.iter().map(crate::conversions::id);
                received.extend(ids.map(|it| super::number(&it)));
            }
        }
        assert_eq!(
            received,
            if none { vec![] } else { expected.clone() },
            "{stage}"
        );
    }
}
