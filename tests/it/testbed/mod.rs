//! A database, Weir and its clients, with a breakable network on both sides of Weir and a ledger of
//! all writes.

mod replicas;

pub use replicas::Replicas;

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use pb::OperationType::{Delete, Insert, Replace, Update};
use pb::field_filter::Operator;
use serde_json::json;
use weir::config::ServeConfig;
use weir::pb;

use crate::conversions::{eq, field};
use crate::support::ledger::{
    ClientOptions, DeliveryTotals, Ledger, ResumingClient, WriteOptions, Writers,
};
use crate::support::{Database, Figure, Proxy, Weir, eventually, tally};

/// The shortest allowed value, so that a test reaches the limit.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(1);
/// Longer, as a ping waits behind data that was sent before it.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// A small ring, so that clients fall behind, and short limits.
pub fn short_limits(config: &mut ServeConfig) {
    config.upstream_reply_timeout = REPLY_TIMEOUT;
    config.server_selection_timeout = Duration::from_millis(300);
    config.http2_keepalive_interval = KEEPALIVE;
    config.http2_keepalive_timeout = KEEPALIVE_TIMEOUT;
    config.feed_linger = Duration::from_secs(1);
    config.ring_bytes = ByteSize::kib(256);
    config.max_catch_ups = 4;
}

/// The default writes.
pub fn write_options() -> WriteOptions {
    WriteOptions {
        large: Some((15, 150_000)),
        ..WriteOptions::default()
    }
}

/// The options of one client of each kind.
pub fn one_client_of_each_kind(database: &Database) -> Vec<ClientOptions> {
    let whole = || database.watch_request(&[]);
    let first = || database.watch_request(&["ledger_a"]);
    let small = 64 << 10;
    let of_group = |group: i32, mode: pb::FeedMode| pb::WatchRequest {
        filters: vec![eq("group", json!(group))],
        feed_mode: mode.into(),
        ..whole()
    };
    let plain = ClientOptions::new("plain", first(), |it| it.collection == 0);
    // Without images nobody can tell the group before an update or deletion, so these are
    // delivered.
    let filtered_by_mongodb = ClientOptions::new(
        "filtered by MongoDB",
        of_group(1, pb::FeedMode::Dedicated),
        |it| matches!(it.operation, Update | Delete) || it.after == Some(1),
    );
    // With images the group is known, and nothing that may not match is delivered.
    let by_images = pb::WatchRequest {
        full_document_before_change: pb::FullDocumentBeforeChange::Required.into(),
        missing_image_policy: pb::MissingImagePolicy::Drop.into(),
        ..of_group(2, pb::FeedMode::Shared)
    };
    let filtered_by_weir = ClientOptions::new("filtered by Weir", by_images, |it| {
        it.before == Some(2) || it.operation != Update && it.after == Some(2)
    });
    let changed = pb::WatchRequest {
        filters: vec![field("group", Operator::Changed(true))],
        ..whole()
    };
    let changed = ClientOptions::new("changed", changed, |it| match it.operation {
        Update => it.before != it.after,
        operation => operation == Replace,
    });
    let structs = pb::WatchRequest {
        document_format: pb::DocumentFormat::Struct.into(),
        ..whole()
    };
    let operations = [Insert, Delete];
    let comings_and_goings = pb::WatchRequest {
        operations: operations.map(Into::into).to_vec(),
        document_format: pb::DocumentFormat::Json.into(),
        ..whole()
    };
    let comings_and_goings =
        ClientOptions::new("comings and goings", comings_and_goings, move |it| {
            operations.contains(&it.operation)
        });
    let pieces = pb::WatchRequest {
        max_message_bytes: small,
        ..whole()
    };
    let canonical = pb::WatchRequest {
        document_format: pb::DocumentFormat::CanonicalJson.into(),
        ..first()
    };
    let all = vec![
        plain,
        filtered_by_mongodb,
        filtered_by_weir,
        changed,
        ClientOptions::all("structs", structs),
        ClientOptions {
            store_every: 4,
            ..comings_and_goings
        },
        ClientOptions::all("in pieces", pieces),
        ClientOptions {
            window: Some(16 << 10),
            ..ClientOptions::new("narrow", canonical, |it| it.collection == 0)
        },
    ];
    // On a busy machine a progress may take seconds.
    let with_patience = |options| ClientOptions {
        silent_intervals: 10,
        ..options
    };
    all.into_iter().map(with_patience).collect()
}

/// The same, but they give up a silent watch as early as the contract allows.
pub fn impatient_clients_of_each_kind(database: &Database) -> Vec<ClientOptions> {
    let impatient = |options| ClientOptions {
        silent_intervals: 2,
        ..options
    };
    one_client_of_each_kind(database)
        .into_iter()
        .map(impatient)
        .collect()
}

/// Waits until this many more writes were made, whoever receives them.
pub async fn wait_for_writes(ledger: &Ledger, writes: u64) {
    let enough = ledger.len() + writes;
    eventually("more is written", async || ledger.len() >= enough).await;
}

/// Waits until every client has received more than it has now.
pub async fn wait_for_every_client(clients: &[ResumingClient]) {
    let before: Vec<u64> = clients.iter().map(ResumingClient::got).collect();
    for (client, before) in clients.iter().zip(before) {
        let more = format!("{} gets more than {before}", client.name());
        eventually(&more, async || {
            assert_eq!(client.problem(), None);
            client.got() > before
        })
        .await;
    }
}

/// Starts clients concurrently.
pub async fn start_clients(
    ledger: &Arc<Ledger>,
    address: std::net::SocketAddr,
    client_options: Vec<ClientOptions>,
) -> Vec<ResumingClient> {
    let starting = client_options
        .into_iter()
        .map(|options| ResumingClient::start(ledger, address, options));
    futures::future::join_all(starting).await
}

/// All parts, running.
pub struct Testbed {
    pub database: Database,
    /// Between Weir and the database.
    pub upstream_proxy: Proxy,
    pub weir: Weir,
    /// Between the clients and Weir.
    pub client_proxy: Proxy,
    pub ledger: Arc<Ledger>,
    pub clients: Vec<ResumingClient>,
    writers: Writers,
}

impl Testbed {
    /// Starts with one client of each kind.
    pub async fn start() -> Self {
        let database = Database::options().start().await;
        Self::with(
            database,
            write_options(),
            short_limits,
            one_client_of_each_kind,
        )
        .await
    }

    /// Starts with these options. Every client watches before the first write.
    pub async fn with(
        database: Database,
        write_options: WriteOptions,
        configure: impl FnOnce(&mut ServeConfig),
        client_options: impl FnOnce(&Database) -> Vec<ClientOptions>,
    ) -> Self {
        let upstream_proxy = Proxy::to(database.address()).await;
        let weir = Weir::at(&upstream_proxy.mongodb_uri(), configure).await;
        let client_proxy = Proxy::to(weir.grpc_addr()).await;
        let mut writers = Writers::ready(&database.database(), &write_options).await;
        let ledger = writers.ledger();
        let client_options = client_options(&database);
        let clients = start_clients(&ledger, client_proxy.address(), client_options).await;
        writers.begin(&database.database(), &write_options);
        Self {
            database,
            upstream_proxy,
            weir,
            client_proxy,
            ledger,
            clients,
            writers,
        }
    }

    /// Waits until this many more writes were made, whoever receives them.
    pub async fn wait_for_writes(&self, writes: u64) {
        wait_for_writes(&self.ledger, writes).await;
    }

    /// Waits until every client has received something that is written from now on.
    pub async fn wait_for_every_client(&self) {
        wait_for_every_client(&self.clients).await;
    }

    /// The number of times that Weir reopened a change stream.
    pub async fn feed_restarts(&self) -> f64 {
        self.weir.metrics().await.sum("weir_feed_restarts_total")
    }

    /// Stops the writers and waits until every client has received everything. `faults` is the
    /// number of injected faults.
    pub async fn check_delivery(self, faults: u64) -> Outcome {
        tally(Figure::Faults, faults);
        self.writers.finish().await;
        let totals = DeliveryTotals::of(&self.ledger, &self.clients).await;
        totals.tally();
        assert!(totals.written > 0 && totals.got > 0, "{totals:?}");
        Outcome {
            totals,
            ends: self
                .clients
                .iter()
                .flat_map(ResumingClient::end_reasons)
                .collect(),
            weir: self.weir,
            database: self.database,
            _upstream_proxy: self.upstream_proxy,
        }
    }
}

/// The result of a run in which nothing was lost or out of order.
pub struct Outcome {
    pub totals: DeliveryTotals,
    /// The reasons why watches ended.
    pub ends: Vec<String>,
    pub weir: Weir,
    pub database: Database,
    /// Weir still has to reach MongoDB, to close its cursors.
    _upstream_proxy: Proxy,
}

impl Outcome {
    /// The number of watches whose end reason contains these words.
    pub fn count_ends(&self, words: &str) -> usize {
        self.ends.iter().filter(|it| it.contains(words)).count()
    }

    /// Waits until Weir holds nothing for clients that have left, and MongoDB holds no cursor of
    /// Weir's.
    pub async fn wait_for_release(self) {
        self.weir.wait_for_no_feeds().await;
        eventually("no watch is left", async || {
            self.weir.metrics().await.sum("weir_watches") == 0.0
        })
        .await;
        eventually("no cursor is left", async || {
            self.database.open_cursors().await == 0
        })
        .await;
    }
}
