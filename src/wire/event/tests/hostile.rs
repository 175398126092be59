//! Tests of bytes that MongoDB would not send: the result is an error or an event, never a panic.

use bson::{Binary, Bson, Uuid, spec::BinarySubtype};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    model::FieldMask,
    wire::redact::tests::{hiding, including},
};

/// Returns an event of each operation with every documented field.
fn events() -> Vec<Document> {
    let every_field = doc! {
        "documentKey": { "_id": 1 },
        "fullDocument": { "_id": 1, "text": "tëxt", "list": [1, { "a": Bson::Null }] },
        "fullDocumentBeforeChange": Bson::Null,
        "updateDescription": {
            "updatedFields": { "a.b": 1 },
            "removedFields": ["c"],
            "truncatedArrays": [{ "field": "d", "newSize": 2 }],
            "disambiguatedPaths": { "a.0": ["a", 0] },
        },
        "to": { "db": "shop", "coll": "old" },
        "operationDescription": { "indexes": [{ "v": 2, "name": "a_1" }] },
        "stateBeforeChange": { "collectionOptions": {} },
        "lsid": {
            "id": Uuid::from_bytes([7; 16]),
            "uid": Binary { subtype: BinarySubtype::BinaryOld, bytes: vec![1] },
        },
        "txnNumber": 1_i64,
        "commitTimestamp": Timestamp { time: 1, increment: 2 },
        "collectionUUID": Uuid::from_bytes([9; 16]),
        "nsType": "collection",
        "splitEvent": { "fragment": 1, "of": 1 },
        "addedLater": 1.5,
    };
    let event = |operation: Operation| event(operation.name(), every_field.clone());
    Operation::ALL.map(event).to_vec()
}

/// Encodes bytes in all formats, with and without masks. The output must decode and have the
/// announced length.
fn encodes_without_panic(bytes: &[u8]) -> Result<(), TestCaseError> {
    let hiding = hiding(&["a.b", "items.price", "_id"]);
    let including = including(&["a.b", "items.price"]);
    let both = including.with_hidden_fields_of(&hiding);
    let renderings = FORMATS.into_iter().flat_map(|format| {
        let masks = [&FieldMask::default(), &hiding, &including, &both];
        masks.map(|mask| field_mask::masked(format, mask))
    });
    for rendering in renderings {
        let Ok((buffer, parsed)) = parsed(&[bytes.to_vec()]) else {
            continue;
        };
        let encoded = encode(&buffer, &parsed, &token_context(), &rendering, |chunk| {
            chunk
        });
        let decoded = pb::ChangeBatch::decode(encoded[0].field());
        prop_assert!(decoded.is_ok(), "{decoded:?}");
        let event = pb::ChangeEvent::decode(encoded[0].message());
        prop_assert_eq!(&decoded.unwrap().changes, &[event.unwrap()]);
        let sizes = (bytes.len() as u64, 1);
        let stub = encode_omitted(
            &buffer,
            &parsed[0],
            &token_context(),
            &rendering,
            FilterMatch::Left,
            sizes,
            true,
        );
        let decoded = pb::ChangeBatch::decode(stub);
        prop_assert!(decoded.is_ok(), "{decoded:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_damaged_event_is_an_error_or_an_event(
        event in prop::sample::select(events()),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = raw_document(&event);
        for (offset, byte) in damage {
            let offset = offset.index(bytes.len());
            bytes[offset] = byte;
        }
        encodes_without_panic(&bytes)?;
    }

    #[test]
    fn a_truncated_event_with_a_correct_length_is_an_error_or_an_event(
        event in prop::sample::select(events()),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = raw_document(&event);
        let mut cut = bytes[..5 + cut.index(bytes.len() - 5)].to_vec();
        let length = u32::try_from(cut.len()).unwrap();
        cut[..4].copy_from_slice(&length.to_le_bytes());
        *cut.last_mut().unwrap() = 0;
        encodes_without_panic(&cut)?;
    }

    #[test]
    fn any_bytes_are_an_error_or_an_event(bytes in vec(any::<u8>(), 0..200)) {
        encodes_without_panic(&bytes)?;
    }
}

/// Replaces each letter of an event with a byte that is invalid in UTF-8.
#[test]
fn invalid_utf8_never_prevents_the_encoding_of_an_event() {
    let shapes = ["update", "rename", "createIndexes", "other"];
    for event in events() {
        if !shapes.contains(&event.get_str("operationType").unwrap()) {
            continue;
        }
        let whole = raw_document(&event);
        for offset in 4..whole.len() - 1 {
            let mut bytes = whole.clone();
            if bytes[offset].is_ascii_alphabetic() {
                bytes[offset] = 0xff;
                encodes_without_panic(&bytes).unwrap();
            }
        }
    }
}

/// Protobuf strings must be UTF-8.
#[test]
fn invalid_utf8_in_names_becomes_the_replacement_character() {
    let raw = event(
        "update",
        doc! { "updateDescription": { "removedFields": ["brXken"] } },
    );
    let mut raw = raw_document(&raw);
    let replace = |raw: &mut Vec<u8>, from: &[u8], to: &[u8]| {
        let at = raw.windows(from.len()).position(|it| it == from).unwrap();
        raw[at..at + to.len()].copy_from_slice(to);
    };
    replace(&mut raw, b"brXken", b"br\xffken");
    replace(&mut raw, b"orders", b"o\xff\xffers");
    let encoded = encoded(&[raw], Format::Struct).expect("the event is well-formed");
    let change = batch(encoded[0].field()).remove(0);
    assert_eq!(change.namespace, namespace("shop", "o\u{fffd}\u{fffd}ers"));
    let Some(Change::Update(update)) = change.change else {
        panic!("an update came as {:?}", change.change);
    };
    let description = update.update_description.unwrap();
    assert_eq!(description.removed_fields, ["br\u{fffd}ken"]);
}

#[test]
fn an_event_that_is_not_bson_is_an_error() {
    let whole = raw_document(&event("insert", doc! {}));
    let mut wrong_length = whole.clone();
    wrong_length[0] += 1;
    for bytes in [&whole[..whole.len() - 1], &wrong_length, &[]] {
        assert!(matches!(
            encoded(&[bytes.to_vec()], Format::Bson),
            Err(EventError::Malformed(_))
        ));
    }
    for raw in [
        doc! { "operationType": "insert" },
        doc! { "_id": "82AA", "operationType": "insert" },
    ] {
        let error = encoded(&[raw_document(&raw)], Format::Bson).unwrap_err();
        assert_eq!(error, EventError::NoToken, "{raw}");
    }
}

/// The operation's name is then empty.
#[test]
fn an_event_with_an_unreadable_operation_is_sent_as_a_whole_document() {
    for raw in [
        doc! { "_id": mongo_token("82AA") },
        doc! { "_id": mongo_token("82AA"), "operationType": 5 },
    ] {
        let raw = raw_document(&raw);
        let encoded = encoded(std::slice::from_ref(&raw), Format::Bson).expect("it has a token");
        let change = batch(encoded[0].field()).remove(0).change;
        let Some(Change::Other(other)) = change else {
            panic!("it came as {change:?}");
        };
        assert_eq!(other.operation_type, "");
        let event = other.event.and_then(|it| it.value);
        assert_eq!(event, Some(pb::document::Value::Bson(raw.into())));
    }
}
