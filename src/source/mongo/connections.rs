//! The connections to a deployment: a client of the driver for feeds, and one for all else.

use std::{sync::Arc, time::Duration};

use mongodb::{Client, error::Error as DriverError, event::EventHandler, options::ClientOptions};

use super::{
    connected::{Connected, MAX_LOOKS},
    idle::IdleConnections,
    options::OptionSupport,
};
use crate::limit::{Limit, Limiter};

/// The time after which an idle connection is not used any more, unless the URI sets another. Shorter than
/// the idle timeouts of load balancers and firewalls, which are minutes: behind one that drops packets
/// silently, a call on such a connection would wait for the whole reply timeout.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);

/// The same for the connections of feeds, at most. A feed asks MongoDB once a second at least, so that one that is idle
/// for longer was that of a feed that has ended: without this limit, many that come and go would leave as many
/// connections for a minute.
const MAX_IDLE_TIME_OF_FEEDS: Duration = Duration::from_secs(10);

/// The connections for feeds beyond one for each: for the commands that close cursors.
const EXTRA_FEED_CONNECTIONS: u32 = 2;

/// The other connections beyond one for each catch-up: for looks, pings, look-ups of the oldest oplog entry and closing
/// cursors.
const EXTRA_OTHER_CONNECTIONS: u32 = 8 + MAX_LOOKS as u32;

/// The streams beyond one for each feed: one that looks for an event has a second one.
const EXTRA_FEED_STREAMS: u32 = 2;

/// The streams beyond one for each catch-up, of which several may look for an event at once. What is left of the other
/// connections is for commands, which are short.
const EXTRA_OTHER_STREAMS: u32 = EXTRA_OTHER_CONNECTIONS - MAX_LOOKS as u32 - 2;

/// The settings of the connection to MongoDB.
#[derive(Debug, Clone)]
pub struct MongoSettings {
    /// A MongoDB connection string.
    pub uri: String,
    /// The maximum number of feeds, each of which has a stream.
    pub max_feeds: u32,
    /// The maximum number of catch-ups, each of which has a stream.
    pub max_catch_ups: u32,
    /// The time to look for a usable server before an operation fails. `serverSelectionTimeoutMS` in the
    /// URI takes precedence.
    pub server_selection_timeout: Duration,
    /// The time to wait for a reply before MongoDB is pinged on another connection; the ping may take
    /// half of this. More than a second, because MongoDB holds the `getMore` of a quiet stream that long.
    pub reply_timeout: Duration,
    /// `true` to read streams of a sharded cluster on although a shard was removed (MongoDB 9.0).
    pub ignore_removed_shards: bool,
}

impl MongoSettings {
    /// Returns the number of connections for feeds, which nothing else takes.
    fn feed_connections(&self) -> u32 {
        self.max_feeds.saturating_add(EXTRA_FEED_CONNECTIONS)
    }

    /// Returns the least number of connections for all else.
    fn other_connections(&self) -> u32 {
        self.max_catch_ups.saturating_add(EXTRA_OTHER_CONNECTIONS)
    }

    /// Returns the least number of connections that may be open at once, besides those that watch the servers.
    #[must_use]
    pub fn connections(&self) -> u32 {
        let feeds = self.feed_connections();
        feeds.saturating_add(self.other_connections())
    }
}

/// The connections to a MongoDB deployment whose hosts are known.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    /// Those that feeds are opened and read on.
    pub(super) feeds: Connected,
    /// Those of catch-ups and commands.
    pub(super) others: Connected,
}

impl Connections {
    /// Prepares the clients, without connecting. What waits for a connection of one of them is in nobody's way at the
    /// other.
    pub(super) fn new(
        mut options: ClientOptions,
        read_preference: Option<String>,
        settings: &MongoSettings,
    ) -> Result<Self, DriverError> {
        options.app_name.get_or_insert_with(|| "weir".to_owned());
        let retry_limit = *options
            .server_selection_timeout
            .get_or_insert(settings.server_selection_timeout);
        options.max_idle_time.get_or_insert(MAX_IDLE_TIME);
        let feeds = settings.feed_connections();
        let others = options.max_pool_size.unwrap_or(0).saturating_sub(feeds);
        let others = others
            .max(settings.other_connections())
            .max(options.min_pool_size.unwrap_or(0));
        tracing::info!(feeds, others, "mongodb connection pools sized");
        let others = Connected::new(
            client(options.clone(), others)?,
            streams_at_once(settings.max_catch_ups, EXTRA_OTHER_STREAMS),
            read_preference,
            (settings.reply_timeout, retry_limit),
            OptionSupport::new(settings.ignore_removed_shards),
        );
        // A minimum would keep connections open for feeds that nobody has asked for.
        options.min_pool_size = None;
        // Zero is without a limit.
        options.max_idle_time = options
            .max_idle_time
            .map(|it| it.min(MAX_IDLE_TIME_OF_FEEDS));
        let feeds = others.with_client(
            client(options, feeds)?,
            streams_at_once(settings.max_feeds, EXTRA_FEED_STREAMS),
        );
        Ok(Self { feeds, others })
    }

    /// Closes all connections, after all cursors are killed.
    pub(super) async fn close(self) {
        tokio::join!(self.feeds.close(), self.others.close());
    }
}

/// Creates a client whose pool has this many connections, and the observer of its idle ones.
fn client(
    mut options: ClientOptions,
    connections: u32,
) -> Result<(Client, Arc<IdleConnections>), DriverError> {
    let idle = Arc::<IdleConnections>::default();
    let observer = Arc::clone(&idle);
    options.cmap_event_handler = Some(EventHandler::callback(move |event| {
        observer.observe(&event);
    }));
    options.max_pool_size = Some(connections);
    Ok((Client::with_options(options)?, idle))
}

fn streams_at_once(readers: u32, extra: u32) -> Limiter {
    let max = readers.saturating_add(extra);
    Limiter::new(Limit::new("streams", max.try_into().unwrap_or(1 << 30)))
}
