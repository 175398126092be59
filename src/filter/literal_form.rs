//! Literals of filters, in the forms in which they arrive, and which values a literal may be.

use bson::{Bson, Document};

use super::extended_json::{bounded_from_text, from_value};
use super::problem::Problem;
use super::raw_bson::value_from_bytes;
use crate::model::quoted;

/// The keys of a database reference (DBRef), which is a plain document in Extended JSON, in the order that its
/// specification fixes.
const REFERENCE_KEYS: [&str; 3] = ["$ref", "$id", "$db"];

/// Whether the keys of a document have an order, which MongoDB compares.
#[derive(Clone, Copy, PartialEq)]
enum KeyOrder {
    Kept,
    Lost,
}

/// Reads a literal from protobuf.
///
/// Whole numbers that a double holds exactly become Int32 or Int64, other numbers Double; MongoDB
/// compares numbers across these types. As a protobuf map keeps no order, a document has at most one key, or
/// is a DBRef.
///
/// # Errors
/// A description of the problem and, inside nested values, its path.
pub(super) fn literal(value: prost_types::Value) -> Result<Bson, String> {
    from_value(value)
        .and_then(|value| checked(value, KeyOrder::Lost))
        .map_err(Problem::into_text)
}

/// Reads a literal from Extended JSON text that takes at most `max_bytes` as BSON, and returns it with what it takes.
///
/// # Errors
/// A description of the problem and its place.
pub(super) fn literal_from_text(text: &str, max_bytes: usize) -> Result<(Bson, usize), String> {
    let (value, bytes) = bounded_from_text(text, max_bytes)?;
    match checked(value, KeyOrder::Kept) {
        Ok(value) => Ok((value, bytes)),
        Err(problem) => Err(problem.into_text()),
    }
}

/// Reads a literal from BSON: the value of the only field of a document.
///
/// # Errors
/// A description of the problem and, inside nested values, its path.
pub(super) fn literal_from_bson(bytes: &[u8]) -> Result<Bson, String> {
    let value = value_from_bytes(bytes)?;
    checked(value, KeyOrder::Kept).map_err(Problem::into_text)
}

/// Returns the value if it may be a literal, on every kind of feed.
fn checked(value: Bson, keys: KeyOrder) -> Result<Bson, Problem> {
    let refused = match value {
        Bson::RegularExpression(_) => "is a regular expression; use the operator regex",
        Bson::Undefined => "is undefined, a deprecated type; use exists: false or eq: null",
        Bson::DbPointer(_) => "is a DBPointer, a deprecated type that filters do not support",
        Bson::Symbol(_) => "is a symbol, a deprecated type; use a string",
        Bson::JavaScriptCodeWithScope(_) => {
            "is code with scope, a deprecated type that filters do not support"
        }
        Bson::Array(items) => {
            let items = items.into_iter().enumerate().map(|(index, item)| {
                checked(item, keys).map_err(|problem| problem.below(index.to_string()))
            });
            return items.collect::<Result<_, _>>().map(Bson::Array);
        }
        Bson::Document(document) => return checked_document(document, keys),
        value => return Ok(value),
    };
    Err(refused.into())
}

fn checked_document(mut document: Document, keys: KeyOrder) -> Result<Bson, Problem> {
    let mut operators = document.keys().filter(|key| key.starts_with('$'));
    if let Some(key) = operators.find(|key| !REFERENCE_KEYS.contains(&key.as_str())) {
        return Err(unknown_wrapper(key).into());
    }
    let is_reference = REFERENCE_KEYS.iter().any(|key| document.contains_key(key));
    if is_reference {
        check_reference(&document)?;
    }
    if keys == KeyOrder::Lost && document.len() > 1 {
        let in_order = REFERENCE_KEYS
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), document.get(key)?.clone())));
        let reference: Document = in_order.collect();
        if reference.len() < document.len() {
            return Err(format!(
                "is a document with {} keys: MongoDB compares their order, which google.protobuf.Value does not \
                 keep; use compare with json or bson, or conditions on the paths of its fields",
                document.len()
            )
            .into());
        }
        document = reference;
    }
    let fields = document
        .into_iter()
        .map(|(key, value)| match checked(value, keys) {
            Ok(value) => Ok((key, value)),
            Err(problem) => Err(problem.below(key)),
        });
    fields.collect::<Result<_, _>>().map(Bson::Document)
}

/// MongoDB takes any other document with these keys for an operator in some places, and refuses it there.
fn check_reference(document: &Document) -> Result<(), String> {
    let is_text = |value: &Bson| matches!(value, Bson::String(_));
    let good = document.get("$ref").is_some_and(is_text)
        && document.contains_key("$id")
        && document.get("$db").is_none_or(is_text);
    if good {
        return Ok(());
    }
    Err(
        "is not a well-formed DBRef, which has a text as $ref, an $id, and a text as $db if that is there; write \
         {\"$ref\": \"customers\", \"$id\": 5}"
            .to_owned(),
    )
}

/// Describes an unknown `$` key. As a plain document, a mistyped wrapper would silently match nothing.
fn unknown_wrapper(key: &str) -> String {
    // The older form of a regular expression.
    if matches!(key, "$regex" | "$options") {
        return "is a regular expression; use the operator regex".into();
    }
    format!(
        "has the key {}, which is not a type of Extended JSON v2; use $oid, $date, \
         $numberLong, $numberDecimal or another of its types",
        quoted(key)
    )
}

#[cfg(test)]
mod tests;
