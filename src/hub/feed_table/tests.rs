use std::hash::{BuildHasherDefault, Hasher};

use super::*;
use crate::{model::Operation, pb, pipeline::fixtures};

const LINGER: Duration = Duration::from_secs(30);

fn caller(name: &str) -> Caller {
    Caller::Principal(name.into())
}

/// A hasher that gives every key the same hash.
#[derive(Default)]
struct Collide;

impl Hasher for Collide {
    fn write(&mut self, _bytes: &[u8]) {}

    fn finish(&self) -> u64 {
        7
    }
}

fn plan(collection: &str, operation: Option<Operation>) -> Arc<Plan> {
    Arc::new(fixtures::plan(pb::WatchRequest {
        collections: vec![collection.to_owned()],
        operations: operation.iter().map(|it| it.to_pb().into()).collect(),
        ..fixtures::request()
    }))
}

#[tokio::test]
async fn plans_whose_hashes_collide_never_share_a_feed() {
    let mut table: FeedTable<&str, BuildHasherDefault<Collide>> =
        FeedTable::new(Limit::new("feeds", 10), 4, LINGER);
    let plans = || {
        [
            (plan("a", None), "a"),
            (plan("b", None), "b"),
            (plan("a", Some(Operation::Insert)), "inserts"),
        ]
    };
    for (plan, feed) in plans() {
        assert!(table.join(&plan).is_none());
        let (_, retired) = table
            .insert(&plan, Mode::Dedicated, feed)
            .expect("the table has capacity");
        assert_eq!(retired, None);
    }
    // Equal plans in other allocations.
    for (equal, feed) in plans() {
        let (_, found) = table.join(&equal).expect("the feed exists");
        assert_eq!(found, feed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_table_replaces_the_feed_that_has_been_idle_for_longest() {
    let mut table: FeedTable<&str> = FeedTable::new(Limit::new("feeds", 2), 4, LINGER);
    let (a, _) = table
        .insert(&plan("a", None), Mode::Shared, "a")
        .expect("the table has capacity");
    let (b, _) = table
        .insert(&plan("b", None), Mode::Shared, "b")
        .expect("the table has capacity");
    assert!(table.insert(&plan("c", None), Mode::Shared, "c").is_err());
    assert!(table.leave(&b, &caller("a")));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(table.leave(&a, &caller("a")));
    let (_, retired) = table
        .insert(&plan("c", None), Mode::Shared, "c")
        .expect("b is replaced");
    assert_eq!(retired, Some("b"));
    assert!(table.join(&plan("a", None)).is_some());
    assert!(!table.leave(&b, &caller("a")), "b was removed");
    tokio::time::advance(LINGER).await;
    assert_eq!(table.expire(), (Vec::new(), None), "a has a watcher");
}

#[tokio::test(start_paused = true)]
async fn the_id_of_a_removed_feed_does_not_affect_its_successor() {
    let mut table: FeedTable<&str> = FeedTable::new(Limit::new("feeds", 2), 4, LINGER);
    let (old, _) = table
        .insert(&plan("a", None), Mode::Shared, "old")
        .expect("the table has capacity");
    table.remove(&old);
    let (new, _) = table
        .insert(&plan("a", None), Mode::Shared, "new")
        .expect("the table has capacity");
    assert!(!table.leave(&old, &caller("a")));
    table.remove(&old);
    table.opened(&new);
    assert!(!table.opened(&old));
    assert!(table.leave(&new, &caller("a")));
    tokio::time::advance(LINGER).await;
    assert_eq!(table.expire().0, ["new"]);
}

/// A table with open feeds of one scope, each with a watcher that is about to leave.
fn table_of(max_feeds: usize, names: &[&'static str]) -> (FeedTable<&'static str>, Vec<FeedId>) {
    let mut table = FeedTable::new(Limit::new("feeds", max_feeds), usize::MAX, LINGER);
    let ids = names.iter().map(|name| {
        let plan = plan(name, None);
        let inserted = table.insert(&plan, Mode::Dedicated, *name);
        let (id, _) = inserted.expect("the table has capacity");
        assert!(!table.opened(&id));
        id
    });
    let ids = ids.collect();
    (table, ids)
}

#[tokio::test(start_paused = true)]
async fn the_linger_time_is_shared_by_the_idle_feeds_of_a_caller() {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let (mut table, ids) = table_of(100, &NAMES);
    for id in &ids {
        table.leave(id, &caller("alice"));
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let began = Instant::now();
    let mut ends = Vec::new();
    loop {
        let (expired, next) = table.expire();
        ends.extend(
            expired
                .iter()
                .map(|name| (*name, began.elapsed().as_secs())),
        );
        let Some(next) = next else { break };
        tokio::time::sleep_until(next).await;
    }
    let expected = [
        ("a", 5),
        ("b", 6),
        ("c", 7),
        ("d", 10),
        ("e", 15),
        ("f", 30),
    ];
    let close = |((name, end), (expected, at)): (&(&str, u64), &(&str, u64))| {
        name == expected && end.abs_diff(*at) <= 1
    };
    assert!(
        ends.len() == 6 && ends.iter().zip(&expected).all(close),
        "{ends:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_with_many_idle_feeds_takes_no_time_from_the_feed_of_another() {
    let (mut table, ids) = table_of(12, &["bob", "a", "b", "c", "d", "e", "f"]);
    table.leave(&ids[0], &caller("bob"));
    tokio::time::advance(Duration::from_secs(1)).await;
    for id in &ids[1..] {
        table.leave(id, &caller("alice"));
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    // Three may be idle: those of alice make room, the longest idle first.
    assert_eq!(table.expire().0, ["a", "b", "c", "d"]);
    tokio::time::advance(LINGER - Duration::from_secs(2)).await;
    assert_eq!(table.expire().0, ["e"]);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(table.expire().0, ["bob"], "after the whole linger time");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(table.expire().0, ["f"]);
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_nobody_has_read_lingers_a_short_time_only() {
    let mut table: FeedTable<&str> = FeedTable::new(Limit::new("feeds", 9), 9, LINGER);
    let inserted = table.insert(&plan("a", None), Mode::Dedicated, "a");
    let (id, _) = inserted.expect("the table has capacity");
    table.leave(&id, &caller("alice"));
    tokio::time::advance(LINGER).await;
    assert_eq!(table.expire(), (Vec::new(), None), "it still opens");
    assert!(table.opened(&id), "nobody waits for it");
    let (expired, next) = table.expire();
    assert!(expired.is_empty());
    assert_eq!(next, Some(Instant::now() + UNREAD_LINGER));
    tokio::time::advance(UNREAD_LINGER / 2).await;
    let joined = table.join(&plan("a", None));
    assert!(joined.is_some(), "a client that tries again");
    table.leave(&id, &caller("alice"));
    tokio::time::advance(UNREAD_LINGER).await;
    assert!(table.expire().0.is_empty(), "it was read");
    tokio::time::advance(LINGER).await;
    assert_eq!(table.expire().0, ["a"]);
}
