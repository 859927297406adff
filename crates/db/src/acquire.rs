//! Taking a connection from a pool: a limit on every phase, an error that says who holds what, no wait for oneself, and
//! patience with a server that has no room for another connection. It holds nothing itself. Called by `Db`, through `Shared`.

use std::future::pending;
use std::time::{Duration, Instant};

use deadpool::managed::{PoolError, TimeoutType, Timeouts};
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;

use crate::config::{NESTED_PATIENCE, SERVER_FULL_PAUSE, SERVER_FULL_PAUSE_MAX};
use crate::error::{AcquirePhase, Error};
use crate::pool::{Pool, PoolObject, status};

/// Takes a connection, waiting for a free one no longer than `until`, and for all tests and dials together no
/// longer than the connect timeout after that.
pub(crate) async fn acquire(pool: &Pool, until: Instant) -> Result<PoolObject, Error> {
    let started = Instant::now();
    let (mut left, mut pause) = (until.saturating_duration_since(started), SERVER_FULL_PAUSE);
    loop {
        let error = match once(pool, left, started, until).await {
            Ok(taken) => return Ok(taken),
            Err(error) => error,
        };
        left = until.saturating_duration_since(Instant::now());
        if !is_server_full(&error) || left <= pause {
            return Err(error);
        }
        // Then another may have been given back, or the server has room. At random, so that those who met do not again.
        sleep(pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
        left = until.saturating_duration_since(Instant::now());
        pause = (pause * 2).min(SERVER_FULL_PAUSE_MAX);
    }
}

/// The server has all the connections that it is allowed to have. It is well, and others may give one up.
pub(crate) fn is_server_full(error: &Error) -> bool {
    matches!(error, Error::Dial { .. }) && error.sqlstate() == Some(&SqlState::TOO_MANY_CONNECTIONS)
}

async fn once(pool: &Pool, wait: Duration, started: Instant, until: Instant) -> Result<PoolObject, Error> {
    let maker = pool.manager();
    let timeouts = Timeouts { wait: Some(wait), ..pool.timeouts() };
    let timed_out = |phase| Error::AcquireTimeout {
        node: maker.node.id.clone(),
        phase,
        waited: started.elapsed(),
        pool: status(pool),
        holders: maker.roster.holders(Instant::now()),
    };
    // Several dead connections in a row may have to be tested before one is good.
    let all_phases = until.max(started) + maker.settings.connect_timeout;
    let taken = tokio::select! {
        biased;
        taken = timeout(all_phases.saturating_duration_since(Instant::now()), pool.timeout_get(&timeouts)) => taken,
        () = until_kept_by_itself(pool) => {
            let holders = maker.roster.holders(Instant::now());
            return Err(Error::NestedAcquire { node: maker.node.id.clone(), pool: status(pool), holders });
        }
    };
    match taken {
        Err(_) => Err(timed_out(AcquirePhase::Testing)),
        Ok(taken) => taken.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Timeout(TimeoutType::Wait) => timed_out(AcquirePhase::Waiting),
            PoolError::Timeout(TimeoutType::Create) => timed_out(AcquirePhase::Connecting),
            PoolError::Timeout(TimeoutType::Recycle) => timed_out(AcquirePhase::Testing),
            PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => Error::Closed,
        }),
    }
}

/// Returns when the calling task keeps one of the connections, all of which are held. Costs nothing to who need not wait.
async fn until_kept_by_itself(pool: &Pool) {
    // Outside of a task nobody can be told from anybody else.
    let Some(task) = tokio::task::try_id() else { return pending().await };
    let maker = pool.manager();
    let mut patience = NESTED_PATIENCE;
    loop {
        sleep(patience).await;
        if maker.roster.is_kept_by(task, maker.size_max) {
            return;
        }
        patience *= 2;
    }
}
