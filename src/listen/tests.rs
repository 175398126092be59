//! The information about clients that connections expose, and stalled handshakes.

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::{ClientCertificates, HTTP2, Tls, TlsSettings};

const TIMEOUT: Duration = Duration::from_secs(20);

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

async fn listening() -> (Listener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let deadline = (ConnectionDeadline::Greeting, TIMEOUT);
    let metrics = Arc::new(Metrics::new());
    (
        Listener::new(listener, 10, deadline, TIMEOUT, metrics),
        address,
    )
}

/// Returns the server's TLS files, their authority, and a client certificate.
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
async fn a_tls_connection_exposes_its_address_and_verified_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, authority, client) = issued(&folder);
    let (tls, _) = Tls::read(settings).await.unwrap();
    let (listener, address) = listening().await;
    let mut connections =
        Box::pin(listener.connections(Some(Handshakes::new(Arc::new(tls), 1, &Metrics::new()))));

    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let presented = vec![client.certificate.der().clone()];
    for presented in [Some(presented), None] {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone());
        let expected = presented.as_ref().map(|chain| chain[0].to_vec());
        let mut config = match presented {
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
        let (connected, accepted) = tokio::time::timeout(TIMEOUT, async {
            tokio::join!(connecting, connections.next())
        })
        .await
        .unwrap();
        connected.unwrap();
        let peer = accepted.unwrap().peer().clone();
        assert_eq!(peer.address, Some(from));
        assert_eq!(peer.certificate.as_deref(), expected.as_deref());
    }
}

#[tokio::test]
async fn a_plaintext_connection_exposes_only_its_address() {
    let (listener, address) = listening().await;
    let mut connections = Box::pin(listener.connections(None));
    let stream = TcpStream::connect(address).await.unwrap();
    let peer = connections.next().await.unwrap().peer().clone();
    assert_eq!(peer.address, Some(stream.local_addr().unwrap()));
    assert_eq!(peer.certificate, None);
}

/// Clients that stop in the middle of a handshake must not occupy the slots of all others.
#[tokio::test]
async fn stalled_handshakes_do_not_block_others() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Much less than the timeout of the stalled clients.
    const SOON: Duration = Duration::from_secs(8);
    let folder = tempfile::tempdir().unwrap();
    let (settings, authority, _) = issued(&folder);
    let (tls, _) = Tls::read(settings).await.unwrap();
    let (listener, address) = listening().await;
    let mut connections =
        Box::pin(listener.connections(Some(Handshakes::new(Arc::new(tls), 1, &Metrics::new()))));
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
    let stalled_clients = async {
        let mut hello = Vec::new();
        let mut client = rustls::ClientConnection::new(Arc::clone(&config), name.clone()).unwrap();
        client.write_tls(&mut hello).unwrap();
        let mut stalled_clients = Vec::new();
        for sent in [&hello[..1], &hello[..hello.len() - 1], &hello[..]] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(sent).await.unwrap();
            stalled_clients.push(stream);
        }
        // The client that has sent its whole ClientHello has been answered.
        let mut answer = [0];
        let last = stalled_clients.last_mut().unwrap();
        assert_eq!(last.read(&mut answer).await.unwrap(), 1);
        stalled_clients
    };
    let connecting = async {
        let stalled_clients = stalled_clients.await;
        let stream = TcpStream::connect(address).await.unwrap();
        let connector = TlsConnector::from(Arc::clone(&config));
        (
            connector.connect(name.clone(), stream).await,
            stalled_clients,
        )
    };
    let both = async { tokio::join!(connecting, connections.next()) };
    let ((connected, _stalled_clients), accepted) = tokio::time::timeout(SOON, both).await.unwrap();
    connected.unwrap();
    accepted.unwrap();
}

/// A connection whose client has sent much takes a part of it, and then lets others have their turn.
#[tokio::test]
async fn a_connection_reads_little_in_a_turn() {
    use std::{pin::Pin, task::Poll};
    use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
    const SENT: usize = 64 << 10;
    let (listener, address) = listening().await;
    let mut connections = Box::pin(listener.connections(None));
    let sending = async {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&vec![b'x'; SENT]).await.unwrap();
        client
    };
    let (_client, connection) = tokio::join!(sending, connections.next());
    let mut connection = connection.unwrap();
    let (mut total, mut turns) = (0, 0);
    while total < SENT {
        let in_turn = std::future::poll_fn(|cx| {
            let mut in_turn = 0;
            loop {
                let mut space = vec![0; SENT];
                let mut buffer = ReadBuf::new(&mut space);
                match Pin::new(&mut connection).poll_read(cx, &mut buffer) {
                    Poll::Ready(read) => read.unwrap(),
                    Poll::Pending if in_turn > 0 => return Poll::Ready(in_turn),
                    Poll::Pending => return Poll::Pending,
                }
                in_turn += buffer.filled().len();
            }
        });
        let in_turn = in_turn.await;
        assert!(in_turn <= 4 << 10, "{in_turn} bytes in a turn");
        total += in_turn;
        turns += 1;
    }
    assert!(turns >= 16, "{turns}");
}
