//! A process that inserts documents on command.

use clap::Args;
use mongodb::{Client, Collection, bson::Document};

use super::{
    document::{Stamp, group_of},
    pace::{self, Sender},
};
use crate::system::{commands::Commands, now_micros, process::FAILED, runtime};

/// The task of the writer.
#[derive(Debug, Args)]
pub struct Task {
    #[arg(long)]
    uri: String,
    #[arg(long)]
    database: String,
    #[arg(long)]
    collection: String,
    /// The number of groups of documents
    #[arg(long)]
    groups: i64,
    /// The size of a document
    #[arg(long)]
    bytes: usize,
}

/// The writer's process.
pub fn run(task: &Task, commands: &mut Commands) {
    runtime().block_on(async {
        let client = Client::with_uri_str(&task.uri)
            .await
            .expect("the URI is well-formed");
        let database = client.database(&task.database);
        let created = database.create_collection(&task.collection).await;
        created.expect("the database creates a collection");
        let mut writer = Writer {
            collection: database.collection(&task.collection),
            groups: task.groups,
            bytes: task.bytes,
        };
        println!("ready");
        pace::run_commands(commands, &mut writer).await;
    });
}

struct Writer {
    collection: Collection<Document>,
    groups: i64,
    bytes: usize,
}

impl Sender for Writer {
    async fn send(&mut self, ids: std::ops::Range<i64>) {
        let sent = now_micros().cast_signed();
        let documents = ids.map(|id| {
            let group = group_of(id, self.groups);
            Stamp { id, sent, group }.document(self.bytes)
        });
        if let Err(error) = self.collection.insert_many(documents).await {
            println!("{FAILED}the database does not insert: {error}");
            std::process::exit(1);
        }
    }
}
