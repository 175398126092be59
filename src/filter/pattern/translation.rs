//! Translates a pattern for the engine of this process, so that it means what it means in PCRE2.
//!
//! The characters that a part matches are worked out in [`characters`](super::characters). What is left are `$` and
//! `^`, which treat a newline at the end of the text in their own way: without "m", `$` also matches before it, and with
//! "m", `^` does not match after it. No assertion of this process's engine does the same. So texts that end with a newline
//! are encoded before they are searched ([`encode`]), and the pattern is compiled a second time for texts like these.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::{
    Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange, Hir, Look, Repetition,
};

use super::characters::{self, CharacterSet};
use crate::filter::pcre2;
use crate::filter::regex_check::{MAX_NESTING, class_items, syntax_problem};

/// The byte that stands for the newline at the end of an encoded text.
pub(super) const LAST_NEWLINE: u8 = b'\r';
/// The byte that stands for a carriage return in an encoded text. UTF-8 has no such byte.
const CARRIAGE_RETURN: u8 = 0xff;

/// Encodes a text that ends with a newline.
pub(super) fn encode(text: &str) -> Vec<u8> {
    let mut encoded: Vec<u8> = text
        .bytes()
        .map(|byte| if byte == b'\r' { CARRIAGE_RETURN } else { byte })
        .collect();
    if let Some(last) = encoded.last_mut() {
        *last = LAST_NEWLINE;
    }
    encoded
}

/// What a pattern is translated for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose {
    /// Translates for encoded texts, which end with a newline.
    pub(super) encoded: bool,
    /// Lets characters match of which it is not known.
    pub(super) possible: bool,
}

/// What a pattern contains, as far as its translation depends on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Contents {
    /// `$` outside of multi-line mode.
    pub(super) end: bool,
    /// `^` in multi-line mode.
    pub(super) line_start: bool,
    /// A part that may match a character, or not.
    pub(super) uncertain: bool,
}

#[derive(Debug)]
pub(super) struct ParsedPattern<'a> {
    pattern: &'a str,
    flags: Flags,
    parsed: Ast,
    /// The properties that were translated, so that none is worked out again each time it occurs.
    properties: RefCell<HashMap<(bool, String), Arc<CharacterSet>>>,
}

impl<'a> ParsedPattern<'a> {
    /// Parses a pattern; `options` are letters of "imsx".
    ///
    /// # Errors
    /// A description of the problem.
    pub(super) fn new(pattern: &'a str, options: &str) -> Result<ParsedPattern<'a>, String> {
        let has = |letter| options.contains(letter);
        let parsed = ast::parse::ParserBuilder::new()
            .nest_limit(MAX_NESTING)
            .ignore_whitespace(has('x'))
            .build()
            .parse(pattern)
            .map_err(|error| syntax_problem(pattern, error.kind(), error.span()))?;
        Ok(ParsedPattern {
            pattern,
            flags: Flags {
                caseless: has('i'),
                multi_line: has('m'),
                dot_all: has('s'),
            },
            parsed,
            properties: RefCell::default(),
        })
    }

    /// Translates the pattern.
    ///
    /// # Errors
    /// A description of the problem.
    pub(super) fn translate(&self, purpose: Purpose) -> Result<(Hir, Contents), String> {
        let mut translation = Translation {
            pattern: self,
            purpose,
            flags: self.flags,
            contents: Contents::default(),
        };
        let translated = translation.part(&self.parsed)?;
        Ok((translated, translation.contents))
    }
}

#[derive(Clone, Copy, Debug)]
struct Flags {
    caseless: bool,
    multi_line: bool,
    dot_all: bool,
}

impl Flags {
    fn set(&mut self, flags: &ast::Flags) {
        for (flag, value) in [
            (ast::Flag::CaseInsensitive, &mut self.caseless),
            (ast::Flag::MultiLine, &mut self.multi_line),
            (ast::Flag::DotMatchesNewLine, &mut self.dot_all),
        ] {
            if let Some(on) = flags.flag_state(flag) {
                *value = on;
            }
        }
    }
}

struct Translation<'a> {
    pattern: &'a ParsedPattern<'a>,
    purpose: Purpose,
    flags: Flags,
    contents: Contents,
}

/// The recursion is as deep as the pattern nests, which the parser bounds.
impl Translation<'_> {
    fn part(&mut self, part: &Ast) -> Result<Hir, String> {
        let set = match part {
            Ast::Empty(_) => return Ok(Hir::empty()),
            Ast::Flags(set) => {
                self.flags.set(&set.flags);
                return Ok(Hir::empty());
            }
            Ast::Group(group) => {
                let outside = self.flags;
                if let ast::GroupKind::NonCapturing(flags) = &group.kind {
                    self.flags.set(flags);
                }
                let inner = self.part(&group.ast)?;
                self.flags = outside;
                return Ok(inner);
            }
            Ast::Repetition(repetition) => return self.repetition(repetition),
            Ast::Alternation(alternation) => {
                return Ok(Hir::alternation(self.parts(&alternation.asts)?));
            }
            Ast::Concat(concat) => return Ok(Hir::concat(self.parts(&concat.asts)?)),
            Ast::Assertion(assertion) => return self.assertion(&assertion.kind),
            Ast::Dot(_) => characters::dot(self.flags.dot_all),
            Ast::Literal(literal) => self.literal(literal)?,
            Ast::ClassPerl(class) => characters::perl_class(class),
            Ast::ClassUnicode(class) => CharacterSet::clone(&*self.property(class)?),
            Ast::ClassBracketed(class) => self.bracketed(class)?,
        };
        self.contents.uncertain |= !set.is_certain();
        let class = if self.purpose.possible {
            set.possible
        } else {
            set.certain
        };
        Ok(if self.purpose.encoded {
            encoded_class(class)
        } else {
            Hir::class(Class::Unicode(class))
        })
    }

    fn parts(&mut self, parts: &[Ast]) -> Result<Vec<Hir>, String> {
        parts.iter().map(|part| self.part(part)).collect()
    }

    fn property(&self, class: &ast::ClassUnicode) -> Result<Arc<CharacterSet>, String> {
        let span = &class.span;
        let written = self.pattern.pattern.get(span.start.offset..span.end.offset);
        let (negated, name) = characters::property_name(written.unwrap_or_default());
        let mut known = self.pattern.properties.borrow_mut();
        match known.entry((negated, pcre2::property_key(name))) {
            Entry::Occupied(known) => Ok(Arc::clone(known.get())),
            Entry::Vacant(new) => {
                let set = Arc::new(characters::property(negated, name)?);
                Ok(Arc::clone(new.insert(set)))
            }
        }
    }

    fn repetition(&mut self, repetition: &ast::Repetition) -> Result<Hir, String> {
        use ast::{RepetitionKind as Kind, RepetitionRange as Range};
        let (min, max) = match repetition.op.kind {
            Kind::ZeroOrOne => (0, Some(1)),
            Kind::ZeroOrMore => (0, None),
            Kind::OneOrMore => (1, None),
            Kind::Range(Range::Exactly(times)) => (times, Some(times)),
            Kind::Range(Range::AtLeast(times)) => (times, None),
            Kind::Range(Range::Bounded(min, max)) => (min, Some(max)),
        };
        Ok(Hir::repetition(Repetition {
            min,
            max,
            // Which of several matches is found makes no difference.
            greedy: true,
            sub: Box::new(self.part(&repetition.ast)?),
        }))
    }

    fn assertion(&mut self, kind: &ast::AssertionKind) -> Result<Hir, String> {
        use ast::AssertionKind as Kind;
        let multi_line = self.flags.multi_line;
        let look = match kind {
            Kind::StartLine if multi_line => {
                self.contents.line_start = true;
                // In an encoded text, no newline at the end is one to this assertion.
                Look::StartLF
            }
            Kind::StartLine | Kind::StartText => Look::Start,
            Kind::EndLine if multi_line && self.purpose.encoded => {
                // A newline before the end, or the one at the end.
                Look::EndCRLF
            }
            Kind::EndLine if multi_line => Look::EndLF,
            Kind::EndLine => {
                self.contents.end = true;
                if self.purpose.encoded {
                    // The engine takes LAST_NEWLINE for the newline here.
                    Look::EndLF
                } else {
                    Look::End
                }
            }
            Kind::EndText => Look::End,
            Kind::WordBoundary => Look::WordAscii,
            Kind::NotWordBoundary => Look::WordAsciiNegate,
            _ => return Err("contains a word boundary other than \\b and \\B".into()),
        };
        Ok(Hir::look(look))
    }

    fn literal(&self, literal: &ast::Literal) -> Result<CharacterSet, String> {
        if characters::is_vertical_space(literal) {
            return Ok(characters::vertical_space());
        }
        let mut set = CharacterSet::of(&[(literal.c, literal.c)]);
        if self.flags.caseless {
            set.fold_case()?;
        }
        Ok(set)
    }

    /// Returns the characters of a class in brackets. Under "i", its characters and ranges are folded, and the classes
    /// in it are not.
    fn bracketed(&self, class: &ast::ClassBracketed) -> Result<CharacterSet, String> {
        use ast::ClassSetItem as Item;
        let Some(items) = class_items(class) else {
            return Err(
                "contains a class operation (&&, --, ~~); write the class without it".into(),
            );
        };
        let mut plain = Vec::new();
        let mut properties = Vec::new();
        let mut set = CharacterSet::empty();
        for item in items {
            match item {
                Item::Empty(_) => {}
                Item::Literal(literal) if characters::is_vertical_space(literal) => {
                    set.union(&characters::vertical_space());
                }
                Item::Literal(literal) => plain.push((literal.c, literal.c)),
                Item::Range(range) => plain.push((range.start.c, range.end.c)),
                Item::Perl(class) => set.union(&characters::perl_class(class)),
                Item::Ascii(class) => {
                    set.union(&characters::posix_class(class, self.flags.caseless));
                }
                Item::Unicode(class) => {
                    let property = self.property(class)?;
                    if !properties.iter().any(|known| Arc::ptr_eq(known, &property)) {
                        set.union(&property);
                        properties.push(property);
                    }
                }
                Item::Bracketed(_) | Item::Union(_) => {
                    return Err("contains a class within a class; write one class".into());
                }
            }
        }
        let mut plain = CharacterSet::of(&plain);
        if self.flags.caseless {
            plain.fold_case()?;
        }
        set.union(&plain);
        if class.negated {
            set.negate();
        }
        Ok(set)
    }
}

/// Returns the class as it is in encoded texts.
fn encoded_class(mut class: ClassUnicode) -> Hir {
    let one = |character| ClassUnicode::new([ClassUnicodeRange::new(character, character)]);
    let contains = |character| {
        let mut both = class.clone();
        both.intersect(&one(character));
        !both.ranges().is_empty()
    };
    let (newline, carriage_return) = (contains('\n'), contains('\r'));
    class.difference(&one('\r'));
    if newline {
        class.union(&one(char::from(LAST_NEWLINE)));
    }
    let class = Hir::class(Class::Unicode(class));
    if !carriage_return {
        return class;
    }
    let other = ClassBytesRange::new(CARRIAGE_RETURN, CARRIAGE_RETURN);
    Hir::alternation(vec![
        class,
        Hir::class(Class::Bytes(ClassBytes::new([other]))),
    ])
}
