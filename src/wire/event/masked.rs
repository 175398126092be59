//! Documents and update descriptions as a rendering shows them.

use std::collections::HashMap;

use bytes::BytesMut;

use super::values::{elements, find, is_array};
use crate::{
    model::{MaskNode, PathMatch, Rendering, UpdatePathComponent},
    raw::Element,
    wire::{
        format::{put_document as put_whole_document, put_written_document},
        redact,
    },
};

/// Appends the fields of a document that the rendering shows.
pub(super) fn put_document(
    out: &mut BytesMut,
    number: u32,
    document: &[u8],
    rendering: &Rendering,
) {
    put_redacted(out, number, document, rendering, rendering.mask.root());
}

/// Appends a document that is always included, without its hidden fields.
pub(super) fn put_included_document(
    out: &mut BytesMut,
    number: u32,
    document: &[u8],
    rendering: &Rendering,
) {
    let mask = rendering.mask.hidden_root();
    put_redacted(out, number, document, rendering, mask);
}

fn put_redacted(
    out: &mut BytesMut,
    number: u32,
    document: &[u8],
    rendering: &Rendering,
    mask: Option<MaskNode<'_>>,
) {
    let format = rendering.format;
    match mask {
        None => put_whole_document(out, number, document, format),
        Some(mask) => put_written_document(out, number, document.len(), format, |out| {
            redact::put_document(out, document, mask);
        }),
    }
}

/// What a rendering shows of one update description.
pub(super) struct DescriptionMask<'a> {
    rendering: &'a Rendering,
    mask: Option<MaskNode<'a>>,
    /// The BSON arrays of `disambiguatedPaths` that can be read, by path. Empty where they decide nothing.
    components: HashMap<&'a [u8], &'a [u8]>,
}

impl<'a> DescriptionMask<'a> {
    pub(super) fn new(description: &'a [u8], rendering: &'a Rendering) -> Self {
        let mask = rendering.mask.root();
        // What is hidden is hidden in doubt, however a path is to be read.
        let paths = mask
            .filter(|mask| mask.includes_only_fields())
            .and_then(|_| find(description, b"disambiguatedPaths"))
            .and_then(|paths| paths.as_document());
        let readable = |path: &[u8]| elements(path).all(|it| component(&it).is_some());
        let components = paths
            .into_iter()
            .flat_map(elements)
            .filter(|path| is_array(path) && readable(path.value))
            .map(|path| (path.key, path.value))
            .collect();
        Self {
            rendering,
            mask,
            components,
        }
    }

    /// Returns whether nothing is left out.
    pub(super) fn shows_everything(&self) -> bool {
        self.mask.is_none()
    }

    /// Returns whether nothing is shown at a dotted path.
    pub(super) fn hides(&self, path: &[u8]) -> bool {
        self.mask.is_some_and(|mask| {
            mask.match_path(path, self.components(path), |it| it == PathMatch::Hidden)
        })
    }

    /// Appends those of `updatedFields` that are shown. Returns the paths at which a value has taken the place
    /// of everything that is included.
    pub(super) fn put_updated_fields<'f>(
        &self,
        out: &mut BytesMut,
        number: u32,
        fields: &'f [u8],
    ) -> Vec<&'f [u8]> {
        let format = self.rendering.format;
        let Some(mask) = self.mask else {
            put_whole_document(out, number, fields, format);
            return Vec::new();
        };
        put_written_document(out, number, fields.len(), format, |out| {
            redact::put_updated_fields(out, fields, mask, |path| self.components(path))
        })
    }

    /// Returns the components of a path, if the description says how to read it.
    fn components(
        &self,
        path: &[u8],
    ) -> Option<impl Iterator<Item = UpdatePathComponent<'a>> + use<'a>> {
        let components = *self.components.get(path)?;
        Some(elements(components).filter_map(|it| component(&it)))
    }
}

/// Returns a component of `disambiguatedPaths`.
fn component<'a>(element: &Element<'a>) -> Option<UpdatePathComponent<'a>> {
    match element.as_str_bytes() {
        Some(name) => Some(UpdatePathComponent::Field(name)),
        None => element.as_int().map(|_| UpdatePathComponent::Index),
    }
}
