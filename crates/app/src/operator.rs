//! The operator listener: health, readiness, metrics. No authentication: it must not be reachable from outside.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use paystrata_cache::{Readiness, RemotePart};
use paystrata_db::NodeState;
use paystrata_monitor::PROMETHEUS_CONTENT_TYPE;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::answer;
use crate::supervise::RESOLVER;

/// All operator routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/performance/metrics", get(performance))
        .with_state(app)
}

/// The process answers: restart it only if this fails.
async fn health() -> Response {
    answer::json(StatusCode::OK, json!({"status": "ok"}).to_string())
}

/// Payments can be taken and are seen through to their end: a primary is known, every lane of the engine and the resolver
/// run, the fraud rules are loaded, and draining has not begun. Helpers that are down cost speed only, so they are told but
/// do not count.
async fn ready(State(app): State<Arc<App>>) -> Response {
    let status = app.db.status();
    let draining = app.draining.is_cancelled();
    let lanes = app.engine.lanes_running();
    let tasks: serde_json::Map<_, _> = app
        .watch
        .states()
        .into_iter()
        .map(|(name, state)| (name.to_owned(), json!({"running": state.running, "failures": state.failures})))
        .collect();
    // Without the resolver, what is not known stays held; without a lane, half of all accounts cannot pay.
    let working = lanes.iter().all(|running| *running) && app.watch.is_running(RESOLVER);
    let rules = app.fraud.rules().is_ok();
    let ready = status.primary.is_some() && working && rules && !draining;
    let nodes: Vec<_> = status
        .nodes
        .iter()
        .map(|node| {
            json!({
                "node": node.id.to_string(),
                "up": node.state == NodeState::Up,
                "role": node.role.map(|role| format!("{role:?}").to_lowercase()),
                "lag_ms": node.lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
            })
        })
        .collect();
    let body = json!({
        "ready": ready,
        "draining": draining,
        "lanes": lanes,
        "tasks": tasks,
        "fraud_rules": rules,
        "database": nodes,
        "caches": caches(&app),
    });
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer::json(code, body.to_string())
}

/// What the caches share with other nodes: a service that is without it is slower, and no less right.
fn caches(app: &App) -> Vec<Value> {
    let part = |part: &RemotePart| json!({"kind": part.kind, "up": part.is_up});
    let cache = |(name, readiness): (&str, Readiness)| {
        json!({
            "cache": name,
            "ready": readiness.is_ready(),
            "tiers": readiness.tiers.iter().map(part).collect::<Vec<_>>(),
            "line": readiness.line.as_ref().map(part),
        })
    };
    app.documents.readiness().into_iter().map(cache).collect()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut response = Response::new(app.measured().prometheus().into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROMETHEUS_CONTENT_TYPE));
    response
}

/// The same figures as a report in JSON, with objectives met or missed.
async fn performance(State(app): State<Arc<App>>) -> Response {
    match serde_json::to_vec(&app.measured().report()) {
        Ok(body) => answer::json(StatusCode::OK, body),
        Err(error) => {
            tracing::error!(%error, "write report");
            answer::json(StatusCode::INTERNAL_SERVER_ERROR, "{}")
        }
    }
}
