//! Tasks that write into a database that may be unavailable.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind, WriteFailure};
use pb::OperationType::{Delete, Insert, Replace, Update};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use weir::pb;

use super::{Ledger, Write};
use crate::support::{WAIT_LIMIT, within};

/// `_id` is the number of the writer times this, plus the number of the insert.
const DOCUMENTS_OF_A_WRITER: i64 = 10_000_000;
/// Another document has this `_id` already.
const DUPLICATE_KEY: i32 = 11000;
/// The pause before a write is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// The options of the writers.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    pub writers: usize,
    pub collections: Vec<String>,
    /// The number of groups. Documents belong to a group and move between groups; filters select by
    /// group.
    pub groups: i32,
    /// True if MongoDB keeps pre- and post-images, without which no filter on a group is exact.
    pub images: bool,
    /// The pause of each writer between two writes.
    pub pause: Duration,
    /// The number of documents that each writer keeps.
    pub documents: usize,
    /// One write in this many is large, with a text of this many bytes.
    pub large: Option<(u32, usize)>,
    /// The seed of the writers' random choices.
    pub seed: u64,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            writers: 3,
            collections: vec!["ledger_a".to_owned(), "ledger_b".to_owned()],
            groups: 3,
            images: true,
            pause: Duration::from_millis(10),
            documents: 8,
            large: None,
            seed: fastrand::u64(..),
        }
    }
}

/// Running writers. Dropping this stops them, and then it is unknown which writes were done.
pub struct Writers {
    ledger: Arc<Ledger>,
    stop: CancellationToken,
    retries: Arc<AtomicU64>,
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl Writers {
    /// Creates the collections and starts writing. The writers connect to the database directly and
    /// not through a network that a test breaks: a write stuck there could be done long after it
    /// was retried.
    pub async fn start(database: &mongodb::Database, options: &WriteOptions) -> Self {
        let mut writers = Self::ready(database, options).await;
        writers.begin(database, options);
        writers
    }

    /// Creates the collections and waits for [`Writers::begin`]: a watch opened before that
    /// receives everything.
    pub async fn ready(database: &mongodb::Database, options: &WriteOptions) -> Self {
        let names: Vec<&str> = options.collections.iter().map(String::as_str).collect();
        for name in &names {
            let images = doc! {"enabled": options.images};
            let create = doc! {"create": name, "changeStreamPreAndPostImages": images};
            within("a collection", database.run_command(create).into_future())
                .await
                .expect("a collection can be made");
        }
        Self {
            ledger: Ledger::new(&names, options.writers),
            stop: CancellationToken::new(),
            retries: Arc::default(),
            tasks: Vec::new(),
        }
    }

    /// Starts writing.
    pub fn begin(&mut self, database: &mongodb::Database, options: &WriteOptions) {
        let writer = |number| Writer {
            number,
            options: options.clone(),
            ledger: Arc::clone(&self.ledger),
            collections: options
                .collections
                .iter()
                .map(|name| database.collection(name))
                .collect(),
            random: fastrand::Rng::with_seed(options.seed.wrapping_add(number as u64)),
            existing: Vec::new(),
            retries: Arc::clone(&self.retries),
        };
        self.tasks = (0..options.writers)
            .map(|number| {
                let run = writer(number).run(self.stop.clone());
                AbortOnDropHandle::new(tokio::spawn(run))
            })
            .collect();
    }

    pub fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }

    /// The number of retried attempts.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// Lets each writer finish its current write, so that it is known which writes were done.
    pub async fn finish(self) {
        self.stop.cancel();
        let ended = tokio::time::timeout(3 * WAIT_LIMIT, join_all(self.tasks)).await;
        for ended in ended.expect("the writers finish what they are at") {
            ended.expect("a writer writes to its end");
        }
    }
}

/// An existing document.
#[derive(Debug, Clone, Copy)]
struct ExistingDocument {
    collection: usize,
    document: u32,
    /// The number of the last write to it.
    last: u32,
    group: i32,
}

struct Writer {
    number: usize,
    options: WriteOptions,
    ledger: Arc<Ledger>,
    collections: Vec<mongodb::Collection<Document>>,
    random: fastrand::Rng,
    existing: Vec<ExistingDocument>,
    retries: Arc<AtomicU64>,
}

impl Writer {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            self.write().await;
            tokio::time::sleep(self.options.pause).await;
        }
    }

    async fn write(&mut self) {
        let group = self.random.i32(0..self.options.groups);
        let full = self.existing.len() >= self.options.documents;
        let operation = match self.random.u32(..100) {
            _ if self.existing.is_empty() => Insert,
            0..30 if !full => Insert,
            0..65 => Update,
            65..85 => Replace,
            _ => Delete,
        };
        let chosen = self.random.usize(..self.existing.len().max(1));
        let before = (operation != Insert).then(|| self.existing[chosen]);
        let collection = match before {
            Some(before) => before.collection,
            None => self.random.usize(..self.collections.len()),
        };
        let number = self.ledger.all_begun()[self.number];
        let write = Write {
            collection,
            operation,
            document: before.map_or(number, |before| before.document),
            before: before.map(|before| before.group),
            after: (operation != Delete).then_some(group),
        };
        self.ledger.record(self.number, write);
        let text = match self.options.large {
            Some((one_in, bytes)) if self.random.u32(..one_in) == 0 => "x".repeat(bytes),
            _ => String::new(),
        };
        let body = doc! {"n": i64::from(number), "group": group, "text": text};
        // Until the write is known to be done.
        while let Err(error) = self.attempt(&write, before, number, &body).await {
            tracing::debug!(%error, "a write is tried again");
            self.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        self.ledger.done(self.number, number + 1);
        match operation {
            Delete => drop(self.existing.swap_remove(chosen)),
            Insert => self.existing.push(ExistingDocument {
                collection,
                document: number,
                last: number,
                group,
            }),
            _ => {
                self.existing[chosen].last = number;
                self.existing[chosen].group = group;
            }
        }
    }

    async fn attempt(
        &self,
        write: &Write,
        before: Option<ExistingDocument>,
        number: u32,
        body: &Document,
    ) -> Result<(), Error> {
        let documents = &self.collections[write.collection];
        let id = i64::try_from(self.number).expect("few writers") * DOCUMENTS_OF_A_WRITER
            + i64::from(write.document);
        // A write that was done although its attempt failed is not repeated.
        let as_it_was = || doc! {"_id": id, "n": before.map(|before| i64::from(before.last))};
        let matched = match write.operation {
            Insert => {
                let mut whole = doc! {"_id": id};
                whole.extend(body.clone());
                return match documents.insert_one(whole).await {
                    Err(error) if is_duplicate(&error) => Ok(()),
                    inserted => inserted.map(drop),
                };
            }
            Delete => return documents.delete_one(doc! {"_id": id}).await.map(drop),
            Replace => {
                let replace = documents.replace_one(as_it_was(), body.clone());
                replace.await?.matched_count
            }
            _ => {
                let update = documents.update_one(as_it_was(), doc! {"$set": body.clone()});
                update.await?.matched_count
            }
        };
        if matched == 0 {
            let now = documents.find_one(doc! {"_id": id}).await?;
            let done = now.as_ref().and_then(|now| now.get_i64("n").ok());
            assert_eq!(
                done,
                Some(i64::from(number)),
                "the database has lost an acknowledged write to {write:?}"
            );
        }
        Ok(())
    }
}

/// The writer and the number of the insert that made the document.
pub(super) fn parse_id(id: i64) -> Option<(usize, u32)> {
    let writer = usize::try_from(id / DOCUMENTS_OF_A_WRITER).ok()?;
    let document = u32::try_from(id % DOCUMENTS_OF_A_WRITER).ok()?;
    Some((writer, document))
}

fn is_duplicate(error: &Error) -> bool {
    matches!(
        &*error.kind,
        ErrorKind::Write(WriteFailure::WriteError(error)) if error.code == DUPLICATE_KEY
    )
}
