//! A straightforward gateway: each watch has a typed change stream of the driver's own, with the
//! filter in a `$match`; each event is converted to the API's message and sent through a channel.
//! Its pool is sized to the watchers; with the default size it would stop at ten.

use std::sync::Arc;

use clap::Args;
use futures::StreamExt as _;
use mongodb::{
    Client,
    bson::{Bson, Document, doc},
    options::ClientOptions,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic_prost::ProstCodec;
use weir::pb::{self, field_filter::Operator, filter, watch_response::Kind};

use super::{
    Gateway, convert,
    service::{self, Messages, Watch},
};
use crate::system::process::Process;

/// The number of messages that may wait for a client.
const CHANNEL: usize = 128;

/// The source of the gateway.
#[derive(Debug, Args)]
pub struct Task {
    #[arg(long)]
    uri: String,
    /// The expected number of watchers
    #[arg(long)]
    watchers: u32,
}

/// Starts a gateway as a separate process.
pub fn start(uri: &str, watchers: u64) -> Gateway {
    let arguments = [
        "naive".to_owned(),
        format!("--uri={uri}"),
        format!("--watchers={watchers}"),
    ];
    let process = Process::start_role("the naive gateway", &arguments);
    let url = format!("http://{}", process.line_after("listening "));
    Gateway {
        process,
        url,
        admin: None,
    }
}

/// The gateway's process, with as many threads as Weir.
pub fn run(task: &Task) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime needs only a few threads");
    runtime.block_on(async {
        let mut options = ClientOptions::parse(&task.uri)
            .await
            .expect("the URI is well-formed");
        options.max_pool_size = Some(task.watchers + 10);
        let client = Client::with_options(options).expect("the options are sound");
        service::serve(Naive { client }).await;
    });
}

struct Naive {
    client: Client,
}

impl Watch for Naive {
    type Codec = ProstCodec<pb::WatchResponse, pb::WatchRequest>;
    type Message = pb::WatchResponse;

    async fn watch(
        self: Arc<Self>,
        request: pb::WatchRequest,
    ) -> Result<Messages<pb::WatchResponse>, Status> {
        let [name] = &request.collections[..] else {
            return Err(Status::unimplemented("one collection alone"));
        };
        let collection = self
            .client
            .database(&request.database)
            .collection::<Document>(name);
        let mut pipeline = Vec::new();
        for filter in &request.filters {
            pipeline.push(doc! { "$match": condition(filter)? });
        }
        let opening = collection.watch().pipeline(pipeline).await;
        let mut stream = opening.map_err(|error| Status::unavailable(error.to_string()))?;
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let opened = pb::WatchResponse {
            kind: Some(Kind::Opened(pb::Opened::default())),
            ..pb::WatchResponse::default()
        };
        sender
            .try_send(Ok(opened))
            .map_err(|_| Status::internal("the channel has room for one message"))?;
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    event = stream.next() => event,
                    () = sender.closed() => break,
                };
                let message = match event {
                    Some(Ok(event)) => convert::response(event),
                    Some(Err(error)) => Err(Status::unavailable(error.to_string())),
                    None => break,
                };
                let failed = message.is_err();
                if sender.send(message).await.is_err() || failed {
                    break;
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}

/// Translates a filter to MongoDB's query language, as far as the benchmark needs.
fn condition(filter: &pb::Filter) -> Result<Document, Status> {
    if let Some(filter::Kind::Field(field)) = &filter.kind
        && let Some(Operator::Eq(value)) = &field.operator
        && let Some(prost_types::value::Kind::NumberValue(number)) = value.kind
    {
        let path = format!("fullDocument.{}", field.path);
        return Ok(doc! { path: Bson::Double(number) });
    }
    Err(Status::unimplemented("only equality with a number"))
}
