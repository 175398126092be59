//! Encoding of raw BSON as MongoDB Extended JSON v2.

use bytes::{BufMut, BytesMut};

use super::{
    error::{FormatError, well_formed},
    field_names::{FieldNames, Place},
    text,
};
use crate::raw::{self, Element, ElementType, Elements};

/// The maximum nesting of documents and arrays that is written, the document itself being level 1. A value adds
/// up to three levels of braces, which makes 98. libbson reads no more; Ruby's json reads 100, serde_json 127 and
/// Go's driver 200.
pub(super) const MAX_DEPTH: u32 = 95;

/// One of the two forms of Extended JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Plain numbers and ISO dates.
    Relaxed,
    /// Every value with its type.
    Canonical,
}

/// Appends a document as a JSON object. After an error the appended bytes are invalid.
pub(super) fn put_document(
    out: &mut BytesMut,
    document: &[u8],
    style: Style,
) -> Result<(), FormatError> {
    Writer { out, style }.document(document, 1, Place::Top)
}

struct Writer<'out> {
    out: &'out mut BytesMut,
    style: Style,
}

impl Writer<'_> {
    /// Writes a document at nesting level `depth`.
    fn document(&mut self, document: &[u8], depth: u32, place: Place) -> Result<(), FormatError> {
        check_depth(depth)?;
        let mut names = FieldNames::new(place);
        let mut separator = b'{';
        for element in Elements::new(document)? {
            let element = element?;
            names.add(element.key)?;
            self.out.put_u8(separator);
            separator = b',';
            self.string(element.key)?;
            self.out.put_u8(b':');
            self.value(&element, depth)?;
        }
        names.check_unique(document)?;
        // An empty document has no opening brace yet.
        self.raw(if separator == b'{' { "{}" } else { "}" });
        Ok(())
    }

    /// Writes an array at nesting level `depth`. The names of its elements are ignored.
    fn array(&mut self, array: &[u8], depth: u32) -> Result<(), FormatError> {
        check_depth(depth)?;
        let mut separator = b'[';
        for element in Elements::new(array)? {
            self.out.put_u8(separator);
            separator = b',';
            self.value(&element?, depth)?;
        }
        self.raw(if separator == b'[' { "[]" } else { "]" });
        Ok(())
    }

    /// Writes the value of a field of a document or array at nesting level `depth`.
    #[inline]
    fn value(&mut self, element: &Element<'_>, depth: u32) -> Result<(), FormatError> {
        match element.kind {
            ElementType::String => self.string(well_formed(element.as_str_bytes())?),
            ElementType::EmbeddedDocument => self.document(element.value, depth + 1, Place::Value),
            ElementType::Array => self.array(element.value, depth + 1),
            ElementType::Int32 => {
                self.integer(
                    "{\"$numberInt\":\"",
                    i64::from(well_formed(element.as_i32())?),
                );
                Ok(())
            }
            ElementType::Int64 => {
                self.integer("{\"$numberLong\":\"", well_formed(element.as_i64())?);
                Ok(())
            }
            ElementType::Double => {
                self.double(well_formed(element.as_f64())?);
                Ok(())
            }
            ElementType::Boolean => {
                self.raw(if well_formed(element.as_bool())? {
                    "true"
                } else {
                    "false"
                });
                Ok(())
            }
            ElementType::Null => {
                self.raw("null");
                Ok(())
            }
            ElementType::ObjectId => {
                self.object_id(well_formed(element.as_object_id())?);
                Ok(())
            }
            ElementType::DateTime => {
                self.date(well_formed(element.as_datetime_millis())?);
                Ok(())
            }
            _ => self.uncommon_value(element, depth),
        }
    }

    /// Writes a value of a type that is rare in documents.
    fn uncommon_value(&mut self, element: &Element<'_>, depth: u32) -> Result<(), FormatError> {
        match element.kind {
            ElementType::Binary => {
                let (subtype, bytes) = well_formed(element.as_binary())?;
                self.raw("{\"$binary\":{\"base64\":\"");
                text::put_base64(self.out, bytes)?;
                self.raw("\",\"subType\":\"");
                self.raw(text::subtype(subtype).as_str());
                self.raw("\"}}");
            }
            ElementType::Timestamp => {
                let (time, increment) = well_formed(element.as_timestamp())?;
                self.raw("{\"$timestamp\":{\"t\":");
                self.digits(time.into());
                self.raw(",\"i\":");
                self.digits(increment.into());
                self.raw("}}");
            }
            ElementType::Decimal128 => {
                self.raw("{\"$numberDecimal\":\"");
                self.raw(&text::decimal(well_formed(element.as_decimal128())?));
                self.raw("\"}");
            }
            ElementType::RegularExpression => {
                let (pattern, options) = well_formed(element.as_regex())?;
                self.raw("{\"$regularExpression\":{\"pattern\":");
                self.string(pattern)?;
                self.raw(",\"options\":");
                self.string(text::regex_options(options)?.as_bytes())?;
                self.raw("}}");
            }
            ElementType::JavaScriptCode => {
                self.raw("{\"$code\":");
                self.string(well_formed(element.as_text_bytes())?)?;
                self.raw("}");
            }
            ElementType::JavaScriptCodeWithScope => {
                let (code, scope) = well_formed(element.as_code_with_scope())?;
                self.raw("{\"$code\":");
                self.string(code)?;
                self.raw(",\"$scope\":");
                self.document(scope, depth + 2, Place::Top)?;
                self.raw("}");
            }
            ElementType::Symbol => {
                self.raw("{\"$symbol\":");
                self.string(well_formed(element.as_text_bytes())?)?;
                self.raw("}");
            }
            ElementType::DbPointer => {
                let (namespace, id) = well_formed(element.as_db_pointer())?;
                self.raw("{\"$dbPointer\":{\"$ref\":");
                self.string(namespace)?;
                self.raw(",\"$id\":");
                self.object_id(id);
                self.raw("}}");
            }
            ElementType::Undefined => self.raw("{\"$undefined\":true}"),
            ElementType::MinKey => self.raw("{\"$minKey\":1}"),
            ElementType::MaxKey => self.raw("{\"$maxKey\":1}"),
            // All other types are handled above or in `value`.
            _ => return Err(FormatError::Malformed(raw::Error::Kind(element.kind as u8))),
        }
        Ok(())
    }

    /// Writes an integer: plain, or in canonical style as an object that starts with `opening`.
    fn integer(&mut self, opening: &str, value: i64) {
        match self.style {
            Style::Relaxed => self.digits(value),
            Style::Canonical => {
                self.raw(opening);
                self.digits(value);
                self.raw("\"}");
            }
        }
    }

    /// Writes a double. A finite one always has a decimal point or an exponent, so that parsers read a
    /// double.
    fn double(&mut self, value: f64) {
        let mut buffer = zmij::Buffer::new();
        let finite = value.is_finite();
        let digits = if finite {
            buffer.format_finite(value)
        } else {
            text::non_finite(value)
        };
        if finite && self.style == Style::Relaxed {
            self.raw(digits);
        } else {
            self.raw("{\"$numberDouble\":\"");
            self.raw(digits);
            self.raw("\"}");
        }
    }

    fn date(&mut self, millis: i64) {
        self.raw("{\"$date\":");
        match text::iso_date(millis).filter(|_| self.style == Style::Relaxed) {
            Some(date) => {
                self.raw("\"");
                self.raw(date.as_str());
                self.raw("\"}");
            }
            None => {
                self.raw("{\"$numberLong\":\"");
                self.digits(millis);
                self.raw("\"}}");
            }
        }
    }

    fn object_id(&mut self, id: [u8; 12]) {
        self.raw("{\"$oid\":\"");
        self.raw(text::object_id(id).as_str());
        self.raw("\"}");
    }

    fn digits(&mut self, value: i64) {
        self.raw(itoa::Buffer::new().format(value));
    }

    #[inline]
    fn string(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        text::put_json_string(self.out, bytes)
    }

    /// Writes text that is already JSON.
    #[inline]
    fn raw(&mut self, json: &str) {
        self.out.put_slice(json.as_bytes());
    }
}

fn check_depth(depth: u32) -> Result<(), FormatError> {
    if depth > MAX_DEPTH {
        Err(FormatError::TooDeep)
    } else {
        Ok(())
    }
}
