//! A stand-in for MongoDB that sends exactly what a test says, even what no real server sends.
//!
//! It speaks as much of the wire protocol as Weir needs. Every collection has a [`Log`] of events, and
//! every cursor reads the logs from the place of its token or its time: a broken event comes again
//! after a resume, as it would from an oplog.
//!
//! [`StandIn::start`] filters nothing: of a pipeline it reads only the start, and a stream on a
//! collection shows the events of that collection's log, one on a database those of the log "".
//!
//! [`StandIn::start_as`] behaves as a mongod or a mongos of a [`Version`]. It has one oplog, in which
//! streams see what is in their scope. It refuses options that this version lacks, evaluates `$match`
//! and `$project`, enriches events with what the options ask for, ends streams with `invalidate`, and
//! has tokens in MongoDB's form: of events, which must be found again, and high-water tokens, which
//! every pipeline takes. An [`Event`] may fail while it is enriched.
//!
//! In both cases a test changes answers with [`Rule`]s, one after the other or for good.
//!
//! ```ignore
//! let stand_in = StandIn::start_as(Version::mongos([9, 0, 1]));
//! let orders = stand_in.log("orders");
//! let weir = Weir::at(stand_in.uri(), |_| {}).await;
//! let mut watch = weir.watch(stand_in.watch_request(&["orders"])).await;
//! stand_in.play(Rule::on("getMore").once().answer(ServerError::stepped_down()));
//! orders.push(insert(1));
//! orders.push(Event::too_large(change("update", "orders", 1)));
//! ```

mod condition;
mod event;
mod oplog;
mod pipeline;
mod reply;
mod script;
mod server;
mod token;
mod version;
#[path = "../../../benches/performance/upstream/stand_in/wire.rs"]
mod wire;

pub use event::{Enrichment, Event, about, change, insert};
pub use reply::{RawWriter, Reply, string_value};
pub use script::{Alteration, Answer, Request, Rule, ServerError};
pub use token::{Tokens, high_water_token, is_of_an_event};
pub use version::Version;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use mongodb::bson::{Document, Timestamp, doc};
use weir::pb;

use oplog::{LogState, State};
use server::Server;

/// The database of every log.
pub const DATABASE: &str = "stand_in";

/// The second of the first event, unless a test sets the clock.
pub const FIRST_SECOND: u32 = 1_700_000_000;

/// A running server. When it is dropped it stops and closes every connection.
pub struct StandIn {
    server: Arc<Server>,
}

/// The events of one collection, or of the database as a whole.
pub struct Log {
    server: Arc<Server>,
    database: String,
    name: String,
}

/// A rule that is in force.
pub struct Played {
    server: Arc<Server>,
    number: u64,
}

/// An oplog timestamp.
pub fn time(seconds: u32, increment: u32) -> Timestamp {
    Timestamp {
        time: seconds,
        increment,
    }
}

impl StandIn {
    /// Listens on a free loopback port, as a server that filters nothing.
    pub fn start() -> Self {
        Self::listen(None)
    }

    /// Listens on a free loopback port, as a server of this version.
    pub fn start_as(version: Version) -> Self {
        Self::listen(Some(version))
    }

    fn listen(version: Option<Version>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let server = Arc::new(Server {
            address: address.to_string(),
            uri: format!("mongodb://{address}/?directConnection=true"),
            state: Mutex::new(State {
                version,
                ..State::default()
            }),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&server);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let Some(id) = accepting.admit(&connection) else {
                    return;
                };
                let server = Arc::clone(&accepting);
                std::thread::spawn(move || server.serve(id, connection));
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

    /// The events of a collection. The name "" stands for a stream on the whole database, and on a
    /// server with a version for events that belong to no collection.
    pub fn log(&self, collection: &str) -> Log {
        self.log_in(DATABASE, collection)
    }

    /// The events of a collection of another database.
    pub fn log_in(&self, database: &str, collection: &str) -> Log {
        Log {
            server: Arc::clone(&self.server),
            database: database.to_owned(),
            name: collection.to_owned(),
        }
    }

    /// Appends entries that no stream shows, as the oplog has many. Only on a server with a version.
    pub fn push_noops(&self, count: usize) {
        let noop = || Event::from(doc! { "operationType": event::NOOP });
        self.log("").push_all((0..count).map(|_| noop()));
    }

    /// Puts a rule in force, after those that are. The first that matches a command answers it; for a
    /// `getMore` it does so at once.
    pub fn play(&self, rule: Rule) -> Played {
        let number = self.server.state().script.add(rule);
        self.server.changed.notify_all();
        Played {
            server: Arc::clone(&self.server),
            number,
        }
    }

    /// Sets the operation time from now on. By default it is one second before the next event.
    pub fn set_clock(&self, clock: Timestamp) {
        self.server.state().clock = Some(clock);
    }

    /// The operation time.
    pub fn now(&self) -> Timestamp {
        self.server.state().now()
    }

    /// Sets the time of the oldest oplog entry. By default it is long ago. A server with a version
    /// refuses to open a stream before it (286).
    pub fn set_oldest(&self, oldest: Timestamp) {
        self.server.state().oldest = Some(oldest);
    }

    /// Sets the maximum number of oplog entries that a server with a version reads for one reply.
    /// When it is reached the reply is sent at once, empty or not, with the place that was reached.
    pub fn set_scan_limit(&self, entries: Option<usize>) {
        self.server.state().scan_limit = entries;
        self.server.changed.notify_all();
    }

    /// Sets what the tokens of a server with a version tell, before the first stream is opened.
    pub fn set_tokens(&self, tokens: Tokens) {
        self.server.state().tokens = tokens;
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

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        self.server.state().connections.len()
    }

    /// Closes every connection.
    pub fn cut(&self) {
        self.server.state().cut(false);
    }

    /// Closes every connection on which no command is in progress.
    pub fn cut_idle(&self) {
        self.server.state().cut(true);
    }

    /// Forgets every cursor, as a server does that was restarted.
    pub fn forget_cursors(&self) {
        self.server.state().cursors.clear();
        self.server.changed.notify_all();
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let mut state = self.server.state();
        state.stopped = true;
        state.cut(false);
        drop(state);
        self.server.changed.notify_all();
        // Ends the wait for the next connection.
        let _ = TcpStream::connect(&self.server.address);
    }
}

impl Played {
    /// The number of commands that it has answered.
    pub fn count(&self) -> u64 {
        self.server.state().script.count(self.number)
    }

    /// Ends the rule.
    pub fn end(&self) {
        self.server.state().script.end(self.number);
    }
}

impl Log {
    /// Appends an event.
    pub fn push(&self, event: impl Into<Event>) {
        self.push_all([event.into()]);
    }

    /// Appends several events in one step, so that they come in one reply if they fit.
    pub fn push_all(&self, events: impl IntoIterator<Item = Event>) {
        self.append(events, &[], false);
    }

    /// Appends events of one time, with tokens that tell them apart, as of one transaction. Only on a
    /// server with a version.
    pub fn push_at_once(&self, events: impl IntoIterator<Item = Event>) {
        self.append(events, &[], true);
    }

    /// Appends an event that streams on these collections show too, such as `endOfTransaction`.
    pub fn push_for(&self, collections: &[&str], event: impl Into<Event>) {
        self.append([event.into()], collections, false);
    }

    fn append(&self, events: impl IntoIterator<Item = Event>, also_in: &[&str], at_once: bool) {
        let mut state = self.server.state();
        for (index, event) in events.into_iter().enumerate() {
            let with_last = at_once && index > 0;
            state.push((&self.database, &self.name), event, also_in, with_last);
        }
        drop(state);
        self.server.changed.notify_all();
    }

    /// The number of events.
    pub fn len(&self) -> usize {
        let state = self.server.state();
        let own = state.entries.iter().filter(|it| it.log == self.name);
        own.count()
    }

    /// The token of its event at a position, counted from 0.
    ///
    /// # Panics
    /// There is no such event.
    pub fn token(&self, position: usize) -> Document {
        let state = self.server.state();
        let mut own = state.entries.iter().filter(|it| it.log == self.name);
        let token = own.nth(position).and_then(|entry| entry.token.clone());
        token.expect("there is such an event")
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

    /// Puts events into the first batch too. A mongod with a version always does.
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

/// The default token of the event at a position of a server without a version, counted from 0.
pub fn event_token(position: usize) -> Document {
    doc! { "_data": format!("E{position:08}") }
}

/// The token of the position before an event of the oplog.
fn position_token(position: usize) -> Document {
    doc! { "_data": format!("P{position:08}") }
}
