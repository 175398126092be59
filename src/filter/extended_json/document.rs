//! What holds for every document of Extended JSON, in whichever form it arrives.

use bson::{Bson, Document};

use super::wrapper;
use crate::model::quoted;

/// MongoDB's own nesting limit: a deeper literal equals no stored value.
pub(crate) const MAX_NESTING: usize = 100;

/// Checks the nesting of a document or list; the outermost one is at 1.
pub(super) fn check_depth(depth: usize) -> Result<(), String> {
    if depth <= MAX_NESTING {
        return Ok(());
    }
    Err(format!(
        "it is nested deeper than the {MAX_NESTING} levels that MongoDB allows"
    ))
}

/// Adds a field. No key may stand twice.
pub(super) fn insert(document: &mut Document, key: String, value: Bson) -> Result<(), String> {
    if key.contains('\0') {
        return Err(format!(
            "the key {} has a NUL, which BSON does not allow",
            quoted(&key)
        ));
    }
    if document.contains_key(&key) {
        return Err(format!(
            "the key {} stands twice in one document; write it once",
            quoted(&key)
        ));
    }
    document.insert(key, value);
    Ok(())
}

/// Returns the value that a document stands for if it is a type wrapper, and else the document.
pub(super) fn unwrapped(document: Document) -> Result<Bson, String> {
    match wrapper::key(|key| document.contains_key(key)) {
        Some(key) => wrapper::read(key, document),
        None => Ok(Bson::Document(document)),
    }
}
