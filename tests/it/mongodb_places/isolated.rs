//! What stands in front of an event that can't be sent, on streams that are harder to read: with a filter
//! on documents, after the token of another filter, after a token that no stream has, and on a server that
//! fails whatever is selected.

use std::collections::HashSet;

use super::*;
use crate::conversions::{eq, field, value};
use crate::support::stand_in::about;

fn dedicated(request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        feed_mode: pb::FeedMode::Dedicated.into(),
        ..request
    }
}

/// An update whose document has this value of `kind`.
fn of_kind(id: i32, kind: &str) -> Document {
    let mut event = update(id);
    for image in ["fullDocument", "fullDocumentBeforeChange"] {
        let document = event.get_document_mut(image).expect("an update has both");
        document.insert("kind", kind);
    }
    event
}

/// The events of these numbers, of which the filter passes the odd ones.
fn odd_and_even(ids: impl IntoIterator<Item = i32>) -> Vec<Event> {
    let kind = |id: i32| if id % 2 == 0 { "even" } else { "odd" };
    ids.into_iter()
        .map(|id| of_kind(id, kind(id)).into())
        .collect()
}

fn odd(ids: std::ops::Range<i32>) -> Vec<Bson> {
    numbers(ids.filter(|id| id % 2 == 1))
}

/// The stream of a filter on documents ends at an event that can't be sent, whether the filter would pass
/// it or not, after everything that it passes in front of it.
async fn a_filter_loses_nothing(
    version: fn() -> Version,
    at_once: bool,
    (before, after): (std::ops::Range<i32>, std::ops::Range<i32>),
) {
    let what = format!("{:?} {at_once} {before:?}", version());
    let stand_in = StandIn::start_as(version());
    let orders = stand_in.log(ORDERS);
    let weir = Weir::at(stand_in.uri(), |_| {}).await;
    let request = dedicated(pb::WatchRequest {
        filters: vec![eq("kind", "odd".into())],
        ..looked_up(stand_in.watch_request(&[ORDERS]))
    });
    let mut live = weir.watch(request.clone()).await;
    assert_eq!(live.opened.feed_mode(), pb::FeedMode::Dedicated);
    let start = live.token();
    let mut events = odd_and_even(before.clone());
    events.push(Event::too_large(of_kind(100, "even")));
    events.extend(odd_and_even(after.clone()));
    if at_once {
        orders.push_at_once(events);
    } else {
        orders.push_all(events);
    }
    stand_in.push_noops(1);
    let replica = Weir::at(stand_in.uri(), |_| {}).await;
    for (got, status) in [
        rest(&mut live).await,
        to_the_end(&replica, from(&start, &request)).await,
    ] {
        assert_eq!(got, odd(before.clone()), "{what}: {status:?}");
        let info = error_info(&status);
        assert_eq!(info.reason, "UPSTREAM_EVENT_TOO_LARGE", "{what}");
        assert!(info.metadata.contains_key("event_time"), "{what}: {info:?}");
        let mut resumed = replica.watch(from(&next_token(&status), &request)).await;
        let expected = odd(after.clone());
        assert_eq!(ids(&mut resumed, expected.len()).await, expected, "{what}");
    }
    let status = to_the_end(&replica, from(&start, &request)).await.1;
    let mut resumed = replica.watch(from(&next_token(&status), &request)).await;
    ids(&mut resumed, odd(after).len()).await;
    orders.push(of_kind(201, "odd"));
    assert_eq!(ids(&mut resumed, 1).await, numbers([201]), "{what}");
}

/// Behind a mongos an empty reply does not prove which events a filter rejects.
#[tokio::test]
async fn a_filter_on_documents_loses_nothing_before_an_event_that_cannot_be_sent() {
    let each = |version| {
        let all = |(at_once, events)| Box::pin(a_filter_loses_nothing(version, at_once, events));
        [
            (false, (1..8, 8..12)),
            (false, (1..1, 1..1)),
            (false, (2..3, 3..4)),
            (true, (1..6, 6..10)),
        ]
        .map(all)
    };
    join_all(VERSIONS.into_iter().flat_map(each)).await;
}

/// The token of an insert is not in a stream of updates, and so a mongos may fail at an event that can't be
/// sent before it misses the token.
#[tokio::test]
async fn after_the_token_of_another_filter_nothing_is_lost_before_an_event_that_cannot_be_sent() {
    let plays = VERSIONS
        .into_iter()
        .flat_map(|it| [(it, false), (it, true)]);
    join_all(plays.map(async |(version, at_once)| {
        let what = format!("{:?} {at_once}", version());
        let stand_in = StandIn::start_as(version());
        let orders = stand_in.log(ORDERS);
        let weir = Weir::at(stand_in.uri(), |_| {}).await;
        let everything = stand_in.watch_request(&[ORDERS]);
        let mut watch = weir.watch(everything.clone()).await;
        let mut events = updates([1]);
        events.push(change("insert", ORDERS, 2).into());
        events.extend(updates([3, 4]));
        events.push(Event::too_large(update(5)));
        events.extend(updates([6]));
        if at_once {
            orders.push_at_once(events);
        } else {
            orders.push_all(events);
        }
        stand_in.push_noops(1);
        let changes = watch.changes(6).await;
        let insert = changes[1].resume_token.clone();
        let request = dedicated(pb::WatchRequest {
            operations: vec![pb::OperationType::Update.into()],
            ..looked_up(everything)
        });
        let replica = Weir::at(stand_in.uri(), |_| {}).await;
        for weir in [&weir, &replica] {
            let (got, status) = to_the_end(weir, from(&insert, &request)).await;
            assert_eq!(got, numbers([3, 4]), "{what}: {status:?}");
            let mut resumed = weir.watch(from(&next_token(&status), &request)).await;
            assert_eq!(ids(&mut resumed, 1).await, numbers([6]), "{what}");
        }
    }))
    .await;
}

/// A stream that shows expanded events has tokens that no other stream has, so a resume is by the time.
#[tokio::test]
async fn after_a_resume_by_time_nothing_is_lost_before_an_event_that_cannot_be_sent() {
    join_all(VERSIONS.map(async |version| {
        let what = format!("{:?}", version());
        let stand_in = StandIn::start_as(version());
        let orders = stand_in.log(ORDERS);
        let weir = Weir::at(stand_in.uri(), |_| {}).await;
        let plain = stand_in.watch_request(&[ORDERS]);
        let expanded = pb::WatchRequest {
            show_expanded_events: true,
            ..plain.clone()
        };
        let mut watch = weir.watch(expanded).await;
        orders.push(about("createIndexes", ORDERS));
        orders.push_all(updates([1, 2]));
        orders.push(Event::too_large(update(3)));
        orders.push_all(updates([4]));
        stand_in.push_noops(1);
        let index = watch.changes(5).await[0].resume_token.clone();
        let request = looked_up(plain);
        let (got, status) = to_the_end(&weir, from(&index, &request)).await;
        assert_eq!(got, numbers([1, 2]), "{what}: {status:?}");
        let mut resumed = weir.watch(from(&next_token(&status), &request)).await;
        assert_eq!(ids(&mut resumed, 1).await, numbers([4]), "{what}");
    }))
    .await;
}

/// Two of one time, as of one transaction.
#[tokio::test]
async fn two_events_of_one_time_that_cannot_be_sent_end_a_watch_once_each() {
    join_all(VERSIONS.map(async |version| {
        let what = format!("{:?}", version());
        let stand_in = StandIn::start_as(version());
        let orders = stand_in.log(ORDERS);
        let weir = Weir::at(stand_in.uri(), |_| {}).await;
        let request = looked_up(stand_in.watch_request(&[ORDERS]));
        let mut token = weir.watch(request.clone()).await.token();
        let mut events = updates([1]);
        events.push(Event::too_large(update(2)));
        events.push(Event::too_large(update(3)));
        events.extend(updates([4]));
        events.push(Event::too_large(update(5)));
        orders.push_at_once(events);
        stand_in.push_noops(1);
        for expected in [&[1][..], &[], &[4]] {
            let (got, status) = to_the_end(&weir, from(&token, &request)).await;
            assert_eq!(got, numbers(expected.iter().copied()), "{what}: {status:?}");
            token = next_token(&status);
        }
        let mut resumed = weir.watch(from(&token, &request)).await;
        orders.push(update(6));
        assert_eq!(ids(&mut resumed, 1).await, numbers([6]), "{what}");
    }))
    .await;
}

/// The collection is dropped right after the event, or after one more.
#[tokio::test]
async fn an_event_that_cannot_be_sent_may_stand_in_front_of_a_drop() {
    let plays = VERSIONS.into_iter().flat_map(|it| [(it, 3..3), (it, 3..4)]);
    join_all(plays.map(async |(version, after)| {
        for filters in [Vec::new(), vec![eq("kind", "odd".into())]] {
            let what = format!("{:?} {after:?} {filters:?}", version());
            let stand_in = StandIn::start_as(version());
            let orders = stand_in.log(ORDERS);
            let weir = Weir::at(stand_in.uri(), |_| {}).await;
            let request = dedicated(pb::WatchRequest {
                filters,
                ..looked_up(stand_in.watch_request(&[ORDERS]))
            });
            let mut watch = weir.watch(request.clone()).await;
            let mut events = odd_and_even([1]);
            events.push(Event::too_large(of_kind(2, "even")));
            events.extend(odd_and_even(after.clone()));
            events.push(about("drop", ORDERS).into());
            orders.push_all(events);
            stand_in.push_noops(1);
            let (got, status) = rest(&mut watch).await;
            assert_eq!(got, numbers([1]), "{what}: {status:?}");
            let mut resumed = weir.watch(from(&next_token(&status), &request)).await;
            let expected = odd(after.clone());
            assert_eq!(ids(&mut resumed, expected.len()).await, expected, "{what}");
            let drop = resumed.next_change().await;
            assert_eq!(drop.operation(), pb::OperationType::Drop, "{what}");
            resumed.next_invalidated().await;
        }
    }))
    .await;
}

/// A server that looks up documents before it selects shows nothing by a selection that fails. The event in
/// front of the one that can't be sent must not be taken for it.
#[tokio::test]
async fn a_server_that_fails_whatever_is_selected_loses_nothing() {
    join_all(VERSIONS.map(async |version| {
        for at_once in [false, true] {
            let what = format!("{:?} {at_once}", version());
            let stand_in = StandIn::start_as(version());
            let orders = stand_in.log(ORDERS);
            let weir = Weir::at(stand_in.uri(), |_| {}).await;
            let request = looked_up(stand_in.watch_request(&[ORDERS]));
            let mut watch = weir.watch(request.clone()).await;
            orders.push(update(1));
            assert_eq!(ids(&mut watch, 1).await, numbers([1]), "{what}");
            let last = watch.token();
            let rules = ["aggregate", "getMore"].map(|command| {
                let is_read = move |request: &Request| {
                    // The first reply of a mongos is always empty.
                    request.has_images() && (command == "getMore" || !version().is_mongos())
                };
                let fails = Rule::on(command).when(is_read);
                stand_in.play(fails.answer(ServerError::too_large()))
            });
            if at_once {
                orders.push_at_once(updates(2..5));
            } else {
                orders.push_all(updates(2..5));
            }
            stand_in.push_noops(1);
            let (got, status) = rest(&mut watch).await;
            assert_eq!(got, [], "{what}");
            let info = error_info(&status);
            assert_eq!(info.reason, "UPSTREAM_EVENT_TOO_LARGE", "{what}");
            rules.iter().for_each(Played::end);
            let next = info.metadata.get("next_token");
            let next = next.map_or(last, |it| STANDARD.decode(it).expect("base64").into());
            let mut resumed = weir.watch(from(&next, &request)).await;
            assert_eq!(
                ids(&mut resumed, 3).await,
                numbers(2..5),
                "{what}: {info:?}"
            );
        }
    }))
    .await;
}

/// A mongos does not show its oplog, and a mongod shows it to those with the right alone, but a stream from the
/// position's time shows whether it reaches back so far.
#[tokio::test]
async fn a_persistent_280_without_the_oplog_is_an_expired_token_only_when_the_history_is_gone() {
    let versions = [Version::mongos([9, 0, 1]), Version::mongod([9, 0, 0])];
    let plays = versions.iter().flat_map(|it| [(it, false), (it, true)]);
    join_all(plays.map(async |(version, is_gone)| {
        let stand_in = StandIn::start_as(version.clone());
        let orders = stand_in.log(ORDERS);
        let weir = Weir::at(stand_in.uri(), |_| {}).await;
        let request = looked_up(stand_in.watch_request(&[ORDERS]));
        let mut watch = weir.watch(request.clone()).await;
        orders.push_all(updates([1, 2]));
        ids(&mut watch, 2).await;
        if is_gone {
            stand_in.set_oldest(time(FIRST_SECOND + 1_000, 1));
        }
        stand_in.play(Rule::on("find").answer(ServerError::new(13).named("Unauthorized")));
        for command in ["getMore", "aggregate"] {
            let fails = Rule::on(command).when(Request::has_images);
            stand_in.play(fails.answer(ServerError::token_not_found()));
        }
        let (got, status) = rest(&mut watch).await;
        assert_eq!(got, []);
        let reason = if is_gone {
            "RESUME_TOKEN_EXPIRED"
        } else {
            "UPSTREAM_REFUSED"
        };
        assert_eq!(error_info(&status).reason, reason, "{version:?} {status:?}");
    }))
    .await;
}

/// The place that `Progress` names while the first replies after a resume are empty.
#[tokio::test]
async fn the_place_that_progress_names_after_a_resume_never_moves_back() {
    for version in REGRESSING {
        let (stand_in, orders, weir, watch) = with_two_events(version).await;
        let last = watch.token();
        drop(watch);
        weir.shutdown().await;
        let replica = Weir::at(stand_in.uri(), |_| {}).await;
        let request = pb::WatchRequest {
            progress_interval: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..from(&last, &stand_in.watch_request(&[ORDERS]))
        };
        let mut resumed = replica.watch(request.clone()).await;
        for _ in 0..2 {
            resumed.next_progress().await;
            let mut again = replica.watch(from(&resumed.token(), &request)).await;
            let id = stand_in.log(ORDERS).len();
            let id = i32::try_from(id).expect("a test writes few events") + 1;
            orders.push(update(id));
            assert_eq!(ids(&mut again, 1).await, numbers([id]));
            assert_eq!(ids(&mut resumed, 1).await, numbers([id]));
        }
    }
}

/// An event whose key is a string of this length.
fn long(id: &str, operation: &str, collection: &str) -> Document {
    let mut event = change(operation, collection, 0);
    event.insert("documentKey", doc! { "_id": id });
    for image in ["fullDocument", "fullDocumentBeforeChange"] {
        if let Ok(document) = event.get_document_mut(image) {
            document.insert("_id", id);
        }
    }
    event
}

/// The events of a transaction over two collections, with long and short keys.
fn transaction(name: &str) -> Vec<(&'static str, Document)> {
    let key = |number: usize| {
        format!(
            "{}{name}{number}",
            "k".repeat([9_000, 1, 1_450][number % 3])
        )
    };
    let collection = |number: usize| if number % 4 == 3 { "items" } else { ORDERS };
    let operation = |number: usize| ["insert", "update", "replace", "delete"][number % 4];
    (0..8)
        .map(|number| {
            let collection = collection(number);
            (
                collection,
                long(&key(number), operation(number), collection),
            )
        })
        .collect()
}

/// A client that handles one change a connection, on every scope, alone and shared, with and without
/// documents, and in a crowd: the same tokens, each right after its event. Two transactions have one time, as
/// on two shards.
#[tokio::test]
async fn long_keys_have_exact_tokens_on_every_scope_of_mongod_and_mongos() {
    join_all(VERSIONS.map(async |version| {
        let stand_in = StandIn::start_as(version());
        let configure = |config: &mut weir::config::ServeConfig| {
            config.allow_deployment_watch = true;
            config.feed_linger = Duration::ZERO;
        };
        let weir = Weir::at(stand_in.uri(), configure).await;
        let whole = |request: pb::WatchRequest| pb::WatchRequest {
            full_document: pb::FullDocument::UpdateLookup.into(),
            full_document_before_change: pb::FullDocumentBeforeChange::WhenAvailable.into(),
            ..request
        };
        let scopes = [
            stand_in.watch_request(&[ORDERS]),
            stand_in.watch_request(&[ORDERS, "items"]),
            stand_in.watch_request(&[]),
            pb::WatchRequest::default(),
        ];
        let mut starts = Vec::new();
        for scope in &scopes {
            starts.push(weir.watch(scope.clone()).await.token());
        }
        let at = time(FIRST_SECOND + 5, 7);
        for name in ["a", "b"] {
            for (collection, mut event) in transaction(name) {
                event.insert("clusterTime", at);
                stand_in.log(collection).push(event);
            }
        }
        stand_in.log(ORDERS).push(long("last", "update", ORDERS));
        stand_in.push_noops(1);
        for (scope, start) in scopes.iter().zip(&starts) {
            let what = format!("{:?} {scope:?}", version());
            let count = if scope.collections.len() == 1 { 13 } else { 17 };
            let mut watch = weir.watch(from(start, scope)).await;
            let all: Vec<(Bson, Bytes)> = (watch.changes(count).await.into_iter())
                .map(|change| (id(&change), change.resume_token))
                .collect();
            assert_eq!(all[count - 1].0, Bson::from("last"), "{what}");
            let tokens: HashSet<_> = all.iter().map(|(_, token)| token).collect();
            assert_eq!(tokens.len(), count, "{what}");
            let variants = [
                scope.clone(),
                dedicated(whole(pb::WatchRequest {
                    filters: vec![field(
                        "_id",
                        pb::field_filter::Operator::Ne(value("nothing".into())),
                    )],
                    ..scope.clone()
                })),
                pb::WatchRequest {
                    feed_mode: pb::FeedMode::Shared.into(),
                    document_format: pb::DocumentFormat::Json.into(),
                    ..whole(scope.clone())
                },
            ];
            // In turn, and every event in another turn on every scope.
            let mut token = start;
            for (number, (_, own)) in all.iter().enumerate() {
                let variant = &variants[(number + scope.collections.len()) % variants.len()];
                let mut one = weir.watch(from(token, variant)).await;
                assert_eq!(one.opened.start_mode(), pb::StartMode::Token, "{what}");
                let change = one.next_change().await;
                assert_eq!(change.resume_token, own, "{what} {number}");
                token = own;
            }
        }
    }))
    .await;
}

/// A shard that is slow to answer: the mongos holds its reply back and sends nothing.
#[tokio::test]
async fn a_slow_shard_does_not_hide_the_event_of_a_long_key() {
    let stand_in = StandIn::start_as(Version::mongos([9, 0, 1]));
    let weir = Weir::at(stand_in.uri(), |_| {}).await;
    let request = stand_in.watch_request(&[ORDERS]);
    let mut watch = weir.watch(request.clone()).await;
    let events = transaction("a").into_iter().filter(|(it, _)| *it == ORDERS);
    let orders = stand_in.log(ORDERS);
    orders.push_at_once(events.map(|(_, event)| event.into()));
    orders.push(update(1));
    let changes = watch.changes(7).await;
    // The long keys.
    for number in [0, 5] {
        let by_time = |request: &Request| request.has("startAtOperationTime");
        let at = changes[number].cluster_time.expect("a cluster time");
        let place = high_water_token(time(at.seconds, at.increment));
        let nothing = Answer::nothing(place).after(Duration::from_millis(950));
        let slow = stand_in.play(Rule::on("getMore").when(by_time).times(2).answer(nothing));
        let token = &changes[number].resume_token;
        assert!(token.len() < 100, "the token of a long key is a digest");
        let replica = Weir::at(stand_in.uri(), |_| {}).await;
        let mut resumed = replica.watch(from(token, &request)).await;
        let next = resumed.next_change().await;
        assert_eq!(next.resume_token, changes[number + 1].resume_token);
        assert_eq!(slow.count(), 2);
    }
}

/// SERVER-91313 in a transaction: the place after the event is its own token, which is too long to be kept.
#[tokio::test]
async fn the_place_after_an_event_with_a_long_key_that_cannot_be_sent_is_exact() {
    join_all(VERSIONS.map(async |version| {
        for at_once in [false, true] {
            let what = format!("{:?} {at_once}", version());
            let stand_in = StandIn::start_as(version());
            let orders = stand_in.log(ORDERS);
            let weir = Weir::at(stand_in.uri(), |_| {}).await;
            let request = stand_in.watch_request(&[ORDERS]);
            let mut watch = weir.watch(request.clone()).await;
            let key = |name: &str| format!("{}{name}", "k".repeat(9_000));
            let insert = |name: &str| long(&key(name), "insert", ORDERS);
            let events = [
                insert("a").into(),
                Event::too_large_to_split(insert("b")),
                insert("c").into(),
            ];
            if at_once {
                orders.push_at_once(events);
            } else {
                orders.push_all(events);
            }
            stand_in.push_noops(1);
            let (got, status) = rest(&mut watch).await;
            assert_eq!(got, [key("a").into()], "{what}: {status:?}");
            let next = next_token(&status);
            assert!(next.len() < 100, "{what}: {} bytes", next.len());
            let replica = Weir::at(stand_in.uri(), |_| {}).await;
            for weir in [&weir, &replica] {
                let mut resumed = weir.watch(from(&next, &request)).await;
                assert_eq!(ids(&mut resumed, 1).await, [key("c").into()], "{what}");
            }
        }
    }))
    .await;
}

/// A place between events is kept like that of an event.
#[tokio::test]
async fn a_place_between_events_never_moves_back() {
    for version in REGRESSING {
        let (stand_in, orders, _weir, watch) = with_two_events(version).await;
        drop(watch);
        let request = pb::WatchRequest {
            progress_interval: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            feed_mode: pb::FeedMode::Shared.into(),
            ..stand_in.watch_request(&[ORDERS])
        };
        let replica = Weir::at(stand_in.uri(), |_| {}).await;
        let mut watch = replica.watch(request).await;
        stand_in.push_noops(3);
        let place = high_water_token(stand_in.now());
        let tokens = record_tokens(&stand_in);
        while tokens.lock().expect("no panic").last() != Some(&place) {
            watch.next_progress().await;
            stand_in.play(
                Rule::on("getMore")
                    .once()
                    .answer(ServerError::stepped_down()),
            );
        }
        // It is lost again and again after the empty reply that lies before it.
        for _ in 0..3 {
            let lost = lose(&stand_in, true);
            eventually("the feed was lost", async || lost.count() == 1).await;
        }
        orders.push(update(3));
        assert_eq!(ids(&mut watch, 1).await, numbers([3]));
        let resumed_from = tokens.lock().expect("no panic").clone();
        let first = resumed_from.iter().position(|token| *token == place);
        let since = &resumed_from[first.expect("it was reached")..];
        assert!(since.iter().all(|token| *token == place), "{since:?}");
    }
}
