//! Tests of update descriptions in all their forms.

use bson::Bson;

use super::*;

fn description(of: Document, format: Format) -> (Option<pb::UpdateDescription>, pb::ChangeEvent) {
    let mut change = change(&event("update", doc! { "updateDescription": of }), format);
    match change.change.take() {
        Some(Change::Update(update)) => (update.update_description, change),
        other => panic!("an update came as {other:?}"),
    }
}

/// Asserts the encoding of a description in every format, and that no unknown field is left.
fn assert_encodes_as(of: &Document, expected: impl Fn(Format) -> pb::UpdateDescription) {
    for_all_formats(|format| {
        let (description, rest) = description(of.clone(), format);
        assert_eq!(description, Some(expected(format)), "{of} in {format:?}");
        assert_eq!(rest.unknown_fields, None);
    });
}

/// The keys are paths, which stay unchanged.
#[test]
fn updated_fields_keep_their_dotted_paths() {
    let updated = doc! {
        "a.b.c": 1,
        "items.0": "an element, or a field named 0",
        "items.3.sku": Bson::Null,
        "$price": 2,
        "a.b..c": { "x.y": [1] },
        "": "a name may be empty",
    };
    let of = doc! {
        "updatedFields": updated.clone(), "removedFields": [], "truncatedArrays": [],
    };
    assert_encodes_as(&of, |format| pb::UpdateDescription {
        updated_fields: formatted(updated.clone(), format),
        ..Default::default()
    });
}

/// `$unset` alone changes only `removedFields`.
#[test]
fn an_update_that_only_removes_fields_has_their_paths_in_order() {
    let of = doc! { "updatedFields": {}, "removedFields": ["z", "a.b", "items.2.x", "$odd", ""] };
    assert_encodes_as(&of, |format| pb::UpdateDescription {
        updated_fields: formatted(doc! {}, format),
        removed_fields: ["z", "a.b", "items.2.x", "$odd", ""]
            .map(str::to_owned)
            .to_vec(),
        ..Default::default()
    });
}

/// Such as a pipeline update with `$slice`. Sizes may be of any numeric type.
#[test]
fn truncated_arrays_have_their_new_size() {
    let of = doc! {
        "truncatedArrays": [
            { "field": "items", "newSize": 2 },
            { "field": "deep.er", "newSize": 0 },
            { "field": "large", "newSize": 1_i64 << 33 },
            { "newSize": 5.0, "field": "double" },
        ],
    };
    let array = |field: &str, new_size| pb::TruncatedArray {
        field: field.to_owned(),
        new_size,
    };
    assert_encodes_as(&of, |_| pb::UpdateDescription {
        truncated_arrays: vec![
            array("items", 2),
            array("deep.er", 0),
            array("large", 1 << 33),
            array("double", 5),
        ],
        ..Default::default()
    });
}

/// `a.0` may be the first element of `a` or its field named "0".
#[test]
fn disambiguated_paths_distinguish_names_from_indexes() {
    let of = doc! {
        "disambiguatedPaths": {
            "a.0": ["a", 0],
            "b.0": ["b", "0"],
            "x.y.z": ["x.y", "z"],
            "large": [1_i64 << 33],
            "empty": [],
        },
    };
    let path = |path: &str, components: &[&dyn Fn() -> pb::path_component::Kind]| {
        let components = components
            .iter()
            .map(|kind| pb::PathComponent { kind: Some(kind()) });
        pb::DisambiguatedPath {
            path: path.to_owned(),
            components: components.collect(),
        }
    };
    let name = |name: &'static str| move || pb::path_component::Kind::Field(name.to_owned());
    let index = |index| move || pb::path_component::Kind::Index(index);
    assert_encodes_as(&of, |_| pb::UpdateDescription {
        disambiguated_paths: vec![
            path("a.0", &[&name("a"), &index(0)]),
            path("b.0", &[&name("b"), &name("0")]),
            path("x.y.z", &[&name("x.y"), &name("z")]),
            path("large", &[&index(1 << 33)]),
            path("empty", &[]),
        ],
        ..Default::default()
    });
}

/// As of an update that changes nothing, on a server that omits empty parts.
#[test]
fn an_empty_description_is_sent() {
    assert_encodes_as(&doc! {}, |_| pb::UpdateDescription::default());
}

/// Parts that MongoDB adds to a description later must not be lost.
#[test]
fn a_description_with_unknown_parts_is_also_kept_whole_as_an_unknown_field() {
    let understood = doc! { "updatedFields": { "a": 1 } };
    for (key, value) in [
        ("addedLater", Bson::Int32(1)),
        ("removedFields", Bson::String("not an array".into())),
        ("removedFields", bson::bson!(["a", 1])),
        ("truncatedArrays", bson::bson!({ "0": "not an array" })),
        ("truncatedArrays", bson::bson!(["no document"])),
        (
            "truncatedArrays",
            bson::bson!([{ "field": 1, "newSize": 2 }]),
        ),
        (
            "truncatedArrays",
            bson::bson!([{ "field": "a", "newSize": "2" }]),
        ),
        (
            "truncatedArrays",
            bson::bson!([{ "field": "a", "newSize": 2, "more": 1 }]),
        ),
        ("disambiguatedPaths", bson::bson!(["a.0"])),
        ("disambiguatedPaths", bson::bson!({ "a.0": "no array" })),
        ("disambiguatedPaths", bson::bson!({ "a.0": [true] })),
    ] {
        let mut of = understood.clone();
        of.insert(key, value);
        for_all_formats(|format| {
            let (description, rest) = description(of.clone(), format);
            let updated = description.and_then(|it| it.updated_fields);
            assert_eq!(updated, formatted(doc! { "a": 1 }, format), "{of}");
            let kept = doc! { "updateDescription": of.clone() };
            assert_eq!(rest.unknown_fields, formatted(kept, format), "{of}");
        });
    }
}
