//! The scripted MongoDB of the tests behaves as the servers that it stands for, seen with the driver.

use std::time::Duration;

use crate::support::stand_in::{
    Answer, DATABASE, Event, FIRST_SECOND, Request, Rule, ServerError, StandIn, Version, about,
    change, high_water_token, insert, time,
};
use crate::support::{eventually, within};
use mongodb::bson::{Bson, Document, Timestamp, doc};
use mongodb::error::ErrorKind;
use mongodb::{Client, Database};
use tokio::time::Instant;

/// A cursor whose replies are read one by one.
struct Cursor {
    database: Database,
    id: i64,
    /// The events of the last reply.
    events: Vec<Document>,
    /// The token of the last reply.
    token: Document,
}

/// The code of an error that the server sent.
fn code(error: &mongodb::error::Error) -> i32 {
    match &*error.kind {
        ErrorKind::Command(command) => command.code,
        _ => panic!("not the server's: {error:?}"),
    }
}

impl Cursor {
    async fn open(stand_in: &StandIn, options: Document, stages: &[Document]) -> Result<Self, i32> {
        Self::open_on(stand_in, Bson::from("orders"), options, stages, 100).await
    }

    async fn open_on(
        stand_in: &StandIn,
        target: Bson,
        options: Document,
        stages: &[Document],
        batch_size: i32,
    ) -> Result<Self, i32> {
        let client = Client::with_uri_str(stand_in.uri()).await;
        let client = client.expect("the URI is valid");
        let database = client.database(DATABASE);
        let mut pipeline = vec![doc! { "$changeStream": options }];
        pipeline.extend(stages.iter().cloned());
        let aggregate = doc! {
            "aggregate": target, "pipeline": pipeline, "cursor": { "batchSize": batch_size },
        };
        let mut cursor = Self {
            database,
            id: 0,
            events: Vec::new(),
            token: Document::new(),
        };
        cursor.run(aggregate).await?;
        Ok(cursor)
    }

    async fn next(&mut self) -> Result<(), i32> {
        self.next_of(1_000).await
    }

    async fn next_of(&mut self, batch_size: i32) -> Result<(), i32> {
        let get_more = doc! {
            "getMore": self.id, "collection": "orders", "batchSize": batch_size, "maxTimeMS": 20,
        };
        self.run(get_more).await
    }

    async fn run(&mut self, command: Document) -> Result<(), i32> {
        let answer = self.database.run_command(command);
        let answer = within("an answer", answer.into_future()).await;
        let answer = answer.map_err(|error| code(&error))?;
        let cursor = answer.get_document("cursor").expect("it has a cursor");
        self.id = cursor.get_i64("id").expect("it has an id");
        let events = cursor
            .get_array("firstBatch")
            .or_else(|_| cursor.get_array("nextBatch"));
        let events = events.expect("it has events").iter();
        self.events = events.filter_map(Bson::as_document).cloned().collect();
        let token = cursor.get_document("postBatchResumeToken");
        self.token = token.expect("it has a token").clone();
        Ok(())
    }

    fn ids(&self) -> Vec<i32> {
        let key = |event: &Document| event.get_document("documentKey").cloned();
        let ids = self.events.iter().filter_map(|event| key(event).ok());
        ids.filter_map(|key| key.get_i32("_id").ok()).collect()
    }
}

fn after(token: &Document) -> Document {
    doc! { "resumeAfter": token.clone() }
}

fn with_look_up(mut options: Document) -> Document {
    options.insert("fullDocument", "updateLookup");
    options
}

/// The time of the event at a position.
fn time_of(position: u32) -> Timestamp {
    time(FIRST_SECOND + position, 1)
}

#[tokio::test]
async fn a_stream_sees_what_is_in_its_scope_and_passes_its_conditions() {
    let stand_in = StandIn::start_as(Version::mongod([8, 2, 11]));
    let orders = stand_in.log("orders");
    orders.push(change("insert", "orders", 1));
    stand_in
        .log("customers")
        .push(change("insert", "customers", 2));
    orders.push(change("delete", "orders", 3));
    let other = stand_in.log_in("elsewhere", "orders");
    other.push(change("insert", "orders", 4));
    orders.push(about("create", "orders"));
    let from_start = || doc! { "startAtOperationTime": time_of(0) };
    let all = Cursor::open(&stand_in, from_start(), &[]).await;
    assert_eq!(all.map(|it| it.ids()), Ok(vec![1, 3]));
    let database = Cursor::open_on(&stand_in, Bson::Int32(1), from_start(), &[], 100).await;
    assert_eq!(database.map(|it| it.ids()), Ok(vec![1, 2, 3]));
    let inserts = doc! { "$match": { "operationType": { "$in": ["insert"] } } };
    let matched = Cursor::open(&stand_in, from_start(), &[inserts]).await;
    assert_eq!(matched.map(|it| it.ids()), Ok(vec![1]));
    let of_names = doc! { "$match": { "$or": [
        { "ns.coll": { "$in": ["customers"] } }, { "to.coll": { "$in": ["customers"] } },
    ] } };
    let database = Cursor::open_on(&stand_in, Bson::Int32(1), from_start(), &[of_names], 100).await;
    assert_eq!(database.map(|it| it.ids()), Ok(vec![2]));
    let expanded = doc! { "startAtOperationTime": time_of(0), "showExpandedEvents": true };
    let expanded = Cursor::open(&stand_in, expanded, &[]).await;
    assert_eq!(expanded.map(|it| it.events.len()), Ok(3));
}

/// jstests/change_streams/change_stream_large_event_resumption.js of MongoDB 9.0.
#[tokio::test]
async fn an_event_that_fails_when_enriched_fails_again_after_its_own_token() {
    let stand_in = StandIn::start_as(Version::mongod([9, 0, 0]));
    let orders = stand_in.log("orders");
    orders.push_all([
        change("insert", "orders", 1).into(),
        Event::too_large(change("update", "orders", 2)),
        change("insert", "orders", 3).into(),
    ]);
    let looking_up = || with_look_up(doc! { "startAtOperationTime": time_of(0) });
    let whole = Cursor::open(&stand_in, looking_up(), &[]).await;
    assert_eq!(whole.err(), Some(10334));

    // One by one, the events in front of it come.
    let mut single = Cursor::open_on(&stand_in, Bson::from("orders"), looking_up(), &[], 1)
        .await
        .expect("it opens");
    assert_eq!(single.ids(), [1]);
    assert_eq!(single.next_of(1).await, Err(10334));
    assert_eq!(single.next_of(1).await, Err(43), "its cursor is closed");

    // Without images it comes; its own token does not take a stream with images past it, and the
    // next one's does.
    let own = orders.token(1);
    let plain = Cursor::open(&stand_in, after(&orders.token(0)), &[]).await;
    assert_eq!(plain.map(|it| it.ids()), Ok(vec![2, 3]));
    let again = Cursor::open(&stand_in, with_look_up(after(&own)), &[]).await;
    assert_eq!(again.err(), Some(10334));
    let past = Cursor::open(&stand_in, with_look_up(after(&orders.token(2))), &[]).await;
    assert_eq!(past.map(|it| it.ids()), Ok(vec![]));

    // A condition on the time is checked in the scan, before the event is enriched.
    let later = doc! { "$match": { "clusterTime": { "$gt": time_of(1) } } };
    let later = Cursor::open(&stand_in, looking_up(), &[later]).await;
    assert_eq!(later.map(|it| it.ids()), Ok(vec![3]));
    // And so does a high-water token past it, with any pipeline.
    let high_water = with_look_up(after(&high_water_token(time_of(2))));
    let inserts = doc! { "$match": { "operationType": "insert" } };
    let past = Cursor::open(&stand_in, high_water, &[inserts]).await;
    assert_eq!(past.map(|it| it.ids()), Ok(vec![3]));
}

#[tokio::test]
async fn a_mongos_does_not_pass_the_batch_size_to_its_shards() {
    let stand_in = StandIn::start_as(Version::mongos([9, 0, 2]));
    let orders = stand_in.log("orders");
    let options = with_look_up(Document::new());
    let mut cursor = Cursor::open_on(&stand_in, Bson::from("orders"), options, &[], 1)
        .await
        .expect("it opens");
    orders.push_all([
        change("insert", "orders", 1).into(),
        Event::too_large(change("update", "orders", 2)),
    ]);
    assert_eq!(cursor.next_of(1).await, Err(10334));
}

/// The first token of a stream that starts now stands behind everything that has happened.
#[tokio::test]
async fn a_resume_from_the_first_token_returns_nothing_from_before_it() {
    for version in [Version::mongod([9, 0, 0]), Version::mongos([9, 0, 0])] {
        let stand_in = StandIn::start_as(version);
        stand_in.log("orders").push(insert(1));
        let first = Cursor::open(&stand_in, doc! {}, &[]).await.expect("opens");
        let resumed = Cursor::open(&stand_in, after(&first.token), &[]).await;
        let mut resumed = resumed.expect("the token is known");
        stand_in.log("orders").push(insert(2));
        let mut ids = resumed.ids();
        while ids.last() != Some(&2) {
            resumed.next().await.expect("a reply");
            ids.extend(resumed.ids());
        }
        assert_eq!(ids, [2]);
    }
}

/// SERVER-135099.
#[tokio::test]
async fn a_mongos_9_0_1_answers_a_resume_with_an_earlier_token_first() {
    for (version, regresses) in [
        (Version::mongos([9, 0, 0]), true),
        (Version::mongos([9, 0, 1]), true),
        (Version::mongos([9, 0, 2]), false),
        (Version::mongod([9, 0, 1]), false),
    ] {
        let stand_in = StandIn::start_as(version.clone());
        let orders = stand_in.log("orders");
        orders.push_all([insert(1).into(), insert(2).into()]);
        let given = orders.token(1);
        let mut cursor = Cursor::open(&stand_in, after(&given), &[])
            .await
            .expect("it opens");
        assert_eq!(cursor.ids(), [0; 0]);
        let data = |token: &Document| token.get_str("_data").ok().map(str::to_owned);
        assert_eq!(data(&cursor.token) < data(&given), regresses, "{version:?}");
        orders.push(insert(3));
        cursor.next().await.expect("it goes on");
        assert_eq!(cursor.ids(), [3]);
        assert_eq!(cursor.token, orders.token(2));
    }
}

#[tokio::test]
async fn an_option_or_a_stage_that_the_version_lacks_is_refused() {
    let option = |name: &str| doc! { name: true };
    for (version, options, expected) in [
        (
            Version::mongod([5, 0, 30]),
            option("showExpandedEvents"),
            Some(40415),
        ),
        (
            Version::mongod([6, 0, 0]),
            option("showExpandedEvents"),
            None,
        ),
        (
            Version::mongod([8, 2, 0]),
            option("ignoreRemovedShards"),
            Some(40415),
        ),
        (
            Version::mongos([9, 0, 0]),
            option("ignoreRemovedShards"),
            None,
        ),
        (
            Version::mongod([8, 2, 0]),
            option("matchCollectionUUIDForUpdateLookup"),
            None,
        ),
        (
            Version::mongod([8, 2, 0]).lacking("matchCollectionUUIDForUpdateLookup"),
            option("matchCollectionUUIDForUpdateLookup"),
            Some(40415),
        ),
        (Version::mongod([8, 2, 0]), option("anything"), Some(40415)),
        (
            Version::mongod([8, 2, 0]),
            option("allChangesForCluster"),
            Some(72),
        ),
    ] {
        let stand_in = StandIn::start_as(version.clone());
        let opened = Cursor::open(&stand_in, options, &[]).await;
        assert_eq!(opened.err(), expected, "{version:?}");
    }
    let split = doc! { "$changeStreamSplitLargeEvent": {} };
    for (numbers, expected) in [
        ([6, 0, 8], Some(40324)),
        ([6, 0, 9], None),
        ([8, 2, 0], None),
    ] {
        let stand_in = StandIn::start_as(Version::mongod(numbers));
        let opened = Cursor::open(&stand_in, Document::new(), std::slice::from_ref(&split)).await;
        assert_eq!(opened.err(), expected, "{numbers:?}");
    }
}

#[tokio::test]
async fn tokens_say_which_event_of_a_time_and_are_found_again_or_not() {
    let stand_in = StandIn::start_as(Version::mongod([8, 2, 11]));
    let orders = stand_in.log("orders");
    orders.push_at_once((1..=3).map(|id| change("insert", "orders", id).into()));
    let times = doc! { "startAtOperationTime": time_of(0) };
    let all = Cursor::open(&stand_in, times, &[]).await.expect("it opens");
    let times = all
        .events
        .iter()
        .map(|it| it.get_timestamp("clusterTime").ok());
    assert!(times.clone().all(|it| it == Some(time_of(0))), "one time");
    for (position, rest) in [(0, vec![2, 3]), (1, vec![3]), (2, vec![])] {
        let resumed = Cursor::open(&stand_in, after(&orders.token(position)), &[]).await;
        assert_eq!(resumed.map(|it| it.ids()), Ok(rest), "{position}");
    }
    let before_all = Cursor::open(&stand_in, after(&high_water_token(time_of(0))), &[]).await;
    assert_eq!(before_all.map(|it| it.ids()), Ok(vec![1, 2, 3]));

    // A pipeline that drops the event does not find its token.
    let others = doc! { "$match": { "operationType": "delete" } };
    let mut narrow = Cursor::open(&stand_in, after(&orders.token(0)), &[others])
        .await
        .expect("it opens while there is nothing to see");
    orders.push(change("delete", "orders", 1));
    assert_eq!(narrow.next().await, Err(280));
    let foreign = Cursor::open(&stand_in, after(&doc! { "_data": "other" }), &[]).await;
    assert_eq!(foreign.err(), Some(50811));
    stand_in.set_oldest(time_of(1));
    let lost = Cursor::open(&stand_in, after(&orders.token(0)), &[]).await;
    assert_eq!(lost.err(), Some(286));
}

#[tokio::test]
async fn a_drop_invalidates_a_stream_on_its_collection() {
    let stand_in = StandIn::start_as(Version::mongod([8, 2, 11]));
    let orders = stand_in.log("orders");
    let mut cursor = Cursor::open(&stand_in, Document::new(), &[])
        .await
        .expect("it opens");
    orders.push(about("drop", "orders"));
    orders.push(insert(2));
    cursor.next().await.expect("it has news");
    let operations: Vec<_> = cursor
        .events
        .iter()
        .filter_map(|it| it.get_str("operationType").ok())
        .collect();
    assert_eq!(operations, ["drop", "invalidate"]);
    assert_eq!(cursor.id, 0);
    let token = cursor.events[1]
        .get_document("_id")
        .expect("it has a token");
    assert_eq!(*token, cursor.token);
    let resumed = Cursor::open(&stand_in, after(token), &[]).await;
    assert_eq!(resumed.err(), Some(260));
    let started = Cursor::open(&stand_in, doc! { "startAfter": token.clone() }, &[]).await;
    assert_eq!(started.map(|it| it.ids()), Ok(vec![2]));
}

#[tokio::test]
async fn a_scan_limit_ends_replies_early_with_risen_tokens() {
    let stand_in = StandIn::start_as(Version::mongod([9, 0, 0]));
    let mut cursor = Cursor::open(&stand_in, Document::new(), &[])
        .await
        .expect("it opens");
    let others = stand_in.log("others");
    others.push_all((0..5).map(|id| change("insert", "others", id).into()));
    stand_in.log("orders").push(insert(9));
    stand_in.set_scan_limit(Some(2));
    let mut last = String::new();
    for expected in [&[][..], &[], &[9]] {
        cursor.next().await.expect("it goes on");
        assert_eq!(cursor.ids(), expected);
        let token = cursor
            .token
            .get_str("_data")
            .expect("it has data")
            .to_owned();
        assert!(token > last, "{token}");
        last = token;
    }
}

#[tokio::test]
async fn rules_answer_the_commands_that_match() {
    let stand_in = StandIn::start_as(Version::mongod([8, 2, 11]));
    let orders = stand_in.log("orders");
    orders.push_all([insert(1).into(), insert(2).into()]);
    let token = orders.token(0);
    let given = token.clone();
    let refused = stand_in.play(
        Rule::on("aggregate")
            .when(move |request| request.token() == Some(&given))
            .answer(
                ServerError::new(13)
                    .named("Unauthorized")
                    .message("not allowed"),
            ),
    );
    assert_eq!(
        Cursor::open(&stand_in, after(&token), &[]).await.err(),
        Some(13)
    );
    assert_eq!(refused.count(), 1);
    let mut cursor = Cursor::open(&stand_in, Document::new(), &[])
        .await
        .expect("only the token is refused");
    refused.end();
    assert!(Cursor::open(&stand_in, after(&token), &[]).await.is_ok());

    // Each in its turn, and at once.
    let high = high_water_token(time_of(50));
    let plain = |request: &Request| !request.resumes() && !request.has_images();
    let on_get_more = || {
        Rule::on("getMore")
            .of_collection("orders")
            .when(plain)
            .once()
    };
    stand_in.play(on_get_more().answer(Answer::nothing(high.clone())));
    stand_in.play(on_get_more().answer(Answer::Usual.after(Duration::from_millis(50))));
    stand_in.play(on_get_more().answer(Answer::altered(|reply| reply.events.clear())));
    let closing = stand_in.play(on_get_more().answer(ServerError::stepped_down()));
    cursor.next().await.expect("it is an empty reply");
    assert_eq!((cursor.ids(), &cursor.token), (vec![], &high));
    orders.push(insert(3));
    let asked = Instant::now();
    cursor.next().await.expect("it is late");
    assert!(asked.elapsed() >= Duration::from_millis(50));
    assert_eq!(cursor.ids(), [3]);
    orders.push(insert(4));
    cursor.next().await.expect("its events are taken away");
    assert_eq!(cursor.ids(), [0; 0]);
    assert_eq!(cursor.next().await, Err(189));
    assert_eq!(closing.count(), 1);
    assert_eq!(cursor.next().await, Err(43));
}

#[tokio::test]
async fn a_server_says_its_version_and_whether_it_is_a_router() {
    for (version, router) in [
        (Version::mongod([8, 2, 11]), false),
        (Version::mongos([9, 0, 1]), true),
    ] {
        let stand_in = StandIn::start_as(version.clone());
        let client = Client::with_uri_str(stand_in.uri()).await;
        let admin = client.expect("the URI is valid").database("admin");
        let hello = admin.run_command(doc! { "hello": 1 }).await;
        let hello = hello.expect("it answers");
        assert_eq!(hello.get_str("msg").ok(), router.then_some("isdbgrid"));
        assert_eq!(hello.contains_key("setName"), !router);
        let build = admin.run_command(doc! { "buildInfo": 1 }).await;
        let build = build.expect("it answers");
        assert_eq!(build.get_str("version").ok(), Some(version.text().as_str()));
    }
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_kept() {
    let stand_in = StandIn::start_as(Version::mongod([8, 2, 11]));
    let mut cursor = Cursor::open(&stand_in, Document::new(), &[])
        .await
        .expect("it opens");
    let held = stand_in.play(Rule::on("getMore").once().answer(Answer::Hang));
    let waiting = tokio::spawn(async move { cursor.next().await });
    eventually("the getMore is in progress", async || held.count() == 1).await;
    stand_in.cut_idle();
    eventually("only the busy one is left", async || {
        stand_in.connections() <= 2
    })
    .await;
    assert!(!waiting.is_finished());
    waiting.abort();
}
