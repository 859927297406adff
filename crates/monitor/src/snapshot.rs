//! What an operation has recorded up to a moment: counts and a histogram, as plain values.
//! Immutable and detached from the recorder; does no atomics. Made by `shard`, read by `report`, `prometheus` and users.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::buckets::{self, CELLS, VALUE_MAX_NS};
use crate::quantile::Quantile;

/// Significant digits of the histograms handed out: its own 0.1 % error disappears beside ours.
const HISTOGRAM_DIGITS: u8 = 3;

/// What one operation has recorded up to a moment. 18.3 KiB.
///
/// Quantiles are within 0.8 % of the exact ones; count, average, minimum and maximum are exact.
/// All outcomes are counted: leaving out failures and cancellations would flatter the latency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub(crate) cells: Box<[u64]>,
    pub(crate) count: u64,
    pub(crate) errors: u64,
    pub(crate) cancelled: u64,
    pub(crate) threshold_breaches: u64,
    pub(crate) sum_ns: u64,
    /// `u64::MAX` while nothing is recorded.
    pub(crate) min_ns: u64,
    pub(crate) max_ns: u64,
}

impl Snapshot {
    pub(crate) fn empty() -> Self {
        Self {
            cells: vec![0; CELLS].into_boxed_slice(),
            count: 0,
            errors: 0,
            cancelled: 0,
            threshold_breaches: 0,
            sum_ns: 0,
            min_ns: u64::MAX,
            max_ns: 0,
        }
    }

    /// Recordings, whatever their outcome.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Recordings that ended in an error.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Recordings that were cancelled.
    #[must_use]
    pub fn cancelled(&self) -> u64 {
        self.cancelled
    }

    /// Recordings that were slower than the operation's threshold at the time.
    #[must_use]
    pub fn threshold_breaches(&self) -> u64 {
        self.threshold_breaches
    }

    /// The arithmetic mean, or `None` if nothing was recorded.
    #[must_use]
    pub fn average(&self) -> Option<Duration> {
        self.sum_ns.checked_div(self.count).map(Duration::from_nanos)
    }

    /// The shortest recording, or `None` if nothing was recorded.
    #[must_use]
    pub fn min(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.min_ns))
    }

    /// The longest recording, or `None` if nothing was recorded.
    #[must_use]
    pub fn max(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.max_ns))
    }

    /// A quantile by nearest rank, or `None` if nothing was recorded. Adds cells up until the rank is reached.
    #[must_use]
    pub fn quantile(&self, quantile: Quantile) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let rank = quantile.rank(self.count);
        if rank == self.count {
            return self.max();
        }
        let mut seen = 0;
        let cell = self.cells.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_nanos(self.represent_ns(cell)))
    }

    /// The recordings as an HdrHistogram of nanoseconds, to merge, serialise or analyse. Allocates about 270 KiB.
    #[must_use]
    pub fn histogram(&self) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, VALUE_MAX_NS, HISTOGRAM_DIGITS)
            .expect("the bounds and the digits are constants that the histogram accepts");
        for (cell, count) in self.filled_cells() {
            // The histogram counts from 1 ns on.
            histogram.saturating_record_n(self.represent_ns(cell).max(1), count);
        }
        histogram
    }

    /// What was recorded after `earlier`, a snapshot of the same operation: the figures of an interval.
    /// Minimum and maximum are then taken from the cells and within 0.8 %.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut interval = Self::empty();
        for (cell, (now, before)) in self.cells.iter().zip(&earlier.cells).enumerate() {
            let count = now.saturating_sub(*before);
            interval.cells[cell] = count;
            interval.count += count;
            if count > 0 {
                interval.min_ns = interval.min_ns.min(self.represent_ns(cell));
                interval.max_ns = self.represent_ns(cell);
            }
        }
        interval.errors = self.errors.saturating_sub(earlier.errors);
        interval.cancelled = self.cancelled.saturating_sub(earlier.cancelled);
        interval.threshold_breaches = self.threshold_breaches.saturating_sub(earlier.threshold_breaches);
        interval.sum_ns = self.sum_ns.wrapping_sub(earlier.sum_ns);
        interval
    }

    /// Cells that hold something, from the shortest duration up, as (cell, count).
    pub(crate) fn filled_cells(&self) -> impl Iterator<Item = (usize, u64)> {
        self.cells.iter().copied().enumerate().filter(|(_, count)| *count > 0)
    }

    /// The duration that stands for a cell's recordings; never outside of what was recorded.
    fn represent_ns(&self, cell: usize) -> u64 {
        buckets::middle_ns(cell).max(self.min_ns).min(self.max_ns)
    }
}
