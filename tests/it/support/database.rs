//! A database for one test.
//!
//! By default each test has its own database process, which starts in about half a second. With
//! `WEIR_TEST_MONGODB_URI` all tests share that server instead, each in databases with unique
//! names; a test that has to kill the server or count what happens in it then fails with a message
//! that says so.

use std::net::SocketAddr;

use mongodb::bson::{Document, doc};
use weir::pb;

use super::database_process::{DatabaseOptions, OwnProcess};
use super::{FailCommand, WAIT_LIMIT};

/// The number of attempts to start: another test may take the port before the server does.
const START_ATTEMPTS: u32 = 5;

/// A database server, and a database name that only this test uses.
pub struct Database {
    name: String,
    uri: String,
    client: mongodb::Client,
    process: Option<OwnProcess>,
}

impl Database {
    /// Starts a process for this test, or uses the server of `WEIR_TEST_MONGODB_URI`.
    pub async fn start() -> Self {
        match external_uri() {
            Some(uri) => {
                let client = connect(&uri).await;
                client
                    .database("admin")
                    .run_command(doc! { "ping": 1 })
                    .await
                    .expect("the server of WEIR_TEST_MONGODB_URI answers");
                Self {
                    name: unique_name(),
                    uri,
                    client,
                    process: None,
                }
            }
            None => Self::with_options(DatabaseOptions::default()).await,
        }
    }

    /// Options for a process that belongs to this test.
    pub fn options() -> DatabaseOptions {
        DatabaseOptions::default()
    }

    /// Starts a process with these options.
    pub(super) async fn with_options(options: DatabaseOptions) -> Self {
        assert!(external_uri().is_none(), "{NEEDS_OWN_PROCESS}");
        for _ in 0..START_ATTEMPTS {
            let mut process = OwnProcess::new(options.clone());
            process.spawn();
            let uri = process.uri();
            let client = connect(&uri).await;
            if process.is_ready(&client).await {
                return Self {
                    name: unique_name(),
                    uri,
                    client,
                    process: Some(process),
                };
            }
            eprintln!("the database did not start; trying again on another port");
            process.show_log();
        }
        panic!("no database started in {START_ATTEMPTS} attempts; see their logs above");
    }

    /// The URI of the server.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The server's address. Only for a process that belongs to this test.
    pub fn address(&self) -> SocketAddr {
        self.process().address
    }

    /// A client that is connected directly to the server.
    pub fn client(&self) -> &mongodb::Client {
        &self.client
    }

    /// The name of this test's database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This test's database.
    pub fn database(&self) -> mongodb::Database {
        self.client.database(&self.name)
    }

    /// A collection of this test's database.
    pub fn collection(&self, name: &str) -> mongodb::Collection<Document> {
        self.database().collection(name)
    }

    /// A request to watch these collections of this test's database, with defaults for everything
    /// else.
    pub fn watch_request(&self, collections: &[&str]) -> pb::WatchRequest {
        pb::WatchRequest {
            database: self.name.clone(),
            collections: collections.iter().map(|&name| name.to_owned()).collect(),
            ..pb::WatchRequest::default()
        }
    }

    /// Kills the server with SIGKILL, as a crash would, and returns once it has exited.
    pub fn kill(&mut self) {
        self.process_mut().kill();
    }

    /// Restarts the server on the same port and data; kills it first if it still runs.
    pub async fn restart(&mut self) {
        let client = self.client.clone();
        let process = self.process_mut();
        assert!(
            process.options.on_disk,
            "only a database started with Database::options().on_disk() keeps its data over a restart"
        );
        process.kill();
        for _ in 0..START_ATTEMPTS {
            process.spawn();
            if process.is_ready(&client).await {
                return;
            }
        }
        process.show_log();
        panic!("the database did not start again on {}", process.address);
    }

    /// Makes commands fail; see [`FailCommand`]. Replaces the failpoint that was armed before.
    pub async fn fail(&self, failure: FailCommand) {
        self.process();
        self.admin(failure.arm()).await;
    }

    /// Disarms the failpoint that [`Database::fail`] armed.
    pub async fn clear_failures(&self) {
        self.process();
        self.admin(FailCommand::disarm()).await;
    }

    /// The cursors on these collections of this test's database, or on the whole database when the list is empty,
    /// whoever opened them, each with its collection.
    pub async fn cursors(&self, collections: &[&str]) -> Vec<(String, i64)> {
        self.process();
        let operations = self.admin(doc! { "currentOp": 1 }).await;
        let operations = operations.get_array("inprog").expect("a list");
        let mut cursors = Vec::new();
        for operation in operations.iter().filter_map(bson::Bson::as_document) {
            let Ok(cursor) = operation.get_i64("cursorId") else {
                continue;
            };
            let namespace = operation.get_str("ns").expect("a cursor has a namespace");
            let Some((database, collection)) = namespace.split_once('.') else {
                continue;
            };
            let named = collections.is_empty() || collections.contains(&collection);
            if database == self.name && named {
                cursors.push((collection.to_owned(), cursor));
            }
        }
        cursors
    }

    /// Kills these [`cursors`](Self::cursors). Returns how many there were.
    pub async fn kill_cursors(&self, collections: &[&str]) -> u64 {
        let mut killed = 0;
        for (collection, cursor) in self.cursors(collections).await {
            let kill = doc! { "killCursors": collection, "cursors": [cursor] };
            let answer = self.client.database(&self.name).run_command(kill).await;
            killed += u64::from(answer.is_ok());
        }
        killed
    }

    /// The number of cursors open on the server, of all clients.
    pub async fn open_cursors(&self) -> i64 {
        self.process();
        let status = self.admin(doc! { "serverStatus": 1 }).await;
        integer(&status, &["metrics", "cursor", "open", "total"])
    }

    /// The number of getMore commands since the server started, of all clients.
    pub async fn getmore_count(&self) -> i64 {
        self.process();
        let status = self.admin(doc! { "serverStatus": 1 }).await;
        integer(&status, &["opcounters", "getmore"])
    }

    /// Runs a command on the admin database.
    pub async fn admin(&self, command: Document) -> Document {
        self.client
            .database("admin")
            .run_command(command.clone())
            .await
            .unwrap_or_else(|error| panic!("the database refused {command}: {error}"))
    }

    fn process(&self) -> &OwnProcess {
        self.process.as_ref().expect(NEEDS_OWN_PROCESS)
    }

    fn process_mut(&mut self) -> &mut OwnProcess {
        self.process.as_mut().expect(NEEDS_OWN_PROCESS)
    }
}

/// The panic message where a test needs what a shared server must not be exposed to.
const NEEDS_OWN_PROCESS: &str = "this test needs a database process of its own, to start it with options, to kill it, to break \
     it or to count in it: unset WEIR_TEST_MONGODB_URI to run it";

fn external_uri() -> Option<String> {
    std::env::var("WEIR_TEST_MONGODB_URI")
        .ok()
        .filter(|uri| !uri.is_empty())
}

/// Connects a client whose timeouts are short enough for a test.
async fn connect(uri: &str) -> mongodb::Client {
    let mut options = mongodb::options::ClientOptions::parse(uri)
        .await
        .expect("the URI of the test database is well-formed");
    options
        .app_name
        .get_or_insert_with(|| "weir-test".to_owned());
    options.server_selection_timeout = Some(WAIT_LIMIT);
    mongodb::Client::with_options(options).expect("a client can be made")
}

/// A database name that no other test uses and that names this test: at most 63 bytes.
fn unique_name() -> String {
    let thread = std::thread::current();
    // "module::test": the test alone, so that much of its name fits.
    let test = thread.name().and_then(|it| it.rsplit("::").next());
    let test: String = test
        .unwrap_or("test")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .take(40)
        .collect();
    format!("{test}_{:016x}", fastrand::u64(..))
}

fn integer(document: &Document, path: &[&str]) -> i64 {
    let (last, folders) = path.split_last().expect("a path has a name");
    let inner = folders
        .iter()
        .try_fold(document, |inner, name| inner.get_document(name).ok());
    inner
        .and_then(|inner| inner.get(last))
        .and_then(integer_of)
        .unwrap_or_else(|| panic!("serverStatus has no field {}", path.join(".")))
}

fn integer_of(value: &bson::Bson) -> Option<i64> {
    value.as_i64().or_else(|| value.as_i32().map(i64::from))
}
