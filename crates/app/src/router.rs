//! Every route and every layer of the public listener, on one screen.

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};

use crate::app::App;
use crate::http::problem::Problem;
use crate::http::{limits, request_id};
use crate::{accounts, ledger, merchants, observe, payments};

/// The public routes.
pub fn router(app: &Arc<App>) -> Router {
    let http = &app.config.http;
    let routes = Router::new()
        .route("/v1/accounts", post(accounts::handler::create).get(accounts::handler::list))
        .route("/v1/accounts/{id}", get(accounts::handler::get))
        .route("/v1/accounts/{id}/entries", get(ledger::handler::entries))
        .route("/v1/payments", post(payments::handler::create).get(payments::handler::list))
        .route("/v1/payments/batch", post(payments::batch::handler::batch))
        .route("/v1/payments/{id}", get(payments::handler::get))
        .route("/v1/payments/{id}/capture", post(payments::handler::capture))
        .route("/v1/payments/{id}/void", post(payments::handler::void))
        .route("/v1/payments/{id}/refunds", post(payments::handler::refund))
        .route("/v1/merchants/{id}/stats", get(merchants::handler::stats))
        .route("/v1/ledger/trial-balance", get(ledger::handler::trial_balance))
        .fallback(|| async { Problem::not_found("route") })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "This route has no such method.",
            )
        });
    // Layers, innermost first as axum adds them; a request meets them from the last line to the first.
    let routes = routes
        // A panic in a handler is one failed request, not a dead connection.
        .layer(CatchPanicLayer::custom(panicked))
        // Bounds before work: requests in flight, time, and no new work while draining.
        .layer(from_fn_with_state(Arc::clone(app), limits::bound))
        // Times everything below, refusals included.
        .layer(from_fn_with_state(Arc::clone(app), observe::request));
    let routes = if http.compression_enabled {
        // Outside the timing: compression is paid by those who ask for it.
        let threshold = u64::try_from(http.compression_threshold_bytes).unwrap_or(u64::MAX);
        let predicate = SizeAbove::new(threshold).and(NotForContentType::SSE);
        routes.layer(CompressionLayer::new().gzip(true).compress_when(predicate))
    } else {
        routes
    };
    // The outermost: every answer has an id, and problems get their bodies.
    routes.layer(from_fn(request_id::assign)).with_state(Arc::clone(app))
}

#[expect(clippy::needless_pass_by_value, reason = "the layer hands the cause over")]
fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default();
    tracing::error!(panic = text, "handler panicked");
    Problem::internal().into_response()
}
