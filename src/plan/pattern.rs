//! A checked regular expression, run in process with the meaning that MongoDB's engine gives it.
//!
//! The grammar is common to both (see [`regex_filter`](super::regex_filter)); what differs in
//! meaning is put into other words before the pattern is compiled: the classes `\d`, `\w`, `\s` and
//! `\b` know ASCII only, `\v` is any vertical space, "i" leaves classes by name alone, and the ends
//! of a text know its last newline.

mod engine;

use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::translate::TranslatorBuilder;
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, HirKind};

use super::regex_filter::{MAX_NESTING, syntax_problem};
pub(super) use engine::Effort;
use engine::Engine;

/// A class of no character.
const NOTHING: &str = r"[^\x{0}-\x{10ffff}]";

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    whole: Engine,
    /// For texts that end with a newline, run without it: `$` is also true before it.
    without_newline: Option<Engine>,
    /// For texts that end with a newline: at the end of such a text no line begins.
    no_line_at_end: Option<Engine>,
}

impl Pattern {
    /// Compiles a pattern that passed the checks, with options of "imsx".
    pub(super) fn new(pattern: &str, options: &str) -> Result<Pattern, String> {
        let reading = Reading::new(pattern, options)?;
        let (whole, seen) = reading.compile(Text::Whole)?;
        let other = |needed: bool, text| -> Result<Option<Engine>, String> {
            Ok(if needed {
                Some(reading.compile(text)?.0)
            } else {
                None
            })
        };
        Ok(Pattern {
            whole,
            without_newline: other(seen.end, Text::WithoutNewline)?,
            no_line_at_end: other(seen.line_start, Text::NoLineAtEnd)?,
        })
    }

    /// The memory that it takes, in bytes.
    pub(super) fn compiled_bytes(&self) -> usize {
        [&self.without_newline, &self.no_line_at_end]
            .into_iter()
            .flatten()
            .chain([&self.whole])
            .map(Engine::compiled_bytes)
            .sum()
    }

    /// Whether the text holds a match; `None` where telling would take more work than is left of
    /// `effort`. Text that is not UTF-8 holds none.
    pub(super) fn is_match(&self, text: &[u8], effort: &Effort) -> Option<bool> {
        let Ok(text) = std::str::from_utf8(text) else {
            return Some(false);
        };
        let Some(without_newline) = text.strip_suffix('\n') else {
            return self.whole.is_match(text, effort);
        };
        if let Some(regex) = &self.without_newline
            && regex.is_match(without_newline, effort)?
        {
            return Some(true);
        }
        let Some(strict) = &self.no_line_at_end else {
            return self.whole.is_match(text, effort);
        };
        match self.whole.first_end(text, effort)? {
            None => Some(false),
            Some(end) if end < text.len() => Some(true),
            // Empty, and where no line begins, unless it started before.
            Some(_) if strict.is_match(text, effort)? => Some(true),
            Some(_) => {
                let start = self.whole.first_start(text, effort)?;
                Some(start.is_some_and(|start| start < text.len()))
            }
        }
    }
}

/// For which text a pattern is put into other words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Text {
    Whole,
    WithoutNewline,
    NoLineAtEnd,
}

/// What a pattern holds that needs more than one run.
#[derive(Clone, Copy, Default)]
struct Seen {
    end: bool,
    line_start: bool,
}

struct Reading<'a> {
    pattern: &'a str,
    options: &'a str,
    parsed: Ast,
}

impl<'a> Reading<'a> {
    fn new(pattern: &'a str, options: &'a str) -> Result<Reading<'a>, String> {
        let parsed = ast::parse::ParserBuilder::new()
            .nest_limit(MAX_NESTING)
            .ignore_whitespace(options.contains('x'))
            .build()
            .parse(pattern)
            .map_err(|error| syntax_problem(pattern, error.kind(), error.span()))?;
        Ok(Reading {
            pattern,
            options,
            parsed,
        })
    }

    fn compile(&self, text: Text) -> Result<(Engine, Seen), String> {
        let has = |letter| self.options.contains(letter);
        let mut rewording = Rewording {
            text,
            flags: Flags {
                caseless: has('i'),
                multi_line: has('m'),
            },
            seen: Seen::default(),
        };
        let mut reworded = self.parsed.clone();
        rewording.reword(&mut reworded)?;
        let translated = TranslatorBuilder::new()
            .case_insensitive(has('i'))
            .multi_line(has('m'))
            .dot_matches_new_line(has('s'))
            .build()
            .translate(self.pattern, &reworded)
            .map_err(|error| format!("cannot be compiled: {}", error.kind()))?;
        let regex = Engine::new(&translated)?;
        Ok((regex, rewording.seen))
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

struct Rewording {
    text: Text,
    flags: Flags,
    seen: Seen,
}

/// As deep as the pattern nests, which the parser bounds.
impl Rewording {
    fn reword(&mut self, part: &mut Ast) -> Result<(), String> {
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
                self.reword(&mut group.ast)?;
                self.flags = outside;
                None
            }
            Ast::Repetition(repetition) => {
                self.reword(&mut repetition.ast)?;
                None
            }
            Ast::Alternation(alternation) => {
                self.reword_all(&mut alternation.asts)?;
                None
            }
            Ast::Concat(concat) => {
                self.reword_all(&mut concat.asts)?;
                None
            }
            Ast::Assertion(assertion) => self.assertion(&assertion.kind),
            Ast::Literal(literal) if is_vertical_space(literal) => Some(ranges(&vertical_space())),
            Ast::ClassPerl(class) => Some(ranges(&perl(class))),
            Ast::ClassUnicode(class) => Some(ranges(&by_property(class)?)),
            Ast::ClassBracketed(class) => self.bracketed(class)?,
            Ast::Empty(_) | Ast::Dot(_) | Ast::Literal(_) => None,
        };
        if let Some(other) = other {
            *part = written(&other)?;
        }
        Ok(())
    }

    fn reword_all(&mut self, parts: &mut [Ast]) -> Result<(), String> {
        parts.iter_mut().try_for_each(|part| self.reword(part))
    }

    fn assertion(&mut self, kind: &ast::AssertionKind) -> Option<String> {
        use ast::AssertionKind as Kind;
        let other = match kind {
            Kind::EndLine if !self.flags.multi_line => {
                self.seen.end = true;
                r"\z"
            }
            // The text goes on with the newline.
            Kind::EndText if self.text == Text::WithoutNewline => NOTHING,
            Kind::StartLine if self.flags.multi_line => {
                self.seen.line_start = true;
                if self.text != Text::NoLineAtEnd {
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

    /// A class in brackets. With nothing but characters and ranges in it both engines agree.
    fn bracketed(&self, class: &ast::ClassBracketed) -> Result<Option<String>, String> {
        let items = match &class.kind {
            ast::ClassSet::Item(ast::ClassSetItem::Union(union)) => union.items.as_slice(),
            ast::ClassSet::Item(item) => std::slice::from_ref(item),
            ast::ClassSet::BinaryOp(_) => return Err("holds an operation on classes".into()),
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
                Item::Perl(class) => named.union(&perl(class)),
                Item::Ascii(class) => named.union(&posix(class, self.flags.caseless)),
                Item::Unicode(class) => named.union(&by_property(class)?),
                Item::Bracketed(_) | Item::Union(_) => {
                    return Err("holds a class within a class".into());
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
        Ok(Some(ranges(&named)))
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

fn perl(class: &ast::ClassPerl) -> ClassUnicode {
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

/// A class such as `[:alpha:]`. Without case, upper and lower are any letter.
fn posix(class: &ast::ClassAscii, caseless: bool) -> ClassUnicode {
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

fn by_property(class: &ast::ClassUnicode) -> Result<ClassUnicode, String> {
    let translated = TranslatorBuilder::new()
        .build()
        .translate("", &Ast::class_unicode(class.clone()))
        .map_err(|error| format!("cannot be compiled: {}", error.kind()))?;
    match translated.kind() {
        HirKind::Class(Class::Unicode(class)) => Ok(class.clone()),
        // A class of one character is told as that character, and of none as nothing.
        HirKind::Literal(literal) => std::str::from_utf8(&literal.0)
            .ok()
            .and_then(|text| text.chars().next())
            .map(|one| class_of(&[(one, one)]))
            .ok_or_else(|| "holds a class that cannot be compiled".into()),
        _ => Ok(ClassUnicode::empty()),
    }
}

/// The class as a pattern that "i" leaves alone.
fn ranges(class: &ClassUnicode) -> String {
    let mut text = String::from("(?-i:[");
    // An empty pair of brackets would not be a class.
    if class.ranges().is_empty() {
        return NOTHING.into();
    }
    for range in class.iter() {
        let (start, end) = (u32::from(range.start()), u32::from(range.end()));
        text.push_str(&format!(r"\x{{{start:x}}}-\x{{{end:x}}}"));
    }
    text.push_str("])");
    text
}

/// A pattern of our own.
fn written(pattern: &str) -> Result<Ast, String> {
    ast::parse::Parser::new()
        .parse(pattern)
        .map_err(|error| format!("cannot be compiled: {}", error.kind()))
}

#[cfg(test)]
mod tests;
