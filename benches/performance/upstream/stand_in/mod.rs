//! A server that speaks as much of MongoDB's wire protocol as a change stream needs, and has every
//! event ready: events are encoded once, and only stamps, tokens and times are written into them.
//!
//! A cursor gets the inserts of the only collection, from where it starts, and then new ones: one
//! for each `insert` of a client, and as many as the parent requests.

mod cursor;
mod reply;
mod wire;

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use clap::Args;
use mongodb::bson::{Bson, Document, doc};

use self::{
    cursor::{Batch, Cursors, Log},
    reply::{Template, time, token},
};
use super::pace::{self, Sender};
use crate::system::{commands::Commands, now_micros, process::Process, runtime};

/// The database of every event.
pub const DATABASE: &str = "stand_in";
/// The collection of every event.
pub const COLLECTION: &str = "orders";

/// MongoDB's code for an unknown cursor.
const CURSOR_NOT_FOUND: i32 = 43;

/// The contents of the stand-in.
#[derive(Debug, Args)]
pub struct Task {
    /// The number of events at the start; a cursor without a start position begins with them
    #[arg(long)]
    pub events: u64,
    /// The maximum number of events in one reply
    #[arg(long)]
    pub batch: usize,
    /// The number of groups
    #[arg(long)]
    pub groups: i64,
    /// The size of a document
    #[arg(long)]
    pub bytes: usize,
    /// Documents of thirty fields
    #[arg(long)]
    pub wide: bool,
}

/// A running stand-in.
#[derive(Debug)]
pub struct StandIn {
    uri: String,
    process: Process,
}

/// Starts a stand-in as a separate process.
pub fn start(task: &Task) -> StandIn {
    let Task {
        events,
        batch,
        groups,
        bytes,
        wide,
    } = task;
    let mut arguments = vec![
        "stand-in".to_owned(),
        format!("--events={events}"),
        format!("--batch={batch}"),
        format!("--groups={groups}"),
        format!("--bytes={bytes}"),
    ];
    arguments.extend(wide.then(|| "--wide".to_owned()));
    let process = Process::start_role("the stand-in", &arguments);
    let address = process.line_after("listening");
    StandIn {
        uri: format!("mongodb://{address}/?directConnection=true"),
        process,
    }
}

impl StandIn {
    /// The MongoDB URI.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Its URI and its process.
    pub fn into_parts(self) -> (String, Process) {
        (self.uri, self.process)
    }
}

/// The stand-in's process.
pub fn run(task: &Task, commands: &mut Commands) {
    assert!(task.batch > 0, "a batch holds at least one event");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    let mut log = Log::new(task.groups);
    (0..task.events).for_each(|_| log.push(0));
    let mut server = Arc::new(Server {
        address: address.to_string(),
        batch: task.batch,
        // Events from the start are there to be read.
        from_start: task.events > 0,
        template: Template::new(task.bytes, task.wide),
        state: Mutex::new(State {
            log,
            cursors: Cursors::default(),
        }),
        changed: Condvar::new(),
    });
    println!("listening {address}");
    let serving = Arc::clone(&server);
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let server = Arc::clone(&serving);
            std::thread::spawn(move || {
                // A client that disconnects is no failure.
                let _ = server.serve(connection);
            });
        }
    });
    runtime().block_on(pace::run_commands(commands, &mut server));
}

struct Server {
    address: String,
    batch: usize,
    from_start: bool,
    template: Template,
    state: Mutex<State>,
    /// Notified of every insert.
    changed: Condvar,
}

struct State {
    log: Log,
    cursors: Cursors,
}

impl Sender for Arc<Server> {
    async fn send(&mut self, ids: std::ops::Range<i64>) {
        let sent = now_micros().cast_signed();
        let mut state = self.state();
        ids.for_each(|_| state.log.push(sent));
        drop(state);
        self.changed.notify_all();
    }
}

impl Server {
    fn serve(&self, mut connection: TcpStream) -> std::io::Result<()> {
        connection.set_nodelay(true)?;
        // One buffer for all replies of this connection.
        let mut bytes = Vec::new();
        loop {
            let (request, command) = wire::receive(&mut connection)?;
            let name = command.keys().next().map_or("", String::as_str);
            bytes.clear();
            if name == "getMore" {
                let id = command.get_i64("getMore").unwrap_or_default();
                let wait = command.get("maxTimeMS").and_then(milliseconds);
                match self.advance(id, wait.unwrap_or(Duration::from_secs(1))) {
                    Some(batch) => self.template.write(id, &batch, &mut bytes),
                    None => bytes = document_bytes(&failure(CURSOR_NOT_FOUND)),
                }
            } else {
                bytes = document_bytes(&self.answer(name, &command));
            }
            wire::send(&mut connection, request, &bytes)?;
        }
    }

    /// Advances a cursor by a batch. Waits when there is none.
    fn advance(&self, id: i64, wait: Duration) -> Option<Batch> {
        let nothing = |state: &mut State| !state.cursors.has_more(id, &state.log);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(self.state(), wait, nothing)
            .unwrap_or_else(PoisonError::into_inner);
        let State { log, cursors } = &mut *state;
        cursors.advance(id, log, self.batch)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, name: &str, command: &Document) -> Document {
        let mut answer = match name {
            "serverStatus" => {
                let open = i64::try_from(self.state().cursors.len()).unwrap_or(i64::MAX);
                doc! { "metrics": { "cursor": { "open": { "total": open } } } }
            }
            "aggregate" => {
                let State { log, cursors } = &mut *self.state();
                let (id, position) = cursors.open(command, log, self.from_start);
                doc! { "cursor": {
                    "firstBatch": [],
                    "postBatchResumeToken": { "_data": token(position) },
                    "id": id,
                    "ns": format!("{DATABASE}.{COLLECTION}"),
                } }
            }
            "killCursors" => {
                let killed = command.get_array("cursors").cloned().unwrap_or_default();
                let mut state = self.state();
                let ids = killed.iter().filter_map(Bson::as_i64);
                ids.for_each(|id| state.cursors.close(id));
                doc! { "cursorsKilled": killed }
            }
            "find" => doc! { "cursor": {
                "firstBatch": [{ "ts": time(0) }],
                "id": 0_i64,
                "ns": "local.oplog.rs",
            } },
            "insert" => {
                // The driver's `insert_one`, whose document comes in a section of its own.
                self.state().log.push(now_micros().cast_signed());
                self.changed.notify_all();
                doc! { "n": 1 }
            }
            // For the rest, such as ping, create, dropDatabase and endSessions, `ok` is enough.
            _ => wire::handshake_reply(name, &self.address).unwrap_or_default(),
        };
        answer.insert("ok", 1.0);
        answer.insert("operationTime", time(self.state().log.len()));
        answer
    }
}

fn failure(code: i32) -> Document {
    doc! { "ok": 0.0, "code": code, "errmsg": "no such cursor" }
}

fn document_bytes(document: &Document) -> Vec<u8> {
    document.to_vec().expect("replies are valid BSON")
}

fn milliseconds(value: &Bson) -> Option<Duration> {
    let millis = value.as_i64().or_else(|| value.as_i32().map(i64::from))?;
    Some(Duration::from_millis(millis.try_into().ok()?))
}
