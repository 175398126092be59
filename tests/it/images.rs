//! Pre- and post-images of documents, in every mode that a watch may request.

use crate::conversions::{after, before, operation};
use crate::support::{Database, Weir, error_reason};
use mongodb::bson::{Bson, bson, doc};
use tonic::Code;
use weir::pb;
use weir::pb::FullDocument as After;
use weir::pb::FullDocumentBeforeChange as Before;

/// A database with a collection that keeps images and one that does not.
async fn start() -> (Database, Weir) {
    let database = Database::options().start().await;
    database
        .database()
        .run_command(doc! {"create": "kept", "changeStreamPreAndPostImages": {"enabled": true}})
        .await
        .expect("a collection with images");
    database
        .database()
        .create_collection("not_kept")
        .await
        .expect("a collection");
    let weir = Weir::start(&database).await;
    (database, weir)
}

fn request(
    database: &Database,
    collection: &str,
    after: After,
    before: Before,
) -> pb::WatchRequest {
    pb::WatchRequest {
        full_document: after.into(),
        full_document_before_change: before.into(),
        ..database.watch_request(&[collection])
    }
}

/// Sets one document to `{a: 1}`, `{a: 2}` and `{b: 3}` and deletes it; calls `between` after each
/// step.
async fn change_one(database: &Database, collection: &str, mut between: impl AsyncFnMut()) {
    let collection = database.collection(collection);
    let one = doc! {"_id": 1};
    collection
        .insert_one(doc! {"_id": 1, "a": 1})
        .await
        .unwrap();
    between().await;
    collection
        .update_one(one.clone(), doc! {"$set": {"a": 2}})
        .await
        .unwrap();
    between().await;
    collection
        .replace_one(one.clone(), doc! {"b": 3})
        .await
        .unwrap();
    between().await;
    collection.delete_one(one).await.unwrap();
    between().await;
}

fn document(field: &str, value: i32) -> Option<Bson> {
    Some(bson!({"_id": 1, field: value}))
}

/// The result of each mode with and without stored images: unset, null and a document are three
/// things.
///
/// Each event is read before the next change, because the stand-in for MongoDB looks a post-image
/// up when it reads the event, where MongoDB has stored it.
#[tokio::test]
async fn each_mode_delivers_the_images_that_it_names() {
    let (database, weir) = start().await;
    let null = Some(Bson::Null);
    let (a1, a2, b3) = (document("a", 1), document("a", 2), document("b", 3));
    let none = None;
    // (collection, modes, after the update, before the update, the replacement and the deletion).
    for (collection, modes, update, befores) in [
        (
            "kept",
            (After::Default, Before::Off),
            &none,
            [&none, &none, &none],
        ),
        (
            "kept",
            (After::Unspecified, Before::Unspecified),
            &none,
            [&none, &none, &none],
        ),
        (
            "kept",
            (After::UpdateLookup, Before::Off),
            &a2,
            [&none, &none, &none],
        ),
        (
            "kept",
            (After::WhenAvailable, Before::WhenAvailable),
            &a2,
            [&a1, &a2, &b3],
        ),
        (
            "kept",
            (After::Required, Before::Required),
            &a2,
            [&a1, &a2, &b3],
        ),
        (
            "not_kept",
            (After::WhenAvailable, Before::WhenAvailable),
            &null,
            [&null, &null, &null],
        ),
        (
            "not_kept",
            (After::UpdateLookup, Before::Off),
            &a2,
            [&none, &none, &none],
        ),
    ] {
        let mut watch = weir
            .watch(request(&database, collection, modes.0, modes.1))
            .await;
        let mut changes = Vec::new();
        change_one(&database, collection, async || {
            changes.push(watch.next_change().await);
        })
        .await;

        let what = format!("{collection} {modes:?}");
        let names: Vec<String> = changes.iter().map(operation).collect();
        assert_eq!(names, ["insert", "update", "replace", "delete"], "{what}");
        let afters: Vec<Option<Bson>> = changes.iter().map(after).collect();
        assert_eq!(
            afters,
            [a1.clone(), update.clone(), b3.clone(), None],
            "{what}"
        );
        let found: Vec<Option<Bson>> = changes[1..].iter().map(before).collect();
        assert_eq!(found, befores.map(Clone::clone), "{what}");
    }
}

/// A look-up returns the document as it is when MongoDB reads the event, and null when it no longer
/// exists then. Another replica makes MongoDB read it again.
#[tokio::test]
async fn a_lookup_of_a_document_that_is_gone_is_null() {
    let (database, weir) = start().await;
    let lookup = request(&database, "not_kept", After::UpdateLookup, Before::Off);
    let start = weir.watch(lookup.clone()).await.token();
    change_one(&database, "not_kept", async || {}).await;

    let replica = Weir::start(&database).await;
    let mut watch = replica
        .watch(pb::WatchRequest {
            start: Some(pb::watch_request::Start::ResumeToken(start)),
            ..lookup
        })
        .await;
    let afters: Vec<Option<Bson>> = watch.changes(4).await.iter().map(after).collect();
    assert_eq!(
        afters,
        [document("a", 1), Some(Bson::Null), document("b", 3), None]
    );
}

/// An image is missing if the write came before images were enabled, or where they are not. The
/// watch then ends once with that reason; Weir does not retry again and again.
#[tokio::test]
async fn a_missing_required_image_ends_the_watch() {
    let (database, weir) = start().await;
    for (after, before) in [
        (After::Required, Before::Off),
        (After::Default, Before::Required),
    ] {
        let required = request(&database, "not_kept", after, before);
        let mut watch = weir.watch(required.clone()).await;
        let start = watch.token();
        change_one(&database, "not_kept", async || {}).await;

        let status = watch.end().await;
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        assert_eq!(error_reason(&status), "IMAGE_UNAVAILABLE");
        let time = crate::support::error_info(&status)
            .metadata
            .remove("after_time");
        assert!(time.is_some(), "the status has no time: {status:?}");

        // From before the event it fails again, at the opening or right after it.
        let again = pb::WatchRequest {
            start: Some(pb::watch_request::Start::ResumeToken(start.clone())),
            ..required
        };
        let status = match weir.try_watch(again).await {
            Ok(mut watch) => watch.end().await,
            Err(status) => status,
        };
        assert_eq!(error_reason(&status), "IMAGE_UNAVAILABLE");

        // Without the requirement the same position works.
        let without = pb::WatchRequest {
            start: Some(pb::watch_request::Start::ResumeToken(start)),
            ..database.watch_request(&["not_kept"])
        };
        assert_eq!(weir.watch(without).await.changes(4).await.len(), 4);
    }
}

/// In a watch of a whole database the images come for the collections that keep them. (MongoDB
/// would also accept required images in a watch of only these collections; the stand-in looks for
/// images before it excludes other collections.)
#[tokio::test]
async fn a_database_watch_gets_the_images_that_exist() {
    let (database, weir) = start().await;
    let mut watch = weir
        .watch(pb::WatchRequest {
            collections: Vec::new(),
            operations: vec![pb::OperationType::Delete.into()],
            ..request(&database, "", After::Default, Before::WhenAvailable)
        })
        .await;
    for collection in ["not_kept", "kept"] {
        change_one(&database, collection, async || {}).await;
    }

    let befores: Vec<Option<Bson>> = watch.changes(2).await.iter().map(before).collect();
    assert_eq!(befores, [Some(Bson::Null), document("b", 3)]);
}

/// A pre-image belongs to its event, however often the document changed since.
#[tokio::test]
async fn a_pre_image_belongs_to_its_own_change() {
    let (database, weir) = start().await;
    let collection = database.collection("kept");
    collection
        .insert_one(doc! {"_id": 1, "a": 0})
        .await
        .unwrap();
    let required = request(&database, "kept", After::Default, Before::Required);
    let mut watch = weir.watch(required).await;
    for _ in 0..20 {
        collection
            .update_one(doc! {}, doc! {"$inc": {"a": 1}})
            .await
            .unwrap();
    }
    for (index, change) in (0..).zip(watch.changes(20).await) {
        assert_eq!(before(&change), document("a", index));
    }
}
