//! What a cache does when it hears from the other nodes, or finds that it has missed something.
//! Never writes to a shared tier: whoever announces a change has made it there already.
//! Called by the line (on its task) and by the courier.

use std::{
    any::type_name,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;

use crate::{
    CacheKey, GapCause, Invalidation, Version,
    backplane::{Heard, Interruption, Listener, Mark, Snapshot, Swath},
    courier::Ward,
    cutoffs,
    extend::Extended,
    horizon::Step,
    invalidation::SweepOrder,
    stats::count,
    store::Store,
    tier::Void,
    wire::Pulse,
};

impl<K, V> Listener for Store<K, V>
where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
{
    fn heard(&self, heard: Heard) {
        match heard {
            Heard::Announcement { mark, body } => self.announced(mark, &body),
            Heard::Pulse { mark, body } => self.pulsed(mark, &body),
            // If it was an announcement, the next number will show that it is missing.
            Heard::Unreadable => count(&self.counters.unreadable),
        }
    }

    fn interrupted(&self, cause: Interruption) {
        tracing::debug!(cache = %self.name, ?cause, "the line was interrupted");
        match cause {
            Interruption::Lost => {}
            Interruption::Subscribed | Interruption::Overflowed => {
                self.fleet.horizon.excuse_silence(self.clock.now_us());
                self.catch_up();
            }
        }
    }
}

impl<K, V> Ward for Store<K, V>
where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
{
    fn announced(&self, mark: Mark, body: &Bytes) {
        let applied = self.take(mark, body);
        // Foreign code, after the order's lock is given back.
        match applied {
            Applied::Nothing => {}
            Applied::OfAnother { keys, sweeps, unread } => {
                self.counters.remote_invalidations.fetch_add(keys as u64, Relaxed);
                self.observer.voided_elsewhere(&self.name, keys, sweeps);
                if unread > 0 {
                    self.tell_unread(unread);
                }
            }
            Applied::Unreadable => {
                count(&self.counters.unreadable);
                count(&self.counters.gaps);
                self.observer.gap_noticed(&self.name, GapCause::Unreadable);
            }
        }
    }

    fn attached(&self, snapshot: &Snapshot) {
        let fleet = &self.fleet;
        let known = fleet.horizon.mark();
        let is_news =
            |sequence: u64| known.incarnation != snapshot.mark.incarnation || sequence > known.sequence;
        let newest = snapshot.sweeps.iter().map(|sweep| sweep.sequence).max().unwrap_or(0);
        // A store that has forgotten its order may have forgotten what it was told of keys as well.
        let is_another = fleet.horizon.is_another(snapshot.mark.incarnation);
        if is_another || (newest > 0 && is_news(newest)) {
            // Of which write they are is not kept, and no tier knows.
            self.floors.go_blind_to_sweeps(self.clock.now_us());
        }
        let meanwhile = fleet.horizon.attached(snapshot.mark, || fleet.sweeps.adopt(snapshot));
        self.start_afresh();
        for (mark, body) in meanwhile {
            // It was counted and told when it was heard.
            let _again = self.take(mark, &body);
        }
        fleet.pulse.notify_one();
    }

    fn missed(&self) {
        self.gap(GapCause::Skipped);
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Store<K, V> {
    fn wake(&self) {
        self.fleet.outbox.wake.notify_one();
    }

    fn catch_up(&self) {
        self.fleet.horizon.want();
        self.wake();
        self.fleet.pulse.notify_one();
    }

    fn gap(&self, cause: GapCause) {
        count(&self.counters.gaps);
        tracing::debug!(cache = %self.name, ?cause, "drop L1, announcements may be missing");
        self.start_afresh();
        self.observer.gap_noticed(&self.name, cause);
    }

    /// Takes note of keys in a change that are none of this cache's, and for which everything became void. Whoever writes such
    /// keys goes on with it: the log has the first ones only.
    pub(crate) fn tell_unread(&self, keys: usize) {
        let before = self.counters.unreadable_keys.fetch_add(keys as u64, Relaxed);
        if before == 0 {
            let (cache, expected) = (&self.name, type_name::<K>());
            tracing::warn!(%cache, keys, expected, "keys of a change cannot be read, it voids everything");
        }
        self.observer.keys_unreadable(&self.name, keys);
    }

    fn pulsed(&self, mark: Mark, body: &Bytes) {
        let now_us = self.clock.now_us();
        let pulse = Pulse::decode(body).ok();
        let extended = if pulse.is_none() { Extended::decode(body).ok() } else { None };
        if pulse.is_none() && extended.is_none() {
            count(&self.counters.unreadable);
        }
        let own = self.fleet.origin;
        if self.fleet.horizon.pulsed(mark, pulse, own, now_us) {
            self.fleet.horizon.want();
            self.wake();
        }
        let is_own = pulse.is_some_and(|pulse| pulse.origin == own);
        if is_own && self.fleet.horizon.forget_silent(now_us) > 0 {
            self.gap(GapCause::SilentPeer);
        }
        let horizon = &self.fleet.horizon;
        // Not on a node that may have something to hear first.
        let is_up_to_date = horizon.mark() == mark && now_us < horizon.trusted_until_us();
        if let Some(extended) = extended.filter(|extended| extended.origin != own && is_up_to_date) {
            extended.extensions.iter().for_each(|extension| self.extend(extension));
        }
    }

    /// Takes an announcement in its place in the order.
    fn take(&self, mark: Mark, body: &Bytes) -> Applied {
        let mut applied = Applied::Nothing;
        match self.fleet.horizon.announced(mark, body, || applied = self.apply(mark, body)) {
            Step::Apply | Step::Known => {}
            Step::Gap => self.wake(),
            Step::OrderLost => {
                self.gap(GapCause::OrderLost);
                self.wake();
            }
        }
        applied
    }

    /// Does what an announcement says.
    fn apply(&self, mark: Mark, body: &Bytes) -> Applied {
        let Ok(change) = Invalidation::decode(body) else {
            // Another release may have written it. It voids something: it may be anything.
            self.fleet.sweeps.sweep_there(&Swath::All, Void::Remove, mark.sequence);
            self.sweep(&Swath::All, Void::Remove, Version::LATEST, 0);
            return Applied::Unreadable;
        };
        let is_own = change.origin == self.fleet.origin;
        for order in &change.sweeps {
            self.fleet.sweeps.sweep_there(&order.swath, order.how, mark.sequence);
            if cutoffs::digest_of(&order.swath).is_some() {
                // About shared tiers only: the key's own order is among the keys.
                continue;
            }
            // Done here when it was ordered; what was loaded since need not go.
            if !is_own {
                self.sweep(&order.swath, order.how, order.version, change.origin);
            }
        }
        if is_own {
            return Applied::Nothing;
        }
        let unread =
            change.read_keys::<K>(|key, order| self.void(key, order.how, order.version, change.origin));
        if unread.keys > 0 {
            // Some key of ours may be meant, whose records in the shared tiers nobody has voided: they lie under other bytes.
            self.fleet.sweeps.sweep_there(&Swath::All, Void::Remove, mark.sequence);
            self.sweep(&Swath::All, Void::Remove, unread.version, change.origin);
        }
        let is_of_keys = |order: &&SweepOrder| cutoffs::digest_of(&order.swath).is_none();
        let sweeps = change.sweeps.iter().filter(is_of_keys).count();
        Applied::OfAnother { keys: change.keys.len(), sweeps, unread: unread.keys }
    }
}

/// What an announcement was.
enum Applied {
    /// This node's own, or one that is known.
    Nothing,
    OfAnother {
        keys: usize,
        sweeps: usize,
        /// Keys among them that are none of this cache's.
        unread: usize,
    },
    Unreadable,
}

/// The listener of a store, for the line.
pub(crate) fn listener<K, V>(store: &Arc<Store<K, V>>) -> Arc<dyn Listener>
where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
{
    Arc::<Store<K, V>>::clone(store)
}
