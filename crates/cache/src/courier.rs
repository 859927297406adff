//! The one task per cache that tells the shared tiers and the other nodes what is void, and finds out what this
//! node has missed. One, so that a snapshot always includes what this node has announced before it.
//! Retries until it succeeds: a change is never dropped, it blocks the shared tiers meanwhile.
//! Started by `builder`, stopped by `close` or with the last handle of the cache.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{Instant, timeout};
use tracing::Instrument;

use crate::{
    Version,
    backplane::{Announcement, Line, Mark, Snapshot},
    fleet::Fleet,
    invalidation::Invalidation,
    outbox::Batch,
    spans,
    stats::count,
    tier::{Put, Stored, TierError, TierFuture, Voiding},
    tier_side::TierSide,
    wire::{Pulse, Stays},
};

/// First pause after a failure: long enough not to spin, short enough to be unnoticed.
const RETRY_MIN: Duration = Duration::from_millis(20);

/// Longest pause between attempts: how late a change may be once the tier is back.
const RETRY_MAX: Duration = Duration::from_millis(500);

/// What the courier has this node do with what it finds out.
pub(crate) trait Ward: Send + Sync {
    /// An announcement that was asked for.
    fn announced(&self, mark: Mark, body: &bytes::Bytes);

    /// Where the order stands, for a node that knows nothing of it yet or any more.
    fn attached(&self, snapshot: &Snapshot);

    /// Some announcements are no longer to be had.
    fn missed(&self);
}

/// Carries what is pending, and signs of life, until it is told to stop.
pub(crate) async fn run(fleet: Arc<Fleet>, ward: Weak<dyn Ward>) {
    let mut courier = Courier { fleet, ward, pause: RETRY_MIN };
    let mut heartbeat_at = Instant::now();
    let mut retry_at = None;
    loop {
        let fleet = Arc::clone(&courier.fleet);
        tokio::select! {
            biased;
            () = fleet.stop.notified() => break,
            () = fleet.pulse.notified() => heartbeat_at = heartbeat_at.min(Instant::now()),
            () = sleep_until(retry_at) => retry_at = None,
            () = tokio::time::sleep_until(heartbeat_at), if fleet.line.is_some() => {}
            () = fleet.outbox.wake.notified() => {}
        }
        if retry_at.is_none() {
            let is_well = courier.work().await;
            retry_at = courier.next_attempt(is_well);
        }
        courier.extend().await;
        if heartbeat_at <= Instant::now() {
            heartbeat_at = Instant::now() + courier.heartbeat();
            courier.pulse(Stays::Yes).await;
        }
    }
    courier.finish().await;
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

struct Courier {
    fleet: Arc<Fleet>,
    ward: Weak<dyn Ward>,
    pause: Duration,
}

impl Courier {
    fn heartbeat(&self) -> Duration {
        let quarter = Duration::from_micros(self.fleet.horizon.max_stale_us() / 4);
        let wished = self.fleet.line.as_ref().map_or(Duration::MAX, |(_, options)| options.heartbeat);
        wished.min(quarter).max(Duration::from_millis(5))
    }

    /// Catches up and carries one batch; false if something has to be tried again.
    async fn work(&mut self) -> bool {
        let is_caught_up = self.catch_up().await;
        let is_carried = match self.fleet.outbox.next_batch() {
            Some(batch) => self.carry(&batch).await.is_ok(),
            None => true,
        };
        is_caught_up && is_carried
    }

    fn next_attempt(&mut self, is_well: bool) -> Option<Instant> {
        if is_well {
            self.pause = RETRY_MIN;
            let is_more = self.fleet.outbox.pending() > 0 || self.fleet.horizon.has_want();
            return is_more.then(Instant::now);
        }
        // Between half and the whole of it, by the node: nodes that failed together do not return together.
        let share = u32::try_from(self.fleet.origin % 128).unwrap_or(0);
        let pause = self.pause / 2 + self.pause / 256 * share;
        self.pause = (self.pause * 2).min(RETRY_MAX);
        Some(Instant::now() + pause)
    }

    async fn carry(&self, batch: &Batch) -> Result<(), TierError> {
        let span = spans::announce(&self.fleet.cache, batch.keys.len(), batch.sweeps.len());
        let carried = self.carry_on(batch).instrument(span.clone()).await;
        if let Err(error) = carried {
            spans::failed(&span, error);
        }
        carried
    }

    /// Tiers first, then the line: whoever is told must not find an old copy in a tier. Of the tiers the last one first: who
    /// reads meanwhile takes what lies in a lower one up into those above, under a claim that the change has yet to end there.
    /// Where a tier cannot be told, the announcement does not wait for it: it cuts off what lies there.
    async fn carry_on(&self, batch: &Batch) -> Result<(), TierError> {
        let fleet = &*self.fleet;
        let now_us = fleet.clock.now_us();
        let mut voided = Ok(());
        for tier in fleet.tiers.iter().rev() {
            voided = voided.and(carry_to(tier, batch, now_us).await);
        }
        let mut mark = None;
        match &fleet.line {
            Some((line, options)) => {
                let announcement = announcement(fleet.origin, batch, voided);
                mark = Some(limited(options.timeout, &**line, line.announce(&announcement)).await?);
            }
            None => voided?,
        }
        if let (Some(mark), Err(_)) = (mark, voided) {
            count(&fleet.counters.cut_off);
            batch.keys.iter().for_each(|(_, order, _)| fleet.cut_off(&order.key, order.how, mark));
        }
        for (_, order) in &batch.sweeps {
            fleet.number(&order.swath, order.how, mark);
        }
        fleet.outbox.confirm(batch);
        Ok(())
    }

    /// Tells the others what has not changed. What is lost of it is not said again: they read it then.
    async fn extend(&self) {
        let fleet = &*self.fleet;
        let Some((line, options)) = &fleet.line else { return };
        for message in fleet.extensions.messages(fleet.origin) {
            let _lost = limited(options.timeout, &**line, line.pulse(&message)).await;
        }
    }

    async fn pulse(&self, stays: Stays) {
        let fleet = &*self.fleet;
        let Some((line, options)) = &fleet.line else { return };
        let pulse = Pulse { origin: fleet.origin, sent_us: fleet.clock.now_us(), stays };
        // A lost pulse is not sent again: the next one says more.
        let _lost = limited(options.timeout, &**line, line.pulse(&pulse.encode())).await;
    }

    /// Asks for what is missing, if anything is; false if it has to be asked again.
    async fn catch_up(&self) -> bool {
        let fleet = &*self.fleet;
        let Some((line, options)) = &fleet.line else { return true };
        if !fleet.horizon.take_want() {
            return true;
        }
        let known = fleet.horizon.mark();
        if known.incarnation != 0 {
            match limited(options.timeout, &**line, line.replay(known)).await {
                Ok(Some(missing)) => return self.replayed(known, &missing),
                Ok(None) => {
                    if let Some(ward) = self.ward.upgrade() {
                        ward.missed();
                    }
                }
                Err(_) => {
                    fleet.horizon.want();
                    return false;
                }
            }
        }
        fleet.horizon.await_snapshot();
        match limited(options.timeout, &**line, line.attach()).await {
            Ok(snapshot) => {
                if let Some(ward) = self.ward.upgrade() {
                    ward.attached(&snapshot);
                }
                true
            }
            Err(_) => {
                fleet.horizon.give_up_snapshot();
                false
            }
        }
    }

    fn replayed(&self, known: Mark, missing: &[(u64, bytes::Bytes)]) -> bool {
        let fleet = &*self.fleet;
        let Some(ward) = self.ward.upgrade() else { return true };
        count(&fleet.counters.replays);
        for (sequence, body) in missing {
            ward.announced(Mark { sequence: *sequence, ..known }, body);
        }
        // What was heard while the replay was under way wants another one only if it went beyond it.
        if fleet.horizon.mark().incarnation == known.incarnation && !fleet.horizon.is_behind() {
            fleet.horizon.take_want();
            return true;
        }
        fleet.horizon.want();
        !missing.is_empty()
    }

    /// Sends what is left while that succeeds, and takes leave.
    async fn finish(self) {
        while let Some(batch) = self.fleet.outbox.next_batch() {
            if self.carry(&batch).await.is_err() {
                return;
            }
        }
        self.pulse(Stays::No).await;
    }
}

async fn limited<T>(limit: Duration, line: &dyn Line, call: TierFuture<'_, T>) -> Result<T, TierError> {
    if !line.is_up() {
        return Err(TierError::Down);
    }
    let ended = timeout(limit, call).await.unwrap_or(Err(TierError::TimedOut));
    if let Err(error) = &ended {
        tracing::debug!(line = line.kind(), %error, "speak to the other nodes");
    }
    ended
}

fn announcement(origin: u64, batch: &Batch, voided: Result<(), TierError>) -> Announcement {
    let keys: Vec<_> = batch.keys.iter().map(|(_, order, _)| order.clone()).collect();
    let sweeps: Vec<_> = batch.sweeps.iter().map(|(_, order)| order.clone()).collect();
    // Every order names its own.
    let change = Invalidation { origin, version: Version::NONE, keys, sweeps };
    if voided.is_ok() { change.announced() } else { change.cutting_off().announced() }
}

/// Puts what is to be put and may be still, and voids the rest.
async fn carry_to(tier: &TierSide, batch: &Batch, now_us: u64) -> Result<(), TierError> {
    let mut voids = Vec::new();
    let mut puts = Vec::new();
    for (_, order, put) in &batch.keys {
        let left = put.as_ref().and_then(|put| Some((put, put.left(order.version, now_us)?)));
        match left {
            Some((put, left)) if put.bytes.len() <= tier.options.value_bytes_max => {
                let put = Put {
                    key: order.key.clone(),
                    version: order.version,
                    bytes: put.bytes.clone(),
                    lifetime: left.min(tier.options.ttl.saturating_add(put.grace)),
                };
                puts.push(put);
            }
            _ => {
                if left.is_some() {
                    count(&tier.counters.oversize);
                }
                voids.push(Voiding { key: order.key.clone(), version: order.version, how: order.how });
            }
        }
    }
    if !puts.is_empty() {
        // One that is refused has been overtaken: something newer is there, and is left alone.
        let stored = tier.put(&puts).await?;
        stored.iter().for_each(|stored| match stored {
            Stored::Yes => count(&tier.counters.stored),
            Stored::Refused => count(&tier.counters.refused),
        });
    }
    if voids.is_empty() { Ok(()) } else { tier.void(&voids).await }
}
