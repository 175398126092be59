//! What protobuf's rules would have a reader pass over in silence, found in a request's bytes.
//!
//! A field that a later version gave a meaning must not be dropped: a watch without the operator or
//! the shard that was asked for is the wrong one. Neither may one of two members of a `oneof`, of
//! which prost would take the later.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::{
    DecodeError, Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

use crate::{
    error::{Error, truncate},
    pb,
    plan::FieldViolation,
};

/// As deep as prost reads; what lies deeper it refuses itself.
const MAX_DEPTH: usize = 100;
/// Of the path in an error, in bytes. Filters that are allowed have shorter ones.
const MAX_PATH: usize = 256;

/// Every message of the API and of what it is made of, by the very descriptors that the readers were
/// generated from.
static SHAPES: LazyLock<HashMap<String, Shape>> = LazyLock::new(|| {
    let descriptors = prost_types::FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET)
        .expect("the descriptors were encoded by the build");
    let mut shapes = HashMap::new();
    for file in &descriptors.file {
        for message in &file.message_type {
            collect(&format!(".{}", file.package()), message, &mut shapes);
        }
    }
    shapes
});

struct Shape {
    fields: Vec<Field>,
}

struct Field {
    number: u32,
    name: String,
    repeated: bool,
    /// The message that it holds, by its full name.
    holds: Option<String>,
    /// The `oneof` that it is a member of.
    choice: Option<i32>,
}

fn collect(
    parent: &str,
    message: &prost_types::DescriptorProto,
    shapes: &mut HashMap<String, Shape>,
) {
    use prost_types::field_descriptor_proto::{Label, Type};
    let name = format!("{parent}.{}", message.name());
    for inner in &message.nested_type {
        collect(&name, inner, shapes);
    }
    let fields = message.field.iter().map(|field| Field {
        number: field.number().unsigned_abs(),
        name: field.name().to_owned(),
        repeated: field.label() == Label::Repeated,
        holds: (field.r#type() == Type::Message).then(|| field.type_name().to_owned()),
        choice: field.oneof_index.filter(|_| !field.proto3_optional()),
    });
    let fields = fields.collect();
    shapes.insert(name, Shape { fields });
}

/// Checks the bytes of a message of the package `weir.v1`, which is called by its name where a place
/// in it has no other.
pub(super) fn check(message: &str, bytes: &[u8]) -> Result<(), Error> {
    let Some(shape) = SHAPES.get(&format!(".weir.v1.{message}")) else {
        return Ok(());
    };
    walk(shape, bytes, 0).map_err(|finding| {
        let place = match finding.path.strip_prefix('.') {
            Some(path) => truncate(path, MAX_PATH),
            None => message.to_owned(),
        };
        match finding.what {
            Oddity::Unknown(number) => Error::UnknownField {
                message: place,
                number,
            },
            Oddity::Both(first, second) => violation(
                place,
                format!("sets both {first} and {second}, of which only one can be meant"),
            ),
            Oddity::Malformed(error) => violation(place, format!("malformed: {error}")),
        }
    })
}

/// A request that is refused for what stands in one place of it.
pub(super) fn violation(field: String, description: String) -> Error {
    Error::InvalidRequest(vec![FieldViolation { field, description }])
}

enum Oddity {
    Unknown(u32),
    Both(String, String),
    Malformed(DecodeError),
}

struct Finding {
    /// The message that it is in, each part with a dot before it.
    path: String,
    what: Oddity,
}

impl Finding {
    fn here(what: Oddity) -> Self {
        Self {
            path: String::new(),
            what,
        }
    }
}

impl From<DecodeError> for Finding {
    fn from(error: DecodeError) -> Self {
        Self::here(Oddity::Malformed(error))
    }
}

/// As deep as prost would go.
fn walk(shape: &Shape, message: &[u8], depth: usize) -> Result<(), Finding> {
    let mut rest = message;
    let mut chosen: Vec<&Field> = Vec::new();
    while !rest.is_empty() {
        let start = message.len() - rest.len();
        let (number, wire_type) = decode_key(&mut rest)?;
        let Some(field) = shape.fields.iter().find(|it| it.number == number) else {
            return Err(Finding::here(Oddity::Unknown(number)));
        };
        if field.choice.is_some() {
            match chosen.iter().find(|it| it.choice == field.choice) {
                Some(first) if first.number != number => {
                    let names = (first.name.clone(), field.name.clone());
                    return Err(Finding::here(Oddity::Both(names.0, names.1)));
                }
                Some(_) => {}
                None => chosen.push(field),
            }
        }
        let inner = field.holds.as_ref().and_then(|name| SHAPES.get(name));
        match inner {
            Some(inner) if wire_type == WireType::LengthDelimited && depth < MAX_DEPTH => {
                let length = decode_varint(&mut rest)?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                // Cut short: prost says so.
                let Some((head, tail)) = rest.split_at_checked(length) else {
                    return Ok(());
                };
                walk(inner, head, depth + 1).map_err(|finding| {
                    let step = step(field, &message[..start]);
                    let path = step + &finding.path;
                    Finding { path, ..finding }
                })?;
                rest = tail;
            }
            _ => skip_field(wire_type, number, &mut rest, DecodeContext::default())?,
        }
    }
    Ok(())
}

/// A field's part of a path: the index of a repeated one is how often it came before.
fn step(field: &Field, mut before: &[u8]) -> String {
    if !field.repeated {
        return format!(".{}", field.name);
    }
    let mut index = 0;
    // It was read once without an error.
    while let Ok((number, wire_type)) = decode_key(&mut before) {
        if skip_field(wire_type, number, &mut before, DecodeContext::default()).is_err() {
            break;
        }
        index += usize::from(number == field.number);
    }
    format!(".{}[{index}]", field.name)
}

#[cfg(test)]
mod tests {
    use prost::bytes::BufMut as _;

    use super::*;

    /// A length-delimited field around bytes.
    fn around(number: u32, inner: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encoding::encode_key(number, WireType::LengthDelimited, &mut out);
        prost::encoding::encode_varint(inner.len() as u64, &mut out);
        out.put_slice(inner);
        out
    }

    const UNKNOWN: &[u8] = &[0x98, 0x06, 0x01]; // Field 99, a varint.

    fn refusal(bytes: &[u8]) -> (String, u32) {
        match check("WatchRequest", bytes) {
            Err(Error::UnknownField {
                message: place,
                number,
            }) => (place, number),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_message_that_a_request_holds_is_known() {
        for name in [
            ".weir.v1.WatchRequest",
            ".weir.v1.GetServerInfoRequest",
            ".weir.v1.Filter",
            ".weir.v1.FilterGroup",
            ".weir.v1.FieldFilter",
            ".weir.v1.RegexFilter",
            ".google.protobuf.Value",
            ".google.protobuf.ListValue",
            ".google.protobuf.Struct",
            ".google.protobuf.Struct.FieldsEntry",
            ".google.protobuf.Timestamp",
            ".google.protobuf.Duration",
        ] {
            assert!(SHAPES.contains_key(name), "{name}");
        }
        let inner = SHAPES.values().flat_map(|it| &it.fields);
        for name in inner.filter_map(|field| field.holds.as_ref()) {
            assert!(SHAPES.contains_key(name), "{name}");
        }
    }

    #[test]
    fn an_unknown_field_is_found_in_every_message_of_a_request() {
        let value = |operator: u32, inner: &[u8]| around(4, &around(1, &around(operator, inner)));
        for (bytes, place) in [
            (UNKNOWN.to_vec(), "WatchRequest"),
            (around(4, UNKNOWN), "filters[0]"),
            (around(4, &around(1, UNKNOWN)), "filters[0].field"),
            (around(4, &around(3, UNKNOWN)), "filters[0].any_of"),
            (
                around(
                    4,
                    &around(3, &[around(1, b""), around(1, UNKNOWN)].concat()),
                ),
                "filters[0].any_of.filters[1]",
            ),
            (value(12, UNKNOWN), "filters[0].field.regex"),
            (value(2, UNKNOWN), "filters[0].field.eq"),
            (value(8, UNKNOWN), "filters[0].field.in"),
            (
                value(8, &[around(1, b""), around(1, UNKNOWN)].concat()),
                "filters[0].field.in.values[1]",
            ),
            (
                value(2, &around(5, &around(1, UNKNOWN))),
                "filters[0].field.eq.struct_value.fields[0]",
            ),
            (around(6, UNKNOWN), "start_time"),
            (around(8, UNKNOWN), "end_time"),
            (around(14, UNKNOWN), "progress_interval"),
        ] {
            assert_eq!(refusal(&bytes), (place.to_owned(), 99));
        }
    }

    #[test]
    fn two_members_of_a_oneof_are_refused_and_one_sent_twice_is_not() {
        let both = |bytes: &[u8], field: &str, words: &str| match check("WatchRequest", bytes) {
            Err(Error::InvalidRequest(violations)) => {
                assert_eq!(violations[0].field, field);
                assert!(violations[0].description.contains(words), "{violations:?}");
            }
            other => panic!("{other:?}"),
        };
        let start = [around(5, b"x"), around(6, b"")].concat();
        both(&start, "WatchRequest", "resume_token and start_time");
        let filter = around(4, &[around(1, b""), around(2, b"")].concat());
        both(&filter, "filters[0]", "field and all_of");
        let twice = [around(6, b""), around(6, b"")].concat();
        assert!(check("WatchRequest", &twice).is_ok());
    }

    #[test]
    fn a_path_in_an_error_is_short_however_deep_the_place() {
        let deep = (0..45).fold(UNKNOWN.to_vec(), |inner, _| around(1, &around(2, &inner)));
        let (place, _) = refusal(&around(4, &around(2, &deep)));
        assert!(place.len() < 300, "{} bytes", place.len());
    }
}
