//! The test of one condition on one value.

use std::cmp::Ordering;

use bson::Bson;

use super::number::Number;
use super::value::{Class, Literal, compare, text};
use crate::plan::Condition;
use crate::plan::match_stage::prefix_pattern;
use crate::plan::pattern::{Effort, Pattern};
use crate::raw::{Element, ElementType};

/// What a value must be like. A condition holds when any value at its path passes.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Equal(Literal),
    Order(Order, Literal),
    /// In MongoDB's order, for a binary search.
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
    /// A pattern that can't be compiled; validation lets none pass.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Test {
    /// The test behind a condition on values, and whether the condition is that no value passes
    /// it. `None` for a condition on something else.
    pub(super) fn new(condition: &Condition) -> Option<(Test, bool)> {
        let order = |order, value| (Test::Order(order, Literal::new(value)), false);
        Some(match condition {
            Condition::Eq(value) => (Test::Equal(Literal::new(value)), false),
            Condition::Ne(value) => (Test::Equal(Literal::new(value)), true),
            Condition::Gt(value) => order(Order::Greater, value),
            Condition::Gte(value) => order(Order::GreaterOrEqual, value),
            Condition::Lt(value) => order(Order::Less, value),
            Condition::Lte(value) => order(Order::LessOrEqual, value),
            Condition::In(values) => (one_of(values), false),
            Condition::NotIn(values) => (one_of(values), true),
            Condition::Exists(exists) => (Test::Exists, !exists),
            Condition::Prefix(prefix) => (
                Test::Prefix {
                    text: prefix.as_bytes().into(),
                    pattern: prefix_pattern(prefix).into_bytes().into(),
                },
                false,
            ),
            Condition::Regex { pattern, options } => (regex(pattern, options), false),
            Condition::Changed(_) => return None,
        })
    }

    /// Whether a value passes; `None` is a missing field. What takes more than is left of `effort`
    /// does not, and `effort` knows.
    pub(super) fn passes(&self, value: Option<&Element<'_>>, effort: &Effort) -> bool {
        let Some(value) = value else {
            return self.passes_missing();
        };
        match self {
            Test::Equal(literal) => {
                // Strings of another length are not worth a comparison.
                let lengths_differ = value.kind == ElementType::String
                    && literal.kind() == ElementType::String
                    && value.value.len() != literal.as_element().value.len();
                !lengths_differ && compare(value, &literal.as_element()).is_eq()
            }
            Test::Order(order, literal) => order.holds(value, literal),
            Test::OneOf(literals) => literals
                .binary_search_by(|literal| compare(&literal.as_element(), value))
                .is_ok(),
            Test::Exists => true,
            Test::Prefix { text, pattern } => match value.kind {
                ElementType::String | ElementType::Symbol => starts_with(value, text),
                ElementType::RegularExpression => value.as_regex() == Some((pattern, b"")),
                _ => false,
            },
            Test::Regex {
                compiled,
                pattern,
                options,
            } => match value.kind {
                ElementType::String | ElementType::Symbol => {
                    compiled.is_match(text(value), effort).unwrap_or(false)
                }
                ElementType::RegularExpression => value.as_regex() == Some((pattern, options)),
                _ => false,
            },
            Test::Nothing => false,
        }
    }

    fn passes_missing(&self) -> bool {
        match self {
            Test::Equal(literal) => literal.class() == Class::Null,
            Test::OneOf(literals) => literals
                .iter()
                .any(|literal| literal.class() == Class::Null),
            Test::Order(order, literal) => match literal.class() {
                Class::Null => order.includes_equal(),
                Class::MinKey => order.is_greater(),
                Class::MaxKey => !order.is_greater(),
                _ => false,
            },
            Test::Exists | Test::Prefix { .. } | Test::Regex { .. } | Test::Nothing => false,
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
        if Class::of(value.kind) != class {
            // The ends of the order compare with every type, nothing else with another.
            return match class {
                Class::MinKey => self.is_greater(),
                Class::MaxKey => !self.is_greater(),
                _ => false,
            };
        }
        let literal = literal.as_element();
        if class == Class::Number {
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

fn one_of(values: &[Bson]) -> Test {
    let mut literals: Vec<Literal> = values.iter().map(Literal::new).collect();
    literals.sort_by(|left, right| compare(&left.as_element(), &right.as_element()));
    Test::OneOf(literals.into())
}

fn regex(pattern: &str, options: &str) -> Test {
    match Pattern::new(pattern, options) {
        Ok(compiled) => Test::Regex {
            compiled,
            pattern: pattern.as_bytes().into(),
            options: options.as_bytes().into(),
        },
        Err(_) => Test::Nothing,
    }
}

/// MongoDB's engine looks at no text that is not UTF-8.
fn starts_with(value: &Element<'_>, prefix: &[u8]) -> bool {
    let text = text(value);
    text.starts_with(prefix) && std::str::from_utf8(text).is_ok()
}
