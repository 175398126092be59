use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn hidden(paths: &[&str]) -> FieldMask {
    FieldMask::hiding(paths.iter().map(|&path| path.to_owned())).unwrap()
}

/// Returns the result of matching a path, as a word.
fn match_result(paths: &[&str], path: &str) -> &'static str {
    match shown(&hidden(paths), path) {
        "partly" => "may contain hidden",
        shown => shown,
    }
}

/// Returns what a mask shows at a dotted path of an update description, as a word.
fn shown(mask: &FieldMask, path: &str) -> &'static str {
    let Some(root) = mask.root() else {
        return "visible";
    };
    root.match_path(path.as_bytes(), UNKNOWN, word)
}

fn word(path_match: PathMatch<'_>) -> &'static str {
    match path_match {
        PathMatch::Hidden => "hidden",
        PathMatch::Partly(_) => "partly",
        PathMatch::Visible => "visible",
    }
}

/// The components of a path that may be read in several ways.
const UNKNOWN: Option<std::iter::Empty<UpdatePathComponent<'static>>> = None;

#[test]
fn paths_with_an_empty_component_or_a_hidden_number_are_refused() {
    for path in ["a.0", "a.0.b", "a.01", "7.8"] {
        FieldMask::hiding([path.to_owned()]).expect_err(path);
        FieldMask::including([path.to_owned()]).expect(path);
    }
    for path in ["", ".", "a.", ".a", "a..b"] {
        FieldMask::hiding([path.to_owned()]).expect_err(path);
        FieldMask::including([path.to_owned()]).expect_err(path);
    }
    for path in [
        "a", "0", "7.a", "a.b", "a0", "a.b1", "a.-1", "$a", "a b", "é",
    ] {
        FieldMask::hiding([path.to_owned()]).expect(path);
        FieldMask::including([path.to_owned()]).expect(path);
    }
}

#[test]
fn paths_below_a_hidden_path_are_merged_into_it() {
    let hidden = hidden(&["b.c", "a.b", "a", "ab", "a.c.d", "b.c", "a-b"]);
    assert_eq!(hidden.hidden_paths(), ["a", "a-b", "ab", "b.c"]);
}

/// A document is no array, so a number that a path begins with is a name.
#[test]
fn a_number_at_the_top_of_a_document_can_be_hidden() {
    let hidden = hidden(&["7", "8.x", "a"]);
    for (path, expected) in [
        ("7", "hidden"),
        ("7.x.0", "hidden"),
        ("8", "partly"),
        ("8.x", "hidden"),
        ("8.0.x", "hidden"),
        ("8.a", "visible"),
        ("b.7", "visible"),
        ("b", "visible"),
        // In doubt it is the index of an array.
        ("0.a", "hidden"),
        ("0.7", "hidden"),
    ] {
        assert_eq!(shown(&hidden, path), expected, "{path}");
    }
    for path in ["7", "7.x", "8", "8.x", "8.1.x.y", "0.a"] {
        assert!(hidden.hides_part_of(path), "{path}");
    }
    for path in ["8.a", "b", "b.7"] {
        assert!(!hidden.hides_part_of(path), "{path}");
    }
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
        assert!(hidden.hides_part_of(path), "{path}");
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
        assert!(!hidden.hides_part_of(path), "{path}");
    }
    assert!(!FieldMask::default().hides_part_of("a"));
    assert!(!FieldMask::default().hides_part_of("0"));
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

fn including(paths: &[&str]) -> Result<FieldMask, String> {
    FieldMask::including(paths.iter().map(|&path| path.to_owned()))
}

#[test]
fn an_included_path_shows_itself_what_is_below_it_and_what_is_above_it() {
    let mask = including(&["items.price", "name", "name"]).unwrap();
    for (path, expected) in [
        ("name", "visible"),
        ("name.first", "visible"),
        ("name.0", "visible"),
        ("items", "partly"),
        ("items.3", "partly"),
        ("items.price", "visible"),
        ("items.3.price.x", "visible"),
        ("items.3.name", "hidden"),
        ("items.", "hidden"),
        ("nam", "hidden"),
        ("names", "hidden"),
        ("price", "hidden"),
        ("0", "hidden"),
        ("0.name", "hidden"),
        ("", "hidden"),
        ("_id", "visible"),
        ("_id.x", "visible"),
    ] {
        assert_eq!(shown(&mask, path), expected, "{path:?}");
    }
    // The name of a field is not a path.
    let root = mask.root().unwrap();
    for name in ["items.price", "name.first", "0", ""] {
        assert_eq!(
            root.match_name(name.as_bytes()),
            PathMatch::Hidden,
            "{name:?}"
        );
    }
    assert_eq!(root.match_name(b"name"), PathMatch::Visible);
    assert!(matches!(root.match_name(b"items"), PathMatch::Partly(_)));
}

#[test]
fn included_paths_are_refused_if_one_is_below_another_or_is_no_path() {
    for paths in [
        &["a", "a.b"][..],
        &["a.b.c", "x", "a.b"],
        &["a-b", "a.b", "a"],
        &["a..b"],
        &[""],
        &["a.0", "a"],
    ] {
        including(paths).expect_err(&paths.join(" "));
    }
    for paths in [&["a", "ab", "a-b"][..], &["a.b", "a.c"], &["_id"]] {
        assert!(including(paths).is_ok(), "{paths:?}");
    }
    assert_eq!(shown(&including(&["_id.x"]).unwrap(), "_id.y"), "visible");
    let everything = including(&[]).unwrap();
    assert_eq!(everything, FieldMask::default());
    assert_eq!(everything.root(), None);
}

/// A number in an included path is the name of a field. That of an update may be an index too.
#[test]
fn a_number_in_the_path_of_an_update_is_read_in_both_ways() {
    let mask = including(&["items.sku", "items.0.x.a", "items.0.0.y", "7"]).unwrap();
    for (path, expected) in [
        ("items.0.sku", "visible"),
        ("items.5.sku.z", "visible"),
        ("items.0.x.a", "visible"),
        ("items.5.0.x.a", "visible"),
        ("items.0.5.x.a", "visible"),
        ("items.0.x", "partly"),
        ("items.5.x", "hidden"),
        ("items.0.0.0.y", "visible"),
        ("items.0.z", "hidden"),
        ("items.y", "hidden"),
        ("7", "visible"),
        ("7.1", "visible"),
        ("8.7", "hidden"),
        ("x.7", "hidden"),
    ] {
        assert_eq!(shown(&mask, path), expected, "{path:?}");
    }
    // All readings together.
    let names = mask
        .root()
        .unwrap()
        .match_path(b"items.0", UNKNOWN, |path_match| {
            let PathMatch::Partly(node) = path_match else {
                panic!("{path_match:?}");
            };
            ["sku", "0", "x", "y", "z"].map(|name| word(node.match_name(name.as_bytes())))
        });
    assert_eq!(names, ["visible", "partly", "partly", "hidden", "hidden"]);
    // With so many readings that they are not followed, it is shown.
    let many: Vec<String> = (1..=20)
        .map(|depth| format!("a{}.x", ".0".repeat(depth)))
        .collect();
    let mask = FieldMask::including(many).unwrap();
    assert_eq!(shown(&mask, &format!("a{}.z", ".0".repeat(10))), "hidden");
    assert_eq!(shown(&mask, &format!("a{}.z", ".0".repeat(20))), "visible");
    // Neither are those with too many paths to bring together for each path of an update.
    let wide = |count: usize| {
        let below = (0..count).flat_map(|at| [format!("a.x{at}"), format!("a.0.y{at}")]);
        FieldMask::including(below).unwrap()
    };
    assert_eq!(shown(&wide(8), "a.0"), "partly");
    assert_eq!(shown(&wide(16), "a.0"), "visible");
}

#[test]
fn known_components_say_how_to_read_the_path_of_an_update() {
    use UpdatePathComponent::{Field, Index};
    let mask = including(&["items.sku", "items.0.x", "a.b"]).unwrap();
    let both = mask.with_hidden_fields_of(&hidden(&["items.sku"]));
    let shown = |mask: &FieldMask, components: &[UpdatePathComponent<'static>]| {
        let path = b"items.0.sku";
        let root = mask.root().unwrap();
        root.match_path(path, Some(components.iter().copied()), word)
    };
    for (components, expected) in [
        (&[Field(b"items"), Index, Field(b"sku")][..], "visible"),
        (&[Field(b"items"), Field(b"0"), Field(b"sku")], "hidden"),
        (
            &[Field(b"items"), Field(b"0"), Index, Field(b"x")],
            "visible",
        ),
        (&[Field(b"items"), Field(b"0"), Index], "partly"),
        (&[Field(b"items"), Index, Field(b"x")], "hidden"),
        (&[Field(b"items.0.sku")], "hidden"),
        (&[Field(b"a.b")], "hidden"),
        (&[Field(b"a"), Field(b"b")], "visible"),
    ] {
        assert_eq!(shown(&mask, components), expected, "{components:?}");
        // What is hidden is hidden in doubt.
        assert_eq!(shown(&both, components), "hidden", "{components:?}");
    }
}

#[test]
fn hidden_paths_win_over_included_ones() {
    let policy = hidden(&["items.price", "ssn", "_id.secret"]);
    let mask = including(&["items", "ssn.last", "name"]).unwrap();
    let mask = mask.with_hidden_fields_of(&policy);
    for (path, expected) in [
        ("items", "partly"),
        ("items.0.price", "hidden"),
        ("items.0.name", "visible"),
        ("ssn", "hidden"),
        ("ssn.last", "hidden"),
        ("name", "visible"),
        ("other", "hidden"),
        ("_id", "partly"),
        ("_id.secret", "hidden"),
    ] {
        assert_eq!(shown(&mask, path), expected, "{path:?}");
    }
    assert_eq!(mask.hidden_paths(), policy.hidden_paths());
    assert!(mask.hides_fields() && mask.hides_part_of("ssn.last"));
    assert!(
        !mask.hides_part_of("other"),
        "it is not included, but no secret"
    );
    // What is always included has the hidden fields only.
    assert_eq!(mask.hidden_root(), policy.root());
    let open = mask.with_hidden_fields_of(&FieldMask::default());
    assert_eq!(shown(&open, "ssn.last"), "visible");
    assert!(!open.hides_fields() && open.hidden_root().is_none());
}

#[test]
fn masks_are_equal_by_value() {
    let (one, other) = (
        including(&["a", "b"]).unwrap(),
        including(&["b", "a"]).unwrap(),
    );
    assert_eq!(one, other);
    assert_ne!(one, hidden(&["a", "b"]));
    assert_ne!(one, one.with_hidden_fields_of(&hidden(&["a"])));
    assert_ne!(one, including(&["a"]).unwrap());
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
        let hidden = FieldMask::hiding(paths.clone()).unwrap();
        let named: Vec<&str> = path.iter().copied().filter(|part| !["0", "12"].contains(part)).collect();
        let shares = |hidden: &String| {
            let hidden: Vec<&str> = hidden.split('.').collect();
            hidden.starts_with(&named) || named.starts_with(&hidden)
        };
        let expected = paths.iter().any(shares);
        prop_assert_eq!(hidden.hides_part_of(&path.join(".")), expected);
        // A filter may not use exactly the paths that are not completely visible.
        prop_assert_eq!(shown(&hidden, &path.join(".")) != "visible", expected);
    }

    #[test]
    fn matching_name_by_name_equals_matching_the_whole_path(
        path in parts(),
        paths in prop::collection::vec(named(), 1..4),
    ) {
        let hidden = FieldMask::hiding(paths).unwrap();
        let tree = hidden.root().unwrap();
        let mut stepped = PathMatch::Partly(tree);
        for part in &path {
            if let PathMatch::Partly(branch) = stepped {
                stepped = branch.match_name(part.as_bytes());
            }
        }
        prop_assert_eq!(word(stepped), shown(&hidden, &path.join(".")));
    }

    /// The model: both masks must show a path.
    #[test]
    fn a_mask_shows_what_its_included_and_its_hidden_paths_show(
        path in parts(),
        included in select(vec!["a", "a.b", "b.ab", "ab.a.b"]),
        paths in prop::collection::vec(named(), 1..4),
    ) {
        let (policy, fields) = (FieldMask::hiding(paths).unwrap(), including(&[included]).unwrap());
        let path = path.join(".");
        let expected = match (shown(&policy, &path), shown(&fields, &path)) {
            ("hidden", _) | (_, "hidden") => "hidden",
            ("visible", "visible") => "visible",
            _ => "partly",
        };
        prop_assert_eq!(shown(&fields.with_hidden_fields_of(&policy), &path), expected);
    }
}
