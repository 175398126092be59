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

/// The line of a change, without the line of its day.
fn line(event: pb::ChangeEvent) -> String {
    let text = printed(&Message::Changes(vec![event]));
    let (day, line) = text.split_once('\n').unwrap();
    assert_eq!(day, "-- 2025-01-31 (times are in UTC)");
    line.strip_suffix('\n').unwrap().to_owned()
}

#[test]
fn changes_of_documents_show_the_key_and_what_changed() {
    for (event, expected) in [
        (
            fixtures::insert(),
            r#"12:00:00.250 insert   shop.orders {"_id": 1} {"_id": 1, "status": "paid"}"#,
        ),
        (
            fixtures::update(),
            r#"12:00:00.250 update   shop.orders {"_id": 1} set {"total": 5} removed note, a"b cut items to 2 now null was {"_id": 1, "total": 4}"#,
        ),
        (
            fixtures::replace(),
            r#"12:00:00.250 replace  shop.orders {"_id": 1} {"_id": 1, "a": 2} was {"_id": 1, "a": 1}"#,
        ),
        (
            fixtures::in_transaction(),
            r#"12:00:00.250 delete   shop.orders {"_id": 1} was {"_id": 1} entered the filter transaction 12 further {"new": 1}"#,
        ),
        (
            fixtures::omitted(),
            r#"12:00:00.250 insert   shop.orders {"_id": 1} left out: 4000000 bytes, and a message may have 3145728"#,
        ),
    ] {
        assert_eq!(line(event), expected);
    }
}

#[test]
fn changes_of_collections_show_their_details() {
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
    let events = fixtures::about_collections();
    assert_eq!(events.len(), expected.len());
    for (event, expected) in events.into_iter().zip(expected) {
        assert_eq!(line(event), format!("12:00:00.250 {expected}"));
    }
}

#[test]
fn what_is_no_change_stands_apart() {
    for (message, expected) in [
        (
            fixtures::opened(),
            "-- watching on from the resume token, 2025-01-31T12:00:00Z (watch w1)\n",
        ),
        (
            fixtures::progress(),
            "-- nothing more up to 2025-01-31T12:00:00Z, 2 s behind MongoDB\n",
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
    assert_eq!(out, "", "progress only on request");
}

#[test]
fn a_day_is_told_when_it_begins() {
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
fn before_mongodb_6_the_oplogs_second_is_shown() {
    let mut event = fixtures::insert();
    event.wall_time = None;
    assert!(line(event).starts_with("12:00:00 insert   shop.orders"));
}

#[test]
fn colours_stand_around_the_parts_only() {
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
fn lines_are_cut_to_the_terminal_by_what_is_seen() {
    for color in [false, true] {
        let mut printer = PrettyPrinter::new(color, Some(40));
        let text = printed_by(&mut printer, &Message::Changes(vec![fixtures::insert()]));
        let seen = anstream::adapter::strip_str(&text).to_string();
        let line = seen.lines().nth(1).unwrap();
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
        "a character of two columns that does not fit whole is left out"
    );
}

#[test]
fn a_line_that_just_fits_is_whole() {
    let mut printer = PrettyPrinter::new(false, Some(73));
    let text = printed_by(&mut printer, &Message::Changes(vec![fixtures::insert()]));
    assert!(text.ends_with("\"paid\"}\n"), "{text}");
    assert!(!text.contains('…'));
}
