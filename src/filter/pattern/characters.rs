//! The characters that a part of a pattern matches in PCRE2.
//!
//! In UTF mode without UCP, `\d`, `\w`, `\s` and the classes such as `[:alpha:]` are ASCII only, `\v` is any vertical
//! space, and properties and the option "i" go by Unicode (`pcre2pattern(3)`).

use std::sync::{Arc, OnceLock};

use regex_syntax::ast;
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind};

use crate::filter::pcre2;

/// The characters that are a pair with another of these, but for case, since Unicode 15.1. PCRE2 10.42 has no such pairs.
const PAIRED_LATER: &[(char, char)] = &[
    ('\u{390}', '\u{390}'),
    ('\u{3b0}', '\u{3b0}'),
    ('\u{1fd3}', '\u{1fd3}'),
    ('\u{1fe3}', '\u{1fe3}'),
    ('\u{fb05}', '\u{fb06}'),
];

/// The characters that match, as far as that is known.
///
/// Characters that Unicode has assigned since version 14 have properties that a later PCRE2 knows: whether they match is
/// decided by the version of MongoDB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CharacterSet {
    /// Leaves out the characters of which it is not known.
    pub(super) certain: ClassUnicode,
    /// Contains them.
    pub(super) possible: ClassUnicode,
}

impl CharacterSet {
    pub(super) fn empty() -> CharacterSet {
        CharacterSet::of(&[])
    }

    /// Returns the set of these ranges, whatever the version.
    pub(super) fn of(ranges: &[(char, char)]) -> CharacterSet {
        let class = class_of(ranges);
        CharacterSet {
            certain: class.clone(),
            possible: class,
        }
    }

    pub(super) fn is_certain(&self) -> bool {
        self.certain == self.possible
    }

    pub(super) fn union(&mut self, other: &CharacterSet) {
        self.certain.union(&other.certain);
        self.possible.union(&other.possible);
    }

    pub(super) fn negate(&mut self) {
        std::mem::swap(&mut self.certain, &mut self.possible);
        self.certain.negate();
        self.possible.negate();
    }

    /// Adds the characters that differ from those in the set by case only.
    ///
    /// # Errors
    /// A description of the problem.
    pub(super) fn fold_case(&mut self) -> Result<(), String> {
        let cased = cased()?;
        let folded = |class: &ClassUnicode| {
            // The folding goes through all characters of a range, and few have another case.
            let mut folded = class.clone();
            folded.intersect(&cased);
            folded
                .try_case_fold_simple()
                .map_err(|error| format!("cannot be compiled: {error}"))?;
            folded.difference(&class_of(PAIRED_LATER));
            folded.union(class);
            Ok::<_, String>(folded)
        };
        self.possible = folded(&self.possible)?;
        if self.certain.is_ascii() {
            self.certain = folded(&self.certain)?;
            return Ok(());
        }
        let unassigned = unassigned()?;
        let mut assigned = self.certain.clone();
        assigned.difference(&unassigned);
        let mut others = folded(&assigned)?;
        others.difference(&unassigned);
        self.certain.union(&others);
        Ok(())
    }
}

/// Returns the characters that have another case in any version of Unicode.
fn cased() -> Result<Arc<ClassUnicode>, String> {
    static CASED: OnceLock<Arc<ClassUnicode>> = OnceLock::new();
    if let Some(known) = CASED.get() {
        return Ok(Arc::clone(known));
    }
    let parsed = regex_syntax::parse(r"\p{Changes_When_Casemapped}");
    let Ok(HirKind::Class(Class::Unicode(class))) = parsed.map(Hir::into_kind) else {
        return Err("cannot be compiled: the cases of characters are not known".into());
    };
    Ok(Arc::clone(CASED.get_or_init(|| Arc::new(class))))
}

/// Returns the characters that Unicode 14 has not assigned, and a later version may have.
fn unassigned() -> Result<Arc<ClassUnicode>, String> {
    static UNASSIGNED: OnceLock<Arc<ClassUnicode>> = OnceLock::new();
    if let Some(known) = UNASSIGNED.get() {
        return Ok(Arc::clone(known));
    }
    let mut class = ClassUnicode::clone(&*pcre2::characters_with("Cn")?);
    class.difference(&*pcre2::characters_with("Noncharacter_Code_Point")?);
    Ok(Arc::clone(UNASSIGNED.get_or_init(|| Arc::new(class))))
}

fn class_of(ranges: &[(char, char)]) -> ClassUnicode {
    ClassUnicode::new(
        ranges
            .iter()
            .map(|&(start, end)| ClassUnicodeRange::new(start, end)),
    )
}

/// Returns whether the literal is `\v`, which is a class in PCRE2.
pub(super) fn is_vertical_space(literal: &ast::Literal) -> bool {
    literal.kind == ast::LiteralKind::Special(ast::SpecialLiteralKind::VerticalTab)
}

pub(super) fn vertical_space() -> CharacterSet {
    CharacterSet::of(&[('\n', '\r'), ('\u{85}', '\u{85}'), ('\u{2028}', '\u{2029}')])
}

/// Returns the characters of `.`.
pub(super) fn dot(with_newline: bool) -> CharacterSet {
    let mut found = CharacterSet::of(if with_newline { &[] } else { &[('\n', '\n')] });
    found.negate();
    found
}

/// Returns a class such as `\d`.
pub(super) fn perl_class(class: &ast::ClassPerl) -> CharacterSet {
    use ast::ClassPerlKind as Kind;
    let mut found = CharacterSet::of(match class.kind {
        Kind::Digit => &[('0', '9')],
        Kind::Space => &[('\t', '\r'), (' ', ' ')],
        Kind::Word => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
    });
    if class.negated {
        found.negate();
    }
    found
}

/// Returns a class such as `[:alpha:]`. If case is ignored, upper and lower are any letter.
pub(super) fn posix_class(class: &ast::ClassAscii, caseless: bool) -> CharacterSet {
    use ast::ClassAsciiKind as Kind;
    let mut found = CharacterSet::of(match class.kind {
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

/// Returns the characters with a property, or without it if `negated`.
///
/// # Errors
/// PCRE2 knows no such property.
pub(super) fn property(negated: bool, name: &str) -> Result<CharacterSet, String> {
    let certain = ClassUnicode::clone(&*pcre2::characters_with(name)?);
    let mut found = CharacterSet {
        possible: certain.clone(),
        certain,
    };
    // No later version changes these two.
    if !matches!(pcre2::property_key(name).as_str(), "any" | "ascii") {
        let unassigned = unassigned()?;
        found.certain.difference(&unassigned);
        found.possible.union(&unassigned);
    }
    if negated {
        found.negate();
    }
    Ok(found)
}

/// Returns whether text such as `\pL` or `\P{Greek}` negates, and the name of its property.
pub(in crate::filter) fn property_name(written: &str) -> (bool, &str) {
    let negated = written.starts_with(r"\P");
    let name = &written[written.len().min(2)..];
    let name = name
        .strip_prefix('{')
        .and_then(|name| name.strip_suffix('}'))
        .unwrap_or(name);
    match name.trim_start().strip_prefix('^') {
        Some(positive) => (!negated, positive),
        None => (negated, name),
    }
}
