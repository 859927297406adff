//! The simulator's HTTP: accepts, routes, and carries faults out down to a cut connection.
//! Knows no gateway's rules. Every route is in `route`.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::body::{Body, to_bytes};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{Shared, authorize_net, control, faults::FaultKind, reply::Reply, velocity_pay};

/// More open connections than any client here keeps.
const CONNECTIONS_MAX: usize = 4096;
/// Requests are a few KiB.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// No fault waits longer.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// What was served since the start.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub(super) requests: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) connections: AtomicU64,
}

/// A parsed request.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    /// What follows `/velocity/v1/` or `/control/`.
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) authorization: Option<&'a str>,
    pub(super) idempotency_key: Option<&'a str>,
    pub(super) body: &'a [u8],
}

/// The connection is to be cut without a reply.
#[derive(Debug, thiserror::Error)]
#[error("the simulator cuts this connection")]
struct Cut;

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = stop.wait_for(|stopped| *stopped) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => if let Some(stream) = take(accepted, connections.len()) {
                shared.served.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(stream, Arc::clone(&shared)));
            },
        }
    }
    // Dropping the set cuts what is open; joining waits until it is.
    connections.shutdown().await;
}

fn take(accepted: io::Result<(TcpStream, SocketAddr)>, open: usize) -> Option<TcpStream> {
    let (stream, _) = accepted.ok()?;
    // Nagle's algorithm would add its own latency to the simulated one; a socket that cannot do without still works.
    let _ = stream.set_nodelay(true);
    (open < CONNECTIONS_MAX).then_some(stream)
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { answer(&shared, request).await }
    });
    // An error here is a client that left, or a cut that was asked for.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    shared.served.requests.fetch_add(1, Ordering::Relaxed);
    let (parts, body) = request.into_parts();
    let body = to_bytes(Body::new(body), BODY_BYTES_MAX).await.map_err(|_| Cut)?;
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let asked = Asked {
        method: &parts.method,
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        authorization: header("authorization"),
        idempotency_key: header("idempotency-key"),
        body: &body,
    };
    match route(shared, &asked).await {
        Reply::Drop => {
            shared.served.dropped.fetch_add(1, Ordering::Relaxed);
            Err(Cut)
        }
        Reply::Http { status, content_type, headers, body } => {
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = StatusCode::from_u16(status).expect("the simulator uses real statuses");
            response
                .headers_mut()
                .insert("content-type", hyper::header::HeaderValue::from_static(content_type));
            for (name, value) in headers {
                response.headers_mut().insert(name, hyper::header::HeaderValue::from_static(value));
            }
            Ok(response)
        }
    }
}

async fn route(shared: &Shared, asked: &Asked<'_>) -> Reply {
    if let Some(path) = asked.path.strip_prefix("/velocity/v1/") {
        return velocity_pay::answer(shared, &Asked { path, ..*asked }).await;
    }
    if let Some(path) = asked.path.strip_prefix("/control/") {
        return control::answer(shared, &Asked { path, ..*asked });
    }
    match (asked.method, asked.path) {
        (&Method::POST, "/xml/v1/request.api") => authorize_net::answer(shared, asked.body).await,
        (&Method::GET, "/healthz") => Reply::json(200, "{}"),
        _ => Reply::html(404, "Not Found"),
    }
}

/// What a reply takes: the usual latency, and a fault's delay on top.
pub(super) async fn wait(shared: &Shared, fault: Option<FaultKind>) {
    let extra = match fault {
        Some(FaultKind::Delay { delay_ms }) => Duration::from_millis(delay_ms).min(DELAY_MAX),
        _ => Duration::ZERO,
    };
    let latency = shared.config.latency + extra;
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
}
