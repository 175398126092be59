//! Handshakes that are slow, or none at all, delay nobody.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::certificates::{Authority, Issued};
use crate::support::orders::{id, insert};
use crate::support::{Database, ServeProcess, eventually, within};
use crate::tls::setup::{TlsServer, alpn, connect, handshakes, trusting};

/// Type, version and length of a handshake record, without its contents.
const RECORD_HEADER: [u8; 5] = [0x16, 3, 1, 2, 0];

/// Waits until the server has closed a connection. Returns what it sent before.
async fn closed(mut stream: TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset counts as an end.
    let _ = within("the server closes", stream.read_to_end(&mut said)).await;
    said
}

async fn connect_and_send(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(bytes).await.expect("it can be written to");
    stream
}

/// Far more connections than concurrent handshakes are allowed; none of them has begun one.
#[tokio::test]
async fn silent_connections_occupy_no_handshake_slot() {
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |config| {
        config.tls.max_handshakes = 1;
        config.request_timeout = Duration::from_secs(3600);
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(connect_and_send(secured.weir.grpc_addr(), &[]).await);
    }
    let mut watch = secured.watch(&database, secured.authority.trusted()).await;
    insert(&database, 1).await;
    assert_eq!(id(&watch.next_change().await), 1);
    assert_eq!(secured.weir.metrics().await.sum("weir_connections"), 51.0);
}

/// More stalled handshakes than may run at once; then they time out.
#[tokio::test]
async fn stalled_handshakes_delay_nobody_and_time_out() {
    const LIMIT: Duration = Duration::from_secs(5);
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |config| {
        config.tls.max_handshakes = 2;
        config.request_timeout = LIMIT;
    })
    .await;
    // Open watches continue without interruption.
    let mut watch = secured.watch(&database, secured.authority.trusted()).await;
    let begin = Instant::now();
    let mut stalled = Vec::new();
    for _ in 0..6 {
        stalled.push(connect_and_send(secured.weir.grpc_addr(), &RECORD_HEADER).await);
    }
    insert(&database, 1).await;
    assert_eq!(id(&watch.next_change().await), 1);

    eventually("a later client is admitted", async || {
        secured.is_reachable(secured.authority.trusted()).await
    })
    .await;
    let waited = begin.elapsed();
    assert!(waited < LIMIT, "{waited:?}");
    for stream in stalled {
        closed(stream).await;
    }
    eventually("nothing is left of them", async || {
        let metrics = secured.weir.metrics().await;
        handshakes(&metrics, "timeout") >= 6.0 && metrics.sum("weir_connections") == 1.0
    })
    .await;
    let limit = [("limit", "request_timeout")];
    let metrics = secured.weir.metrics().await;
    assert!(metrics.sum_where("weir_limit_rejections_total", &limit) >= 6.0);
    insert(&database, 2).await;
    assert_eq!(id(&watch.next_change().await), 2);
}

/// A partial greeting is treated like none.
#[tokio::test]
async fn a_partial_client_hello_occupies_no_handshake_slot() {
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |config| {
        config.tls.max_handshakes = 1;
        config.request_timeout = Duration::from_secs(3600);
    })
    .await;
    let address = secured.weir.grpc_addr();
    let stalled = [
        connect_and_send(address, &RECORD_HEADER).await,
        connect_and_send(address, &RECORD_HEADER).await,
    ];
    secured.watch(&database, secured.authority.trusted()).await;
    drop(stalled);
    eventually("those who left are counted", async || {
        handshakes(&secured.weir.metrics().await, "closed") == 2.0
    })
    .await;
}

/// Two deadlines in a row would give an idle client twice the time.
#[tokio::test]
async fn the_handshake_and_the_greeting_share_one_deadline() {
    const LIMIT: Duration = Duration::from_secs(2);
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |config| config.request_timeout = LIMIT).await;
    let begin = Instant::now();
    let mut tcp = TcpStream::connect(secured.weir.grpc_addr())
        .await
        .expect("a connection");
    tcp.set_nodelay(true).expect("it can be set");
    // A slow client: two thirds of the time have passed when its handshake is done.
    tokio::time::sleep(LIMIT * 2 / 3).await;
    let config = alpn(trusting(&secured.authority, &[&TLS13], None), &["h2"]);
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let shaken = within("a handshake", connector.connect(name, &mut tcp)).await;
    let mut stream = shaken.expect("it is in time");
    let mut said = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut said)).await;
    let lasted = begin.elapsed();
    assert!(lasted >= LIMIT - Duration::from_millis(50), "{lasted:?}");
    assert!(lasted < LIMIT * 3 / 2, "{lasted:?}");
    let metrics = secured.weir.metrics().await;
    assert_eq!(handshakes(&metrics, "ok"), 1.0);
}

/// A connection counts from its acceptance, or handshakes would bypass the limit.
#[tokio::test]
async fn connections_count_during_their_handshake() {
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |config| {
        config.max_connections = 3;
        config.request_timeout = Duration::from_secs(1);
    })
    .await;
    let address = secured.weir.grpc_addr();
    let begun = [
        connect_and_send(address, &[]).await,
        connect_and_send(address, &RECORD_HEADER).await,
        connect_and_send(address, &RECORD_HEADER).await,
    ];
    eventually("all three are counted", async || {
        secured.weir.metrics().await.sum("weir_connections") == 3.0
    })
    .await;
    assert!(!secured.is_reachable(secured.authority.trusted()).await);
    let limit = [("limit", "connections")];
    let rejected = secured.weir.metrics().await;
    assert!(rejected.sum_where("weir_limit_rejections_total", &limit) >= 1.0);
    for stream in begun {
        closed(stream).await;
    }
    secured.watch(&database, secured.authority.trusted()).await;
}

/// The ClientHello of a client that supports only TLS 1.1.
fn hello_of_tls_1_1() -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend([7; 32]); // random
    body.push(0); // no session
    body.extend([0, 4, 0xc0, 0x09, 0xc0, 0x13]); // ECDHE with AES-CBC
    body.extend([1, 0]); // no compression
    let length = u8::try_from(body.len()).expect("a short hello");
    let mut record = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(body);
    record
}

#[tokio::test]
async fn anything_but_http2_over_tls_is_refused() {
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |_| {}).await;
    let address = secured.weir.grpc_addr();

    let said = closed(connect_and_send(address, &hello_of_tls_1_1()).await).await;
    // A fatal alert.
    assert_eq!(said[0], 0x15, "{said:?}");
    assert_eq!(said[5], 2, "{said:?}");
    for plain in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0xff; 64],
    ] {
        let said = closed(connect_and_send(address, plain).await).await;
        assert!(said.is_empty() || said[0] == 0x15, "{said:?}");
    }
    let base = trusting(&secured.authority, &[&TLS12, &TLS13], None);
    for protocols in [&["http/1.1"][..], &["h3", "grpc-exp"]] {
        let error = connect(address, alpn(base.clone(), protocols)).await;
        let error = error.expect_err("no protocol in common").to_string();
        assert!(error.contains("NoApplicationProtocol"), "{error}");
    }
    // Without ALPN, which RFC 9113 requires.
    let silent = connect(address, base.clone()).await;
    let mut stream = silent.expect("rustls lets it pass");
    let greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let _ = stream.write_all(greeting).await;
    let mut said = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut said)).await;
    assert_eq!(said, b"", "it is not spoken to");

    // A TLS 1.3 client may read a refusal before it is counted.
    eventually("all are counted", async || {
        handshakes(&secured.weir.metrics().await, "protocol") == 8.0
    })
    .await;
    secured.watch(&database, secured.authority.trusted()).await;
    assert_eq!(handshakes(&secured.weir.metrics().await, "ok"), 1.0);
}

/// Anybody can make handshakes fail, as often as they like: a log that grew with that could fill a
/// disk. The library would log warnings.
#[tokio::test]
async fn failed_handshakes_are_not_logged() {
    let database = Database::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("everyone");
    let (certificate, key) = authority.local().write(folder.path());
    let clients = folder.path().join("ca.crt");
    std::fs::write(&clients, &authority.pem).expect("it is written");
    let arguments = [
        format!("--tls-cert-file={}", certificate.display()),
        format!("--tls-key-file={}", key.display()),
        format!("--tls-client-ca-file={}", clients.display()),
        "--request-timeout=1s".to_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let weir = ServeProcess::start(database.uri(), &arguments).await;
    eventually("the log lines of the start are complete", async || {
        weir.process.stderr().contains("mongodb answers")
    })
    .await;
    let before = weir.process.stderr();
    let strange = Authority::new("another").client("a");
    let config = |shown: Option<&Issued>| alpn(trusting(&authority, &[&TLS13], shown), &["h2"]);
    let mut untrusting = trusting(&Authority::new("another"), &[&TLS12], None);
    untrusting.alpn_protocols = vec![b"h2".to_vec()];
    for _ in 0..5 {
        for bytes in [
            &hello_of_tls_1_1()[..],
            &hello_with_an_address_for_a_name(),
            // A Finished in place of a ClientHello, an alert, and no TLS at all.
            &[0x16, 3, 3, 0, 4, 20, 0, 0, 0],
            &[0x15, 3, 3, 0, 2, 1, 90],
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let mut stream = connect_and_send(weir.grpc, bytes).await;
            let _ = stream.shutdown().await;
            closed(stream).await;
        }
        connect_and_send(weir.grpc, &RECORD_HEADER).await;
        for config in [config(None), config(Some(&strange)), untrusting.clone()] {
            if let Ok(mut stream) = connect(weir.grpc, config).await {
                let _ = within("why", stream.read_to_end(&mut Vec::new())).await;
            }
        }
    }
    eventually("all have failed", async || {
        weir.metrics().await.sum("weir_tls_handshakes_total") == 45.0
    })
    .await;
    let said = weir.process.stderr().split_off(before.len());
    assert_eq!(said, "");
}

/// A TLS 1.2 ClientHello whose server name (SNI) is an IP address, which is not allowed.
fn hello_with_an_address_for_a_name() -> Vec<u8> {
    let name = b"127.0.0.1";
    let length = u8::try_from(name.len()).expect("a short name");
    let mut extensions = vec![0, 0, 0, length + 5, 0, length + 3, 0, 0, length];
    extensions.extend(name);
    let mut body = vec![3, 3];
    body.extend([7; 32]); // random
    body.push(0); // no session
    body.extend([0, 2, 0xc0, 0x2b]); // ECDHE-ECDSA with AES-128-GCM
    body.extend([1, 0]); // no compression
    body.extend([0, u8::try_from(extensions.len()).expect("few")]);
    body.extend(extensions);
    let length = u8::try_from(body.len()).expect("a short hello");
    let mut record = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(body);
    record
}

/// Pings are the only way to detect a client whose address no longer answers.
#[tokio::test]
async fn a_client_that_answers_no_ping_over_tls_is_given_up() {
    let database = Database::start().await;
    let secured = TlsServer::start(&database, |config| {
        config.http2_keepalive_interval = Duration::from_secs(1);
        config.http2_keepalive_timeout = Duration::from_secs(1);
    })
    .await;
    let base = trusting(&secured.authority, &[&TLS13], None);
    let stream = connect(secured.weir.grpc_addr(), alpn(base, &["h2"])).await;
    let mut stream = stream.expect("a handshake");
    let greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(greeting).await.expect("it can be written");
    stream.flush().await.expect("it can be flushed");
    let begin = Instant::now();
    let mut said = Vec::new();
    let _ = within("the server gives it up", stream.read_to_end(&mut said)).await;
    // The server's settings, and a ping.
    assert!(said.len() > 9 + 9 + 8, "{said:?}");
    assert!(begin.elapsed() < Duration::from_secs(8));
    eventually("it is counted no more", async || {
        secured.weir.metrics().await.sum("weir_connections") == 0.0
    })
    .await;
}
