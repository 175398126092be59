//! Checks that the tests' database does what the tests need.

use std::time::Duration;

use crate::support::{Database, FailCommand, Mode, Proxy, eventually, within};
use futures::StreamExt as _;
use mongodb::bson::{Document, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ChangeStreamEvent;
use mongodb::error::ErrorKind;
use tokio::time::Instant;

/// The code of an error that the server returned.
fn code<T>(result: mongodb::error::Result<T>) -> i32 {
    match result.err().expect("the command fails").kind.as_ref() {
        ErrorKind::Command(error) => error.code,
        other => panic!("not an answer of the server: {other}"),
    }
}

async fn next(
    stream: &mut ChangeStream<ChangeStreamEvent<Document>>,
) -> ChangeStreamEvent<Document> {
    let event = within("the next event", stream.next()).await;
    event
        .expect("the stream continues")
        .expect("the stream lives")
}

async fn count(database: &Database) -> u64 {
    let orders = database.collection("orders");
    orders.count_documents(doc! {}).await.expect("a count")
}

#[tokio::test]
async fn every_test_has_a_database_name_of_its_own() {
    let database = Database::start().await;
    assert!(
        database
            .name()
            .starts_with("every_test_has_a_database_name_of_its_ow_"),
        "{} does not name the test",
        database.name()
    );
    assert_eq!(count(&database).await, 0);
}

#[tokio::test]
async fn a_killed_database_keeps_its_data_and_oplog() {
    let mut database = Database::options().on_disk().start().await;
    let orders = database.collection("orders");
    let mut stream = orders.watch().await.expect("a change stream");
    orders.insert_one(doc! {"_id": 1}).await.expect("an insert");
    let token = next(&mut stream).await.id;
    orders.insert_one(doc! {"_id": 2}).await.expect("an insert");
    drop(stream);
    let address = database.address();

    database.kill();
    assert!(std::net::TcpStream::connect(address).is_err());
    database.restart().await;

    assert_eq!(database.address(), address);
    assert_eq!(count(&database).await, 2);
    let mut resumed = orders
        .watch()
        .resume_after(token)
        .await
        .expect("the token is good after the restart");
    let event = next(&mut resumed).await;
    assert_eq!(event.full_document, Some(doc! {"_id": 2}));
}

#[tokio::test]
async fn commands_fail_on_request() {
    let database = Database::options().start().await;
    let ping = || async { database.database().run_command(doc! {"ping": 1}).await };

    database
        .fail(FailCommand::on(&["ping"]).code(11600).times(1))
        .await;
    assert_eq!(code(ping().await), 11600);
    ping().await.expect("only one ping fails");

    database
        .fail(FailCommand::on(&["ping"]).close_connection().times(1))
        .await;
    let error = ping().await.expect_err("the connection is closed");
    assert!(matches!(error.kind.as_ref(), ErrorKind::Io(_)), "{error}");

    let delay = Duration::from_millis(200);
    database
        .fail(FailCommand::on(&["ping"]).block(delay).times(1))
        .await;
    let begin = Instant::now();
    ping().await.expect("a late answer is the right one");
    assert!(begin.elapsed() >= delay);

    database
        .fail(
            FailCommand::on(&["ping"])
                .code(91)
                .label("ResumableChangeStreamError"),
        )
        .await;
    let error = ping().await.expect_err("it fails until it is healed");
    assert!(
        error.contains_label("ResumableChangeStreamError"),
        "{error}"
    );
    database.clear_failures().await;
    ping().await.expect("it is healed");

    database
        .fail(
            FailCommand::on(&["ping"])
                .code(11600)
                .app_name("someone-else"),
        )
        .await;
    ping().await.expect("the failure is for another client");
    database
        .fail(FailCommand::on(&["ping"]).code(11600).app_name("weir-test"))
        .await;
    assert_eq!(code(ping().await), 11600);
}

#[tokio::test]
async fn open_cursors_and_getmores_can_be_counted() {
    let database = Database::options().start().await;
    assert_eq!(database.open_cursors().await, 0);
    let before = database.getmore_count().await;

    let orders = database.collection("orders");
    let mut stream = orders
        .watch()
        .max_await_time(Duration::from_millis(10))
        .await
        .expect("a change stream");
    assert_eq!(database.open_cursors().await, 1);
    while database.getmore_count().await < before + 3 {
        stream.next_if_any().await.expect("the stream lives");
    }

    drop(stream);
    eventually("the cursor is closed", async || {
        database.open_cursors().await == 0
    })
    .await;
}

#[tokio::test]
async fn a_short_oplog_forgets() {
    let database = Database::options().oplog_max_entries(20).start().await;
    let orders = database.collection("orders");
    let mut stream = orders.watch().await.expect("a change stream");
    orders
        .insert_one(doc! {"_id": -1})
        .await
        .expect("an insert");
    let token = next(&mut stream).await.id;

    eventually("the token is forgotten", async || {
        for _ in 0..500 {
            orders.insert_one(doc! {}).await.expect("an insert");
        }
        let resumed = orders.watch().resume_after(token.clone()).await;
        resumed.is_err() && code(resumed) == 286
    })
    .await;
}

/// The process of a killed test must not live on. A separate test process is killed here, so that
/// nothing in it can clean up.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_database_dies_with_the_test_that_started_it() {
    const ROLE: &str = "WEIR_TEST_DATABASE_ORPHAN";
    let this_test = "database::the_database_dies_with_the_test_that_started_it";
    if std::env::var_os(ROLE).is_some() {
        let database = Database::options().start().await;
        println!("LISTENING {}", database.address());
        return std::future::pending().await;
    }

    // A killed test cannot clean it up.
    let left_behind = tempfile::TempDir::new().expect("a temporary folder");
    let myself = std::env::current_exe().expect("a test knows its program");
    let mut child = crate::support::ChildProcess::start(
        "a test that will be killed",
        "env",
        [
            format!("{ROLE}=yes").as_ref(),
            format!("TMPDIR={}", left_behind.path().display()).as_ref(),
            myself.as_os_str(),
            "--exact".as_ref(),
            this_test.as_ref(),
            "--nocapture".as_ref(),
        ],
    );
    let limit = crate::support::WAIT_LIMIT;
    child
        .wait_for_output("LISTENING", limit, |output| output.contains("LISTENING"))
        .await;
    let output = child.stdout();
    let address = output
        .split_whitespace()
        .skip_while(|&word| !word.ends_with("LISTENING"))
        .nth(1)
        .expect("an address follows");
    tokio::net::TcpStream::connect(address)
        .await
        .expect("the orphan-to-be listens");

    // SIGKILL.
    drop(child);

    eventually("the orphan is gone", async || {
        tokio::net::TcpStream::connect(address).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn a_network_can_be_cut_held_back_and_refused() {
    let database = Database::options().start().await;
    let proxy = Proxy::to(database.address()).await;
    let client = mongodb::Client::with_uri_str(format!(
        "{}&serverSelectionTimeoutMS=2000&retryReads=false",
        proxy.mongodb_uri()
    ))
    .await
    .expect("a client can be made");
    let admin = client.database("admin");
    let ping = || async { admin.run_command(doc! {"ping": 1}).await };
    ping().await.expect("bytes pass");
    assert!(proxy.accepted() >= 1 && proxy.open() >= 1);

    proxy.cut();
    eventually("connections are cut and remade", async || {
        ping().await.is_ok()
    })
    .await;

    let delay = Duration::from_millis(100);
    proxy.set(Mode::Delay(delay));
    let begin = Instant::now();
    ping().await.expect("bytes pass late");
    assert!(begin.elapsed() >= 2 * delay, "each direction is late");

    proxy.set(Mode::Blackhole);
    let held_back = tokio::time::timeout(Duration::from_millis(300), ping()).await;
    assert!(held_back.is_err(), "nothing passes");

    proxy.set(Mode::Refuse);
    eventually("connections end", async || proxy.open() == 0).await;
    assert!(ping().await.is_err());

    proxy.set(Mode::Pass);
    eventually("bytes pass again", async || ping().await.is_ok()).await;
}

#[test]
fn samples_of_metrics_are_summed_by_name_and_labels() {
    let samples = crate::support::Samples::parse(
        "# HELP weir_watches Watches.\n# TYPE weir_watches gauge\nweir_watches{state=\"live\"} \
         2\nweir_watches{state=\"opening\",x=\"a b\"} 1\nweir_watches_started_total 7\n\n",
    );
    assert_eq!(samples.sum("weir_watches"), 3.0);
    assert_eq!(samples.sum_where("weir_watches", &[("state", "live")]), 2.0);
    assert_eq!(
        samples.sum_where("weir_watches", &[("x", "a b"), ("state", "opening")]),
        1.0
    );
    assert_eq!(samples.sum("weir_watches_started_total"), 7.0);
    assert_eq!(samples.sum("weir_watch"), 0.0);
    assert!(samples.has("weir_watches") && !samples.has("weir_watch"));
}
