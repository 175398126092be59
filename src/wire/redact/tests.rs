use bson::{Bson, Document, JavaScriptCodeWithScope, doc};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    model::FieldMask,
    raw::{self, Element, ElementType},
};

/// A simple reference implementation, without a tree and on decoded documents.
pub(in crate::wire) fn reference_redacted(document: &Document, hidden: &[String]) -> Document {
    visible_fields(document, "", hidden)
}

/// Returns the visible part of a document at a path.
fn visible_fields(document: &Document, at: &str, hidden: &[String]) -> Document {
    let kept = document.iter().filter_map(|(name, value)| {
        let path = format!("{at}.{name}");
        (!is_hidden(&path, hidden)).then(|| (name.clone(), visible_value(value, &path, hidden)))
    });
    kept.collect()
}

fn visible_value(value: &Bson, at: &str, hidden: &[String]) -> Bson {
    match value {
        Bson::Document(document) => Bson::Document(visible_fields(document, at, hidden)),
        Bson::Array(array) => array
            .iter()
            .map(|it| visible_value(it, at, hidden))
            .collect(),
        Bson::JavaScriptCodeWithScope(code) => {
            Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                code: code.code.clone(),
                scope: visible_fields(&code.scope, at, hidden),
            })
        }
        value => value.clone(),
    }
}

/// Returns whether a path, which begins with a dot, is hidden or below a hidden one. Numbers in it are
/// ignored.
pub(in crate::wire) fn is_hidden(path: &str, hidden: &[String]) -> bool {
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
    let parts = path.split('.').skip(1).filter(|part| !is_number(part));
    let path = parts.fold(String::new(), |path, part| path + "." + part) + ".";
    hidden.iter().any(|it| path.starts_with(&format!(".{it}.")))
}

pub(in crate::wire) fn field_mask(paths: &[&str]) -> FieldMask {
    FieldMask::new(paths.iter().map(|&path| path.to_owned())).unwrap()
}

fn redacted(raw: &[u8], paths: &[&str]) -> Vec<u8> {
    document(raw, field_mask(paths).tree().unwrap()).to_vec()
}

fn redacted_document(original: Document, paths: &[&str]) -> Document {
    let raw = redacted(&original.to_vec().unwrap(), paths);
    Document::from_reader(&raw[..]).unwrap()
}

#[test]
fn a_hidden_field_is_removed_with_everything_below_it_and_nothing_else_is() {
    let paths = &["ssn", "address.street", "items.price"];
    let left = redacted_document(
        doc! {
            "_id": 1, "ssn": { "a": 1 }, "ssnx": 1, "a": { "ssn": 2 },
            "address": { "street": "x", "city": "y", "address": { "street": "z" } },
            "items": [{ "price": 1, "name": "n" }, [{ "price": 2 }, 3], "price", { "0": { "price": 3 } }],
            "price": 7,
        },
        paths,
    );
    let expected = doc! {
        "_id": 1, "ssnx": 1, "a": { "ssn": 2 },
        "address": { "city": "y", "address": { "street": "z" } },
        "items": [{ "name": "n" }, [{}, 3], "price", { "0": {} }],
        "price": 7,
    };
    assert_eq!(left, expected);
}

/// A name with a dot may stand for a hidden path.
#[test]
fn a_dot_in_a_name_counts_as_a_path_separator() {
    let left = redacted_document(
        doc! { "address.street": 1, "address.street.no": 2, "address.city": 3, "address": { "street.no": 4, "a.street": 5 } },
        &["address.street"],
    );
    assert_eq!(
        left,
        doc! { "address.city": 3, "address": { "a.street": 5 } }
    );
}

#[test]
fn a_repeated_hidden_field_is_removed_each_time() {
    let mut twice = doc! { "ssn": 1, "x": 2 }.to_vec().unwrap();
    let again = doc! { "ssn": 3, "y": 4 }.to_vec().unwrap();
    twice.truncate(twice.len() - 1);
    twice.extend(&again[4..]);
    let length = twice.len() as u32;
    twice[..4].copy_from_slice(&length.to_le_bytes());
    let left = redacted(&twice, &["ssn"]);
    assert_eq!(
        Document::from_reader(&left[..]).unwrap(),
        doc! { "x": 2, "y": 4 }
    );
}

/// The fields before the malformed one stay.
#[test]
fn a_malformed_document_is_cut_off_at_the_first_unreadable_byte() {
    let inner = doc! { "a": 1, "ssn": "secret" }.to_vec().unwrap();
    let mut malformed = inner.clone();
    // A string longer than its document.
    malformed[16] = 0xff;
    let outer = raw::document([
        Element {
            kind: ElementType::Int32,
            key: b"x",
            value: &[1, 0, 0, 0],
        },
        Element {
            kind: ElementType::EmbeddedDocument,
            key: b"inner",
            value: &malformed,
        },
        Element {
            kind: ElementType::Int32,
            key: b"y",
            value: &[2, 0, 0, 0],
        },
    ]);
    let left = redacted(&outer, &["inner.ssn"]);
    let expected = doc! { "x": 1, "inner": { "a": 1 }, "y": 2 };
    assert_eq!(Document::from_reader(&left[..]).unwrap(), expected);
    for invalid in [
        &b""[..],
        b"\x05",
        b"\x06\0\0\0\0",
        b"\xff\xff\xff\xff\0",
        &inner[1..],
    ] {
        assert_eq!(redacted(invalid, &["ssn"]), b"\x05\0\0\0\0");
    }
}

/// The walk is recursive. A field that is not above a hidden path is copied without a walk.
#[test]
fn too_deep_nesting_is_cut_off_only_where_it_may_contain_a_hidden_field() {
    let nested = |name: &[u8], kind| {
        let mut raw = b"\x05\0\0\0\0".to_vec();
        for _ in 0..100_000 {
            raw = [
                &(raw.len() as u32 + 7 + name.len() as u32).to_le_bytes()[..],
                &[kind as u8],
                name,
                b"\0",
                &raw,
                b"\0",
            ]
            .concat();
            if raw.len() > 2_000_000 {
                break;
            }
            if raw.len() > 20_000 {
                return raw;
            }
        }
        raw
    };
    for (name, kind) in [
        (&b"0"[..], ElementType::EmbeddedDocument),
        (b"0", ElementType::Array),
        (b"a", ElementType::EmbeddedDocument),
    ] {
        let raw = nested(name, kind);
        let left = redacted(&raw, &["ssn"]);
        if name == b"a" {
            assert_eq!(left, raw);
        } else {
            assert!(left.len() < 2_000, "{}", left.len());
            Document::from_reader(&left[..]).unwrap();
        }
    }
}

fn name() -> impl Strategy<Value = String> {
    select(vec![
        "a", "b", "ab", "a.b", "0", "12", "", "a.", "b.0.a", ".a",
    ])
    .prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Bson::Int32),
        "[a-z]{0,6}".prop_map(Bson::String),
        Just(Bson::Null),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        let fields = |value| {
            vec((name(), value), 0..5).prop_map(|fields| fields.into_iter().collect::<Document>())
        };
        prop_oneof![
            3 => fields(inner.clone()).prop_map(Bson::Document),
            2 => vec(inner.clone(), 0..5).prop_map(Bson::Array),
            1 => fields(inner.clone()).prop_map(|scope| Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                code: "f()".to_owned(),
                scope,
            })),
        ]
    })
}

pub(in crate::wire) fn documents() -> impl Strategy<Value = Document> {
    vec((name(), value()), 0..6).prop_map(|fields| fields.into_iter().collect())
}

pub(in crate::wire) fn paths() -> impl Strategy<Value = Vec<String>> {
    let path = vec(select(vec!["a", "b", "ab"]), 1..4).prop_map(|parts| parts.join("."));
    vec(path, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn redaction_equals_the_reference_implementation(original in documents(), paths in paths()) {
        let mask = FieldMask::new(paths.clone()).unwrap();
        let raw = document(&original.to_vec().unwrap(), mask.tree().unwrap());
        prop_assert_eq!(&raw[..], &reference_redacted(&original, &paths).to_vec().unwrap()[..]);
    }

    #[test]
    fn redaction_of_any_bytes_returns_a_valid_document(original in documents(), paths in paths(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let mask = FieldMask::new(paths).unwrap();
        let mut raw = original.to_vec().unwrap();
        for (at, byte) in damage {
            let at = at.index(raw.len());
            raw[at] = byte;
        }
        let left = document(&raw, mask.tree().unwrap());
        prop_assert!(left.len() <= raw.len().max(5));
        prop_assert!(Elements::new(&left).unwrap().all(|it| it.is_ok()));
    }
}
