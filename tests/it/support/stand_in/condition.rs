//! The conditions of `$match`, as far as Weir's pipelines use them.

use std::cmp::Ordering;

use mongodb::bson::{Bson, Document};
use regex_automata::meta::Regex;

use super::ServerError;

/// The fields on which a condition holds before an event is enriched. MongoDB rewrites those on
/// `clusterTime` (the oplog's `ts`), `operationType`, `ns`, `documentKey` and `to` for the oplog, and moves
/// any that names no image before the stages that look up images, as that on the token, `_id`.
const FIELDS_OF_THE_OPLOG: [&str; 6] = [
    "clusterTime",
    "operationType",
    "ns",
    "documentKey",
    "to",
    "_id",
];

/// Splits a condition into the parts that hold before an event is enriched, and the rest.
pub(super) fn split(condition: &Document) -> (Vec<Document>, Vec<Document>) {
    let mut parts = Vec::new();
    flatten(condition, &mut parts);
    parts.into_iter().partition(is_of_the_oplog)
}

/// Lists the conditions whose conjunction a condition is.
fn flatten(condition: &Document, parts: &mut Vec<Document>) {
    for (key, value) in condition {
        match (key.as_str(), value) {
            ("$and", Bson::Array(all)) => {
                for condition in all.iter().filter_map(Bson::as_document) {
                    flatten(condition, parts);
                }
            }
            _ => {
                let mut part = Document::new();
                part.insert(key, value.clone());
                parts.push(part);
            }
        }
    }
}

fn is_of_the_oplog(condition: &Document) -> bool {
    condition.iter().all(|(key, value)| match value {
        Bson::Array(all) if key.starts_with('$') => all
            .iter()
            .filter_map(Bson::as_document)
            .all(is_of_the_oplog),
        _ => {
            let field = key.split('.').next().unwrap_or_default();
            FIELDS_OF_THE_OPLOG.contains(&field)
        }
    })
}

/// Returns whether a condition holds for an event.
///
/// # Errors
/// For an operator that the stand-in does not know.
pub(super) fn holds(condition: &Document, event: &Document) -> Result<bool, ServerError> {
    for (key, value) in condition {
        let alternatives = || {
            let all = value.as_array().map(Vec::as_slice).unwrap_or_default();
            all.iter().filter_map(Bson::as_document)
        };
        let mut any = false;
        let part = match key.as_str() {
            "$and" => {
                let mut all = true;
                for condition in alternatives() {
                    all &= holds(condition, event)?;
                }
                all
            }
            "$or" | "$nor" => {
                for condition in alternatives() {
                    any |= holds(condition, event)?;
                }
                any == (key == "$or")
            }
            key if key.starts_with('$') => return Err(unknown(key)),
            path => field_holds(path, value, event)?,
        };
        if !part {
            return Ok(false);
        }
    }
    Ok(true)
}

fn field_holds(path: &str, condition: &Bson, event: &Document) -> Result<bool, ServerError> {
    let names: Vec<&str> = path.split('.').collect();
    let mut values = Vec::new();
    collect(&Bson::Document(event.clone()), &names, &mut values);
    let operators = condition.as_document().filter(|document| {
        let first = document.keys().next();
        first.is_some_and(|key| key.starts_with('$'))
    });
    let Some(operators) = operators else {
        return compare(&values, "$eq", condition);
    };
    for (operator, operand) in operators {
        let holds = match operator.as_str() {
            "$ne" => !compare(&values, "$eq", operand)?,
            "$nin" => !compare(&values, "$in", operand)?,
            "$not" => !field_holds(path, operand, event)?,
            operator => compare(&values, operator, operand)?,
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Collects the values at a path; an array stands for itself and for its elements.
fn collect(value: &Bson, path: &[&str], values: &mut Vec<Bson>) {
    let Some((name, rest)) = path.split_first() else {
        values.push(value.clone());
        if let Bson::Array(elements) = value {
            values.extend(elements.iter().cloned());
        }
        return;
    };
    match value {
        Bson::Document(document) => {
            if let Some(value) = document.get(*name) {
                collect(value, rest, values);
            }
        }
        Bson::Array(elements) => {
            let element = name.parse().ok().and_then(|at: usize| elements.get(at));
            if let Some(element) = element {
                collect(element, rest, values);
            }
            for element in elements {
                if matches!(element, Bson::Document(_)) {
                    collect(element, path, values);
                }
            }
        }
        _ => {}
    }
}

fn compare(values: &[Bson], operator: &str, operand: &Bson) -> Result<bool, ServerError> {
    let ordered = |wanted: fn(Ordering) -> bool| {
        let mut orders = values.iter().filter_map(|value| order(value, operand));
        Ok(orders.any(wanted))
    };
    match operator {
        "$eq" => Ok(equals(values, operand)),
        "$in" => {
            let operands = operand.as_array().map(Vec::as_slice).unwrap_or_default();
            Ok(operands.iter().any(|operand| equals(values, operand)))
        }
        "$gt" => ordered(Ordering::is_gt),
        "$gte" => ordered(Ordering::is_ge),
        "$lt" => ordered(Ordering::is_lt),
        "$lte" => ordered(Ordering::is_le),
        "$exists" => Ok(values.is_empty() != operand.as_bool().unwrap_or(true)),
        "$regex" => {
            let (pattern, options) = match operand {
                Bson::RegularExpression(regex) => (regex.pattern.as_str(), regex.options.as_str()),
                Bson::String(pattern) => (pattern.as_str(), ""),
                _ => return Err(unknown("$regex")),
            };
            let flags = if options.is_empty() {
                String::new()
            } else {
                format!("(?{options})")
            };
            let regex = Regex::new(&format!("{flags}{pattern}"));
            let regex = regex.map_err(|_| {
                ServerError::new(51091)
                    .message("Regular expression is invalid: unmatched parentheses")
            })?;
            let mut texts = values.iter().filter_map(Bson::as_str);
            Ok(texts.any(|text| regex.is_match(text)))
        }
        operator => Err(unknown(operator)),
    }
}

fn equals(values: &[Bson], operand: &Bson) -> bool {
    if *operand == Bson::Null && values.is_empty() {
        return true;
    }
    let mut values = values.iter();
    values.any(|value| value == operand || order(value, operand) == Some(Ordering::Equal))
}

/// The order of two values of one kind; `None` for others.
fn order(left: &Bson, right: &Bson) -> Option<Ordering> {
    let number = |value: &Bson| match *value {
        Bson::Int32(number) => Some(f64::from(number)),
        Bson::Int64(number) => Some(number as f64),
        Bson::Double(number) => Some(number),
        _ => None,
    };
    if let (Some(left), Some(right)) = (number(left), number(right)) {
        return left.partial_cmp(&right);
    }
    match (left, right) {
        (Bson::String(left), Bson::String(right)) => Some(left.cmp(right)),
        (Bson::Boolean(left), Bson::Boolean(right)) => Some(left.cmp(right)),
        (Bson::Timestamp(left), Bson::Timestamp(right)) => Some(left.cmp(right)),
        (Bson::DateTime(left), Bson::DateTime(right)) => Some(left.cmp(right)),
        (Bson::ObjectId(left), Bson::ObjectId(right)) => Some(left.bytes().cmp(&right.bytes())),
        _ => None,
    }
}

fn unknown(operator: &str) -> ServerError {
    ServerError::new(2)
        .named("BadValue")
        .message(format!("unknown operator: {operator}"))
}
