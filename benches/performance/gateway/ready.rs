//! The minimum that a gRPC server can do: tonic sends encoded bytes from one ring to all watchers.
//! There is no database; the parent says when events come.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf as _, BufMut as _, Bytes};
use clap::Args;
use futures::stream;
use prost::Message as _;
use tokio::sync::watch;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use weir::pb::{self, change_event::Change, document::Value, watch_response::Kind};

use super::{
    Gateway,
    service::{self, Messages, Watch},
};
use crate::{
    system::{
        commands::Commands,
        now_micros,
        process::{ChildError, Process},
    },
    upstream::{
        document::Stamp,
        pace::{self, Sender},
        source,
    },
};

/// The length of a resume token, about that of Weir's.
const TOKEN_BYTES: usize = 180;

/// The form of the messages.
#[derive(Debug, Args)]
pub struct Task {
    /// The size of a document
    #[arg(long)]
    bytes: usize,
    /// The maximum number of events in a message
    #[arg(long)]
    batch: usize,
}

/// Starts a server as a separate process.
pub fn start(bytes: usize, batch: u64) -> Gateway {
    let arguments = [
        "ready".to_owned(),
        format!("--bytes={bytes}"),
        format!("--batch={batch}"),
    ];
    let process = Process::start_role("the server of ready bytes", &arguments);
    let url = format!("http://{}", process.line_after("listening "));
    Gateway {
        process,
        url,
        admin: None,
    }
}

impl Gateway {
    /// Makes the server of ready bytes send this many events.
    pub fn burst(&mut self, events: u64, limit: std::time::Duration) -> Result<(), ChildError> {
        source::burst(&mut self.process, events, limit)
    }
}

/// The server's process, with as many threads as Weir.
pub fn run(task: &Task, commands: &mut Commands) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime needs only a few threads");
    let stamp = Stamp {
        id: 0,
        sent: 0,
        group: 0,
    };
    let document = stamp.document(task.bytes).to_vec();
    let ring = Arc::new(Ring {
        document: document.expect("the document is valid BSON"),
        batch: task.batch,
        messages: Mutex::default(),
        count: watch::Sender::new(0),
    });
    let mut sender = Arc::clone(&ring);
    runtime.spawn(async move { service::serve(Ready(ring)).await });
    runtime.block_on(pace::run_commands(commands, &mut sender));
}

struct Ring {
    /// In BSON; each event gets a stamp of its own.
    document: Vec<u8>,
    batch: usize,
    messages: Mutex<Vec<Bytes>>,
    /// The number of events.
    count: watch::Sender<usize>,
}

impl Ring {
    fn message(&self, at: usize) -> Option<Bytes> {
        let messages = self.messages.lock();
        let messages = messages.unwrap_or_else(PoisonError::into_inner);
        messages.get(at).cloned()
    }
}

impl Sender for Arc<Ring> {
    async fn send(&mut self, ids: Range<i64>) {
        let sent = now_micros().cast_signed();
        let ids: Vec<i64> = ids.collect();
        let new = ids.chunks(self.batch).map(|ids| {
            let events = ids.iter().map(|&id| event(id, sent, &self.document));
            message(Kind::Changes(pb::ChangeBatch {
                changes: events.collect(),
            }))
        });
        let new: Vec<Bytes> = new.collect();
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.extend(new);
        let count = messages.len();
        drop(messages);
        self.count.send_replace(count);
    }
}

fn event(id: i64, sent: i64, document: &[u8]) -> pb::ChangeEvent {
    let mut document = document.to_vec();
    Stamp { id, sent, group: 0 }.write(&mut document);
    let bson = Value::Bson(document.into());
    pb::ChangeEvent {
        resume_token: vec![7; TOKEN_BYTES].into(),
        operation: pb::OperationType::Insert.into(),
        change: Some(Change::Insert(pb::Insert {
            full_document: Some(pb::Document { value: Some(bson) }),
        })),
        ..pb::ChangeEvent::default()
    }
}

fn message(kind: Kind) -> Bytes {
    let message = pb::WatchResponse {
        resume_token: vec![7; TOKEN_BYTES].into(),
        kind: Some(kind),
    };
    message.encode_to_vec().into()
}

struct Ready(Arc<Ring>);

impl Watch for Ready {
    type Codec = BytesCodec;
    type Message = Bytes;

    async fn watch(self: Arc<Self>, _: pb::WatchRequest) -> Result<Messages<Bytes>, Status> {
        let ring = Arc::clone(&self.0);
        let count = ring.count.subscribe();
        let at = *count.borrow();
        let opened = message(Kind::Opened(pb::Opened::default()));
        let place = (ring, count, at, Some(opened));
        Ok(Box::pin(stream::unfold(
            place,
            |(ring, mut count, at, opened)| async move {
                if let Some(opened) = opened {
                    return Some((Ok(opened), (ring, count, at, None)));
                }
                let message = match ring.message(at) {
                    Some(message) => message,
                    None => {
                        count.wait_for(|&count| count > at).await.ok()?;
                        ring.message(at)?
                    }
                };
                Some((Ok(message), (ring, count, at + 1, None)))
            },
        )))
    }
}

/// Encodes raw bytes unchanged.
#[derive(Debug, Clone, Copy, Default)]
pub struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = Bytes;
    type Decode = pb::WatchRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(bytes.len());
        out.put(bytes);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = pb::WatchRequest;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<pb::WatchRequest>, Status> {
        let bytes = bytes.copy_to_bytes(bytes.remaining());
        let request = pb::WatchRequest::decode(bytes);
        Ok(Some(request.map_err(|error| {
            Status::invalid_argument(error.to_string())
        })?))
    }
}
