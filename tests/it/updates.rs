//! The description of an update, for every operator.

use crate::conversions::{DriverStream, as_mongodb_event};
use crate::support::{Database, Weir};
use mongodb::bson::{Bson, Document, bson, doc};
use weir::pb;

/// The results of the update operators: `(operator, updatedFields, removedFields)`.
fn update_operators() -> Vec<(Bson, Document, Vec<&'static str>)> {
    vec![
        (
            bson!({"$set": {"a": 2, "deep.er": "x"}}),
            doc! {"a": 2, "deep.er": "x"},
            vec![],
        ),
        (bson!({"$set": {"list.1": 9}}), doc! {"list.1": 9}, vec![]),
        (
            bson!({"$set": {"docs.0.sku": "new"}}),
            doc! {"docs.0.sku": "new"},
            vec![],
        ),
        (bson!({"$inc": {"a": 5}}), doc! {"a": 6}, vec![]),
        (bson!({"$mul": {"a": 3}}), doc! {"a": 3}, vec![]),
        (bson!({"$min": {"a": -1}}), doc! {"a": -1}, vec![]),
        (bson!({"$max": {"a": 7}}), doc! {"a": 7}, vec![]),
        (bson!({"$bit": {"a": {"or": 6}}}), doc! {"a": 7}, vec![]),
        (
            bson!({"$unset": {"a": "", "deep.is": ""}}),
            doc! {},
            vec!["a", "deep.is"],
        ),
        (bson!({"$rename": {"a": "z"}}), doc! {"z": 1}, vec!["a"]),
        (bson!({"$push": {"list": 4}}), doc! {"list.3": 4}, vec![]),
        (
            bson!({"$addToSet": {"list": 8}}),
            doc! {"list.3": 8},
            vec![],
        ),
        (
            bson!([{"$set": {"sum": {"$add": ["$a", 10]}}}, {"$unset": ["deep"]}]),
            doc! {"sum": 11},
            vec!["deep"],
        ),
        (
            bson!([{"$replaceWith": {"$setField": {
                "field": "dotted.name", "input": "$$ROOT", "value": 1,
            }}}]),
            doc! {"dotted.name": 1},
            vec![],
        ),
        (
            bson!([{"$replaceWith": {"$setField": {
                "field": {"$literal": "$dollar"}, "input": "$$ROOT", "value": 1,
            }}}]),
            doc! {"$dollar": 1},
            vec![],
        ),
    ]
}

/// Operators, dotted paths, array elements, removals, pipelines, names with "." and "$".
#[tokio::test]
async fn every_update_operator_reports_what_it_changed() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let mut original = DriverStream::of(&database, true).await;
    let orders = database.collection("orders");
    database
        .database()
        .create_collection("orders")
        .await
        .unwrap();
    // A pipeline that changes most of a document comes as a replacement.
    let document = doc! {
        "rest": "x".repeat(200), "a": 1, "list": [1, 2, 3], "docs": [{"sku": "old"}],
        "deep": {"is": true},
    };
    let operators = update_operators();
    for id in 0..operators.len() {
        let mut document = document.clone();
        document.insert("_id", id as i32);
        orders.insert_one(document).await.unwrap();
    }
    let mut watch = weir
        .watch(pb::WatchRequest {
            show_expanded_events: true,
            ..database.watch_request(&["orders"])
        })
        .await;
    // Skips the creation and the inserts.
    original.next(1 + operators.len()).await;

    for (id, (operator, ..)) in operators.iter().enumerate() {
        let update = doc! {"q": {"_id": id as i32}, "u": operator.clone()};
        let command = doc! {"update": "orders", "updates": [update]};
        let answer = database.database().run_command(command).await.unwrap();
        assert_eq!(
            answer.get_i32("nModified").ok(),
            Some(1),
            "{operator}: {answer}"
        );
    }

    for (operator, updated, removed) in operators {
        let reported = original.next(1).await.remove(0);
        let change = watch.next_change().await;
        assert_eq!(as_mongodb_event(&change), reported, "{operator}");
        let Some(pb::change_event::Change::Update(update)) = change.change else {
            panic!("{operator} came as {change:?}");
        };
        let description = update
            .update_description
            .expect("an update says what changed");
        let fields = crate::conversions::bson(description.updated_fields.as_ref());
        assert_eq!(fields, Some(updated.into()), "{operator}");
        assert_eq!(description.removed_fields, removed, "{operator}");
    }
}

/// A server may send the new size, or the whole array instead.
#[tokio::test]
async fn a_truncated_array_reports_its_size_or_its_contents() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let mut original = DriverStream::of(&database, false).await;
    let orders = database.collection("orders");
    orders
        .insert_one(doc! {"_id": 1, "list": [1, 2, 3, 4], "rest": "x".repeat(200)})
        .await
        .unwrap();
    let mut watch = weir.watch(database.watch_request(&["orders"])).await;
    original.next(1).await;

    let slice = vec![doc! {"$set": {"list": {"$slice": ["$list", 2]}}}];
    orders.update_one(doc! {}, slice).await.unwrap();
    orders
        .update_one(doc! {}, doc! {"$pop": {"list": 1}})
        .await
        .unwrap();
    let push = doc! {"$push": {"list": {"$each": [7, 8], "$slice": -2}}};
    orders.update_one(doc! {}, push).await.unwrap();

    let mut tells_sizes = false;
    for reported in original.next(3).await {
        let change = watch.next_change().await;
        assert_eq!(as_mongodb_event(&change), reported);
        if let Some(pb::change_event::Change::Update(update)) = change.change {
            let description = update.update_description.unwrap_or_default();
            tells_sizes |= !description.truncated_arrays.is_empty();
        }
    }
    assert!(
        tells_sizes,
        "the database made no truncated array to test with"
    );
}
