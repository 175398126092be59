//! Runs regular expressions in process, with the same meaning as in MongoDB's engine (PCRE).
//!
//! [`regex_check`](super::regex_check) accepts only syntax that both engines share. Where they differ in
//! meaning, the pattern is translated before it is compiled: in PCRE, `\d`, `\w`, `\s` and `\b` are
//! ASCII only, `\v` is any vertical space, the option "i" does not affect named classes, and `$` and `^`
//! treat a newline at the end of the text in their own way.

mod engine;

use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::translate::TranslatorBuilder;
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

use super::regex_check::{MAX_NESTING, syntax_problem};
use engine::Engine;
pub(super) use engine::WorkBudget;

/// A class that matches no character.
const NEVER_MATCHES: &str = r"[^\x{0}-\x{10ffff}]";

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    whole: Engine,
    /// Runs on texts that end with a newline, without that newline, because `$` also matches before it.
    without_newline: Option<Engine>,
    /// Runs on texts that end with a newline; there `^` does not match at the end of the text.
    no_line_at_end: Option<Engine>,
}

impl Pattern {
    /// Compiles a pattern that passed the checks. `options` are letters of "imsx".
    ///
    /// # Errors
    /// A description of the problem, such as a compiled size above the limit.
    pub(super) fn new(pattern: &str, options: &str) -> Result<Pattern, String> {
        let parsed = ParsedPattern::new(pattern, options)?;
        let (whole, seen) = parsed.compile(TextVariant::Whole)?;
        let other = |needed: bool, text| -> Result<Option<Engine>, String> {
            Ok(if needed {
                Some(parsed.compile(text)?.0)
            } else {
                None
            })
        };
        Ok(Pattern {
            whole,
            without_newline: other(seen.end, TextVariant::WithoutNewline)?,
            no_line_at_end: other(seen.line_start, TextVariant::NoLineAtEnd)?,
        })
    }

    /// Returns the memory that the compiled pattern takes, in bytes.
    pub(super) fn compiled_bytes(&self) -> usize {
        [&self.without_newline, &self.no_line_at_end]
            .into_iter()
            .flatten()
            .chain([&self.whole])
            .map(Engine::compiled_bytes)
            .sum()
    }

    /// Returns the number of steps that a byte of text may take.
    pub(super) fn states(&self) -> usize {
        self.whole.states()
    }

    /// Returns whether the text holds a match; `None` if that would take more work than is left of
    /// `budget`. Text that is not UTF-8 holds none.
    pub(super) fn is_match(&self, text: &[u8], budget: &WorkBudget) -> Option<bool> {
        let Ok(text) = std::str::from_utf8(text) else {
            return Some(false);
        };
        let Some(without_newline) = text.strip_suffix('\n') else {
            return self.whole.is_match(text, budget);
        };
        if let Some(regex) = &self.without_newline
            && regex.is_match(without_newline, budget)?
        {
            return Some(true);
        }
        let Some(strict) = &self.no_line_at_end else {
            return self.whole.is_match(text, budget);
        };
        match self.whole.first_end(text, budget)? {
            None => Some(false),
            Some(end) if end < text.len() => Some(true),
            // The match ends at the end of the text. It counts if it needs no `^` there, or is not empty.
            Some(_) if strict.is_match(text, budget)? => Some(true),
            Some(_) => {
                let start = self.whole.first_start(text, budget)?;
                Some(start.is_some_and(|start| start < text.len()))
            }
        }
    }
}

/// The kind of text that a translated pattern runs on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TextVariant {
    Whole,
    WithoutNewline,
    NoLineAtEnd,
}

/// The assertions in a pattern that need another run on texts that end with a newline.
#[derive(Clone, Copy, Default)]
struct SpecialAssertions {
    /// `$` outside of multi-line mode.
    end: bool,
    /// `^` in multi-line mode.
    line_start: bool,
}

struct ParsedPattern<'a> {
    pattern: &'a str,
    options: &'a str,
    parsed: Ast,
}

impl<'a> ParsedPattern<'a> {
    fn new(pattern: &'a str, options: &'a str) -> Result<ParsedPattern<'a>, String> {
        let parsed = ast::parse::ParserBuilder::new()
            .nest_limit(MAX_NESTING)
            .ignore_whitespace(options.contains('x'))
            .build()
            .parse(pattern)
            .map_err(|error| syntax_problem(pattern, error.kind(), error.span()))?;
        Ok(ParsedPattern {
            pattern,
            options,
            parsed,
        })
    }

    fn compile(&self, text: TextVariant) -> Result<(Engine, SpecialAssertions), String> {
        let has = |letter| self.options.contains(letter);
        let mut translation = RegexTranslation {
            text,
            flags: Flags {
                caseless: has('i'),
                multi_line: has('m'),
            },
            seen: SpecialAssertions::default(),
        };
        let mut translated_ast = self.parsed.clone();
        translation.translate(&mut translated_ast)?;
        let translated = TranslatorBuilder::new()
            .case_insensitive(has('i'))
            .multi_line(has('m'))
            .dot_matches_new_line(has('s'))
            .build()
            .translate(self.pattern, &translated_ast)
            .map_err(|error| format!("cannot be compiled: {}", error.kind()))?;
        let regex = Engine::new(&translated)?;
        Ok((regex, translation.seen))
    }
}

#[derive(Clone, Copy)]
struct Flags {
    caseless: bool,
    multi_line: bool,
}

impl Flags {
    fn set(&mut self, flags: &ast::Flags) {
        if let Some(on) = flags.flag_state(ast::Flag::CaseInsensitive) {
            self.caseless = on;
        }
        if let Some(on) = flags.flag_state(ast::Flag::MultiLine) {
            self.multi_line = on;
        }
    }
}

struct RegexTranslation {
    text: TextVariant,
    flags: Flags,
    seen: SpecialAssertions,
}

/// The recursion is as deep as the pattern nests, which the parser bounds.
impl RegexTranslation {
    fn translate(&mut self, part: &mut Ast) -> Result<(), String> {
        let other = match part {
            Ast::Flags(set) => {
                self.flags.set(&set.flags);
                None
            }
            Ast::Group(group) => {
                let outside = self.flags;
                if let ast::GroupKind::NonCapturing(flags) = &group.kind {
                    self.flags.set(flags);
                }
                self.translate(&mut group.ast)?;
                self.flags = outside;
                None
            }
            Ast::Repetition(repetition) => {
                self.translate(&mut repetition.ast)?;
                None
            }
            Ast::Alternation(alternation) => {
                self.translate_all(&mut alternation.asts)?;
                None
            }
            Ast::Concat(concat) => {
                self.translate_all(&mut concat.asts)?;
                None
            }
            Ast::Assertion(assertion) => self.assertion(&assertion.kind),
            Ast::Literal(literal) if is_vertical_space(literal) => {
                Some(class_pattern(&vertical_space()))
            }
            Ast::ClassPerl(class) => Some(class_pattern(&perl_class(class))),
            Ast::ClassUnicode(class) => Some(class_pattern(&unicode_class(class)?)),
            Ast::ClassBracketed(class) => self.bracketed(class)?,
            Ast::Empty(_) | Ast::Dot(_) | Ast::Literal(_) => None,
        };
        if let Some(other) = other {
            *part = parse_generated(&other)?;
        }
        Ok(())
    }

    fn translate_all(&mut self, parts: &mut [Ast]) -> Result<(), String> {
        parts.iter_mut().try_for_each(|part| self.translate(part))
    }

    fn assertion(&mut self, kind: &ast::AssertionKind) -> Option<String> {
        use ast::AssertionKind as Kind;
        let other = match kind {
            Kind::EndLine if !self.flags.multi_line => {
                self.seen.end = true;
                r"\z"
            }
            // The newline follows, so this is not the end of the text.
            Kind::EndText if self.text == TextVariant::WithoutNewline => NEVER_MATCHES,
            Kind::StartLine if self.flags.multi_line => {
                self.seen.line_start = true;
                if self.text != TextVariant::NoLineAtEnd {
                    return None;
                }
                r"\A"
            }
            Kind::WordBoundary => r"(?-u:\b)",
            Kind::NotWordBoundary => r"(?-u:\B)",
            _ => return None,
        };
        Some(other.into())
    }

    /// Translates a class in brackets; `None` if it holds only characters and ranges, on which both
    /// engines agree.
    fn bracketed(&self, class: &ast::ClassBracketed) -> Result<Option<String>, String> {
        let items = match &class.kind {
            ast::ClassSet::Item(ast::ClassSetItem::Union(union)) => union.items.as_slice(),
            ast::ClassSet::Item(item) => std::slice::from_ref(item),
            ast::ClassSet::BinaryOp(_) => {
                return Err(
                    "contains a class operation (&&, --, ~~); write the class without it".into(),
                );
            }
        };
        let plain = |item: &ast::ClassSetItem| match item {
            ast::ClassSetItem::Literal(literal) => !is_vertical_space(literal),
            ast::ClassSetItem::Range(_) | ast::ClassSetItem::Empty(_) => true,
            _ => false,
        };
        if items.iter().all(plain) {
            return Ok(None);
        }
        let mut folded = ClassUnicode::empty();
        let mut named = ClassUnicode::empty();
        for item in items {
            use ast::ClassSetItem as Item;
            match item {
                Item::Empty(_) => {}
                Item::Literal(literal) if is_vertical_space(literal) => {
                    named.union(&vertical_space());
                }
                Item::Literal(literal) => {
                    folded.push(ClassUnicodeRange::new(literal.c, literal.c));
                }
                Item::Range(range) => {
                    folded.push(ClassUnicodeRange::new(range.start.c, range.end.c));
                }
                Item::Perl(class) => named.union(&perl_class(class)),
                Item::Ascii(class) => named.union(&posix_class(class, self.flags.caseless)),
                Item::Unicode(class) => named.union(&unicode_class(class)?),
                Item::Bracketed(_) | Item::Union(_) => {
                    return Err("contains a class within a class; write one class".into());
                }
            }
        }
        if self.flags.caseless {
            folded
                .try_case_fold_simple()
                .map_err(|error| format!("cannot be compiled: {error}"))?;
        }
        named.union(&folded);
        if class.negated {
            named.negate();
        }
        Ok(Some(class_pattern(&named)))
    }
}

fn is_vertical_space(literal: &ast::Literal) -> bool {
    literal.kind == ast::LiteralKind::Special(ast::SpecialLiteralKind::VerticalTab)
}

fn class_of(ranges: &[(char, char)]) -> ClassUnicode {
    ClassUnicode::new(
        ranges
            .iter()
            .map(|&(start, end)| ClassUnicodeRange::new(start, end)),
    )
}

fn vertical_space() -> ClassUnicode {
    class_of(&[('\n', '\r'), ('\u{85}', '\u{85}'), ('\u{2028}', '\u{2029}')])
}

fn perl_class(class: &ast::ClassPerl) -> ClassUnicode {
    let mut found = match class.kind {
        ast::ClassPerlKind::Digit => class_of(&[('0', '9')]),
        ast::ClassPerlKind::Space => class_of(&[('\t', '\r'), (' ', ' ')]),
        ast::ClassPerlKind::Word => class_of(&[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]),
    };
    if class.negated {
        found.negate();
    }
    found
}

/// Returns a class such as `[:alpha:]`. If case is ignored, upper and lower are any letter.
fn posix_class(class: &ast::ClassAscii, caseless: bool) -> ClassUnicode {
    use ast::ClassAsciiKind as Kind;
    let mut found = class_of(match class.kind {
        Kind::Alnum => &[('0', '9'), ('A', 'Z'), ('a', 'z')],
        Kind::Alpha => &[('A', 'Z'), ('a', 'z')],
        Kind::Ascii => &[('\0', '\x7f')],
        Kind::Blank => &[('\t', '\t'), (' ', ' ')],
        Kind::Cntrl => &[('\0', '\x1f'), ('\x7f', '\x7f')],
        Kind::Digit => &[('0', '9')],
        Kind::Graph => &[('!', '~')],
        Kind::Upper | Kind::Lower if caseless => &[('A', 'Z'), ('a', 'z')],
        Kind::Lower => &[('a', 'z')],
        Kind::Print => &[(' ', '~')],
        Kind::Punct => &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')],
        Kind::Space => &[('\t', '\r'), (' ', ' ')],
        Kind::Upper => &[('A', 'Z')],
        Kind::Word => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
        Kind::Xdigit => &[('0', '9'), ('A', 'F'), ('a', 'f')],
    });
    if class.negated {
        found.negate();
    }
    found
}

fn unicode_class(class: &ast::ClassUnicode) -> Result<ClassUnicode, String> {
    let translated = TranslatorBuilder::new()
        .build()
        .translate("", &Ast::class_unicode(class.clone()))
        .map_err(|error| format!("cannot be compiled: {}", error.kind()))?;
    match translated.kind() {
        HirKind::Class(Class::Unicode(class)) => Ok(class.clone()),
        // The translator turns a class of one character into a literal, and an empty one into a failure.
        HirKind::Literal(literal) => std::str::from_utf8(&literal.0)
            .ok()
            .and_then(|text| text.chars().next())
            .map(|one| class_of(&[(one, one)]))
            .ok_or_else(|| "contains a class that cannot be compiled".into()),
        _ => Ok(ClassUnicode::empty()),
    }
}

/// Writes the class as a pattern that ignores the option "i".
fn class_pattern(class: &ClassUnicode) -> String {
    let mut text = String::from("(?-i:[");
    // Empty brackets are not a class.
    if class.ranges().is_empty() {
        return NEVER_MATCHES.into();
    }
    for range in class.iter() {
        let (start, end) = (u32::from(range.start()), u32::from(range.end()));
        text.push_str(&format!(r"\x{{{start:x}}}-\x{{{end:x}}}"));
    }
    text.push_str("])");
    text
}

/// Parses a pattern that this module wrote.
fn parse_generated(pattern: &str) -> Result<Ast, String> {
    ast::parse::Parser::new()
        .parse(pattern)
        .map_err(|error| format!("cannot be compiled: {}", error.kind()))
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
