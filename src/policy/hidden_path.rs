//! The paths of `hide`: names of fields, separated by dots.
//!
//! Other languages for paths have wildcards, array indexes and signs. Read as names, they would name no field and
//! hide nothing, so they are refused with the path that was meant. A backslash in front of such a character makes it a
//! part of the name.

use crate::model::is_control;

/// The characters that are part of a name only behind a backslash.
const SPECIAL: [char; 12] = ['*', '?', '[', ']', '{', '}', ',', ';', '|', '<', '>', '\\'];

/// The same, at the ends of a name only.
const QUOTES: [char; 3] = ['"', '\'', '`'];

/// The same, in front of a path only.
const SIGNS: [char; 8] = ['/', '-', '!', '+', '^', '@', '#', '%'];

/// The same, at the end of a name only.
const END_SIGNS: [char; 2] = ['$', '%'];

/// The separators of paths in lists of other languages.
const SEPARATORS: [char; 3] = [',', ';', '|'];

/// The names that MongoDB's references to documents (DBRef) have.
const REFERENCE_NAMES: [&str; 3] = ["$id", "$ref", "$db"];

/// Returns the path that an entry stands for, with dots between the names.
///
/// # Errors
/// What is wrong with the entry, and the right form.
pub(super) fn parse(entry: &str) -> Result<String, String> {
    let names = Name::split(entry);
    let Some(problem) = problem(&names) else {
        let names: Vec<String> = names.iter().map(Name::text).collect();
        return Ok(names.join("."));
    };
    let right = match right_form(entry) {
        Some(right) => right,
        None => "name each field to hide by its path, such as card or address.street".to_owned(),
    };
    let escape = problem.escape.map(|it| {
        format!("; where it is really a part of the name, write a backslash before it: {it}")
    });
    let escape = escape.unwrap_or_default();
    Err(format!("{entry:?} {}: {right}{escape}", problem.words))
}

/// The name of a field: its characters, and whether each was behind a backslash.
struct Name(Vec<(char, bool)>);

struct Problem {
    words: String,
    /// How the character is written as a part of a name, if it can be.
    escape: Option<String>,
}

impl Name {
    fn split(path: &str) -> Vec<Self> {
        let mut names = vec![Self(Vec::new())];
        let mut characters = path.chars();
        while let Some(next) = characters.next() {
            let mut name = |it| {
                if let Some(Self(name)) = names.last_mut() {
                    name.push(it);
                }
            };
            match next {
                '.' => names.push(Self(Vec::new())),
                // Only the characters that need it may have one, so that one of these is no slip.
                '\\' => match characters.clone().next().filter(|it| needs_backslash(*it)) {
                    Some(escaped) => {
                        characters.next();
                        name((escaped, true));
                    }
                    None => name(('\\', false)),
                },
                other => name((other, false)),
            }
        }
        names
    }

    fn text(&self) -> String {
        self.0.iter().map(|(it, _)| it).collect()
    }

    /// Returns the name as an entry has it.
    fn written(&self) -> String {
        let each = self.0.iter().flat_map(|(it, escaped)| {
            let backslash = escaped.then_some('\\');
            backslash.into_iter().chain([*it])
        });
        each.collect()
    }

    /// Returns the first of these characters that is not behind a backslash.
    fn find(&self, special: impl Fn(char) -> bool) -> Option<char> {
        let mut plain = self.0.iter().filter(|(_, escaped)| !escaped);
        plain.find(|(it, _)| special(*it)).map(|(it, _)| *it)
    }

    /// Returns the first or the last character that is one of these and not behind a backslash.
    fn at_ends(&self, special: impl Fn(char) -> bool) -> Option<char> {
        let mut ends = self.0.first().into_iter().chain(self.0.last());
        ends.find(|(it, escaped)| !escaped && special(*it))
            .map(|(it, _)| *it)
    }

    /// Returns the last character, if it is one of these and not behind a backslash.
    fn ends_with(&self, special: impl Fn(char) -> bool) -> Option<char> {
        let last = self.0.last();
        last.filter(|(it, escaped)| !escaped && special(*it))
            .map(|(it, _)| *it)
    }

    /// Returns whether the name has the signs of a call without arguments.
    fn has_call(&self) -> bool {
        let mut pairs = self.0.windows(2);
        pairs.any(|it| it == [('(', false), (')', false)])
    }

    /// Returns the first character, if it is one of these and not behind a backslash.
    fn starts_with(&self, special: impl Fn(char) -> bool) -> Option<char> {
        let first = self.0.first();
        first
            .filter(|(it, escaped)| !escaped && special(*it))
            .map(|(it, _)| *it)
    }

    fn is_number(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|(it, _)| it.is_ascii_digit())
    }
}

/// Returns whether a character has another meaning than to be a part of a name, at least somewhere in a path.
fn needs_backslash(it: char) -> bool {
    SPECIAL.contains(&it)
        || QUOTES.contains(&it)
        || SIGNS.contains(&it)
        || END_SIGNS.contains(&it)
        || it == '('
        || it.is_whitespace()
        || is_invisible(it)
}

/// Returns whether nobody sees that a text contains a character: control characters, those that only direct
/// how a text is shown, and those without a width.
pub(super) fn is_invisible(it: char) -> bool {
    is_control(it)
        || matches!(
            it,
            '\u{ad}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}'
        )
}

fn problem(names: &[Name]) -> Option<Problem> {
    let found = |words: String, it: char| Problem {
        words,
        escape: Some(format!("\\{}", it.escape_debug())),
    };
    let of_names = names.iter().enumerate().find_map(|(index, name)| {
        if let Some(it) = name.find(is_invisible) {
            return Some(found(
                format!("contains the invisible character {it:?}"),
                it,
            ));
        }
        if let Some(it) = name.at_ends(char::is_whitespace) {
            let words = format!("has white space at an end of {:?}", name.text());
            return Some(found(words, it));
        }
        if let Some(it) = name.at_ends(|it| QUOTES.contains(&it)) {
            return Some(found(format!("has the quotation mark {it}"), it));
        }
        if index == 0
            && let Some(it) = name.starts_with(|it| SIGNS.contains(&it))
        {
            return Some(found(format!("starts with {it}"), it));
        }
        let is_reference = index > 0 && REFERENCE_NAMES.contains(&name.text().as_str());
        if let Some(it) = name.starts_with(|it| it == '$').filter(|_| !is_reference) {
            return Some(found(
                format!("has the name {:?} with a $", name.text()),
                it,
            ));
        }
        if let Some(it) = name.ends_with(|it| END_SIGNS.contains(&it)) {
            let words = format!("has {it} at the end of {:?}", name.text());
            return Some(found(words, it));
        }
        if name.has_call() {
            let words = "has (), and paths call nothing".to_owned();
            return Some(found(words, '('));
        }
        let it = name.find(|it| SPECIAL.contains(&it))?;
        let words = match it {
            '*' => "has a *, and paths have no wildcards",
            '?' => "has a ?, and paths have no wildcards",
            '[' | ']' => "has a bracket, and paths have no indexes",
            ',' => "has a comma",
            ';' => "has a semicolon",
            '|' => "has a |",
            '<' | '>' => "has an angle bracket",
            '\\' => "has a backslash before a character that needs none",
            _ => "has a brace",
        };
        Some(found(words.to_owned(), it))
    });
    let plain = |words: &str| Problem {
        words: words.to_owned(),
        escape: None,
    };
    let empty = || names.iter().any(|it| it.0.is_empty());
    // A document is no array, so a number at the top is the name of a field.
    let number = || names.iter().skip(1).any(Name::is_number);
    of_names
        .or_else(|| {
            empty().then(|| plain("has an empty component, and a single dot separates names"))
        })
        .or_else(|| {
            number().then(|| plain("has a number behind a dot, which may be an index of an array"))
        })
}

/// Returns the advice to write the path that was probably meant, if there is one.
fn right_form(entry: &str) -> Option<String> {
    let each: Vec<&str> = entry.split(SEPARATORS).collect();
    let mut paths = Vec::with_capacity(each.len());
    for part in &each {
        paths.push(meant_path(part)?);
    }
    if paths.len() > 1 {
        return Some(format!("write an entry for each, {}", paths.join(" and ")));
    }
    let path = paths.pop()?;
    let through_array =
        entry.contains(['[', '$']) || Name::split(entry).iter().any(Name::is_number);
    let why = if entry.ends_with('*') {
        ", which hides all below it"
    } else if through_array && path.contains('.') {
        ", which also hides it in arrays"
    } else {
        ""
    };
    Some(format!("write {path}{why}"))
}

/// Returns a valid path without what other languages have beside the names.
fn meant_path(part: &str) -> Option<String> {
    let part = part.trim();
    // A JSON pointer has slashes in place of dots.
    let pointer = part.strip_prefix('/').map(|rest| rest.replace('/', "."));
    let part = pointer.unwrap_or_else(|| without_brackets(part));
    let part = part.replace("->", ".").replace("()", "");
    let names = Name::split(&part);
    let count = names.len();
    let mut meant = Vec::with_capacity(count);
    for (index, mut name) in names.into_iter().enumerate() {
        if !name.0.is_empty() && name.0.iter().all(|it| *it == ('*', false)) {
            if index + 1 < count {
                // Any name in the middle: no path says that.
                return None;
            }
            continue;
        }
        name.0
            .retain(|(it, escaped)| *escaped || !(is_invisible(*it) || "{}\\".contains(*it)));
        let surrounds = |it: &(char, bool)| {
            !it.1
                && (it.0.is_whitespace()
                    || it.0 == '?'
                    || QUOTES.contains(&it.0)
                    || SIGNS.contains(&it.0))
        };
        let trailing = |it: &(char, bool)| surrounds(it) || !it.1 && END_SIGNS.contains(&it.0);
        let reference = index > 0 && REFERENCE_NAMES.contains(&name.text().as_str());
        while name.0.last().is_some_and(trailing) {
            name.0.pop();
        }
        let leading = |it: &&(char, bool)| surrounds(it) || (!reference && **it == ('$', false));
        let start = name.0.iter().take_while(leading).count();
        name.0.drain(..start);
        if !name.0.is_empty() && (index == 0 || !name.is_number()) {
            meant.push(name.written());
        }
    }
    let path = meant.join(".");
    (problem(&Name::split(&path)).is_none()).then_some(path)
}

/// Returns a path without indexes in brackets.
fn without_brackets(path: &str) -> String {
    let mut depth = 0_u32;
    let mut escaped = false;
    let keeps = |it: &char| {
        let bracket = !std::mem::take(&mut escaped);
        match it {
            '[' if bracket => depth += 1,
            ']' if bracket && depth > 0 => {
                depth -= 1;
                return false;
            }
            '\\' if bracket => escaped = true,
            _ => {}
        }
        depth == 0
    };
    path.chars().filter(keeps).collect()
}

#[cfg(test)]
mod tests;
