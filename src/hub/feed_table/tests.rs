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
        assert!(table.join(&plan, &caller("a")).is_none());
        let (_, retired) = table
            .insert((&plan, Mode::Dedicated), feed, &caller("a"))
            .expect("the table has capacity");
        assert!(retired.is_empty());
    }
    // Equal plans in other allocations.
    for (equal, feed) in plans() {
        let (_, found) = table.join(&equal, &caller("a")).expect("the feed exists");
        assert_eq!(found, feed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_table_replaces_the_feed_that_has_been_idle_for_longest() {
    let mut table: FeedTable<&str> = FeedTable::new(Limit::new("feeds", 2), 4, LINGER);
    let (a, _) = table
        .insert((&plan("a", None), Mode::Shared), "a", &caller("a"))
        .expect("the table has capacity");
    let (b, _) = table
        .insert((&plan("b", None), Mode::Shared), "b", &caller("a"))
        .expect("the table has capacity");
    assert!(
        table
            .insert((&plan("c", None), Mode::Shared), "c", &caller("a"))
            .is_err()
    );
    assert!(table.leave(&b, &caller("a")));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(table.leave(&a, &caller("a")));
    let (_, retired) = table
        .insert((&plan("c", None), Mode::Shared), "c", &caller("a"))
        .expect("b is replaced");
    assert_eq!(retired, ["b"]);
    assert!(table.join(&plan("a", None), &caller("a")).is_some());
    assert!(!table.leave(&b, &caller("a")), "b was removed");
    tokio::time::advance(LINGER).await;
    assert_eq!(table.expire(), (Vec::new(), None), "a has a watcher");
}

#[tokio::test(start_paused = true)]
async fn the_id_of_a_removed_feed_does_not_affect_its_successor() {
    let mut table: FeedTable<&str> = FeedTable::new(Limit::new("feeds", 2), 4, LINGER);
    let (old, _) = table
        .insert((&plan("a", None), Mode::Shared), "old", &caller("a"))
        .expect("the table has capacity");
    table.remove(&old);
    let (new, _) = table
        .insert((&plan("a", None), Mode::Shared), "new", &caller("a"))
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
        let inserted = table.insert((&plan, Mode::Dedicated), *name, &Caller::default());
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
    let inserted = table.insert((&plan("a", None), Mode::Dedicated), "a", &caller("a"));
    let (id, _) = inserted.expect("the table has capacity");
    table.leave(&id, &caller("alice"));
    tokio::time::advance(LINGER).await;
    assert_eq!(table.expire(), (Vec::new(), None), "it still opens");
    assert!(table.opened(&id), "nobody waits for it");
    let (expired, next) = table.expire();
    assert!(expired.is_empty());
    assert_eq!(next, Some(Instant::now() + UNREAD_LINGER));
    tokio::time::advance(UNREAD_LINGER / 2).await;
    let joined = table.join(&plan("a", None), &caller("a"));
    assert!(joined.is_some(), "a client that tries again");
    table.leave(&id, &caller("alice"));
    tokio::time::advance(UNREAD_LINGER).await;
    assert!(table.expire().0.is_empty(), "it was read");
    tokio::time::advance(LINGER).await;
    assert_eq!(table.expire().0, ["a"]);
}

/// Inserts a dedicated feed for a caller. Returns it with the feeds that made room.
fn insert<'a>(
    table: &mut FeedTable<&'a str>,
    name: &'a str,
    caller: &Caller,
) -> Result<(FeedId, Vec<&'a str>), Error> {
    table.insert((&plan(name, None), Mode::Dedicated), name, caller)
}

#[tokio::test(start_paused = true)]
async fn a_principal_leaves_a_quarter_of_the_feeds_to_others() {
    for (max, own) in [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (64, 48)] {
        let table: FeedTable<&str> = FeedTable::new(Limit::new("feeds", max), 9, LINGER);
        assert_eq!(table.max_of(&caller("alice")), own, "of {max}");
    }
    let (alice, bob) = (caller("alice"), caller("bob"));
    let mut table = FeedTable::new(Limit::new("feeds", 4), 9, LINGER);
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        let (id, _) = insert(&mut table, name, &alice).expect("three of four");
        ids.push(id);
    }
    let refused = insert(&mut table, "d", &alice).expect_err("the fourth");
    let text = refused.to_string();
    assert!(text.contains("3 of the 4 feeds"), "{text}");
    assert_eq!(refused.reason(), "WATCH_LIMIT_EXCEEDED");
    let (dedicated, shared) = (plan("d", Some(Operation::Insert)), plan("d", None));
    let mode = |caller| table.choose_mode(caller, FeedMode::Auto, (&dedicated, &shared));
    assert_eq!(mode(&alice), Mode::Shared);
    let (joined, _) = table
        .join(&plan("a", None), &alice)
        .expect("it joins what is there");
    insert(&mut table, "d", &bob).expect("one was kept");
    assert!(insert(&mut table, "e", &bob).is_err(), "all are in use");
    // A feed that alice has left to bob counts for neither.
    table.join(&plan("a", None), &bob).expect("it is there");
    table.leave(&ids[0], &alice);
    assert_eq!(table.in_use_of(&alice), 3, "it watches it twice");
    table.leave(&joined, &alice);
    assert_eq!((table.in_use_of(&alice), table.in_use_of(&bob)), (2, 1));
}

/// Else it could come back to its idle feeds and have all of them in use.
#[tokio::test(start_paused = true)]
async fn a_principals_idle_feeds_make_room_for_its_own() {
    let alice = caller("alice");
    let mut table = FeedTable::new(Limit::new("feeds", 4), 9, LINGER);
    for name in ["a", "b", "c"] {
        let (id, retired) = insert(&mut table, name, &alice).expect("the table has capacity");
        assert!(retired.is_empty());
        if name != "a" {
            table.leave(&id, &alice);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }
    let (_, retired) = insert(&mut table, "d", &alice).expect("idle ones make room");
    assert_eq!(retired, ["b"]);
    table.join(&plan("c", None), &alice).expect("it is idle");
    assert_eq!(table.in_use_of(&alice), 3);
    // Callers by address have no share of their own.
    let (mut table, _) = table_of(4, &["a", "b", "c", "d"]);
    assert!(insert(&mut table, "e", &Caller::default()).is_err());
}

#[tokio::test(start_paused = true)]
async fn room_is_made_by_own_idle_feeds_and_then_by_those_of_the_caller_with_the_most() {
    let (mut table, ids) = table_of(5, &["bob", "a", "b", "own", "c"]);
    for (id, by) in ids.iter().zip(["bob", "alice", "alice", "carol"]) {
        table.leave(id, &caller(by));
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let mut expected = ["own", "a", "bob", "b"].into_iter();
    for name in ["1", "2"] {
        let (_, retired) = insert(&mut table, name, &caller("carol")).expect("idle ones");
        assert_eq!(retired, [expected.next().expect("one is left")]);
    }
    // Now each of two has one: the longest idle.
    for name in ["3", "4"] {
        let (_, retired) = insert(&mut table, name, &caller("dave")).expect("idle ones");
        assert_eq!(retired, [expected.next().expect("one is left")]);
    }
}
