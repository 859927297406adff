//! What handlers and background tasks share: one struct, built once by `serve`, passed as `Arc<App>`.

use std::sync::Arc;

use paystrata_db::Db;
use paystrata_db::plans::SlowLog;
use paystrata_db::views::Views;
use paystrata_monitor::Monitor;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bodies::Budget;
use crate::config::Config;
use crate::documents::Documents;
use crate::engine::{Engine, EngineError, Reply, Submission};
use crate::fraud::Fraud;
use crate::gateways::Gateways;
use crate::merchants::keys::Keys;
use crate::observe::CacheFigures;
use crate::replies::Replies;
use crate::supervise::Watch;

/// The composed service.
#[derive(Debug)]
pub struct App {
    /// As checked at start.
    pub config: Config,
    /// Reads, and sessions for background work.
    pub db: Db,
    /// Which of its statements are slow.
    pub slow_log: Arc<SlowLog>,
    /// Materialized views, refreshed in the background.
    pub views: Views,
    /// The write path.
    pub engine: Engine,
    /// Rails outside this ledger.
    pub gateways: Gateways,
    /// Rules before the write path.
    pub fraud: Fraud,
    /// The read path.
    pub documents: Arc<Documents>,
    /// What was answered under a key a short while ago.
    pub replies: Replies,
    /// Who calls.
    pub keys: Keys,
    /// Where time goes.
    pub monitor: Monitor,
    /// What the caches count, on its way to the monitor.
    pub cache_figures: CacheFigures,
    /// Charges under way: awaited on shutdown, whatever became of their callers.
    pub charges: TaskTracker,
    /// Requests that may be in flight.
    pub in_flight: Arc<Semaphore>,
    /// Bytes that the bodies of requests may have together.
    pub bodies: Budget,
    /// Which background tasks are running.
    pub watch: Watch,
    /// Set once shutdown has begun.
    pub draining: CancellationToken,
}

impl App {
    /// Has the engine decide, unless the same was decided under the same key a short while ago.
    ///
    /// # Errors
    /// Only the engine's; a refusal is a decision in the reply.
    pub async fn submit(&self, submission: &Submission) -> Result<Reply, EngineError> {
        self.replies.submit(&self.engine, submission).await
    }

    /// The monitor, with what the caches have counted so far.
    #[must_use]
    pub fn measured(&self) -> &Monitor {
        let [accounts, payments] = self.documents.stats();
        let (replies, keys) = (("replies", self.replies.stats()), ("api-keys", self.keys.stats()));
        self.cache_figures.export(&self.monitor, [accounts, payments, replies, keys]);
        &self.monitor
    }
}
