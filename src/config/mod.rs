//! The settings of the server: the single definition of each flag, its environment variable, unit, bounds
//! and default. `weir serve --help` is generated from it.

mod admin;
mod auth;
mod checks;
mod environment;
mod limits;
mod spans;
mod tls;
mod warnings;

use std::{net::SocketAddr, time::Duration};

use bytesize::ByteSize;
use clap::{
    Args, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum,
    builder::NonEmptyStringValueParser,
};

use crate::{
    hub::HubSettings, pipeline::RequestLimits, rpc::ServiceLimits, source::mongo::MongoSettings,
    wire::Compression,
};

use checks::{check_addresses, check_bytes, check_count, check_duration};

pub use admin::AdminConfig;
pub use auth::{AuthConfig, JwtAlgorithm};
pub use checks::ConfigError;
pub use environment::{
    UnknownVariable, check_protections, names_client_auth, normalize, trimmed, unknown_variables,
};
pub use limits::LimitsConfig;
pub use spans::SpanConfig;
pub use tls::{ClientAuth, TlsConfig};
pub use warnings::{FileFacts, Warning};

/// The missing protection without authentication.
const NO_AUTHENTICATION: &str = "authentication (--tls-client-ca-file, --jwks-url, --jwks-file or \
                                 --api-keys-file)";

/// The missing protection without encryption and authentication.
const NO_ENCRYPTION_AND_AUTHENTICATION: &str = "encryption (--tls-cert-file) and without authentication \
                       (--tls-client-ca-file, --jwks-url, --jwks-file or --api-keys-file)";

/// The settings of `weir serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeConfig {
    /// MongoDB connection string. The deployment must be a replica set or a sharded cluster
    #[arg(
        long,
        env = "MONGODB_URI",
        hide_env_values = true,
        value_name = "URI",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub mongodb_uri: String,

    /// Address and port of the gRPC server. An address that is not loopback needs TLS and authentication, or
    /// --allow-insecure
    #[arg(
        long,
        env = "WEIR_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:50051"
    )]
    pub listen: SocketAddr,

    /// Address and port of the admin server: /metrics, /livez, /readyz and /log-level over plain HTTP
    #[arg(
        long,
        env = "WEIR_ADMIN_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9090"
    )]
    pub admin_listen: SocketAddr,

    /// Who may use the admin port.
    #[command(flatten)]
    pub admin: AdminConfig,

    /// Allow --listen on an address that is not loopback without TLS or without authentication. Without TLS,
    /// traffic can be read on the network; without authentication, anyone who reaches the port may watch
    /// everything that Weir's MongoDB user may. Use it behind a mesh or a proxy that provides what is missing
    #[arg(long, env = "WEIR_ALLOW_INSECURE")]
    pub allow_insecure: bool,

    /// Allow watches that name no database and so watch the whole deployment
    #[arg(long, env = "WEIR_ALLOW_DEPLOYMENT_WATCH")]
    pub allow_deployment_watch: bool,

    /// Allow watches with stages of their own in pipeline. Each has a change stream of its own, and MongoDB
    /// computes what its stages ask for on every event
    #[arg(long, env = "WEIR_ALLOW_PIPELINE")]
    pub allow_pipeline: bool,

    /// On a sharded cluster, read streams on without the events of shards that were removed, which are lost,
    /// instead of ending watches with SHARD_REMOVED. Needs MongoDB 9.0
    #[arg(long, env = "WEIR_IGNORE_REMOVED_SHARDS")]
    pub ignore_removed_shards: bool,

    /// The name of this MongoDB deployment in resume tokens; a token with another name is refused. Must be
    /// the same on all replicas of Weir [default: the name of the replica set]
    #[arg(long, env = "WEIR_DEPLOYMENT_NAME", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub deployment_name: Option<String>,

    /// Maximum number of open watches, 1 to 1000000
    #[arg(
        long,
        env = "WEIR_MAX_WATCHES",
        value_name = "COUNT",
        default_value_t = 10_000
    )]
    pub max_watches: usize,

    /// Maximum number of open client connections, 1 to 1000000; further ones are reset. Each uses one file
    /// descriptor
    #[arg(
        long,
        env = "WEIR_MAX_CONNECTIONS",
        value_name = "COUNT",
        default_value_t = 10_000
    )]
    pub max_connections: usize,

    /// Maximum number of open feeds, 1 to 10000. A feed is a change stream on MongoDB that watches share;
    /// each uses one connection to MongoDB
    #[arg(
        long,
        env = "WEIR_MAX_FEEDS",
        value_name = "COUNT",
        default_value_t = 64
    )]
    pub max_feeds: usize,

    /// Maximum number of dedicated feeds (filtered by MongoDB) for the same database and collections, 0 to
    /// 10000; further watches use one shared feed (filtered in Weir). Applies to watches that leave feed_mode
    /// to the server
    #[arg(
        long,
        env = "WEIR_FEEDS_PER_SCOPE",
        value_name = "COUNT",
        default_value_t = 4
    )]
    pub feeds_per_scope: usize,

    /// Maximum number of watches that catch up at once, 1 to 10000; further ones wait, by turns between
    /// principals, of which one has at most three quarters. A watch that catches up reads events which its
    /// feed no longer holds, on its own change stream and connection to MongoDB
    #[arg(
        long,
        env = "WEIR_MAX_CATCH_UPS",
        value_name = "COUNT",
        default_value_t = 16
    )]
    pub max_catch_ups: usize,

    /// The time that a feed stays open after its last watch has left, for watches that reconnect, 0s to 1h.
    /// The feeds that one principal has left share it: of n, the one left longest ago stays for an n-th. At
    /// most a quarter of the feeds stay
    #[arg(long, env = "WEIR_FEED_LINGER", value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub feed_linger: Duration,

    /// Number of bytes of recent events that a feed keeps for its watches, 64KiB to 4GiB. A watch that falls
    /// further behind reads the events again from MongoDB. One reply of MongoDB (up to 16 MiB) may come on
    /// top
    #[arg(
        long,
        env = "WEIR_RING_BYTES",
        value_name = "BYTES",
        default_value = "8MiB"
    )]
    pub ring_bytes: ByteSize,

    /// Maximum number of bytes of events that all feeds and catch-ups hold together, and of the filters,
    /// patterns, fields and stages of watches (at most a quarter of it), 16MiB to 1TiB. At the limit, the
    /// largest feeds drop their oldest events and reading from MongoDB waits; watches lose no events
    #[arg(
        long,
        env = "WEIR_MEMORY_LIMIT",
        value_name = "BYTES",
        default_value = "1GiB"
    )]
    pub memory_limit: ByteSize,

    /// The longest time without a message on a watch whose request sets no progress_interval, 1s to 60s
    #[arg(long, env = "WEIR_PROGRESS_INTERVAL", value_name = "DURATION", default_value = "15s", value_parser = humantime::parse_duration)]
    pub progress_interval: Duration,

    /// The time that MongoDB may be unreachable before watches end with UNAVAILABLE, 0s to 24h
    #[arg(long, env = "WEIR_UPSTREAM_GRACE", value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub upstream_grace: Duration,

    /// The time that a reply of MongoDB may be overdue before Weir pings MongoDB on another connection, 2s to
    /// 1h. If the ping gets no answer within half this time, the connection counts as lost
    #[arg(long, env = "WEIR_UPSTREAM_REPLY_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub upstream_reply_timeout: Duration,

    /// The time to search for a usable MongoDB server before an operation fails, 100ms to 1h.
    /// serverSelectionTimeoutMS in --mongodb-uri takes precedence
    #[arg(long, env = "WEIR_SERVER_SELECTION_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    pub server_selection_timeout: Duration,

    /// The time that streams may take to end after SIGTERM before their connections are closed, 100ms to 1h
    #[arg(long, env = "WEIR_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub shutdown_grace: Duration,

    /// The time that a client may take to finish the TLS handshake and HTTP/2 preface, and then to send the
    /// request of each call, 100ms to 1h. On the admin port: for the request and its response
    #[arg(long, env = "WEIR_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub request_timeout: Duration,

    /// The interval between checks of files (certificates, keys, the policy) for changes, 100ms to 1h. A
    /// change applies at the next check, if the file is still the same then
    #[arg(long, env = "WEIR_RELOAD_INTERVAL", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub reload_interval: Duration,

    /// The interval between HTTP/2 pings on an idle client connection, 1s to 1h
    #[arg(long, env = "WEIR_HTTP2_KEEPALIVE_INTERVAL", value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub http2_keepalive_interval: Duration,

    /// The time that a client may take to answer an HTTP/2 ping before its connection is closed, 1s to 1h
    #[arg(long, env = "WEIR_HTTP2_KEEPALIVE_TIMEOUT", value_name = "DURATION", default_value = "20s", value_parser = humantime::parse_duration)]
    pub http2_keepalive_timeout: Duration,

    /// How messages may be compressed for clients that accept it, the preferred way first: gzip, zstd or both,
    /// separated by a comma. Clients may compress their requests in the same ways [default: not at all]
    #[arg(
        long,
        env = "WEIR_COMPRESSION",
        value_name = "LIST",
        value_enum,
        value_delimiter = ',',
        hide_possible_values = true
    )]
    pub compression: Vec<Compression>,

    /// The time after which a client connection without an open call is closed, 1s to 24h; 0s: never. Its
    /// client is told to connect again for its next call
    #[arg(long, env = "WEIR_IDLE_CONNECTION_TIMEOUT", value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    pub idle_connection_timeout: Duration,

    /// Encryption of client connections.
    #[command(flatten, next_help_heading = "TLS")]
    pub tls: TlsConfig,

    /// Authentication and authorization of callers.
    #[command(flatten, next_help_heading = "Authentication and authorization")]
    pub auth: AuthConfig,

    /// Limits for each principal and for all together.
    #[command(flatten, next_help_heading = "Limits of principals")]
    pub limits: LimitsConfig,

    /// Export of spans.
    #[command(flatten, next_help_heading = "Tracing")]
    pub spans: SpanConfig,
}

/// The log format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Lines of text.
    Text,
    /// One JSON object per line.
    Json,
}

/// The settings of the process's log. Separate from [`ServeConfig`], because a server in a test or in
/// `weir dev` does not own the log of its process.
#[derive(Debug, Clone, Args)]
pub struct LogConfig {
    /// The log format. auto: text on a terminal, JSON otherwise
    #[arg(
        long,
        env = "WEIR_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "auto"
    )]
    pub log_format: LogFormat,

    /// The log level: error, warn, info, debug or trace, or directives such as info,weir::hub=debug
    #[arg(
        long,
        env = "WEIR_LOG_LEVEL",
        value_name = "DIRECTIVES",
        default_value = "info",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub log_level: String,
}

impl ServeConfig {
    /// Returns the default settings for a MongoDB deployment.
    ///
    /// # Panics
    /// If a `WEIR_…` environment variable holds an invalid value, or one of a protection is empty.
    #[must_use]
    pub fn for_uri(uri: &str) -> Self {
        #[derive(Parser)]
        struct Defaults {
            #[command(flatten)]
            serve: ServeConfig,
        }
        if let Err(error) = check_protections(&Defaults::command(), &[]) {
            error.exit();
        }
        let command = normalize(Defaults::command());
        let matches = command.get_matches_from(["weir", "--mongodb-uri", uri]);
        match Defaults::from_arg_matches(&matches) {
            Ok(defaults) => defaults.serve,
            Err(error) => error.exit(),
        }
    }

    /// Checks the bounds and combinations that types can't express.
    ///
    /// # Errors
    /// The first invalid setting, with the right form.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_count("max-watches", self.max_watches, 1, 1_000_000)?;
        check_count("max-connections", self.max_connections, 1, 1_000_000)?;
        check_count("max-feeds", self.max_feeds, 1, 10_000)?;
        check_count("feeds-per-scope", self.feeds_per_scope, 0, 10_000)?;
        check_count("max-catch-ups", self.max_catch_ups, 1, 10_000)?;
        let (kib, mib, gib) = (ByteSize::kib, ByteSize::mib, ByteSize::gib);
        check_bytes("ring-bytes", self.ring_bytes, kib(64), gib(4))?;
        check_bytes("memory-limit", self.memory_limit, mib(16), gib(1024))?;
        let seconds = |seconds| Duration::from_secs(seconds);
        let limits = self.request_limits();
        let (min, max) = (limits.min_progress_interval, limits.max_progress_interval);
        check_duration("progress-interval", self.progress_interval, min, max)?;
        let hour = seconds(3600);
        check_duration("feed-linger", self.feed_linger, seconds(0), hour)?;
        check_duration("upstream-grace", self.upstream_grace, seconds(0), 24 * hour)?;
        let reply = self.upstream_reply_timeout;
        check_duration("upstream-reply-timeout", reply, seconds(2), hour)?;
        let tenth = Duration::from_millis(100);
        let selection = self.server_selection_timeout;
        check_duration("server-selection-timeout", selection, tenth, hour)?;
        check_duration("shutdown-grace", self.shutdown_grace, tenth, hour)?;
        check_duration("request-timeout", self.request_timeout, tenth, hour)?;
        let interval = self.http2_keepalive_interval;
        check_duration("http2-keepalive-interval", interval, seconds(1), hour)?;
        let timeout = self.http2_keepalive_timeout;
        check_duration("http2-keepalive-timeout", timeout, seconds(1), hour)?;
        check_duration("reload-interval", self.reload_interval, tenth, hour)?;
        if !self.idle_connection_timeout.is_zero() {
            let idle = self.idle_connection_timeout;
            check_duration("idle-connection-timeout", idle, seconds(1), 24 * hour)?;
        }
        check_addresses(self.listen, self.admin_listen)?;
        self.tls.validate()?;
        self.auth.validate(&self.tls)?;
        self.limits.validate()?;
        self.spans.validate()?;
        match self.missing_protection() {
            Some(missing) if !self.allow_insecure => Err(ConfigError {
                flag: "listen",
                problem: format!(
                    "{} is reachable from other machines without {missing}: listen on 127.0.0.1, \
                     add what is missing, or use --allow-insecure if a mesh or a proxy provides it",
                    self.listen
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Returns the protection that the gRPC port lacks, in words that name the flags, if other machines can
    /// reach it.
    #[must_use]
    pub fn missing_protection(&self) -> Option<&'static str> {
        // A required client certificate proves that its holder may call, even if it does not name a
        // principal.
        let knows_callers = self.auth.is_enabled() || self.tls.requires_certificates();
        match (self.tls.is_enabled(), knows_callers) {
            _ if self.listen.ip().is_loopback() => None,
            (true, true) => None,
            (false, true) => Some("encryption (--tls-cert-file)"),
            (true, false) => Some(NO_AUTHENTICATION),
            (false, false) => Some(NO_ENCRYPTION_AND_AUTHENTICATION),
        }
    }

    /// Returns the bounds of requests.
    #[must_use]
    pub fn request_limits(&self) -> RequestLimits {
        RequestLimits {
            default_progress_interval: self.progress_interval,
            min_progress_interval: Duration::from_secs(1),
            max_progress_interval: Duration::from_secs(60),
            default_max_message_bytes: 3 << 20,
            min_max_message_bytes: 64 << 10,
            max_max_message_bytes: 64 << 20,
            allow_deployment: self.allow_deployment_watch,
            allow_pipeline: self.allow_pipeline,
        }
    }

    /// Returns the settings of the hub.
    #[must_use]
    pub fn hub_settings(&self) -> HubSettings {
        let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        HubSettings {
            max_feeds: self.max_feeds,
            feeds_per_scope: self.feeds_per_scope,
            max_catch_ups: self.max_catch_ups,
            ring_bytes: bytes(self.ring_bytes),
            memory_limit: bytes(self.memory_limit),
            feed_linger: self.feed_linger,
            upstream_grace: self.upstream_grace,
            deployment_name: self.deployment_name.clone(),
            // Read from a file by `app`.
            token_keys: None,
        }
    }

    /// Returns the limits of the gRPC service.
    #[must_use]
    pub fn service_limits(&self) -> ServiceLimits {
        ServiceLimits {
            request: self.request_limits(),
            max_watches: self.max_watches,
            max_feeds: self.max_feeds,
            feeds_per_scope: self.feeds_per_scope,
            max_catch_ups: self.max_catch_ups,
            each_principal: self
                .limits
                .each_principal(self.max_watches, self.auth.is_enabled()),
            all_principals: self.limits.all_principals(),
            max_age: self.limits.watch_max_age,
        }
    }

    /// Returns the limits of `weir_limit`, by label value.
    #[must_use]
    pub fn limit_metrics(&self) -> [(&'static str, usize); 4] {
        [
            ("watches", self.max_watches),
            ("connections", self.max_connections),
            ("feeds", self.max_feeds),
            ("catch_ups", self.max_catch_ups),
        ]
    }

    /// Returns the settings of the connection to MongoDB.
    #[must_use]
    pub fn mongo_settings(&self) -> MongoSettings {
        let count = |count: usize| count.try_into().unwrap_or(u32::MAX);
        MongoSettings {
            uri: self.mongodb_uri.clone(),
            max_feeds: count(self.max_feeds),
            max_catch_ups: count(self.max_catch_ups),
            server_selection_timeout: self.server_selection_timeout,
            reply_timeout: self.upstream_reply_timeout,
            ignore_removed_shards: self.ignore_removed_shards,
        }
    }
}
