//! Events of exactly the size limit and of one byte more, under every policy.

use crate::conversions::eq;
use crate::support::{Database, WatchStream, Weir, error_info};
use bytes::Bytes;
use mongodb::bson::doc;
use pb::change_event::Change;
use pb::watch_response::Kind;
use prost::Message as _;
use serde_json::json;
use weir::pb;
use weir::pb::OversizePolicy as Policy;
use weir::pb::watch_request::Start;

/// The size of the message that holds only this event.
fn size_of(event: &pb::ChangeEvent) -> usize {
    let message = pb::WatchResponse {
        resume_token: event.resume_token.clone(),
        kind: Some(Kind::Changes(pb::ChangeBatch {
            changes: vec![event.clone()],
        })),
    };
    message.encoded_len()
}

fn resume(request: &pb::WatchRequest, token: Bytes) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token)),
        ..request.clone()
    }
}

/// The form of an event under a policy: the event, or a stub.
fn stub(event: &pb::ChangeEvent, limit: u32) -> pb::ChangeEvent {
    pb::ChangeEvent {
        change: Some(Change::Omitted(pb::Omitted {
            event_bytes: event.encoded_len() as u64,
            max_message_bytes: limit,
        })),
        ..event.clone()
    }
}

/// Reads these events under a policy and checks each.
async fn read(
    mut watch: WatchStream,
    policy: Policy,
    events: &[pb::ChangeEvent],
    limit: u32,
) -> usize {
    let mut pieces: Vec<pb::EventChunk> = Vec::new();
    let (mut seen, mut cut) = (0, 0);
    let mut before = watch.token();
    while seen < events.len() {
        let message = match watch.try_next().await {
            Ok(message) => message.expect("it does not end"),
            Err(status) => {
                let event = &events[seen];
                assert_eq!(policy, Policy::Fail, "{status:?}");
                let info = error_info(&status);
                assert_eq!(info.reason, "EVENT_TOO_LARGE");
                assert_eq!(
                    info.metadata["event_bytes"],
                    event.encoded_len().to_string()
                );
                assert!(size_of(event) > limit as usize, "event {seen} fits");
                assert_eq!(watch.token(), before, "the position right before it");
                return seen;
            }
        };
        assert!(message.encoded_len() <= limit as usize);
        match message.kind {
            Some(Kind::Changes(batch)) => {
                for change in batch.changes {
                    let event = &events[seen];
                    if size_of(event) <= limit as usize {
                        assert!(change == *event, "event {seen} fits and differs");
                    } else {
                        assert_eq!(policy, Policy::Omit, "event {seen} does not fit");
                        assert_eq!(change, stub(event, limit), "the stub of event {seen}");
                        cut += 1;
                    }
                    seen += 1;
                }
                assert_eq!(message.resume_token, events[seen - 1].resume_token);
            }
            Some(Kind::EventChunk(piece)) => {
                assert_eq!(policy, Policy::Chunk);
                assert!(size_of(&events[seen]) > limit as usize, "event {seen} fits");
                assert_eq!(piece.index as usize, pieces.len());
                let last = piece.last;
                assert_eq!(message.resume_token == before, !last);
                pieces.push(piece);
                if last {
                    let data: Vec<u8> = pieces.drain(..).flat_map(|it| it.data).collect();
                    let event = pb::ChangeEvent::decode(&data[..]).expect("an event");
                    assert!(event == events[seen], "event {seen} differs");
                    seen += 1;
                    cut += 1;
                }
            }
            Some(Kind::Progress(_) | Kind::StateChange(_)) => {
                assert_eq!(message.resume_token, before);
            }
            other => panic!("awaited changes, got {other:?}"),
        }
        before = message.resume_token;
    }
    assert!(policy == Policy::Fail || cut > 0, "nothing was too large");
    seen
}

/// Small events surround those at the limit. Tried on a server that has them in its ring and one
/// that catches up, on a dedicated and a shared feed, with and without `match`.
#[tokio::test]
async fn an_event_at_the_limit_is_sent_whole_and_one_byte_more_follows_the_policy() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let replica = Weir::start(&database).await;
    for mode in [pb::FeedMode::Shared, pb::FeedMode::Dedicated] {
        for reported in [false, true] {
            let name = format!("{mode:?}_{reported}");
            let create = doc! {
                "create": &name, "changeStreamPreAndPostImages": {"enabled": true},
            };
            database.database().run_command(create).await.unwrap();
            let mut request = pb::WatchRequest {
                feed_mode: mode.into(),
                ..database.watch_request(&[&name])
            };
            if reported {
                let images = pb::FullDocumentBeforeChange::WhenAvailable;
                request.full_document = pb::FullDocument::WhenAvailable.into();
                request.full_document_before_change = images.into();
                request.filters = vec![eq("kind", json!("a"))];
            }
            let mut whole = weir.watch(request.clone()).await;
            let start = whole.token();
            // Sizes of which two are a byte apart, with small ones between them.
            let documents = (0..24).map(|number| {
                let length = if number % 2 == 0 {
                    66_000 + number / 2
                } else {
                    10
                };
                let text = "x".repeat(length);
                doc! {"_id": number as i32, "kind": "a", "text": text}
            });
            let collection = database.collection(&name);
            collection.insert_many(documents).await.unwrap();
            let events = whole.changes(24).await;
            let expected = if reported {
                pb::FilterMatch::Entered
            } else {
                pb::FilterMatch::Unspecified
            };
            assert!(events.iter().all(|event| event.r#match() == expected));
            let sizes: Vec<usize> = events.iter().map(size_of).collect();
            // Small ones may be a byte apart too: the length of a time depends on its milliseconds.
            let limit = sizes
                .iter()
                .filter(|size| **size >= 64 << 10 && sizes.contains(&(*size + 1)))
                .min();
            let limit = *limit.expect("two sizes are a byte apart");
            let over = sizes
                .iter()
                .position(|size| *size > limit)
                .expect("one is larger");

            for policy in [Policy::Chunk, Policy::Omit, Policy::Fail] {
                for server in [&weir, &replica] {
                    let request = pb::WatchRequest {
                        max_message_bytes: limit.try_into().unwrap(),
                        oversize_policy: policy.into(),
                        ..resume(&request, start.clone())
                    };
                    let watch = server.watch(request.clone()).await;
                    assert_eq!(watch.opened.feed_mode(), mode);
                    let seen = read(watch, policy, &events, request.max_message_bytes).await;
                    if policy != Policy::Fail {
                        continue;
                    }
                    assert_eq!(seen, over);
                    // With a limit that the largest one fits, the rest comes.
                    let token = events[seen - 1].resume_token.clone();
                    let larger = pb::WatchRequest {
                        max_message_bytes: (*sizes.iter().max().unwrap()).try_into().unwrap(),
                        ..resume(&request, token)
                    };
                    let limit = larger.max_message_bytes;
                    let rest = server.watch(larger).await;
                    let seen = read(rest, policy, &events[seen..], limit).await;
                    assert_eq!(seen, events.len() - over);
                }
            }
        }
    }
}
