//! Where recordings land: per thread one array of counters, added up only when somebody reads.
//! Recording never waits, never allocates after a thread's first recording, and loses nothing; reading never stops it.
//! Does not know names, labels or thresholds. Called by `operation`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::buckets::{self, CELLS, VALUE_MAX_NS};
use crate::outcome::Outcome;
use crate::slot::{self, SLOTS, Writers};
use crate::snapshot::Snapshot;

/// Whether a recording was slower than its operation's threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Breach {
    Within,
    Over,
}

/// All shards of one operation and label set. Grows by 18.4 KiB for each of at most 65 writing threads.
pub(crate) struct Shards {
    slots: [OnceLock<Box<Shard>>; SLOTS],
}

// Two cache lines: adjacent-line prefetch would else drag a neighbour's line along.
#[repr(align(128))]
struct Shard {
    sum_ns: AtomicU64,
    min_ns: AtomicU64,
    max_ns: AtomicU64,
    errors: AtomicU64,
    cancelled: AtomicU64,
    breaches: AtomicU64,
    cells: [AtomicU64; CELLS],
}

impl Shards {
    pub(crate) fn new() -> Self {
        Self { slots: [const { OnceLock::new() }; SLOTS] }
    }

    /// Counts one value. Wait-free for the first 64 threads; the others share atomic adds.
    #[inline]
    pub(crate) fn record(&self, value_ns: u64, outcome: Outcome, breach: Breach) {
        let slot = slot::current();
        let shard = self.slots[slot].get_or_init(Shard::boxed);
        shard.record(value_ns.min(VALUE_MAX_NS), outcome, breach, slot::writers(slot));
    }

    /// Adds the shards up, reading 18.4 KiB per writing thread. Counts never go back from one snapshot to the next,
    /// but recordings that run meanwhile may be in one figure and not yet in another.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::empty();
        for shard in self.slots.iter().filter_map(OnceLock::get) {
            shard.add_to(&mut snapshot);
        }
        snapshot
    }
}

impl Shard {
    #[cold]
    fn boxed() -> Box<Self> {
        Box::new(Self {
            sum_ns: AtomicU64::new(0),
            min_ns: AtomicU64::new(u64::MAX),
            max_ns: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            breaches: AtomicU64::new(0),
            cells: [const { AtomicU64::new(0) }; CELLS],
        })
    }

    #[inline]
    fn record(&self, value_ns: u64, outcome: Outcome, breach: Breach, writers: Writers) {
        // Extremes and sum, then the cell, then the outcome: the order that `add_to` relies on, read backwards.
        add(&self.sum_ns, value_ns, writers);
        if value_ns < self.min_ns.load(Ordering::Relaxed) {
            match writers {
                Writers::One => self.min_ns.store(value_ns, Ordering::Relaxed),
                Writers::Many => _ = self.min_ns.fetch_min(value_ns, Ordering::Relaxed),
            }
        }
        if value_ns > self.max_ns.load(Ordering::Relaxed) {
            match writers {
                Writers::One => self.max_ns.store(value_ns, Ordering::Relaxed),
                Writers::Many => _ = self.max_ns.fetch_max(value_ns, Ordering::Relaxed),
            }
        }
        add(&self.cells[buckets::index(value_ns)], 1, writers);
        match outcome {
            Outcome::Success => {}
            Outcome::Error => add(&self.errors, 1, writers),
            Outcome::Cancelled => add(&self.cancelled, 1, writers),
        }
        if breach == Breach::Over {
            add(&self.breaches, 1, writers);
        }
    }

    fn add_to(&self, snapshot: &mut Snapshot) {
        // The reverse of `record`, with acquire against the release in `add`: whatever is seen as an error is
        // also seen in the count, so no error rate is above one, and whatever is counted is within the extremes.
        snapshot.errors += self.errors.load(Ordering::Acquire);
        snapshot.cancelled += self.cancelled.load(Ordering::Acquire);
        snapshot.threshold_breaches += self.breaches.load(Ordering::Acquire);
        for (total, cell) in snapshot.cells.iter_mut().zip(&self.cells) {
            let count = cell.load(Ordering::Acquire);
            *total += count;
            snapshot.count += count;
        }
        snapshot.sum_ns = snapshot.sum_ns.wrapping_add(self.sum_ns.load(Ordering::Relaxed));
        snapshot.min_ns = snapshot.min_ns.min(self.min_ns.load(Ordering::Relaxed));
        snapshot.max_ns = snapshot.max_ns.max(self.max_ns.load(Ordering::Relaxed));
    }
}

/// Adds to a counter. An only writer needs no locked instruction, which is most of the cost of an atomic add.
#[inline]
fn add(counter: &AtomicU64, amount: u64, writers: Writers) {
    match writers {
        Writers::One => {
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Release);
        }
        Writers::Many => _ = counter.fetch_add(amount, Ordering::Release),
    }
}
