//! Keeps background tasks running: one that ends or panics is started again, after a pause that grows while it keeps
//! failing, and whoever asks is told which are running. Decides nothing about what they do. Called by `serve`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Pause before a task is started again; doubles up to the last while it keeps failing.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A task that ran for so long did not fail at once: the next pause is the first again.
const STEADY_AFTER: Duration = Duration::from_secs(120);

/// Settles operations whose outcome is not known: without it, money stays held.
pub const RESOLVER: &str = "resolver";
/// Tells nodes of commits whose own node could not. Without it, what a node that died had committed is seen when it expires.
pub const RELAY: &str = "relay";
/// Chores.
pub const HOUSEKEEPING: &str = "housekeeping";
/// Keeps `merchant_stats` fresh.
pub const STATS_REFRESH: &str = "stats_refresh";
/// Tells of slow statements, once a minute.
pub const SLOW_LOG: &str = "slow_log";

/// What is known of one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskState {
    /// It runs now.
    pub running: bool,
    /// Times it ended without being asked to.
    pub failures: u64,
}

/// The tasks of a service by name; as many as there are names in this file.
#[derive(Debug, Default)]
pub struct Watch {
    tasks: Mutex<BTreeMap<&'static str, TaskState>>,
}

impl Watch {
    /// All tasks that were ever started.
    #[must_use]
    pub fn states(&self) -> BTreeMap<&'static str, TaskState> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the task runs now.
    #[must_use]
    pub fn is_running(&self, name: &str) -> bool {
        self.states().get(name).is_some_and(|state| state.running)
    }

    fn change(&self, name: &'static str, change: impl FnOnce(&mut TaskState)) {
        change(self.tasks.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default());
    }

    /// Runs what `start` gives, again and again, until `stop`; a task that is asked to stop is awaited. Dropped, it ends
    /// the task.
    pub async fn keep<Fut>(&self, name: &'static str, stop: &CancellationToken, start: impl Fn() -> Fut)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut pause = PAUSE_MIN;
        loop {
            let begun = Instant::now();
            self.change(name, |state| state.running = true);
            let ended = AbortOnDropHandle::new(tokio::spawn(start())).await;
            self.change(name, |state| state.running = false);
            if let Err(error) = &ended {
                tracing::error!(%error, task = name, "background task broke");
            }
            if stop.is_cancelled() {
                return;
            }
            self.change(name, |state| state.failures += 1);
            if begun.elapsed() >= STEADY_AFTER {
                pause = PAUSE_MIN;
            }
            tracing::error!(task = name, ?pause, "start background task again");
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::Notify;

    use super::*;

    /// A task that panics `panics` times and then waits to be asked to stop; `began` is told of each start.
    async fn shaky(panics: u64, starts: Arc<AtomicU64>, began: Arc<Notify>, stop: CancellationToken) {
        let start = starts.fetch_add(1, Ordering::Relaxed);
        began.notify_one();
        assert!(start >= panics, "as the test wants it");
        stop.cancelled().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_started_again_and_stops_when_asked() {
        let (watch, stop) = (Arc::new(Watch::default()), CancellationToken::new());
        let (starts, began) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let keeper = tokio::spawn({
            let (watch, stop) = (Arc::clone(&watch), stop.clone());
            let (starts, began) = (Arc::clone(&starts), Arc::clone(&began));
            async move {
                let start = || shaky(3, Arc::clone(&starts), Arc::clone(&began), stop.clone());
                watch.keep(RESOLVER, &stop, start).await;
            }
        });
        let begun = Instant::now();
        for _ in 0..4 {
            began.notified().await;
        }
        assert_eq!(begun.elapsed(), Duration::from_secs(1 + 2 + 4), "each pause is twice the one before");
        assert_eq!(watch.states()[RESOLVER], TaskState { running: true, failures: 3 });
        assert!(watch.is_running(RESOLVER) && !watch.is_running(HOUSEKEEPING));
        stop.cancel();
        keeper.await.expect("the keeper ends");
        assert_eq!(watch.states()[RESOLVER], TaskState { running: false, failures: 3 });
    }
}
