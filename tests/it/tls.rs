//! TLS connections: who is admitted, what is checked, and that nobody delays anybody else.

mod command;
mod handshakes;
mod memory;
mod reload;
mod setup;
mod start;

use crate::support::certificates::{Authority, expired};
use crate::support::orders::{ORDERS, id, insert};
use crate::support::{Database, eventually, within};
use mongodb::bson::doc;
use rustls::version::{TLS12, TLS13};
use setup::{TlsServer, alpn, connect, handshakes, trusting};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weir::config::ClientAuth;

#[tokio::test]
async fn a_watch_works_over_tls() {
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |_| {}).await;
    let mut watch = secured.watch(&database, secured.authority.trusted()).await;
    insert(&database, 1).await;
    assert_eq!(id(&watch.next_change().await), 1);

    let metrics = secured.weir.metrics().await;
    assert_eq!(handshakes(&metrics, "ok"), 1.0);
    assert_eq!(metrics.sum("weir_connections"), 1.0);
    // rcgen's certificates are valid until 4096.
    let expires = metrics.sum("weir_tls_certificate_expiry_timestamp_seconds");
    assert_eq!(expires, 67_090_118_400.0);
    drop(watch);
    eventually("the connection is counted no more", async || {
        secured.weir.metrics().await.sum("weir_connections") == 0.0
    })
    .await;
}

/// Without TLS there is no expiry metric: an alert on 0 would fire everywhere.
#[tokio::test]
async fn without_tls_no_certificate_expires() {
    let database = Database::start().await;
    let weir = crate::support::Weir::start(&database).await;
    weir.watch(database.watch_request(&[ORDERS])).await;
    let (_, page) = weir.admin("/metrics").await;
    assert!(!page.contains("weir_tls_certificate_expiry"), "{page}");
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_supported() {
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |_| {}).await;
    for version in [&TLS12, &TLS13] {
        let config = alpn(trusting(&secured.authority, &[version], None), &["h2"]);
        let stream = connect(secured.weir.grpc_addr(), config).await;
        let stream = stream.expect("a handshake");
        let session = stream.get_ref().1;
        assert_eq!(session.protocol_version(), Some(version.version));
        assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    }
}

/// The client reports it by a TLS alert: after a failed rotation this is what an operator sees.
#[tokio::test]
async fn a_certificate_that_clients_do_not_trust_is_counted() {
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |_| {}).await;
    let stranger = Authority::new("another");
    let why = secured.refusal(stranger.trusted()).await;
    assert!(why.contains("UnknownIssuer"), "{why}");

    let other = secured.authority.trusted().domain_name("weir.example");
    let why = secured.refusal(other).await;
    assert!(why.contains("not valid for name"), "{why}");

    eventually("both are counted", async || {
        handshakes(&secured.weir.metrics().await, "refused_by_client") == 2.0
    })
    .await;
    secured.watch(&database, secured.authority.trusted()).await;
}

/// The clock may be wrong, and a new certificate is loaded without a restart.
#[tokio::test]
async fn a_server_starts_with_an_expired_certificate_that_clients_refuse() {
    let database = Database::start().await;
    let secured = TlsServer::with_certificate(&database, |authority| {
        authority.issue(&["localhost"], expired)
    })
    .await;
    let why = secured.refusal(secured.authority.trusted()).await;
    assert!(why.contains("expired"), "{why}");

    secured.replace(&secured.authority.local());
    eventually("the new certificate is in force", async || {
        secured.is_reachable(secured.authority.trusted()).await
    })
    .await;
}

#[tokio::test]
async fn mutual_tls_admits_only_clients_with_a_certificate_of_its_authority() {
    let database = Database::start().await;
    let clients = Authority::new("clients");
    let secured = TlsServer::mutual(&database, &clients, ClientAuth::Required).await;
    let known = clients.client("orders-reader");
    let trusted = || secured.authority.trusted();
    let mut watch = secured
        .watch(&database, trusted().identity(known.identity()))
        .await;

    let why = secured.refusal(trusted()).await;
    assert!(why.contains("CertificateRequired"), "{why}");
    // Issued by the server's authority, which is not its clients' authority.
    let stranger = secured.authority.client("orders-reader");
    let why = secured
        .refusal(trusted().identity(stranger.identity()))
        .await;
    assert!(why.contains("UnknownCA"), "{why}");
    let old = clients.issue(&["orders-reader"], expired);
    let why = secured.refusal(trusted().identity(old.identity())).await;
    assert!(why.contains("CertificateExpired"), "{why}");
    // A server certificate is not valid for a client.
    let server = clients.server(&["orders-reader"]);
    secured.refusal(trusted().identity(server.identity())).await;

    let metrics = secured.weir.metrics().await;
    assert_eq!(handshakes(&metrics, "certificate_missing"), 1.0);
    assert_eq!(handshakes(&metrics, "certificate_refused"), 3.0);
    assert_eq!(handshakes(&metrics, "ok"), 1.0);
    // Admitted clients notice nothing of all this.
    insert(&database, 1).await;
    assert_eq!(id(&watch.next_change().await), 1);
}

/// If the server closed the connection at once, the client's next write would fail, or a reset
/// would discard the unread alert, and the client would never read the reason. A TLS 1.3 client has
/// finished its handshake by then, and is sending its first calls.
#[tokio::test]
async fn a_refused_client_reads_the_reason_although_it_is_still_sending() {
    let database = Database::start().await;
    let clients = Authority::new("clients");
    let secured = TlsServer::mutual(&database, &clients, ClientAuth::Required).await;
    for _ in 0..20 {
        let config = alpn(trusting(&secured.authority, &[&TLS13], None), &["h2"]);
        let stream = connect(secured.weir.grpc_addr(), config).await;
        let mut stream = stream.expect("a handshake from the client's view");
        // The alert has arrived and waits to be read.
        let mut byte = [0];
        let arrived = stream.get_ref().0.peek(&mut byte);
        within("the alert", arrived).await.expect("it arrives");
        for _ in 0..20 {
            stream.write_all(&[0; 10_000]).await.expect("it is sent");
            stream.flush().await.expect("it is sent");
        }
        let error = within("why", stream.read_to_end(&mut Vec::new())).await;
        let error = error.expect_err("it is refused").to_string();
        assert!(error.contains("CertificateRequired"), "{error}");
    }
}

#[tokio::test]
async fn where_certificates_are_optional_a_wrong_one_is_still_refused() {
    let database = Database::start().await;
    let clients = Authority::new("clients");
    let secured = TlsServer::mutual(&database, &clients, ClientAuth::Optional).await;
    let trusted = || secured.authority.trusted();
    secured.watch(&database, trusted()).await;
    let known = clients.client("orders-reader");
    secured
        .watch(&database, trusted().identity(known.identity()))
        .await;
    let stranger = Authority::new("another").client("orders-reader");
    let why = secured
        .refusal(trusted().identity(stranger.identity()))
        .await;
    assert!(why.contains("UnknownCA"), "{why}");
}

/// The stream ends as it does without TLS, and a silent connection delays nothing.
#[tokio::test]
async fn a_shutdown_gives_streams_over_tls_their_last_token() {
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |_| {}).await;
    let mut watch = secured.watch(&database, secured.authority.trusted()).await;
    database
        .collection(ORDERS)
        .insert_one(doc! {"_id": 1})
        .await
        .expect("an insert");
    watch.next_change().await;
    let silent = tokio::net::TcpStream::connect(secured.weir.grpc_addr()).await;
    eventually("both are connected", async || {
        secured.weir.metrics().await.sum("weir_connections") == 2.0
    })
    .await;
    let TlsServer { weir, .. } = secured;
    let (status, ()) = tokio::join!(watch.end(), weir.shutdown());
    assert_eq!(crate::support::error_reason(&status), "SERVER_DRAINING");
    assert!(!watch.token().is_empty());
    let mut silent = silent.expect("a connection");
    let end = within("its end", silent.read(&mut [0])).await;
    assert_eq!(end.unwrap_or_default(), 0);
}
