//! The connections of the stand-in, and its answers to commands.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};

use super::oplog::{Connection, State, cursor_not_found};
use super::reply::bytes_of;
use super::{Answer, Request, ServerError, time, wire};

/// The time for which a `getMore` is held open when it does not say.
const USUAL_WAIT: Duration = Duration::from_secs(1);

pub(super) struct Server {
    pub address: String,
    pub uri: String,
    pub state: Mutex<State>,
    /// Notified of everything that changes the answer to a waiting cursor.
    pub changed: Condvar,
}

/// What goes back to the client.
enum Outcome {
    Document(Vec<u8>),
    Message(Vec<u8>),
    Close,
}

impl From<Result<Document, ServerError>> for Outcome {
    fn from(answer: Result<Document, ServerError>) -> Self {
        let document = answer.unwrap_or_else(|error| error.document());
        Self::Document(bytes_of(&document))
    }
}

impl Server {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a handle of a connection, to close it later. `None` once the server has stopped.
    pub fn admit(&self, connection: &TcpStream) -> Option<u64> {
        let mut state = self.state();
        let id = fastrand::u64(..);
        if let Ok(handle) = connection.try_clone() {
            let connection = Connection {
                handle,
                busy: false,
            };
            state.connections.insert(id, connection);
        }
        (!state.stopped).then_some(id)
    }

    /// Serves a connection until it is closed.
    pub fn serve(&self, id: u64, connection: TcpStream) {
        // A client that disconnects is no failure.
        let _ = self.answer_commands(id, connection);
        self.state().connections.remove(&id);
    }

    fn answer_commands(&self, id: u64, mut connection: TcpStream) -> io::Result<()> {
        connection.set_nodelay(true)?;
        let busy = |busy| {
            if let Some(connection) = self.state().connections.get_mut(&id) {
                connection.busy = busy;
            }
        };
        loop {
            let (number, command) = wire::receive(&mut connection)?;
            busy(true);
            let tokens = self.state().tokens;
            match self.answer(&tokens.read(command)) {
                Outcome::Document(mut bytes) => {
                    tokens.show(&mut bytes);
                    wire::send(&mut connection, number, &bytes)?;
                }
                Outcome::Message(mut bytes) => {
                    // The driver would refuse an answer to another request for that reason alone.
                    if let Some(response_to) = bytes.get_mut(8..12) {
                        response_to.copy_from_slice(&number.to_le_bytes());
                    }
                    io::Write::write_all(&mut connection, &bytes)?;
                    return connection.shutdown(Shutdown::Both);
                }
                Outcome::Close => return connection.shutdown(Shutdown::Both),
            }
            busy(false);
        }
    }

    fn answer(&self, command: &Document) -> Outcome {
        let mut state = self.state();
        let cursor = command.get_i64("getMore").ok();
        let opening = cursor.and_then(|id| Some(state.cursors.get(&id)?.aggregate.clone()));
        let request = Request::new(command.clone(), opening);
        state.count(&request);
        let mut scripted = state.script.take(&request);
        if let (None, Some(id)) = (&scripted, cursor) {
            let wait = command.get("maxTimeMS").and_then(millis);
            let wait = wait.unwrap_or(USUAL_WAIT);
            (state, _) = self
                .changed
                .wait_timeout_while(state, wait, |state| {
                    let scripted = state.script.applies_to(&request);
                    !state.stopped && !scripted && state.is_quiet(id)
                })
                .unwrap_or_else(PoisonError::into_inner);
            scripted = state.script.take(&request).or_else(|| {
                let log = state.cursors.get(&id)?.log.clone();
                state.logs.get_mut(&log)?.answers.pop_front()
            });
        }
        self.perform(state, &request, scripted.unwrap_or(Answer::Usual))
    }

    fn perform(
        &self,
        mut state: MutexGuard<'_, State>,
        request: &Request,
        answer: Answer,
    ) -> Outcome {
        match answer {
            Answer::Usual => match self.cursor_of(&mut state, request) {
                Some(cursor) => cursor
                    .and_then(|id| state.reply(id, request))
                    .map_err(|error| fail(&mut state, request, error))
                    .map_or_else(
                        |error| Err(error).into(),
                        |it| Outcome::Document(it.bytes()),
                    ),
                None => self.other(&mut state, request).into(),
            },
            Answer::Altered(alter) => {
                let reply = self.cursor_of(&mut state, request);
                let reply = reply.unwrap_or_else(|| Err(no_cursor(request)));
                match reply.and_then(|id| state.reply(id, request)) {
                    Ok(mut reply) => {
                        alter(&mut reply);
                        Outcome::Document(reply.bytes())
                    }
                    Err(error) => Err(fail(&mut state, request, error)).into(),
                }
            }
            Answer::Batch { events, token } => {
                let first = request.name() == "aggregate";
                let id = self.cursor_of(&mut state, request);
                let id = id.unwrap_or_else(|| Err(no_cursor(request)));
                match id.and_then(|id| state.scripted_reply(id, first, (events, token))) {
                    Ok(reply) => Outcome::Document(reply.bytes()),
                    Err(error) => Err(error).into(),
                }
            }
            Answer::Error(error) => Err(fail(&mut state, request, error)).into(),
            Answer::Document(bytes) => Outcome::Document(bytes),
            Answer::Message(bytes) => Outcome::Message(bytes),
            Answer::Close => Outcome::Close,
            Answer::Hang => {
                drop(self.changed.wait_while(state, |state| !state.stopped));
                Outcome::Close
            }
            Answer::Late(delay, answer) => {
                let (state, _) = self
                    .changed
                    .wait_timeout_while(state, delay, |state| !state.stopped)
                    .unwrap_or_else(PoisonError::into_inner);
                self.perform(state, request, *answer)
            }
        }
    }

    /// The cursor of a command, opened by an `aggregate`; `None` if it is about none.
    fn cursor_of(&self, state: &mut State, request: &Request) -> Option<Result<i64, ServerError>> {
        match request.name() {
            "aggregate" => Some(state.open(request.command())),
            "getMore" => {
                let id = request.command().get_i64("getMore").unwrap_or_default();
                let open = state.cursors.contains_key(&id);
                Some(open.then_some(id).ok_or_else(cursor_not_found))
            }
            _ => None,
        }
    }

    /// The answer to a command that concerns no change stream.
    fn other(&self, state: &mut State, request: &Request) -> Result<Document, ServerError> {
        let version = state.version.clone();
        let mongos = version.as_ref().is_some_and(|it| it.is_mongos());
        let mut answer = match (request.name(), &version) {
            ("find", _) if mongos && request.database() == "local" => {
                return Err(ServerError::new(20)
                    .named("IllegalOperation")
                    .message("Can't use 'local' database through mongos"));
            }
            ("find", _) => doc! { "cursor": {
                "firstBatch": [{ "ts": state.oldest.unwrap_or(time(1, 1)) }],
                "id": 0_i64,
                "ns": "local.oplog.rs",
            } },
            ("killCursors", _) => doc! { "cursorsKilled": state.kill(request.command()) },
            ("buildInfo", Some(version)) => version.build_info(),
            // For the rest, such as ping and endSessions, `ok` is enough.
            (name, _) => wire::handshake_reply(name, &self.address).unwrap_or_default(),
        };
        if mongos && answer.contains_key("setName") {
            for field in ["setName", "hosts", "me"] {
                answer.remove(field);
            }
            answer.insert("msg", "isdbgrid");
        }
        answer.insert("ok", 1.0);
        answer.insert("operationTime", state.now());
        Ok(answer)
    }
}

/// Closes the cursor of a command that failed.
fn fail(state: &mut State, request: &Request, error: ServerError) -> ServerError {
    if let Ok(id) = request.command().get_i64("getMore") {
        state.cursors.remove(&id);
    }
    error
}

fn no_cursor(request: &Request) -> ServerError {
    ServerError::new(2).message(format!("{} has no cursor", request.name()))
}

fn millis(value: &Bson) -> Option<Duration> {
    let millis = value.as_i64().or_else(|| value.as_i32().map(i64::from))?;
    Some(Duration::from_millis(millis.try_into().ok()?))
}
