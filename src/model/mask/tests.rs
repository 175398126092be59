use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn hidden(paths: &[&str]) -> FieldMask {
    FieldMask::new(paths.iter().map(|&path| path.to_owned())).unwrap()
}

/// Returns the result of matching a path, as a word.
fn match_result(paths: &[&str], path: &str) -> &'static str {
    match hidden(paths)
        .tree()
        .map(|tree| tree.match_path(path.as_bytes()))
    {
        Some(PathMatch::Hidden) => "hidden",
        Some(PathMatch::MayContainHidden(_)) => "may contain hidden",
        Some(PathMatch::Visible) | None => "visible",
    }
}

#[test]
fn paths_with_an_empty_component_or_a_number_are_refused() {
    for path in ["", ".", "a.", ".a", "a..b", "0", "a.0", "a.0.b", "a.01"] {
        FieldMask::new([path.to_owned()]).expect_err(path);
    }
    for path in ["a", "a.b", "a0", "a.b1", "a.-1", "$a", "a b", "é"] {
        FieldMask::new([path.to_owned()]).expect(path);
    }
}

#[test]
fn paths_below_a_hidden_path_are_merged_into_it() {
    let hidden = hidden(&["b.c", "a.b", "a", "ab", "a.c.d", "b.c", "a-b"]);
    assert_eq!(hidden.paths(), ["a", "a-b", "ab", "b.c"]);
}

#[test]
fn a_filter_path_overlaps_hidden_paths_at_below_and_above_it() {
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
        assert!(hidden.overlaps(path), "{path}");
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
        assert!(!hidden.overlaps(path), "{path}");
    }
    assert!(!FieldMask::default().overlaps("a"));
    assert!(!FieldMask::default().overlaps("0"));
}

#[test]
fn a_path_is_matched_through_dots_and_array_indexes() {
    let paths = &["items.price", "ssn"][..];
    for (path, expected) in [
        ("ssn", "hidden"),
        ("ssn.a", "hidden"),
        ("0.ssn", "hidden"),
        ("items", "may contain hidden"),
        ("items.0", "may contain hidden"),
        ("7", "may contain hidden"),
        ("items.price", "hidden"),
        ("items.0.price.x", "hidden"),
        ("items.name", "visible"),
        ("items.0.name", "visible"),
        ("", "visible"),
        ("items.", "visible"),
        ("items..price", "visible"),
        ("ssn2", "visible"),
    ] {
        assert_eq!(match_result(paths, path), expected, "{path:?}");
    }
    assert_eq!(match_result(&[], "a"), "visible");
}

fn parts() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(select(vec!["a", "b", "ab", "0", "12", ""]), 1..5)
}

fn named() -> impl Strategy<Value = String> {
    prop::collection::vec(select(vec!["a", "b", "ab"]), 1..4).prop_map(|parts| parts.join("."))
}

proptest! {
    /// The model: without array indexes, one of the two paths is a prefix of the other.
    #[test]
    fn paths_overlap_if_one_is_a_prefix_of_the_other(
        path in parts(),
        paths in prop::collection::vec(named(), 0..4),
    ) {
        let hidden = FieldMask::new(paths.clone()).unwrap();
        let named: Vec<&str> = path.iter().copied().filter(|part| !["0", "12"].contains(part)).collect();
        let shares = |hidden: &String| {
            let hidden: Vec<&str> = hidden.split('.').collect();
            hidden.starts_with(&named) || named.starts_with(&hidden)
        };
        let expected = paths.iter().any(shares);
        prop_assert_eq!(hidden.overlaps(&path.join(".")), expected);
        // A filter may not use exactly the paths that are not completely visible.
        let matched = hidden.tree().map(|tree| tree.match_path(path.join(".").as_bytes()) != PathMatch::Visible);
        prop_assert_eq!(matched.unwrap_or(false), expected);
    }

    #[test]
    fn matching_name_by_name_equals_matching_the_whole_path(
        path in parts(),
        paths in prop::collection::vec(named(), 1..4),
    ) {
        let hidden = FieldMask::new(paths).unwrap();
        let tree = hidden.tree().unwrap();
        let mut stepped = PathMatch::MayContainHidden(tree);
        for part in &path {
            if let PathMatch::MayContainHidden(branch) = stepped {
                stepped = branch.match_path(part.as_bytes());
            }
        }
        prop_assert_eq!(stepped, tree.match_path(path.join(".").as_bytes()));
    }
}
