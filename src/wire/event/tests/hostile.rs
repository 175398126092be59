//! Bytes that are not what MongoDB would send. T16 and T26: an error or an event, never a panic.

use bson::{Binary, Bson, Uuid, spec::BinarySubtype};
use proptest::{collection::vec, prelude::*};

use super::*;

/// Events that between them hold every field there is.
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
        "collectionUUID": Uuid::from_bytes([9; 16]),
        "nsType": "collection",
        "splitEvent": { "fragment": 1, "of": 1 },
        "addedLater": 1.5,
    };
    let event = |operation: Operation| event(operation.name(), every_field.clone());
    Operation::ALL.map(event).to_vec()
}

/// Encodes bytes in all formats, whole and with fields hidden. What comes out decodes, and is as long as
/// it says.
fn survives(bytes: &[u8]) -> Result<(), TestCaseError> {
    let narrow = field_mask::narrow(&["a.b", "items.price", "_id"]);
    let all_options = FORMATS.into_iter().flat_map(|format| {
        let view = &narrow;
        [whole(format), RenderOptions { format, view }]
    });
    for options in all_options {
        let Ok((buffer, parsed)) = parsed(&[bytes.to_vec()]) else {
            continue;
        };
        if let Ok(encoded) = encode(&buffer, &parsed, &token_context(), options, |chunk| chunk) {
            let decoded = pb::ChangeBatch::decode(encoded[0].field());
            prop_assert!(decoded.is_ok(), "{decoded:?}");
            let event = pb::ChangeEvent::decode(encoded[0].message());
            prop_assert_eq!(&decoded.unwrap().changes, &[event.unwrap()]);
        }
        let sizes = (bytes.len() as u64, 1);
        if let Ok(stub) = encode_omitted(
            &buffer,
            &parsed[0],
            &token_context(),
            options,
            FilterMatch::Left,
            sizes,
            true,
        ) {
            let decoded = pb::ChangeBatch::decode(stub);
            prop_assert!(decoded.is_ok(), "{decoded:?}");
        }
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
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        survives(&bytes)?;
    }

    #[test]
    fn an_event_cut_short_with_its_length_made_right_is_an_error_or_an_event(
        event in prop::sample::select(events()),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = raw_document(&event);
        let mut cut = bytes[..5 + cut.index(bytes.len() - 5)].to_vec();
        let length = u32::try_from(cut.len()).unwrap();
        cut[..4].copy_from_slice(&length.to_le_bytes());
        *cut.last_mut().unwrap() = 0;
        survives(&cut)?;
    }

    #[test]
    fn any_bytes_are_an_error_or_an_event(bytes in vec(any::<u8>(), 0..200)) {
        survives(&bytes)?;
    }
}

/// Every name and text of an event, one byte at a time, made something that UTF-8 never holds.
#[test]
fn broken_utf8_anywhere_never_stops_an_event() {
    let shapes = ["update", "rename", "createIndexes", "other"];
    for event in events() {
        if !shapes.contains(&event.get_str("operationType").unwrap()) {
            continue;
        }
        let whole = raw_document(&event);
        for place in 4..whole.len() - 1 {
            let mut bytes = whole.clone();
            if bytes[place].is_ascii_alphabetic() {
                bytes[place] = 0xff;
                survives(&bytes).unwrap();
            }
        }
    }
}

/// T26: protobuf takes UTF-8 only, so names say what can be said and stay readable to clients.
#[test]
fn broken_utf8_in_names_becomes_the_replacement_character() {
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

/// An event that is not one is refused, and says so without telling what it holds.
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

/// T16: without a name that can be read there is still the whole event.
#[test]
fn an_event_whose_operation_cannot_be_read_comes_as_a_whole() {
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
