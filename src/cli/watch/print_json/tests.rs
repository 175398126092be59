use super::*;
use crate::cli::watch::fixtures;

fn printed(message: &Message) -> String {
    let mut out = String::new();
    print(message, b"batch", true, &mut out);
    for line in out.lines() {
        serde_json::from_str::<serde_json::Value>(line)
            .unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    out
}

fn printed_change(event: pb::ChangeEvent) -> String {
    printed(&Message::Changes(vec![event]))
}

/// The end of the line of every fixture event, with the token of the event and not of the message.
const END: &str = r#""clusterTime":{"$timestamp":{"t":1738324800,"i":3}},"wallTime":{"$date":"2025-01-31T12:00:00.250Z"},"resumeToken":"ZXZlbnQ"}"#;

#[test]
fn an_insert_is_one_line_with_the_document_as_the_server_wrote_it() {
    assert_eq!(
        printed_change(fixtures::insert()),
        format!(
            "{}{END}\n",
            r#"{"type":"change","operation":"insert","ns":{"db":"shop","coll":"orders"},"documentKey":{"_id": 1},"fullDocument":{"_id": 1, "status": "paid"},"#
        )
    );
}

#[test]
fn an_update_shows_the_changed_fields() {
    assert_eq!(
        printed_change(fixtures::update()),
        format!(
            "{}{}{END}\n",
            r#"{"type":"change","operation":"update","ns":{"db":"shop","coll":"orders"},"documentKey":{"_id": 1},"updateDescription":{"updatedFields":{"total": 5},"removedFields":["note","a\"b"],"truncatedArrays":[{"field":"items","newSize":2}],"disambiguatedPaths":{"a.0":["a",0]}},"#,
            r#""fullDocument":null,"fullDocumentBeforeChange":{"_id": 1, "total": 4},"#
        )
    );
}

#[test]
fn a_replace_and_an_omitted_insert_show_their_details() {
    assert_eq!(
        printed_change(fixtures::replace()),
        format!(
            "{}{END}\n",
            r#"{"type":"change","operation":"replace","ns":{"db":"shop","coll":"orders"},"documentKey":{"_id": 1},"fullDocument":{"_id": 1, "a": 2},"fullDocumentBeforeChange":{"_id": 1, "a": 1},"#
        )
    );
    assert_eq!(
        printed_change(fixtures::omitted()),
        format!(
            "{}{END}\n",
            r#"{"type":"change","operation":"insert","ns":{"db":"shop","coll":"orders"},"documentKey":{"_id": 1},"omitted":{"eventBytes":4000000,"maxMessageBytes":3145728},"#
        )
    );
}

#[test]
fn rare_fields_are_extended_json() {
    assert_eq!(
        printed_change(fixtures::in_transaction()),
        concat!(
            r#"{"type":"change","operation":"delete","ns":{"db":"shop","coll":"orders"},"documentKey":{"_id": 1},"fullDocumentBeforeChange":{"_id": 1},"#,
            r#""clusterTime":{"$timestamp":{"t":1738324800,"i":3}},"wallTime":{"$date":"2025-01-31T12:00:00.250Z"},"#,
            r#""lsid":{"id":{"$uuid":"30313233-3435-3637-3839-616263646566"}},"txnNumber":12,"lastOfTransaction":true,"commitTimestamp":{"$timestamp":{"t":1738324799,"i":4}},"#,
            r#""collectionUUID":{"$uuid":"66656463-6261-3938-3736-353433323130"},"match":"entered","unknownFields":{"lsid": {"id": 1, "uid": 2}, "new": 1},"resumeToken":"ZXZlbnQ"}"#,
            "\n"
        )
    );
}

#[test]
fn the_end_of_a_transaction_shows_which_one_it_is() {
    assert_eq!(
        printed_change(fixtures::end_of_transaction()),
        concat!(
            r#"{"type":"change","operation":"endOfTransaction","operationDescription":{"d": 1},"#,
            r#""clusterTime":{"$timestamp":{"t":1738324800,"i":3}},"wallTime":{"$date":"2025-01-31T12:00:00.250Z"},"#,
            r#""lsid":{"id":{"$uuid":"30313233-3435-3637-3839-616263646566"}},"txnNumber":12,"lastOfTransaction":true,"resumeToken":"ZXZlbnQ"}"#,
            "\n"
        )
    );
}

#[test]
fn collection_events_show_their_details() {
    let orders = r#""ns":{"db":"shop","coll":"orders"},"#;
    let described = r#""operationDescription":{"d": 1},"#;
    let expected = [
        ("drop", orders.to_owned()),
        (
            "rename",
            format!(r#"{orders}"to":{{"db":"shop","coll":"old"}},{described}"#),
        ),
        ("dropDatabase", r#""ns":{"db":"shop"},"#.to_owned()),
        (
            "create",
            format!(r#"{orders}"nsType":"collection",{described}"#),
        ),
        ("createIndexes", format!("{orders}{described}")),
        ("dropIndexes", format!("{orders}{described}")),
        (
            "modify",
            format!(r#"{orders}{described}"stateBeforeChange":{{"s": 1}},"#),
        ),
        ("shardCollection", format!("{orders}{described}")),
        ("refineCollectionShardKey", format!("{orders}{described}")),
        ("reshardCollection", format!("{orders}{described}")),
        (
            "startIndexBuild",
            format!(r#"{orders}"event":{{"whole": 1}},"#),
        ),
    ];
    let events = fixtures::collection_events();
    assert_eq!(events.len(), expected.len());
    for (event, (operation, fields)) in events.into_iter().zip(expected) {
        assert_eq!(
            printed_change(event),
            format!("{{\"type\":\"change\",\"operation\":\"{operation}\",{fields}{END}\n")
        );
    }
}

#[test]
fn other_messages_have_their_own_lines() {
    for (message, expected) in [
        (
            fixtures::opened(),
            r#"{"type":"opened","watchId":"w1","startMode":"token","startTime":{"$timestamp":{"t":1738324800,"i":1}},"progressIntervalSeconds":1.5,"maxMessageBytes":3145728,"feedMode":"dedicated","resumeToken":"YmF0Y2g"}"#,
        ),
        (
            fixtures::progress(),
            r#"{"type":"progress","clusterTime":{"$timestamp":{"t":1738324800,"i":7}},"upstreamTime":{"$timestamp":{"t":1738324802,"i":1}},"resumeToken":"YmF0Y2g"}"#,
        ),
        (
            fixtures::reconnecting(),
            r#"{"type":"state","state":"upstreamReconnecting","reason":"MongoDB is \u001b[31maway","resumeToken":"YmF0Y2g"}"#,
        ),
        (
            fixtures::invalidated(),
            r#"{"type":"invalidated","cause":"drop","ns":{"db":"shop","coll":"orders"},"clusterTime":{"$timestamp":{"t":1738324800,"i":9}},"wallTime":{"$date":"2025-01-31T12:00:00.500Z"},"resumeToken":"YmF0Y2g"}"#,
        ),
    ] {
        assert_eq!(printed(&message), format!("{expected}\n"));
    }
    assert_eq!(printed(&Message::NoContent), "");
}

#[test]
fn progress_is_printed_only_on_request() {
    let mut out = String::new();
    print(&fixtures::progress(), b"batch", false, &mut out);
    assert_eq!(out, "");
}

#[test]
fn a_batch_is_a_line_for_each_change() {
    let message = Message::Changes(vec![fixtures::insert(), fixtures::update()]);
    assert_eq!(printed(&message).lines().count(), 2);
}

/// An unset document has no field; a null document is null.
#[test]
fn an_absent_document_and_null_differ() {
    let with = |full_document| {
        fixtures::event(
            pb::OperationType::Update,
            Change::Update(pb::Update {
                full_document,
                ..pb::Update::default()
            }),
        )
    };
    assert!(!printed_change(with(None)).contains("fullDocument"));
    assert!(printed_change(with(fixtures::null())).contains(r#""fullDocument":null"#));
}

/// The server sends BSON for documents that JSON can't represent.
#[test]
fn documents_in_other_forms_are_still_json_on_one_line() {
    let with = |value| {
        fixtures::event(
            pb::OperationType::Insert,
            Change::Insert(pb::Insert {
                full_document: Some(pb::Document { value: Some(value) }),
            }),
        )
    };
    let bson = with(pb::document::Value::Bson(vec![5, 0, 0, 0, 0].into()));
    let expected = r#""fullDocument":{"$binary":{"base64":"BQAAAAA=","subType":"00"}}"#;
    assert!(printed_change(bson).contains(expected));

    let spread = with(pb::document::Value::Json("{\n \"a\":\r\n 1\n}".to_owned()));
    assert_eq!(printed_change(spread).lines().count(), 1);
}
