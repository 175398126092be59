//! Replicas of the real binary, which can be killed.

use std::sync::Arc;

use crate::support::ledger::{
    ClientOptions, DeliveryTotals, Ledger, ResumingClient, WriteOptions, Writers,
};
use crate::support::{Database, Figure, Proxy, ServeProcess, WAIT_LIMIT, eventually, tally};

use super::{impatient_clients_of_each_kind, start_clients};

/// The flags for [`super::short_limits`].
const SHORT_LIMITS: [&str; 16] = [
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

/// Replicas on one database, with a network in front of each and one to the database; the clients
/// are spread over them. In every second replica watches end when MongoDB is away for a second.
pub struct Replicas {
    pub database: Database,
    /// Between the replicas and the database.
    pub upstream_proxy: Proxy,
    pub servers: Vec<Server>,
    pub ledger: Arc<Ledger>,
    pub clients: Vec<ResumingClient>,
    writers: Writers,
}

/// One replica.
pub struct Server {
    /// `None` while it is down.
    process: Option<ServeProcess>,
    arguments: Vec<&'static str>,
    address: String,
    /// Between the clients and this replica.
    pub client_proxy: Proxy,
}

impl Replicas {
    /// Starts `count` replicas on a database that can be killed, with one client of each kind.
    pub async fn start(count: usize, write_options: &WriteOptions) -> Self {
        let database = Database::options().on_disk().start().await;
        let upstream_proxy = Proxy::to(database.address()).await;
        let mut servers = Vec::new();
        for number in 0..count {
            let grace = ["60s", "1s"][number % 2];
            let mut arguments = SHORT_LIMITS.to_vec();
            arguments.extend(["--upstream-grace", grace]);
            let process = ServeProcess::start(&upstream_proxy.mongodb_uri(), &arguments).await;
            servers.push(Server {
                address: process.grpc.to_string(),
                client_proxy: Proxy::to(process.grpc).await,
                process: Some(process),
                arguments,
            });
        }
        let mut writers = Writers::ready(&database.database(), write_options).await;
        let ledger = writers.ledger();
        let mut shares: Vec<Vec<ClientOptions>> = vec![Vec::new(); count];
        for (number, options) in impatient_clients_of_each_kind(&database)
            .into_iter()
            .enumerate()
        {
            shares[number % count].push(options);
        }
        let mut clients = Vec::new();
        for (server, share) in servers.iter().zip(shares) {
            clients.extend(start_clients(&ledger, server.client_proxy.address(), share).await);
        }
        writers.begin(&database.database(), write_options);
        Self {
            database,
            upstream_proxy,
            servers,
            ledger,
            clients,
            writers,
        }
    }

    /// Stops one replica: "KILL" is a crash, "TERM" a shutdown, which ends even when clients cannot
    /// be reached.
    pub async fn end(&mut self, server: usize, signal: &str) {
        let server = &mut self.servers[server];
        let Some(mut process) = server.process.take() else {
            return;
        };
        process.process.signal(signal);
        let status = process.process.wait_for_exit(WAIT_LIMIT).await;
        if signal == "TERM" {
            let log = process.process.stderr();
            let cut = log
                .contains("clients did not read the end of their streams within --shutdown-grace");
            let expected = Some(i32::from(cut));
            assert_eq!(status.code(), expected, "{}", process.process);
        }
        assert_healthy(&process);
    }

    /// Restarts one replica on its former port.
    pub async fn start_again(&mut self, server: usize) {
        let uri = self.upstream_proxy.mongodb_uri();
        let server = &mut self.servers[server];
        if server.process.is_none() {
            let process = ServeProcess::on(&server.address, &uri, &server.arguments).await;
            server.process = Some(process);
        }
    }

    /// Stops the writers and waits until every client has received everything; then waits until
    /// everything held for the clients is released.
    pub async fn check_delivery(self, faults: u64) -> DeliveryTotals {
        tally(Figure::Faults, faults);
        let retries = self.writers.retries();
        println!("writes were retried {retries} times");
        self.writers.finish().await;
        let totals = DeliveryTotals::of(&self.ledger, &self.clients).await;
        totals.tally();
        assert!(totals.written > 0 && totals.got > 0, "{totals:?}");
        drop(self.clients);
        for process in self.servers.iter().filter_map(|it| it.process.as_ref()) {
            eventually("no watch and no feed is left", async || {
                let metrics = process.metrics().await;
                let gauges = ["weir_watches", "weir_feeds", "weir_catch_ups"];
                gauges.iter().all(|gauge| metrics.sum(gauge) == 0.0)
            })
            .await;
            assert_healthy(process);
        }
        totals
    }
}

/// Checks that the log holds no panic and no error.
fn assert_healthy(process: &ServeProcess) {
    let log = process.process.stderr();
    for word in ["panicked", r#""level":"ERROR""#] {
        assert!(!log.contains(word), "{log}");
    }
}
