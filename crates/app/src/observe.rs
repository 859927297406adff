//! Joins what the crates report to the monitor: the only place where a leaf's observer and the monitor meet. Also the
//! layer that times requests by route.

mod caches;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use paystrata_db::{QuerySeen, TransactionEnd, TransactionSeen};
use paystrata_gateway::{AttemptReport, BreakerChange, GatewayObserver};
use paystrata_monitor::{Counter, Monitor, Objective, Operation, Outcome};

use crate::app::App;
use crate::config::TargetsConfig;
use crate::documents::Documents;
use crate::engine::{Commit, EngineObserver};

pub use caches::{CacheFigures, CacheObserver};

/// A monitor with the objectives of this service.
#[must_use]
pub fn monitor(targets: &TargetsConfig) -> Monitor {
    let monitor = Monitor::new();
    monitor.threshold(PAYMENT, Duration::from_millis(100));
    monitor.threshold(ACCOUNT, Duration::from_millis(50));
    monitor.threshold(QUERY, Duration::from_millis(30));
    let objective = Objective::new().p50(targets.p50).p95(targets.p95).p99(targets.p99);
    monitor.objective(REQUEST, objective);
    monitor
}

/// `POST /v1/payments`, from handler to answer.
const PAYMENT: &str = "payment.process";
/// `GET /v1/accounts/{id}`, likewise.
const ACCOUNT: &str = "account.lookup";
/// One statement of a pool.
const QUERY: &str = "db.query";
/// One HTTP request, by route; the name is OpenTelemetry's.
const REQUEST: &str = "http.server.request.duration";

/// Methods that some route has. Whoever calls chooses the method, so any other is one label: with a dozen routes the label
/// sets stay below the monitor's bound of 64, which would else be filled by whoever asks first.
const METHODS: [&str; 3] = ["GET", "HEAD", "POST"];
/// OpenTelemetry's word for the others.
const OTHER_METHOD: &str = "_OTHER";

/// Times each request by method and route.
pub async fn request(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let known = METHODS.iter().find(|known| **known == method.as_str()).copied();
    let labels = [("http.request.method", known.unwrap_or(OTHER_METHOD)), ("http.route", route.as_str())];
    let operation = app.monitor.operation_labelled(REQUEST, &labels);
    let named = match (method.as_str(), route.as_str()) {
        ("POST", "/v1/payments") => Some(app.monitor.operation(PAYMENT)),
        ("GET", "/v1/accounts/{id}") => Some(app.monitor.operation(ACCOUNT)),
        _ => None,
    };
    let timers: Vec<_> =
        std::iter::once(operation.start()).chain(named.as_ref().map(Operation::start)).collect();
    let response = next.run(request).await;
    for timer in timers {
        if response.status().is_server_error() { timer.fail() } else { timer.succeed() }
    }
    response
}

/// Tells the read path and the monitor of commits.
#[derive(Debug)]
pub struct CommitObserver {
    documents: Arc<Documents>,
    batches: Operation,
    commands: Counter,
    panics: Counter,
}

impl CommitObserver {
    /// For one engine.
    #[must_use]
    pub fn new(documents: Arc<Documents>, monitor: &Monitor) -> Self {
        Self {
            documents,
            batches: monitor.operation("engine.batch"),
            commands: monitor
                .counter("engine.commands", "Commands decided and committed by the ledger engine."),
            panics: monitor.counter("engine.panics", "Panics caught in the lanes of the ledger engine."),
        }
    }
}

impl EngineObserver for CommitObserver {
    fn committed(&self, commit: &Commit) {
        self.documents.committed(commit);
    }

    fn doubted(&self, commit: &Commit) {
        self.documents.doubted(commit);
    }

    fn all_doubted(&self) {
        self.documents.all_doubted();
    }

    fn batch(&self, size: usize, took: Duration) {
        self.batches.record(took, Outcome::Success);
        self.commands.add(size as u64);
    }

    fn panicked(&self) {
        self.panics.increment();
    }
}

/// Tells the monitor of queries and transactions.
#[derive(Debug)]
pub struct DatabaseObserver {
    queries: Operation,
    unknown_commits: Counter,
    acquires: Operation,
}

impl DatabaseObserver {
    /// For one data layer.
    #[must_use]
    pub fn new(monitor: &Monitor) -> Self {
        Self {
            queries: monitor.operation(QUERY),
            unknown_commits: monitor
                .counter("db.commits.unknown", "Commits whose outcome could not be learned."),
            acquires: monitor.operation("db.acquire"),
        }
    }
}

impl paystrata_db::Observer for DatabaseObserver {
    fn query(&self, seen: &QuerySeen<'_>) {
        self.queries.record(seen.took, outcome(seen.failure.is_some()));
    }

    fn acquire(&self, seen: &paystrata_db::AcquireSeen<'_>) {
        self.acquires.record(seen.waited, outcome(seen.failure.is_some()));
    }

    fn transaction(&self, seen: &TransactionSeen) {
        if seen.end == TransactionEnd::Unknown {
            self.unknown_commits.increment();
        }
    }

    fn node_changed(&self, node: &paystrata_db::NodeId, state: paystrata_db::NodeState) {
        tracing::info!(%node, ?state, "database node changed");
    }
}

/// Tells the monitor of exchanges with gateways.
#[derive(Debug)]
pub struct ExchangeObserver {
    monitor: Monitor,
}

impl ExchangeObserver {
    /// For all gateways.
    #[must_use]
    pub fn new(monitor: &Monitor) -> Self {
        Self { monitor: monitor.clone() }
    }
}

impl GatewayObserver for ExchangeObserver {
    fn attempt_finished(&self, report: &AttemptReport<'_>) {
        let operation = self.monitor.operation_labelled("gateway.exchange", &[("gateway", report.gateway)]);
        operation.record(report.elapsed, outcome(report.failure.is_some()));
    }

    fn breaker_changed(&self, change: &BreakerChange<'_>) {
        tracing::warn!(gateway = change.gateway, state = ?change.state, "gateway breaker changed");
    }
}

fn outcome(failed: bool) -> Outcome {
    if failed { Outcome::Error } else { Outcome::Success }
}
