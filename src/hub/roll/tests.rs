use std::hash::{BuildHasherDefault, Hasher};

use super::*;
use crate::plan::Operation;

/// Gives every key the same hash.
#[derive(Default)]
struct Collide;

impl Hasher for Collide {
    fn write(&mut self, _bytes: &[u8]) {}

    fn finish(&self) -> u64 {
        7
    }
}

fn plan(collection: &str, asked: Option<Operation>) -> Arc<Plan> {
    Arc::new(Plan {
        scope: Scope::Collection {
            database: "shop".to_owned(),
            collection: collection.to_owned(),
        },
        change_stream: bson::Document::new(),
        stages: Vec::new(),
        asked: asked.map(|operation| [operation].into()),
    })
}

/// T13
#[tokio::test]
async fn plans_whose_hashes_collide_never_share_a_feed() {
    let mut roll: Roll<&str, BuildHasherDefault<Collide>> = Roll::new(10, 4);
    let plans = [
        plan("a", None),
        plan("b", None),
        plan("a", Some(Operation::Insert)),
    ];
    for (plan, feed) in plans.iter().zip(["a", "b", "inserts"]) {
        assert!(roll.join(plan).is_none());
        let (_, retired) = roll
            .open(plan, Mode::Dedicated, feed)
            .expect("there is room");
        assert_eq!(retired, None);
    }
    for (plan, feed) in plans.iter().zip(["a", "b", "inserts"]) {
        // An equal plan, made apart from the first.
        let equal = Plan::clone(plan);
        let (_, found) = roll.join(&equal).expect("it is there");
        assert_eq!(found, feed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_roll_gives_the_place_of_the_feed_that_has_been_idle_for_longest() {
    let mut roll: Roll<&str> = Roll::new(2, 4);
    let (a, _) = roll
        .open(&plan("a", None), Mode::Shared, "a")
        .expect("room");
    let (b, _) = roll
        .open(&plan("b", None), Mode::Shared, "b")
        .expect("room");
    assert!(roll.open(&plan("c", None), Mode::Shared, "c").is_err());
    assert!(roll.leave(&b));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(roll.leave(&a));
    let (_, retired) = roll
        .open(&plan("c", None), Mode::Shared, "c")
        .expect("b goes");
    assert_eq!(retired, Some("b"));
    assert!(roll.join(&plan("a", None)).is_some());
    assert!(!roll.leave(&b), "it is no longer there");
    assert!(roll.expire(&a, Duration::ZERO).is_none(), "somebody joined");
}

#[tokio::test(start_paused = true)]
async fn a_ticket_of_a_feed_that_is_gone_does_not_touch_its_successor() {
    let mut roll: Roll<&str> = Roll::new(2, 4);
    let (old, _) = roll
        .open(&plan("a", None), Mode::Shared, "old")
        .expect("room");
    roll.forget(&old);
    let (new, _) = roll
        .open(&plan("a", None), Mode::Shared, "new")
        .expect("room");
    assert!(!roll.leave(&old));
    roll.forget(&old);
    assert!(roll.expire(&old, Duration::ZERO).is_none());
    assert!(roll.leave(&new));
    assert_eq!(roll.expire(&new, Duration::ZERO), Some("new"));
}
