//! The memory of a TLS connection.

use futures::future::join_all;
use rustls::version::TLS13;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::certificates::Authority;
use crate::support::{Database, ServeProcess, eventually};
use crate::tls::setup::{alpn, connect, trusting};

/// Enough to separate the connections' memory from the process's own.
const CONNECTIONS: usize = 400;

/// The start of HTTP/2: the preface and empty SETTINGS.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn connected(weir: &ServeProcess, count: usize) {
    eventually("all are connected", async || {
        weir.metrics().await.sum("weir_connections") == count as f64
    })
    .await;
}

/// 10 KiB more, as docs/memory.md says; memory used during the handshake must be released.
#[tokio::test]
async fn an_idle_connection_over_tls_takes_little_more_than_a_plain_one() {
    let database = Database::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("everyone");
    let (certificate, key) = authority.local().write(folder.path());
    let tls = [
        format!("--tls-cert-file={}", certificate.display()),
        format!("--tls-key-file={}", key.display()),
    ];
    let tls: Vec<&str> = tls.iter().map(String::as_str).collect();

    let plain = ServeProcess::start(database.uri(), &[]).await;
    let encrypted = ServeProcess::start(database.uri(), &tls).await;
    let config = alpn(trusting(&authority, &[&TLS13], None), &["h2"]);
    let config = std::sync::Arc::new(config);

    let before = plain.process.resident();
    let plainly = (0..CONNECTIONS).map(|_| async {
        let mut stream = TcpStream::connect(plain.grpc).await.expect("a connection");
        stream
            .write_all(HTTP2_PREFACE)
            .await
            .expect("it is greeted");
        stream
    });
    let held = join_all(plainly).await;
    connected(&plain, CONNECTIONS).await;
    let of_plain = (plain.process.resident() - before) / CONNECTIONS as u64;
    drop(held);

    let before = encrypted.process.resident();
    let secretly = (0..CONNECTIONS).map(|_| async {
        let stream = connect(encrypted.grpc, config.clone()).await;
        let mut stream = stream.expect("a handshake");
        stream
            .write_all(HTTP2_PREFACE)
            .await
            .expect("it is greeted");
        stream.flush().await.expect("it is greeted");
        stream
    });
    let held = join_all(secretly).await;
    connected(&encrypted, CONNECTIONS).await;
    let of_encrypted = (encrypted.process.resident() - before) / CONNECTIONS as u64;
    drop(held);
    println!("idle: plain {of_plain} bytes, over TLS {of_encrypted} bytes");
    assert!(of_encrypted < 48 << 10, "{of_encrypted} bytes");
}
