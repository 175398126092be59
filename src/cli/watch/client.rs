//! A watch that outlives its connections.
//!
//! A token counts as handled once the text of its message has been flushed to stdout. From then
//! on the next connection starts after it, and the resume file may hold it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use super::advice::{Facts, Verdict, explain, judge, reason, start_instead};
use super::args::WatchArgs;
use super::backoff::Backoff;
use super::message::{Joiner, Message};
use super::output::Output;
use super::printer::Printer;
use super::resume_file::ResumeFile;
use super::text::{causes, say, seconds, visible};
use super::tls;
use crate::pb;
use crate::pb::watch_request::Start;
use crate::pb::watch_service_client::WatchServiceClient;

/// How long one attempt to connect may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long the server may take to open the watch, which waits for MongoDB's answer.
const OPEN_WITHIN: Duration = Duration::from_secs(60);
/// After this long without an answer to the opening, the user is told what is being waited for.
const TELL_AFTER: Duration = Duration::from_secs(5);
/// How long the first message, Opened, may take once the watch is open.
const FIRST_MESSAGE_WITHIN: Duration = Duration::from_secs(30);
/// Pings find out that the other end is gone when TCP alone would not notice for minutes.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// What the server sends at most when no limit is asked for, in bytes.
const DEFAULT_MESSAGE_BYTES: u32 = 3 * 1024 * 1024;
/// Added to the limit asked for: a client that refuses what is only just over it would fail where
/// it could go on.
const SPARE_MESSAGE_BYTES: usize = 1024 * 1024;

/// Why a watch ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// `--limit` events were printed.
    Limit,
    /// `--until` was reached.
    TimeReached,
    /// Ctrl-C or SIGTERM.
    Interrupted,
    /// Nobody reads stdout any more.
    OutputClosed,
}

/// Why one connection ended.
enum Stop {
    End(End),
    /// Worth another attempt.
    Lost {
        why: String,
        after: Option<Duration>,
    },
    /// Another attempt would bring the same. Holds the words for the user.
    Failed(String),
}

/// A watch, its place, and where it prints.
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
    /// The changes printed so far.
    printed: u64,
    /// Whether the watch has ever been open.
    was_open: bool,
}

impl Watcher {
    /// Starts after the resume file's token where there is one, else where the request says.
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
                " (the start given on the command line is not used)"
            } else {
                ""
            };
            say(&format!("going on from {}{instead}", file.path().display()));
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

    /// Watches until there is an end; the error is what to tell the user. In either case the
    /// resume file holds the last token handled.
    pub async fn run(&mut self, shutdown: &CancellationToken) -> Result<End, String> {
        let outcome = self.watch_across_connections(shutdown).await;
        match (outcome, self.save()) {
            (Ok(_), Err(error)) => Err(error.to_string()),
            (Err(why), Err(error)) => Err(format!("{why}\n{error}")),
            (outcome, Ok(())) => outcome,
        }
    }

    async fn watch_across_connections(
        &mut self,
        shutdown: &CancellationToken,
    ) -> Result<End, String> {
        loop {
            let stop = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(End::Interrupted),
                stop = self.watch_once() => stop,
            };
            let (why, after) = match stop {
                Stop::End(end) => return Ok(end),
                Stop::Failed(why) => return Err(why),
                Stop::Lost { why, .. } if self.args.no_reconnect => return Err(why),
                Stop::Lost { why, after } => (why, after),
            };
            let wait = self.backoff.next_wait(after);
            let place = match (&self.token, self.was_open) {
                (Some(_), _) => ", from the last token",
                (None, true) => ", from the start asked for",
                (None, false) => "",
            };
            say(&format!("{why}; trying again in {}{place}", seconds(wait)));
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(End::Interrupted),
                () = sleep(wait) => {}
            }
        }
    }

    async fn watch_once(&mut self) -> Stop {
        let mut client = match self.connect().await {
            Ok(client) => client,
            Err(stop) => return stop,
        };
        let mut request = Request::new(self.request.clone());
        if let Some(token) = &self.token {
            request.get_mut().start = Some(Start::ResumeToken(token.clone()));
        }
        let credentials = &self.args.credentials;
        if let Err(why) = credentials.show(&self.args.server, &mut request) {
            return self.refused(why);
        }
        let server = &self.args.server.0;
        let opening = async {
            let answer = client.watch(request);
            tokio::pin!(answer);
            if let Ok(answer) = timeout(TELL_AFTER, &mut answer).await {
                return answer;
            }
            say(&format!(
                "{server} is there; waiting for it to open the watch"
            ));
            answer.await
        };
        match timeout(OPEN_WITHIN, opening).await {
            Ok(Ok(response)) => {
                self.was_open = true;
                self.read(response.into_inner()).await
            }
            Ok(Err(status)) if let Some(why) = tls::advice(&status) => {
                self.refused(format!("{server} did not open the watch: {why}"))
            }
            Ok(Err(status)) => {
                let guess = match self.was_open {
                    true => "",
                    false => tls::guess(&self.args.server, &status),
                };
                let what = format!("{server} did not open the watch{guess}");
                self.ended_with(&status, &what)
            }
            Err(_) => Stop::Lost {
                why: format!("{server} did not answer within {} s", OPEN_WITHIN.as_secs()),
                after: None,
            },
        }
    }

    async fn connect(&self) -> Result<WatchServiceClient<Channel>, Stop> {
        let server = &self.args.server.0;
        let endpoint = endpoint(&self.args).map_err(|why| self.refused(why))?;
        let channel = endpoint.connect().await.map_err(|error| {
            let why = format!("cannot reach {server} ({})", visible(&causes(&error)));
            match tls::advice(&error) {
                Some(advice) => self.refused(format!("{why}: {advice}")),
                None => Stop::Lost { why, after: None },
            }
        })?;
        let asked_for = match self.request.max_message_bytes {
            0 => DEFAULT_MESSAGE_BYTES,
            bytes => bytes,
        };
        let limit = usize::try_from(asked_for).unwrap_or(usize::MAX) + SPARE_MESSAGE_BYTES;
        Ok(WatchServiceClient::new(channel).max_decoding_message_size(limit))
    }

    async fn read(&mut self, mut stream: Streaming<pb::WatchResponse>) -> Stop {
        let mut joiner = Joiner::default();
        let mut longest_silence = FIRST_MESSAGE_WITHIN;
        let mut deadline = Instant::now() + longest_silence;
        loop {
            let save_due = self.resume_file.as_ref().and_then(ResumeFile::due);
            let next = tokio::select! {
                next = timeout_at(deadline, stream.message()) => next,
                () = sleep_until(save_due.unwrap_or(deadline)), if save_due.is_some() => {
                    if let Err(error) = self.save() {
                        return Stop::Failed(error.to_string());
                    }
                    continue;
                }
            };
            let response = match next {
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) if self.request.end_time.is_some() => {
                    return Stop::End(End::TimeReached);
                }
                Ok(Ok(None)) => {
                    return Stop::Lost {
                        why: "connection lost: the stream ended without a reason".to_owned(),
                        after: None,
                    };
                }
                // What is shown is read again for the next connection.
                Ok(Err(status)) if reason(&status).as_deref() == Some("CREDENTIALS_EXPIRED") => {
                    return Stop::Lost {
                        why: "the credentials have expired or were withdrawn".to_owned(),
                        after: None,
                    };
                }
                Ok(Err(status)) => return self.ended_with(&status, "connection lost"),
                Err(_) => {
                    return Stop::Lost {
                        why: format!(
                            "connection lost: nothing came for {} s",
                            longest_silence.as_secs()
                        ),
                        after: None,
                    };
                }
            };
            self.backoff.reset();
            let (message, token) = match joiner.accept(response) {
                Ok(accepted) => accepted,
                Err(broken) => return Stop::Failed(broken.to_string()),
            };
            if let Message::Opened(opened) = &message {
                longest_silence = silence_to_bear(opened);
            }
            if let Some(stop) = self.handle(message, token).await {
                return stop;
            }
            // Counted from here: while stdout blocks, the server is not to blame for silence.
            deadline = Instant::now() + longest_silence;
        }
    }

    /// Prints a message and then moves the place behind it.
    async fn handle(&mut self, mut message: Message, mut token: Bytes) -> Option<Stop> {
        let mut reached_limit = false;
        if let (Message::Changes(changes), Some(limit)) = (&mut message, self.args.limit) {
            let left = usize::try_from(limit - self.printed).unwrap_or(usize::MAX);
            reached_limit = changes.len() >= left;
            if changes.len() > left {
                changes.truncate(left);
                if let Some(last) = changes.last() {
                    // The message's token lies behind changes that are not printed.
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
                io::ErrorKind::BrokenPipe => Stop::End(End::OutputClosed),
                _ => Stop::Failed(format!("stdout cannot be written: {error}")),
            });
        }
        if let Message::Changes(changes) = &message {
            self.printed += changes.len() as u64;
        }
        if !token.is_empty() {
            if let Some(file) = &mut self.resume_file {
                file.note(token.clone());
            }
            self.token = Some(token);
        }
        reached_limit.then_some(Stop::End(End::Limit))
    }

    /// What certificates or credentials have brought to its end before it began is for the user to put
    /// right; later, somebody may just be changing them.
    fn refused(&self, why: String) -> Stop {
        if self.was_open {
            Stop::Lost { why, after: None }
        } else {
            Stop::Failed(why)
        }
    }

    fn ended_with(&mut self, status: &Status, what: &str) -> Stop {
        if let Some(time) = start_instead(status) {
            // All that came before the status has been handled.
            self.token = None;
            self.request.start = Some(Start::StartTime(time));
        }
        match judge(status) {
            Verdict::Retry { why, after } => Stop::Lost {
                why: format!("{what}: {why}"),
                after,
            },
            Verdict::Final => Stop::Failed(explain(status, &self.facts())),
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            server: self.args.server.0.clone(),
            resume_file: self.args.resume_file.clone(),
            conditions: self
                .args
                .conditions
                .iter()
                .map(|condition| condition.text.clone())
                .collect(),
        }
    }

    /// A write of some hundred bytes, at most twice a second: done in place, so that no two
    /// writes can overtake one another.
    fn save(&mut self) -> io::Result<()> {
        self.resume_file.as_mut().map_or(Ok(()), ResumeFile::write)
    }
}

/// How the server is reached, as the command line has it and the files that it names hold now.
pub(super) fn endpoint(args: &WatchArgs) -> Result<Endpoint, String> {
    let server = &args.server.0;
    let endpoint = Endpoint::from_shared(server.clone())
        .map_err(|error| format!("{server}: {}", causes(&error)))?
        .connect_timeout(CONNECT_WITHIN)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWERED_WITHIN)
        .keep_alive_while_idle(true);
    args.tls.apply(&args.server, endpoint)
}

/// The server speaks at least once every progress interval. Twice that, and time for a slow
/// network, before silence counts as a lost connection.
fn silence_to_bear(opened: &pb::Opened) -> Duration {
    let interval = opened
        .progress_interval
        .and_then(|interval| Duration::try_from(interval).ok())
        .unwrap_or(Duration::from_secs(60));
    interval.min(Duration::from_secs(60)) * 2 + Duration::from_secs(10)
}

#[cfg(test)]
mod tests;
