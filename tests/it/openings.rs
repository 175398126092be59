//! Watches that are opened and cancelled, or whose streams MongoDB does not open: they delay nobody else's
//! deliveries and openings, and leave nothing behind.

use std::time::Duration;

use crate::support::policy_server::{by, keys};
use crate::support::stand_in::{Answer, Played, Rule, StandIn, insert};
use crate::support::{WatchStream, Weir, error_info, eventually};
use futures::future::{join_all, select_all};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use weir::pb;
use weir::pb::filter::Kind;
use weir::pb::watch_service_client::WatchServiceClient;

/// The streams that may be opened at once for one caller, and in all.
const PER_CALLER: u64 = 4;
const IN_ALL: u64 = 8;

const FLOOD: &str = "flood";
const OTHER: &str = "other";
const THIRD: &str = "third";

/// A stand-in, and a server whose clients have API keys.
struct Servers {
    stand_in: StandIn,
    weir: Weir,
    _keys: TempDir,
}

impl Servers {
    async fn start() -> Self {
        let stand_in = StandIn::start();
        let folder = TempDir::new().expect("a folder");
        let file = folder.path().join("keys");
        let clients = [FLOOD, OTHER, THIRD].map(|name| (name, json!({})));
        std::fs::write(&file, keys(&clients)).expect("a file");
        let weir = Weir::at(stand_in.uri(), |config| {
            config.auth.api_keys_file = Some(file);
            config.feed_linger = Duration::ZERO;
        })
        .await;
        Self {
            stand_in,
            weir,
            _keys: folder,
        }
    }

    /// Has MongoDB open no stream whose collection has a name that begins so, or only late.
    fn stuck(&self, prefix: &'static str, answer: Answer) -> Played {
        let is_stuck = move |it: &crate::support::stand_in::Request| {
            it.collection().is_some_and(|name| name.starts_with(prefix))
        };
        self.stand_in
            .play(Rule::on("aggregate").when(is_stuck).answer(answer))
    }

    async fn watch(&self, name: &str, collection: &str) -> Result<WatchStream, Status> {
        let request = by(name, self.stand_in.watch_request(&[collection]));
        WatchStream::open(&mut self.weir.client().await, request).await
    }

    /// Opens this many watches of different collections, all on one connection.
    async fn open_many(
        &self,
        name: &str,
        prefix: &str,
        count: usize,
    ) -> JoinSet<Result<(), Status>> {
        let client = WatchServiceClient::new(self.weir.channel().await);
        let mut opening = JoinSet::new();
        for number in 0..count {
            let mut client = client.clone();
            let collection = format!("{prefix}_{number}");
            let request = by(name, self.stand_in.watch_request(&[&collection]));
            opening.spawn(async move { client.watch(request).await.map(drop) });
        }
        opening
    }

    async fn opening_watches(&self) -> f64 {
        let metrics = self.weir.metrics().await;
        metrics.sum_where("weir_watches", &[("state", "opening")])
    }
}

/// Streams that MongoDB does not open take a part of the turns, whatever becomes of their callers. Feeds are read
/// on, others have their turn, and a caller that waits too long is told so.
#[tokio::test]
async fn streams_that_mongodb_does_not_open_hold_up_their_own_caller_alone() {
    let servers = Servers::start().await;
    let log = servers.stand_in.log("orders");
    let mut watch = servers.watch(OTHER, "orders").await.expect("a watch");
    let stuck = servers.stuck("stuck", Answer::Hang);
    let mut flood = servers.open_many(FLOOD, "stuck", 40).await;
    eventually("the caller has its turns", async || {
        stuck.count() == PER_CALLER && servers.opening_watches().await == 40.0
    })
    .await;
    // Cancelled, they still have their turns: MongoDB works on them.
    flood.shutdown().await;
    eventually("the calls have ended", async || {
        servers.opening_watches().await == 0.0
    })
    .await;
    // Of other collections, so that they join none of those.
    let mut again = servers.open_many(FLOOD, "stuck_again", 3).await;
    eventually("they wait", async || servers.opening_watches().await == 3.0).await;
    for number in 0..50 {
        log.push(insert(number));
        watch.next_change().await;
        if number % 10 == 0 {
            let collection = format!("orders_{number}");
            let opened = servers.watch(OTHER, &collection).await;
            opened.expect("it is another caller's turn");
        }
    }
    assert_eq!(stuck.count(), PER_CALLER);
    let refused = again.join_next().await.expect("one of them");
    let refused = refused.expect("it runs").expect_err("it waited too long");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(error_info(&refused).reason, "WATCH_LIMIT_EXCEEDED");
    let rejected = [("limit", "openings")];
    let metrics = servers.weir.metrics().await;
    assert!(metrics.sum_where("weir_limit_rejections_total", &rejected) >= 1.0);
}

/// Turns go round: a third caller has one although two others wait for all of them.
#[tokio::test]
async fn turns_to_open_streams_go_round_by_caller() {
    let servers = Servers::start().await;
    let late = servers.stuck("late", Answer::Usual.after(Duration::from_millis(200)));
    let mut floods = [
        servers.open_many(FLOOD, "late_a", 40).await,
        servers.open_many(OTHER, "late_b", 40).await,
    ];
    eventually("all turns are taken", async || {
        late.count() >= IN_ALL && servers.opening_watches().await >= 60.0
    })
    .await;
    let before = late.count();
    let third = servers.watch(THIRD, "orders").await;
    third.expect("its turn comes");
    let during = late.count() - before;
    assert!(during <= IN_ALL * 2, "{during} had their turns before it");
    for flood in &mut floods {
        flood.shutdown().await;
    }
}

/// What is opened for nobody is closed again, and few streams are opened for many calls.
#[tokio::test]
async fn watches_opened_and_cancelled_at_once_leave_nothing_and_delay_nobody() {
    const ROUNDS: usize = 40;
    const AT_ONCE: usize = 25;
    let servers = Servers::start().await;
    let log = servers.stand_in.log("orders");
    let mut watch = servers.watch(OTHER, "orders").await.expect("a watch");
    let mut number = 0;
    let client = WatchServiceClient::new(servers.weir.channel().await);
    for round in 0..ROUNDS {
        let calls = (0..AT_ONCE).map(|call| {
            let value = f64::from(u32::try_from(round * AT_ONCE + call).expect("few"));
            let mut request = servers.stand_in.watch_request(&["flood"]);
            request.filters = vec![pb::Filter {
                kind: Some(Kind::Field(pb::FieldFilter {
                    path: "n".to_owned(),
                    operator: Some(pb::field_filter::Operator::Eq(value.into())),
                })),
            }];
            request.set_feed_mode(pb::FeedMode::Dedicated);
            let mut client = client.clone();
            Box::pin(async move { client.watch(by(FLOOD, request)).await.map(drop) })
        });
        // The first answer, or the next event of the other watch, ends all of them.
        log.push(insert(number));
        number += 1;
        tokio::select! {
            _ = select_all(calls) => {
                watch.next_change().await;
            }
            _ = watch.next_change() => {}
        }
    }
    servers
        .watch(OTHER, "invoices")
        .await
        .expect("others are served");
    eventually("one stream is left", async || {
        servers.stand_in.open_cursors() == 1
    })
    .await;
    let opened = servers.stand_in.log("flood").command_count("aggregate");
    let calls = u64::try_from(ROUNDS * AT_ONCE).expect("few");
    println!("{opened} streams were opened for {calls} calls");
    let connections = servers.stand_in.connections();
    assert!(connections <= 96, "{connections} connections");
    log.push(insert(number));
    watch.next_change().await;
    let others = join_all((0..8).map(|_| servers.watch(THIRD, "orders"))).await;
    assert!(others.into_iter().all(|opened| opened.is_ok()));
}
