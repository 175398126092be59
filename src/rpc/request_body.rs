//! The body of a call's request: the time in which it must arrive, and its rest where nobody reads it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, timeout_at};
use tonic::{Status, body::Body};

use crate::{error::Error, metrics::Metrics};

/// The longest time for which a refusal waits for the end of its request, and the most that is read of it, in
/// bytes. Most requests are on their way by then, and a few hundred bytes.
const MAX_REST_TIME: Duration = Duration::from_millis(100);
const MAX_REST_BYTES: usize = 64 << 10;

/// A request body that must end within a time limit.
pub(super) struct BodyTimeout {
    /// `None` once it took too long.
    body: Option<Body>,
    limit: Duration,
    /// `true` if the limit applies to each frame instead of the whole body.
    per_frame: bool,
    deadline: Pin<Box<Sleep>>,
    metrics: Arc<Metrics>,
    unread: UnreadBody,
}

/// The place of a request body that was dropped before its end.
#[derive(Debug, Clone, Default)]
pub(super) struct UnreadBody(Arc<Mutex<Option<Body>>>);

impl UnreadBody {
    /// Takes the body, if it was dropped before its end.
    pub(super) fn take(&self) -> Option<Body> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Body>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads what is left of a request, within limits and until a time.
///
/// HTTP/2 resets a stream whose response ends before its request. The response is valid all the same, but
/// `curl` (7.88), if it is still sending then, fails without it.
pub(super) async fn read_rest(mut body: Body, until: Option<Instant>) {
    if body.is_end_stream() {
        return;
    }
    let latest = Instant::now() + MAX_REST_TIME;
    let until = until.map_or(latest, |until| until.min(latest));
    let rest = async {
        let mut left = MAX_REST_BYTES;
        let mut next = async || std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        while let Some(Ok(frame)) = next().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    let _ = timeout_at(until, rest).await;
}

impl BodyTimeout {
    /// Creates a body whose rest is left in `unread` if it is dropped before its end.
    pub(super) fn new(
        body: Body,
        (limit, per_frame): (Duration, bool),
        metrics: Arc<Metrics>,
        unread: UnreadBody,
    ) -> Self {
        Self {
            body: Some(body),
            limit,
            per_frame,
            deadline: Box::pin(tokio::time::sleep(limit)),
            metrics,
            unread,
        }
    }
}

impl Drop for BodyTimeout {
    fn drop(&mut self) {
        let body = self.body.take();
        *self.unread.lock() = body.filter(|body| !body.is_end_stream());
    }
}

impl HttpBody for BodyTimeout {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // Polled first, so that a steady flow of frames can't postpone it.
        if self.body.is_some() && self.deadline.as_mut().poll(cx).is_ready() {
            self.body = None;
            self.metrics
                .limit_rejections
                .of("request_timeout")
                .increment(1);
            let error = Error::RequestTimeout(self.limit);
            return Poll::Ready(Some(Err(error.into_status(""))));
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if self.per_frame {
            let next = Instant::now() + self.limit;
            self.deadline.as_mut().reset(next);
        }
        Poll::Ready(frame)
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
