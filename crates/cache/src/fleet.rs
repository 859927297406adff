//! What a cache shares with other nodes: tiers, the line, the outbox and the horizon, whatever its keys and values.
//! Holds no entries. Built by `builder`, used by all that reads, writes and voids, and carried by `courier`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::Notify, time::timeout};

use crate::{
    Observer,
    backplane::{Line, Mark, Swath},
    clock::Clock,
    cutoffs,
    extend::{Extension, Extensions},
    horizon::Horizon,
    invalidation::{KeyOrder, SweepOrder},
    outbox::{Outbox, Pushed, Putting},
    stats::Counters,
    sweeps::{Pending, Sweeps},
    tier::Void,
    tier_side::TierSide,
};

/// How the line to the other nodes is used. Build one with `LineOptions { .., ..LineOptions::default() }`.
#[derive(Debug, Clone, PartialEq)]
pub struct LineOptions {
    /// What one call may take. Default 500 ms.
    pub timeout: Duration,
    /// Between two signs of life; at most a quarter of the policy's `max_stale` is used, and 5 ms at least. Default 500 ms.
    pub heartbeat: Duration,
}

impl Default for LineOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_millis(500), heartbeat: Duration::from_millis(500) }
    }
}

/// The other nodes, as one cache of this node sees them.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) cache: Arc<str>,
    pub(crate) tiers: Box<[TierSide]>,
    pub(crate) line: Option<(Arc<dyn Line>, LineOptions)>,
    pub(crate) outbox: Outbox,
    pub(crate) extensions: Extensions,
    pub(crate) sweeps: Sweeps,
    pub(crate) horizon: Horizon,
    pub(crate) counters: Arc<Counters>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) clock: Clock,
    /// Tells this node's announcements and pulses from those of others.
    pub(crate) origin: u64,
    /// What a caller waits at most for the confirmation of a change.
    pub(crate) confirmation: Duration,
    /// Asks for a pulse at once.
    pub(crate) pulse: Notify,
    /// Asks the courier to finish.
    pub(crate) stop: Notify,
}

/// As many as there are variants of `Over`.
const WAYS_OF_CLAIMING: u32 = 4;

/// What this node has changed and the tiers may not know of yet.
pub(crate) struct Trust<'a> {
    outbox: &'a Outbox,
    pending: Pending<'a>,
}

impl Trust<'_> {
    pub(crate) fn extends_to(&self, key: &Bytes) -> bool {
        !self.outbox.blocks(key) && !self.pending.is_over(key)
    }
}

impl Fleet {
    /// True if there is anybody to be told.
    pub(crate) fn is_shared(&self) -> bool {
        !self.tiers.is_empty() || self.line.is_some()
    }

    /// True if what the shared tiers say of `key` can be judged, and is not known to be out of date. A node that
    /// hears nothing may have missed sweeps, and cannot judge.
    pub(crate) fn trusts_tiers_with(&self, key: &Bytes, mark: Mark) -> bool {
        self.trust(mark).is_some_and(|trust| trust.extends_to(key))
    }

    /// What says of many keys whether the tiers are trusted with them, if they are with any: as of now, so take it once whatever
    /// is to come before that question has come.
    pub(crate) fn trust(&self, mark: Mark) -> Option<Trust<'_>> {
        let can_judge = match &self.line {
            Some(_) => mark.incarnation != 0 && self.clock.now_us() < self.horizon.trusted_until_us(),
            None => true,
        };
        can_judge.then(|| Trust { outbox: &self.outbox, pending: self.sweeps.pending() })
    }

    /// What asking all tiers about keys can take: each is asked once for each way of claiming, and the first again after
    /// each pause of `lease_wait`, which doubles: it is looked at, and claimed over if what is there will not do.
    pub(crate) fn trips_max(&self, lease_wait: Duration) -> Duration {
        let pauses = lease_wait.as_millis().max(1).ilog2() + 1;
        let trips = |(index, tier): (usize, &TierSide)| {
            let asks = WAYS_OF_CLAIMING + if index == 0 { 2 * pauses } else { 0 };
            tier.options.timeout.saturating_mul(asks)
        };
        self.tiers.iter().enumerate().map(trips).fold(lease_wait, Duration::saturating_add)
    }

    /// The first part of every change: blocks the shared tiers for what it is about, and has the others told.
    /// Gives the number of the order, if there is anybody to be told.
    pub(crate) fn order(
        &self,
        keys: Vec<(KeyOrder, Option<Putting>)>,
        swept: Vec<SweepOrder>,
    ) -> Option<u64> {
        if !self.is_shared() || (keys.is_empty() && swept.is_empty()) {
            return None;
        }
        let is_alone = self.line.is_none();
        if is_alone && !swept.is_empty() {
            // Nobody numbers this node's sweeps: what the tiers hold is void for it from now on.
            self.horizon.renew();
        }
        let begin = |order: SweepOrder| {
            let swath = self.sweeps.begin(order.swath, order.how);
            SweepOrder { swath, ..order }
        };
        let swept: Vec<_> = if is_alone { vec![] } else { swept.into_iter().map(begin).collect() };
        if keys.is_empty() && swept.is_empty() {
            return None;
        }
        let (number, pushed) = self.outbox.push(keys, swept, &self.sweeps);
        if pushed == Pushed::Overflowed {
            tracing::warn!(cache = %self.cache, "too many invalidations pending, everything shared becomes void");
            self.observer.pending_overflowed(&self.cache);
        }
        Some(number)
    }

    /// Has the other nodes told that a value has not changed.
    pub(crate) fn extend(&self, extension: Extension) {
        if self.line.is_some() {
            self.extensions.push(extension);
            self.outbox.wake.notify_one();
        }
    }

    /// The fleet's number of a sweep made here, or none because nobody numbers it.
    pub(crate) fn number(&self, swath: &Swath, how: Void, mark: Option<Mark>) {
        let known = self.horizon.mark();
        let number = mark.filter(|mark| mark.incarnation == known.incarnation);
        match &self.line {
            // Keys were given up for it and never voided in the tiers. Before it is settled: until then nothing there is
            // trusted.
            None => self.horizon.renew(),
            // The order is another than the one this node judges by: it must not judge until it knows it.
            Some(_) if number.is_none() => self.horizon.lose(),
            Some(_) => {}
        }
        self.sweeps.number(swath, how, number.map(|mark| mark.sequence));
    }

    /// What the shared tiers have of this key from before its announcement is void.
    pub(crate) fn cut_off(&self, key: &[u8], how: Void, mark: Mark) {
        if mark.incarnation == self.horizon.mark().incarnation {
            self.sweeps.sweep_there(&cutoffs::swath_of(key), how, mark.sequence);
        } else {
            self.horizon.lose();
        }
    }

    /// Waits for the confirmation of an order, within bounds. One that was given up has no confirmation without a line:
    /// the tiers, and whoever else reads them, will not be told.
    pub(crate) async fn is_done(&self, number: u64) -> bool {
        let is_done = timeout(self.confirmation, self.outbox.done(number)).await.is_ok();
        is_done && (self.line.is_some() || !self.outbox.may_have_given_up(number))
    }
}
