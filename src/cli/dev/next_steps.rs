//! Commands to try after the tutorial.

use std::{env, net::SocketAddr, path::Path};

use crate::cli::watch::server::DEFAULT_SERVER;

/// The addresses and programs in the commands.
#[derive(Debug, Clone)]
pub(super) struct Addresses {
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
    /// The connection string of a database that the demo started; `None` for an existing one, whose
    /// connection string may contain a password.
    pub mongodb_uri: Option<String>,
    pub programs: Programs,
}

/// The paths of the programs, relative to the current folder where possible.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    weir: String,
    buf: String,
    python: String,
}

impl Programs {
    /// Prefers the programs in the virtual environment of `make demo`.
    pub(super) fn find() -> Self {
        let installed = |name: &str| {
            let path = Path::new(".venv/bin").join(name);
            let found = if path.is_file() { path } else { name.into() };
            found.display().to_string()
        };
        Self {
            weir: current_program().unwrap_or_else(|| "weir".to_owned()),
            buf: installed("buf"),
            python: installed("python3"),
        }
    }
}

/// Returns the path of this program, relative to the current folder if it is inside.
fn current_program() -> Option<String> {
    let program = env::current_exe().ok()?;
    let folder = env::current_dir().ok()?;
    let name = program.strip_prefix(&folder).unwrap_or(&program);
    Some(name.display().to_string())
}

impl std::fmt::Display for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let grpc = self.grpc;
        let admin = self.admin;
        let Programs { weir, buf, python } = &self.programs;
        let uri = self.mongodb_uri.as_deref().unwrap_or("$MONGODB_URI");
        let server = format!("http://{grpc}");
        let server_flag = if server == DEFAULT_SERVER {
            String::new()
        } else {
            format!(" --server {server}")
        };
        let request = r#"{"database": "weir_dev", "documentFormat": "DOCUMENT_FORMAT_STRUCT"}"#;
        write!(
            f,
            "\
Weir runs until Ctrl-C. Commands to try in other terminals:

  Watch with weir watch:
    {weir} watch weir_dev --full-document lookup{server_flag}

  Watch with any gRPC client:
    {buf} curl --protocol grpc --http2-prior-knowledge -d '{request}' {server}/weir.v1.WatchService/Watch
    grpcurl -plaintext -d '{request}' {grpc} weir.v1.WatchService/Watch

  Make a change:
    {python} -c 'import pymongo, sys; pymongo.MongoClient(sys.argv[1]).weir_dev.orders.insert_one({{\"status\": \"paid\", \"total\": 120}})' \"{uri}\"
    mongosh \"{uri}\" --eval 'db.getSiblingDB(\"weir_dev\").orders.insertOne({{status: \"paid\", total: 120}})'

  Metrics:
    http://{admin}/metrics
"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(grpc: &str, mongodb_uri: Option<&str>) -> String {
        Addresses {
            grpc: grpc.parse().unwrap(),
            admin: "127.0.0.1:9090".parse().unwrap(),
            mongodb_uri: mongodb_uri.map(str::to_owned),
            programs: Programs {
                weir: "target/release/weir".to_owned(),
                buf: ".venv/bin/buf".to_owned(),
                python: "python3".to_owned(),
            },
        }
        .to_string()
    }

    #[test]
    fn the_commands_can_be_pasted_into_a_shell() {
        let text = addresses("127.0.0.1:50051", Some("mongodb://127.0.0.1:1/?a=b"));
        for line in [
            r#"target/release/weir watch weir_dev --full-document lookup"#,
            r#".venv/bin/buf curl --protocol grpc --http2-prior-knowledge -d '{"database": "weir_dev", "documentFormat": "DOCUMENT_FORMAT_STRUCT"}' http://127.0.0.1:50051/weir.v1.WatchService/Watch"#,
            r#"grpcurl -plaintext -d '{"database": "weir_dev", "documentFormat": "DOCUMENT_FORMAT_STRUCT"}' 127.0.0.1:50051 weir.v1.WatchService/Watch"#,
            r#"python3 -c 'import pymongo, sys; pymongo.MongoClient(sys.argv[1]).weir_dev.orders.insert_one({"status": "paid", "total": 120})' "mongodb://127.0.0.1:1/?a=b""#,
            r#"mongosh "mongodb://127.0.0.1:1/?a=b" --eval 'db.getSiblingDB("weir_dev").orders.insertOne({status: "paid", total: 120})'"#,
            r#"http://127.0.0.1:9090/metrics"#,
        ] {
            assert!(
                text.lines().any(|printed| printed.trim() == line),
                "{line}\n{text}"
            );
        }
    }

    #[test]
    fn another_port_is_shown_and_the_uri_of_an_existing_database_is_not() {
        let text = addresses("127.0.0.1:6000", None);
        assert!(text.contains("lookup --server http://127.0.0.1:6000\n"));
        assert!(text.contains("mongosh \"$MONGODB_URI\""));
    }
}
