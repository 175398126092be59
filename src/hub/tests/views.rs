//! Tests of views: each client sees only its own part of a shared stream.

use prost::Message as _;

use super::*;
use crate::{
    error::UndeliverableEvent,
    filter::{Condition, Predicate},
    model::{FieldMask, TokenAudience},
    pipeline::{Plan, View},
    wire::{ResumeToken, TokenContext, TokenKeys},
};

const FORMATS: [Format; 4] = [
    Format::Bson,
    Format::Json,
    Format::CanonicalJson,
    Format::Struct,
];

const TENANTS: u32 = 5;

fn token_audience(number: u32) -> Option<TokenAudience> {
    Some(TokenAudience(u64::from(number).to_be_bytes()))
}

fn row_filter(tenant: u32) -> Predicate {
    Predicate::Field {
        path: "tenant".to_owned(),
        op: Condition::Eq(name(tenant).into()),
    }
}

/// The name of a tenant. No name contains another one.
fn name(tenant: u32) -> String {
    format!("<{tenant}>")
}

/// Documents of one tenant, without some of their fields.
fn of_tenant(tenant: u32, hidden: &[&str]) -> View {
    let hidden = hidden.iter().map(|&path| path.to_owned());
    View {
        row_filter: Some(row_filter(tenant).into()),
        field_mask: FieldMask::hiding(hidden).unwrap(),
        token_audience: token_audience(tenant),
    }
}

fn watch_in(request: pb::WatchRequest, view: View) -> Arc<Watch> {
    let mut watch = Watch::clone(&watch(request));
    watch.restrict_to(&view);
    Arc::new(watch)
}

fn shared() -> pb::WatchRequest {
    pb::WatchRequest {
        feed_mode: pb::FeedMode::Shared.into(),
        ..request()
    }
}

/// The insert of a tenant's document. Each of its values names the tenant.
fn insert_of(tenant: u32, increment: u32) -> bson::Document {
    let (id, of) = (format!("{increment}"), name(tenant));
    let document = doc! {
        "_id": &id, "tenant": &of, "iban": format!("iban{of}"),
        "orders": [{ "price": format!("price{of}") }, { "name": format!("name{of}") }],
    };
    let fields = doc! { "documentKey": { "_id": &id }, "fullDocument": document };
    event(&id, "insert", increment, fields)
}

fn inserts(increments: std::ops::Range<u32>) -> Batch {
    let events: Vec<_> = increments
        .map(|increment| insert_of(increment % TENANTS, increment))
        .collect();
    batch(&events)
}

/// Reads everything that is available now, and checks each event in every format against the view. Returns
/// the names of the events.
async fn read_own_events(client: &mut Client, tenant: u32) -> Vec<String> {
    let mut names = Vec::new();
    // The clock is paused, so this returns once nothing else can run.
    tokio::time::sleep(Duration::from_secs(1)).await;
    loop {
        let next = poll_fn(|context| {
            Poll::Ready(match client.watcher.poll_read(context, &client.token) {
                Poll::Ready(read) => Some(read),
                Poll::Pending => None,
            })
        });
        let selection = match next.await {
            Some(WatcherRead::Events(selection)) => selection,
            Some(_) => continue,
            None => return names,
        };
        for format in FORMATS {
            let rendering = Arc::new(Rendering {
                format,
                ..Rendering::clone(&client.rendering)
            });
            let encoded = selection.encoded(&rendering);
            for at in 0..selection.len() {
                assert_matches_view(&encoded.event(at).message(), tenant, client);
            }
        }
        let encoded = selection.encoded(&client.rendering);
        for at in 0..selection.len() {
            let change = pb::ChangeEvent::decode(encoded.event(at).message()).unwrap();
            client.token = change.resume_token.to_vec();
            names.push(selection.event(at).cluster_time.increment.to_string());
        }
    }
}

fn assert_matches_view(message: &[u8], tenant: u32, client: &Client) {
    let has = |text: &str| message.windows(text.len()).any(|it| it == text.as_bytes());
    for other in 0..TENANTS {
        assert_eq!(has(&name(other)), other == tenant, "{tenant} sees {other}");
    }
    let hidden = client.rendering.mask.hidden_paths();
    for (path, value) in [
        ("tenant", name(tenant)),
        ("iban", format!("iban{}", name(tenant))),
        ("orders.price", format!("price{}", name(tenant))),
        ("orders.name", format!("name{}", name(tenant))),
    ] {
        let visible = !hidden.iter().any(|it| it == path);
        assert_eq!(has(&value), visible, "{path}, where {hidden:?} are hidden");
    }
    let change = pb::ChangeEvent::decode(message).unwrap();
    let token = ResumeToken::decode(&change.resume_token, None).unwrap();
    assert_eq!(token.token_audience(), client.rendering.audience);
}

/// Views of the same events, in pairs with one difference.
fn views() -> Vec<(u32, View)> {
    let mut views = Vec::new();
    for tenant in 0..TENANTS {
        for hidden in [
            &[][..],
            &["iban"],
            &["orders.price"],
            &["iban", "orders.price"],
        ] {
            views.push((tenant, of_tenant(tenant, hidden)));
            // With another token audience.
            let view = of_tenant(tenant, hidden);
            let token_audience = token_audience(tenant + 100);
            views.push((
                tenant,
                View {
                    token_audience,
                    ..view
                },
            ));
        }
    }
    views
}

/// An event that was encoded for one view is never sent to another view.
#[tokio::test(start_paused = true)]
async fn no_two_views_mix_on_a_shared_stream() {
    let source = ScriptedSource::new([cursor(vec![
        quiet("t0", 0),
        // Later than the start time of every watch.
        inserts(2_000..2_200),
        inserts(2_200..3_000),
    ])]);
    let hub = hub(&source);
    let views = views();
    let opening = views
        .iter()
        .map(|(_, view)| watch_in(shared(), view.clone()))
        .map(|watch| {
            let hub = hub.clone();
            async move { Client::open(&hub, &watch).await }
        });
    let mut clients = futures::future::join_all(opening).await;
    for (client, (tenant, _)) in clients.iter_mut().zip(&views) {
        let names = read_own_events(client, *tenant).await;
        let own = (2_000..3_000).filter(|it| it % TENANTS == *tenant);
        assert_eq!(names, own.map(|it| it.to_string()).collect::<Vec<_>>());
    }
    assert_eq!(source.requested_positions(), [None], "one stream for all");
}

/// During catch-ups, each with its own stream, and when they join the ring.
#[tokio::test(start_paused = true)]
async fn no_two_views_mix_during_catch_ups() {
    let catching_up = || cursor(vec![inserts(2..300), inserts(300..401)]);
    let views: Vec<_> = views().into_iter().take(2 * 2 * 4).collect();
    let live = cursor(vec![quiet("t0", 400), inserts(400..500)]);
    let openings = std::iter::once(live).chain(views.iter().map(|_| catching_up()));
    let source = ScriptedSource::new(openings);
    let settings = HubSettings {
        max_catch_ups: views.len(),
        ..settings()
    };
    let hub = hub_with(&source, settings);
    let plan = Plan::shared(&watch(request()));
    for (tenant, view) in &views {
        let token =
            TokenContext::new("rs", &plan).encode(&after("1", 1), None, view.token_audience);
        let request = pb::WatchRequest {
            start: Some(pb::watch_request::Start::ResumeToken(token)),
            ..shared()
        };
        let mut client = Client::open(&hub, &watch_in(request, view.clone())).await;
        let names = read_own_events(&mut client, *tenant).await;
        let own = (2..500).filter(|it| it % TENANTS == *tenant);
        assert_eq!(names, own.map(|it| it.to_string()).collect::<Vec<_>>());
    }
    assert!(
        source.requested_positions().len() > views.len(),
        "each watch caught up by itself"
    );
}

#[tokio::test(start_paused = true)]
async fn a_thousand_watches_of_one_view_share_one_encoding() {
    let source = ScriptedSource::new([cursor(vec![quiet("t0", 0), inserts(2_000..2_100)])]);
    let hub = hub(&source);
    let open = |tenant| {
        // Views that are equal by value only.
        let watch = watch_in(shared(), of_tenant(tenant, &["iban"]));
        let hub = hub.clone();
        async move { Client::open(&hub, &watch).await }
    };
    let opening = (0..1_000).map(|_| open(1)).chain([open(2)]);
    let mut clients = futures::future::join_all(opening).await;
    for client in &mut clients {
        assert_eq!(
            client.see_all().await.len(),
            21,
            "20 events, and that it is live"
        );
    }
    assert_eq!(metric(&hub, "weir_event_encodings_total"), 40.0);
}

#[tokio::test(start_paused = true)]
async fn a_dedicated_feed_applies_the_row_filter_in_mongodb_and_in_weir() {
    let source = ScriptedSource::new([cursor(vec![quiet("t0", 0), inserts(1..11)])]);
    let hub = hub(&source);
    let mut client = Client::open(&hub, &watch_in(request(), of_tenant(1, &[]))).await;
    assert_eq!(client.watcher.mode(), Mode::Dedicated);
    assert_eq!(read_own_events(&mut client, 1).await, ["1", "6"]);
    let plans = source.plans.lock().unwrap();
    let stages = format!("{:?}", plans[0].0.stages());
    assert!(
        stages.contains("<1>") && !stages.contains("<2>"),
        "{stages}"
    );
}

/// A token of a watch in `view`.
fn token_of(view: &View, keys: Option<&Arc<TokenKeys>>) -> bytes::Bytes {
    TokenContext::new("rs", &Plan::shared(&watch(request())))
        .with_keys(keys.cloned())
        .encode(&after("1", 1), None, view.token_audience)
}

fn keys(lines: &[&str]) -> Arc<TokenKeys> {
    Arc::new(TokenKeys::parse(&lines.join("\n")).unwrap())
}

const KEY_A: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
const KEY_B: &str = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=";

/// Starts a watch in a view with a token. Returns the error text, if it is rejected.
async fn refused(
    token: bytes::Bytes,
    view: &View,
    keys: Option<&Arc<TokenKeys>>,
) -> Option<String> {
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 0)]),
        cursor(vec![batch(&[insert("b", 2)])]),
    ]);
    let settings = HubSettings {
        token_keys: keys.cloned(),
        ..settings()
    };
    let hub = hub_with(&source, settings);
    let request = pb::WatchRequest {
        start: Some(pb::watch_request::Start::ResumeToken(token)),
        ..shared()
    };
    match hub.subscribe(&watch_in(request, view.clone())).await {
        Ok(_) => None,
        Err(error) => {
            assert!(source.requested_positions().is_empty(), "MongoDB was asked");
            Some(format!("{}: {error}", error.reason()))
        }
    }
}

/// A token of tenant A that tenant B uses is rejected, and the error reveals nothing about A.
#[tokio::test(start_paused = true)]
async fn a_token_of_another_audience_is_rejected_in_both_directions() {
    let views = [View::unrestricted(), of_tenant(1, &[]), of_tenant(2, &[])];
    for keys in [None, Some(keys(&[KEY_A]))] {
        for (of, made_by) in views.iter().enumerate() {
            for (by, used_by) in views.iter().enumerate() {
                let token = token_of(made_by, keys.as_ref());
                let refused = refused(token, used_by, keys.as_ref()).await;
                let expected = (of != by).then_some(
                    "RESUME_TOKEN_MISMATCH: resume_token belongs to another principal's view, or to one \
                     that has changed: continue with start_time 100",
                );
                assert_eq!(refused.as_deref(), expected, "{of} by {by}");
            }
        }
    }
    // A token of another scope too: the error must not reveal the scope.
    let elsewhere = Plan::shared(&watch(pb::WatchRequest {
        collections: vec!["secrets".to_owned()],
        ..request()
    }));
    let token = TokenContext::new("other", &elsewhere).encode(
        &after("1", 1),
        None,
        views[1].token_audience,
    );
    let words = refused(token, &views[2], None).await.unwrap();
    assert!(words.contains("principal"), "{words}");
}

/// Without a key anybody can forge a token for any audience.
#[tokio::test(start_paused = true)]
async fn with_keys_an_unencrypted_token_is_accepted_only_for_an_unrestricted_view() {
    let keys = keys(&[KEY_A]);
    let hiding = View {
        field_mask: FieldMask::hiding(["a".to_owned()]).unwrap(),
        ..View::unrestricted()
    };
    let filtered = View {
        row_filter: Some(row_filter(1).into()),
        ..View::unrestricted()
    };
    for (view, taken) in [
        (View::unrestricted(), true),
        (of_tenant(1, &[]), false),
        (hiding, false),
        (filtered, false),
    ] {
        let refused = refused(token_of(&view, None), &view, Some(&keys)).await;
        assert_eq!(refused.is_none(), taken, "{refused:?}");
        let reason = refused.unwrap_or_default();
        assert!(
            taken || reason.starts_with("RESUME_TOKEN_MISMATCH"),
            "{reason}"
        );
        let encrypted = token_of(&view, Some(&keys));
        assert_eq!(self::refused(encrypted, &view, Some(&keys)).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn keys_can_be_rotated_one_replica_after_another() {
    let view = of_tenant(1, &[]);
    let (old, new) = (keys(&[KEY_A]), keys(&[KEY_B]));
    let (knowing, changed) = (keys(&[KEY_A, KEY_B]), keys(&[KEY_B, KEY_A]));
    for (made, used, taken) in [
        (&old, &knowing, true),
        (&knowing, &old, true),
        (&knowing, &changed, true),
        (&changed, &knowing, true),
        (&changed, &new, true),
        (&changed, &old, false),
        (&old, &new, false),
    ] {
        let refused = refused(token_of(&view, Some(made)), &view, Some(used)).await;
        assert_eq!(refused.is_none(), taken, "{refused:?}");
        let words = refused.unwrap_or_default();
        assert!(taken || words.contains("does not have"), "{words}");
    }
    let words = refused(token_of(&view, Some(&old)), &view, None)
        .await
        .unwrap();
    assert!(words.starts_with("RESUME_TOKEN_MALFORMED"), "{words}");
    assert!(words.contains("no token keys"), "{words}");
}

/// The tokens of the start, of events and of progress, also after the watch has fallen behind.
#[tokio::test(start_paused = true)]
async fn every_token_of_a_watch_is_encrypted_and_for_its_audience() {
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 0), inserts(1..11), quiet("t1", 20)]),
        cursor(vec![batch(&[insert_of(1, 11)]), quiet("t2", 30)]),
    ]);
    let keys = keys(&[KEY_A]);
    let settings = HubSettings {
        token_keys: Some(Arc::clone(&keys)),
        ..settings()
    };
    let hub = hub_with(&source, settings);
    let mut client = Client::open(&hub, &watch_in(shared(), of_tenant(1, &[]))).await;
    let right = |token: &[u8]| {
        let token = ResumeToken::decode(token, Some(&keys)).unwrap();
        assert!(token.was_encrypted());
        assert_eq!(token.token_audience(), token_audience(1));
    };
    right(&client.token);
    let seen = client.see_all().await;
    assert!(seen.contains(&event_named("6")), "{seen:?}");
    right(&client.token);
    let (_, token) = client.watcher.progress().expect("all was read");
    right(&token);
    client.token = token.to_vec();
    client.watcher.rewind();
    let seen = client.see_all().await;
    assert!(
        !seen.iter().any(|it| matches!(it, Seen::Ended(_))),
        "{seen:?}"
    );
}

fn undeliverable(error: Error) -> UndeliverableEvent {
    match error {
        Error::ImageUnavailable(undeliverable) | Error::UpstreamEventTooLarge(undeliverable) => {
            undeliverable
        }
        other => panic!("{other:?}"),
    }
}

/// The event that a stream fails at may belong to another client: the error has neither its time nor a
/// readable token.
#[tokio::test(start_paused = true)]
async fn an_undeliverable_event_is_not_described_to_clients_that_may_not_see_it() {
    let hiding = View {
        field_mask: FieldMask::hiding(["a".to_owned()]).unwrap(),
        token_audience: token_audience(9),
        ..View::unrestricted()
    };
    for encrypts in [false, true] {
        for (view, open) in [
            (View::unrestricted(), true),
            (hiding.clone(), true),
            (of_tenant(1, &[]), false),
        ] {
            let source = ScriptedSource::new([
                cursor_that_fails(vec![quiet("t0", 0)], Failure::EventTooLarge),
                Opening::Fail(Failure::EventTooLarge),
                cursor(vec![batch(&[insert_of(2, 4)]), quiet("t1", 5)]),
                Opening::Fail(Failure::EventTooLarge),
                cursor(vec![quiet("t1", 5)]),
                cursor(vec![quiet("t1", 5)]),
            ]);
            let keys = encrypts.then(|| keys(&[KEY_A]));
            let settings = HubSettings {
                token_keys: keys.clone(),
                ..settings()
            };
            let hub = hub_with(&source, settings);
            let mut client = Client::open(&hub, &watch_in(shared(), view.clone())).await;
            let seen = client.see(10).await;
            assert!(
                seen.contains(&Seen::Ended("UPSTREAM_EVENT_TOO_LARGE")),
                "{seen:?}"
            );
            let undeliverable = undeliverable(end_of(&mut client).await);
            assert_eq!(undeliverable.time, open.then(|| at(4)));
            assert_eq!(undeliverable.next_token.is_some(), open || encrypts);
            if let Some(token) = undeliverable.next_token {
                let token = ResumeToken::decode(&token, keys.as_deref()).unwrap();
                assert_eq!(token.was_encrypted(), encrypts);
                assert_eq!(token.token_audience(), view.token_audience);
                assert_eq!(token.position, Position::Time(at(5)));
            }
        }
    }
}

/// On a quiet collection a catch-up asks whether a matching event is left; rows of others do not count.
#[tokio::test(start_paused = true)]
async fn rows_that_a_row_filter_rejects_do_not_delay_joining() {
    let source = ScriptedSource::new([
        cursor(vec![quiet("t0", 5), batch(&[])]),
        cursor(vec![batch(&[insert_of(2, 3)]), quiet("t1", 5)]),
        cursor(vec![batch(&[insert_of(2, 4), insert_of(2, 2_000)])]),
    ]);
    let hub = hub(&source);
    let view = of_tenant(1, &[]);
    let token = token_of(&view, None);
    let request = pb::WatchRequest {
        start: Some(pb::watch_request::Start::ResumeToken(token)),
        ..shared()
    };
    let mut client = Client::open(&hub, &watch_in(request, view)).await;
    let names = read_own_events(&mut client, 1).await;
    assert!(names.is_empty(), "{names:?}");
}
