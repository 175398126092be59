//! Oversized events under a view that hides fields.

use std::{future::poll_fn, sync::Arc, time::Duration};

use bson::doc;
use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::*;
use crate::{
    hub::{Hub, WatcherRead},
    metrics::Metrics,
    model::{FieldMask, TokenAudience},
    pipeline::View,
    source::{
        Source,
        scripted::{Opening, ScriptedSource, Step, batch, event, quiet},
    },
    wire::ResumeToken,
};

const SECRET: &str = "5ec7e7";
const LIMIT: u32 = 64 << 10;

/// Returns a watch of one insert, with 1 MiB of hidden and `visible_bytes` bytes of visible data, and that
/// event.
async fn watching(oversize: Oversize, visible_bytes: usize) -> (Watch, Watcher, EventSelection) {
    let document = doc! { "_id": 1, "ssn": SECRET.repeat((1 << 20) / SECRET.len()), "text": "x".repeat(visible_bytes) };
    let key = doc! { "_id": 1, "ssn": SECRET };
    let insert = event(
        "a",
        "insert",
        2_000,
        doc! { "documentKey": key, "fullDocument": document },
    );
    let steps = [quiet("t0", 0), batch(&[insert])].map(Step::Batch);
    let source: Arc<dyn Source> = ScriptedSource::new([Opening::Cursor(steps.into())]);
    let config = crate::config::ServeConfig::for_uri("mongodb://x");
    let request = pb::WatchRequest {
        database: "shop".to_owned(),
        collections: vec!["orders".to_owned()],
        max_message_bytes: LIMIT,
        ..Default::default()
    };
    let mut watch = Watch::from_request(request, &config.request_limits()).unwrap();
    watch.oversize = oversize;
    watch.restrict_to(&View {
        field_mask: FieldMask::hiding(["ssn".to_owned()]).unwrap(),
        token_audience: Some(TokenAudience([7; 8])),
        row_filter: None,
    });
    let settings = crate::hub::HubSettings {
        deployment_name: Some("rs".to_owned()),
        ..config.hub_settings()
    };
    let hub = Hub::new(source, settings, Arc::new(Metrics::new()));
    let mut watcher = hub.subscribe(&Arc::new(watch.clone())).await.unwrap();
    let token = watcher.start_position().token.to_vec();
    loop {
        let read = poll_fn(|context| watcher.poll_read(context, &token));
        let read = tokio::time::timeout(Duration::from_secs(60), read).await;
        if let WatcherRead::Events(selection) = read.expect("the event comes") {
            return (watch, watcher, selection);
        }
    }
}

fn has_secret(bytes: &[u8]) -> bool {
    bytes
        .windows(SECRET.len())
        .any(|it| it == SECRET.as_bytes())
}

fn response(frame: Frame) -> (pb::WatchResponse, Bytes) {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    let bytes = out.freeze();
    (pb::WatchResponse::decode(bytes.clone()).unwrap(), bytes)
}

/// Chunks contain only what the client may see, and so do the reported sizes.
#[tokio::test(start_paused = true)]
async fn chunks_and_their_sizes_exclude_hidden_fields() {
    let visible_bytes = 200 << 10;
    let (watch, watcher, selection) = watching(Oversize::Chunk, visible_bytes).await;
    let Delivery::Chunks(mut chunks) = deliver(&watch, &watcher, &selection, 0, None, 1) else {
        panic!("it is not sent in chunks");
    };
    let mut data = BytesMut::new();
    loop {
        let (frame, last) = match chunks.next(b"before", LIMIT) {
            NextChunk::Chunk(frame) => (frame, false),
            NextChunk::Last(frame) => (frame, true),
            NextChunk::Evicted => panic!("memory was not short"),
        };
        let (response, bytes) = response(frame);
        assert!(!has_secret(&bytes));
        let Some(pb::watch_response::Kind::EventChunk(chunk)) = response.kind else {
            panic!("{response:?}");
        };
        assert!(
            (visible_bytes..visible_bytes + 1_000).contains(&(chunk.total_bytes as usize)),
            "{}",
            chunk.total_bytes
        );
        data.extend_from_slice(&chunk.data);
        if last {
            assert_eq!(data.len() as u64, chunk.total_bytes);
            let change = pb::ChangeEvent::decode(data.freeze()).unwrap();
            assert_eq!(change.resume_token, response.resume_token);
            let token = ResumeToken::decode(&change.resume_token, None).unwrap();
            assert_eq!(token.token_audience(), watch.rendering.audience);
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stubs_and_their_sizes_exclude_hidden_fields() {
    let visible_bytes = 200 << 10;
    let (watch, watcher, selection) = watching(Oversize::Omit, visible_bytes).await;
    let Delivery::Stub(frame) = deliver(&watch, &watcher, &selection, 0, None, 1) else {
        panic!("there is no stub");
    };
    let (response, bytes) = response(frame);
    assert!(!has_secret(&bytes));
    let Some(pb::watch_response::Kind::Changes(changes)) = response.kind else {
        panic!("{response:?}");
    };
    let Some(pb::change_event::Change::Omitted(omitted)) = &changes.changes[0].change else {
        panic!("{changes:?}");
    };
    assert!((visible_bytes..visible_bytes + 1_000).contains(&(omitted.event_bytes as usize)));
    let token = ResumeToken::decode(&response.resume_token, None).unwrap();
    assert_eq!(token.token_audience(), watch.rendering.audience);

    let (watch, watcher, selection) = watching(Oversize::Fail, visible_bytes).await;
    let Delivery::Refused(Error::EventTooLarge { event_bytes, .. }) =
        deliver(&watch, &watcher, &selection, 0, None, 1)
    else {
        panic!("it is not rejected");
    };
    assert!((visible_bytes..visible_bytes + 1_000).contains(&(event_bytes as usize)));
}

/// Hidden fields do not count towards the size of an event.
#[tokio::test(start_paused = true)]
async fn an_event_that_fits_without_its_hidden_fields_is_sent_whole() {
    let (watch, _watcher, selection) = watching(Oversize::Fail, 100).await;
    let mut batch = crate::rpc::batch::BatchBuilder::new(&watch, None);
    let mut token = Vec::new();
    let filled = batch.fill(&selection, &mut token);
    assert_eq!((filled.count, filled.stopped), (1, None));
    let (_, bytes) = response(batch.into_frame().unwrap());
    assert!(bytes.len() < 1_000 && !has_secret(&bytes));
    assert_eq!(
        ResumeToken::decode(&token, None).unwrap().token_audience(),
        watch.rendering.audience
    );
}
