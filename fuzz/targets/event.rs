//! Fuzz target: the bytes of an event, up to the message that a client decodes.

use bson::{Bson, Document};
use bytes::Bytes;
use prost::Message as _;
use serde_json::Value as Json;
use weir::{
    model::{FieldMask, Format, Operation, Rendering, TokenAudience},
    pb,
    raw::{ElementType, Elements},
    source::Event,
    wire,
};

use super::{
    field_coverage::{assert_no_field_lost, document_pairs},
    fixtures,
    input::{Input, document, put_element},
};

pub const FORMATS: [Format; 4] = [
    Format::Bson,
    Format::Json,
    Format::CanonicalJson,
    Format::Struct,
];

/// The maximum number of encoded bytes for each byte of an event, in any format. The worst case is an
/// empty value whose `Struct` form is long, such as an empty regular expression.
const MAX_BYTES_PER_INPUT_BYTE: usize = 40;
/// The maximum number of encoded bytes in addition to those of the event.
const MAX_FIXED_BYTES: usize = 1024;

/// The maximum nesting of JSON; a deeper document falls back to BSON.
const MAX_JSON_DEPTH: usize = 95;
/// The names to which Extended JSON, or one of its readers, gives a meaning.
const TYPE_NAMES: [&[u8]; 20] = [
    b"$binary",
    b"$code",
    b"$date",
    b"$dbPointer",
    b"$maxKey",
    b"$minKey",
    b"$numberDecimal",
    b"$numberDouble",
    b"$numberInt",
    b"$numberLong",
    b"$oid",
    b"$options",
    b"$regex",
    b"$regularExpression",
    b"$scope",
    b"$symbol",
    b"$timestamp",
    b"$type",
    b"$undefined",
    b"$uuid",
];
/// The maximum nesting that is compared; `serde_json` parses at most 128 levels.
const MAX_COMPARED_DEPTH: usize = 60;

/// The end of the year 9999, in milliseconds since 1970.
const LAST_FOUR_DIGIT_YEAR_MILLIS: i64 = 253_402_300_799_999;

/// Uses the input as an event, as a document or as fields of an event, and encodes it in every format.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mode = input.byte();
    let operation = Operation::ALL[usize::from(input.byte()) % Operation::ALL.len()];
    let name = match operation.name() {
        "" => "other",
        name => name,
    };
    let event = match mode % 3 {
        0 => input.0.to_vec(),
        1 => event_with(name, |elements| {
            put_element(elements, 3, "fullDocument", input.0);
            put_element(elements, 3, "documentKey", input.0);
        }),
        _ => event_with(name, |elements| elements.extend(input.0)),
    };
    check(&event);
}

/// Returns an event with the common elements and more elements after them.
fn event_with(operation: &str, more: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let head = fixtures::event(operation, Document::new());
    let head = head.to_vec().expect("it is BSON");
    let mut elements = head[4..head.len() - 1].to_vec();
    more(&mut elements);
    document(&elements)
}

/// Encodes an event in every format, and compares the result with the input.
pub fn check(raw: &[u8]) {
    let Ok(event) = Event::parse(raw, 0..raw.len()) else {
        let mut elements = Elements::new(raw).into_iter().flatten();
        let broken = elements.any(|it| it.is_err());
        let token = Elements::new(raw)
            .into_iter()
            .flatten()
            .map_while(Result::ok)
            .find(|it| it.key == b"_id");
        let unusable = token.is_none_or(|it| it.as_document().is_none());
        let refused = Elements::new(raw).is_err() || broken || unusable;
        return assert!(refused, "a valid event was rejected");
    };
    let whole = encoded(raw, &event, Format::Bson);
    assert_no_field_lost(raw, &event, &whole);
    for format in FORMATS {
        check_field_mask(raw, &event, format);
        let change = encoded(raw, &event, format);
        assert_eq!(change.resume_token, whole.resume_token);
        assert_eq!(change.operation, whole.operation);
        for (raw, document) in document_pairs(&whole, &change) {
            compare(&raw, &document, format);
        }
    }
}

/// Hides most names of the fixtures, and checks that no document of the event has one at its top level.
fn check_field_mask(raw: &[u8], event: &Event, format: Format) {
    const NAMES: [&str; 5] = ["text", "document.a", "a", "_id", "x"];
    let hiding = FieldMask::hiding(NAMES.map(str::to_owned)).expect("they are paths");
    let rendering = Rendering {
        format,
        mask: hiding.clone(),
        audience: Some(TokenAudience([3; 8])),
    };
    let change = encoded_for(raw, event, &rendering);
    check_included_fields(raw, event, format, &hiding);
    if format == Format::Bson {
        for (document, _) in document_pairs(&change, &change) {
            let names = Elements::new(&document).expect("what is left is BSON");
            for field in names {
                let field = field.expect("what is left is BSON");
                let top = field.key.split(|byte| *byte == b'.').next();
                assert!(
                    !["text", "a", "_id", "x"]
                        .iter()
                        .any(|it| Some(it.as_bytes()) == top)
                );
            }
        }
    }
}

/// Includes some names of the fixtures, and checks that no document shows another one at its top level, nor
/// a hidden one.
fn check_included_fields(raw: &[u8], event: &Event, format: Format, hiding: &FieldMask) {
    const NAMES: [&str; 5] = ["text", "document.b", "document.0.a", "list", "0.x"];
    let including = FieldMask::including(NAMES.map(str::to_owned)).expect("they are paths");
    for (mask, names) in [
        (
            including.with_hidden_fields_of(hiding),
            &["document", "list", "0"][..],
        ),
        (including, &["text", "document", "list", "0", "_id"]),
    ] {
        let rendering = Rendering {
            mask,
            ..Rendering::unrestricted(format)
        };
        let change = encoded_for(raw, event, &rendering);
        assert_eq!(change.unknown_fields, None, "nothing says what they hold");
        let insert = match change.change {
            Some(pb::change_event::Change::Insert(insert)) => insert,
            Some(pb::change_event::Change::Update(update)) => {
                assert_includes(update.update_description.unwrap_or_default(), names);
                continue;
            }
            _ => continue,
        };
        let Some(pb::document::Value::Bson(document)) =
            insert.full_document.and_then(|it| it.value)
        else {
            continue;
        };
        for field in Elements::new(&document).expect("what is left is BSON") {
            let field = field.expect("what is left is BSON");
            assert!(names.iter().any(|name| name.as_bytes() == field.key));
        }
    }
}

/// Checks that a description names only paths that begin with one of these names, unless it says itself how to
/// read a path.
fn assert_includes(description: pb::UpdateDescription, names: &[&str]) {
    let known = description.disambiguated_paths;
    let truncated = description.truncated_arrays.into_iter();
    let removed = description.removed_fields.into_iter();
    for path in removed.chain(truncated.map(|array| array.field)) {
        let first = path.split('.').next().unwrap_or_default();
        let is_known = known.iter().any(|it| it.path == path);
        assert!(
            is_known || names.contains(&first),
            "{path:?} is not included"
        );
    }
}

fn encoded(raw: &[u8], event: &Event, format: Format) -> pb::ChangeEvent {
    encoded_for(raw, event, &Rendering::unrestricted(format))
}

fn encoded_for(raw: &[u8], event: &Event, rendering: &Rendering) -> pb::ChangeEvent {
    let token_context = fixtures::token_context();
    let mut encoded = wire::encode(raw, [event], &token_context, rendering, |chunk| chunk);
    let encoded = encoded.pop().expect("one event went in");
    let most = raw.len() * MAX_BYTES_PER_INPUT_BYTE + MAX_FIXED_BYTES;
    assert!(
        encoded.size() <= most,
        "{} bytes became {} as {rendering:?}",
        raw.len(),
        encoded.size()
    );
    let field = encoded.field();
    assert_eq!(field.len(), encoded.size());
    let batch = pb::ChangeBatch::decode(field).expect("what was encoded can be decoded");
    let [change] = &batch.changes[..] else {
        panic!("one event became {}", batch.changes.len());
    };
    assert_eq!(change.resume_token, encoded.token());
    let alone = pb::ChangeEvent::decode(encoded.message()).expect("it can be decoded alone");
    assert_eq!(&alone, change);

    let sizes = (encoded.size() as u64, 1);
    let filter_match = pb::FilterMatch::Entered;
    for with_key in [true, false] {
        let stub = wire::encode_omitted(
            raw,
            event,
            &token_context,
            rendering,
            filter_match,
            sizes,
            with_key,
        );
        let stub = pb::ChangeBatch::decode(stub).expect("a stub can be decoded");
        assert_eq!(stub.changes[0].resume_token, change.resume_token);
    }
    alone
}

/// Compares a document with its encoding.
fn compare(raw: &Bytes, document: &pb::Document, format: Format) {
    use pb::document::Value;
    let value = document.value.as_ref().expect("a document holds something");
    let shape = Shape::of(raw);
    // The `bson` crate parses recursively, so too deep documents are skipped. It requires UTF-8 in the
    // indexes of arrays, which no format writes.
    let read = (shape.depth <= MAX_COMPARED_DEPTH && shape.utf8_indexes)
        .then(|| Document::from_reader(&raw[..]));
    let readable = matches!(read, Some(Ok(_)));
    match value {
        Value::Bson(bytes) => {
            assert_eq!(bytes, raw, "the BSON was changed");
            let needless = format != Format::Bson
                && readable
                && shape.well_formed
                && !shape.repeats
                && !shape.type_names;
            assert!(!needless, "{format:?} can represent {read:?}");
        }
        Value::Json(text) => {
            assert!(shape.depth <= MAX_JSON_DEPTH);
            assert!(!shape.repeats, "JSON has no repeated name");
            assert!(!shape.type_names, "JSON has no name of Extended JSON");
            let canonical = format == Format::CanonicalJson;
            let fallback = format == Format::Struct;
            if fallback {
                assert!(shape.depth >= 20, "a Struct can represent {read:?}");
            }
            let Some(read) = read else { return };
            let read = read.expect("invalid BSON was encoded as JSON");
            let json: Json = serde_json::from_str(text).expect("JSON can be read");
            let expected = extended_json(Bson::Document(read), canonical);
            assert!(
                equal(&json, &expected),
                "as {format:?}: {json} is not {expected}"
            );
        }
        Value::Struct(held) => {
            assert_eq!(format, Format::Struct);
            assert!(!shape.repeats, "a Struct has no repeated name");
            assert!(!shape.type_names, "a Struct has no name of Extended JSON");
            let Some(read) = read else { return };
            let read = read.expect("invalid BSON was encoded as a Struct");
            let expected = struct_numbers(extended_json(Bson::Document(read), false));
            assert_eq!(struct_json(held), expected);
        }
        Value::Null(_) => panic!("a document became null"),
    }
}

/// Returns the Extended JSON of the `bson` crate, with its errors corrected: it replaces dates after 9999
/// with the last day of 9999, omits trailing zeros of milliseconds, and does not write very small doubles
/// as `$numberDouble`.
fn extended_json(value: Bson, canonical: bool) -> Json {
    let inner = |value| extended_json(value, canonical);
    match value {
        Bson::Document(document) => document
            .into_iter()
            .map(|(name, value)| (name, inner(value)))
            .collect(),
        Bson::Array(values) => values.into_iter().map(inner).collect(),
        Bson::JavaScriptCodeWithScope(code) => serde_json::json!({
            "$code": code.code, "$scope": inner(Bson::Document(code.scope)),
        }),
        Bson::DateTime(date) if date.timestamp_millis() > LAST_FOUR_DIGIT_YEAR_MILLIS => {
            serde_json::json!({
                "$date": { "$numberLong": date.timestamp_millis().to_string() },
            })
        }
        Bson::DateTime(date) if !canonical && date.timestamp_millis() >= 0 => {
            let text = date.try_to_rfc3339_string().expect("it is in the calendar");
            let text = match text.split_once('.') {
                Some((second, part)) => format!("{second}.{:0<3}Z", part.trim_end_matches('Z')),
                None => text,
            };
            serde_json::json!({ "$date": text })
        }
        Bson::Double(number) if !number.is_finite() => {
            let text = match number {
                _ if number.is_nan() => "NaN",
                _ if number > 0.0 => "Infinity",
                _ => "-Infinity",
            };
            serde_json::json!({ "$numberDouble": text })
        }
        Bson::Double(number) if canonical => {
            serde_json::json!({ "$numberDouble": number.to_string() })
        }
        Bson::Double(number) => Json::from(number),
        value if canonical => value.into_canonical_extjson(),
        value => value.into_relaxed_extjson(),
    }
}

/// Compares JSON with any notation of doubles, and without the last digits of numbers, which `serde_json`
/// parses inexactly.
fn equal(one: &Json, other: &Json) -> bool {
    let text = |json: &Json| json.get("$numberDouble")?.as_str()?.parse::<f64>().ok();
    match (one, other) {
        (Json::Number(one), Json::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (one.as_f64(), other.as_f64());
            one.zip(other)
                .is_some_and(|(a, b)| a == b || (a - b).abs() <= 1e-12 * a.abs())
        }
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(a, b)| equal(a, b))
        }
        (Json::Object(fields), Json::Object(others)) => {
            if let (Some(a), Some(b)) = (text(one), text(other)) {
                return a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            }
            fields.len() == others.len()
                && fields
                    .iter()
                    .all(|(name, a)| others.get(name).is_some_and(|b| equal(a, b)))
        }
        _ => one == other,
    }
}

/// Converts numbers to doubles, and integers that are not exact as doubles to `$numberLong`.
fn struct_numbers(json: Json) -> Json {
    match json {
        Json::Number(number) => match number.as_i64() {
            Some(whole) if whole.unsigned_abs() > 1 << 53 => {
                serde_json::json!({ "$numberLong": whole.to_string() })
            }
            _ => Json::from(number.as_f64()),
        },
        Json::Array(values) => values.into_iter().map(struct_numbers).collect(),
        Json::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, struct_numbers(value)))
            .collect(),
        other => other,
    }
}

fn struct_json(held: &prost_types::Struct) -> Json {
    let fields = held.fields.iter();
    fields
        .map(|(name, value)| (name.clone(), value_json(value)))
        .collect()
}

fn value_json(value: &prost_types::Value) -> Json {
    use prost_types::value::Kind;
    match value.kind.as_ref().expect("a value is of a kind") {
        Kind::NullValue(_) => Json::Null,
        Kind::NumberValue(number) => Json::from(*number),
        Kind::StringValue(text) => Json::from(text.as_str()),
        Kind::BoolValue(value) => Json::from(*value),
        Kind::StructValue(held) => struct_json(held),
        Kind::ListValue(list) => list.values.iter().map(value_json).collect(),
    }
}

/// The structure of a document, as far as it can be walked.
#[derive(Debug)]
struct Shape {
    depth: usize,
    /// True if one of its documents has a repeated name.
    repeats: bool,
    /// True if one of its documents has a name to which Extended JSON gives a meaning.
    type_names: bool,
    /// True if the indexes of its arrays are UTF-8.
    utf8_indexes: bool,
    /// True if every value is valid for its type.
    well_formed: bool,
}

impl Shape {
    fn of(raw: &[u8]) -> Self {
        let mut shape = Self {
            depth: 0,
            repeats: false,
            type_names: false,
            utf8_indexes: true,
            well_formed: true,
        };
        let mut open: Vec<(&[u8], usize, bool, bool)> = vec![(raw, 1, true, true)];
        while let Some((document, depth, named, top)) = open.pop() {
            shape.depth = shape.depth.max(depth);
            let Ok(elements) = Elements::new(document) else {
                shape.well_formed = false;
                continue;
            };
            let mut names = std::collections::HashSet::new();
            for element in elements {
                let Ok(element) = element else {
                    shape.well_formed = false;
                    break;
                };
                shape.repeats |= named && !names.insert(element.key);
                shape.type_names |= named && TYPE_NAMES.contains(&element.key);
                shape.type_names |= top && element.key == b"$ref";
                shape.utf8_indexes &= named || std::str::from_utf8(element.key).is_ok();
                match element.kind {
                    ElementType::EmbeddedDocument => {
                        open.push((element.value, depth + 1, true, false));
                    }
                    ElementType::Array => open.push((element.value, depth + 1, false, false)),
                    ElementType::JavaScriptCodeWithScope => {
                        if let Some((_, scope)) = element.as_code_with_scope() {
                            open.push((scope, depth + 2, true, true));
                        }
                    }
                    ElementType::Binary => {
                        shape.well_formed &= element.as_binary().is_some();
                    }
                    _ => {}
                }
            }
        }
        shape
    }
}

/// Returns events of every operation, and a document with every type.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let with_mode = |mode: u8, bytes: Vec<u8>| [vec![mode, 0], bytes].concat();
    let mut seeds: Vec<_> = fixtures::events()
        .into_iter()
        .map(|(name, event)| (name, with_mode(0, event)))
        .collect();
    let document = fixtures::every_type().to_vec().expect("it is BSON");
    let elements = document[4..document.len() - 1].to_vec();
    seeds.push(("every-type", with_mode(1, document)));
    seeds.push(("fields", with_mode(2, elements)));
    seeds
}
