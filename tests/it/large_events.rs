//! Events that are larger than a message, or than what MongoDB sends in one piece.

use crate::conversions::{after, before, id};
use crate::support::{Database, WatchStream, Weir, error_info};
use bytes::Bytes;
use mongodb::bson::{Bson, Document, doc};
use prost::Message as _;
use tonic::Code;
use weir::pb;
use weir::pb::watch_response::Kind;
use weir::pb::{OversizePolicy, watch_request::Start};

/// The smallest allowed `max_message_bytes`.
const SMALL: u32 = 64 << 10;

fn small(database: &Database, policy: OversizePolicy) -> pb::WatchRequest {
    pb::WatchRequest {
        max_message_bytes: SMALL,
        oversize_policy: policy.into(),
        ..database.watch_request(&["orders"])
    }
}

const LINE: &str = "the same words on every line, so that megabytes of text are made fast ";

fn text(bytes: usize) -> String {
    // Lines differ, so that a misplaced piece is noticed.
    let mut text = String::with_capacity(bytes + 100);
    for number in 0_u32.. {
        if text.len() >= bytes {
            break;
        }
        text.extend([number.to_string().as_str(), ": ", LINE]);
    }
    text.truncate(bytes);
    text
}

async fn insert(database: &Database, document: Document) {
    database
        .collection("orders")
        .insert_one(document)
        .await
        .unwrap();
}

/// The next message that is neither progress nor a state change.
async fn next(watch: &mut WatchStream) -> pb::WatchResponse {
    loop {
        let message = watch.next().await;
        if !matches!(message.kind, Some(Kind::Progress(_) | Kind::StateChange(_))) {
            return message;
        }
    }
}

/// The pieces of the next event, each with the token beside it.
async fn pieces(watch: &mut WatchStream) -> Vec<(Bytes, pb::EventChunk)> {
    let mut pieces = Vec::new();
    loop {
        let message = next(watch).await;
        assert!(
            message.encoded_len() <= watch.opened.max_message_bytes as usize,
            "a message of {} bytes",
            message.encoded_len()
        );
        let Some(Kind::EventChunk(chunk)) = message.kind else {
            panic!("expected a piece, got {message:?}");
        };
        let last = chunk.last;
        pieces.push((message.resume_token, chunk));
        if last {
            return pieces;
        }
    }
}

fn joined(pieces: &[(Bytes, pb::EventChunk)]) -> pb::ChangeEvent {
    for (index, (_, piece)) in (0..).zip(pieces) {
        assert_eq!(piece.index, index);
        assert_eq!(piece.id, pieces[0].1.id);
    }
    let data: Vec<u8> = pieces
        .iter()
        .flat_map(|(_, piece)| piece.data.clone())
        .collect();
    assert!(
        pieces
            .iter()
            .all(|(_, piece)| piece.total_bytes == data.len() as u64)
    );
    pb::ChangeEvent::decode(&data[..]).expect("the pieces are an event")
}

fn resume(request: pb::WatchRequest, token: Bytes) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token)),
        ..request
    }
}

/// gRPC clients refuse messages above 4 MiB by default, so Weir never sends one unless the client
/// asks for it.
#[tokio::test]
async fn a_client_with_default_limits_reads_an_event_of_ten_megabytes() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut watch = weir.watch(database.watch_request(&["orders"])).await;
    assert_eq!(watch.opened.max_message_bytes, 3 << 20);
    let large = doc! {"_id": 1, "text": text(10_000_000)};
    insert(&database, large.clone()).await;
    insert(&database, doc! {"_id": 2}).await;

    let pieces = pieces(&mut watch).await;
    assert_eq!(pieces.len(), 4);
    assert_eq!(after(&joined(&pieces)), Some(large.into()));
    assert_eq!(id(&watch.next_change().await), Bson::Int32(2));
}

/// A token beside a piece must not skip the event of the piece.
#[tokio::test]
async fn the_token_moves_forward_only_with_the_last_piece() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let request = small(&database, OversizePolicy::Chunk);
    let mut watch = weir.watch(request.clone()).await;
    insert(&database, doc! {"_id": 0}).await;
    for number in 1..=2 {
        insert(&database, doc! {"_id": number, "text": text(300_000)}).await;
    }
    insert(&database, doc! {"_id": 3}).await;

    let first = watch.next_change().await;
    let mut before = first.resume_token;
    let mut ids = Vec::new();
    for number in 1..=2 {
        let pieces = pieces(&mut watch).await;
        assert!(pieces.len() >= 5, "{} pieces", pieces.len());
        let event = joined(&pieces);
        assert_eq!(id(&event), Bson::Int32(number));
        ids.push(pieces[0].1.id);
        let (last, middle) = pieces.split_last().expect("there are pieces");
        for (token, _) in middle {
            assert_eq!(*token, before);
        }
        assert_eq!(last.0, event.resume_token);

        // From a piece in the middle the whole event comes again, and then what follows it.
        let middle = middle[middle.len() / 2].0.clone();
        let mut resumed = weir.watch(resume(request.clone(), middle)).await;
        assert_eq!(resumed.next_change().await, event);
        // From the last piece it does not come again.
        let mut resumed = weir.watch(resume(request.clone(), last.0.clone())).await;
        assert_eq!(id(&resumed.next_change().await), Bson::Int32(number + 1));
        before = last.0.clone();
    }
    assert_ne!(ids[0], ids[1], "two events have the same id");
    assert_eq!(id(&watch.next_change().await), Bson::Int32(3));
}

/// A stub is small, names its document, and lets the watch continue.
#[tokio::test]
async fn an_omitted_event_keeps_its_key_operation_and_sizes() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut whole = weir.watch(database.watch_request(&["orders"])).await;
    let mut watch = weir.watch(small(&database, OversizePolicy::Omit)).await;
    insert(&database, doc! {"_id": {"a": 1}, "text": text(100_000)}).await;
    let one = doc! {"_id": {"a": 1}};
    let set = doc! {"$set": {"text": text(200_000)}};
    database
        .collection("orders")
        .update_one(one.clone(), set)
        .await
        .unwrap();
    database.collection("orders").delete_one(one).await.unwrap();

    for operation in [pb::OperationType::Insert, pb::OperationType::Update] {
        let original = whole.next_change().await;
        let message = next(&mut watch).await;
        assert!(message.encoded_len() < 1000);
        let Some(Kind::Changes(batch)) = message.kind else {
            panic!("awaited a stub");
        };
        let expected = pb::ChangeEvent {
            change: Some(pb::change_event::Change::Omitted(pb::Omitted {
                event_bytes: original.encoded_len() as u64,
                max_message_bytes: SMALL,
            })),
            // The token names the plan that made it, which these two watches share.
            ..original.clone()
        };
        assert_eq!(original.operation(), operation);
        assert_eq!(batch.changes, [expected]);
        assert_eq!(message.resume_token, original.resume_token);
    }
    assert_eq!(
        watch.next_change().await.operation(),
        pb::OperationType::Delete
    );
}

/// A key alone may be larger than a message.
#[tokio::test]
async fn a_stub_omits_a_key_that_is_too_large() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut watch = weir.watch(small(&database, OversizePolicy::Omit)).await;
    insert(&database, doc! {"_id": text(100_000)}).await;
    insert(&database, doc! {"_id": 2}).await;

    let message = next(&mut watch).await;
    assert!(message.encoded_len() <= SMALL as usize);
    let Some(Kind::Changes(batch)) = message.kind else {
        panic!("expected a stub, got {message:?}");
    };
    let [stub] = &batch.changes[..] else {
        panic!("expected one stub, got {batch:?}");
    };
    assert_eq!(stub.operation(), pb::OperationType::Insert);
    assert_eq!(stub.document_key, None);
    assert!(matches!(
        stub.change,
        Some(pb::change_event::Change::Omitted(_))
    ));
    assert_eq!(id(&watch.next_change().await), Bson::Int32(2));
}

#[tokio::test]
async fn a_large_event_ends_a_watch_under_the_policy_fail() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let request = small(&database, OversizePolicy::Fail);
    let mut watch = weir.watch(request.clone()).await;
    insert(&database, doc! {"_id": 1}).await;
    insert(&database, doc! {"_id": 2, "text": text(100_000)}).await;

    assert_eq!(id(&watch.next_change().await), Bson::Int32(1));
    let token = watch.token();
    let status = watch.end().await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let info = error_info(&status);
    assert_eq!(info.reason, "EVENT_TOO_LARGE");
    assert_eq!(info.metadata["max_message_bytes"], SMALL.to_string());
    let bytes: usize = info.metadata["event_bytes"].parse().expect("a number");
    assert!((100_000..101_000).contains(&bytes), "{bytes}");

    // The token before the event works with a policy that accepts the event.
    let request = pb::WatchRequest {
        oversize_policy: OversizePolicy::Chunk.into(),
        ..request
    };
    let mut resumed = weir.watch(resume(request, token)).await;
    assert_eq!(id(&resumed.next_change().await), Bson::Int32(2));
}

/// A message one byte over the limit is refused by the client that set it. Tries events of all
/// sizes around the limit, alone and together, in each policy and format.
#[tokio::test]
async fn no_message_is_larger_than_the_limit() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut watches = Vec::new();
    for policy in [OversizePolicy::Chunk, OversizePolicy::Omit] {
        for format in [
            pb::DocumentFormat::Bson,
            pb::DocumentFormat::Json,
            pb::DocumentFormat::CanonicalJson,
            pb::DocumentFormat::Struct,
        ] {
            let request = pb::WatchRequest {
                document_format: format.into(),
                ..small(&database, policy)
            };
            watches.push((policy, weir.watch(request).await));
        }
    }
    // An event takes some 400 bytes besides its text: the sizes range from well under the limit,
    // densely around it, to two and three messages.
    let sizes: Vec<usize> = (0..12)
        .map(|step| 60_000 + step * 97)
        .chain((0..60).map(|step| 64_700 + step * 17))
        .chain([1, 30_000, 30_000, 30_000, 1, 130_000, 131_072, 196_608])
        .collect();
    let documents = (0..)
        .zip(&sizes)
        .map(|(id, size)| doc! {"_id": id, "text": text(*size)});
    database
        .collection("orders")
        .insert_many(documents)
        .await
        .unwrap();

    for (policy, mut watch) in watches {
        let (mut seen, mut whole, mut in_part) = (0, 0, 0);
        let mut largest = 0;
        while seen < sizes.len() {
            let message = next(&mut watch).await;
            largest = largest.max(message.encoded_len());
            match message.kind {
                Some(Kind::Changes(batch)) => {
                    for change in &batch.changes {
                        let omitted =
                            matches!(change.change, Some(pb::change_event::Change::Omitted(_)));
                        in_part += usize::from(omitted);
                        whole += usize::from(!omitted);
                    }
                    seen += batch.changes.len();
                }
                Some(Kind::EventChunk(chunk)) => {
                    seen += usize::from(chunk.last);
                    in_part += usize::from(chunk.last);
                }
                other => panic!("awaited changes, got {other:?}"),
            }
        }
        assert!(
            largest <= SMALL as usize,
            "{policy:?}: a message of {largest} bytes"
        );
        // The limit is used: an event that fits is not split.
        assert!(
            largest > SMALL as usize - 200,
            "{policy:?}: no message above {largest} bytes"
        );
        assert!(
            whole > 20 && in_part > 20,
            "{policy:?}: {whole} whole, {in_part} in part"
        );
    }
}

/// A pre-image, an update and a post-image of 6 MB each exceed the 16 MiB that MongoDB sends at
/// once, so it sends fragments. The client sees one event, and every token around it works.
#[tokio::test]
async fn an_event_that_mongodb_splits_arrives_whole() {
    let database = Database::options().start().await;
    let images = doc! {"create": "orders", "changeStreamPreAndPostImages": {"enabled": true}};
    database.database().run_command(images).await.unwrap();
    let weir = Weir::start(&database).await;
    let old = doc! {"_id": 1, "text": text(6_000_000)};
    let new = doc! {"_id": 1, "text": format!("new {}", text(6_000_000))};
    insert(&database, old.clone()).await;
    let request = pb::WatchRequest {
        full_document: pb::FullDocument::Required.into(),
        full_document_before_change: pb::FullDocumentBeforeChange::Required.into(),
        operations: vec![pb::OperationType::Update.into()],
        ..database.watch_request(&["orders"])
    };
    let mut watch = weir.watch(request.clone()).await;
    let start = watch.token();
    let set = doc! {"$set": {"text": new.get_str("text").unwrap()}};
    database
        .collection("orders")
        .update_one(doc! {}, set)
        .await
        .unwrap();
    assert!(
        is_split(&database).await,
        "the database does not split: nothing is tested here"
    );

    let pieces_of_event = pieces(&mut watch).await;
    let event = joined(&pieces_of_event);
    assert_eq!(before(&event), Some(old.into()));
    assert_eq!(after(&event), Some(new.clone().into()));
    let Some(pb::change_event::Change::Update(update)) = &event.change else {
        panic!("an update came as another operation");
    };
    let description = update
        .update_description
        .as_ref()
        .expect("an update says what changed");
    let fields = crate::conversions::bson(description.updated_fields.as_ref());
    assert_eq!(
        fields,
        Some(doc! {"text": new.get_str("text").unwrap()}.into())
    );
    assert_eq!(
        event.unknown_fields, None,
        "the split marker is still there"
    );

    // Until its last piece the position lies before the event: from there the same event comes
    // again.
    assert_eq!(pieces_of_event[0].0, start);
    let mut resumed = weir.watch(resume(request.clone(), start)).await;
    let again = joined(&pieces(&mut resumed).await);
    assert_eq!(again.resume_token, event.resume_token);
    assert_eq!(after(&again), Some(new.clone().into()));
    // A resume after the event does not repeat it.
    let shorter = doc! {"$set": {"text": "short"}};
    database
        .collection("orders")
        .update_one(doc! {}, shorter)
        .await
        .unwrap();
    let mut resumed = weir.watch(resume(request, event.resume_token)).await;
    let next = joined(&pieces(&mut resumed).await);
    assert_eq!(before(&next), Some(new.into()));
}

/// Returns whether MongoDB sends the large update in several fragments.
async fn is_split(database: &Database) -> bool {
    let spec = doc! {
        "fullDocument": "required",
        "fullDocumentBeforeChange": "required",
        "startAtOperationTime": oldest(database).await,
    };
    let pipeline = [
        doc! {"$changeStream": spec},
        doc! {"$match": {"operationType": "update"}},
        doc! {"$changeStreamSplitLargeEvent": {}},
    ];
    let command = doc! {"aggregate": "orders", "pipeline": pipeline.to_vec(), "cursor": {}};
    let answer = database.database().run_command(command).await.unwrap();
    let cursor = answer.get_document("cursor").unwrap();
    let first = cursor.get_array("firstBatch").unwrap();
    let split = first
        .first()
        .and_then(|event| event.as_document()?.get("splitEvent"));
    let of = split.and_then(|split| split.as_document()?.get("of"));
    of.is_some_and(|of| *of != Bson::Int32(1) && *of != Bson::Int64(1))
}

async fn oldest(database: &Database) -> Bson {
    let oplog = database
        .client()
        .database("local")
        .collection::<Document>("oplog.rs");
    let entry = oplog
        .find_one(doc! {})
        .sort(doc! {"$natural": 1})
        .await
        .unwrap();
    entry
        .expect("the oplog has entries")
        .remove("ts")
        .expect("an entry has a time")
}
