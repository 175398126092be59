//! Watches open and close: nothing is left behind, and a quiet one costs almost nothing.

use std::time::Duration;

use crate::support::orders::{ORDERS, aggregates, insert, resume};
use crate::support::{
    ChildProcess, Database, FailCommand, Samples, ServeProcess, WatchStream, Weir, eventually,
};
use futures::future::join_all;
use tokio::time::{Instant, timeout};

/// The gauges of what is open now.
const GAUGES: [&str; 3] = ["weir_watches", "weir_feeds", "weir_ring_bytes"];

/// Closes a feed with its last watch, so that leaks are visible.
const NO_LINGER: [&str; 2] = ["--feed-linger", "0s"];

async fn wait_for_release(database: &Database, metrics: impl AsyncFn() -> Samples) {
    eventually("the cursors are closed", async || {
        database.open_cursors().await == 0
    })
    .await;
    eventually("the gauges are back at zero", async || {
        let metrics = metrics().await;
        GAUGES.iter().all(|gauge| metrics.sum(gauge) == 0.0)
    })
    .await;
}

/// An opening whose client has left continues in MongoDB and holds a connection: it counts until it
/// ends, so that clients which come and go cannot start any number of them.
#[tokio::test]
async fn cancelled_openings_count_until_mongodb_answers() {
    const MAX_CATCH_UPS: usize = 2;
    let database = Database::options().start().await;
    let first = Weir::start(&database).await;
    let token = first.watch(database.watch_request(&[ORDERS])).await.token();
    insert(&database, 0).await;
    let weir = Weir::with(&database, |config| config.max_catch_ups = MAX_CATCH_UPS).await;
    let mut live = weir.watch(database.watch_request(&[ORDERS])).await;
    let catch_ups = async || weir.metrics().await.sum("weir_catch_ups");
    // Until a client of a caller has read, it has one stream opened at a time.
    let mut reader = weir.watch(resume(&database, token.clone())).await;
    reader.next_change().await;
    eventually("it has caught up", async || catch_ups().await == 0.0).await;
    drop(reader);

    let slow = FailCommand::on(&["aggregate"]).block(Duration::from_secs(4));
    database.fail(slow.app_name("weir")).await;
    for _ in 0..3 * MAX_CATCH_UPS {
        let request = resume(&database, token.clone());
        let mut client = weir.client().await;
        let given_up = timeout(Duration::from_millis(50), client.watch(request));
        drop(given_up.await);
    }
    eventually("the permits are taken", async || catch_ups().await >= 2.0).await;
    database.clear_failures().await;
    insert(&database, 1).await;
    live.next_change().await;
    assert_eq!(catch_ups().await, 2.0, "before MongoDB has answered");
    eventually("the permits are free", async || catch_ups().await == 0.0).await;
    eventually("one cursor is open", async || {
        database.open_cursors().await == 2
    })
    .await;
}

/// Clients that leave at any moment (before the request is read, during MongoDB's answer, between
/// messages) leave no cursor, no gauge count and no broken task; and a burst of them does not end
/// other calls on the same connection.
#[tokio::test]
async fn cancelled_watches_leave_nothing_behind() {
    const CYCLES: usize = 240;
    const AT_ONCE: usize = 40;
    let database = Database::options().start().await;
    let weir = ServeProcess::start(database.uri(), &NO_LINGER).await;
    let client = weir.client().await;
    for _ in 0..CYCLES / AT_ONCE {
        let cancelled = (0..AT_ONCE).map(|_| {
            let request = database.watch_request(&[ORDERS]);
            let mut client = client.clone();
            async move {
                let patience = Duration::from_micros(fastrand::u64(..40_000));
                let watch = async {
                    let mut watching = WatchStream::open(&mut client, request).await?;
                    while watching.try_next().await?.is_some() {}
                    Ok::<_, tonic::Status>(())
                };
                timeout(patience, watch).await
            }
        });
        let (ended, ()) = tokio::join!(join_all(cancelled), insert_one(&database));
        let early: Vec<_> = ended.into_iter().flatten().collect();
        assert!(early.is_empty(), "watches ended by themselves: {early:?}");
    }
    wait_for_release(&database, async || weir.metrics().await).await;
    let metrics = weir.metrics().await;
    let started = metrics.sum("weir_watches_started_total");
    assert!(started > 0.0);
    let by_client = [("code", "CANCELLED"), ("reason", "cancelled")];
    let ended = metrics.sum_where("weir_watches_ended_total", &by_client);
    assert_eq!(started, ended);
    assert_eq!(metrics.sum("weir_watch_duration_seconds_count"), ended);

    assert!(
        !weir.process.stderr().contains("panicked"),
        "{}",
        weir.process
    );

    let request = database.watch_request(&[ORDERS]);
    let watching = WatchStream::open(&mut weir.client().await, request).await;
    let mut watching = watching.expect("it opens");
    insert(&database, 1).await;
    assert_eq!(crate::support::orders::id(&watching.next_change().await), 1);
}

async fn insert_one(database: &Database) {
    let orders = database.collection(ORDERS);
    orders
        .insert_one(mongodb::bson::doc! {})
        .await
        .expect("an insert");
}

/// The cursor that MongoDB opens for a client that has left is closed as well: otherwise only
/// MongoDB's own limit of ten minutes would.
#[tokio::test]
async fn a_watch_that_is_cancelled_during_its_opening_leaves_no_cursor() {
    let database = Database::options().start().await;
    let weir = Weir::without_linger(&database).await;
    drop(weir.watch(database.watch_request(&[ORDERS])).await);
    weir.wait_for_no_feeds().await;
    // The database counts the commands on a collection once it exists.
    insert(&database, 1).await;
    let answered = aggregates(&database).await;
    let late = FailCommand::on(&["aggregate"]).block(Duration::from_millis(400));
    database.fail(late.times(1).app_name("weir")).await;
    let before = weir.metrics().await.sum("weir_watches_started_total");
    let opening = weir.try_watch(database.watch_request(&[ORDERS]));
    let opened = timeout(Duration::from_millis(200), opening).await;
    assert!(opened.is_err(), "MongoDB was not slow");
    let started = weir.metrics().await.sum("weir_watches_started_total") - before;
    assert_eq!(started, 1.0);
    eventually("MongoDB has opened the stream", async || {
        aggregates(&database).await > answered
    })
    .await;
    wait_for_release(&database, async || weir.metrics().await).await;
}

/// A process's resident kilobytes, threads and open files, as the kernel reports them.
fn footprint(process: &ChildProcess) -> [u64; 3] {
    let files = std::fs::read_dir(format!("/proc/{}/fd", process.id())).expect("it runs");
    let [memory, threads] = ["VmRSS:", "Threads:"].map(|name| process.proc_status(name));
    [memory, threads, files.count() as u64]
}

/// The same with the real binary and one connection per watch: the process does not grow.
#[tokio::test]
async fn clients_that_come_and_go_do_not_grow_the_process() {
    const WARM_UP: usize = 60;
    const CYCLES: usize = 220;
    let database = Database::options().start().await;
    let quiet = ["--log-level", "warn,weir::app=info"];
    let weir = ServeProcess::start(database.uri(), &[NO_LINGER, quiet].concat()).await;
    let cycle = async || {
        let request = database.watch_request(&[ORDERS]);
        let watching = WatchStream::open(&mut weir.client().await, request).await;
        drop(watching.expect("the watch opens"));
    };
    let idle = async || {
        eventually("every watch has ended", async || {
            let metrics = weir.metrics().await;
            metrics.sum("weir_watches") == 0.0 && metrics.sum("weir_feeds") == 0.0
        })
        .await;
        eventually("every cursor is closed", async || {
            database.open_cursors().await == 0
        })
        .await;
    };
    for _ in 0..WARM_UP {
        cycle().await;
    }
    idle().await;
    let [memory, threads, files] = footprint(&weir.process);
    for _ in 0..CYCLES {
        cycle().await;
    }
    idle().await;
    eventually("files are closed", async || {
        footprint(&weir.process)[2] <= files + 10
    })
    .await;
    let [memory_now, threads_now, _] = footprint(&weir.process);
    // 10 KB per watch would be twice that.
    let grown = memory_now.saturating_sub(memory);
    assert!(grown < 8 << 10, "{memory} KB became {memory_now} KB");
    assert!(
        threads_now <= threads + 4,
        "{threads} threads became {threads_now}"
    );
    assert!(
        !weir.process.stderr().contains("panicked"),
        "{}",
        weir.process
    );
}

/// Waits for three more rounds of getMore. Returns the time they took and their CPU cost in Weir.
async fn three_rounds(database: &Database, weir: &ServeProcess, feeds: i64) {
    let (getmores, used) = (database.getmore_count().await, weir.process.cpu_time());
    let begin = Instant::now();
    eventually("each feed has asked three times", async || {
        database.getmore_count().await >= getmores + 3 * feeds
    })
    .await;
    let took = begin.elapsed();
    let used = weir.process.cpu_time() - used;
    // The count starts in the middle of a second.
    let seconds = Duration::from_secs(2)..Duration::from_secs(5);
    assert!(seconds.contains(&took), "three round trips took {took:?}");
    assert!(used <= Duration::from_millis(300), "{used:?} of some 3 s");
}

/// The cost of quiet watches: one round trip to MongoDB per second for all equal ones, and almost
/// no CPU.
#[tokio::test]
async fn equal_quiet_watches_share_one_round_trip_a_second() {
    const WATCHES: usize = 5;
    let database = Database::options().start().await;
    let weir = ServeProcess::start(database.uri(), &[]).await;
    let mut client = weir.client().await;
    let mut open = Vec::new();
    for _ in 0..WATCHES {
        let request = database.watch_request(&[ORDERS]);
        let watching = WatchStream::open(&mut client, request).await;
        open.push(watching.expect("the watch opens"));
    }
    // With a stream per watch there would be fifteen within a second.
    three_rounds(&database, &weir, 1).await;
    assert_eq!(database.open_cursors().await, 1);
}

#[tokio::test]
async fn quiet_watches_of_several_collections_cost_one_round_trip_a_second_each() {
    const WATCHES: i64 = 5;
    let database = Database::options().start().await;
    let weir = ServeProcess::start(database.uri(), &[]).await;
    let mut client = weir.client().await;
    let mut open = Vec::new();
    for number in 0..WATCHES {
        let request = database.watch_request(&[&format!("{ORDERS}_{number}")]);
        let watching = WatchStream::open(&mut client, request).await;
        open.push(watching.expect("the watch opens"));
    }
    three_rounds(&database, &weir, WATCHES).await;
    assert_eq!(database.open_cursors().await, WATCHES);
}
