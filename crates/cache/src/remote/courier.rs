//! The one task per cache that changes the remote tier's keys and speaks to the other nodes. One,
//! so that its messages are numbered in the order in which they are sent.
//! Retries until it succeeds: an invalidation is never dropped, it blocks remote reads meanwhile.
//! Started by `builder`, stopped by `close` or with the last handle of the cache.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    Dispatch, Remote, RemoteError,
    message::{Body, Message},
    outbox::{Batch, Outbox},
};
use crate::{clock::Clock, stats::Counters};

/// First pause after a failure: long enough not to spin, short enough to be unnoticed.
const RETRY_MIN: Duration = Duration::from_millis(20);

/// Longest pause between attempts: how late an invalidation may be once the tier is back.
const RETRY_MAX: Duration = Duration::from_millis(500);

/// What one cache needs in order to reach the other nodes.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) cache: Arc<str>,
    pub(crate) remote: Arc<dyn Remote>,
    pub(crate) outbox: Outbox,
    pub(crate) origin: u64,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    pub(crate) timing: Timing,
    /// Asks for a heartbeat at once.
    pub(crate) pulse: Notify,
    /// Asks the courier to finish.
    pub(crate) stop: Notify,
}

/// How often, and how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// Between two signs of life.
    pub(crate) heartbeat: Duration,
    /// What a caller waits at most for the confirmation of an invalidation.
    pub(crate) confirmation: Duration,
    /// What one command may take: a lease outlives a load by it.
    pub(crate) command: Duration,
}

impl Outbound {
    /// Waits for the confirmation of what was pushed, within bounds.
    pub(crate) async fn is_confirmed(&self, keys: &[Bytes]) -> bool {
        timeout(self.timing.confirmation, self.outbox.confirmed(keys)).await.is_ok()
    }

    fn message(&self, sequence: u64, body: Body) -> Bytes {
        let (origin, sent_us) = (self.origin, self.clock.now_us());
        Message { origin, sequence, sent_us, cache: self.cache.to_string(), body }.encode()
    }
}

/// Sends what is pending, and signs of life, until it is told to stop.
pub(crate) async fn run(outbound: Arc<Outbound>) {
    let mut courier = Courier { outbound, sequence: 0, pause: RETRY_MIN };
    let mut heartbeat_at = Instant::now();
    loop {
        let outbound = Arc::clone(&courier.outbound);
        tokio::select! {
            biased;
            () = outbound.stop.notified() => break,
            () = outbound.pulse.notified() => heartbeat_at = Instant::now(),
            () = tokio::time::sleep_until(heartbeat_at) => {}
            () = outbound.outbox.pushed() => {}
        }
        if heartbeat_at <= Instant::now() {
            heartbeat_at = Instant::now() + outbound.timing.heartbeat;
            // A lost heartbeat is not sent again: the next one says more.
            let _lost = courier.send(Dispatch::Tell, courier.sequence, Body::Heartbeat).await;
        }
        courier.send_one_batch().await;
    }
    courier.finish().await;
}

struct Courier {
    outbound: Arc<Outbound>,
    /// The number of the last message known to have arrived. A message whose fate is unknown is
    /// sent again under the same number, which receivers take for the repetition it may be.
    sequence: u64,
    pause: Duration,
}

impl Courier {
    /// Sends the oldest batch, if any, and asks to be woken for the next one.
    async fn send_one_batch(&mut self) {
        let outbound = Arc::clone(&self.outbound);
        let Some(batch) = outbound.outbox.next_batch() else { return };
        if self.deliver(&batch).await.is_ok() {
            outbound.outbox.confirm(&batch);
            self.pause = RETRY_MIN;
        } else {
            sleep(self.pause.mul_f64(0.5 + 0.5 * rand::random::<f64>())).await;
            self.pause = (self.pause * 2).min(RETRY_MAX);
        }
        if outbound.outbox.pending() > 0 {
            outbound.outbox.nudge();
        }
    }

    async fn deliver(&mut self, batch: &Batch) -> Result<(), RemoteError> {
        let sequence = self.sequence + 1;
        match batch {
            Batch::Keys { keys, .. } => {
                let body = Body::Invalidate(keys.clone());
                self.send(Dispatch::Tombstones(keys), sequence, body).await?;
            }
            Batch::Clear { version, .. } => {
                self.send(Dispatch::NewEpoch(*version), sequence, Body::Clear(*version)).await?;
            }
        }
        self.sequence = sequence;
        Ok(())
    }

    async fn send(&self, dispatch: Dispatch<'_>, sequence: u64, body: Body) -> Result<(), RemoteError> {
        let outbound = &self.outbound;
        if !outbound.remote.is_up() {
            return Err(RemoteError::Down);
        }
        let sent = outbound.remote.dispatch(dispatch, outbound.message(sequence, body)).await;
        if let Err(error) = sent {
            crate::stats::count(&outbound.counters.l2_errors);
            tracing::debug!(cache = %outbound.cache, %error, "tell the other nodes");
        }
        sent
    }

    /// Sends what is left while that succeeds, and takes leave.
    async fn finish(mut self) {
        let outbound = Arc::clone(&self.outbound);
        while let Some(batch) = outbound.outbox.next_batch() {
            if self.deliver(&batch).await.is_err() {
                return;
            }
            outbound.outbox.confirm(&batch);
        }
        let _lost = self.send(Dispatch::Tell, self.sequence, Body::Goodbye).await;
    }
}
