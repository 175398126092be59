//! Replicas of the real program, which can be killed.

use std::sync::Arc;

use crate::support::ledger::{Figures, Follower, Following, Ledger, Writers, Writing};
use crate::support::{Database, Figure, PATIENCE, Proxy, ServeProcess, eventually, tally};

use super::{every_kind_impatient, start_all};

/// What [`super::hasty`] sets, as the command line says it.
const HASTY: [&str; 16] = [
    "--upstream-reply-timeout",
    "2s",
    "--server-selection-timeout",
    "300ms",
    "--http2-keepalive-interval",
    "1s",
    "--http2-keepalive-timeout",
    "3s",
    "--feed-linger",
    "1s",
    "--ring-bytes",
    "256KiB",
    "--max-catch-ups",
    "4",
    "--shutdown-grace",
    "2s",
];

/// Replicas on one database, with a network in front of each and one behind all; the followers are
/// spread over them. Every second one is impatient: its watches end when MongoDB is away for a second.
pub struct Replicas {
    pub database: Database,
    /// Between the replicas and the database.
    pub upstream: Proxy,
    pub servers: Vec<Server>,
    pub ledger: Arc<Ledger>,
    pub followers: Vec<Follower>,
    writers: Writers,
}

/// One replica.
pub struct Server {
    /// None while it is down.
    process: Option<ServeProcess>,
    arguments: Vec<&'static str>,
    address: String,
    /// Between the clients and it.
    pub clients: Proxy,
}

impl Replicas {
    /// So many, on a database that can be killed, with one follower of each kind.
    pub async fn start(count: usize, writing: &Writing) -> Self {
        let database = Database::options().on_disk().start().await;
        let upstream = Proxy::to(database.address()).await;
        let mut servers = Vec::new();
        for number in 0..count {
            let grace = ["60s", "1s"][number % 2];
            let mut arguments = HASTY.to_vec();
            arguments.extend(["--upstream-grace", grace]);
            let process = ServeProcess::start(&upstream.mongodb_uri(), &arguments).await;
            servers.push(Server {
                address: process.grpc.to_string(),
                clients: Proxy::to(process.grpc).await,
                process: Some(process),
                arguments,
            });
        }
        let mut writers = Writers::ready(&database.database(), writing).await;
        let ledger = writers.ledger();
        let mut shares: Vec<Vec<Following>> = vec![Vec::new(); count];
        for (number, following) in every_kind_impatient(&database).into_iter().enumerate() {
            shares[number % count].push(following);
        }
        let mut followers = Vec::new();
        for (server, share) in servers.iter().zip(shares) {
            followers.extend(start_all(&ledger, server.clients.address(), share).await);
        }
        writers.begin(&database.database(), writing);
        Self {
            database,
            upstream,
            servers,
            ledger,
            followers,
            writers,
        }
    }

    /// Ends one replica: "KILL" is a crash, "TERM" a shutdown, which comes to its end even when clients
    /// cannot be reached.
    pub async fn end(&mut self, server: usize, signal: &str) {
        let server = &mut self.servers[server];
        let Some(mut process) = server.process.take() else {
            return;
        };
        process.process.signal(signal);
        let status = process.process.ends(PATIENCE).await;
        if signal == "TERM" {
            let log = process.process.stderr();
            let cut = log.contains("clients did not read the end of their streams in time");
            let expected = Some(i32::from(cut));
            assert_eq!(status.code(), expected, "{}", process.process);
        }
        assert_healthy(&process);
    }

    /// Starts one replica again, on the port that it had.
    pub async fn start_again(&mut self, server: usize) {
        let uri = self.upstream.mongodb_uri();
        let server = &mut self.servers[server];
        if server.process.is_none() {
            let process = ServeProcess::on(&server.address, &uri, &server.arguments).await;
            server.process = Some(process);
        }
    }

    /// Ends the writing and waits until everybody has everything; then until all that was held for the
    /// clients is gone.
    pub async fn verdict(self, faults: u64) -> Figures {
        tally(Figure::Faults, faults);
        let retries = self.writers.retries();
        println!("writes had to be tried again {retries} times");
        self.writers.finish().await;
        let figures = Figures::of(&self.ledger, &self.followers).await;
        figures.tally();
        assert!(figures.written > 0 && figures.got > 0, "{figures:?}");
        drop(self.followers);
        for process in self.servers.iter().filter_map(|it| it.process.as_ref()) {
            eventually("no watch and no feed is left", async || {
                let metrics = process.metrics().await;
                let gauges = ["weir_watches", "weir_feeds", "weir_catch_ups"];
                gauges.iter().all(|gauge| metrics.sum(gauge) == 0.0)
            })
            .await;
            assert_healthy(process);
        }
        figures
    }
}

/// Nothing that the server says is about a fault of its own.
fn assert_healthy(process: &ServeProcess) {
    let log = process.process.stderr();
    for word in ["panicked", r#""level":"ERROR""#] {
        assert!(!log.contains(word), "{log}");
    }
}
