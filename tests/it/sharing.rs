//! Few change streams on MongoDB serve many watches: what each watch gets, and what they cost.

use crate::conversions::{eq, field, value};
use crate::support::orders::{ORDERS, id, insert};
use crate::support::{Database, ServeProcess, WatchStream, Weir, error_reason, eventually, within};
use futures::future::join_all;
use mongodb::bson::doc;
use pb::FeedMode::{Auto, Dedicated, Shared};
use pb::field_filter::Operator;
use serde_json::json;
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;
use weir::pb;
use weir::pb::watch_service_client::WatchServiceClient;

/// Passes every filter made by [`only_id`].
const LAST: i32 = 1000;

/// A filter for the document with this number, and the last one.
fn only_id(number: i32) -> pb::Filter {
    let list = json!([number, LAST]);
    let Some(prost_types::value::Kind::ListValue(list)) = value(list).kind else {
        unreachable!("an array is a list");
    };
    field("_id", Operator::In(list))
}

fn filtered(database: &Database, mode: pb::FeedMode, filter: pb::Filter) -> pb::WatchRequest {
    pb::WatchRequest {
        filters: vec![filter],
        feed_mode: mode.into(),
        ..database.watch_request(&[ORDERS])
    }
}

fn in_mode(database: &Database, mode: pb::FeedMode) -> pb::WatchRequest {
    pb::WatchRequest {
        feed_mode: mode.into(),
        ..database.watch_request(&[ORDERS])
    }
}

async fn ids(watch: &mut WatchStream, count: usize) -> Vec<i32> {
    watch.changes(count).await.iter().map(id).collect()
}

/// Opens all of them at once.
async fn open_all(
    client: &WatchServiceClient<Channel>,
    requests: impl IntoIterator<Item = pb::WatchRequest>,
) -> Vec<WatchStream> {
    let opening = requests.into_iter().map(|request| {
        let mut client = client.clone();
        async move { WatchStream::open(&mut client, request).await }
    });
    let opened: Result<Vec<_>, _> = join_all(opening).await.into_iter().collect();
    opened.expect("every watch opens")
}

#[tokio::test]
async fn two_hundred_equal_watches_cost_mongodb_one_cursor() {
    const WATCHES: usize = 200;
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let request = || filtered(&database, Auto, eq("status", json!("new")));
    let mut watches = open_all(&weir.client().await, (0..WATCHES).map(|_| request())).await;
    assert_eq!(database.open_cursors().await, 1);
    assert_eq!(weir.metrics().await.sum("weir_feeds"), 1.0);
    let orders = database.collection(ORDERS);
    for id in 0..6 {
        let status = if id % 2 == 0 { "new" } else { "paid" };
        let document = doc! { "_id": id, "status": status };
        orders.insert_one(document).await.expect("an insert");
    }
    for watch in &mut watches {
        assert_eq!(ids(watch, 3).await, [0, 2, 4]);
    }
    // MongoDB filtered once for all watches, and each event was encoded once.
    let metrics = weir.metrics().await;
    assert_eq!(metrics.sum("weir_events_received_total"), 3.0);
    assert_eq!(metrics.sum("weir_event_encodings_total"), 3.0);
    assert_eq!(metrics.sum("weir_events_sent_total"), 3.0 * WATCHES as f64);
    assert_eq!(database.open_cursors().await, 1);
}

/// By default a watch gets its own stream while its scope has few, and shares one beyond that; also
/// when many open at the same moment.
#[tokio::test]
async fn distinct_filters_cost_mongodb_a_bounded_number_of_cursors() {
    const WATCHES: i32 = 40;
    let database = Database::options().start().await;
    let few = ["--feeds-per-scope", "3"];
    let weir = ServeProcess::start(database.uri(), &few).await;
    let requests = (0..WATCHES).map(|number| filtered(&database, Auto, only_id(number)));
    let mut watches = open_all(&weir.client().await, requests).await;
    assert_eq!(database.open_cursors().await, 4);
    let metrics = weir.metrics().await;
    let feeds = |mode| metrics.sum_where("weir_feeds", &[("mode", mode)]);
    assert_eq!((feeds("dedicated"), feeds("shared")), (3.0, 1.0));
    let reported = |mode| {
        let of_mode = watches.iter().filter(|it| it.opened.feed_mode() == mode);
        of_mode.count()
    };
    assert_eq!((reported(Dedicated), reported(Shared)), (3, 37));

    // Another collection has its own few streams.
    let elsewhere = pb::WatchRequest {
        collections: vec!["bills".to_owned()],
        ..filtered(&database, Auto, only_id(1))
    };
    let elsewhere = WatchStream::open(&mut weir.client().await, elsewhere).await;
    let elsewhere = elsewhere.expect("it opens");
    assert_eq!(elsewhere.opened.feed_mode(), Dedicated);

    for id in (0..WATCHES).chain([LAST]) {
        insert(&database, id).await;
    }
    for (number, watch) in (0..).zip(&mut watches) {
        assert_eq!(ids(watch, 2).await, [number, LAST]);
    }
}

#[tokio::test]
async fn a_watch_reports_its_feed_mode() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let mode = async |request| weir.watch(request).await.opened.feed_mode();
    assert_eq!(mode(in_mode(&database, Shared)).await, Shared);
    assert_eq!(mode(in_mode(&database, Dedicated)).await, Dedicated);
    // Without a filter MongoDB has nothing to exclude.
    assert_eq!(mode(in_mode(&database, Auto)).await, Shared);
    let filter = || eq("status", json!("new"));
    assert_eq!(mode(filtered(&database, Auto, filter())).await, Dedicated);
    assert_eq!(mode(filtered(&database, Shared, filter())).await, Shared);
}

/// Every watch gets what it would get if it were the only one.
#[tokio::test]
async fn each_watch_of_a_shared_feed_gets_exactly_its_own_events() {
    use pb::OperationType::{Delete, Insert, Update};
    const DOCUMENTS: i32 = 30;
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let at_least = |id: i32| field("_id", Operator::Gte(value(json!(id))));
    let below = |id: i32| field("_id", Operator::Lt(value(json!(id))));
    type Wanted = fn(pb::OperationType, i32) -> bool;
    let asked: [(Vec<pb::OperationType>, Vec<pb::Filter>, Wanted); 8] = [
        (vec![], vec![], |_, _| true),
        (vec![Insert], vec![], |operation, _| operation == Insert),
        (vec![Update, Delete], vec![], |it, _| it != Insert),
        (vec![], vec![at_least(20)], |_, id| id >= 20),
        (vec![], vec![at_least(10), below(12)], |_, id| {
            id == 10 || id == 11
        }),
        (vec![Delete], vec![below(5)], |it, id| {
            it == Delete && id < 5
        }),
        (vec![], vec![only_id(7)], |_, id| id == 7),
        (vec![Insert], vec![below(-5)], |_, _| false),
    ];
    let client = weir.client().await;
    let formats = [pb::DocumentFormat::Bson, pb::DocumentFormat::Json];
    let requests = asked
        .iter()
        .cycle()
        .zip(0..32)
        .map(|((operations, filters, _), number)| pb::WatchRequest {
            operations: operations.iter().map(|&it| it.into()).collect(),
            filters: filters.clone(),
            document_format: formats[number / 8 % 2].into(),
            ..in_mode(&database, Shared)
        });
    let mut watches = open_all(&client, requests).await;
    assert_eq!(database.open_cursors().await, 1);
    let orders = database.collection(ORDERS);
    let mut written = Vec::new();
    for id in 0..DOCUMENTS {
        orders
            .insert_one(doc! {"_id": id})
            .await
            .expect("an insert");
        written.push((Insert, id));
        if id % 2 == 1 {
            let change = doc! {"$set": {"status": "paid"}};
            let update = orders.update_one(doc! {"_id": id - 1}, change);
            update.await.expect("an update");
            written.push((Update, id - 1));
        }
        if id % 3 == 2 {
            let deletion = orders.delete_one(doc! {"_id": id - 1});
            deletion.await.expect("a deletion");
            written.push((Delete, id - 1));
        }
    }
    // A drop passes every filter, so that every watch sees the end.
    orders.drop().await.expect("a drop");
    for (watch, (operations, filters, wanted)) in watches.iter_mut().zip(asked.iter().cycle()) {
        let expected: Vec<_> = written
            .iter()
            .copied()
            .filter(|(operation, id)| wanted(*operation, *id))
            .collect();
        let mut got = Vec::new();
        for _ in &expected {
            let change = watch.next_change().await;
            got.push((change.operation(), number(&change)));
        }
        assert_eq!(got, expected, "{operations:?} {filters:?}");
        if operations.is_empty() {
            let change = watch.next_change().await;
            assert_eq!(change.operation(), pb::OperationType::Drop);
        }
        watch.next_invalidated().await;
    }
}

/// The id of a change's document, in BSON or JSON.
fn number(change: &pb::ChangeEvent) -> i32 {
    let key = change
        .document_key
        .as_ref()
        .and_then(|it| it.value.as_ref());
    match key {
        Some(pb::document::Value::Json(key)) => {
            let key: serde_json::Value = serde_json::from_str(key).expect("JSON");
            let number = key["_id"].as_i64().expect("a number");
            i32::try_from(number).expect("a small one")
        }
        _ => id(change),
    }
}

/// At the limit of feeds, watches that fit into an open feed are still admitted.
#[tokio::test]
async fn a_watch_that_fits_an_open_feed_is_admitted_at_the_limit_of_feeds() {
    let database = Database::options().start().await;
    let weir = Weir::with(&database, |config| config.max_feeds = 2).await;
    let _shared = weir.watch(in_mode(&database, Shared)).await;
    let dedicated = filtered(&database, Dedicated, only_id(1));
    let _dedicated = weir.watch(dedicated.clone()).await;
    for another in [
        filtered(&database, Dedicated, only_id(2)),
        database.watch_request(&["bills"]),
    ] {
        let refused = weir.try_watch(another).await.err();
        let status = refused.expect("there is no room for a third feed");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert_eq!(error_reason(&status), "WATCH_LIMIT_EXCEEDED");
        let quota = status.get_details_quota_failure().expect("a QuotaFailure");
        assert_eq!(quota.violations[0].subject, "feeds");
    }
    weir.watch(dedicated).await;
    // In automatic mode a new filter uses an open feed.
    let another = weir.watch(filtered(&database, Auto, only_id(3))).await;
    assert_eq!(another.opened.feed_mode(), Shared);
    assert_eq!(database.open_cursors().await, 2);
}

/// A feed is being closed while another watch opens on it.
#[tokio::test]
async fn a_watch_that_opens_as_the_last_one_leaves_misses_nothing() {
    const ROUNDS: i32 = 60;
    let database = Database::options().start().await;
    let no_linger = ["--feed-linger", "0s"];
    let weir = ServeProcess::start(database.uri(), &no_linger).await;
    let client = weir.client().await;
    let request = || in_mode(&database, Shared);
    let mut last = WatchStream::open(&mut client.clone(), request())
        .await
        .expect("it opens");
    for round in 0..ROUNDS {
        let leaving = async {
            for _ in 0..fastrand::usize(..100) {
                tokio::task::yield_now().await;
            }
            drop(last);
        };
        let mut another = client.clone();
        let (mut opened, ()) = tokio::join!(open_all(&another, [request(), request()]), leaving);
        insert(&database, round).await;
        for watch in &mut opened {
            assert_eq!(id(&watch.next_change().await), round);
        }
        drop(opened);
        let next = WatchStream::open(&mut another, request()).await;
        last = next.expect("it opens");
    }
    drop(last);
    eventually("no feed and no cursor is left", async || {
        weir.metrics().await.sum("weir_feeds") == 0.0 && database.open_cursors().await == 0
    })
    .await;
}

/// Each feed occupies a connection almost all the time; the pool has room for all feeds and for
/// other operations, whatever the URI says.
#[tokio::test]
async fn open_streams_leave_connections_for_other_operations() {
    const FEEDS: usize = 24;
    let database = Database::options().start().await;
    let uri = format!("{}&maxPoolSize=3", database.uri());
    let weir = Weir::at(&uri, |_| {}).await;
    let mut client = weir.client().await;
    let requests = (0..FEEDS).map(|number| database.watch_request(&[&format!("orders_{number}")]));
    let mut watches = open_all(&client, requests).await;
    for _ in 0..5 {
        let info = client.get_server_info(pb::GetServerInfoRequest {});
        let info = within("an answer beside the streams", info).await;
        info.expect("MongoDB is there");
    }
    for (number, watch) in watches.iter_mut().enumerate() {
        let orders = database.collection(&format!("orders_{number}"));
        orders.insert_one(doc! {"_id": 1}).await.expect("an insert");
        assert_eq!(id(&watch.next_change().await), 1);
    }
}

/// Sharing a feed shows no watch anything outside its scope, and gives it no position in another
/// scope.
#[tokio::test]
async fn a_shared_feed_shows_no_watch_another_scope() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let of = |collections: &[&str]| pb::WatchRequest {
        feed_mode: Shared.into(),
        ..database.watch_request(collections)
    };
    let scopes: [&[&str]; 4] = [&["orders"], &["bills"], &["orders", "bills"], &[]];
    let mut watches = open_all(&weir.client().await, scopes.map(of)).await;
    let everything = weir.try_watch(pb::WatchRequest::default()).await;
    let status = everything
        .err()
        .expect("the deployment is not for watching");
    assert_eq!(error_reason(&status), "NAMESPACE_ACCESS_DENIED");
    for (id, name) in (0..).zip(["orders", "bills", "secrets"].into_iter().cycle().take(9)) {
        let collection = database.collection(name);
        collection
            .insert_one(doc! {"_id": id})
            .await
            .expect("an insert");
    }
    let expected: [&[i32]; 4] = [
        &[0, 3, 6],
        &[1, 4, 7],
        &[0, 1, 3, 4, 6, 7],
        &[0, 1, 2, 3, 4, 5, 6, 7, 8],
    ];
    let mut tokens = Vec::new();
    for (watch, expected) in watches.iter_mut().zip(expected) {
        let changes = watch.changes(expected.len()).await;
        let seen: Vec<i32> = changes.iter().map(id).collect();
        assert_eq!(seen, expected);
        tokens.push(changes[0].resume_token.clone());
    }
    // Each feed on which the token could be tried is open, and holds its event.
    for (scope, request) in scopes.map(of).into_iter().enumerate() {
        for (origin, token) in tokens.iter().enumerate() {
            let start = Some(pb::watch_request::Start::ResumeToken(token.clone()));
            let resumed = weir
                .try_watch(pb::WatchRequest {
                    start,
                    ..request.clone()
                })
                .await;
            match resumed {
                Ok(mut watch) => {
                    assert_eq!(scope, origin, "a token works only in its own scope");
                    let rest = &expected[scope][1..];
                    assert_eq!(ids(&mut watch, rest.len()).await, rest);
                }
                Err(status) => {
                    assert_ne!(scope, origin, "{status:?}");
                    assert_eq!(status.code(), Code::InvalidArgument);
                    assert_eq!(error_reason(&status), "RESUME_TOKEN_MISMATCH");
                }
            }
        }
    }
}
