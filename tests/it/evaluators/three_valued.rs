//! A model of what passes a watch, from docs/filters.md: MongoDB's matching where the event has the document, and Kleene's
//! three-valued logic where it has not.

use mongodb::bson::{Bson, Document, Regex, doc};
use weir::filter::{Condition, MatchTransition, Predicate};
use weir::model::{MissingImage, Operation};

use super::model::query::Model;
use super::random::FilterCase;
use super::streams::operation_of;

/// In this order "all of" is the least of its parts and "any of" the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Truth {
    False,
    Unknown,
    True,
}

use Truth::{False, True, Unknown};

impl Truth {
    fn not(self) -> Truth {
        match self {
            False => True,
            Unknown => Unknown,
            True => False,
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Truth {
        if holds { True } else { False }
    }
}

#[test]
fn groups_follow_kleenes_truth_tables() {
    let model = Model::default();
    // Without a document, only the key is known.
    let event = doc! {"operationType": "update", "documentKey": {"_id": 1}};
    let of = |truth: Truth| Predicate::Field {
        path: if truth == Unknown { "a" } else { "_id" }.into(),
        op: Condition::Eq(if truth == True { 1 } else { 2 }.into()),
    };
    let rows = [
        // left, right, all of, any of, none of
        (True, True, True, True, False),
        (True, Unknown, Unknown, True, False),
        (True, False, False, True, False),
        (Unknown, Unknown, Unknown, Unknown, Unknown),
        (Unknown, False, False, Unknown, Unknown),
        (False, False, False, False, True),
    ];
    for (left, right, all, any, none) in rows {
        for parts in [[left, right], [right, left]] {
            let parts = || parts.map(of).to_vec();
            let holds = |predicate| truth(&model, &predicate, &event, None);
            assert_eq!(holds(Predicate::AllOf(parts())), all, "{left:?}, {right:?}");
            assert_eq!(holds(Predicate::AnyOf(parts())), any, "{left:?}, {right:?}");
            assert_eq!(
                holds(Predicate::NoneOf(parts())),
                none,
                "{left:?}, {right:?}"
            );
        }
    }
}

/// Returns the transition of an event that passes the filter and the row filter, `None` for one that does not pass.
pub fn passes(
    model: &Model,
    case: &FilterCase,
    has_pre_images: bool,
    event: &Document,
) -> Option<MatchTransition> {
    let operation = operation_of(event);
    let selected = case
        .operations
        .as_ref()
        .is_none_or(|it| it.contains(&operation));
    let admitted = case
        .guard
        .as_ref()
        .is_none_or(|it| is_admitted(model, it, event));
    if !selected || !admitted {
        return None;
    }
    let (before, after) = images(event);
    let truth = |image| truth(model, &case.filter, event, image);
    let delivers = |truth| match truth {
        True => true,
        Unknown => case.missing_image == MissingImage::Deliver,
        False => false,
    };
    if !has_pre_images {
        return delivers(truth(after)).then_some(MatchTransition::Unspecified);
    }
    let matched = match operation {
        Operation::Insert => False,
        _ => truth(before),
    };
    let matches = match operation {
        Operation::Delete => False,
        _ => truth(after),
    };
    let passes = match operation {
        Operation::Delete => delivers(matched),
        // An unknown document before the change is not asked for: the one after it decides.
        _ => delivers(matches) || (before.is_some() && delivers(matched)),
    };
    passes.then_some(match (matched, matches) {
        (False, True) => MatchTransition::Entered,
        (True, True) => MatchTransition::Stayed,
        (True, False) => MatchTransition::Left,
        _ => MatchTransition::Unspecified,
    })
}

/// Returns whether a row filter certainly holds for all that an event shows.
fn is_admitted(model: &Model, guard: &Predicate, event: &Document) -> bool {
    let (before, after) = images(event);
    let certainly = |image| truth(model, guard, event, image) == True;
    if before.is_none() && after.is_none() {
        return certainly(None);
    }
    let images = [before, after];
    let all_hold = images
        .into_iter()
        .flatten()
        .all(|image| certainly(Some(image)));
    // An update description shows parts of a document that is not there itself: it must be the one before in all that the
    // row filter looks at.
    let is_same = operation_of(event) == Operation::Delete
        || guard.paths().iter().all(|path| {
            let field = path.split('.').next().unwrap_or_default();
            field == "_id" || changed(event, field) == False
        });
    all_hold && (after.is_some() || is_same)
}

fn images(event: &Document) -> (Option<&Document>, Option<&Document>) {
    let image = |name: &str| event.get_document(name).ok();
    (image("fullDocumentBeforeChange"), image("fullDocument"))
}

/// Returns whether a predicate holds for this document of the event, or for the event if it has none.
fn truth(
    model: &Model,
    predicate: &Predicate,
    event: &Document,
    image: Option<&Document>,
) -> Truth {
    let all = |parts: &[Predicate]| {
        let parts = parts.iter().map(|part| truth(model, part, event, image));
        parts.collect::<Vec<_>>()
    };
    match predicate {
        Predicate::AllOf(parts) => all(parts).into_iter().min().expect("a part"),
        Predicate::AnyOf(parts) => all(parts).into_iter().max().expect("a part"),
        Predicate::NoneOf(parts) => all(parts).into_iter().max().expect("a part").not(),
        Predicate::Field {
            path,
            op: Condition::Changed(wanted),
        } => match changed(event, path) {
            touched if *wanted => touched,
            touched => touched.not(),
        },
        Predicate::Field { path, op } => {
            // The key is known of every event, and is the same before and after.
            let is_in_key = path == "_id" || path.starts_with("_id.");
            let document = if is_in_key {
                event.get_document("documentKey").ok()
            } else {
                image
            };
            match document {
                Some(document) => model.matches(&doc! {path: query(op)}, document).into(),
                None => Unknown,
            }
        }
    }
}

/// The operator of MongoDB's query language.
fn query(op: &Condition) -> Document {
    let regex = |pattern: &str, options: &str| Regex {
        pattern: pattern.try_into().expect("no NUL"),
        options: options.try_into().expect("no NUL"),
    };
    match op {
        Condition::Eq(value) => doc! {"$eq": value},
        Condition::Ne(value) => doc! {"$ne": value},
        Condition::Gt(value) => doc! {"$gt": value},
        Condition::Gte(value) => doc! {"$gte": value},
        Condition::Lt(value) => doc! {"$lt": value},
        Condition::Lte(value) => doc! {"$lte": value},
        Condition::In(values) => doc! {"$in": values},
        Condition::NotIn(values) => doc! {"$nin": values},
        Condition::Exists(exists) => doc! {"$exists": *exists},
        // The prefixes of the tests are letters and newlines, which mean themselves in a pattern.
        Condition::Prefix(text) => doc! {"$regex": regex(&format!("^{text}"), "")},
        Condition::Regex { pattern, options } => doc! {"$regex": regex(pattern, options)},
        Condition::Changed(_) => panic!("changed is no operator"),
    }
}

/// Returns whether the change touched a path, one above it or one below it.
fn changed(event: &Document, path: &str) -> Truth {
    match operation_of(event) {
        Operation::Replace => return True,
        Operation::Update => {}
        _ => return False,
    }
    let Ok(description) = event.get_document("updateDescription") else {
        return Unknown;
    };
    let wanted: Vec<&str> = path.split('.').collect();
    let overlaps = |touched: Vec<String>| {
        let mut pairs = touched.iter().zip(&wanted);
        pairs.all(|(left, right)| left == right)
    };
    touched_paths(description).into_iter().any(overlaps).into()
}

/// The components of each path that an update description names.
fn touched_paths(description: &Document) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    if let Ok(updated) = description.get_document("updatedFields") {
        paths.extend(updated.keys().cloned());
    }
    if let Ok(removed) = description.get_array("removedFields") {
        paths.extend(
            removed
                .iter()
                .filter_map(|it| it.as_str().map(str::to_owned)),
        );
    }
    if let Ok(truncated) = description.get_array("truncatedArrays") {
        let fields = truncated
            .iter()
            .filter_map(|it| it.as_document()?.get_str("field").ok());
        paths.extend(fields.map(str::to_owned));
    }
    let disambiguated = description.get_document("disambiguatedPaths");
    let components = |path: String| {
        let listed = disambiguated
            .as_ref()
            .ok()
            .and_then(|it| it.get_array(&path).ok());
        match listed {
            Some(parts) => parts.iter().map(component).collect(),
            None => path.split('.').map(str::to_owned).collect(),
        }
    };
    paths.into_iter().map(components).collect()
}

fn component(part: &Bson) -> String {
    match part {
        Bson::String(name) => name.clone(),
        index => index.to_string(),
    }
}
