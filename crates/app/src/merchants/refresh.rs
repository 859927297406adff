//! Keeps `merchant_stats` fresh: one node of the fleet refreshes at a time, readers are never blocked. Runs on a session
//! of its own, because a refresh of a large table outlasts the statement timeout of the pools.

use std::time::Duration;

use paystrata_db::Db;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Any constant that no other advisory lock of this database uses.
const REFRESH_LOCK: i64 = 0x7061_7973_7461_7401;

/// Refreshes every `period` until stopped.
pub async fn run(db: Db, period: Duration, stop: CancellationToken) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let refreshed = tokio::select! {
            refreshed = refresh(&db) => refreshed,
            () = stop.cancelled() => return,
        };
        if let Err(error) = refreshed {
            tracing::warn!(%error, "refresh merchant_stats");
        }
    }
}

/// Why a refresh did not happen.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// No session.
    #[error("open session")]
    Session(#[from] paystrata_db::Error),
    /// The refresh itself.
    #[error("refresh")]
    Query(#[from] tokio_postgres::Error),
}

/// Refreshes once, unless another node is doing it.
///
/// # Errors
/// The database refused or was not reached.
pub async fn refresh(db: &Db) -> Result<(), RefreshError> {
    let session = db.session("stats-refresher").await?;
    let client = session.client();
    // The transaction's start is what the refreshed rows are at least as fresh as.
    client.batch_execute("BEGIN").await?;
    let lock = client.query_one("SELECT pg_try_advisory_xact_lock($1)", &[&REFRESH_LOCK]).await?;
    if lock.get(0) {
        let refresh = "SET LOCAL statement_timeout = 0;
             REFRESH MATERIALIZED VIEW CONCURRENTLY merchant_stats;
             INSERT INTO view_refreshes VALUES ('merchant_stats', now())
                 ON CONFLICT (view) DO UPDATE SET refreshed_at = excluded.refreshed_at";
        client.batch_execute(refresh).await?;
    }
    client.batch_execute("COMMIT").await?;
    Ok(())
}
