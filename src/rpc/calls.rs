//! What holds for every call, before a service has it: how many there may be, how long its request
//! may take, and that its refusal has a reason.
//!
//! tonic reads a request before it calls the service, and waits for it without limit; a call that is
//! opened and never spoken in would be held for ever.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::{error::Error, metrics::Metrics, rpc::strict::violation};

/// Calls beyond the watches that may be open: those that are being opened, or ask about the server.
pub const SPARE_CALLS: usize = 1_000;

/// Streams of the services beside Weir's own that may be open: of health, and of reflection, each by
/// themselves. Strangers may ask for the health, and a stream of it has no end: they must not take the room
/// of watches, nor that of checks.
const SIDE_STREAMS: usize = 500;

/// Health checks that may be open. They cost next to nothing, and probes must find room beside strangers.
const HEALTH_CHECKS: usize = 5_000;

/// How long a health check's request may take, of a few bytes. A stranger who holds it back takes a room for
/// no longer.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the health is asked for once.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Where it is asked for in other ways.
const HEALTH: &str = "/grpc.health.";

/// Where clients ask what there is.
const REFLECTION: &str = "/grpc.reflection.";

/// Bounds the calls that pass it.
#[derive(Debug, Clone)]
pub struct CallGuard {
    watching: Room,
    checks: Room,
    health_streams: Room,
    reflection: Room,
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
            checks: Room::new(HEALTH_CHECKS),
            health_streams: Room::new(SIDE_STREAMS),
            reflection: Room::new(SIDE_STREAMS),
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
            path if path.starts_with(HEALTH) => &self.health_streams,
            path if path.starts_with(REFLECTION) => &self.reflection,
            _ => &self.watching,
        };
        Arc::clone(&room.permits).try_acquire_owned().map_err(|_| {
            self.metrics.count_limit_rejection("calls");
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
        let path = request.uri().path();
        let limit = if path == HEALTH_CHECK {
            HEALTH_CHECK_TIMEOUT.min(self.guard.request_timeout)
        } else {
            self.guard.request_timeout
        };
        // Reflection is a conversation, in which each question has its time.
        let each = path.starts_with(REFLECTION);
        let metrics = Arc::clone(&self.guard.metrics);
        let request = request.map(|body| Body::new(Timely::new(body, limit, each, metrics)));
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
    /// Whether the time is that of each frame, and not of all together.
    each: bool,
    deadline: Pin<Box<Sleep>>,
    metrics: Arc<Metrics>,
}

impl Timely {
    fn new(body: Body, limit: Duration, each: bool, metrics: Arc<Metrics>) -> Self {
        Self {
            body,
            limit,
            each,
            deadline: Box::pin(tokio::time::sleep(limit)),
            metrics,
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
            self.metrics.count_limit_rejection("request_timeout");
            let error = Error::RequestTimeout(self.limit);
            return Poll::Ready(Some(Err(error.into_status(""))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if self.each {
            let next = Instant::now() + self.limit;
            self.deadline.as_mut().reset(next);
        }
        Poll::Ready(frame)
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

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const STREAM: &str = "/grpc.health.v1.Health/Watch";
    const QUESTIONS: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

    fn guard() -> CallGuard {
        CallGuard::new(10, PATIENCE, Arc::new(Metrics::new()))
    }

    fn request(path: &str, body: Body) -> Request<Body> {
        Request::post(path)
            .header(header::CONTENT_TYPE, "application/grpc")
            .body(body)
            .unwrap()
    }

    /// How long a service waits for a request of which a frame comes each `pause`, `frames` in all, and
    /// then nothing.
    async fn waited(path: &str, frames: u32, pause: Duration) -> Duration {
        let frames = tokio_stream::iter(0..frames).then(move |_| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, Status>(Frame::data(Bytes::from_static(b"x")))
        });
        let body = StreamBody::new(frames.chain(futures::stream::pending()));
        let service = tower::service_fn(|request: Request<Body>| async move {
            let mut body = request.into_body();
            let status = loop {
                match body.frame().await {
                    Some(Ok(_)) => {}
                    Some(Err(status)) => break status,
                    None => panic!("it ended"),
                }
            };
            Ok::<_, Infallible>(status.into_http())
        });
        let begun = Instant::now();
        let answer = guard().layer(service).call(request(path, Body::new(body)));
        let answer = tokio::time::timeout(PATIENCE * 10, answer).await;
        let status = Status::from_header_map(answer.unwrap().unwrap().headers()).unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_health_check_is_asked_at_once_or_not_at_all() {
        let waited = waited(HEALTH_CHECK, 0, PATIENCE).await;
        assert!(waited <= Duration::from_secs(2), "{waited:?}");
    }

    /// A client may take its time between two questions, and not for ever.
    #[tokio::test(start_paused = true)]
    async fn reflection_ends_when_nothing_has_been_asked_for_a_while() {
        let pause = PATIENCE - Duration::from_secs(1);
        let waited = waited(QUESTIONS, 3, pause).await;
        assert!(waited >= pause * 3 + PATIENCE, "{waited:?}");
        assert!(waited <= pause * 3 + PATIENCE * 2, "{waited:?}");
    }

    /// Calls of one path, all of them open, until one is refused; then those of the others are not.
    #[tokio::test]
    async fn neither_checks_nor_streams_of_health_nor_reflection_take_each_others_room() {
        for (full, max) in [(HEALTH_CHECK, 5_000), (STREAM, 500), (QUESTIONS, 500)] {
            let service = tower::service_fn(|_: Request<Body>| async {
                let frames = futures::stream::pending::<Result<Frame<Bytes>, Status>>();
                Ok::<_, Infallible>(Response::new(Body::new(StreamBody::new(frames))))
            });
            let mut guarded = guard().layer(service);
            let mut open = Vec::new();
            for _ in 0..max {
                let answer = guarded.call(request(full, Body::empty())).await.unwrap();
                assert!(Status::from_header_map(answer.headers()).is_none());
                open.push(answer);
            }
            for path in [
                HEALTH_CHECK,
                STREAM,
                QUESTIONS,
                "/weir.v1.WatchService/Watch",
            ] {
                let answer = guarded.call(request(path, Body::empty())).await.unwrap();
                let refused = Status::from_header_map(answer.headers()).is_some();
                assert_eq!(refused, path == full, "{path}, {full}");
            }
        }
    }
}
