//! Reads MongoDB Extended JSON v2, as text or as `google.protobuf.Value`.
//!
//! A document with a key of a type wrapper, such as `$date`, is that type's value. All other keys stay as they
//! are, with or without a `$`; [`literal_form`](super::literal_form) says which a literal of a filter may have.

mod document;
pub(crate) use document::MAX_NESTING;
mod protobuf;
pub(crate) use protobuf::{from_struct, from_value};
mod text;
pub(crate) use text::{bounded_from_text, from_text};
mod wrapper;

#[cfg(test)]
mod tests;
