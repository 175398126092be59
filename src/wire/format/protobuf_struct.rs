//! Encoding of raw BSON as `google.protobuf.Struct`, the protobuf form of relaxed Extended JSON.
//!
//! A document is a `Struct`, whose `fields` map is a list of entries with a key and a `Value`. A value
//! that Extended JSON writes as an object with a `$` name becomes a `Struct` with one entry.

use bytes::BytesMut;

use super::{
    error::{FormatError, well_formed},
    field_names::{FieldNames, Place},
    protobuf::{
        WireType, len_field_len, put_bytes_field, put_double_field, put_message_with_estimate,
        put_message_with_len, put_tag, put_varint, put_varint_field,
    },
    text,
};
use crate::raw::{self, Element, ElementType, Elements};

/// The maximum nesting of messages that all usual protobuf parsers accept, including the outermost
/// message. Some accept one more.
pub(super) const MAX_MESSAGE_LEVEL: u32 = 100;

/// The deepest level of an outermost `Struct`: inside `WatchResponse`, `ChangeBatch`, `ChangeEvent`,
/// `Update`, `UpdateDescription` and `Document`.
pub(super) const OUTERMOST_STRUCT_LEVEL: u32 = 7;

/// The largest absolute value up to which every integer is exact as a double: 2^53.
const MAX_EXACT_INTEGER: u64 = 1 << 53;

/// Field numbers of google/protobuf/struct.proto.
mod field {
    pub(super) const STRUCT_FIELDS: u32 = 1;
    pub(super) const ENTRY_KEY: u32 = 1;
    pub(super) const ENTRY_VALUE: u32 = 2;
    pub(super) const LIST_VALUES: u32 = 1;
    pub(super) const NULL: u32 = 1;
    pub(super) const NUMBER: u32 = 2;
    pub(super) const STRING: u32 = 3;
    pub(super) const BOOL: u32 = 4;
    pub(super) const STRUCT: u32 = 5;
    pub(super) const LIST: u32 = 6;
}

/// Appends the fields of a `Struct` at `level`, without tag and length. After an error the appended
/// bytes are invalid.
pub(super) fn put_struct(
    out: &mut BytesMut,
    document: &[u8],
    level: u32,
    place: Place,
) -> Result<(), FormatError> {
    let mut names = FieldNames::new(place);
    let value_level = nested_level(level, 2)?;
    for element in Elements::new(document)? {
        let element = element?;
        names.add(element.key)?;
        let key = text::utf8(element.key)?;
        match Scalar::of(&element)? {
            Some(value) => put_scalar_entry(out, key, value),
            None => put_entry(out, key, element.value.len(), |out| {
                put_composite(out, &element, value_level)
            })?,
        }
    }
    names.check_unique(document)
}

/// Appends the values of a `ListValue` at `level`.
fn put_list(out: &mut BytesMut, array: &[u8], level: u32) -> Result<(), FormatError> {
    let value_level = nested_level(level, 1)?;
    for element in Elements::new(array)? {
        let element = element?;
        match Scalar::of(&element)? {
            Some(value) => value.put_message(out, field::LIST_VALUES),
            None => {
                let expected = element.value.len();
                put_message_with_estimate(out, field::LIST_VALUES, expected, |out| {
                    put_composite(out, &element, value_level)
                })?;
            }
        }
    }
    Ok(())
}

/// A value without nested messages, so that its length is known in advance.
#[derive(Clone, Copy)]
enum Scalar<'a> {
    Null,
    Number(f64),
    Text(&'a str),
    Bool(bool),
}

impl<'a> Scalar<'a> {
    #[inline]
    fn of(element: &Element<'a>) -> Result<Option<Self>, FormatError> {
        Ok(Some(match element.kind {
            ElementType::String => Self::Text(text::utf8(well_formed(element.as_str_bytes())?)?),
            ElementType::Int32 => Self::Number(well_formed(element.as_i32())?.into()),
            ElementType::Int64 => {
                let value = well_formed(element.as_i64())?;
                if value.unsigned_abs() > MAX_EXACT_INTEGER {
                    return Ok(None);
                }
                Self::Number(value as f64)
            }
            ElementType::Double => {
                let value = well_formed(element.as_f64())?;
                // A `Value` with NaN or an infinity can't be converted to JSON.
                if !value.is_finite() {
                    return Ok(None);
                }
                Self::Number(value)
            }
            ElementType::Boolean => Self::Bool(well_formed(element.as_bool())?),
            ElementType::Null => Self::Null,
            _ => return Ok(None),
        }))
    }

    /// Returns the length of the `Value` that [`put`](Self::put) appends.
    #[inline]
    fn len(self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 2,
            Self::Number(_) => 9,
            Self::Text(text) => len_field_len(field::STRING, text.len()),
        }
    }

    /// Appends the one field of a `Value`.
    #[inline]
    fn put(self, out: &mut BytesMut) {
        match self {
            // The members of a oneof have presence, so zero is written too.
            Self::Null => put_varint_field(out, field::NULL, 0),
            Self::Number(value) => put_double_field(out, field::NUMBER, value),
            Self::Text(text) => put_bytes_field(out, field::STRING, text.as_bytes()),
            Self::Bool(value) => put_varint_field(out, field::BOOL, value.into()),
        }
    }

    /// Appends the `Value` as a field of another message.
    #[inline]
    fn put_message(self, out: &mut BytesMut, field: u32) {
        put_message_with_len(out, field, self.len(), |out| self.put(out));
    }
}

/// Appends the one field of a `Value` at `level`, for values that are not a [`Scalar`].
fn put_composite(out: &mut BytesMut, element: &Element<'_>, level: u32) -> Result<(), FormatError> {
    // Every type except an array becomes a `Struct` one level below this `Value`.
    let object = nested_level(level, 1)?;
    match element.kind {
        ElementType::EmbeddedDocument => put_object(out, element.value.len(), |out| {
            put_struct(out, element.value, object, Place::Value)
        }),
        ElementType::Array => {
            put_message_with_estimate(out, field::LIST, element.value.len(), |out| {
                put_list(out, element.value, object)
            })
        }
        ElementType::ObjectId => {
            let id = text::object_id(well_formed(element.as_object_id())?);
            put_single_text(out, level, "$oid", id.as_str())
        }
        ElementType::DateTime => put_date(out, element, level),
        ElementType::Int64 => {
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(well_formed(element.as_i64())?);
            put_single_text(out, level, "$numberLong", digits)
        }
        ElementType::Double => {
            let name = text::non_finite(well_formed(element.as_f64())?);
            put_single_text(out, level, "$numberDouble", name)
        }
        ElementType::Decimal128 => {
            let digits = text::decimal(well_formed(element.as_decimal128())?);
            put_single_text(out, level, "$numberDecimal", &digits)
        }
        ElementType::Binary => put_binary(out, element, level),
        ElementType::Timestamp => put_timestamp(out, element, level),
        ElementType::RegularExpression => put_regular_expression(out, element, level),
        ElementType::JavaScriptCode => put_single_text(
            out,
            level,
            "$code",
            text::utf8(well_formed(element.as_text_bytes())?)?,
        ),
        ElementType::JavaScriptCodeWithScope => put_code_with_scope(out, element, level),
        ElementType::Symbol => put_single_text(
            out,
            level,
            "$symbol",
            text::utf8(well_formed(element.as_text_bytes())?)?,
        ),
        ElementType::DbPointer => put_db_pointer(out, element, level),
        ElementType::Undefined => {
            put_scalar_members(out, level, [("$undefined", Scalar::Bool(true))])
        }
        ElementType::MinKey => put_scalar_members(out, level, [("$minKey", Scalar::Number(1.0))]),
        ElementType::MaxKey => put_scalar_members(out, level, [("$maxKey", Scalar::Number(1.0))]),
        // These types are always a `Scalar`.
        ElementType::String | ElementType::Int32 | ElementType::Boolean | ElementType::Null => {
            Err(FormatError::Malformed(raw::Error::Kind(element.kind as u8)))
        }
    }
}

/// Appends the field of a `Value` at `level`: a date as `{"$date": …}`, with a text where it has one.
fn put_date(out: &mut BytesMut, element: &Element<'_>, level: u32) -> Result<(), FormatError> {
    let millis = well_formed(element.as_datetime_millis())?;
    match text::iso_date(millis) {
        Some(date) => put_single_text(out, level, "$date", date.as_str()),
        None => put_single_value(out, level, "$date", |out, inner| {
            put_single_text(
                out,
                inner,
                "$numberLong",
                itoa::Buffer::new().format(millis),
            )
        }),
    }
}

/// Appends the field of a `Value` at `level`: bytes in base64 and their subtype.
fn put_binary(out: &mut BytesMut, element: &Element<'_>, level: u32) -> Result<(), FormatError> {
    let (subtype, bytes) = well_formed(element.as_binary())?;
    put_single_value(out, level, "$binary", |out, inner| {
        nested_level(inner, 3)?;
        let len = text::base64_len(bytes.len());
        put_object(out, len, |out| {
            put_entry(out, "base64", len, |out| {
                put_tag(out, field::STRING, WireType::Len);
                put_varint(out, len as u64);
                text::put_base64(out, bytes)
            })?;
            put_scalar_entry(
                out,
                "subType",
                Scalar::Text(text::subtype(subtype).as_str()),
            );
            Ok(())
        })
    })
}

/// Appends the field of a `Value` at `level`: a timestamp of MongoDB.
fn put_timestamp(out: &mut BytesMut, element: &Element<'_>, level: u32) -> Result<(), FormatError> {
    let (time, increment) = well_formed(element.as_timestamp())?;
    put_single_value(out, level, "$timestamp", |out, inner| {
        let members = [("t", time.into()), ("i", increment.into())];
        put_scalar_members(
            out,
            inner,
            members.map(|(name, n)| (name, Scalar::Number(n))),
        )
    })
}

/// Appends the field of a `Value` at `level`: a pattern and its options.
fn put_regular_expression(
    out: &mut BytesMut,
    element: &Element<'_>,
    level: u32,
) -> Result<(), FormatError> {
    let (pattern, options) = well_formed(element.as_regex())?;
    let (pattern, options) = (text::utf8(pattern)?, text::regex_options(options)?);
    put_single_value(out, level, "$regularExpression", |out, inner| {
        let members = [("pattern", pattern), ("options", &options)];
        put_scalar_members(
            out,
            inner,
            members.map(|(name, text)| (name, Scalar::Text(text))),
        )
    })
}

/// Appends the field of a `Value` at `level`: JavaScript code and the document of its variables.
fn put_code_with_scope(
    out: &mut BytesMut,
    element: &Element<'_>,
    level: u32,
) -> Result<(), FormatError> {
    let (code, scope) = well_formed(element.as_code_with_scope())?;
    let code = text::utf8(code)?;
    let scope_value = nested_level(level, 3)?;
    put_object(out, element.value.len(), |out| {
        put_scalar_entry(out, "$code", Scalar::Text(code));
        put_entry(out, "$scope", scope.len(), |out| {
            let scope_struct = nested_level(scope_value, 1)?;
            put_object(out, scope.len(), |out| {
                put_struct(out, scope, scope_struct, Place::Top)
            })
        })
    })
}

/// Appends the field of a `Value` at `level`: a namespace and an ObjectId.
fn put_db_pointer(
    out: &mut BytesMut,
    element: &Element<'_>,
    level: u32,
) -> Result<(), FormatError> {
    let (namespace, id) = well_formed(element.as_db_pointer())?;
    let (namespace, id) = (text::utf8(namespace)?, text::object_id(id));
    put_single_value(out, level, "$dbPointer", |out, inner| {
        let id_value = nested_level(inner, 3)?;
        put_object(out, namespace.len(), |out| {
            put_scalar_entry(out, "$ref", Scalar::Text(namespace));
            put_entry(out, "$id", 0, |out| {
                put_single_text(out, id_value, "$oid", id.as_str())
            })
        })
    })
}

/// Appends the field of a `Value` that is a `Struct` of about `expected` bytes.
fn put_object<R>(out: &mut BytesMut, expected: usize, write: impl FnOnce(&mut BytesMut) -> R) -> R {
    put_message_with_estimate(out, field::STRUCT, expected, write)
}

/// Appends the field of a `Value` at `level`: the object `{name: text}`.
fn put_single_text(
    out: &mut BytesMut,
    level: u32,
    name: &str,
    text: &str,
) -> Result<(), FormatError> {
    put_scalar_members(out, level, [(name, Scalar::Text(text))])
}

/// Appends the field of a `Value` at `level`: an object of scalar members.
fn put_scalar_members<const N: usize>(
    out: &mut BytesMut,
    level: u32,
    members: [(&str, Scalar<'_>); N],
) -> Result<(), FormatError> {
    nested_level(level, 3)?;
    let entry_len = |(key, value): &(&str, Scalar<'_>)| {
        len_field_len(field::STRUCT_FIELDS, scalar_entry_len(key, *value))
    };
    let len = members.iter().map(entry_len).sum();
    put_message_with_len(out, field::STRUCT, len, |out| {
        for (key, value) in members {
            put_scalar_entry(out, key, value);
        }
    });
    Ok(())
}

/// Appends the field of a `Value` at `level`: the object `{name: …}`, where `write` appends the field of
/// the inner `Value`, whose level it receives.
fn put_single_value(
    out: &mut BytesMut,
    level: u32,
    name: &str,
    write: impl FnOnce(&mut BytesMut, u32) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let inner = nested_level(level, 3)?;
    put_object(out, 0, |out| {
        put_entry(out, name, 0, |out| write(out, inner))
    })
}

/// Appends an entry of a `Struct`, where `write` appends about `expected` bytes of its `Value`.
fn put_entry(
    out: &mut BytesMut,
    key: &str,
    expected: usize,
    write: impl FnOnce(&mut BytesMut) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let entry_expected = key.len() + expected;
    put_message_with_estimate(out, field::STRUCT_FIELDS, entry_expected, |out| {
        put_bytes_field(out, field::ENTRY_KEY, key.as_bytes());
        put_message_with_estimate(out, field::ENTRY_VALUE, expected, write)
    })
}

/// Appends an entry of a `Struct` with a scalar value.
#[inline]
fn put_scalar_entry(out: &mut BytesMut, key: &str, value: Scalar<'_>) {
    put_message_with_len(
        out,
        field::STRUCT_FIELDS,
        scalar_entry_len(key, value),
        |out| {
            put_bytes_field(out, field::ENTRY_KEY, key.as_bytes());
            value.put_message(out, field::ENTRY_VALUE);
        },
    );
}

#[inline]
fn scalar_entry_len(key: &str, value: Scalar<'_>) -> usize {
    len_field_len(field::ENTRY_KEY, key.len()) + len_field_len(field::ENTRY_VALUE, value.len())
}

/// Returns the level of a message that is `by` levels below `level`.
#[inline]
fn nested_level(level: u32, by: u32) -> Result<u32, FormatError> {
    let level = level + by;
    if level > MAX_MESSAGE_LEVEL {
        Err(FormatError::TooDeep)
    } else {
        Ok(level)
    }
}
