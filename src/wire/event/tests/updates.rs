//! What an update changed, in every shape that MongoDB tells it.

use bson::Bson;

use super::*;

fn description(of: Document, format: Format) -> (Option<pb::UpdateDescription>, pb::ChangeEvent) {
    let mut change = change(&event("update", doc! { "updateDescription": of }), format);
    match change.change.take() {
        Some(Change::Update(update)) => (update.update_description, change),
        other => panic!("an update came as {other:?}"),
    }
}

/// Asserts what a description becomes in every format, and that nothing of it is left over.
fn becomes(of: &Document, expected: impl Fn(Format) -> pb::UpdateDescription) {
    in_all_formats(|format| {
        let (description, rest) = description(of.clone(), format);
        assert_eq!(description, Some(expected(format)), "{of} in {format:?}");
        assert_eq!(rest.unknown_fields, None);
    });
}

/// T22: the keys are paths, and stay as MongoDB wrote them.
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
    becomes(&of, |format| pb::UpdateDescription {
        updated_fields: held(updated.clone(), format),
        ..Default::default()
    });
}

/// T22: `$unset` alone shows in `removedFields` and nowhere else.
#[test]
fn an_update_that_only_removes_fields_holds_their_paths_in_order() {
    let of = doc! { "updatedFields": {}, "removedFields": ["z", "a.b", "items.2.x", "$odd", ""] };
    becomes(&of, |format| pb::UpdateDescription {
        updated_fields: held(doc! {}, format),
        removed_fields: ["z", "a.b", "items.2.x", "$odd", ""]
            .map(str::to_owned)
            .to_vec(),
        ..Default::default()
    });
}

/// T22: what a pipeline update with `$slice` becomes. Sizes come as any of MongoDB's integers.
#[test]
fn arrays_that_were_cut_short_tell_their_new_size() {
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
    becomes(&of, |_| pb::UpdateDescription {
        truncated_arrays: vec![
            array("items", 2),
            array("deep.er", 0),
            array("large", 1 << 33),
            array("double", 5),
        ],
        ..Default::default()
    });
}

/// T22: `a.0` may be the first element of `a` or its field named "0"; only this tells.
#[test]
fn disambiguated_paths_tell_names_from_indexes() {
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
    becomes(&of, |_| pb::UpdateDescription {
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

/// T22: an update that changes nothing, and a server that leaves empty parts out.
#[test]
fn an_empty_description_is_there_all_the_same() {
    becomes(&doc! {}, |_| pb::UpdateDescription::default());
}

/// What MongoDB may add to a description one day is not lost: then the whole of it goes along.
#[test]
fn a_description_that_is_not_understood_in_full_is_kept_whole_beside() {
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
        in_all_formats(|format| {
            let (description, rest) = description(of.clone(), format);
            let updated = description.and_then(|it| it.updated_fields);
            assert_eq!(updated, held(doc! { "a": 1 }, format), "{of}");
            let kept = doc! { "updateDescription": of.clone() };
            assert_eq!(rest.unknown_fields, held(kept, format), "{of}");
        });
    }
}
