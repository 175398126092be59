//! The admin port: `/metrics`, `/livez`, `/readyz`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{hub::Hub, metrics::Metrics};

/// What the admin port tells about.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The hub, for what is measured when it is asked for.
    pub hub: Hub,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Whether clients should be sent here.
    pub ready: Arc<AtomicBool>,
}

impl Admin {
    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(self)
            // One request a connection: how long that may take is bounded then.
            .layer(map_response(async |mut response: Response| {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
                response
            }))
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let page = admin.metrics.render(&admin.hub.readings());
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], page).into_response()
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
