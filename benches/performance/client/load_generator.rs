//! The parent's handle of the load generator.

use std::time::Duration;

use tokio::time::Instant;
use weir::wire::Compression;

use crate::{
    gateway::Gateway,
    system::{
        cpu::Usage,
        process::{ChildError, Process},
    },
};

/// The number of watches that share a connection.
const WATCHES_A_CONNECTION: u64 = 100;

/// The watches to open.
#[derive(Debug, Clone)]
pub struct Plan {
    pub database: String,
    pub collection: String,
    /// The number of watchers.
    pub watchers: u64,
    /// The number of groups of documents.
    pub groups: i64,
    /// The number of watchers that select the same group; 0: no filters.
    pub matches: u64,
    /// The number of additional watchers that open a watch and never read.
    pub stalled: u64,
    /// The only encoding of compressed messages that they accept.
    pub accept: Option<Compression>,
    /// The fields that they ask for; none for all.
    pub fields: &'static [&'static str],
}

impl Plan {
    /// The number of watchers that receive an event.
    pub fn deliveries_an_event(&self) -> u64 {
        if self.matches == 0 {
            self.watchers
        } else {
            self.matches
        }
    }
}

/// Open watches, in a process of their own.
#[derive(Debug)]
pub struct LoadGenerator {
    process: Process,
    /// The time that it took to open them.
    pub opening: Duration,
}

/// The measured latencies in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Latencies {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub longest: u64,
}

impl LoadGenerator {
    /// Opens the watches in a new process.
    pub fn open(gateway: &Gateway, plan: &Plan, limit: Duration) -> Result<Self, ChildError> {
        let started = Instant::now();
        let connections = plan.watchers.div_ceil(WATCHES_A_CONNECTION).max(10);
        let mut arguments = vec![
            "load".to_owned(),
            format!("--url={}", gateway.url()),
            format!("--database={}", plan.database),
            format!("--collection={}", plan.collection),
            format!("--watches={}", plan.watchers),
            format!("--connections={connections}"),
            format!("--groups={}", plan.groups),
            format!("--matches={}", plan.matches),
            format!("--stalled={}", plan.stalled),
        ];
        arguments.extend(plan.accept.map(|it| format!("--accept={}", it.name())));
        arguments.extend(plan.fields.iter().map(|path| format!("--field={path}")));
        let process = Process::start_role("the load generator", &arguments);
        process.answer("open", limit)?;
        Ok(Self {
            process,
            opening: started.elapsed(),
        })
    }

    /// Waits until this many events have come in total, since it was opened.
    pub fn wait_for(&mut self, events: u64, limit: Duration) -> Result<(), ChildError> {
        self.process.send(&format!("await {events}"));
        self.process.answer("reached", limit).map(|_| ())
    }

    /// Starts to record latencies.
    pub fn record(&mut self) -> Result<(), ChildError> {
        self.process.send("record");
        self.process
            .answer("recording", Duration::from_secs(10))
            .map(|_| ())
    }

    /// The recorded latencies.
    pub fn latencies(&mut self) -> Result<Latencies, ChildError> {
        self.process.send("tell");
        let answer = self.process.answer("latencies ", Duration::from_secs(10))?;
        let mut numbers = answer.split(' ').map(|number| {
            let number = number.parse();
            number.expect("the load generator reports numbers")
        });
        let mut next = || numbers.next().expect("it reports four");
        Ok(Latencies {
            p50: next(),
            p99: next(),
            p999: next(),
            longest: next(),
        })
    }

    /// Checks that each watch has received each event that it selects up to this one, and no other.
    pub fn check(&mut self, events: u64) -> Result<(), ChildError> {
        self.process.send(&format!("check 0 {events}"));
        self.process
            .answer("checked", Duration::from_secs(30))
            .map(|_| ())
    }

    /// The CPU use of the load generator itself so far.
    pub fn usage(&self) -> Option<Usage> {
        Usage::of(self.process.id())
    }
}
