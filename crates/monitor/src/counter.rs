//! Counters that only go up. Sharded, so that threads that count at the same time rarely meet.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::slot;

/// Cells per counter: 2 KiB. Threads beyond it share by turns; sixteen already make a meeting rare.
const CELLS: usize = 16;

/// A number that only goes up. Cloning copies a pointer.
#[derive(Clone)]
pub struct Counter {
    cells: Arc<[Cell; CELLS]>,
}

// Two cache lines, as in `shard`.
#[repr(align(128))]
struct Cell(AtomicU64);

impl Counter {
    pub(crate) fn new() -> Self {
        Self { cells: Arc::new([const { Cell(AtomicU64::new(0)) }; CELLS]) }
    }

    /// Adds one. Wait-free: one atomic addition.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds an amount; past `u64::MAX` it starts again at zero. Wait-free: one atomic addition.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.cells[slot::current() % CELLS].0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The sum so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.cells.iter().fold(0, |sum, cell| sum.wrapping_add(cell.0.load(Ordering::Relaxed)))
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Counter({})", self.value())
    }
}
