//! A stand-in for MongoDB that sends exactly the bytes that a test gives it, even those that no
//! real server sends.
//!
//! It speaks as much of the wire protocol as Weir needs. Each collection has a [`Log`] of events with
//! any bytes, and every cursor reads the log from the position of its token or its time: a broken
//! event comes again after a resume, as it would from an oplog. [`Log::alter`] changes each reply to a
//! cursor, [`Log::answer`] replaces the next ones. Of a pipeline it reads only `$changeStream`, so it
//! filters nothing.
//!
//! ```ignore
//! let stand_in = StandIn::start();
//! let orders = stand_in.log("orders");
//! let weir = Weir::at(stand_in.uri(), |_| {}).await;
//! let mut watch = weir.watch(stand_in.watch_request(&["orders"])).await;
//! orders.push(insert(1));
//! orders.push(Event::Raw(b"not BSON at all".to_vec()));
//! ```

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mongodb::bson::{Bson, DateTime, Document, Timestamp, doc};
use weir::pb;

#[path = "../../benches/performance/upstream/stand_in/wire.rs"]
mod wire;

/// The database of every log.
pub const DATABASE: &str = "stand_in";

/// The second of the first event, unless a test sets the clock.
pub const FIRST_SECOND: u32 = 1_700_000_000;

/// The maximum number of events in one reply, unless a test sets another.
const BATCH: usize = 100;

/// MongoDB's code for an unknown cursor.
const CURSOR_NOT_FOUND: i32 = 43;
/// MongoDB's code for a token that it never issued.
const INVALID_RESUME_TOKEN: i32 = 260;

/// A running server. When it is dropped it stops and closes every connection.
pub struct StandIn {
    server: Arc<Server>,
}

/// The events of one collection, or of the database as a whole.
pub struct Log {
    server: Arc<Server>,
    name: String,
}

/// An event to append to a log.
pub enum Event {
    /// A document. Missing `_id`, `clusterTime` and `wallTime` are filled in: tokens that tell
    /// events apart, and times that rise by a second from [`FIRST_SECOND`].
    Document(Document),
    /// These bytes, unchecked. Their resume token is [`event_token`] of their position.
    Raw(Vec<u8>),
}

impl From<Document> for Event {
    fn from(document: Document) -> Self {
        Self::Document(document)
    }
}

/// The answer to an `aggregate` or a `getMore`.
pub enum Answer {
    /// An error in MongoDB's form.
    Error {
        /// Its code.
        code: i32,
        /// Its labels.
        labels: &'static [&'static str],
    },
    /// A reply with these bytes in place of its document.
    Document(Vec<u8>),
    /// These bytes in place of a whole message. The connection is closed afterwards.
    Message(Vec<u8>),
    /// The connection is closed without an answer.
    Close,
}

/// A reply to an `aggregate` or a `getMore`, before it is encoded.
#[derive(Debug, Clone)]
pub struct Reply {
    /// True if it answers an `aggregate`.
    pub first: bool,
    /// The cursor id; 0 means that the cursor is exhausted.
    pub cursor: i64,
    /// The events, each as raw bytes.
    pub events: Vec<Vec<u8>>,
    /// The position after the events, as a raw BSON document.
    pub post_batch_token: Option<Vec<u8>>,
    /// The server's time.
    pub operation_time: Option<Timestamp>,
}

type Alter = Box<dyn Fn(&mut Reply) + Send>;

struct Server {
    address: String,
    uri: String,
    state: Mutex<State>,
    /// Notified of everything that changes the answer to a waiting cursor.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    logs: HashMap<String, LogState>,
    cursors: HashMap<i64, Cursor>,
    /// The count of each command.
    command_count: HashMap<String, u64>,
    /// The operation time that a test has set.
    clock: Option<Timestamp>,
    /// The time of the oldest oplog entry.
    oldest: Option<Timestamp>,
    connections: Vec<TcpStream>,
    stopped: bool,
}

#[derive(Default)]
struct LogState {
    entries: Vec<Entry>,
    answers: VecDeque<Answer>,
    alter: Option<Alter>,
    batch: Option<usize>,
    /// True if the first batch contains events.
    events_in_first_batch: bool,
    /// True if it answers at once, even with an empty batch.
    answer_at_once: bool,
    /// The count of each command for this log.
    command_count: HashMap<String, u64>,
}

struct Entry {
    bytes: Vec<u8>,
    /// Its `_id`, where it has one.
    token: Option<Document>,
    time: Timestamp,
}

impl Entry {
    fn new(position: usize, event: Event, seconds: u32) -> Self {
        let event = match event {
            Event::Document(event) => event,
            Event::Raw(bytes) => {
                return Self {
                    bytes,
                    token: Some(event_token(position)),
                    time: time(seconds, 1),
                };
            }
        };
        let mut whole = doc! { "_id": event_token(position) };
        whole.extend(event);
        let time = whole
            .get_timestamp("clusterTime")
            .unwrap_or(time(seconds, 1));
        if !whole.contains_key("clusterTime") {
            whole.insert("clusterTime", time);
        }
        if !whole.contains_key("wallTime") {
            let wall_time = DateTime::from_millis(i64::from(time.time) * 1000);
            whole.insert("wallTime", wall_time);
        }
        Self {
            bytes: bytes_of(&whole),
            token: whole.get_document("_id").ok().cloned(),
            time,
        }
    }
}

struct Cursor {
    log: String,
    position: usize,
}

/// An oplog timestamp.
pub fn time(seconds: u32, increment: u32) -> Timestamp {
    Timestamp {
        time: seconds,
        increment,
    }
}

/// An insert of a document with this `_id`, with everything that MongoDB sends except `_id`,
/// `clusterTime` and `wallTime`, which are added later.
pub fn insert(id: i32) -> Document {
    doc! {
        "operationType": "insert",
        "fullDocument": { "_id": id },
        "ns": { "db": DATABASE, "coll": "orders" },
        "documentKey": { "_id": id },
    }
}

impl StandIn {
    /// Listens on a free loopback port.
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let server = Arc::new(Server {
            address: address.to_string(),
            uri: format!("mongodb://{address}/?directConnection=true"),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&server);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let Some(connection) = accepting.admit(connection) else {
                    return;
                };
                let server = Arc::clone(&accepting);
                std::thread::spawn(move || {
                    // A client that disconnects is no failure.
                    let _ = server.serve(connection);
                });
            }
        });
        Self { server }
    }

    /// The MongoDB URI of the server.
    pub fn uri(&self) -> &str {
        &self.server.uri
    }

    /// A request to watch these collections, with defaults for everything else.
    pub fn watch_request(&self, collections: &[&str]) -> pb::WatchRequest {
        pb::WatchRequest {
            database: DATABASE.to_owned(),
            collections: collections.iter().map(|&name| name.to_owned()).collect(),
            ..pb::WatchRequest::default()
        }
    }

    /// The events of a collection; the name "" stands for a stream on the whole database.
    pub fn log(&self, collection: &str) -> Log {
        Log {
            server: Arc::clone(&self.server),
            name: collection.to_owned(),
        }
    }

    /// Sets the operation time from now on. By default it is one second before the next event.
    pub fn set_clock(&self, clock: Timestamp) {
        self.server.state().clock = Some(clock);
    }

    /// Sets the time of the oldest oplog entry. By default it is long ago.
    pub fn set_oldest(&self, oldest: Timestamp) {
        self.server.state().oldest = Some(oldest);
    }

    /// The number of times that this command came.
    pub fn command_count(&self, command: &str) -> u64 {
        let state = self.server.state();
        state
            .command_count
            .get(command)
            .copied()
            .unwrap_or_default()
    }

    /// The number of open cursors.
    pub fn open_cursors(&self) -> usize {
        self.server.state().cursors.len()
    }

    /// Closes every connection.
    pub fn cut(&self) {
        self.server.state().cut();
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let mut state = self.server.state();
        state.stopped = true;
        state.cut();
        drop(state);
        self.server.changed.notify_all();
        // Ends the wait for the next connection.
        let _ = TcpStream::connect(&self.server.address);
    }
}

impl Log {
    /// Appends an event.
    pub fn push(&self, event: impl Into<Event>) {
        self.push_all([event.into()]);
    }

    /// Appends several events in one step, so that they come in one reply if they fit.
    pub fn push_all(&self, events: impl IntoIterator<Item = Event>) {
        let mut state = self.server.state();
        let seconds = state.next_second();
        let log = state.logs.entry(self.name.clone()).or_default();
        for (seconds, event) in (seconds..).zip(events) {
            let entry = Entry::new(log.entries.len(), event, seconds);
            log.entries.push(entry);
        }
        drop(state);
        self.server.changed.notify_all();
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        self.with(|log| log.entries.len())
    }

    /// Sets the maximum number of events in one reply.
    pub fn set_batch(&self, events: usize) {
        self.with(|log| log.batch = Some(events));
    }

    /// Changes every reply to a cursor on this log from now on.
    pub fn alter(&self, alter: impl Fn(&mut Reply) + Send + 'static) {
        self.with(|log| log.alter = Some(Box::new(alter)));
        self.server.changed.notify_all();
    }

    /// Puts events into the first batch too.
    pub fn answer_openings_with_events(&self) {
        self.with(|log| log.events_in_first_batch = true);
    }

    /// Answers every `getMore` at once, even with an empty batch.
    pub fn never_wait(&self) {
        self.with(|log| log.answer_at_once = true);
        self.server.changed.notify_all();
    }

    /// Restores normal replies.
    pub fn restore_replies(&self) {
        self.with(|log| {
            log.alter = None;
            log.answer_at_once = false;
            log.answers.clear();
        });
    }

    /// Replaces the answer to one `getMore`. Several are used one after the other.
    pub fn answer(&self, answer: Answer) {
        self.with(|log| log.answers.push_back(answer));
        self.server.changed.notify_all();
    }

    /// The number of times that this command came for this log.
    pub fn command_count(&self, command: &str) -> u64 {
        self.with(|log| log.command_count.get(command).copied().unwrap_or_default())
    }

    fn with<T>(&self, act: impl FnOnce(&mut LogState) -> T) -> T {
        let mut state = self.server.state();
        act(state.logs.entry(self.name.clone()).or_default())
    }
}

impl Reply {
    /// The encoded document of the reply. The lengths around the events are right, whatever lengths
    /// the events claim.
    pub fn bytes(&self) -> Vec<u8> {
        let mut batch = RawWriter::new();
        for (index, event) in self.events.iter().enumerate() {
            batch.put(0x03, index.to_string(), event);
        }
        let mut cursor = RawWriter::new();
        let name = if self.first {
            "firstBatch"
        } else {
            "nextBatch"
        };
        cursor.put(0x04, name, &batch.finish());
        cursor.put(0x12, "id", &self.cursor.to_le_bytes());
        if let Some(token) = &self.post_batch_token {
            cursor.put(0x03, "postBatchResumeToken", token);
        }
        let namespace = string_value(format!("{DATABASE}.orders"));
        cursor.put(0x02, "ns", &namespace);
        let mut reply = RawWriter::new();
        reply.put(0x03, "cursor", &cursor.finish());
        reply.put(0x01, "ok", &1.0_f64.to_le_bytes());
        if let Some(time) = self.operation_time {
            let time = u64::from(time.time) << 32 | u64::from(time.increment);
            reply.put(0x11, "operationTime", &time.to_le_bytes());
        }
        reply.finish()
    }
}

/// Writes a document from elements that are raw bytes.
#[derive(Debug)]
pub struct RawWriter(Vec<u8>);

impl RawWriter {
    pub fn new() -> Self {
        Self(vec![0; 4])
    }

    /// Adds an element with any value bytes.
    pub fn put(&mut self, kind: u8, key: impl AsRef<[u8]>, value: &[u8]) -> &mut Self {
        self.0.push(kind);
        self.0.extend(key.as_ref());
        self.0.push(0);
        self.0.extend(value);
        self
    }

    /// The document, with its correct length.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.push(0);
        let length = i32::try_from(self.0.len()).expect("a document of a test is under 2 GiB");
        self.0[..4].copy_from_slice(&length.to_le_bytes());
        self.0
    }
}

/// The value of a string element.
pub fn string_value(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    let length = i32::try_from(text.len() + 1).expect("a test's text is short");
    let mut value = length.to_le_bytes().to_vec();
    value.extend(text);
    value.push(0);
    value
}

/// The default token of the event at a position, counted from 0.
pub fn event_token(position: usize) -> Document {
    doc! { "_data": format!("E{position:08}") }
}

/// The token of the position before an event.
fn position_token(position: usize) -> Document {
    doc! { "_data": format!("P{position:08}") }
}

fn bytes_of(document: &Document) -> Vec<u8> {
    document
        .to_vec()
        .expect("what a test builds of documents is BSON")
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a handle of a connection, to close it later. `None` once the server has stopped.
    fn admit(&self, connection: TcpStream) -> Option<TcpStream> {
        let mut state = self.state();
        let handle = connection.try_clone().ok();
        state.connections.extend(handle);
        (!state.stopped).then_some(connection)
    }

    fn serve(&self, mut connection: TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        loop {
            let (request, command) = wire::receive(&mut connection)?;
            let bytes = match self.answer(&command) {
                Answer::Document(bytes) => bytes,
                Answer::Error { code, labels } => bytes_of(&doc! {
                    "ok": 0.0,
                    "code": code,
                    "errmsg": "requested by the test",
                    "errorLabels": labels,
                }),
                Answer::Message(mut bytes) => {
                    // The driver would refuse an answer to another request for that reason alone.
                    if let Some(response_to) = bytes.get_mut(8..12) {
                        response_to.copy_from_slice(&request.to_le_bytes());
                    }
                    io::Write::write_all(&mut connection, &bytes)?;
                    return connection.shutdown(Shutdown::Both);
                }
                Answer::Close => return connection.shutdown(Shutdown::Both),
            };
            wire::send(&mut connection, request, &bytes)?;
        }
    }

    fn answer(&self, command: &Document) -> Answer {
        let (name, subject) = command.iter().next().expect("a command has a name");
        let mut state = self.state();
        *state.command_count.entry(name.clone()).or_default() += 1;
        match name.as_str() {
            "aggregate" => {
                let log = subject.as_str().unwrap_or_default().to_owned();
                state.count(&log, name);
                let position = match state.requested_position(&log, command) {
                    Ok(position) => position,
                    Err(code) => return Answer::Error { code, labels: &[] },
                };
                let id = fastrand::i64(1..);
                state.cursors.insert(id, Cursor { log, position });
                state.reply(id, true)
            }
            "getMore" => {
                let id = subject.as_i64().unwrap_or_default();
                if let Some(log) = state.cursors.get(&id).map(|it| it.log.clone()) {
                    state.count(&log, name);
                }
                let wait = command.get("maxTimeMS").and_then(millis);
                self.get_more(state, id, wait.unwrap_or(Duration::from_secs(1)))
            }
            _ => Answer::Document(bytes_of(&state.other(name, command, &self.address))),
        }
    }

    /// Answers a `getMore` once there are events or the time is up.
    fn get_more(&self, state: MutexGuard<'_, State>, id: i64, wait: Duration) -> Answer {
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, wait, |state| !state.stopped && state.is_quiet(id))
            .unwrap_or_else(PoisonError::into_inner);
        let Some(name) = state.cursors.get(&id).map(|it| it.log.clone()) else {
            return Answer::Error {
                code: CURSOR_NOT_FOUND,
                labels: &[],
            };
        };
        let answer = state.logs.entry(name).or_default().answers.pop_front();
        answer.unwrap_or_else(|| state.reply(id, false))
    }
}

impl State {
    fn cut(&mut self) {
        for connection in self.connections.drain(..) {
            // It may be closed already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Returns whether there is nothing for a cursor to read.
    fn is_quiet(&self, id: i64) -> bool {
        let cursor = self.cursors.get(&id);
        let log = cursor.and_then(|cursor| Some((cursor, self.logs.get(&cursor.log)?)));
        log.is_some_and(|(cursor, log)| {
            let nothing = log.answers.is_empty() && log.entries.len() <= cursor.position;
            nothing && !log.answer_at_once
        })
    }

    fn count(&mut self, log: &str, command: &str) {
        let log = self.logs.entry(log.to_owned()).or_default();
        *log.command_count.entry(command.to_owned()).or_default() += 1;
    }

    /// The second of the next event.
    fn next_second(&self) -> u32 {
        let events: usize = self.logs.values().map(|log| log.entries.len()).sum();
        FIRST_SECOND + u32::try_from(events).expect("a test writes few events")
    }

    /// The operation time: right before the next event, unless a test has set it.
    fn now(&self) -> Timestamp {
        self.clock.unwrap_or(time(self.next_second() - 1, 1))
    }

    /// Advances a cursor and returns the events that it passed.
    fn reply(&mut self, id: i64, first: bool) -> Answer {
        let operation_time = Some(self.now());
        let Some(cursor) = self.cursors.get_mut(&id) else {
            return Answer::Close;
        };
        let log = self.logs.entry(cursor.log.clone()).or_default();
        let count = if first { 0 } else { log.batch.unwrap_or(BATCH) };
        let events: Vec<Vec<u8>> = log.entries[cursor.position..]
            .iter()
            .take(count)
            .map(|entry| entry.bytes.clone())
            .collect();
        cursor.position += events.len();
        let mut reply = Reply {
            first,
            cursor: id,
            events,
            post_batch_token: Some(bytes_of(&position_token(cursor.position))),
            operation_time,
        };
        if let Some(alter) = &log.alter {
            alter(&mut reply);
        }
        Answer::Document(reply.bytes())
    }

    /// The number of events before the position at which an `aggregate` asks to start.
    fn requested_position(&self, log: &str, aggregate: &Document) -> Result<usize, i32> {
        let entries = self.logs.get(log).map_or(&[][..], |log| &log.entries);
        let options = aggregate.get_array("pipeline").ok().and_then(|stages| {
            stages
                .first()?
                .as_document()?
                .get_document("$changeStream")
                .ok()
        });
        let Some(options) = options else {
            return Ok(entries.len());
        };
        for option in ["resumeAfter", "startAfter"] {
            let Ok(token) = options.get_document(option) else {
                continue;
            };
            let of = |entry: &Entry| entry.token.as_ref() == Some(token);
            if let Some(event) = entries.iter().rposition(of) {
                return Ok(event + 1);
            }
            let data = token.get_str("_data").unwrap_or_default();
            let position = data
                .strip_prefix('P')
                .and_then(|position| position.parse().ok());
            return position.ok_or(INVALID_RESUME_TOKEN);
        }
        Ok(match options.get_timestamp("startAtOperationTime") {
            Ok(from) => {
                let at = entries.iter().position(|entry| entry.time >= from);
                at.unwrap_or(entries.len())
            }
            Err(_) => entries.len(),
        })
    }

    /// The answer to a command that concerns no change stream.
    fn other(&mut self, name: &str, command: &Document, address: &str) -> Document {
        let mut answer = match name {
            "find" => doc! { "cursor": {
                "firstBatch": [{ "ts": self.oldest.unwrap_or(time(1, 1)) }],
                "id": 0_i64,
                "ns": "local.oplog.rs",
            } },
            "killCursors" => {
                let killed = command.get_array("cursors").cloned().unwrap_or_default();
                for id in killed.iter().filter_map(Bson::as_i64) {
                    self.cursors.remove(&id);
                }
                doc! { "cursorsKilled": killed }
            }
            // For the rest, such as ping and endSessions, `ok` is enough.
            _ => wire::handshake_reply(name, address).unwrap_or_default(),
        };
        answer.insert("ok", 1.0);
        answer.insert("operationTime", self.now());
        answer
    }
}

fn millis(value: &Bson) -> Option<Duration> {
    let millis = value.as_i64().or_else(|| value.as_i32().map(i64::from))?;
    Some(Duration::from_millis(millis.try_into().ok()?))
}
