//! Runs regular expressions in process, with the same meaning as in MongoDB's engine (PCRE2).
//!
//! [`regex_check`](super::regex_check) accepts only syntax that both engines share, and [`translation`] compiles it so that
//! it has PCRE2's meaning.

mod characters;
mod engine;
mod translation;

pub(super) use characters::property_name;
use engine::Engine;
pub(super) use engine::WorkBudget;
use translation::{LAST_NEWLINE, ParsedPattern, Purpose, encode};

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    any_text: Engines,
    /// Runs on texts that end with a newline, if the pattern has an assertion that treats it in a way of its own.
    newline_at_end: Option<Engines>,
}

impl Pattern {
    /// Compiles a pattern that passed the checks. `options` are letters of "imsx".
    ///
    /// # Errors
    /// A description of the problem, such as a compiled size above the limit.
    pub(super) fn new(pattern: &str, options: &str) -> Result<Pattern, String> {
        let parsed = ParsedPattern::new(pattern, options)?;
        let compile = |encoded, possible, newline| {
            let (translated, contents) = parsed.translate(Purpose { encoded, possible })?;
            Ok::<_, String>((Engine::new(&translated, newline)?, contents))
        };
        let (certain, contents) = compile(false, false, b'\n')?;
        let engines = |certain, encoded, newline| {
            let possible = match contents.uncertain {
                true => Some(compile(encoded, true, newline)?.0),
                false => None,
            };
            Ok::<_, String>(Engines { certain, possible })
        };
        let newline_at_end = match (contents.end, contents.line_start) {
            (false, false) => None,
            (true, true) => {
                return Err(
                    "contains `$` outside of the option m together with `^` in it; write \\A or \\z, or one mode for both"
                        .into(),
                );
            }
            (end, _) => {
                let newline = if end { LAST_NEWLINE } else { b'\n' };
                let (certain, _) = compile(true, false, newline)?;
                Some(engines(certain, true, newline)?)
            }
        };
        Ok(Pattern {
            any_text: engines(certain, false, b'\n')?,
            newline_at_end,
        })
    }

    /// Returns the memory that the compiled pattern takes, in bytes.
    pub(super) fn compiled_bytes(&self) -> usize {
        let engines = [Some(&self.any_text), self.newline_at_end.as_ref()];
        engines
            .into_iter()
            .flatten()
            .flat_map(|engines| [Some(&engines.certain), engines.possible.as_ref()])
            .flatten()
            .map(Engine::compiled_bytes)
            .sum()
    }

    /// Returns the number of steps that a byte of text may take.
    pub(super) fn states(&self) -> usize {
        let possible = self.any_text.possible.as_ref();
        self.any_text.certain.states() + possible.map_or(0, Engine::states)
    }

    /// Returns whether the text holds a match. `None` if that would take more work than is left of `budget`, or depends
    /// on the version of Unicode; `budget` then notes that it was undecided. Text that is not UTF-8 holds none.
    pub(super) fn is_match(&self, text: &[u8], budget: &WorkBudget) -> Option<bool> {
        let Ok(text) = std::str::from_utf8(text) else {
            return Some(false);
        };
        match &self.newline_at_end {
            Some(engines) if text.ends_with('\n') => engines.is_match(&encode(text), budget),
            _ => self.any_text.is_match(text.as_bytes(), budget),
        }
    }
}

/// The engines for a kind of text.
#[derive(Clone, Debug)]
struct Engines {
    /// Finds what matches in every version of Unicode.
    certain: Engine,
    /// Finds what may match in a later version, if that can be more.
    possible: Option<Engine>,
}

impl Engines {
    fn is_match(&self, text: &[u8], budget: &WorkBudget) -> Option<bool> {
        if self.certain.is_match(text, budget)? {
            return Some(true);
        }
        let Some(possible) = &self.possible else {
            return Some(false);
        };
        // Only other characters can make a difference.
        if text.is_ascii() || !possible.is_match(text, budget)? {
            return Some(false);
        }
        budget.mark_undecided();
        None
    }
}

/// Returns a pattern that matches exactly the strings that start with `prefix`. Without options, `^` is
/// the start of the whole string, newlines are literal, and a backslash before ASCII punctuation makes
/// it literal.
pub(crate) fn prefix_pattern(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    pattern.push('^');
    for character in prefix.chars() {
        match character {
            // BSON cannot store NUL in a pattern.
            '\0' => pattern.push_str(r"\x00"),
            character if character.is_ascii_punctuation() && character != '_' => {
                pattern.push('\\');
                pattern.push(character);
            }
            character => pattern.push(character),
        }
    }
    pattern
}

#[cfg(test)]
mod tests;
