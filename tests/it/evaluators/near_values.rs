//! Values of every BSON type, in families whose members are near each other in MongoDB's order, so that few of them show
//! whether two are told apart.

use std::sync::LazyLock;

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, doc,
    oid::ObjectId,
};

pub static FAMILIES: LazyLock<Vec<Vec<Bson>>> = LazyLock::new(|| {
    vec![
        ones(),
        tenths(),
        around_2_to_31(),
        around_2_to_53(),
        around_2_to_63(),
        zeros(),
        extremes(),
        texts(),
        codes(),
        constants(),
        times(),
        bytes(),
        documents(),
        arrays(),
    ]
});

/// Returns whether a filter can contain the value.
pub fn is_literal(value: &Bson) -> bool {
    match value {
        Bson::RegularExpression(_)
        | Bson::Undefined
        | Bson::Symbol(_)
        | Bson::DbPointer(_)
        | Bson::JavaScriptCodeWithScope(_) => false,
        Bson::Array(values) => values.iter().all(is_literal),
        Bson::Document(document) => document.values().all(is_literal),
        _ => true,
    }
}

pub fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse().expect("a decimal"))
}

pub fn binary(subtype: u8, bytes: &[u8]) -> Bson {
    Bson::Binary(Binary {
        subtype: BinarySubtype::from(subtype),
        bytes: bytes.to_vec(),
    })
}

fn decimals(texts: &[&str]) -> Vec<Bson> {
    texts.iter().map(|text| decimal(text)).collect()
}

/// A decimal of these bits.
fn decimal_of(bits: u128) -> Bson {
    Bson::Decimal128(Decimal128::from_bytes(bits.to_le_bytes()))
}

fn doubles(values: &[f64]) -> Vec<Bson> {
    values.iter().map(|value| Bson::Double(*value)).collect()
}

/// Doubles, and those next to each.
fn doubles_around(values: &[f64]) -> Vec<Bson> {
    let near = values
        .iter()
        .flat_map(|it| [it.next_down(), *it, it.next_up()]);
    near.map(Bson::Double).collect()
}

fn longs(values: &[i64]) -> Vec<Bson> {
    values.iter().map(|value| Bson::Int64(*value)).collect()
}

fn ones() -> Vec<Bson> {
    let integers = vec![
        Bson::Int32(1),
        Bson::Int64(1),
        Bson::Int32(2),
        Bson::Int32(-1),
    ];
    let decimals = decimals(&[
        "1",
        "1.0",
        "1.000000000000000000000000000000000",
        "1.000000000000000000000000000000001",
        "0.9999999999999999999999999999999999",
        "1.5",
        "-1",
    ]);
    [
        integers,
        doubles_around(&[1.0]),
        doubles(&[1.5, -1.0]),
        decimals,
    ]
    .concat()
}

fn tenths() -> Vec<Bson> {
    let decimals = decimals(&[
        "0.1",
        "0.10",
        "1E-1",
        // The double 0.1 is between these.
        "0.1000000000000000055511151231257827",
        "0.1000000000000000055511151231257828",
        "0.3",
        "0.5",
        // Exactly 2^-40, and the decimals next to it.
        "9.094947017729282379150390625E-13",
        "9.094947017729282379150390625000001E-13",
        "9.094947017729282379150390624999999E-13",
    ]);
    let power = 2_f64.powi(-40);
    [
        doubles_around(&[0.1]),
        doubles(&[0.3, 0.5, power]),
        decimals,
    ]
    .concat()
}

fn around_2_to_31() -> Vec<Bson> {
    let shorts = vec![Bson::Int32(i32::MAX), Bson::Int32(i32::MIN)];
    let longs = longs(&[(1 << 31) - 1, 1 << 31, -(1 << 31), -(1 << 31) - 1]);
    let doubles = doubles(&[2_147_483_647.0, 2_147_483_647.5, -2_147_483_648.5]);
    let decimals = decimals(&["2147483647", "2147483647.5", "2.147483648E+9"]);
    [shorts, longs, doubles, decimals].concat()
}

fn around_2_to_53() -> Vec<Bson> {
    let power = 1_i64 << 53;
    let longs = longs(&[power - 1, power, power + 1, power + 2, -power - 1]);
    let decimals = decimals(&[
        "9007199254740992",
        "9007199254740993",
        "9007199254740992.5",
        "9.007199254740993E+15",
        "-9007199254740993",
    ]);
    let doubles = doubles_around(&[9_007_199_254_740_992.0, -9_007_199_254_740_992.0]);
    [longs, doubles, decimals].concat()
}

fn around_2_to_63() -> Vec<Bson> {
    let longs = longs(&[
        i64::MAX,
        i64::MAX - 1,
        i64::MIN,
        i64::MIN + 1,
        i64::MAX - 511,
    ]);
    let power = 9_223_372_036_854_775_808.0;
    let decimals = decimals(&[
        "9223372036854775807",
        "9223372036854775807.5",
        "9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775809",
    ]);
    [longs, doubles_around(&[power, -power]), decimals].concat()
}

fn zeros() -> Vec<Bson> {
    let integers = vec![Bson::Int32(0), Bson::Int64(0)];
    let tiny = 5e-324;
    let decimals = decimals(&[
        "0",
        "-0",
        "0E+6000",
        "0E-6176",
        "1E-6176",
        "-1E-6176",
        // The smallest double is between these.
        "4.940656458412465441765687928682213E-324",
        "4.940656458412465441765687928682214E-324",
        "2E-324",
    ]);
    // Coefficients that are too large, in both encodings.
    let not_canonical = vec![
        decimal_of((6176 << 113) | 10_u128.pow(34)),
        decimal_of((0b11 << 125) | (6176 << 111) | 1),
    ];
    let doubles = doubles(&[0.0, -0.0, tiny, -tiny, tiny * 2.0, f64::MIN_POSITIVE]);
    [integers, doubles, decimals, not_canonical].concat()
}

fn extremes() -> Vec<Bson> {
    let decimals = decimals(&[
        "NaN",
        "Infinity",
        "-Infinity",
        // The largest double is between these.
        "1.797693134862315708145274237317043E+308",
        "1.797693134862315708145274237317044E+308",
        "-1.797693134862315708145274237317044E+308",
        "9.999999999999999999999999999999999E+6144",
        "-9.999999999999999999999999999999999E+6144",
    ]);
    // A negative NaN, and a signaling one.
    let not_numbers = vec![
        decimal_of(0b11_1110 << 122 | 1 << 127),
        decimal_of(0b11_1111 << 121),
    ];
    let doubles = doubles(&[
        f64::NAN,
        f64::from_bits(0xfff8_0000_0000_0001),
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MAX,
        f64::MIN,
    ]);
    [decimals, not_numbers, doubles, longs(&[i64::MAX, i64::MIN])].concat()
}

fn texts() -> Vec<Bson> {
    let texts = [
        "",
        "x",
        "xy",
        "Xy",
        "y",
        "y\n",
        "y\n\n",
        "é",
        "e\u{301}",
        "x\0",
        "x\0y",
        "\u{10000}",
        "\u{ffff}",
    ];
    let symbols = ["", "x", "xy"].map(|text| Bson::Symbol(text.into()));
    let texts = texts.map(Bson::from);
    [
        &texts[..],
        &symbols[..],
        &[regex("^x", ""), regex("y", "i")],
    ]
    .concat()
}

fn codes() -> Vec<Bson> {
    let codes = ["", "x", "xy", "x\0"].map(|code| Bson::JavaScriptCode(code.into()));
    let scoped = |code: &str, scope| {
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code: code.into(),
            scope,
        })
    };
    let others = [
        scoped("x", doc! {}),
        scoped("x", doc! {"a": 1}),
        Bson::from("x"),
        Bson::Symbol("x".into()),
        regex("x", ""),
        db_pointer(),
    ];
    [&codes[..], &others[..]].concat()
}

fn regex(pattern: &str, options: &str) -> Bson {
    Bson::RegularExpression(Regex {
        pattern: pattern.try_into().expect("no NUL"),
        options: options.try_into().expect("no NUL"),
    })
}

/// Its type has no other constructor.
fn db_pointer() -> Bson {
    let id = "0102030405060708090a0b0c";
    let json = serde_json::json!({"$dbPointer": {"$ref": "d.c", "$id": {"$oid": id}}});
    Bson::try_from(json).expect("a DBPointer")
}

fn constants() -> Vec<Bson> {
    vec![
        Bson::Null,
        Bson::Undefined,
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Boolean(false),
        Bson::Boolean(true),
        Bson::Int32(0),
        Bson::from(""),
    ]
}

fn times() -> Vec<Bson> {
    let dates = [i64::MIN, -1, 0, 1, 1_000, i64::MAX];
    let dates = dates.map(|millis| Bson::DateTime(DateTime::from_millis(millis)));
    let timestamps = [
        (0, 0),
        (0, 1),
        (1, 0),
        (0x7fff_ffff, 5),
        (0x8000_0000, 0),
        (u32::MAX, 0),
        (0, u32::MAX),
    ];
    let timestamps =
        timestamps.map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment }));
    [&dates[..], &timestamps[..], &longs(&[0, 1, 1_000])].concat()
}

fn bytes() -> Vec<Bson> {
    let id = |last| {
        let mut bytes = [0x80; 12];
        bytes[11] = last;
        Bson::ObjectId(ObjectId::from_bytes(bytes))
    };
    vec![
        id(0),
        id(1),
        id(0xff),
        binary(0, b""),
        binary(0, b"a"),
        binary(0, b"b"),
        binary(0, b"ab"),
        binary(0, b"\xffb"),
        binary(2, b"ab"),
        binary(0, b"\x02\0\0\0ab"),
        binary(3, &[7; 16]),
        binary(4, &[7; 16]),
        binary(4, &[8; 16]),
        binary(5, &[7; 16]),
        binary(128, b"a"),
        binary(255, b"b"),
        Bson::from("ab"),
    ]
}

fn documents() -> Vec<Bson> {
    let all: [Document; 14] = [
        doc! {},
        doc! {"a": 1},
        doc! {"a": 1.0},
        doc! {"a": 2},
        doc! {"a": "x"},
        doc! {"a": Bson::Null},
        doc! {"a": Bson::Undefined},
        doc! {"b": 1},
        doc! {"a": 1, "b": 1},
        doc! {"b": 1, "a": 1},
        doc! {"a": {"b": decimal("1")}},
        doc! {"$ref": "c", "$id": 1},
        doc! {"$ref": "c", "$id": 1, "$db": "d"},
        doc! {"$id": 1, "$ref": "c"},
    ];
    all.map(Bson::Document).to_vec()
}

fn arrays() -> Vec<Bson> {
    let one = || Bson::Int32(1);
    let array = Bson::Array;
    vec![
        array(vec![]),
        array(vec![one()]),
        array(vec![Bson::Double(1.0)]),
        array(vec![one(), one()]),
        array(vec![one(), Bson::Int32(2)]),
        array(vec![array(vec![one()])]),
        array(vec![array(vec![])]),
        array(vec![Bson::Null]),
        array(vec![Bson::Undefined]),
        array(vec![Bson::MinKey]),
        array(vec![Bson::MaxKey]),
        array(vec![Bson::Document(doc! {"0": 1})]),
        array(vec![Bson::Document(doc! {"a": 1}), one()]),
        array(vec![
            Bson::Document(doc! {"b": [1]}),
            Bson::Document(doc! {"b": 2}),
        ]),
        one(),
        Bson::Null,
    ]
}
