//! Who calls, asked before any service has the call: no request is read, and nothing told, of whoever does
//! not say so, or whom no rule of the policy is for.

use std::{
    convert::Infallible,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, header};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::{auth::Peer, error::Error, metrics::Metrics, rpc::Access};

/// What may be asked by anybody: probes have no credentials, and learn nothing but whether Weir serves.
const OPEN: &str = "/grpc.health.v1.Health/";

/// Lets nobody past who does not show who they are, where that is asked, or for whom the policy has no rule.
/// Whoever is let past has their
/// [`Principal`](crate::auth::Principal) in the request's extensions.
#[derive(Debug, Clone)]
pub struct CallerGuard {
    access: Access,
    metrics: Arc<Metrics>,
}

impl CallerGuard {
    /// Asks as `access` has it, and counts what becomes of that.
    #[must_use]
    pub fn new(access: Access, metrics: Arc<Metrics>) -> Self {
        Self { access, metrics }
    }
}

impl<S> Layer<S> for CallerGuard {
    type Service = Known<S>;

    fn layer(&self, inner: S) -> Known<S> {
        Known {
            inner,
            guard: self.clone(),
        }
    }
}

/// A service whose callers are known.
#[derive(Debug, Clone)]
pub struct Known<S> {
    inner: S,
    guard: CallerGuard,
}

impl<S> Service<Request<Body>> for Known<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if request.uri().path().starts_with(OPEN) {
            conceal(request.headers_mut());
            return Box::pin(self.inner.call(request));
        }
        // The one that is ready is the one to call; what stays behind is asked again whether it is.
        let fresh = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, fresh);
        let CallerGuard { access, metrics } = self.guard.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            // Without a peer there is no certificate either.
            let peer = parts.extensions.get::<Peer>().cloned().unwrap_or_default();
            let principal = access.authenticator.authenticate(&parts.headers, &peer);
            let known = principal.await.and_then(|principal| {
                let admitted = access.policy.admit(&principal);
                metrics.count_authorization(admitted.is_ok());
                admitted.map(|()| principal)
            });
            match known {
                Ok(principal) => {
                    conceal(&mut parts.headers);
                    parts.extensions.insert(principal);
                    inner.call(Request::from_parts(parts, body)).await
                }
                Err(error) => Ok(refusal(error)),
            }
        })
    }
}

/// Takes away what nothing further in has use for.
fn conceal(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    headers.remove(crate::auth::API_KEY_HEADER);
}

fn refusal(error: Error) -> Response<Body> {
    error.into_status("").into_http()
}
