//! The database under the benchmark.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use mongodb::{Client, bson::doc};
use tokio::time::{Instant, sleep};

use crate::system::{cpu::Usage, process::Process, runtime};

/// The time that a database may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A database to read from.
#[derive(Debug)]
pub struct Database {
    name: &'static str,
    uri: String,
    process: Option<Process>,
}

/// The server of `WEIR_TEST_MONGODB_URI`; else SecantusDB in memory as a separate process: the
/// program of `WEIR_TEST_SECANTUSD`, else the virtual environment's, else the one on the PATH.
pub fn start() -> Database {
    if let Some(uri) = variable("WEIR_TEST_MONGODB_URI") {
        return Database {
            name: "the server of `WEIR_TEST_MONGODB_URI`",
            uri,
            process: None,
        };
    }
    let program = variable("WEIR_TEST_SECANTUSD").map_or_else(installed, PathBuf::from);
    let program = program.to_string_lossy();
    // Another process may take the port between the check and the server's start.
    for _ in 0..5 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        drop(listener);
        let port = address.port().to_string();
        let arguments = [
            "--port",
            &port,
            "--storage-path",
            ":memory:",
            "--oplog-max-entries",
            "5000000",
            "--log-level",
            "ERROR",
        ];
        let mut process = Process::start_supervised("the database", &program, &arguments);
        let uri = format!("mongodb://{address}/?directConnection=true");
        if answers(&uri, &mut process) {
            return Database {
                name: "SecantusDB in memory",
                uri,
                process: Some(process),
            };
        }
    }
    panic!("{program} did not start in five attempts");
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
    /// The name in tables.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The URI of the database.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The CPU use so far, for our own process.
    pub fn usage(&self) -> Option<Usage> {
        self.process.as_ref().and_then(|it| Usage::of(it.id()))
    }

    /// Drops a database on a shared server; our own ends anyway.
    pub fn forget(&self, database: &str) {
        if self.process.is_some() {
            return;
        }
        runtime().block_on(async {
            if let Ok(client) = Client::with_uri_str(&self.uri).await {
                let _ = client.database(database).drop().await;
            }
        });
    }
}

/// The number of cursors open on a server, if it reports that.
pub fn open_cursors(uri: &str) -> Option<u64> {
    let status = runtime().block_on(async {
        let client = Client::with_uri_str(uri).await.ok()?;
        let admin = client.database("admin");
        let status = admin.run_command(doc! { "serverStatus": 1 });
        let status = tokio::time::timeout(Duration::from_secs(10), status);
        status.await.ok()?.ok()
    })?;
    let metrics = status.get_document("metrics").ok()?;
    let open = metrics.get_document("cursor").ok()?.get_document("open");
    let total = open.ok()?.get("total")?;
    let total = total
        .as_i64()
        .or_else(|| total.as_i32().map(i64::from))
        .or_else(|| total.as_f64().map(|total| total as i64));
    u64::try_from(total?).ok()
}
