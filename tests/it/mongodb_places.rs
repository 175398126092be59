//! Positions in a stream that are true on real servers, played by a scripted mongod and mongos: a place
//! never moves back, an event that can't be sent costs nothing but itself, one passing error ends no
//! watch, and an early empty reply proves nothing.

mod isolated;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::conversions::id;
use crate::support::stand_in::{
    Answer, Event, FIRST_SECOND, Log, Played, Request, Rule, ServerError, StandIn, Version, change,
    high_water_token, time,
};
use crate::support::{WatchStream, Weir, error_info, eventually};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::future::join_all;
use mongodb::bson::{Bson, Document, doc};
use pb::watch_response::Kind;
use tonic::Status;
use weir::pb;
use weir::pb::watch_request::Start;
use weir::pipeline::{Plan, RequestLimits, Watch};
use weir::source::mongo::{MongoSettings, MongoSource};
use weir::source::{ClusterTime, Position, Source as _};

const ORDERS: &str = "orders";

/// The servers that the tests are played on.
const VERSIONS: [fn() -> Version; 4] = [
    || Version::mongod([8, 2, 11]),
    || Version::mongod([9, 0, 0]),
    || Version::mongos([8, 2, 11]),
    || Version::mongos([9, 0, 1]),
];

/// An event that can't be sent, and the request that fails because of it.
struct Undeliverable {
    name: &'static str,
    event: fn(Document) -> Event,
    request: fn(pb::WatchRequest) -> pb::WatchRequest,
    reason: &'static str,
}

const UNDELIVERABLE: [Undeliverable; 5] = [
    Undeliverable {
        name: "too large with its document",
        event: Event::too_large,
        request: looked_up,
        reason: "UPSTREAM_EVENT_TOO_LARGE",
    },
    // SERVER-91313: a large `_id` beside a field of nearly 16 MiB defeats the split stage.
    Undeliverable {
        name: "too large to split",
        event: Event::too_large_to_split,
        request: |request| request,
        reason: "UPSTREAM_EVENT_TOO_LARGE",
    },
    Undeliverable {
        name: "without a post-image",
        event: Event::without_post_image,
        request: |request| pb::WatchRequest {
            full_document: pb::FullDocument::Required.into(),
            ..request
        },
        reason: "IMAGE_UNAVAILABLE",
    },
    Undeliverable {
        name: "without a pre-image",
        event: Event::without_pre_image,
        request: |request| pb::WatchRequest {
            full_document_before_change: pb::FullDocumentBeforeChange::Required.into(),
            ..request
        },
        reason: "IMAGE_UNAVAILABLE",
    },
    // SERVER-55179: two documents of one key on two shards.
    Undeliverable {
        name: "with an ambiguous look-up",
        event: Event::ambiguous,
        request: looked_up,
        reason: "LOOKUP_AMBIGUOUS",
    },
];

fn looked_up(request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        full_document: pb::FullDocument::UpdateLookup.into(),
        ..request
    }
}

fn update(id: i32) -> Document {
    change("update", ORDERS, id)
}

fn updates(ids: impl IntoIterator<Item = i32>) -> Vec<Event> {
    ids.into_iter().map(|id| update(id).into()).collect()
}

fn numbers(ids: impl IntoIterator<Item = i32>) -> Vec<Bson> {
    ids.into_iter().map(Bson::from).collect()
}

fn from(token: &Bytes, request: &pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token.clone())),
        ..request.clone()
    }
}

async fn ids(watch: &mut WatchStream, count: usize) -> Vec<Bson> {
    watch.changes(count).await.iter().map(id).collect()
}

/// Reads to the end. Returns the ids and the status.
async fn to_the_end(weir: &Weir, request: pb::WatchRequest) -> (Vec<Bson>, Status) {
    match weir.try_watch(request).await {
        Ok(mut watch) => rest(&mut watch).await,
        Err(status) => (Vec::new(), status),
    }
}

async fn rest(watch: &mut WatchStream) -> (Vec<Bson>, Status) {
    let mut ids = Vec::new();
    loop {
        match watch.try_next().await {
            Ok(Some(message)) => {
                if let Some(Kind::Changes(batch)) = message.kind {
                    ids.extend(batch.changes.iter().map(id));
                }
            }
            Ok(None) => panic!("the watch ended with OK after {ids:?}"),
            Err(status) => return (ids, status),
        }
    }
}

fn next_token(status: &Status) -> Bytes {
    let info = error_info(status);
    let token = info.metadata.get("next_token");
    let token = token.unwrap_or_else(|| panic!("no next_token: {status:?}"));
    STANDARD.decode(token).expect("base64").into()
}

/// Records the tokens of the change streams that are opened.
fn record_tokens(stand_in: &StandIn) -> Arc<Mutex<Vec<Document>>> {
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&tokens);
    stand_in.play(Rule::on("aggregate").when(move |request| {
        let token = request.token().cloned();
        record.lock().expect("no panic").extend(token);
        false
    }));
    tokens
}

/// The feed's and a catch-up's events before the one that can't be sent come, the watch ends once, and
/// the place after it works, although the event's own token does not.
async fn is_passed(
    version: fn() -> Version,
    case: &Undeliverable,
    push: impl Fn(&Log, Vec<Event>),
    (before, after): (std::ops::Range<i32>, std::ops::Range<i32>),
) {
    let what = format!("{} {:?}", case.name, version());
    let stand_in = StandIn::start_as(version());
    let orders = stand_in.log(ORDERS);
    let weir = Weir::at(stand_in.uri(), |_| {}).await;
    let plain = stand_in.watch_request(&[ORDERS]);
    let request = (case.request)(plain.clone());
    let mut live = weir.watch(request.clone()).await;
    let start = live.token();
    let mut events = updates(before.clone());
    events.push((case.event)(update(100)));
    events.extend(updates(after.clone()));
    push(&orders, events);
    // MongoDB writes one every ten seconds. Behind a mongos it proves that nothing follows.
    stand_in.push_noops(1);

    let replica = Weir::at(stand_in.uri(), |_| {}).await;
    for (got, status) in [
        rest(&mut live).await,
        to_the_end(&replica, from(&start, &request)).await,
    ] {
        assert_eq!(got, numbers(before.clone()), "{what}: {status:?}");
        let info = error_info(&status);
        assert_eq!(info.reason, case.reason, "{what}");
        assert!(info.metadata.contains_key("event_time"), "{what}: {info:?}");
        let next = from(&next_token(&status), &request);
        for weir in [&weir, &replica] {
            let mut resumed = weir.watch(next.clone()).await;
            let rest = ids(&mut resumed, after.len()).await;
            assert_eq!(rest, numbers(after.clone()), "{what}");
        }
    }
    // Something follows in any case.
    let status = to_the_end(&replica, from(&start, &request)).await.1;
    let mut resumed = replica.watch(from(&next_token(&status), &request)).await;
    ids(&mut resumed, after.len()).await;
    orders.push(update(200));
    assert_eq!(ids(&mut resumed, 1).await, numbers([200]), "{what}");
}

/// change_stream_large_event_resumption.js in MongoDB's repository: MongoDB looks up the documents of the
/// event whose token it resumes from, and a mongos fails at it before the small events in front of it
/// have come.
#[tokio::test]
async fn an_event_that_cannot_be_sent_costs_nothing_but_itself() {
    let push = |log: &Log, events| log.push_all(events);
    let each = |version| UNDELIVERABLE.iter().map(move |case| (version, case));
    let played = VERSIONS.into_iter().flat_map(each);
    join_all(played.map(|(version, case)| is_passed(version, case, push, (1..4, 4..6)))).await;
}

#[tokio::test]
async fn an_event_that_cannot_be_sent_may_be_the_first_and_the_last() {
    let push = |log: &Log, events| log.push_all(events);
    join_all(VERSIONS.map(async |version| {
        let case = &UNDELIVERABLE[0];
        is_passed(version, case, push, (1..1, 1..1)).await;
        is_passed(version, case, push, (1..20, 20..20)).await;
    }))
    .await;
}

/// No stream can start between two events of one time, as those of a transaction.
#[tokio::test]
async fn events_of_the_time_of_one_that_cannot_be_sent_are_not_lost() {
    let push = |log: &Log, events| log.push_at_once(events);
    join_all(VERSIONS.map(async |version| {
        is_passed(version, &UNDELIVERABLE[0], push, (1..4, 4..6)).await;
        is_passed(version, &UNDELIVERABLE[3], push, (1..1, 1..3)).await;
    }))
    .await;
}

/// A client may hold the token of an event that its new request can't have, or whose image has expired.
#[tokio::test]
async fn the_own_token_of_an_event_that_cannot_be_sent_resumes_after_it() {
    join_all(VERSIONS.map(async |version| {
        for case in &UNDELIVERABLE[..1] {
            for at_once in [false, true] {
                let stand_in = StandIn::start_as(version());
                let orders = stand_in.log(ORDERS);
                let weir = Weir::at(stand_in.uri(), |_| {}).await;
                let plain = stand_in.watch_request(&[ORDERS]);
                let mut watch = weir.watch(plain.clone()).await;
                let mut events = updates(1..3);
                events.push((case.event)(update(3)));
                events.extend(updates(4..6));
                if at_once {
                    orders.push_at_once(events);
                } else {
                    orders.push_all(events);
                }
                let changes = watch.changes(5).await;
                let own = changes[2].resume_token.clone();
                let request = (case.request)(plain.clone());
                let mut resumed = weir.watch(from(&own, &request)).await;
                assert_eq!(ids(&mut resumed, 2).await, numbers(4..6), "{:?}", version());
                orders.push(update(6));
                assert_eq!(ids(&mut resumed, 1).await, numbers([6]), "{:?}", version());
            }
            // Nothing follows yet.
            let stand_in = StandIn::start_as(version());
            let orders = stand_in.log(ORDERS);
            let weir = Weir::at(stand_in.uri(), |_| {}).await;
            let plain = stand_in.watch_request(&[ORDERS]);
            let mut watch = weir.watch(plain.clone()).await;
            orders.push((case.event)(update(1)));
            let own = watch.changes(1).await[0].resume_token.clone();
            let mut resumed = weir.watch(from(&own, &(case.request)(plain))).await;
            orders.push(update(2));
            assert_eq!(ids(&mut resumed, 1).await, numbers([2]), "{:?}", version());
        }
    }))
    .await;
}

/// Two in a row: each ends the watch once.
#[tokio::test]
async fn each_of_several_events_that_cannot_be_sent_ends_a_watch_once() {
    join_all(VERSIONS.map(async |version| {
        let stand_in = StandIn::start_as(version());
        let orders = stand_in.log(ORDERS);
        let weir = Weir::at(stand_in.uri(), |_| {}).await;
        let request = looked_up(stand_in.watch_request(&[ORDERS]));
        let start = weir.watch(request.clone()).await.token();
        let mut events = updates([1]);
        events.push(Event::too_large(update(2)));
        events.push(Event::too_large(update(3)));
        events.extend(updates([4]));
        orders.push_all(events);
        let (first, status) = to_the_end(&weir, from(&start, &request)).await;
        assert_eq!(first, numbers([1]), "{:?}", version());
        let (second, status) = to_the_end(&weir, from(&next_token(&status), &request)).await;
        assert_eq!(second, [], "{:?}", version());
        let mut watch = weir.watch(from(&next_token(&status), &request)).await;
        assert_eq!(ids(&mut watch, 1).await, numbers([4]), "{:?}", version());
    }))
    .await;
}

/// A mongos 9.0.0 or 9.0.1 sends with the empty first reply after a resume a token that lies before the
/// one given (SERVER-134795, SERVER-135099). If the stream is lost then, it resumes from the given one.
#[tokio::test]
async fn the_place_of_a_feed_never_moves_back() {
    for version in REGRESSING {
        let (stand_in, orders, _weir, mut watch) = with_two_events(version).await;
        let tokens = record_tokens(&stand_in);
        for resumes in [false, true] {
            let lost = lose(&stand_in, resumes);
            eventually("the feed was lost", async || lost.count() == 1).await;
        }
        orders.push(update(3));
        assert_eq!(ids(&mut watch, 1).await, numbers([3]));
        let resumed_from = tokens.lock().expect("no panic").clone();
        assert_eq!(resumed_from, [orders.token(1), orders.token(1)]);
    }
}

/// As [`the_place_of_a_feed_never_moves_back`].
#[tokio::test]
async fn the_place_of_a_catch_up_never_moves_back() {
    for version in REGRESSING {
        let (stand_in, orders, weir, watch) = with_two_events(version).await;
        let last = watch.token();
        weir.shutdown().await;
        let tokens = record_tokens(&stand_in);
        let replica = Weir::at(stand_in.uri(), |_| {}).await;
        let lost = lose(&stand_in, true);
        let request = from(&last, &stand_in.watch_request(&[ORDERS]));
        let mut resumed = replica.watch(request).await;
        eventually("the catch-up was lost", async || lost.count() == 1).await;
        orders.push(update(3));
        assert_eq!(ids(&mut resumed, 1).await, numbers([3]));
        let resumed_from = tokens.lock().expect("no panic").clone();
        assert_eq!(resumed_from[..2], [orders.token(1), orders.token(1)]);
    }
}

/// The versions of a mongos whose first token after a resume regresses.
const REGRESSING: [[i32; 3]; 2] = [[9, 0, 0], [9, 0, 1]];

/// A watch that has read two events.
async fn with_two_events(version: [i32; 3]) -> (StandIn, Log, Weir, WatchStream) {
    let stand_in = StandIn::start_as(Version::mongos(version));
    let orders = stand_in.log(ORDERS);
    let weir = Weir::at(stand_in.uri(), |_| {}).await;
    let mut watch = weir.watch(stand_in.watch_request(&[ORDERS])).await;
    orders.push_all(updates([1, 2]));
    watch.changes(2).await;
    (stand_in, orders, weir, watch)
}

/// Fails the next `getMore` of a stream that was resumed, or of one from now.
fn lose(stand_in: &StandIn, resumes: bool) -> Played {
    let rule = Rule::on("getMore").when(move |request| request.resumes() == resumes);
    stand_in.play(rule.once().answer(ServerError::stepped_down()))
}

/// Codes of elections and the like, with labels and without.
fn passing_errors() -> Vec<ServerError> {
    let named = |code, name: &str| ServerError::new(code).named(name);
    vec![
        named(216, "ElectionInProgress"),
        named(189, "PrimarySteppedDown"),
        named(10107, "NotWritablePrimary"),
        // The second reader of a mongos is turned off.
        named(401, "RetryChangeStream"),
        named(401, "RetryChangeStream").label("ResumableChangeStreamError"),
        ServerError::new(4_242_424).label("ResumableChangeStreamError"),
    ]
}

/// A feed of many watches meets the error at a `getMore` and at the openings that follow.
#[tokio::test]
async fn one_passing_error_ends_no_watch_of_a_shared_feed() {
    let stand_in = StandIn::start_as(Version::mongos([9, 0, 0]));
    let orders = stand_in.log(ORDERS);
    let weir = Weir::at(stand_in.uri(), |_| {}).await;
    let request = pb::WatchRequest {
        feed_mode: pb::FeedMode::Shared.into(),
        ..stand_in.watch_request(&[ORDERS])
    };
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(weir.watch(request.clone()).await);
    }
    for (number, error) in (0..).zip(passing_errors()) {
        let played = ["getMore", "aggregate"]
            .map(|command| stand_in.play(Rule::on(command).once().answer(error.clone())));
        eventually(
            &format!("the feed was opened again after {error:?}"),
            async || played.iter().all(|it| it.count() == 1),
        )
        .await;
        orders.push(update(number));
        for watch in &mut watches {
            assert_eq!(ids(watch, 1).await, numbers([number]), "{error:?}");
        }
    }
}

/// So does a catch-up, and the questions beside it.
#[tokio::test]
async fn one_passing_error_ends_no_catch_up() {
    let stand_in = StandIn::start_as(Version::mongod([9, 0, 0]));
    let orders = stand_in.log(ORDERS);
    let weir = Weir::at(stand_in.uri(), |_| {}).await;
    let request = stand_in.watch_request(&[ORDERS]);
    let start = weir.watch(request.clone()).await.token();
    orders.push_all(updates(0..3));
    for error in passing_errors() {
        let played = stand_in.play(
            Rule::on("getMore")
                .when(Request::resumes)
                .once()
                .answer(error.clone()),
        );
        // Read by another server, whose feed does not hold the events.
        let replica = Weir::at(stand_in.uri(), |_| {}).await;
        let mut watch = replica.watch(from(&start, &request)).await;
        assert_eq!(ids(&mut watch, 3).await, numbers(0..3), "{error:?}");
        eventually("a catch-up met the error", async || played.count() == 1).await;
        orders.push(update(9));
        while id(&watch.next_change().await) != Bson::Int32(9) {}
        drop(watch);
    }
}

/// `internalOperationResponseMaxMS` makes MongoDB reply in the midst of a scan
/// (change_stream_response_deadline.js): such an empty reply, with a risen token, comes before the time
/// of the `getMore` is over and proves nothing.
#[tokio::test]
async fn an_early_empty_reply_is_no_proof_of_being_live() {
    let versions: [fn() -> Version; 2] =
        [|| Version::mongod([9, 0, 0]), || Version::mongos([9, 0, 1])];
    for version in versions {
        let mut attempts = 0;
        // The event may come before the first early reply, and then nothing is shown.
        while !meets_early_replies(version()).await {
            attempts += 1;
            assert!(attempts < 20, "no early reply was read");
        }
    }
}

/// Reads an event after early empty replies. Returns whether there were any.
async fn meets_early_replies(version: Version) -> bool {
    let stand_in = StandIn::start_as(version);
    let orders = stand_in.log(ORDERS);
    let weir = Weir::at(stand_in.uri(), |_| {}).await;
    let request = pb::WatchRequest {
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..stand_in.watch_request(&[ORDERS])
    };
    let start = weir.watch(request.clone()).await.token();
    orders.push(update(1));
    let early = (1..4).map(|increment| {
        // Past the start, and before the event.
        let token = high_water_token(time(FIRST_SECOND - 1, 2 + increment));
        let answer = Answer::nothing(token).after(Duration::from_millis(700));
        let early = Rule::on("getMore")
            .when(Request::resumes)
            .once()
            .answer(answer);
        stand_in.play(early)
    });
    let early: Vec<_> = early.collect();
    let replica = Weir::at(stand_in.uri(), |_| {}).await;
    let mut watch = replica.watch(from(&start, &request)).await;
    loop {
        let message = watch.next().await;
        match message.kind {
            Some(Kind::Changes(batch)) => {
                assert_eq!(id(&batch.changes[0]), Bson::Int32(1));
                break;
            }
            Some(Kind::StateChange(change)) => {
                assert_ne!(change.state(), pb::WatchState::Live, "nothing was proven");
            }
            Some(Kind::Progress(progress)) => {
                let reached = progress.cluster_time.map(|it| it.seconds);
                assert!(reached <= Some(FIRST_SECOND), "{progress:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    early.iter().any(|it| it.count() > 0)
}

/// The cursor of a proof is closed also when a reply failed, and a failure to close it takes nothing from
/// what was proven.
#[tokio::test]
async fn the_cursor_of_a_proof_is_closed_and_its_closing_decides_nothing() {
    let stand_in = StandIn::start_as(Version::mongod([8, 2, 11]));
    let settings = MongoSettings {
        uri: stand_in.uri().to_owned(),
        max_feeds: 1,
        max_catch_ups: 1,
        server_selection_timeout: Duration::from_secs(10),
        reply_timeout: Duration::from_secs(10),
        ignore_removed_shards: false,
    };
    let source = MongoSource::new(&settings).await.expect("a valid URI");
    let request = stand_in.watch_request(&[ORDERS]);
    let watch = Watch::from_request(request, &RequestLimits::default()).expect("it is valid");
    let plan = Plan::dedicated(&watch);
    let start = ClusterTime {
        seconds: FIRST_SECOND,
        increment: 1,
    };
    let at = Position::Time(start);
    let closing = Rule::on("killCursors").answer(ServerError::new(1).named("InternalError"));
    let closing = stand_in.play(closing);
    assert!(source.has_no_events(&plan, &at, start).await.expect("read"));
    assert_eq!(closing.count(), 1);
    let failing = Rule::on("getMore").answer(ServerError::new(1).named("InternalError"));
    let failing = stand_in.play(failing);
    let error = source.has_no_events(&plan, &at, start).await;
    assert_eq!(error.map_err(|it| it.code), Err(Some(1)));
    assert_eq!((failing.count(), closing.count()), (1, 2));
    source.close().await;
}
