//! Carries the news of commits: what this node committed and has announced is crossed off, and what a node committed and
//! did not live to announce is announced by this one. Works on notices (`engine::notices`), which are written by the commits
//! themselves. Decides nothing about what is cached. Run by `serve`, on every node, at the start and every second.

use std::sync::Arc;
use std::time::Duration;

use paystrata_db::Error;
use tokio::time::{MissedTickBehavior, interval, timeout};
use uuid::Uuid;

use crate::app::App;
use crate::engine::{fold_notices, forget_notices, overdue_notices};

/// One statement per node and period: rare beside the commits.
const PERIOD: Duration = Duration::from_secs(1);
/// A notice this old was left behind: its node crosses off every second what it has announced, and announces within
/// milliseconds. Too early only means to say it twice.
const OVERDUE_AFTER: Duration = Duration::from_secs(2);
/// Notices carried at once: with 256 accounts in each a quarter of the keys that may wait in a cache to be announced.
const ROUND_SIZE: usize = 64;
/// Notices kept while nobody can be told, some minutes of load; over it they become one that says "anything".
const NOTICES_MAX: i64 = 10_000;
/// What the last round may take: the service is being stopped, and any other node can do it.
const LAST_ROUND: Duration = Duration::from_millis(500);

/// Whether all that could be done was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Done,
    /// The other nodes cannot be told now.
    Untold,
}

/// Runs until draining.
pub async fn run(app: Arc<App>) {
    if !app.documents.are_shared() {
        // Nobody to tell, and no notices.
        return app.draining.cancelled().await;
    }
    // At the start whatever is there: of this node's own last life, mostly, and nothing is known of how old it is.
    let mut age = Duration::ZERO;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = app.draining.cancelled() => return,
        }
        let ended = tokio::select! {
            ended = round(&app, age) => ended,
            () = app.draining.cancelled() => return,
        };
        match ended {
            Ok(Round::Done) => age = OVERDUE_AFTER,
            Ok(Round::Untold) => tracing::debug!("other nodes cannot be told of commits"),
            Err(error) => tracing::warn!(%error, "carry notices of commits"),
        }
    }
}

/// Crosses off what this node announced last, once nothing more is committed.
pub async fn last_round(app: &App) {
    if app.documents.are_shared() {
        // What is left is carried by others.
        let _ended = timeout(LAST_ROUND, cross_off(app)).await;
    }
}

async fn round(app: &App, age: Duration) -> Result<Round, Error> {
    if cross_off(app).await? == Round::Untold {
        return Ok(Round::Untold);
    }
    carry(app, age).await
}

/// Deletes the notices of what this node has committed and announced.
async fn cross_off(app: &App) -> Result<Round, Error> {
    let owed = app.documents.owed();
    if owed.is_empty() {
        return Ok(Round::Done);
    }
    if !app.documents.is_all_announced().await {
        fold_notices(&app.db.write().await?, NOTICES_MAX).await?;
        return Ok(Round::Untold);
    }
    forget_notices(&app.db.write().await?, &owed).await?;
    app.documents.paid(owed.len());
    Ok(Round::Done)
}

/// Announces what notices of that age are about, and deletes them.
async fn carry(app: &App, age: Duration) -> Result<Round, Error> {
    loop {
        // The connection is given back before anybody is told: Redis may hang.
        let notices = overdue_notices(&app.db.write().await?, age, ROUND_SIZE).await?;
        if notices.is_empty() {
            return Ok(Round::Done);
        }
        // First whether the queue moves: what cannot be told now is asked for again and again.
        let is_moving = app.documents.is_all_announced().await;
        if is_moving {
            app.documents.void_noticed(&notices);
        }
        if !is_moving || !app.documents.is_all_announced().await {
            fold_notices(&app.db.write().await?, NOTICES_MAX).await?;
            return Ok(Round::Untold);
        }
        let ids: Vec<Uuid> = notices.iter().map(|notice| notice.id).collect();
        forget_notices(&app.db.write().await?, &ids).await?;
        if ids.len() < ROUND_SIZE {
            return Ok(Round::Done);
        }
    }
}
