//! Figures of a cache: counted where things happen, read as one plain snapshot.
//! Hits are counted in stripes, because they are the one thing that every reader does at once.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
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
    /// Time that loaders took.
    pub load_time: Duration,
    /// Loads begun ahead of the end of a lifetime.
    pub refreshes: u64,
    /// Reads that waited for a load another read had begun.
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
    /// Announcements that could not be read; they were taken to void everything.
    pub unreadable: u64,
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
    /// How old served values were, by a sample of the hits.
    pub served_age: ServedAge,
    /// The shared tiers, in the order in which they are read.
    pub tiers: Vec<TierStats>,
}

/// How old values were when they were served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServedAge {
    /// Hits in the sample.
    pub count: u64,
    /// Their mean age.
    pub mean: Duration,
    /// The age of the oldest.
    pub max: Duration,
}

/// The figures of one shared tier.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TierStats {
    /// What it is made of.
    pub kind: &'static str,
    /// False while it is left alone, now.
    pub is_up: bool,
    /// Reads of keys that gave a value, or the knowledge that there is none.
    pub hits: u64,
    /// Reads of keys that gave nothing.
    pub misses: u64,
    /// Reads of keys that gave a value past its lifetime.
    pub stale: u64,
    /// Reads of keys whose value a sweep had made void.
    pub swept: u64,
    /// Reads of keys that another node was loading, until the wait for it was over.
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
    /// Calls.
    pub round_trips: u64,
    /// Time spent in calls.
    pub waited: Duration,
    /// Times that the breaker opened.
    pub opened: u64,
}

impl Stats {
    /// The part of reads that L1 answered, 0.0 to 1.0; zero if there were none.
    pub fn hit_ratio(&self) -> f64 {
        let hits = self.hits + self.absent_hits;
        let calls = hits + self.misses;
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
    pub(crate) load_us: AtomicU64,
    pub(crate) refreshes: AtomicU64,
    pub(crate) joins: AtomicU64,
    pub(crate) overloads: AtomicU64,
    pub(crate) cut_off: AtomicU64,
    pub(crate) refused_stale_sets: AtomicU64,
    pub(crate) oversize: AtomicU64,
    pub(crate) invalidations: AtomicU64,
    pub(crate) remote_invalidations: AtomicU64,
    pub(crate) sweeps: AtomicU64,
    pub(crate) gaps: AtomicU64,
    pub(crate) replays: AtomicU64,
    pub(crate) unreadable: AtomicU64,
    pub(crate) ages: Ages,
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
            load_time: Duration::from_micros(self.load_us.load(Relaxed)),
            refreshes: self.refreshes.load(Relaxed),
            joins: self.joins.load(Relaxed),
            overloads: self.overloads.load(Relaxed),
            cut_off: self.cut_off.load(Relaxed),
            refused_stale_sets: self.refused_stale_sets.load(Relaxed),
            oversize: self.oversize.load(Relaxed),
            invalidations: self.invalidations.load(Relaxed),
            remote_invalidations: self.remote_invalidations.load(Relaxed),
            sweeps: self.sweeps.load(Relaxed),
            gaps: self.gaps.load(Relaxed),
            replays: self.replays.load(Relaxed),
            unreadable: self.unreadable.load(Relaxed),
            served_age: self.ages.snapshot(),
            ..Stats::default()
        }
    }
}

/// Ages of served values.
#[derive(Debug, Default)]
pub(crate) struct Ages {
    count: AtomicU64,
    sum_us: AtomicU64,
    max_us: AtomicU64,
}

impl Ages {
    pub(crate) fn record(&self, age_us: u64) {
        count(&self.count);
        self.sum_us.fetch_add(age_us, Relaxed);
        self.max_us.fetch_max(age_us, Relaxed);
    }

    fn snapshot(&self) -> ServedAge {
        let count = self.count.load(Relaxed);
        let mean_us = self.sum_us.load(Relaxed).checked_div(count).unwrap_or(0);
        let max = Duration::from_micros(self.max_us.load(Relaxed));
        ServedAge { count, mean: Duration::from_micros(mean_us), max }
    }
}

/// Stripes of one counter. 16 keep two threads apart on any machine this runs on, for 2 KiB a cache.
const STRIPES: usize = 16;

/// One hit in so many is looked at for its age.
const SAMPLE: u64 = 256;

/// A counter that many threads raise without sharing a cache line.
#[derive(Debug, Default)]
pub(crate) struct Striped {
    stripes: [Stripe; STRIPES],
}

/// 128 bytes, because the prefetcher of x86 pulls cache lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

impl Striped {
    /// Counts one; true for one in [`SAMPLE`].
    #[inline]
    pub(crate) fn count(&self) -> bool {
        let stripe = &self.stripes[stripe()].0;
        let before = stripe.fetch_add(1, Relaxed);
        before % SAMPLE == SAMPLE - 1
    }

    fn sum(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.0.load(Relaxed)).sum()
    }
}

static NEXT_STRIPE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// One above the stripe; zero until this thread has one. A constant, so that its use needs no check.
    static STRIPE: Cell<usize> = const { Cell::new(0) };
}

#[inline]
fn stripe() -> usize {
    match STRIPE.get() {
        0 => take_stripe(),
        taken => taken - 1,
    }
}

#[cold]
fn take_stripe() -> usize {
    let taken = NEXT_STRIPE.fetch_add(1, Relaxed) % STRIPES;
    STRIPE.set(taken + 1);
    taken
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
}
