//! The results of PCRE2, written by hand; [`agreement`] compares random patterns with PCRE2 itself.

mod agreement;

use super::*;

fn matches(pattern: &str, options: &str, text: &str) -> bool {
    Pattern::new(pattern, options)
        .unwrap()
        .is_match(text.as_bytes(), &WorkBudget::default())
        .unwrap()
}

fn assert_rows(rows: &[(&str, &str, &str, bool)]) {
    for (pattern, options, text, expected) in rows {
        assert_eq!(
            matches(pattern, options, text),
            *expected,
            "/{pattern}/{options} on {text:?}"
        );
    }
}

#[test]
fn dollar_also_matches_before_a_newline_at_the_end_of_the_text() {
    assert_rows(&[
        ("a$", "", "a", true),
        ("a$", "", "a\n", true),
        ("a$", "", "a\n\n", false),
        ("a$", "", "a\nb", false),
        ("a$", "", "b\na\n", true),
        ("a$", "m", "a\nb", true),
        ("a$", "m", "a\n", true),
        (r"a\z", "", "a", true),
        (r"a\z", "", "a\n", false),
        (r"b\z|a$", "", "b\n", false),
        (r"b\z|a$", "", "a\n", true),
        ("^$", "", "", true),
        ("^$", "", "\n", true),
        ("^$", "", "\n\n", false),
        ("^a$", "", "a\n", true),
        ("(?m)^a$|b$", "", "x\na\ny", true),
        ("(?:(?m)a$)|b$", "", "b\ny", false),
        // What follows `$` may be the newline.
        (r"a$\n", "", "a\n", true),
        (r"a$\n", "", "a\n\n", false),
        (r"a$\s\z", "", "a\n", true),
        (r"a$[^x]\B", "", "a\n", true),
        (r"a$.", "s", "a\n", true),
        (r"a$.", "", "a\n", false),
        (r"a$\r", "", "a\r", false),
        (r"a\r$", "", "a\r\n", true),
        (r"a$", "", "a\r\n", false),
        (r"[^\n]$", "", "a\r", true),
        (r"\r$", "", "\r\r\n", true),
    ]);
}

#[test]
fn a_line_starts_after_a_newline_but_not_at_the_end_of_the_text() {
    assert_rows(&[
        ("^b", "", "a\nb", false),
        ("^b", "m", "a\nb", true),
        (r"\Ab", "m", "a\nb", false),
        ("^$", "m", "a\n", false),
        ("^$", "m", "a\n\n", true),
        ("^$", "m", "a\n\nb", true),
        ("^", "m", "\n", true),
        ("$", "m", "a\n", true),
        ("^$", "m", "", true),
        (r"\n^", "m", "a\n", false),
        (r"\n^", "m", "a\n\n", true),
        (r"\n^b", "m", "a\nb\n", true),
        (r"(?:a\n)^$", "m", "a\n", false),
        (r"a\r$\n", "m", "a\r\n", true),
        (r"\r^", "m", "a\r\n", false),
    ]);
}

#[test]
fn both_kinds_of_lines_in_one_pattern_are_refused() {
    for pattern in ["(?:(?m)^a)|b$", "b$(?m:^)"] {
        let problem = Pattern::new(pattern, "").unwrap_err();
        assert!(problem.contains(r"write \A or \z"), "{problem}");
    }
    assert!(Pattern::new("(?m)^a|b$", "").is_ok());
    assert!(Pattern::new(r"(?:(?m)^a)|b\z", "").is_ok());
}

#[test]
fn named_classes_are_ascii_and_other_classes_are_unicode() {
    assert_rows(&[
        (r"^\d$", "", "7", true),
        (r"^\d$", "", "٣", false),
        (r"^\D$", "", "٣", true),
        (r"^\w$", "", "é", false),
        (r"^\W$", "", "é", true),
        (r"^[\w]$", "", "é", false),
        (r"^[\w\-]$", "", "-", true),
        (r"^[^\w]$", "", "é", true),
        (r"^[\W]$", "", "é", true),
        (r"^[^\W\d]$", "", "a", true),
        (r"^[^\W\d]$", "", "1", false),
        (r"^\s$", "", "\u{a0}", false),
        (r"^\s$", "", "\u{b}", true),
        (r"\bé", "", "é", false),
        (r"a\b", "", "aé", true),
        (r"^\B$", "", "é", false),
        (r"\B", "", "aéa", false),
        (r"^\v$", "", "\u{2028}", true),
        (r"^[\v]$", "", "\n", true),
        (r"^\v$", "", "\t", false),
        (r"^[[:alpha:]]$", "", "é", false),
        (r"^[[:^alpha:]]$", "", "é", true),
        (r"^[[:punct:]]$", "", "$", true),
        (r"^\pL$", "", "é", true),
        (r"^\PL$", "", "é", false),
        (r"^[\p{Greek}x]$", "", "λ", true),
        ("^.$", "", "é", true),
        ("^.$", "", "\u{1F600}", true),
        ("^[^a]$", "", "\n", true),
        ("^.$", "", "\n", false),
        ("^.$", "s", "\n", true),
        ("^.$", "", "\r", true),
    ]);
}

/// A script's name stands for its Script_Extensions since PCRE2 10.40.
#[test]
fn a_script_has_the_characters_that_are_used_with_it() {
    assert_rows(&[
        (r"^\p{Katakana}+$", "", "コーヒー", true),
        (r"^\p{Han}+$", "", "中文。", true),
        (r"^[\p{Arabic} ]+$", "", "لا، نعم", true),
        (r"^\p{Devanagari}+$", "", "नमस्ते।", true),
        (r"^\p{sc:Katakana}+$", "", "コーヒー", false),
        (r"^\p{scx:Katakana}+$", "", "コーヒー", true),
        // The combining grave accent is used with Greek and Latin.
        (r"^\p{Greek}$", "", "\u{342}", true),
        (r"\P{Greek}", "", "\u{342}", false),
        (r"[^\p{Greek}]", "", "\u{342}", false),
        (r"^\P{Greek}$", "", "a", true),
        (r"[^\p{Latin}]", "", "ª\u{363}", false),
        (r"^[^\p{Latin}]$", "", "\u{342}", true),
        (r"^\p{^Greek}$", "", "a", true),
        (r"^\P{^Greek}$", "", "a", false),
        (r"^\p{L&}+$", "", "aB", true),
    ]);
}

/// U+1E4D0 was assigned in Unicode 15, and U+A7CB, with the lower case U+264, in Unicode 16.
#[test]
fn what_depends_on_the_version_of_unicode_is_undecided() {
    for (pattern, options, text, expected) in [
        (r"^\p{L}+$", "", "a\u{1e4d0}", None),
        (r"^\P{L}+$", "", "1\u{1e4d0}", None),
        (r"^[^\p{Lu}]+$", "", "1\u{1e4d0}", None),
        (r"^\p{Cn}$", "", "\u{1e4d0}", None),
        // The other characters decide.
        (r"^\p{L}+$", "", "1\u{1e4d0}", Some(false)),
        (r"\p{L}", "", "a\u{1e4d0}", Some(true)),
        (r"^[\p{L}\x{1e4d0}]+$", "", "a\u{1e4d0}", Some(true)),
        (r"^.+$", "", "a\u{1e4d0}", Some(true)),
        (r"^\W+$", "", "\u{1e4d0}", Some(true)),
        // No version will have another character there.
        (r"^\p{Cn}$", "", "\u{ffff}", Some(true)),
        (r"^\p{Any}$", "", "\u{1e4d0}", Some(true)),
        (r"^\p{ASCII}$", "", "\u{1e4d0}", Some(false)),
        ("\u{a7cb}", "i", "\u{264}", None),
        ("[\u{264}]", "i", "\u{a7cb}", None),
        ("\u{a7cb}", "i", "\u{a7cb}", Some(true)),
        ("\u{a7cb}", "", "\u{264}", Some(false)),
    ] {
        let compiled = Pattern::new(pattern, options).unwrap();
        let budget = WorkBudget::default();
        let found = compiled.is_match(text.as_bytes(), &budget);
        assert_eq!(found, expected, "/{pattern}/{options} on {text:?}");
        assert_eq!(budget.take_undecided(), expected.is_none());
    }
}

#[test]
fn ignoring_case_affects_letters_and_not_named_classes() {
    assert_rows(&[
        ("straße", "i", "STRAßE", true),
        ("É", "i", "é", true),
        ("(?i)a", "", "A", true),
        ("(?i:a)b", "", "AB", false),
        ("a(?i)b|c", "", "C", true),
        ("(?-i)a", "i", "A", false),
        ("[a-c]", "i", "B", true),
        // The Kelvin sign folds to k, but is not in \w.
        ("k", "i", "\u{212a}", true),
        (r"^\w$", "i", "\u{212a}", false),
        (r"^[\w]$", "i", "\u{212a}", false),
        (r"^[k\d]$", "i", "\u{212a}", true),
        (r"^[^k\d]$", "i", "\u{212a}", false),
        (r"^\p{Lu}$", "i", "a", false),
        (r"^[[:upper:]]$", "i", "a", true),
        (r"^[[:upper:]]$", "", "a", false),
    ]);
}

#[test]
fn options_and_flags_work_alone_and_combined() {
    assert_rows(&[
        ("p a i d", "x", "paid", true),
        ("p a i d", "", "paid", false),
        (r"a\ b", "x", "a b", true),
        ("A .C", "isx", "a\nc", true),
        ("(?x)a b", "", "ab", true),
        ("(?U)a+", "", "aa", true),
        ("(?<name>a)|(?P<other>b)", "", "b", true),
        ("a{2,3}", "", "aa", true),
        (r"\x41\x{1F600}", "", "A\u{1F600}", true),
        ("", "", "anything", true),
    ]);
}

/// A pattern that passed the checks compiles, or is refused because of its size.
#[test]
fn a_pattern_that_compiles_too_large_is_refused() {
    for pattern in [r"\p{L}{900}", "(?:(?:a{99}){99}){99}"] {
        let problem = Pattern::new(pattern, "").unwrap_err();
        assert!(problem.contains("1024 KiB"), "{problem}");
    }
    assert!(Pattern::new(&"a".repeat(1024), "").is_ok());
    assert!(Pattern::new(&"(".repeat(50), "").is_err());
}

/// A range of all characters takes long to fold, and so does a class that unites as many properties as fit. Each is worked out
/// once: a request may have 200 of these patterns.
#[test]
fn patterns_of_many_large_classes_compile() {
    for _ in 0..5 {
        for pattern in [
            "[a-\u{10ffff}]".repeat(127) + "$",
            format!("[{}]$", r"\pL".repeat(340)),
            r"\pL{0}".repeat(170) + "$",
        ] {
            assert!(Pattern::new(&pattern, "i").is_ok());
        }
    }
}

#[test]
fn text_that_is_not_utf_8_does_not_match() {
    let any = Pattern::new("", "s").unwrap();
    let is_match = |text| any.is_match(text, &WorkBudget::default()).unwrap();
    assert!(is_match(b""));
    assert!(!is_match(b"\xff"));
    assert!(!is_match(b"a\xc3\n"));
}

/// These patterns take a backtracking engine exponential time.
#[test]
fn patterns_match_in_linear_time() {
    let pattern = Pattern::new("(?:a+)+$|(?:a|a)*b|(?:.*.*)*c", "").unwrap();
    let text = "a".repeat(100_000) + "!";
    assert_eq!(
        pattern.is_match(text.as_bytes(), &WorkBudget::default()),
        Some(false)
    );
}

/// These patterns take thousands of steps per byte: only the slower engine can decide them, and not on a long
/// text.
#[test]
fn a_pattern_that_needs_too_much_work_on_a_text_is_undecided() {
    let mut state = 88_172_645_463_325_252_u64;
    let mut noise = |bytes: usize| -> String {
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state & 1 == 0 { 'a' } else { 'b' }
        };
        (0..bytes).map(|_| next()).collect()
    };
    for costly in [
        "[ab]*a[ab]{400}c",
        "a.{0,200}b.{0,200}c.{0,200}z9",
        "(?:a.{1,900}q)",
    ] {
        let pattern = Pattern::new(costly, "").unwrap();
        let budget = WorkBudget::default();
        let short = noise(100);
        assert_eq!(
            pattern.is_match(short.as_bytes(), &budget),
            Some(false),
            "{costly}"
        );
        assert!(!budget.take_undecided());
        assert_eq!(
            pattern.is_match(noise(1 << 20).as_bytes(), &budget),
            None,
            "{costly}"
        );
        assert!(budget.take_undecided());
        assert!(!budget.take_undecided(), "it is reported once");
        // Splitting the work into many texts does not avoid the bound.
        let decided =
            (0..100).filter(|_| pattern.is_match(noise(5_000).as_bytes(), &budget).is_some());
        assert!(decided.count() < 20, "{costly}");
    }
    // Ordinary patterns are decided on any text.
    for ordinary in [
        "order-[0-9]{4}",
        "(?i)the.{0,50}fox",
        "(a+)+$",
        r"(x+x+)+y",
        r"\w+@\w+\.com",
    ] {
        let pattern = Pattern::new(ordinary, "").unwrap();
        let decided = pattern.is_match(noise(4 << 20).as_bytes(), &WorkBudget::default());
        assert!(decided.is_some(), "{ordinary}");
    }
}
