//! Every event that the database can make reaches a client unchanged.
//!
//! Tests that compare read the same changes twice: through Weir, and through a change stream of the
//! driver.

use crate::conversions::{DriverStream, after, as_mongodb_event, id, operations};
use crate::support::{Database, WatchStream, Weir};
use mongodb::bson::{Bson, Document, bson, doc};
use weir::pb;

/// The four scopes of a watch.
#[derive(Debug, Clone, Copy)]
enum Scope {
    Collection,
    Collections,
    Database,
    Deployment,
}

impl Scope {
    const ALL: [Self; 4] = [
        Self::Collection,
        Self::Collections,
        Self::Database,
        Self::Deployment,
    ];

    /// A watch of `orders`, or of a scope that contains it.
    fn request(self, database: &Database) -> pb::WatchRequest {
        match self {
            Self::Collection => database.watch_request(&["orders"]),
            Self::Collections => database.watch_request(&["orders", "items"]),
            Self::Database => database.watch_request(&[]),
            Self::Deployment => pb::WatchRequest::default(),
        }
    }

    fn holds(self, collection: &str) -> bool {
        match self {
            Self::Collection => collection == "orders",
            Self::Collections => matches!(collection, "orders" | "items"),
            Self::Database | Self::Deployment => true,
        }
    }
}

async fn deployment_weir(database: &Database) -> Weir {
    Weir::with(database, |config| config.allow_deployment_watch = true).await
}

/// The collections that an event names; none where it concerns a whole database.
fn collections_of(event: &Document) -> Vec<&str> {
    let names = ["ns", "to"].map(|field| event.get_document(field).ok()?.get_str("coll").ok());
    names.into_iter().flatten().collect()
}

/// One watch for each scope, all reading the same changes.
async fn watch_all(
    weir: &Weir,
    database: &Database,
    change: impl Fn(&mut pb::WatchRequest),
) -> Vec<(Scope, WatchStream)> {
    watch_each(weir, database, &Scope::ALL, change).await
}

async fn watch_each(
    weir: &Weir,
    database: &Database,
    scopes: &[Scope],
    change: impl Fn(&mut pb::WatchRequest),
) -> Vec<(Scope, WatchStream)> {
    let mut all = Vec::new();
    for &scope in scopes {
        let mut request = scope.request(database);
        change(&mut request);
        all.push((scope, weir.watch(request).await));
    }
    all
}

/// Checks that each watch gets the `originals` in its scope, complete and in order.
async fn assert_each_gets_its_part(watches: &mut [(Scope, WatchStream)], originals: &[Document]) {
    for (scope, watching) in watches {
        let expected: Vec<&Document> = originals
            .iter()
            .filter(|event| {
                let names = collections_of(event);
                names.is_empty() || names.iter().any(|name| scope.holds(name))
            })
            .collect();
        for expected in expected {
            let change = watching.next_change().await;
            assert_eq!(&as_mongodb_event(&change), expected, "{scope:?}");
        }
    }
}

#[tokio::test]
async fn document_changes_come_in_every_scope_that_contains_them() {
    let database = Database::options().start().await;
    let weir = deployment_weir(&database).await;
    let mut original = DriverStream::of(&database, false).await;
    let mut watches = watch_all(&weir, &database, |_| {}).await;

    for name in ["orders", "items", "elsewhere"] {
        let collection = database.collection(name);
        let one = doc! {"_id": name};
        collection
            .insert_one(doc! {"_id": name, "a": 1})
            .await
            .unwrap();
        collection
            .update_one(one.clone(), doc! {"$set": {"a": 2}})
            .await
            .unwrap();
        collection
            .replace_one(one.clone(), doc! {"b": 3})
            .await
            .unwrap();
        collection.delete_one(one).await.unwrap();
    }

    let originals = original.next(12).await;
    let names: Vec<&str> = originals[..4]
        .iter()
        .map(|event| event.get_str("operationType").unwrap())
        .collect();
    assert_eq!(names, ["insert", "update", "replace", "delete"]);
    assert_each_gets_its_part(&mut watches, &originals).await;
}

/// `nsType`, and the operations that the driver's event type does not know.
#[tokio::test]
async fn expanded_events_come_in_every_scope_when_requested() {
    let database = Database::options().start().await;
    let weir = deployment_weir(&database).await;
    let mut original = DriverStream::of(&database, true).await;
    let mut expanded = watch_all(&weir, &database, |it| it.show_expanded_events = true).await;
    let mut plain = watch_all(&weir, &database, |_| {}).await;

    let orders = database.collection("orders");
    database
        .database()
        .create_collection("orders")
        .await
        .unwrap();
    let index = mongodb::IndexModel::builder().keys(doc! {"a": 1}).build();
    orders.create_index(index).await.unwrap();
    orders.drop_index("a_1").await.unwrap();
    let images = doc! {"collMod": "orders", "changeStreamPreAndPostImages": {"enabled": true}};
    database.database().run_command(images).await.unwrap();
    orders
        .insert_one(doc! {"_id": 1, "a": {"0": 1}, "b": [1, 2]})
        .await
        .unwrap();
    let ambiguous = doc! {"$set": {"a.0": 2, "b.0": 3}};
    orders.update_one(doc! {}, ambiguous).await.unwrap();

    let originals = original.next(6).await;
    let names: Vec<&str> = originals
        .iter()
        .map(|event| event.get_str("operationType").unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "create",
            "createIndexes",
            "dropIndexes",
            "modify",
            "insert",
            "update"
        ]
    );
    assert!(
        originals
            .iter()
            .all(|event| event.contains_key("collectionUUID"))
    );
    assert_eq!(originals[0].get_str("nsType").ok(), Some("collection"));
    let paths = originals[5].get_document("updateDescription").unwrap();
    assert!(paths.contains_key("disambiguatedPaths"), "{paths}");

    assert_each_gets_its_part(&mut expanded, &originals).await;
    // Without the option only changes of documents come, without the additional fields.
    for (scope, watching) in &mut plain {
        let changes = watching.changes(2).await;
        assert_eq!(operations(&changes), ["insert", "update"], "{scope:?}");
        assert!(
            changes
                .iter()
                .all(|change| change.collection_uuid.is_empty())
        );
    }
}

/// Rename and drop, where they do not end the watch.
#[tokio::test]
async fn renames_and_drops_come_in_every_scope_that_survives_them() {
    let database = Database::options().start().await;
    let weir = deployment_weir(&database).await;
    for name in ["orders", "items", "elsewhere"] {
        database
            .collection(name)
            .insert_one(doc! {"_id": 1})
            .await
            .unwrap();
    }
    for expanded in [false, true] {
        let mut original = DriverStream::of(&database, expanded).await;
        // None of the collection alone: these end such a watch. Weir opens that collection's stream
        // anew then, and SecantusDB creates the collection again for it, between the renames.
        let survivors = [Scope::Collections, Scope::Database, Scope::Deployment];
        let mut watches = watch_each(&weir, &database, &survivors, |it| {
            it.show_expanded_events = expanded;
        })
        .await;

        let rename = |from: &str, to: &str| {
            let namespace = |name: &str| format!("{}.{name}", database.name());
            doc! {
                "renameCollection": namespace(from), "to": namespace(to), "dropTarget": true,
            }
        };
        database.admin(rename("items", "orders")).await;
        database.admin(rename("orders", "items")).await;
        database.admin(rename("elsewhere", "orders")).await;

        let originals = original.next(4).await;
        let names: Vec<&str> = originals
            .iter()
            .map(|event| event.get_str("operationType").unwrap())
            .collect();
        assert_eq!(names, ["drop", "rename", "rename", "rename"]);
        let description = originals[1].get_document("operationDescription");
        assert_eq!(description.is_ok(), expanded);
        assert_each_gets_its_part(&mut watches, &originals).await;

        database
            .collection("elsewhere")
            .insert_one(doc! {"_id": 1})
            .await
            .unwrap();
    }
}

/// The server decides if a write is an update or a replace, so a client that wants both must select
/// both.
#[tokio::test]
async fn updates_and_replacements_are_selected_separately() {
    let database = Database::start().await;
    let weir = Weir::start(&database).await;
    let watch = async |operations: &[pb::OperationType]| {
        let request = pb::WatchRequest {
            operations: operations.iter().map(|&it| it.into()).collect(),
            ..database.watch_request(&["orders"])
        };
        weir.watch(request).await
    };
    let mut updates = watch(&[pb::OperationType::Update]).await;
    let mut replaces = watch(&[pb::OperationType::Replace]).await;
    let mut both = watch(&[pb::OperationType::Replace, pb::OperationType::Update]).await;

    let orders = database.collection("orders");
    for number in 0..3 {
        let one = doc! {"_id": number};
        orders.insert_one(one.clone()).await.unwrap();
        orders
            .update_one(one.clone(), doc! {"$set": {"a": number}})
            .await
            .unwrap();
        orders
            .replace_one(one.clone(), doc! {"b": number})
            .await
            .unwrap();
        orders.delete_one(one).await.unwrap();
    }

    for number in 0..3 {
        let number = Bson::Int32(number);
        let update = updates.next_change().await;
        assert_eq!(
            (crate::conversions::operation(&update), id(&update)),
            ("update".into(), number.clone())
        );
        let replace = replaces.next_change().await;
        assert_eq!(
            (crate::conversions::operation(&replace), id(&replace)),
            ("replace".into(), number)
        );
        assert_eq!(operations(&both.changes(2).await), ["update", "replace"]);
    }
}

/// Opening must not depend on an event.
#[tokio::test]
async fn a_watch_of_an_empty_database_opens_and_is_live_at_once() {
    let database = Database::options().start().await;
    let weir = deployment_weir(&database).await;
    for (scope, mut watching) in watch_all(&weir, &database, |_| {}).await {
        let live = watching.try_next().await.expect("the watch continues");
        let Some(pb::watch_response::Kind::StateChange(state)) = live.and_then(|it| it.kind) else {
            panic!("{scope:?}: the second message is no state change");
        };
        assert_eq!(state.state(), pb::WatchState::Live, "{scope:?}");
        assert!(watching.opened.start_time.is_some(), "{scope:?}");
        assert_eq!(watching.opened.start_mode(), pb::StartMode::Now);
    }
    // It still gets later events.
    let mut watching = weir.watch(database.watch_request(&["orders"])).await;
    database
        .collection("orders")
        .insert_one(doc! {"_id": 1})
        .await
        .unwrap();
    assert_eq!(
        after(&watching.next_change().await),
        Some(bson!({"_id": 1}))
    );
}

/// The events of a transaction carry its session and number, and an aborted one makes none.
#[tokio::test]
async fn events_of_a_transaction_carry_its_session_and_number() {
    let database = Database::options().start().await;
    let weir = Weir::start(&database).await;
    for name in ["orders", "items"] {
        database.database().create_collection(name).await.unwrap();
    }
    let mut watching = weir
        .watch(database.watch_request(&["orders", "items"]))
        .await;

    let mut session = database.client().start_session().await.unwrap();
    for (number, commit) in [(1, true), (2, false), (3, true)] {
        session.start_transaction().await.unwrap();
        for name in ["orders", "items"] {
            let collection = database.collection(name);
            collection
                .insert_one(doc! {"_id": number})
                .session(&mut session)
                .await
                .unwrap();
        }
        if commit {
            session.commit_transaction().await.unwrap();
        } else {
            session.abort_transaction().await.unwrap();
        }
    }
    database
        .collection("orders")
        .insert_one(doc! {"_id": 4})
        .await
        .unwrap();

    let changes = watching.changes(5).await;
    let ids: Vec<Bson> = changes.iter().map(id).collect();
    assert_eq!(ids, [1, 1, 3, 3, 4].map(Bson::Int32));
    let id_of = |change: &pb::ChangeEvent| {
        let transaction = change.transaction.clone()?;
        Some((transaction.session_id, transaction.number))
    };
    let transactions: Vec<_> = changes.iter().map(id_of).collect();
    assert!(transactions[0].is_some() && transactions[2].is_some());
    assert_eq!(transactions[0], transactions[1]);
    assert_eq!(transactions[2], transactions[3]);
    assert_ne!(transactions[0], transactions[2]);
    assert_eq!(transactions[4], None);
    let (session, _) = transactions[0].clone().unwrap_or_default();
    assert_eq!(session.len(), 16);
    assert_eq!(transactions[2].clone().unwrap_or_default().0, session);
}
