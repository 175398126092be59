//! A consumer that applies whole transactions by the rules of docs/transactions.md.

use bytes::Bytes;
use weir::pb;
use weir::pb::watch_response::Kind;

use crate::conversions::id;
use crate::support::{Database, WatchStream, Weir};

/// A transaction, as its events name it.
type Name = (Bytes, i64);

/// A store that is written in one step: what was applied, and where to continue.
pub struct Store {
    /// The `_id`s of each unit that was applied, in order: a transaction, or a single change.
    pub applied: Vec<Vec<i32>>,
    token: Bytes,
}

/// A consumer of one watch, until it stops.
pub struct Consumer {
    watch: WatchStream,
    open: Option<Open>,
    /// The token of the last message or change. The store's is older while a transaction is open.
    last_token: Bytes,
}

/// The changes of a transaction that is not complete yet.
struct Open {
    name: Name,
    ids: Vec<i32>,
    time: pb::ClusterTime,
    /// The position before the first of them.
    before: Bytes,
}

impl Store {
    /// An empty store that continues at a token.
    pub fn at(token: Bytes) -> Self {
        Self {
            applied: Vec::new(),
            token,
        }
    }
}

fn is_later(a: pb::ClusterTime, b: pb::ClusterTime) -> bool {
    (a.seconds, a.increment) > (b.seconds, b.increment)
}

impl Consumer {
    /// Opens a watch of `orders` where the store continues.
    pub async fn open(weir: &Weir, database: &Database, store: &Store) -> Self {
        let request = pb::WatchRequest {
            start: Some(pb::watch_request::Start::ResumeToken(store.token.clone())),
            progress_interval: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..database.watch_request(&["orders"])
        };
        Self {
            watch: weir.watch(request).await,
            open: None,
            last_token: store.token.clone(),
        }
    }

    /// Handles the next message.
    pub async fn step(&mut self, store: &mut Store) {
        let message = self.watch.next().await;
        match message.kind {
            Some(Kind::Changes(batch)) => {
                for change in batch.changes {
                    self.take(change, store);
                }
            }
            Some(Kind::Progress(progress)) => {
                let reached = progress.cluster_time.unwrap_or_default();
                if let Some(open) = self.open.take_if(|open| is_later(reached, open.time)) {
                    store.applied.push(open.ids);
                }
            }
            _ => {}
        }
        self.last_token = message.resume_token;
        let open = self.open.as_ref();
        store.token = open.map_or_else(|| self.last_token.clone(), |it| it.before.clone());
    }

    fn take(&mut self, change: pb::ChangeEvent, store: &mut Store) {
        let time = change.cluster_time.expect("a change has a time");
        let transaction = change.transaction.as_ref();
        let name = transaction.map(|it| (it.session_id.clone(), it.number));
        let is_other =
            |open: &mut Open| Some(&open.name) != name.as_ref() && is_later(time, open.time);
        if let Some(open) = self.open.take_if(is_other) {
            store.applied.push(open.ids);
        }
        let number = id(&change).as_i32().expect("the test's ids are numbers");
        let before = std::mem::replace(&mut self.last_token, change.resume_token.clone());
        let Some(name) = name else {
            return store.applied.push(vec![number]);
        };
        let open = self.open.get_or_insert(Open {
            name: name.clone(),
            ids: Vec::new(),
            time,
            before,
        });
        assert_eq!(
            open.name, name,
            "two transactions are open on a replica set"
        );
        open.ids.push(number);
        open.time = time;
        if change.transaction.is_some_and(|it| it.last) {
            store.applied.extend(self.open.take().map(|open| open.ids));
        }
    }
}
