//! Processes that are killed while there is writing: MongoDB, Weir, one replica of several. Clients go
//! on from the tokens that they stored, and nobody misses anything.

mod reading;
mod scene;
mod support;

use scene::{Replicas, Scene, every_kind, hasty, writing};
use scene::{everybody_gets_more, more_is_written};
use support::Database;
use support::ledger::Follower;

/// MongoDB killed in the midst of a batch, again and again. Clients stay attached.
#[tokio::test]
async fn killing_mongodb_in_the_midst_of_writing_loses_nothing() {
    let database = Database::options().on_disk().start().await;
    let mut scene = Scene::with(database, writing(), hasty, every_kind).await;
    for _ in 0..2 {
        scene.more_is_written(30).await;
        scene.database.restart().await;
        scene.everybody_gets_more().await;
    }
    assert!(scene.restarts().await >= 2.0);
    let verdict = scene.verdict(2).await;
    assert_eq!(verdict.figures.reconnects, 0, "{:?}", verdict.ends);
}

/// Weir's own cursors killed under it.
#[tokio::test]
async fn killing_the_cursors_of_weir_loses_nothing() {
    let scene = Scene::start().await;
    let mut killed = 0;
    for _ in 0..4 {
        scene.more_is_written(20).await;
        killed += scene.database.kill_cursors(&[]).await;
        scene.everybody_gets_more().await;
    }
    let metrics = scene.weir.metrics().await;
    let by_reason = [("reason", "cursor_not_found")];
    let restarts = metrics.sum_where("weir_feed_restarts_total", &by_reason);
    assert!(restarts >= 4.0, "{restarts} restarts");
    let verdict = scene.verdict(killed).await;
    assert_eq!(verdict.figures.reconnects, 0, "{:?}", verdict.ends);
    verdict.nothing_is_left().await;
}

/// A crash of Weir at any moment: between the sending of a message and the storing of its token, in
/// the midst of an event in pieces.
#[tokio::test]
async fn killing_weir_in_the_midst_of_sending_loses_nothing() {
    let mut replicas = Replicas::start(1, &writing()).await;
    for _ in 0..3 {
        more_is_written(&replicas.ledger, 30).await;
        replicas.end(0, "KILL").await;
        more_is_written(&replicas.ledger, 10).await;
        replicas.start_again(0).await;
        everybody_gets_more(&replicas.followers).await;
    }
    let clients = replicas.followers.len() as u64;
    let figures = replicas.verdict(3).await;
    assert!(figures.reconnects >= 3 * clients, "{figures:?}");
}

/// A shutdown gives each client its last token, and the next server goes on from there.
#[tokio::test]
async fn shutting_weir_down_and_starting_it_again_loses_and_repeats_nothing() {
    let mut replicas = Replicas::start(1, &writing()).await;
    for _ in 0..3 {
        more_is_written(&replicas.ledger, 30).await;
        replicas.end(0, "TERM").await;
        more_is_written(&replicas.ledger, 10).await;
        replicas.start_again(0).await;
        everybody_gets_more(&replicas.followers).await;
    }
    let drained = |it: &&Follower| {
        it.ends()
            .iter()
            .filter(|end| *end == "SERVER_DRAINING")
            .count()
            == 3
    };
    let drained = replicas.followers.iter().filter(drained).count();
    // One that is behind may be cut before it has read so far.
    assert!(
        drained + 1 >= replicas.followers.len(),
        "{drained} were told"
    );
    replicas.verdict(3).await;
}

/// Contract 7. Clients that go to another replica, of their own accord and because theirs crashed.
#[tokio::test]
async fn clients_that_move_between_replicas_miss_nothing() {
    let mut replicas = Replicas::start(2, &writing()).await;
    for round in 0..4 {
        more_is_written(&replicas.ledger, 20).await;
        let (stays, crashes) = (round % 2, 1 - round % 2);
        // Half of them leave before, the others afterwards.
        let address = replicas.servers[stays].clients.address();
        let half = replicas.followers.len() / 2;
        replicas.followers[..half]
            .iter()
            .for_each(|it| it.move_to(address));
        replicas.end(crashes, "KILL").await;
        replicas.followers[half..]
            .iter()
            .for_each(|it| it.move_to(address));
        everybody_gets_more(&replicas.followers).await;
        replicas.start_again(crashes).await;
    }
    let clients = replicas.followers.len() as u64;
    let figures = replicas.verdict(4 + 4 * clients).await;
    assert!(figures.reconnects >= 4 * clients, "{figures:?}");
}
