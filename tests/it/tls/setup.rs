//! A server with certificates, and clients of every kind.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use weir::config::{ClientAuth, ServeConfig};
use weir::pb;
use weir::pb::watch_service_client::WatchServiceClient;

use crate::support::certificates::{Authority, Issued};
use crate::support::orders::ORDERS;
use crate::support::{Database, Samples, WatchStream, Weir, within};

/// A server with a certificate of the test's own authority.
pub struct TlsServer {
    pub weir: Weir,
    /// The authority of the server's certificate.
    pub authority: Authority,
    /// `tls.crt`, `tls.key` and, with mutual TLS, `clients.crt`.
    pub folder: TempDir,
}

impl TlsServer {
    /// Serves over TLS with a valid certificate; files are checked ten times a second.
    pub async fn start(database: &Database, change: impl FnOnce(&mut ServeConfig)) -> Self {
        Self::with(database, Authority::local, change).await
    }

    /// Serves with a certificate chosen by the test.
    pub async fn with_certificate(
        database: &Database,
        issue: impl FnOnce(&Authority) -> Issued,
    ) -> Self {
        Self::with(database, issue, |_| {}).await
    }

    /// Serves with mutual TLS.
    pub async fn mutual(database: &Database, clients: &Authority, when: ClientAuth) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let bundle = folder.path().join("clients.crt");
        std::fs::write(&bundle, &clients.pem).expect("an authority is written");
        let change = |config: &mut ServeConfig| {
            config.tls.tls_client_ca_file = Some(bundle);
            config.tls.tls_client_auth = Some(when);
        };
        Self::within(folder, database, Authority::local, change).await
    }

    async fn with(
        database: &Database,
        issue: impl FnOnce(&Authority) -> Issued,
        change: impl FnOnce(&mut ServeConfig),
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self::within(folder, database, issue, change).await
    }

    async fn within(
        folder: TempDir,
        database: &Database,
        issue: impl FnOnce(&Authority) -> Issued,
        change: impl FnOnce(&mut ServeConfig),
    ) -> Self {
        let authority = Authority::new("servers");
        let (certificate, key) = issue(&authority).write(folder.path());
        let weir = Weir::with(database, |config| {
            config.tls.tls_cert_file = Some(certificate);
            config.tls.tls_key_file = Some(key);
            config.reload_interval = std::time::Duration::from_millis(100);
            change(config);
        })
        .await;
        Self {
            weir,
            authority,
            folder,
        }
    }

    /// Replaces the certificate and its key.
    pub fn replace(&self, issued: &Issued) {
        issued.write(self.folder.path());
    }

    /// Connects.
    pub async fn channel(&self, tls: ClientTlsConfig) -> Result<Channel, tonic::transport::Error> {
        // localhost rather than 127.0.0.1, as certificates usually contain names.
        let url = format!("https://localhost:{}", self.weir.grpc_addr().port());
        let endpoint = Endpoint::from_shared(url).expect("an address makes a URI");
        let endpoint = endpoint.tls_config(tls).expect("TLS can be set up");
        within("a connection over TLS", endpoint.connect()).await
    }

    /// Opens a watch of the orders on its own connection.
    pub async fn try_watch(
        &self,
        database: &Database,
        tls: ClientTlsConfig,
    ) -> Result<WatchStream, String> {
        let channel = self.channel(tls).await.map_err(|error| refusal(&error))?;
        let request = database.watch_request(&[ORDERS]);
        let opened = WatchStream::open(&mut WatchServiceClient::new(channel), request).await;
        opened.map_err(|status| refusal(&status))
    }

    /// The same, which must succeed.
    pub async fn watch(&self, database: &Database, tls: ClientTlsConfig) -> WatchStream {
        let opened = self.try_watch(database, tls).await;
        opened.unwrap_or_else(|why| panic!("the watch was refused: {why}"))
    }

    /// Makes a call on its own connection.
    async fn call(&self, tls: ClientTlsConfig) -> Result<(), String> {
        let channel = self.channel(tls).await.map_err(|error| refusal(&error))?;
        let mut client = WatchServiceClient::new(channel);
        let asked = client.get_server_info(pb::GetServerInfoRequest {});
        let answer = within("an answer", asked).await;
        answer.map(drop).map_err(|status| refusal(&status))
    }

    /// The reason why a call fails. With TLS 1.3 a client may learn only when it reads that the
    /// server has refused its certificate.
    pub async fn refusal(&self, tls: ClientTlsConfig) -> String {
        let asked = self.call(tls).await;
        asked.expect_err("it is refused")
    }

    /// Returns whether a call succeeds.
    pub async fn is_reachable(&self, tls: ClientTlsConfig) -> bool {
        self.call(tls).await.is_ok()
    }
}

/// The causes of an error, including those inside system errors.
pub fn refusal(error: &(dyn Error + 'static)) -> String {
    let mut words = Vec::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        words.push(error.to_string());
        let held = error.downcast_ref::<std::io::Error>();
        match held.and_then(std::io::Error::get_ref) {
            Some(held) => {
                words.push(format!("{held} {held:?}"));
                cause = held.source();
            }
            None => cause = error.source(),
        }
    }
    words.dedup();
    words.join(": ")
}

/// The number of handshakes with this result.
pub fn handshakes(metrics: &Samples, result: &str) -> f64 {
    metrics.sum_where("weir_tls_handshakes_total", &[("result", result)])
}

/// A client configuration that trusts an authority, supports these versions, and presents this
/// identity.
pub fn trusting(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    shown: Option<&Issued>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem.as_bytes());
    roots.add(root.expect("PEM")).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots);
    let Some(shown) = shown else {
        return builder.with_no_client_auth();
    };
    let certificate = CertificateDer::from_pem_slice(shown.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes());
    builder
        .with_client_auth_cert(vec![certificate.expect("PEM")], key.expect("PEM"))
        .expect("a certificate and its key")
}

/// The same with these ALPN protocols.
pub fn alpn(mut config: ClientConfig, protocols: &[&str]) -> ClientConfig {
    config.alpn_protocols = protocols.iter().map(|it| it.as_bytes().to_vec()).collect();
    config
}

/// Performs a handshake with the server at this address.
pub async fn connect(
    address: SocketAddr,
    config: impl Into<Arc<ClientConfig>>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = TlsConnector::from(config.into());
    within("a handshake", connector.connect(name, stream)).await
}
