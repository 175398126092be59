//! Whether a document matches a query.
//!
//! MongoDB's source: `MatchesSingleElementEvaluator` in src/mongo/db/exec/matcher/matcher_single_element_match.cpp tests one
//! value (before 8.1 in src/mongo/db/matcher/expression_leaf.cpp), and `MatchExpressionEvaluator::visitPathExpression` in
//! src/mongo/db/exec/matcher/matcher.cpp asks whether any value at the path passes. Of
//! src/mongo/db/matcher/expression_parser.cpp: `$ne`, `$nin` and `{$exists: false}` are negations of the whole condition.

use std::cell::Cell;
use std::cmp::Ordering;

use mongodb::bson::{Bson, Document};

use super::number::Exact;
use super::order::{canonical_type, compare};
use super::path::values_at;
use super::pattern;

/// The operators that the model knows.
pub const OPERATORS: [&str; 10] = [
    "$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$regex",
];

/// MongoDB's matching, which counts what it has tested.
#[derive(Default)]
pub struct Model {
    counts: Cell<[[u64; 2]; OPERATORS.len()]>,
}

impl Model {
    /// Returns whether all conditions of the query hold.
    pub fn matches(&self, query: &Document, document: &Document) -> bool {
        query.iter().all(|(key, value)| match key.as_str() {
            "$and" => parts(value).all(|part| self.matches(part, document)),
            "$or" => parts(value).any(|part| self.matches(part, document)),
            "$nor" => !parts(value).any(|part| self.matches(part, document)),
            path => {
                let conditions = value.as_document().expect("an operator");
                conditions
                    .iter()
                    .all(|(operator, literal)| self.holds(document, path, operator, literal))
            }
        })
    }

    fn holds(&self, document: &Document, path: &str, operator: &str, literal: &Bson) -> bool {
        let any = |passes: fn(Option<&Bson>, &str, &Bson) -> bool| {
            let values = values_at(document, path);
            values.into_iter().any(|value| {
                let passes = passes(value, operator, literal);
                self.count(operator, passes);
                passes
            })
        };
        match operator {
            "$eq" | "$gt" | "$gte" | "$lt" | "$lte" => any(compares),
            "$ne" => !any(|value, _, literal| compares(value, "$eq", literal)),
            "$in" => any(is_in),
            "$nin" => !any(is_in),
            "$exists" => {
                let is_there = any(|value, _, _| value.is_some());
                is_there == (*literal == Bson::Boolean(true))
            }
            "$regex" => any(|value, _, literal| matches_pattern(value, literal)),
            _ => panic!("the model does not know {operator}"),
        }
    }

    fn count(&self, operator: &str, passes: bool) {
        let place = OPERATORS.iter().position(|it| *it == operator);
        let mut counts = self.counts.get();
        counts[place.expect("a known operator")][usize::from(passes)] += 1;
        self.counts.set(counts);
    }

    /// Returns for each operator of [`OPERATORS`] how many values failed, and how many passed.
    pub fn counts(&self) -> [[u64; 2]; OPERATORS.len()] {
        self.counts.get()
    }
}

fn parts(value: &Bson) -> impl Iterator<Item = &Document> {
    let parts = value.as_array().expect("a list of conditions");
    parts
        .iter()
        .map(|part| part.as_document().expect("a condition"))
}

/// `evaluateComparisonExpressionSingleElement`, for the operators `$eq`, `$gt`, `$gte`, `$lt` and `$lte`.
fn compares(value: Option<&Bson>, operator: &str, literal: &Bson) -> bool {
    let includes_equal = matches!(operator, "$eq" | "$gte" | "$lte");
    // Where nothing is, the type has the place of undefined.
    let place = value.map_or(0, canonical_type);
    if place != canonical_type(literal) {
        return match literal {
            // Since 8.0 undefined is not null.
            Bson::Null => value.is_none() && includes_equal,
            Bson::MinKey => matches!(operator, "$gt" | "$gte"),
            Bson::MaxKey => matches!(operator, "$lt" | "$lte"),
            _ => false,
        };
    }
    let value = value.expect("no literal has the place of undefined");
    if operator != "$eq" {
        let is_nan = |it| Exact::of(it) == Some(Exact::Nan);
        match (is_nan(value), is_nan(literal)) {
            (false, false) => {}
            (true, true) => return includes_equal,
            _ => return false,
        }
    }
    match compare(value, literal) {
        Ordering::Equal => includes_equal,
        Ordering::Less => matches!(operator, "$lt" | "$lte"),
        Ordering::Greater => matches!(operator, "$gt" | "$gte"),
    }
}

/// The visit of an `InMatchExpression`, and `InListData::contains` in src/mongo/db/matcher/in_list_data.h.
fn is_in(value: Option<&Bson>, _: &str, list: &Bson) -> bool {
    let list = list.as_array().expect("a list of values");
    list.iter().any(|literal| match value {
        None => *literal == Bson::Null,
        Some(value) => compare(value, literal).is_eq(),
    })
}

/// The visit of a `RegexMatchExpression`.
fn matches_pattern(value: Option<&Bson>, literal: &Bson) -> bool {
    let Bson::RegularExpression(regex) = literal else {
        panic!("{literal} is no pattern");
    };
    match value {
        Some(Bson::String(text) | Bson::Symbol(text)) => {
            pattern::is_match(regex.pattern.as_str(), regex.options.as_str(), text)
        }
        Some(Bson::RegularExpression(stored)) => {
            stored.pattern.as_str() == regex.pattern.as_str()
                && stored.options.as_str() == regex.options.as_str()
        }
        _ => false,
    }
}
