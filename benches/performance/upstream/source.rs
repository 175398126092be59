//! The parent's handle of a source of events.

use std::time::Duration;

use super::{
    database::{self, Database},
    stand_in,
};
use crate::system::{
    cpu::Usage,
    process::{ChildError, Process},
};

/// The kind of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Database,
    StandIn,
}

impl Kind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::StandIn, Self::Database];

    /// The name in keys of results.
    pub fn key(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::StandIn => "stand-in",
        }
    }
}

/// The documents to send.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    /// The number of groups into which the documents fall in turn.
    pub groups: i64,
    /// The size of a document.
    pub bytes: usize,
    /// `true` for documents of thirty fields of about the same size.
    pub wide: bool,
}

/// A running source.
#[derive(Debug)]
pub struct Source {
    uri: String,
    database: String,
    collection: String,
    sender: Process,
    server: Option<Database>,
    sent: u64,
}

impl Source {
    /// Starts a source with nothing sent yet.
    pub fn start(kind: Kind, content: Content) -> Self {
        let Content {
            groups,
            bytes,
            wide,
        } = content;
        match kind {
            Kind::StandIn => {
                let (uri, sender) = stand_in::start(&stand_in::Task {
                    events: 0,
                    batch: 1_000,
                    groups,
                    bytes,
                    wide,
                })
                .into_parts();
                Self {
                    uri,
                    database: stand_in::DATABASE.to_owned(),
                    collection: stand_in::COLLECTION.to_owned(),
                    sender,
                    server: None,
                    sent: 0,
                }
            }
            Kind::Database => {
                let server = database::start();
                assert!(!wide, "only the stand-in has wide documents");
                let database = format!("weir_bench_{:016x}", fastrand::u64(..));
                let collection = "orders".to_owned();
                let sender = Process::start_role(
                    "the writer",
                    &[
                        "write".to_owned(),
                        format!("--uri={}", server.uri()),
                        format!("--database={database}"),
                        format!("--collection={collection}"),
                        format!("--groups={groups}"),
                        format!("--bytes={bytes}"),
                    ],
                );
                sender.line_after("ready");
                Self {
                    uri: server.uri().to_owned(),
                    database,
                    collection,
                    sender,
                    server: Some(server),
                    sent: 0,
                }
            }
        }
    }

    /// The MongoDB URI.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The database of the events.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The collection of the events.
    pub fn collection(&self) -> &str {
        &self.collection
    }

    /// The number of events requested so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The database's CPU use so far; `None` for a stand-in and for a shared server.
    pub fn usage(&self) -> Option<Usage> {
        self.server.as_ref()?.usage()
    }

    /// The number of open cursors.
    pub fn open_cursors(&self) -> Option<u64> {
        database::open_cursors(&self.uri)
    }

    /// Sends this many events at once.
    pub fn burst(&mut self, events: u64, limit: Duration) -> Result<(), ChildError> {
        burst(&mut self.sender, events, limit)?;
        self.sent += events;
        Ok(())
    }

    /// Sends this many events at a steady rate; returns the rate that was reached.
    pub fn steady(&mut self, rate: u64, events: u64, limit: Duration) -> Result<f64, ChildError> {
        self.sender.send(&format!("steady {rate} {events}"));
        self.sent += events;
        let took = sent(&self.sender, limit)?;
        Ok(events as f64 / took.as_secs_f64())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.forget(&self.database);
        }
    }
}

/// Makes a process that runs the commands of `pace` send this many events at once.
pub fn burst(sender: &mut Process, events: u64, limit: Duration) -> Result<(), ChildError> {
    sender.send(&format!("burst {events}"));
    sent(sender, limit).map(|_| ())
}

fn sent(sender: &Process, limit: Duration) -> Result<Duration, ChildError> {
    let answer = sender.answer("sent ", limit)?;
    let micros = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
    Ok(Duration::from_micros(
        micros.expect("the sender reports how long it took"),
    ))
}
