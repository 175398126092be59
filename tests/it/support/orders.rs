//! Numbered documents in one collection, which most tests write, and a way to recognise their
//! events.

use bytes::Bytes;
use mongodb::bson::{Document, doc};
use weir::pb;
use weir::pb::watch_response::Kind;

use super::{Database, WatchStream, within};

/// The collection.
pub const ORDERS: &str = "orders";

/// Inserts a document that has only a number.
pub async fn insert(database: &Database, id: i32) {
    let orders = database.collection(ORDERS);
    let insert = orders.insert_one(doc! { "_id": id });
    within("an insert", insert.into_future())
        .await
        .expect("an insert");
}

/// The number of successful aggregates on the collection.
pub async fn aggregates(database: &Database) -> i64 {
    let top = database.admin(doc! { "top": 1 }).await;
    let namespace = format!("{}.{ORDERS}", database.name());
    let commands = top
        .get_document("totals")
        .and_then(|totals| totals.get_document(namespace))
        .and_then(|it| it.get_document("commands"))
        .cloned()
        .unwrap_or_default();
    let count = commands.get("count");
    count.map_or(0, |it| {
        it.as_i64().or(it.as_i32().map(i64::from)).unwrap_or(0)
    })
}

/// The `_id` of a change's document; the watch must deliver BSON.
pub fn id(change: &pb::ChangeEvent) -> i32 {
    let key = change.document_key.as_ref().and_then(|it| it.value.clone());
    let Some(pb::document::Value::Bson(key)) = key else {
        panic!("there is no BSON document key in {change:?}");
    };
    let key = Document::from_reader(&key[..]).expect("a document key is a document");
    key.get_i32("_id").expect("a number")
}

/// A request to watch [`ORDERS`] after a token.
pub fn resume(database: &Database, token: Bytes) -> pb::WatchRequest {
    pb::WatchRequest {
        start: Some(pb::watch_request::Start::ResumeToken(token)),
        ..database.watch_request(&[ORDERS])
    }
}

/// The ids of the changes that a watch has received so far, and its states.
#[derive(Debug, Default)]
pub struct Received {
    pub ids: Vec<i32>,
    pub states: Vec<pb::WatchState>,
}

impl Received {
    /// Reads until `condition` holds.
    pub async fn until(
        &mut self,
        what: &str,
        watch: &mut WatchStream,
        condition: impl Fn(&Self) -> bool,
    ) {
        let whole = async {
            while !condition(self) {
                match watch.next().await.kind {
                    Some(Kind::Changes(batch)) => self.ids.extend(batch.changes.iter().map(id)),
                    Some(Kind::StateChange(change)) => self.states.push(change.state()),
                    _ => {}
                }
            }
        };
        within(what, whole).await;
    }

    /// Reads until the change of this document has come.
    pub async fn until_id(&mut self, watch: &mut WatchStream, id: i32) {
        let what = format!("document {id}");
        self.until(&what, watch, |it| it.ids.contains(&id)).await;
    }

    /// Reads until the watch is live again after it lost MongoDB `times` times.
    pub async fn until_reconnected(&mut self, watch: &mut WatchStream, times: usize) {
        let lost = pb::WatchState::UpstreamReconnecting;
        self.until("LIVE after UPSTREAM_RECONNECTING", watch, |it| {
            it.states.iter().filter(|state| **state == lost).count() >= times
                && it.states.last() == Some(&pb::WatchState::Live)
        })
        .await;
    }
}
