//! A deployment whose hosts are known: the driver's client, and calls that survive a dead connection.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bson::{Document, doc};
use mongodb::{Client, options::ClientOptions};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

use super::{connect::MongoSettings, options::OptionSupport, retry};
use crate::source::{Failure, SourceError, failure::FailedAt};

/// The time after which an idle connection is not used any more, unless the URI sets another. Shorter than
/// the idle timeouts of load balancers and firewalls, which are minutes: behind one that drops packets
/// silently, a call on such a connection would wait for the whole reply timeout.
const MAX_IDLE_TIME: Duration = Duration::from_secs(60);

/// The maximum number of commands at a time. Streams, which have connections of their own, do not count.
const MAX_COMMANDS: usize = 32;

/// The time that the primary may take to answer whether only the read preference is the reason of a failure. The
/// failed call has taken its whole time already.
const BLAME_TIMEOUT: Duration = Duration::from_secs(1);

/// A MongoDB deployment whose hosts are known.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) reply_timeout: Duration,
    /// The time after which no further attempt of a call begins.
    pub(super) retry_limit: Duration,
    /// The read preference as the connection string spells it, unless it is `primary`.
    read_preference: Option<String>,
    /// A permit for each command that may run.
    commands: Arc<Semaphore>,
    pub(super) can_split: Arc<OnceLock<bool>>,
    pub(super) options: Arc<OptionSupport>,
    pub(super) sharded: Arc<OnceLock<bool>>,
    pub(super) may_reply_midway: Arc<OnceLock<bool>>,
}

impl Connected {
    /// Prepares a client, without connecting.
    pub(super) fn new(
        mut options: ClientOptions,
        read_preference: Option<String>,
        settings: &MongoSettings,
    ) -> Result<Self, mongodb::error::Error> {
        options.app_name.get_or_insert_with(|| "weir".to_owned());
        let retry_limit = *options
            .server_selection_timeout
            .get_or_insert(settings.server_selection_timeout);
        options.max_idle_time.get_or_insert(MAX_IDLE_TIME);
        let pool = options.max_pool_size.unwrap_or(0);
        options.max_pool_size = Some(pool.max(settings.min_pool_capacity));
        tracing::info!(
            max_pool_size = options.max_pool_size,
            "mongodb connection pool sized"
        );
        Ok(Self {
            client: Client::with_options(options)?,
            reply_timeout: settings.reply_timeout,
            retry_limit,
            read_preference,
            commands: Arc::new(Semaphore::new(MAX_COMMANDS)),
            can_split: Arc::default(),
            options: Arc::new(OptionSupport::new(settings.ignore_removed_shards)),
            sharded: Arc::default(),
            may_reply_midway: Arc::default(),
        })
    }

    pub(super) async fn close(self) {
        self.client.shutdown().await;
    }

    /// Makes a call, and again if its connection turns out to be dead.
    pub(super) async fn retried<T, F>(&self, call: impl Fn() -> F) -> Result<T, SourceError>
    where
        F: Future<Output = Result<T, SourceError>>,
    {
        let result = retry::on_fresh_connection(self.retry_limit, call).await;
        match result {
            Err(error) if error.failed_at == FailedAt::ServerSelection => {
                Err(self.blame_read_preference(error).await)
            }
            result => result,
        }
    }

    /// Runs a command once.
    pub(super) async fn run_once(
        &self,
        database: &mongodb::Database,
        command: Document,
    ) -> Result<Document, SourceError> {
        let database = database.clone();
        self.reply_to(async move { database.run_command(command).await })
            .await
    }

    /// Waits for the reply to a command that MongoDB executes at once, for the reply timeout.
    ///
    /// The command runs in a task of its own, which a caller that goes away does not stop: the driver
    /// (mongodb 3.9.1, `cmap/worker.rs`) keeps a request for a connection in its queue when nobody waits
    /// for it any more, and removes one such request at a time, at worst one in half a second. A client
    /// that opens and cancels watches quickly would hold up all other commands for minutes. The permits
    /// bound the number of these tasks.
    pub(super) async fn reply_to<T: Send + 'static>(
        &self,
        command: impl Future<Output = Result<T, mongodb::error::Error>> + Send + 'static,
    ) -> Result<T, SourceError> {
        let deadline = Instant::now() + self.reply_timeout;
        let commands = Arc::clone(&self.commands);
        let running = async move {
            let permit = commands.acquire_owned().await;
            let running = tokio::spawn(async move {
                let _permit = permit;
                timeout_at(deadline, command).await
            });
            running.await
        };
        match timeout_at(deadline, running).await {
            Ok(Ok(Ok(reply))) => Ok(reply?),
            Ok(Err(error)) => Err(SourceError::unexpected(format!(
                "the task that runs a command failed: {error}"
            ))),
            Ok(Ok(Err(_))) | Err(_) => Err(SourceError::new(
                Failure::Transient,
                format!(
                    "no reply to a command within --upstream-reply-timeout, {} s",
                    self.reply_timeout.as_secs_f64()
                ),
            )),
        }
    }

    /// Returns the error for a failed selection of a server. If the primary answers, only the read preference
    /// can be the reason.
    async fn blame_read_preference(&self, error: SourceError) -> SourceError {
        let Some(read_preference) = &self.read_preference else {
            return error;
        };
        match timeout(BLAME_TIMEOUT, self.command(doc! { "ping": 1 })).await {
            Err(_) | Ok(Err(_)) => error,
            Ok(Ok(_)) => {
                let message = format!("no server matches {read_preference} of --mongodb-uri");
                SourceError::new(Failure::Transient, message).at(FailedAt::ReadPreference)
            }
        }
    }

    /// Checks that a server matches the read preference of the connection string. Commands go to the
    /// primary, while change streams follow the read preference.
    pub(super) async fn check_read_preference(&self) -> Result<(), SourceError> {
        let Some(criteria) = self.client.selection_criteria() else {
            return Ok(());
        };
        let admin = self.client.database("admin");
        let ping = || {
            let (admin, criteria) = (admin.clone(), criteria.clone());
            self.reply_to(async move {
                let ping = admin.run_command(doc! { "ping": 1 });
                ping.selection_criteria(criteria).await
            })
        };
        self.retried(ping).await.map(drop)
    }
}
