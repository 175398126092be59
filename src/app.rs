//! The wiring of the server: the order in which its parts start and stop.

mod first_contact;
mod loaded_files;
mod start_error;
mod token_key_file;
mod warnings;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::pb::{
    v1::{self, server_reflection_server::ServerReflectionServer as ReflectionV1},
    v1alpha::{self, server_reflection_server::ServerReflectionServer as ReflectionV1Alpha},
};
use tower::Layer;

use crate::{
    admin::{Admin, AdminAuth, AdminPeer, LogLevel, Readiness},
    config::{ConfigError, ServeConfig, Warning},
    filter::check_regex_engine,
    hub::{Hub, HubSettings},
    listen::{self, ConnectionDeadline, Handshakes, Http2Settings, Listener},
    metrics::Metrics,
    pb,
    policy::Policy,
    reload::ReloadedFiles,
    rpc::{
        Access, AuthLayer, ConcurrencyLayer, EXTRA_CALLS, HealthApi, HealthReporter,
        MAX_HEADER_LIST_BYTES, ReflectionApi, ReflectionIndex, WatchApi, WatchServer,
    },
    source::mongo::{MongoSource, check_uri},
    spans::Spans,
    tls::{self, Tls},
    wire::Compression,
};
use loaded_files::LoadedFiles;

pub use start_error::StartError;

/// The interval at which the histograms' buffers are drained.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The time that MongoDB gets to kill the cursors at shutdown, and the collector to take the last spans.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The number of calls that one connection may cancel before the server has accepted them. Beyond it, the
/// connection is closed, as this is how reset floods begin. A proxy that carries many clients over one
/// connection soon reaches h2's default of 20, and closing it ends the watches of all of them.
const MAX_PENDING_RESETS: usize = 1_000;

/// The largest request to the health and reflection services, in bytes. Their requests hold only names.
const MAX_AUXILIARY_REQUEST_BYTES: usize = 16 << 10;

/// The maximum number of open connections on the admin port. Each ends within `--request-timeout`, and earlier if
/// it makes room for another one: a probe must be answered, whoever else connects, from its own address too.
const MAX_ADMIN_CONNECTIONS: usize = 256;

/// The services of the gRPC port, inside of what limits and authenticates their calls.
type GrpcService = <ConcurrencyLayer as Layer<<AuthLayer as Layer<Routes>>::Service>>::Service;

/// A running server.
#[derive(Debug)]
pub struct App {
    grpc_addr: SocketAddr,
    admin_addr: SocketAddr,
    hub: Hub,
    source: MongoSource,
    readiness: Arc<Readiness>,
    health: HealthReporter,
    /// Ends every stream.
    drain: CancellationToken,
    /// Stops everything else.
    stop: CancellationToken,
    grpc: JoinHandle<()>,
    shutdown_grace: Duration,
    spans: Spans,
}

impl App {
    /// Checks the settings, binds the ports and serves. MongoDB may still be down: the server becomes ready
    /// once MongoDB has answered. Does not touch the process's log.
    ///
    /// # Errors
    /// Fails if a setting can't be used or a port is taken.
    pub async fn start(config: ServeConfig) -> Result<Self, StartError> {
        Self::start_with(config, LogLevel::unmanaged()).await
    }

    /// Starts like [`start`](Self::start), and lets the admin port change the log level through
    /// `log_level`.
    ///
    /// # Errors
    /// Fails if a setting can't be used or a port is taken.
    pub async fn start_with(config: ServeConfig, log_level: LogLevel) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new());
        for (limit, max) in config.limit_metrics() {
            let max = u32::try_from(max).unwrap_or(u32::MAX);
            metrics.limits.of(limit).set(max);
        }
        let loaded = check(&config, Arc::clone(&metrics)).await?;
        let spans = config.spans.settings();
        let spans = Spans::new(spans.as_ref()).map_err(unusable_collector)?;
        let source = connect(&config).await?;
        let (grpc_listener, grpc_addr) = bind("listen", config.listen).await?;
        let (admin_listener, admin_addr) = bind("admin-listen", config.admin_listen).await?;

        let token_keys = loaded.token_keys.as_ref().map(|it| Arc::clone(&it.keys));
        let hub = Hub::new(
            Arc::new(source.clone()),
            HubSettings {
                token_keys,
                ..config.hub_settings()
            },
            Arc::clone(&metrics),
        );
        let parts = Parts {
            config,
            metrics,
            hub,
            spans,
            readiness: Arc::new(Readiness::not_ready(first_contact::NO_ANSWER)),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
        };
        let (health, health_api) = HealthApi::new(parts.drain.clone());
        let access = Access {
            authenticator: loaded.authenticator,
            policy: loaded.policy.clone(),
        };
        let service = parts.grpc_service(&access, health_api)?;
        let handshakes = loaded.tls.map(|(tls, files)| parts.handshakes(&tls, files));
        let incoming = parts.grpc_port(grpc_listener).connections(handshakes);

        let admin_auth = Arc::new(loaded.admin_auth);
        parts.serve_admin(admin_listener, log_level, Arc::clone(&admin_auth));
        parts.spawn_upkeep(admin_auth);
        if let Some(file) = loaded.token_keys {
            parts.spawn(file.follow(parts.config.reload_interval, Arc::clone(&parts.metrics)));
        }
        if let Some(files) = loaded.policy_files {
            parts.spawn_policy_reload(loaded.policy, files);
        }
        parts.spawn(loaded.auth_reloader.run());
        tokio::spawn(first_contact::wait(
            source.clone(),
            health.clone(),
            Arc::clone(&parts.readiness),
            parts.drain.clone(),
        ));
        let settings = http2_settings(&parts.config);
        let grpc = listen::serve(incoming, service, settings, parts.drain.clone());
        let grpc = tokio::spawn(grpc);
        log_addresses(&parts.config, grpc_addr, admin_addr);
        Ok(Self {
            grpc_addr,
            admin_addr,
            hub: parts.hub,
            source,
            readiness: parts.readiness,
            health,
            drain: parts.drain,
            stop: parts.stop,
            grpc,
            shutdown_grace: parts.config.shutdown_grace,
            spans: parts.spans,
        })
    }

    /// The address of the gRPC port.
    #[must_use]
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// The address of the admin port.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Reports not ready, sends every stream its last token, waits at most `--shutdown-grace` for clients to
    /// read it, then closes the connections to MongoDB. Returns whether every stream ended in time.
    pub async fn shutdown(mut self) -> bool {
        tracing::info!("shutting down");
        self.readiness.set_not_ready(first_contact::SHUTTING_DOWN);
        self.health.set_serving(false);
        self.drain.cancel();
        // Again: MongoDB's first answer may have come in between. From now on it checks the drain afterwards.
        self.readiness.set_not_ready(first_contact::SHUTTING_DOWN);
        self.health.set_serving(false);
        self.hub.drain();
        // A connection closes once the client has read the end of its streams, which may be never.
        let drained = timeout(self.shutdown_grace, &mut self.grpc).await.is_ok();
        if !drained {
            tracing::warn!(
                "clients did not read the end of their streams within --shutdown-grace; closing their connections"
            );
            self.grpc.abort();
        }
        let closed = timeout(CLOSE_TIMEOUT, async {
            self.hub.close().await;
            self.source.close().await;
        });
        // Every watch has ended by now, and so has its span.
        if tokio::join!(closed, self.spans.close(CLOSE_TIMEOUT))
            .0
            .is_err()
        {
            tracing::warn!("mongodb did not confirm in time that the cursors are closed");
        }
        self.stop.cancel();
        tracing::info!(drained, "shut down");
        drained
    }
}

/// What every step of the start needs.
struct Parts {
    config: ServeConfig,
    metrics: Arc<Metrics>,
    hub: Hub,
    spans: Spans,
    readiness: Arc<Readiness>,
    /// Ends every stream.
    drain: CancellationToken,
    /// Stops everything else.
    stop: CancellationToken,
}

impl Parts {
    /// Runs a task until the end of the process.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(task));
    }

    /// Returns the services of the gRPC port, inside of what limits and authenticates their calls.
    fn grpc_service(&self, access: &Access, health: HealthApi) -> Result<GrpcService, StartError> {
        let api = WatchApi::new(
            self.hub.clone(),
            access.clone(),
            Arc::clone(&self.metrics),
            self.config.service_limits(),
            self.drain.clone(),
            self.spans.clone(),
        );
        let routes = routes(api, health, &self.config.compression)?;
        let authenticated = AuthLayer::new(access.clone(), Arc::clone(&self.metrics)).layer(routes);
        let limits = ConcurrencyLayer::new(
            self.config.max_watches + EXTRA_CALLS,
            self.config.request_timeout,
            Arc::clone(&self.metrics),
        );
        Ok(limits.layer(authenticated))
    }

    /// Returns the handshakes of the gRPC port, whose certificates are reloaded from now on.
    fn handshakes(&self, tls: &Arc<Tls>, files: ReloadedFiles) -> Handshakes {
        tls.publish_expiry(&self.metrics);
        let handshakes = Handshakes::new(
            Arc::clone(tls),
            self.config.tls.max_handshakes,
            &self.metrics,
        );
        let (tls, interval) = (Arc::clone(tls), self.config.reload_interval);
        let metrics = Arc::clone(&self.metrics);
        self.spawn(async move { tls.follow(files, interval, &metrics).await });
        handshakes
    }

    fn grpc_port(&self, listener: TcpListener) -> Listener {
        let max = self.config.max_connections;
        self.port(listener, max, ConnectionDeadline::Greeting)
    }

    fn port(&self, listener: TcpListener, max: usize, deadline: ConnectionDeadline) -> Listener {
        let deadline = (deadline, self.config.request_timeout);
        let keepalive = self.config.http2_keepalive_interval;
        Listener::new(
            listener,
            max,
            deadline,
            keepalive,
            Arc::clone(&self.metrics),
        )
    }

    /// Serves the admin port until the end of the process.
    fn serve_admin(&self, listener: TcpListener, log_level: LogLevel, auth: Arc<AdminAuth>) {
        let admin = Admin {
            hub: self.hub.clone(),
            metrics: Arc::clone(&self.metrics),
            readiness: Arc::clone(&self.readiness),
            log_level,
            auth,
        };
        let port = self
            .port(listener, MAX_ADMIN_CONNECTIONS, ConnectionDeadline::Close)
            .with_newest_first();
        tokio::spawn(serve_admin(port, admin, self.stop.clone()));
    }

    /// Keeps the metrics, the knowledge of the oplog and the admin port's token fresh.
    fn spawn_upkeep(&self, admin_auth: Arc<AdminAuth>) {
        self.spawn(run_metrics_upkeep(Arc::clone(&self.metrics)));
        let (interval, metrics) = (self.config.reload_interval, Arc::clone(&self.metrics));
        self.spawn(async move { admin_auth.follow(interval, &metrics).await });
        let hub = self.hub.clone();
        self.spawn(async move { hub.monitor_oplog().await });
    }

    fn spawn_policy_reload(&self, policy: Policy, files: ReloadedFiles) {
        let (interval, metrics) = (self.config.reload_interval, Arc::clone(&self.metrics));
        let warn = |policy: &Policy| {
            let warning = Warning::of_rules_without_effect(&policy.rules_without_effect());
            warning.iter().for_each(Warning::log);
        };
        self.spawn(async move { policy.follow(files, interval, &metrics, warn).await });
    }
}

/// Checks the settings and the files that they name, without serving: neither binds a port nor connects.
///
/// Returns what would decide about callers.
///
/// # Errors
/// The same as the start, if a setting or the content of its file can't be used.
pub async fn check_config(config: &ServeConfig) -> Result<Access, StartError> {
    let loaded = check(config, Arc::default()).await?;
    Ok(Access {
        authenticator: loaded.authenticator,
        policy: loaded.policy,
    })
}

/// Checks the settings and reads their files. Opens no connection.
async fn check(config: &ServeConfig, metrics: Arc<Metrics>) -> Result<LoadedFiles, StartError> {
    check_regex_engine().map_err(StartError::RegexEngine)?;
    config.validate()?;
    let uri_files = check_uri(&config.mongodb_uri)
        .await
        .map_err(StartError::Uri)?;
    tls::install_provider();
    let loaded = LoadedFiles::read(config, metrics).await?;
    warnings::log_warnings(config, &loaded, uri_files).await;
    Spans::check(config.spans.settings().as_ref()).map_err(unusable_collector)?;
    Ok(loaded)
}

fn unusable_collector(problem: String) -> ConfigError {
    ConfigError {
        flag: "otlp-endpoint",
        problem,
    }
}

async fn connect(config: &ServeConfig) -> Result<MongoSource, StartError> {
    MongoSource::new(&config.mongo_settings())
        .await
        .map_err(StartError::Uri)
}

async fn bind(
    flag: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen {
        flag,
        address,
        error,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn http2_settings(config: &ServeConfig) -> Http2Settings {
    Http2Settings {
        keepalive_interval: config.http2_keepalive_interval,
        keepalive_timeout: config.http2_keepalive_timeout,
        // With hyper's default of 200, the 201st watch of a connection would wait silently; the limit on
        // watches returns an error instead.
        max_concurrent_streams: u32::try_from(config.max_watches).unwrap_or(u32::MAX),
        max_pending_resets: MAX_PENDING_RESETS,
        max_header_list_bytes: MAX_HEADER_LIST_BYTES,
        idle_timeout: config.idle_connection_timeout,
    }
}

/// Returns the services of the gRPC port.
fn routes(
    api: WatchApi,
    health: HealthApi,
    compressions: &[Compression],
) -> Result<Routes, prost::DecodeError> {
    let reflection = reflection()?;
    let most = MAX_AUXILIARY_REQUEST_BYTES;
    let mut health = HealthServer::new(health).max_decoding_message_size(most);
    let mut v1 = ReflectionV1::new(reflection.clone()).max_decoding_message_size(most);
    let mut v1alpha = ReflectionV1Alpha::new(reflection).max_decoding_message_size(most);
    // A client that compresses compresses every request. The answers are small.
    for compression in compressions {
        let encoding = compression.encoding();
        health = health.accept_compressed(encoding);
        v1 = v1.accept_compressed(encoding);
        v1alpha = v1alpha.accept_compressed(encoding);
    }
    Ok(Routes::new(WatchServer::new(api, compressions))
        .add_service(health)
        .add_service(v1)
        .add_service(v1alpha)
        .prepare())
}

/// The service that describes every service of the port, itself included.
fn reflection() -> Result<ReflectionApi, prost::DecodeError> {
    let index = ReflectionIndex::new(&[
        pb::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        v1::FILE_DESCRIPTOR_SET,
        v1alpha::FILE_DESCRIPTOR_SET,
    ])?;
    Ok(ReflectionApi::new(index))
}

async fn serve_admin(port: Listener, admin: Admin, stop: CancellationToken) {
    let service = admin
        .router()
        .into_make_service_with_connect_info::<AdminPeer>();
    let served = axum::serve(port, service).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the admin server failed");
    }
}

async fn run_metrics_upkeep(metrics: Arc<Metrics>) {
    let mut interval = tokio::time::interval(METRICS_UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        metrics.upkeep();
    }
}

/// Logs where the server listens, and the protection that it lacks there.
fn log_addresses(config: &ServeConfig, grpc: SocketAddr, admin: SocketAddr) {
    if let Some(missing) = config.missing_protection() {
        tracing::warn!(
            address = %grpc,
            missing,
            "serving beyond this machine without full protection, as --allow-insecure allows"
        );
    }
    tracing::info!(%grpc, %admin, "listening");
}
