//! Tests of masks that include fields: exactly those are in the encoded bytes, and everything else of an event.

use bson::Bson;
use proptest::prelude::*;

use super::{
    field_mask::{
        SECRET, descriptions, events_with_secrets, has, reference_redacted_description, rendered,
    },
    *,
};
use crate::{
    model::FieldMask,
    wire::redact::tests::{
        documents, hiding, included_below, included_paths, including, paths, reference_included,
        reference_included_updates, reference_redacted,
    },
};

/// The common fields, the document key, and what is not a document or an update are no part of a projection.
#[test]
fn an_update_shows_the_included_fields_and_what_changed_above_them() {
    let document = || {
        doc! {
            "_id": 1, "name": "n", "other": SECRET,
            "items": [{ "price": 1, "name": SECRET }, SECRET, [{ "price": 2 }]],
        }
    };
    let fields = doc! {
        "documentKey": { "_id": 1, "shard": "key" },
        "fullDocument": document(),
        "fullDocumentBeforeChange": document(),
        "updateDescription": {
            "updatedFields": {
                "name": "n", "other": SECRET, "items.3": { "price": 3, "name": SECRET },
                "items.4.price": 4, "items.4.name": SECRET, "address": SECRET,
            },
            "removedFields": ["items", "items.0.price", "other", "items.1.other", "name.first"],
            "truncatedArrays": [
                { "field": "items", "newSize": 1 }, { "field": "other", "newSize": 2 },
            ],
            "disambiguatedPaths": {
                "items.0.price": ["items", 0, "price"], "other.0": ["other", "0"],
                "name.0": ["name", "0"],
            },
            "addedLater": SECRET,
        },
        // Nothing says what it holds.
        "addedLater": SECRET,
    };
    let mask = including(&["name", "items.price", "address.city"]);
    let event = event("update", fields);
    for_all_formats(|format| {
        let (change, bytes) = rendered(&event, format, &mask);
        assert!(!has(&bytes, SECRET), "{change:?}");
        let shown = doc! { "_id": 1, "name": "n", "items": [{ "price": 1 }, [{ "price": 2 }]] };
        let updated = doc! { "name": "n", "items.3": { "price": 3 }, "items.4.price": 4 };
        let text = |text: &str| pb::PathComponent {
            kind: Some(pb::path_component::Kind::Field(text.to_owned())),
        };
        let index = pb::PathComponent {
            kind: Some(pb::path_component::Kind::Index(0)),
        };
        let path = |path: &str, components| pb::DisambiguatedPath {
            path: path.to_owned(),
            components,
        };
        let expected = pb::ChangeEvent {
            operation: pb::OperationType::Update.into(),
            document_key: formatted(doc! { "_id": 1, "shard": "key" }, format),
            change: Some(Change::Update(pb::Update {
                update_description: Some(pb::UpdateDescription {
                    updated_fields: formatted(updated, format),
                    // The projected document has no address any more.
                    removed_fields: ["address", "items", "items.0.price", "name.first"]
                        .map(str::to_owned)
                        .to_vec(),
                    truncated_arrays: vec![pb::TruncatedArray {
                        field: "items".to_owned(),
                        new_size: 1,
                    }],
                    disambiguated_paths: vec![
                        path("items.0.price", vec![text("items"), index, text("price")]),
                        path("name.0", vec![text("name"), text("0")]),
                    ],
                }),
                full_document: formatted(shown.clone(), format),
                full_document_before_change: formatted(shown, format),
            })),
            ..common()
        };
        assert_eq!(change, expected);
        // Hidden fields win, also in what is always included.
        let both = mask.with_hidden_fields_of(&hiding(&["items", "shard"]));
        let (change, bytes) = rendered(&event, format, &both);
        assert!(!has(&bytes, "price") && !has(&bytes, "shard"), "{change:?}");
        assert_eq!(change.document_key, formatted(doc! { "_id": 1 }, format));
    });
}

/// By the hidden paths themselves, those above and below them, and numbers.
#[test]
fn no_projection_shows_a_hidden_field_of_any_event() {
    let policy = hiding(&["ssn", "items.price"]);
    for fields in [
        &["ssn"][..],
        &["ssn.more", "0"],
        &["0.ssn", "items.0.price"],
        &["items"],
        &["items.price", "x", "y"],
        &["items.3.price", "items.price.x", "items.4", "keep"],
        &["addedLater", "addedAsText", "indexes", "validator"],
    ] {
        let mask = including(fields).with_hidden_fields_of(&policy);
        for event in events_with_secrets() {
            for_all_formats(|format| {
                let (change, bytes) = rendered(&event, format, &mask);
                for secret in [SECRET, "ssn", "price"] {
                    assert!(
                        !has(&bytes, secret),
                        "{fields:?} shows {secret}: {change:?}"
                    );
                }
            });
        }
    }
}

/// A projection applies to documents, and an index has no fields of them to leave out.
#[test]
fn a_projection_leaves_the_descriptions_of_indexes_and_options_whole() {
    let mask = including(&["name"]);
    for event in events_with_secrets() {
        let operation = event.get_str("operationType").unwrap();
        let operation = Operation::from_name(operation);
        if operation.is_document() {
            continue;
        }
        for_all_formats(|format| {
            let (whole, _) = rendered(&event, format, &FieldMask::default());
            let (shown, _) = rendered(&event, format, &mask);
            assert_eq!(shown.change, whole.change);
        });
    }
}

/// A simple reference implementation: a description with the included fields only.
fn reference_included_description(description: &Document, paths: &[String]) -> Document {
    let shown = |path: &str| included_below(path, paths).is_some();
    let mut left = description.clone();
    let updated = description.get_document("updatedFields").unwrap();
    let (updated, gone) = reference_included_updates(updated, paths);
    left.insert("updatedFields", updated);
    let array = |name: &str| description.get_array(name).unwrap().iter().cloned();
    let removed = array("removedFields").filter(|it| shown(it.as_str().unwrap()));
    let removed: Vec<Bson> = gone.into_iter().map(Bson::from).chain(removed).collect();
    left.insert("removedFields", removed);
    let truncated: Vec<Bson> = array("truncatedArrays")
        .filter(|it| shown(it.as_document().unwrap().get_str("field").unwrap()))
        .collect();
    left.insert("truncatedArrays", truncated);
    let entries = description.get_document("disambiguatedPaths").unwrap();
    let entries: Document = entries
        .clone()
        .into_iter()
        .filter(|it| shown(&it.0))
        .collect();
    left.insert("disambiguatedPaths", entries);
    left
}

/// Returns a description whose paths have their own components: each number after the first is an index.
fn with_components_of_its_paths(mut description: Document) -> Document {
    let entries = description.get_document_mut("disambiguatedPaths").unwrap();
    for (path, components) in entries.iter_mut() {
        let parts = path.split('.').enumerate();
        let parts = parts.map(|(at, part)| match part.parse::<i32>() {
            Ok(index) if at > 0 => Bson::from(index),
            _ => Bson::from(part),
        });
        *components = Bson::Array(parts.collect());
    }
    description
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..Default::default() })]

    /// Both masks together show of an event what the included fields are of one without the hidden fields.
    #[test]
    fn what_is_hidden_is_hidden_whatever_is_included(
        key in documents(), after in documents(), before in documents(), description in descriptions(),
        included in included_paths(), hidden in paths(),
    ) {
        let description = with_components_of_its_paths(description);
        let fields = |key: Document, after: Document, before: Document, description: Document| {
            event("update", doc! {
                "documentKey": key, "fullDocument": after, "fullDocumentBeforeChange": before,
                "updateDescription": description,
            })
        };
        let visible = |document| reference_redacted(document, &hidden);
        let left = fields(
            visible(&key), visible(&after), visible(&before), reference_redacted_description(&description, &hidden),
        );
        let given = fields(key, after, before, description);
        let mask = FieldMask::including(included.clone()).unwrap();
        let both = mask.with_hidden_fields_of(&FieldMask::hiding(hidden.clone()).unwrap());
        for format in FORMATS {
            let (_, bytes) = rendered(&given, format, &both);
            let (_, expected) = rendered(&left, format, &mask);
            prop_assert_eq!(bytes, expected);
        }
    }

    /// Encoding with included fields equals encoding the event that the reference implementation leaves.
    #[test]
    fn an_event_is_encoded_as_if_it_had_only_the_included_fields(
        key in documents(), after in documents(), before in documents(), description in descriptions(),
        paths in included_paths(),
    ) {
        let description = with_components_of_its_paths(description);
        let fields = |after: Document, before: Document, description: Document| {
            let fields = doc! {
                "documentKey": &key, "fullDocument": after, "fullDocumentBeforeChange": before,
                "updateDescription": description,
            };
            event("update", fields)
        };
        let left = |document| reference_included(document, &paths);
        let shown = fields(left(&after), left(&before), reference_included_description(&description, &paths));
        let given = fields(after, before, description);
        let mask = FieldMask::including(paths.clone()).unwrap();
        for format in FORMATS {
            let (_, bytes) = rendered(&given, format, &mask);
            let (_, expected) = rendered(&shown, format, &FieldMask::default());
            prop_assert_eq!(bytes, expected);
        }
    }
}
