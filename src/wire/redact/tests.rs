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

pub(in crate::wire) fn hiding(paths: &[&str]) -> FieldMask {
    FieldMask::hiding(paths.iter().map(|&path| path.to_owned())).unwrap()
}

pub(in crate::wire) fn including(paths: &[&str]) -> FieldMask {
    FieldMask::including(paths.iter().map(|&path| path.to_owned())).unwrap()
}

/// A simple reference implementation of an inclusion projection, on decoded documents.
pub(in crate::wire) fn reference_included(document: &Document, included: &[String]) -> Document {
    let mut paths: Vec<Vec<&str>> = included.iter().map(|it| it.split('.').collect()).collect();
    paths.push(vec!["_id"]);
    included_fields(document, &paths)
}

fn included_fields(document: &Document, paths: &[Vec<&str>]) -> Document {
    let kept = document.iter().filter_map(|(name, value)| {
        let below = paths
            .iter()
            .filter_map(|path| path.strip_prefix(&[&**name]));
        let below: Vec<Vec<&str>> = below.map(<[_]>::to_vec).collect();
        Some((name.clone(), included_value(value, &below)?))
    });
    kept.collect()
}

/// Returns the part of a value at paths below it. An empty path is the value itself.
fn included_value(value: &Bson, paths: &[Vec<&str>]) -> Option<Bson> {
    match value {
        _ if paths.is_empty() => None,
        _ if paths.iter().any(Vec::is_empty) => Some(value.clone()),
        Bson::Document(document) => Some(included_fields(document, paths).into()),
        Bson::Array(values) => {
            let values = values.iter().filter_map(|it| included_value(it, paths));
            Some(Bson::Array(values.collect()))
        }
        _ => None,
    }
}

/// A simple reference implementation for `updatedFields`, whose names are dotted paths. Returns what is shown of
/// them, and the paths at which nothing is left.
pub(in crate::wire) fn reference_included_updates(
    fields: &Document,
    included: &[String],
) -> (Document, Vec<String>) {
    let (mut shown, mut gone) = (Document::new(), Vec::new());
    for (name, value) in fields {
        let Some(paths) = included_below(name, included) else {
            continue;
        };
        let last = name.rsplit_once('.').map_or("", |(_, last)| last);
        let may_be_index = !last.is_empty() && last.bytes().all(|it| it.is_ascii_digit());
        match included_value(value, &paths) {
            Some(value) => {
                shown.insert(name.clone(), value);
            }
            None if may_be_index => {
                shown.insert(name.clone(), value.clone());
            }
            None => gone.push(name.clone()),
        }
    }
    (shown, gone)
}

/// Returns the included paths from a dotted path on, an empty one if it is at or below an included path; `None`
/// if there are none. Numbers after the first component are indexes of arrays.
pub(in crate::wire) fn included_below<'p>(
    path: &str,
    included: &'p [String],
) -> Option<Vec<Vec<&'p str>>> {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let is_index = |part: &&str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
    let rest = rest.split('.').filter(|part| !is_index(part));
    let rest = rest.filter(|_| path.contains('.'));
    let path: Vec<&str> = std::iter::once(first).chain(rest).collect();
    let below = included.iter().filter_map(|it| {
        let it: Vec<&str> = it.split('.').collect();
        let common = it.iter().zip(&path).take_while(|(a, b)| a == b).count();
        // One is at or below the other.
        (common == it.len().min(path.len())).then(|| it[common..].to_vec())
    });
    let below: Vec<Vec<&str>> = below.collect();
    (!below.is_empty()).then_some(below)
}

fn document(raw: &[u8], mask: MaskNode<'_>) -> BytesMut {
    let mut out = BytesMut::new();
    put_document(&mut out, raw, mask);
    out
}

/// Returns what is shown of updated fields, and the paths at which nothing is left.
fn updated_fields<'a>(raw: &'a [u8], mask: MaskNode<'_>) -> (BytesMut, Vec<&'a [u8]>) {
    let mut out = BytesMut::new();
    let unknown = |_: &[u8]| None::<std::iter::Empty<UpdatePathComponent<'static>>>;
    let gone = put_updated_fields(&mut out, raw, mask, unknown);
    (out, gone)
}

fn redacted(raw: &[u8], paths: &[&str]) -> Vec<u8> {
    document(raw, hiding(paths).root().unwrap()).to_vec()
}

fn included_document(original: Document, mask: &FieldMask) -> Document {
    let raw = document(&original.to_vec().unwrap(), mask.root().unwrap());
    Document::from_reader(&raw[..]).unwrap()
}

fn redacted_document(original: Document, paths: &[&str]) -> Document {
    let raw = redacted(&original.to_vec().unwrap(), paths);
    Document::from_reader(&raw[..]).unwrap()
}

#[test]
fn a_field_whose_name_is_a_number_is_hidden_at_the_top() {
    let left = redacted_document(
        doc! {"7": 1, "8": [{"x": 2, "y": 3}], "9": 4, "a": {"7": 5}},
        &["7", "8.x"],
    );
    assert_eq!(left, doc! {"8": [{"y": 3}], "9": 4, "a": {"7": 5}});
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

/// As `{ "name": 1, "address.city": 1, "items.price": 1 }` does in a projection of MongoDB.
#[test]
fn an_included_path_shows_itself_and_the_documents_and_arrays_above_it() {
    let original = doc! {
        "_id": { "x": 1 }, "name": { "first": "a" }, "names": 1, "a": { "name": 2 },
        "address": { "street": "x", "city": "y", "address": { "city": "z" } },
        "items": [
            { "price": 1, "name": "n" }, 3, [{ "price": 2 }, 3], "price", { "0": { "price": 3 } }, [],
        ],
        "address.city": 8, "items.0.price": 9, "0": { "name": 1 }, "price": 7,
    };
    let mask = including(&["name", "address.city", "items.price"]);
    let expected = doc! {
        "_id": { "x": 1 }, "name": { "first": "a" },
        "address": { "city": "y" },
        "items": [{ "price": 1 }, [{ "price": 2 }], {}, []],
    };
    assert_eq!(included_document(original.clone(), &mask), expected);
    // The indexes of what is left follow each other, as in an array that MongoDB sends.
    let raw = document(&original.to_vec().unwrap(), mask.root().unwrap());
    assert_eq!(raw, expected.to_vec().unwrap());
    let scalars = doc! { "address": 1, "items": "x", "name": Bson::Null };
    let left = included_document(scalars, &mask);
    assert_eq!(left, doc! { "name": Bson::Null });
}

#[test]
fn hidden_fields_of_included_ones_are_removed() {
    let original = doc! {
        "_id": 1, "ssn": 2, "name": "n", "other": 3,
        "items": [{ "price": 1, "name": "n", "0": { "price": 2 } }, { "price": { "x": 1 } }],
        "name.ssn": 4,
    };
    let mask = including(&["items", "ssn", "name"]);
    let mask = mask.with_hidden_fields_of(&hiding(&["items.price", "ssn"]));
    let expected = doc! { "_id": 1, "name": "n", "items": [{ "name": "n", "0": {} }, {}] };
    assert_eq!(included_document(original, &mask), expected);
}

#[test]
fn the_names_of_updated_fields_are_paths() {
    let fields = doc! {
        "name": 1, "other": 2, "address": "gone", "address.city": "y", "address.street": "x",
        "items.3": { "price": 1, "name": "n" }, "items.4.price": 2, "items.4.name": "n", "items.6": 6,
        "items": [{ "price": 1, "name": "n" }, 5], "0.name": 3, "0": 4,
    };
    let raw = fields.to_vec().unwrap();
    let shown = |mask: &FieldMask| {
        let (shown, gone) = updated_fields(&raw, mask.root().unwrap());
        let gone: Vec<_> = gone
            .iter()
            .map(|it| String::from_utf8_lossy(it).into_owned())
            .collect();
        (Document::from_reader(&shown[..]).unwrap(), gone)
    };
    let mask = including(&["name", "address.city", "items.price"]);
    let expected = doc! {
        "name": 1, "address.city": "y",
        "items.3": { "price": 1 }, "items.4.price": 2, "items.6": 6, "items": [{ "price": 1 }],
    };
    assert_eq!(shown(&mask), (expected, vec!["address".to_owned()]));
    let mask = mask.with_hidden_fields_of(&hiding(&["items.price", "address"]));
    let expected = doc! { "name": 1, "items.3": {}, "items.6": 6, "items": [{}] };
    assert_eq!(shown(&mask), (expected, vec![]));
    // Code may have what is hidden in its scope.
    let code = Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
        code: "f()".to_owned(),
        scope: doc! { "price": 1, "name": 2 },
    });
    let raw = doc! { "items.6": &code, "items": code }.to_vec().unwrap();
    let mask = including(&["items.price", "items.x"]);
    let mask = mask.with_hidden_fields_of(&hiding(&["items.price"]));
    let (shown, gone) = updated_fields(&raw, mask.root().unwrap());
    let shown = Document::from_reader(&shown[..]).unwrap();
    let left = JavaScriptCodeWithScope {
        code: "f()".to_owned(),
        scope: doc! { "name": 2 },
    };
    assert_eq!(shown, doc! { "items.6": left });
    assert_eq!(gone, [b"items"]);
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

/// Paths of which none is below another, without numbers.
pub(in crate::wire) fn included_paths() -> impl Strategy<Value = Vec<String>> {
    independent(paths())
}

/// Paths of which none is below another, with numbers.
fn numbered_paths() -> impl Strategy<Value = Vec<String>> {
    let path = vec(select(vec!["a", "b", "0", "12"]), 1..4).prop_map(|parts| parts.join("."));
    independent(vec(path, 1..4))
}

fn independent(paths: impl Strategy<Value = Vec<String>>) -> impl Strategy<Value = Vec<String>> {
    paths.prop_map(|paths| {
        let is_below = |path: &&String| paths.iter().any(|it| path.starts_with(&format!("{it}.")));
        paths.iter().filter(|it| !is_below(it)).cloned().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn redaction_equals_the_reference_implementation(original in documents(), paths in paths()) {
        let mask = FieldMask::hiding(paths.clone()).unwrap();
        let raw = document(&original.to_vec().unwrap(), mask.root().unwrap());
        prop_assert_eq!(&raw[..], &reference_redacted(&original, &paths).to_vec().unwrap()[..]);
    }

    #[test]
    fn redaction_of_any_bytes_returns_a_valid_document(original in documents(), paths in paths(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let hiding = FieldMask::hiding(paths).unwrap();
        let including = including(&["a.b", "ab"]);
        let mut raw = original.to_vec().unwrap();
        for (at, byte) in damage {
            let at = at.index(raw.len());
            raw[at] = byte;
        }
        let left = document(&raw, hiding.root().unwrap());
        prop_assert!(left.len() <= raw.len().max(5));
        prop_assert!(Elements::new(&left).unwrap().all(|it| it.is_ok()));
        for mask in [including.with_hidden_fields_of(&hiding), including] {
            for left in [document(&raw, mask.root().unwrap()), updated_fields(&raw, mask.root().unwrap()).0] {
                prop_assert!(Elements::new(&left).unwrap().all(|it| it.is_ok()));
            }
        }
    }
    #[test]
    fn inclusion_equals_the_reference_implementation(original in documents(), paths in included_paths()) {
        let mask = FieldMask::including(paths.clone()).unwrap();
        let raw = original.to_vec().unwrap();
        let left = document(&raw, mask.root().unwrap());
        prop_assert_eq!(&left[..], &reference_included(&original, &paths).to_vec().unwrap()[..]);
        let (left, gone) = updated_fields(&raw, mask.root().unwrap());
        let (expected, expected_gone) = reference_included_updates(&original, &paths);
        prop_assert_eq!(&left[..], &expected.to_vec().unwrap()[..]);
        prop_assert_eq!(gone, expected_gone.iter().map(|it| it.as_bytes()).collect::<Vec<_>>());
    }

    #[test]
    fn a_number_in_an_included_path_is_the_name_of_a_field(original in documents(), paths in numbered_paths()) {
        let mask = FieldMask::including(paths.clone()).unwrap();
        let left = document(&original.to_vec().unwrap(), mask.root().unwrap());
        prop_assert_eq!(&left[..], &reference_included(&original, &paths).to_vec().unwrap()[..]);
    }

    /// A field is shown if it is included and not hidden.
    #[test]
    fn a_mask_of_both_kinds_equals_one_after_the_other(
        original in documents(), included in included_paths(), hidden in paths(),
    ) {
        let (fields, policy) = (FieldMask::including(included).unwrap(), FieldMask::hiding(hidden.clone()).unwrap());
        let both = fields.with_hidden_fields_of(&policy);
        let raw = original.to_vec().unwrap();
        let one_by_one = document(&document(&raw, fields.root().unwrap()), policy.root().unwrap());
        prop_assert_eq!(document(&raw, both.root().unwrap()), one_by_one);
        let (included, gone) = updated_fields(&raw, fields.root().unwrap());
        let (one_by_one, none) = updated_fields(&included, policy.root().unwrap());
        prop_assert!(none.is_empty());
        let is_visible = |path: &&[u8]| !is_hidden(&format!(".{}", String::from_utf8_lossy(path)), &hidden);
        let gone: Vec<&[u8]> = gone.into_iter().filter(is_visible).collect();
        prop_assert_eq!(updated_fields(&raw, both.root().unwrap()), (one_by_one, gone));
    }
}
