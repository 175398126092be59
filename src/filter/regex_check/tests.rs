use super::*;

fn check_pattern(pattern: &str, options: &str) -> Result<(), String> {
    super::check_pattern(pattern, options, &mut SlowParts::default())
}

#[test]
fn ordinary_patterns_are_accepted() {
    for (pattern, options) in [
        ("^order-[0-9]{4,}$", ""),
        (r"\A\d+(?:\.\d+)?\z", ""),
        (r"(?i)paid|(?<state>open)|(?P<other>new)", ""),
        (r"[[:alpha:]]+\s*\w+?", ""),
        (r"[^\]\[a-z\-]", ""),
        (r"\x41\x{1F600}\p{Greek}", ""),
        ("#1", ""),
        ("[ #]", ""),
        ("a b [cd] \\ e", "x"),
        ("über", ""),
        (&"a".repeat(1024), ""),
    ] {
        assert_eq!(check_pattern(pattern, options), Ok(()), "{pattern}");
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
        (r"(?<n>a)\k<n>", "this escape is not supported"),
        (r"(a)\g1", "this escape is not supported"),
        ("a(?R)b", "flags within a pattern"),
        ("(a(?1)?)", "this kind of group"),
        ("(?>a+)b", "this kind of group"),
        ("(?(1)a|b)", "this kind of group"),
        ("(*LIMIT_MATCH=1)a", "nothing to repeat"),
    ] {
        let problem = check_pattern(pattern, "").unwrap_err();
        assert!(problem.contains(reason), "{pattern}: {problem}");
    }
}

/// PCRE reads a look-around in each of these, where the other grammar reads none.
#[test]
fn look_around_cannot_hide_behind_grammar_differences() {
    for (pattern, options) in [
        ("[[a](?=b)]", ""),
        ("[a&&[b](?=c)]", ""),
        ("[a--b]", ""),
        ("[ ](?=b)]", "x"),
        ("[a#](?=b)\n]", "x"),
        ("(?x)[ ](?=b)]", ""),
        ("(?x: [ ](?=b)])", ""),
        ("a # (?=b)\n", "x"),
        ("a\u{a0}b", "x"),
    ] {
        let problem = check_pattern(pattern, options).unwrap_err();
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
        "a{ 2 }",
        r"\d{1, 3}",
        "^[0-9]{3 }-",
        "a{2, }",
    ] {
        assert!(check_pattern(pattern, "").is_err(), "{pattern}");
    }
}

/// Each has another meaning in PCRE2 10.42, for at least one text.
#[test]
fn what_the_two_engines_read_differently_is_refused() {
    for (pattern, options, problem) in [
        ("[--a]", "", r#""--" at the start of a class"#),
        ("[^--a]", "", r#""--" at the start of a class"#),
        ("[]-a]", "", r#""]-" at the start of a class"#),
        ("[^]-a]", "", r#""]-" at the start of a class"#),
        (r"\x 41", "x", "white space in a character's code"),
        (r"(?x)\x4 1", "", "white space in a character's code"),
        (r"[\W[:alpha:]]", "", "above U+00FF"),
        (
            "é[[:^digit:]a[:upper:]]",
            "",
            "at byte 2: MongoDB's engine reads this class wrongly",
        ),
        (r"[^\D\p{Lu}]", "", "above U+00FF"),
        (r"[^\pL[:^space:]]", "", "above U+00FF"),
    ] {
        let found = check_pattern(pattern, options).unwrap_err();
        assert!(found.contains(problem), "/{pattern}/{options}: {found}");
    }
    for pattern in [
        "[--]",
        "[-]",
        "[]-]",
        "[-a]",
        r"[\--a]",
        "[[:alpha:]\\W]",
        r"[\W\pL]",
        r"[^\w\pL]",
    ] {
        assert_eq!(check_pattern(pattern, ""), Ok(()), "{pattern}");
    }
}

/// PCRE2 looks up each character of such a range: 127 of these in one pattern took it two seconds.
#[test]
fn the_ranges_that_ignore_case_have_bounded_sizes_in_all_patterns_together() {
    let mut slow_parts = SlowParts::default();
    let wide = "[^a-\u{10ffff}]";
    let mut check = |options| super::check_pattern(wide, options, &mut slow_parts);
    for _ in 0..100 {
        assert_eq!(check(""), Ok(()));
    }
    for _ in 0..3 {
        assert_eq!(check("i"), Ok(()));
    }
    let problem = check("i").unwrap_err();
    assert!(problem.contains("above 4000000 characters"), "{problem}");
    let inline = format!("(?i:{})", wide.repeat(4));
    assert!(check_pattern(&inline, "").is_err());
}

#[test]
fn syntax_errors_name_the_problem_and_its_offset() {
    for (pattern, problem) in [
        ("a(b", "\"(\" at byte 1: unclosed group"),
        (
            "é|*",
            "\"*\" at byte 3: there is nothing to repeat here; write a backslash before it for the character itself",
        ),
        (
            "é{a}",
            "\"a\" at byte 3: this is not a quantifier such as {2} or {0,3}; write \\{ for the character itself",
        ),
        (
            "é{",
            "\"{\" at byte 2: this is not a quantifier such as {2} or {0,3}; write \\{ for the character itself",
        ),
        (
            "(?<é",
            "the end of the pattern at byte 5: unclosed capture group name",
        ),
        (
            r"\08",
            r#""\\0" at byte 0: octal codes are not supported; write \x{...}"#,
        ),
        (
            "[z-a]",
            "\"z-a\" at byte 1: invalid character class range, the start must be <= the end",
        ),
        (
            r"\p{Nowhere}",
            r#"is not a valid pattern at byte 11, after "\\p{Nowhere}": unknown property after \P or \p"#,
        ),
    ] {
        assert_eq!(check_pattern(pattern, "").unwrap_err(), problem);
    }
}

#[test]
fn patterns_have_1_to_1024_bytes_and_bounded_nesting() {
    assert!(check_pattern("", "").is_err());
    assert!(check_pattern(&"a".repeat(1025), "").is_err());
    assert!(check_pattern("a\0", "").unwrap_err().contains(r"\x00"));
    let nested = |levels: usize| "(".repeat(levels) + "a" + &")".repeat(levels);
    assert_eq!(check_pattern(&nested(20), ""), Ok(()));
    assert!(check_pattern(&nested(60), "").unwrap_err().contains("nest"));
}

#[test]
fn options_are_distinct_letters_of_imsx_and_are_sorted() {
    assert_eq!(check_options(""), Ok(String::new()));
    assert_eq!(check_options("xsmi"), Ok("imsx".into()));
    assert!(check_options("ii").unwrap_err().contains("repeats 'i'"));
    assert!(check_options("g").unwrap_err().contains("'g'"));
    assert!(check_options("u").is_err());
}

#[test]
fn the_patterns_of_a_watch_name_at_most_32_unicode_properties() {
    let names = [
        "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
        "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cn", "Co", "Cs",
        "L", "M",
    ];
    let mut slow_parts = SlowParts::default();
    let mut check =
        |name: &str| super::check_pattern(&format!(r"[\p{{{name}}}]"), "", &mut slow_parts);
    for name in names {
        assert_eq!(check(name), Ok(()));
    }
    assert_eq!(check("^l u"), Ok(()), "it is known by another spelling");
    let problem = check("N").unwrap_err();
    assert!(problem.contains("may name 32"), "{problem}");
}
