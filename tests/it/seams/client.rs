//! Plays a schedule and compares what each client receives with what was written.

use bytes::Bytes;
use bytesize::ByteSize;
use mongodb::bson::{Document, doc};
use pb::OperationType::{Delete, Insert, Update};
use pb::watch_response::Kind;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Endpoint;
use weir::pb;
use weir::pb::watch_service_client::WatchServiceClient;

use super::schedule::{CLIENTS, Schedule, Step, WANTED_BY_ALL, WatchSpec};
use crate::conversions::{field, value};
use crate::support::{Database, WAIT_LIMIT, WatchStream, Weir};

/// The HTTP/2 window of a narrow client.
const NARROW: u32 = 16 << 10;

/// The size of a large document. HTTP/2 buffers 400 KiB for a client that does not read, so it
/// takes about ten of them before Weir itself has to wait.
const LARGE: usize = 50_000;

/// A change as it was made, and as a client should see it.
#[derive(Clone, Copy, PartialEq)]
struct Change {
    collection: usize,
    operation: pb::OperationType,
    id: i32,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = ["a", "b"][self.collection];
        let operation = self.operation.as_str_name();
        let operation = operation.trim_start_matches("OPERATION_TYPE_");
        write!(f, "{operation} {name} {}", self.id)
    }
}

struct World<'a> {
    database: &'a Database,
    servers: [Weir; 2],
    /// The names of the two collections.
    names: [String; 2],
    written: Vec<Change>,
    /// True for each document that exists, of those that are inserted and deleted.
    existing: [[bool; 8]; 2],
    next_id: i32,
}

struct Client {
    spec: WatchSpec,
    /// The index of the first write that belongs to the client.
    from: usize,
    /// The number of its changes that it has received.
    taken: usize,
    /// Tokens, each with the number of changes before it.
    positions: Vec<(Bytes, usize)>,
    watch: Option<WatchStream>,
}

/// Returns how often a client fell behind a ring.
pub async fn run(database: &Database, schedule: &Schedule) -> Result<f64, String> {
    let case = fastrand::u32(..);
    // One server closes its feeds at once, the other keeps them.
    let server = async |linger| {
        let tiny = |config: &mut weir::config::ServeConfig| {
            config.ring_bytes = ByteSize::kib(256);
            config.max_catch_ups = 2;
            config.feeds_per_scope = 1;
            config.feed_linger = std::time::Duration::from_secs(linger);
        };
        Weir::with(database, tiny).await
    };
    let mut world = World {
        database,
        servers: [server(0).await, server(30).await],
        names: [format!("a_{case}"), format!("b_{case}")],
        written: Vec::new(),
        existing: Default::default(),
        next_id: 100,
    };
    let mut clients: Vec<Client> = schedule.clients.iter().cloned().map(Client::new).collect();
    for (number, step) in schedule.steps.iter().enumerate() {
        let played = play(&mut world, &mut clients, step).await;
        played.map_err(|problem| format!("step {number}, {step:?}: {problem}"))?;
    }
    finish(&mut world, &mut clients).await?;
    let mut fell_behind = 0.0;
    for server in &world.servers {
        fell_behind += server.metrics().await.sum("weir_watches_fell_behind_total");
    }
    Ok(fell_behind)
}

async fn play(world: &mut World<'_>, clients: &mut [Client], step: &Step) -> Result<(), String> {
    match *step {
        Step::Write {
            collection,
            id,
            delete,
        } => world.write(collection, id, delete).await,
        Step::Burst { collection, count } => world.burst(collection, count).await,
        Step::Join {
            client,
            server,
            writes,
        } => {
            return clients[client].join(world, server, writes).await;
        }
        Step::Read { client, messages } => return clients[client].read(world, messages).await,
        Step::Leave { client, forgets } => clients[client].leave(forgets),
    }
    Ok(())
}

/// Connects every client and reads everything, up to documents that all of them match.
async fn finish(world: &mut World<'_>, clients: &mut [Client]) -> Result<(), String> {
    for (number, client) in clients.iter_mut().enumerate() {
        let joined = client.join(world, number % 2, 0).await;
        joined.map_err(|problem| format!("at the end, client {number}: {problem}"))?;
    }
    for collection in 0..2 {
        world.insert(collection, WANTED_BY_ALL, 1).await;
    }
    // Concurrently, as clients that wait for a catch-up permit wait for each other.
    let world = &*world;
    let reading = clients.iter_mut().map(|client| client.read(world, None));
    for (number, read) in futures::future::join_all(reading)
        .await
        .into_iter()
        .enumerate()
    {
        read.map_err(|problem| format!("at the end, client {number} of {CLIENTS}: {problem}"))?;
    }
    Ok(())
}

impl World<'_> {
    fn collection(&self, collection: usize) -> mongodb::Collection<Document> {
        self.database.collection(&self.names[collection])
    }

    fn note(&mut self, collection: usize, operation: pb::OperationType, id: i32) {
        self.written.push(Change {
            collection,
            operation,
            id,
        });
    }

    async fn insert(&mut self, collection: usize, id: i32, bytes: usize) {
        let document = doc! {"_id": id, "text": "x".repeat(bytes)};
        let documents = self.collection(collection);
        let inserted = written("an insert", async || {
            match documents.insert_one(&document).await {
                // By the attempt before.
                Err(error) if error.to_string().contains("E11000") => Ok(()),
                inserted => inserted.map(drop),
            }
        });
        inserted.await;
        self.note(collection, Insert, id);
    }

    async fn burst(&mut self, collection: usize, count: usize) {
        for _ in 0..count {
            let id = self.next_id;
            self.next_id += 1;
            self.insert(collection, id, LARGE).await;
        }
    }

    async fn write(&mut self, collection: usize, id: i32, delete: bool) {
        let number = usize::try_from(id).expect("a small number");
        let existing = std::mem::replace(&mut self.existing[collection][number], true);
        let documents = self.collection(collection);
        let this = doc! {"_id": id};
        if !existing {
            self.insert(collection, id, 10).await;
        } else if delete {
            written("a deletion", async || {
                documents.delete_one(this.clone()).await
            })
            .await;
            self.existing[collection][number] = false;
            self.note(collection, Delete, id);
        } else {
            // Of a new value, so that a second attempt changes nothing where the first one did.
            let change = doc! {"$set": {"at": self.written.len() as i64}};
            let update = async || documents.update_one(this.clone(), change.clone()).await;
            written("an update", update).await;
            self.note(collection, Update, id);
        }
    }

    fn wanted(&self, client: &Client) -> Vec<Change> {
        let wants = |change: &&Change| {
            let name = ["a", "b"][change.collection];
            client.spec.wants(name, change.operation, change.id)
        };
        let from = &self.written[client.from..];
        from.iter().filter(wants).copied().collect()
    }
}

/// Repeats a write that the database failed to make: SecantusDB 0.7.0b3 reports an internal error now and then when
/// others write at the same time.
async fn written<T>(what: &str, write: impl AsyncFn() -> mongodb::error::Result<T>) {
    for _ in 0..3 {
        match write().await {
            Err(error) if error.to_string().contains("(InternalError)") => {}
            written => {
                written.map(drop).expect(what);
                return;
            }
        }
    }
    panic!("{what}: an internal error of the database, three times");
}

impl Client {
    fn new(spec: WatchSpec) -> Self {
        Self {
            spec,
            from: 0,
            taken: 0,
            positions: Vec::new(),
            watch: None,
        }
    }

    fn request(&self, world: &World<'_>) -> pb::WatchRequest {
        use pb::field_filter::Operator::{Gte, Lt};
        let bound = |id: i32| value(serde_json::json!(id));
        let group = |filters| pb::FilterGroup { filters };
        let filters = self.spec.ids.map(|(from, to)| {
            let range = vec![field("_id", Gte(bound(from))), field("_id", Lt(bound(to)))];
            let range = pb::filter::Kind::AllOf(group(range));
            let either = vec![
                pb::Filter { kind: Some(range) },
                field("_id", Gte(bound(WANTED_BY_ALL))),
            ];
            vec![pb::Filter {
                kind: Some(pb::filter::Kind::AnyOf(group(either))),
            }]
        });
        let name = |&collection: &&str| &world.names[usize::from(collection == "b")];
        let names = self.spec.collections.iter();
        let names: Vec<&str> = names.map(|it| name(it).as_str()).collect();
        let place = self.positions.last().map(|(token, _)| token.clone());
        pb::WatchRequest {
            operations: self.spec.operations.iter().map(|&it| it.into()).collect(),
            filters: filters.unwrap_or_default(),
            feed_mode: self.spec.mode.into(),
            document_format: self.spec.format.into(),
            progress_interval: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            start: place.map(pb::watch_request::Start::ResumeToken),
            ..world.database.watch_request(&names)
        }
    }

    /// Does nothing when the client is connected already.
    async fn join(
        &mut self,
        world: &mut World<'_>,
        server: usize,
        writes: usize,
    ) -> Result<(), String> {
        if self.watch.is_some() {
            return Ok(());
        }
        let request = self.request(world);
        let endpoint =
            Endpoint::from_shared(format!("http://{}", world.servers[server].grpc_addr()));
        let endpoint = endpoint.expect("an address makes a URI");
        let narrow = self.spec.narrow.then_some(NARROW);
        let endpoint = endpoint
            .initial_stream_window_size(narrow)
            .initial_connection_window_size(narrow);
        let opening = async {
            let channel = endpoint.connect().await.expect("Weir accepts connections");
            WatchStream::open(&mut WatchServiceClient::new(channel), request).await
        };
        // For a watch from now, nobody could tell which of the concurrent writes it should receive.
        let opened = if self.positions.is_empty() {
            self.from = world.written.len();
            opening.await
        } else {
            let (opened, ()) = tokio::join!(opening, world.burst(0, writes));
            opened
        };
        let watch = opened.map_err(|status| format!("refused: {status:?}"))?;
        match self.positions.last() {
            Some((_, taken)) => self.taken = *taken,
            None => self.positions.push((watch.token(), 0)),
        }
        self.watch = Some(watch);
        Ok(())
    }

    fn leave(&mut self, forgets: usize) {
        self.watch = None;
        let kept = self.positions.len().saturating_sub(forgets).max(1);
        self.positions.truncate(kept);
    }

    async fn read(&mut self, world: &World<'_>, messages: Option<usize>) -> Result<(), String> {
        let wanted = world.wanted(self);
        let mut left = messages.unwrap_or(usize::MAX);
        let mut deadline = Instant::now() + WAIT_LIMIT;
        while left > 0 && self.taken < wanted.len() {
            left -= 1;
            let Some(watch) = &mut self.watch else {
                return Ok(());
            };
            let awaited = format!("awaited {} of {wanted:?}", self.taken);
            let message = timeout_at(deadline, watch.try_next()).await;
            let message = message.map_err(|_| format!("nothing came; {awaited}"))?;
            let message = message.map_err(|status| format!("{status:?}; {awaited}"))?;
            let message = message.ok_or_else(|| format!("it ended with OK; {awaited}"))?;
            if let Some(Kind::Changes(batch)) = message.kind {
                deadline = Instant::now() + WAIT_LIMIT;
                for change in &batch.changes {
                    self.take(world, change, &wanted)?;
                }
            }
            self.positions.push((message.resume_token, self.taken));
        }
        Ok(())
    }

    fn take(
        &mut self,
        world: &World<'_>,
        change: &pb::ChangeEvent,
        wanted: &[Change],
    ) -> Result<(), String> {
        let namespace = change.namespace.as_ref().map(|it| it.collection.as_str());
        let got = Change {
            collection: usize::from(namespace == Some(world.names[1].as_str())),
            operation: change.operation(),
            id: number(change),
        };
        if wanted.get(self.taken) != Some(&got) {
            return Err(format!(
                "got {got:?} in place of {} of {wanted:?}",
                self.taken
            ));
        }
        self.taken += 1;
        self.positions
            .push((change.resume_token.clone(), self.taken));
        Ok(())
    }
}

/// The `_id` of a change's document.
fn number(change: &pb::ChangeEvent) -> i32 {
    let key = change
        .document_key
        .as_ref()
        .and_then(|it| it.value.as_ref());
    match key {
        Some(pb::document::Value::Json(key)) => {
            let key: serde_json::Value = serde_json::from_str(key).expect("JSON");
            let number = key["_id"].as_i64().expect("a number");
            i32::try_from(number).expect("a small one")
        }
        _ => crate::support::orders::id(change),
    }
}
