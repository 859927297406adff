//! Accepts connections and speaks HTTP/1.1 and HTTP/2 on them, within bounds: how many there are, how long one may be
//! silent, how long draining waits for one that says nothing. Knows no route. Called by `serve`, once per listener.
//!
//! Bounds of single requests (time, size, number in flight) stand in `http::limits`; a connection whose handler is at
//! work is left alone here.

use std::convert::Infallible;
use std::io::Write as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Connections per request that may be in flight: pools of clients keep idle ones.
const CONNECTIONS_PER_REQUEST: usize = 4;
/// However few requests are let in, this many connections are: one over the requests' bound gets its problem as JSON.
const CONNECTIONS_MIN: usize = 1_024;
/// A connection between requests is kept this long: longer than the 60 s after which common load balancers let go, so
/// that they close first and never send into a connection that ends at this moment.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// What a connection that closes gets to hand over its last bytes.
const LINGER: Duration = Duration::from_secs(5);
/// HTTP/2: a peer that vanished during a long request is noticed within both.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// After an accept that failed; mostly descriptors ran out, and closing connections gives some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Open at once; one more is refused with 503.
    pub connections_max: usize,
    /// From the connect to the end of the first request's headers.
    pub first_request_timeout: Duration,
    /// From one answer to the end of the next request's headers; also how long a client may take none of an answer.
    pub idle_timeout: Duration,
    /// Once closing: how long without any progress.
    pub linger: Duration,
    /// The whole answer to a connection over the bound, from which nothing is read. It fits into any empty send buffer.
    pub refusal: fn() -> Vec<u8>,
}

impl ConnectionLimits {
    /// What follows from the bounds of requests.
    #[must_use]
    pub fn new(in_flight_max: usize, request_timeout: Duration, refusal: fn() -> Vec<u8>) -> Self {
        Self {
            connections_max: in_flight_max.saturating_mul(CONNECTIONS_PER_REQUEST).max(CONNECTIONS_MIN),
            first_request_timeout: request_timeout,
            idle_timeout: IDLE_TIMEOUT.max(request_timeout),
            linger: LINGER,
            refusal,
        }
    }
}

/// Serves until `stop`, then accepts no more, lets requests in hand end, and returns when the last connection has
/// closed. Dropping the future cuts them all.
pub async fn listen(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let builder = Arc::new(builder(&limits));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                note(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        // Those that have ended but were not yet noted do not count.
        while let Some(ended) = connections.try_join_next() {
            note(ended);
        }
        match accepted {
            Ok((stream, _)) if connections.len() >= limits.connections_max => refuse(stream, limits.refusal),
            Ok((stream, _)) => {
                let (builder, router, stop) = (Arc::clone(&builder), router.clone(), stop.clone());
                connections.spawn(async move { converse(&builder, stream, router, limits, stop).await });
            }
            // The one who connected is gone again: nothing is wrong here.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::error!(%error, connections = connections.len(), "accept connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Whoever connects now is refused by the system.
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        note(ended);
    }
}

fn builder(limits: &ConnectionLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

fn note(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "serve connection");
    }
}

/// Best effort and without waiting.
fn refuse(stream: TcpStream, refusal: fn() -> Vec<u8>) {
    tracing::warn!("too many connections: one is refused");
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write_all(&refusal());
    }
}

/// How far a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No request yet: nothing to be polite about.
    New,
    /// Requests come and go.
    Open,
    /// No more requests; the answers under way end.
    Closing,
}

async fn converse(
    builder: &Builder<TokioExecutor>,
    stream: TcpStream,
    router: Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    // Answers are written whole; waiting for acknowledgements of the piece before would only delay them.
    let _ = stream.set_nodelay(true);
    let activity = Arc::new(Activity::default());
    let service = service_fn(|request| answer(router.clone(), request, Arc::clone(&activity)));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut look = pin!(sleep_until(Instant::now() + limits.first_request_timeout));
    let (mut stage, mut seen) = (Stage::New, 0);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error, "connection broke");
                }
                return;
            }
            () = stop.cancelled(), if stage != Stage::Closing => {
                stage = Stage::Closing;
                connection.as_mut().graceful_shutdown();
            }
            () = look.as_mut() => {
                let silent = activity.is_silent_since(&mut seen);
                match stage {
                    Stage::New | Stage::Closing if silent => return,
                    Stage::New => stage = Stage::Open,
                    Stage::Open if silent => {
                        stage = Stage::Closing;
                        connection.as_mut().graceful_shutdown();
                    }
                    Stage::Open | Stage::Closing => {}
                }
            }
        }
        let patience = if stage == Stage::Closing { limits.linger } else { limits.idle_timeout };
        look.as_mut().reset(Instant::now() + patience);
    }
}

/// What a connection does, as its own watch sees it.
#[derive(Debug, Default)]
struct Activity {
    /// Requests whose handler runs.
    at_work: AtomicUsize,
    /// Grows with each request and each piece of an answer that is taken.
    steps: AtomicU64,
}

impl Activity {
    fn step(&self) {
        // Relaxed, as all here: the watch needs a recent value, not an order.
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether nothing happened since the last look and nothing is being done.
    fn is_silent_since(&self, seen: &mut u64) -> bool {
        let steps = self.steps.load(Ordering::Relaxed);
        let before = std::mem::replace(seen, steps);
        before == steps && self.at_work.load(Ordering::Relaxed) == 0
    }
}

/// Counts a handler as at work for as long as it lives: its future may be dropped when the client hangs up.
struct AtWork(Arc<Activity>);

impl AtWork {
    fn begin(activity: Arc<Activity>) -> Self {
        activity.at_work.fetch_add(1, Ordering::Relaxed);
        activity.step();
        Self(activity)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.step();
        self.0.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
    activity: Arc<Activity>,
) -> Result<Response<Watched>, Infallible> {
    let at_work = AtWork::begin(Arc::clone(&activity));
    let response = router.oneshot(request).await?;
    drop(at_work);
    Ok(response.map(|body| Watched { body, activity }))
}

/// A body whose frames count as steps: a slow reader is told from one that reads nothing.
struct Watched {
    body: Body,
    activity: Arc<Activity>,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.activity.step();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        hyper::body::Body::size_hint(&self.body)
    }
}

#[cfg(test)]
mod tests;
