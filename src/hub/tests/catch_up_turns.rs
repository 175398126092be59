//! Tests of whose turn it is to catch up.

use std::task::Context;

use futures::future::join_all;

use super::*;
use crate::{pipeline::Plan, wire::TokenContext};

const BOUND: Duration = Duration::from_millis(1_500);

fn with_permits(max_catch_ups: usize) -> HubSettings {
    HubSettings {
        max_catch_ups,
        ..settings()
    }
}

/// A watch of a principal that must catch up.
fn behind(principal: &str) -> Arc<Watch> {
    let context = TokenContext::new("rs", &Plan::dedicated(&watch(request())));
    let token = context.encode(&after("a", 1), None, None);
    of_principal(principal, &resumed(request(), token))
}

fn events(seen: &[Seen]) -> Vec<&str> {
    let names = seen.iter().filter_map(|it| match it {
        Seen::Event(name) => Some(name.as_str()),
        _ => None,
    });
    names.collect()
}

/// Waits for the first event of a watch that has to wait for the turn of another.
async fn first_event_after(client: &mut Client) -> Duration {
    let begin = Instant::now();
    let seen = client.see(2).await;
    assert_eq!(seen[0], Seen::Stage(Stage::CatchingUp));
    assert_eq!(events(&seen), ["b"]);
    begin.elapsed()
}

/// Whether it has left much or little unread, and whatever MongoDB does meanwhile.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_gives_its_turn_to_another_within_a_second() {
    let much = || -> Vec<Batch> {
        let bigs = (2..=12).map(|n| batch(&[big(&format!("e{n}"), n)]));
        bigs.collect()
    };
    let little = || vec![batch(&[insert("e2", 2)])];
    for unread in [much(), little()] {
        let names: Vec<String> = (2..2 + unread.len()).map(|n| format!("e{n}")).collect();
        let source = ScriptedSource::new([
            cursor(vec![quiet("t0", 50)]),
            cursor(unread.clone()),
            cursor(vec![batch(&[insert("b", 2)])]),
            cursor(unread),
        ]);
        let hub = hub_with(&source, with_permits(1));
        let mut deaf = Client::open(&hub, &behind("jwt:alice")).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let mut reader = Client::open(&hub, &behind("jwt:bob")).await;
        let waited = first_event_after(&mut reader).await;
        assert!(waited <= BOUND, "{waited:?}");
        drop(reader);
        // It reads everything when it reads again.
        let seen = deaf.see(1 + names.len()).await;
        assert_eq!(events(&seen), names);
    }
}

/// The time begins when there is something to read.
#[tokio::test(start_paused = true)]
async fn a_client_with_nothing_to_read_keeps_its_turn() {
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 50)]),
        cursor(vec![batch(&[insert("b", 2)])]),
        cursor(vec![batch(&[insert("b", 2)])]),
    ]);
    let hub = hub_with(&source, with_permits(1));
    let mut reader = Client::open(&hub, &behind("jwt:alice")).await;
    assert_eq!(events(&reader.see(1).await), ["b"]);
    // MongoDB looks for the next event.
    let mut waits = Client::open(&hub, &behind("jwt:bob")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(waits.see_all().await, [Seen::Stage(Stage::CatchingUp)]);
    drop(reader);
    assert_eq!(events(&waits.see_all().await), ["b"]);
}

/// One that never reads is passed over until it does, so it costs MongoDB nothing.
#[tokio::test(start_paused = true)]
async fn many_watches_that_never_read_are_not_started_over_and_over() {
    const UNREAD: usize = 8;
    let one = || cursor(vec![batch(&[insert("b", 2)])]);
    let source = ScriptedSource::new(
        std::iter::once(cursor(vec![quiet("t0", 50)])).chain((0..3 * UNREAD).map(|_| one())),
    );
    let hub = hub_with(&source, with_permits(2));
    let mut deaf = Vec::new();
    for _ in 0..UNREAD {
        deaf.push(Client::open(&hub, &behind("jwt:alice")).await);
    }
    tokio::time::sleep(Duration::from_secs(600)).await;
    let opened = source.requested_positions().len();
    assert!(opened <= 1 + UNREAD, "{opened} streams");
    assert_eq!(metric(&hub, "weir_catch_ups_waiting"), 0.0);
    for mut client in deaf {
        assert_eq!(events(&client.see(2).await), ["b"]);
    }
}

/// A hub, and a source with a feed and this many catch-ups that begin so.
fn with_catch_ups(count: usize, replies: &[Batch]) -> (Hub, Arc<ScriptedSource>) {
    let catch_ups = (0..count).map(|_| cursor(replies.to_vec()));
    let openings = std::iter::once(cursor(vec![quiet("t0", 50)])).chain(catch_ups);
    let source = ScriptedSource::new(openings);
    (hub_with(&source, with_permits(64)), source)
}

/// The number of streams of catch-ups that were opened.
fn opened(source: &ScriptedSource) -> usize {
    source.requested_positions().iter().flatten().count()
}

/// Opens this many watches that must catch up, reads this many items of each, and, if that is any, asks for more.
async fn open_many(hub: &Hub, principal: &str, count: usize, items: usize) -> Vec<Client> {
    let watch = behind(principal);
    let opening = (0..count).map(|_| async {
        let mut client = Client::open(hub, &watch).await;
        client.see(items).await;
        if items > 0 {
            let mut ask =
                |context: &mut Context<'_>| client.watcher.poll_read(context, &client.token);
            let _ = poll_fn(|context| Poll::Ready(ask(context))).await;
        }
        client
    });
    join_all(opening).await
}

/// MongoDB would do nothing but open them.
#[tokio::test(start_paused = true)]
async fn catch_ups_that_nobody_reads_are_opened_one_a_second() {
    let (hub, source) = with_catch_ups(40, &[batch(&[big("b", 2)])]);
    let mut many = Box::pin(open_many(&hub, "jwt:alice", 20, 0));
    assert!(timeout(BOUND * 3 / 5, &mut many).await.is_err());
    assert_eq!(opened(&source), 1);
    let begin = Instant::now();
    let reader = open_many(&hub, "jwt:bob", 1, 1).await;
    assert!(begin.elapsed() <= Duration::from_millis(10), "no turn");
    assert_eq!(opened(&source), 1 + 1);
    let rest = Duration::from_secs(4);
    assert!(timeout(rest, &mut many).await.is_err());
    assert_eq!(opened(&source), 5 + 1);
    // Neither the turns nor the streams of those that are cancelled are kept for them.
    drop((many, reader));
    settle().await;
    assert_eq!(hub.starter.catch_ups.openings.in_use(), 0);
    assert_eq!(metric(&hub, "weir_catch_ups"), 0.0);
    assert_eq!(opened(&source), 5 + 1);
}

/// A client that does not read takes as much as the window of HTTP/2 has room for.
#[tokio::test(start_paused = true)]
async fn what_a_client_takes_without_reading_passes_no_turn_on() {
    let unread = [
        vec![batch(&[insert("a", 2)]), batch(&[big("b", 3)])],
        vec![batch(&[big("a", 2)]), batch(&[big("b", 3)])],
    ];
    for replies in unread {
        let (hub, source) = with_catch_ups(10, &replies);
        // What is asked for goes into the same message.
        let mut many = Box::pin(open_many(&hub, "jwt:alice", 10, 1));
        assert!(timeout(BOUND * 3 / 5, &mut many).await.is_err());
        assert_eq!(opened(&source), 1, "{} replies", replies.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_passes_its_turn_to_open_on() {
    const WATCHES: usize = 20;
    let much = ["a", "b", "c", "d", "e", "f", "g"].map(|name| batch(&[big(name, 2)]));
    let little = [batch(&[insert("a", 2)]), quiet("t", 9)];
    let silent = [batch(&[insert("a", 2)])];
    for (replies, items, most) in [
        (&much[..], 7, Duration::from_millis(100)),
        (&little, 2, Duration::from_millis(50)),
        // MongoDB does not say yet that there is nothing more.
        (&silent, 1, Duration::from_millis(550)),
    ] {
        let (hub, source) = with_catch_ups(WATCHES, replies);
        let begin = Instant::now();
        let many = open_many(&hub, "jwt:alice", WATCHES, items).await;
        assert!(begin.elapsed() <= most, "{:?}", begin.elapsed());
        assert_eq!(opened(&source), many.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_counts_as_one_that_reads() {
    let much = ["a", "b", "c", "d", "e", "f", "g"].map(|name| batch(&[big(name, 2)]));
    for (is_reading, later) in [(true, 2), (false, 1)] {
        let (hub, source) = with_catch_ups(3, &much);
        let mut first = Client::open(&hub, &behind("jwt:alice")).await;
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if is_reading {
                first.see(1).await;
            }
        }
        let rest = open_many(&hub, "jwt:alice", 2, 0);
        let rest = timeout(Duration::from_millis(100), rest).await;
        assert_eq!(rest.is_ok(), is_reading);
        assert_eq!(opened(&source), 1 + later);
    }
}
