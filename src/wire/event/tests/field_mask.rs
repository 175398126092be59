//! Tests that hidden fields are nowhere in the encoded bytes, and that everything else is unchanged.

use bson::{Bson, Uuid};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    model::{FieldMask, TokenAudience},
    wire::redact::tests::{documents, hiding, is_hidden, paths, reference_redacted},
};

/// A text that must not be visible.
pub(super) const SECRET: &str = "5ec7e7";

/// Encodes one event with a mask. Returns it decoded, and its bytes.
pub(super) fn rendered(
    event: &Document,
    format: Format,
    mask: &FieldMask,
) -> (pb::ChangeEvent, Bytes) {
    let (buffer, events) = parsed(&[raw_document(event)]).unwrap();
    let rendering = masked(format, mask);
    let encoded = encode(&buffer, &events, &token_context(), &rendering, |chunk| {
        chunk
    });
    let mut changes = batch(encoded[0].field());
    assert_eq!(changes.len(), 1);
    (changes.remove(0), encoded[0].field())
}

pub(super) fn masked(format: Format, mask: &FieldMask) -> Rendering {
    Rendering {
        mask: mask.clone(),
        ..all_fields(format)
    }
}

pub(super) fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|it| it == text.as_bytes())
}

/// Returns an event of every operation with every documented and some unknown fields, and with hidden
/// names and values wherever they are possible.
pub(super) fn events_with_secrets() -> Vec<Document> {
    let document = || {
        doc! {
            "_id": 1, "keep": "kept", "ssn": SECRET, "ssn.more": SECRET, "0": { "ssn": SECRET },
            "items": [{ "name": "kept", "price": SECRET }, [{ "price": [SECRET] }]],
        }
    };
    let fields = doc! {
        "documentKey": document(),
        "fullDocument": document(),
        "fullDocumentBeforeChange": document(),
        "updateDescription": {
            "updatedFields": {
                "keep": "kept", "ssn": SECRET, "ssn.0.x": SECRET, "items.3.price": SECRET,
                "items.4": { "price": SECRET, "name": "kept" },
                "items": [{ "price": SECRET }],
            },
            "removedFields": ["keep2", "ssn", "ssn.5ec7e7", "items.0.price", "items.0.price.5ec7e7"],
            "truncatedArrays": [
                { "field": "items", "newSize": 1 }, { "field": "ssn.5ec7e7", "newSize": 2 },
                { "newSize": 3, "field": "items.2.price" },
            ],
            "disambiguatedPaths": {
                "keep.0": ["keep", "0"], "items.0.price": ["items", 0, "price"],
                "ssn.5ec7e7": ["ssn.5ec7e7"], "x": ["items", "price", SECRET], "y": [true, SECRET],
            },
            "addedLater": { "ssn": SECRET },
        },
        "to": { "db": "shop", "coll": "old" },
        "operationDescription": {
            "indexes": [{ "v": 2, "key": { "ssn": 1 }, "name": "5ec7e7_1" }],
            "validator": { "ssn": SECRET }, "dropTarget": SECRET,
        },
        "stateBeforeChange": { "collectionOptions": { "validator": { "ssn": SECRET } } },
        "lsid": { "id": Uuid::from_bytes([7; 16]) },
        "txnNumber": 1_i64,
        "collectionUUID": Uuid::from_bytes([9; 16]),
        "nsType": "collection",
        "addedLater": { "ssn": SECRET },
        "addedAsText": SECRET,
    };
    let mut events: Vec<Document> = Operation::ALL
        .map(|operation| event(operation.name(), fields.clone()))
        .to_vec();
    events.push(event("addedLater", fields.clone()));
    // Fields of an unexpected type.
    for odd in [
        "documentKey",
        "fullDocument",
        "fullDocumentBeforeChange",
        "updateDescription",
    ] {
        for value in [Bson::from(SECRET), vec![document()].into()] {
            let mut fields = fields.clone();
            fields.insert(odd, value);
            events.push(event("update", fields));
        }
    }
    // Namespaces with an extra field or of another type.
    for (name, operation) in [("ns", "insert"), ("to", "rename")] {
        for value in [
            doc! { "db": "shop", "coll": "orders", "more": SECRET }.into(),
            Bson::from(SECRET),
        ] {
            let mut fields = fields.clone();
            fields.insert(name, value);
            events.push(event(operation, fields));
        }
    }
    for part in [
        "updatedFields",
        "removedFields",
        "truncatedArrays",
        "disambiguatedPaths",
    ] {
        for value in [
            Bson::from(SECRET),
            vec![Bson::from(document()), vec![SECRET].into()].into(),
        ] {
            let mut fields = fields.clone();
            fields
                .get_document_mut("updateDescription")
                .unwrap()
                .insert(part, value);
            events.push(event("update", fields));
        }
    }
    events
}

#[test]
fn no_name_and_no_value_of_a_hidden_field_is_sent_in_any_format() {
    let mask = hiding(&["ssn", "items.price"]);
    for event in events_with_secrets() {
        for_all_formats(|format| {
            let (_, bytes) = rendered(&event, format, &FieldMask::default());
            assert!(
                has(&bytes, SECRET) && has(&bytes, "ssn"),
                "the event has no secret to hide"
            );
            let (change, bytes) = rendered(&event, format, &mask);
            for secret in [SECRET, "ssn", "price"] {
                assert!(!has(&bytes, secret), "{secret}: {change:?}");
            }
            let raw = parsed(&[raw_document(&event)]).unwrap();
            let filter_match = FilterMatch::Unspecified;
            let stub = encode_omitted(
                &raw.0,
                &raw.1[0],
                &token_context(),
                &masked(format, &mask),
                filter_match,
                (1, 1),
                true,
            );
            assert!(!has(&stub, SECRET) && !has(&stub, "ssn") && !has(&stub, "price"));
        });
    }
}

#[test]
fn an_update_keeps_all_visible_fields() {
    let mask = hiding(&["ssn", "items.price"]);
    let event = &events_with_secrets()[1];
    assert_eq!(event.get_str("operationType").unwrap(), "update");
    for_all_formats(|format| {
        let (change, _) = rendered(event, format, &mask);
        let document =
            doc! { "_id": 1, "keep": "kept", "0": {}, "items": [{ "name": "kept" }, [{}]] };
        let updated = doc! { "keep": "kept", "items.4": { "name": "kept" }, "items": [{}] };
        let text = |text: &str| pb::PathComponent {
            kind: Some(pb::path_component::Kind::Field(text.to_owned())),
        };
        let Some(Change::Update(update)) = change.change else {
            panic!("{change:?}");
        };
        assert_eq!(update.full_document, formatted(document.clone(), format));
        assert_eq!(
            update.full_document_before_change,
            formatted(document.clone(), format)
        );
        assert_eq!(change.document_key, formatted(document, format));
        let expected = pb::UpdateDescription {
            updated_fields: formatted(updated, format),
            removed_fields: vec!["keep2".to_owned()],
            truncated_arrays: vec![pb::TruncatedArray {
                field: "items".to_owned(),
                new_size: 1,
            }],
            disambiguated_paths: vec![pb::DisambiguatedPath {
                path: "keep.0".to_owned(),
                components: vec![text("keep"), text("0")],
            }],
        };
        assert_eq!(update.update_description, Some(expected));
    });
}

/// The fact of a change is not hidden, and its token is needed to resume.
#[test]
fn an_update_of_only_hidden_fields_becomes_an_update_without_fields() {
    let mask = hiding(&["ssn"]);
    let fields = doc! {
        "documentKey": { "_id": 1 },
        "updateDescription": { "updatedFields": { "ssn": 1 }, "removedFields": ["ssn.a"], "truncatedArrays": [] },
    };
    for_all_formats(|format| {
        let (change, _) = rendered(&event("update", fields.clone()), format, &mask);
        let expected = pb::ChangeEvent {
            operation: pb::OperationType::Update.into(),
            document_key: formatted(doc! { "_id": 1 }, format),
            change: Some(Change::Update(pb::Update {
                update_description: Some(pb::UpdateDescription {
                    updated_fields: formatted(doc! {}, format),
                    ..Default::default()
                }),
                ..Default::default()
            })),
            ..common()
        };
        assert_eq!(change, expected);
    });
}

#[test]
fn a_null_or_absent_document_stays_null_or_absent() {
    let mask = hiding(&["ssn"]);
    for format in FORMATS {
        let (change, _) = rendered(
            &event("update", doc! { "fullDocument": Bson::Null }),
            format,
            &mask,
        );
        let Some(Change::Update(update)) = change.change else {
            panic!("{change:?}");
        };
        assert_eq!(
            (update.full_document, update.full_document_before_change),
            (null(), None)
        );
    }
}

/// They tell where and when the event happened and nothing about documents.
#[test]
fn the_common_fields_of_an_event_are_never_hidden() {
    let mask = hiding(&["ssn", "items.price"]);
    for event in events_with_secrets() {
        let of = |mask| rendered(&event, Format::Bson, mask).0;
        let (whole, restricted) = (of(&FieldMask::default()), of(&mask));
        assert_eq!(restricted.operation, whole.operation);
        assert_eq!(restricted.namespace, whole.namespace);
        assert_eq!(restricted.cluster_time, whole.cluster_time);
        assert_eq!(restricted.wall_time, whole.wall_time);
        assert_eq!(restricted.transaction, whole.transaction);
        assert!(restricted.transaction.is_some());
        assert_eq!(restricted.collection_uuid, whole.collection_uuid);
        assert_eq!(restricted.resume_token, whole.resume_token);
        if let (Some(Change::Rename(restricted)), Some(Change::Rename(whole))) =
            (restricted.change, whole.change)
        {
            assert_eq!(restricted.to, whole.to);
        }
    }
}

#[test]
fn a_token_has_the_audience_of_the_rendering_and_the_announced_length() {
    let token_audience = Some(TokenAudience([7; 8]));
    let rendering = Rendering {
        audience: token_audience,
        ..all_fields(Format::Bson)
    };
    let keys = crate::wire::TokenKeys::parse(&format!("{}=", "Q".repeat(43))).unwrap();
    let keys = Some(std::sync::Arc::new(keys));
    for keys in [None, keys] {
        let token_context = token_context().with_keys(keys.clone());
        let insert = event("insert", doc! { "fullDocument": { "a": 1 } });
        let (buffer, events) = parsed(&[raw_document(&insert)]).unwrap();
        let encoded = encode(&buffer, &events, &token_context, &rendering, |chunk| chunk);
        let change = batch(encoded[0].field()).remove(0);
        assert_eq!(encoded[0].token(), change.resume_token);
        let token =
            crate::wire::ResumeToken::decode(&change.resume_token, token_context.keys()).unwrap();
        assert_eq!(
            (token.token_audience(), token.was_encrypted()),
            (token_audience, keys.is_some())
        );
    }
}

pub(super) fn descriptions() -> impl Strategy<Value = Document> {
    let name = || {
        let part = select(vec!["a", "b", "ab", "0", "12", ""]);
        vec(part, 1..4).prop_map(|parts| parts.join("."))
    };
    (
        documents(),
        vec(name(), 0..4),
        vec((name(), any::<i32>()), 0..3),
        vec(
            (
                name(),
                vec(
                    prop_oneof![name().prop_map(Bson::from), (0..9).prop_map(Bson::Int32)],
                    1..4,
                ),
            ),
            0..3,
        ),
    )
        .prop_map(|(updated, removed, truncated, paths)| {
            let truncated: Vec<_> = truncated
                .into_iter()
                .map(|(field, size)| doc! { "field": field, "newSize": size })
                .collect();
            let paths: Document = paths
                .into_iter()
                .map(|(path, parts)| (path, parts.into()))
                .collect();
            doc! {
                "updatedFields": updated, "removedFields": removed,
                "truncatedArrays": truncated, "disambiguatedPaths": paths,
            }
        })
}

/// A simple reference implementation: a description without hidden fields.
pub(super) fn reference_redacted_description(description: &Document, paths: &[String]) -> Document {
    let hidden = |path: &str| is_hidden(&format!(".{path}"), paths);
    let mut left = description.clone();
    let updated = description.get_document("updatedFields").unwrap();
    left.insert("updatedFields", reference_redacted(updated, paths));
    let array = |name: &str| description.get_array(name).unwrap().clone();
    let removed = array("removedFields").into_iter();
    let removed: Vec<Bson> = removed.filter(|it| !hidden(it.as_str().unwrap())).collect();
    left.insert("removedFields", removed);
    let truncated = array("truncatedArrays").into_iter();
    let field = |it: &Bson| {
        it.as_document()
            .unwrap()
            .get_str("field")
            .unwrap()
            .to_owned()
    };
    let truncated: Vec<Bson> = truncated.filter(|it| !hidden(&field(it))).collect();
    left.insert("truncatedArrays", truncated);
    let entries = description
        .get_document("disambiguatedPaths")
        .unwrap()
        .clone();
    let joined = |parts: &Bson| {
        let part = |it: &Bson| it.as_str().map_or("0".to_owned(), str::to_owned);
        let parts: Vec<String> = parts.as_array().unwrap().iter().map(part).collect();
        parts.join(".")
    };
    let entries: Document = entries
        .into_iter()
        .filter(|(path, parts)| !hidden(path) && !hidden(&joined(parts)))
        .collect();
    left.insert("disambiguatedPaths", entries);
    left
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..Default::default() })]

    /// Encoding with hidden fields equals encoding the event that the reference implementation leaves.
    #[test]
    fn an_event_is_encoded_as_if_it_had_no_hidden_fields(
        key in documents(), after in documents(), before in documents(), description in descriptions(),
        operation in select(Operation::DOCUMENT.to_vec()), paths in paths(),
    ) {
        let fields = |key: &Document, after: &Document, before: &Document, description: Option<&Document>| {
            let mut fields = doc! { "documentKey": key };
            if operation != Operation::Delete {
                fields.insert("fullDocument", after);
            }
            if operation != Operation::Insert {
                fields.insert("fullDocumentBeforeChange", before);
            }
            if operation == Operation::Update {
                fields.insert("updateDescription", description);
            }
            event(operation.name(), fields)
        };
        let given = fields(&key, &after, &before, Some(&description));
        let plain = |document| reference_redacted(document, &paths);
        let left = fields(&plain(&key), &plain(&after), &plain(&before), Some(&reference_redacted_description(&description, &paths)));
        let mask = FieldMask::hiding(paths.clone()).unwrap();
        for format in FORMATS {
            let (_, bytes) = rendered(&given, format, &mask);
            let (_, expected) = rendered(&left, format, &FieldMask::default());
            prop_assert_eq!(bytes, expected);
        }
    }
}
