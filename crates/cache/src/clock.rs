//! Monotonic time as one number, so that it fits an atomic and a cache entry.
//! Never reads the wall clock: a clock set back or forward changes no lifetime. Coarse where the system
//! has a coarse clock: a hit pays a few nanoseconds for it, and a lifetime ends up to one tick (4 ms) late.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// When a clock is made it says this: a thousand days.
const BEFORE_US: u64 = 1_000 * 86_400 * 1_000_000;

/// Where a cache takes the time from. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    source: Source,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    /// The system's monotonic clock, as precise as it is cheap.
    System(u64),
    /// Tokio's, which a test can pause and move.
    Tokio(Instant),
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl Clock {
    /// The system's monotonic clock. What caches use unless they are told otherwise.
    pub fn system() -> Self {
        Self { source: Source::System(system_us()) }
    }

    /// Tokio's clock: with `start_paused` or `tokio::time::pause` a test moves it, timers and all.
    pub fn tokio() -> Self {
        Self { source: Source::Tokio(Instant::now()) }
    }

    /// Microseconds from long before the clock was made: something older than this process has an instant too.
    #[inline]
    pub(crate) fn now_us(self) -> u64 {
        match self.source {
            Source::System(made_us) => system_us() - made_us + BEFORE_US,
            Source::Tokio(base) => tokio_us(base),
        }
    }
}

#[cold]
fn tokio_us(base: Instant) -> u64 {
    BEFORE_US + micros(base.elapsed())
}

#[cfg(target_os = "linux")]
#[inline]
fn system_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    #[expect(
        unsafe_code,
        reason = "std reads the precise clock only, which costs more than the rest of a hit"
    )]
    // SAFETY: the pointer is to a timespec that lives through the call. The clock exists since Linux 2.6.32.
    unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now);
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "neither is negative, and nanoseconds are fewer than a billion: to divide 32 bits is cheaper"
    )]
    let (seconds, nanoseconds) = (now.tv_sec as u64, now.tv_nsec as u32);
    seconds * 1_000_000 + u64::from(nanoseconds / 1_000)
}

#[cfg(not(target_os = "linux"))]
fn system_us() -> u64 {
    use std::{sync::LazyLock, time::Instant};
    static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);
    1_000_000 + micros(BASE.elapsed())
}

/// Ticks for what a task does again and again, the first after one period. At least a millisecond apart: a period of zero
/// would never tick.
pub(crate) fn beat(every: Duration) -> Interval {
    let every = every.max(Duration::from_millis(1));
    let mut beat = interval_at(Instant::now() + every, every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

/// A duration in whole microseconds; one too long for the number becomes "for ever".
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
