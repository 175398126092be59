//! What holds for any document and for any bytes.

use bson::Bson;
use proptest::{collection::vec, prelude::*};

use super::{FORMATS, compare, json_text, raw_document, strategy, to_raw, write};
use crate::{
    pb::document::Value,
    wire::format::{Format, raw::Elements},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    /// T26.
    #[test]
    fn bson_goes_through_byte_for_byte(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(write(&bytes, Format::Bson), Value::Bson(bytes.into()));
    }

    /// T26.
    #[test]
    fn relaxed_json_says_what_bson_says(document in strategy::document()) {
        let text = json_text(&to_raw(&document), Format::Json);
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON parses");
        // Parsed as well, because serde_json is a little off for some doubles.
        let expected = compare::relaxed(&document).to_string();
        let expected: serde_json::Value = serde_json::from_str(&expected).expect("JSON parses");
        prop_assert_eq!(parsed, expected);
    }

    /// T26.
    #[test]
    fn canonical_json_says_what_bson_says_and_reads_back_as_the_same_document(
        document in strategy::document()
    ) {
        let text = json_text(&to_raw(&document), Format::CanonicalJson);
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON parses");
        let expected = Bson::Document(document).into_canonical_extjson();
        prop_assert_eq!(compare::canonical(parsed.clone()), compare::canonical(expected.clone()));
        // Compared in this form because NaN does not equal itself.
        let back = Bson::try_from(parsed).expect("Extended JSON reads back");
        prop_assert_eq!(
            compare::canonical(back.into_canonical_extjson()),
            compare::canonical(expected)
        );
    }

    /// T26.
    #[test]
    fn a_struct_holds_relaxed_json(document in strategy::document()) {
        let Value::Struct(message) = write(&to_raw(&document), Format::Struct) else {
            panic!("shallow documents fit a Struct");
        };
        let expected = compare::as_struct_holds_it(compare::relaxed(&document));
        prop_assert_eq!(compare::struct_to_json(message), expected);
    }

    #[test]
    fn any_bytes_are_written_in_any_format(bytes in vec(any::<u8>(), 0..200)) {
        written_without_loss(&bytes)?;
        written_without_loss(&raw_document(&bytes))?;
    }

    #[test]
    fn a_damaged_document_is_written_in_any_format(
        document in strategy::document(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = to_raw(&document);
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        written_without_loss(&bytes)?;
    }

    #[test]
    fn a_document_cut_short_is_written_as_bson(
        document in strategy::document(),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = to_raw(&document);
        let cut = &bytes[..cut.index(bytes.len())];
        for format in FORMATS {
            prop_assert_eq!(write(cut, format), Value::Bson(cut.to_vec().into()));
        }
    }

    #[test]
    fn a_decimal_of_any_bits_is_written(bits in any::<[u8; 16]>()) {
        written_without_loss(&super::raw_field(0x13, b"v", &bits))?;
    }

    #[test]
    fn reading_yields_what_bson_reads(document in strategy::document()) {
        let bytes = to_raw(&document);
        let elements = Elements::new(&bytes).expect("a document");
        let keys: Result<Vec<_>, _> = elements.map(|e| e.map(|e| e.key)).collect();
        let expected: Vec<_> = document.keys().map(String::as_bytes).collect();
        prop_assert_eq!(keys.expect("well formed"), expected);
    }
}

/// Writes bytes in all formats: BSON is those bytes, and JSON parses.
fn written_without_loss(bytes: &[u8]) -> Result<(), TestCaseError> {
    for format in FORMATS {
        match write(bytes, format) {
            Value::Bson(bson) => prop_assert_eq!(&bson[..], bytes),
            Value::Json(text) => {
                let parsed: Result<serde_json::Value, _> = serde_json::from_str(&text);
                prop_assert!(parsed.is_ok(), "{text} does not parse");
            }
            Value::Struct(_) => prop_assert_eq!(format, Format::Struct),
            Value::Null(_) => prop_assert!(false, "a document is never null"),
        }
    }
    Ok(())
}
