//! A proxy in front of a database that enforces the rights of one role.
//!
//! It requires the actions that MongoDB requires, on the same resources, and refuses with MongoDB's
//! messages. It refuses and records commands that it does not know.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mongodb::bson::{Bson, Document, doc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::task::AbortOnDropHandle;

/// The opcode of the only message type that the wire protocol still uses.
const OP_MSG: i32 = 2013;
/// A message's length, id, response id and opcode: four bytes each.
const HEADER: usize = 16;
/// Flags, and a byte that says that a document follows.
const BEFORE_DOCUMENT: usize = HEADER + 5;
/// Far above the allowed size of a message.
const MAX_MESSAGE: usize = 64 << 20;

/// Stages that read nothing but their input.
const HARMLESS_STAGES: [&str; 9] = [
    "$match",
    "$project",
    "$addFields",
    "$set",
    "$unset",
    "$replaceRoot",
    "$replaceWith",
    "$redact",
    "$changeStreamSplitLargeEvent",
];

/// An action on a resource, in the terms of the role document.
pub type Right = (String, String);

/// The grants of a role document.
#[derive(Clone)]
pub struct Role(Vec<Privilege>);

#[derive(Clone)]
struct Privilege {
    database: String,
    collection: String,
    actions: BTreeSet<String>,
}

impl Role {
    /// Parses the document that `createRole` takes.
    pub fn read(document: &serde_json::Value) -> Self {
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        let inherited = document["roles"].as_array().expect("inherited roles");
        assert!(
            inherited.is_empty(),
            "the proxy supports no inherited roles"
        );
        let privileges = document["privileges"].as_array().expect("privileges");
        let privileges = privileges.iter().map(|privilege| Privilege {
            database: text(&privilege["resource"]["db"]),
            collection: text(&privilege["resource"]["collection"]),
            actions: privilege["actions"]
                .as_array()
                .expect("actions")
                .iter()
                .map(text)
                .collect(),
        });
        Self(privileges.collect())
    }

    /// All rights that the role grants.
    pub fn rights(&self) -> BTreeSet<Right> {
        let rights = |it: &Privilege| -> Vec<Right> {
            let resource = it.resource();
            let right = |action: &String| (action.clone(), resource.clone());
            it.actions.iter().map(right).collect()
        };
        self.0.iter().flat_map(rights).collect()
    }

    /// The same without one right.
    pub fn without(&self, right: &Right) -> Self {
        let mut role = self.clone();
        for privilege in &mut role.0 {
            if privilege.resource() == right.1 {
                privilege.actions.remove(&right.0);
            }
        }
        role
    }

    /// The right that grants an action on a target, if there is one.
    fn grants(&self, action: &str, target: &Target) -> Option<Right> {
        let granting = |it: &&Privilege| it.actions.contains(action) && it.covers(target);
        let privilege = self.0.iter().find(granting)?;
        Some((action.to_owned(), privilege.resource()))
    }
}

impl Privilege {
    fn resource(&self) -> String {
        format!("{}.{}", self.database, self.collection)
    }

    fn covers(&self, target: &Target) -> bool {
        let is_ordinary = |database: &str| !matches!(database, "local" | "config");
        match (self.database.as_str(), self.collection.as_str(), target) {
            ("", "", Target::Deployment) => true,
            ("", "", Target::Database(database)) => is_ordinary(database),
            ("", "", Target::Collection(database, collection)) => {
                is_ordinary(database) && !collection.starts_with("system.")
            }
            (mine, "", Target::Database(database)) => mine == database,
            (mine, "", Target::Collection(database, collection)) => {
                mine == database && !collection.starts_with("system.")
            }
            (mine, named, Target::Collection(database, collection)) => {
                mine == database && named == collection
            }
            _ => false,
        }
    }
}

/// The target of a command.
#[derive(Clone)]
enum Target {
    Collection(String, String),
    Database(String),
    Deployment,
}

/// The rights that a command needs: actions on one target.
#[derive(Clone)]
struct Need {
    actions: &'static [&'static str],
    target: Target,
}

/// A running proxy. It stops when it is dropped.
pub struct PrivilegeProxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _accepting: AbortOnDropHandle<()>,
}

struct State {
    role: Role,
    /// The rights needed by the cursors that were opened through it.
    cursors: HashMap<i64, Vec<Need>>,
    used: BTreeSet<Right>,
    /// The number of refusals of each action.
    refused: BTreeMap<&'static str, usize>,
    /// Unknown commands.
    unknown_commands: BTreeSet<String>,
}

impl PrivilegeProxy {
    /// Listens in front of the database at `upstream`.
    pub async fn before(upstream: SocketAddr, role: Role) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("a bound socket has one");
        let state = Arc::new(Mutex::new(State {
            role,
            cursors: HashMap::new(),
            used: BTreeSet::new(),
            refused: BTreeMap::new(),
            unknown_commands: BTreeSet::new(),
        }));
        let accepting = tokio::spawn(accept(listener, upstream, Arc::clone(&state)));
        Self {
            address,
            state,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the role from now on.
    pub fn grant(&self, role: Role) {
        lock(&self.state).role = role;
    }

    /// The rights that accepted commands used.
    pub fn used(&self) -> BTreeSet<Right> {
        lock(&self.state).used.clone()
    }

    /// The number of commands refused because this action was missing.
    pub fn refused(&self, action: &str) -> usize {
        *lock(&self.state).refused.get(action).unwrap_or(&0)
    }

    /// The commands that it does not know.
    pub fn unknown_commands(&self) -> BTreeSet<String> {
        lock(&self.state).unknown_commands.clone()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// The rights that a command needs, or the answer that refuses it.
    fn check(&mut self, command: &Document, is_in: bool) -> Result<Vec<Need>, Document> {
        let needs = match self.needs(command, is_in) {
            Ok(needs) => needs,
            Err(problem) => {
                self.unknown_commands.insert(problem.clone());
                return Err(unauthorized(&problem));
            }
        };
        for need in &needs {
            for &action in need.actions {
                let Some(right) = self.role.grants(action, &need.target) else {
                    *self.refused.entry(action).or_default() += 1;
                    let database = command.get_str("$db").unwrap_or_default();
                    return Err(unauthorized(&format!(
                        "not authorized on {database} to execute command {command}"
                    )));
                };
                self.used.insert(right);
            }
        }
        Ok(needs)
    }

    fn needs(&self, command: &Document, is_in: bool) -> Result<Vec<Need>, String> {
        let name = command.keys().next().map_or("", String::as_str);
        let database = command.get_str("$db").unwrap_or_default();
        let collection = |field| {
            let name = command.get_str(field).unwrap_or_default();
            Target::Collection(database.to_owned(), name.to_owned())
        };
        match name {
            "hello" | "isMaster" | "ismaster" | "saslStart" | "saslContinue" => Ok(vec![]),
            _ if !is_in => Err(format!("command {name} requires authentication")),
            // A user may kill its own cursors.
            "ping" | "buildInfo" | "endSessions" | "killCursors" => Ok(vec![]),
            "find" => Ok(vec![Need {
                actions: &["find"],
                target: collection("find"),
            }]),
            "getMore" => {
                let cursor = command.get_i64("getMore").unwrap_or_default();
                Ok(self.cursors.get(&cursor).cloned().unwrap_or_default())
            }
            "aggregate" => {
                let stages = command.get_array("pipeline").map(Vec::as_slice);
                let mut stages = stages.unwrap_or_default().iter();
                let options = stages
                    .next()
                    .and_then(Bson::as_document)
                    .and_then(|it| it.get_document("$changeStream").ok());
                let Some(options) = options else {
                    return Err("an aggregate other than a change stream".to_owned());
                };
                let stage = |stage: &Bson| stage.as_document()?.keys().next().cloned();
                let others: Vec<Option<String>> = stages.map(stage).collect();
                let is_harmless = |it: &Option<String>| {
                    it.as_deref()
                        .is_some_and(|it| HARMLESS_STAGES.contains(&it))
                };
                if !others.iter().all(is_harmless) {
                    return Err(format!("stages {others:?}"));
                }
                let target = if command.get_str("aggregate").is_ok() {
                    collection("aggregate")
                } else if matches!(options.get_bool("allChangesForCluster"), Ok(true)) {
                    Target::Deployment
                } else {
                    Target::Database(database.to_owned())
                };
                Ok(vec![Need {
                    actions: &["changeStream", "find"],
                    target,
                }])
            }
            _ => Err(format!("command {name}")),
        }
    }
}

/// MongoDB's answer to a command without the right.
fn unauthorized(words: &str) -> Document {
    doc! { "ok": 0.0, "errmsg": words, "code": 13, "codeName": "Unauthorized" }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, state: Arc<Mutex<State>>) {
    // Dropped with this task, and the connections with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let state = Arc::clone(&state);
        connections.spawn(async move { forward(client, upstream, &state).await });
    }
}

/// Forwards one connection: a command, its answer, and so on.
async fn forward(
    mut client: TcpStream,
    upstream: SocketAddr,
    state: &Mutex<State>,
) -> io::Result<()> {
    let mut server = TcpStream::connect(upstream).await?;
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let mut is_in = false;
    loop {
        let message = receive(&mut client).await?;
        let command = document(&message)?;
        let decision = lock(state).check(&command, is_in);
        let needs = match decision {
            Ok(needs) => needs,
            Err(refusal) => {
                client.write_all(&answer_to(&message, &refusal)?).await?;
                continue;
            }
        };
        server.write_all(&message).await?;
        let reply = receive(&mut server).await?;
        let answer = document(&reply)?;
        is_in |= matches!(answer.get_bool("done"), Ok(true));
        if let Ok(cursor) = answer.get_document("cursor") {
            let id = cursor.get_i64("id").unwrap_or_default();
            lock(state).cursors.insert(id, needs);
        }
        client.write_all(&reply).await?;
    }
}

async fn receive(connection: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; HEADER];
    connection.read_exact(&mut message).await?;
    let length = usize::try_from(number(&message, 0)).map_err(io::Error::other)?;
    if number(&message, 12) != OP_MSG || !(BEFORE_DOCUMENT..MAX_MESSAGE).contains(&length) {
        return Err(io::Error::other("not an OP_MSG"));
    }
    message.resize(length, 0);
    connection.read_exact(&mut message[HEADER..]).await?;
    Ok(message)
}

fn number(message: &[u8], at: usize) -> i32 {
    i32::from_le_bytes([0, 1, 2, 3].map(|index| message[at + index]))
}

/// A message's document; Weir sends and receives no other kind of section.
fn document(message: &[u8]) -> io::Result<Document> {
    Document::from_reader(&message[BEFORE_DOCUMENT..]).map_err(io::Error::other)
}

fn answer_to(message: &[u8], answer: &Document) -> io::Result<Vec<u8>> {
    let answer = answer.to_vec().map_err(io::Error::other)?;
    let length = i32::try_from(BEFORE_DOCUMENT + answer.len()).map_err(io::Error::other)?;
    let mut reply = Vec::new();
    for number in [length, 0, number(message, 4), OP_MSG, 0] {
        reply.extend(number.to_le_bytes());
    }
    reply.push(0);
    reply.extend(answer);
    Ok(reply)
}
