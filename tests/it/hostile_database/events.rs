//! Events as no MongoDB should send them.

use mongodb::bson::{Bson, Document, doc, spec::ElementType};

use crate::support::stand_in::{FIRST_SECOND, RawWriter, event_token, string_value};

const DOUBLE: u8 = ElementType::Double as u8;
const STRING: u8 = ElementType::String as u8;
const DOCUMENT: u8 = ElementType::EmbeddedDocument as u8;
const ARRAY: u8 = ElementType::Array as u8;
const BINARY: u8 = ElementType::Binary as u8;
const NULL: u8 = ElementType::Null as u8;
const INT32: u8 = ElementType::Int32 as u8;
const TIMESTAMP: u8 = ElementType::Timestamp as u8;
/// A type that does not exist in BSON.
const UNKNOWN: u8 = 0x2a;

/// An event, made for its position in the log.
pub struct Case {
    pub what: &'static str,
    pub event: Box<dyn Fn(usize) -> Vec<u8>>,
}

fn case(what: &'static str, event: impl Fn(usize) -> Vec<u8> + 'static) -> Case {
    Case {
        what,
        event: Box::new(event),
    }
}

pub fn bytes(document: &Document) -> Vec<u8> {
    document.to_vec().expect("it is BSON")
}

/// An insert, without the fields that a case brings itself.
fn head(position: usize, without: &[&str]) -> RawWriter {
    let mut event = RawWriter::new();
    let seconds = FIRST_SECOND + u32::try_from(position).expect("a position is small");
    let time = u64::from(seconds) << 32 | 1;
    let fields: [(u8, &str, Vec<u8>); 5] = [
        (DOCUMENT, "_id", bytes(&event_token(position))),
        (STRING, "operationType", string_value("insert")),
        (TIMESTAMP, "clusterTime", time.to_le_bytes().to_vec()),
        (
            DOCUMENT,
            "ns",
            bytes(&doc! { "db": "stand_in", "coll": "orders" }),
        ),
        (DOCUMENT, "documentKey", bytes(&doc! { "_id": 7 })),
    ];
    for (kind, name, value) in fields {
        if !without.contains(&name) {
            event.put(kind, name, &value);
        }
    }
    event
}

/// An update with these documents: its key, the updated fields, and the documents after and before.
pub fn update_of(position: usize, [key, updated, after, before]: [&[u8]; 4]) -> Vec<u8> {
    let mut description = RawWriter::new();
    description.put(DOCUMENT, "updatedFields", updated);
    description.put(ARRAY, "removedFields", &bytes(&doc! {}));
    let mut event = head(position, &["operationType", "documentKey"]);
    event.put(STRING, "operationType", &string_value("update"));
    event.put(DOCUMENT, "documentKey", key);
    event.put(DOCUMENT, "updateDescription", &description.finish());
    event.put(DOCUMENT, "fullDocument", after);
    event.put(DOCUMENT, "fullDocumentBeforeChange", before);
    event.finish()
}

/// An insert of a document with these bytes.
fn of_document(what: &'static str, document: Vec<u8>) -> Case {
    case(what, move |position| {
        let mut event = head(position, &[]);
        event.put(DOCUMENT, "fullDocument", &document);
        event.finish()
    })
}

/// An insert with a field of another type or value, or with a duplicate field.
fn with(
    what: &'static str,
    without: &'static str,
    kind: u8,
    name: &'static str,
    value: &[u8],
) -> Case {
    let value = value.to_vec();
    case(what, move |position| {
        let mut event = head(position, &[without]);
        event.put(DOCUMENT, "fullDocument", &bytes(&doc! { "_id": 7 }));
        event.put(kind, name, &value);
        event.finish()
    })
}

fn of_fields(fields: &[(u8, &[u8], &[u8])]) -> Vec<u8> {
    let mut document = RawWriter::new();
    for (kind, key, value) in fields {
        document.put(*kind, key, value);
    }
    document.finish()
}

/// Nested documents.
fn nested(kind: u8, levels: usize) -> Vec<u8> {
    // From the inside out: each enclosing length grows by eight bytes.
    let mut document = of_fields(&[(INT32, b"a", &7_i32.to_le_bytes())]);
    let (mut front, mut back) = (Vec::new(), Vec::new());
    let inner = document.len();
    for level in (1..levels).rev() {
        let length = i32::try_from(inner + level * 8).expect("a test's document is small");
        front.extend(length.to_le_bytes());
        front.extend([kind, b'0', 0]);
        back.push(0);
    }
    front.append(&mut document);
    front.append(&mut back);
    // The outermost is a document in any case.
    front
}

/// Odd events that are well-formed at their top level: they pass.
pub fn odd() -> Vec<Case> {
    let one = 1_i32.to_le_bytes();
    let empty = bytes(&doc! {});
    let length = |length: i32| length.to_le_bytes().to_vec();
    let text = |length: i32| [&length.to_le_bytes()[..], b"abc\0"].concat();
    let many: Vec<(String, Bson)> = (0..50_000)
        .map(|it| (format!("field{it}"), Bson::Int32(it)))
        .collect();
    let many = bytes(&many.into_iter().collect());
    let mut cases = vec![
        of_document(
            "a duplicate name",
            of_fields(&[(INT32, b"a", &one), (INT32, b"a", &one), (NULL, b"a", b"")]),
        ),
        of_document("100 levels", nested(DOCUMENT, 100)),
        of_document("200 levels", nested(DOCUMENT, 200)),
        of_document("1,000 levels", nested(DOCUMENT, 1_000)),
        of_document("10,000 levels", nested(DOCUMENT, 10_000)),
        of_document("10,000 levels of arrays", nested(ARRAY, 10_000)),
        of_document("50,000 fields", many),
        of_document(
            "a name that is not UTF-8",
            of_fields(&[(INT32, b"\xff\xfe", &one)]),
        ),
        of_document(
            "a string that is not UTF-8",
            of_fields(&[(STRING, b"a", &string_value(b"\xc3\x28"))]),
        ),
        of_document("an empty name", of_fields(&[(INT32, b"", &one)])),
        of_document(
            "an array with odd names",
            of_fields(&[(
                ARRAY,
                b"a",
                &of_fields(&[(INT32, b"x", &one), (INT32, b"", &one), (INT32, b"0", &one)]),
            )]),
        ),
        of_document("an unknown type", of_fields(&[(UNKNOWN, b"a", &one)])),
        of_document(
            "a string of a negative length",
            of_fields(&[(STRING, b"a", &text(-1))]),
        ),
        of_document(
            "a string of length zero",
            of_fields(&[(STRING, b"a", &text(0))]),
        ),
        of_document(
            "a string longer than its document",
            of_fields(&[(STRING, b"a", &text(i32::MAX))]),
        ),
        of_document(
            "a string shorter than its length",
            of_fields(&[(STRING, b"a", &text(2))]),
        ),
        of_document(
            "a binary of a negative length",
            of_fields(&[(BINARY, b"a", &[&length(-5)[..], b"\0"].concat())]),
        ),
        of_document(
            "an inner document of a negative length",
            of_fields(&[(DOCUMENT, b"a", &length(-1))]),
        ),
        of_document(
            "an inner document longer than the whole",
            of_fields(&[(DOCUMENT, b"a", &length(1_000_000))]),
        ),
        of_document(
            "an inner document of an impossible length",
            of_fields(&[(DOCUMENT, b"a", &length(3))]),
        ),
        of_document(
            "an inner document without a terminator",
            of_fields(&[(DOCUMENT, b"a", b"\x05\0\0\0\x07")]),
        ),
        of_document("an empty document", empty.clone()),
        with("no time", "clusterTime", NULL, "extra", b""),
        with(
            "a time that is a string",
            "clusterTime",
            STRING,
            "clusterTime",
            &string_value("now"),
        ),
        with("a time twice", "", TIMESTAMP, "clusterTime", &[9; 8]),
        with(
            "a wall time that is a number",
            "",
            DOUBLE,
            "wallTime",
            &1.5_f64.to_le_bytes(),
        ),
        with(
            "a wall time beyond every calendar",
            "",
            0x09,
            "wallTime",
            &i64::MAX.to_le_bytes(),
        ),
        with(
            "a wall time before every calendar",
            "",
            0x09,
            "wallTime",
            &i64::MIN.to_le_bytes(),
        ),
        with("no namespace", "ns", NULL, "extra", b""),
        with(
            "a namespace that is a string",
            "ns",
            STRING,
            "ns",
            &string_value("a.b"),
        ),
        with(
            "a namespace that is broken inside",
            "ns",
            DOCUMENT,
            "ns",
            b"\x07\0\0\0\x2a\0\0",
        ),
        with("no document key", "documentKey", NULL, "extra", b""),
        with(
            "a document key that is null",
            "documentKey",
            NULL,
            "documentKey",
            b"",
        ),
        with(
            "a document key that is a number",
            "documentKey",
            INT32,
            "documentKey",
            &one,
        ),
        with("a transaction's number alone", "", INT32, "txnNumber", &one),
        with(
            "an unknown operation",
            "operationType",
            STRING,
            "operationType",
            &string_value("defrost"),
        ),
        with(
            "an operation without a name",
            "operationType",
            STRING,
            "operationType",
            &string_value(""),
        ),
        with(
            "an operation that is not UTF-8",
            "operationType",
            STRING,
            "operationType",
            &string_value(b"in\xffsert"),
        ),
        with(
            "an operation that is a number",
            "operationType",
            INT32,
            "operationType",
            &one,
        ),
        with("no operation", "operationType", NULL, "extra", b""),
        with(
            "a second document",
            "",
            DOCUMENT,
            "fullDocument",
            &bytes(&doc! { "other": 1 }),
        ),
        with(
            "a second operation",
            "",
            STRING,
            "operationType",
            &string_value("delete"),
        ),
        with(
            "a second token",
            "",
            DOCUMENT,
            "_id",
            &bytes(&doc! { "_data": "other" }),
        ),
        with("a second token that is no token", "", INT32, "_id", &one),
        with("a fragment of nothing", "", DOCUMENT, "splitEvent", &empty),
        with(
            "a fragment that is its only one",
            "",
            DOCUMENT,
            "splitEvent",
            &bytes(&doc! { "fragment": 1, "of": 1 }),
        ),
        with(
            "a fragment that is a string",
            "",
            STRING,
            "splitEvent",
            &string_value("1/1"),
        ),
    ];
    cases.push(case("50,000 fields at the top", |position| {
        let mut event = head(position, &[]);
        event.put(DOCUMENT, "fullDocument", &bytes(&doc! { "_id": 7 }));
        for number in 0..50_000 {
            event.put(NULL, format!("field{number}"), b"");
        }
        event.finish()
    }));
    cases.push(case("nothing but a token", |position| {
        of_fields(&[(DOCUMENT, b"_id", &bytes(&event_token(position)))])
    }));
    cases.push(case("a document that is null", |position| {
        let mut event = head(position, &[]);
        event.put(NULL, "fullDocument", b"");
        event.finish()
    }));
    cases.push(case("a document that is a string", |position| {
        let mut event = head(position, &[]);
        event.put(STRING, "fullDocument", &string_value("text"));
        event.finish()
    }));
    cases
}

/// Broken events, of which a client cannot use even the position.
pub fn broken() -> Vec<Case> {
    fn whole(position: usize) -> Vec<u8> {
        let mut event = head(position, &[]);
        event.put(
            DOCUMENT,
            "fullDocument",
            &bytes(&doc! { "_id": 7, "text": "x".repeat(40) }),
        );
        event.finish()
    }
    fn of_length(change: impl Fn(i32) -> i32 + 'static) -> Box<dyn Fn(usize) -> Vec<u8>> {
        Box::new(move |position| {
            let mut event = whole(position);
            let length = i32::try_from(event.len()).expect("it is small");
            event[..4].copy_from_slice(&change(length).to_le_bytes());
            event
        })
    }
    let mut cases = vec![
        case("an event that is empty", |_| bytes(&doc! {})),
        case("no token", |position| {
            let mut event = head(position, &["_id"]);
            event.put(DOCUMENT, "fullDocument", &bytes(&doc! { "_id": 7 }));
            event.finish()
        }),
        case("a token that is a string", |position| {
            let mut event = head(position, &["_id"]);
            event.put(STRING, "_id", &string_value("82AA"));
            event.finish()
        }),
        case("a token that is null", |position| {
            let mut event = head(position, &["_id"]);
            event.put(NULL, "_id", b"");
            event.finish()
        }),
        case("an unknown type at the top", |position| {
            let mut event = head(position, &[]);
            event.put(UNKNOWN, "extra", &[1, 2, 3, 4]);
            event.finish()
        }),
        case("a field that is cut off", |position| {
            let mut event = head(position, &[]);
            event.put(DOUBLE, "extra", &[1, 2, 3]);
            event.finish()
        }),
        case("a name without a terminator", |position| {
            let mut event = whole(position);
            let end = event.len() - 1;
            event[end] = INT32;
            event.extend(b"name");
            let length = i32::try_from(event.len()).expect("it is small");
            event[..4].copy_from_slice(&length.to_le_bytes());
            event
        }),
        case("a terminator in the middle", |position| {
            let mut event = head(position, &[]);
            event.put(0, "", b"");
            event.finish()
        }),
        case("no end", |position| {
            let mut event = whole(position);
            *event.last_mut().expect("it is not empty") = 1;
            event
        }),
        case("nothing at all", |_| Vec::new()),
        case("noise", |_| {
            (0..200_u8).map(|it| it.wrapping_mul(37)).collect()
        }),
    ];
    for (what, change) in [
        ("a length one too small", of_length(|it| it - 1)),
        ("a length one too large", of_length(|it| it + 1)),
        ("a length that is half", of_length(|it| it / 2)),
        ("a length that is huge", of_length(|_| i32::MAX)),
        ("a length that is negative", of_length(|it| -it)),
        ("a length of zero", of_length(|_| 0)),
        ("a length of four", of_length(|_| 4)),
    ] {
        cases.push(Case {
            what,
            event: change,
        });
    }
    cases
}
