use bson::doc;
use proptest::{collection::vec, prelude::*};
use prost::Message as _;

use super::*;

fn event(token: &'static [u8], seconds: u32) -> pb::ChangeEvent {
    pb::ChangeEvent {
        resume_token: Bytes::from_static(token),
        cluster_time: Some(pb::ClusterTime {
            seconds,
            increment: 1,
        }),
        document_key: Some(pb::Document {
            value: Some(pb::document::Value::Bson(
                doc! { "_id": 1 }.to_vec().unwrap().into(),
            )),
        }),
        ..pb::ChangeEvent::default()
    }
}

fn written(frame: Frame) -> Vec<u8> {
    let expected = frame.encoded_len();
    let mut out = Vec::new();
    frame.encode(&mut out);
    assert_eq!(
        out.len(),
        expected,
        "encoded_len differs from the written length"
    );
    out
}

#[test]
fn a_frame_of_changes_decodes_as_a_watch_response() {
    let batch = pb::ChangeBatch {
        changes: vec![event(b"one", 1), event(b"two", 2)],
    };
    let encoded = Bytes::from(batch.encode_to_vec());
    let frame = Frame::changes(Bytes::from_static(b"two"), Changes::from_field(encoded));
    let response = pb::WatchResponse::decode(&written(frame)[..]).unwrap();
    assert_eq!(response.resume_token, b"two"[..]);
    assert_eq!(response.kind, Some(Kind::Changes(batch)));
}

#[test]
fn a_message_decodes_as_a_watch_response() {
    for kind in [
        Kind::Opened(pb::Opened::default()),
        Kind::Progress(pb::Progress::default()),
        Kind::StateChange(pb::StateChange {
            state: pb::WatchState::Live.into(),
            reason: "why".repeat(100),
        }),
        Kind::EventChunk(pb::EventChunk {
            id: u64::MAX,
            index: u32::MAX,
            last: true,
            total_bytes: u64::MAX,
            data: vec![7; 70_000].into(),
        }),
        Kind::Invalidated(pb::Invalidated::default()),
    ] {
        let token = Bytes::from(vec![3; 200]);
        let frame = Frame::message(token.clone(), kind.clone());
        let response = pb::WatchResponse::decode(&written(frame)[..]).unwrap();
        let expected = pb::WatchResponse {
            resume_token: token,
            kind: Some(kind),
        };
        assert_eq!(response, expected);
    }
}

#[test]
fn a_chunk_decodes_as_a_watch_response_with_the_match_after_its_data() {
    let head = pb::EventChunk {
        id: 7,
        index: 3,
        last: true,
        total_bytes: 5,
        data: Bytes::new(),
    };
    for (data, tail) in [("abc", "de"), ("abcde", ""), ("", "de"), ("abc", "d")] {
        let chunk = Chunk {
            head: head.clone(),
            data: data.into(),
            match_bytes: tail.into(),
        };
        let frame = Frame::chunk(Bytes::from_static(b"token"), chunk);
        let response = pb::WatchResponse::decode(&written(frame)[..]).unwrap();
        assert_eq!(response.resume_token, b"token"[..]);
        let expected = pb::EventChunk {
            data: format!("{data}{tail}").into(),
            ..head.clone()
        };
        assert_eq!(response.kind, Some(Kind::EventChunk(expected)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// A client rejects messages above the limit that it has set.
    #[test]
    fn a_frame_has_the_announced_and_the_planned_length(
        token in vec(any::<u8>(), 1..20_000),
        size in prop_oneof![0..300_usize, 16_300..16_400_usize, 2_097_100..2_097_200_usize],
    ) {
        let planned = Frame::encoded_len_of(token.len(), size);
        let frame = Frame::changes(token.into(), Changes::from_field(vec![0; size].into()));
        prop_assert_eq!(frame.encoded_len(), planned);
        written(frame);
    }
}
