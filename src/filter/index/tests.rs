use std::collections::HashMap;

use bson::{Bson, Document, doc};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::filter::{Condition, Predicate};
use crate::model::{MissingImage, Shard};

fn eq(path: &str, value: impl Into<Bson>) -> Predicate {
    Predicate::Field {
        path: path.into(),
        op: Condition::Eq(value.into()),
    }
}

fn residual(filter: Predicate) -> Clauses {
    Clauses {
        operations: None,
        filter: Some(filter.into()),
        missing_image: MissingImage::Deliver,
        pre_images: false,
        ..Clauses::default()
    }
}

fn only(operation: Operation, residual: Clauses) -> Clauses {
    Clauses {
        operations: Some([operation].into()),
        ..residual
    }
}

fn matching_keys(index: &mut FilterIndex<u32>, operation: Operation, event: &Document) -> Vec<u32> {
    let event = event.to_vec().unwrap();
    let mut found = Vec::new();
    index.matches(&EventFields::read(operation, &event), |key, _| {
        found.push(key);
    });
    found.sort_unstable();
    found
}

/// Returns the number of residuals that an event is evaluated against, whether they pass it or not.
fn visited(index: &mut FilterIndex<u32>, operation: Operation, event: &Document) -> usize {
    let _ = matching_keys(index, operation, event);
    let was_visited = |indexed: &&Option<IndexedResidual<u32>>| {
        indexed
            .as_ref()
            .is_some_and(|indexed| indexed.last_event == index.events)
    };
    index.slots.iter().filter(was_visited).count()
}

fn insert(document: Document) -> Document {
    doc! {"documentKey": {"_id": 7}, "fullDocument": document}
}

/// A stopped walk leaves the match unknown, and the evaluator passes such an event with DELIVER.
#[test]
fn a_stopped_walk_selects_all_filters_that_deliver_possible_matches() {
    let mut value = Bson::Int32(1);
    for _ in 0..80 {
        value = Bson::Array(vec![doc! {"0": value}.into()]);
    }
    let path = format!("a{}", ".0".repeat(99));
    let mut index = FilterIndex::new();
    index.insert(1, &residual(eq(&path, "x")));
    let certain = Clauses {
        missing_image: MissingImage::Drop,
        ..residual(eq(&path, "x"))
    };
    index.insert(2, &certain);
    let event = insert(doc! {"a": value});
    assert_eq!(matching_keys(&mut index, Operation::Insert, &event), [1]);
}

#[test]
fn an_event_visits_only_the_filters_on_its_values() {
    let mut index = FilterIndex::new();
    for number in 0..1_000 {
        index.insert(number, &residual(eq("a", number)));
    }
    let event = insert(doc! {"a": 5.0});
    assert_eq!(matching_keys(&mut index, Operation::Insert, &event), [5]);
    assert_eq!(visited(&mut index, Operation::Insert, &event), 1);
    let event = insert(doc! {"a": [5, 6, "x", 5_i64]});
    assert_eq!(matching_keys(&mut index, Operation::Insert, &event), [5, 6]);
    assert_eq!(visited(&mut index, Operation::Insert, &event), 2);
    let event = insert(doc! {"b": 5});
    assert_eq!(visited(&mut index, Operation::Insert, &event), 0);
}

#[test]
fn null_and_a_missing_field_select_the_filters_on_null() {
    let mut index = FilterIndex::new();
    index.insert(1, &residual(eq("a", Bson::Null)));
    index.insert(2, &residual(eq("a.b", Bson::Null)));
    for (document, expected) in [
        (doc! {}, vec![1, 2]),
        (doc! {"a": Bson::Null}, vec![1, 2]),
        (doc! {"a": []}, vec![]),
        (doc! {"a": [Bson::Null]}, vec![1]),
        (doc! {"a": [{}]}, vec![2]),
        (doc! {"a": {"b": 1}}, vec![]),
    ] {
        let found = matching_keys(&mut index, Operation::Insert, &insert(document.clone()));
        assert_eq!(found, expected, "{document}");
    }
}

#[test]
fn residuals_of_other_operations_are_not_visited() {
    let mut index = FilterIndex::new();
    for number in 0..1_000 {
        index.insert(number, &only(Operation::Insert, residual(eq("a", 1))));
    }
    let deletion = doc! {"documentKey": {"_id": 7}};
    assert_eq!(visited(&mut index, Operation::Delete, &deletion), 0);
    assert_eq!(visited(&mut index, Operation::Drop, &doc! {}), 0);
    assert_eq!(
        visited(&mut index, Operation::Insert, &insert(doc! {"a": 1})),
        1_000
    );
}

#[test]
fn residuals_that_drop_unknown_matches_are_not_visited_without_a_document() {
    let mut index = FilterIndex::new();
    for number in 0..1_000 {
        let dropping = Clauses {
            missing_image: MissingImage::Drop,
            ..residual(eq("a", number))
        };
        index.insert(number, &dropping);
    }
    index.insert(5_000, &residual(eq("a", 1)));
    let update = doc! {"documentKey": {"_id": 7}};
    assert_eq!(
        matching_keys(&mut index, Operation::Update, &update),
        [5_000]
    );
    assert_eq!(visited(&mut index, Operation::Update, &update), 1);
}

#[test]
fn the_id_is_indexed_before_other_fields_and_needs_no_document() {
    let mut index = FilterIndex::new();
    for number in 0..1_000 {
        let both = Predicate::AllOf(vec![eq("a", 1), eq("_id", number)]);
        index.insert(number, &residual(both));
    }
    let update = doc! {"documentKey": {"_id": 7}};
    assert_eq!(matching_keys(&mut index, Operation::Update, &update), [7]);
    assert_eq!(visited(&mut index, Operation::Update, &update), 1);
}

#[test]
fn with_pre_images_the_values_of_both_documents_are_looked_up() {
    let mut index = FilterIndex::new();
    for number in 0..100 {
        let both = Clauses {
            pre_images: true,
            ..residual(eq("a", number))
        };
        index.insert(number, &both);
    }
    let update = doc! {
        "documentKey": {"_id": 7},
        "fullDocumentBeforeChange": {"a": 1}, "fullDocument": {"a": 2},
    };
    assert_eq!(
        matching_keys(&mut index, Operation::Update, &update),
        [1, 2]
    );
    let deletion = doc! {"documentKey": {"_id": 7}, "fullDocumentBeforeChange": {"a": 1}};
    assert_eq!(matching_keys(&mut index, Operation::Delete, &deletion), [1]);
    assert_eq!(visited(&mut index, Operation::Delete, &deletion), 1);
}

#[test]
fn any_of_is_indexed_only_if_every_part_is_on_the_same_path() {
    let list = |values: &[i32]| Predicate::Field {
        path: "a".into(),
        op: Condition::In(values.iter().copied().map(Bson::from).collect()),
    };
    let mut index = FilterIndex::new();
    let same_path = Predicate::AnyOf(vec![eq("a", 1), list(&[2, 3])]);
    index.insert(1, &residual(same_path));
    index.insert(2, &residual(Predicate::AnyOf(vec![eq("a", 1), eq("b", 1)])));
    index.insert(3, &residual(Predicate::NoneOf(vec![eq("a", 1)])));
    assert_eq!(
        visited(&mut index, Operation::Insert, &insert(doc! {"a": 9})),
        2
    );
    assert_eq!(
        matching_keys(&mut index, Operation::Insert, &insert(doc! {"a": 9})),
        [3]
    );
    assert_eq!(
        matching_keys(&mut index, Operation::Insert, &insert(doc! {"a": 3})),
        [1, 3]
    );
    assert_eq!(
        matching_keys(&mut index, Operation::Insert, &insert(doc! {"a": 1})),
        [1, 2]
    );
}

#[test]
fn removed_residuals_leave_nothing_behind() {
    let mut index = FilterIndex::new();
    for round in 0..3 {
        for number in 0..1_000_u32 {
            let filter = residual(eq("a", (number + round) as i32));
            index.insert(number, &filter);
            index.insert(number, &filter);
        }
        assert_eq!(index.len(), 1_000);
    }
    for number in 0..1_000 {
        index.remove(number);
        index.remove(number);
    }
    assert!(index.is_empty());
    assert_eq!(index.slots.len(), 1_000);
    assert!(index.by_other_operations.is_empty());
    assert!(
        index
            .partitions
            .iter()
            .all(|(_, partition)| partition.is_empty())
    );
    let event = insert(doc! {"a": 1});
    assert_eq!(
        matching_keys(&mut index, Operation::Insert, &event),
        Vec::<u32>::new()
    );
    index.insert(1, &Clauses::default());
    assert_eq!(matching_keys(&mut index, Operation::Insert, &event), [1]);
}

#[test]
fn other_operations_are_selected_by_name_and_not_by_filters() {
    let mut index = FilterIndex::new();
    index.insert(1, &residual(eq("a", 1)));
    index.insert(2, &only(Operation::Drop, residual(eq("a", 1))));
    index.insert(3, &only(Operation::Insert, residual(eq("a", 1))));
    index.insert(4, &Clauses::default());
    assert_eq!(
        matching_keys(&mut index, Operation::Drop, &doc! {}),
        [1, 2, 4]
    );
    assert_eq!(
        matching_keys(&mut index, Operation::Other, &doc! {}),
        [1, 4]
    );
}

fn values() -> impl Strategy<Value = Bson> {
    let simple = select(vec![
        Bson::Int32(1),
        Bson::Int64(1),
        Bson::Double(1.0),
        Bson::Double(2.5),
        Bson::Double(f64::NAN),
        Bson::Decimal128("1.0".parse().unwrap()),
        Bson::Decimal128("NaN".parse().unwrap()),
        Bson::Null,
        Bson::String("x".into()),
        Bson::Boolean(true),
    ]);
    simple.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Bson::Array),
            (select(vec!["0", "b"]), inner).prop_map(|(key, value)| doc! {key: value}.into()),
        ]
    })
}

fn residuals() -> impl Strategy<Value = Clauses> {
    let path = select(vec!["a", "a.b", "a.0", "_id", "_id.b"]);
    let ops = prop_oneof![
        6 => values().prop_map(Condition::Eq),
        3 => prop::collection::vec(values(), 1..4).prop_map(Condition::In),
        1 => values().prop_map(Condition::Ne),
        1 => values().prop_map(Condition::Gte),
        1 => any::<bool>().prop_map(Condition::Exists),
        1 => any::<bool>().prop_map(Condition::Changed),
    ];
    let condition = (path, ops).prop_map(|(path, op)| Predicate::Field {
        path: path.into(),
        op,
    });
    let filter = condition.prop_recursive(2, 5, 3, |inner| {
        let group = prop::collection::vec(inner, 1..4);
        prop_oneof![
            2 => group.clone().prop_map(Predicate::AllOf),
            2 => group.clone().prop_map(Predicate::AnyOf),
            1 => group.prop_map(Predicate::NoneOf),
        ]
    });
    let operations = prop::collection::btree_set(select(Operation::ALL.to_vec()), 1..5);
    (
        prop::option::weighted(0.4, filter.clone()),
        prop::option::weighted(0.9, filter),
        prop::option::weighted(0.4, operations),
        any::<bool>(),
        any::<bool>(),
        prop::option::weighted(0.6, shards()),
    )
        .prop_map(
            |(row_filter, filter, operations, drop, pre_images, shard)| Clauses {
                row_filter: row_filter.map(Into::into),
                operations,
                filter: filter.map(Into::into),
                missing_image: if drop {
                    MissingImage::Drop
                } else {
                    MissingImage::Deliver
                },
                pre_images,
                shard,
            },
        )
}

fn shards() -> impl Strategy<Value = Shard> {
    (2_u16..5, 0_u16..5).prop_map(|(count, index)| Shard::new(index % count, count).unwrap())
}

fn in_shard(index: u16, count: u16) -> Clauses {
    Clauses {
        shard: Shard::new(index, count),
        ..Clauses::default()
    }
}

#[test]
fn an_event_visits_one_shard_of_each_count_whatever_else_they_require() {
    let mut index = FilterIndex::new();
    for number in 0..1_000_u16 {
        index.insert(number.into(), &in_shard(number, 1_000));
    }
    for number in 0..7_u16 {
        let filtered = Clauses {
            filter: Some(Predicate::NoneOf(vec![eq("a", 1)]).into()),
            ..in_shard(number, 7)
        };
        index.insert(2_000 + u32::from(number), &filtered);
        let of_tenant = Clauses {
            row_filter: Some(eq("tenant", "x").into()),
            ..in_shard(number, 7)
        };
        index.insert(3_000 + u32::from(number), &of_tenant);
    }
    let mut owners = std::collections::BTreeSet::new();
    for id in 0..100 {
        let event =
            doc! {"documentKey": {"region": "eu", "_id": id}, "fullDocument": {"tenant": "x"}};
        let hash = super::super::id_hash(&doc! {"_id": id}.to_vec().unwrap()).unwrap();
        let (of_many, of_seven) = ((hash % 1_000) as u32, (hash % 7) as u32);
        assert_eq!(
            matching_keys(&mut index, Operation::Insert, &event),
            [of_many, 2_000 + of_seven, 3_000 + of_seven]
        );
        assert_eq!(visited(&mut index, Operation::Insert, &event), 3);
        owners.insert(of_many);
    }
    assert!(owners.len() > 80, "{owners:?}");
    // Without a key, it is not known whose it is.
    assert_eq!(
        matching_keys(&mut index, Operation::Insert, &doc! {}).len(),
        1_007
    );
    for key in 0..4_000 {
        index.remove(key);
    }
    assert!(index.is_empty());
    assert!(index.partitions.iter().all(|it| it.1.is_empty()));
}

#[test]
fn events_about_no_document_belong_to_every_shard_and_unknown_ones_go_by_their_key() {
    let mut index = FilterIndex::new();
    for number in 0..5_u16 {
        index.insert(number.into(), &in_shard(number, 5));
    }
    for operation in [
        Operation::Drop,
        Operation::Rename,
        Operation::Create,
        Operation::Invalidate,
        Operation::EndOfTransaction,
        Operation::Other,
    ] {
        let event = doc! {"ns": {"db": "shop"}};
        assert_eq!(
            matching_keys(&mut index, operation, &event),
            [0, 1, 2, 3, 4]
        );
    }
    let event = doc! {"documentKey": {"_id": 7}};
    let owner = matching_keys(&mut index, Operation::Update, &event);
    assert_eq!(owner.len(), 1);
    for operation in [Operation::Delete, Operation::Replace, Operation::Other] {
        assert_eq!(matching_keys(&mut index, operation, &event), owner);
    }
}

/// The index looks up row filters before filters.
#[test]
fn an_event_of_one_tenant_visits_only_the_residuals_of_that_tenant() {
    let mut index = FilterIndex::new();
    // All tenants use the same filters, of every kind.
    let filters = [
        None,
        Some(eq("status", "open")),
        Some(Predicate::NoneOf(vec![eq("status", "x")])),
    ];
    for tenant in 0..1_000 {
        for (number, filter) in (0..).zip(&filters) {
            for (way, pre_images) in [(0, false), (1, true)] {
                let residual = Clauses {
                    row_filter: Some(eq("tenant", tenant).into()),
                    filter: filter.clone().map(Into::into),
                    pre_images,
                    ..Clauses::default()
                };
                index.insert(tenant * 6 + number * 2 + way, &residual);
            }
        }
    }
    let event = insert(doc! { "tenant": 7, "status": "open" });
    assert_eq!(
        matching_keys(&mut index, Operation::Insert, &event),
        (42..48).collect::<Vec<u32>>()
    );
    assert_eq!(visited(&mut index, Operation::Insert, &event), 6);
    // Without a document, or without a tenant in it, no residual is visited.
    for event in [
        doc! { "documentKey": { "_id": 7 } },
        insert(doc! { "status": "open" }),
    ] {
        for operation in [Operation::Update, Operation::Delete] {
            assert_eq!(visited(&mut index, operation, &event), 0);
        }
    }
    for key in 0..6_000 {
        index.remove(key);
    }
    assert!(
        index
            .partitions
            .iter()
            .all(|(_, partition)| partition.is_empty())
    );
}

#[test]
fn a_row_filter_on_several_values_is_found_by_each_and_matches_once() {
    let mut index = FilterIndex::new();
    let row_filter = Predicate::Field {
        path: "tenant".into(),
        op: Condition::In(vec!["a".into(), "b".into()]),
    };
    let residual = Clauses {
        row_filter: Some(row_filter.into()),
        ..Clauses::default()
    };
    index.insert(1, &residual);
    for (tenant, expected) in [
        (Bson::from("a"), vec![1]),
        (Bson::from("b"), vec![1]),
        (Bson::from(vec!["a", "b"]), vec![1]),
        (Bson::from("c"), vec![]),
        (Bson::Null, vec![]),
    ] {
        let event = insert(doc! { "tenant": tenant });
        assert_eq!(
            matching_keys(&mut index, Operation::Insert, &event),
            expected,
            "{event}"
        );
    }
}

fn events() -> impl Strategy<Value = (Operation, Document)> {
    let image = || prop::option::of(values());
    (
        select(vec![
            Operation::Insert,
            Operation::Update,
            Operation::Replace,
            Operation::Delete,
            Operation::Update,
            Operation::Drop,
        ]),
        prop::option::weighted(0.9, values()),
        image(),
        image(),
        any::<bool>(),
    )
        .prop_map(|(operation, id, before, after, described)| {
            let mut event = doc! {};
            if let Some(id) = id {
                event.insert("documentKey", doc! {"_id": id});
            }
            if let Some(before) = before {
                event.insert("fullDocumentBeforeChange", doc! {"a": before});
            }
            if let Some(after) = after {
                event.insert("fullDocument", doc! {"a": after});
            }
            if described {
                event.insert("updateDescription", doc! {"updatedFields": {"a.b": 1}});
            }
            (operation, event)
        })
}

proptest! {
    #[test]
    fn the_index_finds_the_same_matches_as_all_evaluators(
        steps in prop::collection::vec((0_u32..12, prop::option::weighted(0.8, residuals())), 1..40),
        events in prop::collection::vec(events(), 1..12),
    ) {
        let mut index = FilterIndex::new();
        let mut evaluators: HashMap<u32, Evaluator> = HashMap::new();
        for (key, residual) in &steps {
            match residual {
                Some(residual) => {
                    index.insert(*key, residual);
                    evaluators.insert(*key, Evaluator::new(residual));
                }
                None => {
                    index.remove(*key);
                    evaluators.remove(key);
                }
            }
        }
        prop_assert_eq!(index.len(), evaluators.len());
        for (operation, event) in &events {
            let event = event.to_vec().unwrap();
            let event_fields = EventFields::read(*operation, &event);
            let mut found = Vec::new();
            index.matches(&event_fields, |key, transition| found.push((key, transition)));
            found.sort_by_key(|(key, _)| *key);
            let mut expected: Vec<(u32, MatchTransition)> = evaluators
                .iter()
                .filter_map(|(key, evaluator)| Some((*key, evaluator.evaluate(&event_fields)?)))
                .collect();
            expected.sort_by_key(|(key, _)| *key);
            prop_assert_eq!(found, expected);
        }
    }
}
