//! Every token that Weir hands out works, whichever message it came with and whatever the next
//! request is.

use crate::support::{Database, WatchStream, Weir, error_reason, within};
use bytes::Bytes;
use mongodb::bson::{Document, doc};
use pb::field_filter::Operator;
use prost_types::value::Kind as ValueKind;
use weir::pb;
use weir::pb::watch_request::Start;
use weir::pb::watch_response::Kind;

fn after(token: &Bytes, request: pb::WatchRequest) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(Start::ResumeToken(token.clone())),
        ..request
    }
}

async fn insert(database: &Database, id: i32) {
    let orders = database.collection("orders");
    orders
        .insert_one(doc! {"_id": id})
        .await
        .expect("an insert");
}

fn document(change: &pb::ChangeEvent) -> Option<Document> {
    let Some(pb::change_event::Change::Insert(insert)) = &change.change else {
        return None;
    };
    match insert.full_document.as_ref()?.value.as_ref()? {
        pb::document::Value::Bson(bytes) => Document::from_reader(&bytes[..]).ok(),
        other => panic!("expected BSON, got {other:?}"),
    }
}

fn id(change: &pb::ChangeEvent) -> i32 {
    let document = document(change).expect("an insert");
    document.get_i32("_id").expect("a number")
}

/// The changes in a message, each with its token.
fn changed(message: &pb::WatchResponse) -> Vec<(String, Bytes)> {
    match message.kind.as_ref().expect("a kind this test knows") {
        Kind::Changes(batch) => batch
            .changes
            .iter()
            .map(|change| {
                let what = document(change).map_or_else(
                    || change.operation().as_str_name().to_owned(),
                    |document| document.get_i32("_id").expect("a number").to_string(),
                );
                (what, change.resume_token.clone())
            })
            .collect(),
        Kind::EventChunk(chunk) if chunk.last => {
            vec![("large".to_owned(), message.resume_token.clone())]
        }
        Kind::Invalidated(_) => vec![("invalidated".to_owned(), message.resume_token.clone())],
        Kind::Opened(_) | Kind::Progress(_) | Kind::StateChange(_) | Kind::EventChunk(_) => {
            Vec::new()
        }
    }
}

/// Everything that a watch delivers up to its end, or up to the last change.
async fn all_changes(watch: &mut WatchStream) -> Vec<String> {
    let mut all = Vec::new();
    while let Ok(Some(message)) = watch.try_next().await {
        all.extend(changed(&message).into_iter().map(|(what, _)| what));
        if all.last().is_some_and(|what| what == "7") {
            break;
        }
    }
    all
}

/// After a token comes what followed it, whichever message it came with.
#[tokio::test]
async fn every_message_carries_a_token_that_is_followed_by_exactly_the_rest() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let request = || pb::WatchRequest {
        max_message_bytes: 64 << 10,
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..database.watch_request(&["orders"])
    };
    let orders = database.collection("orders");
    let mut watch = weir.watch(request()).await;
    // Each message's kind and token, and the number of changes before it.
    let mut tokens = vec![("Opened", watch.token(), 0)];
    let mut reported: Vec<String> = Vec::new();

    let mut step = 0;
    loop {
        let message = match watch.try_next().await {
            Ok(message) => message.expect("the drop ends the watch"),
            Err(status) => {
                assert_eq!(error_reason(&status), "WATCH_INVALIDATED");
                break;
            }
        };
        for (what, token) in changed(&message) {
            reported.push(what);
            tokens.push(("an event", token, reported.len()));
        }
        let kind = match &message.kind {
            Some(Kind::StateChange(_)) => "StateChange",
            Some(Kind::Changes(_)) => "Changes",
            Some(Kind::EventChunk(_)) => "EventChunk",
            Some(Kind::Progress(_)) => "Progress",
            Some(Kind::Invalidated(_)) => "Invalidated",
            other => panic!("unexpected {other:?}"),
        };
        tokens.push((kind, message.resume_token.clone(), reported.len()));
        // The next step follows once the one before it was delivered.
        step += 1;
        match (kind, reported.len()) {
            ("StateChange", 0) => insert(&database, 1).await,
            ("Changes", 1) => {
                let many = (2..5).map(|id| doc! {"_id": id});
                orders.insert_many(many).await.expect("inserts");
            }
            ("Changes", 4) => {
                let large = doc! {"_id": 5, "text": "x".repeat(200 << 10)};
                orders.insert_one(large).await.expect("an insert");
            }
            ("Progress", 5) => insert(&database, 6).await,
            ("Changes", 6) => orders.drop().await.expect("a drop"),
            _ => assert!(step < 100, "{reported:?}"),
        }
    }
    let whole = ["1", "2", "3", "4", "large", "6"];
    let gone = ["OPERATION_TYPE_DROP", "invalidated"];
    assert_eq!(reported, [&whole[..], &gone].concat());
    for kind in [
        "Opened",
        "StateChange",
        "Changes",
        "EventChunk",
        "Progress",
        "Invalidated",
    ] {
        assert!(tokens.iter().any(|(it, ..)| *it == kind), "no {kind}");
    }

    insert(&database, 7).await;
    for (kind, token, seen) in tokens {
        let mut resumed = weir.watch(after(&token, request())).await;
        assert_eq!(resumed.opened.start_mode(), pb::StartMode::Token);
        assert_eq!(resumed.token(), token, "a position has one token");
        let rest = within("the rest", all_changes(&mut resumed)).await;
        let expected = match &reported[seen..] {
            [] => vec!["7".to_owned()],
            // Between the drop and the invalidate: MongoDB sends the invalidate again. The stand-in
            // continues with what comes later.
            [last] if rest == ["7"] => {
                assert_eq!(last, "invalidated");
                continue;
            }
            rest => rest.to_vec(),
        };
        assert_eq!(rest, expected, "after {kind} {seen}");
    }
}

/// A message that waits to be sent at the shutdown has not been delivered, so the last token must
/// not cover it.
#[tokio::test]
async fn the_last_token_at_a_shutdown_covers_only_what_was_delivered() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let request = pb::WatchRequest {
        max_message_bytes: 64 << 10,
        ..database.watch_request(&["orders"])
    };
    let mut watch = weir.watch(request.clone()).await;
    insert(&database, 1).await;
    let before = watch.next_change().await.resume_token;
    // More than the buffers between them, so that pieces are left at the end.
    let large = doc! {"_id": 2, "text": "x".repeat(8 << 20)};
    let orders = database.collection("orders");
    orders.insert_one(large).await.expect("an insert");
    watch
        .until("the first piece", |kind| {
            matches!(kind, Kind::EventChunk(_)).then_some(())
        })
        .await;

    let (last, ()) = tokio::join!(
        async {
            let mut last = watch.token();
            while let Ok(Some(message)) = watch.try_next().await {
                assert!(
                    !matches!(&message.kind, Some(Kind::EventChunk(chunk)) if chunk.last),
                    "the buffers took the whole event; it must be larger"
                );
                last = message.resume_token;
            }
            last
        },
        weir.shutdown(),
    );
    assert_eq!(last, before);

    let other = Weir::start(&database).await;
    let mut resumed = other.watch(after(&last, request)).await;
    assert_eq!(id(&resumed.next_change().await), 2);
}

fn text(text: &str) -> prost_types::Value {
    prost_types::Value {
        kind: Some(ValueKind::StringValue(text.to_owned())),
    }
}

fn number(number: f64) -> prost_types::Value {
    prost_types::Value {
        kind: Some(ValueKind::NumberValue(number)),
    }
}

fn list(value: prost_types::Value) -> prost_types::ListValue {
    prost_types::ListValue {
        values: vec![value],
    }
}

fn field(path: &str, operator: Operator) -> pb::Filter {
    pb::Filter {
        kind: Some(pb::filter::Kind::Field(pb::FieldFilter {
            path: path.to_owned(),
            operator: Some(operator),
        })),
    }
}

/// Every kind of condition; each passes the new order and not the old one.
fn filters() -> Vec<pb::Filter> {
    use pb::filter::Kind::{AllOf, AnyOf, NoneOf};
    let new = || field("status", Operator::Eq(text("new")));
    let old = || field("status", Operator::Eq(text("old")));
    let group = |filters| pb::FilterGroup { filters };
    let of = |kind| pb::Filter { kind: Some(kind) };
    vec![
        new(),
        field("status", Operator::Ne(text("old"))),
        field("total", Operator::Gt(number(4.0))),
        field("total", Operator::Gte(number(5.0))),
        field("age", Operator::Lt(number(5.0))),
        field("age", Operator::Lte(number(4.0))),
        field("status", Operator::In(list(text("new")))),
        field("status", Operator::NotIn(list(text("old")))),
        field("total", Operator::Exists(true)),
        field("expired", Operator::Exists(false)),
        field("status", Operator::Prefix("ne".to_owned())),
        field(
            "status",
            Operator::Regex(pb::RegexFilter {
                pattern: "^N.w$".to_owned(),
                options: "i".to_owned(),
            }),
        ),
        field("_id", Operator::Eq(number(2.0))),
        of(AllOf(group(vec![new(), new()]))),
        of(AnyOf(group(vec![
            new(),
            field("x", Operator::Exists(true)),
        ]))),
        of(NoneOf(group(vec![old()]))),
    ]
}

/// Every option that may differ between a watch and its resume.
fn request_variants(request: &pb::WatchRequest) -> Vec<pb::WatchRequest> {
    let request = || request.clone();
    let insert = pb::OperationType::Insert.into();
    let mut ways = vec![
        request(),
        pb::WatchRequest {
            operations: vec![insert],
            ..request()
        },
        pb::WatchRequest {
            operations: vec![insert, pb::OperationType::Other.into()],
            ..request()
        },
        pb::WatchRequest {
            full_document: pb::FullDocument::UpdateLookup.into(),
            ..request()
        },
        pb::WatchRequest {
            full_document_before_change: pb::FullDocumentBeforeChange::WhenAvailable.into(),
            ..request()
        },
        pb::WatchRequest {
            show_expanded_events: true,
            ..request()
        },
        pb::WatchRequest {
            invalidate_policy: pb::InvalidatePolicy::Continue.into(),
            ..request()
        },
    ];
    ways.extend(filters().into_iter().map(|filter| pb::WatchRequest {
        filters: vec![filter],
        missing_image_policy: pb::MissingImagePolicy::Drop.into(),
        ..request()
    }));
    ways
}

/// The changes after the token come, for each scope and each request; a watch that silently started
/// from now would miss them.
async fn check_that_a_token_works(scope: impl Fn(&Database) -> pb::WatchRequest) {
    let database = Database::start().await;
    let weir = Weir::with(&database, |config| config.allow_deployment_watch = true).await;
    let orders = database.collection("orders");
    let first = doc! {"_id": 0, "status": "old", "age": 9, "expired": true};
    orders.insert_one(first).await.expect("an insert");

    let request = pb::WatchRequest {
        progress_interval: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..scope(&database)
    };
    let mut watch = weir.watch(request.clone()).await;
    let mut tokens = vec![("Opened", watch.token())];
    let old = doc! {"_id": 1, "status": "old", "age": 9, "expired": true};
    orders.insert_one(old).await.expect("an insert");
    tokens.push(("an event", watch.next_change().await.resume_token));
    watch.next_progress().await;
    tokens.push(("Progress", watch.token()));
    drop(watch);
    let new = doc! {"_id": 2, "status": "new", "age": 1, "total": 5};
    orders.insert_one(new).await.expect("an insert");

    let mut client = weir.client().await;
    for (made_with, token) in &tokens {
        for ask in request_variants(&request) {
            println!("the token of {made_with} for {ask:?}");
            let resumed = WatchStream::open(&mut client, after(token, ask.clone())).await;
            let mut resumed = resumed.expect("the token is taken");
            let filtered = !ask.filters.is_empty();
            if *made_with == "Opened" && !filtered {
                assert_eq!(id(&resumed.next_change().await), 1);
            }
            assert_eq!(id(&resumed.next_change().await), 2);
        }
    }
}

#[tokio::test]
async fn a_token_of_a_collection_works_with_every_request() {
    check_that_a_token_works(|database| database.watch_request(&["orders"])).await;
}

#[tokio::test]
async fn a_token_of_several_collections_works_with_every_request() {
    check_that_a_token_works(|database| database.watch_request(&["orders", "items"])).await;
}

#[tokio::test]
async fn a_token_of_a_database_works_with_every_request() {
    check_that_a_token_works(|database| database.watch_request(&[])).await;
}

#[tokio::test]
async fn a_token_of_the_deployment_works_with_every_request() {
    check_that_a_token_works(|_| pb::WatchRequest::default()).await;
}
