//! Ends what abandoned callers left running: cancels their queries on the server and closes the connections.
//! It never gives a connection back to a pool, and no caller ever waits for it: the pool's slot is free before
//! the sweep begins. Called when a `Connection` is dropped in the middle of something.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::cancel::cancel;
use crate::config::{CANCEL_EFFECT_TIMEOUT, CANCEL_TIMEOUT, CANCELS_MAX, SWEEPS_MAX};
use crate::pool::Pooled;

/// Runs sweeps, at most [`SWEEPS_MAX`] at once.
#[derive(Debug)]
pub(crate) struct Sweeper {
    tasks: TaskTracker,
    runtime: Handle,
    permits: Arc<Semaphore>,
    swept: AtomicU64,
}

impl Sweeper {
    pub(crate) fn new(tasks: TaskTracker, runtime: Handle) -> Self {
        Self { tasks, runtime, permits: Arc::new(Semaphore::new(SWEEPS_MAX)), swept: AtomicU64::new(0) }
    }

    /// Takes over a connection that left its pool with a query still running.
    pub(crate) fn sweep(&self, pooled: Pooled) {
        self.swept.fetch_add(1, Ordering::Relaxed);
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            // Closing is bounded too: the server looks for its client every second.
            drop(pooled);
            return;
        };
        self.tasks.spawn_on(
            async move {
                cancel_until_idle(&pooled).await;
                drop(pooled);
                drop(permit);
            },
            &self.runtime,
        );
    }

    pub(crate) fn swept(&self) -> u64 {
        self.swept.load(Ordering::Relaxed)
    }
}

/// Cancels until the server has answered everything, for a bounded time. The connection stays open meanwhile,
/// because a pooler forgets whom to cancel once its client is gone.
async fn cancel_until_idle(pooled: &Pooled) {
    let token = pooled.client.cancel_token();
    for _ in 0..CANCELS_MAX {
        // A cancel that could not be delivered is not worth a word of its own: the wait below tells.
        let _delivered = timeout(CANCEL_TIMEOUT, cancel(&token, &pooled.url)).await;
        // An empty round trip queues behind the abandoned statements: its answer proves that they ended.
        if timeout(CANCEL_EFFECT_TIMEOUT, pooled.client.check_connection()).await.is_ok() {
            return;
        }
    }
    debug!("an abandoned query did not end after repeated cancels; closing its connection");
}
