//! The order of numbers.
//!
//! MongoDB's source: src/mongo/base/compare_numbers.h has a function for each pair of types, and each gives the
//! mathematical order, also where one of the types can't hold the other's number. `compareLongToDouble` casts only what a
//! cast does not change. `compareDecimalToDouble` rounds the decimal down to a double (`Decimal128::toDouble` in
//! src/mongo/platform/decimal128.cpp), and of two that are then equal, the decimal is greater if digits were lost.
//! `compareDoubles` and `compareDecimals` say that NaN equals NaN and is less than all else, and -0 equals 0.
//!
//! So the model needs no case for a pair: a number is its decimal digits, of which each type's have an end.

use std::cmp::Reverse;

use mongodb::bson::{Bson, Decimal128};

/// A number's exact value, in MongoDB's order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exact {
    Nan,
    NegativeInfinity,
    Negative(Reverse<Digits>),
    Zero,
    Positive(Digits),
    Infinity,
}

/// `0.digits * 10^exponent`. The digits neither begin nor end with a zero, so the fields' order is that of the values.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digits {
    exponent: i32,
    digits: String,
}

impl Exact {
    /// Returns the value of a number, `None` if it is none.
    pub fn of(value: &Bson) -> Option<Exact> {
        Some(match value {
            Bson::Int32(integer) => Exact::of_integer((*integer).into()),
            Bson::Int64(integer) => Exact::of_integer(*integer),
            Bson::Double(double) => Exact::of_double(*double),
            Bson::Decimal128(decimal) => Exact::of_decimal(*decimal),
            _ => return None,
        })
    }

    fn of_integer(integer: i64) -> Exact {
        Exact::finite(integer < 0, &integer.unsigned_abs().to_string(), 0)
    }

    fn of_double(double: f64) -> Exact {
        if double.is_nan() {
            return Exact::Nan;
        }
        if double.is_infinite() {
            return Exact::infinite(double < 0.0);
        }
        // The smallest double is 2^-1074, and each of its halvings took one digit more.
        let text = format!("{:.1074}", double.abs());
        Exact::finite(double < 0.0, &text.replace('.', ""), -1074)
    }

    /// The bits are those of IEEE 754-2008 with a binary coefficient. As its section 3.5.2 says, and as the library that
    /// MongoDB uses does, a coefficient of more than 34 digits is zero.
    fn of_decimal(decimal: Decimal128) -> Exact {
        let bits = u128::from_le_bytes(decimal.bytes());
        let is_negative = bits >> 127 == 1;
        match (bits >> 122) & 0b11111 {
            0b11111 => return Exact::Nan,
            0b11110 => return Exact::infinite(is_negative),
            // The coefficient begins with 0b100 before its other bits, which makes it too large.
            0b11000..=0b11101 => return Exact::Zero,
            _ => {}
        }
        let exponent = i32::try_from((bits >> 113) & 0x3fff).expect("14 bits") - 6176;
        let coefficient = (bits & ((1 << 113) - 1)).to_string();
        if coefficient.len() > 34 {
            return Exact::Zero;
        }
        Exact::finite(is_negative, &coefficient, exponent)
    }

    fn infinite(is_negative: bool) -> Exact {
        if is_negative {
            Exact::NegativeInfinity
        } else {
            Exact::Infinity
        }
    }

    /// The value of `digits * 10^exponent`.
    fn finite(is_negative: bool, digits: &str, exponent: i32) -> Exact {
        let digits = digits.trim_start_matches('0');
        let length = i32::try_from(digits.len()).expect("some thousand digits at most");
        let digits = Digits {
            exponent: exponent + length,
            digits: digits.trim_end_matches('0').to_owned(),
        };
        if digits.digits.is_empty() {
            Exact::Zero
        } else if is_negative {
            Exact::Negative(Reverse(digits))
        } else {
            Exact::Positive(digits)
        }
    }
}
