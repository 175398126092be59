//! Malformed and crafted BSON: no panics, no unbounded time or memory.

use proptest::prelude::*;

use super::*;

fn every_condition() -> Vec<Clauses> {
    let deep = (0..100).fold(Bson::Int32(1), |inner, _| Bson::Array(vec![inner]));
    let ops = [
        Condition::Eq(deep),
        Condition::Gt(doc! {"a": {"b": [1, "x"]}}.into()),
        Condition::In(vec![1.into(), decimal("1.5"), "x".into(), Bson::Null]),
        Condition::Exists(true),
        Condition::Prefix("x".into()),
        Condition::Regex {
            pattern: r"^\w+$".into(),
            options: "im".into(),
        },
        Condition::Changed(true),
    ];
    let paths = ["_id", "a", "a.b", "a.0.b", "a.0.0.0"];
    ops.iter()
        .flat_map(|op| paths.map(|path| field(path, op.clone())))
        .map(|filter| Clauses {
            pre_images: true,
            ..residual(filter)
        })
        .collect()
}

fn evaluate_all(event: &[u8], evaluators: &[Evaluator]) {
    for operation in Operation::DOCUMENT {
        let event_fields = EventFields::read(operation, event);
        for evaluator in evaluators {
            let _ = evaluator.evaluate(&event_fields);
        }
    }
}

fn event() -> Vec<u8> {
    let inner = doc! {
        "a": [{"b": 1, "0": [1, [2, {"b": 3}]]}, "x", decimal("1.5"), 2.5, 7_i64],
        "s": "text", "n": Bson::Null, "d": {"e": {"f": [true]}},
    };
    bytes(&doc! {
        "_id": {"_data": "00"},
        "documentKey": {"_id": {"k": 1}},
        "fullDocument": &inner,
        "fullDocumentBeforeChange": &inner,
        "updateDescription": {
            "updatedFields": {"a.b": 1}, "removedFields": ["c"],
            "truncatedArrays": [{"field": "a", "newSize": 1}],
            "disambiguatedPaths": {"a.b": ["a", 0]},
        },
    })
}

#[test]
fn truncated_and_corrupted_events_do_no_harm() {
    let evaluators: Vec<Evaluator> = every_condition().iter().map(Evaluator::new).collect();
    let event = event();
    for end in 0..event.len() {
        evaluate_all(&event[..end], &evaluators);
    }
    for at in 0..event.len() {
        for turned in [0, 0x7f, 0xff, event[at] ^ 1, event[at].wrapping_add(1)] {
            let mut event = event.clone();
            event[at] = turned;
            evaluate_all(&event, &evaluators);
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
    ) {
        let evaluators: Vec<Evaluator> = every_condition().iter().map(Evaluator::new).collect();
        evaluate_all(&noise, &evaluators);
        let mut event = event();
        let at = at.index(event.len());
        let end = (at + noise.len()).min(event.len());
        event[at..end].copy_from_slice(&noise[..end - at]);
        evaluate_all(&event, &evaluators);
    }
}

/// Returns nested arrays, far deeper than any server stores.
fn nested(depth: usize) -> Vec<u8> {
    let mut inner = bytes(&doc! {"0": 1});
    for _ in 0..depth {
        let length = i32::try_from(inner.len() + 8).unwrap();
        let mut outer = length.to_le_bytes().to_vec();
        outer.extend_from_slice(b"\x040\0");
        outer.extend_from_slice(&inner);
        outer.push(0);
        inner = outer;
    }
    inner
}

#[test]
fn recursion_is_no_deeper_than_the_filter() {
    let evaluators: Vec<Evaluator> = every_condition().iter().map(Evaluator::new).collect();
    let document = nested(5_000);
    let mut event = ((document.len() + 31) as i32).to_le_bytes().to_vec();
    event.extend_from_slice(b"\x03fullDocument\0");
    // A document whose field `a`, as in the paths of the filters, holds the nested arrays.
    event.extend_from_slice(&((document.len() + 8) as i32).to_le_bytes());
    event.extend_from_slice(b"\x04a\0");
    event.extend_from_slice(&document);
    event.extend_from_slice(&[0, 0]);
    let length = (event.len() as i32).to_le_bytes();
    event[..4].copy_from_slice(&length);
    assert!(EventFields::read(Operation::Insert, &event).after.is_some());
    evaluate_all(&event, &evaluators);
}

/// A number in a path is both an index and a name, so in a crafted document each level doubles the ways to
/// follow the path.
#[test]
fn a_path_of_many_numbers_ends_in_bounded_time() {
    let document = bytes(&branching_document());
    let path = Path::new(&format!("a{}", ".0".repeat(99)));
    let mut visits = 0_u64;
    let enough = path.find(&document, &mut |_| {
        visits += 1;
        false
    });
    assert_eq!(enough, None);
    assert!(visits < 200_000, "{visits}");
}

/// Returns a document in whose field `a` each number in a path doubles the ways to follow it.
fn branching_document() -> Document {
    let mut value = Bson::Int32(1);
    for _ in 0..80 {
        value = Bson::Array(vec![doc! {"0": value}.into()]);
    }
    doc! {"a": value}
}

/// After a stopped walk it is unknown whether there are more values. A row filter that requires a field to be
/// missing, or to lack a value, is then not met. After a complete walk it is.
#[test]
fn a_value_that_a_stopped_walk_did_not_reach_is_not_missing() {
    // Every way ends at a value, and there are too many ways to follow.
    let long = format!("a{}", ".0".repeat(40));
    for (path, document, seen) in [
        (long.as_str(), branching_document(), false),
        (&long, doc! {"a": 1}, true),
        ("a.0.0", branching_document(), true),
    ] {
        let none_of = Predicate::NoneOf(vec![field(path, Condition::Eq("b".into()))]);
        for row_filter in [
            field(path, Condition::Ne("b".into())),
            field(path, Condition::NotIn(vec!["b".into()])),
            none_of,
        ] {
            let description = format!("{row_filter:?}");
            let residual = Clauses {
                row_filter: Some(row_filter.into()),
                ..Clauses::default()
            };
            let event = doc! {"fullDocument": &document, "documentKey": {"_id": 1}};
            let is_seen = evaluate(&residual, Operation::Insert, &event).is_some();
            assert_eq!(is_seen, seen, "{description}");
        }
    }
    for op in [Condition::Exists(false), Condition::Eq(Bson::Null)] {
        assert!(!holds(&branching_document(), &long, op));
    }
}

#[test]
fn text_that_is_not_utf_8_matches_no_pattern() {
    let mut event = bytes(&doc! {"fullDocument": {"a": "xyz"}});
    let at = event.windows(3).position(|part| part == b"xyz").unwrap();
    event[at + 2] = 0xff;
    for op in [
        Condition::Prefix("x".into()),
        Condition::Regex {
            pattern: "x".into(),
            options: String::new(),
        },
    ] {
        let evaluator = Evaluator::new(&residual(field("a", op)));
        assert_eq!(
            evaluator.evaluate(&EventFields::read(Operation::Insert, &event)),
            None
        );
    }
    let there = Evaluator::new(&residual(field("a", Condition::Exists(true))));
    assert!(
        there
            .evaluate(&EventFields::read(Operation::Insert, &event))
            .is_some()
    );
}
