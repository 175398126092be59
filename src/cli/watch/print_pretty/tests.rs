use super::*;
use crate::cli::watch::fixtures;

fn printed_by(printer: &mut PrettyPrinter, message: &Message) -> String {
    let mut out = String::new();
    printer.print(message, true, &mut out);
    out
}

fn printed(message: &Message) -> String {
    printed_by(&mut PrettyPrinter::new(false, None), message)
}

/// Returns the line of a change, without the line of its day.
fn line(event: pb::ChangeEvent) -> String {
    let text = printed(&Message::Changes(vec![event]));
    let (day, line) = text.split_once('\n').unwrap();
    assert_eq!(day, "-- 2025-01-31 (times are in UTC)");
    line.strip_suffix('\n').unwrap().to_owned()
}

#[test]
fn document_changes_show_the_key_and_the_change() {
    for (event, expected) in [
        (
            fixtures::insert(),
            r#"12:00:00.250 insert   shop.orders {"_id": 1} {"_id": 1, "status": "paid"}"#,
        ),
        (
            fixtures::update(),
            r#"12:00:00.250 update   shop.orders {"_id": 1} set {"total": 5} removed note, a"b truncated items to 2 now null was {"_id": 1, "total": 4}"#,
        ),
        (
            fixtures::replace(),
            r#"12:00:00.250 replace  shop.orders {"_id": 1} {"_id": 1, "a": 2} was {"_id": 1, "a": 1}"#,
        ),
        (
            fixtures::in_transaction(),
            r#"12:00:00.250 delete   shop.orders {"_id": 1} was {"_id": 1} entered the filter transaction 12, its last change unknown fields {"new":1}"#,
        ),
        (
            fixtures::end_of_transaction(),
            "12:00:00.250 endOfTransaction transaction 12",
        ),
        (
            fixtures::omitted(),
            r#"12:00:00.250 insert   shop.orders {"_id": 1} omitted: 4000000 bytes, the limit is 3145728"#,
        ),
    ] {
        assert_eq!(line(event), expected);
    }
}

#[test]
fn collection_changes_show_their_details() {
    let expected = [
        r"drop     shop.orders",
        r#"rename   shop.orders to shop.old {"d": 1}"#,
        r"dropDatabase shop",
        r#"create   shop.orders collection {"d": 1}"#,
        r#"createIndexes shop.orders {"d": 1}"#,
        r#"dropIndexes shop.orders {"d": 1}"#,
        r#"modify   shop.orders {"d": 1} was {"s": 1}"#,
        r#"shardCollection shop.orders {"d": 1}"#,
        r#"refineCollectionShardKey shop.orders {"d": 1}"#,
        r#"reshardCollection shop.orders {"d": 1}"#,
        r#"startIndexBuild shop.orders {"whole": 1}"#,
    ];
    let events = fixtures::collection_events();
    assert_eq!(events.len(), expected.len());
    for (event, expected) in events.into_iter().zip(expected) {
        assert_eq!(line(event), format!("12:00:00.250 {expected}"));
    }
}

#[test]
fn other_messages_start_with_two_dashes() {
    for (message, expected) in [
        (
            fixtures::opened(),
            "-- resuming from the resume token, 2025-01-31T12:00:00Z (watch w1)\n",
        ),
        (
            fixtures::progress(),
            "-- no further changes up to 2025-01-31T12:00:00Z, 2 s behind MongoDB\n",
        ),
        (
            fixtures::reconnecting(),
            "-- upstreamReconnecting: MongoDB is \\u{1b}[31maway\n",
        ),
        (
            fixtures::invalidated(),
            "-- invalidated by drop of shop.orders\n",
        ),
        (Message::NoContent, ""),
    ] {
        assert_eq!(printed(&message), expected);
    }
    let mut out = String::new();
    PrettyPrinter::new(false, None).print(&fixtures::progress(), false, &mut out);
    assert_eq!(out, "", "progress is printed only on request");
}

#[test]
fn each_new_day_has_a_line() {
    let mut printer = PrettyPrinter::new(false, None);
    let mut next_day = fixtures::insert();
    next_day.wall_time.as_mut().unwrap().seconds += 24 * 3600;
    let message = Message::Changes(vec![fixtures::insert(), fixtures::insert(), next_day]);
    let text = printed_by(&mut printer, &message);
    let starts: Vec<_> = text
        .lines()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        starts,
        [
            "-- 2025-01-31",
            "12:00:00.250 insert",
            "12:00:00.250 insert",
            "-- 2025-02-01",
            "12:00:00.250 insert"
        ]
    );
}

#[test]
fn without_a_wall_time_the_second_of_the_cluster_time_is_shown() {
    let mut event = fixtures::insert();
    event.wall_time = None;
    assert!(line(event).starts_with("12:00:00 insert   shop.orders"));
}

#[test]
fn colors_surround_only_the_parts() {
    let mut printer = PrettyPrinter::new(true, None);
    let mut event = fixtures::event_without_key(pb::OperationType::Drop, Change::Drop(pb::Drop {}));
    event.wall_time = None;
    event.cluster_time = None;
    assert_eq!(
        printed_by(&mut printer, &Message::Changes(vec![event])),
        "\u{1b}[1m\u{1b}[31mdrop     \u{1b}[0m\u{1b}[1mshop.orders\u{1b}[0m\n"
    );
}

#[test]
fn lines_are_cut_to_the_terminal_by_visible_width() {
    for color in [false, true] {
        let mut printer = PrettyPrinter::new(color, Some(40));
        let text = printed_by(&mut printer, &Message::Changes(vec![fixtures::insert()]));
        let visible = anstream::adapter::strip_str(&text).to_string();
        let line = visible.lines().nth(1).unwrap();
        assert_eq!(line, r#"12:00:00.250 insert   shop.orders {"_id…"#);
        assert_eq!(line.chars().count(), 40);
    }
    let mut wide = fixtures::insert();
    wide.change = Some(Change::Insert(pb::Insert {
        full_document: fixtures::json("\"水水水水水水\""),
    }));
    let mut printer = PrettyPrinter::new(false, Some(50));
    let text = printed_by(&mut printer, &Message::Changes(vec![wide]));
    assert_eq!(
        text.lines().nth(1).unwrap(),
        "12:00:00.250 insert   shop.orders {\"_id\": 1} \"水…",
        "a two-column character that does not fit is left out"
    );
}

#[test]
fn a_line_that_just_fits_is_not_cut() {
    let mut printer = PrettyPrinter::new(false, Some(73));
    let text = printed_by(&mut printer, &Message::Changes(vec![fixtures::insert()]));
    assert!(text.ends_with("\"paid\"}\n"), "{text}");
    assert!(!text.contains('…'));
}
