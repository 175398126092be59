use std::hash::{BuildHasherDefault, Hasher};

use super::*;
use crate::{model::Operation, pb, pipeline::fixtures};

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
        FeedTable::new(Limit::new("feeds", 10), 4);
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
    let mut table: FeedTable<&str> = FeedTable::new(Limit::new("feeds", 2), 4);
    let (a, _) = table
        .insert(&plan("a", None), Mode::Shared, "a")
        .expect("the table has capacity");
    let (b, _) = table
        .insert(&plan("b", None), Mode::Shared, "b")
        .expect("the table has capacity");
    assert!(table.insert(&plan("c", None), Mode::Shared, "c").is_err());
    assert!(table.leave(&b));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(table.leave(&a));
    let (_, retired) = table
        .insert(&plan("c", None), Mode::Shared, "c")
        .expect("b is replaced");
    assert_eq!(retired, Some("b"));
    assert!(table.join(&plan("a", None)).is_some());
    assert!(!table.leave(&b), "b was removed");
    assert!(
        table.expire(&a, Duration::ZERO).is_none(),
        "a has a watcher"
    );
}

#[tokio::test(start_paused = true)]
async fn the_id_of_a_removed_feed_does_not_affect_its_successor() {
    let mut table: FeedTable<&str> = FeedTable::new(Limit::new("feeds", 2), 4);
    let (old, _) = table
        .insert(&plan("a", None), Mode::Shared, "old")
        .expect("the table has capacity");
    table.remove(&old);
    let (new, _) = table
        .insert(&plan("a", None), Mode::Shared, "new")
        .expect("the table has capacity");
    assert!(!table.leave(&old));
    table.remove(&old);
    assert!(table.expire(&old, Duration::ZERO).is_none());
    assert!(table.leave(&new));
    assert_eq!(table.expire(&new, Duration::ZERO), Some("new"));
}
