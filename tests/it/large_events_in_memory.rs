//! Large events use their own memory once, however many clients read them and however slowly. A
//! client that stops in the middle of one holds up nobody and loses nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::conversions::{after, eq, id};
use crate::support::{
    Database, Figure, ServeProcess, WatchStream, Weir, eventually, tally, within,
};
use bytes::Bytes;
use bytesize::ByteSize;
use futures::future::join_all;
use mongodb::bson::{Bson, doc};
use pb::watch_response::Kind;
use prost::Message as _;
use serde_json::json;
use tonic::transport::Endpoint;
use weir::pb;
use weir::pb::watch_service_client::WatchServiceClient;

const MIB: u64 = 1 << 20;

/// The next piece of an event, with its token. Only state changes and progress may come before it.
async fn next_piece(watch: &mut WatchStream) -> (Bytes, pb::EventChunk) {
    // One limit for all of it: with a limit for each message, progress alone would keep this
    // waiting for ever.
    within("a piece", next_piece_without_limit(watch)).await
}

/// The same without a limit, where so much is sent that it may take long.
async fn next_piece_without_limit(watch: &mut WatchStream) -> (Bytes, pb::EventChunk) {
    loop {
        let message = watch.next().await;
        match message.kind {
            Some(Kind::EventChunk(piece)) => return (message.resume_token, piece),
            Some(Kind::Progress(_) | Kind::StateChange(_)) => {}
            other => panic!("expected a piece, got {}", what(other.as_ref())),
        }
    }
}

fn what(kind: Option<&Kind>) -> String {
    let text = format!("{kind:?}");
    text.chars().take(200).collect()
}

/// The rest of an event of which some pieces have come, joined with them.
async fn rest_of(watch: &mut WatchStream, mut pieces: Vec<pb::EventChunk>) -> WholeEvent {
    let mut beginnings = 1;
    let before = watch.token();
    loop {
        let (token, piece) = next_piece(watch).await;
        if piece.index == 0 {
            assert_ne!(Some(piece.id), pieces.first().map(|it| it.id));
            beginnings += 1;
        }
        pieces.truncate(piece.index as usize);
        assert_eq!(piece.index as usize, pieces.len(), "a piece is missing");
        assert_eq!(
            piece.last,
            token != before,
            "the token moves forward with the last piece"
        );
        let last = piece.last;
        pieces.push(piece);
        if last {
            assert!(pieces.iter().all(|piece| piece.id == pieces[0].id));
            let data: Vec<u8> = pieces.into_iter().flat_map(|piece| piece.data).collect();
            let event = pb::ChangeEvent::decode(&data[..]).expect("the pieces are an event");
            assert_eq!(event.resume_token, token);
            return WholeEvent { event, beginnings };
        }
    }
}

/// An event that came in pieces.
struct WholeEvent {
    event: pb::ChangeEvent,
    /// The number of times that it began.
    beginnings: u32,
}

fn text(seed: usize, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 20);
    let mut number = seed;
    while text.len() < bytes {
        text += &number.to_string();
        text.push(' ');
        number += 7;
    }
    text.truncate(bytes);
    text
}

/// A hundred watches read events of 10 MB in four formats, half of them with `match`: each event is
/// held once per format, and not once per watch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_watches_of_large_events_share_their_memory() {
    const WATCHES: usize = 100;
    const EVENT: usize = 10_000_000;
    /// The size of an event in its largest format, and of its raw reply.
    const HELD: u64 = 11 * MIB;
    const LIMIT: u64 = 64 * MIB;
    const CATCH_UPS: u64 = 4;
    /// The two plans: with and without `match`.
    const FEEDS: u64 = 2;
    const MESSAGE: u32 = 128 << 10;
    let database = Database::options().start().await;
    let images = doc! {"create": "orders", "changeStreamPreAndPostImages": {"enabled": true}};
    database.database().run_command(images).await.unwrap();
    let limits = ["--memory-limit", "64MiB", "--max-catch-ups", "4"];
    let weir = ServeProcess::start(database.uri(), &limits).await;
    let formats = [
        pb::DocumentFormat::Bson,
        pb::DocumentFormat::Json,
        pb::DocumentFormat::CanonicalJson,
        pb::DocumentFormat::Struct,
    ];
    let mut clients = Vec::new();
    for _ in 0..4 {
        // A wide window keeps the test short: many clients read 10 MB over each connection.
        let endpoint = Endpoint::from_shared(format!("http://{}", weir.grpc));
        let endpoint = endpoint
            .expect("an address makes a URI")
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .max_frame_size(1 << 20);
        let channel = within("a connection", endpoint.connect()).await;
        clients.push(WatchServiceClient::new(channel.expect("Weir accepts")));
    }
    let mut watches = Vec::new();
    for number in 0..WATCHES {
        let mut request = pb::WatchRequest {
            document_format: formats[number % 4].into(),
            max_message_bytes: MESSAGE,
            ..database.watch_request(&["orders"])
        };
        if number % 8 >= 4 {
            let when_available = pb::FullDocumentBeforeChange::WhenAvailable;
            request.full_document = pb::FullDocument::WhenAvailable.into();
            request.full_document_before_change = when_available.into();
            request.filters = vec![eq("kind", json!("a"))];
        }
        let watch = WatchStream::open(&mut clients[number % 4], request).await;
        watches.push((number % 8, watch.expect("the watch opens")));
    }
    let idle = weir.process.peak_resident();

    let done = Arc::new(AtomicBool::new(false));
    let peak = Arc::new(AtomicU64::new(0));
    let sample = async {
        while !done.load(Ordering::Relaxed) {
            let used = weir.metrics().await.sum("weir_memory_used_bytes") as u64;
            peak.fetch_max(used, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let orders = database.collection("orders");
    let document = doc! {"_id": 1, "kind": "a", "text": text(1, EVENT)};
    let write = async {
        orders.insert_one(document.clone()).await.unwrap();
    };
    // The first event of each class, which all others must equal.
    let firsts: Vec<OnceLock<Vec<u8>>> = (0..8).map(|_| OnceLock::new()).collect();
    let read = async {
        let reading = watches.into_iter().map(async |(class, mut watch)| {
            let mut data = Vec::new();
            loop {
                let (_, piece) = next_piece_without_limit(&mut watch).await;
                if piece.index == 0 {
                    data.clear();
                }
                data.extend_from_slice(&piece.data);
                if piece.last {
                    break;
                }
            }
            let first: &OnceLock<Vec<u8>> = &firsts[class];
            if let Err(data) = first.set(data) {
                assert!(first.get() == Some(&data), "class {class}");
            }
        });
        join_all(reading).await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(sample, write, read);

    for (class, first) in firsts.iter().enumerate() {
        let data = first.get().expect("there are watches of each class");
        let event = pb::ChangeEvent::decode(&data[..]).expect("an event");
        let reported = match class {
            0..4 => pb::FilterMatch::Unspecified,
            _ => pb::FilterMatch::Entered,
        };
        assert_eq!(event.r#match(), reported);
        if class % 4 == 0 {
            assert!(
                after(&event) == Some(document.clone().into()),
                "class {class}"
            );
        }
    }

    // Readers wait at the limit; what is being read then may exceed it: an event raw and in each
    // format for a feed, and in one format for a catch-up.
    let bound = LIMIT + FEEDS * 5 * HELD + CATCH_UPS * 2 * HELD;
    let peak = peak.load(Ordering::Relaxed);
    assert!(peak <= bound, "{peak} bytes of {bound}");
    assert!(
        peak >= 2 * EVENT as u64,
        "{peak} bytes: it was not looked at in time"
    );
    // Beyond that, one more reply that each of them is receiving, and for each watch two messages
    // in tonic and HTTP/2's 400 KiB.
    let grown = weir.process.peak_resident() - idle;
    let watches = WATCHES as u64 * (2 * u64::from(MESSAGE) + (400 << 10));
    let bound = bound + (FEEDS + CATCH_UPS) * 16 * MIB + watches;
    assert!(grown <= bound, "{grown} bytes of {bound}");
    tally(Figure::WatchesHeld, WATCHES as u64);
    tally(Figure::PeakBytes, grown);
    let fell_behind = weir.metrics().await.sum("weir_watches_fell_behind_total");
    println!("peak: {peak} in the budget, {grown} resident; {fell_behind} read again");
}

/// Together the events exceed the memory limit: unread ones are evicted, and read again when their
/// clients continue.
#[tokio::test]
async fn clients_that_stop_in_the_middle_of_events_hold_up_nobody_and_get_the_rest() {
    const STOPPED: i32 = 32;
    /// More than HTTP/2 buffers for a client that does not read.
    const EVENT: usize = 800_000;
    let database = Database::options().start().await;
    let weir = Weir::with(&database, |config| {
        config.memory_limit = ByteSize::mib(16);
        config.ring_bytes = ByteSize::mib(1);
    })
    .await;
    let mut small = weir.watch(database.watch_request(&["small"])).await;
    let orders = database.collection("orders");
    let mut stopped = Vec::new();
    for number in 0..STOPPED {
        let request = pb::WatchRequest {
            max_message_bytes: 64 << 10,
            feed_mode: pb::FeedMode::Shared.into(),
            filters: vec![eq("_id", json!(number))],
            ..database.watch_request(&["orders"])
        };
        let mut watch = WatchStream::narrow(weir.grpc_addr(), request).await;
        let text = text(number as usize, EVENT);
        let document = doc! {"_id": number, "text": text};
        let insert = orders.insert_one(document.clone());
        within("an insert", insert.into_future()).await.unwrap();
        let (token, piece) = next_piece(&mut watch).await;
        assert_eq!((piece.index, token), (0, watch.token()));
        stopped.push((watch, piece, document));
    }
    // Far more than the limit has passed, and other watches are not affected.
    let writing = database.collection("small");
    for number in 0..5 {
        writing.insert_one(doc! {"_id": number}).await.unwrap();
        assert_eq!(id(&small.next_change().await), Bson::Int32(number));
    }
    let metrics = weir.metrics().await;
    let used = metrics.sum("weir_memory_used_bytes") as u64;
    assert!(used <= 16 * MIB, "{used} bytes");
    tally(Figure::WatchesHeld, STOPPED as u64);

    let rest = stopped
        .into_iter()
        .map(async |(mut watch, piece, document)| {
            let whole = rest_of(&mut watch, vec![piece]).await;
            assert_eq!(whole.beginnings, 1, "it resumes where it was");
            assert!(
                after(&whole.event) == Some(document.into()),
                "another document"
            );
            watch
        });
    let mut watches = join_all(rest).await;
    let fell_behind = weir.metrics().await.sum("weir_watches_fell_behind_total");
    assert!(
        fell_behind > 0.0,
        "nothing was evicted: nothing is tested here"
    );
    // They are live again and get new events.
    orders.delete_many(doc! {}).await.unwrap();
    for (number, watch) in (0..).zip(&mut watches) {
        let change = watch.next_change().await;
        assert_eq!(change.operation(), pb::OperationType::Delete);
        assert_eq!(id(&change), Bson::Int32(number));
    }
}

/// A looked-up document has changed when its event is read again in the middle.
#[tokio::test]
async fn an_event_whose_document_changed_meanwhile_starts_over() {
    let database = Database::options().start().await;
    let weir = Weir::with(&database, |config| {
        config.memory_limit = ByteSize::mib(16);
        config.ring_bytes = ByteSize::mib(1);
    })
    .await;
    let orders = database.collection("orders");
    let (old, new) = (text(1, 600_000), text(2, 600_000));
    orders
        .insert_one(doc! {"_id": 1, "text": &old})
        .await
        .unwrap();
    let request = pb::WatchRequest {
        max_message_bytes: 64 << 10,
        full_document: pb::FullDocument::UpdateLookup.into(),
        ..database.watch_request(&["orders"])
    };
    let mut watch = WatchStream::narrow(weir.grpc_addr(), request).await;
    let one = || doc! {"_id": 1};
    let touch = orders.update_one(one(), doc! {"$set": {"touched": 1}});
    touch.await.unwrap();
    let (before, first) = next_piece(&mut watch).await;
    let change = orders.update_one(one(), doc! {"$set": {"text": &new}});
    change.await.unwrap();

    // Other events fill the memory, so that what this client leaves unread is evicted.
    let mut others = Vec::new();
    for number in 0..2 {
        let name = format!("large{number}");
        let request = database.watch_request(&[&name]);
        let mut other = WatchStream::narrow(weir.grpc_addr(), request).await;
        let large = doc! {"_id": number, "text": text(3, 10_000_000)};
        database.collection(&name).insert_one(large).await.unwrap();
        let (_, piece) = next_piece(&mut other).await;
        others.push((other, piece));
    }
    let mut small = weir.watch(database.watch_request(&["small"])).await;
    database
        .collection("small")
        .insert_one(one())
        .await
        .unwrap();
    small.next_change().await;
    eventually("memory is there again", async || {
        let used = weir.metrics().await.sum("weir_memory_used_bytes");
        used <= f64::from(16 << 20)
    })
    .await;

    let whole = rest_of(&mut watch, vec![first]).await;
    assert_eq!(whole.beginnings, 2, "the old document was sent to its end");
    assert_ne!(watch.token(), before);
    let expected = doc! {"_id": 1, "text": &new, "touched": 1};
    assert!(
        after(&whole.event) == Some(expected.into()),
        "the documents are mixed"
    );
    let next = watch.next_change().await;
    assert_eq!(next.operation(), pb::OperationType::Update);
    for (mut other, piece) in others {
        assert_eq!(rest_of(&mut other, vec![piece]).await.beginnings, 1);
    }
}
