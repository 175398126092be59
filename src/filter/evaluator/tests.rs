//! Truth tables, written by hand from MongoDB's documentation.

use bson::{Bson, Document, doc};

use super::*;
use crate::filter::{Condition, Predicate};

mod changed;
mod compact;
mod costly;
mod match_transition;

mod hostile;
mod paths;
mod row_filter;
mod values;

/// A residual that passes only certain matches.
fn residual(filter: Predicate) -> Clauses {
    Clauses {
        operations: None,
        filter: Some(filter.into()),
        missing_image: MissingImage::Drop,
        pre_images: false,
        ..Clauses::default()
    }
}

fn field(path: &str, op: Condition) -> Predicate {
    Predicate::Field {
        path: path.into(),
        op,
    }
}

fn bytes(document: &Document) -> Vec<u8> {
    document.to_vec().unwrap()
}

fn evaluate(residual: &Clauses, operation: Operation, event: &Document) -> Option<MatchTransition> {
    let event = bytes(event);
    Evaluator::new(residual).evaluate(&EventFields::read(operation, &event))
}

/// Returns whether the condition holds for an inserted document.
fn holds(document: &Document, path: &str, op: Condition) -> bool {
    let event = doc! {"fullDocument": document, "documentKey": {"_id": 1}};
    evaluate(&residual(field(path, op)), Operation::Insert, &event).is_some()
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse().unwrap())
}
