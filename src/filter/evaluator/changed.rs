//! The condition `changed`: the paths that a change touched.

use std::cell::Cell;

use super::event_fields::EventFields;
use super::literal::ALLOCATION;
use super::value::fields;
use crate::model::Operation;
use crate::raw::{Element, ElementType, Elements};

/// The number of entries of `disambiguatedPaths` that may be read beyond one pass. MongoDB lists them
/// in the order of the changed fields; only another order makes the search start over.
const EXTRA_STEPS: usize = 1_000_000;

/// The condition `changed` on one path.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::filter) struct ChangedCondition {
    path: Box<str>,
    wanted: bool,
}

impl ChangedCondition {
    pub(super) fn new(path: &str, wanted: bool) -> ChangedCondition {
        ChangedCondition {
            path: path.into(),
            wanted,
        }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn wanted(&self) -> bool {
        self.wanted
    }

    /// Returns the memory that it takes beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.path.len() + ALLOCATION
    }

    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.path.split('.').map(str::as_bytes)
    }

    /// Returns whether the condition holds; `None` if the event does not show it.
    pub(super) fn holds(&self, event: &EventFields<'_>) -> Option<bool> {
        let touched = match event.operation {
            Operation::Replace => true,
            Operation::Update => self.is_touched(event.update_description?)?,
            // An insert has no document before the change, a delete none after it: no path is touched.
            _ => false,
        };
        Some(touched == self.wanted)
    }

    fn is_touched(&self, description: &[u8]) -> Option<bool> {
        let description = Description::read(description)?;
        // Every path listed there was changed; it is given as components, so dots in names are clear.
        if let Some(paths) = description.disambiguated {
            for entry in walk(paths) {
                if self.overlaps_parts(&entry?)? {
                    return Some(true);
                }
            }
        }
        let touches = |path: &[u8]| -> Option<bool> {
            Some(self.overlaps(path) && !description.is_disambiguated(path)?)
        };
        for element in walk_all(description.updated) {
            if touches(element?.key)? {
                return Some(true);
            }
        }
        for element in walk_all(description.removed) {
            if touches(element?.as_str_bytes()?)? {
                return Some(true);
            }
        }
        for element in walk_all(description.truncated) {
            let array = fields(element?.as_document()?).find(|field| field.key == b"field")?;
            if touches(array.as_str_bytes()?)? {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Returns whether a dotted path is this path, one above it or one below it.
    fn overlaps(&self, path: &[u8]) -> bool {
        path.split(|&byte| byte == b'.')
            .zip(self.parts())
            .all(|(theirs, ours)| theirs == ours)
    }

    /// Like [`overlaps`](Self::overlaps), for a path given as an array of components.
    fn overlaps_parts(&self, entry: &Element<'_>) -> Option<bool> {
        let mut ours = self.parts();
        for part in walk(entry.as_array()?) {
            let part = part?;
            let Some(ours) = ours.next() else {
                break;
            };
            let equal = match part.kind {
                ElementType::String => part.as_str_bytes()? == ours,
                _ => is_number(ours, part.as_int()?),
            };
            if !equal {
                return Some(false);
            }
        }
        Some(true)
    }
}

fn is_number(text: &[u8], number: i64) -> bool {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse::<i64>().ok())
        .is_some_and(|parsed| parsed == number)
        // "+1" and "01" are not array indexes.
        && (text == b"0" || matches!(text.first(), Some(b'1'..=b'9')))
}

/// The parts of an `updateDescription`.
struct Description<'a> {
    updated: Option<&'a [u8]>,
    removed: Option<&'a [u8]>,
    truncated: Option<&'a [u8]>,
    disambiguated: Option<&'a [u8]>,
    /// The entries of `disambiguated` after the one found last, where the next search starts.
    next: Cell<Option<Elements<'a>>>,
    /// The steps that the searches may still take.
    steps: Cell<usize>,
}

impl<'a> Description<'a> {
    fn read(description: &'a [u8]) -> Option<Description<'a>> {
        let mut found = Description {
            updated: None,
            removed: None,
            truncated: None,
            disambiguated: None,
            next: Cell::new(None),
            steps: Cell::new(EXTRA_STEPS),
        };
        for element in walk(description) {
            let element = element?;
            let slot = match element.key {
                b"updatedFields" => &mut found.updated,
                b"removedFields" => &mut found.removed,
                b"truncatedArrays" => &mut found.truncated,
                b"disambiguatedPaths" => &mut found.disambiguated,
                _ => continue,
            };
            // MongoDB writes some empty ones as null.
            if !element.is_null() {
                *slot = Some(element.as_document().or(element.as_array())?);
            }
        }
        Some(found)
    }

    /// Returns whether `disambiguatedPaths` gives the components of the path, so that its dots do not
    /// separate them; `None` if it is malformed or the search takes too long.
    fn is_disambiguated(&self, path: &[u8]) -> Option<bool> {
        let Some(paths) = self.disambiguated else {
            return Some(false);
        };
        for entries in [self.next.take(), Elements::new(paths).ok()] {
            let Some(mut entries) = entries else {
                continue;
            };
            while let Some(entry) = entries.next() {
                if entry.ok()?.key == path {
                    self.next.set(Some(entries));
                    return Some(true);
                }
                self.steps.set(self.steps.get().checked_sub(1)?);
            }
        }
        Some(false)
    }
}

/// Iterates over the fields of a document; a malformed part yields `None`.
fn walk(document: &[u8]) -> impl Iterator<Item = Option<Element<'_>>> {
    let elements = Elements::new(document);
    let broken = elements.is_err().then_some(None);
    broken
        .into_iter()
        .chain(elements.into_iter().flatten().map(Result::ok))
}

fn walk_all(document: Option<&[u8]>) -> impl Iterator<Item = Option<Element<'_>>> {
    document.into_iter().flat_map(walk)
}
