//! Writes raw BSON as `google.protobuf.Struct`: relaxed Extended JSON in protobuf's own dress.
//!
//! A document is a `Struct`, whose `fields` map is a list of entries with a key and a `Value`. What
//! Extended JSON writes as an object with a `$` name becomes a `Struct` of one entry.

use bytes::BytesMut;

use super::{
    FormatError,
    json::well_formed,
    protobuf::{
        WireType, len_field_len, put_bytes_field, put_double_field, put_message_with_estimate,
        put_message_with_len, put_tag, put_varint, put_varint_field,
    },
    raw::{self, Element, ElementType, Elements},
    repeated_keys::has_repeated_key,
    text,
};

/// How many messages protobuf readers let stand inside one another, the outermost counted too.
/// Some count one more; none of the usual ones counts fewer.
pub(super) const MAX_MESSAGE_LEVEL: u32 = 100;

/// The level of the outermost `Struct` where it stands deepest, in `WatchResponse`, `ChangeBatch`,
/// `ChangeEvent`, `Update`, `UpdateDescription` and `Document`.
pub(super) const OUTERMOST_STRUCT_LEVEL: u32 = 7;

/// Integers up to this size are doubles too, each a different one: 2^53.
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

/// Appends the fields of a `Struct` at `level`, without tag and length. After an error what was
/// appended is of no use.
pub(super) fn put_struct(
    out: &mut BytesMut,
    document: &[u8],
    level: u32,
) -> Result<(), FormatError> {
    if has_repeated_key(document)? {
        return Err(FormatError::RepeatedKey);
    }
    let value_level = nested_level(level, 2)?;
    for element in Elements::new(document)? {
        let element = element?;
        let key = text::utf8(element.key)?;
        match Scalar::of(&element)? {
            Some(value) => put_scalar_entry(out, key, value),
            None => put_entry(out, key, element.value.len(), |out| {
                put_composite(out, &element, value_level)
            })?,
        }
    }
    Ok(())
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

/// A value that needs no further message, so that its length is known before it is written.
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
                // A Value that holds NaN or an infinity cannot be printed as JSON.
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

    /// The length of the `Value` that [`put`](Self::put) appends.
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
            // Which member of the oneof is set is told by its presence, so zero is written too.
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

/// Appends the one field of a `Value` at `level`, for what [`Scalar`] cannot hold.
fn put_composite(out: &mut BytesMut, element: &Element<'_>, level: u32) -> Result<(), FormatError> {
    // Every kind but an array is a Struct right below this Value.
    let object = nested_level(level, 1)?;
    match element.kind {
        ElementType::EmbeddedDocument => put_object(out, element.value.len(), |out| {
            put_struct(out, element.value, object)
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
        ElementType::DateTime => {
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
        ElementType::Binary => {
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
        ElementType::Timestamp => {
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
        ElementType::RegularExpression => {
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
        ElementType::JavaScriptCode => put_single_text(
            out,
            level,
            "$code",
            text::utf8(well_formed(element.as_text_bytes())?)?,
        ),
        ElementType::JavaScriptCodeWithScope => {
            let (code, scope) = well_formed(element.as_code_with_scope())?;
            let code = text::utf8(code)?;
            let scope_value = nested_level(level, 3)?;
            put_object(out, element.value.len(), |out| {
                put_scalar_entry(out, "$code", Scalar::Text(code));
                put_entry(out, "$scope", scope.len(), |out| {
                    let scope_struct = nested_level(scope_value, 1)?;
                    put_object(out, scope.len(), |out| put_struct(out, scope, scope_struct))
                })
            })
        }
        ElementType::Symbol => put_single_text(
            out,
            level,
            "$symbol",
            text::utf8(well_formed(element.as_text_bytes())?)?,
        ),
        ElementType::DbPointer => {
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
        ElementType::Undefined => {
            put_scalar_members(out, level, [("$undefined", Scalar::Bool(true))])
        }
        ElementType::MinKey => put_scalar_members(out, level, [("$minKey", Scalar::Number(1.0))]),
        ElementType::MaxKey => put_scalar_members(out, level, [("$maxKey", Scalar::Number(1.0))]),
        // `Scalar` holds all of these, whatever their value.
        ElementType::String | ElementType::Int32 | ElementType::Boolean | ElementType::Null => {
            Err(FormatError::Malformed(raw::Error::Kind(element.kind as u8)))
        }
    }
}

/// Fills a `Value` with a `Struct` of about `expected` bytes.
fn put_object<R>(out: &mut BytesMut, expected: usize, write: impl FnOnce(&mut BytesMut) -> R) -> R {
    put_message_with_estimate(out, field::STRUCT, expected, write)
}

/// Fills a `Value` at `level` with `{name: text}`.
fn put_single_text(
    out: &mut BytesMut,
    level: u32,
    name: &str,
    text: &str,
) -> Result<(), FormatError> {
    put_scalar_members(out, level, [(name, Scalar::Text(text))])
}

/// Fills a `Value` at `level` with an object of simple members.
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

/// Fills a `Value` at `level` with `{name: …}`, where `write` fills the `Value` within, whose
/// level it is told.
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

/// Appends an entry of a `Struct`, where `write` fills the `Value` with about `expected` bytes.
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

/// Appends an entry of a `Struct` whose length is known.
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

/// The level of a message that stands `by` below `level`.
#[inline]
fn nested_level(level: u32, by: u32) -> Result<u32, FormatError> {
    let level = level + by;
    if level > MAX_MESSAGE_LEVEL {
        Err(FormatError::TooDeep)
    } else {
        Ok(level)
    }
}
