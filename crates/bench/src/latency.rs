//! Latencies in microseconds, and their percentiles. A thin front of `hdrhistogram` with a fixed range.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longer ones count as this long: nobody waits ten minutes for a payment.
const LATENCY_MAX: Duration = Duration::from_secs(600);

/// Recorded latencies. Three significant digits; about 200 KiB.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            histogram: Histogram::new_with_max(micros(LATENCY_MAX), 3)
                .expect("the range and digits are constants"),
        }
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record(micros(latency));
    }

    /// Adds all of another.
    pub fn add(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("both have the one range");
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// What this percentage of them did not exceed; zero when there are none.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.histogram.value_at_percentile(percent))
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.histogram.max())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// As the figure of a case: milliseconds.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

impl fmt::Display for Latencies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |percent| milliseconds(self.percentile(percent));
        let (p50, p95, p99, p999) = (at(50.0), at(95.0), at(99.0), at(99.9));
        let max = milliseconds(self.max());
        write!(
            formatter,
            "p50 {p50:.2} ms, p95 {p95:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, max {max:.2} ms"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_come_from_all_that_was_added() {
        let (mut low, mut high) = (Latencies::default(), Latencies::default());
        for micros in 1..=99 {
            low.record(Duration::from_micros(micros));
        }
        high.record(Duration::from_secs(3_600));
        low.add(&high);
        assert_eq!(low.count(), 100);
        assert_eq!(low.percentile(50.0), Duration::from_micros(50));
        assert_eq!(low.percentile(99.0), Duration::from_micros(99));
        // Over the range it is kept as the range's end, within three digits.
        assert!(low.max() >= LATENCY_MAX.mul_f64(0.999) && low.max() <= LATENCY_MAX.mul_f64(1.001));
    }
}
