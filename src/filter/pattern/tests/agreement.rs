//! Random patterns match random texts in process as they do in PCRE2 with MongoDB's limits.
//!
//! `WEIR_PATTERN_CASES` sets the number of patterns of each kind.

use std::cell::Cell;

use ::pcre2::bytes::{Regex, RegexBuilder};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};

use super::super::characters::CharacterSet;
use super::*;
use crate::filter::pcre2::characters_with;
use crate::filter::regex_check::{SlowParts, check_pattern};

/// The number of patterns of each kind, unless the environment sets it.
const CASES: u32 = 10_000;

/// The limits of `src/third_party/pcre2/build_posix/config.h` in MongoDB's repository.
const LIMITS: &str = "(*LIMIT_MATCH=200000)(*LIMIT_DEPTH=4000)";

/// Parts that match one character or more, and parts of the grammar that may be read differently.
const PARTS: &[&str] = &[
    "a",
    "b",
    "k",
    "s",
    "A",
    "K",
    "é",
    "É",
    "ß",
    "ẞ",
    "ſ",
    "\u{212a}",
    "σ",
    "ς",
    "Σ",
    "ǅ",
    "ﬅ",
    "ﬆ",
    "ΐ",
    "\u{1fd3}",
    "コ",
    "ー",
    "。",
    "中",
    "\u{a7cb}",
    "\u{264}",
    "0",
    "7",
    "_",
    "-",
    " ",
    "#",
    "\n",
    "\r",
    "\t",
    "\u{b}",
    "\u{85}",
    "\u{2028}",
    "😀",
    ".",
    r"\d",
    r"\D",
    r"\w",
    r"\W",
    r"\s",
    r"\S",
    r"\v",
    r"\n",
    r"\r",
    r"\t",
    r"\f",
    r"\a",
    r"\x41",
    r"\x{e9}",
    r"\x{10ffff}",
    r"\x0a",
    r"\.",
    r"\-",
    r"\#",
    r"\ ",
    r"\]",
    r"\_",
    r"\é",
    r"\0",
    r"\x4",
    r"\x 41",
    r"\x{4 1}",
    r"\N",
    r"\R",
    r"\h",
    r"\X",
    r"\e",
    r"\1",
    r"\Q",
    r"\pL",
    r"\PL",
    r"\p{Lu}",
    r"\p{^Lu}",
    r"\P{^Lu}",
    r"\p{L&}",
    r"\p{Greek}",
    r"\P{Greek}",
    r"\p{Katakana}",
    r"\p{Han}",
    r"\p{Latin}",
    r"\p{sc:Han}",
    r"\p{scx=Han}",
    r"\p{Any}",
    r"\p{ASCII}",
    r"\p{Alphabetic}",
    r"\p{bidi_class:AL}",
    r"\p{Cn}",
    r"\p{Xan}",
    r"\p{Letter}",
    r"\p{ l u }",
    r"\p{White_Space}",
    r"\p{Script=Greek}",
    r"\p{L_}",
    r"\p{Emoji}",
    "[ab]",
    "[^ab]",
    "[a-k]",
    "[K-Z]",
    "[^\n]",
    r"[\n]",
    r"[\r\n]",
    r"[\d_]",
    r"[^\d]",
    r"[\W]",
    r"[^\W\d]",
    r"[\v]",
    r"[^\v]",
    "[[:alpha:]]",
    "[[:^alpha:]]",
    "[[:upper:]é]",
    "[^[:lower:]]",
    "[[:word:]-]",
    "[[:space:]]",
    r"[\p{Greek}é]",
    r"[^\p{Latin}]",
    r"[\P{Lu}]",
    r"[^\P{Lu}k]",
    "[é-ü]",
    "[σ]",
    "[^σ]",
    "[k]",
    "[^k]",
    "[s]",
    "[^\u{212a}]",
    "[]a]",
    "[^]a]",
    "[a-]",
    "[-a]",
    r"[\]a]",
    "[a^]",
    r"[a\-z]",
    "[ ]",
    "[#]",
    "[[]",
    "[a[b]",
    "[a-[:digit:]]",
    r"[\d-z]",
    "[--a]",
    "[]-a]",
    r"[\W[:alpha:]]",
    r"[[:^digit:]\p{Lu}]",
    r"[^\W\p{Lu}]",
    "[a&&b]",
    "[a--b]",
    "[.]",
    "[$]",
    r"[\b]",
    r"[\x{1F600}-\x{1F64F}]",
    "[\u{a7cb}a]",
    "[ßk]",
    "[[:xdigit:][:punct:]]",
    "[:alpha:]",
];

/// Parts that match no character.
const ASSERTIONS: &[&str] = &[
    "^", "$", r"\A", r"\z", r"\b", r"\B", "()", "(?:)", "(?i)", "(?-i)", "(?m)", "(?s)", "(?x)",
    "(?U)", r"\Z", r"\G",
];

const QUANTIFIERS: &[&str] = &[
    "*", "+", "?", "*?", "+?", "??", "{2}", "{0,2}", "{1,}", "{1,2}?", "{0}", "{,2}", "{ 1 }",
    "{1, 2}", "++", "{2}{2}", "{x}", "{1", " *", "{1,2}+",
];

const GROUPS: &[(&str, &str)] = &[
    ("(", ")"),
    ("(?:", ")"),
    ("(?i:", ")"),
    ("(?m:", ")"),
    ("(?s-i:", ")"),
    ("(?x:", ")"),
    ("(?<n>", ")"),
    ("(?P<p>", ")"),
    ("(?<n.m>", ")"),
    ("( ?:", ")"),
    ("(?=", ")"),
    ("(?>", ")"),
];

const CHARACTERS: &[char] = &[
    'a',
    'b',
    'k',
    's',
    'z',
    'A',
    'K',
    'S',
    'Z',
    'é',
    'É',
    'ā',
    'ß',
    'ẞ',
    'ſ',
    '\u{212a}',
    'σ',
    'ς',
    'Σ',
    'ǅ',
    'ǆ',
    'ﬅ',
    'ﬆ',
    'ΐ',
    '\u{1fd3}',
    'コ',
    'ー',
    '。',
    '中',
    '\u{60c}',
    '\u{964}',
    '\u{a7cb}',
    '\u{264}',
    '\u{10d50}',
    '\u{10d70}',
    '0',
    '7',
    '_',
    '-',
    ' ',
    '#',
    '\n',
    '\n',
    '\r',
    '\t',
    '\u{b}',
    '\u{85}',
    '\u{2028}',
    '😀',
    '\u{10ffff}',
    '\0',
    '.',
    '$',
    '[',
    ']',
    '\u{1}',
    '\u{7}',
];

/// Patterns as people write them, mostly valid.
fn written() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        6 => select(PARTS).prop_map(str::to_owned),
        2 => select(ASSERTIONS).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            4 => prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
            1 => prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.join("|")),
            2 => (inner.clone(), select(&QUANTIFIERS[..11])).prop_map(|(part, times)| format!("{part}{times}")),
            2 => (inner.clone(), select(&QUANTIFIERS[..11])).prop_map(|(part, times)| format!("(?:{part}){times}")),
            2 => (inner, select(GROUPS)).prop_map(|(part, (open, close))| format!("{open}{part}{close}")),
        ]
    })
}

/// Any parts after one another, mostly invalid: what both grammars accept, they must read alike.
fn thrown_together() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => select(PARTS).prop_map(str::to_owned),
        2 => select(ASSERTIONS).prop_map(str::to_owned),
        2 => select(QUANTIFIERS).prop_map(str::to_owned),
        1 => select(&["(", "(?:", "(?<n>", ")", ")", "|", "[", "[^", "]", "{", "}", "\\", "-", ",", "1", ":", "&", "~", "(?", "i)", "(?#c)"][..])
            .prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 1..7).prop_map(|pieces| pieces.concat())
}

fn options() -> impl Strategy<Value = String> {
    prop::collection::vec(any::<bool>(), 4).prop_map(|on| {
        let letters = "imsx".chars().zip(on);
        letters
            .filter(|(_, on)| *on)
            .map(|(letter, _)| letter)
            .collect()
    })
}

/// Texts of at least one character: the crate `pcre2` hands an empty text to PCRE2 at an address that can't be read.
fn texts() -> impl Strategy<Value = Vec<String>> {
    let text = prop::collection::vec(select(CHARACTERS), 1..8).prop_map(String::from_iter);
    prop::collection::vec((text, any::<bool>()), 6..10).prop_map(|texts| {
        let end = |(text, newline)| if newline { text + "\n" } else { text };
        texts.into_iter().map(end).collect()
    })
}

fn in_pcre2(pattern: &str, options: &str) -> Regex {
    let has = |letter| options.contains(letter);
    RegexBuilder::new()
        .utf(true)
        .caseless(has('i'))
        .multi_line(has('m'))
        .dotall(has('s'))
        .extended(has('x'))
        .build(&format!("{LIMITS}{pattern}"))
        .unwrap()
}

/// Counts of what was compared.
#[derive(Debug, Default)]
struct Seen {
    accepted: Cell<usize>,
    refused: Cell<usize>,
    matches: Cell<usize>,
    others: Cell<usize>,
    undecided: Cell<usize>,
    beyond_the_limits: Cell<usize>,
}

fn count(counter: &Cell<usize>) {
    counter.set(counter.get() + 1);
}

fn compare(
    (pattern, options, texts): &(String, String, Vec<String>),
    seen: &Seen,
) -> Result<(), TestCaseError> {
    if check_pattern(pattern, options, &mut SlowParts::default()).is_err() {
        count(&seen.refused);
        return Ok(());
    }
    let Ok(compiled) = Pattern::new(pattern, options) else {
        count(&seen.refused);
        return Ok(());
    };
    count(&seen.accepted);
    let theirs = in_pcre2(pattern, options);
    let unassigned = characters_with("Cn").unwrap();
    let is_newer = |character: char| {
        let of = |range: &ClassUnicodeRange| (range.start()..=range.end()).contains(&character);
        unassigned.iter().any(of)
    };
    for text in texts {
        let Ok(expected) = theirs.is_match(text.as_bytes()) else {
            count(&seen.beyond_the_limits);
            continue;
        };
        match compiled.is_match(text.as_bytes(), &WorkBudget::default()) {
            Some(found) => {
                prop_assert_eq!(found, expected, "/{}/{} on {:?}", pattern, options, text);
                count(if found { &seen.matches } else { &seen.others });
            }
            None => {
                prop_assert!(
                    text.contains(is_newer) || pattern.contains(is_newer),
                    "/{}/{} on {:?}",
                    pattern,
                    options,
                    text
                );
                count(&seen.undecided);
            }
        }
    }
    Ok(())
}

fn run(patterns: impl Strategy<Value = String>) -> Seen {
    let cases = std::env::var("WEIR_PATTERN_CASES")
        .map_or(CASES, |cases| cases.parse().expect("a number of cases"));
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let seen = Seen::default();
    let outcome = TestRunner::new(config).run(&(patterns, options(), texts()), |case| {
        compare(&case, &seen)
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    eprintln!("{seen:?}");
    seen
}

#[test]
fn written_patterns_match_as_in_pcre2() {
    let seen = run(written());
    assert!(seen.accepted.get() > seen.refused.get(), "{seen:?}");
    assert!(seen.matches.get() * 4 > seen.others.get(), "{seen:?}");
    assert!(seen.others.get() * 4 > seen.matches.get(), "{seen:?}");
}

#[test]
fn patterns_thrown_together_match_as_in_pcre2() {
    let seen = run(thrown_together());
    assert!(seen.accepted.get() * 20 > seen.refused.get(), "{seen:?}");
}

/// Each character that any version pairs with another.
#[test]
fn characters_ignore_case_as_in_pcre2() {
    let mut paired = ClassUnicode::new([ClassUnicodeRange::new('\0', char::MAX)]);
    let alone = |character: &char| {
        let mut class = ClassUnicode::new([ClassUnicodeRange::new(*character, *character)]);
        class.case_fold_simple();
        class.ranges().len() == 1 && class.ranges()[0].len() == 1
    };
    paired.intersect(&characters_with("Changes_When_Casemapped").unwrap());
    let later = ('\0'..=char::MAX).filter(|character| !alone(character));
    paired.union(&ClassUnicode::new(
        later.map(|one| ClassUnicodeRange::new(one, one)),
    ));
    let paired: Vec<char> = paired
        .iter()
        .flat_map(|range| range.start()..=range.end())
        .collect();
    assert!(paired.len() > 2900);
    let text: String = paired.iter().collect();
    for character in paired {
        let mut set = CharacterSet::of(&[(character, character)]);
        set.fold_case().unwrap();
        let theirs = RegexBuilder::new()
            .utf(true)
            .caseless(true)
            .build(&format!(r"\x{{{:x}}}", u32::from(character)))
            .unwrap();
        let theirs = theirs.find_iter(text.as_bytes()).map(|found| {
            let found = found.unwrap();
            let one = text[found.start()..found.end()].chars().next().unwrap();
            ClassUnicodeRange::new(one, one)
        });
        assert_eq!(set.certain, ClassUnicode::new(theirs), "{character:?}");
    }
}
