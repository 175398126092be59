//! A gRPC server of the Watch API's streaming method with any codec.
//!
//! The library's generated server writes Weir's own frames, which the other gateways don't have.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::Stream;
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, CompressionEncoding},
    codegen::http,
    server::{Grpc, NamedService, ServerStreamingService},
    transport::{Server, server::TcpIncoming},
};
use weir::pb;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The messages of one watch.
pub type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// An implementation of such a server.
pub trait Watch: Send + Sync + 'static {
    /// The codec of the messages.
    type Codec: Codec<Encode = Self::Message, Decode = pb::WatchRequest> + Default + Send;
    /// The type that the codec encodes.
    type Message: Send + 'static;

    /// Opens a watch.
    fn watch(
        self: Arc<Self>,
        request: pb::WatchRequest,
    ) -> impl Future<Output = Result<Messages<Self::Message>, Status>> + Send;
}

/// Serves on a port chosen by the kernel, and prints it.
pub async fn serve(watch: impl Watch) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port is free");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    println!("listening {address}");
    Server::builder()
        .add_service(WatchServer(Arc::new(watch)))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await
        .expect("the server serves");
}

struct WatchServer<W>(Arc<W>);

impl<W> Clone for WatchServer<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W> NamedService for WatchServer<W> {
    const NAME: &'static str = "weir.v1.WatchService";
}

impl<W: Watch> tower::Service<http::Request<Body>> for WatchServer<W> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = Method(Arc::clone(&self.0));
        Box::pin(async move {
            if !request.uri().path().ends_with("/Watch") {
                return Ok(Status::unimplemented("Watch alone").into_http());
            }
            // Only where the client accepts it.
            let mut grpc = Grpc::new(W::Codec::default())
                .send_compressed(CompressionEncoding::Gzip)
                .send_compressed(CompressionEncoding::Zstd);
            Ok(grpc.server_streaming(method, request).await)
        })
    }
}

struct Method<W>(Arc<W>);

impl<W: Watch> ServerStreamingService<pb::WatchRequest> for Method<W> {
    type Response = W::Message;
    type ResponseStream = Messages<W::Message>;
    type Future = BoxFuture<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<pb::WatchRequest>) -> Self::Future {
        let watch = Arc::clone(&self.0);
        Box::pin(async move {
            let messages = watch.watch(request.into_inner()).await?;
            Ok(Response::new(messages))
        })
    }
}
