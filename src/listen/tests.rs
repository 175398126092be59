//! What a connection tells of who is at its other end.

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::{ClientCertificates, HTTP2, Tls, TlsSettings};

const PATIENCE: Duration = Duration::from_secs(20);

struct Issued {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

fn issue(usage: ExtendedKeyUsagePurpose, issuer: &Issuer<'_, KeyPair>) -> Issued {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    Issued { certificate, key }
}

async fn listening() -> (Port, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let patience = (Hurry::Greet, PATIENCE);
    let metrics = Arc::new(Metrics::new());
    (
        Port::new(listener, 10, patience, PATIENCE, metrics),
        address,
    )
}

/// What a server reads, the authority of its certificate and its clients', and a client's.
fn issued(folder: &tempfile::TempDir) -> (TlsSettings, rcgen::Certificate, Issued) {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let server = issue(ExtendedKeyUsagePurpose::ServerAuth, &issuer);
    let client = issue(ExtendedKeyUsagePurpose::ClientAuth, &issuer);
    let written = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let settings = TlsSettings {
        cert_file: written("tls.crt", server.certificate.pem()),
        key_file: written("tls.key", server.key.serialize_pem()),
        clients: Some(ClientCertificates {
            ca_file: written("ca.crt", authority.pem()),
            required: false,
        }),
    };
    (settings, authority, client)
}

#[tokio::test]
async fn a_connection_tells_its_address_and_the_certificate_that_was_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, authority, client) = issued(&folder);
    let (tls, _) = Tls::read(settings).await.unwrap();
    let (port, address) = listening().await;
    let mut connections =
        Box::pin(port.connections(Some(Handshakes::new(Arc::new(tls), 1, &Metrics::new()))));

    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let shown = vec![client.certificate.der().clone()];
    for shown in [Some(shown), None] {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone());
        let expected = shown.as_ref().map(|chain| chain[0].to_vec());
        let mut config = match shown {
            Some(chain) => {
                let key = client.key.serialize_pem();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![HTTP2.to_vec()];
        let stream = TcpStream::connect(address).await.unwrap();
        let from = stream.local_addr().unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let (connected, accepted) = tokio::time::timeout(PATIENCE, async {
            tokio::join!(connecting, connections.next())
        })
        .await
        .unwrap();
        connected.unwrap();
        let peer = accepted.unwrap().unwrap().connect_info();
        assert_eq!(peer.address, Some(from));
        assert_eq!(peer.certificate.as_deref(), expected.as_deref());
    }
}

#[tokio::test]
async fn a_plain_connection_tells_its_address_alone() {
    let (port, address) = listening().await;
    let mut connections = Box::pin(port.connections(None));
    let stream = TcpStream::connect(address).await.unwrap();
    let peer = connections.next().await.unwrap().unwrap().connect_info();
    assert_eq!(peer.address, Some(stream.local_addr().unwrap()));
    assert_eq!(peer.certificate, None);
}

/// Who holds one byte back, or the answer to the server's own part, has every client's turn otherwise.
#[tokio::test]
async fn whoever_stops_within_a_handshake_keeps_nobody_waiting() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Far from the time after which those are sent away.
    const SOON: Duration = Duration::from_secs(8);
    let folder = tempfile::tempdir().unwrap();
    let (settings, authority, _) = issued(&folder);
    let (tls, _) = Tls::read(settings).await.unwrap();
    let (port, address) = listening().await;
    let mut connections =
        Box::pin(port.connections(Some(Handshakes::new(Arc::new(tls), 1, &Metrics::new()))));
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP2.to_vec()];
    let config = Arc::new(config);
    let name = ServerName::try_from("localhost").unwrap();
    let strangers = async {
        let mut hello = Vec::new();
        let mut client = rustls::ClientConnection::new(Arc::clone(&config), name.clone()).unwrap();
        client.write_tls(&mut hello).unwrap();
        let mut strangers = Vec::new();
        for said in [&hello[..1], &hello[..hello.len() - 1], &hello[..]] {
            let mut stranger = TcpStream::connect(address).await.unwrap();
            stranger.write_all(said).await.unwrap();
            strangers.push(stranger);
        }
        // The one that has said it all has been answered, and waits.
        let mut answer = [0];
        let last = strangers.last_mut().unwrap();
        assert_eq!(last.read(&mut answer).await.unwrap(), 1);
        strangers
    };
    let connecting = async {
        let strangers = strangers.await;
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::clone(&config));
        (connector.connect(name.clone(), stream).await, strangers)
    };
    let both = async { tokio::join!(connecting, connections.next()) };
    let ((connected, _strangers), accepted) = tokio::time::timeout(SOON, both).await.unwrap();
    connected.unwrap();
    accepted.unwrap().unwrap();
}
