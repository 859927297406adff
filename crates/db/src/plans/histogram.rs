//! Durations of one statement, counted in buckets that grow with the duration: each is at most an eighth wider than its
//! lower end, so that a percentile is at most 12.5 % too high. Recording is one addition; nothing is allocated.
//! Called by the slow log.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Buckets in each doubling, as a power of two.
const STEPS_BITS: u32 = 3;
const STEPS: usize = 1 << STEPS_BITS;
/// Doublings of a microsecond: the last bucket begins at 2^32 us, more than an hour.
const DOUBLINGS: usize = 30;
const BUCKETS: usize = STEPS * DOUBLINGS;

/// Counts by duration.
#[derive(Debug)]
pub(super) struct Histogram {
    counts: [AtomicU32; BUCKETS],
}

/// What a histogram held.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    counts: Vec<u32>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [const { AtomicU32::new(0) }; BUCKETS] }
    }
}

impl Histogram {
    pub(super) fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // Each count stands for itself: no order between them is needed.
        self.counts[bucket(micros)].fetch_add(1, Ordering::Relaxed);
    }

    /// Gives what was counted and begins again from nothing; what is recorded meanwhile is in one of both.
    pub(super) fn take(&self) -> Counts {
        Counts { counts: self.counts.iter().map(|count| count.swap(0, Ordering::Relaxed)).collect() }
    }
}

impl Counts {
    pub(super) fn total(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// The duration that `share` of all stay at or below, in 0..=1; the upper end of its bucket.
    pub(super) fn percentile(&self, share: f64) -> Duration {
        let total = self.total();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank between 1 and the total, which no window brings above 2^52"
        )]
        let rank = ((total as f64 * share).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                return Duration::from_micros(upper_end(index));
            }
        }
        Duration::ZERO
    }
}

fn bucket(micros: u64) -> usize {
    if micros < STEPS as u64 {
        return usize::try_from(micros).unwrap_or(0);
    }
    let doubling = micros.ilog2() - STEPS_BITS;
    let step = (micros >> doubling) - STEPS as u64;
    let index = (doubling as usize + 1) * STEPS + usize::try_from(step).unwrap_or(0);
    index.min(BUCKETS - 1)
}

/// The largest whole number of microseconds that the bucket takes.
fn upper_end(index: usize) -> u64 {
    if index < STEPS {
        return index as u64;
    }
    let (doubling, step) = (index / STEPS - 1, index % STEPS);
    (((STEPS + step + 1) as u64) << doubling) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_a_bucket_that_is_little_wider() {
        for micros in (0..5_000).chain([1 << 20, (1 << 20) + 12_345, 3_600_000_000]) {
            let end = upper_end(bucket(micros));
            assert!(end >= micros && end <= micros + micros / 8, "{micros} is told as {end}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let histogram = Histogram::default();
        for micros in 1..=100 {
            histogram.record(Duration::from_millis(micros));
        }
        let counts = histogram.take();
        assert_eq!(counts.total(), 100);
        for (share, millis) in [(0.5, 50.0), (0.95, 95.0), (0.99, 99.0), (1.0, 100.0)] {
            let told = counts.percentile(share).as_secs_f64() * 1e3;
            assert!(told >= millis && told <= millis * 1.125, "{share}: {told}");
        }
        assert_eq!(histogram.take().total(), 0);
        assert_eq!(histogram.take().percentile(0.5), Duration::ZERO);
    }
}
