//! Reads a stage from BSON, with the same bounds as from JSON.

use bson::raw::{RawBsonRef, RawDocument};
use bson::{Bson, Document};

use super::rules::JAVASCRIPT;
use crate::filter::extended_json::{MAX_NESTING, short};
use crate::model::quoted;

/// Reads a stage from bytes that must be one document, without anything behind it. No key may stand twice in
/// one document.
///
/// # Errors
/// A description of the problem.
pub(super) fn from_bytes(bytes: &[u8]) -> Result<Document, String> {
    document(RawDocument::from_bytes(bytes).map_err(malformed)?, 1)
}

fn document(raw: &RawDocument, depth: usize) -> Result<Document, String> {
    check_depth(depth)?;
    let mut document = Document::new();
    for element in raw {
        let (key, item) = element.map_err(malformed)?;
        let key = key.to_string();
        if document.contains_key(&key) {
            return Err(format!(
                "has the key {} twice in one document; write it once",
                quoted(&key)
            ));
        }
        document.insert(key, value(item, depth)?);
    }
    Ok(document)
}

/// Reads a value inside a document or list of the nesting `depth`.
fn value(raw: RawBsonRef<'_>, depth: usize) -> Result<Bson, String> {
    match raw {
        RawBsonRef::Document(inner) => document(inner, depth + 1).map(Bson::Document),
        RawBsonRef::Array(list) => {
            check_depth(depth + 1)?;
            let mut items = Vec::new();
            for item in list {
                items.push(value(item.map_err(malformed)?, depth + 1)?);
            }
            Ok(Bson::Array(items))
        }
        // Its scope is a document of any depth.
        RawBsonRef::JavaScriptCodeWithScope(_) => Err(JAVASCRIPT.to_owned()),
        other => Bson::try_from(other).map_err(malformed),
    }
}

fn check_depth(depth: usize) -> Result<(), String> {
    if depth <= MAX_NESTING {
        return Ok(());
    }
    Err(format!(
        "is nested deeper than the {MAX_NESTING} levels that MongoDB allows"
    ))
}

fn malformed(error: bson::error::Error) -> String {
    const PROBLEM: &str = "is not one well-formed BSON document";
    match error.message {
        Some(message) => format!("{PROBLEM}: {}", short(&message)),
        None => PROBLEM.to_owned(),
    }
}
