//! Tests of what is dropped when memory is short.

use bytes::Bytes;

use super::{sharing::of, *};
use crate::{
    hub::{budget::MemoryBudget, segment::Segment},
    wire::{Compression, Frame},
};

#[tokio::test(start_paused = true)]
async fn rings_without_subscribers_are_emptied_first_and_then_the_largest_are_shrunk() {
    let bigs = |from: u32| cursor((from..from + 12).map(|n| batch(&[big("e", n)])).collect());
    let source = ScriptedSource::new([bigs(1), bigs(20), cursor(vec![quiet("t", 1)])]);
    let settings = HubSettings {
        max_feeds: 3,
        ring_bytes: 64 << 20,
        memory_limit: 10 << 20,
        ..settings()
    };
    let hub = hub_with(&source, settings);
    let deserted = Client::open(&hub, &watch(of("a"))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(deserted);
    let mut slow = Client::open(&hub, &watch(of("b"))).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let bytes = hub.scraped_gauges().memory_used_bytes;
    assert!(bytes <= 11 << 20, "{bytes} bytes are held");
    let rings = ["shop.a", "shop.b"].map(|scope| -> usize {
        let rings = hub.feeds.rings_of(scope);
        rings.iter().map(|ring| ring.cost()).sum()
    });
    assert_eq!(rings[0], 0, "the first ring has no subscribers");
    assert!(rings[1] > 0, "emptying the first ring was enough");
    let seen = slow.see(13).await;
    let events = seen.iter().filter(|it| matches!(it, Seen::Event(_)));
    assert_eq!(events.count(), 12, "{seen:?}");
}

/// Makes the events a small part of the bytes of a reply.
fn with_ballast(mut batch: Batch) -> Batch {
    let mut buffer = batch.buffer.to_vec();
    buffer.resize(buffer.len() + (1 << 20), 0);
    batch.buffer = buffer.into();
    batch
}

/// Rings too small to be shrunk can keep large replies in memory. Their watches have read everything, and no
/// new event comes that would evict the old ones.
#[tokio::test(start_paused = true)]
async fn small_rings_that_hold_large_replies_are_emptied_in_the_end() {
    let holding = |name| cursor(vec![quiet("t", 0), with_ballast(batch(&[insert(name, 2)]))]);
    let source = ScriptedSource::new([
        holding("a"),
        holding("b"),
        cursor(vec![quiet("t", 0), batch(&[insert("c", 3)])]),
    ]);
    let settings = HubSettings {
        max_feeds: 3,
        memory_limit: 1 << 20,
        ..settings()
    };
    let hub = hub_with(&source, settings);
    let mut others = Vec::new();
    for collection in ["a", "b"] {
        let mut client = Client::open(&hub, &watch(of(collection))).await;
        // The second feed reads when the first one has used up the budget.
        let seen = client.see_all().await;
        others.push((client, seen));
    }
    let mut last = Client::open(&hub, &watch(of("c"))).await;
    let seen = last.see(2).await;
    assert!(seen.contains(&event_named("c")), "{seen:?}");
}

/// The unread events are within the capacity of the queue, but keep more in memory than the budget allows.
#[tokio::test(start_paused = true)]
async fn a_catch_up_that_waits_for_memory_drops_what_its_client_leaves_unread() {
    let source = ScriptedSource::new([
        cursor(vec![quiet("t", 50)]),
        cursor(vec![
            with_ballast(batch(&[insert("b", 2)])),
            with_ballast(batch(&[insert("c", 3)])),
        ]),
        cursor(vec![quiet("t", 0), batch(&[insert("d", 3)])]),
    ]);
    let settings = HubSettings {
        memory_limit: 1 << 20,
        ..settings()
    };
    let hub = hub_with(&source, settings);
    let _live = Client::open(&hub, &watch(of("a"))).await;
    let token_context = {
        let plan = crate::pipeline::Plan::dedicated(&watch(of("a")));
        crate::wire::TokenContext::new("rs", &plan)
    };
    let old = token_context.encode(&after("a", 1), None, None);
    let _deaf = Client::open(&hub, &resumed(of("a"), old)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(hub.scraped_gauges().memory_used_bytes > 1 << 20);
    let began = Instant::now();
    let mut other = Client::open(&hub, &watch(of("b"))).await;
    let seen = other.see(2).await;
    assert!(seen.contains(&event_named("d")), "{seen:?}");
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "{:?}",
        began.elapsed()
    );
}

/// Nobody else can ask for it: a catch-up has its own segments.
#[test]
fn a_compressed_message_that_no_watch_shares_is_not_kept() {
    let batch = batch(&[insert("a", 1)]);
    let budget = MemoryBudget::new(usize::MAX);
    let metrics = Arc::new(Metrics::new());
    let (buffer, context) = (batch.buffer, any_token_context());
    let segments = Segment::split(&buffer, batch.events, &context, &budget, &metrics);
    let rendering = Arc::new(Rendering::unrestricted(Format::Bson));
    let kind = pb::watch_response::Kind::StateChange(pb::StateChange {
        state: 0,
        reason: "x".repeat(1_000),
    });
    let message = Frame::message(Bytes::from_static(b"token"), kind);
    let shared = EventSelection::range(Arc::clone(&segments[0]), 0, 0, 1);
    drop(shared.encoded(&rendering));
    let before = budget.used();
    let compress = |selection: &EventSelection| {
        let made = selection.compressed(&rendering, 1, Compression::Gzip, &message);
        assert!(made.is_some());
    };
    compress(&shared.clone().unshared());
    assert_eq!(budget.used(), before);
    compress(&shared);
    assert!(budget.used() > before, "the message is not shared");
}
