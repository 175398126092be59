use super::*;

#[test]
fn the_linked_version_is_that_of_mongodb() {
    assert_eq!(check_linked_version(), Ok(()));
    assert!(is_linked("10.42"));
    for other in ["10.4", "10.41", "10.43", "10.46", "8.42"] {
        assert!(!is_linked(other), "{other}");
    }
}

#[test]
fn what_mongodb_does_not_compile_is_refused_with_its_place() {
    for (pattern, options, problem) in [
        (
            "^*",
            "",
            r#"byte 1, between "^" and "*": quantifier does not follow a repeatable item"#,
        ),
        (
            "é$*",
            "",
            r#"byte 3, between "é$" and "*": quantifier does not follow a repeatable item"#,
        ),
        (
            r"\b+",
            "",
            r#"byte 2, between "\\b" and "+": quantifier does not follow a repeatable item"#,
        ),
        (
            r"\p{Letter}",
            "",
            r#"byte 10, after "\\p{Letter}": unknown property after \P or \p"#,
        ),
        (r"\p{Punct}", "", "unknown property"),
        (r"\p{gc=Lu}", "", "unknown property"),
        (r"\p{Age=3.0}", "", "unknown property"),
        (r"\p{isGreek}", "", "unknown property"),
        (
            "[:alpha:]",
            "",
            r#"byte 0, before "[:alpha:]": POSIX named classes are supported only within a class"#,
        ),
        ("[.a.]", "", "POSIX collating elements are not supported"),
        ("[=a=]", "", "POSIX collating elements are not supported"),
        ("[[:alpha:]-z]", "", "invalid range in character class"),
        ("(?<a.b>x)", "", "syntax error in subpattern name"),
        (
            "(?<aaaaaaaaaabbbbbbbbbbccccccccccddd>x)",
            "",
            "subpattern name is too long (maximum 32 code units)",
        ),
        (
            "( ?:a)",
            "x",
            "quantifier does not follow a repeatable item",
        ),
        (r"\x{ 41 }", "x", "non-hex character"),
        (r"\p { L }", "x", "malformed"),
        ("a{65536}", "", "number too big"),
    ] {
        let found = check_compiles(pattern, options).unwrap_err();
        assert!(found.contains(problem), "/{pattern}/{options}: {found}");
        assert!(found.contains("at byte "), "{found}");
    }
    let too_large = check_compiles("(?:(?:a{100}){100}){100}", "").unwrap_err();
    assert!(too_large.contains("64 KiB when compiled"), "{too_large}");
    assert_eq!(check_compiles(r"(?<a>\p{Lu}|\p{L&})+$", "imsx"), Ok(()));
}

/// One character stands for its run: for each property that PCRE2 has, this finds the same characters as the whole of
/// Unicode would. All properties were compared once; here are those by which the runs differ from what is around them.
#[test]
fn the_runs_of_characters_have_their_properties_in_common() {
    for name in [
        "Cn",
        "Co",
        "L",
        "Lo",
        "Han",
        "Hangul",
        "Tangut",
        "sc:Han",
        "scx:Han",
        "Unknown",
        "Ideographic",
        "bidiclass:BN",
        "bidiclass:L",
        "Default_Ignorable_Code_Point",
        "Noncharacter_Code_Point",
        "Any",
    ] {
        let regex = RegexBuilder::new()
            .utf(true)
            .build(&format!(r"\p{{{name}}}+"))
            .unwrap();
        let mut all = Vec::new();
        search(&regex, ('\0'..=char::MAX).collect(), &mut all).unwrap();
        let mut different = ClassUnicode::new(all);
        different.symmetric_difference(&characters_with(name).unwrap());
        assert_eq!(different, ClassUnicode::empty(), "{name}");
    }
}

#[test]
fn the_names_of_properties_are_compared_as_pcre2_compares_them() {
    let greek = characters_with("Greek").unwrap();
    assert!(Arc::ptr_eq(&greek, &characters_with("g r-e_eK").unwrap()));
    // Any white space: what is kept in memory would grow with each spelling otherwise.
    for space in ['\t', '\n', '\u{b}', '\u{c}', '\r', ' '] {
        let spaced = format!("Gre{space}ek");
        assert_eq!(check_compiles(&format!(r"\p{{{spaced}}}"), ""), Ok(()));
        assert!(
            Arc::ptr_eq(&greek, &characters_with(&spaced).unwrap()),
            "{space:?}"
        );
    }
    assert!(characters_with("Nowhere").is_err());
}
