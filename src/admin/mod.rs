//! The admin port: `/metrics`, `/livez`, `/readyz`, `/log-level`.

mod gate;
mod log_level;

use std::{
    str,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::{ConnectInfo, DefaultBodyLimit, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{hub::Hub, metrics::Metrics};

pub use gate::{AdminPeer, Gate, Refusal};
pub use log_level::{LogLevel, MAX_DIRECTIVES, filter};

/// What the admin port tells about.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The hub, for what is measured when it is asked for.
    pub hub: Hub,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Whether clients should be sent here.
    pub ready: Arc<AtomicBool>,
    /// What the process logs.
    pub log_level: LogLevel,
    /// Who may do more than ask whether the server is well.
    pub gate: Arc<Gate>,
}

impl Admin {
    /// The routes. They must be told where each connection comes from, as an [`AdminPeer`].
    pub fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/log-level", get(log_level).put(set_log_level))
            .with_state(self)
            .layer(DefaultBodyLimit::max(MAX_DIRECTIVES))
            // One request a connection: how long that may take is bounded then.
            .layer(map_response(async |mut response: Response| {
                let headers = response.headers_mut();
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                response
            }))
    }
}

async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> Result<Response, Response> {
    admin.gate.admit_reader(&headers).map_err(refusal)?;
    let mut readings = admin.hub.scraped_gauges();
    readings.ready = admin.ready.load(Ordering::Acquire);
    let page = admin.metrics.render(&readings);
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], page).into_response())
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    if admin.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ok\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: MongoDB has not answered yet, or the server is shutting down\n",
        )
    }
}

async fn log_level(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<AdminPeer>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let admitted = admin.gate.admit_operator(peer, &headers);
    admitted.map_err(refusal)?;
    let directives = admin.log_level.get().ok_or_else(not_ours)?;
    Ok(format!("{directives}\n").into_response())
}

async fn set_log_level(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<AdminPeer>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Response> {
    let admitted = admin.gate.admit_operator(peer, &headers);
    admitted.map_err(refusal)?;
    if admin.log_level.get().is_none() {
        return Err(not_ours());
    }
    let set = match str::from_utf8(&body) {
        Ok(directives) => admin.log_level.set(directives),
        Err(_) => Err("the directives are not UTF-8".to_owned()),
    };
    set.map_err(|why| (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response())?;
    let directives = admin.log_level.get().unwrap_or_default();
    Ok(format!("{directives}\n").into_response())
}

fn refusal((status, words): Refusal) -> Response {
    let mut response = (status, words).into_response();
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

fn not_ours() -> Response {
    let words = "the log is not this server's to change\n";
    (StatusCode::NOT_FOUND, words).into_response()
}
