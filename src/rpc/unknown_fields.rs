//! Finds in a request's bytes what protobuf decoders ignore: unknown fields and conflicting `oneof` members.
//!
//! A field of a later API version must not be ignored: a watch without a requested operator would deliver
//! the wrong events. When two members of a `oneof` are set, prost takes the later one, which may not be the
//! intended one.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::{
    DecodeError, Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

use crate::{
    error::{Error, truncate},
    model::FieldViolation,
    pb,
};

/// The maximum nesting depth that prost decodes; prost itself rejects deeper messages.
const MAX_DEPTH: usize = 100;
/// The maximum number of elements of a request's repeated fields, all together and without values: far more than the
/// bounds of the fields add up to. Each takes two bytes on the wire, and a hundred once it is decoded.
const MAX_ELEMENTS: usize = 32_768;
/// The maximum length of a path in an error, in bytes. Valid filters have shorter paths.
const MAX_PATH: usize = 256;

/// The fields of every message of the API and of the messages it refers to, from the same descriptors that
/// the decoders are generated from.
static SCHEMAS: LazyLock<HashMap<String, MessageSchema>> = LazyLock::new(|| {
    let descriptors = prost_types::FileDescriptorSet::decode(pb::FILE_DESCRIPTOR_SET)
        .expect("the build encoded the descriptors");
    let mut schemas = HashMap::new();
    for file in &descriptors.file {
        for message in &file.message_type {
            collect(&format!(".{}", file.package()), message, &mut schemas);
        }
    }
    schemas
});

struct MessageSchema {
    fields: Vec<FieldSchema>,
}

struct FieldSchema {
    number: u32,
    name: String,
    repeated: bool,
    /// `true` for the values of a list and the fields of a struct, whose bytes are bounded.
    holds_values: bool,
    /// The full name of the message type, if the field holds a message.
    message_type: Option<String>,
    /// The index of the `oneof` that the field is a member of.
    oneof: Option<i32>,
}

fn collect(
    parent: &str,
    message: &prost_types::DescriptorProto,
    schemas: &mut HashMap<String, MessageSchema>,
) {
    use prost_types::field_descriptor_proto::{Label, Type};
    let name = format!("{parent}.{}", message.name());
    for inner in &message.nested_type {
        collect(&name, inner, schemas);
    }
    let fields = message.field.iter().map(|field| FieldSchema {
        number: field.number().unsigned_abs(),
        name: field.name().to_owned(),
        repeated: field.label() == Label::Repeated,
        holds_values: name.starts_with(".google.protobuf."),
        message_type: (field.r#type() == Type::Message).then(|| field.type_name().to_owned()),
        oneof: field.oneof_index.filter(|_| !field.proto3_optional()),
    });
    let fields = fields.collect();
    schemas.insert(name, MessageSchema { fields });
}

/// Checks the encoded bytes of the message `weir.v1.{message}`. Problems at the top level are reported under
/// the name of the message, all others under the path of the nested message.
pub(super) fn check(message: &str, bytes: &[u8]) -> Result<(), Error> {
    let Some(schema) = SCHEMAS.get(&format!(".weir.v1.{message}")) else {
        return Ok(());
    };
    let mut elements = 0;
    walk(schema, bytes, (0, &mut elements)).map_err(|finding| {
        let path = match finding.path.strip_prefix('.') {
            Some(path) => truncate(path, MAX_PATH),
            None => message.to_owned(),
        };
        match finding.problem {
            Problem::UnknownField(number) => Error::UnknownField {
                message: path,
                number,
            },
            Problem::OneofConflict(first, second) => violation(
                path,
                format!("sets both {first} and {second}: set only one of them"),
            ),
            Problem::Malformed(error) => violation(path, format!("malformed: {error}")),
            Problem::TooMany => violation(
                path,
                format!("is one of more than {MAX_ELEMENTS} elements: send fewer"),
            ),
        }
    })
}

/// Returns an error for one invalid field of a request.
pub(super) fn violation(field: String, description: String) -> Error {
    Error::InvalidRequest(vec![FieldViolation { field, description }])
}

enum Problem {
    UnknownField(u32),
    OneofConflict(String, String),
    Malformed(DecodeError),
    TooMany,
}

struct Finding {
    /// The path of the nested message that has the problem; each segment starts with a dot.
    path: String,
    problem: Problem,
}

impl Finding {
    fn at_root(problem: Problem) -> Self {
        Self {
            path: String::new(),
            problem,
        }
    }
}

impl From<DecodeError> for Finding {
    fn from(error: DecodeError) -> Self {
        Self::at_root(Problem::Malformed(error))
    }
}

/// Checks a message and the messages in it, down to the depth that prost decodes.
fn walk(
    schema: &MessageSchema,
    message: &[u8],
    (depth, elements): (usize, &mut usize),
) -> Result<(), Finding> {
    let mut rest = message;
    let mut chosen: Vec<&FieldSchema> = Vec::new();
    while !rest.is_empty() {
        let start = message.len() - rest.len();
        let (number, wire_type) = decode_key(&mut rest)?;
        let Some(field) = schema.fields.iter().find(|it| it.number == number) else {
            return Err(Finding::at_root(Problem::UnknownField(number)));
        };
        if field.oneof.is_some() {
            match chosen.iter().find(|it| it.oneof == field.oneof) {
                Some(first) if first.number != number => {
                    let names = (first.name.clone(), field.name.clone());
                    return Err(Finding::at_root(Problem::OneofConflict(names.0, names.1)));
                }
                Some(_) => {}
                None => chosen.push(field),
            }
        }
        if field.repeated && !field.holds_values {
            *elements += 1;
            if *elements > MAX_ELEMENTS {
                return Err(Finding {
                    path: path_segment(field, &message[..start]),
                    problem: Problem::TooMany,
                });
            }
        }
        let inner = field
            .message_type
            .as_ref()
            .and_then(|name| SCHEMAS.get(name));
        match inner {
            Some(inner) if wire_type == WireType::LengthDelimited && depth < MAX_DEPTH => {
                let length = decode_varint(&mut rest)?;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                // Truncated: prost reports it.
                let Some((head, tail)) = rest.split_at_checked(length) else {
                    return Ok(());
                };
                walk(inner, head, (depth + 1, elements)).map_err(|finding| {
                    let path_segment = path_segment(field, &message[..start]);
                    let path = path_segment + &finding.path;
                    Finding { path, ..finding }
                })?;
                rest = tail;
            }
            _ => skip_field(wire_type, number, &mut rest, DecodeContext::default())?,
        }
    }
    Ok(())
}

/// Returns a field's segment of a path. The index of a repeated field is the number of its earlier
/// occurrences.
fn path_segment(field: &FieldSchema, mut before: &[u8]) -> String {
    if !field.repeated {
        return format!(".{}", field.name);
    }
    let mut index = 0;
    // These bytes were walked once without an error.
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
    fn length_delimited(number: u32, inner: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        prost::encoding::encode_key(number, WireType::LengthDelimited, &mut out);
        prost::encoding::encode_varint(inner.len() as u64, &mut out);
        out.put_slice(inner);
        out
    }

    const UNKNOWN: &[u8] = &[0x98, 0x06, 0x01]; // Field 99, a varint.

    fn unknown_field(bytes: &[u8]) -> (String, u32) {
        match check("WatchRequest", bytes) {
            Err(Error::UnknownField { message, number }) => (message, number),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_message_in_a_request_has_a_schema() {
        for name in [
            ".weir.v1.WatchRequest",
            ".weir.v1.GetServerInfoRequest",
            ".weir.v1.Filter",
            ".weir.v1.FilterGroup",
            ".weir.v1.FieldFilter",
            ".weir.v1.RegexFilter",
            ".weir.v1.Comparison",
            ".google.protobuf.Value",
            ".google.protobuf.ListValue",
            ".google.protobuf.Struct",
            ".google.protobuf.Struct.FieldsEntry",
            ".google.protobuf.Timestamp",
            ".google.protobuf.Duration",
        ] {
            assert!(SCHEMAS.contains_key(name), "{name}");
        }
        let inner = SCHEMAS.values().flat_map(|it| &it.fields);
        for name in inner.filter_map(|field| field.message_type.as_ref()) {
            assert!(SCHEMAS.contains_key(name), "{name}");
        }
    }

    #[test]
    fn an_unknown_field_is_found_in_every_message() {
        let value = |operator: u32, inner: &[u8]| {
            length_delimited(4, &length_delimited(1, &length_delimited(operator, inner)))
        };
        for (bytes, path) in [
            (UNKNOWN.to_vec(), "WatchRequest"),
            (length_delimited(4, UNKNOWN), "filters[0]"),
            (
                length_delimited(4, &length_delimited(1, UNKNOWN)),
                "filters[0].field",
            ),
            (
                length_delimited(4, &length_delimited(3, UNKNOWN)),
                "filters[0].any_of",
            ),
            (
                length_delimited(
                    4,
                    &length_delimited(
                        3,
                        &[length_delimited(1, b""), length_delimited(1, UNKNOWN)].concat(),
                    ),
                ),
                "filters[0].any_of.filters[1]",
            ),
            (value(12, UNKNOWN), "filters[0].field.regex"),
            (value(14, UNKNOWN), "filters[0].field.compare"),
            (value(2, UNKNOWN), "filters[0].field.eq"),
            (value(8, UNKNOWN), "filters[0].field.in"),
            (
                value(
                    8,
                    &[length_delimited(1, b""), length_delimited(1, UNKNOWN)].concat(),
                ),
                "filters[0].field.in.values[1]",
            ),
            (
                value(2, &length_delimited(5, &length_delimited(1, UNKNOWN))),
                "filters[0].field.eq.struct_value.fields[0]",
            ),
            (length_delimited(6, UNKNOWN), "start_time"),
            (length_delimited(8, UNKNOWN), "end_time"),
            (length_delimited(14, UNKNOWN), "progress_interval"),
        ] {
            assert_eq!(unknown_field(&bytes), (path.to_owned(), 99));
        }
    }

    #[test]
    fn two_oneof_members_are_rejected_but_one_sent_twice_is_not() {
        let both = |bytes: &[u8], field: &str, words: &str| match check("WatchRequest", bytes) {
            Err(Error::InvalidRequest(violations)) => {
                assert_eq!(violations[0].field, field);
                assert!(violations[0].description.contains(words), "{violations:?}");
            }
            other => panic!("{other:?}"),
        };
        let start = [length_delimited(5, b"x"), length_delimited(6, b"")].concat();
        both(&start, "WatchRequest", "resume_token and start_time");
        let filter = length_delimited(
            4,
            &[length_delimited(1, b""), length_delimited(2, b"")].concat(),
        );
        both(&filter, "filters[0]", "field and all_of");
        let comparison = [length_delimited(2, b"1"), length_delimited(3, b"")].concat();
        let field = length_delimited(1, &length_delimited(14, &comparison));
        both(
            &length_delimited(4, &field),
            "filters[0].field.compare",
            "json and bson",
        );
        let twice = [length_delimited(6, b""), length_delimited(6, b"")].concat();
        assert!(check("WatchRequest", &twice).is_ok());
    }

    #[test]
    fn more_elements_than_any_request_needs_are_rejected_and_values_are_not_counted() {
        let empty = |field: u32, count: usize| length_delimited(field, b"").repeat(count);
        for (field, name) in [(2, "collections"), (4, "filters"), (11, "fields")] {
            assert!(check("WatchRequest", &empty(field, MAX_ELEMENTS)).is_ok());
            let refused = check("WatchRequest", &empty(field, MAX_ELEMENTS + 1));
            let Err(Error::InvalidRequest(violations)) = refused else {
                panic!("{name}: {refused:?}");
            };
            assert_eq!(violations[0].field, format!("{name}[{MAX_ELEMENTS}]"));
        }
        let both = [empty(2, MAX_ELEMENTS), empty(4, 1)].concat();
        assert!(
            check("WatchRequest", &both).is_err(),
            "they are counted together"
        );
        let list = length_delimited(8, &empty(1, 10 * MAX_ELEMENTS));
        let list = length_delimited(4, &length_delimited(1, &list));
        assert!(check("WatchRequest", &list).is_ok());
    }

    #[test]
    fn paths_in_errors_are_truncated() {
        let deep = (0..45).fold(UNKNOWN.to_vec(), |inner, _| {
            length_delimited(1, &length_delimited(2, &inner))
        });
        let (path, _) = unknown_field(&length_delimited(4, &length_delimited(2, &deep)));
        assert!(path.len() < 300, "{} bytes", path.len());
    }
}
