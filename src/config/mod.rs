//! Every knob of the server: its flag, its environment variable, its unit, its bounds and its
//! default, once. `weir serve --help` is made from this page.

mod auth;
mod limits;
mod spans;
mod tls;

use std::{net::SocketAddr, time::Duration};

use bytesize::ByteSize;
use clap::{Args, Parser, ValueEnum};

use crate::{hub::HubSettings, plan::RequestLimits, rpc::ServiceLimits};

pub use auth::{AuthConfig, JwtAlgorithm};
pub use limits::LimitsConfig;
pub use spans::SpanConfig;
pub use tls::{ClientAuth, TlsConfig};

/// Connections beyond those that change streams hold: for pings, look-ups of the oplog's start and the
/// killing of cursors.
const EXTRA_MONGODB_CONNECTIONS: usize = 10;

/// What is said where nobody is asked who they are.
const NO_AUTHENTICATION: &str = "authentication (--tls-client-ca-file, --jwks-url, --jwks-file or \
                                 --api-keys-file)";

/// What is said where there is no encryption either.
const NO_ENCRYPTION_AND_AUTHENTICATION: &str = "encryption (--tls-cert-file) and without authentication \
                       (--tls-client-ca-file, --jwks-url, --jwks-file or --api-keys-file)";

/// The settings of `weir serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeConfig {
    /// MongoDB connection string. The deployment must be a replica set or a sharded cluster
    #[arg(long, env = "MONGODB_URI", hide_env_values = true, value_name = "URI")]
    pub mongodb_uri: String,

    /// Where to serve gRPC. Anything but loopback needs TLS and authentication, or --allow-insecure
    #[arg(
        long,
        env = "WEIR_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:50051"
    )]
    pub listen: SocketAddr,

    /// Where to serve /metrics, /livez, /readyz and /log-level over HTTP
    #[arg(
        long,
        env = "WEIR_ADMIN_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9090"
    )]
    pub admin_listen: SocketAddr,

    /// Serve gRPC beyond loopback without TLS, although what is sent can be read on the way, or without
    /// authentication, although anyone who reaches the port may watch everything that Weir's MongoDB
    /// user may. For use behind a mesh or a proxy that provides what is missing
    #[arg(long, env = "WEIR_ALLOW_INSECURE")]
    pub allow_insecure: bool,

    /// Let watches name no database, and so watch the whole deployment
    #[arg(long, env = "WEIR_ALLOW_DEPLOYMENT_WATCH")]
    pub allow_deployment_watch: bool,

    /// What resume tokens call this MongoDB deployment; a token of another is refused. Default: the
    /// replica set's name. All replicas of Weir on one deployment must agree
    #[arg(long, env = "WEIR_DEPLOYMENT_NAME", value_name = "NAME")]
    pub deployment_name: Option<String>,

    /// How many watches may be open at once, 1 to 1000000
    #[arg(
        long,
        env = "WEIR_MAX_WATCHES",
        value_name = "COUNT",
        default_value_t = 10_000
    )]
    pub max_watches: usize,

    /// How many connections of clients may be open at once, 1 to 1000000; further ones are reset. Each
    /// takes a file descriptor
    #[arg(
        long,
        env = "WEIR_MAX_CONNECTIONS",
        value_name = "COUNT",
        default_value_t = 10_000
    )]
    pub max_connections: usize,

    /// How many feeds there may be at once, 1 to 10000: change streams on MongoDB that watches share.
    /// Each holds a connection
    #[arg(
        long,
        env = "WEIR_MAX_FEEDS",
        value_name = "COUNT",
        default_value_t = 64
    )]
    pub max_feeds: usize,

    /// How many dedicated feeds, filtered by MongoDB, one database and collections may have before
    /// further watches share a common one, filtered in Weir, 0 to 10000. For watches that leave the
    /// choice to the server
    #[arg(
        long,
        env = "WEIR_FEEDS_PER_SCOPE",
        value_name = "COUNT",
        default_value_t = 4
    )]
    pub feeds_per_scope: usize,

    /// How many watches may catch up at once, 1 to 10000: read what their feed no longer holds, each
    /// on a change stream and a connection of its own. Others wait their turn
    #[arg(
        long,
        env = "WEIR_MAX_CATCH_UPS",
        value_name = "COUNT",
        default_value_t = 16
    )]
    pub max_catch_ups: usize,

    /// How long a feed goes on after its last watch, for those who come back, 0s to 1h
    #[arg(long, env = "WEIR_FEED_LINGER", value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub feed_linger: Duration,

    /// How many bytes of events a feed keeps for its watches, 64KiB to 4GiB; a watch that falls behind
    /// them reads them again from MongoDB. One reply of MongoDB (up to 16 MiB) may come on top
    #[arg(
        long,
        env = "WEIR_RING_BYTES",
        value_name = "BYTES",
        default_value = "8MiB"
    )]
    pub ring_bytes: ByteSize,

    /// How many bytes all feeds and catch-ups together may hold, 16MiB to 1TiB. At the limit the
    /// largest feeds drop their oldest events and reading waits; nothing is lost
    #[arg(
        long,
        env = "WEIR_MEMORY_LIMIT",
        value_name = "BYTES",
        default_value = "1GiB"
    )]
    pub memory_limit: ByteSize,

    /// The longest silence on a watch that asks for no interval of its own, 1s to 60s
    #[arg(long, env = "WEIR_PROGRESS_INTERVAL", value_name = "DURATION", default_value = "15s", value_parser = humantime::parse_duration)]
    pub progress_interval: Duration,

    /// How long MongoDB may be away before watches end with UNAVAILABLE
    #[arg(long, env = "WEIR_UPSTREAM_GRACE", value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub upstream_grace: Duration,

    /// How long a reply of MongoDB may be overdue before Weir asks, on another connection, whether
    /// it is there at all, 2s to 1h. Without an answer to that in half this time, the connection
    /// counts as lost
    #[arg(long, env = "WEIR_UPSTREAM_REPLY_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub upstream_reply_timeout: Duration,

    /// How long to look for a usable MongoDB server before an operation fails, unless the URI says
    /// so itself (serverSelectionTimeoutMS)
    #[arg(long, env = "WEIR_SERVER_SELECTION_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = humantime::parse_duration)]
    pub server_selection_timeout: Duration,

    /// How long streams may take to end after SIGTERM before they are cut
    #[arg(long, env = "WEIR_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub shutdown_grace: Duration,

    /// How long a client may take to greet when it has connected, and to send its request when it has
    /// opened a call, 100ms to 1h. On the admin port: to ask and to take the answer
    #[arg(long, env = "WEIR_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub request_timeout: Duration,

    /// How often to look whether a file has changed: certificates, keys, the policy; 100ms to 1h. What is
    /// new is put in force at the next look, if it is still the same
    #[arg(long, env = "WEIR_RELOAD_INTERVAL", value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    pub reload_interval: Duration,

    /// How often to ping an idle client connection over HTTP/2
    #[arg(long, env = "WEIR_HTTP2_KEEPALIVE_INTERVAL", value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub http2_keepalive_interval: Duration,

    /// How long a client may take to answer such a ping before its connection is closed
    #[arg(long, env = "WEIR_HTTP2_KEEPALIVE_TIMEOUT", value_name = "DURATION", default_value = "20s", value_parser = humantime::parse_duration)]
    pub http2_keepalive_timeout: Duration,

    /// How connections are encrypted.
    #[command(flatten, next_help_heading = "TLS")]
    pub tls: TlsConfig,

    /// Who may call, and watch what.
    #[command(flatten, next_help_heading = "Authentication and authorisation")]
    pub auth: AuthConfig,

    /// What one caller may take.
    #[command(flatten, next_help_heading = "Limits of principals")]
    pub limits: LimitsConfig,

    /// What is traced.
    #[command(flatten, next_help_heading = "Tracing")]
    pub spans: SpanConfig,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How the process logs; apart from [`ServeConfig`], since a server in a test or in `weir dev` does
/// not own its process's log.
#[derive(Debug, Clone, Args)]
pub struct LogConfig {
    /// How to write logs: auto is text on a terminal and JSON otherwise
    #[arg(
        long,
        env = "WEIR_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "auto"
    )]
    pub log_format: LogFormat,

    /// What to log: a level, or directives such as info,weir::hub=debug
    #[arg(
        long,
        env = "WEIR_LOG_LEVEL",
        value_name = "DIRECTIVES",
        default_value = "info"
    )]
    pub log_level: String,
}

/// A setting that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--{flag}: {problem}")]
pub struct ConfigError {
    /// The flag's name, without dashes.
    pub flag: &'static str,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl ServeConfig {
    /// The defaults, on a MongoDB deployment.
    ///
    /// # Panics
    /// When a `WEIR_…` environment variable holds what its flag would refuse.
    #[must_use]
    pub fn for_uri(uri: &str) -> Self {
        #[derive(Parser)]
        struct Defaults {
            #[command(flatten)]
            serve: ServeConfig,
        }
        Defaults::parse_from(["weir", "--mongodb-uri", uri]).serve
    }

    /// Checks what the types can't.
    ///
    /// # Errors
    /// The first setting that can't be used, with what would be right.
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
        self.tls.validate()?;
        self.auth.validate()?;
        self.limits.validate()?;
        self.spans.validate()?;
        match self.missing_protection() {
            Some(missing) if !self.allow_insecure => Err(ConfigError {
                flag: "listen",
                problem: format!(
                    "{} is reachable from other machines, without {missing}; listen on 127.0.0.1, \
                     or add --allow-insecure if a mesh or a proxy in front provides what is missing",
                    self.listen
                ),
            }),
            _ => Ok(()),
        }
    }

    /// What keeps the gRPC port from being safe to reach from other machines, where it can be reached
    /// from them: in words, with the flags that would help.
    #[must_use]
    pub fn missing_protection(&self) -> Option<&'static str> {
        // A certificate that must be shown says that its holder may call, though not who it is.
        let knows_callers = self.auth.is_enabled() || self.tls.requires_certificates();
        match (self.tls.is_enabled(), knows_callers) {
            _ if self.listen.ip().is_loopback() => None,
            (true, true) => None,
            (false, true) => Some("encryption (--tls-cert-file)"),
            (true, false) => Some(NO_AUTHENTICATION),
            (false, false) => Some(NO_ENCRYPTION_AND_AUTHENTICATION),
        }
    }

    /// What requests may ask for.
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
        }
    }

    /// The hub's bounds.
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
            // In a file, which the app reads.
            token_keys: None,
        }
    }

    /// The service's bounds.
    #[must_use]
    pub fn service_limits(&self) -> ServiceLimits {
        ServiceLimits {
            request: self.request_limits(),
            max_watches: self.max_watches,
            max_feeds: self.max_feeds,
            feeds_per_scope: self.feeds_per_scope,
            max_catch_ups: self.max_catch_ups,
            each_principal: self.limits.each_principal(),
            all_principals: self.limits.all_principals(),
            max_age: self.limits.watch_max_age,
        }
    }

    /// The limits that metrics are held against, by the label of `weir_limit`.
    #[must_use]
    pub fn limit_metrics(&self) -> [(&'static str, usize); 4] {
        [
            ("watches", self.max_watches),
            ("connections", self.max_connections),
            ("feeds", self.max_feeds),
            ("catch_ups", self.max_catch_ups),
        ]
    }

    /// How many connections to MongoDB the pool must be able to hold: one for each feed and each
    /// catch-up, which have a `getMore` in flight nearly always, and some to spare.
    #[must_use]
    pub fn pool_capacity(&self) -> u32 {
        (self.max_feeds + self.max_catch_ups + EXTRA_MONGODB_CONNECTIONS)
            .try_into()
            .unwrap_or(u32::MAX)
    }
}

fn check_count(
    flag: &'static str,
    value: usize,
    min: usize,
    max: usize,
) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError {
        flag,
        problem: format!("{value} is outside {min} to {max}"),
    })
}

fn check_bytes(
    flag: &'static str,
    value: ByteSize,
    min: ByteSize,
    max: ByteSize,
) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError {
        flag,
        problem: format!("{value} is outside {min} to {max}"),
    })
}

fn check_duration(
    flag: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(ConfigError {
        flag,
        problem: format!(
            "{} is outside {} to {}",
            humantime::format_duration(value),
            humantime::format_duration(min),
            humantime::format_duration(max)
        ),
    })
}
