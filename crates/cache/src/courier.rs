//! The one task per cache that tells the shared tiers and the other nodes what is void, and finds out what this
//! node has missed. One, so that a snapshot always includes what this node has announced before it.
//! Retries until it succeeds: a change is never dropped, it blocks the shared tiers meanwhile. Who cannot be told keeps
//! nobody else from being told what is changed later.
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
    tell::{Telling, Whom},
    tier::{TierError, TierFuture},
    wire::{Pulse, Stays},
};

/// First pause after a failure: long enough not to spin, short enough to be unnoticed.
const RETRY_MIN: Duration = Duration::from_millis(20);

/// Longest pause between attempts: how late a change may be once the tier is back.
const RETRY_MAX: Duration = Duration::from_millis(500);

/// Replays in a row that may take longer than they have, before a snapshot is asked for in their place: one that does not fit
/// would be asked for again for ever.
const LATE_REPLAYS_MAX: u32 = 4;

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
    let told = Telling::new(fleet.tiers.len());
    let mut courier = Courier { fleet, ward, told, is_line_well: true, late_replays: 0, pause: RETRY_MIN };
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
        } else if let Err(error) = courier.carry(Whom::Well).await {
            tracing::trace!(%error, "tell those who could be told last time");
        }
        if courier.fleet.outbox.has_unshown() {
            courier.fleet.outbox.wake.notify_one();
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
    told: Telling,
    /// The last announcement got through.
    is_line_well: bool,
    /// In a row.
    late_replays: u32,
    pause: Duration,
}

impl Courier {
    fn heartbeat(&self) -> Duration {
        let quarter = Duration::from_micros(self.fleet.horizon.max_stale_us() / 4);
        let wished = self.fleet.line.as_ref().map_or(Duration::MAX, |(_, options)| options.heartbeat);
        wished.min(quarter).max(Duration::from_millis(5))
    }

    /// Catches up and carries what is pending; false if something has to be tried again.
    async fn work(&mut self) -> bool {
        let is_caught_up = self.catch_up().await;
        let is_carried = self.carry(Whom::All).await.is_ok();
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

    async fn carry(&mut self, whom: Whom) -> Result<(), TierError> {
        let (keys, sweeps) = self.fleet.outbox.count();
        if keys + sweeps == 0 {
            return Ok(());
        }
        let span = spans::announce(&self.fleet.cache, keys, sweeps);
        let carried = self.carry_on(whom).instrument(span.clone()).await;
        if let Err(error) = carried {
            spans::failed(&span, error);
        }
        carried
    }

    /// Tiers first, then the line: whoever is told must not find an old copy in a tier. Where a tier cannot be told, the
    /// announcement waits for its timeout and no longer: it cuts off what lies there.
    async fn carry_on(&mut self, whom: Whom) -> Result<(), TierError> {
        let fleet = Arc::clone(&self.fleet);
        let up_to = fleet.outbox.show();
        let told = self.told.tell(&fleet, up_to, whom).await;
        let news = self.told.take_news();
        if fleet.line.is_some() {
            if whom == Whom::Well && !self.is_line_well {
                return Ok(());
            }
            let announced = self.announce_all(up_to).await;
            self.is_line_well = announced.is_ok();
            return announced;
        }
        for order in fleet.outbox.confirm_told(&news, up_to) {
            fleet.number(&order.swath, order.how, None);
        }
        told
    }

    async fn announce_all(&self, up_to: u64) -> Result<(), TierError> {
        let fleet = &*self.fleet;
        let Some((line, options)) = &fleet.line else { return Ok(()) };
        // Those that all tiers were told of go first, and without the others.
        let mut told = true;
        loop {
            let batch = fleet.outbox.next_batch(up_to, |number| self.told.is_told(number), told);
            let Some(batch) = batch else {
                if !told {
                    return Ok(());
                }
                told = false;
                continue;
            };
            let announcement = announcement(fleet.origin, &batch);
            let mark = match limited(options.timeout, &**line, line.announce(&announcement)).await {
                Ok(mark) => mark,
                Err(error) => {
                    fleet.outbox.give_back(&batch);
                    return Err(error);
                }
            };
            if !batch.is_told {
                count(&fleet.counters.cut_off);
                let orders = batch.keys.iter().map(|announced| &announced.order);
                orders.for_each(|order| fleet.cut_off(&order.key, order.how, mark));
            }
            for (_, order) in &batch.sweeps {
                fleet.number(&order.swath, order.how, Some(mark));
            }
            fleet.outbox.confirm(&batch);
        }
    }

    /// Tells the others what has not changed. What is lost of it is not said again: they read it then.
    async fn extend(&self) {
        let fleet = &*self.fleet;
        let Some((line, options)) = &fleet.line else { return };
        for message in fleet.extensions.messages(fleet.origin) {
            if limited(options.timeout, &**line, line.pulse(&message)).await.is_err() {
                return;
            }
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
    async fn catch_up(&mut self) -> bool {
        let fleet = Arc::clone(&self.fleet);
        let Some((line, options)) = &fleet.line else { return true };
        if !fleet.horizon.take_want() {
            return true;
        }
        let known = fleet.horizon.mark();
        // Never both at once: the answer to the second would come after that to the first.
        if known.incarnation != 0 && self.late_replays < LATE_REPLAYS_MAX {
            match limited(options.timeout, &**line, line.replay(known)).await {
                Ok(Some(missing)) => {
                    self.late_replays = 0;
                    return self.replayed(known, &missing);
                }
                Ok(None) => {
                    self.late_replays = 0;
                    if let Some(ward) = self.ward.upgrade() {
                        ward.missed();
                    }
                }
                Err(error) => {
                    self.late_replays += u32::from(error == TierError::TimedOut);
                    fleet.horizon.want();
                    return false;
                }
            }
        }
        let late_replays = std::mem::take(&mut self.late_replays);
        fleet.horizon.await_snapshot();
        match limited(options.timeout, &**line, line.attach()).await {
            Ok(snapshot) => {
                if let Some(ward) = self.ward.upgrade() {
                    if late_replays > 0 {
                        ward.missed();
                    }
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

    /// Sends what is left while that succeeds, shows all of it to those who answer, and takes leave.
    async fn finish(mut self) {
        let mut whom = Whom::All;
        while self.fleet.outbox.pending() > 0 {
            if self.carry(whom).await.is_err() {
                whom = Whom::Well;
            }
            if whom == Whom::Well && !self.fleet.outbox.has_unshown() {
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

fn announcement(origin: u64, batch: &Batch) -> Announcement {
    let keys: Vec<_> = batch.keys.iter().map(|announced| announced.order.clone()).collect();
    let sweeps: Vec<_> = batch.sweeps.iter().map(|(_, order)| order.clone()).collect();
    // Every order names its own.
    let change = Invalidation { origin, version: Version::NONE, keys, sweeps };
    if batch.is_told { change.announced() } else { change.cutting_off().announced() }
}
