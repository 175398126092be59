//! The promise of `Progress`: every matching event up to its token was sent before it.

use std::time::Duration;

use crate::conversions::{eq, field};
use crate::support::orders::{ORDERS, id};
use crate::support::{Database, WatchStream, Weir, eventually, within};
use bytes::Bytes;
use futures::future::join_all;
use mongodb::bson::doc;
use pb::FeedMode::{Auto, Dedicated, Shared};
use pb::field_filter::Operator;
use pb::watch_response::Kind;
use serde_json::json;
use tokio::time::Instant;
use weir::pb;

const EACH_SECOND: prost_types::Duration = prost_types::Duration {
    seconds: 1,
    nanos: 0,
};

fn request(database: &Database, mode: pb::FeedMode, filters: &[pb::Filter]) -> pb::WatchRequest {
    pb::WatchRequest {
        filters: filters.to_vec(),
        feed_mode: mode.into(),
        progress_interval: Some(EACH_SECOND),
        ..database.watch_request(&[ORDERS])
    }
}

/// Writes one document after another while it is polled. Now and then one is rare.
async fn write(database: &Database) {
    let orders = database.collection(ORDERS);
    let mut since = Instant::now();
    for id in 0.. {
        let rare = since.elapsed() > Duration::from_millis(1300);
        if rare {
            since = Instant::now();
        }
        let document = doc! {"_id": id, "rare": rare, "parity": id % 2};
        orders.insert_one(document).await.expect("an insert");
    }
}

/// The ids of the changes that a watch has sent, and the number of changes before each progress.
#[derive(Debug, Default)]
struct Received {
    ids: Vec<i32>,
    progresses: Vec<(Bytes, usize)>,
}

impl Received {
    async fn until_progressed(&mut self, watch: &mut WatchStream, times: usize) {
        while self.progresses.len() < times {
            self.take(watch).await;
        }
    }

    async fn until_id(&mut self, watch: &mut WatchStream, last: i32) {
        let whole = async {
            while self.ids.last() != Some(&last) {
                self.take(watch).await;
            }
        };
        within("the last document", whole).await;
    }

    async fn take(&mut self, watch: &mut WatchStream) {
        match watch.next().await.kind {
            Some(Kind::Changes(batch)) => self.ids.extend(batch.changes.iter().map(id)),
            Some(Kind::Progress(_)) => self.progresses.push((watch.token(), self.ids.len())),
            _ => {}
        }
    }
}

/// Many watches, one writer that never pauses: a client that resumes from a progress token misses
/// nothing and gets nothing twice.
#[tokio::test]
async fn progress_never_overtakes_data_under_concurrent_writes() {
    const LAST: i32 = 1_000_000;
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let rare = || eq("rare", json!(true));
    let parity = |it: i32| eq("parity", json!(it));
    let either = |filters| pb::Filter {
        kind: Some(pb::filter::Kind::AnyOf(pb::FilterGroup { filters })),
    };
    let kinds = [
        (Shared, vec![rare()]),
        (
            Shared,
            vec![either(vec![rare(), field("none", Operator::Exists(true))])],
        ),
        (Shared, vec![rare(), parity(0)]),
        (Shared, vec![rare(), parity(1)]),
        (Dedicated, vec![rare()]),
        (Auto, vec![rare(), parity(0)]),
    ];
    let mut watches = Vec::new();
    for (mode, filters) in kinds.iter().cycle().take(18) {
        // The last document of every watch passes as well.
        let all = pb::Filter {
            kind: Some(pb::filter::Kind::AllOf(pb::FilterGroup {
                filters: filters.clone(),
            })),
        };
        let filter = either(vec![all, eq("_id", json!(LAST))]);
        let watch_request = request(&database, *mode, &[filter]);
        let watch = weir.watch(watch_request.clone()).await;
        watches.push((watch_request, watch, Received::default()));
    }
    let progressing = watches.iter_mut().map(async |(_, watch, reported)| {
        reported.until_progressed(watch, 5).await;
    });
    tokio::select! {
        _ = within("progress", join_all(progressing)) => {}
        () = write(&database) => {}
    }
    let orders = database.collection(ORDERS);
    let last = doc! {"_id": LAST};
    orders.insert_one(last).await.expect("an insert");
    let replica = Weir::start(&database).await;
    let mut checked = 0;
    for (watch_request, watch, reported) in &mut watches {
        reported.until_id(watch, LAST).await;
        for (token, delivered) in &reported.progresses {
            let resumed = pb::WatchRequest {
                start: Some(pb::watch_request::Start::ResumeToken(token.clone())),
                ..watch_request.clone()
            };
            let rest = &reported.ids[*delivered..];
            if rest.is_empty() {
                // It came after the last document.
                continue;
            }
            let mut resumed = replica.watch(resumed).await;
            let mut again = Received::default();
            again.until_id(&mut resumed, LAST).await;
            assert_eq!(
                again.ids,
                rest,
                "{:?}, which got {:?}",
                watch_request.feed_mode(),
                reported.ids
            );
            checked += 1;
        }
    }
    assert!(checked >= 18 * 5, "only {checked} tokens");
}

/// A watch of a shared feed that is always busy, with no event for this watch.
#[tokio::test]
async fn progress_advances_although_a_busy_shared_feed_has_nothing_for_the_watch() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut watch = weir
        .watch(request(&database, Shared, &[eq("none", json!(1))]))
        .await;
    let progress = async {
        let mut times = Vec::new();
        while times.len() < 4 {
            let progress = watch.next_progress().await;
            times.push(progress.cluster_time.expect("how far it is"));
        }
        times
    };
    let times = tokio::select! {
        times = progress => times,
        () = write(&database) => unreachable!("it continues for ever"),
    };
    let seconds = times[3].seconds - times[0].seconds;
    assert!(seconds >= 2, "{times:?}");
}

/// The same for a watch with an end time, which it would never reach.
#[tokio::test]
async fn a_bounded_watch_ends_although_a_busy_shared_feed_has_nothing_for_it() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut client = weir.client().await;
    let now = client.get_server_info(pb::GetServerInfoRequest {}).await;
    let now = now.expect("an answer").into_inner().upstream_time;
    let bounded = pb::WatchRequest {
        end_time: Some(prost_types::Timestamp {
            seconds: i64::from(now.expect("a time").seconds) + 1,
            nanos: 0,
        }),
        ..request(&database, Shared, &[eq("none", json!(1))])
    };
    let mut watch = weir.watch(bounded).await;
    tokio::select! {
        status = watch.end() => assert_eq!(status.code(), tonic::Code::Ok, "{status:?}"),
        () = write(&database) => unreachable!("it continues for ever"),
    }
}

/// MongoDB reads history in pieces, and a piece without a matching event is not its end.
#[tokio::test]
async fn a_bounded_watch_of_history_ends_only_when_it_has_read_all_of_it() {
    const BETWEEN: i32 = 10_000;
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let rare = || request(&database, Auto, &[eq("rare", json!(true))]);
    let mut watch = weir.watch(rare()).await;
    let orders = database.collection(ORDERS);
    let document = |id: i32, rare: bool| doc! {"_id": id, "rare": rare};
    orders
        .insert_one(document(0, true))
        .await
        .expect("an insert");
    let token = watch.next_change().await.resume_token;
    drop(watch);
    let many = (1..BETWEEN).map(|id| document(id, false));
    orders.insert_many(many).await.expect("inserts");
    orders
        .insert_one(document(BETWEEN, true))
        .await
        .expect("an insert");
    let mut client = weir.client().await;
    let mut now = async || {
        let info = client.get_server_info(pb::GetServerInfoRequest {}).await;
        let now = info.expect("an answer").into_inner().upstream_time;
        now.expect("a time").seconds
    };
    let end = now().await;
    eventually("its last second is over", async || {
        let noise = database.collection("noise");
        noise
            .insert_one(doc! {"text": "x"})
            .await
            .expect("an insert");
        now().await > end + 1
    })
    .await;

    let replica = Weir::start(&database).await;
    let bounded = pb::WatchRequest {
        start: Some(pb::watch_request::Start::ResumeToken(token)),
        end_time: Some(prost_types::Timestamp {
            seconds: end.into(),
            nanos: 0,
        }),
        ..rare()
    };
    let mut watch = replica.watch(bounded).await;
    assert_eq!(id(&watch.next_change().await), BETWEEN);
    assert_eq!(watch.end().await.code(), tonic::Code::Ok);
}
