//! Documents with values of every type, as raw BSON: some with each odd value alone, and random ones.

use fastrand::Rng;
use mongodb::bson::Decimal128;

use crate::support::stand_in::{RawWriter, string_value};

pub const DOUBLE: u8 = 1;
pub const STRING: u8 = 2;
pub const DOCUMENT: u8 = 3;
pub const ARRAY: u8 = 4;
pub const BINARY: u8 = 5;
pub const UNDEFINED: u8 = 6;
pub const OBJECT_ID: u8 = 7;
pub const BOOLEAN: u8 = 8;
pub const DATE: u8 = 9;
pub const NULL: u8 = 10;
pub const REGEX: u8 = 11;
pub const DB_POINTER: u8 = 12;
pub const CODE: u8 = 13;
pub const SYMBOL: u8 = 14;
pub const SCOPED_CODE: u8 = 15;
pub const INT32: u8 = 16;
pub const TIMESTAMP: u8 = 17;
pub const INT64: u8 = 18;
pub const DECIMAL: u8 = 19;
pub const MIN_KEY: u8 = 255;
pub const MAX_KEY: u8 = 127;

/// Without the name of one backslash: after it, Node reads other names wrongly.
const NAMES: &[&str] = &[
    "",
    "a",
    "b",
    "_id",
    "a.b",
    "a.0",
    ".",
    "0",
    "7",
    "10",
    "01",
    "$",
    "$set",
    "$$a",
    "a.$oid",
    "$numberFloat",
    " ",
    "ß",
    "漢",
    "🦀",
    "\\u0000",
    "\\ud800",
    "\"",
    "/",
    "\n",
    "\u{1}",
    "\u{7f}",
    "\u{2028}",
    "\u{d7ff}",
    "\u{ffff}",
    "__proto__",
    "constructor",
    "length",
    "toJSON",
    "then",
    "class",
    "nil",
];

/// Names of Extended JSON, each of which some reader takes for its own.
const TYPE_NAMES: &[&str] = &[
    "$oid",
    "$date",
    "$numberInt",
    "$numberLong",
    "$numberDouble",
    "$numberDecimal",
    "$binary",
    "$type",
    "$uuid",
    "$regularExpression",
    "$regex",
    "$options",
    "$timestamp",
    "$minKey",
    "$maxKey",
    "$undefined",
    "$symbol",
    "$code",
    "$scope",
    "$dbPointer",
];

const TEXTS: &[&str] = &[
    "",
    "a",
    "5",
    "zz",
    "\0",
    "a\0b",
    "\"\\/",
    "\u{8}\u{c}\n\r\t\u{1}\u{1f}\u{7f}",
    "\\ud800",
    "\\u0000",
    "ß漢🦀",
    "\u{2028}\u{2029}\u{feff}",
    "\u{d7ff}\u{e000}\u{ffff}\u{10ffff}",
    "é and e\u{301}",
    "</script>",
    "5f0123456789abcdef012345",
    "2020-01-02T03:04:05Z",
    "NaN",
    "orders",
    "fs.files",
];

const DOUBLES: &[f64] = &[
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    0.1,
    5e-324,
    -5e-324,
    2.225_073_858_507_201e-308,
    f64::MIN_POSITIVE,
    1e-7,
    1e-5,
    1e15,
    1e16,
    1e17,
    1e21,
    1e22,
    1e23,
    1e100,
    1e308,
    f64::MAX,
    f64::MIN,
    9_007_199_254_740_992.0,
    9_007_199_254_740_994.0,
    2_147_483_648.0,
    4_294_967_296.0,
    9_223_372_036_854_775_808.0,
    -9_223_372_036_854_775_808.0,
    123_456_789.123_456_78,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
];

const INT32S: &[i32] = &[0, 1, -1, 9, 1_000_000, i32::MAX, i32::MIN];

const INT64S: &[i64] = &[
    0,
    1,
    -1,
    2_147_483_647,
    2_147_483_648,
    -2_147_483_648,
    -2_147_483_649,
    4_294_967_296,
    9_007_199_254_740_991,
    9_007_199_254_740_992,
    9_007_199_254_740_993,
    -9_007_199_254_740_992,
    -9_007_199_254_740_993,
    i64::MAX - 1,
    i64::MAX,
    i64::MIN,
    i64::MIN + 1,
];

/// Milliseconds: around 1970, the years 0, 1, 9999 and 275760, and the ends.
const DATES: &[i64] = &[
    0,
    1,
    999,
    1000,
    -1,
    -1000,
    1_577_934_245_006,
    1_577_934_245_060,
    1_577_934_245_600,
    951_782_400_000,
    -62_135_596_800_000,
    -62_135_596_800_001,
    -62_167_219_200_000,
    -62_167_219_200_001,
    253_402_300_799_999,
    253_402_300_800_000,
    8_640_000_000_000_000,
    8_640_000_000_000_001,
    -8_640_000_000_000_000,
    -8_640_000_000_000_001,
    i64::MAX,
    i64::MIN,
];

const DECIMALS: &[&str] = &[
    "0",
    "-0",
    "0E+3",
    "0E-6176",
    "0E+6111",
    "-0E-3",
    "1",
    "-1",
    "0.1",
    "1.50",
    "100",
    "1E+2",
    "1E-6176",
    "1E+6111",
    "9.999999999999999999999999999999999E+6144",
    "-9.999999999999999999999999999999999E+6144",
    "1234567890123456789012345678901234",
    "0.000001234567890123456789012345678901234",
    "1.23E-8",
    "1E-7",
    "0.000001",
    "NaN",
    "Infinity",
    "-Infinity",
];

const REGEXES: &[(&str, &str)] = &[
    ("", ""),
    ("^a", "i"),
    ("a\"\\d/$", "im"),
    ("ß漢🦀\n", "imsx"),
    ("a", "mi"),
    ("a", "xsmi"),
    ("a", "ilmsux"),
    ("(", "i"),
    ("a", "z"),
    ("[[:alpha:]]\\Q", "sx"),
];

/// Returns the value of an element: its type and its bytes.
fn value(rng: &mut Rng, depth: usize) -> (u8, Vec<u8>) {
    let kinds = if depth == 0 { 19 } else { 22 };
    match rng.u8(0..kinds) {
        0 => (DOUBLE, double(rng).to_le_bytes().to_vec()),
        1 => (STRING, string_value(text(rng))),
        2 => (BINARY, binary(rng.u8(..), &random_bytes(rng))),
        3 => (UNDEFINED, Vec::new()),
        4 => (OBJECT_ID, rng.u128(..).to_le_bytes()[..12].to_vec()),
        5 => (BOOLEAN, vec![rng.u8(0..2)]),
        6 => (DATE, date(rng).to_le_bytes().to_vec()),
        7 => (NULL, Vec::new()),
        8 => {
            let (pattern, options) = REGEXES[rng.usize(..REGEXES.len())];
            (REGEX, regex(pattern, options))
        }
        9 => (
            DB_POINTER,
            db_pointer(TEXTS[rng.usize(..TEXTS.len())], rng.u128(..)),
        ),
        10 => (CODE, string_value(text(rng))),
        11 => (SYMBOL, string_value(text(rng))),
        12 => (INT32, int32(rng).to_le_bytes().to_vec()),
        13 => (TIMESTAMP, timestamp(rng).to_le_bytes().to_vec()),
        14 | 15 => (INT64, int64(rng).to_le_bytes().to_vec()),
        16 => (DECIMAL, decimal(&decimal_text(rng))),
        17 => (MIN_KEY, Vec::new()),
        18 => (MAX_KEY, Vec::new()),
        19 => (DOCUMENT, document(rng, depth - 1)),
        20 => (ARRAY, array(rng, depth - 1)),
        _ => (
            SCOPED_CODE,
            scoped_code(&text(rng), &document(rng, depth - 1)),
        ),
    }
}

/// Returns a random document. One in fifty documents, of any depth, has a name twice, one in fifty a name of Extended
/// JSON, and one in twenty is a DBRef.
pub fn document(rng: &mut Rng, depth: usize) -> Vec<u8> {
    if rng.u8(0..20) == 0 {
        return reference("orders", rng);
    }
    let mut document = RawWriter::new();
    let mut names: Vec<String> = Vec::new();
    for _ in 0..rng.usize(0..6) {
        let name = match rng.u8(0..3) {
            0 => format!("{}{}", NAMES[rng.usize(..NAMES.len())], rng.u8(..)),
            _ => NAMES[rng.usize(..NAMES.len())].to_owned(),
        };
        if !names.contains(&name) {
            let (kind, bytes) = value(rng, depth);
            document.put(kind, &name, &bytes);
            names.push(name);
        }
    }
    match rng.u8(0..50) {
        0 => {
            let (kind, bytes) = value(rng, depth);
            document.put(kind, TYPE_NAMES[rng.usize(..TYPE_NAMES.len())], &bytes);
        }
        1 if !names.is_empty() => {
            let (kind, bytes) = value(rng, depth);
            document.put(kind, &names[rng.usize(..names.len())], &bytes);
        }
        _ => (),
    }
    document.finish()
}

/// Returns documents with one odd value each, or one odd name.
pub fn fixed() -> Vec<Vec<u8>> {
    let mut values: Vec<(u8, Vec<u8>)> = Vec::new();
    values.extend(DOUBLES.iter().map(|it| (DOUBLE, it.to_le_bytes().to_vec())));
    values.extend(TEXTS.iter().map(|it| (STRING, string_value(it))));
    values.extend((0..=255).map(|subtype| (BINARY, binary(subtype, &[0, 1, 0xfe, 0xff]))));
    values.extend((0..=255).map(|subtype| (BINARY, binary(subtype, &[]))));
    values.extend([3, 4].map(|subtype| (BINARY, binary(subtype, &[7; 16]))));
    values.extend(INT32S.iter().map(|it| (INT32, it.to_le_bytes().to_vec())));
    values.extend(INT64S.iter().map(|it| (INT64, it.to_le_bytes().to_vec())));
    values.extend(DATES.iter().map(|it| (DATE, it.to_le_bytes().to_vec())));
    values.extend(DECIMALS.iter().map(|it| (DECIMAL, decimal(it))));
    values.extend(
        REGEXES
            .iter()
            .map(|(pattern, options)| (REGEX, regex(pattern, options))),
    );
    values.extend([0, 1, u64::MAX, 1 << 63].map(|it: u64| (TIMESTAMP, it.to_le_bytes().to_vec())));
    values.extend([UNDEFINED, NULL, MIN_KEY, MAX_KEY].map(|kind| (kind, Vec::new())));
    values.extend([0, 1].map(|it| (BOOLEAN, vec![it])));
    values.push((OBJECT_ID, vec![0xab; 12]));
    for text in TEXTS {
        values.push((CODE, string_value(text)));
        values.push((SYMBOL, string_value(text)));
        values.push((DB_POINTER, db_pointer(text, 5)));
        values.push((SCOPED_CODE, scoped_code(text, &RawWriter::new().finish())));
    }
    let one = 1_i32.to_le_bytes();
    let scope = of(&[("x", INT32, &one)]);
    values.push((SCOPED_CODE, scoped_code("f()", &scope)));
    let mut documents: Vec<Vec<u8>> = values.iter().map(|it| field("v", it)).collect();
    for name in NAMES.iter().chain(TYPE_NAMES) {
        let inner = of(&[("x", INT32, &one)]);
        documents.push(field(name, &(INT32, one.to_vec())));
        documents.push(field(name, &(STRING, string_value("5"))));
        documents.push(field("v", &(DOCUMENT, field(name, &(DOCUMENT, inner)))));
        documents.push(of(&[("z", INT32, &one), (name, NULL, &[])]));
    }
    documents.push(of(&[
        ("b", INT32, &one),
        ("a", INT32, &one),
        ("b", INT32, &one),
    ]));
    // Names that look like indexes, which JavaScript sorts.
    documents.push(of(&[("10", INT32, &one), ("9", INT32, &one)]));
    documents.push(of(&[("z", INT32, &one), ("_id", INT32, &one)]));
    // Two of one shape: Node takes the second name for the first one's.
    documents.push(of(&[("shape", INT32, &one), ("\\", INT32, &one)]));
    documents.push(of(&[("shape", INT32, &one), ("\n", INT32, &one)]));
    documents.extend(references());
    for depth in [2, 31, 32, 90, 94, 95, 96, 97, 98, 99, 100, 128, 180] {
        for leaf in [
            (STRING, string_value("a")),
            (DB_POINTER, db_pointer("a", 5)),
            (INT32, one.to_vec()),
        ] {
            let wrap = |kind| {
                (1..depth).fold(field("a", &leaf), move |inner, _| {
                    field("a", &(kind, inner))
                })
            };
            documents.push(wrap(DOCUMENT));
            let list = (2..depth).fold(field("0", &leaf), |inner, _| field("0", &(ARRAY, inner)));
            documents.push(field("a", &(ARRAY, list)));
        }
    }
    documents
}

/// DBRefs as drivers write them, and documents that are nearly DBRefs.
fn references() -> Vec<Vec<u8>> {
    let id = (OBJECT_ID, vec![0xab; 12]);
    let one = (INT32, 1_i32.to_le_bytes().to_vec());
    let text = |text: &str| (STRING, string_value(text));
    let reference = |fields: &[(&str, &(u8, Vec<u8>))]| {
        let fields: Vec<(&str, u8, &[u8])> = fields
            .iter()
            .map(|(name, (kind, bytes))| (*name, *kind, &bytes[..]))
            .collect();
        field("v", &(DOCUMENT, of(&fields)))
    };
    let (orders, shop, empty, dotted) = (text("orders"), text("shop"), text(""), text("fs.files"));
    let null = (NULL, Vec::new());
    let list = (ARRAY, field("0", &one));
    vec![
        reference(&[("$ref", &orders), ("$id", &id)]),
        reference(&[("$ref", &orders), ("$id", &one), ("$db", &shop)]),
        reference(&[("$ref", &orders), ("$id", &id), ("$db", &shop), ("x", &one)]),
        reference(&[("$ref", &orders), ("$id", &id), ("x", &one)]),
        reference(&[("$ref", &one), ("$id", &id)]),
        reference(&[("$ref", &orders)]),
        reference(&[("$id", &id)]),
        reference(&[("$db", &shop)]),
        reference(&[("$ref", &orders), ("$id", &null)]),
        reference(&[("$id", &id), ("$ref", &orders)]),
        reference(&[("x", &one), ("$ref", &orders), ("$id", &id)]),
        reference(&[("$ref", &orders), ("$db", &shop), ("$id", &id)]),
        reference(&[("$ref", &orders), ("$id", &id), ("$db", &null)]),
        reference(&[("$ref", &orders), ("$id", &id), ("collection", &one)]),
        reference(&[("$ref", &empty), ("$id", &id)]),
        reference(&[("$ref", &dotted), ("$id", &id)]),
        reference(&[("$ref", &orders), ("$id", &list)]),
    ]
}

fn reference(collection: &str, rng: &mut Rng) -> Vec<u8> {
    let mut document = RawWriter::new();
    document.put(STRING, "$ref", &string_value(collection));
    let (kind, bytes) = match rng.u8(0..3) {
        0 => (INT64, int64(rng).to_le_bytes().to_vec()),
        1 => (STRING, string_value(text(rng))),
        _ => (OBJECT_ID, vec![rng.u8(..); 12]),
    };
    document.put(kind, "$id", &bytes);
    if rng.bool() {
        document.put(STRING, "$db", &string_value("shop"));
    }
    document.finish()
}

/// Returns a document with one field.
fn field(name: &str, (kind, bytes): &(u8, Vec<u8>)) -> Vec<u8> {
    of(&[(name, *kind, bytes)])
}

fn of(fields: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let mut document = RawWriter::new();
    for (name, kind, bytes) in fields {
        document.put(*kind, name, bytes);
    }
    document.finish()
}

fn array(rng: &mut Rng, depth: usize) -> Vec<u8> {
    let mut array = RawWriter::new();
    for index in 0..rng.usize(0..5) {
        let (kind, bytes) = value(rng, depth);
        array.put(kind, index.to_string(), &bytes);
    }
    array.finish()
}

fn text(rng: &mut Rng) -> String {
    match rng.bool() {
        true => TEXTS[rng.usize(..TEXTS.len())].to_owned(),
        false => (0..rng.usize(0..12)).map(|_| rng.char(..)).collect(),
    }
}

fn double(rng: &mut Rng) -> f64 {
    match rng.u8(0..3) {
        0 => DOUBLES[rng.usize(..DOUBLES.len())],
        1 => f64::from(rng.i32(-1000..1000)) / 8.0,
        _ => {
            let any = f64::from_bits(rng.u64(..));
            // One bit pattern of NaN, since text has one.
            if any.is_nan() { f64::NAN } else { any }
        }
    }
}

fn int32(rng: &mut Rng) -> i32 {
    match rng.bool() {
        true => INT32S[rng.usize(..INT32S.len())],
        false => rng.i32(..),
    }
}

fn int64(rng: &mut Rng) -> i64 {
    match rng.bool() {
        true => INT64S[rng.usize(..INT64S.len())],
        false => rng.i64(..) >> rng.u8(0..64),
    }
}

fn date(rng: &mut Rng) -> i64 {
    match rng.u8(0..3) {
        0 => DATES[rng.usize(..DATES.len())],
        1 => rng.i64(0..253_402_300_800_000),
        _ => rng.i64(..) >> rng.u8(0..64),
    }
}

fn timestamp(rng: &mut Rng) -> u64 {
    [0, u64::MAX, rng.u64(..)][rng.usize(0..3)]
}

fn decimal_text(rng: &mut Rng) -> String {
    match rng.bool() {
        true => DECIMALS[rng.usize(..DECIMALS.len())].to_owned(),
        false => format!(
            "{}E{}",
            rng.i128(..) >> rng.u8(15..127),
            rng.i16(-6176..6111 - 34)
        ),
    }
}

fn random_bytes(rng: &mut Rng) -> Vec<u8> {
    let len = [0, 1, 2, 3, 15, 16, 17, 40][rng.usize(0..8)];
    (0..len).map(|_| rng.u8(..)).collect()
}

fn binary(subtype: u8, bytes: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| {
        i32::try_from(bytes.len())
            .expect("it is short")
            .to_le_bytes()
    };
    match subtype {
        // The old form has its length twice.
        2 => {
            let inner = [&length(bytes), bytes].concat();
            [&length(&inner), &[2][..], &inner].concat()
        }
        _ => [&length(bytes), &[subtype][..], bytes].concat(),
    }
}

fn regex(pattern: &str, options: &str) -> Vec<u8> {
    [pattern.as_bytes(), b"\0", options.as_bytes(), b"\0"].concat()
}

fn db_pointer(namespace: &str, id: u128) -> Vec<u8> {
    [&string_value(namespace)[..], &id.to_le_bytes()[..12]].concat()
}

fn scoped_code(code: &str, scope: &[u8]) -> Vec<u8> {
    let code = string_value(code);
    let length = i32::try_from(4 + code.len() + scope.len()).expect("it is short");
    [&length.to_le_bytes(), &code[..], scope].concat()
}

fn decimal(text: &str) -> Vec<u8> {
    let decimal: Decimal128 = text.parse().expect("a decimal");
    decimal.bytes().to_vec()
}
