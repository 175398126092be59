//! What is sent as text, four libraries read back as the document that MongoDB holds: pymongo, npm's bson, the crate
//! bson, and Java's org.bson.
//!
//! Thousands of documents, random and odd ones, go through the encoder in each format. Each library reads all texts with
//! its reader of Extended JSON, and writes each as BSON. What a library is known to do to some values is named in
//! `equal::Fault` and in docs/formats.md, and must still be so. `WEIR_READERS_SEED` repeats a failure.

mod documents;
mod equal;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use mongodb::bson::{Bson, RawDocumentBuf, doc};
use prost::Message as _;
use prost_types::value::Kind;
use weir::model::{self, Rendering};
use weir::pb;
use weir::pb::document::Value;
use weir::pipeline::{Plan, RequestLimits, Watch};
use weir::source::Event;
use weir::wire::{self, TokenContext};

use crate::support::{node, python, repository};
use equal::Comparison;

/// The number of random documents.
const DOCUMENTS: usize = 2_500;

/// The depth of random documents.
const DEPTH: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    Python,
    Node,
    Rust,
    Java,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    CanonicalJson,
    Struct,
}

/// A document, and its text in a format.
struct Case {
    format: Format,
    document: Vec<u8>,
    text: String,
    /// Whether the text keeps the order of fields.
    ordered: bool,
}

#[test]
fn a_document_that_is_sent_as_text_is_read_back_equal_by_four_readers() {
    let seed = std::env::var("WEIR_READERS_SEED");
    let seed = seed.map_or_else(|_| fastrand::u64(..), |it| it.parse().expect("a number"));
    println!("again with WEIR_READERS_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut documents = documents::fixed();
    documents.extend((0..DOCUMENTS).map(|_| documents::document(&mut rng, DEPTH)));
    let cases = cases(&documents);
    assert!(
        cases.len() > documents.len() * 3 * 4 / 5,
        "most documents are text: {} of {}",
        cases.len(),
        documents.len() * 3
    );
    std::thread::scope(|scope| {
        for reader in [Reader::Python, Reader::Node, Reader::Rust, Reader::Java] {
            let cases = &cases;
            scope.spawn(move || check(reader, cases));
        }
    });
}

/// Checks what a reader makes of all texts, and that its known faults are still there.
fn check(reader: Reader, cases: &[Case]) {
    let texts: String = cases.iter().map(|it| it.text.clone() + "\n").collect();
    let output = match reader {
        Reader::Rust => cases.iter().map(|it| read(&it.text) + "\n").collect(),
        _ => output_of(reader, &texts),
    };
    let results: Vec<&str> = output.lines().collect();
    assert_eq!(
        results.len(),
        cases.len(),
        "{reader:?} answered with other lines"
    );
    let mut seen = BTreeSet::new();
    let mut failures = Vec::new();
    for (case, result) in cases.iter().zip(results) {
        let mut comparison = Comparison {
            reader,
            format: case.format,
            ordered: case.ordered && reader != Reader::Rust,
            seen: BTreeSet::new(),
        };
        let outcome = match hex(result) {
            Some(read) => comparison.document(&case.document, &read),
            None => comparison.refusal(&case.document, result),
        };
        seen.append(&mut comparison.seen);
        if let Err(difference) = outcome {
            failures.push(format!("{:?} {}: {difference}", case.format, case.text));
        }
    }
    // The shortest text shows a fault best.
    failures.sort_by_key(String::len);
    failures.truncate(5);
    assert!(failures.is_empty(), "{reader:?}: {failures:#?}");
    assert_eq!(
        seen,
        reader.faults(),
        "what {reader:?} is known to do has changed"
    );
}

/// Encodes documents in each format. What is BSON is left out, and checked.
fn cases(documents: &[Vec<u8>]) -> Vec<Case> {
    let mut cases = Vec::new();
    for document in documents {
        for (format, of_model) in [
            (Format::Json, model::Format::Json),
            (Format::CanonicalJson, model::Format::CanonicalJson),
            (Format::Struct, model::Format::Struct),
        ] {
            let (format, text, ordered) = match encoded(document, of_model) {
                Value::Bson(bytes) => {
                    assert_eq!(&bytes[..], &document[..]);
                    continue;
                }
                // A Struct that is too deep is relaxed JSON.
                Value::Json(text) if format == Format::Struct => (Format::Json, text, true),
                Value::Json(text) => (format, text, true),
                Value::Struct(held) => (format, text_of_struct(&held), false),
                Value::Null(_) => panic!("a document became null"),
            };
            cases.push(Case {
                format,
                document: document.clone(),
                text,
                ordered,
            });
        }
    }
    cases
}

/// Returns what a client is sent of an inserted document.
fn encoded(document: &[u8], format: model::Format) -> Value {
    let document = RawDocumentBuf::from_bytes(document.to_vec()).expect("it is BSON");
    let mut event = RawDocumentBuf::try_from(&doc! {
        "_id": { "_data": "82AA" },
        "operationType": "insert",
    })
    .expect("it is BSON");
    event.append(mongodb::bson::cstr!("fullDocument"), document);
    let raw = event.as_bytes();
    let event = Event::parse(raw, 0..raw.len()).expect("it is an event");
    let request = pb::WatchRequest {
        database: "shop".into(),
        collections: vec!["orders".into()],
        ..Default::default()
    };
    let watch = Watch::from_request(request, &RequestLimits::default()).expect("it is valid");
    let context = TokenContext::new("rs0", &Plan::shared(&watch));
    let rendering = Rendering::unrestricted(format);
    let encoded = wire::encode(raw, [&event], &context, &rendering, |chunk| chunk);
    let change = pb::ChangeEvent::decode(encoded[0].message()).expect("it decodes");
    let Some(pb::change_event::Change::Insert(insert)) = change.change else {
        panic!("an insert became {change:?}");
    };
    insert
        .full_document
        .and_then(|it| it.value)
        .expect("the document is set")
}

/// Returns a `Struct` as protobuf's JSON mapping has it. The map has no order. Of code and of a DBPointer, the members
/// come in that of the specification, without which Java's reader and Go's misread them.
fn text_of_struct(held: &prost_types::Struct) -> String {
    let mut fields: Vec<_> = held.fields.iter().collect();
    if fields.iter().map(|it| it.0.as_str()).eq(["$id", "$ref"]) {
        fields.reverse();
    }
    let fields = fields.into_iter().map(|(name, value)| {
        let value = text_of_value(value.kind.as_ref().expect("a value is set"));
        format!("{}:{value}", serde_json::json!(name))
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn text_of_value(kind: &Kind) -> String {
    match kind {
        Kind::NullValue(_) => "null".to_owned(),
        Kind::NumberValue(number) => text_of_number(*number),
        Kind::StringValue(text) => serde_json::json!(text).to_string(),
        Kind::BoolValue(value) => value.to_string(),
        Kind::StructValue(held) => text_of_struct(held),
        Kind::ListValue(list) => {
            let values = list.values.iter();
            let values = values.map(|it| text_of_value(it.kind.as_ref().expect("a value is set")));
            format!("[{}]", values.collect::<Vec<_>>().join(","))
        }
    }
}

/// A whole number has no point, as Go writes it. Python and Java give it one, and readers then refuse `$minKey`.
fn text_of_number(number: f64) -> String {
    let is_negative_zero = number == 0.0 && number.is_sign_negative();
    match number.fract() == 0.0 && number.abs() < 1e15 && !is_negative_zero {
        true => format!("{number:.0}"),
        false => serde_json::json!(number).to_string(),
    }
}

/// Reads a text as the crate bson says to, and returns its BSON in hexadecimal.
fn read(text: &str) -> String {
    let parsed = serde_json::from_str::<serde_json::Value>(text).map_err(|it| it.to_string());
    let value = parsed.and_then(|it| Bson::try_from(it).map_err(|it| it.to_string()));
    match value {
        Ok(Bson::Document(document)) => {
            let bytes = document.to_vec().expect("it can be encoded");
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        }
        Ok(other) => format!("error: {other:?} is no document"),
        Err(error) => format!("error: {}", error.replace('\n', " ")),
    }
}

/// Runs a reader on all texts. It answers each line with BSON in hexadecimal, or with an error.
fn output_of(reader: Reader, texts: &str) -> String {
    let scripts = repository().join("tests/interop");
    let (program, script): (PathBuf, _) = match reader {
        Reader::Python => (python(), "python/read_json.py"),
        Reader::Node => (node(), "node/read_json.mjs"),
        Reader::Java => (python(), "java/read_json.py"),
        Reader::Rust => unreachable!("it is no program"),
    };
    let mut child = Command::new(program)
        .arg(scripts.join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the reader starts");
    let mut input = child.stdin.take().expect("it has an input");
    std::thread::scope(|scope| {
        // It may answer before it has read everything.
        scope.spawn(move || input.write_all(texts.as_bytes()));
        let output = child.wait_with_output().expect("the reader ends");
        assert!(
            output.status.success(),
            "{reader:?} ended with {}",
            output.status
        );
        String::from_utf8(output.stdout).expect("the answers are text")
    })
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}
