use super::*;

#[test]
fn ordinary_patterns_are_accepted() {
    for (pattern, verbose) in [
        ("^order-[0-9]{4,}$", false),
        (r"\A\d+(?:\.\d+)?\z", false),
        (r"(?i)paid|(?<state>open)|(?P<other>new)", false),
        (r"[[:alpha:]]+\s*\w+?", false),
        (r"[^\]\[a-z\-]", false),
        (r"\x41\x{1F600}\p{Greek}", false),
        ("#1", false),
        ("[ #]", false),
        ("a b [cd] \\ e", true),
        ("über", false),
        (&"a".repeat(1024), false),
    ] {
        assert_eq!(check_pattern(pattern, verbose), Ok(()), "{pattern}");
    }
}

#[test]
fn syntax_without_bounded_cost_is_refused() {
    for (pattern, reason) in [
        ("(?=a)b", "look-around"),
        ("(?!a)b", "look-around"),
        ("(?<=a)b", "look-around"),
        ("(?<!a)b", "look-around"),
        (r"(a)\1", "back-references"),
        (r"(?<n>a)\k<n>", "unrecognized escape"),
        (r"(a)\g1", "unrecognized escape"),
        ("a(?R)b", "flags within a pattern"),
        ("(a(?1)?)", "unrecognized flag"),
        ("(?>a+)b", "unrecognized flag"),
        ("(?(1)a|b)", "unrecognized flag"),
        ("(*LIMIT_MATCH=1)a", "missing expression"),
    ] {
        let problem = check_pattern(pattern, false).unwrap_err();
        assert!(problem.contains(reason), "{pattern}: {problem}");
    }
}

/// PCRE reads a look-around in each of these, where the other grammar reads none.
#[test]
fn look_around_cannot_hide_behind_grammar_differences() {
    for (pattern, verbose) in [
        ("[[a](?=b)]", false),
        ("[a&&[b](?=c)]", false),
        ("[a--b]", false),
        ("[ ](?=b)]", true),
        ("[a#](?=b)\n]", true),
        ("(?x)[ ](?=b)]", false),
        ("(?x: [ ](?=b)])", false),
        ("a # (?=b)\n", true),
        ("a\u{a0}b", true),
    ] {
        let problem = check_pattern(pattern, verbose).unwrap_err();
        assert!(!problem.contains("look-around"), "{pattern}: {problem}");
    }
}

#[test]
fn syntax_that_mongodb_reads_differently_is_refused() {
    for pattern in [
        "a++",
        "a*+",
        r"\<a\>",
        r"\b{start}a",
        r"\u0041",
        r"[\u0041-z]",
        "(?u)a",
    ] {
        assert!(check_pattern(pattern, false).is_err(), "{pattern}");
    }
}

#[test]
fn syntax_errors_name_the_problem_and_its_offset() {
    for (pattern, problem) in [
        ("a(b", "\"(\" at byte 1: unclosed group"),
        (
            "[z-a]",
            "\"z-a\" at byte 1: invalid character class range, the start must be <= the end",
        ),
        (
            r"\p{Nowhere}",
            r#""\\p{Nowhere}" at byte 0: Unicode property not found"#,
        ),
    ] {
        assert_eq!(check_pattern(pattern, false).unwrap_err(), problem);
    }
}

#[test]
fn patterns_have_1_to_1024_bytes_and_bounded_nesting() {
    assert!(check_pattern("", false).is_err());
    assert!(check_pattern(&"a".repeat(1025), false).is_err());
    assert!(check_pattern("a\0", false).unwrap_err().contains(r"\x00"));
    let nested = |levels: usize| "(".repeat(levels) + "a" + &")".repeat(levels);
    assert_eq!(check_pattern(&nested(20), false), Ok(()));
    assert!(
        check_pattern(&nested(60), false)
            .unwrap_err()
            .contains("nest")
    );
}

#[test]
fn options_are_distinct_letters_of_imsx_and_are_sorted() {
    assert_eq!(check_options(""), Ok(String::new()));
    assert_eq!(check_options("xsmi"), Ok("imsx".into()));
    assert!(check_options("ii").unwrap_err().contains("repeats 'i'"));
    assert!(check_options("g").unwrap_err().contains("'g'"));
    assert!(check_options("u").is_err());
}
