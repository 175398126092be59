use std::cmp::Ordering;

use bson::spec::BinarySubtype;
use bson::{
    Binary, Bson, Decimal128, JavaScriptCodeWithScope, Regex, Timestamp, doc, oid::ObjectId,
};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::filter::evaluator::literal::Literal;
use crate::filter::evaluator::value::compare;

fn canonical(value: &Bson) -> Vec<u8> {
    canonical_bytes(&Literal::new(value).as_element())
}

fn equal(left: &Bson, right: &Bson) -> bool {
    compare(
        &Literal::new(left).as_element(),
        &Literal::new(right).as_element(),
    ) == Ordering::Equal
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse().unwrap())
}

fn hash(id: impl Into<Bson>) -> u64 {
    id_hash(&doc! {"a": 1, "_id": id.into()}.to_vec().unwrap()).unwrap()
}

#[test]
fn values_that_need_no_change_are_their_type_and_their_bson_bytes() {
    let id = ObjectId::from_bytes([7; 12]);
    assert_eq!(canonical(&id.into()), [&[7][..], &[7; 12]].concat());
    assert_eq!(canonical(&"ab".into()), b"\x02\x03\0\0\0ab\0");
    assert_eq!(canonical(&true.into()), [8, 1]);
    assert_eq!(canonical(&Bson::Null), [10]);
    assert_eq!(
        canonical(&bson::DateTime::from_millis(1).into()),
        [9, 1, 0, 0, 0, 0, 0, 0, 0]
    );
    let uuid = Binary {
        subtype: BinarySubtype::Uuid,
        bytes: vec![5; 16],
    };
    let expected = [&[5, 16, 0, 0, 0, 4][..], &[5; 16]].concat();
    assert_eq!(canonical(&uuid.into()), expected);
}

#[test]
fn equal_numbers_have_one_form() {
    let max = 9_007_199_254_740_992_i64;
    let groups: Vec<Vec<Bson>> = vec![
        vec![
            1.into(),
            1_i64.into(),
            1.0.into(),
            decimal("1.000"),
            decimal("10E-1"),
        ],
        vec![
            0.into(),
            (-0.0).into(),
            decimal("-0"),
            decimal("0E+6111"),
            decimal("-0E-6176"),
        ],
        vec![
            f64::NAN.into(),
            (-f64::NAN).into(),
            f64::from_bits(0x7ff0_0000_0000_0001).into(),
            decimal("NaN"),
        ],
        vec![f64::INFINITY.into(), decimal("Infinity")],
        vec![f64::NEG_INFINITY.into(), decimal("-Infinity")],
        vec![0.5.into(), decimal("0.5"), decimal("0.5000")],
        vec![(-0.5).into(), decimal("-5E-1")],
        vec![0.1.into()],
        vec![decimal("0.1"), decimal("0.10")],
        vec![max.into(), (max as f64).into(), decimal("9007199254740992")],
        vec![(max + 1).into(), decimal("9007199254740993")],
        vec![i64::MAX.into(), decimal("9223372036854775807")],
        vec![
            i64::MIN.into(),
            (-9_223_372_036_854_775_808.0).into(),
            decimal("-9223372036854775808"),
        ],
        vec![
            9_223_372_036_854_775_808.0.into(),
            decimal("9223372036854775808"),
        ],
        vec![decimal("9223372036854775809")],
        vec![1e22.into(), decimal("1E22"), decimal("1.000E22")],
        vec![1e23.into()],
        vec![decimal("1E23")],
        vec![
            decimal("1E6144"),
            decimal("1.000000000000000000000000000000000E6144"),
            decimal("10E6143"),
        ],
        vec![decimal("1E-6176")],
        vec![5e-324.into()],
        vec![
            (2.0_f64.powi(-48)).into(),
            Bson::Decimal128(exact_power_of_two()),
        ],
    ];
    for (at, group) in groups.iter().enumerate() {
        for value in group {
            assert_eq!(canonical(value), canonical(&group[0]), "{value}");
            for other in groups.iter().enumerate().filter(|it| it.0 != at) {
                assert_ne!(canonical(value), canonical(&other.1[0]), "{value}");
            }
        }
    }
    assert_eq!(canonical(&1.0.into())[0], ElementType::Int64 as u8);
    assert_eq!(canonical(&decimal("0.5"))[0], ElementType::Double as u8);
}

/// 2^-48 has 34 significant digits, the most that a decimal has.
fn exact_power_of_two() -> Decimal128 {
    "3.552713678800500929355621337890625E-15".parse().unwrap()
}

#[test]
fn the_hash_is_that_of_version_1() {
    let id = ObjectId::parse_str("64b7f1c2a9d3e45f60718293").unwrap();
    assert_eq!(
        hash(id),
        XxHash3_64::oneshot(&[&[7][..], &id.bytes()].concat())
    );
    assert_eq!(hash(1), hash(decimal("1.0")));
    assert_eq!(hash("a"), hash(Bson::Symbol("a".into())));
    assert_ne!(hash("1"), hash(1));
    assert_ne!(hash(doc! {"a": 1, "b": 2}), hash(doc! {"b": 2, "a": 1}));
    assert_eq!(hash(doc! {"a": [1]}), hash(doc! {"a": [1_i64]}));
}

#[test]
fn a_document_without_an_id_has_no_hash() {
    assert_eq!(id_hash(&doc! {"a": 1}.to_vec().unwrap()), None);
    assert_eq!(id_hash(&doc! {"a": {"_id": 1}}.to_vec().unwrap()), None);
    assert_eq!(id_hash(b""), None);
    assert_eq!(id_hash(b"\x05\0\0\0\x01"), None);
}

/// Only the bytes of an array say how its elements are named.
#[test]
fn the_names_of_array_elements_do_not_count() {
    let named = doc! {"_id": {"x": 1, "y": 2}}.to_vec().unwrap();
    let mut array = named.clone();
    array[4] = ElementType::Array as u8;
    assert_eq!(id_hash(&array), Some(hash(vec![1, 2])));
    assert_ne!(id_hash(&named), id_hash(&array));
}

#[test]
fn bytes_below_the_deepest_level_are_taken_as_they_are() {
    let nested = |levels: u32, innermost: Bson| {
        (0..levels).fold(innermost, |value, _| doc! {"a": value}.into())
    };
    let same = |levels| hash(nested(levels, 1.into())) == hash(nested(levels, 1_i64.into()));
    assert!(same(MAX_DEPTH));
    assert!(!same(MAX_DEPTH + 1));
    // Deep enough to overflow a stack.
    let mut bytes = vec![];
    for level in 0..100_000_i32 {
        let rest = (100_000 - level) * 8;
        bytes.extend_from_slice(&(rest + 5).to_le_bytes());
        bytes.extend_from_slice(b"\x03_\0");
    }
    bytes.extend_from_slice(&[5, 0, 0, 0, 0]);
    bytes.resize(bytes.len() + 100_000, 0);
    let id = Element {
        kind: ElementType::EmbeddedDocument,
        key: b"_id",
        value: &bytes,
    };
    assert_eq!(canonical_bytes(&id).len(), bytes.len() + 1);
}

#[test]
fn a_long_id_is_hashed_as_a_short_one_is() {
    for length in [
        INLINE - 8,
        INLINE - 7,
        INLINE - 6,
        INLINE - 5,
        INLINE,
        10 * INLINE,
    ] {
        let text = "x".repeat(length);
        let expected = canonical(&text.as_str().into());
        assert_eq!(hash(text.as_str()), XxHash3_64::oneshot(&expected));
        let inside = canonical(&doc! {"text": text.as_str(), "n": 1}.into());
        let expected = doc! {"text": text.as_str(), "n": 1_i64}.to_vec().unwrap();
        assert_eq!(inside[1..], expected);
    }
}

/// Values of which many are equal to others of another type, and many nearly.
fn values() -> impl Strategy<Value = Bson> {
    let numbers = prop_oneof![
        (-3_i32..3).prop_map(Bson::Int32),
        (-3_i64..3).prop_map(Bson::Int64),
        (-6_i32..6).prop_map(|half| Bson::Double(f64::from(half) / 2.0)),
        (-60_i32..60, -3_i32..3)
            .prop_map(|(tens, exponent)| decimal(&format!("{tens}E{exponent}"))),
        any::<f64>().prop_map(Bson::Double),
        any::<i64>().prop_map(Bson::Int64),
        any::<[u8; 16]>().prop_map(|bytes| Bson::Decimal128(Decimal128::from_bytes(bytes))),
        (any::<i64>(), -30_i32..30)
            .prop_map(|(digits, exponent)| decimal(&format!("{digits}E{exponent}"))),
        select(vec![
            f64::NAN.into(),
            decimal("NaN"),
            f64::INFINITY.into(),
            decimal("-Infinity"),
            (-0.0).into(),
            decimal("-0E3"),
            decimal("0.1"),
            0.1.into(),
            9_223_372_036_854_775_808.0.into(),
            decimal("9223372036854775808"),
            i64::MAX.into(),
        ]),
    ];
    let text = select(vec!["", "a", "a\0b", "é"]);
    let others = prop_oneof![
        text.clone().prop_map(Bson::from),
        text.clone().prop_map(|text| Bson::Symbol(text.to_owned())),
        text.clone()
            .prop_map(|text| Bson::JavaScriptCode(text.to_owned())),
        select(vec![
            Bson::Null,
            Bson::Undefined,
            Bson::MinKey,
            Bson::MaxKey
        ]),
        any::<bool>().prop_map(Bson::Boolean),
        (0_i64..2).prop_map(|millis| bson::DateTime::from_millis(millis).into()),
        (0_u32..2, 0_u32..2).prop_map(|(time, increment)| Timestamp { time, increment }.into()),
        (0_u8..2).prop_map(|byte| ObjectId::from_bytes([byte; 12]).into()),
        (
            select(vec![0_u8, 2, 3, 4, 5, 128]),
            prop::collection::vec(0_u8..2, 0..3)
        )
            .prop_map(|(subtype, bytes)| Binary {
                subtype: subtype.into(),
                bytes
            }
            .into()),
        select(vec![("a", ""), ("a", "i"), ("", "i")]).prop_map(|(pattern, options)| {
            Bson::RegularExpression(Regex {
                pattern: pattern.try_into().unwrap(),
                options: options.try_into().unwrap(),
            })
        }),
    ];
    prop_oneof![3 => numbers, 2 => others].prop_recursive(3, 8, 3, |inner| {
        let names = select(vec!["", "a", "b", "0"]);
        let fields = prop::collection::vec((names, inner.clone()), 0..3);
        let document = fields.prop_map(|fields| {
            let fields = fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value));
            fields.collect::<bson::Document>()
        });
        prop_oneof![
            2 => document.clone().prop_map(Bson::from),
            1 => prop::collection::vec(inner, 0..3).prop_map(Bson::Array),
            1 => (select(vec!["", "f"]), document).prop_map(|(code, scope)| {
                Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: code.into(), scope })
            }),
        ]
    })
}

/// The number as another type has it, where it can: exactly, or rounded.
fn as_another_type(value: &Bson, choice: u8) -> Bson {
    let text = match value {
        Bson::Int32(number) => number.to_string(),
        Bson::Int64(number) => number.to_string(),
        Bson::Double(number) => format!("{number:e}"),
        Bson::Decimal128(number) => number.to_string(),
        Bson::String(text) => return Bson::Symbol(text.clone()),
        Bson::Array(items) => {
            return Bson::Array(items.iter().map(|it| as_another_type(it, choice)).collect());
        }
        Bson::Document(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| (name.clone(), as_another_type(value, choice)));
            return Bson::Document(fields.collect());
        }
        other => return other.clone(),
    };
    let other = match choice {
        0 => text.parse().ok().map(Bson::Int64),
        1 => text.parse().ok().map(Bson::Double),
        2 => text.parse().ok().map(Bson::Decimal128),
        _ => text.parse().ok().map(Bson::Int32),
    };
    other.unwrap_or_else(|| value.clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn canonical_forms_are_equal_exactly_if_the_evaluator_holds_the_values_equal(
        left in values(),
        right in values(),
    ) {
        prop_assert_eq!(canonical(&left) == canonical(&right), equal(&left, &right));
    }

    #[test]
    fn a_number_of_another_type_has_the_same_form_exactly_if_it_is_equal(
        value in values(),
        choice in 0_u8..4,
    ) {
        let other = as_another_type(&value, choice);
        prop_assert_eq!(canonical(&value) == canonical(&other), equal(&value, &other));
    }

    #[test]
    fn the_canonical_form_is_a_value_that_is_equal_and_its_own_canonical_form(value in values()) {
        let form = canonical(&value);
        let element = Element {
            kind: ElementType::from(form[0]).unwrap(),
            key: b"",
            value: &form[1..],
        };
        prop_assert_eq!(canonical_bytes(&element), form.clone());
        let literal = Literal::new(&value);
        prop_assert!(compare(&element, &literal.as_element()).is_eq());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), kind in any::<u8>()) {
        let _ = id_hash(&bytes);
        if let Some(kind) = ElementType::from(kind) {
            let document = [&[kind as u8], &b"_id\0"[..], &bytes, &[0]].concat();
            let length = (document.len() as i32 + 4).to_le_bytes();
            let _ = id_hash(&[&length[..], &document].concat());
        }
    }

    #[test]
    fn no_flipped_byte_makes_it_panic(value in values(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = doc! {"_id": value}.to_vec().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = id_hash(&bytes);
    }
}

/// The chi-squared statistic of `count - 1` degrees of freedom is near normal, with variance of twice the degrees.
fn assert_even(name: &str, ids: impl Iterator<Item = Bson>) {
    let hashes: Vec<u64> = ids.map(hash).collect();
    for count in [2_u16, 3, 5, 16, 100, 1_024] {
        let mut events = vec![0_u32; count.into()];
        for hash in &hashes {
            events[usize::from(crate::model::Shard::index_of(*hash, count).unwrap())] += 1;
        }
        let expected = hashes.len() as f64 / f64::from(count);
        let difference = |events: &u32| (f64::from(*events) - expected).powi(2) / expected;
        let chi_squared: f64 = events.iter().map(difference).sum();
        let degrees = f64::from(count - 1);
        let deviations = (chi_squared - degrees) / (2.0 * degrees).sqrt();
        assert!(
            deviations.abs() < 5.0,
            "{name} over {count}: {deviations:.1} standard deviations"
        );
    }
}

#[test]
fn object_ids_integers_and_strings_are_spread_evenly() {
    let ids = 0..20_000_u32;
    assert_even("integers", ids.clone().map(|it| Bson::Int64(it.into())));
    assert_even(
        "even integers",
        ids.clone().map(|it| Bson::Int64((it * 1_024).into())),
    );
    assert_even(
        "strings",
        ids.clone().map(|it| Bson::String(format!("order-{it:08}"))),
    );
    assert_even(
        "long strings",
        ids.clone()
            .map(|it| Bson::String(format!("{}{it}", "x".repeat(300)))),
    );
    // One process makes these, in one second.
    assert_even(
        "object ids",
        ids.map(|it| {
            let mut bytes = *b"\x64\xb7\xf1\xc2\xa9\xd3\xe4\x5f\x60\0\0\0";
            bytes[8..].copy_from_slice(&it.to_be_bytes());
            bytes[8] = 0x60;
            ObjectId::from_bytes(bytes).into()
        }),
    );
}
