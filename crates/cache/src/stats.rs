//! Figures of a cache: counted where things happen, read as one plain snapshot.
//! Hits are counted in stripes, because they are the one thing that every reader does at once.

use std::{
    hash::Hash,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    Histogram,
    histogram::Recorder,
    lane::{self, OWN_STRIPES},
    store::Store,
    tier_side::TierSide,
};

/// The figures of one cache at one moment. All count from when it was built, unless they say "now".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Reads that L1 answered with a value.
    pub hits: u64,
    /// Reads that L1 answered with "there is none".
    pub absent_hits: u64,
    /// Reads that L1 could not answer.
    pub misses: u64,
    /// Reads that were answered with a value past its lifetime.
    pub stale: u64,
    /// Loaders called.
    pub loads: u64,
    /// Loaders that failed, timed out or panicked.
    pub load_failures: u64,
    /// Loaders that said that the value has not changed.
    pub load_unmodified: u64,
    /// Time that loaders took, each the wait for its turn included.
    pub load_times: Histogram,
    /// Loads begun ahead of the end of a lifetime.
    pub refreshes: u64,
    /// Keys that are loaded on a schedule while they are read, or because they are pinned, now.
    pub kept_keys: u64,
    /// Values taken from a shared tier because another node has loaded them on the same schedule.
    pub adoptions: u64,
    /// Values that live on because another node has found them unchanged.
    pub extensions: u64,
    /// Reads that waited for a load another read had begun, or were given the failure of one that ended a moment ago.
    pub joins: u64,
    /// Reads refused because too many loads were in flight.
    pub overloads: u64,
    /// Values not stored in process because an invalidation overtook them, and values set that were older than
    /// what is known.
    pub refused_stale_sets: u64,
    /// Values that L1 pushed out for want of room.
    pub evictions: u64,
    /// Values too large for L1.
    pub oversize: u64,
    /// Values that were not stored because they have too many tags, or that stay in this process because the codec cannot
    /// take them: they are too large for it, have too long a tag or validator, or its encoding fails.
    pub unstorable: u64,
    /// Values in L1 now.
    pub entries: u64,
    /// Bytes in L1 now, as the weigher counts them.
    pub bytes: u64,
    /// Keys invalidated here.
    pub invalidations: u64,
    /// Keys invalidated by word of another node.
    pub remote_invalidations: u64,
    /// Sweeps (by tag, prefix or clear) made here or by another node.
    pub sweeps: u64,
    /// Times that L1 was dropped because announcements may have been missed.
    pub gaps: u64,
    /// Times that missed announcements were asked for and came.
    pub replays: u64,
    /// Messages of other nodes that could not be read. Nothing is done of what they say; an announcement voids something, which may
    /// be anything, and is taken to void everything.
    pub unreadable: u64,
    /// Keys in changes, made here or announced by others, whose bytes are no key of this cache: another type of key spelled them, or
    /// another release. Any of its keys may be meant, so each change that has some voids everything, in the shared tiers too.
    pub unreadable_keys: u64,
    /// Changes that the other nodes have not been told yet, now.
    pub pending_invalidations: u64,
    /// Times that more changes were pending than there is room for.
    pub pending_overflows: u64,
    /// Batches of changes that were announced although a shared tier could not be told: what it has of their keys is
    /// not believed by any node.
    pub cut_off: u64,
    /// How long ago the youngest pulse was sent that has gone round the line and come back: what this node
    /// holds reflects all that was announced before. `None` if none has, yet.
    pub backplane_silence: Option<Duration>,
    /// Values that the writer has not taken yet, now.
    pub pending_writes: u64,
    /// How old served values were, by a sample: one in 256 of the hits of L1, and of the answers past their lifetime.
    pub served_ages: Histogram,
    /// The shared tiers, in the order in which they are read.
    pub tiers: Vec<TierStats>,
}

/// The figures of one shared tier.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TierStats {
    /// What it is called ([`TierOptions::name`](crate::TierOptions::name)).
    pub name: &'static str,
    /// What it is made of.
    pub kind: &'static str,
    /// False while it is left alone, now.
    pub is_up: bool,
    /// Reads of keys that gave a value, or the knowledge that there is none.
    pub hits: u64,
    /// Of which the knowledge that there is none.
    pub absent_hits: u64,
    /// Reads of keys that gave nothing.
    pub misses: u64,
    /// Reads of keys that gave a value past its lifetime.
    pub stale: u64,
    /// Reads of keys whose value a sweep had made void.
    pub swept: u64,
    /// Answers that another node was loading the key. Who waits for it asks a few times within
    /// [`lease_wait`](crate::Policy::lease_wait), and counts each time.
    pub held: u64,
    /// Calls that failed. They are not counted as misses.
    pub errors: u64,
    /// Reads of keys that did not ask, because the tier was down or not to be trusted.
    pub bypassed: u64,
    /// Values that could not be read; they are overwritten.
    pub poisoned: u64,
    /// Values stored.
    pub stored: u64,
    /// Values that the tier refused because something had overtaken them: stale sets that did not happen.
    pub refused: u64,
    /// Values too large for it.
    pub oversize: u64,
    /// Of values that were read there, fallbacks included, as they are stored: encoded, perhaps compressed.
    pub bytes_read: u64,
    /// Of values that were sent there. What the servers hold, and what they evict, they tell themselves, of all caches
    /// together.
    pub bytes_written: u64,
    /// Calls.
    pub round_trips: u64,
    /// How long they took, the failed ones and the wait for their turn included.
    pub trip_times: Histogram,
    /// Times that the breaker opened.
    pub opened: u64,
}

impl Stats {
    /// Keys that were asked for: every one is a hit, an absent hit or a miss.
    pub fn calls(&self) -> u64 {
        self.hits + self.absent_hits + self.misses
    }

    /// The part of [`calls`](Self::calls) that L1 answered, 0.0 to 1.0; zero if there were none.
    pub fn hit_ratio(&self) -> f64 {
        let (hits, calls) = (self.hits + self.absent_hits, self.calls());
        if calls == 0 { 0.0 } else { as_f64(hits) / as_f64(calls) }
    }
}

fn as_f64(number: u64) -> f64 {
    // Exact to nine digits, which is more than a ratio shows.
    Duration::from_micros(number).as_secs_f64()
}

/// The figures while they are counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Striped,
    pub(crate) absent_hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) loads: AtomicU64,
    pub(crate) load_failures: AtomicU64,
    pub(crate) load_unmodified: AtomicU64,
    pub(crate) load_times: Recorder,
    pub(crate) refreshes: AtomicU64,
    pub(crate) adoptions: AtomicU64,
    pub(crate) extensions: AtomicU64,
    pub(crate) joins: AtomicU64,
    pub(crate) overloads: AtomicU64,
    pub(crate) cut_off: AtomicU64,
    pub(crate) refused_stale_sets: AtomicU64,
    pub(crate) oversize: AtomicU64,
    pub(crate) unstorable: AtomicU64,
    pub(crate) invalidations: AtomicU64,
    pub(crate) remote_invalidations: AtomicU64,
    pub(crate) sweeps: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) replays: AtomicU64,
    pub(crate) unreadable: AtomicU64,
    pub(crate) unreadable_keys: AtomicU64,
    pub(crate) served_ages: Recorder,
}

/// One more.
#[inline]
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Counters {
    /// The figures counted here; those that live elsewhere are left at zero.
    pub(crate) fn snapshot(&self) -> Stats {
        Stats {
            hits: self.hits.sum(),
            absent_hits: self.absent_hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            stale: self.stale.load(Relaxed),
            loads: self.loads.load(Relaxed),
            load_failures: self.load_failures.load(Relaxed),
            load_unmodified: self.load_unmodified.load(Relaxed),
            load_times: self.load_times.snapshot(),
            refreshes: self.refreshes.load(Relaxed),
            adoptions: self.adoptions.load(Relaxed),
            extensions: self.extensions.load(Relaxed),
            joins: self.joins.load(Relaxed),
            overloads: self.overloads.load(Relaxed),
            cut_off: self.cut_off.load(Relaxed),
            refused_stale_sets: self.refused_stale_sets.load(Relaxed),
            oversize: self.oversize.load(Relaxed),
            unstorable: self.unstorable.load(Relaxed),
            invalidations: self.invalidations.load(Relaxed),
            remote_invalidations: self.remote_invalidations.load(Relaxed),
            sweeps: self.sweeps.load(Relaxed),
            gaps: self.gaps.load(Relaxed),
            replays: self.replays.load(Relaxed),
            unreadable: self.unreadable.load(Relaxed),
            unreadable_keys: self.unreadable_keys.load(Relaxed),
            served_ages: self.served_ages.snapshot(),
            ..Stats::default()
        }
    }
}

/// One hit in so many is looked at for its age and its key.
pub(crate) const SAMPLE: u64 = 256;

/// A counter that many threads raise without sharing a cache line. Takes 4 KiB.
#[derive(Debug, Default)]
pub(crate) struct Striped {
    own: [Stripe; OWN_STRIPES],
    shared: Stripe,
}

/// 128 bytes, because the prefetcher of x86 pulls cache lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

impl Striped {
    /// Counts one; true for one in [`SAMPLE`].
    #[inline]
    pub(crate) fn count(&self) -> bool {
        let before = match self.own.get(lane::of_this_thread()) {
            Some(Stripe(own)) => {
                // Nobody else writes it: a load and a store are a third of the price of one locked instruction.
                let before = own.load(Relaxed);
                own.store(before + 1, Relaxed);
                before
            }
            None => self.shared.0.fetch_add(1, Relaxed),
        };
        before % SAMPLE == SAMPLE - 1
    }

    fn sum(&self) -> u64 {
        let stripes = self.own.iter().chain([&self.shared]);
        stripes.map(|stripe| stripe.0.load(Relaxed)).sum()
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Store<K, V> {
    pub(crate) fn stats(&self) -> Stats {
        let (fleet, now_us) = (&self.fleet, self.clock.now_us());
        let vouched_us = fleet.horizon.vouched_us();
        let silence = Duration::from_micros(now_us.saturating_sub(vouched_us));
        Stats {
            evictions: self.local.evictions(),
            entries: self.local.entries(),
            bytes: self.local.bytes(),
            pending_invalidations: fleet.outbox.pending() as u64,
            pending_overflows: fleet.outbox.overflows() as u64,
            backplane_silence: (vouched_us > 0).then_some(silence),
            pending_writes: self.writes.as_ref().map_or(0, |writes| writes.pending() as u64),
            kept_keys: self.keeper.as_ref().map_or(0, |keeper| keeper.len() as u64),
            tiers: fleet.tiers.iter().map(tier_stats).collect(),
            ..self.counters.snapshot()
        }
    }
}

fn tier_stats(tier: &TierSide) -> TierStats {
    let counters = &tier.counters;
    let trip_times = counters.trip_times.snapshot();
    TierStats {
        name: tier.name(),
        kind: tier.kind(),
        is_up: tier.is_up(),
        hits: counters.hits.load(Relaxed),
        absent_hits: counters.absent_hits.load(Relaxed),
        misses: counters.misses.load(Relaxed),
        stale: counters.stale.load(Relaxed),
        swept: counters.swept.load(Relaxed),
        held: counters.held.load(Relaxed),
        errors: counters.errors.load(Relaxed),
        bypassed: counters.bypassed.load(Relaxed),
        poisoned: counters.poisoned.load(Relaxed),
        stored: counters.stored.load(Relaxed),
        refused: counters.refused.load(Relaxed),
        oversize: counters.oversize.load(Relaxed),
        bytes_read: counters.bytes_read.load(Relaxed),
        bytes_written: counters.bytes_written.load(Relaxed),
        round_trips: trip_times.count(),
        trip_times,
        opened: counters.opened.load(Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_add_up_over_threads() {
        let striped = Striped::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| _ = striped.count()));
            }
        });
        assert_eq!(striped.sum(), 4_000);
    }

    #[test]
    fn threads_beyond_those_with_a_stripe_of_their_own_lose_no_count() {
        let (striped, running) = (Striped::default(), std::sync::Barrier::new(2 * OWN_STRIPES));
        std::thread::scope(|scope| {
            for _ in 0..2 * OWN_STRIPES {
                scope.spawn(|| {
                    running.wait();
                    (0..1_000).for_each(|_| _ = striped.count());
                    // All of them live at once.
                    running.wait();
                });
            }
        });
        assert_eq!(striped.sum(), 2_000 * OWN_STRIPES as u64);
    }
}
