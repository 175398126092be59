//! Both evaluators of a filter agree: the events that MongoDB delivers through the pipeline of a
//! dedicated plan are those that the in-process evaluator passes from the shared plan, by filter
//! and row filter.
//!
//! Random documents are changed at random in a real database; random filters are then evaluated in
//! both ways on the same events. `WEIR_EVALUATOR_CASES` sets the number of filters (default 5,000).
//! Where that database is SecantusDB, which is not right in all, [`against_model`] does the same with
//! a model of MongoDB's matching.

mod against_model;
mod model;
mod near_values;
mod random;
mod streams;
mod three_valued;

use std::collections::BTreeSet;

use crate::support::Database;
use mongodb::bson::{Bson, Document, doc};
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use random::{Change, FilterCase, Scenario};
use streams::{Streams, name_of, operation_of};
use weir::filter::{Evaluator, EventFields, FilterIndex, MatchTransition, Predicate, Residual};
use weir::model::Operation;
use weir::pipeline::{Plan, View, Watch};

/// The number of filters per scenario.
const FILTERS_PER_SCENARIO: usize = 12;

/// The events that passed: the event's token, and the API's number of the match transition.
type Passed = BTreeSet<(String, i32)>;

fn passed(residual: &Residual, events: &[Document]) -> Passed {
    let evaluator = Evaluator::new(residual);
    let mut passed = Passed::new();
    for event in events {
        let bytes = event.to_vec().expect("an event is BSON");
        let event_fields = EventFields::read(operation_of(event), &bytes);
        if let Some(transition) = evaluator.evaluate(&event_fields) {
            passed.insert((name_of(event), transition.to_pb() as i32));
        }
    }
    passed
}

fn names(passed: &Passed) -> BTreeSet<&str> {
    passed.iter().map(|(name, _)| name.as_str()).collect()
}

async fn perform(collection: &mongodb::Collection<Document>, change: &Change) {
    // A change that MongoDB refuses (a path through a number, say) has no effect, which is fine.
    match change {
        Change::Insert(document) => drop(collection.insert_one(document).await),
        Change::Update(id, update) => {
            drop(
                collection
                    .update_one(doc! {"_id": id}, update.clone())
                    .await,
            );
        }
        Change::Replace(id, document) => {
            let mut replacement = document.clone();
            replacement.remove("_id");
            drop(collection.replace_one(doc! {"_id": id}, replacement).await);
        }
        Change::Delete(id) => drop(collection.delete_one(doc! {"_id": id}).await),
    }
}

async fn disagreement(database: &Database, scenario: &Scenario) -> Result<(), String> {
    let name = format!("c{:016x}", fastrand::u64(..));
    let streams = Streams::begin(database, &name, scenario.pre_images).await;
    let collection = database.collection(&name);
    for change in &scenario.changes {
        perform(&collection, change).await;
    }
    streams.end().await;

    let mut residuals = Vec::new();
    let mut shared: Option<Vec<Document>> = None;
    for case in &scenario.cases {
        let watch: Watch = case.watch(database.name(), &name, scenario.lookup, scenario.pre_images);
        let dedicated = streams.events(&Plan::dedicated(&watch)).await;
        if shared.is_none() {
            shared = Some(streams.events(&Plan::shared(&watch)).await);
        }
        let shared = shared.as_deref().unwrap_or_default();
        let residual = watch.shared_residual();
        let evaluated = passed(&residual, shared);

        let explain = |what: &str, theirs: &Passed, ours: &Passed| {
            let mut said = format!("{what}\n{case:?}\n");
            for event in shared {
                let name = name_of(event);
                let here = |passed: &Passed| {
                    let found = passed.iter().find(|(passed, _)| *passed == name);
                    found.map_or("-".into(), |(_, reported)| reported.to_string())
                };
                let mut shown = event.clone();
                for field in ["_id", "clusterTime", "collectionUUID", "wallTime", "ns"] {
                    shown.remove(field);
                }
                said += &format!("{} / {} {shown}\n", here(theirs), here(ours));
            }
            said
        };
        let delivered: Passed = dedicated
            .iter()
            .filter(|event| {
                let name = name_of(event);
                !case.is_beyond_a_pipeline(event) || evaluated.iter().any(|(it, _)| *it == name)
            })
            .map(|event| (name_of(event), 0))
            .collect();
        // A pipeline passes what it can't express.
        let exact = !case.uses_changed();
        if exact && names(&delivered) != names(&evaluated) {
            let what = "MongoDB / the evaluator differ in what passes:";
            return Err(explain(what, &delivered, &evaluated));
        }
        let beyond = watch.dedicated_residual();
        let rest = passed(&beyond, &dedicated);
        if names(&rest) != names(&evaluated) || (!beyond.passes_everything() && rest != evaluated) {
            let what = "the rest on a dedicated feed / the whole on a shared one differ:";
            return Err(explain(what, &rest, &evaluated));
        }
        residuals.push(residual);
    }
    index_disagreement(&shared.unwrap_or_default(), &residuals)
}

/// An index of residuals finds, for each event, those that pass it one by one.
fn index_disagreement(events: &[Document], residuals: &[Residual]) -> Result<(), String> {
    let mut index = FilterIndex::new();
    for (key, residual) in residuals.iter().enumerate() {
        index.insert(key, residual);
    }
    let one_by_one: Vec<Evaluator> = residuals.iter().map(|it| Evaluator::new(it)).collect();
    for event in events {
        let bytes = event.to_vec().expect("an event is BSON");
        let event_fields = EventFields::read(operation_of(event), &bytes);
        let mut found: Vec<(usize, MatchTransition)> = Vec::new();
        index.matches(&event_fields, |key, transition| {
            found.push((key, transition));
        });
        found.sort_by_key(|(key, _)| *key);
        let expected: Vec<(usize, MatchTransition)> = (0..)
            .zip(&one_by_one)
            .filter_map(|(key, evaluator)| Some((key, evaluator.evaluate(&event_fields)?)))
            .collect();
        if found != expected {
            return Err(format!(
                "the index and its evaluators differ on {event}: {found:?} and {expected:?}"
            ));
        }
    }
    Ok(())
}

#[test]
fn mongodb_delivers_what_the_evaluator_passes() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let database = runtime.block_on(Database::start());
    let cases = std::env::var("WEIR_EVALUATOR_CASES")
        .map_or(5_000, |cases| cases.parse().expect("a number of cases"));
    let mut runner = TestRunner::new(Config {
        cases: u32::div_ceil(cases, FILTERS_PER_SCENARIO as u32),
        failure_persistence: None,
        max_shrink_iters: 2_000,
        ..Config::default()
    });
    let result = runner.run(&random::scenarios(FILTERS_PER_SCENARIO), |scenario| {
        runtime
            .block_on(disagreement(&database, &scenario))
            .map_err(TestCaseError::fail)
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// The comparison is meaningful only if some events pass and others do not.
#[test]
fn random_filters_pass_some_events_and_not_others() {
    let mut runner = TestRunner::deterministic();
    let strategy = random::scenarios(FILTERS_PER_SCENARIO);
    let (mut passing, mut all) = (0_u32, 0_u32);
    for _ in 0..200 {
        let scenario = proptest::strategy::Strategy::new_tree(&strategy, &mut runner)
            .map(|tree| proptest::strategy::ValueTree::current(&tree))
            .expect("a scenario");
        for case in &scenario.cases {
            let watch = case.watch("d", "c", scenario.lookup, scenario.pre_images);
            let evaluator = Evaluator::new(&watch.shared_residual());
            for change in &scenario.changes {
                if let Change::Insert(document) = change {
                    let id = document.get("_id").cloned().unwrap_or(Bson::Null);
                    let event = doc! {"documentKey": {"_id": id}, "fullDocument": document};
                    let bytes = event.to_vec().expect("BSON");
                    let event_fields = EventFields::read(Operation::Insert, &bytes);
                    all += 1;
                    passing += u32::from(evaluator.evaluate(&event_fields).is_some());
                }
            }
        }
    }
    let share = f64::from(passing) / f64::from(all);
    assert!((0.1..0.9).contains(&share), "{share} of {all} pass");
}

impl FilterCase {
    /// Returns whether the row filter needs more from an event than a pipeline can evaluate: where
    /// an update shows only the pre-image, whether it touched a field of the filter.
    fn is_beyond_a_pipeline(&self, event: &Document) -> bool {
        let has = |image: &str| event.get_document(image).is_ok();
        let is_guarded = |guard: &Predicate| !guard.is_about_id_only();
        self.guard.as_ref().is_some_and(is_guarded)
            && operation_of(event) == Operation::Update
            && has("fullDocumentBeforeChange")
            && !has("fullDocument")
    }

    fn uses_changed(&self) -> bool {
        let guard = self.guard.as_ref();
        self.filter.uses_changed() || guard.is_some_and(Predicate::uses_changed)
    }

    fn watch(&self, database: &str, collection: &str, lookup: bool, pre_images: bool) -> Watch {
        let request = weir::pb::WatchRequest {
            database: database.into(),
            collections: vec![collection.into()],
            // The marker of the stream's end is an event of that kind.
            show_expanded_events: true,
            full_document: if lookup {
                weir::pb::FullDocument::UpdateLookup.into()
            } else {
                weir::pb::FullDocument::Default.into()
            },
            full_document_before_change: if pre_images {
                weir::pb::FullDocumentBeforeChange::WhenAvailable.into()
            } else {
                weir::pb::FullDocumentBeforeChange::Off.into()
            },
            ..weir::pb::WatchRequest::default()
        };
        let mut watch = Watch::from_request(request, &weir::pipeline::RequestLimits::default())
            .expect("a valid request");
        watch.operations = self.operations.clone();
        watch.missing_image = self.missing_image;
        watch.filter = Some(self.filter.clone().into());
        watch.restrict_to(&View {
            row_filter: self.guard.clone().map(Into::into),
            ..View::unrestricted()
        });
        watch
    }
}
