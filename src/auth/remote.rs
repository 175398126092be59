//! Keys that are fetched: on a timer, and once when a token names one that is not there.

use std::{io, time::Duration};

use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, timeout},
};

use super::RemoteKeys;
use crate::metrics::Metrics;

/// How long a fetch may take.
const FETCH_LIMIT: Duration = Duration::from_secs(10);

/// The largest set that is read, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// The pauses after fetches that failed: doubling, up to the refresh interval at most.
const PAUSES: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// How many calls may wait for a fetch at once. Further ones are judged by what is there, so that tokens
/// with made-up keys do not use up the calls that others could make.
const MAX_WAITING: usize = 100;

/// Fetches keys, one at a time.
#[derive(Debug)]
pub(super) struct Remote {
    settings: RemoteKeys,
    progress: watch::Sender<Progress>,
    wanted: Notify,
    /// When a token last had keys fetched.
    asked: std::sync::Mutex<Option<Instant>>,
    waiting: Semaphore,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    is_running: bool,
    /// How many fetches have ended.
    ended: u64,
    /// Whether the last one brought keys.
    is_good: bool,
}

impl Remote {
    /// Checks that fetching can be tried at all.
    pub(super) async fn new(settings: RemoteKeys) -> Result<Self, String> {
        let remote = Self {
            settings,
            // The first fetch begins with the server: nobody need ask for it.
            progress: watch::Sender::new(Progress {
                is_running: true,
                ..Progress::default()
            }),
            wanted: Notify::new(),
            asked: std::sync::Mutex::default(),
            waiting: Semaphore::new(MAX_WAITING),
        };
        remote.client().await?;
        Ok(remote)
    }

    /// Has keys fetched if that may be, or waits for the fetch that is under way. Gives whether what is known
    /// now is as new as this call: whether a fetch that began after it has brought keys.
    pub(super) async fn refreshed(&self) -> bool {
        let mut progress = self.progress.subscribe();
        let before = *progress.borrow();
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return false;
        };
        if !before.is_running {
            if !self.may_ask() {
                return false;
            }
            self.wanted.notify_one();
        }
        let ended = progress.wait_for(|now| now.ended > before.ended);
        // More than a fetch takes is only waited for when fetching has stopped, at the server's end.
        match timeout(FETCH_LIMIT * 2, ended).await {
            // One that was under way may have been answered before the key was there.
            Ok(Ok(now)) => now.is_good && !before.is_running,
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Whether a token may have keys fetched now. If so, none may for a while.
    fn may_ask(&self) -> bool {
        let asked = self.asked.lock();
        let mut asked = asked.unwrap_or_else(|poisoned| poisoned.into_inner());
        let now = Instant::now();
        let cooled = asked.is_none_or(|last| now.duration_since(last) >= self.settings.cooldown);
        if cooled {
            *asked = Some(now);
        }
        cooled
    }

    /// Fetches now, every interval, and when asked to. Hands each set to `apply`, which refuses it or says
    /// whether it is another than before. Never ends.
    pub(super) async fn run(
        &self,
        what: &'static str,
        metrics: &Metrics,
        mut apply: impl FnMut(&[u8]) -> Result<bool, String>,
    ) {
        let mut pause = *PAUSES.start();
        let mut told = None;
        loop {
            self.progress.send_modify(|it| it.is_running = true);
            let fetched = match timeout(FETCH_LIMIT, self.fetch()).await {
                Ok(fetched) => fetched,
                Err(_) => Err("there was no answer in time".to_owned()),
            };
            let outcome = fetched.and_then(|bytes| apply(&bytes));
            self.progress.send_modify(|it| {
                it.is_running = false;
                it.ended += 1;
                it.is_good = outcome.is_ok();
            });
            let interval = self.settings.refresh_interval;
            let wait = match outcome {
                Ok(is_new) => {
                    if is_new {
                        tracing::info!(what, "fetched");
                        metrics.count_reload(what, true);
                    }
                    told = None;
                    metrics.set_last_reload(what, true);
                    pause = *PAUSES.start();
                    interval
                }
                Err(problem) => {
                    metrics.count_reload(what, false);
                    // The same again is no news.
                    if told.as_ref() != Some(&problem) {
                        tracing::error!(
                            what,
                            problem,
                            "the keys of bearer tokens can't be fetched; those from before stay in force"
                        );
                        told = Some(problem);
                    }
                    let wait = pause.min(interval);
                    pause = (pause * 2).min(*PAUSES.end());
                    wait
                }
            };
            // Replicas that started together need not ask together.
            let wait = wait.mul_f64(0.9 + 0.2 * fastrand::f64());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<u8>, String> {
        // Anew each time: the authorities may have changed, and connections are not worth keeping.
        let client = self.client().await?;
        // Without the address, which may hold what is not for logs.
        let failed = |error: reqwest::Error| causes(&error.without_url());
        let request = client.get(&self.settings.url);
        let request = request.header("accept", "application/json");
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        if status != reqwest::StatusCode::OK {
            return Err(format!(
                "the answer is {status}; redirections are not followed"
            ));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err("the answer is larger than 1 MiB".to_owned());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    async fn client(&self) -> Result<reqwest::Client, String> {
        // Once for the process; it may be there already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .timeout(FETCH_LIMIT)
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")));
        if self.settings.url.starts_with("http://") {
            // What may go without TLS goes nowhere but here, and needs no authorities, of which a small
            // image may have none.
            builder = builder.no_proxy().tls_certs_only([]);
        }
        if let Some(path) = &self.settings.ca_file {
            let failed = |error: io::Error| format!("{}: {error}", path.display());
            let pem = tokio::fs::read(path).await.map_err(failed)?;
            let failed = |_| format!("{} holds no certificates in PEM", path.display());
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(failed)?;
            if certificates.is_empty() {
                return Err(format!("{} holds no certificates in PEM", path.display()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        builder.build().map_err(|error| causes(&error))
    }
}

/// An error with what brought it about.
fn causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}
