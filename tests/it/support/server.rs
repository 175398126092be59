//! Weir, in the test's own process.

use std::net::SocketAddr;

use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};
use weir::app::App;
use weir::config::ServeConfig;
use weir::pb;
use weir::pb::watch_service_client::WatchServiceClient;

use super::{Database, Samples, WatchStream, admin, eventually, within};

/// A running server on ports chosen by the kernel.
pub struct Weir {
    app: App,
}

impl Weir {
    /// Serves the database with the default configuration.
    pub async fn start(database: &Database) -> Self {
        Self::with(database, |_| {}).await
    }

    /// Serves the database with a configuration that the test changes.
    pub async fn with(database: &Database, configure: impl FnOnce(&mut ServeConfig)) -> Self {
        Self::at(database.uri(), configure).await
    }

    /// A server that closes a feed with its last watch, so that a later watch opens a new change
    /// stream.
    pub async fn without_linger(database: &Database) -> Self {
        Self::without_linger_at(database.uri()).await
    }

    /// The same, for the database at the URI.
    pub async fn without_linger_at(uri: &str) -> Self {
        Self::at(uri, |config| {
            config.feed_linger = std::time::Duration::ZERO;
        })
        .await
    }

    /// Waits until every feed is closed.
    pub async fn wait_for_no_feeds(&self) {
        eventually("no feed is left", async || {
            self.metrics().await.sum("weir_feeds") == 0.0
        })
        .await;
    }

    /// Serves the database at the URI, which may be a [`super::Proxy`].
    pub async fn at(uri: &str, configure: impl FnOnce(&mut ServeConfig)) -> Self {
        let mut config = ServeConfig::for_uri(uri);
        config.listen = free_port();
        config.admin_listen = free_port();
        configure(&mut config);
        let app = within("Weir starts", App::start(config))
            .await
            .expect("Weir starts");
        Self { app }
    }

    /// The address of gRPC.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.app.grpc_addr()
    }

    /// The address of metrics and health over HTTP.
    pub fn admin_addr(&self) -> SocketAddr {
        self.app.admin_addr()
    }

    /// A new connection.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc_addr()))
            .expect("an address makes a URI");
        within("a connection to Weir", endpoint.connect())
            .await
            .expect("Weir accepts connections")
    }

    /// A client on a connection of its own, with tonic's default limits. It accepts compressed messages, as
    /// gRPC's clients in other languages do.
    pub async fn client(&self) -> WatchServiceClient<Channel> {
        WatchServiceClient::new(self.channel().await)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
    }

    /// Opens a watch on a connection of its own; the test fails when it is refused.
    pub async fn watch(&self, request: pb::WatchRequest) -> WatchStream {
        self.try_watch(request)
            .await
            .unwrap_or_else(|status| panic!("the watch was refused: {status:?}"))
    }

    /// Opens a watch on a connection of its own.
    ///
    /// # Errors
    /// The status with which it was refused, before the response headers or in place of `Opened`.
    pub async fn try_watch(&self, request: pb::WatchRequest) -> Result<WatchStream, tonic::Status> {
        WatchStream::open(&mut self.client().await, request).await
    }

    /// The current metrics.
    pub async fn metrics(&self) -> Samples {
        let (status, body) = self.admin("/metrics").await;
        assert_eq!(status, 200, "GET /metrics answered {body}");
        Samples::parse(&body)
    }

    /// GETs a path of the admin port and returns the HTTP status and the body.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        within(
            "an answer of the admin port",
            admin::get(self.admin_addr(), path),
        )
        .await
        .unwrap_or_else(|error| panic!("GET {path} of the admin port: {error}"))
    }

    /// Shuts the server down as SIGTERM does, and returns once that is done.
    pub async fn shutdown(self) {
        within("Weir shuts down", self.app.shutdown()).await;
    }
}

fn free_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
