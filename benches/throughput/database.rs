//! The database that is read from, and the collection that is written to.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use mongodb::{
    Client,
    bson::{self, doc},
};
use tokio::{
    runtime::Runtime,
    time::{Instant, sleep},
};
use weir::pb::{self, watch_response::Kind};

use crate::{
    document::document,
    process::{Output, Process},
    reader,
    way::Way,
};

/// How long a database may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How many documents are inserted with one command.
const INSERT_BATCH: u64 = 1_000;

/// A database to read from.
#[derive(Debug)]
pub struct Database {
    name: &'static str,
    uri: String,
    _process: Option<Process>,
}

/// The server of `WEIR_TEST_MONGODB_URI`; else SecantusDB in memory, as a process of its own: the
/// program that `WEIR_TEST_SECANTUSD` names, else the virtual environment's, else the PATH's.
pub fn start() -> Database {
    if let Some(uri) = variable("WEIR_TEST_MONGODB_URI") {
        return Database {
            name: "the server of `WEIR_TEST_MONGODB_URI`",
            uri,
            _process: None,
        };
    }
    let program = variable("WEIR_TEST_SECANTUSD").map_or_else(installed, PathBuf::from);
    // The port may be taken by another between the moment it was found free and the server's start.
    for _ in 0..5 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        drop(listener);
        let mut command = Command::new(&program);
        command
            .args([
                "--port",
                &address.port().to_string(),
                "--storage-path",
                ":memory:",
            ])
            .args(["--oplog-max-entries", "5000000", "--log-level", "ERROR"]);
        let mut process = Process::start("the database", command, Output::Stderr);
        let uri = format!("mongodb://{address}/?directConnection=true");
        if answers(&uri, &mut process) {
            return Database {
                name: "SecantusDB in memory",
                uri,
                _process: Some(process),
            };
        }
    }
    panic!("{} did not start in five attempts", program.display());
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn installed() -> PathBuf {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/secantusd-py");
    if program.exists() {
        program
    } else {
        "secantusd-py".into()
    }
}

fn answers(uri: &str, process: &mut Process) -> bool {
    let deadline = Instant::now() + START_LIMIT;
    runtime().block_on(async {
        let client = Client::with_uri_str(uri)
            .await
            .expect("the URI is well-formed");
        let admin = client.database("admin");
        while !process.has_ended() && Instant::now() < deadline {
            let ping = admin.run_command(doc! { "ping": 1 });
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(1), ping).await {
                return true;
            }
            sleep(Duration::from_millis(20)).await;
        }
        false
    })
}

impl Database {
    /// What tables call it.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Where it is.
    pub fn uri(&self) -> &str {
        &self.uri
    }
}

/// A runtime on this thread alone.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime on this thread needs only a few file descriptors")
}

/// A collection that nothing else uses.
#[derive(Debug)]
pub struct Collection {
    runtime: Runtime,
    client: Client,
    database: String,
    name: &'static str,
}

/// The same place, as each of the readers names it.
#[derive(Debug)]
pub struct StartTokens {
    driver: String,
    weir: String,
}

impl StartTokens {
    /// The place for one way of reading.
    pub fn of(&self, way: Way) -> String {
        match way {
            Way::Driver | Way::DriverSplitting => self.driver.clone(),
            Way::Weir | Way::WeirDecoding => self.weir.clone(),
        }
    }
}

impl Collection {
    /// An empty collection in a database of a new name.
    pub fn fresh(uri: &str) -> Self {
        let runtime = runtime();
        let database = format!("weir_bench_{:016x}", fastrand::u64(..));
        let name = "orders";
        let client = runtime.block_on(async {
            let client = Client::with_uri_str(uri)
                .await
                .expect("the URI is well-formed");
            let created = client.database(&database).create_collection(name).await;
            created.expect("the database creates a collection");
            client
        });
        Self {
            runtime,
            client,
            database,
            name,
        }
    }

    /// Its database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// This moment, at which nothing has been written yet.
    pub fn start_tokens(&self, weir_url: &str) -> StartTokens {
        self.runtime.block_on(async {
            let collection = self
                .client
                .database(&self.database)
                .collection::<bson::Document>(self.name);
            let stream = collection
                .watch()
                .await
                .expect("the collection can be watched");
            let token = stream.resume_token().expect("an open stream has a token");
            let token = bson::serialize_to_vec(&token).expect("a token is a document");

            let mut client = reader::connect(weir_url).await;
            let request = reader::watch_request(&self.database, self.name, "");
            let mut watch = client
                .watch(request)
                .await
                .expect("Weir opens a watch")
                .into_inner();
            let first = watch.message().await.expect("Weir sends its first message");
            let Some(pb::WatchResponse {
                resume_token,
                kind: Some(Kind::Opened(_)),
            }) = first
            else {
                panic!("Weir's first message is not Opened: {first:?}");
            };
            StartTokens {
                driver: reader::to_hex(&token),
                weir: reader::to_hex(&resume_token),
            }
        })
    }

    /// Inserts documents with the ids from 0 on.
    pub fn insert(&self, documents: u64) {
        let collection = self.client.database(&self.database).collection(self.name);
        self.runtime.block_on(async {
            for start in (0..documents).step_by(usize::try_from(INSERT_BATCH).expect("it is small"))
            {
                let ids = start..documents.min(start + INSERT_BATCH);
                let batch = ids.map(|id| document(id.cast_signed()));
                collection
                    .insert_many(batch)
                    .await
                    .expect("the database inserts");
            }
        });
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        // What a server of someone else's was lent; ours is gone in a moment anyway.
        let _ = self
            .runtime
            .block_on(async { self.client.database(&self.database).drop().await });
    }
}
