//! HTTP/2 on accepted connections: a task for each, which ends with its connection, and closes it once it
//! was idle for too long, and one for each call.
//!
//! tonic's own server has one age for all connections and closes them whether calls are open or not. It
//! also ends calls at their deadline with CANCELLED and no details.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::{Service, ServiceExt as _};

use super::{
    connection::Connection,
    demand::ConnectionDemand,
    priority::{LowPriority, Threads},
    protocol::Protocol,
};
use crate::{
    auth::Peer,
    rpc::{Arrival, WATCH_PATH},
};

/// The time for which a connection without a limit waits before it looks again.
const FOREVER: Duration = Duration::from_secs(86_400);

/// The time after which a shutdown closes a connection that has nothing to send, and for which it must have had
/// nothing to send before. Its client was told to open no more calls; one that does not answer that would hold
/// up the shutdown to the end of its grace.
const QUIET: Duration = Duration::from_secs(1);

/// The largest head of a request of HTTP/1, in bytes, and the most that is read of its body at once.
const HTTP1_BYTES: usize = 16 << 10;

/// The settings of every connection.
#[derive(Debug, Clone)]
pub struct Http2Settings {
    /// The interval between pings on a connection.
    pub keepalive_interval: Duration,
    /// The time that a client may take to answer a ping.
    pub keepalive_timeout: Duration,
    /// The maximum number of calls on a connection at once; further ones are refused.
    pub max_concurrent_streams: u32,
    /// The maximum number of calls that a client may cancel before they were accepted.
    pub max_pending_resets: usize,
    /// The largest header list that is decoded, in bytes.
    pub max_header_list_bytes: u32,
    /// The time after which a connection without an open call is closed; zero means never.
    pub idle_timeout: Duration,
}

/// Serves each connection until it ends. Once `drain` is cancelled, takes no more connections, tells each
/// client to open no more calls, and returns when the last connection has ended. Connections that are still
/// open when the future is dropped are closed.
pub async fn serve<S>(
    connections: impl Stream<Item = Connection>,
    service: S,
    settings: Http2Settings,
    drain: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let low = LowPriority::start();
    if let Err(error) = &low {
        tracing::warn!(%error, "no threads of a low priority can be started; a flood of calls may delay other clients");
    }
    let threads = Threads::new(low.as_ref().ok());
    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    let _stopped_on_drop = stop.clone().drop_guard();
    {
        // Dropped before the connections are waited for, so that the port refuses new ones at once.
        let mut connections = pin!(connections);
        while let Some(Some(connection)) = drain.run_until_cancelled(connections.next()).await {
            let demand = Arc::clone(connection.demand());
            let service = CallService {
                inner: service.clone(),
                peer: connection.peer().clone(),
                calls: OpenCalls::new(),
                demand: Arc::clone(&demand),
            };
            let executor = CallExecutor {
                threads: threads.clone(),
                demand: Arc::clone(&demand),
            };
            let builder = builder(executor, &settings);
            // Boxed first: each adapter would keep a second copy of it.
            let served = Box::pin(serve_one(
                builder,
                connection,
                service,
                settings.idle_timeout,
                drain.clone(),
            ));
            let served = stop.clone().run_until_cancelled_owned(served);
            let served = async { served.await.unwrap_or_default() };
            threads.spawn(&demand, tasks.track_future(served));
        }
    }
    tasks.close();
    tasks.wait().await;
}

fn builder(executor: CallExecutor, settings: &Http2Settings) -> http2::Builder<CallExecutor> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(settings.keepalive_interval)
        .keep_alive_timeout(settings.keepalive_timeout)
        .max_concurrent_streams(settings.max_concurrent_streams)
        .max_pending_accept_reset_streams(settings.max_pending_resets)
        // Streams that this server reset count for the whole life of a connection, and so do those that
        // a client was refused for opening too many.
        .max_local_error_reset_streams(None)
        .max_header_list_size(settings.max_header_list_bytes);
    builder
}

async fn serve_one<S>(
    builder: http2::Builder<CallExecutor>,
    mut connection: Connection,
    service: CallService<S>,
    idle_timeout: Duration,
    drain: CancellationToken,
) where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let protocol = tokio::select! {
        protocol = connection.protocol() => protocol,
        // HTTP/2 tells the client.
        () = drain.cancelled() => Ok(Protocol::Http2),
    };
    match protocol {
        Ok(Protocol::Http2) => {}
        Ok(Protocol::Http1) => {
            let refused = refuse_http1(connection, service);
            drain.run_until_cancelled(refused).await;
            return;
        }
        Err(error) => {
            tracing::debug!(%error, "a connection ended before its first call");
            return;
        }
    }
    let calls = Arc::clone(&service.calls);
    let mut served = pin!(builder.serve_connection(TokioIo::new(connection), service));
    let limit = if idle_timeout.is_zero() {
        FOREVER
    } else {
        idle_timeout
    };
    let mut idle = pin!(tokio::time::sleep(limit));
    let mut is_closing = false;
    let mut drain_began = None;
    let mut quiet = pin!(tokio::time::sleep(FOREVER));
    loop {
        tokio::select! {
            ended = served.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended with an error");
                }
                return;
            }
            () = drain.cancelled(), if drain_began.is_none() => {
                served.as_mut().graceful_shutdown();
                is_closing = true;
                let now = Instant::now();
                drain_began = Some(now);
                quiet.as_mut().reset(now + QUIET);
            }
            () = quiet.as_mut(), if drain_began.is_some() => {
                if drain_began.is_some_and(|began| calls.is_quiet(began)) {
                    tracing::debug!("closing a connection whose client does not answer");
                    return;
                }
                quiet.as_mut().reset(Instant::now() + FOREVER);
            }
            () = idle.as_mut(), if !is_closing => {
                // Looked at only now and then, so that a call costs no timer.
                let until = calls.idle_since().unwrap_or_else(Instant::now) + limit;
                if until <= Instant::now() && !idle_timeout.is_zero() {
                    // The client is told to open no more calls. One that is on its way is still served.
                    served.as_mut().graceful_shutdown();
                    is_closing = true;
                } else {
                    idle.as_mut().reset(until.max(Instant::now() + Duration::from_millis(1)));
                }
            }
        }
    }
}

/// Gives the service one request of HTTP/1, which it refuses, and closes the connection.
async fn refuse_http1<S>(mut connection: Connection, service: CallService<S>)
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    connection.must_close_in_time();
    let mut builder = http1::Builder::new();
    builder
        .keep_alive(false)
        .max_buf_size(HTTP1_BYTES)
        // A client may close its direction behind the request.
        .half_close(true);
    let served = builder.serve_connection(TokioIo::new(connection), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection of http/1 ended with an error");
    }
}

/// The open calls of one connection.
#[derive(Debug)]
struct OpenCalls(Mutex<CallCount>);

#[derive(Debug)]
struct CallCount {
    open: usize,
    /// `true` once a call was opened.
    any: bool,
    /// The time at which the last open call ended.
    idle_since: Instant,
}

impl OpenCalls {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(CallCount {
            open: 0,
            any: false,
            idle_since: Instant::now(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, CallCount> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Self>) -> OpenCall {
        let mut calls = self.lock();
        calls.open += 1;
        calls.any = true;
        drop(calls);
        OpenCall(Arc::clone(self))
    }

    /// Returns the time since which no call is open; `None` if one is.
    fn idle_since(&self) -> Option<Instant> {
        let calls = self.lock();
        (calls.open == 0).then_some(calls.idle_since)
    }

    /// Returns whether nothing can wait to be sent at a drain that began at this time. The last messages of a
    /// call that ended shortly before or during it may.
    fn is_quiet(&self, began: Instant) -> bool {
        let calls = self.lock();
        calls.open == 0 && (!calls.any || calls.idle_since + QUIET <= began)
    }
}

/// Counts as an open call until it is dropped.
#[derive(Debug)]
struct OpenCall(Arc<OpenCalls>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut calls = self.0.lock();
        calls.open -= 1;
        calls.idle_since = Instant::now();
    }
}

/// Runs the calls of one connection.
#[derive(Clone)]
struct CallExecutor {
    threads: Threads,
    demand: Arc<ConnectionDemand>,
}

impl<F> hyper::rt::Executor<F> for CallExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        self.threads.spawn(&self.demand, call);
    }
}

/// The service of one connection.
struct CallService<S> {
    inner: S,
    peer: Peer,
    calls: Arc<OpenCalls>,
    demand: Arc<ConnectionDemand>,
}

impl<S> hyper::service::Service<Request<Incoming>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let open = self.calls.begin();
        self.demand.begin_call();
        request.extensions_mut().insert(self.peer.clone());
        request.extensions_mut().insert(Arrival(Instant::now()));
        let is_watch = request.uri().path() == WATCH_PATH;
        let charged = (!is_watch).then(|| Arc::clone(&self.demand));
        let response = self.inner.clone().oneshot(request.map(Body::new));
        Box::pin(async move {
            let response = response.await?;
            Ok(response.map(|body| {
                Body::new(OpenCallBody {
                    body,
                    charged,
                    _open: open,
                })
            }))
        })
    }
}

/// The response body of an open call.
struct OpenCallBody {
    body: Body,
    /// What its bytes are counted for; `None` for events.
    charged: Option<Arc<ConnectionDemand>>,
    _open: OpenCall,
}

impl HttpBody for OpenCallBody {
    type Data = Bytes;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let (Some(charged), Some(Ok(frame))) = (&self.charged, &frame)
            && let Some(data) = frame.data_ref()
        {
            charged.answer(data.len());
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
