//! Watches whose filters are decided away from their feed.

use super::{sharing::of, *};
use crate::pb::{field_filter::Operator, filter};

/// A watch of a shared stream with a pattern that is costly by its size. It holds for texts with a `z`.
fn costly() -> Arc<Watch> {
    costly_of(request())
}

fn costly_of(request: pb::WatchRequest) -> Arc<Watch> {
    let pattern = "[ab]*a[ab]{600}c|z".to_owned();
    let options = String::new();
    watch(pb::WatchRequest {
        filters: vec![pb::Filter {
            kind: Some(filter::Kind::Field(pb::FieldFilter {
                path: "text".to_owned(),
                operator: Some(Operator::Regex(pb::RegexFilter { pattern, options })),
            })),
        }],
        feed_mode: pb::FeedMode::Shared.into(),
        ..request
    })
}

fn with_text(name: &str, increment: u32, text: &str) -> bson::Document {
    let fields = doc! { "documentKey": { "_id": name }, "fullDocument": { "text": text } };
    event(name, "insert", increment, fields)
}

/// The clock is not paused: it would pass on its own while a thread decides.
#[tokio::test]
async fn a_costly_filter_gets_its_events_in_order_and_tells_no_position_before_them() {
    let texts = |from: u32| (from..from + 40).map(|it| (format!("e{it:03}"), it, it % 3 == 0));
    let events = |from| {
        let events = texts(from).map(|(name, at, matches)| {
            let text = if matches { "abz" } else { "aba" };
            with_text(&name, at, text)
        });
        batch(&events.collect::<Vec<_>>())
    };
    let source = ScriptedSource::new([cursor(vec![quiet("t0", 1), events(10), events(50)])]);
    let hub = hub(&source);
    let (wanted, other) = (
        costly(),
        watch(pb::WatchRequest {
            feed_mode: pb::FeedMode::Shared.into(),
            ..request()
        }),
    );
    let (mut slow, mut fast) =
        tokio::join!(Client::open(&hub, &wanted), Client::open(&hub, &other));
    let all: Vec<_> = texts(10).chain(texts(50)).collect();
    let expected: Vec<_> = all
        .iter()
        .filter(|it| it.2)
        .map(|it| event_named(&it.0))
        .collect();
    assert_eq!(fast.see(1 + all.len()).await.len(), 1 + all.len());
    let mut seen = Vec::new();
    while seen.len() < 1 + expected.len() {
        let events = seen.iter().filter(|it| matches!(it, Seen::Event(_)));
        let next_time = all.iter().filter(|it| it.2).nth(events.count());
        let next = poll_fn(|context| {
            let read = slow.watcher.poll_read(context, &slow.token);
            if read.is_pending()
                && let Some((position, _)) = slow.watcher.progress()
                && let Some((_, time, _)) = next_time
            {
                assert!(position.position.time() < at(*time), "{position:?}");
            }
            read
        });
        let read = next.await;
        slow.take(read, &mut seen);
    }
    seen.retain(|it| matches!(it, Seen::Event(_)));
    assert_eq!(seen, expected);
    // Nothing matches behind the last one, or it is still to be decided.
    let end = poll_fn(|context| {
        let read = slow.watcher.poll_read(context, &slow.token);
        assert!(read.is_pending(), "{read:?}");
        slow.watcher.progress().map_or(Poll::Pending, Poll::Ready)
    });
    let (end, _) = timeout(Duration::from_secs(20), end)
        .await
        .expect("its end");
    assert!(end.position.time() >= at(89), "{end:?}");
}

/// What was taken back is decided again, and comes once.
#[tokio::test]
async fn events_that_a_client_does_not_read_are_decided_again() {
    let events: Vec<_> = (10..60)
        .map(|it| with_text(&format!("e{it}"), it, "z"))
        .collect();
    let source = ScriptedSource::new([cursor(vec![quiet("t0", 1), batch(&events)])]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &costly()).await;
    let mut seen = Vec::new();
    while seen.len() < events.len() {
        let next = poll_fn(|context| client.watcher.poll_read(context, &client.token));
        match next.await {
            WatcherRead::Events(selection) => {
                let token = &selection.segment().buffer()[selection.event(0).token.clone()];
                let token = bson::Document::from_reader(token).unwrap();
                seen.push(token.get_str("_data").unwrap().to_owned());
                if selection.len() > 1 {
                    client.watcher.put_back(selection, 1);
                }
            }
            WatcherRead::Stage(..) => {}
            other => panic!("{other:?}"),
        }
    }
    let expected: Vec<_> = (10..60).map(|it| format!("e{it}")).collect();
    assert_eq!(seen, expected);
}

/// However many wait, and for however long. They get their events by a catch-up.
#[tokio::test]
async fn events_that_wait_for_a_turn_do_not_stay_in_memory() {
    let collections = ["a", "b", "c", "d"];
    let large = |name: &str, at| with_text(name, at, &"z".repeat(300 << 10));
    let events = || batch(&[large("e1", 500), large("e2", 501)]);
    let feeds = collections.map(|_| cursor(vec![quiet("t0", 1), events()]));
    let source = ScriptedSource::new(feeds.into_iter().chain([cursor(vec![events()])]));
    let settings = HubSettings {
        max_feeds: 8,
        ..settings()
    };
    let hub = hub_with(&source, settings);
    let (ends, busy) = hub
        .costly_work()
        .occupy(&Caller::Principal("other".into()))
        .await;
    let watches = collections.map(|collection| costly_of(of(collection)));
    let opening = watches.iter().cycle().take(3 * collections.len());
    let opening = opening.map(|watch| Client::open(&hub, watch));
    let mut clients = futures::future::join_all(opening).await;
    while hub.costly_work().waiting() < clients.len() {
        for client in &mut clients {
            let read = poll_fn(|context| {
                let read = client.watcher.poll_read(context, &client.token);
                Poll::Ready(read)
            });
            let read = read.await;
            let is_event = matches!(read, Poll::Ready(WatcherRead::Events(_)));
            assert!(!is_event, "{:?}", source.requested_positions());
        }
        tokio::task::yield_now().await;
    }
    let used = || hub.scraped_gauges().memory_used_bytes;
    assert!(used() > 2 << 20, "{} bytes", used());
    for collection in collections {
        for ring in hub.feeds.rings_of(&format!("shop.{collection}")) {
            ring.shrink_to(0);
        }
    }
    // What is left belongs to the filters.
    assert!(used() < 300 << 10, "{} bytes are held", used());

    drop(ends);
    for run in busy {
        assert!(run.await.unwrap());
    }
    let mut client = clients.swap_remove(0);
    drop(clients);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let next = client.see(1).await;
        seen.extend(next.into_iter().filter(|it| matches!(it, Seen::Event(_))));
    }
    assert_eq!(seen, [event_named("e1"), event_named("e2")]);
    assert_eq!(source.requested_positions().len(), collections.len() + 1);
}
