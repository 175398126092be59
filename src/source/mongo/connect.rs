//! The way to a deployment: the connection string is checked at once, and a name in the DNS is asked for
//! until it is there.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use mongodb::error::{Error as DriverError, ErrorKind};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    connected::Connected,
    connections::{Connections, MongoSettings},
    uri::{CheckedUri, words},
};
use crate::source::{Failure, SourceError, failure::FailedAt};

/// The pause before the DNS is asked for the second time; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between two questions.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The reason for no connection while the DNS does not answer. Anyone may read it, so that it names no host.
const UNRESOLVED: &str = "the DNS has not resolved the name in --mongodb-uri yet";
/// The reason for no connection if the DNS has answered.
const UNUSABLE_RECORDS: &str = "can't connect as --mongodb-uri and its DNS records say";

/// Checks a connection string and the files that it names, without a network. Returns these files.
///
/// # Errors
/// A message with the problem and the right form. It contains no password.
pub async fn check_uri(uri: &str) -> Result<Vec<PathBuf>, String> {
    CheckedUri::parse(uri).await.map(|uri| uri.files())
}

/// A MongoDB deployment that change streams are opened on. While the DNS does not resolve the name of a
/// `mongodb+srv` URI, every call fails as it does while MongoDB is unreachable.
#[derive(Debug, Clone)]
pub struct MongoSource {
    state: watch::Receiver<State>,
    /// The time that a call waits for the DNS.
    wait: Duration,
    use_for: Use,
    _resolving: Option<Arc<AbortOnDropHandle<()>>>,
}

/// What streams are opened for.
#[derive(Debug, Clone, Copy)]
enum Use {
    Feeds,
    CatchUps,
}

#[derive(Debug, Clone)]
enum State {
    /// The hosts are not known, with the reason in words that may be shown to anybody.
    Unresolved(&'static str),
    Connected(Box<Connections>),
}

impl MongoSource {
    /// Checks the settings and prepares a client, without connecting. The name of a `mongodb+srv` URI is
    /// resolved in the background, and again until the DNS answers.
    ///
    /// # Errors
    /// Fails if the URI is invalid. The message contains no password.
    pub async fn new(settings: &MongoSettings) -> Result<Self, String> {
        let uri = CheckedUri::parse(&settings.uri).await?;
        let wait = uri
            .server_selection_timeout()
            .unwrap_or(settings.server_selection_timeout);
        if uri.srv_name().is_none() {
            let connected = connect(&uri, settings).await.map_err(|it| it.words)?;
            let (_, state) = watch::channel(State::Connected(Box::new(connected)));
            return Ok(Self {
                state,
                wait,
                use_for: Use::CatchUps,
                _resolving: None,
            });
        }
        let (sender, state) = watch::channel(State::Unresolved(UNRESOLVED));
        let settings = settings.clone();
        let resolving = tokio::spawn(async move {
            let report = |reason| drop(sender.send_replace(State::Unresolved(reason)));
            let connected = until_connected(|| Box::pin(connect(&uri, &settings)), report).await;
            sender.send_replace(State::Connected(Box::new(connected)));
        });
        Ok(Self {
            state,
            wait,
            use_for: Use::CatchUps,
            _resolving: Some(Arc::new(AbortOnDropHandle::new(resolving))),
        })
    }

    /// Returns the same deployment, with the connections of feeds for its streams.
    pub(super) fn used_for_feeds(&self) -> Self {
        Self {
            use_for: Use::Feeds,
            ..self.clone()
        }
    }

    /// Closes every connection, after all cursors are killed.
    pub async fn close(self) {
        let state = self.state.borrow().clone();
        if let State::Connected(connections) = state {
            connections.close().await;
        }
    }

    /// Waits until the hosts are known. Passes the reason why they are not to `report`, now and at each change.
    pub async fn resolved(&self, report: impl Fn(&'static str)) {
        let mut state = self.state.clone();
        loop {
            match *state.borrow_and_update() {
                State::Connected(_) => return,
                State::Unresolved(reason) => report(reason),
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns the deployment for commands.
    pub(super) async fn connected(&self) -> Result<Connected, SourceError> {
        Ok(self.connections().await?.others)
    }

    /// Returns the deployment for streams, and the one for all else: pings and looks take no connection of feeds.
    pub(super) async fn for_streams(&self) -> Result<(Connected, Connected), SourceError> {
        let Connections { feeds, others } = self.connections().await?;
        let streams = match self.use_for {
            Use::Feeds => feeds,
            Use::CatchUps => others.clone(),
        };
        Ok((streams, others))
    }

    /// Returns the deployment. Waits for the DNS as long as for a server.
    async fn connections(&self) -> Result<Connections, SourceError> {
        let mut state = self.state.clone();
        let resolved = state.wait_for(|state| matches!(state, State::Connected(_)));
        // Ignored: the reason is in the state.
        let _ = timeout(self.wait, resolved).await;
        match &*self.state.borrow() {
            State::Connected(connections) => Ok(connections.as_ref().clone()),
            State::Unresolved(reason) => {
                Err(SourceError::new(Failure::Transient, *reason).at(FailedAt::Dns))
            }
        }
    }
}

/// A problem of a connection string and of what the DNS says about it.
#[derive(Debug, PartialEq, Eq)]
struct ConnectError {
    /// The problem in words that may be shown to anybody.
    reason: &'static str,
    /// The driver's words, which name hosts.
    words: String,
}

impl From<DriverError> for ConnectError {
    fn from(error: DriverError) -> Self {
        // The driver has one kind for a missing answer and for one that can't be used. Where its words change,
        // only the reason is less exact.
        let is_unresolved = match &*error.kind {
            ErrorKind::DnsResolve { message, .. } => {
                !message.starts_with("TXT ") && !message.contains("does not match domain name")
            }
            _ => false,
        };
        Self {
            reason: if is_unresolved {
                UNRESOLVED
            } else {
                UNUSABLE_RECORDS
            },
            words: words(&error),
        }
    }
}

async fn connect(uri: &CheckedUri, settings: &MongoSettings) -> Result<Connections, ConnectError> {
    let options = uri.client_options().await?;
    let read_preference = uri.read_preference.clone();
    Ok(Connections::new(options, read_preference, settings)?)
}

/// Connects again until it succeeds: a name server may be away for a while, as a host may, and what the
/// records say may be corrected. Passes the reason of each failure to `report`.
async fn until_connected<'a, T>(
    connect: impl Fn() -> BoxFuture<'a, Result<T, ConnectError>>,
    report: impl Fn(&'static str),
) -> T {
    let mut pause = FIRST_PAUSE;
    let mut last_logged = None;
    loop {
        match connect().await {
            Ok(connected) => return connected,
            Err(error) => {
                report(error.reason);
                if last_logged.as_ref() != Some(&error) {
                    let ConnectError { reason, words } = &error;
                    tracing::warn!(error = words, "{reason}; trying again");
                    last_logged = Some(error);
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_dns_is_asked_again_until_it_answers_with_growing_pauses() {
        const FAILURES: u32 = 20;
        let attempts = AtomicU32::new(0);
        let begin = Instant::now();
        let connect = || -> BoxFuture<'_, Result<u32, ConnectError>> {
            Box::pin(async {
                let attempt = attempts.fetch_add(1, Ordering::Relaxed);
                (attempt >= FAILURES)
                    .then_some(attempt)
                    .ok_or(ConnectError {
                        reason: UNRESOLVED,
                        words: "no answer".to_owned(),
                    })
            })
        };
        let reports = AtomicU32::new(0);
        let report = |reason| {
            assert_eq!(reason, UNRESOLVED);
            reports.fetch_add(1, Ordering::Relaxed);
        };
        assert_eq!(until_connected(connect, report).await, FAILURES);
        assert_eq!(reports.into_inner(), FAILURES);
        let elapsed = begin.elapsed();
        assert!(elapsed > MAX_PAUSE * (FAILURES - 6), "{elapsed:?}");
        assert!(elapsed < MAX_PAUSE * FAILURES, "{elapsed:?}");
    }

    #[test]
    fn an_answer_of_the_dns_that_cannot_be_used_is_not_reported_as_a_missing_one() {
        let reason = |error: DriverError| ConnectError::from(error).reason;
        let unusable = DriverError::custom("srvMaxHosts and replicaSet");
        assert_eq!(reason(unusable), UNUSABLE_RECORDS);
    }

    /// A call that waits for the DNS is served as soon as it answers.
    #[tokio::test]
    async fn a_waiting_call_is_served_once_the_name_is_resolved() {
        let settings = MongoSettings {
            uri: "mongodb://127.0.0.1:1/?directConnection=true".to_owned(),
            max_feeds: 1,
            max_catch_ups: 1,
            server_selection_timeout: Duration::from_secs(60),
            reply_timeout: Duration::from_secs(10),
            ignore_removed_shards: false,
        };
        let source = MongoSource::new(&settings).await;
        let connected = source.expect("the URI is valid").connections().await;
        let connected = connected.expect("no name has to be resolved");
        let (sender, state) = watch::channel(State::Unresolved("not yet"));
        let waiting = MongoSource {
            state,
            wait: settings.server_selection_timeout,
            use_for: Use::CatchUps,
            _resolving: None,
        };
        let call = waiting.clone();
        let call = tokio::spawn(async move { call.connected().await.map(drop) });
        tokio::task::yield_now().await;
        sender.send_replace(State::Connected(Box::new(connected)));
        assert!(call.await.expect("it runs").is_ok());

        let (_sender, state) = watch::channel(State::Unresolved("not yet"));
        let waiting = MongoSource {
            state,
            wait: Duration::ZERO,
            use_for: Use::CatchUps,
            _resolving: None,
        };
        let error = waiting.connected().await.expect_err("there is no answer");
        assert_eq!(error.failure, Failure::Transient);
        assert_eq!(error.message, "not yet");
    }
}
