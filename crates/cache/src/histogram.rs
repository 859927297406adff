//! How durations are spread: recorded without a lock and read as a plain value with quantiles and buckets.
//! Every power of two of microseconds is cut into eight cells, so a quantile is off by 6 % at most. Never recorded on a
//! plain hit. Used by `stats`, `tier_side` and `load`.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::clock::micros;

/// Binary digits that are kept of a number, besides its leading one.
const PRECISION_BITS: u32 = 3;
const PER_OCTAVE: u64 = 1 << PRECISION_BITS;

/// Longer durations count as this, some twelve days: values may be that old, and nothing else is.
const LONGEST_US: u64 = (1 << 40) - 1;

const CELLS: usize = index(LONGEST_US) + 1;

#[expect(clippy::cast_possible_truncation, reason = "the scale ends at 303, and `try_from` is not const")]
const fn index(us: u64) -> usize {
    // Setting the bit makes everything below sixteen take the linear part, without a branch.
    let magnitude = 63 - (us | PER_OCTAVE).leading_zeros();
    let shift = magnitude - PRECISION_BITS;
    (shift as u64 * PER_OCTAVE + (us >> shift)) as usize
}

/// The smallest number of a cell.
fn lowest_us(cell: usize) -> u64 {
    let cell = cell as u64;
    if cell < 2 * PER_OCTAVE {
        return cell;
    }
    (cell % PER_OCTAVE + PER_OCTAVE) << (cell / PER_OCTAVE - 1)
}

/// While it is counted: 2.4 KiB. Two atomic additions and a maximum per recording.
pub(crate) struct Recorder {
    cells: Box<[AtomicU64]>,
    sum_us: AtomicU64,
    max_us: AtomicU64,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Recorder").field("max_us", &self.max_us).finish_non_exhaustive()
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(),
            sum_us: AtomicU64::new(0),
            max_us: AtomicU64::new(0),
        }
    }
}

impl Recorder {
    pub(crate) fn record(&self, duration: Duration) {
        self.record_us(micros(duration));
    }

    pub(crate) fn record_us(&self, us: u64) {
        self.cells[index(us.min(LONGEST_US))].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
        self.max_us.fetch_max(us, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Histogram {
        let mut cells: Vec<u64> = self.cells.iter().map(|cell| cell.load(Relaxed)).collect();
        let filled = cells.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        cells.truncate(filled);
        Histogram { cells, sum_us: self.sum_us.load(Relaxed), max_us: self.max_us.load(Relaxed) }
    }
}

/// How durations were spread, from when the cache was built until it was asked for. A plain value: it does not go on
/// counting.
///
/// ```
/// # use std::time::Duration;
/// # let ages = paystrata_cache::Histogram::default();
/// assert_eq!((ages.count(), ages.quantile(0.99), ages.max()), (0, Duration::ZERO, Duration::ZERO));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    /// Up to the last one that is not zero.
    cells: Vec<u64>,
    sum_us: u64,
    max_us: u64,
}

impl Histogram {
    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.cells.iter().sum()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_us)
    }

    /// Their mean; zero if there are none.
    pub fn mean(&self) -> Duration {
        Duration::from_micros(self.sum_us.checked_div(self.count()).unwrap_or(0))
    }

    /// The longest; zero if there are none.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max_us)
    }

    /// The duration that the part `quantile` of them, 0.0 to 1.0, does not exceed, up to 6 % more than it is and never
    /// more than [`max`](Self::max). Zero if there are none.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let (part, count) = (quantile.clamp(0.0, 1.0), self.count());
        let mut below = 0;
        for (at_most, there) in self.buckets() {
            below += there;
            if below > 0 && as_f64(below) >= part * as_f64(count) {
                return at_most.min(self.max());
            }
        }
        self.max()
    }

    /// The buckets that hold something, by length: up to which duration (inclusive) it goes, and how many are in it and
    /// in none before it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let filled = self.cells.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(cell, count)| (Duration::from_micros(lowest_us(cell + 1) - 1), *count))
    }

    /// What was recorded after `earlier` was taken from the same cache. The longest is that of all times.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.cells.iter().copied().chain(std::iter::repeat(0));
        let cells = self.cells.iter().zip(before).map(|(now, before)| now.saturating_sub(before)).collect();
        Self { cells, sum_us: self.sum_us.saturating_sub(earlier.sum_us), max_us: self.max_us }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count over 2^53 is a quantile that is off by less than a cell"
)]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_tile_the_scale_without_gap_or_overlap() {
        for cell in 0..CELLS {
            assert_eq!(index(lowest_us(cell)), cell);
            assert_eq!(index(lowest_us(cell + 1) - 1), cell);
        }
        assert_eq!(index(LONGEST_US), CELLS - 1);
    }

    #[test]
    fn quantiles_are_within_their_bound_and_never_too_short() {
        let recorder = Recorder::default();
        (1..=10_000).for_each(|us| recorder.record_us(us));
        let histogram = recorder.snapshot();
        for (quantile, exact_us) in [(0.0001, 1), (0.5, 5_000), (0.9, 9_000), (0.99, 9_900), (1.0, 10_000)] {
            let told_us = micros(histogram.quantile(quantile));
            assert!((exact_us..=exact_us + exact_us / 8).contains(&told_us), "{quantile}: {told_us}");
        }
        assert_eq!((histogram.count(), histogram.mean()), (10_000, Duration::from_micros(5_000)));
    }

    #[test]
    fn endless_durations_are_counted_as_the_longest() {
        let recorder = Recorder::default();
        recorder.record(Duration::MAX);
        let histogram = recorder.snapshot();
        assert_eq!((histogram.count(), histogram.buckets().count()), (1, 1));
    }

    #[test]
    fn what_came_since_an_earlier_snapshot_is_told_apart() {
        let recorder = Recorder::default();
        recorder.record_us(5);
        let earlier = recorder.snapshot();
        recorder.record_us(9_000);
        let since = recorder.snapshot().since(&earlier);
        assert_eq!((since.count(), since.sum()), (1, Duration::from_micros(9_000)));
        assert!(since.quantile(0.5) >= Duration::from_micros(9_000));
    }
}
