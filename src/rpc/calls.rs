//! What holds for every call, before a service has it: how many there may be, how long its request
//! may take, and that its refusal has a reason.
//!
//! tonic reads a request before it calls the service, and waits for it without limit; a call that is
//! opened and never spoken in would be held for ever.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::{error::Error, metrics::Metrics, rpc::strict::violation};

/// Calls beyond the watches that may be open: those that are being opened, or ask about the server.
pub const SPARE_CALLS: usize = 1_000;

/// Calls of the services beside Weir's own that may be open: health checks, and streams (of health, of
/// reflection), each by themselves. Strangers may check the health, and a stream of it has no end: they must
/// not take the room of watches, nor those streams that of checks.
const SIDE_CALLS: usize = 500;

/// Where the health is asked for once.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Bounds the calls that pass it.
#[derive(Debug, Clone)]
pub struct CallGuard {
    watching: Room,
    checks: Room,
    side_streams: Room,
    request_timeout: Duration,
    metrics: Arc<Metrics>,
}

/// So many calls of a kind.
#[derive(Debug, Clone)]
struct Room {
    permits: Arc<Semaphore>,
    max: usize,
}

impl Room {
    fn new(max: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(max)),
            max,
        }
    }
}

impl CallGuard {
    /// At most `max` calls of Weir's own service at once, each of which has its request sent within
    /// `request_timeout`.
    #[must_use]
    pub fn new(max: usize, request_timeout: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            watching: Room::new(max),
            checks: Room::new(SIDE_CALLS),
            side_streams: Room::new(SIDE_CALLS),
            request_timeout,
            metrics,
        }
    }

    /// Lets a call in, or says why not.
    fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<OwnedSemaphorePermit, Box<Response<Body>>> {
        let content_type = headers.get(header::CONTENT_TYPE);
        if !content_type.is_some_and(|it| it.as_bytes().starts_with(b"application/grpc")) {
            // As the gRPC specification has it: who sends this would not understand a status.
            let mut refusal = Response::new(Body::empty());
            *refusal.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Box::new(refusal));
        }
        let room = match path {
            HEALTH_CHECK => &self.checks,
            path if path.starts_with("/grpc.") => &self.side_streams,
            _ => &self.watching,
        };
        Arc::clone(&room.permits).try_acquire_owned().map_err(|_| {
            self.metrics.limit_rejected("calls");
            let limit = Error::LimitExceeded {
                limit: "calls",
                max: room.max,
            };
            Box::new(limit.into_status("").into_http())
        })
    }
}

impl<S> Layer<S> for CallGuard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            guard: self.clone(),
        }
    }
}

/// A service whose calls are bounded.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: CallGuard,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let permit = match self.guard.admit(request.uri().path(), request.headers()) {
            Ok(permit) => permit,
            Err(refusal) => return Box::pin(std::future::ready(Ok(*refusal))),
        };
        // Reflection is a conversation, in which a client may take its time.
        let is_conversation = request.uri().path().starts_with("/grpc.reflection.");
        let request = if is_conversation {
            request
        } else {
            request.map(|body| Body::new(Timely::new(body, &self.guard)))
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            explain(&mut response);
            Ok(response.map(|body| {
                Body::new(Held {
                    body,
                    _permit: permit,
                })
            }))
        })
    }
}

/// Gives a refusal that tonic itself made a reason, and the code that it has everywhere else: for
/// tonic a request that can't be read is an internal error.
fn explain(response: &mut Response<Body>) {
    let Some(status) = Status::from_header_map(response.headers()) else {
        return;
    };
    if !status.details().is_empty() {
        return;
    }
    let words = status.message();
    let error = match status.code() {
        Code::Internal | Code::OutOfRange => violation("request".to_owned(), words.to_owned()),
        Code::Unimplemented if words.is_empty() => {
            Error::Unimplemented("this server has no such method".to_owned())
        }
        Code::Unimplemented => Error::Unimplemented(words.to_owned()),
        _ => return,
    };
    // What can't be written into a header has been left out of tonic's status as well.
    let _ = error.into_status("").add_header(response.headers_mut());
}

/// A request's body, which ends within its time.
struct Timely {
    body: Body,
    limit: Duration,
    deadline: Pin<Box<Sleep>>,
    metrics: Arc<Metrics>,
}

impl Timely {
    fn new(body: Body, guard: &CallGuard) -> Self {
        Self {
            body,
            limit: guard.request_timeout,
            deadline: Box::pin(tokio::time::sleep(guard.request_timeout)),
            metrics: Arc::clone(&guard.metrics),
        }
    }
}

impl HttpBody for Timely {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // First, so that neither drops nor floods of frames put it off.
        if self.deadline.as_mut().poll(cx).is_ready() {
            self.metrics.limit_rejected("request_timeout");
            let error = Error::RequestTimeout(self.limit);
            return Poll::Ready(Some(Err(error.into_status(""))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body, for as long as which its call counts.
struct Held {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
