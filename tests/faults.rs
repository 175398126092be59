//! What each error of MongoDB comes to for a watch: it goes on by itself, or it ends with the code
//! and the reason of the API's table.

mod support;

use mongodb::bson::doc;
use support::orders::{ORDERS, Story, insert};
use support::{Database, FailCommand, Proxy, Watching, Weir, error_reason, eventually, within};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const RESUMABLE: &str = "ResumableChangeStreamError";
const NOT_RESUMABLE: &str = "NonResumableChangeStreamError";

/// The drivers' list of resumable errors: CursorNotFound, and what elections, shutdowns, networks
/// and stale routing answer with. StaleConfig (13388) belongs to them as well, but no failpoint can
/// make it: MongoDB wants more to be said beside it than a failpoint says.
const TRANSIENT: [i32; 17] = [
    43, 6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 63, 150, 234, 133,
];

/// What a reading stream can end with, whatever labels the error carries.
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
    (13, Code::FailedPrecondition, "UPSTREAM_ACCESS_DENIED"),
    (18, Code::FailedPrecondition, "UPSTREAM_ACCESS_DENIED"),
    (8000, Code::FailedPrecondition, "UPSTREAM_ACCESS_DENIED"),
];

/// What MongoDB says to a request that Weir should not have made.
const BROKEN: [i32; 12] = [20, 26, 73, 72, 9, 14, 2, 40415, 50865, 40674, 376, 464];

/// A failure of Weir's own commands, and of no one else's.
fn weirs(commands: &[&str], code: i32) -> FailCommand {
    FailCommand::on(commands).code(code).app_name("weir")
}

/// Fails the next `getMore` of a watch and sees it go on with nothing lost and nothing repeated.
async fn goes_on_after(database: &Database, weir: &Weir, failure: FailCommand, ids: [i32; 2]) {
    let mut watching = weir.watch(database.watch_request(&[ORDERS])).await;
    let mut story = Story::default();
    database.fail(failure).await;
    // Ends the getMore that is under way; the next one fails.
    insert(database, ids[0]).await;
    story.until_reconnected(&mut watching, 1).await;
    story.until_id(&mut watching, ids[0]).await;
    insert(database, ids[1]).await;
    story.until_id(&mut watching, ids[1]).await;
    assert_eq!(story.ids, ids, "{story:?}");
}

/// T27. MongoDB 4.4 and later label what is resumable; older servers do not.
#[tokio::test]
async fn a_watch_goes_on_after_every_resumable_error_without_a_label() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    for (id, code) in (0..).step_by(2).zip(TRANSIENT) {
        let failure = weirs(&["getMore"], code).times(1);
        goes_on_after(&database, &weir, failure, [id, id + 1]).await;
    }
    let restarts = weir.metrics().await.sum("weir_feed_restarts_total");
    assert!(restarts >= TRANSIENT.len() as f64, "{restarts} restarts");
}

/// T27. An error that no list names is resumable when its label says so.
#[tokio::test]
async fn a_watch_goes_on_after_every_error_with_the_resumable_label() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let codes = TRANSIENT.into_iter().chain([4242, 20, 401]);
    for (id, code) in (0..).step_by(2).zip(codes) {
        let failure = weirs(&["getMore"], code).label(RESUMABLE).times(1);
        goes_on_after(&database, &weir, failure, [id, id + 1]).await;
    }
}

async fn insert_any(database: &Database) {
    let orders = database.collection(ORDERS);
    orders.insert_one(doc! {}).await.expect("an insert");
}

/// Fails every `getMore` of a watch and gives how it ended.
async fn ends_after(database: &Database, weir: &Weir, failure: FailCommand) -> Status {
    let mut watching = weir.watch(database.watch_request(&[ORDERS])).await;
    database.fail(failure).await;
    // Ends the getMore that is under way; the next one fails.
    insert_any(database).await;
    let status = watching.end().await;
    database.heal().await;
    status
}

/// T27. A failure that no second attempt can mend ends the watch at the first, whatever its label
/// says: MongoDB is not asked again. Only where an event can't be sent, once for those before it.
#[tokio::test]
async fn a_terminal_error_ends_a_watch_as_the_table_says_after_one_attempt() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let internal = BROKEN.map(|code| (code, Code::Internal, "INTERNAL"));
    let mut of_one_event = 0;
    for (code, expected, reason) in TERMINAL.into_iter().chain(internal) {
        let plain = weirs(&["getMore"], code);
        let mut failures = vec![plain.clone(), plain.clone().label(NOT_RESUMABLE)];
        if expected != Code::Internal {
            failures.push(plain.label(RESUMABLE));
        }
        if matches!(code, 47 | 10334) {
            of_one_event += failures.len();
        }
        for failure in failures {
            let status = ends_after(&database, &weir, failure.clone()).await;
            assert_eq!(status.code(), expected, "{failure:?}: {status:?}");
            assert_eq!(error_reason(&status), reason, "{failure:?}");
            assert!(
                !status.message().contains("failpoint"),
                "MongoDB's words are for the log: {status:?}"
            );
        }
    }
    let metrics = weir.metrics().await;
    let restarts = metrics.sum("weir_feed_restarts_total");
    assert_eq!(restarts, of_one_event as f64);
    assert_eq!(metrics.sum("weir_feeds"), 0.0);
}

/// T27. A token that is not found again (280) or not understood while reading gets one attempt by
/// its time, and no loop.
#[tokio::test]
async fn a_token_that_is_not_found_gets_one_attempt_by_time() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    for (id, code) in [(0, 280), (10, 260)] {
        let mut watching = weir.watch(database.watch_request(&[ORDERS])).await;
        let mut story = Story::default();
        insert(&database, id).await;
        story.until_id(&mut watching, id).await;
        database.fail(weirs(&["getMore"], code).times(1)).await;
        insert(&database, id + 1).await;
        eventually("the stream is opened again", async || {
            let restarts = weir.metrics().await;
            restarts.sum("weir_feed_restarts_total") >= f64::from(id / 10 + 1)
        })
        .await;
        insert(&database, id + 2).await;
        story.until_id(&mut watching, id + 2).await;
        assert_eq!(story.ids, [id, id + 1, id + 2], "{code}");

        let failure = weirs(&["getMore", "aggregate"], code);
        let status = ends_after(&database, &weir, failure).await;
        let expected = match code {
            280 => (Code::OutOfRange, "RESUME_TOKEN_EXPIRED"),
            _ => (Code::InvalidArgument, "RESUME_TOKEN_MALFORMED"),
        };
        assert_eq!((status.code(), &*error_reason(&status)), expected);
    }
}

/// Opens a watch as a client does: an error comes in place of the response headers.
async fn refused(database: &Database, weir: &Weir) -> Status {
    let request = database.watch_request(&[ORDERS]);
    let mut client = weir.client().await;
    let answer = within("an answer to Watch", client.watch(request)).await;
    answer
        .map(|_| ())
        .expect_err("the watch is refused before headers")
}

/// T28. An error at opening is the client's to retry, as its policy says. Only the driver tries a
/// read a second time by itself, and only where it may be another server's turn.
#[tokio::test]
async fn a_transient_error_at_opening_reaches_the_client_at_once() {
    const RETRIED_BY_THE_DRIVER: [i32; 12] = [
        6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436,
    ];
    let database = Database::options().start().await;
    let weir = Weir::forgetful(&database).await;
    for code in TRANSIENT {
        let attempts = 1 + i32::from(RETRIED_BY_THE_DRIVER.contains(&code));
        let failure = weirs(&["aggregate"], code).label(RESUMABLE);
        database.fail(failure.times(attempts)).await;
        let status = refused(&database, &weir).await;
        assert_eq!(status.code(), Code::Unavailable, "{code}: {status:?}");
        assert_eq!(error_reason(&status), "UPSTREAM_UNAVAILABLE");
        let retry = status.get_details_retry_info();
        assert!(retry.is_some_and(|it| it.retry_delay.is_some()), "{code}");
        // The failpoint is used up: a further attempt by Weir would have opened the watch.
        weir.watch(database.watch_request(&[ORDERS])).await;
        weir.without_feeds().await;
    }
}

/// T28.
#[tokio::test]
async fn a_terminal_error_at_opening_is_told_as_the_table_says() {
    let database = Database::options().start().await;
    let weir = Weir::forgetful(&database).await;
    let tokens = [
        (280, Code::OutOfRange, "RESUME_TOKEN_EXPIRED"),
        (260, Code::InvalidArgument, "RESUME_TOKEN_MALFORMED"),
        (50811, Code::InvalidArgument, "RESUME_TOKEN_MALFORMED"),
    ];
    let internal = BROKEN.map(|code| (code, Code::Internal, "INTERNAL"));
    for (code, expected, reason) in TERMINAL.into_iter().chain(tokens).chain(internal) {
        database.fail(weirs(&["aggregate"], code).times(1)).await;
        let status = refused(&database, &weir).await;
        assert_eq!(status.code(), expected, "{code}: {status:?}");
        assert_eq!(error_reason(&status), reason, "{code}");
        let topology = status.get_details_precondition_failure();
        assert_eq!(topology.is_some(), code == 40573, "{code}: {status:?}");
        // One attempt was made, so nothing is left of the failpoint.
        weir.watch(database.watch_request(&[ORDERS])).await;
        weir.without_feeds().await;
    }
}

/// Breaks the stream of a watch, so that it is opened again.
async fn watch_and_cut(
    database: &Database,
    weir: &Weir,
    proxy: &Proxy,
    failure: FailCommand,
) -> Watching {
    let watching = weir.watch(database.watch_request(&[ORDERS])).await;
    database.fail(failure).await;
    proxy.cut();
    watching
}

/// T28. Opening again after a lost stream goes on for as long as MongoDB is only away.
#[tokio::test]
async fn opening_again_is_retried_for_transient_errors_only() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let weir = Weir::at(&proxy.mongodb_uri(), |_| {}).await;
    for (id, code) in [(0, 43), (10, 91)] {
        let failure = weirs(&["aggregate"], code).times(2);
        let mut watching = watch_and_cut(&database, &weir, &proxy, failure).await;
        let mut story = Story::default();
        story.until_reconnected(&mut watching, 1).await;
        insert(&database, id).await;
        story.until_id(&mut watching, id).await;
    }
    for (code, expected, reason) in [TERMINAL[0], TERMINAL[5], (20, Code::Internal, "INTERNAL")] {
        let failure = weirs(&["aggregate"], code);
        let mut watching = watch_and_cut(&database, &weir, &proxy, failure).await;
        let status = watching.end().await;
        assert_eq!(status.code(), expected, "{code}: {status:?}");
        assert_eq!(error_reason(&status), reason, "{code}");
        database.heal().await;
    }
}
