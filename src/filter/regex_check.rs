//! Checks the regular expressions of filters.
//!
//! MongoDB runs them with PCRE2, a backtracking engine. Weir parses a pattern first with the grammar of a
//! linear-time engine, for two reasons: syntax without bounded cost (look-around, back-references,
//! recursion) never reaches the database, and every accepted pattern can also run in process. This
//! protects only if both engines read the pattern alike, so syntax that they read differently is refused
//! too: nested classes and class operations, comments, white space in quantifiers and, under "x", in classes and character
//! codes, possessive quantifiers, and a few escapes and flags. What only the linear-time engine knows, such as `^*` or `\p{Letter}`,
//! [`pcre2`](super::pcre2) refuses. Small differences in meaning remain, which [`pattern`](super::pattern) translates.

use std::collections::BTreeSet;

use regex_syntax::ast::{self, Ast};

use super::pattern::property_name;
use super::pcre2;
use crate::model::quoted;

const MAX_PATTERN_BYTES: usize = 1024;

/// The deepest nesting of groups and repetitions, far above what people write.
pub(super) const MAX_NESTING: u32 = 50;

/// The most different Unicode properties in the patterns of a watch. To learn which characters have one takes some
/// milliseconds, once in a process.
const MAX_PROPERTIES: usize = 32;

/// The most characters in the ranges of classes that ignore case, in the patterns of a watch together. PCRE2 looks for the
/// other cases of each character: some milliseconds for a range of all that Unicode has, which are 1,114,112.
const MAX_FOLDED_CHARACTERS: usize = 4_000_000;

/// What the patterns of a watch contain together of the parts that take long to compile.
#[derive(Debug, Default)]
pub(super) struct SlowParts {
    /// The names of Unicode properties.
    properties: BTreeSet<String>,
    /// The number of characters in ranges that ignore case.
    folded: usize,
}

/// Checks a pattern; `options` are letters of "imsx". `slow_parts` are those of all patterns of the watch so far, to which
/// those of this one are added.
///
/// # Errors
/// A description of the first problem.
pub(super) fn check_pattern(
    pattern: &str,
    options: &str,
    slow_parts: &mut SlowParts,
) -> Result<(), String> {
    if pattern.is_empty() || pattern.len() > MAX_PATTERN_BYTES {
        return Err(format!(
            "is {} bytes long; a pattern must have 1 to {MAX_PATTERN_BYTES} bytes",
            pattern.len()
        ));
    }
    if pattern.contains('\0') {
        return Err(r"contains NUL, which BSON cannot store in a pattern; write \x00".into());
    }

    let verbose = options.contains('x');
    let parsed = ast::parse::ParserBuilder::new()
        .nest_limit(MAX_NESTING)
        .ignore_whitespace(verbose)
        .build()
        .parse_with_comments(pattern)
        .map_err(|error| syntax_problem(pattern, error.kind(), error.span()))?;
    if let Some(comment) = parsed.comments.first() {
        return Err(problem_at(
            pattern,
            &comment.span,
            "comments are not supported; remove the comment",
        ));
    }
    let verbose = verbose || turns_on(&parsed.ast, ast::Flag::IgnoreWhitespace);
    let caseless = options.contains('i') || turns_on(&parsed.ast, ast::Flag::CaseInsensitive);
    // The two engines skip different sets of such characters.
    if verbose && pattern.contains(is_exotic_white_space) {
        return Err(
            "contains non-ASCII white space together with the option x; write \\x{...}".into(),
        );
    }
    let check = PortabilityCheck {
        pattern,
        verbose,
        caseless,
        slow_parts,
    };
    ast::visit(&parsed.ast, check)?;
    pcre2::check_compiles(pattern, options)
}

/// Checks the options and returns them sorted, as BSON requires.
///
/// # Errors
/// A description of the first problem.
pub(super) fn check_options(options: &str) -> Result<String, String> {
    let mut letters: Vec<char> = Vec::new();
    for letter in options.chars() {
        if !matches!(letter, 'i' | 'm' | 's' | 'x') {
            return Err(format!("contains {letter:?}; use letters of \"imsx\""));
        }
        if letters.contains(&letter) {
            return Err(format!("repeats {letter:?}; give each option once"));
        }
        letters.push(letter);
    }
    letters.sort_unstable();
    Ok(letters.into_iter().collect())
}

fn is_exotic_white_space(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}')
        || (character.is_whitespace() && !character.is_ascii())
}

pub(super) fn syntax_problem(pattern: &str, kind: &ast::ErrorKind, span: &ast::Span) -> String {
    let reason = match kind {
        ast::ErrorKind::UnsupportedLookAround => {
            "look-around is not supported, because its cost is unbounded; remove it".into()
        }
        ast::ErrorKind::UnsupportedBackreference if text_of(pattern, span).starts_with(r"\0") => {
            r"octal codes are not supported; write \x{...}".into()
        }
        ast::ErrorKind::EscapeUnrecognized | ast::ErrorKind::ClassEscapeInvalid => {
            "this escape is not supported here".into()
        }
        ast::ErrorKind::FlagUnrecognized => {
            "this kind of group is not supported; groups begin with (, (?:, (?<name> or flags of i, m, s, x and U".into()
        }
        ast::ErrorKind::RepetitionMissing => {
            r"there is nothing to repeat here; write a backslash before it for the character itself".into()
        }
        ast::ErrorKind::RepetitionCountUnclosed | ast::ErrorKind::RepetitionCountDecimalEmpty => {
            r"this is not a quantifier such as {2} or {0,3}; write \{ for the character itself".into()
        }
        ast::ErrorKind::UnsupportedBackreference => {
            "back-references are not supported, because their cost is unbounded; remove them".into()
        }
        kind => kind.to_string(),
    };
    problem_at(pattern, span, &reason)
}

fn problem_at(pattern: &str, span: &ast::Span, reason: &str) -> String {
    let offset = span.start.offset;
    let part = match (text_of(pattern, span), pattern.get(offset..)) {
        ("", Some(after)) => &after[..after.ceil_char_boundary(1)],
        (part, _) => part,
    };
    if part.is_empty() {
        return format!("the end of the pattern at byte {offset}: {reason}");
    }
    format!("{} at byte {offset}: {reason}", quoted(part))
}

fn text_of<'a>(pattern: &'a str, span: &ast::Span) -> &'a str {
    pattern
        .get(span.start.offset..span.end.offset)
        .unwrap_or_default()
}

/// Returns the parts of a class in brackets; `None` if it has operations.
pub(super) fn class_items(class: &ast::ClassBracketed) -> Option<&[ast::ClassSetItem]> {
    match &class.kind {
        ast::ClassSet::Item(ast::ClassSetItem::Union(union)) => Some(&union.items),
        ast::ClassSet::Item(item) => Some(std::slice::from_ref(item)),
        ast::ClassSet::BinaryOp(_) => None,
    }
}

/// Returns whether any flag group names the flag, wherever it applies.
fn turns_on(pattern: &Ast, flag: ast::Flag) -> bool {
    struct Search {
        flag: ast::Flag,
        found: bool,
    }
    impl ast::Visitor for Search {
        type Output = bool;
        type Err = std::convert::Infallible;

        fn finish(self) -> Result<bool, Self::Err> {
            Ok(self.found)
        }

        fn visit_pre(&mut self, part: &Ast) -> Result<(), Self::Err> {
            self.found |= flags_of(part).is_some_and(|flags| names(flags, self.flag));
            Ok(())
        }
    }
    let Ok(found) = ast::visit(pattern, Search { flag, found: false });
    found
}

fn flags_of(part: &Ast) -> Option<&ast::Flags> {
    match part {
        Ast::Flags(set) => Some(&set.flags),
        Ast::Group(group) => match &group.kind {
            ast::GroupKind::NonCapturing(flags) => Some(flags),
            ast::GroupKind::CaptureIndex(_) | ast::GroupKind::CaptureName { .. } => None,
        },
        _ => None,
    }
}

fn names(flags: &ast::Flags, flag: ast::Flag) -> bool {
    flags
        .items
        .iter()
        .any(|item| item.kind == ast::FlagsItemKind::Flag(flag))
}

/// Refuses syntax that PCRE reads differently.
struct PortabilityCheck<'a> {
    pattern: &'a str,
    verbose: bool,
    caseless: bool,
    slow_parts: &'a mut SlowParts,
}

impl PortabilityCheck<'_> {
    fn refuse(&self, span: &ast::Span, reason: &str) -> Result<(), String> {
        Err(problem_at(self.pattern, span, reason))
    }

    fn text(&self, span: &ast::Span) -> &str {
        text_of(self.pattern, span)
    }

    fn property(&mut self, class: &ast::ClassUnicode) -> Result<(), String> {
        let (_, name) = property_name(self.text(&class.span));
        self.slow_parts.properties.insert(pcre2::property_key(name));
        if self.slow_parts.properties.len() > MAX_PROPERTIES {
            let reason =
                format!("is one Unicode property too many; all patterns may name {MAX_PROPERTIES}");
            return self.refuse(&class.span, &reason);
        }
        Ok(())
    }

    /// Checks a class in brackets, which has no operations.
    fn bracketed(
        &self,
        class: &ast::ClassBracketed,
        items: &[ast::ClassSetItem],
    ) -> Result<(), String> {
        let text = self.text(&class.span);
        if self.verbose && text.contains(char::is_whitespace) {
            return self.refuse(
                &class.span,
                r"white space in a class is not supported with the option x; write \x20",
            );
        }
        // To PCRE2, these begin a range; the other engine takes a hyphen for itself here.
        let inner = text.strip_prefix('[').unwrap_or(text);
        let inner = inner.strip_prefix('^').unwrap_or(inner);
        for (start, escaped) in [("--", r"\-"), ("]-", r"\]")] {
            let after = inner.strip_prefix(start);
            if after.is_some_and(|after| !after.starts_with(']')) {
                let reason = format!(
                    "{start:?} at the start of a class is not supported; write {escaped} for the first"
                );
                return self.refuse(&class.span, &reason);
            }
        }
        self.wide_characters(class, items)
    }

    /// Checks that PCRE2 decides about characters above U+00FF as the class says. It keeps one note for them, which a negated
    /// part sets. A later POSIX class resets it, and a negated class that has a property does not look at it.
    fn wide_characters(
        &self,
        class: &ast::ClassBracketed,
        items: &[ast::ClassSetItem],
    ) -> Result<(), String> {
        use ast::ClassSetItem as Item;
        let (mut negated_part, mut reset, mut property) = (false, false, false);
        for item in items {
            match item {
                Item::Perl(part) => negated_part |= part.negated,
                Item::Ascii(part) if part.negated => negated_part = true,
                Item::Ascii(_) => reset |= negated_part,
                Item::Unicode(_) => property = true,
                _ => {}
            }
        }
        let overlooked = class.negated && negated_part && property;
        if !(reset || overlooked) {
            return Ok(());
        }
        self.refuse(
            &class.span,
            r"MongoDB's engine reads this class wrongly for characters above U+00FF, because of the negated part in it, such as \W or [:^alpha:]; write it as an alternation",
        )
    }

    /// Counts the characters of a range in a class.
    fn range(&mut self, range: &ast::ClassSetRange) -> Result<(), String> {
        self.literal(&range.start)?;
        self.literal(&range.end)?;
        if self.caseless {
            let characters = u32::from(range.end.c).abs_diff(u32::from(range.start.c)) as usize;
            self.slow_parts.folded = self.slow_parts.folded.saturating_add(characters);
        }
        if self.slow_parts.folded > MAX_FOLDED_CHARACTERS {
            let reason = format!(
                "brings the ranges of classes that ignore case above {MAX_FOLDED_CHARACTERS} characters in all patterns; use fewer or smaller ranges, or no option i"
            );
            return self.refuse(&range.span, &reason);
        }
        Ok(())
    }

    fn literal(&self, literal: &ast::Literal) -> Result<(), String> {
        use ast::{HexLiteralKind, LiteralKind};
        let is_hex = matches!(
            literal.kind,
            LiteralKind::HexFixed(_) | LiteralKind::HexBrace(_)
        );
        if is_hex && self.text(&literal.span).contains(char::is_whitespace) {
            return self.refuse(
                &literal.span,
                "white space in a character's code is not supported; remove it",
            );
        }
        match literal.kind {
            LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
            | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong) => {
                self.refuse(&literal.span, r"MongoDB does not know \u; write \x{...}")
            }
            _ => Ok(()),
        }
    }
}

impl ast::Visitor for PortabilityCheck<'_> {
    type Output = ();
    type Err = String;

    fn finish(self) -> Result<(), String> {
        Ok(())
    }

    fn visit_pre(&mut self, part: &Ast) -> Result<(), String> {
        if let Some(flags) = flags_of(part) {
            // In PCRE, (?R) is recursion into the whole pattern.
            if names(flags, ast::Flag::CRLF) || names(flags, ast::Flag::Unicode) {
                return self.refuse(
                    &flags.span,
                    "flags within a pattern must be of i, m, s, x and U",
                );
            }
        }
        match part {
            Ast::Literal(literal) => self.literal(literal),
            Ast::Assertion(assertion) => match assertion.kind {
                ast::AssertionKind::StartLine
                | ast::AssertionKind::EndLine
                | ast::AssertionKind::StartText
                | ast::AssertionKind::EndText
                | ast::AssertionKind::WordBoundary
                | ast::AssertionKind::NotWordBoundary => Ok(()),
                _ => self.refuse(
                    &assertion.span,
                    r"this word boundary is not supported; write \b",
                ),
            },
            Ast::Repetition(outer) if self.text(&outer.op.span).contains(char::is_whitespace) => self
                .refuse(
                    &outer.op.span,
                    "white space in a quantifier means something else to later versions of MongoDB's engine; remove it",
                ),
            Ast::Repetition(outer) => match outer.ast.as_ref() {
                Ast::Repetition(_) => self.refuse(
                    &outer.span,
                    "a quantifier on a quantifier is not supported; put the inner part in (?:...)",
                ),
                _ => Ok(()),
            },
            Ast::ClassUnicode(class) => self.property(class),
            Ast::ClassBracketed(class) => match class_items(class) {
                Some(items) => self.bracketed(class, items),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Result<(), String> {
        match item {
            ast::ClassSetItem::Bracketed(class) => self.refuse(
                &class.span,
                r"a class within a class is not supported; write \[ for the bracket",
            ),
            ast::ClassSetItem::Unicode(class) => self.property(class),
            ast::ClassSetItem::Literal(literal) => self.literal(literal),
            ast::ClassSetItem::Range(range) => self.range(range),
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(
        &mut self,
        operation: &ast::ClassSetBinaryOp,
    ) -> Result<(), String> {
        self.refuse(
            &operation.span,
            "class operations (&&, --, ~~) are not supported; write the class without them",
        )
    }
}

#[cfg(test)]
mod tests;
