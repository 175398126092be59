//! What a file seems to say is what it says.

use serde_json::json;

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, deserialize_with = "non_null")]
    text: Option<String>,
    #[serde(default, deserialize_with = "non_null")]
    list: Option<Vec<String>>,
    #[serde(default, deserialize_with = "value")]
    any: Option<Value>,
    #[serde(default, deserialize_with = "mapping")]
    map: Option<Map<String, Value>>,
    #[serde(default)]
    flag: bool,
    #[serde(default)]
    count: u32,
    #[serde(default)]
    size: bytesize::ByteSize,
}

fn file(yaml: &str) -> Result<File, String> {
    read(yaml.as_bytes())
}

#[test]
fn a_text_stays_the_text_that_is_written() {
    for text in [
        "no",
        "yes",
        "on",
        "off",
        "y",
        "N",
        "010",
        "-007",
        "0x1F",
        "0o17",
        "0b11",
        "1e3",
        "1_000",
        ".5",
        "12:30:45",
        "2027-01-31",
        "2027-01-31T12:00:00Z",
        "true",
        "null x",
        "=",
        "5d6e",
        "1.0",
    ] {
        let read = file(&format!("text: {text}")).expect(text);
        assert_eq!(read.text.as_deref(), Some(text));
    }
    for nothing in [
        "", " ", "~", "null", "Null", "NULL", "!!null x", "# a", "\n",
    ] {
        let read = file(&format!("text: {nothing}"));
        assert!(read.is_err(), "{nothing:?}: {read:?}");
    }
}

#[test]
fn values_of_any_type_follow_the_core_schema_of_yaml_1_2() {
    for (yaml, value) in [
        ("no", json!("no")),
        ("Yes", json!("Yes")),
        ("on", json!("on")),
        ("off", json!("off")),
        ("y", json!("y")),
        ("010", json!("010")),
        ("-007", json!("-007")),
        ("1_000", json!("1_000")),
        ("12:30:45", json!("12:30:45")),
        ("2027-01-31", json!("2027-01-31")),
        ("true", json!(true)),
        ("False", json!(false)),
        ("10", json!(10)),
        ("-3", json!(-3)),
        ("0x1F", json!(31)),
        ("0o17", json!(15)),
        ("1e3", json!(1000.0)),
        ("'1'", json!("1")),
        ("\"true\"", json!("true")),
        ("!!str no", json!("no")),
        ("!!str 10", json!("10")),
        ("~", json!(null)),
        ("null", json!(null)),
        (
            "[no, 010, {on: off, 1: a}]",
            json!(["no", "010", {"on": "off", "1": "a"}]),
        ),
        ("[]", json!([])),
        ("{}", json!({})),
        (
            "18446744073709551615",
            json!(18_446_744_073_709_551_615_u64),
        ),
    ] {
        let read = file(&format!("any: {yaml}")).unwrap_or_else(|why| panic!("{yaml}: {why}"));
        assert_eq!(read.any, Some(value), "{yaml}");
    }
}

#[test]
fn a_key_or_an_item_with_nothing_behind_it_is_refused() {
    for (yaml, words) in [
        (
            "text:",
            "\"text\" has nothing behind it: give it a value or remove it",
        ),
        (
            "list:",
            "\"list\" has nothing behind it: give it a value or remove it",
        ),
        ("list: # [a]", "\"list\" has nothing behind it"),
        ("list: [a, ]\ntext:", "\"text\" has nothing behind it"),
        ("list:\n  -", "an item of a list has nothing behind it"),
        ("any:", "\"any\" has nothing behind it"),
        ("map:", "\"map\" has nothing behind it"),
        (
            "flag:",
            "\"flag\" has nothing behind it: give it a value or remove it",
        ),
        ("txt:", "\"txt\" has nothing behind it"),
        ("map: {a: }", "\"a\" has nothing behind it"),
        ("map: {a: , b: 1}", "\"a\" has nothing behind it"),
        ("map:\n  a:\n  b: 1", "\"a\" has nothing behind it"),
        (
            "map:\n  a: # later\n  null: 1",
            "\"a\" has nothing behind it",
        ),
        ("map:\n  a:\n    b:\n", "\"b\" has nothing behind it"),
        (
            "any:\n  a:\n    -\n    - 1",
            "an item of a list has nothing",
        ),
        ("any:\n  a: [1, {b: }]", "\"b\" has nothing behind it"),
    ] {
        let problem = file(yaml).expect_err(yaml);
        assert!(problem.contains(words), "{yaml}: {problem}");
        assert!(problem.contains("line "), "{yaml}: {problem}");
    }
    let problem = file("map: {a: 1}\nflag:").expect_err("a flag of nothing");
    assert!(problem.contains("line 2"), "{problem}");
    for null in ["text: null", "text: ~", "list: null"] {
        let problem = file(null).expect_err(null);
        assert!(
            problem.contains("is null: give the key a value or remove it"),
            "{problem}"
        );
        assert!(problem.contains("line 1"), "{problem}");
    }
    let read = file("map: {a: null, b: ~, c: [null], d: ''}").expect("nulls that are written");
    let map = json!({"a": null, "b": null, "c": [null], "d": ""});
    assert_eq!(read.map.map(Value::Object), Some(map));
}

#[test]
fn whatever_reads_in_two_ways_or_grows_is_refused() {
    let bomb = "any:\n  a: &a [x, x]\n  b: &b [*a, *a]\n  c: [*b, *b]\n";
    let deep = format!("any: {}", "[".repeat(100_000));
    for yaml in [
        "text: a\ntext: b",
        "map: {a: 1, a: 2}",
        "map: {a: 1, 'a': 2}",
        "any: [{a: {b: 1, b: 1}}]",
        "text: &a b",
        "text: &a b\nany: *a",
        bomb,
        "<<: {text: a}",
        "map: {<<: {a: 1}}",
        "any: [{<<: {a: 1}}]",
        "text: a\n---\ntext: b",
        "text: !secret a",
        "any: !secret a",
        "!a text: a",
        "any: .nan",
        "any: 1e999",
        "flag: yes",
        "flag: 1",
        "txt: a",
        "map: [a]",
        "text: {a: b}",
        "text: [a]",
        "map: {[a]: 1}",
        "%YAML 3.0\n---\ntext: a",
        &deep,
    ] {
        let read = file(yaml);
        assert!(read.is_err(), "{}: {read:?}", &yaml[..yaml.len().min(80)]);
    }
    for yaml in [
        "<<: {text: a}",
        "map: {<<: {a: 1}}",
        "any: [{<<: {a: 1}}]",
        "map:\n  <<: {a: 1}\n",
    ] {
        let problem = file(yaml).expect_err(yaml);
        let words = "merge keys (<<) are not read: write the keys out";
        assert!(problem.contains(words), "{yaml}: {problem}");
        assert!(problem.starts_with("line "), "{yaml}: {problem}");
    }
    for (yaml, words) in [
        (
            "text: a\ntext: b",
            "line 2, column 1: duplicate key \"text\": write each key once",
        ),
        (
            "list: [a, ~]",
            "line 1, column 11: is null where a text is expected",
        ),
        (
            "text: &a b",
            "line 1, column 10: anchors and aliases are not read: write the values out",
        ),
        (
            "text: a\n---\ntext: b",
            "line 2, column 1: a second document is not read: write one only",
        ),
        (
            "list: [*]",
            "line 1, column 8: an anchor or alias has no name: ",
        ),
        ("list: [*]", "that begins with * or & in quotes, as \"*\""),
        ("list: [*a]", "that begins with * or & in quotes, as \"*\""),
        (
            "list: a",
            "line 1, column 7: a list is expected: write [a, b]",
        ),
        (
            "list: [a: b]",
            "line 1, column 8: a text is expected: write it in quotes, if it contains a colon",
        ),
        ("map: a", "a mapping is expected: write each as key: value"),
        ("flag: no", "line 1, column 7: true or false is expected"),
        ("count: ten", "line 1, column 8: a whole number is expected"),
        (
            "size: 1MB/s",
            "\"1MB/s\" is no size: write one such as 512KiB or 1MiB",
        ),
        ("txt: a", "line 1, column 1: unknown field `txt`"),
    ] {
        let problem = file(yaml).expect_err(yaml);
        assert!(problem.contains(words), "{yaml}: {problem}");
    }
    assert!(read::<File>(b"text: \xff").is_err_and(|it| it.contains("UTF-8")));
}
