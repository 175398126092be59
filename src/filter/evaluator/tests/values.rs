use std::cmp::Ordering;

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, DateTime, Regex, Timestamp};

use super::*;
use crate::filter::evaluator::value::compare;

/// Compares two values in both directions.
fn order(left: impl Into<Bson>, right: impl Into<Bson>) -> Ordering {
    let (left, right) = (Literal::new(&left.into()), Literal::new(&right.into()));
    let order = compare(&left.as_element(), &right.as_element());
    let opposite = compare(&right.as_element(), &left.as_element());
    assert_eq!(order, opposite.reverse());
    order
}

#[test]
fn numbers_compare_exactly_across_their_types() {
    let big = (1_i64 << 53) + 1;
    let (smallest, huge) = (f64::from_bits(1), f64::MAX);
    let rows: Vec<(Bson, Bson, Ordering)> = vec![
        (1.into(), 1_i64.into(), Ordering::Equal),
        (1.into(), 1.0.into(), Ordering::Equal),
        (1.into(), decimal("1.000"), Ordering::Equal),
        (0.into(), (-0.0).into(), Ordering::Equal),
        (decimal("-0"), 0.0.into(), Ordering::Equal),
        (decimal("0E+3"), decimal("0E-3"), Ordering::Equal),
        (1.into(), 1.5.into(), Ordering::Less),
        ((-1).into(), (-1.5).into(), Ordering::Greater),
        // 2^53 + 1 is not a double.
        (
            big.into(),
            9_007_199_254_740_992.0.into(),
            Ordering::Greater,
        ),
        (big.into(), 9_007_199_254_740_994.0.into(), Ordering::Less),
        (big.into(), decimal("9007199254740993"), Ordering::Equal),
        (
            i64::MAX.into(),
            9_223_372_036_854_775_808.0.into(),
            Ordering::Less,
        ),
        (
            i64::MIN.into(),
            (-9_223_372_036_854_775_808.0).into(),
            Ordering::Equal,
        ),
        (i64::MAX.into(), f64::INFINITY.into(), Ordering::Less),
        (i64::MIN.into(), f64::NEG_INFINITY.into(), Ordering::Greater),
        (
            i64::MIN.into(),
            decimal("-9223372036854775808"),
            Ordering::Equal,
        ),
        // The double 0.1 is slightly more than a tenth.
        (decimal("0.1"), 0.1.into(), Ordering::Less),
        (decimal("-0.1"), (-0.1).into(), Ordering::Greater),
        (decimal("0.1"), decimal("0.10"), Ordering::Equal),
        (decimal("0.5"), 0.5.into(), Ordering::Equal),
        (decimal("1E+22"), 1e22.into(), Ordering::Equal),
        // 10^23 is not a double; the nearest one is slightly less.
        (decimal("1E+23"), 1e23.into(), Ordering::Greater),
        (decimal("1E-6176"), 0.0.into(), Ordering::Greater),
        (decimal("-1E-6176"), 0.0.into(), Ordering::Less),
        (decimal("1E-400"), smallest.into(), Ordering::Less),
        (decimal("9E+6144"), huge.into(), Ordering::Greater),
        (decimal("9E+6144"), f64::INFINITY.into(), Ordering::Less),
        (
            decimal("-9E+6144"),
            f64::NEG_INFINITY.into(),
            Ordering::Greater,
        ),
        (decimal("Infinity"), f64::INFINITY.into(), Ordering::Equal),
        (
            decimal("-Infinity"),
            f64::NEG_INFINITY.into(),
            Ordering::Equal,
        ),
        (decimal("Infinity"), decimal("9E+6144"), Ordering::Greater),
        (decimal("-Infinity"), decimal("-9E+6144"), Ordering::Less),
        (decimal("NaN"), f64::NAN.into(), Ordering::Equal),
        (f64::NAN.into(), f64::NEG_INFINITY.into(), Ordering::Less),
        (decimal("NaN"), i64::MIN.into(), Ordering::Less),
        (decimal("1E+3"), decimal("999"), Ordering::Greater),
        (decimal("1E+3"), decimal("1000"), Ordering::Equal),
        (decimal("-1E+3"), decimal("-999"), Ordering::Less),
        (
            decimal("9999999999999999999999999999999999"),
            decimal("9999999999999999999999999999999998"),
            Ordering::Greater,
        ),
    ];
    for (left, right, expected) in rows {
        assert_eq!(
            order(left.clone(), right.clone()),
            expected,
            "{left} {right}"
        );
    }
}

#[test]
fn equal_numbers_have_the_same_nearest_double() {
    let nearest = |value: Bson| {
        let literal = Literal::new(&value);
        Number::of(&literal.as_element())
            .unwrap()
            .nearest_double()
            .to_bits()
    };
    for (left, right) in [
        (Bson::Int32(1), decimal("1.0")),
        (Bson::Int64((1 << 53) + 1), decimal("9007199254740993")),
        (Bson::Double(-0.0), decimal("-0E+5")),
        (Bson::Double(f64::NAN), decimal("NaN")),
        (Bson::Double(-f64::NAN), decimal("NaN")),
        (Bson::Double(1e22), decimal("1E+22")),
        (Bson::Double(f64::INFINITY), decimal("Infinity")),
    ] {
        assert_eq!(
            nearest(left.clone()),
            nearest(right.clone()),
            "{left} {right}"
        );
    }
}

/// A coefficient of more than 34 digits counts as zero, in both of its encodings.
#[test]
fn decimals_with_invalid_coefficients_are_zero() {
    for bits in [
        (0x3040_u128 << 112) | ((1 << 113) - 1),
        0x6c10_u128 << 112,
        (0x6c10_u128 << 112) | 7,
    ] {
        let odd = Bson::Decimal128(bson::Decimal128::from_bytes(bits.to_le_bytes()));
        assert_eq!(order(odd, 0), Ordering::Equal);
    }
}

#[test]
fn types_are_ordered_as_mongodb_orders_them() {
    let values: Vec<Bson> = vec![
        Bson::MinKey,
        Bson::Undefined,
        Bson::Null,
        5.into(),
        "".into(),
        doc! {}.into(),
        Bson::Array(vec![]),
        binary(0, b""),
        ObjectId::from_bytes([0; 12]).into(),
        false.into(),
        DateTime::from_millis(0).into(),
        Bson::Timestamp(Timestamp {
            time: 0,
            increment: 0,
        }),
        regex("a", ""),
        Bson::JavaScriptCode("".into()),
        Bson::MaxKey,
    ];
    for (i, left) in values.iter().enumerate() {
        for (j, right) in values.iter().enumerate() {
            assert_eq!(
                order(left.clone(), right.clone()),
                i.cmp(&j),
                "{left} {right}"
            );
        }
    }
}

fn binary(subtype: u8, bytes: &[u8]) -> Bson {
    Bson::Binary(Binary {
        subtype: BinarySubtype::from(subtype),
        bytes: bytes.to_vec(),
    })
}

fn regex(pattern: &str, options: &str) -> Bson {
    Bson::RegularExpression(Regex {
        pattern: pattern.try_into().unwrap(),
        options: options.try_into().unwrap(),
    })
}

#[test]
fn values_of_one_type_are_ordered_as_mongodb_orders_them() {
    let time = |time, increment| Bson::Timestamp(Timestamp { time, increment });
    let date = |millis| Bson::DateTime(DateTime::from_millis(millis));
    // Each row is in ascending order.
    let rows: Vec<Vec<Bson>> = vec![
        vec![
            "".into(),
            "A".into(),
            "a".into(),
            "a\0".into(),
            "aa".into(),
            "é".into(),
        ],
        vec![false.into(), true.into()],
        vec![date(i64::MIN), date(-1), date(0), date(i64::MAX)],
        // Timestamps are unsigned.
        vec![time(0, 1), time(1, 0), time(1, 1), time(u32::MAX, 0)],
        // Length, then subtype, then bytes. The last lengths need two bytes.
        vec![
            binary(0, b"b"),
            binary(128, b"a"),
            binary(0, b"aa"),
            binary(0, b"ab"),
            binary(5, b"aa"),
            binary(0, &[0; 255]),
            binary(0, &[0; 256]),
        ],
        vec![regex("a", ""), regex("a", "i"), regex("b", "")],
        // Field by field: type class, name, value; a document that ends first is less.
        vec![
            doc! {}.into(),
            doc! {"b": 1}.into(),
            doc! {"b": 1, "a": 1}.into(),
            doc! {"b": 2.0}.into(),
            doc! {"c": 0}.into(),
            doc! {"a": "x"}.into(),
            doc! {"a": {"b": 1}}.into(),
            doc! {"a": {"b": 2}}.into(),
        ],
        vec![
            Bson::Array(vec![]),
            Bson::Array(vec![1.into()]),
            Bson::Array(vec![1.into(), Bson::Null]),
            Bson::Array(vec![1.into(), 2.into()]),
            Bson::Array(vec![2.into()]),
            Bson::Array(vec!["a".into()]),
        ],
    ];
    for row in rows {
        for (i, left) in row.iter().enumerate() {
            for (j, right) in row.iter().enumerate() {
                assert_eq!(
                    order(left.clone(), right.clone()),
                    i.cmp(&j),
                    "{left} {right}"
                );
            }
        }
    }
    assert_eq!(order("x", Bson::Symbol("x".into())), Ordering::Equal);
    assert_eq!(order(doc! {"a": 1}, doc! {"a": 1_i64}), Ordering::Equal);
}

#[test]
fn ranges_compare_within_a_type() {
    use Condition::{Gt, Gte, Lt, Lte};
    let rows: Vec<(Bson, Condition, bool)> = vec![
        (5.into(), Gt(4.into()), true),
        (5.into(), Gt(5.into()), false),
        (5.into(), Gte(decimal("5")), true),
        ("5".into(), Gt(4.into()), false),
        (5.into(), Lt("6".into()), false),
        (Bson::Null, Lt(5.into()), false),
        // Null equals null and a missing field.
        (Bson::Null, Gte(Bson::Null), true),
        (Bson::Null, Lte(Bson::Null), true),
        (Bson::Null, Gt(Bson::Null), false),
        (0.into(), Gte(Bson::Null), false),
        // NaN equals NaN and does not compare with other numbers.
        (f64::NAN.into(), Lt(5.into()), false),
        (f64::NAN.into(), Lte(decimal("NaN")), true),
        (f64::NAN.into(), Gte(f64::NAN.into()), true),
        (f64::NAN.into(), Gt(f64::NAN.into()), false),
        (5.into(), Gt(f64::NAN.into()), false),
        (5.into(), Gte(f64::NAN.into()), false),
        // MinKey and MaxKey compare with every type.
        ("x".into(), Lt(Bson::MaxKey), true),
        ("x".into(), Gt(Bson::MaxKey), false),
        ("x".into(), Gt(Bson::MinKey), true),
        ("x".into(), Lte(Bson::MinKey), false),
        (Bson::MaxKey, Lt(Bson::MaxKey), false),
        (Bson::MaxKey, Lte(Bson::MaxKey), true),
        (Bson::MaxKey, Gt(5.into()), false),
        (false.into(), Lt(true.into()), true),
        (Bson::Symbol("b".into()), Gt("a".into()), true),
        // An array compares by its elements, and as a whole with another array.
        (Bson::Array(vec![1.into(), 9.into()]), Gt(5.into()), true),
        (Bson::Array(vec![1.into(), 9.into()]), Lt(5.into()), true),
        (Bson::Array(vec![1.into(), "x".into()]), Gt(5.into()), false),
        (
            Bson::Array(vec![2.into()]),
            Gt(Bson::Array(vec![1.into(), 5.into()])),
            true,
        ),
        (
            Bson::Array(vec![1.into()]),
            Gt(Bson::Array(vec![1.into(), 5.into()])),
            false,
        ),
        (Bson::Array(vec![]), Gte(Bson::Array(vec![])), true),
    ];
    for (value, op, expected) in rows {
        let document = doc! {"a": value};
        assert_eq!(
            holds(&document, "a", op.clone()),
            expected,
            "{document} {op:?}"
        );
    }
}

#[test]
fn a_missing_field_equals_null_and_compares_with_min_and_max_key() {
    use Condition::*;
    for (op, expected) in [
        (Eq(Bson::Null), true),
        (Ne(Bson::Null), false),
        (In(vec![1.into(), Bson::Null]), true),
        (NotIn(vec![1.into(), Bson::Null]), false),
        (Eq(1.into()), false),
        (Ne(1.into()), true),
        (NotIn(vec![1.into()]), true),
        (Gte(Bson::Null), true),
        (Lte(Bson::Null), true),
        (Gt(Bson::Null), false),
        (Lt(Bson::MaxKey), true),
        (Gt(Bson::MinKey), true),
        (Lt(Bson::MinKey), false),
        (Lt(1.into()), false),
        (Exists(false), true),
        (Exists(true), false),
        (Prefix(String::new()), false),
    ] {
        assert_eq!(holds(&doc! {"b": 1}, "a", op.clone()), expected, "{op:?}");
        assert_eq!(holds(&doc! {"a": 1}, "a.b", op.clone()), expected, "{op:?}");
    }
}

/// This is the behaviour of MongoDB 8.0 and later.
#[test]
fn undefined_is_not_null() {
    let document = doc! {"a": Bson::Undefined};
    assert!(!holds(&document, "a", Condition::Eq(Bson::Null)));
    assert!(holds(&document, "a", Condition::Ne(Bson::Null)));
    assert!(!holds(&document, "a", Condition::In(vec![Bson::Null])));
    assert!(!holds(&document, "a", Condition::Gte(Bson::Null)));
    assert!(holds(&document, "a", Condition::Exists(true)));
}

#[test]
fn equality_matches_an_element_or_the_whole_array() {
    use Condition::{Eq, In, Ne, NotIn};
    let array = |values: &[i32]| Bson::Array(values.iter().copied().map(Bson::from).collect());
    let document = doc! {"a": [1, [2, 3], {"b": 4}], "e": []};
    for (path, op, expected) in [
        ("a", Eq(1.0.into()), true),
        ("a", Eq(array(&[2, 3])), true),
        ("a", Eq(2.into()), false),
        ("a", Eq(doc! {"b": 4}.into()), true),
        ("a", Ne(1.into()), false),
        ("a", Ne(7.into()), true),
        ("a", In(vec![7.into(), array(&[2, 3])]), true),
        ("a", NotIn(vec![7.into(), 1.into()]), false),
        ("a", NotIn(vec![7.into()]), true),
        ("a", Eq(Bson::Null), false),
        ("e", Eq(array(&[])), true),
        ("e", Eq(Bson::Null), false),
        ("e", Ne(Bson::Null), true),
    ] {
        assert_eq!(
            holds(&document, path, op.clone()),
            expected,
            "{path} {op:?}"
        );
    }
}

#[test]
fn in_finds_one_of_a_thousand_values_of_mixed_types() {
    let mut values: Vec<Bson> = (0..998).map(Bson::Int32).collect();
    values.push("x".into());
    values.push(f64::NAN.into());
    for (value, expected) in [
        (Bson::Double(997.0), true),
        (Bson::Double(997.5), false),
        (Bson::Int32(998), false),
        (decimal("0.0"), true),
        (decimal("NaN"), true),
        ("x".into(), true),
        ("y".into(), false),
    ] {
        let document = doc! {"a": value};
        assert_eq!(
            holds(&document, "a", Condition::In(values.clone())),
            expected,
            "{document}"
        );
        assert_eq!(
            holds(&document, "a", Condition::NotIn(values.clone())),
            !expected
        );
    }
}

#[test]
fn text_conditions_match_strings_symbols_and_identical_patterns() {
    let prefix = |text: &str| Condition::Prefix(text.into());
    let pattern = |pattern: &str, options: &str| Condition::Regex {
        pattern: pattern.into(),
        options: options.into(),
    };
    let rows: Vec<(Bson, Condition, bool)> = vec![
        ("abc".into(), prefix("ab"), true),
        ("abc".into(), prefix("abcd"), false),
        ("xab".into(), prefix("ab"), false),
        ("".into(), prefix(""), true),
        ("a\nb".into(), prefix("a\n"), true),
        (Bson::Symbol("abc".into()), prefix("ab"), true),
        (Bson::JavaScriptCode("abc".into()), prefix("ab"), false),
        (5.into(), prefix(""), false),
        (
            Bson::Array(vec![1.into(), "abc".into()]),
            prefix("ab"),
            true,
        ),
        (
            Bson::Array(vec![Bson::Array(vec!["abc".into()])]),
            prefix("ab"),
            false,
        ),
        (regex("^ab", ""), prefix("ab"), true),
        (regex("^ab", "i"), prefix("ab"), false),
        ("abc".into(), pattern("b", ""), true),
        (Bson::Symbol("ABC".into()), pattern("b", "i"), true),
        (regex("b", ""), pattern("b", ""), true),
        (regex("b", "i"), pattern("b", ""), false),
        (regex("abc", ""), pattern("b", ""), false),
    ];
    for (value, op, expected) in rows {
        let document = doc! {"a": value};
        assert_eq!(
            holds(&document, "a", op.clone()),
            expected,
            "{document} {op:?}"
        );
    }
}
