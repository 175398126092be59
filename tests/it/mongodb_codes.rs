//! MongoDB's error codes, and what Weir asks for when it opens a stream, on the servers that differ.
//!
//! The servers are scripted. A comment names the version that differs and its source.

use std::time::Duration;

use crate::conversions::field;
use crate::support::orders::{ORDERS, id, insert as insert_order};
use crate::support::stand_in::{
    self, Answer, Event, Request, Rule, ServerError, StandIn, Version, change, insert, time,
};
use crate::support::{
    Database, Figure, WatchStream, Weir, error_info, error_reason, eventually, tally, within,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::future::join_all;
use mongodb::bson::{Bson, Document, Regex, doc};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use weir::pb;
use weir::pb::change_event::Change;
use weir::pb::document::Value;
use weir::pb::field_filter::Operator;
use weir::pb::watch_request::Start;

/// Every documented code, with what it becomes at an opening and on a `getMore`.
const TABLE: &str = include_str!("mongodb_codes/error_codes.txt");

/// The lines of the table that are tested at once, each with servers of their own.
const SHARDS: usize = 6;

/// Starts a scripted server of the usual version with Weir in front of it.
async fn start() -> (StandIn, Weir) {
    with_weir(StandIn::start()).await
}

async fn start_as(version: Version) -> (StandIn, Weir) {
    with_weir(StandIn::start_as(version)).await
}

async fn with_weir(stand_in: StandIn) -> (StandIn, Weir) {
    let weir = Weir::without_linger_at(stand_in.uri()).await;
    (stand_in, weir)
}

/// Opens a watch and waits for its first event, 1. Returns the watch, and the token of the event.
async fn watch_one(
    weir: &Weir,
    orders: &stand_in::Log,
    request: &pb::WatchRequest,
) -> (WatchStream, Bytes) {
    let mut watch = weir.watch(request.clone()).await;
    orders.push(insert(1));
    assert_eq!(id(&watch.next_change().await), 1);
    let token = watch.token();
    (watch, token)
}

fn resume(token: &Bytes, request: &pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token.clone())),
        ..request.clone()
    }
}

fn with_look_up(request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        full_document: pb::FullDocument::UpdateLookup.into(),
        ..request
    }
}

async fn refused(weir: &Weir, request: pb::WatchRequest) -> Status {
    match weir.try_watch(request).await {
        Ok(watch) => panic!("it opened: {:?}", watch.opened),
        Err(status) => status,
    }
}

fn is(status: &Status, code: Code, reason: &str) -> bool {
    (status.code(), &*error_reason(status)) == (code, reason)
}

fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info()?.retry_delay
}

fn violation(status: &Status) -> (String, String) {
    let details = status.get_details_bad_request();
    let violation = details.and_then(|it| it.field_violations.into_iter().next());
    let violation = violation.unwrap_or_else(|| panic!("no field is named: {status:?}"));
    (violation.field, violation.description)
}

/// Returns the status of a watch that ends with a code of the table; `None` for one that goes on.
fn expected(becomes: &str, opening: bool) -> Option<(Code, &'static str)> {
    let failed = Code::FailedPrecondition;
    Some(match becomes {
        "passing" if opening => (Code::Unavailable, "UPSTREAM_UNAVAILABLE"),
        "overloaded" if opening => (Code::Unavailable, "UPSTREAM_OVERLOADED"),
        "login_failed" if opening => (failed, "UPSTREAM_ACCESS_DENIED"),
        "token_invalid" if opening => (Code::InvalidArgument, "RESUME_TOKEN_MALFORMED"),
        "token_not_found" if opening => (failed, "UPSTREAM_REFUSED"),
        "image_missing" if opening => (failed, "IMAGE_UNAVAILABLE"),
        "event_too_large" if opening => (failed, "UPSTREAM_EVENT_TOO_LARGE"),
        "lookup_ambiguous" if opening => (failed, "LOOKUP_AMBIGUOUS"),
        "passing" | "overloaded" | "login_failed" | "token_invalid" | "token_not_found"
        | "image_missing" | "event_too_large" | "lookup_ambiguous" => return None,
        "history_lost" => (Code::OutOfRange, "RESUME_TOKEN_EXPIRED"),
        "shard_removed" => (failed, "SHARD_REMOVED"),
        "unsupported" => (failed, "CHANGE_STREAMS_UNSUPPORTED"),
        "access_denied" => (failed, "UPSTREAM_ACCESS_DENIED"),
        "not_a_collection" | "invalid_name" => (Code::InvalidArgument, "INVALID_REQUEST"),
        "refused" => (failed, "UPSTREAM_REFUSED"),
        other => panic!("{other} is no class of the table"),
    })
}

/// Codes: `error_codes.yml` of MongoDB 8.3, and ShardRemovedError of 9.0. None ends as INTERNAL, and none
/// that passes by itself ends a watch.
#[tokio::test]
async fn every_documented_code_has_a_reason_or_passes() {
    let lines: Vec<Vec<&str>> = TABLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split(' ').collect())
        .collect();
    tally(Figure::Faults, 2 * lines.len() as u64);
    let shards = lines.chunks(lines.len().div_ceil(SHARDS));
    join_all(shards.map(async |lines| {
        let (stand_in, weir) = start().await;
        for line in lines {
            let [code, name, _, at_opening, at_get_more] = line[..] else {
                panic!("{line:?}");
            };
            let error = || ServerError::new(code.parse().expect("a code")).named(name);
            let collection = format!("c{code}");
            let request = stand_in.watch_request(&[&collection]);

            let opening = Rule::on("aggregate").of_collection(&collection);
            let opening = stand_in.play(opening.answer(error()));
            let status = refused(&weir, request.clone()).await;
            let (code, reason) = expected(at_opening, true).expect("no opening goes on");
            assert!(is(&status, code, reason), "{line:?}: {status:?}");
            assert!(!status.message().contains("by the test"), "{status:?}");
            let may_retry = status.code() == Code::Unavailable;
            assert_eq!(retry_delay(&status).is_some(), may_retry, "{status:?}");
            opening.end();

            let mut watch = weir.watch(request).await;
            let get_more = Rule::on("getMore").of_collection(&collection).once();
            let get_more = stand_in.play(get_more.answer(error()));
            match expected(at_get_more, false) {
                Some((code, reason)) => {
                    let status = watch.end().await;
                    assert!(is(&status, code, reason), "{line:?}: {status:?}");
                }
                None => {
                    stand_in.log(&collection).push(insert(7));
                    assert_eq!(id(&watch.next_change().await), 7, "{line:?}");
                    assert_eq!(get_more.count(), 1, "{line:?}");
                }
            }
        }
    }))
    .await;
}

/// MongoDB of any version: an election that is not over (216) and a member that stepped down long ago
/// (10058) come without a label. Azure Cosmos DB limits the rate (16500), MongoDB 9.0 the memory of an
/// operation (146; release notes of 9.0).
#[tokio::test]
async fn one_passing_error_ends_no_watch_of_a_shared_feed() {
    let (stand_in, weir) = start().await;
    let orders = stand_in.log("orders");
    let request = stand_in.watch_request(&["orders"]);
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(weir.watch(request.clone()).await);
    }
    let cases = [
        (216, "election"),
        (10058, "election"),
        (11602, "election"),
        (16500, "overload"),
        (146, "overload"),
        (355, "server"),
    ];
    for (number, (code, label)) in (0..).zip(cases) {
        let restarts = async || {
            let metrics = weir.metrics().await;
            metrics.sum_where("weir_feed_restarts_total", &[("reason", label)])
        };
        let before = restarts().await;
        // The stream fails, and so does the first attempt to open it again (which the driver repeats for
        // some of these).
        let error = ServerError::new(code);
        stand_in.play(Rule::on("getMore").once().answer(error.clone()));
        stand_in.play(
            Rule::on("aggregate")
                .when(Request::is_change_stream)
                .once()
                .answer(error),
        );
        eventually("the feed is open again", async || restarts().await > before).await;
        orders.push(insert(number));
        for watch in &mut watches {
            assert_eq!(id(&watch.next_change().await), number, "{code}");
        }
    }
}

/// A throttled or short server says when to come back: `RetryAfterMs` in the message of Azure Cosmos DB's
/// 16500; without it a few seconds.
#[tokio::test]
async fn an_overloaded_server_is_reported_with_the_time_of_a_retry() {
    let (stand_in, weir) = start().await;
    let throttled = ServerError::new(16500).message(
        "Error=16500, RetryAfterMs=7034, Details='Response status code does not indicate success'",
    );
    for (error, delay) in [
        (throttled, Duration::from_millis(7034)),
        (
            ServerError::new(146).named("ExceededMemoryLimit"),
            Duration::from_secs(5),
        ),
        (
            ServerError::new(292).named("QueryExceededMemoryLimitNoDiskUseAllowed"),
            Duration::from_secs(5),
        ),
    ] {
        let opening = stand_in.play(Rule::on("aggregate").answer(error));
        let status = refused(&weir, stand_in.watch_request(&["orders"])).await;
        assert!(
            is(&status, Code::Unavailable, "UPSTREAM_OVERLOADED"),
            "{status:?}"
        );
        assert_eq!(retry_delay(&status), Some(delay), "{status:?}");
        assert!(error_info(&status).metadata.contains_key("mongodb_code"));
        opening.end();
    }
}

/// A watch whose server stays short of memory ends with that reason once the grace period is over.
#[tokio::test]
async fn a_server_that_stays_overloaded_ends_a_watch_with_that_reason() {
    let stand_in = StandIn::start();
    let weir = Weir::at(stand_in.uri(), |config| {
        config.upstream_grace = Duration::from_millis(300);
    })
    .await;
    let mut watch = weir.watch(stand_in.watch_request(&["orders"])).await;
    stand_in.play(Rule::on("getMore").answer(ServerError::new(146).named("ExceededMemoryLimit")));
    let status = watch.end().await;
    assert!(
        is(&status, Code::Unavailable, "UPSTREAM_OVERLOADED"),
        "{status:?}"
    );
    assert_eq!(error_info(&status).metadata["mongodb_code"], "146");
}

/// 8.3 and later refuse a stream on a time-series collection with 115 (SERVER-116464, SERVER-136068,
/// DRIVERS-3458), earlier ones and every version for a view with 166.
#[tokio::test]
async fn a_time_series_collection_is_refused_by_its_name() {
    let (stand_in, weir) = start_as(Version::mongod([9, 0, 0])).await;
    for error in [
        ServerError::new(115)
            .named("CommandNotSupported")
            .message("cannot run $changeStream on the time-series collection stand_in.prices"),
        ServerError::new(166)
            .named("CommandNotSupportedOnView")
            .message("$changeStream is not supported on views"),
    ] {
        let opening = stand_in.play(Rule::on("aggregate").of_collection("prices").answer(error));
        let status = refused(&weir, stand_in.watch_request(&["prices"])).await;
        assert!(
            is(&status, Code::InvalidArgument, "INVALID_REQUEST"),
            "{status:?}"
        );
        let (field, description) = violation(&status);
        assert_eq!(field, "collections");
        assert!(description.contains("\"prices\""), "{description}");
        assert!(description.contains("time-series"), "{description}");
        opening.end();
    }
}

/// What compatible servers and old ones do not know: change streams at all, a stage, an option, majority
/// reads; Amazon DocumentDB's "Feature not supported" is 303.
#[tokio::test]
async fn what_a_deployment_does_not_know_is_said() {
    let (stand_in, weir) = start().await;
    let cases = [
        (
            ServerError::new(40324).message("Unrecognized pipeline stage name: '$changeStream'"),
            "error 40324 (Location40324) about $changeStream",
        ),
        (
            ServerError::new(40415)
                .message("BSON field '$changeStream.showExpandedEvents' is an unknown field."),
            "about showExpandedEvents",
        ),
        (
            ServerError::new(148).named("ReadConcernMajorityNotEnabled"),
            "turn on enableMajorityReadConcern",
        ),
        (
            ServerError::new(303)
                .named("")
                .message("Feature not supported: $changeStream"),
            "error 303 about $changeStream",
        ),
        (
            ServerError::new(238).named("NotImplemented"),
            "error 238 (NotImplemented)",
        ),
        (
            ServerError::new(59).named("CommandNotFound"),
            "error 59 (CommandNotFound)",
        ),
        (
            ServerError::new(115)
                .named("CommandNotSupported")
                .message("Unknown command received: aggregate"),
            "error 115 (CommandNotSupported)",
        ),
        (
            ServerError::new(2)
                .named("BadValue")
                .message("Expected type string but found int."),
            "error 2 (BadValue)",
        ),
    ];
    for (error, words) in cases {
        let opening = stand_in.play(Rule::on("aggregate").answer(error.clone()));
        let status = refused(&weir, stand_in.watch_request(&["orders"])).await;
        assert!(
            is(
                &status,
                Code::FailedPrecondition,
                "CHANGE_STREAMS_UNSUPPORTED"
            ),
            "{status:?}"
        );
        let details = status.get_details_precondition_failure();
        let violation = details
            .expect("it says what is missing")
            .violations
            .remove(0);
        assert!(violation.description.contains(words), "{violation:?}");
        assert!(status.message().contains(words), "{status:?}");
        assert!(!status.message().contains("stand_in"), "{status:?}");
        opening.end();
    }
}

/// PCRE of MongoDB and the check before it differ in rare cases; the code is 51091, and 2 before.
#[tokio::test]
async fn a_pattern_that_mongodb_refuses_is_named() {
    let (stand_in, weir) = start().await;
    let regex = |pattern: &str| {
        Operator::Regex(pb::RegexFilter {
            pattern: pattern.to_owned(),
            options: String::new(),
        })
    };
    let request = pb::WatchRequest {
        filters: vec![
            field("total", Operator::Exists(true)),
            field("status", regex("^p+$")),
        ],
        feed_mode: pb::FeedMode::Dedicated.into(),
        ..stand_in.watch_request(&["orders"])
    };
    let token = weir.watch(request.clone()).await.token();
    // Otherwise the next watch shares the open stream.
    weir.wait_for_no_feeds().await;
    for error in [
        ServerError::new(51091).message("Regular expression is invalid: bad data"),
        ServerError::new(2)
            .named("BadValue")
            .message("Regular expression is invalid: regular expression is too large"),
    ] {
        let opening = stand_in.play(Rule::on("aggregate").answer(error));
        for request in [request.clone(), resume(&token, &request)] {
            let status = refused(&weir, request).await;
            assert!(
                is(&status, Code::InvalidArgument, "INVALID_REQUEST"),
                "{status:?}"
            );
            assert_eq!(violation(&status).0, "filters[1].field.regex.pattern");
        }
        opening.end();
    }
    // Another server of the deployment may refuse it later.
    for command in ["getMore", "aggregate"] {
        let mut watch = weir.watch(request.clone()).await;
        let error = ServerError::new(51091).message("Regular expression is invalid: bad data");
        let refusing = stand_in.play(Rule::on(command).answer(error));
        stand_in.forget_cursors();
        let status = watch.end().await;
        assert!(
            is(&status, Code::InvalidArgument, "INVALID_REQUEST"),
            "{status:?}"
        );
        assert_eq!(violation(&status).0, "filters[1].field.regex.pattern");
        refusing.end();
        weir.wait_for_no_feeds().await;
    }
}

/// SERVER-55179, sharded clusters of every version: `_id` is unique on each shard only, so a look-up may
/// find two documents. It is not about the token.
#[tokio::test]
async fn an_ambiguous_look_up_ends_a_watch_with_its_own_reason() {
    let (stand_in, weir) = start_as(Version::mongod([8, 2, 11])).await;
    let request = with_look_up(stand_in.watch_request(&["orders"]));
    let mut watch = weir.watch(request.clone()).await;
    let orders = stand_in.log("orders");
    orders.push_all([
        insert(1).into(),
        change("update", "orders", 2).into(),
        Event::ambiguous(change("update", "orders", 3)),
        change("update", "orders", 4).into(),
    ]);
    for expected in [1, 2] {
        assert_eq!(id(&watch.next_change().await), expected);
    }
    let status = watch.end().await;
    assert!(
        is(&status, Code::FailedPrecondition, "LOOKUP_AMBIGUOUS"),
        "{status:?}"
    );
    assert!(!status.message().contains("matching"), "{status:?}");
    let facts = error_info(&status).metadata;
    assert!(facts.contains_key("after_time"), "{facts:?}");
    // Without a look-up the last token goes on with the event; a token after it skips the event alone.
    let plain = stand_in.watch_request(&["orders"]);
    let mut rest = weir.watch(resume(&watch.token(), &plain)).await;
    for expected in [3, 4] {
        assert_eq!(id(&rest.next_change().await), expected);
    }
    if let Some(next) = facts.get("next_token") {
        let next = Bytes::from(STANDARD.decode(next).expect("base64"));
        let mut after = weir.watch(resume(&next, &request)).await;
        assert_eq!(id(&after.next_change().await), 4);
    }
}

/// MongoDB reports a lost position with 286. A stream that fails with 280 although the oplog has its
/// position failed for another reason, and nothing has expired.
#[tokio::test]
async fn a_persistent_280_is_an_expired_token_only_when_the_history_is_gone() {
    let (stand_in, weir) = start().await;
    let orders = stand_in.log("orders");
    let request = stand_in.watch_request(&["orders"]);
    let (mut watch, token) = watch_one(&weir, &orders, &request).await;
    let fatal = || {
        ServerError::new(280)
            .named("ChangeStreamFatalError")
            .message("the shard key is missing from the document key")
    };
    let failing = stand_in.play(
        Rule::on("aggregate")
            .when(|request| request.resumes() || request.has("startAtOperationTime"))
            .answer(fatal()),
    );
    stand_in.play(Rule::on("getMore").once().answer(fatal()));
    let status = watch.end().await;
    let again = refused(&weir, resume(&token, &request)).await;
    for status in [status, again] {
        assert!(
            is(&status, Code::FailedPrecondition, "UPSTREAM_REFUSED"),
            "{status:?}"
        );
        let facts = error_info(&status).metadata;
        assert_eq!(facts["mongodb_code"], "280");
        assert_eq!(facts["mongodb_code_name"], "ChangeStreamFatalError");
        assert!(facts.contains_key("token_time"), "{facts:?}");
    }
    // Once the oplog begins later, the same failure does mean the history.
    stand_in.set_oldest(time(stand_in::FIRST_SECOND + 1_000, 1));
    let status = refused(&weir, resume(&token, &request)).await;
    assert!(
        is(&status, Code::OutOfRange, "RESUME_TOKEN_EXPIRED"),
        "{status:?}"
    );
    failing.end();
}

/// Whether the history is gone is asked of MongoDB, which may be in an election just then. That says nothing
/// about the history.
#[tokio::test]
async fn a_280_is_no_expired_token_while_mongodb_does_not_say_what_the_oplog_holds() {
    let (stand_in, weir) = start().await;
    let orders = stand_in.log("orders");
    let request = stand_in.watch_request(&["orders"]);
    let (mut watch, token) = watch_one(&weir, &orders, &request).await;
    let fatal = || ServerError::new(280).named("ChangeStreamFatalError");
    stand_in.play(
        Rule::on("aggregate")
            .when(|request| request.resumes() || request.has("startAtOperationTime"))
            .answer(fatal()),
    );
    let election = || {
        // The first is asked before the attempt by time.
        stand_in.play(Rule::on("find").once().answer(Answer::Usual));
        let election = ServerError::new(216).named("ElectionInProgress");
        stand_in.play(Rule::on("find").once().answer(election))
    };
    let asked = election();
    stand_in.play(Rule::on("getMore").once().answer(fatal()));
    let status = watch.end().await;
    assert_eq!(asked.count(), 1);
    assert!(
        is(&status, Code::FailedPrecondition, "UPSTREAM_REFUSED"),
        "{status:?}"
    );
    let asked = election();
    let status = refused(&weir, resume(&token, &request)).await;
    assert_eq!(asked.count(), 1);
    assert!(
        is(&status, Code::Unavailable, "UPSTREAM_UNAVAILABLE"),
        "{status:?}"
    );
}

/// The rest of an opening with a token is not about the token where MongoDB names another option.
#[tokio::test]
async fn an_unknown_option_is_not_taken_for_an_unreadable_token() {
    let (stand_in, weir) = start().await;
    let request = pb::WatchRequest {
        show_expanded_events: true,
        ..stand_in.watch_request(&["orders"])
    };
    let orders = stand_in.log("orders");
    let (watch, token) = watch_one(&weir, &orders, &request).await;
    orders.push(insert(2));
    drop(watch);
    weir.wait_for_no_feeds().await;
    for (message, reason) in [
        (
            "unrecognized option to $changeStream stage: showExpandedEvents",
            "CHANGE_STREAMS_UNSUPPORTED",
        ),
        ("invalid resumeAfter token", "RESUME_TOKEN_MALFORMED"),
        (
            "Expected type object but found string",
            "RESUME_TOKEN_MALFORMED",
        ),
        ("in shop.showExpandedEvents", "RESUME_TOKEN_MALFORMED"),
    ] {
        for code in [2, 9, 14, 40414] {
            let refusing = Rule::on("aggregate").when(Request::resumes);
            let refusing = stand_in.play(refusing.answer(ServerError::new(code).message(message)));
            let status = refused(&weir, resume(&token, &request)).await;
            assert_eq!(error_reason(&status), reason, "{code} {message}");
            refusing.end();
        }
    }
}

/// The denial of an opening may be the token's alone: see the next test. Then the token's time works, and
/// the operator is told about missing rights only if an opening without a token is denied too.
#[tokio::test]
async fn a_denial_that_only_the_token_causes_falls_back_to_its_time() {
    let (stand_in, weir) = start().await;
    let orders = stand_in.log("orders");
    let request = stand_in.watch_request(&["orders"]);
    let (mut watch, token) = watch_one(&weir, &orders, &request).await;
    let denied = || ServerError::new(13).named("Unauthorized");
    let tokens = stand_in.play(
        Rule::on("aggregate")
            .when(Request::resumes)
            .answer(denied()),
    );
    // The watch that is open has to open its stream again, and then another one resumes.
    stand_in.cut();
    orders.push(insert(2));
    // A start by time may repeat the events of that time, and nothing else.
    let until = async |watch: &mut WatchStream, wanted: i32| {
        let mut ids = Vec::new();
        while ids.last() != Some(&wanted) {
            ids.push(id(&watch.next_change().await));
        }
        assert!(ids.len() <= 2, "{ids:?}");
    };
    until(&mut watch, 2).await;
    assert_eq!(tokens.count(), 1);
    drop(watch);
    weir.wait_for_no_feeds().await;
    let mut resumed = weir.watch(resume(&token, &request)).await;
    until(&mut resumed, 2).await;
    assert!(tokens.count() > 1, "{}", tokens.count());
    // The question whether anything is left to read is denied too, and asked by time.
    stand_in.set_clock(time(stand_in::FIRST_SECOND + 100, 1));
    eventually("the watch has caught up", async || {
        weir.metrics().await.sum("weir_catch_ups") == 0.0
    })
    .await;
    drop(resumed);
    weir.wait_for_no_feeds().await;

    let all = stand_in.play(
        Rule::on("aggregate")
            .when(Request::is_change_stream)
            .answer(denied()),
    );
    for request in [request.clone(), resume(&token, &request)] {
        let status = refused(&weir, request).await;
        assert!(
            is(&status, Code::FailedPrecondition, "UPSTREAM_ACCESS_DENIED"),
            "{status:?}"
        );
    }
    all.end();
}

/// SecantusDB 0.7.0b3: once another collection of the database gets an index, is created, changed or dropped,
/// the token of a quiet collection names `db.$cmd`, and the server denies (13) to resume after it.
#[tokio::test]
async fn a_token_after_a_command_on_another_collection_resumes() {
    let database = Database::options().start().await;
    let weir = Weir::without_linger(&database).await;
    let request = pb::WatchRequest {
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..database.watch_request(&[ORDERS])
    };
    let mut watch = weir.watch(request.clone()).await;
    let mut tokens = vec![watch.token()];
    let shop = database.database();
    for command in [
        doc! { "create": "invoices" },
        doc! { "createIndexes": "invoices", "indexes": [{ "key": { "a": 1 }, "name": "a" }] },
        doc! { "collMod": "invoices", "changeStreamPreAndPostImages": { "enabled": true } },
        doc! { "drop": "invoices" },
    ] {
        shop.run_command(command.clone())
            .await
            .unwrap_or_else(|error| panic!("{command}: {error}"));
        // The stream's token moves with one of the next replies, which come once a second.
        for _ in 0..2 {
            watch.next_progress().await;
        }
        tokens.push(watch.token());
    }
    drop(watch);
    insert_order(&database, 1).await;
    for token in tokens {
        weir.wait_for_no_feeds().await;
        let mut resumed = weir.watch(resume(&token, &request)).await;
        assert_eq!(id(&resumed.next_change().await), 1);
    }
}

/// 464 of MongoDB 9.0 (manual, "ignoreRemovedShards").
#[tokio::test]
async fn a_removed_shard_ends_a_watch_with_its_own_reason() {
    let (stand_in, weir) = start_as(Version::mongos([9, 0, 0])).await;
    let request = stand_in.watch_request(&["orders"]);
    let mut watch = weir.watch(request.clone()).await;
    let token = watch.token();
    let removed = || {
        ServerError::new(464)
            .named("ShardRemovedError")
            .label("NonResumableChangeStreamError")
    };
    stand_in.play(Rule::on("getMore").answer(removed()));
    let ended = watch.end().await;
    assert!(error_info(&ended).metadata.contains_key("token_time"));
    stand_in.play(
        Rule::on("aggregate")
            .when(Request::is_change_stream)
            .answer(removed()),
    );
    let again = refused(&weir, resume(&token, &request)).await;
    for status in [ended, again] {
        assert!(
            is(&status, Code::FailedPrecondition, "SHARD_REMOVED"),
            "{status:?}"
        );
        assert!(status.message().contains("--ignore-removed-shards"));
    }
}

/// `ignoreRemovedShards` is public since 9.0; 8.2 refuses it with 40415 (manual of 9.0).
#[tokio::test]
async fn removed_shards_are_ignored_where_mongodb_can() {
    for (version, known) in [
        (Version::mongos([9, 0, 0]), true),
        (Version::mongos([8, 2, 11]), false),
    ] {
        let stand_in = StandIn::start_as(version);
        let weir = Weir::at(stand_in.uri(), |config| config.ignore_removed_shards = true).await;
        let asked = stand_in.play(
            Rule::on("aggregate")
                .when(|request| request.option("ignoreRemovedShards") == Some(&Bson::Boolean(true)))
                .answer(Answer::Usual),
        );
        let plain = stand_in.watch_request(&["orders"]);
        for request in [plain.clone(), with_look_up(plain)] {
            match weir.try_watch(request).await {
                Ok(mut watch) => {
                    assert!(known);
                    stand_in.log("orders").push(insert(1));
                    assert_eq!(id(&watch.next_change().await), 1);
                }
                Err(status) => {
                    assert!(!known, "{status:?}");
                    assert!(
                        is(
                            &status,
                            Code::FailedPrecondition,
                            "CHANGE_STREAMS_UNSUPPORTED"
                        ),
                        "{status:?}"
                    );
                    let facts = error_info(&status).metadata;
                    assert_eq!(facts["mongodb_about"], "ignoreRemovedShards");
                    assert!(
                        status.message().contains("--ignore-removed-shards"),
                        "{status:?}"
                    );
                }
            }
        }
        assert!(asked.count() >= 2, "{}", asked.count());
    }
}

/// SERVER-95976: since 8.1, and in later patches of 6.0 to 8.0, a look-up can be bound to the collection
/// that was changed; other servers refuse the option with 40415.
#[tokio::test]
async fn look_ups_are_bound_to_the_changed_collection_where_mongodb_can() {
    const OPTION: &str = "matchCollectionUUIDForUpdateLookup";
    for (version, known) in [
        (Version::mongod([9, 0, 0]), true),
        (Version::mongod([8, 0, 0]).lacking(OPTION), false),
    ] {
        let (stand_in, weir) = start_as(version).await;
        let asked = stand_in.play(
            Rule::on("aggregate")
                .when(|request| request.has(OPTION))
                .answer(Answer::Usual),
        );
        // Without a look-up it has no meaning.
        drop(weir.watch(stand_in.watch_request(&["orders"])).await);
        assert_eq!(asked.count(), 0);
        for (number, collection) in (1..).zip(["orders", "customers", "items"]) {
            let request = with_look_up(stand_in.watch_request(&[collection]));
            let mut watch = weir.watch(request).await;
            stand_in
                .log(collection)
                .push(change("update", collection, number));
            assert_eq!(id(&watch.next_change().await), number);
            // A server that does not know it is asked once.
            let expected = if known { number as u64 } else { 1 };
            assert_eq!(asked.count(), expected, "{collection}");
        }
    }
}

/// A compatible server may refuse an option that it does not know with another code, and may not name it: a
/// precaution, as look-ups worked there before Weir set the option.
#[tokio::test]
async fn look_ups_work_on_a_server_that_does_not_say_what_it_refuses() {
    const OPTION: &str = "matchCollectionUUIDForUpdateLookup";
    for error in [
        ServerError::new(40415),
        ServerError::new(2).named("BadValue"),
        ServerError::new(9)
            .named("FailedToParse")
            .message("$changeStream is malformed"),
        ServerError::new(303).message(format!("Feature not supported: {OPTION}")),
    ] {
        let (stand_in, weir) = start().await;
        let orders = stand_in.log("orders");
        let refusing = Rule::on("aggregate").when(|request| request.has(OPTION));
        let refusing = stand_in.play(refusing.answer(error));
        let request = with_look_up(stand_in.watch_request(&["orders"]));
        let mut watch = weir.watch(request.clone()).await;
        orders.push(change("update", "orders", 1));
        assert_eq!(id(&watch.next_change().await), 1);
        let token = watch.token();
        drop(watch);
        weir.wait_for_no_feeds().await;
        orders.push(change("update", "orders", 2));
        let mut resumed = weir.watch(resume(&token, &request)).await;
        assert_eq!(id(&resumed.next_change().await), 2);
        assert_eq!(refusing.count(), 1);
    }
}

fn full_document(event: &pb::ChangeEvent) -> Option<Value> {
    match &event.change {
        Some(Change::Update(update)) => update.full_document.as_ref()?.value.clone(),
        other => panic!("no update: {other:?}"),
    }
}

/// SERVER-137213: where the key is a regular expression, the look-up may answer with another document.
#[tokio::test]
async fn a_looked_up_document_with_another_id_is_null() {
    let (stand_in, weir) = start().await;
    let orders = stand_in.log("orders");
    let update = |key: Bson, document: Document| {
        let mut event = change("update", "orders", 0);
        event.insert("documentKey", doc! { "_id": key });
        event.insert("fullDocument", document);
        event
    };
    let pattern = Bson::RegularExpression(Regex {
        pattern: "^a".try_into().expect("no NUL"),
        options: "".try_into().expect("no NUL"),
    });
    for mode in [pb::FeedMode::Dedicated, pb::FeedMode::Shared] {
        let request = pb::WatchRequest {
            feed_mode: mode.into(),
            ..with_look_up(stand_in.watch_request(&["orders"]))
        };
        let mut all = weir.watch(request.clone()).await;
        // The stand-in filters nothing, so a shared feed's filter is Weir's own.
        let mut paid = weir
            .watch(pb::WatchRequest {
                filters: vec![field("secret", Operator::Exists(true))],
                missing_image_policy: pb::MissingImagePolicy::Drop.into(),
                feed_mode: pb::FeedMode::Shared.into(),
                ..request
            })
            .await;
        orders.push_all([
            update(pattern.clone(), doc! { "_id": "abc", "secret": 1 }).into(),
            update(Bson::Int32(2), doc! { "_id": 2, "secret": 2 }).into(),
        ]);
        let foreign = all.next_change().await;
        assert_eq!(full_document(&foreign), Some(Value::Null(0)), "{mode:?}");
        let own = all.next_change().await;
        assert!(
            matches!(full_document(&own), Some(Value::Bson(_))),
            "{own:?}"
        );
        let only = paid.next_change().await;
        assert!(!only.resume_token.is_empty());
        assert!(
            matches!(full_document(&only), Some(Value::Bson(_))),
            "{only:?}"
        );
    }
}

/// SERVER-136788: a look-up has no deadline of its own, and a `getMore` hung for 84 minutes.
#[tokio::test]
async fn a_get_more_that_hangs_is_given_up_while_mongodb_answers_pings() {
    let stand_in = StandIn::start();
    let weir = Weir::at(stand_in.uri(), |config| {
        config.upstream_reply_timeout = Duration::from_secs(2);
    })
    .await;
    let mut watch = weir.watch(stand_in.watch_request(&["orders"])).await;
    let hanging = stand_in.play(Rule::on("getMore").once().answer(Answer::Hang));
    eventually("it hangs", async || hanging.count() == 1).await;
    stand_in.log("orders").push(insert(1));
    let change = within("the event after it", watch.next_change()).await;
    assert_eq!(id(&change), 1);
    let restarts = weir.metrics().await;
    let network = restarts.sum_where("weir_feed_restarts_total", &[("reason", "network")]);
    assert_eq!(network, 1.0);
}
