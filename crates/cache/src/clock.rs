//! Monotonic time as one number, so that it fits an atomic and a cache entry.
//! Never reads the wall clock: a clock set back or forward changes no lifetime.
//! Tokio's instant is used because a paused test clock then moves the cache too; outside of tests
//! it is the standard instant.

use std::time::Duration;

use tokio::time::Instant;

/// Microseconds since the cache was built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    base: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { base: Instant::now() }
    }

    /// The present. Costs one `Instant::now`.
    #[inline]
    pub(crate) fn now_us(self) -> u64 {
        let elapsed = self.base.elapsed();
        // A u64 of microseconds lasts for 584,000 years of uptime.
        elapsed.as_secs() * 1_000_000 + u64::from(elapsed.subsec_micros())
    }
}

/// A duration in whole microseconds; one too long for the number becomes "for ever".
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
