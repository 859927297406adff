//! Taking a connection from a pool: a limit on every phase, an error that says who holds what, no wait for oneself, and
//! patience with a server that has no room for another connection. It holds nothing itself. Called by `Db`, through `Shared`.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use deadpool::managed::{PoolError, TimeoutType, Timeouts};
use tokio::time::{sleep, timeout_at};
use tokio_postgres::error::SqlState;

use crate::config::{NESTED_PATIENCE, SERVER_FULL_PAUSE, SERVER_FULL_PAUSE_MAX};
use crate::error::{AcquirePhase, Error};
use crate::pool::{Pool, PoolObject, status};

thread_local! {
    /// A pool begins to test or to make a connection for whoever is polled just now: the pool itself does not say when a wait is over.
    static IS_SERVED: Cell<bool> = const { Cell::new(false) };
}

/// To be called by a pool's manager when it begins to test or to make a connection.
pub(crate) fn note_served() {
    IS_SERVED.set(true);
}

/// Takes a connection, waiting for a free one no longer than `until`, and for all tests and dials together no
/// longer than the connect timeout after that.
pub(crate) async fn acquire(pool: &Pool, started: Instant, until: Instant) -> Result<PoolObject, Error> {
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
    // Limited here, by the timer that looks for callers who wait for themselves: one each for both and for all phases together
    // would cost more than the rest of a checkout. Only who may not wait at all is for the pool to refuse.
    let wait = wait.is_zero().then_some(Duration::ZERO);
    let timeouts = Timeouts { wait, ..pool.timeouts() };
    let is_served = AtomicBool::new(false);
    let taking = pin!(pool.timeout_get(&timeouts));
    let mut taking = pin!(noting(&is_served, taking));
    // As always where there are connections enough: no timer.
    let taken = match poll_fn(|context| Poll::Ready(taking.as_mut().poll(context))).await {
        Poll::Ready(taken) => taken,
        Poll::Pending => within_limits(pool, taking, &is_served, started, until).await?,
    };
    taken.map_err(|error| match error {
        PoolError::Backend(error) => error,
        PoolError::Timeout(TimeoutType::Wait) => timed_out(pool, AcquirePhase::Waiting, started),
        PoolError::Timeout(TimeoutType::Create) => timed_out(pool, AcquirePhase::Connecting, started),
        PoolError::Timeout(TimeoutType::Recycle) => timed_out(pool, AcquirePhase::Testing, started),
        PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => Error::Closed,
    })
}

/// Tells when the pool has begun to serve who is `taking` a connection from it.
async fn noting<T>(is_served: &AtomicBool, mut taking: Pin<&mut impl Future<Output = T>>) -> T {
    poll_fn(|context| {
        IS_SERVED.set(false);
        let polled = taking.as_mut().poll(context);
        if IS_SERVED.get() {
            is_served.store(true, Ordering::Relaxed);
        }
        polled
    })
    .await
}

/// What `taking` gives, unless it waits beyond `until`, or for its own task, or is served for longer than tests and dials may take.
async fn within_limits<T>(
    pool: &Pool,
    mut taking: Pin<&mut impl Future<Output = T>>,
    is_served: &AtomicBool,
    started: Instant,
    until: Instant,
) -> Result<T, Error> {
    let maker = pool.manager();
    // Outside of a task nobody can be told from anybody else.
    let task = tokio::task::try_id();
    let (mut now, mut patience, mut limit) = (Instant::now(), NESTED_PATIENCE, until);
    loop {
        let look_at = if task.is_some() { limit.min(now + patience) } else { limit };
        if let Ok(taken) = timeout_at(look_at.into(), taking.as_mut()).await {
            return Ok(taken);
        }
        now = Instant::now();
        let mut phase = AcquirePhase::Waiting;
        if is_served.load(Ordering::Relaxed) {
            phase = AcquirePhase::Testing;
            // Several dead connections in a row may have to be tested before one is good.
            limit = until.max(started) + maker.settings.connect_timeout;
        } else if task.is_some_and(|task| maker.roster.is_kept_by(task, maker.size_max)) {
            let holders = maker.roster.holders(now);
            return Err(Error::NestedAcquire { node: maker.node.id.clone(), pool: status(pool), holders });
        }
        if now >= limit {
            return Err(timed_out(pool, phase, started));
        }
        patience *= 2;
    }
}

fn timed_out(pool: &Pool, phase: AcquirePhase, started: Instant) -> Error {
    let maker = pool.manager();
    Error::AcquireTimeout {
        node: maker.node.id.clone(),
        phase,
        waited: started.elapsed(),
        pool: status(pool),
        holders: maker.roster.holders(Instant::now()),
    }
}
