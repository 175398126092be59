//! `weir serve`, the release binary, as a separate process.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
};

use super::Gateway;
use crate::system::{cpu::CpuTimes, process::Process};

/// A build of Weir, and the flags with which it runs.
#[derive(Debug, Clone)]
pub struct Build {
    pub program: PathBuf,
    pub flags: Vec<String>,
}

impl Build {
    /// The build that belongs to this benchmark.
    pub fn own(flags: Vec<String>) -> Self {
        Self {
            program: env!("CARGO_BIN_EXE_weir").into(),
            flags,
        }
    }
}

/// Starts a server with default settings except for the build's flags, on ports chosen by the kernel.
pub fn start(mongodb_uri: &str, build: &Build) -> Gateway {
    let mut arguments: Vec<String> = [
        "serve",
        "--mongodb-uri",
        mongodb_uri,
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ]
    .map(str::to_owned)
    .into();
    arguments.extend_from_slice(&build.flags);
    let program = build.program.to_str().expect("a path in UTF-8");
    let process = Process::start_supervised("weir", program, &arguments);
    loop {
        let line = process.line();
        let entry: serde_json::Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("weir did not start: {line}"));
        let address = |name: &str| entry[name].as_str().map(str::to_owned);
        if let (Some(grpc), Some(admin)) = (address("grpc"), address("admin")) {
            break Gateway {
                process,
                url: format!("http://{grpc}"),
                admin: Some(admin),
            };
        }
    }
}

impl Gateway {
    /// The CPU time of each of its threads so far.
    pub fn cpu_times(&self) -> CpuTimes {
        CpuTimes::of(self.process.id())
    }

    /// The number of change streams that it reports, with those of catch-ups. `None` for a server
    /// without metrics.
    pub fn feeds(&self) -> Option<u64> {
        let catch_ups = self.metric("weir_catch_ups").unwrap_or(0);
        Some(self.metric("weir_feeds")? + catch_ups)
    }

    /// The bytes of messages that it has sent, for a server with metrics.
    pub fn bytes_sent(&self) -> Option<u64> {
        self.metric("weir_bytes_sent_total")
    }

    /// The number of times a watch fell behind the ring, for a server with metrics.
    pub fn fell_behind(&self) -> Option<u64> {
        self.metric("weir_watches_fell_behind_total")
    }

    /// The sum of a metric over all labels.
    fn metric(&self, name: &str) -> Option<u64> {
        let metrics = self.metrics()?;
        let own = metrics
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name));
        let values = own.map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        let values: Option<Vec<f64>> = values.collect();
        let values = values.filter(|values| !values.is_empty())?;
        Some(values.iter().sum::<f64>() as u64)
    }

    fn metrics(&self) -> Option<String> {
        let mut connection = TcpStream::connect(self.admin.as_ref()?).ok()?;
        let request = "GET /metrics HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n";
        connection.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}
