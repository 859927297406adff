//! Keeps `merchant_stats` fresh: one node of the fleet refreshes at a time, readers are never blocked. Runs on a session
//! of its own, because a refresh of a large table outlasts the statement timeout of the pools.

use std::time::Duration;

use paystrata_db::Db;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::store::refresh_stats;

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
    refresh_stats(session.client()).await?;
    Ok(())
}
