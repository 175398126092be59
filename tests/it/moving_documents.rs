//! The advice of docs/filters.md on documents that move into a filter and out of it. SecantusDB looks a post-image up
//! when it reads the event, so a scripted server plays MongoDB's stored ones.

use crate::conversions::{eq, id};
use crate::support::Weir;
use crate::support::stand_in::{StandIn, Version, change};
use mongodb::bson::{Bson, Document, doc};
use pb::FilterMatch::{Entered, Left, Stayed, Unspecified};
use pb::{FullDocument, FullDocumentBeforeChange, MissingImagePolicy};
use serde_json::json;
use weir::pb;

const MODES: [pb::FeedMode; 2] = [pb::FeedMode::Shared, pb::FeedMode::Dedicated];

/// An insert that every watch of this file gets, after the others.
const LAST: i32 = 1_000;

/// A change of a document from one status to another, with what MongoDB has of the documents.
fn moving(operation: &str, id: i32, before: Option<&str>, after: Option<&str>) -> Document {
    let mut event = change(operation, "orders", id);
    if operation == "update" {
        let fields = doc! { "updatedFields": { "status": after }, "removedFields": [], "truncatedArrays": [] };
        event.insert("updateDescription", fields);
    }
    let image = |status: Option<&str>| status.map(|status| doc! { "_id": id, "status": status });
    if event.contains_key("fullDocument") {
        event.insert("fullDocument", image(after));
    }
    if event.contains_key("fullDocumentBeforeChange") {
        event.insert("fullDocumentBeforeChange", image(before));
    }
    event
}

/// The changes that a watch for `status: "paid"` gets, with how each affected the match.
async fn received(options: pb::WatchRequest, events: &[Document]) -> Vec<(i32, pb::FilterMatch)> {
    let mut by_mode = MODES.map(|_| Vec::new());
    for (mode, received) in MODES.into_iter().zip(&mut by_mode) {
        let stand_in = StandIn::start_as(Version::mongod([8, 2, 11]));
        let weir = Weir::at(stand_in.uri(), |_| {}).await;
        let orders = stand_in.watch_request(&["orders"]);
        let mut watch = weir
            .watch(pb::WatchRequest {
                filters: vec![eq("status", json!("paid"))],
                feed_mode: mode.into(),
                database: orders.database,
                collections: orders.collections,
                ..options.clone()
            })
            .await;
        assert_eq!(watch.opened.feed_mode(), mode);
        let last = moving("insert", LAST, None, Some("paid"));
        let events = events.iter().cloned().chain([last]).map(Into::into);
        stand_in.log("orders").push_all(events);
        loop {
            let change = watch.next_change().await;
            let Bson::Int32(id) = id(&change) else {
                panic!("no number in {change:?}");
            };
            if id == LAST {
                break;
            }
            received.push((id, change.r#match()));
        }
    }
    let [shared, dedicated] = by_mode;
    assert_eq!(shared, dedicated, "MongoDB's filter and Weir's agree");
    shared
}

fn with_images(
    after: FullDocument,
    before: FullDocumentBeforeChange,
    missing: MissingImagePolicy,
) -> pb::WatchRequest {
    pb::WatchRequest {
        full_document: after.into(),
        full_document_before_change: before.into(),
        missing_image_policy: missing.into(),
        ..pb::WatchRequest::default()
    }
}

/// Every way in and out, and some that never touch the filter.
fn moves() -> Vec<Document> {
    let (new, paid) = (Some("new"), Some("paid"));
    vec![
        moving("insert", 1, None, paid),
        moving("insert", 2, None, new),
        moving("update", 3, new, paid),
        moving("update", 4, paid, paid),
        moving("update", 5, paid, new),
        moving("update", 6, new, new),
        moving("replace", 7, new, paid),
        moving("replace", 8, paid, paid),
        moving("replace", 9, paid, new),
        moving("delete", 10, paid, None),
        moving("delete", 11, new, None),
    ]
}

#[tokio::test]
async fn stored_images_say_exactly_which_documents_moved_in_and_out() {
    for (after, before) in [
        (
            FullDocument::WhenAvailable,
            FullDocumentBeforeChange::WhenAvailable,
        ),
        (FullDocument::Required, FullDocumentBeforeChange::Required),
    ] {
        for missing in [MissingImagePolicy::Deliver, MissingImagePolicy::Drop] {
            assert_eq!(
                received(with_images(after, before, missing), &moves()).await,
                [
                    (1, Entered),
                    (3, Entered),
                    (4, Stayed),
                    (5, Left),
                    (7, Entered),
                    (8, Stayed),
                    (9, Left),
                    (10, Left),
                ],
                "{after:?} {before:?} {missing:?}"
            );
        }
    }
}

/// Without images it is not known what an update or a delete did, and the policy for that decides.
#[tokio::test]
async fn without_images_a_filter_gets_every_update_or_none() {
    let nothing = |missing| {
        with_images(
            FullDocument::Default,
            FullDocumentBeforeChange::Off,
            missing,
        )
    };
    let ids = |received: Vec<(i32, pb::FilterMatch)>| -> Vec<i32> {
        assert!(received.iter().all(|(_, matched)| *matched == Unspecified));
        received.into_iter().map(|(id, _)| id).collect()
    };
    let delivered = received(nothing(MissingImagePolicy::Deliver), &moves()).await;
    assert_eq!(ids(delivered), [1, 3, 4, 5, 6, 7, 8, 10, 11]);
    let dropped = received(nothing(MissingImagePolicy::Drop), &moves()).await;
    assert_eq!(ids(dropped), [1, 7, 8]);
}

/// An image that was not stored, or has expired, is null.
#[tokio::test]
async fn a_move_whose_image_is_not_there_has_no_match() {
    let both = |missing| {
        with_images(
            FullDocument::WhenAvailable,
            FullDocumentBeforeChange::WhenAvailable,
            missing,
        )
    };
    let events = [
        moving("update", 1, None, Some("paid")),
        moving("update", 2, Some("paid"), None),
        moving("delete", 3, None, None),
    ];
    let delivered = received(both(MissingImagePolicy::Deliver), &events).await;
    assert_eq!(
        delivered,
        [(1, Unspecified), (2, Unspecified), (3, Unspecified)]
    );
}

/// What a look-up finds is the document of a later change: here it has come back meanwhile.
#[tokio::test]
async fn a_look_up_may_tell_that_a_document_stayed_that_had_left() {
    let looked_up = with_images(
        FullDocument::UpdateLookup,
        FullDocumentBeforeChange::WhenAvailable,
        MissingImagePolicy::Deliver,
    );
    // It left, and has come back by the time of the look-up.
    let left = moving("update", 1, Some("paid"), Some("paid"));
    let came_back = moving("update", 2, Some("new"), Some("paid"));
    assert_eq!(
        received(looked_up, &[left, came_back]).await,
        [(1, Stayed), (2, Entered)]
    );
}
