//! A deployment whose hosts are known: a client of the driver, and calls that survive a dead connection.

use std::{
    future::pending,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bson::{Document, doc};
use futures::future::BoxFuture;
use mongodb::{Client, ClientSession, error::Error as DriverError, options::SelectionCriteria};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{idle::IdleConnections, options::OptionSupport, retry, values::Kind};
use crate::{
    limit::{Limit, Limiter, Permit},
    source::{Failure, SourceError, failure::FailedAt},
};

/// The maximum number of commands at a time. Streams, which have connections of their own, do not count.
const MAX_COMMANDS: usize = 32;

/// The maximum number of looks for events at a time, each of which runs one command after the other.
pub(super) const MAX_LOOKS: usize = 4;

/// The time that the primary may take to answer whether only the read preference is the reason of a failure. The
/// failed call has taken its whole time already.
const BLAME_TIMEOUT: Duration = Duration::from_secs(1);

/// The time that a new stream waits for one that is being closed. It is opened then all the same: it may be what the
/// other one waits for.
const MAX_WAIT_FOR_CLOSING: Duration = Duration::from_secs(3);

/// The upper bound of [`Connected::patience`].
const MAX_PATIENCE: Duration = Duration::from_secs(2);

/// A session, of which one command at a time runs; `None` where MongoDB has none.
pub(super) type Session = Option<Arc<Mutex<ClientSession>>>;

fn commands_at_once() -> Limiter {
    Limiter::new(Limit::new("commands", MAX_COMMANDS))
}

/// A MongoDB deployment whose hosts are known, on connections of one kind.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) reply_timeout: Duration,
    /// The time after which no further attempt of a call begins.
    pub(super) retry_limit: Duration,
    /// The read preference as the connection string spells it, unless it is `primary`.
    read_preference: Option<String>,
    /// The commands that may run.
    commands: Limiter,
    /// The commands that may be sent again: the first ones may hold all other permits on connections that are
    /// dead.
    repeated_commands: Limiter,
    /// The looks for events that may run.
    looks: Limiter,
    /// The streams that may be open, with those that are being closed.
    streams: Limiter,
    /// Cancelled when the connections are closed.
    pub(super) closed: CancellationToken,
    idle: Arc<IdleConnections>,
    pub(super) can_split: Arc<OnceLock<bool>>,
    pub(super) options: Arc<OptionSupport>,
    pub(super) kind: Arc<OnceLock<Kind>>,
}

impl Connected {
    /// Returns the deployment behind a client, whose idle connections are known, on which this number of streams
    /// may be open.
    pub(super) fn new(
        (client, idle): (Client, Arc<IdleConnections>),
        streams: Limiter,
        read_preference: Option<String>,
        (reply_timeout, retry_limit): (Duration, Duration),
        options: OptionSupport,
    ) -> Self {
        Self {
            client,
            reply_timeout,
            retry_limit,
            read_preference,
            commands: commands_at_once(),
            repeated_commands: commands_at_once(),
            looks: Limiter::new(Limit::new("looks for events", MAX_LOOKS)),
            streams,
            closed: CancellationToken::new(),
            idle,
            can_split: Arc::default(),
            options: Arc::new(options),
            kind: Arc::default(),
        }
    }

    /// Returns the same deployment on the connections of another client.
    pub(super) fn with_client(
        &self,
        (client, idle): (Client, Arc<IdleConnections>),
        streams: Limiter,
    ) -> Self {
        Self {
            client,
            idle,
            streams,
            commands: commands_at_once(),
            repeated_commands: commands_at_once(),
            ..self.clone()
        }
    }

    pub(super) async fn close(self) {
        self.closed.cancel();
        self.client.shutdown().await;
    }

    /// Waits until a stream may be opened: until those that are being closed have left it a connection. The permit
    /// counts until its last clone is dropped.
    pub(super) async fn stream_permit(&self) -> Option<Arc<Permit>> {
        let permit = self.streams.acquire_within(MAX_WAIT_FOR_CLOSING).await;
        permit.ok().map(Arc::new)
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

    /// Runs a command on the database `admin`, and on another server if the first one just stepped down.
    pub(super) async fn command(&self, command: Document) -> Result<Document, SourceError> {
        let admin = self.client.database("admin");
        let run = || {
            self.answered(|| {
                let (admin, command) = (admin.clone(), command.clone());
                async move { admin.run_command(command).await }
            })
        };
        retry::on_another_server(run).await
    }

    /// Starts a session, where MongoDB has sessions.
    pub(super) async fn start_session(&self) -> Result<Session, SourceError> {
        if !self.has_sessions().await? {
            return Ok(None);
        }
        let session = self.client.start_session().causal_consistency(false);
        Ok(Some(Arc::new(Mutex::new(session.await?))))
    }

    /// Runs a command in a session, and on another server if the first one just stepped down.
    pub(super) async fn run(
        &self,
        database: &mongodb::Database,
        command: Document,
        session: &Session,
    ) -> Result<Document, SourceError> {
        let run = || self.run_once(database, command.clone(), session);
        retry::on_another_server(run).await
    }

    /// Runs a command in a session, once.
    pub(super) async fn run_once(
        &self,
        database: &mongodb::Database,
        command: Document,
        session: &Session,
    ) -> Result<Document, SourceError> {
        let (database, session) = (database.clone(), session.clone());
        self.reply_to(async move {
            let run = database.run_command(command);
            match &session {
                Some(session) => run.session(&mut *session.lock().await).await,
                None => run.await,
            }
        })
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
        command: impl Future<Output = Result<T, DriverError>> + Send + 'static,
    ) -> Result<T, SourceError> {
        let never = CancellationToken::new();
        self.reply_unless(never, &self.commands, command).await
    }

    /// Does what [`reply_to`](Self::reply_to) does with one of these permits, until `is_lost`: then the command
    /// is dropped, and the driver closes its connection.
    async fn reply_unless<T: Send + 'static>(
        &self,
        is_lost: CancellationToken,
        permits: &Limiter,
        command: impl Future<Output = Result<T, DriverError>> + Send + 'static,
    ) -> Result<T, SourceError> {
        let deadline = Instant::now() + self.reply_timeout;
        let running = async {
            let permit = permits.acquire().await;
            let running = tokio::spawn(async move {
                let _permit = permit;
                let answer = timeout_at(deadline, command);
                is_lost.run_until_cancelled_owned(answer).await
            });
            running.await
        };
        match timeout_at(deadline, running).await {
            Ok(Ok(Some(Ok(reply)))) => Ok(reply?),
            Ok(Err(error)) => Err(SourceError::unexpected(format!(
                "the task that runs a command failed: {error}"
            ))),
            Ok(Ok(Some(Err(_)) | None)) | Err(_) => Err(SourceError::new(
                Failure::Transient,
                format!(
                    "no reply to a command within --upstream-reply-timeout, {} s",
                    self.reply_timeout.as_secs_f64()
                ),
            )),
        }
    }

    /// Returns the deployment for a look for events, and the permit that the look holds. Its commands take no
    /// permits of others: MongoDB scans the oplog for them, so that many looks at once would hold up every
    /// other command.
    ///
    /// # Errors
    /// Other looks have held all permits for the whole reply timeout.
    pub(super) async fn for_look(&self) -> Result<(Self, Permit), SourceError> {
        let permit = self.looks.acquire_within(self.reply_timeout).await;
        let permit = permit.map_err(|_| {
            SourceError::new(Failure::Transient, "too many looks for events take long")
        })?;
        let own = Self {
            commands: commands_at_once(),
            repeated_commands: commands_at_once(),
            ..self.clone()
        };
        Ok((own, permit))
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
        if self.client.selection_criteria().is_none() {
            return Ok(());
        }
        let ping = || self.ping(self.client.selection_criteria());
        self.retried(|| retry::on_another_server(ping)).await
    }

    /// Pings the server that a stream would be opened on. The driver then has a connection to it that is
    /// alive, and prefers the one that was used last.
    ///
    /// # Errors
    /// Only if MongoDB can't be reached. What it says to a ping, and a late answer, are no reasons not to open a
    /// stream.
    pub(super) async fn check_connection(&self) -> Result<(), SourceError> {
        let ping = || self.ping(self.client.selection_criteria());
        let ping = retry::on_another_server(ping);
        match timeout(self.patience() * 3, ping).await {
            Ok(Err(error)) if error.failed_at != FailedAt::Reply => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns the time that a command may take which MongoDB executes at once, before its connection is
    /// suspected to be dead.
    fn patience(&self) -> Duration {
        (self.reply_timeout / 8).min(MAX_PATIENCE)
    }

    async fn ping(&self, criteria: Option<&SelectionCriteria>) -> Result<(), SourceError> {
        let pong = self.answered(|| self.sent_ping(criteria)).await;
        pong.map(drop)
    }

    fn sent_ping(
        &self,
        criteria: Option<&SelectionCriteria>,
    ) -> BoxFuture<'static, Result<Document, DriverError>> {
        let (admin, criteria) = (self.client.database("admin"), criteria.cloned());
        Box::pin(async move {
            let ping = admin.run_command(doc! { "ping": 1 });
            match criteria {
                Some(criteria) => ping.selection_criteria(criteria).await,
                None => ping.await,
            }
        })
    }

    /// Waits for the reply to a command that MongoDB executes at once, and that may be sent twice. If none
    /// comes soon, its connection may have died silently: the idle connections are checked, and it is sent on
    /// another one too. The first reply counts.
    pub(super) async fn answered<T, F>(&self, command: impl Fn() -> F) -> Result<T, SourceError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, DriverError>> + Send + 'static,
    {
        let sent_at = Instant::now();
        self.answered_or_repeated(command, self.check_idle_connections(sent_at))
            .await
    }

    /// Sends a command, and again if no reply comes soon and `check` succeeds then. The first reply counts.
    async fn answered_or_repeated<T, F>(
        &self,
        command: impl Fn() -> F,
        check: impl Future<Output = Result<(), SourceError>>,
    ) -> Result<T, SourceError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, DriverError>> + Send + 'static,
    {
        let is_lost = CancellationToken::new();
        let mut first = pin!(self.reply_unless(is_lost.clone(), &self.commands, command()));
        if let Ok(answer) = timeout(self.patience(), &mut first).await {
            return answer;
        }
        let second = async {
            if check.await.is_err() {
                // MongoDB itself may be the reason.
                pending::<()>().await;
            }
            let never = CancellationToken::new();
            self.reply_unless(never, &self.repeated_commands, command())
                .await
        };
        tokio::select! {
            answer = first => answer,
            answer = second => {
                // It holds a permit for as long as it waits.
                is_lost.cancel();
                answer
            }
        }
    }

    async fn check_idle_connections(&self, since: Instant) -> Result<(), SourceError> {
        let connected = self.clone();
        // In its own task: dropped midway with its call, it would close connections that are only slow.
        let check = tokio::spawn(async move {
            let ping = || connected.ping_each_kind();
            let limit = connected.reply_timeout;
            connected.idle.check(since, limit, ping).await
        });
        check.await.map_err(|error| {
            SourceError::unexpected(format!("the task that checks connections failed: {error}"))
        })?
    }

    /// Pings the primary, and the server that streams are opened on where that is another one.
    async fn ping_each_kind(&self) -> Result<(), SourceError> {
        if let Some(criteria) = self.client.selection_criteria() {
            let (one, other) = tokio::join!(self.sent_ping(Some(criteria)), self.sent_ping(None));
            one?;
            other?;
        } else {
            self.sent_ping(None).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;

    /// A deployment that nothing is asked of.
    async fn unused() -> Connected {
        let uri = "mongodb://127.0.0.1:1/?directConnection=true";
        let client = Client::with_uri_str(uri).await.expect("a URI");
        Connected::new(
            (client, Arc::default()),
            Limiter::new(Limit::new("streams", 1)),
            None,
            (Duration::from_secs(10), Duration::from_secs(1)),
            OptionSupport::new(false),
        )
    }

    /// A command whose first `lost` attempts get no reply. Counts those that are still awaited.
    fn command(
        lost: usize,
        attempts: &AtomicUsize,
        awaited: &Arc<()>,
    ) -> BoxFuture<'static, Result<(), DriverError>> {
        let is_lost = attempts.fetch_add(1, Ordering::Relaxed) < lost;
        let awaited = Arc::clone(awaited);
        Box::pin(async move {
            let _awaited = awaited;
            if is_lost {
                pending::<()>().await;
            }
            Ok(())
        })
    }

    /// Each of more calls than commands may run at a time meets a dead connection, and is sent again once that
    /// is known. Nothing waits on a dead connection then.
    #[tokio::test(start_paused = true)]
    async fn commands_on_dead_connections_hold_up_no_repetition() {
        let deployment = unused().await;
        let awaited = Arc::new(());
        let begin = Instant::now();
        let calls = (0..MAX_COMMANDS * 2).map(|_| async {
            let attempts = AtomicUsize::new(0);
            let sent = || command(1, &attempts, &awaited);
            let answer = deployment.answered_or_repeated(sent, async { Ok(()) });
            answer.await.is_ok()
        });
        assert!(join_all(calls).await.into_iter().all(|answered| answered));
        assert!(begin.elapsed() < deployment.patience() * 2);
        // The tasks end by themselves.
        while Arc::strong_count(&awaited) > 1 {
            tokio::task::yield_now().await;
        }
        assert!(begin.elapsed() < deployment.patience() * 2);
    }

    /// The reply may only be late: it is not given up for a second one that does not come.
    #[tokio::test(start_paused = true)]
    async fn a_late_reply_counts_unless_another_one_comes() {
        let deployment = unused().await;
        for is_alive in [false, true] {
            let attempts = AtomicUsize::new(0);
            let sent = || {
                let number = attempts.fetch_add(1, Ordering::Relaxed);
                async move {
                    if number > 0 {
                        pending::<()>().await;
                    }
                    tokio::time::sleep(MAX_PATIENCE * 2).await;
                    Ok::<_, DriverError>("late")
                }
            };
            let check = async move {
                let failed = || SourceError::new(Failure::Transient, "no ping is answered");
                is_alive.then_some(()).ok_or_else(failed)
            };
            let answer = deployment.answered_or_repeated(sent, check).await;
            assert_eq!(answer.ok(), Some("late"));
            assert_eq!(attempts.into_inner(), 1 + usize::from(is_alive));
        }
    }
}
