//! Processes that are killed during writes: MongoDB, Weir, one replica of several. Clients resume
//! from the tokens that they stored, and miss nothing.

use crate::support::Database;
use crate::support::ledger::ResumingClient;
use crate::testbed::{Replicas, Testbed, one_client_of_each_kind, short_limits, write_options};
use crate::testbed::{wait_for_every_client, wait_for_writes};

/// MongoDB is killed in the middle of a batch, repeatedly. Clients stay connected.
#[tokio::test]
async fn killing_mongodb_during_writes_loses_nothing() {
    let database = Database::options().on_disk().start().await;
    let mut testbed = Testbed::with(
        database,
        write_options(),
        short_limits,
        one_client_of_each_kind,
    )
    .await;
    for _ in 0..2 {
        testbed.wait_for_writes(30).await;
        testbed.database.restart().await;
        testbed.wait_for_every_client().await;
    }
    assert!(testbed.feed_restarts().await >= 2.0);
    let outcome = testbed.check_delivery(2).await;
    assert_eq!(outcome.totals.reconnects, 0, "{:?}", outcome.ends);
}

/// Weir's own cursors are killed.
#[tokio::test]
async fn killing_weirs_cursors_loses_nothing() {
    let testbed = Testbed::start().await;
    let mut killed = 0;
    for _ in 0..4 {
        testbed.wait_for_writes(20).await;
        killed += testbed.database.kill_cursors(&[]).await;
        testbed.wait_for_every_client().await;
    }
    let metrics = testbed.weir.metrics().await;
    let by_reason = [("reason", "cursor_not_found")];
    let feed_restarts = metrics.sum_where("weir_feed_restarts_total", &by_reason);
    assert!(feed_restarts >= 4.0, "{feed_restarts} restarts");
    let outcome = testbed.check_delivery(killed).await;
    assert_eq!(outcome.totals.reconnects, 0, "{:?}", outcome.ends);
    outcome.wait_for_release().await;
}

/// Weir crashes at any moment: between sending a message and the client storing its token, or in
/// the middle of an event in pieces.
#[tokio::test]
async fn killing_weir_while_it_sends_loses_nothing() {
    let mut replicas = Replicas::start(1, &write_options()).await;
    for _ in 0..3 {
        wait_for_writes(&replicas.ledger, 30).await;
        replicas.end(0, "KILL").await;
        wait_for_writes(&replicas.ledger, 10).await;
        replicas.start_again(0).await;
        wait_for_every_client(&replicas.clients).await;
    }
    let client_proxy = replicas.clients.len() as u64;
    let totals = replicas.check_delivery(3).await;
    assert!(totals.reconnects >= 3 * client_proxy, "{totals:?}");
}

/// A shutdown gives each client its last token, and the next server resumes from there.
#[tokio::test]
async fn restarting_weir_loses_and_repeats_nothing() {
    let mut replicas = Replicas::start(1, &write_options()).await;
    for _ in 0..3 {
        wait_for_writes(&replicas.ledger, 30).await;
        replicas.end(0, "TERM").await;
        wait_for_writes(&replicas.ledger, 10).await;
        replicas.start_again(0).await;
        wait_for_every_client(&replicas.clients).await;
    }
    let drained = |it: &&ResumingClient| {
        it.end_reasons()
            .iter()
            .filter(|end| *end == "SERVER_DRAINING")
            .count()
            == 3
    };
    let drained = replicas.clients.iter().filter(drained).count();
    // One that is behind may be cut off before it has read that far.
    assert!(drained + 1 >= replicas.clients.len(), "{drained} got it");
    replicas.check_delivery(3).await;
}

/// Clients move to another replica, by themselves and because theirs crashed.
#[tokio::test]
async fn clients_that_move_between_replicas_miss_nothing() {
    let mut replicas = Replicas::start(2, &write_options()).await;
    for round in 0..4 {
        wait_for_writes(&replicas.ledger, 20).await;
        let (stays, crashes) = (round % 2, 1 - round % 2);
        // Half of them move before the crash, the others afterwards.
        let address = replicas.servers[stays].client_proxy.address();
        let half = replicas.clients.len() / 2;
        replicas.clients[..half]
            .iter()
            .for_each(|it| it.move_to(address));
        replicas.end(crashes, "KILL").await;
        replicas.clients[half..]
            .iter()
            .for_each(|it| it.move_to(address));
        wait_for_every_client(&replicas.clients).await;
        replicas.start_again(crashes).await;
    }
    let client_proxy = replicas.clients.len() as u64;
    let totals = replicas.check_delivery(4 + 4 * client_proxy).await;
    assert!(totals.reconnects >= 4 * client_proxy, "{totals:?}");
}
