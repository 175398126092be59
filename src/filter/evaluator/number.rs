//! Exact comparison of numbers across all BSON number types.

use std::cmp::Ordering;
use std::fmt::Write as _;

use crate::raw::{Element, ElementType};

/// The most digits that the coefficient of a Decimal128 has.
const MAX_DIGITS: u32 = 34;
const COEFFICIENT_LIMIT: u128 = 10_u128.pow(MAX_DIGITS);
const EXPONENT_BIAS: i32 = 6176;
/// The largest exponent of a Decimal128 that is encoded with its coefficient.
const MAX_EXPONENT: i32 = 6111;
/// 2^63, which is exactly a double and larger than every i64.
const I64_LIMIT: f64 = 9_223_372_036_854_775_808.0;

/// A BSON number.
#[derive(Clone, Copy, Debug)]
pub(in crate::filter) enum Number {
    Integer(i64),
    Double(f64),
    Decimal(Decimal),
}

/// The one form of all numbers that MongoDB holds equal: the first of these that has exactly their value.
#[derive(Clone, Copy, Debug)]
pub(super) enum CanonicalNumber {
    Integer(i64),
    /// NaN is the one of [`CANONICAL_NAN`].
    Double(f64),
    /// The bytes of a Decimal128 whose coefficient does not end with a zero, unless its exponent is the largest.
    Decimal([u8; 16]),
}

/// The NaN with a positive sign and no payload.
const CANONICAL_NAN: f64 = f64::from_bits(0x7ff8_0000_0000_0000);

/// Returns whether both values are numbers that MongoDB holds equal, whatever their types.
pub(crate) fn equal_numbers(left: &Element<'_>, right: &Element<'_>) -> bool {
    match (Number::of(left), Number::of(right)) {
        (Some(left), Some(right)) => left.compare(right) == Ordering::Equal,
        _ => false,
    }
}

impl Number {
    /// Returns the number in the element, `None` for an element of another type.
    pub(in crate::filter) fn of(element: &Element<'_>) -> Option<Number> {
        Some(match element.kind {
            ElementType::Int32 => Number::Integer(element.as_i32()?.into()),
            ElementType::Int64 => Number::Integer(element.as_i64()?),
            ElementType::Double => Number::Double(element.as_f64()?),
            ElementType::Decimal128 => Number::Decimal(Decimal::read(element.as_decimal128()?)),
            _ => return None,
        })
    }

    pub(in crate::filter) fn is_nan(self) -> bool {
        match self {
            Number::Integer(_) => false,
            Number::Double(double) => double.is_nan(),
            Number::Decimal(decimal) => matches!(decimal, Decimal::Nan),
        }
    }

    /// Returns the form that the number shares with all equal ones.
    pub(super) fn canonical(self) -> CanonicalNumber {
        match self {
            Number::Integer(integer) => CanonicalNumber::Integer(integer),
            Number::Double(double) => canonical_double(double),
            Number::Decimal(Decimal::Finite(finite)) => finite.canonical(),
            Number::Decimal(decimal) => canonical_double(decimal.nearest_double()),
        }
    }

    /// Compares as MongoDB does: by value across types, NaN equal to NaN and below all other numbers.
    pub(super) fn compare(self, other: Number) -> Ordering {
        match (self.is_nan(), other.is_nan()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        match (self, other) {
            (Number::Integer(left), Number::Integer(right)) => left.cmp(&right),
            (Number::Double(left), Number::Double(right)) => {
                left.partial_cmp(&right).unwrap_or(Ordering::Equal)
            }
            (Number::Integer(left), Number::Double(right)) => {
                compare_integer_to_double(left, right)
            }
            (Number::Double(left), Number::Integer(right)) => {
                compare_integer_to_double(right, left).reverse()
            }
            (Number::Decimal(left), Number::Decimal(right)) => left.compare(right),
            (Number::Decimal(left), Number::Integer(right)) => {
                left.compare(Decimal::from_integer(right))
            }
            (Number::Integer(left), Number::Decimal(right)) => {
                Decimal::from_integer(left).compare(right)
            }
            (Number::Decimal(left), Number::Double(right)) => {
                compare_decimal_to_double(left, right)
            }
            (Number::Double(left), Number::Decimal(right)) => {
                compare_decimal_to_double(right, left).reverse()
            }
        }
    }

    /// Returns the nearest double, which is the same for equal numbers of different types.
    pub(in crate::filter) fn nearest_double(self) -> f64 {
        let double = match self {
            Number::Integer(integer) => integer as f64,
            Number::Double(double) => double,
            Number::Decimal(decimal) => decimal.nearest_double(),
        };
        if double.is_nan() {
            f64::NAN
        } else if double == 0.0 {
            0.0
        } else {
            double
        }
    }
}

fn canonical_double(double: f64) -> CanonicalNumber {
    if double.is_nan() {
        CanonicalNumber::Double(CANONICAL_NAN)
    } else if double.fract() == 0.0 && (-I64_LIMIT..I64_LIMIT).contains(&double) {
        CanonicalNumber::Integer(double as i64)
    } else {
        CanonicalNumber::Double(double)
    }
}

fn compare_integer_to_double(integer: i64, double: f64) -> Ordering {
    if double >= I64_LIMIT {
        return Ordering::Less;
    }
    if double < -I64_LIMIT {
        return Ordering::Greater;
    }
    let truncated = double.trunc();
    integer
        .cmp(&(truncated as i64))
        .then_with(|| truncated.partial_cmp(&double).unwrap_or(Ordering::Equal))
}

/// A Decimal128 value.
#[derive(Clone, Copy, Debug)]
pub(in crate::filter) enum Decimal {
    Nan,
    Infinite { negative: bool },
    Finite(Finite),
}

/// `coefficient * 10^exponent`, with a coefficient below 10^34.
#[derive(Clone, Copy, Debug)]
pub(in crate::filter) struct Finite {
    negative: bool,
    coefficient: u128,
    exponent: i32,
}

impl Decimal {
    /// Decodes the 16 bytes of BSON. A coefficient out of range counts as zero, as IEEE 754 requires.
    fn read(bytes: [u8; 16]) -> Decimal {
        let bits = u128::from_le_bytes(bytes);
        let negative = bits >> 127 == 1;
        match (bits >> 122) & 0x1f {
            0x1f => return Decimal::Nan,
            0x1e => return Decimal::Infinite { negative },
            _ => {}
        }
        let (exponent, coefficient) = if (bits >> 125) & 0b11 == 0b11 {
            ((bits >> 111) & 0x3fff, 0)
        } else {
            ((bits >> 113) & 0x3fff, bits & ((1 << 113) - 1))
        };
        Decimal::Finite(Finite {
            negative,
            coefficient: if coefficient < COEFFICIENT_LIMIT {
                coefficient
            } else {
                0
            },
            exponent: exponent as i32 - EXPONENT_BIAS,
        })
    }

    fn from_integer(integer: i64) -> Decimal {
        Decimal::Finite(Finite {
            negative: integer < 0,
            coefficient: integer.unsigned_abs().into(),
            exponent: 0,
        })
    }

    /// Compares two decimals, neither of which is NaN.
    fn compare(self, other: Decimal) -> Ordering {
        self.sign().cmp(&other.sign()).then_with(|| {
            let magnitude = self.magnitude().cmp(&other.magnitude());
            if self.sign() < 0 {
                magnitude.reverse()
            } else {
                magnitude
            }
        })
    }

    fn sign(self) -> i32 {
        match self {
            Decimal::Nan => 0,
            Decimal::Infinite { negative: true } => -1,
            Decimal::Infinite { negative: false } => 1,
            Decimal::Finite(finite) if finite.coefficient == 0 => 0,
            Decimal::Finite(finite) if finite.negative => -1,
            Decimal::Finite(_) => 1,
        }
    }

    /// Returns a key that orders decimals of one sign by their distance from zero.
    fn magnitude(self) -> (i32, u128) {
        match self {
            Decimal::Finite(finite) => finite.magnitude(),
            Decimal::Nan | Decimal::Infinite { .. } => (i32::MAX, 0),
        }
    }

    fn nearest_double(self) -> f64 {
        match self {
            Decimal::Nan => f64::NAN,
            Decimal::Infinite { negative: true } => f64::NEG_INFINITY,
            Decimal::Infinite { negative: false } => f64::INFINITY,
            Decimal::Finite(finite) => finite.nearest_double(),
        }
    }
}

impl Finite {
    /// Returns the smallest power of ten above the value, and the coefficient padded to 34 digits.
    fn magnitude(self) -> (i32, u128) {
        match self.coefficient.checked_ilog10() {
            None => (i32::MIN, 0),
            Some(log) => (
                self.exponent + log as i32 + 1,
                self.coefficient * 10_u128.pow(MAX_DIGITS - 1 - log),
            ),
        }
    }

    fn canonical(self) -> CanonicalNumber {
        let Finite {
            negative,
            mut coefficient,
            mut exponent,
        } = self;
        while coefficient.is_multiple_of(10) && coefficient != 0 && exponent < MAX_EXPONENT {
            coefficient /= 10;
            exponent += 1;
        }
        if let Some(integer) = exact_integer(negative, coefficient, exponent) {
            return CanonicalNumber::Integer(integer);
        }
        if let Some(double) = exact_double(coefficient, exponent) {
            return CanonicalNumber::Double(if negative { -double } else { double });
        }
        let exponent = u128::try_from(exponent + EXPONENT_BIAS).unwrap_or_default();
        let bits = (u128::from(negative) << 127) | (exponent << 113) | coefficient;
        CanonicalNumber::Decimal(bits.to_le_bytes())
    }

    fn nearest_double(self) -> f64 {
        let mut text = StackText::<64>::default();
        let sign = if self.negative { "-" } else { "" };
        let Finite {
            coefficient,
            exponent,
            ..
        } = self;
        // Always fits: a sign, up to 34 digits, "e", and up to 5 characters.
        let _ = write!(text, "{sign}{coefficient}e{exponent}");
        text.as_str().parse().unwrap_or(f64::NAN)
    }
}

/// Returns the integer with the value `coefficient * 10^exponent`, if there is one. The coefficient does not end with a
/// zero, unless it is zero.
fn exact_integer(negative: bool, coefficient: u128, exponent: i32) -> Option<i64> {
    if coefficient == 0 {
        return Some(0);
    }
    let power = 10_u128.checked_pow(u32::try_from(exponent).ok()?)?;
    let magnitude = i128::try_from(coefficient.checked_mul(power)?).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// Returns the double with the value `coefficient * 10^exponent`, if there is one. The coefficient is not zero.
///
/// It is `odd * 2^power` with an odd factor, and a double's significand has 53 bits. Ten brings powers of five into
/// the factor or takes them from it, so the power is far from the limits of a double.
fn exact_double(coefficient: u128, exponent: i32) -> Option<f64> {
    let twos = coefficient.trailing_zeros();
    let odd = coefficient >> twos;
    let fives = 5_u128.checked_pow(exponent.unsigned_abs())?;
    let odd = if exponent >= 0 {
        odd.checked_mul(fives)?
    } else {
        odd.is_multiple_of(fives).then_some(odd / fives)?
    };
    if odd >= 1 << f64::MANTISSA_DIGITS {
        return None;
    }
    let biased = i32::try_from(twos).ok()? + exponent + (f64::MAX_EXP - 1);
    let power = f64::from_bits(u64::try_from(biased).ok()? << (f64::MANTISSA_DIGITS - 1));
    Some(odd as f64 * power)
}

/// Compares a decimal with a double, neither of which is NaN.
fn compare_decimal_to_double(decimal: Decimal, double: f64) -> Ordering {
    let Decimal::Finite(finite) = decimal else {
        return decimal
            .nearest_double()
            .partial_cmp(&double)
            .unwrap_or(Ordering::Equal);
    };
    if double.is_infinite() {
        return 0.0.partial_cmp(&double).unwrap_or(Ordering::Equal);
    }
    // Rounding keeps the order, so only a decimal that rounds to exactly this double needs more work.
    match finite.nearest_double().partial_cmp(&double) {
        Some(Ordering::Equal) | None => {}
        Some(order) => return order,
    }
    if double == 0.0 {
        return decimal.sign().cmp(&0);
    }
    let magnitude = compare_exact_magnitude(finite, double.abs());
    if finite.negative {
        magnitude.reverse()
    } else {
        magnitude
    }
}

/// Compares the distances from zero digit by digit. Neither number is zero.
fn compare_exact_magnitude(finite: Finite, double: f64) -> Ordering {
    // No double has more than 767 significant digits.
    let mut text = StackText::<800>::default();
    let _ = write!(text, "{double:.766e}");
    let (digits, exponent) = text.as_str().split_once('e').unwrap_or_default();
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let digits = digits.bytes().filter(u8::is_ascii_digit);

    let mut own_text = StackText::<64>::default();
    let (power, coefficient) = finite.magnitude();
    let _ = write!(own_text, "{coefficient}");
    let own_digits = own_text.as_str().bytes().chain(std::iter::repeat(b'0'));

    power.cmp(&(exponent + 1)).then_with(|| {
        digits
            .zip(own_digits)
            .map(|(theirs, ours)| ours.cmp(&theirs))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    })
}

/// A text buffer on the stack; writing more than fits is an error.
struct StackText<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Default for StackText<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }
}

impl<const N: usize> StackText<N> {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl<const N: usize> std::fmt::Write for StackText<N> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        self.bytes
            .get_mut(self.length..end)
            .ok_or(std::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
