//! The `weir` binary as a separate process.

use std::net::SocketAddr;

use tonic::transport::{Channel, Endpoint};
use weir::pb::watch_service_client::WatchServiceClient;

use super::{ChildProcess, Samples, admin, eventually, within};

/// The path of the binary.
pub const WEIR: &str = env!("CARGO_BIN_EXE_weir");

/// Runs `weir` with these arguments. The environment holds no variable of Weir's except
/// `variables`.
pub fn weir(variables: &[(&str, &str)], arguments: &[&str]) -> ChildProcess {
    let inherited = std::env::vars()
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("WEIR_") || name == "MONGODB_URI");
    let mut line: Vec<String> = inherited.flat_map(|name| ["-u".to_owned(), name]).collect();
    line.extend(
        variables
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    line.push(WEIR.to_owned());
    line.extend(arguments.iter().map(|&argument| argument.to_owned()));
    ChildProcess::start("weir", "env", line)
}

/// A running `weir serve` that listens.
pub struct ServeProcess {
    pub process: ChildProcess,
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
}

impl ServeProcess {
    /// Serves the database at the URI, on ports chosen by the kernel.
    pub async fn start(uri: &str, arguments: &[&str]) -> Self {
        Self::on("127.0.0.1:0", uri, arguments).await
    }

    /// Serves gRPC at the address `listen`.
    pub async fn on(listen: &str, uri: &str, arguments: &[&str]) -> Self {
        let common = [
            "serve",
            "--mongodb-uri",
            uri,
            "--listen",
            listen,
            "--admin-listen",
            "127.0.0.1:0",
        ];
        let arguments: Vec<&str> = common.iter().chain(arguments).copied().collect();
        let process = weir(&[], &arguments);
        eventually("weir listens", async || {
            address(&process.stderr(), "admin").is_some()
        })
        .await;
        let log = process.stderr();
        let found = |which| address(&log, which).expect("the log names both addresses");
        Self {
            grpc: found("grpc"),
            admin: found("admin"),
            process,
        }
    }

    /// A client on a connection of its own.
    pub async fn client(&self) -> WatchServiceClient<Channel> {
        WatchServiceClient::new(self.channel().await)
    }

    /// A new connection.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc));
        let endpoint = endpoint.expect("an address makes a URI");
        within("a connection to weir", endpoint.connect())
            .await
            .expect("weir accepts connections")
    }

    /// The metrics as they are now.
    pub async fn metrics(&self) -> Samples {
        let (status, body) = within("the metrics", admin::get(self.admin, "/metrics"))
            .await
            .expect("the admin port answers");
        assert_eq!(status, 200, "GET /metrics answered {body}");
        Samples::parse(&body)
    }

    /// The HTTP status of a path on the admin port; `None` when the port does not answer.
    pub async fn admin_status(&self, path: &str) -> Option<u16> {
        let answer = within("the admin port", admin::get(self.admin, path)).await;
        answer.ok().map(|(status, _)| status)
    }
}

/// One of the addresses in the "listening" line of a log, which is JSON or text.
fn address(log: &str, which: &str) -> Option<SocketAddr> {
    let words = ["\"listening\"", " listening grpc="];
    let is_it = |line: &&str| words.iter().any(|words| line.contains(words));
    let line = log.lines().find(is_it)?;
    if let Ok(line) = serde_json::from_str::<serde_json::Value>(line) {
        return line[which].as_str()?.parse().ok();
    }
    let named = line
        .split(' ')
        .find_map(|word| word.strip_prefix(which)?.strip_prefix('='));
    named?.parse().ok()
}
