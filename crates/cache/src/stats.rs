//! What a cache counts, and the snapshot of it. Counting never allocates and never locks; hits are
//! counted in stripes because they are the only figure that many cores raise at once.
//! Raised by the modules that see the event; read by `Cache::stats`.

use std::{
    cell::Cell,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

/// One moment's figures of a cache. All but `entries`, `bytes`, `pending_invalidations` and
/// `backplane_silence` only grow.
///
/// `hits + absent_hits + misses` is the number of reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Reads answered with a value from L1.
    pub hits: u64,
    /// Reads answered "there is none" from L1.
    pub absent_hits: u64,
    /// Reads that L1 could not answer.
    pub misses: u64,
    /// Loaders called.
    pub loads: u64,
    /// Loaders that failed, timed out or panicked.
    pub load_failures: u64,
    /// Reads that waited for a load another read had begun.
    pub joins: u64,
    /// Reads refused because too many loads were in flight.
    pub overloads: u64,
    /// Values not stored because an invalidation overtook them, in L1 or in the remote tier.
    pub refused_stale_sets: u64,
    /// Values that L1 pushed out for want of room.
    pub evictions: u64,
    /// Values in L1 now.
    pub entries: u64,
    /// Bytes in L1 now, as the weigher counts them.
    pub bytes: u64,
    /// Remote reads that gave a value (or the knowledge that there is none).
    pub l2_hits: u64,
    /// Remote reads that gave nothing and a lease to load.
    pub l2_misses: u64,
    /// Remote reads that found another node loading, until the wait for it was over.
    pub l2_held: u64,
    /// Remote commands that failed.
    pub l2_errors: u64,
    /// Loads that did not ask the remote tier, because it was down or not to be trusted.
    pub l2_bypassed: u64,
    /// Remote values that could not be read; they were counted as a miss and overwritten.
    pub l2_poisoned: u64,
    /// Values stored remotely.
    pub l2_stored: u64,
    /// Values too large to be stored remotely.
    pub l2_oversize: u64,
    /// Keys invalidated here.
    pub invalidations: u64,
    /// Keys invalidated by word of another node.
    pub remote_invalidations: u64,
    /// Times that L1 was dropped because messages may have been missed.
    pub gaps: u64,
    /// Invalidations not yet confirmed by the remote tier, now.
    pub pending_invalidations: u64,
    /// Times that more invalidations were pending than there is room for.
    pub pending_overflows: u64,
    /// How long ago the youngest message was sent that has gone round the backplane and come back:
    /// what this node holds reflects all that was announced before. `None` if none has, yet.
    pub backplane_silence: Option<Duration>,
}

/// The figures while they are counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: Striped,
    pub(crate) absent_hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) loads: AtomicU64,
    pub(crate) load_failures: AtomicU64,
    pub(crate) joins: AtomicU64,
    pub(crate) overloads: AtomicU64,
    pub(crate) refused_stale_sets: AtomicU64,
    pub(crate) l2_hits: AtomicU64,
    pub(crate) l2_misses: AtomicU64,
    pub(crate) l2_held: AtomicU64,
    pub(crate) l2_errors: AtomicU64,
    pub(crate) l2_bypassed: AtomicU64,
    pub(crate) l2_poisoned: AtomicU64,
    pub(crate) l2_stored: AtomicU64,
    pub(crate) l2_oversize: AtomicU64,
    pub(crate) invalidations: AtomicU64,
    pub(crate) remote_invalidations: AtomicU64,
    pub(crate) gaps: AtomicU64,
}

/// One more.
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
            loads: self.loads.load(Relaxed),
            load_failures: self.load_failures.load(Relaxed),
            joins: self.joins.load(Relaxed),
            overloads: self.overloads.load(Relaxed),
            refused_stale_sets: self.refused_stale_sets.load(Relaxed),
            l2_hits: self.l2_hits.load(Relaxed),
            l2_misses: self.l2_misses.load(Relaxed),
            l2_held: self.l2_held.load(Relaxed),
            l2_errors: self.l2_errors.load(Relaxed),
            l2_bypassed: self.l2_bypassed.load(Relaxed),
            l2_poisoned: self.l2_poisoned.load(Relaxed),
            l2_stored: self.l2_stored.load(Relaxed),
            l2_oversize: self.l2_oversize.load(Relaxed),
            invalidations: self.invalidations.load(Relaxed),
            remote_invalidations: self.remote_invalidations.load(Relaxed),
            gaps: self.gaps.load(Relaxed),
            ..Stats::default()
        }
    }
}

/// Stripes of one counter. 16 keep two threads apart on any machine this runs on, for 2 KiB a cache.
const STRIPES: usize = 16;

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
    #[inline]
    pub(crate) fn count(&self) {
        STRIPE.with(|stripe| count(&self.stripes[stripe.get() % STRIPES].0));
    }

    fn sum(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.0.load(Relaxed)).sum()
    }
}

static NEXT_STRIPE: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static STRIPE: Cell<usize> = Cell::new(NEXT_STRIPE.fetch_add(1, Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_add_up_over_threads() {
        let striped = Striped::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|_| striped.count()));
            }
        });
        assert_eq!(striped.sum(), 4_000);
    }
}
