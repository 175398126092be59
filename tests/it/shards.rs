//! Consumer shards: each document's changes come to exactly one of several consumers, in order.

mod consumers;
mod examples;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::conversions::eq;
use crate::support::{
    ChildProcess, Database, PolicyServer, WAIT_LIMIT, WatchStream, Weir, error_reason, eventually,
    weir, within,
};
use futures::future::join_all;
use mongodb::bson::{Bson, Document, doc};
use serde_json::json;
use tonic::Code;
use weir::filter::id_hash;
use weir::pb;
use weir::pb::change_event::Change;
use weir::pb::watch_request::Start;

const COLLECTION: &str = "orders";

fn shard(index: u16, count: u16) -> Option<pb::ConsumerShard> {
    Some(pb::ConsumerShard {
        index: index.into(),
        count: count.into(),
    })
}

fn request(database: &Database, index: u16, count: u16) -> pb::WatchRequest {
    pb::WatchRequest {
        shard: shard(index, count),
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..database.watch_request(&[COLLECTION])
    }
}

async fn watch_all(weir: &Weir, database: &Database, count: u16) -> Vec<WatchStream> {
    let watches = (0..count).map(|index| weir.watch(request(database, index, count)));
    join_all(watches).await
}

/// The consumer that an `_id` belongs to.
fn owner(id: &Bson, count: u16) -> u16 {
    let key = doc! {"_id": id}.to_vec().expect("BSON");
    let hash = id_hash(&key).expect("an _id");
    u16::try_from(hash % u64::from(count)).expect("below the count")
}

fn id_of(change: &pb::ChangeEvent) -> Bson {
    let key = change
        .document_key
        .as_ref()
        .and_then(|key| key.value.as_ref());
    let Some(pb::document::Value::Bson(key)) = key else {
        panic!("no document key in BSON: {change:?}");
    };
    let key = Document::from_reader(&key[..]).expect("BSON");
    key.get("_id").expect("an _id").clone()
}

/// All changes until a delete of this `_id` (which belongs to one shard) has come to its owner. Every consumer gets a
/// marker of its own, so that it is known what it did not get.
async fn until_markers(
    database: &Database,
    watches: &mut [WatchStream],
) -> Vec<Vec<pb::ChangeEvent>> {
    let count = u16::try_from(watches.len()).expect("few");
    let orders = database.collection(COLLECTION);
    let markers: Vec<Bson> = (0..count)
        .map(|index| {
            let mut ids = (0..).map(|number| Bson::String(format!("marker {number}")));
            ids.find(|id| owner(id, count) == index).expect("an id")
        })
        .collect();
    for marker in &markers {
        let inserted = orders.insert_one(doc! {"_id": marker}).await;
        inserted.expect("an insert");
    }
    let read = watches
        .iter_mut()
        .zip(&markers)
        .map(async |(watch, marker)| {
            let mut changes = Vec::new();
            loop {
                let change = watch.next_change().await;
                if change.document_key.is_some() && id_of(&change) == *marker {
                    return changes;
                }
                changes.push(change);
            }
        });
    let read = join_all(read).await;
    let ids = doc! {"_id": {"$in": markers}};
    orders.delete_many(ids).await.expect("deletions");
    read
}

fn operations(changes: &[pb::ChangeEvent], id: i32) -> Vec<pb::OperationType> {
    let of_id = changes
        .iter()
        .filter(|change| change.document_key.is_some() && id_of(change) == Bson::Int32(id));
    of_id.map(pb::ChangeEvent::operation).collect()
}

#[tokio::test]
async fn all_changes_of_a_document_come_to_the_one_consumer_that_its_hash_names() {
    use pb::OperationType::{Delete, Insert, Replace, Update};
    let database = Database::start().await;
    let server = Weir::start(&database).await;
    let mut watches = watch_all(&server, &database, 5).await;
    let orders = database.collection(COLLECTION);
    for id in 0..40 {
        let key = doc! {"_id": id};
        orders.insert_one(key.clone()).await.expect("an insert");
        let set = doc! {"$set": {"status": "paid"}};
        let updated = orders.update_one(key.clone(), set).await;
        updated.expect("an update");
        let replaced = orders.replace_one(key.clone(), doc! {"total": 5}).await;
        replaced.expect("a replacement");
        orders.delete_one(key).await.expect("a deletion");
    }
    let read = until_markers(&database, &mut watches).await;
    for (index, changes) in (0..).zip(&read) {
        for id in 0..40 {
            let expected = if owner(&Bson::Int32(id), 5) == index {
                vec![Insert, Update, Replace, Delete]
            } else {
                vec![]
            };
            assert_eq!(operations(changes, id), expected, "{id} at {index}");
        }
    }
    // Five consumers with one request share one change stream, and so do consumers of another number.
    let _others = watch_all(&server, &database, 3).await;
    assert_eq!(server.metrics().await.sum("weir_feeds"), 1.0);
}

/// With a filter that MongoDB evaluates: the shard is no part of the stream.
#[tokio::test]
async fn consumers_with_a_dedicated_feed_share_it() {
    let database = Database::start().await;
    let server = Weir::start(&database).await;
    let opened = (0..4).map(|index| {
        server.watch(pb::WatchRequest {
            feed_mode: pb::FeedMode::Dedicated.into(),
            filters: vec![eq("status", json!("paid"))],
            ..request(&database, index, 4)
        })
    });
    let mut watches = join_all(opened).await;
    assert_eq!(server.metrics().await.sum("weir_feeds"), 1.0);
    let orders = database.collection(COLLECTION);
    for id in 0..40 {
        let status = if id % 2 == 0 { "paid" } else { "new" };
        let order = doc! {"_id": id, "status": status};
        orders.insert_one(order).await.expect("an insert");
    }
    // Found among those of its own shard.
    let expected = (0..40).step_by(2).map(|id| owner(&Bson::Int32(id), 4));
    let expected: Vec<u16> = expected.collect();
    for (index, watch) in (0..).zip(&mut watches) {
        let own = expected.iter().filter(|owner| **owner == index).count();
        for change in watch.changes(own).await {
            assert_eq!(owner(&id_of(&change), 4), index);
        }
    }
}

#[tokio::test]
async fn events_about_no_document_come_to_every_consumer() {
    let database = Database::start().await;
    let server = Weir::start(&database).await;
    let opened = (0..3).map(|index| {
        server.watch(pb::WatchRequest {
            invalidate_policy: pb::InvalidatePolicy::Continue.into(),
            ..request(&database, index, 3)
        })
    });
    let mut watches = join_all(opened).await;
    let orders = database.collection(COLLECTION);
    orders.insert_one(doc! {"_id": 1}).await.expect("an insert");
    orders.drop().await.expect("a drop");
    let owner = owner(&Bson::Int32(1), 3);
    for (index, watch) in (0..).zip(&mut watches) {
        if index == owner {
            let insert = watch.next_change().await;
            assert_eq!(insert.operation(), pb::OperationType::Insert);
        }
        let drop = watch.next_change().await;
        assert!(matches!(drop.change, Some(Change::Drop(_))), "{drop:?}");
        watch.next_invalidated().await;
    }
}

/// What is read from the oplog, before a watch joins its feed, is shared out too.
#[tokio::test]
async fn a_consumer_that_catches_up_gets_its_share_alone() {
    let database = Database::start().await;
    let server = Weir::start(&database).await;
    let begun = server.watch(request(&database, 0, 1)).await.token();
    let orders = database.collection(COLLECTION);
    let documents = (0..200).map(|id| doc! {"_id": id});
    orders.insert_many(documents).await.expect("inserts");
    // A later server has none of it in its ring.
    let server = Weir::start(&database).await;
    let mut all = BTreeSet::new();
    for count in [1, 7, 3] {
        for index in 0..count {
            let resumed = pb::WatchRequest {
                start: Some(Start::ResumeToken(begun.clone())),
                ..request(&database, index, count)
            };
            let mut watch = server.watch(resumed).await;
            let own = (0..200).filter(|id| owner(&Bson::Int32(*id), count) == index);
            for id in own {
                assert_eq!(id_of(&watch.next_change().await), Bson::Int32(id));
                all.insert((count, id));
            }
        }
    }
    assert_eq!(all.len(), 600);
}

/// One that is behind would resume before events that it has had, and one that is ahead would lose some.
#[tokio::test]
async fn a_consumer_without_changes_makes_progress_as_the_others_do() {
    let database = Database::start().await;
    let server = Weir::start(&database).await;
    let mut watches = watch_all(&server, &database, 2).await;
    let orders = database.collection(COLLECTION);
    let busy = owner(&Bson::Int32(1), 2);
    let idle = usize::from(1 - busy);
    let before = watches[idle].token();
    orders.insert_one(doc! {"_id": 1}).await.expect("an insert");
    let insert = watches[usize::from(busy)].next_change().await;
    let time = insert.cluster_time.expect("a time");
    within("progress beyond the other's event", async {
        loop {
            let reached = watches[idle].next_progress().await.cluster_time;
            if reached
                .is_some_and(|it| (it.seconds, it.increment) >= (time.seconds, time.increment))
            {
                return;
            }
        }
    })
    .await;
    let after = watches[idle].token();
    assert_ne!(before, after);
    // Its token lies after the event that the other has had, whichever shard goes on from it.
    orders.delete_one(doc! {"_id": 1}).await.expect("a delete");
    let resumed = pb::WatchRequest {
        start: Some(Start::ResumeToken(after)),
        ..request(&database, busy, 2)
    };
    let change = server.watch(resumed).await.next_change().await;
    assert_eq!(change.operation(), pb::OperationType::Delete);
}

#[tokio::test]
async fn a_policy_decides_before_the_shard() {
    let database = Database::start().await;
    let policy = "\
version: 1
rules:
  - name: of a tenant
    principals: ['key:tenant']
    namespaces: [$db.orders]
    filter: {tenant: {$claim: tenant}}
  - name: without ids
    principals: ['key:blind']
    namespaces: [$db.orders]
    hide: [_id.person]
";
    let clients = [("tenant", json!({"tenant": "a"})), ("blind", json!({}))];
    let server = PolicyServer::start(&database, &clients, policy).await;
    let opened = (0..3).map(|index| server.watch("tenant", request(&database, index, 3)));
    let mut watches = join_all(opened).await;
    let orders = database.collection(COLLECTION);
    for id in 0..60 {
        let tenant = if id % 2 == 0 { "a" } else { "b" };
        let order = doc! {"_id": id, "tenant": tenant};
        orders.insert_one(order).await.expect("an insert");
    }
    for (index, watch) in (0..).zip(&mut watches) {
        let own = (0..60).step_by(2);
        for id in own.filter(|id| owner(&Bson::Int32(*id), 3) == index) {
            assert_eq!(id_of(&watch.next_change().await), Bson::Int32(id));
        }
    }

    // The events of a shard tell a part of the hash of what is hidden.
    let by_shard = server.open("blind", request(&database, 0, 3)).await;
    let by_filter = pb::WatchRequest {
        filters: vec![eq("_id", json!(1))],
        ..request(&database, 0, 1)
    };
    let by_filter = server.open("blind", by_filter).await;
    for (refused, field) in [(by_shard, "shard"), (by_filter, "filters")] {
        let Err(status) = refused else {
            panic!("{field} was granted");
        };
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(
            error_reason(&status),
            "NAMESPACE_ACCESS_DENIED",
            "{status:?}"
        );
        assert!(status.message().contains(field), "{status:?}");
    }
    server.watch("blind", request(&database, 0, 1)).await;
}

#[tokio::test]
async fn weir_watch_prints_the_share_of_one_consumer() {
    let database = Database::start().await;
    let server = Weir::start(&database).await;
    let address = server.grpc_addr().to_string();
    let scope = format!("{}.{COLLECTION}", database.name());
    let common = ["watch", &scope, "--server", &address, "--output", "json"];
    let start = |shard: &str| -> ChildProcess {
        let arguments: Vec<&str> = common.into_iter().chain(["--shard", shard]).collect();
        weir(&[], &arguments)
    };
    let mut process = start("1/3");
    let opened = |output: &str| output.contains(r#""type":"opened""#);
    process.wait_for_output("opened", WAIT_LIMIT, opened).await;
    let orders = database.collection(COLLECTION);
    let documents = (0..50).map(|id| doc! {"_id": id});
    orders.insert_many(documents).await.expect("inserts");
    let expected: Vec<i32> = (0..50)
        .filter(|id| owner(&Bson::Int32(*id), 3) == 1)
        .collect();
    let printed = |output: &str| -> Vec<i64> {
        let lines = output
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line of JSON"));
        let changes = lines.filter(|line| line["type"] == "change");
        changes
            .map(|line| line["documentKey"]["_id"].as_i64().expect("a number"))
            .collect()
    };
    eventually("its share is printed", async || {
        printed(&process.stdout()).len() >= expected.len()
    })
    .await;
    let expected: Vec<i64> = expected.into_iter().map(i64::from).collect();
    assert_eq!(printed(&process.stdout()), expected);

    let mut process = start("3/3");
    let status = process.wait_for_exit(Duration::from_secs(30)).await;
    assert_eq!(status.code(), Some(2), "{process}");
    assert!(
        process.stderr().contains("the last of 3 is 2/3"),
        "{process}"
    );
}
