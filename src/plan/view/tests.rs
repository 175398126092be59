use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn hidden(paths: &[&str]) -> Hidden {
    Hidden::new(paths.iter().map(|&path| path.to_owned())).unwrap()
}

/// Where a path leads from the top, in a word.
fn led(paths: &[&str], path: &str) -> &'static str {
    match hidden(paths)
        .tree()
        .map(|tree| tree.led_to(path.as_bytes()))
    {
        Some(Led::Hidden) => "hidden",
        Some(Led::Above(_)) => "above",
        Some(Led::Clear) | None => "clear",
    }
}

#[test]
fn a_path_with_an_empty_part_or_a_number_hides_nothing_and_is_refused() {
    for path in ["", ".", "a.", ".a", "a..b", "0", "a.0", "a.0.b", "a.01"] {
        Hidden::new([path.to_owned()]).expect_err(path);
    }
    for path in ["a", "a.b", "a0", "a.b1", "a.-1", "$a", "a b", "é"] {
        Hidden::new([path.to_owned()]).expect(path);
    }
}

#[test]
fn what_is_below_a_hidden_path_is_hidden_with_it_and_named_once() {
    let hidden = hidden(&["b.c", "a.b", "a", "ab", "a.c.d", "b.c", "a-b"]);
    assert_eq!(hidden.paths(), ["a", "a-b", "ab", "b.c"]);
}

#[test]
fn a_filters_path_touches_what_is_hidden_at_it_below_it_and_above_it() {
    let hidden = hidden(&["items.price", "ssn"]);
    for path in [
        "ssn",
        "ssn.a",
        "ssn.0",
        "items",
        "items.price",
        "items.price.a",
        "items.0",
        "items.0.price",
        "items.0.1.price.2.a",
        "0.ssn",
        "0",
    ] {
        assert!(hidden.touches(path), "{path}");
    }
    for path in [
        "ssnx",
        "ss",
        "a.ssn",
        "item",
        "items.name",
        "items.0.name",
        "items.pric",
        "price",
        "",
    ] {
        assert!(!hidden.touches(path), "{path}");
    }
    assert!(!Hidden::default().touches("a"));
    assert!(!Hidden::default().touches("0"));
}

#[test]
fn a_name_leads_to_what_is_hidden_through_dots_and_numbers() {
    let paths = &["items.price", "ssn"][..];
    for (path, expected) in [
        ("ssn", "hidden"),
        ("ssn.a", "hidden"),
        ("0.ssn", "hidden"),
        ("items", "above"),
        ("items.0", "above"),
        ("7", "above"),
        ("items.price", "hidden"),
        ("items.0.price.x", "hidden"),
        ("items.name", "clear"),
        ("items.0.name", "clear"),
        ("", "clear"),
        ("items.", "clear"),
        ("items..price", "clear"),
        ("ssn2", "clear"),
    ] {
        assert_eq!(led(paths, path), expected, "{path:?}");
    }
    assert_eq!(led(&[], "a"), "clear");
}

fn parts() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(select(vec!["a", "b", "ab", "0", "12", ""]), 1..5)
}

fn named() -> impl Strategy<Value = String> {
    prop::collection::vec(select(vec!["a", "b", "ab"]), 1..4).prop_map(|parts| parts.join("."))
}

proptest! {
    /// The model: without its numbers, one of the two paths begins with all of the other.
    #[test]
    fn to_touch_is_to_share_a_beginning(
        path in parts(),
        paths in prop::collection::vec(named(), 0..4),
    ) {
        let hidden = Hidden::new(paths.clone()).unwrap();
        let named: Vec<&str> = path.iter().copied().filter(|part| !["0", "12"].contains(part)).collect();
        let shares = |hidden: &String| {
            let hidden: Vec<&str> = hidden.split('.').collect();
            hidden.starts_with(&named) || named.starts_with(&hidden)
        };
        let expected = paths.iter().any(shares);
        prop_assert_eq!(hidden.touches(&path.join(".")), expected);
        // What a filter may not ask about is exactly what is not shown whole.
        let led = hidden.tree().map(|tree| tree.led_to(path.join(".").as_bytes()) != Led::Clear);
        prop_assert_eq!(led.unwrap_or(false), expected);
    }

    #[test]
    fn a_path_leads_on_name_by_name_as_it_does_at_once(
        path in parts(),
        paths in prop::collection::vec(named(), 1..4),
    ) {
        let hidden = Hidden::new(paths).unwrap();
        let tree = hidden.tree().unwrap();
        let mut stepped = Led::Above(tree);
        for part in &path {
            if let Led::Above(branch) = stepped {
                stepped = branch.led_to(part.as_bytes());
            }
        }
        prop_assert_eq!(stepped, tree.led_to(path.join(".").as_bytes()));
    }
}
