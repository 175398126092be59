//! Property tests with any documents and any bytes.

use bson::Bson;
use proptest::{collection::vec, prelude::*};

use super::{FORMATS, compare, json_text, raw_document, strategy, to_raw, write};
use crate::{pb::document::Value, raw::Elements, wire::format::Format};

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_bson_format_keeps_every_byte(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(write(&bytes, Format::Bson), Value::Bson(bytes.into()));
    }

    #[test]
    fn relaxed_json_equals_that_of_the_bson_crate(document in strategy::document()) {
        let text = json_text(&to_raw(&document), Format::Json);
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON parses");
        // Parsed too, because serde_json parses some doubles inexactly.
        let expected = compare::relaxed(&document).to_string();
        let expected: serde_json::Value = serde_json::from_str(&expected).expect("JSON parses");
        prop_assert_eq!(parsed, expected);
    }

    #[test]
    fn canonical_json_equals_that_of_the_bson_crate_and_parses_as_the_same_document(
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

    #[test]
    fn a_struct_equals_relaxed_json(document in strategy::document()) {
        let Value::Struct(message) = write(&to_raw(&document), Format::Struct) else {
            panic!("shallow documents fit a Struct");
        };
        let expected = compare::with_struct_numbers(compare::relaxed(&document));
        prop_assert_eq!(compare::struct_to_json(message), expected);
    }

    #[test]
    fn any_bytes_are_encoded_without_loss(bytes in vec(any::<u8>(), 0..200)) {
        encoded_without_loss(&bytes)?;
        encoded_without_loss(&raw_document(&bytes))?;
    }

    #[test]
    fn a_damaged_document_is_encoded_without_loss(
        document in strategy::document(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = to_raw(&document);
        for (offset, byte) in damage {
            let offset = offset.index(bytes.len());
            bytes[offset] = byte;
        }
        encoded_without_loss(&bytes)?;
    }

    #[test]
    fn a_truncated_document_is_encoded_as_bson(
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
    fn a_decimal_of_any_bits_is_encoded_without_loss(bits in any::<[u8; 16]>()) {
        encoded_without_loss(&super::raw_field(0x13, b"v", &bits))?;
    }

    #[test]
    fn the_raw_reader_finds_the_same_fields_as_the_bson_crate(document in strategy::document()) {
        let bytes = to_raw(&document);
        let elements = Elements::new(&bytes).expect("a document");
        let keys: Result<Vec<_>, _> = elements.map(|e| e.map(|e| e.key)).collect();
        let expected: Vec<_> = document.keys().map(String::as_bytes).collect();
        prop_assert_eq!(keys.expect("well formed"), expected);
    }
}

/// Encodes bytes in all formats: the BSON format must keep them, and JSON must parse.
fn encoded_without_loss(bytes: &[u8]) -> Result<(), TestCaseError> {
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
