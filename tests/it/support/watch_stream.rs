//! One open watch, as a client sees it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{IntoRequest, Status, Streaming};
use tonic_types::{ErrorInfo, StatusExt as _};
use weir::pb;
use weir::pb::watch_response::Kind;
use weir::pb::watch_service_client::WatchServiceClient;

use super::within;

/// The HTTP/2 window of a narrow client.
const NARROW: u32 = 32 << 10;

/// An open watch.
pub struct WatchStream {
    /// The first message.
    pub opened: pb::Opened,
    /// The response's headers.
    pub headers: tonic::metadata::MetadataMap,
    stream: Streaming<pb::WatchResponse>,
    /// Changes of the last batch that the test has not taken yet.
    changes: VecDeque<pb::ChangeEvent>,
    /// The pieces of an incomplete event.
    chunks: Vec<pb::EventChunk>,
    /// The token of the last message.
    token: Bytes,
}

impl WatchStream {
    /// Sends the request and waits for `Opened`.
    pub async fn open(
        client: &mut WatchServiceClient<Channel>,
        request: impl IntoRequest<pb::WatchRequest>,
    ) -> Result<Self, Status> {
        let response = within("an answer to Watch", client.watch(request)).await?;
        let headers = response.metadata().clone();
        let mut stream = response.into_inner();
        let first = within("the first message", stream.message()).await?;
        let first = first.expect("a watch begins with a message");
        assert!(!first.resume_token.is_empty(), "Opened carries no token");
        let Some(Kind::Opened(opened)) = first.kind else {
            panic!("a watch begins with Opened, not with {first:?}");
        };
        Ok(Self {
            opened,
            headers,
            stream,
            changes: VecDeque::new(),
            chunks: Vec::new(),
            token: first.resume_token,
        })
    }

    /// Opens a watch on its own connection with a small window: unread, it takes 32 KiB, plus the
    /// 400 KiB that HTTP/2 buffers for it in Weir.
    pub async fn narrow(address: SocketAddr, request: impl IntoRequest<pb::WatchRequest>) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint
            .expect("an address makes a URI")
            .initial_stream_window_size(NARROW)
            .initial_connection_window_size(NARROW);
        let channel = within("a connection", endpoint.connect()).await;
        let channel = channel.expect("Weir accepts connections");
        let opened = Self::open(&mut WatchServiceClient::new(channel), request).await;
        opened.expect("the watch opens")
    }

    /// The token of the last message; an event's own token is in the event.
    pub fn token(&self) -> Bytes {
        self.token.clone()
    }

    /// The next message, or `Ok(None)` when the stream ended with OK.
    ///
    /// # Errors
    /// The status with which the stream ended.
    pub async fn try_next(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        assert!(
            self.changes.is_empty(),
            "changes of the last batch were not taken: {:?}",
            self.changes
        );
        self.receive("the next message").await
    }

    /// The next message; the test fails when the stream ends instead.
    pub async fn next(&mut self) -> pb::WatchResponse {
        let message = self.try_next().await;
        unless_ended("the next message", message)
    }

    /// The next change. Skips progress and state changes, unpacks batches and joins the pieces of a
    /// large event.
    pub async fn next_change(&mut self) -> pb::ChangeEvent {
        // One limit for all of it: with a limit for each message, progress alone would keep this
        // waiting forever.
        let whole = async {
            loop {
                if let Some(change) = self.changes.pop_front() {
                    return change;
                }
                let message = self.receive("the next change").await;
                match unless_ended("the next change", message).kind {
                    Some(Kind::Changes(batch)) => {
                        assert!(!batch.changes.is_empty(), "a batch holds no change");
                        self.chunks.clear();
                        self.changes = batch.changes.into();
                    }
                    Some(Kind::EventChunk(chunk)) => self.take_chunk(chunk),
                    Some(Kind::Progress(_) | Kind::StateChange(_)) => {}
                    other => panic!("awaited the next change, got {other:?}"),
                }
            }
        };
        within("the next change", whole).await
    }

    /// The next `count` changes.
    pub async fn changes(&mut self, count: usize) -> Vec<pb::ChangeEvent> {
        let mut changes = Vec::with_capacity(count);
        for _ in 0..count {
            changes.push(self.next_change().await);
        }
        changes
    }

    /// Reads messages until `wanted` accepts one. A change on the way fails the test; progress and
    /// state changes are skipped.
    pub async fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&Kind) -> Option<T>) -> T {
        assert!(self.changes.is_empty(), "changes wait before {what}");
        let whole = async {
            loop {
                let message = self.receive(what).await;
                let kind = unless_ended(what, message).kind;
                let Some(kind) = kind else { continue };
                if let Some(found) = wanted(&kind) {
                    return found;
                }
                assert!(
                    matches!(kind, Kind::Progress(_) | Kind::StateChange(_)),
                    "awaited {what}, got {kind:?}"
                );
            }
        };
        within(what, whole).await
    }

    /// The next progress.
    pub async fn next_progress(&mut self) -> pb::Progress {
        self.until("progress", |kind| match kind {
            Kind::Progress(progress) => Some(*progress),
            _ => None,
        })
        .await
    }

    /// Waits until the watch reports this state.
    pub async fn next_state(&mut self, state: pb::WatchState) -> pb::StateChange {
        self.until(state.as_str_name(), |kind| match kind {
            Kind::StateChange(change) if change.state() == state => Some(change.clone()),
            _ => None,
        })
        .await
    }

    /// The message that says that the watched collection or database is gone.
    pub async fn next_invalidated(&mut self) -> pb::Invalidated {
        self.until("Invalidated", |kind| match kind {
            Kind::Invalidated(invalidated) => Some(invalidated.clone()),
            _ => None,
        })
        .await
    }

    /// Reads to the end and returns the status, OK included.
    pub async fn end(&mut self) -> Status {
        let whole = async {
            loop {
                match self.receive("the end of the watch").await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok(""),
                    Err(status) => return status,
                }
            }
        };
        within("the end of the watch", whole).await
    }

    async fn receive(&mut self, what: &str) -> Result<Option<pb::WatchResponse>, Status> {
        let message = within(what, self.stream.message()).await?;
        if let Some(message) = &message {
            assert!(
                !message.resume_token.is_empty(),
                "a message carries no token: {message:?}"
            );
            self.token = message.resume_token.clone();
        }
        Ok(message)
    }

    /// Stores a piece; the last one completes the event.
    fn take_chunk(&mut self, chunk: pb::EventChunk) {
        if chunk.index == 0 {
            // The event was read again and may have changed.
            self.chunks.clear();
        }
        assert_eq!(
            usize::try_from(chunk.index).ok(),
            Some(self.chunks.len()),
            "a piece is missing or comes twice"
        );
        if let Some(first) = self.chunks.first() {
            assert_eq!(first.id, chunk.id, "pieces of two events are mixed");
        }
        let (last, total_bytes) = (chunk.last, chunk.total_bytes);
        self.chunks.push(chunk);
        if last {
            let mut whole = BytesMut::new();
            for piece in self.chunks.drain(..) {
                whole.extend_from_slice(&piece.data);
            }
            assert_eq!(
                u64::try_from(whole.len()).ok(),
                Some(total_bytes),
                "the pieces do not add up to the announced size"
            );
            let event = pb::ChangeEvent::decode(whole.freeze());
            self.changes
                .push_back(event.expect("the pieces make an event"));
        }
    }
}

fn unless_ended(
    what: &str,
    message: Result<Option<pb::WatchResponse>, Status>,
) -> pb::WatchResponse {
    match message {
        Ok(Some(message)) => message,
        Ok(None) => panic!("awaited {what}, but the watch ended with OK"),
        Err(status) => panic!("awaited {what}, but the watch ended: {status:?}"),
    }
}

/// The ErrorInfo of a status; the test fails when it has none or it is not Weir's.
pub fn error_info(status: &Status) -> ErrorInfo {
    let details = status.get_error_details();
    let info = details.error_info();
    let info = info.unwrap_or_else(|| panic!("the status carries no ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "weir", "the ErrorInfo is of another domain");
    info.clone()
}

/// The reason of a status, such as `WATCH_INVALIDATED`.
pub fn error_reason(status: &Status) -> String {
    error_info(status).reason
}
