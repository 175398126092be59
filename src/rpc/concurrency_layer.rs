//! A layer that bounds every call before a service sees it: the number of concurrent calls, the size of its
//! metadata, the time to send the request, and the client's own deadline. It also adds error details to
//! rejections that tonic made itself, before a stream is open or after.
//!
//! tonic reads the request before it calls the service and waits for it without limit, so a call that is
//! opened and never sends anything would stay open for ever.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::{
    error::Error,
    limit::{Limit, Limiter, Permit},
    metrics::Metrics,
    rpc::{
        compression,
        deadline::{Arrival, Deadline},
        protocol::{check_metadata, refuse_other_protocols},
        request_body::{BodyTimeout, UnreadBody, read_rest},
        unknown_fields::violation,
    },
};

/// Calls beyond the open watches: watches that are being opened, and `GetServerInfo`.
pub const EXTRA_CALLS: usize = 1_000;

/// The maximum number of open streams of the health service, and of the reflection service. Health needs
/// no credentials and its streams have no end, so they must not use up the calls of watches or of health
/// checks.
const MAX_AUXILIARY_STREAMS: usize = 500;

/// The maximum number of open health checks. They are cheap, and probes must get through while strangers
/// call too.
const MAX_HEALTH_CHECKS: usize = 5_000;

/// The maximum number of refusals that wait for the end of their request, or for their client to read their text:
/// no other limit counts those calls.
const MAX_WAITING_REFUSALS: usize = 1_000;

/// The time to send the request of a health check, which has a few bytes. It bounds how long a stranger
/// can hold a call open by not sending it.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The path of a single health check.
const HEALTH_CHECK_PATH: &str = "/grpc.health.v1.Health/Check";

/// The prefix of all versions and methods of the health service.
const HEALTH_PREFIX: &str = "/grpc.health.";

/// The prefix of all versions of the reflection service.
const REFLECTION_PREFIX: &str = "/grpc.reflection.";

/// Limits concurrent calls and the time to send a request.
#[derive(Debug, Clone)]
pub struct ConcurrencyLayer {
    weir_calls: Limiter,
    health_checks: Limiter,
    health_streams: Limiter,
    reflection: Limiter,
    waiting_refusals: Limiter,
    request_timeout: Duration,
    metrics: Arc<Metrics>,
}

impl ConcurrencyLayer {
    /// Creates a layer that allows `max` concurrent calls of Weir's own service. The request of each call
    /// must arrive within `request_timeout`.
    #[must_use]
    pub fn new(max: usize, request_timeout: Duration, metrics: Arc<Metrics>) -> Self {
        let rejections = metrics.limit_rejections.of("calls");
        let calls = |max| Limiter::new(Limit::new("calls", max).counted_by(rejections.clone()));
        Self {
            weir_calls: calls(max),
            health_checks: calls(MAX_HEALTH_CHECKS),
            health_streams: calls(MAX_AUXILIARY_STREAMS),
            reflection: calls(MAX_AUXILIARY_STREAMS),
            waiting_refusals: Limiter::new(Limit::new("waiting refusals", MAX_WAITING_REFUSALS)),
            request_timeout,
            metrics,
        }
    }

    /// Returns the permit of a call and its deadline.
    ///
    /// # Errors
    /// The metadata breaks a rule, or too many calls are open.
    fn admit(
        &self,
        path: &str,
        headers: &HeaderMap,
        arrival: Option<Arrival>,
    ) -> Result<(Permit, Option<Deadline>), Error> {
        check_metadata(headers)?;
        let now = Instant::now();
        let deadline = Deadline::from_headers(headers, arrival.map_or(now, |it| it.0), now)?;
        let limiter = match path {
            HEALTH_CHECK_PATH => &self.health_checks,
            path if path.starts_with(HEALTH_PREFIX) => &self.health_streams,
            path if path.starts_with(REFLECTION_PREFIX) => &self.reflection,
            _ => &self.weir_calls,
        };
        Ok((limiter.try_acquire()?, deadline))
    }

    /// Answers a call that is refused: once its request has ended, and at the latest at a time. Where many wait
    /// for that, or to send a text to a client that does not read it, it is answered at once and without a text.
    fn refuse(
        &self,
        refusal: Response<Body>,
        request: Body,
        until: Option<Instant>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static {
        let permit = self.waiting_refusals.try_acquire();
        async move {
            let Ok(permit) = permit else {
                return Ok(refusal.map(|_| Body::empty()));
            };
            read_rest(request, until).await;
            Ok(refusal.map(|body| {
                Body::new(CallBody {
                    body: Some(body),
                    end: None,
                    _permit: permit,
                })
            }))
        }
    }
}

impl<S> Layer<S> for ConcurrencyLayer {
    type Service = ConcurrencyService<S>;

    fn layer(&self, inner: S) -> ConcurrencyService<S> {
        ConcurrencyService {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service behind a [`ConcurrencyLayer`].
#[derive(Debug, Clone)]
pub struct ConcurrencyService<S> {
    inner: S,
    layer: ConcurrencyLayer,
}

impl<S> Service<Request<Body>> for ConcurrencyService<S>
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

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(refusal) = refuse_other_protocols(&request) {
            return Box::pin(self.layer.refuse(refusal, request.into_body(), None));
        }
        let arrival = request.extensions().get::<Arrival>().copied();
        let path = request.uri().path();
        let admitted = self.layer.admit(path, request.headers(), arrival);
        let (permit, deadline) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                let refusal = error.into_status("").into_http();
                return Box::pin(self.layer.refuse(refusal, request.into_body(), None));
            }
        };
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(deadline);
        }
        let path = request.uri().path();
        let limit = if path == HEALTH_CHECK_PATH {
            HEALTH_CHECK_TIMEOUT.min(self.layer.request_timeout)
        } else {
            self.layer.request_timeout
        };
        // Reflection is a bidirectional stream: the time applies to each request message.
        let per_frame = path.starts_with(REFLECTION_PREFIX);
        let metrics = Arc::clone(&self.layer.metrics);
        let unread = UnreadBody::default();
        let request = request.map(|body| {
            let limit = (limit, per_frame);
            Body::new(BodyTimeout::new(body, limit, metrics, unread.clone()))
        });
        let response = self.inner.call(request);
        let layer = self.layer.clone();
        Box::pin(async move {
            let mut response = match deadline {
                None => response.await?,
                Some(deadline) => {
                    match timeout_at(deadline.answer_for_service_by(), response).await {
                        Ok(response) => response?,
                        Err(_) => return Ok(Error::DeadlineExceeded.into_status("").into_http()),
                    }
                }
            };
            add_error_details(response.headers_mut());
            if let Some(body) = unread.take()
                && response.headers().contains_key(Status::GRPC_STATUS)
            {
                // Strangers are refused too. Their requests must not keep the calls of others from being served.
                drop(permit);
                let until = deadline.map(|it| it.answer_by);
                return layer.refuse(response, body, until).await;
            }
            let end = deadline.map(|it| Box::pin(sleep_until(it.end_for_service_at())));
            Ok(response.map(|body| {
                Body::new(CallBody {
                    body: Some(body),
                    end,
                    _permit: permit,
                })
            }))
        })
    }
}

/// Adds error details to a rejection that tonic made itself, and corrects its code: tonic reports a
/// request that can't be decoded as an internal error.
fn add_error_details(headers: &mut HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else {
        return;
    };
    if !status.details().is_empty() {
        return;
    }
    let message = status.message();
    let error = match status.code() {
        // The last is what tonic says of a message that is too large once it is decompressed.
        Code::Internal | Code::OutOfRange | Code::ResourceExhausted => {
            violation("request".to_owned(), message.to_owned())
        }
        Code::Unimplemented if message.is_empty() => Error::Unimplemented(
            "this server has no such method: check the service and method name".to_owned(),
        ),
        Code::Unimplemented => {
            let accepted = headers.get(compression::ACCEPT_ENCODING);
            let accepted = accepted.and_then(|list| list.to_str().ok());
            let hint = accepted.map(|list| format!(": use {}", list.replace(',', " or ")));
            Error::Unimplemented(format!("{message}{}", hint.unwrap_or_default()))
        }
        _ => return,
    };
    // Fails only for text that is no valid header value, which tonic has already left out of its status.
    let _ = error.into_status("").add_header(headers);
}

/// A response body that ends at the call's deadline, and holds the permit of its call until it is dropped.
struct CallBody {
    /// `None` once the deadline has ended it.
    body: Option<Body>,
    /// The deadline, if there is one.
    end: Option<Pin<Box<Sleep>>>,
    _permit: Permit,
}

impl HttpBody for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(mut frame) = Pin::new(body).poll_frame(cx) {
            if let Some(Ok(frame)) = &mut frame
                && let Some(trailers) = frame.trailers_mut()
            {
                add_error_details(trailers);
            }
            return Poll::Ready(frame);
        }
        let Some(end) = &mut self.end else {
            return Poll::Pending;
        };
        ready!(end.as_mut().poll(cx));
        self.body = None;
        let mut trailers = HeaderMap::new();
        // Fails only for text that is no valid header value, and this text is.
        let _ = Error::DeadlineExceeded
            .into_status("")
            .add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map(HttpBody::size_hint)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
