//! Tests one value against one condition.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use super::literal::{ALLOCATION, Literal, LiteralList};
use super::number::Number;
use super::value::{TypeClass, compare, text};
use crate::filter::Condition;
use crate::filter::pattern::{Pattern, WorkBudget, prefix_pattern};
use crate::raw::{Element, ElementType};

/// A test of one value. A condition holds if any value at its path passes its test.
#[derive(Debug)]
pub(in crate::filter) enum ValueTest {
    Equal(Literal),
    Order(Order, Literal),
    OneOf(LiteralList),
    Exists,
    Prefix {
        text: Box<str>,
        pattern: Box<str>,
    },
    Regex {
        /// `None` passes no text: the pattern could not be compiled. Validation refuses such patterns.
        compiled: Option<Pattern>,
        pattern: Box<str>,
        options: Box<str>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::filter) enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl ValueTest {
    /// Returns the test of a condition on values, and whether the condition is that no value passes it;
    /// `None` for `changed`, which is not about values.
    pub(super) fn new(condition: &Condition) -> Option<(ValueTest, bool)> {
        let order = |order, value| (ValueTest::Order(order, Literal::new(value)), false);
        Some(match condition {
            Condition::Eq(value) => (ValueTest::Equal(Literal::new(value)), false),
            Condition::Ne(value) => (ValueTest::Equal(Literal::new(value)), true),
            Condition::Gt(value) => order(Order::Greater, value),
            Condition::Gte(value) => order(Order::GreaterOrEqual, value),
            Condition::Lt(value) => order(Order::Less, value),
            Condition::Lte(value) => order(Order::LessOrEqual, value),
            Condition::In(values) => (ValueTest::OneOf(LiteralList::new(values)), false),
            Condition::NotIn(values) => (ValueTest::OneOf(LiteralList::new(values)), true),
            Condition::Exists(exists) => (ValueTest::Exists, !exists),
            Condition::Prefix(prefix) => (
                ValueTest::Prefix {
                    text: prefix.as_str().into(),
                    pattern: prefix_pattern(prefix).into(),
                },
                false,
            ),
            Condition::Regex { pattern, options } => (regex(pattern, options), false),
            Condition::Changed(_) => return None,
        })
    }

    /// Returns the number of steps that a byte of text may take; 0 if it is no pattern.
    pub(super) fn pattern_states(&self) -> usize {
        match self {
            ValueTest::Regex { compiled, .. } => compiled.as_ref().map_or(0, Pattern::states),
            _ => 0,
        }
    }

    /// Returns whether a value passes; `None` is a missing field. A value that would take more work than
    /// is left of `budget` does not pass, and is noted there as undecided.
    pub(super) fn passes(&self, value: Option<&Element<'_>>, budget: &WorkBudget) -> bool {
        let Some(value) = value else {
            return self.passes_missing();
        };
        match self {
            ValueTest::Equal(literal) => {
                // A fast path: strings of different lengths are not equal.
                let lengths_differ = value.kind == ElementType::String
                    && literal.kind() == ElementType::String
                    && value.value.len() != literal.as_element().value.len();
                !lengths_differ && compare(value, &literal.as_element()).is_eq()
            }
            ValueTest::Order(order, literal) => order.holds(value, literal),
            ValueTest::OneOf(literals) => literals.contains(value),
            ValueTest::Exists => true,
            ValueTest::Prefix { text, pattern } => match value.kind {
                ElementType::String | ElementType::Symbol => starts_with(value, text.as_bytes()),
                ElementType::RegularExpression => {
                    value.as_regex() == Some((pattern.as_bytes(), b""))
                }
                _ => false,
            },
            ValueTest::Regex {
                compiled,
                pattern,
                options,
            } => match value.kind {
                ElementType::String | ElementType::Symbol => compiled
                    .as_ref()
                    .and_then(|compiled| compiled.is_match(text(value), budget))
                    .unwrap_or(false),
                ElementType::RegularExpression => {
                    value.as_regex() == Some((pattern.as_bytes(), options.as_bytes()))
                }
                _ => false,
            },
        }
    }

    fn passes_missing(&self) -> bool {
        match self {
            ValueTest::Equal(literal) => literal.class() == TypeClass::Null,
            ValueTest::OneOf(literals) => literals.has_null(),
            ValueTest::Order(order, literal) => match literal.class() {
                TypeClass::Null => order.includes_equal(),
                TypeClass::MinKey => order.is_greater(),
                TypeClass::MaxKey => !order.is_greater(),
                _ => false,
            },
            ValueTest::Exists | ValueTest::Prefix { .. } | ValueTest::Regex { .. } => false,
        }
    }

    /// Decodes the condition that the test was made from.
    pub(super) fn condition(&self, negated: bool) -> Condition {
        match self {
            ValueTest::Equal(literal) if negated => Condition::Ne(literal.to_bson()),
            ValueTest::Equal(literal) => Condition::Eq(literal.to_bson()),
            ValueTest::Order(Order::Greater, literal) => Condition::Gt(literal.to_bson()),
            ValueTest::Order(Order::GreaterOrEqual, literal) => Condition::Gte(literal.to_bson()),
            ValueTest::Order(Order::Less, literal) => Condition::Lt(literal.to_bson()),
            ValueTest::Order(Order::LessOrEqual, literal) => Condition::Lte(literal.to_bson()),
            ValueTest::OneOf(literals) if negated => Condition::NotIn(literals.to_bson()),
            ValueTest::OneOf(literals) => Condition::In(literals.to_bson()),
            ValueTest::Exists => Condition::Exists(!negated),
            ValueTest::Prefix { text, .. } => Condition::Prefix(text.to_string()),
            ValueTest::Regex {
                pattern, options, ..
            } => Condition::Regex {
                pattern: pattern.to_string(),
                options: options.to_string(),
            },
        }
    }

    /// Returns the memory that it takes beside itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            ValueTest::Equal(literal) | ValueTest::Order(_, literal) => literal.heap_bytes(),
            ValueTest::OneOf(literals) => literals.heap_bytes(),
            ValueTest::Exists => 0,
            ValueTest::Prefix { text, pattern } => text.len() + pattern.len() + 2 * ALLOCATION,
            ValueTest::Regex {
                compiled,
                pattern,
                options,
            } => {
                let compiled = compiled.as_ref().map_or(0, Pattern::compiled_bytes);
                compiled + pattern.len() + options.len() + 2 * ALLOCATION
            }
        }
    }
}

impl PartialEq for ValueTest {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (ValueTest::Equal(left), ValueTest::Equal(right)) => left == right,
            (ValueTest::Order(left, literal), ValueTest::Order(right, other)) => {
                left == right && literal == other
            }
            (ValueTest::OneOf(left), ValueTest::OneOf(right)) => left == right,
            (ValueTest::Exists, ValueTest::Exists) => true,
            (ValueTest::Prefix { text: left, .. }, ValueTest::Prefix { text: right, .. }) => {
                left == right
            }
            (
                ValueTest::Regex {
                    pattern, options, ..
                },
                ValueTest::Regex {
                    pattern: other_pattern,
                    options: other_options,
                    ..
                },
            ) => pattern == other_pattern && options == other_options,
            _ => false,
        }
    }
}

impl Hash for ValueTest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(self).hash(state);
        match self {
            ValueTest::Equal(literal) => literal.hash(state),
            ValueTest::Order(order, literal) => (order, literal).hash(state),
            ValueTest::OneOf(literals) => literals.hash(state),
            ValueTest::Exists => {}
            ValueTest::Prefix { text, .. } => text.hash(state),
            ValueTest::Regex {
                pattern, options, ..
            } => (pattern, options).hash(state),
        }
    }
}

impl Order {
    fn is_greater(self) -> bool {
        matches!(self, Order::Greater | Order::GreaterOrEqual)
    }

    fn includes_equal(self) -> bool {
        matches!(self, Order::GreaterOrEqual | Order::LessOrEqual)
    }

    fn holds(self, value: &Element<'_>, literal: &Literal) -> bool {
        let class = literal.class();
        if TypeClass::of(value.kind) != class {
            // Only MinKey and MaxKey compare with values of other types.
            return match class {
                TypeClass::MinKey => self.is_greater(),
                TypeClass::MaxKey => !self.is_greater(),
                _ => false,
            };
        }
        let literal = literal.as_element();
        if class == TypeClass::Number {
            let is_nan = |element| Number::of(element).is_some_and(Number::is_nan);
            let (left, right) = (is_nan(value), is_nan(&literal));
            if left || right {
                return left && right && self.includes_equal();
            }
        }
        match compare(value, &literal) {
            Ordering::Equal => self.includes_equal(),
            Ordering::Greater => self.is_greater(),
            Ordering::Less => !self.is_greater(),
        }
    }
}

fn regex(pattern: &str, options: &str) -> ValueTest {
    ValueTest::Regex {
        compiled: Pattern::new(pattern, options).ok(),
        pattern: pattern.into(),
        options: options.into(),
    }
}

/// Returns whether the text starts with the prefix. MongoDB's regex engine matches valid UTF-8 only, so
/// other text never does.
fn starts_with(value: &Element<'_>, prefix: &[u8]) -> bool {
    let text = text(value);
    text.starts_with(prefix) && std::str::from_utf8(text).is_ok()
}
