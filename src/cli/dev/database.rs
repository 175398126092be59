//! The demo's database: an existing one, or a server that the demo starts.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::event::{EventHandler, sdam::SdamEvent};
use mongodb::options::ClientOptions;
use tokio::time::sleep;

use super::process::{Process, find_on_path, is_program};
use super::waiting::{Waiting, without_secrets};
use crate::cli::watch::print_notice;

/// The time until a database must accept writes.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// The time for one probe of it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// The time that a server takes to start, before the user is told that it is waited for.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// What to do about a given database that does not answer.
const GIVEN_ADVICE: &str = ". Start it or correct the connection string, or omit --mongodb-uri and unset \
                            MONGODB_URI to start a database here";
/// The pause between two probes.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// The maximum number of attempts to start a server: another process may take the free port first.
const ATTEMPTS: u32 = 3;

const REPLICA_SET: &str = "weir-dev";

/// The reasons why there is no database, with advice.
#[derive(Debug, thiserror::Error)]
pub(super) enum DatabaseError {
    #[error(
        "no database found: no --mongodb-uri, no mongod on the PATH, no SecantusDB.\n\
         Run `make demo`, or `pip install --pre secantusdb==0.7.0b3` and then `weir dev` again."
    )]
    NotFound,
    #[error("--secantusd: {0} is not an executable file: name the server program of SecantusDB")]
    NotAProgram(PathBuf),
    #[error("--mongodb-uri: the database can't be used: {0}")]
    Given(String),
    #[error("{program} did not start: {why}{log}")]
    DidNotStart {
        program: PathBuf,
        why: String,
        log: String,
    },
}

/// A database that accepts writes.
#[derive(Debug)]
pub(super) struct Database {
    uri: String,
    process: Option<Process>,
}

/// A server that can be started.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Server {
    Mongod(PathBuf),
    SecantusDb(PathBuf),
}

impl Database {
    /// Uses the first that exists of `--mongodb-uri`, `--secantusd`, mongod on the PATH, and SecantusDB on
    /// the PATH or in `./.venv/bin`. Returns once the database accepts writes.
    pub async fn find_or_start(
        mongodb_uri: Option<&str>,
        secantusd: Option<&Path>,
    ) -> Result<Database, DatabaseError> {
        if let Some(uri) = mongodb_uri {
            let shown = without_secrets(uri);
            print_notice(&format!(
                "using {shown} (--mongodb-uri or MONGODB_URI); only its database `weir_dev` is changed"
            ));
            let what = format!("MongoDB at {shown}");
            let waiting = Waiting::new(what, GIVEN_ADVICE, READY_TIMEOUT, Duration::ZERO);
            wait_until_ready(uri, waiting, None)
                .await
                .map_err(DatabaseError::Given)?;
            return Ok(Database {
                uri: uri.to_owned(),
                process: None,
            });
        }
        let venv = Path::new(".venv").join("bin").join("secantusd-py");
        let server = choose_server(secantusd, &venv, find_on_path)?;
        let mut attempt = 1;
        loop {
            match server.start().await {
                Err(failed) if failed.port_was_taken() && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(server.error(error)),
                Ok(database) => return Ok(database),
            }
        }
    }

    /// Returns the connection string. It may contain a password: do not print it.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Returns the connection string of a server that the demo started, which contains no secret.
    pub fn started_uri(&self) -> Option<&str> {
        self.process.as_ref().map(|_| self.uri.as_str())
    }

    /// Stops the server, if the demo started it.
    pub async fn stop(self) {
        if let Some(process) = self.process {
            process.stop().await;
        }
    }
}

/// The failure of one attempt to start a server.
struct NotStarted {
    why: String,
    log: String,
    /// `true` if the server exited by itself.
    ended: bool,
}

impl NotStarted {
    /// Returns whether another process took the port first, so that a retry with another port may succeed.
    /// Every server logs the system's message for that.
    fn port_was_taken(&self) -> bool {
        self.ended && self.log.contains("already in use")
    }
}

impl Server {
    async fn start(&self) -> Result<Database, NotStarted> {
        let (program, name) = match self {
            Server::Mongod(program) => (program, "mongod as a replica set of one"),
            Server::SecantusDb(program) => (program, "SecantusDB"),
        };
        let mut process = Process::start(program, |folder, port| self.arguments(folder, port))
            .map_err(|error| NotStarted {
                why: error.to_string(),
                log: String::new(),
                ended: false,
            })?;
        let port = process.port();
        print_notice(&format!("starting {name} on port {port}"));
        let uri = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
        let initiate = matches!(self, Server::Mongod(_)).then_some(port);
        let what = format!("{name} on port {port}");
        let waiting = Waiting::new(what, "", READY_TIMEOUT, START_PATIENCE);
        match wait_until_ready(&uri, waiting, Some((&mut process, initiate))).await {
            Ok(()) => Ok(Database {
                uri,
                process: Some(process),
            }),
            Err(why) => {
                let failed = NotStarted {
                    why,
                    log: process.log_tail(),
                    ended: process.ended().is_some(),
                };
                process.stop().await;
                Err(failed)
            }
        }
    }

    fn arguments(&self, folder: &Path, port: u16) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["--port".into(), port.to_string().into()];
        match self {
            Server::Mongod(_) => {
                arguments
                    .extend(["--bind_ip", "127.0.0.1", "--replSet", REPLICA_SET].map(Into::into));
                arguments.extend(["--nounixsocket", "--dbpath"].map(Into::into));
                arguments.push(folder.into());
            }
            Server::SecantusDb(_) => {
                // Without this it would read the user's configuration.
                let config = folder.join("secantusd.toml");
                if std::fs::write(&config, "").is_ok() {
                    arguments.extend(["--config".into(), config.into()]);
                }
                // As often as mongod, so that the position of a quiet watch advances as it does there.
                arguments.extend(["--noop-heartbeat-seconds", "10"].map(Into::into));
                arguments.extend(["--host", "127.0.0.1", "--storage-path"].map(Into::into));
                arguments.push(folder.join("data").into());
            }
        }
        arguments
    }

    fn error(&self, failed: NotStarted) -> DatabaseError {
        let (Server::Mongod(program) | Server::SecantusDb(program)) = self;
        let log = if failed.log.is_empty() {
            String::new()
        } else {
            format!("\nThe end of its log:\n{}", failed.log)
        };
        DatabaseError::DidNotStart {
            program: program.clone(),
            why: failed.why,
            log,
        }
    }
}

fn choose_server(
    named: Option<&Path>,
    venv: &Path,
    find_on_path: impl Fn(&str) -> Option<PathBuf>,
) -> Result<Server, DatabaseError> {
    // The server runs in its own folder, so the path must be absolute. Links must not be resolved: Python
    // finds the packages of a virtual environment through them.
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Some(named) = named {
        if !is_program(named) {
            return Err(DatabaseError::NotAProgram(named.to_owned()));
        }
        return Ok(Server::SecantusDb(absolute(named)));
    }
    if let Some(mongod) = find_on_path("mongod") {
        return Ok(Server::Mongod(absolute(&mongod)));
    }
    find_on_path("secantusd-py")
        .or_else(|| is_program(venv).then(|| venv.to_owned()))
        .map(|program| Server::SecantusDb(absolute(&program)))
        .ok_or(DatabaseError::NotFound)
}

/// Waits until the database accepts writes. A server that the demo started is waited for only while it runs;
/// with a port, it is made a replica set of one. The error is the last problem seen.
async fn wait_until_ready(
    uri: &str,
    mut waiting: Waiting,
    mut started: Option<(&mut Process, Option<u16>)>,
) -> Result<(), String> {
    let mut options = parse(uri, &mut waiting).await?;
    options.server_selection_timeout = Some(PROBE_TIMEOUT);
    options.connect_timeout = Some(PROBE_TIMEOUT);
    options
        .app_name
        .get_or_insert_with(|| "weir dev".to_owned());
    let unreachable = Unreachable::default();
    options.sdam_event_handler = Some(unreachable.handler());
    let client = Client::with_options(options).map_err(|error| error.to_string())?;
    loop {
        let result = probe(&client, started.as_ref().and_then(|(_, port)| *port)).await;
        // If the started server has exited, another process answered on its port.
        if let Some((process, _)) = &mut started
            && let Some(how) = process.ended()
        {
            return Err(how);
        }
        match result {
            Ok(()) => break,
            Err(problem) => waiting.not_ready(&unreachable.describe(problem))?,
        }
        sleep(POLL_INTERVAL).await;
    }
    client.shutdown().await;
    Ok(())
}

/// Parses a connection string. One of the form `mongodb+srv` asks DNS, which may not answer yet.
async fn parse(uri: &str, waiting: &mut Waiting) -> Result<ClientOptions, String> {
    loop {
        match ClientOptions::parse(uri).await {
            Ok(options) => return Ok(options),
            Err(error) if matches!(*error.kind, ErrorKind::DnsResolve { .. }) => {
                waiting.not_ready(&error.kind.to_string())?;
            }
            Err(error) => return Err(error.kind.to_string()),
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Why the driver reaches no server. It tells that only to those who listen; the error of an operation
/// describes the whole deployment in the terms of the driver.
#[derive(Clone, Default)]
struct Unreachable(Arc<Mutex<Option<String>>>);

impl Unreachable {
    /// Returns what notes the latest failure.
    fn handler(&self) -> EventHandler<SdamEvent> {
        let latest = Arc::clone(&self.0);
        EventHandler::callback(move |event| {
            let why = match event {
                SdamEvent::ServerHeartbeatFailed(failed) => {
                    let why = match &*failed.failure.kind {
                        ErrorKind::Io(error) => error.to_string(),
                        other => other.to_string(),
                    };
                    Some(format!("{} does not answer ({why})", failed.server_address))
                }
                SdamEvent::ServerHeartbeatSucceeded(_) => None,
                _ => return,
            };
            *latest.lock().unwrap_or_else(PoisonError::into_inner) = why;
        })
    }

    /// Returns the problem in words.
    fn describe(&self, problem: Problem) -> String {
        match problem {
            Problem::Known(text) => text.to_owned(),
            Problem::Driver(error) if matches!(*error.kind, ErrorKind::ServerSelection { .. }) => {
                let latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                latest
                    .clone()
                    .unwrap_or_else(|| "no primary has been found".to_owned())
            }
            Problem::Driver(error) => error.kind.to_string(),
        }
    }
}

/// The reason why a database does not accept writes.
enum Problem {
    Known(&'static str),
    Driver(Error),
}

/// Checks once whether the database accepts writes. Initiates the replica set of a new mongod.
async fn probe(client: &Client, initiate_at: Option<u16>) -> Result<(), Problem> {
    let admin = client.database("admin");
    let hello: Document = admin
        .run_command(doc! { "hello": 1 })
        .await
        .map_err(Problem::Driver)?;
    if hello.get_bool("isWritablePrimary").unwrap_or(false) && hello.contains_key("setName") {
        return Ok(());
    }
    if let Some(port) = initiate_at
        && !hello.contains_key("setName")
    {
        let host = format!("127.0.0.1:{port}");
        let members = [doc! { "_id": 0, "host": host }];
        let config = doc! { "_id": REPLICA_SET, "members": members.as_slice() };
        // Fails while an earlier attempt is in progress; the next probe sees the result.
        let _ = admin.run_command(doc! { "replSetInitiate": config }).await;
        return Err(Problem::Known("it is not a replica set yet"));
    }
    // A mongos has no set name, and serves change streams too.
    if hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
        return Ok(());
    }
    Err(Problem::Known(if hello.contains_key("setName") {
        "it is not a primary"
    } else {
        "it is not part of a replica set, which change streams need"
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> PathBuf {
        find_on_path("sh").expect("every Unix has a shell")
    }

    #[test]
    fn a_server_is_chosen_by_name_then_mongod_then_secantusdb() {
        let here = program();
        let nowhere = Path::new("/nowhere/secantusd-py");
        let all = |name: &str| Some(PathBuf::from("/bin").join(name));
        let secantusd_only = |name: &str| all(name).filter(|_| name == "secantusd-py");
        let none = |_: &str| None;
        let chosen = |named, venv, found: &dyn Fn(&str) -> Option<PathBuf>| {
            choose_server(named, venv, found).unwrap()
        };
        assert_eq!(
            chosen(Some(&here), nowhere, &all),
            Server::SecantusDb(here.clone())
        );
        assert_eq!(
            chosen(None, &here, &all),
            Server::Mongod("/bin/mongod".into())
        );
        assert_eq!(
            chosen(None, &here, &secantusd_only),
            Server::SecantusDb("/bin/secantusd-py".into())
        );
        assert_eq!(chosen(None, &here, &none), Server::SecantusDb(here.clone()));
        assert!(matches!(
            choose_server(None, nowhere, none),
            Err(DatabaseError::NotFound)
        ));
        assert!(matches!(
            choose_server(Some(nowhere), &here, all),
            Err(DatabaseError::NotAProgram(_))
        ));
    }

    #[test]
    fn without_a_database_the_error_says_how_to_get_one() {
        let text = DatabaseError::NotFound.to_string();
        assert!(text.contains("make demo"), "{text}");
        assert!(text.contains("pip install --pre secantusdb"), "{text}");
    }

    #[tokio::test]
    async fn the_error_for_a_server_that_exits_contains_its_log() {
        // A shell refuses the option --port and exits.
        let server = Server::SecantusDb(program());
        let failed = server.start().await.unwrap_err();
        assert!(failed.ended);
        assert!(!failed.port_was_taken(), "another port would not help");
        let text = server.error(failed).to_string();
        assert!(text.contains("did not start: it exited with"), "{text}");
        assert!(text.contains("The end of its log:\n"), "{text}");
    }
}
