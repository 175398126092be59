//! The ten watches of a day, of all kinds.

use std::sync::Arc;

use pb::OperationType::{Delete, Insert, Update};
use serde_json::json;
use weir::pb;

use super::day::{AMBIGUOUS, TOO_LARGE, UNSENDABLE, WITHOUT_POST_IMAGE, WITHOUT_PRE_IMAGE};
use crate::conversions::eq;
use crate::support::ledger::{ClientOptions, Write};
use crate::support::stand_in::DATABASE;

/// The clients that the test disconnects again and again.
pub const RESUMING: [&str; 2] = ["two collections", "group 2 by images"];

/// A write that fails on streams with any image.
fn is_too_large(write: &Write) -> bool {
    write.after == Some(TOO_LARGE)
}

/// The options of the clients, on a mongod or behind a mongos.
pub fn ten(behind_mongos: bool) -> Vec<ClientOptions> {
    let whole = || pb::WatchRequest {
        database: DATABASE.to_owned(),
        ..pb::WatchRequest::default()
    };
    let of = |collections: &[&str]| pb::WatchRequest {
        collections: collections.iter().map(|&name| name.to_owned()).collect(),
        ..whole()
    };
    let dedicated = i32::from(pb::FeedMode::Dedicated);
    let shared = i32::from(pb::FeedMode::Shared);
    let looked_up = i32::from(pb::FullDocument::UpdateLookup);
    let stored = i32::from(pb::FullDocument::WhenAvailable);
    let stored_before = i32::from(pb::FullDocumentBeforeChange::WhenAvailable);

    let plain = pb::WatchRequest {
        feed_mode: dedicated,
        ..of(&["orders"])
    };
    let looking_up = pb::WatchRequest {
        feed_mode: shared,
        full_document: looked_up,
        document_format: pb::DocumentFormat::Json.into(),
        ..of(&["orders"])
    };
    let two = pb::WatchRequest {
        document_format: pb::DocumentFormat::Struct.into(),
        ..of(&["orders", "customers"])
    };
    let operations = [Insert, Delete];
    let comings_and_goings = pb::WatchRequest {
        feed_mode: dedicated,
        operations: operations.map(Into::into).to_vec(),
        document_format: pb::DocumentFormat::CanonicalJson.into(),
        ..whole()
    };
    let expanded = pb::WatchRequest {
        feed_mode: shared,
        show_expanded_events: true,
        ..whole()
    };
    let both_images = pb::WatchRequest {
        feed_mode: dedicated,
        full_document: stored,
        full_document_before_change: stored_before,
        ..whole()
    };
    let deployment = pb::WatchRequest {
        show_expanded_events: true,
        ..pb::WatchRequest::default()
    };
    // Behind a mongos an empty reply does not prove that MongoDB's filter rejected what came before,
    // so the place after an event that cannot be sent is only told where Weir filters.
    let group_1 = pb::WatchRequest {
        feed_mode: if behind_mongos { shared } else { dedicated },
        full_document: looked_up,
        filters: vec![eq("group", json!(1))],
        ..whole()
    };
    let pre_images = pb::WatchRequest {
        feed_mode: dedicated,
        full_document_before_change: pb::FullDocumentBeforeChange::Required.into(),
        ..of(&["customers"])
    };
    let group_2 = pb::WatchRequest {
        feed_mode: shared,
        full_document: pb::FullDocument::Required.into(),
        full_document_before_change: stored_before,
        missing_image_policy: pb::MissingImagePolicy::Drop.into(),
        filters: vec![eq("group", json!(2))],
        ..whole()
    };

    let in_orders = |it: &Write| it.collection == 0;
    let clients = [
        ClientOptions::new("plain", plain, in_orders),
        ClientOptions::new("looking up", looking_up, move |it| {
            in_orders(it) && !is_too_large(it) && it.after != Some(AMBIGUOUS)
        }),
        ClientOptions::all("two collections", two),
        ClientOptions::new("comings and goings", comings_and_goings, move |it| {
            operations.contains(&it.operation)
        }),
        ClientOptions::all("expanded", expanded),
        ClientOptions::new("both images", both_images, |it| !is_too_large(it)),
        ClientOptions::all("deployment", deployment),
        ClientOptions::new("group 1", group_1, |it| {
            it.operation == Delete || it.after == Some(1)
        }),
        ClientOptions::new("pre-images", pre_images, |it| {
            let gone = it.after == Some(WITHOUT_PRE_IMAGE) && it.operation == Update;
            it.collection == 1 && !is_too_large(it) && !gone
        }),
        ClientOptions {
            store_every: 5,
            ..ClientOptions::new("group 2 by images", group_2, |it| {
                let gone = it.after == Some(WITHOUT_POST_IMAGE) && it.operation == Update;
                let matches = it.before == Some(2) || it.after == Some(2);
                matches && !is_too_large(it) && !gone
            })
        },
    ];
    let complete = |client: ClientOptions| {
        let expects = client.expects;
        ClientOptions {
            takes_others: true,
            skips_undeliverable: true,
            expects: Arc::new(move |it| it.after != Some(UNSENDABLE) && expects(it)),
            ..client
        }
    };
    clients.map(complete).to_vec()
}
