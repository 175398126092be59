//! Clocks that jump: MongoDB's operation time, and the cluster and wall times of events. Positions,
//! progress and gauges are not affected.

use crate::support::orders::id;
use crate::support::stand_in::{FIRST_SECOND, StandIn, insert, time};
use crate::support::{Figure, WatchStream, Weir, eventually, tally, within};
use mongodb::bson::{DateTime, Document, Timestamp};
use weir::pb;
use weir::pb::watch_response::Kind;

const GAUGES: [&str; 3] = [
    "weir_feed_lag_seconds",
    "weir_delivery_lag_seconds",
    "weir_oplog_headroom_seconds",
];

/// One event, with the clocks' values when it comes.
struct Tick {
    /// The server's operation time.
    operation: Timestamp,
    /// The event's time in the oplog.
    cluster: Timestamp,
    /// The event's wall time, in milliseconds since 1970.
    wall: i64,
}

/// Clocks that go ahead, back, to both ends of their range, and on as if nothing had happened.
fn ticks() -> Vec<Tick> {
    let now = DateTime::now().timestamp_millis();
    let later = |seconds: u32| FIRST_SECOND + seconds;
    [
        (later(10), later(10), now),
        (later(5), later(11), now + 3_600_000),
        (later(100_000), later(12), 0),
        (later(3), later(2), -1_000_000_000_000),
        (later(20), later(50_000), i64::MIN),
        (0, later(21), i64::MAX),
        (u32::MAX, later(22), 253_402_300_800_000),
        (later(30), u32::MAX, now),
        (later(31), 0, now - 3_600_000),
        (later(32), later(32), now),
    ]
    .into_iter()
    .map(|(operation, cluster, wall)| Tick {
        operation: time(operation, 1),
        cluster: time(cluster, 1),
        wall,
    })
    .collect()
}

impl Tick {
    fn event(&self, id: i32) -> Document {
        let mut event = insert(id);
        event.insert("clusterTime", self.cluster);
        event.insert("wallTime", DateTime::from_millis(self.wall));
        event
    }
}

/// A watch and the times that it reported.
struct Reader {
    watch: WatchStream,
    /// The id and the token of each change.
    changes: Vec<(i32, bytes::Bytes)>,
    /// For each progress: the time reached, and MongoDB's own time.
    progress: Vec<(Option<pb::ClusterTime>, Option<pb::ClusterTime>)>,
}

impl Reader {
    async fn open(weir: &Weir, request: pb::WatchRequest) -> Self {
        let request = pb::WatchRequest {
            progress_interval: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..request
        };
        Self {
            watch: weir.watch(request).await,
            changes: Vec::new(),
            progress: Vec::new(),
        }
    }

    async fn until(&mut self, what: &str, enough: impl Fn(&Self) -> bool) {
        let whole = async {
            while !enough(self) {
                let message = self.watch.next().await;
                match message.kind {
                    Some(Kind::Changes(batch)) => {
                        let changes = batch.changes.into_iter();
                        self.changes
                            .extend(changes.map(|it| (id(&it), it.resume_token)));
                    }
                    Some(Kind::Progress(progress)) => {
                        self.progress
                            .push((progress.cluster_time, progress.upstream_time));
                    }
                    _ => {}
                }
            }
        };
        within(what, whole).await;
    }

    async fn until_change(&mut self, number: i32) {
        self.until(&format!("change {number}"), |it| {
            it.changes.last().is_some_and(|(id, _)| *id == number)
        })
        .await;
    }

    async fn until_progress(&mut self) {
        let before = self.progress.len();
        self.until("progress", |it| it.progress.len() > before)
            .await;
    }
}

fn ordered(time: &pb::ClusterTime) -> (u32, u32) {
    (time.seconds, time.increment)
}

/// Checks that every gauge about time is a number and not negative.
async fn assert_gauges_are_valid(weir: &Weir) {
    let (_, metrics) = weir.admin("/metrics").await;
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        if GAUGES.iter().any(|name| line.starts_with(name)) {
            let (_, value) = line.rsplit_once(' ').expect("a sample has a value");
            let value: f64 = value.parse().expect("a sample's value is a number");
            assert!(value.is_finite() && value >= 0.0, "{line}");
        }
    }
}

/// The time in progress never goes back, whatever the clocks do, and no gauge is negative.
#[tokio::test]
async fn progress_never_goes_back_and_no_gauge_is_negative_when_clocks_jump() {
    let stand_in = StandIn::start();
    let log = stand_in.log("orders");
    let weir = Weir::at(stand_in.uri(), |_| {}).await;
    let mut reader = Reader::open(&weir, stand_in.watch_request(&["orders"])).await;
    let ticks = ticks();
    for (number, tick) in (0..).zip(&ticks) {
        stand_in.set_clock(tick.operation);
        // With a position between events, and with only the last event's.
        let without_position = number == 3;
        if without_position {
            log.alter(|reply| reply.post_batch_token = None);
        } else {
            log.restore_replies();
        }
        log.push(tick.event(number));
        reader.until_change(number).await;
        assert_gauges_are_valid(&weir).await;
        reader.until_progress().await;
        if number == 2 {
            // Twice, as a progress has the time of the previous reply.
            reader.until_progress().await;
        }
        assert_gauges_are_valid(&weir).await;
    }
    let ids: Vec<i32> = reader.changes.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, Vec::from_iter(0..ids.len() as i32));
    let reached = reader
        .progress
        .iter()
        .filter_map(|(reached, _)| reached.as_ref());
    assert!(
        reached.clone().map(ordered).is_sorted(),
        "progress went back: {:?}",
        reached.map(ordered).collect::<Vec<_>>()
    );
    let upstream = reader.progress.iter().filter_map(|(_, now)| now.as_ref());
    assert!(
        upstream.clone().map(ordered).is_sorted(),
        "MongoDB's time went back: {:?}",
        upstream.map(ordered).collect::<Vec<_>>()
    );
    tally(Figure::BadInputs, ticks.len() as u64);
}

/// MongoDB's tokens, and no clock, say where to resume.
#[tokio::test]
async fn every_token_resumes_exactly_when_clocks_jump() {
    let stand_in = StandIn::start();
    let log = stand_in.log("orders");
    let weir = Weir::without_linger_at(stand_in.uri()).await;
    let mut reader = Reader::open(&weir, stand_in.watch_request(&["orders"])).await;
    let ticks = ticks();
    let last = i32::try_from(ticks.len()).expect("there are few") - 1;
    let mut tokens = vec![(-1, reader.watch.token())];
    for (number, tick) in (0..).zip(&ticks) {
        stand_in.set_clock(tick.operation);
        log.push(tick.event(number));
        reader.until_change(number).await;
        tokens.extend(reader.changes.last().cloned());
        reader.until_progress().await;
        tokens.push((number, reader.watch.token()));
    }
    // Once with the feed that saw it all, and once after it was closed.
    for live in [true, false] {
        for (after, token) in &tokens {
            let request = pb::WatchRequest {
                start: Some(pb::watch_request::Start::ResumeToken(token.clone())),
                ..stand_in.watch_request(&["orders"])
            };
            let mut again = Reader::open(&weir, request).await;
            if *after < last {
                again.until_change(last).await;
            }
            let ids: Vec<i32> = again.changes.iter().map(|(id, _)| *id).collect();
            let expected: Vec<i32> = (after + 1..=last).collect();
            assert_eq!(ids, expected, "after {after}, with the feed: {live}");
        }
        if live {
            drop(reader);
            weir.wait_for_no_feeds().await;
            reader = Reader::open(&weir, stand_in.watch_request(&["elsewhere"])).await;
        }
    }
    tally(Figure::BadInputs, tokens.len() as u64);
}

/// The headroom is zero, not negative, when the oplog no longer reaches back to the position.
#[tokio::test]
async fn the_oplog_headroom_is_zero_when_its_oldest_entry_is_ahead() {
    let stand_in = StandIn::start();
    let log = stand_in.log("orders");
    let weir = Weir::at(stand_in.uri(), |_| {}).await;
    let mut reader = Reader::open(&weir, stand_in.watch_request(&["orders"])).await;
    stand_in.set_oldest(time(FIRST_SECOND + 1_000_000, 1));
    log.push(insert(0));
    reader.until_change(0).await;
    let headroom = async || {
        let (_, metrics) = weir.admin("/metrics").await;
        let mut lines = metrics.lines().filter(|line| !line.starts_with('#'));
        let line = lines.find(|line| line.starts_with("weir_oplog_headroom_seconds"))?;
        line.rsplit_once(' ')?.1.parse::<f64>().ok()
    };
    eventually("the oplog's oldest entry was read", async || {
        headroom().await.is_some()
    })
    .await;
    assert_eq!(headroom().await, Some(0.0));
    tally(Figure::BadInputs, 1);
}
