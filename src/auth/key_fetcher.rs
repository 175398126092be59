//! Fetches key sets from a URL: periodically, and when a token names an unknown key.

use std::time::Duration;

use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use super::settings::RemoteKeys;
use crate::{
    files::BoundedFile,
    limit::{Limit, Limiter},
    metrics::Metrics,
};

/// The time limit of a fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum size of a key set, in bytes.
const MAX_RESPONSE_BYTES: usize = 1 << 20;

/// The pauses after failed fetches. They double, up to the refresh interval.
const RETRY_PAUSES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(60);

/// The maximum number of calls that wait for a fetch at once. Further calls are verified with the current
/// keys, so that tokens with made-up keys do not block other calls.
const MAX_WAITERS: usize = 100;

/// Fetches keys, one fetch at a time.
#[derive(Debug)]
pub(super) struct KeyFetcher {
    settings: RemoteKeys,
    ca_file: Option<BoundedFile>,
    state: watch::Sender<FetchState>,
    fetch_requested: Notify,
    /// The time of the last fetch that a token caused.
    last_requested: std::sync::Mutex<Option<Instant>>,
    waiters: Limiter,
}

#[derive(Debug, Clone, Copy, Default)]
struct FetchState {
    is_running: bool,
    /// The number of completed fetches.
    completed: u64,
    /// `true` if the last fetch succeeded.
    succeeded: bool,
}

impl KeyFetcher {
    /// Creates a fetcher, and checks that its HTTP client can be built.
    pub(super) async fn new(settings: RemoteKeys) -> Result<Self, String> {
        let fetcher = Self {
            ca_file: settings.ca_file.clone().map(BoundedFile::new),
            settings,
            // The first fetch starts with the server, without a request.
            state: watch::Sender::new(FetchState {
                is_running: true,
                ..FetchState::default()
            }),
            fetch_requested: Notify::new(),
            last_requested: std::sync::Mutex::default(),
            waiters: Limiter::new(Limit::new("waiting calls", MAX_WAITERS)),
        };
        fetcher.client().await?;
        Ok(fetcher)
    }

    /// Waits for the running fetch, or starts one if the cooldown allows it. Returns whether the keys are as
    /// recent as this call, that is, whether a fetch that started after it has succeeded.
    pub(super) async fn refresh(&self) -> bool {
        let mut state = self.state.subscribe();
        let before = *state.borrow();
        let Ok(_waiter) = self.waiters.try_acquire() else {
            return false;
        };
        if !before.is_running {
            if !self.start_cooldown() {
                return false;
            }
            self.fetch_requested.notify_one();
        }
        let completed = state.wait_for(|now| now.completed > before.completed);
        // The timeout only applies when fetching has stopped because the server is shutting down.
        match timeout(FETCH_TIMEOUT * 2, completed).await {
            // A fetch that was already running may have been answered before the key existed.
            Ok(Ok(now)) => now.succeeded && !before.is_running,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Returns whether a token may cause a fetch now. If so, starts the cooldown.
    fn start_cooldown(&self) -> bool {
        let last_requested = self.last_requested.lock();
        let mut last_requested = last_requested.unwrap_or_else(|poisoned| poisoned.into_inner());
        let now = Instant::now();
        let may_fetch =
            last_requested.is_none_or(|last| now.duration_since(last) >= self.settings.cooldown);
        if may_fetch {
            *last_requested = Some(now);
        }
        may_fetch
    }

    /// Fetches the keys now, at every interval, and on request. Passes each set to `apply`, which returns an
    /// error for an invalid set, and otherwise whether the set is new. Never returns.
    pub(super) async fn run(
        &self,
        what: &'static str,
        metrics: &Metrics,
        mut apply: impl FnMut(&[u8]) -> Result<bool, String>,
    ) {
        let mut pause = *RETRY_PAUSES.start();
        let mut last_logged = None;
        loop {
            self.state.send_modify(|it| it.is_running = true);
            let fetched = match timeout(FETCH_TIMEOUT, self.fetch()).await {
                Ok(fetched) => fetched,
                Err(_) => Err("the server did not answer in time".to_owned()),
            };
            let outcome = fetched.and_then(|bytes| apply(&bytes));
            self.state.send_modify(|it| {
                it.is_running = false;
                it.completed += 1;
                it.succeeded = outcome.is_ok();
            });
            let interval = self.settings.refresh_interval;
            let wait = match outcome {
                Ok(is_new) => {
                    if is_new {
                        tracing::info!(what, "keys fetched");
                        metrics.count_reload(what, true);
                    }
                    last_logged = None;
                    metrics.set_last_reload(what, true);
                    pause = *RETRY_PAUSES.start();
                    interval
                }
                Err(problem) => {
                    metrics.count_reload(what, false);
                    // Repeated problems are logged once.
                    if last_logged.as_ref() != Some(&problem) {
                        tracing::error!(
                            what,
                            problem,
                            "can't get valid keys from --jwks-url; the previous ones stay in force"
                        );
                        last_logged = Some(problem);
                    }
                    let wait = pause.min(interval);
                    pause = (pause * 2).min(*RETRY_PAUSES.end());
                    wait
                }
            };
            // Jitter, so that replicas that started together do not fetch together.
            let wait = wait.mul_f64(0.9 + 0.2 * fastrand::f64());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.fetch_requested.notified() => {}
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<u8>, String> {
        // A new client for each fetch: the authorities may have changed, and the connection would be idle
        // until the next fetch.
        let client = self.client().await?;
        // Without the URL, which may contain secrets.
        let failed = |error: reqwest::Error| with_causes(&error.without_url());
        let request = client.get(&self.settings.url);
        let request = request.header("accept", "application/json");
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        if status != reqwest::StatusCode::OK {
            return Err(format!(
                "the server answered {status}, not 200 OK (redirects are not followed)"
            ));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
                return Err("the answer is larger than 1 MiB".to_owned());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    async fn client(&self) -> Result<reqwest::Client, String> {
        // Fails if the process already has a provider, which is then the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .timeout(FETCH_TIMEOUT)
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")));
        if self.settings.url.starts_with("http://") {
            // Plain http is allowed only on this machine. It needs no authorities, which a small image may
            // not have.
            builder = builder.no_proxy().tls_certs_only([]);
        }
        if let Some(file) = &self.ca_file {
            let (path, pem) = (file.path(), file.read().await?);
            let failed = |_| format!("{} contains no certificate (PEM)", path.display());
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(failed)?;
            if certificates.is_empty() {
                return Err(format!("{} contains no certificate (PEM)", path.display()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        builder.build().map_err(|error| with_causes(&error))
    }
}

/// Formats an error with its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}
