//! The end of a watch whose collection or database is dropped or renamed.

use std::time::Duration;

use crate::conversions::{after, operation};
use crate::support::{Database, ServeProcess, WatchStream, Weir, error_info};
use mongodb::bson::{bson, doc};
use tokio::time::{Instant, sleep};
use tonic::Code;
use weir::pb;
use weir::pb::watch_response::Kind;

/// The way in which a watched namespace goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    Dropped,
    RenamedAway,
    RenamedOver,
    DatabaseDropped,
}

impl Removal {
    async fn apply(self, database: &Database, collection: &str) {
        let rename = |from: &str, to: &str| {
            let namespace = |name: &str| format!("{}.{name}", database.name());
            doc! {
                "renameCollection": namespace(from), "to": namespace(to), "dropTarget": true,
            }
        };
        match self {
            Self::Dropped => database.collection(collection).drop().await.unwrap(),
            Self::RenamedAway => {
                database.admin(rename(collection, "moved")).await;
            }
            Self::RenamedOver => {
                database
                    .collection("newer")
                    .insert_one(doc! {"_id": "newer"})
                    .await
                    .unwrap();
                database.admin(rename("newer", collection)).await;
            }
            Self::DatabaseDropped => database.database().drop().await.unwrap(),
        }
    }

    /// The possible causes: MongoDB's events decide.
    fn causes(self) -> &'static [pb::OperationType] {
        match self {
            Self::Dropped => &[pb::OperationType::Drop],
            Self::RenamedAway => &[pb::OperationType::Rename],
            Self::RenamedOver => &[pb::OperationType::Rename, pb::OperationType::Drop],
            Self::DatabaseDropped => &[pb::OperationType::DropDatabase, pb::OperationType::Drop],
        }
    }
}

/// The ways in which a scope of one collection, or of a database, ends.
const ENDS: [(&[&str], Removal); 7] = [
    (&["orders"], Removal::Dropped),
    (&["orders"], Removal::RenamedAway),
    (&["orders"], Removal::RenamedOver),
    (&["orders"], Removal::DatabaseDropped),
    (&["orders", "items"], Removal::DatabaseDropped),
    (&[], Removal::DatabaseDropped),
    (&["orders", "absent"], Removal::DatabaseDropped),
];

async fn insert(database: &Database, collection: &str, id: i32) {
    database
        .collection(collection)
        .insert_one(doc! {"_id": id})
        .await
        .unwrap();
}

/// Reads changes until the watch says that it was invalidated.
async fn until_invalidated(watch: &mut WatchStream) -> (Vec<pb::ChangeEvent>, pb::Invalidated) {
    let mut changes = Vec::new();
    loop {
        match watch.next().await.kind {
            Some(Kind::Changes(batch)) => changes.extend(batch.changes),
            Some(Kind::Invalidated(invalidated)) => return (changes, invalidated),
            Some(Kind::Progress(_) | Kind::StateChange(_)) => {}
            other => panic!("awaited Invalidated, got {other:?}"),
        }
    }
}

fn is_about(invalidated: &pb::Invalidated, database: &Database, scope: &[&str], removal: Removal) {
    assert!(
        removal.causes().contains(&invalidated.cause()),
        "{removal:?} was reported as {:?}",
        invalidated.cause()
    );
    let collection = match scope {
        [collection] => collection,
        _ => "",
    };
    let namespace = pb::Namespace {
        database: database.name().to_owned(),
        collection: collection.to_owned(),
    };
    assert_eq!(invalidated.namespace, Some(namespace));
    assert!(invalidated.cluster_time.is_some());
}

/// The end of a collection or a database ends the watch with the cause, whatever operations were
/// selected. The events that led to it are delivered only if they were selected.
#[tokio::test]
async fn a_watch_ends_with_its_namespace_and_reports_the_cause() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    for operations in [vec![], vec![pb::OperationType::Insert.into()]] {
        for (scope, removal) in ENDS {
            let what = format!("{scope:?} {removal:?}, operations {operations:?}");
            database.database().drop().await.unwrap();
            insert(&database, "orders", 0).await;
            insert(&database, "items", 0).await;
            let mut watch = weir
                .watch(pb::WatchRequest {
                    operations: operations.clone(),
                    ..database.watch_request(scope)
                })
                .await;
            insert(&database, "orders", 1).await;
            removal.apply(&database, "orders").await;

            let (changes, invalidated) = until_invalidated(&mut watch).await;
            is_about(&invalidated, &database, scope, removal);
            assert_eq!(operation(&changes[0]), "insert", "{what}");
            let reported = changes
                .iter()
                .any(|it| removal.causes().contains(&it.operation()));
            assert_eq!(reported, operations.is_empty(), "{what}: {changes:?}");

            let token = watch.token();
            let status = watch.end().await;
            assert_eq!(status.code(), Code::Aborted, "{what}: {status:?}");
            let info = error_info(&status);
            assert_eq!(info.reason, "WATCH_INVALIDATED", "{what}");
            assert_eq!(
                info.metadata["cause"],
                operation_name(invalidated.cause()),
                "{what}"
            );
            assert!(
                info.metadata["namespace"].starts_with(database.name()),
                "{what}"
            );

            // The token of the end resumes with what comes later under the same name.
            let mut resumed = weir
                .watch(pb::WatchRequest {
                    start: Some(pb::watch_request::Start::ResumeToken(token)),
                    operations: vec![pb::OperationType::Insert.into()],
                    ..database.watch_request(scope)
                })
                .await;
            insert(&database, "orders", 2).await;
            let next = resumed.next_change().await;
            assert_eq!(after(&next), Some(bson!({"_id": 2})), "{what}");
        }
    }
}

fn operation_name(operation: pb::OperationType) -> String {
    operation
        .as_str_name()
        .to_lowercase()
        .replace("operation_type_", "")
        .replace("_d", "D")
}

/// The watch goes on through several ends.
#[tokio::test]
async fn a_continuing_watch_gets_what_is_created_under_the_same_name() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    for (scope, removal) in ENDS {
        let what = format!("{scope:?} {removal:?}");
        database.database().drop().await.unwrap();
        insert(&database, "orders", 0).await;
        let mut watch = weir
            .watch(pb::WatchRequest {
                invalidate_policy: pb::InvalidatePolicy::Continue.into(),
                operations: vec![pb::OperationType::Insert.into()],
                ..database.watch_request(scope)
            })
            .await;
        for round in 1..3 {
            insert(&database, "orders", round).await;
            let insert = watch.next_change().await;
            assert_eq!(after(&insert), Some(bson!({"_id": round})), "{what}");
            removal.apply(&database, "orders").await;
            let invalidated = watch.next_invalidated().await;
            is_about(&invalidated, &database, scope, removal);
            if removal == Removal::RenamedOver {
                continue;
            }
            // It reports no outage, as there was none.
            insert_and_see(&database, &mut watch, 100 + round).await;
        }
    }
}

async fn insert_and_see(database: &Database, watch: &mut WatchStream, id: i32) {
    insert(database, "orders", id).await;
    loop {
        match watch.next().await.kind {
            Some(Kind::Changes(batch)) => {
                assert_eq!(after(&batch.changes[0]), Some(bson!({"_id": id})));
                return;
            }
            Some(Kind::StateChange(change)) => {
                assert_eq!(change.state(), pb::WatchState::Live, "{change:?}");
            }
            Some(Kind::Progress(_)) => {}
            other => panic!("expected a change, got {other:?}"),
        }
    }
}

/// Each of several collections may go away; the watch is over the database, and continues.
#[tokio::test]
async fn a_watch_of_more_than_one_collection_survives_the_end_of_one() {
    let database = Database::options().start().await;
    let weir = Weir::with(&database, |config| config.allow_deployment_watch = true).await;
    let deployment = pb::WatchRequest::default();
    for request in [
        database.watch_request(&["orders", "items"]),
        database.watch_request(&[]),
        deployment.clone(),
    ] {
        for removal in [Removal::Dropped, Removal::RenamedAway, Removal::RenamedOver] {
            insert(&database, "orders", 0).await;
            let mut watch = weir.watch(request.clone()).await;
            removal.apply(&database, "orders").await;
            insert(&database, "orders", 1).await;
            let last = bson!({"_id": 1});
            let mut seen = Vec::new();
            loop {
                let change = watch.next_change().await;
                if after(&change).as_ref() == Some(&last) {
                    break;
                }
                seen.push(change.operation());
            }
            let reported = seen.iter().any(|it| removal.causes().contains(it));
            assert!(reported, "{removal:?} was not reported: {seen:?}");
            database.database().drop().await.unwrap();
        }
    }

    // A deployment outlives its databases too.
    insert(&database, "orders", 0).await;
    let mut watch = weir.watch(deployment).await;
    Removal::DatabaseDropped.apply(&database, "").await;
    insert(&database, "orders", 1).await;
    let changes = watch.changes(3).await;
    assert_eq!(
        crate::conversions::operations(&changes),
        ["drop", "dropDatabase", "insert"]
    );
}

/// Drivers have looped on a cursor that an invalidation had closed. A watch of something that is
/// gone asks MongoDB about once a second, and costs almost nothing.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_watch_of_a_dropped_namespace_does_not_spin() {
    let database = Database::options().start().await;
    // A process of its own, so that no other test adds to its CPU time.
    let weir = ServeProcess::start(database.uri(), &[]).await;
    let mut client = weir.client().await;
    let mut watches = Vec::new();
    for scope in [&["orders"][..], &["orders", "items"], &[]] {
        insert(&database, "orders", 0).await;
        let request = pb::WatchRequest {
            invalidate_policy: pb::InvalidatePolicy::Continue.into(),
            operations: vec![pb::OperationType::Insert.into()],
            progress_interval: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..database.watch_request(scope)
        };
        let watch = WatchStream::open(&mut client, request).await;
        let mut watch = watch.expect("the watch opens");
        database.database().drop().await.unwrap();
        watch.next_invalidated().await;
        watches.push(watch);
    }
    // The watches opened first see the databases of the later ones come and go.
    insert(&database, "orders", 0).await;
    database.collection("orders").drop().await.unwrap();
    for watch in &mut watches {
        loop {
            if let Some(Kind::Progress(_)) = watch.next().await.kind {
                break;
            }
        }
    }

    // The test measures that nothing happens, so there is no condition to wait for.
    let (cpu, begin) = (weir.process.cpu_time(), Instant::now());
    let getmores = database.getmore_count().await;
    sleep(Duration::from_secs(2)).await;
    let getmores = database.getmore_count().await - getmores;
    let (cpu, elapsed) = (weir.process.cpu_time() - cpu, begin.elapsed());

    // One a second for each of the three watches, and one each in progress.
    let seconds = i64::try_from(elapsed.as_secs()).expect("a short while");
    let most = 3 * (seconds + 2);
    assert!(
        (1..=most).contains(&getmores),
        "{getmores} getMores in {elapsed:?}"
    );
    assert!(cpu < elapsed / 5, "{cpu:?} of CPU in {elapsed:?}");
}
