//! A database process for one test: its start, its readiness and its end.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Stdio};
use std::time::Duration;

use mongodb::bson::doc;
use tempfile::TempDir;
use tokio::time::Instant;

use super::{Database, process, tools};

/// The time that a server may take to answer its first ping.
const START_LIMIT: Duration = Duration::from_secs(60);
/// The number of lines of the server's log that a failing test shows.
const LOG_TAIL_LINES: usize = 60;

/// The options of a database process.
#[derive(Debug, Clone, Default)]
pub struct DatabaseOptions {
    pub(super) on_disk: bool,
    arguments: Vec<String>,
}

impl DatabaseOptions {
    /// Keeps the data in a folder, so that it survives [`Database::restart`].
    #[must_use]
    pub fn on_disk(mut self) -> Self {
        self.on_disk = true;
        self
    }

    /// Keeps about this many oplog entries. They are pruned every few hundred writes, not at each
    /// write.
    #[must_use]
    pub fn oplog_max_entries(self, entries: u32) -> Self {
        self.argument("--oplog-max-entries")
            .argument(&entries.to_string())
    }

    /// Writes an oplog entry at this interval even when nothing happens, as mongod does every 10 s.
    #[must_use]
    pub fn noop_heartbeat_seconds(self, seconds: u32) -> Self {
        self.argument("--noop-heartbeat-seconds")
            .argument(&seconds.to_string())
    }

    /// Passes another argument to the server.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Starts the server and returns once it answers.
    pub async fn start(self) -> Database {
        Database::with_options(self).await
    }
}

/// A server that belongs to this test alone.
pub(super) struct OwnProcess {
    pub(super) options: DatabaseOptions,
    pub(super) address: SocketAddr,
    /// Holds the log, the data and the server's temporary files.
    folder: TempDir,
    child: Option<Child>,
}

impl OwnProcess {
    /// A process that is not started yet, on a port that was free a moment ago.
    pub(super) fn new(options: DatabaseOptions) -> Self {
        Self {
            options,
            address: free_address(),
            folder: TempDir::with_prefix("weir-test-").expect("a temporary folder"),
            child: None,
        }
    }

    /// The URI of the server.
    pub(super) fn uri(&self) -> String {
        uri_at(self.address)
    }

    /// Starts the process; [`OwnProcess::is_ready`] waits for it.
    pub(super) fn spawn(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .expect("the log can be opened");
        let also_log = log.try_clone().expect("the log can be shared");
        let storage = if self.options.on_disk {
            self.folder.path().join("data").into_os_string()
        } else {
            ":memory:".into()
        };
        // Without it a killed server loses its last writes although it acknowledged them.
        let durability = self.options.on_disk.then_some("--sync-on-commit");
        let mut command = process::command(tools::database_server());
        command
            .arg("--port")
            .arg(self.address.port().to_string())
            .arg("--storage-path")
            .arg(storage)
            .arg("--enable-test-commands")
            .args(durability)
            .args(&self.options.arguments)
            // `:memory:` too keeps files there, which a killed server leaves behind.
            .env("TMPDIR", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(also_log);
        self.child = Some(process::spawn(command).expect("the database can be started"));
    }

    /// Waits for the first answer. False when the process ended first, as it does when its port is
    /// taken.
    pub(super) async fn is_ready(&mut self, client: &mongodb::Client) -> bool {
        let deadline = Instant::now() + START_LIMIT;
        let admin = client.database("admin");
        loop {
            let child = self.child.as_mut().expect("the process was started");
            if child
                .try_wait()
                .expect("a child can be asked about")
                .is_some()
            {
                return false;
            }
            if tokio::net::TcpStream::connect(self.address).await.is_ok()
                && let Ok(status) = admin.run_command(doc! { "serverStatus": 1 }).await
            {
                // Another test's server may have taken the port before ours tried to. Not every
                // server reports its process id.
                let pid = status
                    .get_i64("pid")
                    .or_else(|_| status.get_i32("pid").map(i64::from));
                if pid.ok().is_none_or(|pid| pid == i64::from(child.id())) {
                    return true;
                }
            }
            if Instant::now() > deadline {
                self.show_log();
                panic!("the database did not answer within {START_LIMIT:?}; see its log above");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Kills the process with SIGKILL, as a crash would, and returns once it has exited.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have exited already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> std::path::PathBuf {
        self.folder.path().join("server.log")
    }

    /// Prints the last lines of the server's log.
    pub(super) fn show_log(&self) {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
        eprintln!(
            "--- the end of the database's log\n{}\n---",
            tail.join("\n")
        );
    }
}

impl Drop for OwnProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A server that exited by itself or was killed often explains the failure.
            let child = self.child.as_mut().map(Child::try_wait);
            if let Some(Ok(Some(status))) = child {
                eprintln!("the database had ended before the test did: {status}");
            }
            self.show_log();
        }
        self.kill();
    }
}

/// An address with a port that was free a moment ago.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
    listener
        .local_addr()
        .expect("a bound socket has an address")
}

/// The URI of a test database at an address.
///
/// After an error that a failpoint made, a client waits for the server's next hello, which by
/// default comes only after 10 s, as nothing has changed. A client in polling mode asks every 0.5
/// s.
pub(super) fn uri_at(address: SocketAddr) -> String {
    let options = "directConnection=true&serverMonitoringMode=poll&heartbeatFrequencyMS=500";
    format!("mongodb://{address}/?{options}")
}
