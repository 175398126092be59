//! The paths that a change touched.

use super::*;
use crate::filter::evaluator::changed::ChangedCondition;

fn changed(path: &str, operation: Operation, event: &Document) -> Option<bool> {
    let event = bytes(event);
    let event_fields = EventFields::read(operation, &event);
    let yes = ChangedCondition::new(path, true).holds(&event_fields);
    let no = ChangedCondition::new(path, false).holds(&event_fields);
    assert_eq!(yes.map(|yes| !yes), no);
    yes
}

fn touched(path: &str, description: Document) -> Option<bool> {
    changed(
        path,
        Operation::Update,
        &doc! {"updateDescription": description},
    )
}

fn set(key: &str) -> Document {
    doc! {"updatedFields": {"other": 1, key: 1}, "removedFields": [], "truncatedArrays": []}
}

#[test]
fn a_path_is_touched_by_changes_at_above_and_below_it() {
    for (path, key, expected) in [
        ("a.b", "a", true),
        ("a.b", "a.b", true),
        ("a.b", "a.b.c", true),
        ("a.b", "a.bc", false),
        ("a.bc", "a.b", false),
        ("a.b", "ab", false),
        ("a.b", "b", false),
        ("a.b", "a.c.b", false),
        ("a", "a.b.c", true),
        ("a", "ab", false),
        ("ab", "a", false),
        ("items.0", "items.0.sku", true),
        ("items.0", "items", true),
        ("items", "items.0", true),
        ("items.0", "items.1", false),
        ("items.1", "items.10", false),
        // An array index is a component like any other.
        ("items.sku", "items.0.sku", false),
        ("_id", "a", false),
    ] {
        assert_eq!(touched(path, set(key)), Some(expected), "{path} by {key}");
    }
}

#[test]
fn setting_removing_and_truncating_all_touch_a_path() {
    let removed = doc! {"updatedFields": {}, "removedFields": ["x", "a.b"]};
    assert_eq!(touched("a", removed.clone()), Some(true));
    assert_eq!(touched("a.b.c", removed.clone()), Some(true));
    assert_eq!(touched("a.c", removed), Some(false));
    let cut = doc! {
        "updatedFields": {}, "removedFields": [],
        "truncatedArrays": [{"field": "x", "newSize": 1}, {"field": "a.list", "newSize": 2}],
    };
    assert_eq!(touched("a.list", cut.clone()), Some(true));
    assert_eq!(touched("a.list.7", cut.clone()), Some(true));
    assert_eq!(touched("a.other", cut), Some(false));
    // Older servers send no truncatedArrays, and some servers send null instead of an empty list.
    let sparse = doc! {"updatedFields": {"a": 1}, "removedFields": Bson::Null};
    assert_eq!(touched("a", sparse.clone()), Some(true));
    assert_eq!(touched("b", sparse), Some(false));
    assert_eq!(touched("b", doc! {}), Some(false));
}

#[test]
fn disambiguated_paths_are_compared_by_their_components() {
    let with = |key: &str, components: Bson| {
        let mut description = set(key);
        description.insert("disambiguatedPaths", doc! {key: components});
        description
    };
    let dotted = with("a.b", Bson::Array(vec!["a.b".into()]));
    assert_eq!(touched("a", dotted.clone()), Some(false));
    assert_eq!(touched("a.b", dotted.clone()), Some(false));
    assert_eq!(touched("other", dotted), Some(true));
    let below = with("x.a.b", Bson::Array(vec!["x".into(), "a.b".into()]));
    assert_eq!(touched("x", below.clone()), Some(true));
    assert_eq!(touched("x.a", below.clone()), Some(false));
    assert_eq!(touched("x.a.b", below), Some(false));
    // A field whose name is a number, and an array index.
    for number in [Bson::from("0"), Bson::from(0)] {
        let numbered = with("a.0.b", Bson::Array(vec!["a".into(), number, "b".into()]));
        assert_eq!(touched("a.0", numbered.clone()), Some(true));
        assert_eq!(touched("a.0.b.c", numbered.clone()), Some(true));
        assert_eq!(touched("a.1", numbered.clone()), Some(false));
        assert_eq!(touched("a.00", numbered), Some(false));
    }
    // Only some of many paths are listed, in another order than the changed fields.
    let mut many = doc! {"updatedFields": {}, "disambiguatedPaths": {}};
    for number in 0..50 {
        let key = format!("a.{number}");
        many.get_document_mut("updatedFields")
            .unwrap()
            .insert(&key, 1);
        let paths = many.get_document_mut("disambiguatedPaths").unwrap();
        paths.insert(
            format!("a.{}", 49 - number),
            vec![Bson::from(format!("a.{}", 49 - number))],
        );
    }
    assert_eq!(touched("a", many.clone()), Some(false));
    many.get_document_mut("updatedFields")
        .unwrap()
        .insert("a.x", 1);
    assert_eq!(touched("a", many), Some(true));
}

#[test]
fn a_replace_touches_every_path_and_an_insert_and_a_delete_none() {
    let event = doc! {"updateDescription": set("a")};
    for (operation, expected) in [
        (Operation::Replace, true),
        (Operation::Insert, false),
        (Operation::Delete, false),
    ] {
        assert_eq!(changed("a", operation, &event), Some(expected));
        assert_eq!(changed("b", operation, &doc! {}), Some(expected));
    }
}

#[test]
fn an_update_without_a_readable_description_is_unknown() {
    assert_eq!(changed("a", Operation::Update, &doc! {}), None);
    let none = doc! {"updateDescription": Bson::Null};
    assert_eq!(changed("a", Operation::Update, &none), None);
    for broken in [
        doc! {"updatedFields": 1},
        doc! {"removedFields": [1]},
        doc! {"truncatedArrays": [{"newSize": 1}]},
        doc! {"disambiguatedPaths": {"a": "a"}},
    ] {
        assert_eq!(touched("a", broken.clone()), None, "{broken}");
    }
    let policy = |missing_image| {
        let residual = Clauses {
            missing_image,
            ..residual(field("a", Condition::Changed(true)))
        };
        evaluate(
            &residual,
            Operation::Update,
            &doc! {"fullDocument": {"a": 1}},
        )
        .is_some()
    };
    assert!(policy(MissingImage::Deliver));
    assert!(!policy(MissingImage::Drop));
}

/// Conditions on the document are unknown without it, but `changed` reads the update description only.
#[test]
fn changed_is_known_without_a_document() {
    let event = doc! {"documentKey": {"_id": 1}, "updateDescription": set("a")};
    let paid = || field("status", Condition::Eq("paid".into()));
    let changed = |path: &str| field(path, Condition::Changed(true));
    for (filter, drop, deliver) in [
        (changed("a"), true, true),
        (changed("b"), false, false),
        (Predicate::AllOf(vec![changed("a"), paid()]), false, true),
        (Predicate::AllOf(vec![changed("b"), paid()]), false, false),
        (Predicate::AnyOf(vec![changed("a"), paid()]), true, true),
        (Predicate::AnyOf(vec![changed("b"), paid()]), false, true),
        (Predicate::NoneOf(vec![changed("a"), paid()]), false, false),
        (Predicate::NoneOf(vec![changed("b"), paid()]), false, true),
        (Predicate::NoneOf(vec![changed("b")]), true, true),
    ] {
        let dropping = residual(filter);
        let delivering = Clauses {
            missing_image: MissingImage::Deliver,
            ..dropping.clone()
        };
        let passes = |residual| evaluate(residual, Operation::Update, &event).is_some();
        assert_eq!(passes(&dropping), drop, "{dropping:?}");
        assert_eq!(passes(&delivering), deliver, "{delivering:?}");
    }
}
