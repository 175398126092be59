//! The `match` of a change, and the paths that it touched: the same whether MongoDB or Weir
//! filters.

use crate::conversions::{eq, field, id, operation};
use crate::support::{Database, WatchStream, Weir};
use mongodb::bson::{Bson, Document, doc};
use pb::FilterMatch::{Entered, Left, Stayed, Unspecified};
use pb::field_filter::Operator;
use serde_json::json;
use weir::pb;

const MODES: [pb::FeedMode; 2] = [pb::FeedMode::Shared, pb::FeedMode::Dedicated];

/// Passes every filter of this file when it is inserted.
const MARK: &str = "mark";

fn or_mark(filter: pb::Filter) -> pb::Filter {
    let mark = eq("_id", json!(MARK));
    pb::Filter {
        kind: Some(pb::filter::Kind::AnyOf(pb::FilterGroup {
            filters: vec![filter, mark],
        })),
    }
}

/// The changes before the mark, all of which have then been read and looked up. (The stand-in for
/// MongoDB looks post-images up when it reads an event, where MongoDB stores them.)
async fn read_transitions(
    database: &Database,
    watch: &mut WatchStream,
) -> Vec<(String, pb::FilterMatch)> {
    let orders = database.collection("orders");
    orders.insert_one(doc! {"_id": MARK}).await.unwrap();
    let mut transitions = Vec::new();
    loop {
        let change = watch.next_change().await;
        if id(&change) == Bson::from(MARK) {
            break;
        }
        transitions.push((operation(&change), change.r#match()));
    }
    orders.delete_one(doc! {"_id": MARK}).await.unwrap();
    while id(&watch.next_change().await) != Bson::from(MARK) {}
    transitions
}

async fn with_images(database: &Database, kept: bool) -> mongodb::Collection<Document> {
    let create = doc! {"create": "orders", "changeStreamPreAndPostImages": {"enabled": kept}};
    database.database().run_command(create).await.unwrap();
    database.collection("orders")
}

#[tokio::test]
async fn match_says_whether_a_document_entered_stayed_or_left() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    for mode in MODES {
        let orders = with_images(&database, true).await;
        let mut watch = weir
            .watch(pb::WatchRequest {
                filters: vec![or_mark(eq("status", json!("new")))],
                feed_mode: mode.into(),
                full_document: pb::FullDocument::WhenAvailable.into(),
                full_document_before_change: pb::FullDocumentBeforeChange::WhenAvailable.into(),
                ..database.watch_request(&["orders"])
            })
            .await;
        assert_eq!(watch.opened.feed_mode(), mode);
        let one = || doc! {"_id": 1};
        let set = async |change: Document| {
            let update = orders.update_one(one(), doc! {"$set": change});
            update.await.unwrap();
        };
        let mut transitions = async || read_transitions(&database, &mut watch).await;
        let only = |operation: &str, matched| vec![(operation.to_owned(), matched)];

        orders
            .insert_one(doc! {"_id": 1, "status": "new"})
            .await
            .unwrap();
        assert_eq!(transitions().await, only("insert", Entered));
        set(doc! {"total": 5}).await;
        assert_eq!(transitions().await, only("update", Stayed));
        set(doc! {"status": "paid"}).await;
        assert_eq!(transitions().await, only("update", Left));
        set(doc! {"total": 6}).await;
        assert_eq!(transitions().await, []);
        set(doc! {"status": "new"}).await;
        assert_eq!(transitions().await, only("update", Entered));
        orders
            .replace_one(one(), doc! {"status": "new"})
            .await
            .unwrap();
        assert_eq!(transitions().await, only("replace", Stayed));
        orders
            .replace_one(one(), doc! {"status": "paid"})
            .await
            .unwrap();
        assert_eq!(transitions().await, only("replace", Left));
        orders.delete_one(one()).await.unwrap();
        assert_eq!(transitions().await, []);
        orders
            .insert_one(doc! {"_id": 1, "status": "paid"})
            .await
            .unwrap();
        assert_eq!(transitions().await, []);
        orders
            .replace_one(one(), doc! {"status": "new"})
            .await
            .unwrap();
        assert_eq!(transitions().await, only("replace", Entered));
        orders.delete_one(one()).await.unwrap();
        assert_eq!(transitions().await, only("delete", Left));
        orders.drop().await.unwrap();
    }
}

/// Without a pre-image or without a filter there is nothing to compare.
#[tokio::test]
async fn match_is_unset_when_it_is_unknown() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    for mode in MODES {
        for (kept, before, filtered) in [
            (false, true, true),
            (true, false, true),
            (true, true, false),
        ] {
            let orders = with_images(&database, kept).await;
            let filter = or_mark(eq("status", json!("new")));
            let before = if before {
                pb::FullDocumentBeforeChange::WhenAvailable
            } else {
                pb::FullDocumentBeforeChange::Off
            };
            let mut watch = weir
                .watch(pb::WatchRequest {
                    filters: filtered.then_some(filter).into_iter().collect(),
                    feed_mode: mode.into(),
                    full_document: pb::FullDocument::UpdateLookup.into(),
                    full_document_before_change: before.into(),
                    operations: vec![
                        pb::OperationType::Insert.into(),
                        pb::OperationType::Update.into(),
                        pb::OperationType::Delete.into(),
                    ],
                    ..database.watch_request(&["orders"])
                })
                .await;
            orders
                .insert_one(doc! {"_id": 1, "status": "new"})
                .await
                .unwrap();
            let inserted = read_transitions(&database, &mut watch).await;
            let set = doc! {"$set": {"total": 5}};
            orders.update_one(doc! {"_id": 1}, set).await.unwrap();
            let updated = read_transitions(&database, &mut watch).await;
            assert_eq!(
                updated,
                [("update".to_owned(), Unspecified)],
                "{kept} {before:?}"
            );
            // Before an insert there is no document, which is always known if it is asked for.
            let transition_expected = filtered && before != pb::FullDocumentBeforeChange::Off;
            let entered = if transition_expected {
                Entered
            } else {
                Unspecified
            };
            assert_eq!(
                inserted,
                [("insert".to_owned(), entered)],
                "{kept} {before:?}"
            );
            orders.drop().await.unwrap();
        }
    }
}

/// By component: above the path, at it and below it.
#[tokio::test]
async fn changed_distinguishes_paths_in_both_modes() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let orders = database.collection("orders");
    for mode in MODES {
        for wanted in [true, false] {
            let mut watch = weir
                .watch(pb::WatchRequest {
                    filters: vec![or_mark(field("a.b", Operator::Changed(wanted)))],
                    operations: vec![
                        pb::OperationType::Update.into(),
                        pb::OperationType::Replace.into(),
                        pb::OperationType::Insert.into(),
                        pb::OperationType::Delete.into(),
                    ],
                    feed_mode: mode.into(),
                    ..database.watch_request(&["orders"])
                })
                .await;
            assert_eq!(watch.opened.feed_mode(), mode);
            let start = doc! {"_id": 1, "a": {"b": {"c": 1}, "bc": 1}, "ab": 1};
            orders.insert_one(start).await.unwrap();
            let mut touched = read_transitions(&database, &mut watch).await.is_empty() != wanted;
            assert!(!touched, "an insert touches no path");
            for (update, expected) in [
                (doc! {"$set": {"a.b.c": 2}}, true),
                (doc! {"$set": {"a.bc": 2}}, false),
                (doc! {"$set": {"ab": 2}}, false),
                (doc! {"$set": {"a.b": {"c": 3}}}, true),
                (doc! {"$unset": {"a.b.c": ""}}, true),
                (doc! {"$unset": {"a.bc": ""}}, false),
                (doc! {"$unset": {"a.b": ""}}, true),
                (doc! {"$set": {"a": {"d": 1}}}, true),
                (doc! {"$set": {"b": 1}}, false),
                (doc! {"$unset": {"a": ""}}, true),
            ] {
                orders
                    .update_one(doc! {"_id": 1}, update.clone())
                    .await
                    .unwrap();
                touched = read_transitions(&database, &mut watch).await.is_empty() != wanted;
                assert_eq!(touched, expected, "{update}, {wanted}, {mode:?}");
            }
            orders
                .replace_one(doc! {"_id": 1}, doc! {"b": 2})
                .await
                .unwrap();
            touched = read_transitions(&database, &mut watch).await.is_empty() != wanted;
            assert!(touched, "a replacement touches every path");
            orders.delete_one(doc! {"_id": 1}).await.unwrap();
            touched = read_transitions(&database, &mut watch).await.is_empty() != wanted;
            assert!(!touched, "a deletion touches no path");
        }
    }
}
