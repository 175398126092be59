//! Tests one value against one condition.

use std::cmp::Ordering;

use bson::Bson;

use super::number::Number;
use super::value::{Literal, TypeClass, compare, text};
use crate::filter::Condition;
use crate::filter::pattern::{Pattern, WorkBudget, prefix_pattern};
use crate::raw::{Element, ElementType};

/// A test of one value. A condition holds if any value at its path passes its test.
#[derive(Clone, Debug)]
pub(super) enum ValueTest {
    Equal(Literal),
    Order(Order, Literal),
    /// Sorted in MongoDB's order, for binary search.
    OneOf(Box<[Literal]>),
    Exists,
    Prefix {
        text: Box<[u8]>,
        pattern: Box<[u8]>,
    },
    Regex {
        compiled: Pattern,
        pattern: Box<[u8]>,
        options: Box<[u8]>,
    },
    /// Passes nothing: the pattern could not be compiled. Validation refuses such patterns.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
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
            Condition::In(values) => (one_of(values), false),
            Condition::NotIn(values) => (one_of(values), true),
            Condition::Exists(exists) => (ValueTest::Exists, !exists),
            Condition::Prefix(prefix) => (
                ValueTest::Prefix {
                    text: prefix.as_bytes().into(),
                    pattern: prefix_pattern(prefix).into_bytes().into(),
                },
                false,
            ),
            Condition::Regex { pattern, options } => (regex(pattern, options), false),
            Condition::Changed(_) => return None,
        })
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
            ValueTest::OneOf(literals) => literals
                .binary_search_by(|literal| compare(&literal.as_element(), value))
                .is_ok(),
            ValueTest::Exists => true,
            ValueTest::Prefix { text, pattern } => match value.kind {
                ElementType::String | ElementType::Symbol => starts_with(value, text),
                ElementType::RegularExpression => value.as_regex() == Some((pattern, b"")),
                _ => false,
            },
            ValueTest::Regex {
                compiled,
                pattern,
                options,
            } => match value.kind {
                ElementType::String | ElementType::Symbol => {
                    compiled.is_match(text(value), budget).unwrap_or(false)
                }
                ElementType::RegularExpression => value.as_regex() == Some((pattern, options)),
                _ => false,
            },
            ValueTest::Nothing => false,
        }
    }

    fn passes_missing(&self) -> bool {
        match self {
            ValueTest::Equal(literal) => literal.class() == TypeClass::Null,
            ValueTest::OneOf(literals) => literals
                .iter()
                .any(|literal| literal.class() == TypeClass::Null),
            ValueTest::Order(order, literal) => match literal.class() {
                TypeClass::Null => order.includes_equal(),
                TypeClass::MinKey => order.is_greater(),
                TypeClass::MaxKey => !order.is_greater(),
                _ => false,
            },
            ValueTest::Exists
            | ValueTest::Prefix { .. }
            | ValueTest::Regex { .. }
            | ValueTest::Nothing => false,
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

fn one_of(values: &[Bson]) -> ValueTest {
    let mut literals: Vec<Literal> = values.iter().map(Literal::new).collect();
    literals.sort_by(|left, right| compare(&left.as_element(), &right.as_element()));
    ValueTest::OneOf(literals.into())
}

fn regex(pattern: &str, options: &str) -> ValueTest {
    match Pattern::new(pattern, options) {
        Ok(compiled) => ValueTest::Regex {
            compiled,
            pattern: pattern.as_bytes().into(),
            options: options.as_bytes().into(),
        },
        Err(_) => ValueTest::Nothing,
    }
}

/// Returns whether the text starts with the prefix. MongoDB's regex engine matches valid UTF-8 only, so
/// other text never does.
fn starts_with(value: &Element<'_>, prefix: &[u8]) -> bool {
    let text = text(value);
    text.starts_with(prefix) && std::str::from_utf8(text).is_ok()
}
