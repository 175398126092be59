//! What a filter takes in memory, and that it is still the predicate that it was made from.

use bson::{Binary, DateTime, Regex, Timestamp, oid::ObjectId, spec::BinarySubtype};
use prost::Message as _;
use prost_types::{ListValue, Value, value::Kind};

use super::*;
use crate::filter::index_bytes;
use crate::pb::field_filter::Operator;
use crate::pipeline::fixtures;

/// One value of each type, and the numbers and texts at which forms change.
fn values() -> Vec<Bson> {
    vec![
        Bson::Null,
        Bson::MinKey,
        Bson::MaxKey,
        Bson::Boolean(false),
        Bson::Boolean(true),
        Bson::Int32(5),
        Bson::Int64(5),
        Bson::Int64((1 << 53) + 1),
        Bson::Double(5.0),
        Bson::Double(-0.0),
        Bson::Double(f64::NAN),
        Bson::Double(f64::INFINITY),
        decimal("5.0"),
        decimal("0.1"),
        decimal("NaN"),
        Bson::String(String::new()),
        Bson::String("é\0".into()),
        Bson::DateTime(DateTime::from_millis(-1)),
        Bson::Timestamp(Timestamp {
            time: 1,
            increment: 2,
        }),
        Bson::ObjectId(ObjectId::from_bytes([7; 12])),
        Bson::Binary(Binary {
            subtype: BinarySubtype::Uuid,
            bytes: vec![1; 16],
        }),
        Bson::JavaScriptCode("x".into()),
        Bson::RegularExpression(Regex {
            pattern: bson::raw::cstr!("x").into(),
            options: bson::raw::cstr!("i").into(),
        }),
        Bson::Document(doc! {"b": 1, "a": [1, {"c": Bson::Null}]}),
        Bson::Array(vec![]),
        Bson::Array(vec![Bson::Int32(1), Bson::Array(vec![Bson::Null])]),
    ]
}

/// The bytes of two predicates: NaN is not equal to itself.
fn text(predicate: &Predicate) -> String {
    format!("{predicate:?}")
}

#[test]
fn a_filter_decodes_into_its_predicate_value_by_value_and_in_order() {
    let mut reversed = values();
    reversed.reverse();
    let mut parts = vec![
        field("a.0.b", Condition::In(values())),
        field("a", Condition::NotIn(reversed)),
        field("_id", Condition::In(vec![Bson::Null])),
        field("c", Condition::Exists(true)),
        field("c", Condition::Exists(false)),
        field("d", Condition::Prefix("a.b".into())),
        field("e", Condition::Changed(true)),
        field("e.f", Condition::Changed(false)),
        field(
            "g",
            Condition::Regex {
                pattern: "^x".into(),
                options: "i".into(),
            },
        ),
    ];
    let comparisons = [
        Condition::Eq,
        Condition::Ne,
        Condition::Gt,
        Condition::Gte,
        Condition::Lt,
        Condition::Lte,
    ];
    for value in values() {
        let of_value = comparisons.iter().map(|op| field("h", op(value.clone())));
        parts.push(Predicate::AnyOf(of_value.collect()));
    }
    let predicate = Predicate::AllOf(vec![Predicate::NoneOf(parts)]);
    let filter = Filter::new(&predicate);
    assert_eq!(text(&filter.predicate()), text(&predicate));
    assert_eq!(filter, Filter::new(&predicate));
    assert_eq!(filter.paths(), predicate.paths());
}

/// A long list has its places in four bytes each, and is searched in the same way.
#[test]
fn every_value_of_a_short_and_of_a_long_list_is_found() {
    for length in [1, 200] {
        let texts = (0..500).map(|number| Bson::String(format!("{number}{}", "x".repeat(length))));
        let list: Vec<Bson> = texts.chain(values()).collect();
        for value in &list {
            let document = doc! {"a": value};
            let holds = holds(&document, "a", Condition::In(list.clone()));
            assert!(holds, "{value:?}");
        }
        assert!(holds(&doc! {}, "a", Condition::In(list.clone())));
        assert!(!holds(&doc! {"a": "y"}, "a", Condition::In(list.clone())));
        assert!(!holds(&doc! {"a": 6}, "a", Condition::In(list)));
    }
}

/// Makes the value of a number.
type Make<'m> = &'m dyn Fn(usize) -> Kind;

/// What a watch keeps of its filter, and the bytes of the values of its lists.
struct Kept {
    bytes: usize,
    in_request: usize,
    in_bson: usize,
}

/// Returns what a watch with lists of 1,000 values keeps, of which all must hold, or any.
fn kept(lists: usize, values: impl Fn(usize) -> Kind, any: bool) -> Kept {
    let (mut in_request, mut in_bson) = (0, 0);
    let filters = (0..lists).map(|list| {
        let values = (0..1_000).map(|number| Value {
            kind: Some(values(list * 1_000 + number)),
        });
        let list = ListValue {
            values: values.collect(),
        };
        in_request += list.encoded_len();
        fixtures::field("a", Operator::In(list))
    });
    let filters: Vec<_> = filters.collect();
    let filters = if any {
        vec![fixtures::any_of(filters)]
    } else {
        filters
    };
    let watch = fixtures::watch(fixtures::filtered(filters));
    let filter = watch.filter.clone().expect("a filter");
    let mut parts = vec![filter.predicate()];
    while let Some(part) = parts.pop() {
        match part {
            Predicate::AllOf(more) | Predicate::AnyOf(more) => parts.extend(more),
            Predicate::Field {
                op: Condition::In(values),
                ..
            } => in_bson += bytes(&doc! {"": values}).len(),
            other => panic!("{other:?}"),
        }
    }
    Kept {
        bytes: filter.heap_bytes() + index_bytes(&watch.shared_residual()),
        in_request,
        in_bson,
    }
}

/// With its entries in the index, which one list of several has, or all of which any may hold.
#[test]
fn a_filter_takes_at_most_two_and_a_half_times_the_bytes_of_its_literals() {
    let number = |number: usize| Kind::NumberValue(number as f64);
    let fraction = |number: usize| Kind::NumberValue(number as f64 + 0.5);
    let text = |number: usize| Kind::StringValue(format!("customer-{number:06}"));
    // Of two letters.
    let short = |number: usize| Kind::StringValue(format!("{:02x}", number % 256));
    let kinds: [(&str, usize, Make<'_>); 4] = [
        ("numbers", 22, &number),
        ("fractions", 22, &fraction),
        ("texts", 12, &text),
        ("short texts", 40, &short),
    ];
    for (name, most, kind) in kinds {
        for (lists, any) in [(1, false), (most, false), (most, true)] {
            let Kept {
                bytes,
                in_request,
                in_bson,
            } = kept(lists, kind, any);
            let case = format!("{bytes} bytes for {lists} lists of {name}");
            println!("{case}: {in_request} in the request, {in_bson} in BSON");
            assert!(2 * bytes <= 5 * in_bson, "{case}: {in_bson} in BSON");
            // In a request a short text takes less than its length in BSON and an entry of the index.
            let is_short = name == "short texts";
            assert!(
                is_short || 2 * bytes <= 5 * in_request,
                "{case}: {in_request} in the request"
            );
        }
    }
}
