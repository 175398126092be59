//! Why a format can't represent a document.

use crate::raw;

/// The reason why a format can't represent a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FormatError {
    /// It is not well-formed BSON.
    Malformed(raw::Error),
    /// A field name or a string is not UTF-8.
    NotUtf8,
    /// It is nested too deeply.
    TooDeep,
    /// Two fields of one document have the same name.
    RepeatedKey,
    /// A field has a name that Extended JSON gives a meaning.
    TypeName,
}

impl From<raw::Error> for FormatError {
    fn from(error: raw::Error) -> Self {
        Self::Malformed(error)
    }
}

/// Returns the value of an element whose type is known, so that `None` means a malformed value.
#[inline]
pub(super) fn well_formed<T>(value: Option<T>) -> Result<T, FormatError> {
    value.ok_or(FormatError::Malformed(raw::Error::Value))
}
