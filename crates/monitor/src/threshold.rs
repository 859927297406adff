//! The limit above which an operation is called slow, and the brake on saying so: one warning per ten seconds and
//! operation, however many are slow. Takes the time as an argument. Called by `operation` on every recording.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::duration::to_ns;
use crate::shard::Breach;

/// Time between two warnings for one operation: enough for a person to see it, too little to flood a log.
const WARNING_INTERVAL_MS: u64 = 10_000;

const NO_LIMIT: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Threshold {
    limit_ns: AtomicU64,
    next_warning_ms: AtomicU64,
    unsaid: AtomicU64,
}

impl Threshold {
    pub(crate) const fn unlimited() -> Self {
        Self {
            limit_ns: AtomicU64::new(NO_LIMIT),
            next_warning_ms: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
        }
    }

    pub(crate) fn set(&self, limit: Duration) {
        self.limit_ns.store(to_ns(limit), Ordering::Relaxed);
    }

    pub(crate) fn limit_ns(&self) -> Option<u64> {
        let limit_ns = self.limit_ns.load(Ordering::Relaxed);
        (limit_ns != NO_LIMIT).then_some(limit_ns)
    }

    #[inline]
    pub(crate) fn judge(&self, value_ns: u64) -> Breach {
        if value_ns > self.limit_ns.load(Ordering::Relaxed) { Breach::Over } else { Breach::Within }
    }

    /// Whether a breach at `now_ms` may be said aloud, and if so how many before it were not.
    pub(crate) fn admit_warning(&self, now_ms: u64) -> Option<u64> {
        let next_ms = self.next_warning_ms.load(Ordering::Relaxed);
        let is_due = now_ms >= next_ms
            && self
                .next_warning_ms
                .compare_exchange(next_ms, now_ms + WARNING_INTERVAL_MS, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_due {
            Some(self.unsaid.swap(0, Ordering::Relaxed))
        } else {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_longer_than_the_limit_is_a_breach() {
        let threshold = Threshold::unlimited();
        assert_eq!(threshold.judge(u64::MAX), Breach::Within);
        threshold.set(Duration::from_nanos(100));
        assert_eq!(threshold.judge(100), Breach::Within);
        assert_eq!(threshold.judge(101), Breach::Over);
    }

    #[test]
    fn one_warning_per_interval_tells_how_many_were_not_said() {
        let threshold = Threshold::unlimited();
        assert_eq!(threshold.admit_warning(5), Some(0));
        assert_eq!(threshold.admit_warning(6), None);
        assert_eq!(threshold.admit_warning(WARNING_INTERVAL_MS + 4), None);
        assert_eq!(threshold.admit_warning(WARNING_INTERVAL_MS + 5), Some(2));
        assert_eq!(threshold.admit_warning(WARNING_INTERVAL_MS + 6), None);
    }
}
