//! Ten thousand watches at once.

use crate::support::orders::{ORDERS, id, insert};
use crate::support::{Database, Figure, ServeProcess, WatchStream, eventually, tally};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tonic::transport::Channel;
use weir::pb::watch_service_client::WatchServiceClient;

const WATCHES: usize = 10_000;
/// A connection takes 200 streams.
const CONNECTIONS: usize = 100;

async fn open(
    database: &Database,
    clients: &[WatchServiceClient<Channel>],
    count: usize,
) -> Vec<WatchStream> {
    let opening = clients.iter().cycle().take(count).map(|client| {
        let mut client = client.clone();
        async move { WatchStream::open(&mut client, database.watch_request(&[ORDERS])).await }
    });
    let opening = stream::iter(opening).buffer_unordered(CONNECTIONS);
    opening.try_collect().await.expect("every watch opens")
}

#[tokio::test]
async fn ten_thousand_idle_watches_open_and_close() {
    let database = Database::options().start().await;
    let quiet = ["--feed-linger", "0s", "--log-level", "warn,weir::app=info"];
    let weir = ServeProcess::start(database.uri(), &quiet).await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(weir.client().await);
    }
    // A few first, so that one-time allocations are not counted per watch.
    drop(open(&database, &clients, CONNECTIONS).await);
    let gone = async || {
        eventually("no watch is left", async || {
            let metrics = weir.metrics().await;
            let gauges = ["weir_watches", "weir_feeds", "weir_memory_used_bytes"];
            gauges.iter().all(|gauge| metrics.sum(gauge) == 0.0)
        })
        .await;
        eventually("no cursor is left", async || {
            database.open_cursors().await == 0
        })
        .await;
    };
    gone().await;
    let before = weir.process.resident();

    let mut watches = open(&database, &clients, WATCHES).await;
    assert_eq!(weir.metrics().await.sum("weir_watches"), WATCHES as f64);
    assert_eq!(database.open_cursors().await, 1);
    let full = weir.process.resident();
    let each = full.saturating_sub(before) / WATCHES as u64;
    println!("an idle watch takes {each} bytes: {before} became {full}");
    assert!(each < 16 << 10, "{each} bytes for each watch");
    tally(Figure::WatchesHeld, WATCHES as u64);
    tally(Figure::PeakBytes, full);
    insert(&database, 1).await;
    for watch in &mut watches {
        assert_eq!(id(&watch.next_change().await), 1);
    }
    drop(watches);
    gone().await;

    // Their memory is reused by later watches.
    let full = weir.process.resident();
    let again = open(&database, &clients, WATCHES / 4).await;
    let grown = weir.process.resident().saturating_sub(full);
    assert!(
        grown < 8 << 20,
        "{grown} bytes more than for four times as many"
    );
    drop(again);
    gone().await;
    assert!(
        !weir.process.stderr().contains("panicked"),
        "{}",
        weir.process
    );
}
