//! Tests of the protobuf encoder.

use bytes::{BufMut, BytesMut};
use prost::Message;

use crate::{
    pb,
    wire::format::protobuf::{
        len_field_len, put_bytes_field, put_double_field, put_message, put_message_with_estimate,
        put_message_with_len, put_string_field, put_varint, put_varint_field, varint_len,
    },
};

fn interesting_numbers() -> impl Iterator<Item = u64> {
    (0..64)
        .flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1])
        .chain([u64::MAX])
}

#[test]
fn varints_equal_those_of_prost() {
    for value in interesting_numbers() {
        let mut ours = BytesMut::new();
        put_varint(&mut ours, value);
        let mut theirs = BytesMut::new();
        prost::encoding::encode_varint(value, &mut theirs);
        assert_eq!(ours, theirs);
        assert_eq!(varint_len(value), theirs.len());
    }
}

#[test]
fn encoded_fields_decode_as_a_message() {
    let mut out = BytesMut::new();
    put_varint_field(&mut out, 1, 77);
    put_varint_field(&mut out, 2, u64::from(u32::MAX));
    put_varint_field(&mut out, 3, 1);
    put_varint_field(&mut out, 4, 1 << 40);
    put_bytes_field(&mut out, 5, b"bytes");
    let chunk = pb::EventChunk::decode(&out[..]).expect("it decodes");
    let expected = pb::EventChunk {
        id: 77,
        index: u32::MAX,
        last: true,
        total_bytes: 1 << 40,
        data: "bytes".into(),
    };
    assert_eq!(chunk, expected);
    assert_eq!(out, expected.encode_to_vec());

    let mut out = BytesMut::new();
    put_double_field(&mut out, 2, -0.5);
    let value = prost_types::Value::decode(&out[..]).expect("it decodes");
    assert_eq!(
        value.kind,
        Some(prost_types::value::Kind::NumberValue(-0.5))
    );
}

/// The size of a message's length grows at powers of 128; a wrong estimate must not change the bytes.
#[test]
fn a_message_is_the_same_with_any_estimated_length() {
    let lengths = [
        0, 1, 126, 127, 128, 129, 16_382, 16_383, 16_384, 20_000, 2_097_152,
    ];
    for actual in lengths {
        let body = vec![b'x'; actual];
        let mut expected = BytesMut::from(&b"before"[..]);
        put_bytes_field(&mut expected, 3_000, &body);
        assert_eq!(expected.len(), 6 + len_field_len(3_000, actual));
        for estimate in lengths {
            let mut out = BytesMut::from(&b"before"[..]);
            let result = put_message_with_estimate(&mut out, 3_000, estimate, |out| {
                out.put_slice(&body);
                "result"
            });
            assert_eq!(result, "result");
            assert!(out == expected, "{actual} expected as {estimate}");
        }
        let mut out = BytesMut::from(&b"before"[..]);
        put_message_with_len(&mut out, 3_000, actual, |out| out.put_slice(&body));
        assert!(out == expected, "{actual}");
    }
}

#[test]
fn messages_can_be_nested() {
    let name = "n".repeat(200);
    let mut out = BytesMut::new();
    put_message(&mut out, 1, |out| {
        put_string_field(out, 1, &name);
        put_string_field(out, 2, "c");
    });
    let rename = pb::Rename::decode(&out[..]).expect("it decodes");
    assert_eq!(
        rename.to,
        Some(pb::Namespace {
            database: name,
            collection: "c".into()
        })
    );
}
