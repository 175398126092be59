//! The effect of each MongoDB error on a watch: it continues by itself, or it ends with the code
//! and reason of the API's table.

use std::time::Duration;

use crate::support::orders::{ORDERS, Received, insert};
use crate::support::{
    Database, FailCommand, Figure, Proxy, WatchStream, Weir, error_reason, eventually, tally,
    within,
};
use mongodb::bson::doc;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const RESUMABLE: &str = "ResumableChangeStreamError";
const NOT_RESUMABLE: &str = "NonResumableChangeStreamError";
const RETRYABLE: &str = "RetryableError";
const OVERLOADED: &str = "SystemOverloadedError";

/// The drivers' list of resumable errors: CursorNotFound, and the errors of elections, shutdowns,
/// networks and stale routing. StaleConfig (13388) is one of them too, but no failpoint can make
/// it, because MongoDB needs more fields with it than a failpoint can set.
const TRANSIENT: [i32; 17] = [
    43, 6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 63, 150, 234, 133,
];

/// The further errors that mongod 8.2 labels as resumable or as overload.
const LABELLED: [i32; 16] = [
    134, 175, 317, 358, 384, 401, 402, 406, 407, 412, 433, 449, 450, 453, 462, 50915,
];

/// Errors that any command may meet in ordinary operation and that no list names: interrupted
/// operations, locks, changing deployments. Errors with which MongoDB restarts a stream internally
/// (346, 348, 351) and a stale database version (249) belong to them too, but no failpoint can make
/// those.
const TEMPORARY: [i32; 11] = [11601, 237, 279, 290, 50, 202, 24, 112, 365, 211, 70];

/// The errors that end a reading stream, whatever labels they carry.
const TERMINAL: [(i32, Code, &str); 8] = [
    (286, Code::OutOfRange, "RESUME_TOKEN_EXPIRED"),
    (136, Code::OutOfRange, "RESUME_TOKEN_EXPIRED"),
    (47, Code::FailedPrecondition, "IMAGE_UNAVAILABLE"),
    (10334, Code::FailedPrecondition, "UPSTREAM_EVENT_TOO_LARGE"),
    (
        40573,
        Code::FailedPrecondition,
        "CHANGE_STREAMS_UNSUPPORTED",
    ),
    (376, Code::FailedPrecondition, "CHANGE_STREAMS_UNSUPPORTED"),
    (464, Code::FailedPrecondition, "SHARD_REMOVED"),
    (13, Code::FailedPrecondition, "UPSTREAM_ACCESS_DENIED"),
];

/// Failed logins of Weir's user, which end a watch only at its opening.
const LOGIN: [(i32, Code, &str); 2] = [
    (18, Code::FailedPrecondition, "UPSTREAM_ACCESS_DENIED"),
    (8000, Code::FailedPrecondition, "UPSTREAM_ACCESS_DENIED"),
];

/// Errors with which MongoDB refuses a command, by their documented codes. At the opening most mean that
/// the deployment does not know what Weir asks for.
const REFUSED: [(i32, Code, &str); 8] = [
    (20, Code::FailedPrecondition, "CHANGE_STREAMS_UNSUPPORTED"),
    (26, Code::FailedPrecondition, "UPSTREAM_REFUSED"),
    (73, Code::InvalidArgument, "INVALID_REQUEST"),
    (72, Code::FailedPrecondition, "CHANGE_STREAMS_UNSUPPORTED"),
    (9, Code::FailedPrecondition, "CHANGE_STREAMS_UNSUPPORTED"),
    (14, Code::FailedPrecondition, "CHANGE_STREAMS_UNSUPPORTED"),
    (2, Code::FailedPrecondition, "CHANGE_STREAMS_UNSUPPORTED"),
    (
        40415,
        Code::FailedPrecondition,
        "CHANGE_STREAMS_UNSUPPORTED",
    ),
];

/// Errors of a malformed request of Weir's, which MongoDB does not document.
const BROKEN: [i32; 2] = [50865, 40674];

/// Errors about a token, which are final only at the opening.
const TOKENS: [(i32, Code, &str); 6] = [
    (260, Code::InvalidArgument, "RESUME_TOKEN_MALFORMED"),
    (50811, Code::InvalidArgument, "RESUME_TOKEN_MALFORMED"),
    (40576, Code::InvalidArgument, "RESUME_TOKEN_MALFORMED"),
    (40585, Code::InvalidArgument, "RESUME_TOKEN_MALFORMED"),
    (40615, Code::InvalidArgument, "RESUME_TOKEN_MALFORMED"),
    (280, Code::FailedPrecondition, "UPSTREAM_REFUSED"),
];

/// A failure of Weir's commands only.
fn weir_command_failure(commands: &[&str], code: i32) -> FailCommand {
    FailCommand::on(commands).code(code).app_name("weir")
}

/// Fails the next `getMore` of a watch and checks that it continues without loss or repeats.
async fn assert_continues_after(
    database: &Database,
    weir: &Weir,
    failure: FailCommand,
    ids: [i32; 2],
) {
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
    let mut received = Received::default();
    database.fail(failure).await;
    // Ends the getMore in progress; the next one fails.
    insert(database, ids[0]).await;
    received.until_reconnected(&mut watch, 1).await;
    received.until_id(&mut watch, ids[0]).await;
    insert(database, ids[1]).await;
    received.until_id(&mut watch, ids[1]).await;
    assert_eq!(received.ids, ids, "{received:?}");
    drop(watch);
    // The next watch has a feed of its own, without backoff.
    weir.wait_for_no_feeds().await;
}

/// MongoDB 4.4 and later label resumable errors; older servers do not.
#[tokio::test]
async fn a_watch_continues_after_every_resumable_error_without_a_label() {
    let database = Database::options().start().await;
    let weir = Weir::without_linger(&database).await;
    for (id, code) in (0..).step_by(2).zip(TRANSIENT) {
        let failure = weir_command_failure(&["getMore"], code).times(1);
        assert_continues_after(&database, &weir, failure, [id, id + 1]).await;
    }
    let restarts = weir.metrics().await.sum("weir_feed_restarts_total");
    assert!(restarts >= TRANSIENT.len() as f64, "{restarts} restarts");
}

/// Errors that carry the label on other commands do not need it here.
#[tokio::test]
async fn a_watch_continues_after_every_error_that_mongodb_labels() {
    let database = Database::options().start().await;
    let weir = Weir::without_linger(&database).await;
    for (id, code) in (0..).step_by(2).zip(LABELLED) {
        let failure = weir_command_failure(&["getMore"], code).times(1);
        assert_continues_after(&database, &weir, failure, [id, id + 1]).await;
    }
    // An overloaded server allows retries by labels.
    for (id, label) in [(100, RETRYABLE), (102, OVERLOADED)] {
        let failure = weir_command_failure(&["getMore"], 4242)
            .label(label)
            .times(1);
        assert_continues_after(&database, &weir, failure, [id, id + 1]).await;
    }
    tally(Figure::Faults, LABELLED.len() as u64 + 2);
}

/// Temporary errors that no list names.
#[tokio::test]
async fn a_watch_continues_after_every_temporary_error() {
    let database = Database::options().start().await;
    let weir = Weir::without_linger(&database).await;
    for (id, code) in (0..).step_by(2).zip(TEMPORARY) {
        let failure = weir_command_failure(&["getMore"], code).times(1);
        assert_continues_after(&database, &weir, failure, [id, id + 1]).await;
    }
    tally(Figure::Faults, TEMPORARY.len() as u64);
}

/// An error that no list names is resumable when its label says so.
#[tokio::test]
async fn a_watch_continues_after_any_error_with_the_resumable_label() {
    let database = Database::options().start().await;
    let weir = Weir::without_linger(&database).await;
    let codes = TRANSIENT.into_iter().chain([4242, 20]);
    for (id, code) in (0..).step_by(2).zip(codes) {
        let failure = weir_command_failure(&["getMore"], code)
            .label(RESUMABLE)
            .times(1);
        assert_continues_after(&database, &weir, failure, [id, id + 1]).await;
    }
}

async fn insert_any(database: &Database) {
    let orders = database.collection(ORDERS);
    orders.insert_one(doc! {}).await.expect("an insert");
}

/// Fails every `getMore` of a watch and returns its status.
async fn status_after(database: &Database, weir: &Weir, failure: FailCommand) -> Status {
    let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
    database.fail(failure).await;
    // Ends the getMore in progress; the next one fails.
    insert_any(database).await;
    let status = watch.end().await;
    database.clear_failures().await;
    status
}

/// An error that no retry can fix ends the watch at once, whatever its label says. Only where an
/// event can't be sent is MongoDB asked once more, for the events before it.
#[tokio::test]
async fn a_terminal_error_ends_a_watch_with_its_reason_after_one_attempt() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let internal = BROKEN.map(|code| (code, Code::Internal, "INTERNAL"));
    let refused = REFUSED.map(|(code, ..)| (code, Code::FailedPrecondition, "UPSTREAM_REFUSED"));
    let mut of_one_event = 0;
    let final_ones = TERMINAL.map(|(code, ..)| code);
    for (code, expected, reason) in TERMINAL.into_iter().chain(refused).chain(internal) {
        let plain = weir_command_failure(&["getMore"], code);
        let mut failures = vec![plain.clone(), plain.clone().label(NOT_RESUMABLE)];
        if final_ones.contains(&code) {
            failures.push(plain.label(RESUMABLE));
        }
        if matches!(code, 47 | 10334) {
            of_one_event += failures.len();
        }
        for failure in failures {
            let status = status_after(&database, &weir, failure.clone()).await;
            assert_eq!(status.code(), expected, "{failure:?}: {status:?}");
            assert_eq!(error_reason(&status), reason, "{failure:?}");
            assert!(
                !status.message().contains("failpoint"),
                "MongoDB's message belongs in the log: {status:?}"
            );
        }
    }
    let metrics = weir.metrics().await;
    let restarts = metrics.sum("weir_feed_restarts_total");
    assert_eq!(restarts, of_one_event as f64);
    assert_eq!(metrics.sum("weir_feeds"), 0.0);
}

/// A token that is not found (280) or not understood while reading gets one attempt by its time,
/// and no loop.
#[tokio::test]
async fn a_token_that_is_not_found_gets_one_attempt_by_time() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    for (id, code) in [(0, 280), (10, 260)] {
        let mut watch = weir.watch(database.watch_request(&[ORDERS])).await;
        let mut received = Received::default();
        insert(&database, id).await;
        received.until_id(&mut watch, id).await;
        database
            .fail(weir_command_failure(&["getMore"], code).times(1))
            .await;
        insert(&database, id + 1).await;
        eventually("the stream is opened again", async || {
            let restarts = weir.metrics().await;
            restarts.sum("weir_feed_restarts_total") >= f64::from(id / 10 + 1)
        })
        .await;
        insert(&database, id + 2).await;
        received.until_id(&mut watch, id + 2).await;
        assert_eq!(received.ids, [id, id + 1, id + 2], "{code}");

        let failure = weir_command_failure(&["getMore", "aggregate"], code);
        let status = status_after(&database, &weir, failure).await;
        // The oplog has the position: it has not expired.
        let expected = match code {
            280 => (Code::FailedPrecondition, "UPSTREAM_REFUSED"),
            _ => (Code::InvalidArgument, "RESUME_TOKEN_MALFORMED"),
        };
        assert_eq!((status.code(), &*error_reason(&status)), expected);
    }
}

/// Opens a watch and returns the error that comes in place of the response headers.
async fn refused(database: &Database, weir: &Weir) -> Status {
    let request = database.watch_request(&[ORDERS]);
    let mut client = weir.client().await;
    let answer = within("an answer to Watch", client.watch(request)).await;
    answer
        .map(|_| ())
        .expect_err("the watch is refused before headers")
}

/// An error at the opening is left to the client's retry policy. Only the driver retries a read,
/// and only where another server may answer.
#[tokio::test]
async fn a_transient_error_at_the_opening_reaches_the_client_at_once() {
    const RETRIED_BY_THE_DRIVER: [i32; 12] = [
        6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436,
    ];
    let database = Database::options().start().await;
    let weir = Weir::without_linger(&database).await;
    for code in TRANSIENT {
        let attempts = 1 + i32::from(RETRIED_BY_THE_DRIVER.contains(&code));
        let failure = weir_command_failure(&["aggregate"], code).label(RESUMABLE);
        database.fail(failure.times(attempts)).await;
        let status = refused(&database, &weir).await;
        assert_eq!(status.code(), Code::Unavailable, "{code}: {status:?}");
        assert_eq!(error_reason(&status), "UPSTREAM_UNAVAILABLE");
        let retry = status.get_details_retry_info();
        assert!(retry.is_some_and(|it| it.retry_delay.is_some()), "{code}");
        // The failpoint is used up: a further attempt by Weir would have opened the watch.
        weir.watch(database.watch_request(&[ORDERS])).await;
        weir.wait_for_no_feeds().await;
    }
}

#[tokio::test]
async fn a_terminal_error_at_the_opening_has_its_own_reason() {
    let database = Database::options().start().await;
    let weir = Weir::without_linger(&database).await;
    let internal = BROKEN.map(|code| (code, Code::Internal, "INTERNAL"));
    let all = TERMINAL.into_iter().chain(LOGIN).chain(TOKENS);
    for (code, expected, reason) in all.chain(REFUSED).chain(internal) {
        database
            .fail(weir_command_failure(&["aggregate"], code).times(1))
            .await;
        let status = refused(&database, &weir).await;
        assert_eq!(status.code(), expected, "{code}: {status:?}");
        assert_eq!(error_reason(&status), reason, "{code}");
        let topology = status.get_details_precondition_failure();
        let unsupported = reason == "CHANGE_STREAMS_UNSUPPORTED";
        assert_eq!(topology.is_some(), unsupported, "{code}: {status:?}");
        // There was one attempt, so the failpoint is used up.
        weir.watch(database.watch_request(&[ORDERS])).await;
        weir.wait_for_no_feeds().await;
    }
}

/// Breaks the stream of a watch, so that it is reopened.
async fn watch_and_cut(
    database: &Database,
    weir: &Weir,
    proxy: &Proxy,
    failure: FailCommand,
) -> WatchStream {
    let watch = weir.watch(database.watch_request(&[ORDERS])).await;
    database.fail(failure).await;
    proxy.cut();
    watch
}

/// A lost stream is reopened with pauses while MongoDB is only temporarily away.
#[tokio::test]
async fn reopening_is_retried_after_every_temporary_error() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::without_linger_at(&proxy.mongodb_uri()).await;
    let codes = [43, 91, 189, 262, 133, 211, 462];
    for (id, code) in (0..).zip(codes) {
        let failure = weir_command_failure(&["aggregate"], code).times(2);
        let mut watch = watch_and_cut(&database, &weir, &proxy, failure).await;
        let mut received = Received::default();
        received.until_reconnected(&mut watch, 1).await;
        insert(&database, id).await;
        received.until_id(&mut watch, id).await;
        drop(watch);
        weir.wait_for_no_feeds().await;
    }
    let close = FailCommand::on(&["aggregate"]).close_connection().times(2);
    let close = close.app_name("weir");
    let mut watch = watch_and_cut(&database, &weir, &proxy, close).await;
    let mut received = Received::default();
    received.until_reconnected(&mut watch, 1).await;
    tally(Figure::Faults, 2 * (codes.len() as u64 + 1));
}

/// Reopening stops when MongoDB's answer is final: after one attempt, but with a second one by time
/// for a token that is not found, and a second one for the events before an event that can't be
/// sent.
#[tokio::test]
async fn reopening_stops_after_one_attempt_when_the_error_is_final() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::without_linger_at(&proxy.mongodb_uri()).await;
    let internal = BROKEN.map(|code| (code, Code::Internal, "INTERNAL"));
    // Those that mean the token where there is one have tests of their own.
    let refused = REFUSED
        .into_iter()
        .filter(|(code, ..)| !matches!(code, 2 | 9 | 14));
    let all = TERMINAL
        .into_iter()
        .chain(TOKENS)
        .chain(refused)
        .chain(internal);
    for (code, expected, reason) in all {
        // A denial (13) may be the token's too.
        let by_time = code == 13 || TOKENS.iter().any(|(token, ..)| *token == code);
        let attempts = match code {
            // With one event per reply, for the events before the one that can't be sent, and without
            // images, to list them.
            47 | 10334 => 3,
            _ if by_time => 2,
            _ => 1,
        };
        // One more attempt would succeed, and the watch would continue.
        let failure = weir_command_failure(&["aggregate"], code).times(attempts);
        let mut watch = watch_and_cut(&database, &weir, &proxy, failure).await;
        let status = watch.end().await;
        assert_eq!(status.code(), expected, "{code}: {status:?}");
        assert_eq!(error_reason(&status), reason, "{code}");
        // The failpoint is used up, too.
        drop(weir.watch(database.watch_request(&[ORDERS])).await);
        weir.wait_for_no_feeds().await;
    }
    tally(Figure::Faults, 21);
}

/// Streams that open and fail for ever: no tight loop, and an end after the grace period.
#[tokio::test]
async fn a_stream_that_opens_and_fails_for_longer_than_the_grace_ends() {
    let database = Database::options().start().await;
    let grace = Duration::from_millis(1500);
    let weir = Weir::with(&database, |config| config.upstream_grace = grace).await;
    let restarts = async || weir.metrics().await.sum("weir_feed_restarts_total");
    for code in [43, 91, 280] {
        let before = restarts().await;
        let begin = Instant::now();
        let status = status_after(&database, &weir, weir_command_failure(&["getMore"], code)).await;
        let opened = restarts().await - before;
        let expected = match code {
            // By its time.
            280 => (Code::FailedPrecondition, "UPSTREAM_REFUSED", 1.0..=1.0),
            _ => (Code::Unavailable, "UPSTREAM_UNAVAILABLE", 3.0..=7.0),
        };
        let reported = (status.code(), &*error_reason(&status));
        assert_eq!(reported, (expected.0, expected.1), "{code}: {status:?}");
        assert!(
            expected.2.contains(&opened),
            "{code}: opened {opened} times"
        );
        assert!(code == 280 || begin.elapsed() >= grace);
    }
}

/// A new connection has to log in, and that too fails while MongoDB shuts down, has no keys yet, or
/// changes its users. A stream that has worked is not given up for that.
#[tokio::test]
async fn a_login_that_fails_while_reconnecting_is_retried() {
    let database = Database::options().start().await;
    let user = doc! { "createUser": "weir", "pwd": "secret", "roles": ["root"] };
    database.admin(user).await;
    let proxy = Proxy::to(database.address()).await;
    let uri = proxy.mongodb_uri().replace("://", "://weir:secret@");
    let weir = Weir::without_linger_at(&uri).await;
    let codes = [91, 11600, 211, 18, 8000];
    for (id, code) in (0..).zip(codes) {
        // Some of them hit connections that no stream needs.
        let failure = weir_command_failure(&["saslStart", "saslContinue"], code).times(6);
        let mut watch = watch_and_cut(&database, &weir, &proxy, failure).await;
        let mut received = Received::default();
        received.until_reconnected(&mut watch, 1).await;
        insert(&database, id).await;
        received.until_id(&mut watch, id).await;
        drop(watch);
        weir.wait_for_no_feeds().await;
    }
    let logins = weir.metrics().await;
    // Each cut alone makes one restart; the rest are failed logins.
    let restarts = logins.sum("weir_feed_restarts_total");
    assert!(restarts > codes.len() as f64, "{restarts} restarts");
    tally(Figure::Faults, 6 * codes.len() as u64);
}

/// At the opening the client learns at once that Weir is refused, or that MongoDB is away.
#[tokio::test]
async fn a_login_that_fails_at_the_opening_is_reported_with_its_cause() {
    let database = Database::options().start().await;
    let user = doc! { "createUser": "weir", "pwd": "secret", "roles": ["root"] };
    database.admin(user).await;
    for (password, code, expected) in [
        (
            "wrong",
            None,
            (Code::FailedPrecondition, "UPSTREAM_ACCESS_DENIED"),
        ),
        (
            "secret",
            Some(18),
            (Code::FailedPrecondition, "UPSTREAM_ACCESS_DENIED"),
        ),
        (
            "secret",
            Some(91),
            (Code::Unavailable, "UPSTREAM_UNAVAILABLE"),
        ),
    ] {
        let uri = database
            .uri()
            .replace("://", &format!("://weir:{password}@"));
        if let Some(code) = code {
            let failure = weir_command_failure(&["saslStart", "saslContinue"], code);
            database.fail(failure).await;
        }
        let weir = Weir::at(&uri, |_| {}).await;
        let status = refused(&database, &weir).await;
        database.clear_failures().await;
        let reported = (status.code(), &*error_reason(&status));
        assert_eq!(reported, expected, "{code:?}: {status:?}");
        assert!(!status.message().contains("weir"), "{status:?}");
    }
}

/// Views and time-series collections have no change streams.
#[tokio::test]
async fn a_view_is_refused_as_not_watchable() {
    let database = Database::options().start().await;
    let weir = Weir::without_linger(&database).await;
    database
        .fail(weir_command_failure(&["aggregate"], 166).times(1))
        .await;
    let status = refused(&database, &weir).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(error_reason(&status), "INVALID_REQUEST");
    let violations = status.get_details_bad_request().expect("details");
    assert_eq!(violations.field_violations[0].field, "collections");
}
