//! The admin port: whom it answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{ServeProcess, eventually, request, within};

/// Nothing listens there.
const NO_DATABASE: &str = "mongodb://127.0.0.1:1/?directConnection=true";

/// Connects from an address of this machine.
async fn connect_from(address: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(format!("{address}:0").parse().expect("an address"))?;
    socket.connect(to).await
}

/// Probes as a kubelet does, on a connection of its own from this address, and returns the status.
async fn probe(from: &str, admin: SocketAddr) -> std::io::Result<String> {
    let mut stream = connect_from(from, admin).await?;
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: 10.0.0.7:9090\r\n\r\n")
        .await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A crowd of clients, each of which opens a connection, sends half a request, and opens the next one when that
/// is closed.
struct Crowd {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Crowd {
    fn gather(size: usize, admin: SocketAddr, address: impl Fn(usize) -> String) -> Self {
        let (stop, opened) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicUsize::new(0)),
        );
        let clients = (0..size).map(|client| {
            let (stop, opened) = (Arc::clone(&stop), Arc::clone(&opened));
            let address = address(client);
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut stream) = connect_from(&address, admin).await else {
                        continue;
                    };
                    opened.fetch_add(1, Ordering::Relaxed);
                    let half = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nX-More";
                    if stream.write_all(half).await.is_ok() {
                        let _ = stream.read_to_end(&mut Vec::new()).await;
                    }
                }
            })
        });
        Self {
            clients: clients.collect(),
            stop,
            opened,
        }
    }

    /// Waits until each client has a connection.
    async fn is_there(&self) {
        eventually("the crowd is there", async || {
            self.opened.load(Ordering::Relaxed) > self.clients.len() * 2
        })
        .await;
    }

    async fn leave(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.iter().for_each(tokio::task::JoinHandle::abort);
        join_all(self.clients).await;
    }
}

/// A node's own programs and its kubelet may share an address.
#[tokio::test(flavor = "multi_thread")]
async fn livez_is_answered_through_a_crowd_from_its_own_address_and_from_others() {
    let weir = ServeProcess::start(NO_DATABASE, &[]).await;
    // More than the port's 256 connections, all from one address, and from as many as there are clients.
    let one = |_| "127.0.0.1".to_owned();
    let many = |client: usize| format!("127.0.1.{}", client % 250 + 1);
    let crowds: [&dyn Fn(usize) -> String; 2] = [&one, &many];
    for address in crowds {
        let crowd = Crowd::gather(300, weir.admin, address);
        crowd.is_there().await;
        for from in ["127.0.0.1", "127.0.0.2"] {
            for _ in 0..50 {
                let answer = within("a probe", probe(from, weir.admin)).await;
                let answer = answer.unwrap_or_else(|error| panic!("a probe from {from}: {error}"));
                assert_eq!(answer, "HTTP/1.1 200", "from {from}");
            }
        }
        crowd.leave().await;
    }
    // Clients that hold their connections until these are closed, without opening others.
    let mut held = Vec::new();
    for _ in 0..600 {
        let mut stream = connect_from("127.0.0.1", weir.admin)
            .await
            .expect("a connection");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\n")
            .await
            .expect("half a request");
        held.push(stream);
    }
    for from in ["127.0.0.1", "127.0.0.2"] {
        let answer = within("a probe", probe(from, weir.admin)).await;
        assert_eq!(answer.expect("an answer"), "HTTP/1.1 200", "from {from}");
    }
    drop(held);
    eventually("the metrics are read", async || {
        weir.metrics()
            .await
            .sum_where("weir_limit_rejections_total", &[("limit", "connections")])
            > 300.0
    })
    .await;
}

/// Returns the status and the body of a request for the metrics with these headers.
async fn ask(admin: SocketAddr, target: &str, headers: &str) -> (u16, String) {
    let head = format!("GET {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    let answer = within("the admin port", request(admin, &head)).await;
    answer.expect("the admin port answers")
}

/// A page whose own name resolves to this address has no other way to send a request than with that name.
#[tokio::test]
async fn metrics_are_not_shown_to_a_page_whose_name_resolves_to_this_port() {
    let names = "metrics.example.com,*.shop.example";
    let weir = ServeProcess::start(NO_DATABASE, &["--admin-host", names]).await;
    let host = |name: &str| format!("Host: {name}\r\n");
    for name in [
        "localhost:9090",
        "10.0.0.7:9090",
        "[::1]:9090",
        "weir-admin:9090",
        "weir-admin.shop.svc.cluster.local:9090",
        "metrics.example.com",
        "a.shop.example:80",
    ] {
        let (status, page) = ask(weir.admin, "/metrics", &host(name)).await;
        assert_eq!(status, 200, "{name}: {page}");
        assert!(page.contains("weir_build_info"), "{name}: {page}");
    }
    let refused = [
        ("/metrics", host("rebound.example:9090")),
        ("/metrics", host("localhost.rebound.example")),
        ("/metrics", host("localhost").repeat(2)),
        ("/metrics", String::new()),
        ("http://rebound.example/metrics", host("localhost")),
    ];
    for (target, headers) in &refused {
        let (status, said) = ask(weir.admin, target, headers).await;
        assert_eq!(status, 403, "{target} {headers}: {said}");
        assert!(said.contains("--admin-host"), "{said}");
        assert!(!said.contains("weir_"), "{said}");
    }
    // What they tell is no secret, and no probe may fail because of a name.
    assert_eq!(
        ask(weir.admin, "/livez", &host("rebound.example")).await.0,
        200
    );
    assert_eq!(
        ask(weir.admin, "/readyz", &host("rebound.example")).await.0,
        503
    );
    let counted = weir.metrics().await;
    let counted = counted.sum_where("weir_admin_refusals_total", &[("reason", "host")]);
    assert_eq!(counted as usize, refused.len());
}

#[tokio::test]
async fn with_a_token_metrics_are_shown_by_any_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("token");
    std::fs::write(&path, "correct-horse-battery-staple\n").expect("a token");
    let arguments = ["--admin-token-file", path.to_str().expect("a path")];
    let weir = ServeProcess::start(NO_DATABASE, &arguments).await;
    let named = "Host: metrics.elsewhere.example\r\n";
    assert_eq!(ask(weir.admin, "/metrics", named).await.0, 401);
    let with_token = format!("{named}Authorization: Bearer correct-horse-battery-staple\r\n");
    let (status, page) = ask(weir.admin, "/metrics", &with_token).await;
    assert_eq!(status, 200, "{page}");
    assert!(
        page.contains("weir_admin_refusals_total{reason=\"token\"} 1"),
        "{page}"
    );
}
