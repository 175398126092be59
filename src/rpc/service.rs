//! The methods of `weir.v1.WatchService` as HTTP calls.
//!
//! It stands in place of tonic's generated server, whose responses are compressed by tonic, for each stream
//! anew.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, header};
use tonic::{
    Code, Status, Streaming,
    body::Body,
    metadata::{GRPC_CONTENT_TYPE, MetadataMap},
    server::{Grpc, NamedService},
};
use tower::Service;

use crate::{
    error::Error,
    pb,
    rpc::{
        codec::{RawRequestDecoder, ServerInfoCodec, decode_request},
        compression::AllowedCompression,
        frame_body::FrameBody,
        watch_api::WatchApi,
    },
    wire::Compression,
};

/// The largest request that is decoded, in bytes. The bounds on a request's fields add up to less.
/// For a larger request, only the length prefix is read.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;

/// The largest request that is decoded at once, in bytes: in some 10 µs. Larger ones wait for their turn.
const MAX_BYTES_AT_ONCE: usize = 8 << 10;

const WATCH_REQUEST: &str = "WatchRequest";

/// Serves [`WatchApi`] over HTTP.
#[derive(Debug, Clone)]
pub struct WatchServer {
    api: Arc<WatchApi>,
    compression: AllowedCompression,
}

impl WatchServer {
    /// Creates a service whose clients may use these ways to compress, the preferred one first.
    #[must_use]
    pub fn new(api: WatchApi, compression: &[Compression]) -> Self {
        Self {
            api: Arc::new(api),
            compression: AllowedCompression::new(compression),
        }
    }

    async fn watch(self, request: Request<Body>) -> Response<Body> {
        let encoding = match self.compression.of_request(request.headers()) {
            Ok(encoding) => encoding,
            Err(refusal) => return *refusal,
        };
        let compression = self.compression.of_response(request.headers());
        let (parts, body) = request.into_parts();
        let decoder = RawRequestDecoder::new(WATCH_REQUEST);
        let most = Some(MAX_REQUEST_BYTES);
        let requests = Streaming::new_request(decoder, body, encoding, most);
        let request = match self.read_one(requests, &parts.extensions).await {
            Ok(message) => {
                let metadata = MetadataMap::from_headers(parts.headers);
                tonic::Request::from_parts(metadata, parts.extensions, message)
            }
            Err(status) => return status.into_http(),
        };
        let messages = match self.api.watch(request, compression).await {
            Ok(messages) => messages,
            Err(status) => return status.into_http(),
        };
        let mut response = Response::new(Body::new(FrameBody::new(messages)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        self.compression.put(compression, headers);
        response
    }

    /// Reads the only message of a request, and waits for the request's end.
    async fn read_one(
        &self,
        mut requests: Streaming<Bytes>,
        extensions: &http::Extensions,
    ) -> Result<pb::WatchRequest, Status> {
        let missing = || Status::internal("Missing request message.");
        let request = requests.message().await?.ok_or_else(missing)?;
        let bytes = request.len();
        let decode = move || decode_request(WATCH_REQUEST, request);
        let decoded = if bytes <= MAX_BYTES_AT_ONCE {
            decode()
        } else {
            self.api.decode_in_turn(extensions, bytes, decode).await?
        };
        let decoded = decoded.map_err(|error: Error| error.into_status(""))?;
        // The decoder of the stream refuses a second message.
        while requests.message().await?.is_some() {}
        Ok(decoded)
    }

    async fn get_server_info(self, request: Request<Body>) -> Response<Body> {
        let method = tower::service_fn(move |request| {
            let api = Arc::clone(&self.api);
            async move { api.get_server_info(request).await }
        });
        let mut grpc = Grpc::new(ServerInfoCodec).max_decoding_message_size(MAX_REQUEST_BYTES);
        for encoding in self.compression.iter() {
            grpc = grpc.accept_compressed(encoding);
        }
        grpc.unary(method, request).await
    }
}

/// The path of `Watch`.
pub const WATCH_PATH: &str = "/weir.v1.WatchService/Watch";

impl NamedService for WatchServer {
    const NAME: &'static str = "weir.v1.WatchService";
}

impl Service<Request<Body>> for WatchServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                WATCH_PATH => server.watch(request).await,
                "/weir.v1.WatchService/GetServerInfo" => server.get_server_info(request).await,
                // The layer in front says what is wrong.
                _ => Status::new(Code::Unimplemented, "").into_http(),
            })
        })
    }
}
