//! Proptest strategies for BSON documents.

use bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp,
    oid::ObjectId, spec::BinarySubtype,
};
use proptest::{collection::vec, prelude::*};

use super::db_pointer;

/// Returns documents with values of every type, a few levels deep. Names don't start with `$`, because
/// Extended JSON can't distinguish such fields from its own.
pub(super) fn document() -> impl Strategy<Value = Document> {
    fields(value())
}

fn fields(value: impl Strategy<Value = Bson>) -> impl Strategy<Value = Document> {
    vec((key(), value), 0..8).prop_map(|fields| fields.into_iter().collect())
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        vec(prop::char::range('a', 'e'), 0..3).prop_map(String::from_iter),
        text().prop_map(|text| text.replace('\0', "").trim_start_matches('$').to_owned()),
    ]
}

fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::char::range(' ', '~'),
        1 => prop::char::range('\0', '\x1f'),
        1 => any::<char>(),
        1 => prop::sample::select(vec!['"', '\\', '\x7f', '\u{2028}', 'ß', '漢', '🦀']),
    ];
    vec(piece, 0..40).prop_map(String::from_iter)
}

fn value() -> impl Strategy<Value = Bson> {
    leaf().prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Bson::Array),
            fields(inner.clone()).prop_map(Bson::Document),
            (text(), fields(inner)).prop_map(|(code, scope)| {
                Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code, scope })
            }),
        ]
    })
}

fn leaf() -> impl Strategy<Value = Bson> {
    prop_oneof![
        number(),
        text().prop_map(Bson::String),
        any::<bool>().prop_map(Bson::Boolean),
        prop::sample::select(vec![
            Bson::Null,
            Bson::Undefined,
            Bson::MinKey,
            Bson::MaxKey
        ]),
        any::<[u8; 12]>().prop_map(|id| Bson::ObjectId(ObjectId::from_bytes(id))),
        date().prop_map(|millis| Bson::DateTime(DateTime::from_millis(millis))),
        binary(),
        (any::<u32>(), any::<u32>())
            .prop_map(|(time, increment)| Bson::Timestamp(Timestamp { time, increment })),
        decimal(),
        (text(), "[ilmsux]{0,6}").prop_map(|(pattern, options)| {
            let c_string = |text: String| text.replace('\0', "").try_into().expect("no zeros");
            Bson::RegularExpression(Regex {
                pattern: c_string(pattern),
                options: c_string(options),
            })
        }),
        text().prop_map(Bson::JavaScriptCode),
        text().prop_map(Bson::Symbol),
        (text(), any::<[u8; 12]>())
            .prop_map(|(namespace, id)| { db_pointer(&namespace, ObjectId::from_bytes(id)) }),
    ]
}

fn number() -> impl Strategy<Value = Bson> {
    let near_2_53 = (-3_i64..4).prop_map(|n| (1 << 53) + n);
    prop_oneof![
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        (near_2_53, prop::sample::select(vec![-1, 1])).prop_map(|(n, sign)| Bson::Int64(n * sign)),
        any::<f64>().prop_map(Bson::Double),
        any::<u64>().prop_map(|bits| Bson::Double(f64::from_bits(bits))),
        any::<i32>().prop_map(|n| Bson::Double(n.into())),
    ]
}

fn date() -> impl Strategy<Value = i64> {
    prop_oneof![
        0..253_402_300_800_000_i64,
        any::<i64>(),
        (-3_i64..4).prop_map(|n| n * 500)
    ]
}

fn binary() -> impl Strategy<Value = Bson> {
    (any::<u8>(), vec(any::<u8>(), 0..40)).prop_map(|(subtype, bytes)| {
        Bson::Binary(Binary {
            subtype: BinarySubtype::from(subtype),
            bytes,
        })
    })
}

fn decimal() -> impl Strategy<Value = Bson> {
    let finite = ("-?[1-9][0-9]{0,33}", -6_176_i32..6_112);
    prop_oneof![
        finite.prop_map(|(digits, exponent)| format!("{digits}E{exponent}")),
        prop::sample::select(vec!["0", "-0", "0E+3", "NaN", "Infinity", "-Infinity"])
            .prop_map(str::to_owned),
    ]
    .prop_map(|text| Bson::Decimal128(text.parse::<Decimal128>().expect("a decimal")))
}
