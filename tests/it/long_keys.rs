//! Events of documents with long keys. MongoDB's token of such an event is long too, but Weir's stays
//! short, is the event's own, and resumes right after it.

use std::collections::HashSet;
use std::time::Duration;

use crate::conversions::{eq, field, id};
use crate::support::orders::ORDERS;
use crate::support::{Database, PolicyServer, WatchStream, Weir};
use bytes::{Bytes, BytesMut};
use futures::future::join_all;
use mongodb::bson::{Bson, Document, doc};
use pb::field_filter::Operator;
use pb::watch_request::Start;
use pb::watch_response::Kind;
use prost::Message as _;
use serde_json::json;
use weir::pb;

/// A key of this many bytes that ends with a number.
fn key(length: usize, number: usize) -> String {
    format!("{}{number}", "k".repeat(length - 1))
}

fn after(token: &Bytes, request: &pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token.clone())),
        ..request.clone()
    }
}

/// Runs these writes in one transaction, so that all their events have one time.
async fn in_a_transaction(database: &Database, keys: &[String], updates: &[&String]) {
    let orders = database.collection(ORDERS);
    let mut session = database.client().start_session().await.expect("a session");
    session.start_transaction().await.expect("a transaction");
    for key in keys {
        let insert = orders.insert_one(doc! { "_id": key, "kind": "long" });
        insert.session(&mut session).await.expect("an insert");
    }
    for key in updates {
        let update = orders.update_one(doc! { "_id": key }, doc! { "$set": { "a": 1 } });
        update.session(&mut session).await.expect("an update");
    }
    session.commit_transaction().await.expect("a commit");
}

async fn insert(database: &Database, document: Document) {
    let orders = database.collection(ORDERS);
    orders.insert_one(document).await.expect("an insert");
}

/// A server whose feeds close at once, so that a resume needs MongoDB and not the ring.
async fn without_ring(database: &Database) -> Weir {
    Weir::with(database, |config| config.feed_linger = Duration::ZERO).await
}

/// A client that handles one change per connection, and keeps that change's token.
async fn walk(
    servers: &[&Weir],
    requests: &[pb::WatchRequest],
    start: &Bytes,
    until: &Bson,
) -> Vec<(Bson, Bytes)> {
    let mut walked: Vec<(Bson, Bytes)> = Vec::new();
    while walked.last().is_none_or(|(id, _)| id != until) {
        let step = walked.len();
        assert!(step < 50, "the walk does not end");
        let token = walked.last().map_or(start, |(_, token)| token);
        let request = &requests[step % requests.len()];
        let server = servers[step % servers.len()];
        let mut watch = server.watch(after(token, request)).await;
        assert_eq!(watch.opened.start_mode(), pb::StartMode::Token);
        assert_eq!(watch.token(), token);
        let change = watch.next_change().await;
        walked.push((id(&change), change.resume_token));
    }
    walked
}

/// The keys of six inserts and two updates in a transaction, and of the insert after it.
async fn six_inserts_and_two_updates(database: &Database, length: usize) -> Vec<Bson> {
    let keys: Vec<String> = (0..6).map(|number| key(length, number)).collect();
    in_a_transaction(database, &keys, &[&keys[4], &keys[1]]).await;
    insert(database, doc! { "_id": "last", "kind": "long" }).await;
    let written = keys.iter().chain([&keys[4], &keys[1]]);
    written
        .map(|key| Bson::from(key.clone()))
        .chain([Bson::from("last")])
        .collect()
}

#[tokio::test]
async fn every_event_of_a_transaction_with_long_keys_resumes_right_after_itself() {
    let database = Database::start().await;
    let servers = [Weir::start(&database).await, without_ring(&database).await];
    let everything = database.watch_request(&[ORDERS]);
    let of_mode = |mode: pb::FeedMode| pb::WatchRequest {
        feed_mode: mode.into(),
        filters: vec![field("_id", Operator::Exists(true))],
        ..everything.clone()
    };
    let requests = [
        everything.clone(),
        of_mode(pb::FeedMode::Dedicated),
        of_mode(pb::FeedMode::Shared),
    ];
    let mut live = servers[0].watch(everything.clone()).await;
    let start = live.token();
    let expected = six_inserts_and_two_updates(&database, 9_000).await;

    let received = live.changes(9).await;
    let live: Vec<(Bson, Bytes)> = received
        .into_iter()
        .map(|change| (id(&change), change.resume_token))
        .collect();
    let ids: Vec<Bson> = live.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids, expected);
    let tokens: HashSet<&Bytes> = live.iter().map(|(_, token)| token).collect();
    assert_eq!(tokens.len(), 9, "every event has a token of its own");
    for token in tokens {
        assert!(token.len() < 300, "{} bytes", token.len());
    }
    // From the ring and from MongoDB, on one server and on both in turn, with one request and with others.
    let [ring, mongodb] = &servers;
    for servers in [&[ring][..], &[mongodb], &[ring, mongodb]] {
        for requests in [&requests[..1], &requests[1..2], &requests] {
            assert_eq!(walk(servers, requests, &start, &expected[8]).await, live);
        }
    }
}

/// The token's event does not pass the new filter, but others of the same time do.
#[tokio::test]
async fn the_token_of_a_long_key_outlives_the_filter() {
    let database = Database::start().await;
    let weir = without_ring(&database).await;
    let everything = database.watch_request(&[ORDERS]);
    let mut watch = weir.watch(everything.clone()).await;
    let expected = six_inserts_and_two_updates(&database, 9_000).await;
    let changes = watch.changes(9).await;
    let without_the_third = pb::WatchRequest {
        filters: vec![field(
            "_id",
            Operator::Ne(crate::conversions::value(json!(key(9_000, 2)))),
        )],
        ..everything.clone()
    };
    let updates = pb::WatchRequest {
        operations: vec![pb::OperationType::Update.into()],
        ..everything.clone()
    };
    let looked_up = pb::WatchRequest {
        full_document: pb::FullDocument::UpdateLookup.into(),
        filters: vec![eq("a", json!(1))],
        ..everything
    };
    // The second and the fifth document have `a` by now, and an insert holds the document as it was.
    for (request, rest) in [
        (without_the_third, &expected[3..]),
        (updates, &expected[6..8]),
        (looked_up, &expected[6..8]),
    ] {
        let mut resumed = weir.watch(after(&changes[2].resume_token, &request)).await;
        assert_eq!(resumed.opened.start_mode(), pb::StartMode::Token);
        for expected in rest {
            assert_eq!(id(&resumed.next_change().await), *expected);
        }
    }
}

/// MongoDB's token has the key in hexadecimal, so the bound of 3 KiB lies between keys of 1,300 and
/// 1,500 bytes.
#[tokio::test]
async fn keys_of_every_size_have_tokens_of_their_own() {
    let database = Database::start().await;
    let servers = [Weir::start(&database).await, without_ring(&database).await];
    let request = database.watch_request(&[ORDERS]);
    let mut live = servers[0].watch(request.clone()).await;
    let start = live.token();
    let around_the_bound = (1_300..1_500).step_by(20);
    let lengths: Vec<usize> = around_the_bound
        .chain([8_000, 8_192, 16 << 10, 64 << 10, 1 << 20])
        .collect();
    // Pairs of one time.
    for length in &lengths {
        in_a_transaction(&database, &[key(*length, 1), key(*length, 2)], &[]).await;
    }
    insert(&database, doc! { "_id": "last" }).await;
    let changes = live.changes(lengths.len() * 2 + 1).await;
    let live: Vec<(Bson, Bytes)> = changes
        .into_iter()
        .map(|change| (id(&change), change.resume_token))
        .collect();
    let tokens: HashSet<&Bytes> = live.iter().map(|(_, token)| token).collect();
    assert_eq!(tokens.len(), live.len());
    let whole = live.iter().filter(|(_, token)| token.len() > 1_000).count();
    assert!(
        (2..lengths.len() * 2 - 10).contains(&whole),
        "{whole} tokens hold MongoDB's own"
    );
    for server in &servers {
        let walks = live.windows(2).map(async |pair| {
            let mut resumed = server.watch(after(&pair[0].1, &request)).await;
            assert_eq!(resumed.opened.start_mode(), pb::StartMode::Token);
            let change = resumed.next_change().await;
            assert_eq!((id(&change), change.resume_token), pair[1]);
        });
        join_all(walks).await;
    }
    let mut first = servers[1].watch(after(&start, &request)).await;
    assert_eq!(first.next_change().await.resume_token, live[0].1);
}

/// A message has the token twice, beside the event and in it.
#[tokio::test]
async fn events_with_long_keys_keep_to_the_largest_message() {
    const LIMIT: u32 = 64 << 10;
    let database = Database::start().await;
    let weir = without_ring(&database).await;
    let request = |policy: pb::OversizePolicy| pb::WatchRequest {
        max_message_bytes: LIMIT,
        oversize_policy: policy.into(),
        ..database.watch_request(&[ORDERS])
    };
    let start = weir.watch(database.watch_request(&[ORDERS])).await.token();
    let lengths = [1_000, 30_000, 64 << 10, 300_000, 1 << 20];
    for length in lengths {
        in_a_transaction(&database, &[key(length, 1), key(length, 2)], &[]).await;
    }
    let mut tokens = Vec::new();
    for policy in [pb::OversizePolicy::Chunk, pb::OversizePolicy::Omit] {
        let mut watch = weir.watch(after(&start, &request(policy))).await;
        let mut received: Vec<Bytes> = Vec::new();
        while received.len() < 2 * lengths.len() {
            let message = watch.next().await;
            assert!(message.encoded_len() <= LIMIT as usize, "{policy:?}");
            match message.kind {
                Some(Kind::Changes(batch)) => {
                    received.extend(batch.changes.into_iter().map(|it| it.resume_token));
                }
                Some(Kind::EventChunk(chunk)) if chunk.last => received.push(message.resume_token),
                _ => {}
            }
        }
        tokens.push(received);
    }
    assert_eq!(tokens[0], tokens[1], "in pieces or as a stub");
    // From any of them on, on the pieces of the next event.
    let chunks = request(pb::OversizePolicy::Chunk);
    for pair in tokens[0].windows(2) {
        let mut resumed = weir.watch(after(&pair[0], &chunks)).await;
        assert_eq!(whole_event(&mut resumed).await.resume_token, pair[1]);
    }
}

async fn whole_event(watch: &mut WatchStream) -> pb::ChangeEvent {
    let mut pieces = BytesMut::new();
    loop {
        match watch.next().await.kind {
            Some(Kind::Changes(batch)) => return batch.changes[0].clone(),
            Some(Kind::EventChunk(chunk)) => {
                pieces.extend_from_slice(&chunk.data);
                if chunk.last {
                    return pb::ChangeEvent::decode(pieces.freeze()).expect("a change");
                }
            }
            _ => {}
        }
    }
}

const POLICY: &str = "
version: 1
rules:
  - name: kinds
    claims: {kind: '*'}
    namespaces: [$db.orders]
    filter: {kind: {$claim: kind}}
  - name: everything
    principals: ['key:all']
    namespaces: ['$db.*']
";

/// Encrypted, for those who see everything and for an audience.
#[tokio::test]
async fn the_tokens_of_a_policy_view_stay_short_and_exact() {
    let database = Database::start().await;
    let clients = [("all", json!({})), ("one", json!({ "kind": "long" }))];
    let server = PolicyServer::with(&database, &clients, POLICY, |config| {
        config.feed_linger = Duration::ZERO;
    })
    .await;
    let request = database.watch_request(&[ORDERS]);
    let mut of_all = server.watch("all", request.clone()).await;
    let mut of_one = server.watch("one", request.clone()).await;
    let expected = six_inserts_and_two_updates(&database, 9_000).await;
    let all = of_all.changes(9).await;
    // An update without its document is not certain to be the caller's.
    let one = of_one.changes(7).await;
    drop((of_all, of_one));
    for (name, changes) in [("all", all), ("one", one)] {
        let tokens: HashSet<&Bytes> = changes.iter().map(|it| &it.resume_token).collect();
        assert_eq!(tokens.len(), changes.len());
        for pair in changes.windows(2) {
            let token = &pair[0].resume_token;
            assert!(token.len() < 300, "{} bytes", token.len());
            let mut resumed = server.watch(name, after(token, &request)).await;
            assert_eq!(resumed.opened.start_mode(), pb::StartMode::Token);
            let next = resumed.next_change().await;
            assert_eq!(next.resume_token, pair[1].resume_token);
            assert_eq!(id(&next), id(&pair[1]));
        }
        assert_eq!(id(&changes[changes.len() - 1]), expected[8]);
    }
}
