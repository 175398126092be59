//! Tests of which watches share a feed, of the feed limit, and of how long a feed stays open.

use futures::future::join_all;

use super::*;
use crate::filter::{Condition, Predicate};

pub(super) fn of(collection: &str) -> pb::WatchRequest {
    pb::WatchRequest {
        database: "shop".to_owned(),
        collections: vec![collection.to_owned()],
        ..Default::default()
    }
}

fn only(operation: pb::OperationType, mode: pb::FeedMode) -> pb::WatchRequest {
    pb::WatchRequest {
        operations: vec![operation.into()],
        feed_mode: mode.into(),
        ..request()
    }
}

fn quiet_cursors(count: usize) -> Vec<Opening> {
    (0..count).map(|_| cursor(vec![quiet("t", 1)])).collect()
}

#[tokio::test(start_paused = true)]
async fn equal_watches_share_a_stream_and_each_event_reaches_all_of_them() {
    let source = ScriptedSource::new([cursor(vec![
        quiet("t0", 0),
        batch(&[insert("a", 5), insert("b", 6)]),
    ])]);
    let hub = hub(&source);
    // Both join before the second batch is read.
    let (mut one, mut two) = two_clients(&hub).await;
    for client in [&mut one, &mut two] {
        let seen = client.see(3).await;
        assert!(seen.contains(&event_named("b")), "{seen:?}");
    }
    assert_eq!(source.requested_positions(), [None], "one stream for both");
    assert_eq!(metric(&hub, "weir_feeds"), 1.0);
}

/// MongoDB finds `{x: 1, y: 2}` and `{y: 2, x: 1}` unequal, so each of the two conditions selects other events.
/// Two requests with `compare` make this pair.
#[tokio::test(start_paused = true)]
async fn watches_that_differ_only_in_the_order_of_keys_do_not_share_a_stream() {
    let source = ScriptedSource::new(quiet_cursors(2));
    let hub = hub(&source);
    let with = |literal: bson::Document| {
        let mut watch = watch(pb::WatchRequest {
            feed_mode: pb::FeedMode::Dedicated.into(),
            ..request()
        });
        Arc::make_mut(&mut watch).filter = Some(
            Predicate::Field {
                path: "a".to_owned(),
                op: Condition::Eq(literal.into()),
            }
            .into(),
        );
        watch
    };
    let _one = Client::open(&hub, &with(doc! { "x": 1, "y": 2 })).await;
    let _equal = Client::open(&hub, &with(doc! { "x": 1, "y": 2 })).await;
    assert_eq!(metric(&hub, "weir_feeds"), 1.0);
    let _two = Client::open(&hub, &with(doc! { "y": 2, "x": 1 })).await;
    assert_eq!(metric(&hub, "weir_feeds"), 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_now_gets_no_event_from_before_its_start() {
    // The feed has not read `a` when the second watch starts; MongoDB's time is past it already.
    let source = ScriptedSource::new([cursor(vec![
        quiet("t0", 0),
        batch(&[insert("a", 2), insert("b", 3)]),
    ])]);
    let hub = hub(&source);
    let mut first = Client::open(&hub, &watch(request())).await;
    let mut second = Client::open(&hub, &watch(request())).await;
    assert_eq!(
        first.see(3).await,
        [Seen::Stage(Stage::Live), event_named("a"), event_named("b")]
    );
    let seen = second.see_all().await;
    assert!(!seen.contains(&event_named("a")), "{seen:?}");
    assert!(seen.contains(&event_named("b")), "{seen:?}");
    let begins = second.watcher.start_position().position.clone();
    assert_eq!(
        begins,
        Position::Time(at(3)),
        "its token stands for that time"
    );
}

/// Events that the feed reads while the watch waits for MongoDB's time come after its start position.
#[tokio::test(start_paused = true)]
async fn a_watch_from_now_gets_events_that_come_while_it_starts() {
    let source = Arc::new(ScriptedSource {
        time_delay: Duration::from_secs(1),
        ..ScriptedSource::of([cursor(vec![quiet("t0", 0), batch(&[insert("a", 3)])])])
    });
    let hub = hub(&source);
    let mut first = Client::open(&hub, &watch(request())).await;
    let opening = async {
        let mut second = Client::open(&hub, &watch(request())).await;
        (
            second.watcher.start_position().position.clone(),
            second.see(2).await,
        )
    };
    let (came, (begins, seen)) = tokio::join!(first.see(2), opening);
    assert_eq!(came, [Seen::Stage(Stage::Live), event_named("a")]);
    assert_eq!(begins, Position::Time(at(3)));
    assert!(seen.contains(&event_named("a")), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn feed_mode_auto_shares_once_a_scope_has_enough_dedicated_feeds() {
    use pb::{FeedMode, OperationType};

    let source = ScriptedSource::new(quiet_cursors(9));
    let settings = HubSettings {
        max_feeds: 9,
        feeds_per_scope: 2,
        ..settings()
    };
    let hub = hub_with(&source, settings);
    let mut clients = Vec::new();
    for (operation, mode) in [
        (OperationType::Insert, Mode::Dedicated),
        (OperationType::Update, Mode::Dedicated),
        (OperationType::Replace, Mode::Shared),
        (OperationType::Delete, Mode::Shared),
        (OperationType::Insert, Mode::Dedicated),
    ] {
        let client = Client::open(&hub, &watch(only(operation, FeedMode::Auto))).await;
        assert_eq!(client.watcher.mode(), mode, "{operation:?}");
        clients.push(client);
    }
    assert_eq!(
        source.requested_positions().len(),
        3,
        "two dedicated feeds and a shared one"
    );
    // A feed mode other than AUTO is always granted.
    let requested = watch(only(OperationType::Drop, FeedMode::Dedicated));
    let dedicated = Client::open(&hub, &requested).await;
    assert_eq!(dedicated.watcher.mode(), Mode::Dedicated);
    let requested = watch(only(OperationType::Insert, FeedMode::Shared));
    let shared = Client::open(&hub, &requested).await;
    assert_eq!(shared.watcher.mode(), Mode::Shared);
    assert_eq!(source.requested_positions().len(), 4);
    // Another scope has its own count.
    let other = pb::WatchRequest {
        operations: vec![OperationType::Insert.into()],
        ..of("other")
    };
    let other = Client::open(&hub, &watch(other)).await;
    assert_eq!(other.watcher.mode(), Mode::Dedicated);
}

#[tokio::test(start_paused = true)]
async fn a_shared_feed_gives_each_watch_its_own_events() {
    use pb::{FeedMode, OperationType};

    let update = event("u", "update", 12, doc! { "documentKey": { "_id": 1 } });
    let source = ScriptedSource::new([cursor(vec![
        quiet("t0", 0),
        batch(&[insert("a", 11), update, insert("b", 13)]),
    ])]);
    let hub = hub(&source);
    let of = |operation| watch(only(operation, FeedMode::Shared));
    let (inserts, updates) = (of(OperationType::Insert), of(OperationType::Update));
    let (mut inserts, mut updates) =
        tokio::join!(Client::open(&hub, &inserts), Client::open(&hub, &updates));
    let events = |seen: Vec<Seen>| -> Vec<Seen> {
        seen.into_iter()
            .filter(|it| matches!(it, Seen::Event(_)))
            .collect()
    };
    assert_eq!(
        events(inserts.see_all().await),
        [event_named("a"), event_named("b")]
    );
    assert_eq!(events(updates.see_all().await), [event_named("u")]);
    assert_eq!(source.requested_positions().len(), 1);
    assert_eq!(metric(&hub, "weir_events_filtered_total"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn the_feed_limit_is_reported_by_name_and_idle_feeds_make_room() {
    let source = ScriptedSource::new(quiet_cursors(6));
    let hub = hub(&source);
    let first = Client::open(&hub, &watch(of("a"))).await;
    let second = Client::open(&hub, &watch(of("b"))).await;
    let refused = hub.subscribe(&watch(of("c"))).await.unwrap_err();
    assert_eq!(refused.reason(), "WATCH_LIMIT_EXCEEDED");
    assert!(refused.to_string().contains("2 feeds"), "{refused}");
    // An idle feed makes room for another one at once.
    drop(first);
    let _third = Client::open(&hub, &watch(of("c"))).await;
    assert_eq!(source.requested_positions().len(), 3);
    drop(second);
    hub.close().await;
    assert_eq!(metric(&hub, "weir_feeds"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_feed_outlives_its_last_watch_by_the_linger_time() {
    let source = ScriptedSource::new(quiet_cursors(3));
    let hub = hub(&source);
    let linger = settings().feed_linger;
    drop(Client::open(&hub, &watch(request())).await);
    tokio::time::sleep(linger / 2).await;
    // A watch that comes meanwhile joins it, and the linger time starts again when that leaves.
    drop(Client::open(&hub, &watch(request())).await);
    assert_eq!(source.requested_positions().len(), 1);
    tokio::time::sleep(linger * 3 / 4).await;
    assert_eq!(metric(&hub, "weir_feeds"), 1.0);
    tokio::time::sleep(linger).await;
    assert_eq!(metric(&hub, "weir_feeds"), 0.0);
    drop(Client::open(&hub, &watch(request())).await);
    assert_eq!(source.requested_positions().len(), 2);
}
#[tokio::test]
async fn a_watch_that_joins_while_the_last_one_leaves_is_served() {
    for _ in 0..200 {
        let source = ScriptedSource::new(quiet_cursors(50));
        let settings = HubSettings {
            feed_linger: Duration::ZERO,
            ..settings()
        };
        let hub = hub_with(&source, settings);
        let leaves = Client::open(&hub, &watch(request())).await;
        let (_, mut joins) = tokio::join!(
            async {
                tokio::task::yield_now().await;
                drop(leaves);
            },
            async { Client::open(&hub, &watch(request())).await }
        );
        assert_eq!(joins.see(1).await, [Seen::Stage(Stage::Live)]);
        assert_eq!(metric(&hub, "weir_feeds"), 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_to_open_is_shared_by_all_waiting_watches_and_then_retried() {
    let source = ScriptedSource::new([
        Opening::Fail(Failure::AccessDenied),
        cursor(vec![quiet("t", 1)]),
    ]);
    let hub = hub(&source);
    let wanted = watch(request());
    let (one, two) = tokio::join!(hub.subscribe(&wanted), hub.subscribe(&wanted));
    for refused in [one, two] {
        assert_eq!(refused.unwrap_err().reason(), "UPSTREAM_ACCESS_DENIED");
    }
    assert_eq!(source.requested_positions().len(), 1, "one attempt");
    tokio::task::yield_now().await;
    assert!(hub.subscribe(&wanted).await.is_ok());
}

/// A replica set that is not initiated has no name, and tokens must not contain an empty name.
#[tokio::test(start_paused = true)]
async fn a_deployment_without_a_name_is_rejected_until_it_has_one() {
    let source = ScriptedSource::new([cursor(vec![quiet("t", 1)])]);
    source.set_names.lock().unwrap().extend(["", "rs"]);
    let unnamed = HubSettings {
        deployment_name: None,
        ..settings()
    };
    let hub = hub_with(&source, unnamed);
    let refused = hub.subscribe(&watch(request())).await.unwrap_err();
    assert_eq!(refused.reason(), "CHANGE_STREAMS_UNSUPPORTED");
    let client = Client::open(&hub, &watch(request())).await;
    let token = crate::wire::ResumeToken::decode(&client.token, None).unwrap();
    let plan = crate::pipeline::Plan::shared(&watch(request()));
    assert!(token.is_same_deployment(&crate::wire::TokenContext::new("rs", &plan)));
}

/// While MongoDB does not answer, no watch waits for the timeouts of earlier ones.
#[tokio::test(start_paused = true)]
async fn watches_that_start_together_fail_together_while_mongodb_does_not_answer() {
    let source = Arc::new(ScriptedSource {
        facts_delay: Duration::from_secs(10),
        failing_facts_requests: u32::MAX,
        ..ScriptedSource::of([])
    });
    let unnamed = HubSettings {
        deployment_name: None,
        ..settings()
    };
    let hub = hub_with(&source, unnamed);
    let begun = Instant::now();
    let wanted = watch(request());
    let refused = join_all((0..20).map(|_| hub.subscribe(&wanted))).await;
    assert!(refused.iter().all(Result::is_err));
    let last = begun.elapsed();
    assert!(
        last <= Duration::from_secs(20),
        "the last heard after {last:?}"
    );
}

/// Of different collections.
fn of_many(principal: &str, from: usize, count: usize) -> Vec<Arc<Watch>> {
    let watches = (from..from + count)
        .map(|number| of_principal(principal, &watch(of(&format!("{principal}_{number}")))));
    watches.collect()
}

/// Opens watches at once.
async fn open_all(hub: &Hub, watches: &[Arc<Watch>]) -> Vec<Client> {
    join_all(watches.iter().map(|watch| Client::open(hub, watch))).await
}

fn many_feeds() -> HubSettings {
    HubSettings {
        max_feeds: 64,
        feed_linger: Duration::ZERO,
        ..settings()
    }
}

/// Each of them costs MongoDB a stream, its first reads and its end.
#[tokio::test(start_paused = true)]
async fn a_caller_has_many_feeds_opened_at_once_and_ten_a_second_after_that() {
    let source = ScriptedSource::new(quiet_cursors(200));
    let hub = hub_with(&source, many_feeds());
    let opened = || source.requested_positions().len();
    // Left at once, as more are not allowed to be open.
    let (first, second) = (of_many("jwt:alice", 0, 40), of_many("jwt:alice", 40, 40));
    let begin = Instant::now();
    drop(open_all(&hub, &first).await);
    let mut flood = Box::pin(open_all(&hub, &second));
    assert!(
        timeout(Duration::from_millis(90), &mut flood)
            .await
            .is_err()
    );
    assert_eq!(opened(), 64 + 4, "as many as it has turns are too early");
    let others = open_all(&hub, &of_many("jwt:bob", 0, 8)).await;
    assert!(begin.elapsed() < Duration::from_millis(150), "no turn");
    assert_eq!(opened(), 64 + 4 + others.len());
    let second = Duration::from_secs(1);
    assert!(timeout(second, &mut flood).await.is_err());
    let later = opened() - 64 - 4 - others.len();
    assert!((9..=11).contains(&later), "{later} in a second");
    drop(flood);
    // Rested, it may again.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let begin = Instant::now();
    open_all(&hub, &of_many("jwt:alice", 100, 40)).await;
    assert!(begin.elapsed() < Duration::from_millis(100));
}

/// A dedicated feed would be too early, and the shared one does as well.
#[tokio::test(start_paused = true)]
async fn feed_mode_auto_shares_while_its_caller_opens_feeds_too_fast() {
    use pb::{FeedMode, OperationType};

    let source = ScriptedSource::new(quiet_cursors(200));
    let hub = hub_with(&source, many_feeds());
    let alice = |request| of_principal("jwt:alice", &watch(request));
    let updates = only(OperationType::Update, FeedMode::Auto);
    let before = Client::open(&hub, &alice(updates.clone())).await;
    assert_eq!(before.watcher.mode(), Mode::Dedicated);
    for from in [0, 40] {
        drop(open_all(&hub, &of_many("jwt:alice", from, 32)).await);
    }
    let begin = Instant::now();
    let inserts = only(OperationType::Insert, FeedMode::Auto);
    for (request, principal, mode) in [
        (inserts.clone(), "jwt:alice", Mode::Shared),
        (updates, "jwt:alice", Mode::Dedicated),
        (inserts, "jwt:bob", Mode::Dedicated),
    ] {
        let watch = of_principal(principal, &watch(request));
        let client = Client::open(&hub, &watch).await;
        assert_eq!(client.watcher.mode(), mode, "{principal}");
    }
    assert!(begin.elapsed() < Duration::from_millis(50), "none waits");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let deletes = only(OperationType::Delete, FeedMode::Auto);
    let client = Client::open(&hub, &alice(deletes)).await;
    assert_eq!(client.watcher.mode(), Mode::Dedicated);
}
