//! The two servers under load, each behind networks that can be broken.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::sync::Mutex;

use crate::support::{Mode, Proxy, ServeProcess, WAIT_LIMIT};

/// One server, with the networks on both sides.
pub struct Replica {
    pub name: &'static str,
    /// Between it and the database.
    pub upstream: Proxy,
    /// Between it and its clients.
    pub client_proxies: Vec<Proxy>,
    process: Mutex<ServeProcess>,
    /// The lines of its log that need an explanation.
    log: Mutex<LogFindings>,
}

/// Log lines above the level INFO.
#[derive(Default)]
pub struct LogFindings {
    /// Warnings by message, with their number.
    pub warnings: BTreeMap<String, u64>,
    /// Errors, panics, and lines that are no log lines.
    pub errors: Vec<String>,
    /// The number of bytes read of this process's log.
    read: usize,
}

/// The resources that a server holds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ResourceUsage {
    pub resident: f64,
    /// Without the connections to MongoDB, which the driver keeps for reuse.
    pub descriptors: f64,
    pub tasks: f64,
    pub watches: f64,
    pub feeds: f64,
    pub catch_ups: f64,
    pub ring: f64,
    pub memory: f64,
    /// Connections to MongoDB.
    pub upstream: f64,
}

impl ResourceUsage {
    /// Returns whether nothing is held for any client.
    pub fn is_empty(&self) -> bool {
        [
            self.watches,
            self.feeds,
            self.catch_ups,
            self.ring,
            self.memory,
        ] == [0.0; 5]
    }
}

/// The gauges that must be 0 without clients.
pub const IDLE_GAUGES: [&str; 5] = [
    "weir_watches",
    "weir_feeds",
    "weir_catch_ups",
    "weir_ring_bytes",
    "weir_memory_used_bytes",
];

impl Replica {
    /// Starts a server with this many connections for its clients.
    pub async fn start(name: &'static str, database: SocketAddr, connections: usize) -> Self {
        let upstream = Proxy::to(database).await;
        let process = serve("127.0.0.1:0", &upstream).await;
        let mut client_proxies = Vec::new();
        for _ in 0..connections {
            client_proxies.push(Proxy::to(process.grpc).await);
        }
        Self {
            name,
            upstream,
            client_proxies,
            process: Mutex::new(process),
            log: Mutex::default(),
        }
    }

    /// Ends the process with a signal and restarts it at the same address. Returns the exit code,
    /// if it had one.
    pub async fn restart(&self, signal: &str) -> Option<i32> {
        let mut process = self.process.lock().await;
        process.process.signal(signal);
        let status = process.process.wait_for_exit(WAIT_LIMIT).await;
        // Half-open connections are still open at the other end.
        self.upstream.cut();
        let mut log = self.log.lock().await;
        log.read(&process.process.stderr());
        log.read = 0;
        *process = serve(&process.grpc.to_string(), &self.upstream).await;
        status.code()
    }

    /// The resources held now, or an error if a metric is below 0.
    pub async fn usage(&self) -> Result<ResourceUsage, String> {
        let process = self.process.lock().await;
        let metrics = process.metrics().await;
        let descriptors = descriptors_besides(process.process.id(), self.upstream.address());
        drop(process);
        if let Some((series, value)) = metrics.iter().find(|(_, value)| *value < 0.0) {
            return Err(format!("{} reports {series} {value}", self.name));
        }
        let [watches, feeds, catch_ups, ring, memory] = IDLE_GAUGES.map(|name| metrics.sum(name));
        let upstream = self.upstream.open() as f64;
        Ok(ResourceUsage {
            resident: metrics.sum("process_resident_memory_bytes"),
            descriptors,
            tasks: metrics.sum("weir_tasks"),
            watches,
            feeds,
            catch_ups,
            ring,
            memory,
            upstream,
        })
    }

    /// Describes what its watches and feeds do.
    pub async fn describe_state(&self) -> String {
        let metrics = self.process.lock().await.metrics().await;
        let reported = metrics.iter().filter(|(series, value)| {
            let of_states = [
                "weir_watches{",
                "weir_feeds{",
                "weir_feed_lag",
                "weir_catch_ups",
            ];
            *value > 0.0 && of_states.iter().any(|name| series.starts_with(name))
        });
        let reported: Vec<String> = reported
            .map(|(series, value)| format!("{series} {value}"))
            .collect();
        format!("the {} server reports {}", self.name, reported.join(", "))
    }

    /// Lets all traffic pass again.
    pub fn restore_networks(&self) {
        for proxy in self.client_proxies.iter().chain([&self.upstream]) {
            proxy.set(Mode::Pass);
        }
    }

    /// The findings in the logs of all its processes so far.
    pub async fn log_findings(&self) -> tokio::sync::MutexGuard<'_, LogFindings> {
        let process = self.process.lock().await;
        let mut log = self.log.lock().await;
        log.read(&process.process.stderr());
        log
    }
}

impl LogFindings {
    fn read(&mut self, stderr: &str) {
        for line in stderr[self.read..].lines() {
            let parsed = serde_json::from_str::<serde_json::Value>(line);
            let level = parsed.as_ref().ok().and_then(|it| it["level"].as_str());
            match (level, &parsed) {
                (Some("INFO" | "DEBUG"), _) => {}
                (Some("WARN"), Ok(parsed)) => {
                    let words = parsed["message"].as_str().unwrap_or(line).to_owned();
                    *self.warnings.entry(words).or_default() += 1;
                }
                _ => self.errors.push(line.to_owned()),
            }
        }
        self.read = stderr.len();
    }
}

async fn serve(listen: &str, upstream: &Proxy) -> ServeProcess {
    let arguments = [
        // Short, so that a test sees its end.
        ["--feed-linger", "2s"],
        ["--upstream-reply-timeout", "2s"],
        ["--upstream-grace", "12s"],
        ["--server-selection-timeout", "2s"],
        ["--shutdown-grace", "5s"],
        ["--http2-keepalive-interval", "2s"],
        ["--http2-keepalive-timeout", "3s"],
        // Small, so that watches fall behind.
        ["--ring-bytes", "1MiB"],
        ["--memory-limit", "64MiB"],
        ["--log-level", "warn,weir::app=info"],
    ];
    ServeProcess::on(listen, &upstream.mongodb_uri(), arguments.as_flattened()).await
}

/// The number of open files of a process, without its connections to an address. As the kernel counts them: the proxy
/// at that address counts a connection that the process has closed until its other end is closed too, which may be
/// a second later, when MongoDB has answered the last command on it.
fn descriptors_besides(process: u32, address: SocketAddr) -> f64 {
    let sockets = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    let port = format!(":{:04X}", address.port());
    let inodes: Vec<String> = sockets
        .lines()
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let remote = columns.nth(2)?;
            let inode = columns.nth(6)?;
            remote.ends_with(&port).then(|| format!("socket:[{inode}]"))
        })
        .collect();
    let files = std::fs::read_dir(format!("/proc/{process}/fd"));
    let files = files.into_iter().flatten().flatten();
    let links = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    let others = links.filter(|link| !inodes.iter().any(|inode| link.as_os_str() == &**inode));
    others.count() as f64
}
