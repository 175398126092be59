//! A source of events that sends when it is told, as the parent sees it.

use std::time::Duration;

use super::{
    database::{self, Database},
    stand_in,
};
use crate::system::{
    cpu::Usage,
    process::{ChildError, Process},
};

/// Which kind of source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Database,
    StandIn,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::StandIn, Self::Database];

    /// What keys of results call it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::StandIn => "stand-in",
        }
    }
}

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    /// How many groups the documents fall into, in turn.
    pub groups: i64,
    /// The size of a document.
    pub bytes: usize,
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
    /// Starts one, with nothing sent yet.
    pub fn start(kind: Kind, content: Content) -> Self {
        let Content { groups, bytes } = content;
        match kind {
            Kind::StandIn => {
                let (uri, sender) = stand_in::start(&stand_in::Task {
                    events: 0,
                    batch: 1_000,
                    groups,
                    bytes,
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

    /// Where it is.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The database that events are of.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The collection that events are of.
    pub fn collection(&self) -> &str {
        &self.collection
    }

    /// How many events it was told to send so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// What the database has cost so far; nothing for a stand-in, and for a database that is not
    /// ours to look at.
    pub fn usage(&self) -> Option<Usage> {
        self.server.as_ref()?.usage()
    }

    /// How many cursors are open on it.
    pub fn open_cursors(&self) -> Option<u64> {
        database::open_cursors(&self.uri)
    }

    /// Sends so many events at once.
    pub fn burst(&mut self, events: u64, limit: Duration) -> Result<(), ChildError> {
        burst(&mut self.sender, events, limit)?;
        self.sent += events;
        Ok(())
    }

    /// Sends so many events at a steady rate; tells the rate that was reached.
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

/// Has a process that obeys the words of `pace` send so many events at once.
pub fn burst(sender: &mut Process, events: u64, limit: Duration) -> Result<(), ChildError> {
    sender.send(&format!("burst {events}"));
    sent(sender, limit).map(|_| ())
}

fn sent(sender: &Process, limit: Duration) -> Result<Duration, ChildError> {
    let answer = sender.answer("sent ", limit)?;
    let micros = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
    Ok(Duration::from_micros(
        micros.expect("the sender tells how long it took"),
    ))
}
