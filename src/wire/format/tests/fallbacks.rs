//! Tests of documents that a format can't represent, and of the fallbacks.

use bson::doc;
use prost::Message;

use super::{FORMATS, json_text, nested, raw_document, raw_field, to_raw, write};
use crate::{
    pb::{self, document::Value},
    wire::format::{
        Format,
        json::MAX_DEPTH,
        protobuf::put_message,
        protobuf_struct::{MAX_MESSAGE_LEVEL, OUTERMOST_STRUCT_LEVEL},
        put_document,
    },
};

const DOCUMENT: u8 = 3;
const ARRAY: u8 = 4;

/// The maximum nesting of documents in a `Struct`: each level takes a `Struct`, an entry and a `Value`.
const STRUCT_DEPTH: usize = ((MAX_MESSAGE_LEVEL - OUTERMOST_STRUCT_LEVEL + 1) / 3) as usize;

fn assert_falls_back_to_bson(raw: &[u8]) {
    for format in FORMATS {
        let value = write(raw, format);
        assert_eq!(
            value,
            Value::Bson(raw.to_vec().into()),
            "{format:?} of {raw:?}"
        );
    }
}

#[test]
fn invalid_utf8_falls_back_to_bson_in_any_position() {
    let id = [0; 12];
    let invalid_utf8 = b"\x04\0\0\0ab\xff\0";
    assert_falls_back_to_bson(&raw_field(2, b"v", invalid_utf8));
    assert_falls_back_to_bson(&raw_field(2, b"\xc3\x28", b"\x02\0\0\0a\0"));
    assert_falls_back_to_bson(&raw_field(0x0b, b"v", b"\xff\0i\0"));
    assert_falls_back_to_bson(&raw_field(0x0b, b"v", b"a\0\xff\0"));
    assert_falls_back_to_bson(&raw_field(0x0c, b"v", &[&invalid_utf8[..], &id].concat()));
    assert_falls_back_to_bson(&raw_field(0x0d, b"v", invalid_utf8));
    assert_falls_back_to_bson(&raw_field(0x0e, b"v", invalid_utf8));
    let scope = raw_document(&[]);
    let scoped = [&[17, 0, 0, 0], &invalid_utf8[..], &scope].concat();
    assert_falls_back_to_bson(&raw_field(0x0f, b"v", &scoped));
    // Surrogates and overlong forms are not UTF-8 either.
    assert_falls_back_to_bson(&raw_field(2, b"v", b"\x04\0\0\0\xed\xa0\x80\0"));
    assert_falls_back_to_bson(&raw_field(2, b"v", b"\x03\0\0\0\xc0\x80\0"));
    // In a nested document, and after other fields.
    let inner = raw_field(2, b"v", invalid_utf8);
    let outer = [b"\x08before\0\x01\x03inner\0", &inner[..]].concat();
    assert_falls_back_to_bson(&raw_document(&outer));
}

#[test]
fn malformed_bson_falls_back_to_bson() {
    assert_falls_back_to_bson(&[]);
    assert_falls_back_to_bson(&[5, 0, 0, 0, 1]);
    assert_falls_back_to_bson(&[6, 0, 0, 0, 0]);
    assert_falls_back_to_bson(&[5, 0, 0, 0, 0, 0]);
    assert_falls_back_to_bson(&[0xff, 0xff, 0xff, 0xff, 0]);
    assert_falls_back_to_bson(&raw_document(b"\0"));
    assert_falls_back_to_bson(&raw_field(0x14, b"v", b""));
    assert_falls_back_to_bson(&raw_field(8, b"v", b"\x02"));
    assert_falls_back_to_bson(&raw_field(2, b"v", b"\0\0\0\0"));
    assert_falls_back_to_bson(&raw_field(2, b"v", b"\xff\xff\xff\x7f\0"));
    assert_falls_back_to_bson(&raw_field(2, b"v", b"\x02\0\0\0ab"));
    assert_falls_back_to_bson(&raw_field(3, b"v", b"\x04\0\0\0"));
    assert_falls_back_to_bson(&raw_field(3, b"v", b"\x05\0\0\0\x01"));
    assert_falls_back_to_bson(&raw_field(5, b"v", b"\xff\xff\xff\xff\0"));
    // The old binary subtype with contradicting lengths.
    assert_falls_back_to_bson(&raw_field(5, b"v", b"\x05\0\0\0\x02\x02\0\0\0a"));
    assert_falls_back_to_bson(&raw_field(5, b"v", b"\x02\0\0\0\x02\x02\0"));
}

#[test]
fn a_struct_has_as_many_levels_as_protobuf_parsers_accept() {
    for (depth, kind) in [
        (STRUCT_DEPTH, DOCUMENT),
        (1 + (MAX_MESSAGE_LEVEL - 9) as usize / 2, ARRAY),
    ] {
        let deepest = nested(depth, kind);
        assert!(
            matches!(write(&deepest, Format::Struct), Value::Struct(_)),
            "{depth} {kind}"
        );
        let deeper = nested(depth + 1, kind);
        assert!(
            matches!(write(&deeper, Format::Struct), Value::Json(_)),
            "{depth} {kind}"
        );
    }
}

/// The values are of types that Extended JSON writes as objects, which count as levels.
#[test]
fn a_struct_decodes_at_the_deepest_position_in_a_response() {
    let values: [(u8, &[u8]); 9] = [
        (0x01, &f64::NAN.to_le_bytes()),
        (0x05, b"\0\0\0\0\0"),
        (0x07, &[0; 12]),
        (0x09, &(-1_i64).to_le_bytes()),
        (0x0c, b"\x01\0\0\0\0............"),
        (0x0f, b"\x0e\0\0\0\x01\0\0\0\0\x05\0\0\0\0"),
        (0x10, &[0; 4]),
        (0x11, &[0; 8]),
        (0x13, &[0; 16]),
    ];
    for (kind, value) in values {
        let mut deepest = 0;
        for depth in STRUCT_DEPTH - 6..STRUCT_DEPTH + 2 {
            let inner = raw_field(kind, b"v", value);
            let raw = (1..depth).fold(inner, |inner, _| raw_field(DOCUMENT, b"0", &inner));
            let mut out = bytes::BytesMut::new();
            put_message(&mut out, 3, |out| {
                put_message(out, 1, |out| {
                    put_message(out, 21, |out| {
                        put_message(out, 1, |out| put_document(out, 1, &raw, Format::Struct));
                    });
                });
            });
            let response = pb::WatchResponse::decode(&out[..]).expect("prost accepts 100 levels");
            let Some(pb::watch_response::Kind::Changes(batch)) = response.kind else {
                panic!("the response has changes");
            };
            let Some(pb::change_event::Change::Update(update)) = &batch.changes[0].change else {
                panic!("the change is an update");
            };
            let description = update.update_description.as_ref().expect("there is one");
            let document = description.updated_fields.as_ref().expect("there is one");
            if matches!(document.value, Some(Value::Struct(_))) {
                deepest = depth;
            }
        }
        assert!(
            deepest >= STRUCT_DEPTH - 4,
            "{kind:#x} is a Struct only up to {deepest}"
        );
    }
}

#[test]
fn a_repeated_name_falls_back_to_bson_at_any_depth() {
    let twice = raw_document(b"\x10a\0\x01\0\0\0\x10b\0\x02\0\0\0\x10a\0\x03\0\0\0");
    for raw in everywhere(&twice) {
        assert_falls_back_to_bson(&raw);
    }
    // The names in an array have no meaning.
    let odd_array = raw_field(ARRAY, b"v", &raw_document(b"\x0a0\0\x0a0\0"));
    assert_eq!(json_text(&odd_array, Format::Json), r#"{"v":[null,null]}"#);
}

/// Small, large and very large documents are checked in different ways.
#[test]
fn a_repeated_name_is_found_among_any_number_of_fields() {
    let name = |n: usize| [b"\x0afield_", n.to_string().as_bytes(), b"\0"].concat();
    for count in (1..80).chain([1_000, 32_768, 32_769, 100_000]) {
        let elements: Vec<u8> = (0..count).flat_map(name).collect();
        let unique = raw_document(&elements);
        assert!(
            matches!(write(&unique, Format::Struct), Value::Struct(_)),
            "{count}"
        );
        assert!(
            matches!(write(&unique, Format::Json), Value::Json(_)),
            "{count}"
        );
        for repeated in [0, count / 2, count - 1] {
            let raw = raw_document(&[&elements[..], &name(repeated)].concat());
            assert_falls_back_to_bson(&raw);
        }
    }
}

/// Names of any length, which differ in one byte.
#[test]
fn names_that_are_nearly_equal_are_not_repeated() {
    for len in 1..40 {
        let names = (0..len).map(|at| {
            let mut name = vec![b'a'; len];
            name[at] = b'b';
            [&[0x0a], &name[..], &[0]].concat()
        });
        let raw = raw_document(&names.collect::<Vec<_>>().concat());
        assert!(matches!(write(&raw, Format::Json), Value::Json(_)), "{len}");
    }
}

/// The document itself, and in each place that a document has within another.
fn everywhere(inner: &[u8]) -> [Vec<u8>; 4] {
    let below = raw_field(ARRAY, b"v", &raw_field(DOCUMENT, b"0", inner));
    let len = 8 + 2 + inner.len() as u8;
    let scoped = [&[len, 0, 0, 0, 2, 0, 0, 0, b'f', 0], inner].concat();
    [
        inner.to_vec(),
        raw_document(&[b"\x08before\0\x01\x03v\0", inner].concat()),
        below,
        raw_field(0x0f, b"v", &scoped),
    ]
}

/// Some reader of Extended JSON takes each for another value, or refuses it, as docs/formats.md says.
#[test]
fn a_name_that_extended_json_gives_a_meaning_falls_back_to_bson_at_any_depth() {
    for name in [
        "$oid",
        "$date",
        "$numberInt",
        "$numberLong",
        "$numberDouble",
        "$numberDecimal",
        "$binary",
        "$type",
        "$uuid",
        "$regularExpression",
        "$regex",
        "$options",
        "$timestamp",
        "$minKey",
        "$maxKey",
        "$undefined",
        "$symbol",
        "$code",
        "$scope",
        "$dbPointer",
    ] {
        let text = raw_field(2, name.as_bytes(), b"\x02\0\0\x005\0");
        let number = raw_field(0x10, name.as_bytes(), &[1, 0, 0, 0]);
        let last = [b"\x0aa\0\x0a", name.as_bytes(), b"\0"].concat();
        for inner in [text, number, raw_document(&last)] {
            for raw in everywhere(&inner) {
                assert_falls_back_to_bson(&raw);
            }
        }
    }
}

#[test]
fn other_names_with_a_dollar_and_dbrefs_do_not_fall_back() {
    for name in [
        "$",
        "$$",
        "$set",
        "$oids",
        "$OID",
        "$oi",
        "a$oid",
        "a.$oid",
        "$a.$oid",
        " $oid",
        "$id",
        "$db",
        "$numberFloat",
        "__proto__",
        "",
    ] {
        for raw in everywhere(&raw_field(8, name.as_bytes(), &[1])) {
            assert!(
                matches!(write(&raw, Format::Json), Value::Json(_)),
                "{name}"
            );
            let held = write(&raw, Format::CanonicalJson);
            assert!(matches!(held, Value::Json(_)), "{name}");
            let held = write(&raw, Format::Struct);
            assert!(matches!(held, Value::Struct(_)), "{name}");
        }
    }
    // The whole and a scope are no place for a DBRef: readers fail that make an object of it.
    let reference = raw_field(2, b"$ref", b"\x02\0\0\x00c\0");
    let [whole, value, in_list, scope] = everywhere(&reference);
    assert_falls_back_to_bson(&whole);
    assert_falls_back_to_bson(&scope);
    assert_eq!(
        json_text(&value, Format::Json),
        r#"{"before":true,"v":{"$ref":"c"}}"#
    );
    assert_eq!(json_text(&in_list, Format::Json), r#"{"v":[{"$ref":"c"}]}"#);
    let reference = doc! {"v": {"$ref": "orders", "$id": "a", "$db": "shop"}};
    assert_eq!(
        json_text(&to_raw(&reference), Format::Json),
        r#"{"v":{"$ref":"orders","$id":"a","$db":"shop"}}"#
    );
}

/// libbson reads 98 levels of braces and brackets, and no other reader less.
#[test]
fn json_has_at_most_98_levels_and_falls_back_to_bson() {
    let depth = MAX_DEPTH as usize;
    let in_documents = |depth: usize, inner: Vec<u8>| {
        (1..depth).fold(inner, |inner, _| raw_field(DOCUMENT, b"0", &inner))
    };
    for kind in [DOCUMENT, ARRAY] {
        let deepest = nested(depth, kind);
        for format in [Format::Json, Format::CanonicalJson, Format::Struct] {
            assert_eq!(levels(&json_text(&deepest, format)), depth);
        }
        assert_falls_back_to_bson(&nested(depth + 1, kind));
    }
    // Each type with the most levels of its own: Int32, Binary, DateTime, RegularExpression, DBPointer, Timestamp.
    let values: [(u8, &[u8], usize); 6] = [
        (0x10, &[0; 4], 1),
        (0x05, b"\0\0\0\0\0", 2),
        (0x09, &[0; 8], 2),
        (0x0b, b"\0\0", 2),
        (0x0c, b"\x01\0\0\0\0............", 3),
        (0x11, &[0; 8], 2),
    ];
    for (kind, value, own) in values {
        let raw = in_documents(depth, raw_field(kind, b"v", value));
        assert_eq!(levels(&json_text(&raw, Format::CanonicalJson)), depth + own);
        assert_falls_back_to_bson(&in_documents(depth + 1, raw_field(kind, b"v", value)));
    }
    // Code is an object around its scope.
    let scope = b"\x0e\0\0\0\x01\0\0\0\0\x05\0\0\0\0";
    let raw = in_documents(depth - 2, raw_field(0x0f, b"v", scope));
    assert_eq!(levels(&json_text(&raw, Format::Json)), depth);
    assert_falls_back_to_bson(&in_documents(depth - 1, raw_field(0x0f, b"v", scope)));
}

/// Returns the deepest nesting of JSON without brackets in its texts.
fn levels(json: &str) -> usize {
    let mut open = 0_usize;
    let mut most = 0;
    for byte in json.bytes() {
        match byte {
            b'{' | b'[' => open += 1,
            b'}' | b']' => open -= 1,
            _ => (),
        }
        most = most.max(open);
    }
    most
}

/// Tokio's worker threads have 2 MiB of stack. A quarter of that must suffice, even without optimization.
#[test]
fn hostile_nesting_does_not_overflow_the_stack() {
    let on_a_small_stack = || {
        for kind in [DOCUMENT, ARRAY] {
            write(&nested(95, kind), Format::Json);
            let hostile = nested(20_000, kind);
            assert_falls_back_to_bson(&hostile);
        }
        let scope = (0..5_000).fold(raw_document(&[]), |scope, _| {
            let size = i32::try_from(scope.len() + 9).expect("small").to_le_bytes();
            raw_field(0x0f, b"", &[&size, &b"\x01\0\0\0\0"[..], &scope].concat())
        });
        assert_falls_back_to_bson(&scope);
    };
    std::thread::Builder::new()
        .stack_size(512 * 1024)
        .spawn(on_a_small_stack)
        .expect("a thread starts")
        .join()
        .expect("the stack is large enough");
}
