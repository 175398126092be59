//! A day of odd events on a mongod 8.2, a mongod 9.0 and a mongos 9.0.1, as a scripted server plays
//! them, with ten watches of all kinds. Every watch gets exactly what it asked for, in order, and
//! again only what came after the token that it resumed from.
//!
//! docs/mongodb-versions.md lists what differs between the versions, with sources.

mod day;
mod watchers;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::eventually;
use crate::support::ledger::{DeliveryTotals, ResumingClient};
use crate::support::stand_in::{Answer, Event, Rule, ServerError, Version, change, is_of_an_event};
use day::{
    AMBIGUOUS, COLLECTIONS, Day, TOO_LARGE, UNSENDABLE, WITHOUT_POST_IMAGE, WITHOUT_PRE_IMAGE,
};
use mongodb::bson::{Binary, Document, Timestamp, doc, spec::BinarySubtype};
use pb::OperationType::Update;
use weir::pb;

/// The codes that pass by themselves, as a server sends them on a `getMore`.
fn passing_errors() -> Vec<ServerError> {
    let resumable = "ResumableChangeStreamError";
    let error = |code, name: &str, label: Option<&str>| {
        let error = ServerError::new(code).named(name).message("it will pass");
        match label {
            Some(label) => error.label(label),
            None => error,
        }
    };
    vec![
        // Elections and step-downs, with the label of a mongod and without, as a proxy passes them on.
        ServerError::stepped_down(),
        error(10107, "NotWritablePrimary", Some(resumable)),
        error(11602, "InterruptedDueToReplStateChange", None),
        error(13435, "NotPrimaryNoSecondaryOk", None),
        error(216, "ElectionInProgress", None),
        error(10058, "LegacyNotPrimary", None),
        error(91, "ShutdownInProgress", Some(resumable)),
        error(43, "CursorNotFound", None),
        error(63, "StaleShardVersion", Some(resumable)),
        error(234, "RetryChangeStream", Some(resumable)),
        // The second reader of a mongos is turned off (9.0 notes).
        error(401, "RetryChangeStreamQueryWithRouterRole", None),
        error(133, "FailedToSatisfyReadPreference", Some(resumable)),
        error(6, "HostUnreachable", Some(resumable)),
        error(202, "NetworkInterfaceExceededTimeLimit", None),
        // An overloaded server, and one that is short of memory.
        error(146, "ExceededMemoryLimit", None),
        error(
            462,
            "IngressRequestRateLimitExceeded",
            Some("SystemOverloadedError"),
        ),
    ]
}

/// What happened to a watch that the test did not ask for.
fn unasked_ends(client: &ResumingClient) -> BTreeSet<String> {
    let asked = "disconnected by the test";
    let ends = client.end_reasons().into_iter();
    ends.filter(|end| end != asked).collect()
}

/// Plays the day on a server of this version.
async fn play(version: Version) {
    let mut day = Day::begin(version).await;
    for options in watchers::ten(day.version.is_mongos()) {
        let address = day.weir.grpc_addr();
        let client = ResumingClient::start(&day.ledger, address, options).await;
        day.clients.push(client);
    }
    assert_eq!(day.clients.len(), 10);

    ordinary(&day).await;
    transactions(&mut day).await;
    odd_fields(&day).await;
    resharding(&day).await;
    long_scans(&day).await;
    errors_that_pass(&day).await;
    tokens_that_are_refused(&day).await;
    connections_that_die(&day).await;
    a_reply_that_never_comes(&day).await;
    events_that_cannot_be_sent(&day).await;
    other_databases(&day).await;
    at_the_end(&day).await;
}

/// Ordinary writes, and a resume of the watches that resume, after which a mongos 9.0.1 answers
/// with a token that lies before the given one (SERVER-135099).
async fn ordinary(day: &Day) {
    for _ in 0..3 {
        day.ordinary_writes();
        day.catch_up("ordinary writes").await;
        for name in watchers::RESUMING {
            day.resume(name).await;
        }
        day.catch_up("resumed").await;
    }
}

/// Transactions: one cluster time, `endOfTransaction` for the streams on what they touched, and
/// `commitTimestamp` where several shards took part (SERVER-101553).
async fn transactions(day: &mut Day) {
    day.transaction(5, |_| {});
    let mut end = doc! {
        "operationType": "endOfTransaction",
        "operationDescription": day.session(),
        "clusterTime": day.stand_in.now(),
    };
    end.extend(day.session());
    day.stand_in.log("").push_for(&["orders"], end);
    day.transaction(3, |event| {
        let time = Timestamp {
            time: 1_600_000_000,
            increment: 7,
        };
        event.insert("commitTimestamp", time);
    });
    day.catch_up("transactions").await;
    // Keys that are longer than a resume token may be: the shard key's field is part of each.
    day.transaction(6, |event| {
        let key = event.get_document_mut("documentKey");
        let key = key.expect("an insert has a key");
        key.insert("region", "x".repeat(9_000));
    });
    day.catch_up("long keys").await;
    for name in watchers::RESUMING {
        day.resume(name).await;
    }
    day.ordinary_writes();
    day.catch_up("resumed after long keys").await;
}

/// Fields that 8.2.0 always sends (SERVER-86688), and those of chunk migrations.
async fn odd_fields(day: &Day) {
    let uuid = Binary {
        subtype: BinarySubtype::Uuid,
        bytes: vec![3; 16],
    };
    for collection in 0..COLLECTIONS.len() {
        let known = day.insert_as(collection, 1, |mut event| {
            event.insert("collectionUUID", uuid.clone());
            event.insert("fromMigrate", true);
            event.into()
        });
        day.change_as(known, Update, 2, |mut event| {
            event.insert("collectionUUID", uuid.clone());
            let paths = doc! { "a.0": ["a", "0"] };
            let update = event.get_document_mut("updateDescription");
            let update = update.expect("an update has a description");
            update.insert("disambiguatedPaths", paths);
            event.into()
        });
    }
    day.catch_up("odd fields").await;
}

/// moveCollection and unshardCollection come as reshardCollection with a provenance.
async fn resharding(day: &Day) {
    for provenance in ["moveCollection", "unshardCollection"] {
        let description = doc! { "provenance": provenance, "shardKey": { "_id": 1 } };
        day.push_other("orders", "reshardCollection", description);
        day.ordinary_writes();
    }
    day.push_other("elsewhere", "create", Document::new());
    day.push_other("elsewhere", "drop", Document::new());
    day.catch_up("resharding").await;
}

/// Scans that answer in their midst, empty, with a token that has risen
/// (jstests/change_streams/change_stream_response_deadline.js).
async fn long_scans(day: &Day) {
    day.stand_in.set_scan_limit(Some(2));
    for _ in 0..5 {
        day.stand_in.push_noops(9);
        day.ordinary_writes();
    }
    day.catch_up("long scans").await;
    day.resume(watchers::RESUMING[0]).await;
    day.ordinary_writes();
    day.catch_up("resumed in a long scan").await;
    day.stand_in.set_scan_limit(None);
}

/// Errors that pass, one at a time and many, on replies and on the openings after them.
async fn errors_that_pass(day: &Day) {
    for error in passing_errors() {
        day.fail("getMore", 3, error).await;
    }
    day.catch_up("errors that pass").await;
    let opening = Rule::on("aggregate").when(|request| request.resumes());
    let refused = day
        .stand_in
        .play(opening.times(4).answer(ServerError::stepped_down()));
    day.fail("getMore", 10, ServerError::stepped_down()).await;
    eventually("openings were refused", async || refused.count() == 4).await;
    day.catch_up("an election").await;
    day.stand_in.forget_cursors();
    day.ordinary_writes();
    day.catch_up("a restart").await;
}

/// The token of an event that is not found, or that the server refuses, goes on by its time: nothing
/// is lost or repeated. A high-water token need not be found.
async fn tokens_that_are_refused(day: &Day) {
    for refusal in [
        ServerError::token_not_found(),
        ServerError::new(13)
            .named("Unauthorized")
            .message("not authorized on stand_in to execute command"),
    ] {
        let opening = Rule::on("aggregate").when(|it| it.token().is_some_and(is_of_an_event));
        let refused = day.stand_in.play(opening.once().answer(refusal));
        day.fail("getMore", 10, ServerError::stepped_down()).await;
        eventually("an opening was refused", async || refused.count() == 1).await;
        day.ordinary_writes();
        day.catch_up("a token that is refused").await;
    }
}

/// Connections that are closed: all, and those that nothing uses.
async fn connections_that_die(day: &Day) {
    day.ordinary_writes();
    day.stand_in.cut();
    day.ordinary_writes();
    day.catch_up("all connections are cut").await;
    for name in watchers::RESUMING {
        day.stand_in.cut_idle();
        day.resume(name).await;
    }
    day.ordinary_writes();
    day.catch_up("idle connections are cut").await;
}

/// A `getMore` that hangs beyond its time (SERVER-136788), and one that is late.
async fn a_reply_that_never_comes(day: &Day) {
    let late = Answer::Usual.after(Duration::from_millis(500));
    day.answer_once(late).await;
    day.ordinary_writes();
    day.catch_up("a late reply").await;
    day.answer_once(Answer::Hang).await;
    day.ordinary_writes();
    day.catch_up("a reply that never comes").await;
}

/// Events that fail while they are enriched, with small ones right in front of and after them. They
/// end the watches that ask for what makes them fail, each once and at that event, and come to all
/// others.
async fn events_that_cannot_be_sent(day: &Day) {
    let before = |name: &str| day.client(name).end_reasons().len();
    let failing = ["looking up", "both images", "group 1", "group 2 by images"];
    let ends = failing.map(before);
    day.ordinary_writes();
    let known = day.insert(0, 1);
    day.change_as(known, Update, TOO_LARGE, Event::too_large);
    day.ordinary_writes();
    day.catch_up("an event that is too large").await;
    for (name, before) in failing.into_iter().zip(ends) {
        let ends = day.client(name).end_reasons().split_off(before);
        assert_eq!(ends, ["UPSTREAM_EVENT_TOO_LARGE"], "{name}");
    }

    // One that is too large by itself, and can't be split (SERVER-91313), ends all that watch its
    // collection.
    let watching = day.clients.iter().map(ResumingClient::name);
    let watching: Vec<&str> = watching.filter(|it| *it != "pre-images").collect();
    let ends: Vec<usize> = watching.iter().map(|name| before(name)).collect();
    day.insert_as(0, UNSENDABLE, Event::too_large_to_split);
    day.ordinary_writes();
    day.catch_up("an event that can't be split").await;
    for (name, before) in watching.into_iter().zip(ends) {
        let ends = day.client(name).end_reasons().split_off(before);
        assert_eq!(ends, ["UPSTREAM_EVENT_TOO_LARGE"], "{name}");
    }

    let ends = ["pre-images", "group 2 by images"].map(before);
    let known = day.insert(1, 1);
    day.change_as(known, Update, WITHOUT_PRE_IMAGE, Event::without_pre_image);
    day.ordinary_writes();
    let known = day.insert(0, 2);
    day.change_as(known, Update, WITHOUT_POST_IMAGE, Event::without_post_image);
    day.ordinary_writes();
    day.catch_up("images that are gone").await;
    for (name, before) in ["pre-images", "group 2 by images"].into_iter().zip(ends) {
        let ends = day.client(name).end_reasons().split_off(before);
        assert_eq!(ends, ["IMAGE_UNAVAILABLE"], "{name}");
    }

    // Two documents with one `_id` on two shards (SERVER-55179).
    let looking_up = ["looking up", "group 1"];
    let ends = looking_up.map(before);
    let known = day.insert(0, 2);
    day.change_as(known, Update, AMBIGUOUS, Event::ambiguous);
    day.ordinary_writes();
    day.catch_up("an ambiguous look-up").await;
    for (name, before) in looking_up.into_iter().zip(ends) {
        let ends = day.client(name).end_reasons().split_off(before);
        assert_eq!(ends, ["LOOKUP_AMBIGUOUS"], "{name}");
    }
}

/// Writes in MongoDB's own databases, which belong to no watch, and in another one.
async fn other_databases(day: &Day) {
    for database in ["config", "admin", "local"] {
        let mut event = change("insert", "settings", 1);
        event.insert("clusterTime", day.next_time());
        event.insert("ns", doc! { "db": database, "coll": "settings" });
        day.stand_in.log_in(database, "settings").push(event);
    }
    day.ordinary_writes();
    day.catch_up("other databases").await;
}

/// Nothing ended a watch but the test and the events that could not be sent, and every watch got
/// exactly the events about no document that it asked for.
async fn at_the_end(day: &Day) {
    let undeliverable = [
        "UPSTREAM_EVENT_TOO_LARGE",
        "IMAGE_UNAVAILABLE",
        "LOOKUP_AMBIGUOUS",
    ];
    for client in &day.clients {
        let unasked = unasked_ends(client);
        assert!(
            unasked
                .iter()
                .all(|end| undeliverable.contains(&end.as_str())),
            "{}: {unasked:?}",
            client.name()
        );
        let operations: Vec<String> = client.others().into_iter().map(|it| it.operation).collect();
        let expected: &[&str] = match client.name() {
            "expanded" | "deployment" => &[
                "endOfTransaction",
                "reshardCollection",
                "reshardCollection",
                "create",
                "drop",
            ],
            "both images" | "group 1" | "group 2 by images" => &["drop"],
            _ => &[],
        };
        assert_eq!(operations, expected, "{}", client.name());
    }
    DeliveryTotals::of(&day.ledger, &day.clients).await.tally();
}

#[tokio::test]
async fn a_day_on_a_mongod_8_2_loses_nothing() {
    play(Version::mongod([8, 2, 0])).await;
}

#[tokio::test]
async fn a_day_on_a_mongod_9_0_loses_nothing() {
    play(Version::mongod([9, 0, 0])).await;
}

#[tokio::test]
async fn a_day_on_a_mongos_9_0_1_loses_nothing() {
    play(Version::mongos([9, 0, 1])).await;
}
