//! The changes that a watch delivers: by operation, and by filter where the document is unknown.

use crate::conversions::{eq, id};
use crate::support::{Database, Weir};
use mongodb::bson::doc;
use serde_json::json;
use weir::pb;
use weir::pb::filter::Kind;
use weir::pb::{FullDocument, FullDocumentBeforeChange, MissingImagePolicy, OperationType};

/// Changes whose documents have the status "new" or "paid", one of each kind:
///
/// | id | operation | before | after |
/// |---|---|---|---|
/// | 1, 2 | insert | | new, paid |
/// | 3, 4, 5, 6 | update | new, paid, new, paid | paid, new, new, paid |
/// | 7, 8 | replace | new, paid | paid, new |
/// | 9, 10 | delete | new, paid | |
///
/// Returns the ids of the changes that pass.
async fn passing_ids(
    weir: &Weir,
    database: &Database,
    images_kept: bool,
    request: impl FnOnce(&mut pb::WatchRequest),
) -> Vec<i32> {
    let create = doc! {
        "create": "orders", "changeStreamPreAndPostImages": {"enabled": images_kept},
    };
    database.database().run_command(create).await.unwrap();
    let orders = database.collection("orders");
    let (new, paid) = ("new", "paid");
    for (id, status) in (3..=10).zip([new, paid, new, paid, new, paid, new, paid]) {
        orders
            .insert_one(doc! {"_id": id, "status": status})
            .await
            .unwrap();
    }
    let mut watch = database.watch_request(&["orders"]);
    request(&mut watch);
    let mut watching = weir.watch(watch).await;

    for (id, status) in [(1, new), (2, paid)] {
        orders
            .insert_one(doc! {"_id": id, "status": status})
            .await
            .unwrap();
    }
    for (id, status) in [(3, paid), (4, new), (5, new), (6, paid)] {
        let update = doc! {"$set": {"status": status, "other": id}};
        orders.update_one(doc! {"_id": id}, update).await.unwrap();
    }
    for (id, status) in [(7, paid), (8, new)] {
        orders
            .replace_one(doc! {"_id": id}, doc! {"status": status})
            .await
            .unwrap();
    }
    for id in [9, 10] {
        orders.delete_one(doc! {"_id": id}).await.unwrap();
    }
    orders
        .insert_one(doc! {"_id": 11, "status": "last"})
        .await
        .unwrap();
    let mut passed = Vec::new();
    loop {
        let change = watching.next_change().await;
        match id(&change).as_i32().expect("ids are numbers") {
            11 => break,
            id => passed.push(id),
        }
    }
    orders.drop().await.unwrap();
    passed
}

/// A delete has no document, and an update only the changed fields: where a filter needs more, the
/// missing-image policy decides, and no event is lost silently.
#[tokio::test]
async fn the_missing_image_policy_decides_about_missing_documents() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let new = || eq("status", json!("new"));
    let is = |number: i32| eq("_id", json!(number));
    let group = |filters| pb::FilterGroup { filters };
    let of = |kind| pb::Filter { kind: Some(kind) };
    let all = |filters| of(Kind::AllOf(group(filters)));
    let any = |filters| of(Kind::AnyOf(group(filters)));
    let none = |filters| of(Kind::NoneOf(group(filters)));

    let (lookup, no_lookup) = (FullDocument::UpdateLookup, FullDocument::Default);
    let (pre_images, no_pre_images) = (
        FullDocumentBeforeChange::WhenAvailable,
        FullDocumentBeforeChange::Off,
    );
    let (kept, not_kept) = (true, false);
    for (what, filter, after, before, images_kept, delivered, dropped) in [
        (
            "updates and deletes are unknown",
            new(),
            no_lookup,
            no_pre_images,
            not_kept,
            vec![1, 3, 4, 5, 6, 8, 9, 10],
            vec![1, 8],
        ),
        (
            "a look-up makes updates known",
            new(),
            lookup,
            no_pre_images,
            not_kept,
            vec![1, 4, 5, 8, 9, 10],
            vec![1, 4, 5, 8],
        ),
        (
            "either document will do",
            new(),
            lookup,
            pre_images,
            kept,
            vec![1, 3, 4, 5, 7, 8, 9],
            vec![1, 3, 4, 5, 7, 8, 9],
        ),
        (
            "a pre-image alone leaves updates open",
            new(),
            no_lookup,
            pre_images,
            kept,
            vec![1, 3, 4, 5, 6, 7, 8, 9],
            vec![1, 3, 5, 7, 8, 9],
        ),
        (
            "no pre-image although requested",
            new(),
            lookup,
            pre_images,
            not_kept,
            vec![1, 4, 5, 8, 9, 10],
            vec![1, 4, 5, 8],
        ),
        (
            "the key is always known",
            any([1, 3, 9].map(is).to_vec()),
            no_lookup,
            no_pre_images,
            not_kept,
            vec![1, 3, 9],
            vec![1, 3, 9],
        ),
        (
            "a false key settles all_of",
            all(vec![is(10), new()]),
            no_lookup,
            no_pre_images,
            not_kept,
            vec![10],
            vec![],
        ),
        (
            "a true key settles any_of",
            any(vec![is(10), new()]),
            no_lookup,
            no_pre_images,
            not_kept,
            vec![1, 3, 4, 5, 6, 8, 9, 10],
            vec![1, 8, 10],
        ),
        (
            "none_of turns around",
            none(vec![new()]),
            no_lookup,
            no_pre_images,
            not_kept,
            vec![2, 3, 4, 5, 6, 7, 9, 10],
            vec![2, 7],
        ),
        (
            "a true key settles none_of",
            none(vec![is(9), new()]),
            no_lookup,
            no_pre_images,
            not_kept,
            vec![2, 3, 4, 5, 6, 7, 10],
            vec![2, 7],
        ),
    ] {
        for (policy, expected) in [
            (MissingImagePolicy::Unspecified, &delivered),
            (MissingImagePolicy::Drop, &dropped),
        ] {
            let passed = passing_ids(&weir, &database, images_kept, |request| {
                // The last insert passes in any case.
                request.filters = vec![any(vec![filter.clone(), is(11)])];
                request.missing_image_policy = policy.into();
                request.full_document = after.into();
                request.full_document_before_change = before.into();
            })
            .await;
            assert_eq!(&passed, expected, "{what}, {policy:?}");
        }
    }
}

/// Each operation by itself, and OTHER, which covers every name that Weir does not know.
#[tokio::test]
async fn an_operations_list_selects_exactly_what_it_names() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    let lists: Vec<Vec<OperationType>> = (1..=16)
        .map(|number| vec![OperationType::try_from(number).expect("an operation")])
        .chain([
            vec![
                OperationType::Insert,
                OperationType::Delete,
                OperationType::Insert,
            ],
            vec![OperationType::Other, OperationType::Replace],
            vec![],
        ])
        .collect();
    let mut watches = Vec::new();
    for list in &lists {
        let request = pb::WatchRequest {
            operations: list.iter().map(|&operation| operation.into()).collect(),
            show_expanded_events: true,
            ..database.watch_request(&[])
        };
        watches.push(weir.watch(request).await);
    }
    let orders = database.collection("orders");
    let one = doc! {"_id": 1};
    database
        .database()
        .create_collection("orders")
        .await
        .unwrap();
    let index = mongodb::IndexModel::builder().keys(doc! {"a": 1}).build();
    orders.create_index(index).await.unwrap();
    orders.drop_index("a_1").await.unwrap();
    let modify = doc! {"collMod": "orders", "changeStreamPreAndPostImages": {"enabled": true}};
    database.database().run_command(modify).await.unwrap();
    orders.insert_one(doc! {"_id": 1, "a": 1}).await.unwrap();
    orders
        .update_one(one.clone(), doc! {"$set": {"a": 2}})
        .await
        .unwrap();
    orders
        .replace_one(one.clone(), doc! {"a": 3})
        .await
        .unwrap();
    orders.delete_one(one).await.unwrap();
    let rename = doc! {
        "renameCollection": format!("{}.orders", database.name()),
        "to": format!("{}.moved", database.name()),
    };
    database.admin(rename).await;
    database.collection("moved").drop().await.unwrap();
    database.database().drop().await.unwrap();

    let made = [
        OperationType::Create,
        OperationType::CreateIndexes,
        OperationType::DropIndexes,
        OperationType::Modify,
        OperationType::Insert,
        OperationType::Update,
        OperationType::Replace,
        OperationType::Delete,
        OperationType::Rename,
        OperationType::Drop,
        OperationType::DropDatabase,
    ];
    for (list, mut watching) in lists.into_iter().zip(watches) {
        let mut got = Vec::new();
        loop {
            match watching.next().await.kind {
                Some(pb::watch_response::Kind::Changes(batch)) => {
                    got.extend(batch.changes.iter().map(pb::ChangeEvent::operation));
                }
                Some(pb::watch_response::Kind::Invalidated(_)) => break,
                _ => {}
            }
        }
        let wanted = made
            .into_iter()
            .filter(|it| list.is_empty() || list.contains(it));
        assert_eq!(got, wanted.collect::<Vec<_>>(), "{list:?}");
    }
}

/// Filters apply to documents; the operations on a collection have none.
#[tokio::test]
async fn a_filter_and_an_operations_list_must_both_hold() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let mut watching = weir
        .watch(pb::WatchRequest {
            operations: vec![OperationType::Insert.into(), OperationType::Drop.into()],
            filters: vec![eq("a", json!(1)), eq("b", json!(2))],
            ..database.watch_request(&["orders"])
        })
        .await;
    let orders = database.collection("orders");
    for (id, a, b) in [(1, 1, 1), (2, 1, 2), (3, 2, 2)] {
        orders
            .insert_one(doc! {"_id": id, "a": a, "b": b})
            .await
            .unwrap();
    }
    orders
        .update_one(doc! {"_id": 2}, doc! {"$set": {"c": 3}})
        .await
        .unwrap();
    orders.drop().await.unwrap();
    let changes = watching.changes(2).await;
    assert_eq!(id(&changes[0]).as_i32(), Some(2));
    // The drop comes next: updates were not selected, and a drop has no document to filter.
    assert_eq!(changes[1].operation(), OperationType::Drop);
}
