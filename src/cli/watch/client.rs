//! A watch that reconnects.
//!
//! A token counts as handled once the text of its message has been flushed to stdout. Only then does the next
//! connection start after it, and may the resume file store it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::advice::{
    AdviceContext, RetryDecision, decide_retry, explain, reason, replacement_start_time,
};
use super::args::WatchArgs;
use super::backoff::Backoff;
use super::message::{ChunkJoiner, Message};
use super::output::Output;
use super::printer::Printer;
use super::resume_file::ResumeFile;
use super::text::{escape_controls, print_notice, root_causes, seconds};
use super::tls;
use crate::pb;
use crate::pb::watch_request::Start;
use crate::pb::watch_service_client::WatchServiceClient;

/// The time for one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for the server to open the watch, which includes MongoDB's answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// The time after which a notice says that the watch is still being opened.
const WAITING_NOTICE_DELAY: Duration = Duration::from_secs(5);
/// The time from the response headers to the first message, Opened.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Pings detect a dead connection, which TCP alone may not notice for minutes.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The default of `max_message_bytes`, in bytes.
const DEFAULT_MESSAGE_BYTES: u32 = 3 * 1024 * 1024;
/// Added to the limit, in bytes, so that the client does not fail on a message slightly above it.
const SPARE_MESSAGE_BYTES: usize = 1024 * 1024;

/// The reason for which a watch ended successfully.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatchEnd {
    /// `--limit` was reached.
    Limit,
    /// `--until` was reached.
    TimeReached,
    /// Ctrl-C or SIGTERM was received.
    Interrupted,
    /// The reader of stdout has gone.
    OutputClosed,
}

/// The reason for which one connection ended.
enum ConnectionEnd {
    End(WatchEnd),
    /// Another attempt may succeed.
    Lost {
        why: String,
        retry_after: Option<Duration>,
    },
    /// Another attempt would fail the same way. Contains the message for the user.
    Failed(String),
}

/// A watch, its position and its output.
#[derive(Debug)]
pub(super) struct Watcher {
    args: WatchArgs,
    request: pb::WatchRequest,
    resume_file: Option<ResumeFile>,
    printer: Printer,
    output: Output,
    backoff: Backoff,
    /// The token of the last message printed.
    token: Option<Bytes>,
    /// The number of changes printed so far.
    printed: u64,
    /// `true` once the watch has been open on any connection.
    was_open: bool,
}

impl Watcher {
    /// The watch starts after the token of the resume file, if there is one, otherwise as in the request.
    pub fn new(
        args: WatchArgs,
        request: pb::WatchRequest,
        resume_file: Option<ResumeFile>,
        printer: Printer,
        output: Output,
    ) -> Watcher {
        let token = resume_file.as_ref().and_then(|file| file.stored().cloned());
        if let (Some(file), Some(_)) = (&resume_file, &token) {
            let instead = if request.start.is_some() {
                " (--resume-token and --since are ignored)"
            } else {
                ""
            };
            print_notice(&format!("resuming from {}{instead}", file.path().display()));
        }
        Watcher {
            args,
            request,
            resume_file,
            printer,
            output,
            backoff: Backoff::default(),
            token,
            printed: 0,
            was_open: false,
        }
    }

    /// Watches until the end. The error is the message for the user. In both cases, the resume file contains
    /// the last handled token.
    ///
    /// Except after the reader of stdout has gone: it may have left without reading the last messages, so
    /// that nothing more is stored, and the next watch repeats them.
    pub async fn run(&mut self, shutdown: &CancellationToken) -> Result<WatchEnd, String> {
        let outcome = self.watch_across_connections(shutdown).await;
        if outcome == Ok(WatchEnd::OutputClosed) {
            return outcome;
        }
        match (outcome, self.save()) {
            (Ok(_), Err(error)) => Err(error.to_string()),
            // Not twice, if this is what ended the watch.
            (Err(why), Err(error)) if why != error.to_string() => Err(format!("{why}\n{error}")),
            (outcome, _) => outcome,
        }
    }

    async fn watch_across_connections(
        &mut self,
        shutdown: &CancellationToken,
    ) -> Result<WatchEnd, String> {
        let reader_gone = self.output.reader_gone();
        loop {
            let end = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(WatchEnd::Interrupted),
                () = reader_gone.cancelled() => return Ok(WatchEnd::OutputClosed),
                end = self.watch_once() => end,
            };
            let (why, retry_after) = match end {
                ConnectionEnd::End(end) => return Ok(end),
                ConnectionEnd::Failed(why) => return Err(why),
                ConnectionEnd::Lost { why, .. } if self.args.no_reconnect => return Err(why),
                ConnectionEnd::Lost { why, retry_after } => (why, retry_after),
            };
            let wait = self.backoff.next_wait(retry_after);
            let start = match (&self.token, self.was_open) {
                (Some(_), _) => ", from the last token",
                (None, true) => ", from the requested start",
                (None, false) => "",
            };
            print_notice(&format!("{why}; trying again in {}{start}", seconds(wait)));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(WatchEnd::Interrupted),
                () = reader_gone.cancelled() => return Ok(WatchEnd::OutputClosed),
                () = sleep(wait) => {}
            }
        }
    }

    async fn watch_once(&mut self) -> ConnectionEnd {
        let mut client = match self.connect().await {
            Ok(client) => client,
            Err(end) => return end,
        };
        let mut request = Request::new(self.request.clone());
        if let Some(token) = &self.token {
            request.get_mut().start = Some(Start::ResumeToken(token.clone()));
        }
        let credentials = &self.args.credentials;
        if let Err(why) = credentials.attach(&self.args.server, &mut request) {
            return self.setup_failed(why);
        }
        let server = &self.args.server.0;
        let opening = async {
            let answer = client.watch(request);
            tokio::pin!(answer);
            if let Ok(answer) = timeout(WAITING_NOTICE_DELAY, &mut answer).await {
                return answer;
            }
            print_notice(&format!(
                "connected to {server}; waiting for it to open the watch"
            ));
            answer.await
        };
        match timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(response)) => {
                self.was_open = true;
                self.read(response.into_inner()).await
            }
            Ok(Err(status)) if let Some(why) = tls::advice(&status) => {
                self.setup_failed(format!("{server} did not open the watch: {why}"))
            }
            Ok(Err(status)) => {
                let likely_cause = match self.was_open {
                    true => "",
                    false => tls::likely_cause(&self.args.server, &status),
                };
                let what = format!("{server} did not open the watch{likely_cause}");
                self.ended_with(&status, &what)
            }
            Err(_) => ConnectionEnd::Lost {
                why: format!(
                    "{server} did not answer within {} s",
                    OPEN_TIMEOUT.as_secs()
                ),
                retry_after: None,
            },
        }
    }

    async fn connect(&self) -> Result<WatchServiceClient<Channel>, ConnectionEnd> {
        let server = &self.args.server.0;
        let endpoint = endpoint(&self.args).map_err(|why| self.setup_failed(why))?;
        let channel = endpoint.connect().await.map_err(|error| {
            let why = format!(
                "can't reach {server} ({})",
                escape_controls(&root_causes(&error))
            );
            match tls::advice(&error) {
                Some(advice) => self.setup_failed(format!("{why}: {advice}")),
                None => ConnectionEnd::Lost {
                    why,
                    retry_after: None,
                },
            }
        })?;
        let max_message_bytes = match self.request.max_message_bytes {
            0 => DEFAULT_MESSAGE_BYTES,
            bytes => bytes,
        };
        let limit = usize::try_from(max_message_bytes).unwrap_or(usize::MAX) + SPARE_MESSAGE_BYTES;
        let client = WatchServiceClient::new(channel).max_decoding_message_size(limit);
        Ok(match self.args.compression {
            Some(compression) => client.accept_compressed(compression.encoding()),
            None => client,
        })
    }

    async fn read(&mut self, mut stream: Streaming<pb::WatchResponse>) -> ConnectionEnd {
        let mut joiner = ChunkJoiner::default();
        let mut silence_timeout = FIRST_MESSAGE_TIMEOUT;
        let mut deadline = Instant::now() + silence_timeout;
        loop {
            let save_due = self.resume_file.as_ref().and_then(ResumeFile::due);
            let next = tokio::select! {
                next = timeout_at(deadline, stream.message()) => next,
                () = sleep_until(save_due.unwrap_or(deadline)), if save_due.is_some() => {
                    if let Err(error) = self.save() {
                        return ConnectionEnd::Failed(error.to_string());
                    }
                    continue;
                }
            };
            let response = match next {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) if self.request.end_time.is_some() => {
                    return ConnectionEnd::End(WatchEnd::TimeReached);
                }
                Ok(Ok(None)) => {
                    return ConnectionEnd::Lost {
                        why: "connection lost: the stream ended without a reason".to_owned(),
                        retry_after: None,
                    };
                }
                // The next connection reads the credentials again.
                Ok(Err(status)) if reason(&status).as_deref() == Some("CREDENTIALS_EXPIRED") => {
                    return ConnectionEnd::Lost {
                        why: "the credentials have expired or were revoked".to_owned(),
                        retry_after: None,
                    };
                }
                Ok(Err(status)) => return self.ended_with(&status, "connection lost"),
                Err(_) => {
                    return ConnectionEnd::Lost {
                        why: format!(
                            "connection lost: no message for {} s",
                            silence_timeout.as_secs()
                        ),
                        retry_after: None,
                    };
                }
            };
            self.backoff.reset();
            let (message, token) = match joiner.accept(response) {
                Ok(accepted) => accepted,
                Err(broken) => return ConnectionEnd::Failed(broken.to_string()),
            };
            if let Message::Opened(opened) = &message {
                silence_timeout = silence_timeout_after(opened);
            }
            if let Some(end) = self.handle(message, token).await {
                return end;
            }
            // From here, because time spent blocked on stdout must not count as silence of the server.
            deadline = Instant::now() + silence_timeout;
        }
    }

    /// Prints a message, then moves the position past it.
    async fn handle(&mut self, mut message: Message, mut token: Bytes) -> Option<ConnectionEnd> {
        let mut reached_limit = false;
        if let (Message::Changes(changes), Some(limit)) = (&mut message, self.args.limit) {
            let left = usize::try_from(limit - self.printed).unwrap_or(usize::MAX);
            reached_limit = changes.len() >= left;
            if changes.len() > left {
                changes.truncate(left);
                if let Some(last) = changes.last() {
                    // The token of the message is past changes that are not printed.
                    token = last.resume_token.clone();
                }
            }
        }
        let mut text = String::new();
        self.printer.print(&message, &token, &mut text);
        if !text.is_empty()
            && let Err(error) = self.output.write(text).await
        {
            return Some(match error.kind() {
                io::ErrorKind::BrokenPipe => ConnectionEnd::End(WatchEnd::OutputClosed),
                _ => ConnectionEnd::Failed(format!("can't write stdout: {error}")),
            });
        }
        if let Message::Changes(changes) = &message {
            self.printed += changes.len() as u64;
        }
        if !token.is_empty() {
            if let Some(file) = &mut self.resume_file {
                file.set_token(token.clone());
            }
            self.token = Some(token);
        }
        reached_limit.then_some(ConnectionEnd::End(WatchEnd::Limit))
    }

    /// A problem with certificates or credentials is final before the watch has been open. Later it is
    /// retried, as they may be being replaced.
    fn setup_failed(&self, why: String) -> ConnectionEnd {
        if self.was_open {
            ConnectionEnd::Lost {
                why,
                retry_after: None,
            }
        } else {
            ConnectionEnd::Failed(why)
        }
    }

    fn ended_with(&mut self, status: &Status, what: &str) -> ConnectionEnd {
        if let Some(time) = replacement_start_time(status) {
            // Every message before the status has been handled.
            self.token = None;
            self.request.start = Some(Start::StartTime(time));
        }
        match decide_retry(status) {
            RetryDecision::Retry { why, retry_after } => ConnectionEnd::Lost {
                why: format!("{what}: {why}"),
                retry_after,
            },
            RetryDecision::Final => ConnectionEnd::Failed(explain(status, &self.advice_context())),
        }
    }

    fn advice_context(&self) -> AdviceContext {
        AdviceContext {
            server: self.args.server.0.clone(),
            resume_file: self.args.resume_file.clone(),
            conditions: self
                .args
                .conditions
                .iter()
                .map(|condition| condition.text.clone())
                .collect(),
            stages: self.args.stages.clone(),
        }
    }

    /// Writes the resume file. It blocks, because it is short (some hundred bytes, at most twice a second),
    /// and so that writes stay in order.
    fn save(&mut self) -> io::Result<()> {
        self.resume_file.as_mut().map_or(Ok(()), ResumeFile::write)
    }
}

/// Returns the endpoint of the server, with the current content of the TLS files.
pub(super) fn endpoint(args: &WatchArgs) -> Result<Endpoint, String> {
    let server = &args.server.0;
    let endpoint = Endpoint::from_shared(server.clone())
        .map_err(|error| format!("{server}: {}", root_causes(&error)))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    args.tls.apply(&args.server, endpoint)
}

/// Returns the time without a message after which the connection counts as lost: twice the progress interval,
/// within which the server sends at least one message, plus time for a slow network.
fn silence_timeout_after(opened: &pb::Opened) -> Duration {
    let interval = opened
        .progress_interval
        .and_then(|interval| Duration::try_from(interval).ok())
        .unwrap_or(Duration::from_secs(60));
    interval.min(Duration::from_secs(60)) * 2 + Duration::from_secs(10)
}

#[cfg(test)]
mod tests;
