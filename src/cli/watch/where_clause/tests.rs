use serde_json::{Value, json};

use super::value::to_protobuf;
use super::*;

fn parsed(text: &str) -> (String, Operator) {
    let clause: WhereClause = text
        .parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(clause.text, text);
    match clause.filter.kind {
        Some(pb::filter::Kind::Field(field)) => (field.path, field.operator.unwrap()),
        other => panic!("{text}: {other:?}"),
    }
}

fn refused(text: &str) -> WhereError {
    text.parse::<WhereClause>()
        .err()
        .unwrap_or_else(|| panic!("{text} was accepted"))
}

fn value(json: Value) -> prost_types::Value {
    to_protobuf(json)
}

fn list(values: &[Value]) -> prost_types::ListValue {
    prost_types::ListValue {
        values: values.iter().cloned().map(to_protobuf).collect(),
    }
}

#[test]
fn every_comparison_is_parsed_with_and_without_spaces() {
    for (text, operator) in [
        ("a=5", Operator::Eq(value(json!(5)))),
        ("a==5", Operator::Eq(value(json!(5)))),
        ("a != 5", Operator::Ne(value(json!(5)))),
        ("a>5", Operator::Gt(value(json!(5)))),
        (" a >= 5 ", Operator::Gte(value(json!(5)))),
        ("a<5", Operator::Lt(value(json!(5)))),
        ("a <=5", Operator::Lte(value(json!(5)))),
        ("a exists", Operator::Exists(true)),
        ("a  MISSING ", Operator::Exists(false)),
    ] {
        assert_eq!(parsed(text), ("a".to_owned(), operator), "{text}");
    }
}

#[test]
fn a_value_is_json_if_valid_and_text_otherwise() {
    for (text, expected) in [
        ("status=paid", json!("paid")),
        ("status=paid in full", json!("paid in full")),
        ("total=1.5e3", json!(1500.0)),
        ("total=-7", json!(-7)),
        ("ok=true", json!(true)),
        ("ok=null", json!(null)),
        ("id='5'", json!("5")),
        ("id=\"5\"", json!("5")),
        ("id=\"\"", json!("")),
        ("id=''", json!("")),
        ("id=\"a\\\"=b\"", json!("a\"=b")),
        ("id=007", json!("007")),
        ("id=a=b", json!("a=b")),
        ("day=2025-01-31", json!("2025-01-31")),
        (
            "_id={\"$oid\":\"65f000000000000000000001\"}",
            json!({"$oid": "65f000000000000000000001"}),
        ),
        ("tags=[1, \"b\"]", json!([1, "b"])),
        (
            "big=9007199254740993",
            json!({"$numberLong": "9007199254740993"}),
        ),
        (
            "big=-9223372036854775808",
            json!({"$numberLong": "-9223372036854775808"}),
        ),
    ] {
        let (_, operator) = parsed(text);
        assert_eq!(operator, Operator::Eq(value(expected)), "{text}");
    }
}

#[test]
fn paths_may_be_dotted_or_quoted() {
    for (text, path) in [
        ("address.city=x", "address.city"),
        ("items.0.sku=x", "items.0.sku"),
        ("_id=x", "_id"),
        ("zażółć=x", "zażółć"),
        ("\"two words\"=x", "two words"),
        ("\"a=b\" exists", "a=b"),
        ("exists exists", "exists"),
    ] {
        assert_eq!(parsed(text).0, path, "{text}");
    }
}

#[test]
fn lists_are_json_or_comma_separated_values() {
    for (text, values) in [
        ("a in [1,2]", vec![json!(1), json!(2)]),
        ("a in[x, y z ,3]", vec![json!("x"), json!("y z"), json!(3)]),
        (
            "a in ['x,y', \"z,\\\",\"]",
            vec![json!("x,y"), json!("z,\",")],
        ),
        ("a in [it's, b]", vec![json!("it's"), json!("b")]),
        (
            "a in [{\"$oid\":\"aa\"}, b]",
            vec![json!({"$oid": "aa"}), json!("b")],
        ),
        ("a in []", vec![]),
    ] {
        assert_eq!(parsed(text).1, Operator::In(list(&values)), "{text}");
    }
    assert_eq!(
        parsed("a not  in [x]").1,
        Operator::NotIn(list(&[json!("x")]))
    );
}

#[test]
fn prefixes_are_always_text() {
    for (text, prefix) in [
        ("sku ^= A-", "A-"),
        ("sku^=12", "12"),
        ("sku ^= \"A \"", "A "),
        ("sku ^= {x", "{x"),
    ] {
        assert_eq!(parsed(text).1, Operator::Prefix(prefix.to_owned()));
    }
}

#[test]
fn regular_expressions_are_plain_or_between_slashes() {
    for (text, pattern, options) in [
        ("name ~ /^jo/i", "^jo", "i"),
        ("name ~ /a\\/b/", "a\\/b", ""),
        ("name~^jo.*n$", "^jo.*n$", ""),
        ("name ~ /x/imsx ", "x", "imsx"),
    ] {
        let expected = Operator::Regex(pb::RegexFilter {
            pattern: pattern.to_owned(),
            options: options.to_owned(),
        });
        assert_eq!(parsed(text).1, expected, "{text}");
    }
}

#[test]
fn syntax_errors_have_a_column() {
    for (text, column, problem) in [
        ("", 1, "the path of a field is missing"),
        ("  =5", 3, "the path of a field is missing"),
        ("status", 7, "an operator is missing"),
        ("status paid", 8, "an operator is missing"),
        ("żółw paid", 6, "an operator is missing"),
        ("status=", 8, "the value is missing"),
        ("total => 5", 7, "unknown operator"),
        ("total <> 5", 7, "unknown operator"),
        ("a =~ x", 3, "unknown operator"),
        ("a !~ x", 3, "unknown operator"),
        ("a exists b", 10, "unexpected text after the condition"),
        ("a not b", 7, "`in` is missing after `not`"),
        ("a inside [b]", 3, "an operator is missing"),
        ("a in b", 6, "the list is missing"),
        ("a in [b", 8, "the closing ] is missing"),
        ("a in [b,,c]", 9, "the value is missing"),
        ("a=\"b", 5, "invalid JSON ("),
        ("a={\"$oid\" \"x\"}", 11, "invalid JSON ("),
        ("a='b", 3, "the closing single quote is missing"),
        ("\"a=b", 1, "the closing quote of the path"),
        ("a ~ ", 5, "the regular expression is missing"),
        ("a ~ //i", 5, "the regular expression is missing"),
        ("a ~ /b", 7, "the closing / is missing"),
        ("a ~ /b/iq", 9, "unknown option"),
        ("a=1 && b=2", 5, "`&&` and `||` are not supported"),
        ("a=x||y", 4, "`&&` and `||` are not supported"),
        ("a ^=", 5, "the prefix is missing"),
    ] {
        let error = refused(text);
        assert_eq!(error.column(), column, "{text}: {error}");
        assert!(error.problem.starts_with(problem), "{text}: {error}");
        assert!(!error.advice.is_empty());
    }
}

#[test]
fn an_error_points_at_the_column_and_says_what_to_write() {
    assert_eq!(
        refused("total => 5").to_string(),
        "unknown operator at character 7\n  \
         total => 5\n  \
         \x20     ^\n\
         use `>=` for greater or equal"
    );
}
