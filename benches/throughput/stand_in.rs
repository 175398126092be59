//! A server that speaks as much of MongoDB's wire protocol as a change stream needs, and has every
//! batch ready: replies are made once, and only ids, tokens and times are written into them anew.
//!
//! Every cursor gets the same inserts, numbered from 0, then one for each `insert` that a client
//! sends, and then silence.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use mongodb::bson::{Bson, DateTime, Document, Timestamp, doc};

use crate::{document::document, process::Process};

/// The database that every event is of.
pub const DATABASE: &str = "stand_in";
/// The collection that every event is of.
pub const COLLECTION: &str = "orders";

/// The code of the wire protocol's only message that is still in use.
const OP_MSG: i32 = 2013;
/// Events of one second share it; a counter tells them apart.
const EVENTS_A_SECOND: u64 = 10_000;
/// The second of the first event.
const FIRST_SECOND: u32 = 1_700_000_000;

/// How much there is to read.
#[derive(Debug, Args)]
pub struct Task {
    /// How many events are there from the start
    #[arg(long)]
    pub events: u64,
    /// How many of them in one reply
    #[arg(long)]
    pub batch: u64,
}

/// A running stand-in.
#[derive(Debug)]
pub struct StandIn {
    uri: String,
    _process: Process,
}

/// Starts one as a process of its own.
pub fn start(events: u64, batch: u64) -> StandIn {
    let (events, batch) = (events.to_string(), batch.to_string());
    let arguments = ["stand-in", "--events", &events, "--batch", &batch];
    let process = Process::start_role("the stand-in", &arguments);
    let address = process.line_after("listening");
    StandIn {
        uri: format!("mongodb://{address}/?directConnection=true"),
        _process: process,
    }
}

impl StandIn {
    /// Where it is.
    pub fn uri(&self) -> &str {
        &self.uri
    }
}

/// The stand-in's own process.
pub fn run(task: &Task) {
    assert!(task.batch > 0, "a batch holds at least one event");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    println!("listening {address}");
    let server = Arc::new(Server {
        address: address.to_string(),
        batch: task.batch,
        state: Mutex::new(State {
            events: task.events,
            cursors: HashMap::new(),
        }),
        news: Condvar::new(),
    });
    for connection in listener.incoming().map_while(Result::ok) {
        let server = Arc::clone(&server);
        std::thread::spawn(move || {
            // A client that goes away is no failure.
            let _ = server.serve(connection);
        });
    }
}

struct Server {
    address: String,
    batch: u64,
    state: Mutex<State>,
    /// Told of every insert.
    news: Condvar,
}

struct State {
    events: u64,
    /// The next event of each open cursor.
    cursors: HashMap<i64, u64>,
}

impl Server {
    fn serve(&self, mut connection: TcpStream) -> std::io::Result<()> {
        connection.set_nodelay(true)?;
        let mut replies: HashMap<u64, Reply> = HashMap::new();
        loop {
            let (request, command) = receive(&mut connection)?;
            let name = command.keys().next().map_or("", String::as_str);
            if name == "getMore" {
                let id = command.get_i64("getMore").unwrap_or_default();
                let wait = command.get("maxTimeMS").and_then(milliseconds);
                let (from, count) = self.advance(id, wait.unwrap_or(Duration::from_secs(1)));
                let reply = replies.entry(count).or_insert_with(|| Reply::new(count));
                reply.number(id, from);
                send(&mut connection, request, &reply.bytes)?;
            } else {
                let reply = self.answer(name).to_vec().expect("replies are valid BSON");
                send(&mut connection, request, &reply)?;
            }
        }
    }

    /// Moves a cursor on by a batch; tells where it was, and how many events that gives. Waits
    /// when there is none.
    fn advance(&self, id: i64, wait: Duration) -> (u64, u64) {
        let read_all = |state: &mut State| state.cursors.get(&id) >= Some(&state.events);
        let (mut state, _) = self
            .news
            .wait_timeout_while(self.state(), wait, read_all)
            .unwrap_or_else(PoisonError::into_inner);
        let events = state.events;
        let next = state.cursors.entry(id).or_insert(0);
        let from = *next;
        let count = self.batch.min(events - from);
        *next += count;
        (from, count)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, command: &str) -> Document {
        let now = DateTime::now();
        let mut answer = match command {
            "hello" | "isMaster" | "ismaster" => doc! {
                "helloOk": true,
                "isWritablePrimary": true,
                "ismaster": true,
                "setName": "stand-in",
                "hosts": [&self.address],
                "me": &self.address,
                "minWireVersion": 0,
                "maxWireVersion": 25,
                "maxBsonObjectSize": 16 << 20,
                "maxMessageSizeBytes": 48_000_000,
                "maxWriteBatchSize": 100_000,
                "logicalSessionTimeoutMinutes": 30,
                "localTime": now,
                "readOnly": false,
            },
            "buildInfo" => doc! { "version": "8.0.0", "versionArray": [8, 0, 0, 0] },
            "aggregate" => {
                let id = fastrand::i64(1..);
                self.state().cursors.insert(id, 0);
                doc! { "cursor": {
                    "firstBatch": [],
                    "postBatchResumeToken": { "_data": token(0) },
                    "id": id,
                    "ns": format!("{DATABASE}.{COLLECTION}"),
                } }
            }
            "find" => doc! { "cursor": {
                "firstBatch": [{ "ts": time(0) }],
                "id": 0_i64,
                "ns": "local.oplog.rs",
            } },
            "insert" => {
                // The driver's `insert_one`, whose document follows apart from the command.
                self.state().events += 1;
                self.news.notify_all();
                doc! { "n": 1 }
            }
            // ping, create, dropDatabase, killCursors, endSessions.
            _ => doc! {},
        };
        answer.insert("ok", 1.0);
        answer.insert("operationTime", time(self.state().events));
        answer
    }
}

fn milliseconds(value: &Bson) -> Option<Duration> {
    let millis = value.as_i64().or_else(|| value.as_i32().map(i64::from))?;
    Some(Duration::from_millis(millis.try_into().ok()?))
}

/// Reads a message: its id, and its command.
fn receive(connection: &mut TcpStream) -> std::io::Result<(i32, Document)> {
    let mut header = [0; 16];
    connection.read_exact(&mut header)?;
    let number = |at: usize| i32::from_le_bytes([0, 1, 2, 3].map(|index| header[at + index]));
    let length = usize::try_from(number(0)).map_err(std::io::Error::other)?;
    if number(12) != OP_MSG {
        return Err(std::io::Error::other("not an OP_MSG"));
    }
    let mut body = vec![0; length.saturating_sub(header.len())];
    connection.read_exact(&mut body)?;
    // Four bytes of flags, one that says that a document follows.
    let command = Document::from_reader(body.get(5..).unwrap_or_default());
    Ok((number(4), command.map_err(std::io::Error::other)?))
}

fn send(connection: &mut TcpStream, request: i32, document: &[u8]) -> std::io::Result<()> {
    let length = i32::try_from(21 + document.len()).map_err(std::io::Error::other)?;
    let mut head = Vec::with_capacity(21);
    for number in [length, 0, request, OP_MSG, 0] {
        head.extend(number.to_le_bytes());
    }
    head.push(0);
    connection.write_all(&head)?;
    connection.write_all(document)
}

/// A reply to `getMore`, with the places where its numbers go.
struct Reply {
    bytes: Vec<u8>,
    cursor: usize,
    /// The last one is the post-batch token, where there is an event before it.
    tokens: Vec<usize>,
    ids: Vec<usize>,
    times: Vec<usize>,
    wall_times: Vec<usize>,
}

/// Numbers that stand where others will be written, and nowhere else.
const ID_MARK: i64 = 0x7153_2a0b_4ce9_11d7;
const CURSOR_MARK: i64 = 0x3aa1_77c3_9d20_5e0f;
const WALL_TIME_MARK: i64 = 0x0102_0915_4bd3_7765;
const TIME_MARK: Timestamp = Timestamp {
    time: 0x51c3_90fe,
    increment: 0x60d7_1f2b,
};
const TOKEN_MARK: &str = "token-goes-here-";

impl Reply {
    fn new(events: u64) -> Self {
        let mut order = document(0);
        order.insert("_id", ID_MARK);
        let event = doc! {
            "_id": { "_data": mark() },
            "operationType": "insert",
            "clusterTime": TIME_MARK,
            "wallTime": DateTime::from_millis(WALL_TIME_MARK),
            "fullDocument": order,
            "ns": { "db": DATABASE, "coll": COLLECTION },
            "documentKey": { "_id": ID_MARK },
        };
        let reply = doc! {
            "cursor": {
                "nextBatch": (0..events).map(|_| event.clone()).collect::<Vec<_>>(),
                "postBatchResumeToken": { "_data": mark() },
                "id": CURSOR_MARK,
                "ns": format!("{DATABASE}.{COLLECTION}"),
            },
            "ok": 1.0,
            "operationTime": TIME_MARK,
        };
        let bytes = reply.to_vec().expect("replies are valid BSON");
        let time = u64::from(TIME_MARK.time) << 32 | u64::from(TIME_MARK.increment);
        Self {
            cursor: places(&bytes, &CURSOR_MARK.to_le_bytes())[0],
            tokens: places(&bytes, mark().as_bytes()),
            ids: places(&bytes, &ID_MARK.to_le_bytes()),
            times: places(&bytes, &time.to_le_bytes()),
            wall_times: places(&bytes, &WALL_TIME_MARK.to_le_bytes()),
            bytes,
        }
    }

    /// Makes it the reply of this cursor from this event on.
    fn number(&mut self, cursor: i64, from: u64) {
        let mut put = |at: usize, value: &[u8]| {
            self.bytes[at..at + value.len()].copy_from_slice(value);
        };
        put(self.cursor, &cursor.to_le_bytes());
        for (event, &at) in (from..).zip(&self.tokens) {
            // The post-batch token is the last event's.
            let event = event.min(from + self.wall_times.len() as u64 - 1);
            put(at, token(event + 1).as_bytes());
        }
        for (event, at) in (from..).zip(self.ids.chunks(2)) {
            put(at[0], &event.to_le_bytes());
            put(at[1], &event.to_le_bytes());
        }
        for (event, &at) in (from..).zip(&self.times) {
            let Timestamp { time, increment } = time(event + 1);
            put(at, &increment.to_le_bytes());
            put(at + 4, &time.to_le_bytes());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_millis() as u64);
        for &at in &self.wall_times {
            put(at, &now.to_le_bytes());
        }
    }
}

/// A text of a token's length, long as MongoDB's own are.
fn mark() -> String {
    TOKEN_MARK.repeat(8)
}

/// The token after as many events: rising hexadecimal digits.
fn token(events: u64) -> String {
    let Timestamp { time, increment } = time(events);
    format!(
        "82{time:08x}{increment:08x}{:0<110}",
        "2b042c0100296e5a1004"
    )
}

/// The time after as many events.
fn time(events: u64) -> Timestamp {
    let second = u32::try_from(events / EVENTS_A_SECOND).unwrap_or(u32::MAX);
    Timestamp {
        time: FIRST_SECOND.saturating_add(second),
        increment: (events % EVENTS_A_SECOND) as u32 + 1,
    }
}

fn places(bytes: &[u8], mark: &[u8]) -> Vec<usize> {
    let mut places = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..at + mark.len()) {
        if rest == mark {
            places.push(at);
            at += mark.len();
        } else {
            at += 1;
        }
    }
    places
}
