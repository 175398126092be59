use super::*;
use crate::filter::evaluator::node::any_value_passes;
use crate::filter::evaluator::value_test::ValueTest;

/// Returns the values that MongoDB compares for the path, in order; `undefined` stands for a missing field.
fn found(document: Document, path: &str) -> Vec<Bson> {
    let bytes = bytes(&document);
    let mut found = Vec::new();
    Path::new(path).find(&bytes, &mut |value| {
        found.push(value.map_or(Bson::Undefined, |value| {
            let mut one = doc! {};
            let bytes = crate::raw::document([value]);
            one.extend(Document::from_reader(&bytes[..]).unwrap());
            one.into_iter().next().unwrap().1
        }));
        false
    });
    found
}

#[test]
fn a_path_leads_through_documents_and_into_arrays() {
    let missing = || vec![Bson::Undefined];
    let array = |values: Vec<Bson>| Bson::Array(values);
    let rows: Vec<(Document, &str, Vec<Bson>)> = vec![
        (doc! {"a": 1}, "a", vec![1.into()]),
        (doc! {"a": 1}, "b", missing()),
        (doc! {"a": {"b": 1}}, "a.b", vec![1.into()]),
        (doc! {"a": {"c": 1}}, "a.b", missing()),
        // A scalar on the way, and a field name that contains a dot.
        (doc! {"a": 1}, "a.b", missing()),
        (doc! {"a": Bson::Null}, "a.b", missing()),
        (doc! {"a.b": 1}, "a.b", missing()),
        // At the end of a path: each element, then the array.
        (
            doc! {"a": [1, 2]},
            "a",
            vec![1.into(), 2.into(), array(vec![1.into(), 2.into()])],
        ),
        (doc! {"a": []}, "a", vec![array(vec![])]),
        // On the way: only the documents in an array are searched.
        (
            doc! {"a": [{"b": 1}, 2, {"b": 3}]},
            "a.b",
            vec![1.into(), 3.into()],
        ),
        (
            doc! {"a": [{"b": 1}, {"c": 3}]},
            "a.b",
            vec![1.into(), Bson::Undefined],
        ),
        (
            doc! {"a": [{"b": [1, 2]}]},
            "a.b",
            vec![1.into(), 2.into(), array(vec![1.into(), 2.into()])],
        ),
        (doc! {"a": []}, "a.b", vec![]),
        (doc! {"a": [1, 2]}, "a.b", vec![]),
        (doc! {"a": [[{"b": 1}]]}, "a.b", vec![]),
        // A number is an array index, a field name, or both.
        (doc! {"a": [5, 7, 3]}, "a.1", vec![7.into()]),
        (doc! {"a": [5]}, "a.1", vec![]),
        (doc! {"a": {"1": 5}}, "a.1", vec![5.into()]),
        (
            doc! {"a": [5, [2, 4]]},
            "a.1",
            vec![array(vec![2.into(), 4.into()])],
        ),
        (
            doc! {"a": [5, {"1": 4}]},
            "a.1",
            vec![4.into(), doc! {"1": 4}.into()],
        ),
        (
            doc! {"a": [5, {"b": 4}]},
            "a.1",
            vec![Bson::Undefined, doc! {"b": 4}.into()],
        ),
        (
            doc! {"a": [5, {"b": 4}]},
            "a.1.b",
            vec![Bson::Undefined, 4.into()],
        ),
        (doc! {"a": [5, [{"b": 4}]]}, "a.1.b", vec![4.into()]),
        (doc! {"a": [[5, 7]]}, "a.0.1", vec![7.into()]),
        (doc! {"a": [5, 7]}, "a.01", vec![]),
        (doc! {"a": [5, 7]}, "a.+1", vec![]),
    ];
    for (document, path, expected) in rows {
        assert_eq!(found(document.clone(), path), expected, "{document} {path}");
    }
}

#[test]
fn a_negation_applies_to_all_values_not_to_one_element() {
    let document = doc! {"a": [{"b": 1}, {"b": 2}], "c": [1]};
    for (path, op, expected) in [
        ("a.b", Condition::Ne(1.into()), false),
        ("a.b", Condition::Ne(3.into()), true),
        ("a.b", Condition::NotIn(vec![1.into(), 3.into()]), false),
        ("a.b", Condition::Exists(true), true),
        ("a.c", Condition::Exists(true), false),
        ("a.c", Condition::Exists(false), true),
        ("c.x", Condition::Exists(false), true),
        ("c.x", Condition::Eq(Bson::Null), false),
        ("c.0", Condition::Exists(true), true),
        ("c.1", Condition::Exists(false), true),
    ] {
        assert_eq!(
            holds(&document, path, op.clone()),
            expected,
            "{path} {op:?}"
        );
    }
}

#[test]
fn the_first_of_repeated_field_names_counts() {
    // A document with two fields `a`.
    let one = bytes(&doc! {"a": 1, "a2": 2});
    let twice: Vec<_> = fields(&one)
        .map(|mut element| {
            element.key = b"a";
            element
        })
        .collect();
    let document = crate::raw::document(twice);
    let first = |value: i32| {
        let test = ValueTest::new(&Condition::Eq(value.into())).unwrap().0;
        any_value_passes(&Path::new("a"), &document, &test, &WorkBudget::default())
    };
    assert!(first(1));
    assert!(!first(2));
}

#[test]
fn only_the_id_is_read_from_the_document_key() {
    let event = doc! {
        "documentKey": {"shard": 5, "_id": {"k": 1}},
        "fullDocument": {"_id": {"k": 2}, "shard": 6},
    };
    let passes = |path: &str, value: i32| {
        let residual = residual(field(path, Condition::Eq(value.into())));
        evaluate(&residual, Operation::Insert, &event).is_some()
    };
    assert!(passes("_id.k", 1));
    assert!(!passes("_id.k", 2));
    assert!(passes("shard", 6));
    assert!(!passes("shard", 5));
}
