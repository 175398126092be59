//! A WatchService that answers the nth call with the nth script. It uses tonic's lower layer, because Weir's
//! server code sends frames that are already encoded.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::stream::{self, BoxStream, StreamExt as _};
use tonic::codegen::{BoxFuture, Service};
use tonic::{Request, Response, Status};

use crate::pb;

/// The messages and the end of one call.
#[derive(Clone)]
pub struct Script {
    messages: Vec<pb::WatchResponse>,
    end: ScriptEnd,
}

#[derive(Clone)]
enum ScriptEnd {
    /// The call fails without response headers.
    AtOnce(Status),
    /// The stream ends with this status.
    Status(Status),
    /// The stream stays open.
    Never,
}

impl Script {
    pub fn new(messages: impl IntoIterator<Item = pb::WatchResponse>, end: Status) -> Script {
        Script {
            messages: messages.into_iter().collect(),
            end: ScriptEnd::Status(end),
        }
    }

    pub fn failing(status: Status) -> Script {
        Script {
            messages: Vec::new(),
            end: ScriptEnd::AtOnce(status),
        }
    }

    pub fn open(messages: impl IntoIterator<Item = pb::WatchResponse>) -> Script {
        Script {
            messages: messages.into_iter().collect(),
            end: ScriptEnd::Never,
        }
    }

    fn into_stream(self) -> BoxStream<'static, Result<pb::WatchResponse, Status>> {
        let messages = stream::iter(self.messages.into_iter().map(Ok));
        match self.end {
            ScriptEnd::Status(status) if status.code() == tonic::Code::Ok => messages.boxed(),
            ScriptEnd::Status(status) | ScriptEnd::AtOnce(status) => {
                messages.chain(stream::iter([Err(status)])).boxed()
            }
            ScriptEnd::Never => messages.chain(stream::pending()).boxed(),
        }
    }
}

#[derive(Default)]
struct State {
    scripts: std::collections::VecDeque<Script>,
    requests: Vec<pb::WatchRequest>,
}

/// A server on a free port, which runs as long as the runtime of the test.
pub struct ScriptedServer {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl ScriptedServer {
    pub async fn start(scripts: Vec<Script>) -> ScriptedServer {
        let state = Arc::new(Mutex::new(State {
            scripts: scripts.into(),
            requests: Vec::new(),
        }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let service = ScriptedWatchService(Arc::clone(&state));
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)),
        );
        ScriptedServer { url, state }
    }

    /// Returns the requests received so far.
    pub fn requests(&self) -> Vec<pb::WatchRequest> {
        self.state.lock().unwrap().requests.clone()
    }
}

#[derive(Clone)]
struct ScriptedWatchService(Arc<Mutex<State>>);

impl tonic::server::NamedService for ScriptedWatchService {
    const NAME: &'static str = "weir.v1.WatchService";
}

impl Service<http::Request<tonic::body::Body>> for ScriptedWatchService {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let method = self.clone();
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::default();
            let mut grpc = tonic::server::Grpc::new(codec);
            Ok(grpc.server_streaming(method, request).await)
        })
    }
}

impl tonic::server::ServerStreamingService<pb::WatchRequest> for ScriptedWatchService {
    type Response = pb::WatchResponse;
    type ResponseStream =
        Pin<Box<dyn futures::Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<pb::WatchRequest>) -> Self::Future {
        let mut state = self.0.lock().unwrap();
        state.requests.push(request.into_inner());
        let script = state
            .scripts
            .pop_front()
            .unwrap_or_else(|| Script::failing(Status::aborted("the script is over")));
        ready(match &script.end {
            ScriptEnd::AtOnce(status) => Err(status.clone()),
            ScriptEnd::Status(_) | ScriptEnd::Never => Ok(Response::new(script.into_stream())),
        })
    }
}
