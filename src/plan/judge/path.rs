//! The values that a dotted path leads to.

use super::value::fields;
use crate::raw::{Element, ElementType};

/// How many elements a walk may look at beyond one for each byte of the document. An element takes
/// two bytes or more, so only a walk that comes by the same elements again and again ends early,
/// as paths such as "a.0.0.0" can in documents that were made for it.
const SPARE_STEPS: usize = 64 * 1024;

/// A dotted path, taken apart.
#[derive(Clone, Debug)]
pub(in crate::plan) struct Path {
    parts: Box<[Part]>,
}

#[derive(Clone, Debug)]
struct Part {
    name: Box<[u8]>,
    /// The place in an array that the name also is.
    index: Option<usize>,
}

impl Path {
    pub(in crate::plan) fn new(path: &str) -> Path {
        let part = |name: &str| Part {
            name: name.as_bytes().into(),
            index: name
                .parse::<usize>()
                .ok()
                .filter(|index| index.to_string() == name),
        };
        Path {
            parts: path.split('.').map(part).collect(),
        }
    }

    /// Calls `found` with each value that MongoDB compares for this path, `None` for a missing
    /// field, until it says that this is enough. Tells whether it did; `None` is that the walk was given
    /// up before, so that what else there is is not known.
    ///
    /// An array at the end of the path gives each of its elements and then itself. An array on the
    /// way is walked through: into each document in it, and, where the next part of the path is a
    /// number, into the element at that place. What such a number ends at is taken as it stands.
    /// Neither an empty array on the way nor one without documents gives anything, not even a
    /// missing field.
    pub(in crate::plan) fn find<'a>(
        &self,
        document: &'a [u8],
        found: &mut impl FnMut(Option<Element<'a>>) -> bool,
    ) -> Option<bool> {
        let mut walk = Walk {
            found,
            steps: document.len().saturating_add(SPARE_STEPS),
            gave_up: false,
        };
        let enough = walk.document(&self.parts, document);
        (enough || !walk.gave_up).then_some(enough)
    }
}

struct Walk<'w, F> {
    found: &'w mut F,
    steps: usize,
    gave_up: bool,
}

/// Each call into an array's element has a shorter path or is followed by one that has, so the
/// recursion is as deep as twice the path.
impl<'a, F: FnMut(Option<Element<'a>>) -> bool> Walk<'_, F> {
    fn document(&mut self, mut parts: &[Part], mut document: &'a [u8]) -> bool {
        loop {
            let Some((part, rest)) = parts.split_first() else {
                return false;
            };
            let Some(element) = self.field(document, &part.name) else {
                // A field that was not looked for to the end is not missing.
                return !self.gave_up && (self.found)(None);
            };
            match element.kind {
                ElementType::Array if rest.is_empty() => return self.elements(&element),
                ElementType::Array => return self.array(rest, element.value),
                _ if rest.is_empty() => return (self.found)(Some(element)),
                ElementType::EmbeddedDocument => {
                    parts = rest;
                    document = element.value;
                }
                _ => return (self.found)(None),
            }
        }
    }

    fn field(&mut self, document: &'a [u8], name: &[u8]) -> Option<Element<'a>> {
        for element in fields(document) {
            self.step()?;
            if element.key == name {
                return Some(element);
            }
        }
        None
    }

    /// Takes a step, or says that there is none left.
    fn step(&mut self) -> Option<()> {
        let left = self.steps.checked_sub(1);
        self.gave_up |= left.is_none();
        self.steps = left?;
        Some(())
    }

    /// The elements of an array at the end of the path, then the array.
    fn elements(&mut self, array: &Element<'a>) -> bool {
        fields(array.value).any(|element| (self.found)(Some(element))) || (self.found)(Some(*array))
    }

    /// An array with more of the path to go.
    fn array(&mut self, parts: &[Part], array: &'a [u8]) -> bool {
        let Some((part, rest)) = parts.split_first() else {
            return false;
        };
        for (index, element) in fields(array).enumerate() {
            if self.step().is_none() {
                return false;
            }
            let is_here = part.index == Some(index);
            let is_document = element.kind == ElementType::EmbeddedDocument;
            if is_document && self.document(parts, element.value) {
                return true;
            }
            let enough = match element.kind {
                _ if !is_here => false,
                _ if rest.is_empty() => (self.found)(Some(element)),
                ElementType::EmbeddedDocument => self.document(rest, element.value),
                ElementType::Array => self.array(rest, element.value),
                _ => false,
            };
            if enough {
                return true;
            }
        }
        false
    }
}
