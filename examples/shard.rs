//! Computes the shard of an _id, as docs/shards.md defines it (version 1).
//!
//!     cargo run --example shard 5 '{"$oid": "64b7f1c2a9d3e45f60718293"}' '"order-17"' 17
//!
//! prints a line for each _id in Extended JSON: its shard among 5, its hash and its canonical form.

use std::{env, error::Error};

use bson::{Bson, Decimal128, Document, JavaScriptCodeWithScope};
use twox_hash::XxHash3_64;

/// An int64 if it has the number's value, else a double if it has, else the shortest decimal.
fn canonical_double(number: f64) -> Bson {
    let limit = 2.0_f64.powi(63);
    if number.is_nan() {
        Bson::Double(f64::from_bits(0x7ff8 << 48))
    } else if number.fract() == 0.0 && (-limit..limit).contains(&number) {
        Bson::Int64(number as i64)
    } else {
        Bson::Double(number)
    }
}

fn canonical_decimal(decimal: Decimal128) -> Bson {
    let text = decimal.to_string();
    let bits = u128::from_le_bytes(decimal.bytes());
    // A coefficient of 10^34 or more is not valid, and counts as zero.
    let mut digits = bits & ((1 << 113) - 1);
    let mut exponent = ((bits >> 113) & 0x3fff) as i32 - 6176;
    if text.ends_with("NaN") || text.ends_with("Infinity") {
        return canonical_double(text.parse().unwrap_or(f64::NAN));
    } else if digits == 0 || digits >= 10_u128.pow(34) || (bits >> 125) & 3 == 3 {
        return Bson::Int64(0);
    }
    while digits.is_multiple_of(10) && exponent < 6111 {
        digits /= 10;
        exponent += 1;
    }
    let sign = if bits >> 127 == 1 { "-" } else { "" };
    let zeros = "0".repeat(exponent.clamp(0, 20) as usize);
    let integer = format!("{sign}{digits}{zeros}").parse();
    if let (0..=20, Ok(integer)) = (exponent, integer) {
        return Bson::Int64(integer);
    }
    if has_double(digits, exponent) {
        let double = format!("{sign}{digits}e{exponent}").parse();
        return Bson::Double(double.unwrap_or(f64::NAN));
    }
    let sign = bits >> 127 << 127;
    let bits = sign | ((exponent + 6176) as u128) << 113 | digits;
    Bson::Decimal128(Decimal128::from_bytes(bits.to_le_bytes()))
}

/// Whether a double has exactly the value digits * 10^exponent: one with 53 significant bits.
fn has_double(digits: u128, exponent: i32) -> bool {
    let Some(fives) = 5_u128.checked_pow(exponent.unsigned_abs()) else {
        return false;
    };
    let odd = match exponent {
        ..0 if digits.is_multiple_of(fives) => Some(digits / fives),
        ..0 => None,
        _ => (digits >> digits.trailing_zeros()).checked_mul(fives),
    };
    odd.is_some_and(|odd| odd >> odd.trailing_zeros() < 1 << 53)
}

/// The value with all numbers in it in the form that equal ones share.
fn canonical(value: Bson) -> Bson {
    let fields = |document: Document| -> Document {
        let fields = document.into_iter();
        fields.map(|(name, it)| (name, canonical(it))).collect()
    };
    match value {
        Bson::Int32(number) => Bson::Int64(number.into()),
        Bson::Double(number) => canonical_double(number),
        Bson::Decimal128(number) => canonical_decimal(number),
        Bson::Symbol(text) => Bson::String(text),
        Bson::Document(document) => Bson::Document(fields(document)),
        Bson::Array(items) => Bson::Array(items.into_iter().map(canonical).collect()),
        Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code, scope }) => {
            let scope = fields(scope);
            Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code, scope })
        }
        other => other,
    }
}

/// The number of the BSON type, and the bytes that BSON has for the value.
fn canonical_bytes(value: Bson) -> Result<Vec<u8>, bson::error::Error> {
    let document = Document::from_iter([(String::new(), canonical(value))]).to_vec()?;
    // Four bytes of length, the type, an empty name with its end, the value, and the document's end.
    Ok([&document[4..5], &document[6..document.len() - 1]].concat())
}

/// The shard, the hash and the canonical form of an _id in Extended JSON.
pub fn describe(text: &str, count: u64) -> Result<String, Box<dyn Error>> {
    // Not through serde_json::Value, which may sort the fields of documents.
    let form = canonical_bytes(serde_json::from_str(text)?)?;
    let hash = XxHash3_64::oneshot(&form);
    let hex: String = form.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{} {hash:016x} {hex}", hash % count))
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let count = arguments.next().ok_or("the number of consumers")?.parse()?;
    for text in arguments {
        println!("{}", describe(&text, count)?);
    }
    Ok(())
}
