//! Paths that are accepted, and those that would hide nothing.

use super::*;

#[test]
fn a_path_is_its_names() {
    for path in [
        "card",
        "card.no",
        "7",
        "7.no",
        "a b",
        "é",
        "_id",
        "_id.person",
        "a-b",
        "a.b-",
        "owner.$id",
        "owner.$ref",
        "it's",
        "a/b",
        "n0",
        "a:b",
        "(a)",
        "a+b",
        "a^b",
        "a@b.c",
        "a#b",
        "a%b",
        "a$b",
        "Price (USD)",
        "x.y.z",
        "\u{200c}a",
    ] {
        assert_eq!(parse(path).as_deref(), Ok(path));
    }
    for (entry, path) in [
        (r"\$card", "$card"),
        (r"a.\$b", "a.$b"),
        (r"a\*", "a*"),
        (r"a\[0\].b", "a[0].b"),
        (r"\ card", " card"),
        ("a\\\tb", "a\tb"),
        (r"a\,b", "a,b"),
        (r"\-a", "-a"),
        (r"\/a", "/a"),
        (r#"\"a\""#, "\"a\""),
        (r"a\\b", r"a\b"),
        (r"\{a\}", "{a}"),
        (r"ssn\?", "ssn?"),
        (r"\^a\$", "^a$"),
        (r"a\%", "a%"),
        (r"\%a", "%a"),
        (r"\@a", "@a"),
        (r"\#a", "#a"),
        (r"a\;b\|c", "a;b|c"),
        (r"a-\>b", "a->b"),
        (r"a\<b", "a<b"),
        (r"a\()", "a()"),
        ("a\\\u{2028}b", "a\u{2028}b"),
    ] {
        assert_eq!(parse(entry).as_deref(), Ok(path), "{entry}");
    }
}

#[test]
fn a_pattern_that_would_hide_nothing_is_refused_with_the_right_form() {
    for (entry, right) in [
        ("card.*", "write card, which hides all below it"),
        ("card.**", "write card, which hides all below it"),
        ("*", "name each field"),
        ("*.secret", "name each field"),
        ("a.*.b", "name each field"),
        ("card*", "name each field"),
        (
            "cards[].no",
            "write cards.no, which also hides it in arrays",
        ),
        (
            "cards[0].no",
            "write cards.no, which also hides it in arrays",
        ),
        (
            "cards[*].no",
            "write cards.no, which also hides it in arrays",
        ),
        (
            "cards[a.b].no",
            "write cards.no, which also hides it in arrays",
        ),
        ("cards['no']", "write cards"),
        (
            "cards.[].no",
            "write cards.no, which also hides it in arrays",
        ),
        (
            "cards.$.no",
            "write cards.no, which also hides it in arrays",
        ),
        (
            "cards.$[].no",
            "write cards.no, which also hides it in arrays",
        ),
        (
            "cards.$[it].no",
            "write cards.no, which also hides it in arrays",
        ),
        (
            "cards.0.no",
            "write cards.no, which also hides it in arrays",
        ),
        ("cards.01", "write cards"),
        ("cards[0", "write cards"),
        ("cards]", "name each field"),
        ("$card", "write card;"),
        ("$card.no", "write card.no"),
        ("$$ROOT.card", "write ROOT.card"),
        ("$.card", "write card"),
        ("$id", "write id;"),
        ("a.$b", "write a.b"),
        (" card", "write card;"),
        ("card ", "write card;"),
        ("card. no", "write card.no;"),
        ("\u{a0}card", "write card;"),
        ("card\n", "write card;"),
        ("ca\u{200b}rd", "write card;"),
        ("\u{feff}card", "write card;"),
        ("ca\trd", "write card;"),
        ("a\0", "write a;"),
        (".card", "write card"),
        ("card.", "write card"),
        ("card..no", "write card.no"),
        ("", "name each field"),
        (".", "name each field"),
        ("0.1", "write 0"),
        ("7.0.no", "write 7.no, which also hides it in arrays"),
        ("/card/no", "write card.no;"),
        ("-card", "write card;"),
        ("!card", "write card;"),
        ("+card", "write card;"),
        ("card, ssn", "write an entry for each, card and ssn;"),
        ("card,", "name each field"),
        ("'card'", "write card;"),
        ("\"card\"", "write card;"),
        ("{card}", "write card;"),
        ("card?", "write card;"),
        ("card?.no", "write card.no;"),
        ("ca?d", "name each field"),
        ("^card$", "write card;"),
        ("card$", "write card;"),
        ("card%", "write card;"),
        ("%card%", "write card;"),
        ("@card", "write card;"),
        ("#card", "write card;"),
        ("card;ssn", "write an entry for each, card and ssn;"),
        ("card|ssn", "write an entry for each, card and ssn;"),
        ("card->no", "write card.no;"),
        ("<card>", "name each field"),
        ("card.no()", "write card.no;"),
        ("ca\u{61c}rd", "write card;"),
        ("ca\u{2028}rd", "write card;"),
        (r"card\.no", "write card.no"),
        (r"\card", "write card"),
        (r"card\", "write card"),
        (r"\$a.*", r"write \$a, which hides all below it"),
    ] {
        let problem = parse(entry).expect_err(entry);
        assert!(problem.starts_with(&format!("{entry:?} ")), "{problem}");
        assert!(format!("{problem};").contains(right), "{entry}: {problem}");
        assert!(!problem.contains(char::is_control), "{problem:?}");
    }
    // The escape is advice that works.
    for entry in [
        "$card", "a*", " card", "a,b", "ca\trd", "a?", "^a", "a%", "a;b", "a|b", "a->b", "a()",
        "@a", "#a",
    ] {
        assert!(
            parse(entry)
                .expect_err(entry)
                .contains("a backslash before it: \\")
        );
    }
}

proptest::proptest! {
    /// A path that is recommended is valid, and so is every name behind backslashes.
    #[test]
    fn advice_is_followed_without_another_refusal(entry in r"[ab.$*\[\]{},\\ 0/'?;|^@#%<>()-]{0,8}") {
        if let Some(path) = meant_path(&entry) {
            proptest::prop_assert!(parse(&path).is_ok(), "{entry:?}: {path:?}");
        }
        let escaped: String = entry.chars().filter(|it| *it != '.' && *it != '0').flat_map(|it| {
            let backslash = needs_backslash(it).then_some('\\');
            backslash.into_iter().chain([it])
        }).collect();
        let plain: String = entry.chars().filter(|it| *it != '.' && *it != '0').collect();
        if !plain.is_empty() {
            proptest::prop_assert_eq!(parse(&escaped), Ok(plain));
        }
    }
}
