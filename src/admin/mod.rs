//! The admin port: `/metrics`, `/livez`, `/readyz`, `/log-level`.

mod auth;
mod host;
mod log_level;
mod readiness;

use std::{str, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, DefaultBodyLimit, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, Version, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{hub::Hub, metrics::Metrics};

pub use auth::{AdminAuth, AdminPeer, Refusal};
pub use host::AdminHost;
pub use log_level::{LogLevel, MAX_DIRECTIVES, parse_directives};
pub use readiness::Readiness;

/// The state of the admin port.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The hub, whose gauges are read at each scrape.
    pub hub: Hub,
    /// The metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Whether the server is ready for clients.
    pub readiness: Arc<Readiness>,
    /// The log level of the process.
    pub log_level: LogLevel,
    /// The access control of `/metrics` and `/log-level`.
    pub auth: Arc<AdminAuth>,
}

impl Admin {
    /// Returns the routes. They need the client address of each connection, as an [`AdminPeer`].
    pub fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/log-level", get(log_level).put(set_log_level))
            .with_state(self)
            .layer(DefaultBodyLimit::max(MAX_DIRECTIVES))
            // One request per connection, so that the connection's deadline bounds the request.
            .layer(map_response(async |mut response: Response| {
                let headers = response.headers_mut();
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                response
            }))
    }

    /// Counts a refusal and returns its response.
    fn refuse(&self, refusal: Refusal) -> Response {
        let Refusal {
            status,
            words,
            reason,
        } = refusal;
        self.metrics.admin_refusals.of(reason).increment(1);
        let mut response = (status, words).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

async fn metrics(
    State(admin): State<Admin>,
    version: Version,
    target: Uri,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let admitted = admin.auth.authorize_read(version, &target, &headers);
    admitted.map_err(|refusal| admin.refuse(refusal))?;
    let mut readings = admin.hub.scraped_gauges();
    readings.ready = admin.readiness.is_ready();
    let page = admin.metrics.render(&readings);
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], page).into_response())
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, String) {
    match admin.readiness.reason() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => {
            let words = format!("not ready: {reason}\n");
            (StatusCode::SERVICE_UNAVAILABLE, words)
        }
    }
}

async fn log_level(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<AdminPeer>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let admitted = admin.auth.authorize_change(peer, &headers);
    admitted.map_err(|refusal| admin.refuse(refusal))?;
    let directives = admin.log_level.get().ok_or_else(unmanaged_log)?;
    Ok(format!("{directives}\n").into_response())
}

async fn set_log_level(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<AdminPeer>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Response> {
    let admitted = admin.auth.authorize_change(peer, &headers);
    admitted.map_err(|refusal| admin.refuse(refusal))?;
    if admin.log_level.get().is_none() {
        return Err(unmanaged_log());
    }
    let set = match str::from_utf8(&body) {
        Ok(directives) => admin.log_level.set(directives),
        Err(_) => {
            Err("the body is not UTF-8: send directives such as info,weir::hub=debug".to_owned())
        }
    };
    set.map_err(|why| (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response())?;
    let directives = admin.log_level.get().unwrap_or_default();
    Ok(format!("{directives}\n").into_response())
}

fn unmanaged_log() -> Response {
    let words = "this server does not manage the log of its process: only weir serve does\n";
    (StatusCode::NOT_FOUND, words).into_response()
}
