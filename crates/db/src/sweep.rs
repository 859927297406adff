//! Cleans connections that were dropped with something left on them: an abandoned statement is cancelled on the server, with
//! proof that the cancel has struck; a commit under way is left to its end; an open transaction is rolled back; a changed
//! session is reset. What is clean then goes back to its pool, and everything else is closed. No caller ever waits for it: the pool's slot is free before it begins.
//! Called when a `Connection` is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::cancel::cancel;
use crate::config::{
    ABANDONED_PATIENCE, CANCEL_EFFECT_TIMEOUT, CANCEL_TIMEOUT, CANCELS_MAX, CLEAN_STEP_TIMEOUT, SWEEPS_MAX,
};
use crate::dial::Path;
use crate::pool::{self, Pool, Pooled};
use crate::tap::TransactionStatus;

/// What was left on a connection, besides a transaction, of which the wire tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    /// A statement may still be running.
    pub(crate) statement: bool,
    /// COMMIT may still be running: it is not cancelled.
    pub(crate) commit: bool,
    /// Settings, locks or tables may be there that outlive a transaction.
    pub(crate) session_state: bool,
    /// Answers no longer come to what was asked: it is of no more use once nothing runs on it.
    pub(crate) lost_its_way: bool,
}

/// Runs sweeps, at most [`SWEEPS_MAX`] at once.
#[derive(Debug)]
pub(crate) struct Sweeper {
    tasks: TaskTracker,
    runtime: Handle,
    permits: Arc<Semaphore>,
    swept: AtomicU64,
    cleaned: Arc<AtomicU64>,
}

/// Undoes whatever a session was told, but for the statements that it has named itself: it gives the texts that take their names away.
/// The settings go back to those of the first packet; what the driver has prepared stays.
const RESET: &str = "SELECT pg_advisory_unlock_all(); RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; \
                     CLOSE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES; \
                     SELECT 'DEALLOCATE ' || quote_ident(name) AS forget \
                     FROM pg_catalog.pg_prepared_statements WHERE from_sql";

impl Sweeper {
    pub(crate) fn new(tasks: TaskTracker, runtime: Handle) -> Self {
        Self {
            tasks,
            runtime,
            permits: Arc::new(Semaphore::new(SWEEPS_MAX)),
            swept: AtomicU64::new(0),
            cleaned: Arc::default(),
        }
    }

    /// Takes over a connection that left its pool; without a pool there is nothing to go back to.
    pub(crate) fn sweep(&self, pooled: Box<Pooled>, pool: Option<Pool>, left: Left) {
        if left.statement {
            self.swept.fetch_add(1, Ordering::Relaxed);
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            // Closing is bounded too: the server looks for its client every second.
            drop(pooled);
            return;
        };
        let cleaned = Arc::clone(&self.cleaned);
        self.tasks.spawn_on(
            async move {
                let is_clean = clean(&pooled, left).await;
                if is_clean && pool.is_some_and(|pool| pool::readmit(&pool, pooled, left)) {
                    cleaned.fetch_add(1, Ordering::Relaxed);
                }
                drop(permit);
            },
            &self.runtime,
        );
    }

    pub(crate) fn swept(&self) -> u64 {
        self.swept.load(Ordering::Relaxed)
    }

    pub(crate) fn cleaned(&self) -> u64 {
        self.cleaned.load(Ordering::Relaxed)
    }
}

/// Whether the connection may be used again.
async fn clean(pooled: &Pooled, left: Left) -> bool {
    let is_idle = match left {
        Left { statement: true, commit: false, .. } => end_statements(pooled).await,
        _ => is_answered(pooled, CLEAN_STEP_TIMEOUT).await,
    };
    // Behind a pooler nobody knows which server connection it was.
    if !is_idle || pooled.path == Path::Pooler {
        return false;
    }
    let tap = &pooled.presence.tap;
    let is_rolled_back = match tap.status() {
        TransactionStatus::Idle => true,
        TransactionStatus::Open | TransactionStatus::Failed => runs(pooled, "ROLLBACK").await,
        TransactionStatus::Unknown => false,
    };
    is_rolled_back && (!left.session_state || is_reset(pooled).await) && tap.is_clean()
}

/// Cancels until the server has answered everything, for a bounded time; gives whether nothing of it can strike later.
/// The connection stays open meanwhile, because a pooler forgets whom to cancel once its client is gone.
async fn end_statements(pooled: &Pooled) -> bool {
    if is_answered(pooled, ABANDONED_PATIENCE).await {
        return true;
    }
    let mut all_delivered = true;
    for _ in 0..CANCELS_MAX {
        // The server closes the request's socket after it has sent the signal, so that a round trip begun later comes
        // back after the signal was dealt with. Of a request without that end nobody knows when it strikes.
        let delivered = timeout(CANCEL_TIMEOUT, cancel(&pooled.presence.cancel, &pooled.url)).await;
        all_delivered &= matches!(delivered, Ok(Ok(())));
        if is_answered(pooled, CANCEL_EFFECT_TIMEOUT).await {
            return all_delivered;
        }
    }
    debug!("an abandoned query did not end after repeated cancels; closing its connection");
    false
}

/// An empty round trip queues behind everything that was sent, also behind what the driver still holds: its answer proves
/// that all of it ended.
async fn is_answered(pooled: &Pooled, limit: Duration) -> bool {
    matches!(timeout(limit, pooled.client.check_connection()).await, Ok(Ok(())))
}

async fn is_reset(pooled: &Pooled) -> bool {
    let reset = timeout(CLEAN_STEP_TIMEOUT, pooled.client.simple_query(RESET)).await;
    let Ok(Ok(answers)) = reset else { return false };
    let forgets = answers.iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.try_get("forget").ok().flatten(),
        _ => None,
    });
    let forgets: Vec<&str> = forgets.collect();
    forgets.is_empty() || runs(pooled, &forgets.join("; ")).await
}

async fn runs(pooled: &Pooled, sql: &str) -> bool {
    matches!(timeout(CLEAN_STEP_TIMEOUT, pooled.client.batch_execute(sql)).await, Ok(Ok(())))
}
