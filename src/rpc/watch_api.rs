//! The methods of `weir.v1.WatchService`: validates a request, subscribes to a feed and streams its events.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::{Instrument as _, Level};

use crate::{
    auth::{Peer, Principal},
    error::{Error, code_name},
    hub::Hub,
    limit::{Limit, Limiter, LineKind, RepeatedLines},
    metrics::Metrics,
    model::{Caller, RequestError, Stage},
    pb,
    pipeline::{RequestLimits, Watch},
    policy::Limits,
    rpc::{
        access::Access,
        authorization_lease::AuthorizationLease,
        deadline::{Deadline, answer_in_time},
        filter_compile_queue::FilterCompileQueue,
        messages,
        outcome::Outcome,
        quotas::{Quotas, WatchQuota},
        server_info::{ServerInfoCache, UpstreamStatus},
        stream::{WatchPermits, WatchStream},
    },
    source::SourceError,
    spans::Spans,
    wire::Compression,
};

/// The limits of the service.
#[derive(Debug, Clone)]
pub struct ServiceLimits {
    /// The bounds on a request's fields.
    pub request: RequestLimits,
    /// The maximum number of open watches.
    pub max_watches: usize,
    /// The maximum number of feeds, as reported to clients.
    pub max_feeds: usize,
    /// The number of dedicated feeds per scope before AUTO shares, as reported to clients.
    pub feeds_per_scope: usize,
    /// The maximum number of concurrent catch-ups, as reported to clients.
    pub max_catch_ups: usize,
    /// The limits of each principal, unless its policy rule sets others.
    pub each_principal: Limits,
    /// The limits of all principals together, in addition to `max_watches`.
    pub all_principals: Limits,
    /// The maximum age of a watch; zero means no maximum.
    pub max_age: Duration,
}

/// The implementation of `weir.v1.WatchService`.
#[derive(Debug)]
pub struct WatchApi {
    access: Access,
    hub: Hub,
    metrics: Arc<Metrics>,
    limits: ServiceLimits,
    watches: Limiter,
    /// The usage of each principal.
    quotas: Quotas,
    /// Limits how many requests compile their filters at once.
    compile_queue: FilterCompileQueue,
    server_info: ServerInfoCache,
    drain: CancellationToken,
    spans: Spans,
    lines: RepeatedLines,
}

impl WatchApi {
    /// Creates the service on top of a hub. Once `drain` is cancelled, every stream receives its last
    /// token and ends, and no new stream opens.
    #[must_use]
    pub fn new(
        hub: Hub,
        access: Access,
        metrics: Arc<Metrics>,
        limits: ServiceLimits,
        drain: CancellationToken,
        spans: Spans,
    ) -> Self {
        let (each, together) = (limits.each_principal.clone(), &limits.all_principals);
        let rejections = |limit| metrics.limit_rejections.of(limit);
        let watches = Limit::new("watches", limits.max_watches);
        Self {
            access,
            hub,
            watches: Limiter::new(watches.counted_by(rejections("watches"))),
            compile_queue: FilterCompileQueue::new(rejections("checks")),
            quotas: Quotas::new(each, together, Arc::clone(&metrics)),
            metrics,
            limits,
            server_info: ServerInfoCache::default(),
            drain,
            spans,
            lines: RepeatedLines::default(),
        }
    }

    async fn open(
        &self,
        (principal, caller): (Arc<Principal>, Caller),
        request: pb::WatchRequest,
        (deadline, compression): (Option<Deadline>, Option<Compression>),
        mut outcome: Outcome,
    ) -> Result<WatchStream, (Error, Outcome)> {
        let gauge = self.metrics.count_watch(Stage::Opening);
        let admitted = answer_in_time(deadline, self.admit(&principal, caller, request));
        let (watch, permits) = match admitted.await {
            Ok(admitted) => admitted,
            Err(error) => return Err((error, outcome)),
        };
        let watch = Arc::new(watch);
        outcome.traced().set_scope(&watch.scope);
        tracing::debug!(scope = %watch.scope, "opening the watch");
        let subscribed = async {
            let subscribed = self.hub.subscribe(&watch);
            let subscribed = self.drain.run_until_cancelled(subscribed);
            subscribed.await.unwrap_or(Err(Error::Draining))
        };
        match answer_in_time(deadline, subscribed).await {
            Ok(watcher) => {
                outcome.traced().opened(watcher.mode().name());
                Ok(WatchStream::new(
                    watch,
                    watcher,
                    Arc::clone(&self.metrics),
                    (deadline.map(|deadline| deadline.at), compression),
                    outcome,
                    (permits, gauge),
                ))
            }
            Err(error) => Err((error.with_patterns(&watch.pattern_fields), outcome)),
        }
    }

    /// Validates and authorizes a request and reserves what its watch needs. The stream holds the permits
    /// until it ends: permits held by the response future would be released when the headers are sent.
    ///
    /// A caller without any policy rule learns only that, and MongoDB is not contacted here. The limits of
    /// the caller come first, so a caller that has used them up costs others nothing.
    async fn admit(
        &self,
        principal: &Arc<Principal>,
        caller: Caller,
        mut request: pb::WatchRequest,
    ) -> Result<(Watch, WatchPermits), Error> {
        let mut lease = AuthorizationLease::begin(&self.access, principal, self.limits.max_age)?;
        // Checked early to fail fast; the permit is taken below, after the last wait.
        self.watches.check()?;
        let (mut watch, quota) = self.authorize_without_filters(&mut lease, &caller, &request)?;
        if watch.is_err() {
            // The policy could not be asked whether the caller may have stages, so nothing is said about them.
            request.pipeline.clear();
        }
        if !request.filters.is_empty() || !request.pipeline.is_empty() {
            let mut complete = self
                .compile_filters(lease.principal(), &caller, request)
                .await?;
            complete.caller = caller;
            lease.authorize(&mut complete)?;
            watch = Ok(complete);
        }
        let mut watch = watch?;
        let permit = self.watches.try_acquire()?;
        let request = self.hub.hold_request(&mut watch)?;
        let permits = WatchPermits {
            lease,
            quota,
            _request: request,
            _permit: permit,
        };
        Ok((watch, permits))
    }
}

impl WatchApi {
    /// Authorizes a request without its filters and without looking at its stages, and takes its quota; both are
    /// cheap. If the request is invalid, the error is reported later, together with errors in its filters; until
    /// then the server's default limits apply.
    fn authorize_without_filters(
        &self,
        lease: &mut AuthorizationLease,
        caller: &Caller,
        request: &pb::WatchRequest,
    ) -> Result<(Result<Watch, RequestError>, WatchQuota), Error> {
        self.limits.request.permit(request)?;
        if !request.pipeline.is_empty() {
            lease.require_pipeline();
        }
        let rest = pb::WatchRequest {
            filters: Vec::new(),
            database: request.database.clone(),
            collections: request.collections.clone(),
            start: request.start.clone(),
            operations: request.operations.clone(),
            fields: request.fields.clone(),
            pipeline: Vec::new(),
            ..*request
        };
        let mut watch = Watch::from_request(rest, &self.limits.request);
        let limits = match &mut watch {
            Ok(watch) => {
                watch.caller = caller.clone();
                lease.authorize(watch)?.limits.clone()
            }
            Err(_) => None,
        };
        let quota = self.quotas.open(lease.principal(), limits.as_ref())?;
        Ok((watch, quota))
    }

    /// Validates a request with its filters and stages once the queue grants a slot. Runs on a thread for that:
    /// compiling patterns may take a large part of a second.
    async fn compile_filters(
        &self,
        principal: &Principal,
        caller: &Caller,
        request: pb::WatchRequest,
    ) -> Result<Watch, Error> {
        let limits = self.limits.request.clone();
        let slot = self
            .compile_queue
            .acquire(principal, request.encoded_len())
            .await?;
        let work = move || {
            // Held until compilation ends, even if the client has left.
            let _slot = slot;
            Watch::from_request(request, &limits)
        };
        match self.hub.costly_work().run(caller, work).await {
            Ok(watch) => Ok(watch?),
            Err(_) => {
                tracing::error!("compiling the filters of a request failed");
                Err(Error::Internal)
            }
        }
    }

    /// Decodes a large request of so many bytes, when it is the turn of its caller.
    ///
    /// # Errors
    /// Too much waits already, the request has no caller, or `work` has panicked.
    pub(super) async fn decode_in_turn<T: Send + 'static>(
        &self,
        extensions: &http::Extensions,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let internal = || Error::Internal.into_status("");
        let principal = extensions.get::<Arc<Principal>>().ok_or_else(internal)?;
        let queued = self.compile_queue.acquire(principal, bytes).await;
        let slot = queued.map_err(|exceeded| Error::from(exceeded).into_status(""))?;
        let peer = extensions.get::<Peer>().and_then(|peer| peer.address);
        let caller = principal.as_caller(peer);
        let work = move || {
            let _slot = slot;
            work()
        };
        let result = self.hub.costly_work().run(&caller, work).await;
        result.map_err(|_| internal())
    }
}

impl WatchApi {
    /// Opens a watch, whose messages are compressed where that is worth it.
    pub(super) async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
        compression: Option<Compression>,
    ) -> Result<WatchStream, Status> {
        let deadline = request.extensions().get::<Deadline>().copied();
        let peer = request.extensions().get::<Peer>();
        let peer = peer.and_then(|peer| peer.address);
        let principal = principal_of(&request)?;
        let caller = principal.as_caller(peer);
        let tracing = (&self.spans, request.metadata().as_ref());
        let (metrics, lines) = (Arc::clone(&self.metrics), self.lines.clone());
        let outcome = Outcome::begin(metrics, peer, &principal, tracing, lines);
        let span = outcome.span().clone();
        let opened = self
            .open(
                (principal, caller),
                request.into_inner(),
                (deadline, compression),
                outcome,
            )
            .instrument(span);
        opened
            .await
            .map_err(|(error, mut outcome)| outcome.fail(error))
    }

    pub(super) async fn get_server_info(
        &self,
        request: Request<pb::GetServerInfoRequest>,
    ) -> Result<Response<pb::GetServerInfoResponse>, Status> {
        let failed = |error: SourceError| {
            self.log_no_server_info(&request, &error);
            Error::from(&error).into_status("")
        };
        let status = self.server_info.get(self.hub.source()).await;
        let UpstreamStatus { facts, oldest } = status.map_err(failed)?;
        let limits = &self.limits.request;
        let count = |count: usize| count.try_into().unwrap_or(u32::MAX);
        Ok(Response::new(pb::GetServerInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mongodb_version: facts.version,
            oldest_resumable_time: oldest.map(messages::cluster_time),
            upstream_time: facts.now.map(messages::cluster_time),
            limits: Some(pb::Limits {
                max_watches: count(self.limits.max_watches),
                max_feeds: count(self.limits.max_feeds),
                feeds_per_scope: count(self.limits.feeds_per_scope),
                max_catch_ups: count(self.limits.max_catch_ups),
                default_progress_interval: limits.default_progress_interval.try_into().ok(),
                min_progress_interval: limits.min_progress_interval.try_into().ok(),
                max_progress_interval: limits.max_progress_interval.try_into().ok(),
                default_max_message_bytes: limits.default_max_message_bytes,
                max_max_message_bytes: limits.max_max_message_bytes,
                deployment_watch_allowed: limits.allow_deployment,
                pipeline_allowed: limits.allow_pipeline,
            }),
        }))
    }
}

impl WatchApi {
    fn log_no_server_info(&self, request: &Request<pb::GetServerInfoRequest>, error: &SourceError) {
        const MESSAGE: &str = "mongodb did not answer the server info queries";
        let peer = request.extensions().get::<Peer>();
        let peer = peer.and_then(|peer| peer.address);
        let principal = request.extensions().get::<Arc<Principal>>();
        let caller = principal.map(|it| it.as_caller(peer)).unwrap_or_default();
        let status = Error::from(error);
        let kind = LineKind {
            level: Level::WARN,
            message: MESSAGE,
            code: code_name(status.code()),
            reason: status.reason(),
        };
        if self.lines.admits(&caller, kind) {
            tracing::warn!(code = error.code, %error, "{MESSAGE}");
        }
    }
}

/// Returns the caller, which the authentication layer put into the request's extensions. Fails without
/// that layer, so that no request is served unauthenticated by mistake.
fn principal_of<T>(request: &Request<T>) -> Result<Arc<Principal>, Status> {
    let principal = request.extensions().get::<Arc<Principal>>().cloned();
    principal.ok_or_else(|| Error::Internal.into_status(""))
}
