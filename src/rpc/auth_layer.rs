//! A layer that authenticates callers before any service sees the call. A caller without valid
//! credentials, or without any policy rule, is rejected before its request is read.

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

use crate::{auth::Peer, error::Error, metrics::Metrics, rpc::access::Access};

/// The path of the health service, which needs no credentials: probes have none, and learn only whether
/// Weir serves.
const UNAUTHENTICATED_PREFIX: &str = "/grpc.health.v1.Health/";

/// Rejects callers without valid credentials, where credentials are required, and callers without any
/// policy rule. Puts the [`Principal`](crate::auth::Principal) of accepted callers into the request's
/// extensions.
#[derive(Debug, Clone)]
pub struct AuthLayer {
    access: Access,
    metrics: Arc<Metrics>,
}

impl AuthLayer {
    /// Creates a layer that authenticates by `access` and counts the results.
    #[must_use]
    pub fn new(access: Access, metrics: Arc<Metrics>) -> Self {
        Self { access, metrics }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;

    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService {
            inner,
            layer: self.clone(),
        }
    }
}

/// A service behind an [`AuthLayer`].
#[derive(Debug, Clone)]
pub struct AuthService<S> {
    inner: S,
    layer: AuthLayer,
}

impl<S> Service<Request<Body>> for AuthService<S>
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
        if request.uri().path().starts_with(UNAUTHENTICATED_PREFIX) {
            remove_credentials(request.headers_mut());
            return Box::pin(self.inner.call(request));
        }
        // `self.inner` is the one that was polled ready, so it must take this call; the clone is polled
        // before the next one.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let AuthLayer { access, metrics } = self.layer.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            // A connection without peer information has no certificate either.
            let peer = parts.extensions.get::<Peer>().cloned().unwrap_or_default();
            let principal = access.authenticator.authenticate(&parts.headers, &peer);
            let authenticated = principal.await.and_then(|principal| {
                let admitted = access.policy.admit(&principal);
                let result = if admitted.is_ok() { "ok" } else { "no_rule" };
                metrics.authorizations.of(result).increment(1);
                admitted.map(|()| principal)
            });
            match authenticated {
                Ok(principal) => {
                    remove_credentials(&mut parts.headers);
                    parts.extensions.insert(principal);
                    inner.call(Request::from_parts(parts, body)).await
                }
                Err(error) => Ok(error_response(error)),
            }
        })
    }
}

/// Removes the credentials, which no service behind this layer needs.
fn remove_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    headers.remove(crate::auth::API_KEY_HEADER);
}

fn error_response(error: Error) -> Response<Body> {
    error.into_status("").into_http()
}
