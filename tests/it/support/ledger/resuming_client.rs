//! A client that behaves as docs/errors.md asks: it stores the token of what it has handled, and
//! resumes from it whenever its watch ends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::{Bytes, BytesMut};
use mongodb::bson::RawDocument;
use prost::Message as _;
use prost_types::value::Kind as Value;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::codec::CompressionEncoding;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;
use weir::pb;
use weir::pb::change_event::Change;
use weir::pb::watch_response::Kind;
use weir::pb::watch_service_client::WatchServiceClient;
use weir::wire::ResumeToken;

use super::{DeliveryChecker, Ledger, ObservedChange, Time, Write, WriteFilter, writers};
use crate::support::eventually;

/// The limits for a connection, and for the opening of a watch.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
const OPEN_LIMIT: Duration = Duration::from_secs(10);
/// Pauses between attempts double from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The number of bytes that a message may have beyond `max_message_bytes` and the default limit.
const HEADROOM: usize = 1 << 20;

/// The request of a client, and its behaviour.
#[derive(Clone)]
pub struct ClientOptions {
    /// The name in failure messages.
    pub name: String,
    pub request: pb::WatchRequest,
    /// The writes that match the request.
    pub expects: WriteFilter,
    /// Stores the token of every n-th message only: the changes after it come again after a resume.
    pub store_every: u32,
    /// The HTTP/2 window, in bytes, of a stream and of the connection.
    pub window: Option<u32>,
    /// The number of silent progress intervals after which it gives up the watch.
    pub silent_intervals: u32,
    /// Takes events about no document too, see [`ResumingClient::others`]. They are a problem
    /// otherwise.
    pub takes_others: bool,
    /// Continues after an event that MongoDB cannot send, as docs/errors.md says: with the token in
    /// the error. `expects` must leave that write out.
    pub skips_undeliverable: bool,
}

impl ClientOptions {
    /// Reads as fast as possible and stores each token.
    pub fn new(
        name: &str,
        request: pb::WatchRequest,
        expects: impl Fn(&Write) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            request,
            expects: Arc::new(expects),
            store_every: 1,
            window: None,
            silent_intervals: 2,
            takes_others: false,
            skips_undeliverable: false,
        }
    }

    /// Expects all writes; the request must cover all their collections.
    pub fn all(name: &str, request: pb::WatchRequest) -> Self {
        Self::new(name, request, |_| true)
    }
}

/// The instructions of the test to a client.
#[derive(Debug, Clone, Copy)]
struct Controls {
    address: SocketAddr,
    stalled: bool,
    /// Rises by one at each [`ResumingClient::disconnect`].
    disconnects: u64,
}

/// The state of a client.
struct State {
    /// Set once the first watch has opened.
    checker: Option<DeliveryChecker>,
    /// The problem that stopped it.
    problem: Option<String>,
    /// The reason for the end of each watch.
    ends: Vec<String>,
    /// The events about no document, without repeats.
    others: Vec<OtherEvent>,
}

/// An event about no document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherEvent {
    /// MongoDB's name of the operation.
    pub operation: String,
    pub time: Time,
}

/// A client that runs until it is dropped.
pub struct ResumingClient {
    name: String,
    controls: watch::Sender<Controls>,
    state: Arc<Mutex<State>>,
    _task: AbortOnDropHandle<()>,
}

impl ResumingClient {
    /// Starts a client and returns once its watch is open: everything written from then on has to
    /// come.
    pub async fn start(ledger: &Arc<Ledger>, address: SocketAddr, options: ClientOptions) -> Self {
        let client = Self::launch(ledger, address, options);
        eventually(&format!("{} has begun", client.name), async || {
            if let Some(problem) = client.problem() {
                panic!("{problem}");
            }
            client.lock().checker.is_some()
        })
        .await;
        client
    }

    /// Starts a client without waiting for its watch to open.
    pub fn launch(ledger: &Arc<Ledger>, address: SocketAddr, options: ClientOptions) -> Self {
        let controls = Controls {
            address,
            stalled: false,
            disconnects: 0,
        };
        let (controls, commands) = watch::channel(controls);
        let state = Arc::new(Mutex::new(State {
            checker: None,
            problem: None,
            ends: Vec::new(),
            others: Vec::new(),
        }));
        let name = options.name.clone();
        let client = Client {
            ledger: Arc::clone(ledger),
            options,
            commands,
            state: Arc::clone(&state),
            pause: FIRST_PAUSE,
            messages: 0,
        };
        Self {
            name,
            controls,
            state,
            _task: AbortOnDropHandle::new(tokio::spawn(client.run())),
        }
    }

    /// Stops or continues reading. The watch stays open.
    pub fn stall(&self, stalled: bool) {
        self.controls.send_modify(|it| it.stalled = stalled);
    }

    /// Drops the watch, and resumes from the stored token.
    pub fn disconnect(&self) {
        self.controls.send_modify(|it| it.disconnects += 1);
    }

    /// Drops the watch, and resumes from the stored token at another server.
    pub fn move_to(&self, address: SocketAddr) {
        self.controls.send_modify(|it| {
            it.address = address;
            it.disconnects += 1;
        });
    }

    /// The name in failure messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of changes received.
    pub fn got(&self) -> u64 {
        self.lock().checker.as_ref().map_or(0, |it| it.got)
    }

    /// The number of resumes.
    pub fn reconnects(&self) -> u64 {
        self.lock().checker.as_ref().map_or(0, |it| it.reconnects)
    }

    /// The end of each of its watches: a reason of docs/errors.md, or what it did or saw itself.
    pub fn end_reasons(&self) -> Vec<String> {
        self.lock().ends.clone()
    }

    /// The events about no document that it received, in order and without repeats.
    pub fn others(&self) -> Vec<OtherEvent> {
        self.lock().others.clone()
    }

    /// The problem that stopped it, if there is one.
    pub fn problem(&self) -> Option<String> {
        let state = self.lock();
        let problem = state.problem.as_ref()?;
        let ends = state.ends.last();
        Some(format!("{}: {problem} (its last end: {ends:?})", self.name))
    }

    /// Describes what it still has to receive.
    pub fn missing(&self) -> Option<String> {
        let missing = match &mut self.lock().checker {
            Some(checker) => checker.missing()?,
            None => "it never began".to_owned(),
        };
        Some(format!("{}: {missing}", self.name))
    }

    /// Calls `look` with its checker, once there is one.
    pub fn with(&self, look: impl FnOnce(&DeliveryChecker)) {
        if let Some(checker) = &self.lock().checker {
            look(checker);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a watch.
enum End {
    /// It can be resumed, after a pause when something failed.
    Again(String),
    /// The test asked for a disconnect.
    Requested,
    /// It must not be resumed.
    Failed(String),
}

struct Client {
    ledger: Arc<Ledger>,
    options: ClientOptions,
    commands: watch::Receiver<Controls>,
    state: Arc<Mutex<State>>,
    /// The pause before the next attempt.
    pause: Duration,
    /// The number of messages, over all watches.
    messages: u32,
}

impl Client {
    async fn run(mut self) {
        loop {
            let disconnects = self.commands.borrow().disconnects;
            let end = {
                let mut commands = self.commands.clone();
                let broken_off = commands.wait_for(|it| it.disconnects != disconnects);
                tokio::select! {
                    end = self.watch() => end,
                    commands = broken_off => match commands {
                        Ok(_) => End::Requested,
                        // The client was dropped.
                        Err(_) => return,
                    },
                }
            };
            match end {
                End::Again(why) => {
                    self.record_end(why);
                    let longest = self.pause;
                    tokio::time::sleep(longest.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    self.pause = (longest * 2).min(LONGEST_PAUSE);
                }
                End::Requested => self.record_end("disconnected by the test".to_owned()),
                End::Failed(problem) => {
                    self.lock().problem = Some(problem);
                    return;
                }
            }
        }
    }

    /// One watch, from the connection to its end.
    async fn watch(&mut self) -> End {
        let Controls { address, .. } = *self.commands.borrow();
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .expect("an address makes a URI")
            .connect_timeout(CONNECT_LIMIT)
            .initial_stream_window_size(self.options.window)
            .initial_connection_window_size(self.options.window);
        let channel = match timeout(OPEN_LIMIT, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return End::Again(format!("no connection: {error}")),
            Err(_) => return End::Again("no connection in time".to_owned()),
        };
        let mut request = self.options.request.clone();
        request
            .progress_interval
            .get_or_insert(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            });
        let limit = usize::try_from(request.max_message_bytes).expect("it fits") + (3 << 20);
        let mut client = WatchServiceClient::new(channel)
            .max_decoding_message_size(limit + HEADROOM)
            // Where Weir allows it.
            .accept_compressed(CompressionEncoding::Zstd);
        let done = self.ledger.all_done();
        let came_back = match &mut self.lock().checker {
            Some(checker) => {
                let token = checker.resume().expect("it has had a message");
                request.start = Some(pb::watch_request::Start::ResumeToken(token));
                true
            }
            None => false,
        };
        let opening = async {
            let mut stream = client.watch(request).await?.into_inner();
            let first = stream.message().await?;
            Ok::<_, Status>((stream, first))
        };
        let (stream, first) = match timeout(OPEN_LIMIT, opening).await {
            Ok(Ok((stream, Some(first)))) => (stream, first),
            Ok(Ok((_, None))) => return End::Failed("a watch without a message".to_owned()),
            Ok(Err(status)) => return self.over(&status),
            Err(_) => return End::Again("not opened in time".to_owned()),
        };
        let Some(Kind::Opened(opened)) = &first.kind else {
            return End::Failed(format!("the first message is {first:?}"));
        };
        let interval = opened.progress_interval.unwrap_or_default();
        let interval = Duration::try_from(interval).expect("an interval is positive");
        if !came_back {
            let expects = Arc::clone(&self.options.expects);
            let checker =
                DeliveryChecker::new(&self.ledger, expects, &done, &self.ledger.all_begun());
            self.lock().checker = Some(checker);
        }
        let mut pieces = Pieces::default();
        if let Err(problem) = self.take(first, &mut pieces) {
            return End::Failed(problem);
        }
        self.read(stream, pieces, interval * self.options.silent_intervals)
            .await
    }

    async fn read(
        &mut self,
        mut stream: Streaming<pb::WatchResponse>,
        mut pieces: Pieces,
        silence: Duration,
    ) -> End {
        loop {
            // Meanwhile its window fills up, and Weir has to wait.
            if self.commands.wait_for(|it| !it.stalled).await.is_err() {
                return End::Requested;
            }
            let message = match timeout(silence, stream.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return End::Failed("the watch ended with OK".to_owned()),
                Ok(Err(status)) => return self.over(&status),
                Err(_) => return End::Again(format!("nothing for {silence:?}")),
            };
            self.pause = FIRST_PAUSE;
            if let Err(problem) = self.take(message, &mut pieces) {
                return End::Failed(problem);
            }
        }
    }

    /// Handles one message.
    fn take(&mut self, message: pb::WatchResponse, pieces: &mut Pieces) -> Result<(), String> {
        self.messages += 1;
        let store = self.messages.is_multiple_of(self.options.store_every);
        let token = message.resume_token;
        let token_time = time_of(&token)?;
        let mut guard = self.lock();
        let state = &mut *guard;
        let checker = state.checker.as_mut().expect("it has begun");
        match message.kind {
            Some(Kind::Changes(batch)) => {
                if batch.changes.is_empty() {
                    return Err("a batch without a change".to_owned());
                }
                for change in &batch.changes {
                    if self.options.takes_others
                        && let Some(other) = other_event(change)
                    {
                        checker.other(other.time)?;
                        if !state.others.contains(&other) {
                            state.others.push(other);
                        }
                    } else {
                        checker.change(&observed(change)?)?;
                    }
                }
            }
            Some(Kind::EventChunk(piece)) => {
                // The event is not delivered before its last piece.
                if !piece.last && checker.last_token() != Some(&token) {
                    return Err(format!(
                        "piece {} of an event moves the token forward",
                        piece.index
                    ));
                }
                if let Some(change) = pieces.take(piece)? {
                    checker.change(&observed(&change)?)?;
                }
            }
            Some(Kind::Progress(progress)) => {
                if let Some(time) = progress.cluster_time {
                    checker.progress((time.seconds, time.increment))?;
                }
            }
            Some(Kind::Opened(_) | Kind::StateChange(_)) => {}
            other => return Err(format!("got {other:?}")),
        }
        checker.token(&token, token_time, store)
    }

    fn over(&self, status: &Status) -> End {
        if self.options.skips_undeliverable
            && let Some((reason, token)) = position_after_undeliverable(status)
            && let Some(checker) = &mut self.lock().checker
        {
            checker.skip_to(token);
            return End::Again(reason);
        }
        match may_resume(status) {
            Ok(why) => End::Again(why),
            Err(problem) => End::Failed(problem),
        }
    }

    fn record_end(&self, why: String) {
        self.lock().ends.push(why);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reason of an end at an event that MongoDB cannot send, and the position after the event.
fn position_after_undeliverable(status: &Status) -> Option<(String, Bytes)> {
    let info = status.get_details_error_info()?;
    let token = info.metadata.get("next_token")?;
    let token = BASE64.decode(token).ok()?;
    Some((info.reason, token.into()))
}

/// Decides what docs/errors.md says about an end: `Ok` with the reason if the client may resume,
/// because the failure may pass or the connection was lost; `Err` with the problem if not.
pub fn may_resume(status: &Status) -> Result<String, String> {
    let reason = status.get_details_error_info().map(|info| info.reason);
    match (reason.as_deref(), status.code()) {
        (
            Some(
                reason @ ("UPSTREAM_UNAVAILABLE"
                | "SERVER_DRAINING"
                | "WATCH_LIMIT_EXCEEDED"
                | "DEADLINE_EXCEEDED"),
            ),
            _,
        ) => Ok(reason.to_owned()),
        (None, Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled) => {
            let message = status.message();
            Ok(format!("the connection was lost: {message}"))
        }
        _ => Err(format!("{status:?}")),
    }
}

/// The pieces of an incomplete event.
#[derive(Default)]
pub struct Pieces {
    id: u64,
    next: u32,
    data: BytesMut,
}

impl Pieces {
    /// Stores a piece; the last one completes the event.
    pub fn take(&mut self, piece: pb::EventChunk) -> Result<Option<pb::ChangeEvent>, String> {
        if piece.index == 0 {
            *self = Self {
                id: piece.id,
                ..Self::default()
            };
        }
        if (piece.id, piece.index) != (self.id, self.next) {
            let (id, index) = (piece.id, piece.index);
            let (this, next) = (self.id, self.next);
            return Err(format!(
                "piece {index} of {id} in place of {next} of {this}"
            ));
        }
        self.next += 1;
        self.data.extend_from_slice(&piece.data);
        if !piece.last {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.data).freeze();
        if whole.len() as u64 != piece.total_bytes {
            return Err(format!("{} bytes of {}", whole.len(), piece.total_bytes));
        }
        let change = pb::ChangeEvent::decode(whole);
        change.map(Some).map_err(|error| format!("{error}"))
    }
}

/// The time of a token's position, which only tests may read.
pub fn time_of(token: &Bytes) -> Result<Time, String> {
    let token = ResumeToken::decode(token, None).map_err(|error| format!("the token {error}"))?;
    let time = token.position.time();
    Ok((time.seconds, time.increment))
}

/// The event, if it is about no document.
fn other_event(change: &pb::ChangeEvent) -> Option<OtherEvent> {
    let operation = match change.change.as_ref()? {
        Change::Insert(_) | Change::Update(_) | Change::Replace(_) | Change::Delete(_) => {
            return None;
        }
        Change::Other(other) => other.operation_type.clone(),
        _ => name_of(change.operation()),
    };
    let time = change.cluster_time?;
    Some(OtherEvent {
        operation,
        time: (time.seconds, time.increment),
    })
}

/// MongoDB's name of an operation.
fn name_of(operation: pb::OperationType) -> String {
    let words = operation.as_str_name().to_lowercase();
    let mut words = words.trim_start_matches("operation_type_").split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (head, tail) = word.split_at(1);
        name + &head.to_uppercase() + tail
    })
}

/// Converts a change to the ledger's terms.
fn observed(change: &pb::ChangeEvent) -> Result<ObservedChange, String> {
    let unreadable = || format!("this is no change that a writer makes: {change:?}");
    let id = number(change.document_key.as_ref(), &["_id"]).ok_or_else(unreadable)?;
    let (writer, document) = writers::parse_id(id).ok_or_else(unreadable)?;
    let n = match change.change.as_ref().ok_or_else(unreadable)? {
        Change::Insert(insert) => number(insert.full_document.as_ref(), &["n"]),
        Change::Replace(replace) => number(replace.full_document.as_ref(), &["n"]),
        Change::Update(update) => {
            let description = update.update_description.as_ref();
            number(
                description.and_then(|it| it.updated_fields.as_ref()),
                &["n"],
            )
        }
        Change::Delete(_) => None,
        _ => return Err(unreadable()),
    };
    let time = change.cluster_time.ok_or_else(unreadable)?;
    let namespace = change.namespace.as_ref().ok_or_else(unreadable)?;
    Ok(ObservedChange {
        writer,
        number: n.and_then(|n| u32::try_from(n).ok()),
        document,
        operation: change.operation(),
        collection: namespace.collection.clone(),
        time: (time.seconds, time.increment),
    })
}

/// An integer in a document of any format, at a path of field names.
pub fn number(document: Option<&pb::Document>, path: &[&str]) -> Option<i64> {
    let (last, folders) = path.split_last()?;
    match document?.value.as_ref()? {
        pb::document::Value::Bson(bytes) => {
            let mut document = RawDocument::from_bytes(bytes).ok()?;
            for folder in folders {
                document = document.get_document(folder).ok()?;
            }
            let value = document.get(last).ok()??;
            value.as_i64().or_else(|| value.as_i32().map(i64::from))
        }
        pb::document::Value::Json(text) => {
            let document: serde_json::Value = serde_json::from_str(text).ok()?;
            let mut names = path.iter();
            let value = names.try_fold(&document, |value, name| value.get(name))?;
            let canonical = value.get("$numberLong").and_then(|it| it.as_str());
            value.as_i64().or_else(|| canonical?.parse().ok())
        }
        pb::document::Value::Struct(document) => {
            let mut document = document;
            for folder in folders {
                match document.fields.get(*folder)?.kind.as_ref()? {
                    Value::StructValue(inner) => document = inner,
                    _ => return None,
                }
            }
            match document.fields.get(*last)?.kind.as_ref()? {
                Value::NumberValue(value) => Some(*value as i64),
                _ => None,
            }
        }
        pb::document::Value::Null(_) => None,
    }
}
