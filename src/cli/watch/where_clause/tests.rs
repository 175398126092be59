use proptest::prelude::*;
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

/// The order of a document's keys counts, and a protobuf map keeps none.
#[test]
fn documents_are_sent_as_they_are_written() {
    for (text, comparison, json) in [
        (
            r#"a={"b": 1, "a": 2} "#,
            Comparison::Eq,
            r#"{"b": 1, "a": 2}"#,
        ),
        (r#"a != [{"b":1}]"#, Comparison::Ne, r#"[{"b":1}]"#),
        (
            r#"a>{"$ref":"c","$id":{"b":1}}"#,
            Comparison::Gt,
            r#"{"$ref":"c","$id":{"b":1}}"#,
        ),
        (
            r#"a>={"$ref":"c","$id":5,"x":1}"#,
            Comparison::Gte,
            r#"{"$ref":"c","$id":5,"x":1}"#,
        ),
        (r#"a<{"b":1,"b":2}"#, Comparison::Lt, r#"{"b":1,"b":2}"#),
        (
            r#"a<={"b":{"$oid":"x"}}"#,
            Comparison::Lte,
            r#"{"b":{"$oid":"x"}}"#,
        ),
        (
            r#"a in [{"b":1,"a":2}, 5]"#,
            Comparison::In,
            r#"[{"b":1,"a":2}, 5]"#,
        ),
        (
            r#"a not in [{"b":1,"a":2}, paid, 'x y', 5]"#,
            Comparison::NotIn,
            r#"[{"b":1,"a":2},"paid","x y",5]"#,
        ),
    ] {
        let expected = compare(comparison, json.to_owned());
        assert_eq!(parsed(text), ("a".to_owned(), expected), "{text}");
    }
    for json in [
        json!({}),
        json!([{}, 1]),
        json!({"$id": 5, "$ref": "c", "$db": "d"}),
        json!({"$binary": {"base64": "", "subType": "0"}}),
        json!({"$timestamp": {"t": 1, "i": 2}}),
    ] {
        let expected = Operator::Eq(value(json.clone()));
        assert_eq!(parsed(&format!("a={json}")).1, expected);
    }
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
fn changed_is_written_like_a_function_and_can_be_negated() {
    for (text, path, changed) in [
        ("changed(status)", "status", true),
        (" CHANGED ( address.city ) ", "address.city", true),
        ("not changed(status)", "status", false),
        ("Not  Changed(items.0.sku)", "items.0.sku", false),
        ("changed(\"two words\")", "two words", true),
        ("changed(\"f(x)\")", "f(x)", true),
        ("changed(not)", "not", true),
        ("changed(changed)", "changed", true),
    ] {
        let expected = (path.to_owned(), Operator::Changed(changed));
        assert_eq!(parsed(text), expected, "{text}");
    }
    // Fields of these names remain fields.
    for (text, path, operator) in [
        ("changed=5", "changed", Operator::Eq(value(json!(5)))),
        ("changed exists", "changed", Operator::Exists(true)),
        ("changed in [5]", "changed", Operator::In(list(&[json!(5)]))),
        ("not=5", "not", Operator::Eq(value(json!(5)))),
        ("not in [5]", "not", Operator::In(list(&[json!(5)]))),
        ("not not in [5]", "not", Operator::NotIn(list(&[json!(5)]))),
        ("changedAt=5", "changedAt", Operator::Eq(value(json!(5)))),
        ("changed.by=5", "changed.by", Operator::Eq(value(json!(5)))),
        (
            "\"changed(a)\"=5",
            "changed(a)",
            Operator::Eq(value(json!(5))),
        ),
    ] {
        assert_eq!(parsed(text), (path.to_owned(), operator), "{text}");
    }
}

#[test]
fn other_ways_to_write_changed_are_refused_with_the_right_one() {
    for (text, column, advice) in [
        ("changed()", 9, "changed(status)"),
        ("changed(", 9, "changed(status)"),
        ("changed(status", 15, "changed(path)"),
        ("changed(status=paid)", 15, "changed(path)"),
        (
            "changed(a, b)",
            10,
            "--where 'changed(a)' --where 'changed(b)'",
        ),
        ("changed(a b)", 11, "changed(path)"),
        ("changed(status)=true", 16, "not changed(path)"),
        ("changed(status) = paid", 17, "--where 'status=paid'"),
        ("changed(status) && total>5", 17, "another --where"),
        ("changed(a) and changed(b)", 12, "another --where"),
        ("changed status", 9, "changed(path)"),
        ("status changed", 8, "changed(status)"),
        ("status not changed", 8, "not changed(status)"),
        ("\"a b\" changed", 7, "changed(\"a b\")"),
        ("!changed(status)", 1, "not changed(path)"),
        ("exists(status)", 15, "write status exists"),
        ("missing(a.b)", 13, "write a.b missing"),
    ] {
        let error = refused(text);
        assert_eq!(error.column(), column, "{text}: {error}");
        assert!(error.advice.contains(advice), "{text}: {error}");
    }
}

fn warning(text: &str) -> Option<String> {
    let clause: WhereClause = text.parse().unwrap();
    clause.warning().map(str::to_owned)
}

#[test]
fn text_that_looks_like_another_type_warns_with_the_typed_form() {
    for (text, typed, quoted) in [
        (
            "_id=507f1f77bcf86cd799439011",
            r#"'_id={"$oid":"507f1f77bcf86cd799439011"}'"#,
            r#"'_id="507f1f77bcf86cd799439011"'"#,
        ),
        (
            "when>2024-01-01",
            r#"'when>{"$date":"2024-01-01T00:00:00Z"}'"#,
            r#"'when>"2024-01-01"'"#,
        ),
        (
            " _id not in [ 507f1f77bcf86cd799439011 , 'x', NaN ] ",
            r#"' _id not in [ {"$oid":"507f1f77bcf86cd799439011"} , '\''x'\'', {"$numberDouble":"NaN"} ] '"#,
            r#"' _id not in [ "507f1f77bcf86cd799439011" , '\''x'\'', "NaN" ] '"#,
        ),
        (
            "by=ObjectId(\"507f1f77bcf86cd799439011\")",
            r#"'by={"$oid":"507f1f77bcf86cd799439011"}'"#,
            r#"'by="ObjectId(\"507f1f77bcf86cd799439011\")"'"#,
        ),
        ("total >= +5", "'total >= 5'", r#"'total >= "+5"'"#),
    ] {
        let said = warning(text).unwrap_or_else(|| panic!("{text}: no warning"));
        assert!(said.contains("compares with text"), "{said}");
        assert!(said.contains(&format!("--where {typed}\n")), "{said}");
        assert!(said.ends_with(&format!("--where {quoted}")), "{said}");
        // Neither of the forms that it shows warns again.
        for form in [typed, quoted] {
            let form = form.trim_matches('\'').replace("'\\''", "'");
            assert_eq!(warning(&form), None, "{form}");
        }
    }
    let digits = warning("_id=507177869900123943901112").unwrap();
    assert!(digits.contains("compares with a number"), "{digits}");
}

#[test]
fn typed_quoted_and_ordinary_values_do_not_warn() {
    for text in [
        r#"_id={"$oid":"507f1f77bcf86cd799439011"}"#,
        r#"_id="507f1f77bcf86cd799439011""#,
        "_id='507f1f77bcf86cd799439011'",
        r#"_id in ["507f1f77bcf86cd799439011"]"#,
        r#"when>{"$date":"2024-01-01T00:00:00Z"}"#,
        "when>'2024-01-01'",
        "a in []",
        "a in [1,2]",
        "status=paid",
        "zip=00123",
        "_id ^= 507f1f77bcf86cd799439011",
        "_id ~ 507f1f77bcf86cd799439011",
        "507f1f77bcf86cd799439011 exists",
        "507f1f77bcf86cd799439011=5",
        "changed(507f1f77bcf86cd799439011)",
    ] {
        assert_eq!(warning(text), None, "{text}");
    }
}

#[test]
fn syntax_errors_have_a_column() {
    for (text, column, problem) in [
        ("'status'=paid", 1, "a path can't begin with a single quote"),
        (
            " 'two words'=5",
            2,
            "a path can't begin with a single quote",
        ),
        (
            "changed('status')",
            9,
            "a path can't begin with a single quote",
        ),
        (
            "not changed( 'a' )",
            14,
            "a path can't begin with a single quote",
        ),
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

/// Parts of conditions, and what may stand in their place.
const PARTS: &[&str] = &[
    "a",
    "_id",
    "changed",
    "not",
    "in",
    "exists",
    "missing",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "\"",
    "'",
    "=",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "^=",
    "~",
    "/",
    "!",
    ",",
    " ",
    "\\",
    "&&",
    "ż",
    "e\u{301}",
    "\n",
    "507f1f77bcf86cd799439011",
    "507177869900123943901112",
    "2024-01-01",
    "T12:30",
    "+01",
    ":00",
    "Z",
    "3b241101-e2bb-4255-8caf-4136c566a962",
    "ObjectId",
    "ISODate",
    "NumberLong",
    "-",
    ".5",
    "1_000",
    "NaN",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Any text is a condition or an error that can be shown, and what a warning shows warns of nothing.
    #[test]
    fn any_text_is_a_condition_or_an_error_with_a_place(
        parts in prop::collection::vec(prop::sample::select(PARTS), 0..12),
        other in any::<String>(),
        end in any::<bool>(),
    ) {
        let mut text = parts.concat();
        if end {
            text.push_str(&other);
        }
        match text.parse::<WhereClause>() {
            Err(error) => {
                prop_assert!(error.column() <= text.chars().count() + 1);
                prop_assert!(!error.to_string().is_empty());
            }
            Ok(clause) => {
                let Some(warning) = clause.warning() else {
                    return Ok(());
                };
                let shown: Vec<&str> = warning
                    .lines()
                    .filter_map(|line| line.strip_prefix("  --where "))
                    .collect();
                prop_assert_eq!(shown.len(), 2, "{}", warning);
                // Escaped control characters do not read back.
                if text.chars().any(char::is_control) {
                    return Ok(());
                }
                for form in shown {
                    let form = form.strip_prefix('\'').and_then(|it| it.strip_suffix('\''));
                    let form = form.unwrap().replace("'\\''", "'");
                    let again = form.parse::<WhereClause>();
                    prop_assert!(again.is_ok(), "{}: {:?}", form, again);
                    let again = again.unwrap();
                    prop_assert_eq!(again.warning(), None, "{}", form);
                }
            }
        }
    }
}
