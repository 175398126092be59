//! The values that MongoDB finds at a dotted path.

use super::literal::ALLOCATION;
use super::value::fields;
use crate::raw::{Element, ElementType};

/// The number of elements that a walk may read beyond one for each byte of the document. An element
/// takes at least two bytes, so only a walk that reads the same elements many times is stopped, as
/// paths such as "a.0.0.0" do in documents crafted for it.
const EXTRA_STEPS: usize = 64 * 1024;

/// A dotted path, split into components.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::filter) struct Path {
    text: Box<str>,
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, PartialEq)]
struct Part {
    name: Box<[u8]>,
    /// The array index that the name also stands for.
    index: Option<usize>,
}

impl Path {
    pub(in crate::filter) fn new(path: &str) -> Path {
        let part = |name: &str| Part {
            name: name.as_bytes().into(),
            index: name
                .parse::<usize>()
                .ok()
                .filter(|index| index.to_string() == name),
        };
        Path {
            text: path.into(),
            parts: path.split('.').map(part).collect(),
        }
    }

    /// Returns the path as the client wrote it.
    pub(in crate::filter) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the memory that it takes beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        let parts = size_of_val(&*self.parts) + ALLOCATION * self.parts.len();
        2 * self.text.len() + parts + 2 * ALLOCATION
    }

    /// Calls `found` with each value that MongoDB compares for this path (`None` for a missing field)
    /// until it returns `true`. Returns whether it did; `None` if the walk was given up, so that there
    /// may be more values.
    ///
    /// An array at the end of the path yields each of its elements and then itself. An array on the way
    /// is searched: each document in it and, if the next component is a number, the element at that
    /// index. An element that such a number ends at is yielded as it is, even if it is an array. An array
    /// on the way without documents yields nothing, not even a missing field.
    pub(in crate::filter) fn find<'a>(
        &self,
        document: &'a [u8],
        found: &mut impl FnMut(Option<Element<'a>>) -> bool,
    ) -> Option<bool> {
        let mut walk = Walk {
            found,
            steps: document.len().saturating_add(EXTRA_STEPS),
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

/// Every second call at least has a shorter path, so the recursion is at most twice as deep as the
/// path is long.
impl<'a, F: FnMut(Option<Element<'a>>) -> bool> Walk<'_, F> {
    fn document(&mut self, mut parts: &[Part], mut document: &'a [u8]) -> bool {
        loop {
            let Some((part, rest)) = parts.split_first() else {
                return false;
            };
            let Some(element) = self.field(document, &part.name) else {
                // A field is missing only if the search for it was complete.
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

    /// Counts a step; `None` if none is left.
    fn step(&mut self) -> Option<()> {
        let left = self.steps.checked_sub(1);
        self.gave_up |= left.is_none();
        self.steps = left?;
        Some(())
    }

    /// Yields the elements of an array at the end of the path, then the array.
    fn elements(&mut self, array: &Element<'a>) -> bool {
        fields(array.value).any(|element| (self.found)(Some(element))) || (self.found)(Some(*array))
    }

    /// Searches an array that is not at the end of the path.
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
