//! Reads BSON, with the same bounds as Extended JSON.

use bson::raw::{RawBsonRef, RawDocument};
use bson::{Bson, Document, JavaScriptCodeWithScope};

use super::extended_json::MAX_NESTING;
use crate::model::quoted;

/// Reads bytes that must be one document, without anything behind it. No key may stand twice in one document.
///
/// # Errors
/// A description of the problem.
pub(crate) fn document_from_bytes(bytes: &[u8]) -> Result<Document, String> {
    document(RawDocument::from_bytes(bytes).map_err(malformed)?, 1)
}

/// Reads the value of the only field of a document, in the same way. The document is no level of its nesting.
///
/// # Errors
/// A description of the problem.
pub(crate) fn value_from_bytes(bytes: &[u8]) -> Result<Bson, String> {
    let fields = document(RawDocument::from_bytes(bytes).map_err(malformed)?, 0)?;
    let count = fields.len();
    match fields.into_iter().next() {
        Some((_, value)) if count == 1 => Ok(value),
        _ => Err(format!(
            "has {count} fields; write a document with one, of any name, whose value is the literal"
        )),
    }
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
        RawBsonRef::JavaScriptCodeWithScope(code) => {
            Ok(Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
                code: code.code.to_owned(),
                scope: document(code.scope, depth + 1)?,
            }))
        }
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

/// Truncates the parser's message, which may quote the client's text at length.
fn short(reason: &str) -> String {
    const MAX_CHARS: usize = 120;
    match reason.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}...", &reason[..end]),
        None => reason.into(),
    }
}
