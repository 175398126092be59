//! Which paths a change touched.

use std::cell::Cell;

use super::subject::Subject;
use super::value::fields;
use crate::plan::Operation;
use crate::raw::{Element, ElementType, Elements};

/// How many entries of `disambiguatedPaths` are looked at beyond once each: MongoDB names them in
/// the order of the changed fields, and only another order makes the search start over.
const SPARE_STEPS: usize = 1_000_000;

/// The condition `changed` on one path.
#[derive(Clone, Debug)]
pub(super) struct Changed {
    parts: Box<[Box<[u8]>]>,
    wanted: bool,
}

impl Changed {
    pub(super) fn new(path: &str, wanted: bool) -> Changed {
        Changed {
            parts: path.split('.').map(|part| part.as_bytes().into()).collect(),
            wanted,
        }
    }

    /// `None`: the event does not tell.
    pub(super) fn holds(&self, subject: &Subject<'_>) -> Option<bool> {
        let touched = match subject.operation {
            Operation::Replace => true,
            Operation::Update => self.is_touched(subject.description?)?,
            // An insert and a delete touch no path, as there is nothing on one of the two sides.
            _ => false,
        };
        Some(touched == self.wanted)
    }

    fn is_touched(&self, description: &[u8]) -> Option<bool> {
        let description = Description::read(description)?;
        // Whatever is named there was changed, and its parts are told apart.
        if let Some(paths) = description.disambiguated {
            for entry in walk(paths) {
                if self.meets_parts(&entry?)? {
                    return Some(true);
                }
            }
        }
        let touches = |path: &[u8]| -> Option<bool> {
            Some(self.meets(path) && !description.is_told_apart(path)?)
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

    /// Whether a path that is split at its dots is this one, one above it or one below it.
    fn meets(&self, path: &[u8]) -> bool {
        path.split(|&byte| byte == b'.')
            .zip(&self.parts)
            .all(|(theirs, ours)| theirs == ours.as_ref())
    }

    /// The same for a path whose parts are listed.
    fn meets_parts(&self, entry: &Element<'_>) -> Option<bool> {
        let mut ours = self.parts.iter();
        for part in walk(entry.as_array()?) {
            let part = part?;
            let Some(ours) = ours.next() else {
                break;
            };
            let equal = match part.kind {
                ElementType::String => part.as_str_bytes()? == ours.as_ref(),
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
        // Not "+1", not "01".
        && (text == b"0" || matches!(text.first(), Some(b'1'..=b'9')))
}

/// The parts of an `updateDescription`.
struct Description<'a> {
    updated: Option<&'a [u8]>,
    removed: Option<&'a [u8]>,
    truncated: Option<&'a [u8]>,
    disambiguated: Option<&'a [u8]>,
    /// The entries of `disambiguated` that come next.
    next: Cell<Option<Elements<'a>>>,
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
            steps: Cell::new(SPARE_STEPS),
        };
        for element in walk(description) {
            let element = element?;
            let place = match element.key {
                b"updatedFields" => &mut found.updated,
                b"removedFields" => &mut found.removed,
                b"truncatedArrays" => &mut found.truncated,
                b"disambiguatedPaths" => &mut found.disambiguated,
                _ => continue,
            };
            // MongoDB writes some of them as null when there are none.
            if !element.is_null() {
                *place = Some(element.as_document().or(element.as_array())?);
            }
        }
        Some(found)
    }

    /// Whether `disambiguatedPaths` says what the path is made of, so that its dots don't.
    fn is_told_apart(&self, path: &[u8]) -> Option<bool> {
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

/// The fields of a document; `None` in the place of what is malformed.
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
