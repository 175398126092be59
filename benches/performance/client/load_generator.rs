//! The load generator, as the parent sees it.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    gateway::Gateway,
    system::{
        cpu::Usage,
        process::{ChildError, Process},
    },
};

/// How many watches share a connection.
const WATCHES_A_CONNECTION: u64 = 100;

/// Who watches what.
#[derive(Debug, Clone)]
pub struct Plan {
    pub database: String,
    pub collection: String,
    /// How many watch.
    pub watchers: u64,
    /// How many groups documents fall into.
    pub groups: i64,
    /// How many watchers ask for the same group; 0: all ask for everything.
    pub matches: u64,
    /// How many more never read on.
    pub stalled: u64,
}

impl Plan {
    /// How many watchers an event goes to.
    pub fn deliveries_an_event(&self) -> u64 {
        if self.matches == 0 {
            self.watchers
        } else {
            self.matches
        }
    }
}

/// Open watches.
#[derive(Debug)]
pub struct LoadGenerator {
    process: Process,
    /// How long opening them took.
    pub opening: Duration,
}

/// What it saw of latencies, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Latencies {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub longest: u64,
}

impl LoadGenerator {
    /// Opens the watches in a process of their own.
    pub fn open(gateway: &Gateway, plan: &Plan, limit: Duration) -> Result<Self, ChildError> {
        let started = Instant::now();
        let connections = plan.watchers.div_ceil(WATCHES_A_CONNECTION).max(10);
        let process = Process::start_role(
            "the load generator",
            &[
                "load".to_owned(),
                format!("--url={}", gateway.url()),
                format!("--database={}", plan.database),
                format!("--collection={}", plan.collection),
                format!("--watches={}", plan.watchers),
                format!("--connections={connections}"),
                format!("--groups={}", plan.groups),
                format!("--matches={}", plan.matches),
                format!("--stalled={}", plan.stalled),
            ],
        );
        process.answer("open", limit)?;
        Ok(Self {
            process,
            opening: started.elapsed(),
        })
    }

    /// Waits until so many events have come, in all and since it was opened.
    pub fn wait_for(&mut self, events: u64, limit: Duration) -> Result<(), ChildError> {
        self.process.send(&format!("await {events}"));
        self.process.answer("reached", limit).map(|_| ())
    }

    /// Records latencies from now on.
    pub fn record(&mut self) -> Result<(), ChildError> {
        self.process.send("record");
        self.process
            .answer("recording", Duration::from_secs(10))
            .map(|_| ())
    }

    /// The latencies recorded.
    pub fn latencies(&mut self) -> Result<Latencies, ChildError> {
        self.process.send("tell");
        let answer = self.process.answer("latencies ", Duration::from_secs(10))?;
        let mut numbers = answer.split(' ').map(|number| {
            let number = number.parse();
            number.expect("the load generator tells numbers")
        });
        let mut next = || numbers.next().expect("it tells four");
        Ok(Latencies {
            p50: next(),
            p99: next(),
            p999: next(),
            longest: next(),
        })
    }

    /// Makes sure that each watch has had each event that it asked for up to this one, and no other.
    pub fn check(&mut self, events: u64) -> Result<(), ChildError> {
        self.process.send(&format!("check 0 {events}"));
        self.process
            .answer("checked", Duration::from_secs(30))
            .map(|_| ())
    }

    /// What the load generator itself has cost so far.
    pub fn usage(&self) -> Option<Usage> {
        Usage::of(self.process.id())
    }
}
