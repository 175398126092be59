//! The in-process evaluator, the index and the pipelines of dedicated plans agree with a model of MongoDB's matching
//! ([`model`](super::model)), on random events that no database has to make.
//!
//! `WEIR_MODEL_CASES` sets the number of cases, each of which is one filter on one event (default 100,000).

use std::cell::Cell;
use std::collections::BTreeSet;

use mongodb::bson::{Bson, Document, doc};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::test_runner::{Config, RngAlgorithm, TestRunner};
use weir::filter::{Clauses, Condition, Evaluator, EventFields, Predicate, canonical_bytes};
use weir::model::{MissingImage, Operation};
use weir::pipeline::Plan;
use weir::raw::Elements;

use super::model::order::compare;
use super::model::query::{Model, OPERATORS};
use super::near_values::{FAMILIES, is_literal};
use super::random::{FilterCase, groups};
use super::streams::operation_of;
use super::{index_disagreement, three_valued};

/// The number of events and filters of a scenario, on average.
const EVENTS: usize = 3;
const FILTERS: usize = 6;

/// Events of one collection, and the filters to evaluate on each.
#[derive(Clone)]
struct Scenario {
    lookup: bool,
    pre_images: bool,
    events: Vec<Document>,
    cases: Vec<FilterCase>,
}

/// In few lines, so that a failure is readable.
impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "lookup: {}, pre-images: {}",
            self.lookup, self.pre_images
        )?;
        for event in &self.events {
            writeln!(f, "{event}")?;
        }
        for case in &self.cases {
            writeln!(f, "{case:?}")?;
        }
        Ok(())
    }
}

/// How many filters and cases there were, and how many of these passed.
#[derive(Default)]
struct Count {
    filters: Cell<u32>,
    cases: Cell<u32>,
    passing: Cell<u32>,
}

fn disagreement(model: &Model, scenario: &Scenario, count: &Count) -> Result<(), String> {
    let events: Vec<(Operation, Vec<u8>)> = scenario
        .events
        .iter()
        .map(|event| (operation_of(event), event.to_vec().expect("BSON")))
        .collect();
    let mut residuals = Vec::new();
    for case in &scenario.cases {
        let watch = case.watch("d", "c", scenario.lookup, scenario.pre_images);
        let stages = Plan::dedicated(&watch).stages();
        let shared = watch.shared_residual();
        let evaluator = Evaluator::new(&shared);
        let rest = watch.dedicated_residual();
        let rest_evaluator = Evaluator::new(&rest);
        let is_exact = !case.uses_changed();
        for (event, (operation, bytes)) in scenario.events.iter().zip(&events) {
            let fields = EventFields::read(*operation, bytes);
            let ours = evaluator.evaluate(&fields);
            let theirs = three_valued::passes(model, case, scenario.pre_images, event);
            let delivered = stages.iter().all(|stage| {
                let query = stage.get_document("$match").expect("no other stage");
                model.matches(query, event)
            });
            let on_top = rest_evaluator.evaluate(&fields).filter(|_| delivered);
            let fail = |problem: &str| {
                let plan: Vec<String> = stages.iter().map(ToString::to_string).collect();
                Err(format!(
                    "{problem}\nevent: {event}\nfilter: {case:?}\nthe evaluator: {ours:?}, the model: {theirs:?}\n\
                     the model of MongoDB delivers it by the plan: {delivered}, and then passes: {on_top:?}\n\
                     the plan: {}",
                    plan.join(", ")
                ))
            };
            if ours != theirs {
                return fail("the evaluator and the model differ");
            }
            if ours.is_some() && !delivered {
                return fail("the plan loses an event");
            }
            if is_exact && delivered && ours.is_none() && !case.is_beyond_a_pipeline(event) {
                return fail("the plan delivers too much");
            }
            if on_top.is_some() != ours.is_some()
                || (!rest.passes_everything() && on_top.is_some() && on_top != ours)
            {
                return fail("the rest on a dedicated feed and the whole on a shared one differ");
            }
            count.cases.set(count.cases.get() + 1);
            let passing = count.passing.get() + u32::from(ours.is_some());
            count.passing.set(passing);
        }
        count.filters.set(count.filters.get() + 1);
        residuals.push(shared);
    }
    index_disagreement(&scenario.events, &residuals)
}

#[test]
fn the_evaluators_agree_with_a_model_of_mongodb() {
    let cases: u32 = std::env::var("WEIR_MODEL_CASES")
        .map_or(100_000, |cases| cases.parse().expect("a number of cases"));
    let (model, count) = (Model::default(), Count::default());
    while count.cases.get() < cases {
        let missing = cases - count.cases.get();
        let mut runner = TestRunner::new(Config {
            cases: missing.div_ceil((EVENTS * FILTERS) as u32),
            failure_persistence: None,
            max_shrink_iters: 20_000,
            // Unoptimized, the other one takes a quarter of the time.
            rng_algorithm: RngAlgorithm::XorShift,
            ..Config::default()
        });
        let result = runner.run(&scenarios(), |scenario| {
            disagreement(&model, &scenario, &count).map_err(TestCaseError::fail)
        });
        if let Err(failure) = result {
            panic!("{failure}");
        }
    }
    if cases >= 20_000 {
        check_coverage(&model, &count);
    }
}

/// The comparison is meaningful only if some events pass and others do not, and all operators have both.
fn check_coverage(model: &Model, count: &Count) {
    let share = f64::from(count.passing.get()) / f64::from(count.cases.get());
    println!(
        "{} filters, {} cases, of which {share:.2} passed",
        count.filters.get(),
        count.cases.get()
    );
    assert!((0.1..0.9).contains(&share), "{share} pass");
    for (operator, [failed, passed]) in OPERATORS.iter().zip(model.counts()) {
        println!("{operator}: {failed} failed, {passed} passed");
        assert!(failed.min(passed) >= 100, "{operator}: {failed}, {passed}");
    }
}

/// By itself and inside of a document and an array, where other parts of the code compare.
#[test]
fn every_value_compares_with_every_literal_as_in_the_model() {
    let values: Vec<&Bson> = FAMILIES.iter().flatten().collect();
    let types: BTreeSet<u8> = values.iter().map(|it| it.element_type() as u8).collect();
    assert_eq!(types.len(), 21, "values of every type");
    let model = Model::default();
    let wrappers: [fn(&Bson) -> Bson; 3] = [
        Bson::clone,
        |value| Bson::Document(doc! {"x": 1, "y": value}),
        |value| Bson::Array(vec![value.clone(), Bson::Int32(1)]),
    ];
    for wrap in wrappers {
        let documents: Vec<Document> = values.iter().map(|it| doc! {"a": wrap(it)}).collect();
        let events: Vec<Vec<u8>> = documents
            .iter()
            .map(|it| doc! {"fullDocument": it}.to_vec().expect("BSON"))
            .collect();
        for literal in values.iter().filter(|it| is_literal(it)) {
            let literal = wrap(literal);
            let conditions = [
                ("$eq", Condition::Eq(literal.clone())),
                ("$gt", Condition::Gt(literal.clone())),
                ("$gte", Condition::Gte(literal.clone())),
                ("$lt", Condition::Lt(literal.clone())),
                ("$lte", Condition::Lte(literal.clone())),
            ];
            for (operator, op) in conditions {
                let evaluator = Evaluator::new(&Clauses {
                    filter: Some(field("a", op).into()),
                    ..Clauses::default()
                });
                let query = doc! {"a": {operator: &literal}};
                for (document, event) in documents.iter().zip(&events) {
                    let ours = evaluator.evaluate(&EventFields::read(Operation::Insert, event));
                    let theirs = model.matches(&query, document);
                    assert_eq!(ours.is_some(), theirs, "{query} on {document}");
                }
            }
        }
    }
}

/// The form decides the shard of an `_id`.
#[test]
fn values_that_are_equal_in_the_model_have_one_canonical_form() {
    let wrappers: [fn(&Bson) -> Bson; 2] =
        [Bson::clone, |value| Bson::Document(doc! {"x": [value]})];
    for wrap in wrappers {
        let form = |value: &Bson| {
            let bytes = doc! {"": value}.to_vec().expect("BSON");
            let mut elements = Elements::new(&bytes).expect("BSON");
            let element = elements.next().expect("a field").expect("BSON");
            canonical_bytes(&element)
        };
        let values: Vec<(Bson, Vec<u8>)> = FAMILIES
            .iter()
            .flatten()
            .map(|value| (wrap(value), form(&wrap(value))))
            .collect();
        for (left, left_form) in &values {
            for (right, right_form) in &values {
                let are_equal = compare(left, right).is_eq();
                assert_eq!(left_form == right_form, are_equal, "{left} and {right}");
            }
        }
    }
}

fn field(path: &str, op: Condition) -> Predicate {
    Predicate::Field {
        path: path.to_owned(),
        op,
    }
}

fn scenarios() -> impl Strategy<Value = Scenario> {
    let families = subsequence((0..FAMILIES.len()).collect::<Vec<_>>(), 1..=3);
    (any::<bool>(), any::<bool>(), families)
        .prop_flat_map(|(lookup, pre_images, families)| {
            let families = families.iter().flat_map(|it| FAMILIES[*it].clone());
            // Texts for patterns.
            let values: Vec<Bson> = families.chain(["x", "y\n"].map(Bson::from)).collect();
            let events = prop::collection::vec(events(&values, lookup, pre_images), 1..2 * EVENTS);
            (Just((lookup, pre_images, values)), events)
        })
        .prop_flat_map(|((lookup, pre_images, values), events)| {
            let cases = prop::collection::vec(filter_cases(&values, &events), 1..2 * FILTERS);
            (Just((lookup, pre_images, events)), cases)
        })
        .prop_map(|((lookup, pre_images, events), cases)| Scenario {
            lookup,
            pre_images,
            events,
            cases,
        })
}

/// One of these values, or an array or a document of some.
fn nested(values: Vec<Bson>) -> BoxedStrategy<Bson> {
    select(values)
        .prop_recursive(3, 8, 3, |inner| {
            prop_oneof![
                2 => prop::collection::vec(inner.clone(), 0..4).prop_map(Bson::Array),
                1 => prop::collection::vec((select(vec!["a", "b", "0", "1", "", "a.b"]), inner), 0..3)
                    .prop_map(|fields| Bson::Document(fields_of(fields))),
            ]
        })
        .boxed()
}

fn fields_of(fields: Vec<(&'static str, Bson)>) -> Document {
    let fields = fields.into_iter();
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn events(values: &[Bson], lookup: bool, pre_images: bool) -> BoxedStrategy<Document> {
    let document = || {
        let fields = (select(vec!["a", "a", "b", "c"]), nested(values.to_vec()));
        prop::collection::vec(fields, 0..6).prop_map(fields_of)
    };
    let id = nested(values.to_vec()).prop_map(|value| match value {
        // MongoDB stores none of these as an `_id`.
        Bson::Array(_) | Bson::Undefined | Bson::RegularExpression(_) => {
            Bson::Document(doc! {"a": value})
        }
        value => value,
    });
    let operation = prop_oneof![
        3 => Just(Operation::Insert),
        4 => Just(Operation::Update),
        1 => Just(Operation::Replace),
        2 => Just(Operation::Delete),
    ];
    let maybe = || prop::option::weighted(0.8, document());
    (operation, id, document(), maybe(), maybe(), descriptions())
        .prop_map(
            move |(operation, id, new, looked_up, before, description)| {
                let with_id = |document: Document| {
                    let mut whole = doc! {"_id": id.clone()};
                    whole.extend(document);
                    whole
                };
                let or_null = |document: Option<Document>| {
                    document.map_or(Bson::Null, |document| Bson::Document(with_id(document)))
                };
                let mut event = doc! {
                    "operationType": operation.name(),
                    "ns": {"db": "d", "coll": "c"},
                    "documentKey": {"_id": id.clone()},
                };
                match operation {
                    Operation::Insert | Operation::Replace => {
                        event.insert("fullDocument", with_id(new));
                    }
                    // A look-up may find nothing.
                    Operation::Update if lookup => {
                        event.insert("fullDocument", or_null(looked_up));
                    }
                    _ => {}
                }
                if pre_images && operation != Operation::Insert {
                    event.insert("fullDocumentBeforeChange", or_null(before));
                }
                if operation == Operation::Update {
                    event.insert("updateDescription", description);
                }
                event
            },
        )
        .boxed()
}

/// Paths of documents, as conditions and update descriptions name them.
fn paths() -> impl Strategy<Value = &'static str> {
    select(vec![
        "a", "a", "a", "a", "b", "b", "c", "a.a", "a.b", "b.a", "a.0", "a.1", "a.0.b", "a.b.0",
        "a.0.0", "a.1.0", "a.b.a", "a.0.b.1", "a.01",
    ])
}

fn descriptions() -> impl Strategy<Value = Bson> {
    let some = |most| prop::collection::vec(paths(), 0..most);
    // Of how many dots a name has, only `disambiguatedPaths` tells.
    let disambiguated = prop::collection::vec((paths(), 0..3_usize), 0..2);
    let description = (some(3), some(2), some(2), prop::option::of(disambiguated)).prop_map(
        |(updated, removed, truncated, disambiguated)| {
            let updated: Document = updated
                .iter()
                .map(|it| ((*it).to_owned(), 1.into()))
                .collect();
            let truncated = truncated.iter().map(|it| doc! {"field": *it, "newSize": 1});
            let truncated: Vec<Document> = truncated.collect();
            let mut description = doc! {
                "updatedFields": &updated,
                "removedFields": &removed,
                "truncatedArrays": &truncated,
            };
            if let Some(paths) = disambiguated {
                let mut listed = Document::new();
                for (path, dots) in paths {
                    let is_changed = updated.contains_key(path)
                        || removed.contains(&path)
                        || truncated
                            .iter()
                            .any(|it| it.get_str("field").is_ok_and(|it| it == path));
                    // Every listed path was changed.
                    if is_changed {
                        listed.insert(path, components(path, dots));
                    }
                }
                description.insert("disambiguatedPaths", listed);
            }
            Bson::Document(description)
        },
    );
    prop_oneof![12 => description, 1 => Just(Bson::Null)]
}

/// The components of a path whose first name has as many dots.
fn components(path: &str, dots: usize) -> Vec<Bson> {
    let parts: Vec<&str> = path.split('.').collect();
    let (name, rest) = parts.split_at((dots + 1).min(parts.len()));
    let rest = rest.iter().map(|part| match part.parse::<i32>() {
        Ok(index) if index.to_string() == **part => Bson::Int32(index),
        _ => Bson::from(*part),
    });
    [Bson::from(name.join("."))]
        .into_iter()
        .chain(rest)
        .collect()
}

fn filter_cases(values: &[Bson], events: &[Document]) -> impl Strategy<Value = FilterCase> + use<> {
    let conditions = conditions(values, events);
    let filters = groups(conditions.clone());
    let guards = prop::option::weighted(0.25, groups(conditions));
    let operations = prop::collection::btree_set(select(Operation::DOCUMENT.to_vec()), 1..4);
    let operations = prop::option::weighted(0.2, operations);
    let missing_image = select(vec![MissingImage::Deliver, MissingImage::Drop]);
    (guards, filters, operations, missing_image).prop_map(
        |(guard, filter, operations, missing_image)| FilterCase {
            guard,
            filter,
            operations,
            missing_image,
        },
    )
}

fn conditions(values: &[Bson], events: &[Document]) -> BoxedStrategy<Predicate> {
    let simple: Vec<Bson> = values.iter().filter(|it| is_literal(it)).cloned().collect();
    // Those in the events make equal ones of what is large.
    let mut stored = vec![Bson::Null];
    for event in events {
        for image in ["fullDocument", "fullDocumentBeforeChange", "documentKey"] {
            if let Some(image) = event.get(image) {
                push_parts(image, &mut stored);
            }
        }
    }
    stored.retain(is_literal);
    let literals = prop_oneof![
        4 => select(stored),
        3 => select(simple.clone()),
        1 => nested(simple),
    ];
    let list = || prop::collection::vec(literals.clone(), 1..8);
    let op = prop_oneof![
        5 => literals.clone().prop_map(Condition::Eq),
        1 => literals.clone().prop_map(Condition::Ne),
        2 => literals.clone().prop_map(Condition::Gt),
        2 => literals.clone().prop_map(Condition::Gte),
        2 => literals.clone().prop_map(Condition::Lt),
        2 => literals.clone().prop_map(Condition::Lte),
        3 => list().prop_map(Condition::In),
        1 => list().prop_map(Condition::NotIn),
        1 => any::<bool>().prop_map(Condition::Exists),
        1 => select(vec!["", "x", "y\n"]).prop_map(|text| Condition::Prefix(text.into())),
        1 => (select(vec!["^x", "y", "x|é", "^.y$", "y$"]), select(vec!["", "i", "m", "s"]))
            .prop_map(|(pattern, options)| Condition::Regex {
                pattern: pattern.into(),
                options: options.into(),
            }),
        2 => any::<bool>().prop_map(Condition::Changed),
    ];
    let path = prop_oneof![
        6 => paths(),
        1 => select(vec!["_id", "_id", "_id.a", "_id.a.b", "_id.a.0"]),
    ];
    (path, op).prop_map(|(path, op)| field(path, op)).boxed()
}

/// Appends the value and all within it.
fn push_parts(value: &Bson, parts: &mut Vec<Bson>) {
    parts.push(value.clone());
    match value {
        Bson::Array(values) => values.iter().for_each(|it| push_parts(it, parts)),
        Bson::Document(document) => document.values().for_each(|it| push_parts(it, parts)),
        _ => {}
    }
}
