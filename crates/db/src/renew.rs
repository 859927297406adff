//! Replaces connections before their lifetime ends, so that no caller waits for a dial because an old one was closed.
//! One at a time: a fresh one is made and seated on the pool's bench, then an idle old one is closed; one in somebody's hands
//! is exchanged when it is next handed out. It dials no server that is down. One task per pool, spawned by `Db::connect`.

use std::time::Instant;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::config::{RENEW_PAUSE_MAX, RENEW_PAUSE_MIN, RENEWED_AHEAD_MAX};
use crate::pool::{Pool, Pooled};

/// Runs until `stop`.
pub(crate) async fn keep_fresh(pool: Pool, stop: CancellationToken) {
    // A pause is a small part of the window in which connections are replaced before their end.
    let pause = (pool.manager().lifetime_max / 200).clamp(RENEW_PAUSE_MIN, RENEW_PAUSE_MAX);
    let renewing = async {
        loop {
            sleep(pause).await;
            renew_due(&pool).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = renewing => {}
    }
}

/// Makes fresh ones until each old one that is idle is replaced, and a few for old ones in use.
async fn renew_due(pool: &Pool) {
    let maker = pool.manager();
    // Each turn closes or makes one, so that this is twice as many as there can be.
    for _ in 0..2 * maker.size_max {
        let due = maker.roster.due(Instant::now());
        if due == 0 {
            return;
        }
        if maker.ahead() > 0 && maker.claim_ahead() {
            if close_one_due(pool) {
                continue;
            }
            maker.note_ahead();
        }
        if maker.ahead() >= RENEWED_AHEAD_MAX.min(due) {
            return;
        }
        match maker.connect().await {
            Ok(fresh) => {
                // Its room is that of the old one, which goes next.
                if maker.bench.seat(fresh, |_| true).is_err() {
                    return;
                }
                maker.note_ahead();
            }
            Err(error) => {
                debug!(node = %maker.node.id, %error, "no replacement for a connection near its end");
                return;
            }
        }
    }
}

/// Closes one old connection that nobody uses, if there is one.
fn close_one_due(pool: &Pool) -> bool {
    let (maker, now) = (pool.manager(), Instant::now());
    let is_due = |pooled: &Pooled| now >= pooled.presence.replace_at;
    if let Some(seated) = maker.bench.take_if(is_due) {
        drop(seated);
        maker.note_renewed();
        return true;
    }
    let mut is_found = false;
    let closed = pool.retain(|pooled, _| {
        let goes = !is_found && is_due(pooled);
        is_found |= goes;
        !goes
    });
    // Dropped here and not under the pool's lock.
    drop(closed.removed);
    if is_found {
        maker.note_renewed();
    }
    is_found
}
