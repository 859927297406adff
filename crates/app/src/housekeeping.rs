//! Chores off the path of requests: partitions ahead of time, forgetting old keys, the blocklist's refresh. Each runs
//! on its own period until draining; a chore that fails is logged and tried again at its next turn.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::app::App;
use crate::engine::forget_old_keys;
use crate::fraud::refresh_blocklist;
use crate::migrations::ensure_partitions;

/// Partitions are made months ahead: once an hour is often enough.
const PARTITIONS_PERIOD: Duration = Duration::from_secs(3_600);
const KEYS_PERIOD: Duration = Duration::from_secs(600);
/// Keys forgotten in one statement: small, so that it holds its locks for milliseconds.
const KEYS_MAX: i64 = 5_000;
/// A blocklist entry added at run time takes effect within this time.
const BLOCKLIST_PERIOD: Duration = Duration::from_secs(5);

/// Runs all chores until draining.
pub async fn run(app: Arc<App>) {
    tokio::join!(
        every(&app, PARTITIONS_PERIOD, || keep_partitions(&app)),
        every(&app, KEYS_PERIOD, || forget_keys(&app)),
        every(&app, BLOCKLIST_PERIOD, || read_blocklist(&app)),
    );
}

async fn every<F, Fut>(app: &App, period: Duration, chore: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = ()>,
{
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = app.draining.cancelled() => return,
        }
        tokio::select! {
            () = chore() => {}
            () = app.draining.cancelled() => return,
        }
    }
}

async fn keep_partitions(app: &App) {
    let kept = async {
        let session = app.db.session("partition-keeper").await?;
        ensure_partitions(&session, app.config.partitions.months_ahead.get())
            .await
            .map_err(anyhow::Error::from)
    };
    if let Err(error) = kept.await {
        // Months are left before the last partition is full: loud, but not fatal.
        tracing::error!(?error, "make partitions");
    }
}

async fn forget_keys(app: &App) {
    loop {
        let forgotten = async {
            let connection = app.db.write().await?;
            forget_old_keys(&connection, app.config.idempotency.retention, KEYS_MAX).await
        };
        match forgotten.await {
            Ok(count) if i64::try_from(count).unwrap_or(0) == KEYS_MAX => {}
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "forget old keys");
                return;
            }
        }
    }
}

/// Also called once at the start, before anybody is answered. A failure is counted and told; the last list stays in force,
/// and until there is one no payment is taken.
pub async fn read_blocklist(app: &App) {
    let blocklist = app.fraud.blocklist();
    if let Err(error) = refresh_blocklist(blocklist, &app.db).await {
        let help = "Reads of the stored blocklist that failed; the last list stays in force.";
        app.monitor.counter("fraud.blocklist.failures", help).increment();
        let is_read = blocklist.is_read();
        match error.mend() {
            // It does not pass by itself.
            Some(mend) => tracing::error!(%error, mend, is_read, "refresh blocklist"),
            None => tracing::warn!(?error, is_read, "refresh blocklist"),
        }
    }
    let help = "Entries of the blocklist in force; of the table at most a million.";
    app.monitor.gauge("fraud.blocklist.entries", help).set(float(blocklist.len()));
}

/// Exact: a list is far shorter than 2^32.
fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}
