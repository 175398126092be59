//! Tests of the raw BSON reader.

use bson::{Binary, DateTime, Timestamp, doc, oid::ObjectId, spec::BinarySubtype};

use super::{Element, ElementType, Elements, Error};

/// Returns a document whose only field has the given type and value bytes.
fn raw_field(kind: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    raw_document(&[&[kind], key, &[0], value].concat())
}

/// Returns a document around encoded elements.
fn raw_document(elements: &[u8]) -> Vec<u8> {
    let length = i32::try_from(elements.len() + 5).expect("a small document");
    [&length.to_le_bytes(), elements, &[0]].concat()
}

fn to_raw(document: &bson::Document) -> Vec<u8> {
    document.to_vec().expect("a document")
}

fn only(raw: &[u8]) -> Element<'_> {
    let mut elements = Elements::new(raw).expect("a document");
    let element = elements.next().expect("a field").expect("well formed");
    assert!(elements.next().is_none());
    element
}

#[test]
fn a_value_is_read_only_as_its_own_type() {
    let raw = to_raw(&doc! {
        "text": "ß", "inner": { "a": 1 }, "list": [true], "i32": -3, "i64": 1_i64 << 40, "f64": 2.5,
        "bool": true, "null": null, "time": Timestamp { time: 7, increment: 9 },
        "date": DateTime::from_millis(-5), "id": ObjectId::from_bytes([4; 12]),
        "uuid": Binary { subtype: BinarySubtype::Uuid, bytes: vec![1, 2] },
        "old": Binary { subtype: BinarySubtype::BinaryOld, bytes: vec![3, 4] },
    });
    let elements: Result<Vec<_>, _> = Elements::new(&raw).expect("a document").collect();
    let elements = elements.expect("well formed");
    let get = |key: &str| {
        *elements
            .iter()
            .find(|e| e.key == key.as_bytes())
            .expect("the field")
    };

    assert_eq!(get("text").as_str(), Some("ß"));
    assert_eq!(get("text").as_str_bytes(), Some("ß".as_bytes()));
    assert_eq!(get("text").as_document(), None);
    assert_eq!(
        get("inner").as_document(),
        Some(&to_raw(&doc! { "a": 1 })[..])
    );
    assert_eq!(get("inner").as_array(), None);
    assert!(get("list").as_array().is_some());
    assert_eq!(get("i32").as_i32(), Some(-3));
    assert_eq!(get("i32").as_i64(), None);
    assert_eq!(get("i64").as_i64(), Some(1 << 40));
    assert_eq!(get("f64").as_f64(), Some(2.5));
    assert_eq!(get("bool").as_bool(), Some(true));
    assert!(get("null").is_null());
    assert_eq!(get("time").as_timestamp(), Some((7, 9)));
    assert_eq!(get("date").as_datetime_millis(), Some(-5));
    assert_eq!(get("date").as_i64(), None);
    assert_eq!(get("id").as_object_id(), Some([4; 12]));
    assert_eq!(get("uuid").as_binary(), Some((4, &[1, 2][..])));
    assert_eq!(get("old").as_binary(), Some((2, &[3, 4][..])));
}

#[test]
fn as_int_reads_whole_numbers_of_any_numeric_type_except_decimal() {
    let cases = [
        (doc! { "v": 5 }, Some(5)),
        (doc! { "v": i64::MAX }, Some(i64::MAX)),
        (doc! { "v": -4e18 }, Some(-4_000_000_000_000_000_000)),
        (doc! { "v": -9_223_372_036_854_775_808.0 }, Some(i64::MIN)),
        (doc! { "v": 9_223_372_036_854_775_808.0 }, None),
        (doc! { "v": 0.5 }, None),
        (doc! { "v": f64::NAN }, None),
        (doc! { "v": f64::INFINITY }, None),
        (doc! { "v": "5" }, None),
    ];
    for (document, expected) in cases {
        assert_eq!(only(&to_raw(&document)).as_int(), expected, "{document}");
    }
}

#[test]
fn a_name_of_any_length_ends_at_its_zero_byte() {
    for length in 0..40 {
        // A word-wise search for zero bytes could mistake 0x80 and 0x01 for zero.
        for fill in [b'a', 0x01, 0x80, 0xff] {
            let key = vec![fill; length];
            let raw = raw_field(0x10, &key, &[0, 0, 0, 0]);
            assert_eq!(only(&raw).key, key);
        }
    }
}

#[test]
fn an_error_names_the_problem_and_ends_the_iteration() {
    let first_error = |raw: &[u8]| {
        let mut elements = Elements::new(raw)?;
        let error = elements.find_map(Result::err);
        assert!(elements.next().is_none());
        Err::<(), _>(error.expect("something is wrong"))
    };
    assert_eq!(first_error(&[]), Err(Error::Length));
    assert_eq!(first_error(&[4, 0, 0, 0]), Err(Error::Length));
    assert_eq!(first_error(&[6, 0, 0, 0, 0]), Err(Error::Length));
    assert_eq!(first_error(&[5, 0, 0, 0, 1]), Err(Error::Terminator));
    assert_eq!(first_error(&raw_document(&[0])), Err(Error::Terminator));
    assert_eq!(first_error(&raw_document(b"\x0aname")), Err(Error::Key));
    assert_eq!(first_error(&raw_document(b"\x0a")), Err(Error::Key));
    assert_eq!(
        first_error(&raw_field(0x55, b"v", b"")),
        Err(Error::Kind(0x55))
    );
    assert_eq!(
        first_error(&raw_field(0x10, b"v", b"\0\0\0")),
        Err(Error::Value)
    );
    assert_eq!(
        first_error(&raw_field(0x0b, b"v", b"a\0b")),
        Err(Error::Value)
    );
    assert_eq!(
        first_error(&raw_field(0x0c, b"v", b"\x01\0\0\0\0id")),
        Err(Error::Value)
    );
}

#[test]
fn the_lengths_of_code_with_a_scope_must_add_up() {
    let good = b"\x10\0\0\0\x03\0\0\0ab\0\x05\0\0\0\0";
    let raw = raw_field(0x0f, b"v", good);
    assert_eq!(only(&raw).kind, ElementType::JavaScriptCodeWithScope);
    assert_eq!(
        only(&raw).as_code_with_scope(),
        Some((&b"ab"[..], &b"\x05\0\0\0\0"[..]))
    );
    for offset in [0, 4, 11] {
        let mut bad = *good;
        bad[offset] += 1;
        let raw = raw_field(0x0f, b"v", &bad);
        let mut elements = Elements::new(&raw).expect("a document");
        assert_eq!(
            elements.next().map(|e| e.err()),
            Some(Some(Error::Value)),
            "{offset}"
        );
    }
}
