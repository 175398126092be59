//! MongoDB's own regex engine: tells which patterns are valid, and which characters have a Unicode property.
//!
//! MongoDB compiles the patterns of a `$regex` with PCRE2 10.42 in UTF mode without UCP (`src/third_party/pcre2` and
//! `src/mongo/util/pcre.cpp` in its repository). Weir links the same version, so what it refuses here is what a
//! `$match` would refuse. It never runs a client's pattern: that takes PCRE2 a time without a linear bound, for which
//! [`pattern`](super::pattern) has an engine of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pcre2::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange};

use crate::model::quoted;

/// The version that MongoDB has.
const VERSION: &str = "10.42";

/// The longest part of a pattern that an error quotes on each side of the place, in characters.
const QUOTED_CHARACTERS: usize = 16;

/// The runs of characters that have all properties in common, first and last: ideographs, Hangul syllables, characters of
/// private use, and those that no version has assigned. The first is examined in place of all.
const UNIFORM: &[(char, char)] = &[
    ('\u{3400}', '\u{4dbf}'),
    ('\u{4e00}', '\u{9fff}'),
    ('\u{ac00}', '\u{d7a3}'),
    ('\u{e000}', '\u{f8ff}'),
    ('\u{17000}', '\u{187f7}'),
    ('\u{20000}', '\u{2a6df}'),
    ('\u{2b820}', '\u{2cea1}'),
    ('\u{2ceb0}', '\u{2ebe0}'),
    ('\u{30000}', '\u{3134a}'),
    ('\u{33480}', '\u{3fffd}'),
    ('\u{40000}', '\u{4fffd}'),
    ('\u{50000}', '\u{5fffd}'),
    ('\u{60000}', '\u{6fffd}'),
    ('\u{70000}', '\u{7fffd}'),
    ('\u{80000}', '\u{8fffd}'),
    ('\u{90000}', '\u{9fffd}'),
    ('\u{a0000}', '\u{afffd}'),
    ('\u{b0000}', '\u{bfffd}'),
    ('\u{c0000}', '\u{cfffd}'),
    ('\u{d0000}', '\u{dfffd}'),
    ('\u{e1000}', '\u{efffd}'),
    ('\u{f0000}', '\u{ffffd}'),
    ('\u{100000}', '\u{10fffd}'),
];

/// The characters in a text that is searched at once. PCRE2 checks a text's encoding again for each match in it.
const CHARACTERS_AT_ONCE: usize = 1024;

/// Checks that the regex engine is that of MongoDB. A build outside of this repository does not read `.cargo/config.toml`, and
/// so may link the one that the system has.
///
/// # Errors
/// A description of the problem, with what to do.
pub(crate) fn check_linked_version() -> Result<(), String> {
    if is_linked(VERSION) {
        return Ok(());
    }
    Err(format!(
        "another PCRE2 is linked than {VERSION}, which MongoDB has; build again with PCRE2_SYS_STATIC=1"
    ))
}

/// Returns whether PCRE2 is of this version. It is asked with a pattern: the crate's `version()` is that of the headers.
fn is_linked(version: &str) -> bool {
    let probe = RegexBuilder::new().build(&format!("(?(VERSION={version})a|b)"));
    probe.is_ok_and(|probe| probe.is_match(b"a").unwrap_or(false))
}

/// Checks that PCRE2 compiles the pattern with these options, letters of "imsx".
///
/// # Errors
/// The engine's description of the first problem, with its place in the pattern.
pub(super) fn check_compiles(pattern: &str, options: &str) -> Result<(), String> {
    let has = |letter| options.contains(letter);
    let compiled = RegexBuilder::new()
        .utf(true)
        .caseless(has('i'))
        .multi_line(has('m'))
        .dotall(has('s'))
        .extended(has('x'))
        .build(pattern);
    let Err(error) = compiled else {
        return Ok(());
    };
    if error.code().unsigned_abs() == pcre2_sys::PCRE2_ERROR_PATTERN_TOO_LARGE {
        return Err(
            "takes more than 64 KiB when compiled by MongoDB's engine; repeat fewer or smaller parts"
                .into(),
        );
    }
    let text = error.to_string();
    let Some(offset) = error.offset() else {
        return Err(format!("is not a valid pattern: {text}"));
    };
    let reason = text
        .split_once(&format!("at offset {offset}: "))
        .map_or(text.as_str(), |(_, reason)| reason);
    Err(format!("{}: {reason}", place(pattern, offset)))
}

/// Describes an offset into the pattern, in bytes, with what is on both sides of it.
fn place(pattern: &str, offset: usize) -> String {
    let (before, after) = pattern.split_at_checked(offset).unwrap_or((pattern, ""));
    let skipped = before.chars().count().saturating_sub(QUOTED_CHARACTERS);
    let before: String = before.chars().skip(skipped).collect();
    let after: String = after.chars().take(QUOTED_CHARACTERS).collect();
    let sides = match (before.as_str(), after.as_str()) {
        ("", after) => format!("before {}", quoted(after)),
        (before, "") => format!("after {}", quoted(before)),
        (before, after) => format!("between {} and {}", quoted(before), quoted(after)),
    };
    format!("is not a valid pattern at byte {offset}, {sides}")
}

/// Returns the characters that have a property, in PCRE2's Unicode 14. `name` is what is written in the braces of `\p{...}`.
///
/// The first call for a property takes some milliseconds; a process keeps its result. PCRE2 has about a thousand names, of which
/// most take a few hundred bytes: about 1 MiB.
///
/// # Errors
/// PCRE2 knows no such property.
pub(super) fn characters_with(name: &str) -> Result<Arc<ClassUnicode>, String> {
    static KNOWN: OnceLock<Mutex<HashMap<String, Arc<ClassUnicode>>>> = OnceLock::new();
    let known = KNOWN.get_or_init(Mutex::default);
    let key = property_key(name);
    let found = known
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&key)
        .map(Arc::clone);
    if let Some(found) = found {
        return Ok(found);
    }
    let regex = RegexBuilder::new()
        .utf(true)
        .build(&format!(r"\p{{{name}}}+"))
        .map_err(|error| error.to_string())?;
    let class = Arc::new(examine(&regex)?);
    known
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(key, Arc::clone(&class));
    Ok(class)
}

/// Returns the name as PCRE2 compares it: without case, white space, hyphens and underscores.
pub(super) fn property_key(name: &str) -> String {
    name.chars()
        .filter(|character| !matches!(character, '\t'..='\r' | ' ' | '-' | '_'))
        .map(|character| character.to_ascii_lowercase())
        .collect()
}

/// Returns the characters that the pattern matches, which must match one or more characters of a class.
fn examine(regex: &Regex) -> Result<ClassUnicode, String> {
    let mut found = Vec::new();
    let mut next = '\0';
    for &(first, last) in UNIFORM {
        search(regex, (next..=first).collect(), &mut found)?;
        // What the first is, the others are.
        if let Some(run) = found.last_mut()
            && run.end() == first
        {
            *run = ClassUnicodeRange::new(run.start(), last);
        }
        next = char::from_u32(u32::from(last) + 1).unwrap_or('\u{e000}');
    }
    search(regex, (next..=char::MAX).collect(), &mut found)?;
    Ok(ClassUnicode::new(found))
}

/// Adds the runs of the characters, which follow each other, that the pattern matches.
fn search(
    regex: &Regex,
    characters: Vec<char>,
    found: &mut Vec<ClassUnicodeRange>,
) -> Result<(), String> {
    for characters in characters.chunks(CHARACTERS_AT_ONCE) {
        let text: String = characters.iter().collect();
        for run in regex.find_iter(text.as_bytes()) {
            let run = run.map_err(|error| error.to_string())?;
            let mut run = text[run.start()..run.end()].chars();
            if let Some(start) = run.next() {
                let end = run.next_back().unwrap_or(start);
                found.push(ClassUnicodeRange::new(start, end));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
