//! The collection of a single reader.

use mongodb::{Client, bson};
use tokio::runtime::Runtime;
use weir::pb::{self, watch_response::Kind};

use super::document::document;
use crate::{
    client::{reader, reader_kind::ReaderKind},
    system::runtime,
};

/// The number of documents inserted with one command.
const INSERT_BATCH: u64 = 1_000;

/// A collection that nothing else uses.
#[derive(Debug)]
pub struct Collection {
    runtime: Runtime,
    client: Client,
    database: String,
    name: &'static str,
    /// True if it is dropped at the end.
    fresh: bool,
}

/// The same position as a token for each reader.
#[derive(Debug)]
pub struct StartTokens {
    driver: String,
    weir: String,
}

impl StartTokens {
    /// The token for one kind of reader.
    pub fn of(&self, reader_kind: ReaderKind) -> String {
        match reader_kind {
            ReaderKind::Driver | ReaderKind::DriverSplitting => self.driver.clone(),
            ReaderKind::Weir | ReaderKind::WeirDecoding => self.weir.clone(),
        }
    }
}

impl Collection {
    /// An empty collection in a database with a new name.
    pub fn fresh(uri: &str) -> Self {
        let runtime = runtime();
        let database = format!("weir_bench_{:016x}", fastrand::u64(..));
        let name = "orders";
        let client = runtime.block_on(async {
            let client = Client::with_uri_str(uri)
                .await
                .expect("the URI is well-formed");
            let created = client.database(&database).create_collection(name).await;
            created.expect("the database creates a collection");
            client
        });
        Self {
            runtime,
            client,
            database,
            name,
            fresh: true,
        }
    }

    /// An existing collection.
    pub fn existing(uri: &str, database: &str, name: &'static str) -> Self {
        let runtime = runtime();
        let client = runtime
            .block_on(async { Client::with_uri_str(uri).await })
            .expect("the URI is well-formed");
        Self {
            runtime,
            client,
            database: database.to_owned(),
            name,
            fresh: false,
        }
    }

    /// Its database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// The current position, before anything is written.
    pub fn start_tokens(&self, weir_url: &str) -> StartTokens {
        self.runtime.block_on(async {
            let collection = self
                .client
                .database(&self.database)
                .collection::<bson::Document>(self.name);
            let stream = collection
                .watch()
                .await
                .expect("the collection can be watched");
            let token = stream.resume_token().expect("an open stream has a token");
            let token = bson::serialize_to_vec(&token).expect("a token is a document");

            let mut client = reader::connect(weir_url).await;
            let request = reader::watch_request(&self.database, self.name, "");
            let mut watch = client
                .watch(request)
                .await
                .expect("Weir opens a watch")
                .into_inner();
            let first = watch.message().await.expect("Weir sends its first message");
            let Some(pb::WatchResponse {
                resume_token,
                kind: Some(Kind::Opened(_)),
            }) = first
            else {
                panic!("Weir's first message is not Opened: {first:?}");
            };
            StartTokens {
                driver: reader::to_hex(&token),
                weir: reader::to_hex(&resume_token),
            }
        })
    }

    /// Inserts documents with ids from `first` on.
    pub fn insert(&self, first: u64, documents: u64) {
        let collection = self.client.database(&self.database).collection(self.name);
        self.runtime.block_on(async {
            let end = first + documents;
            for start in (first..end).step_by(usize::try_from(INSERT_BATCH).expect("it is small")) {
                let ids = start..end.min(start + INSERT_BATCH);
                let batch = ids.map(|id| document(id.cast_signed()));
                collection
                    .insert_many(batch)
                    .await
                    .expect("the database inserts");
            }
        });
    }
}

impl Drop for Collection {
    fn drop(&mut self) {
        if !self.fresh {
            return;
        }
        // Only on a shared server; our own ends anyway.
        let _ = self
            .runtime
            .block_on(async { self.client.database(&self.database).drop().await });
    }
}
