//! Replication lag in time, without comparing clocks of two machines and without writing to the database:
//! the primary's log position is sampled, and a replica is as far behind as the oldest sample it has not replayed is old.
//! It reports no lag while no primary was ever sampled. Fed and asked by the monitors.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::node::Facts;

/// Samples of the primary's position. Shared by all monitors of one `Db`.
#[derive(Debug)]
pub(crate) struct PrimaryClock {
    /// Between two samples, so that those that are kept go back twice as far as a replica may be behind.
    apart: Duration,
    /// Of each cluster that a server belongs to: one of another than the others must not be taken for their primary.
    samples: Mutex<Vec<Samples>>,
}

#[derive(Debug, Default)]
struct Samples {
    system_id: u64,
    timeline: u32,
    /// Oldest first; positions strictly grow.
    taken: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    lsn: u64,
    at: Instant,
}

/// Positions kept. A replica further behind reports the age of the oldest.
const SAMPLES_MAX: usize = 1000;
/// Clusters that are told apart.
const CLUSTERS_MAX: usize = 8;

impl PrimaryClock {
    /// For telling lags of up to `lag_max`, and that one is longer.
    pub(crate) fn new(lag_max: Duration) -> Self {
        Self { apart: lag_max.mul_f64(2.0 / SAMPLES_MAX as f64), samples: Mutex::default() }
    }

    /// Notes that a primary had written up to its position at `at`.
    pub(crate) fn note(&self, facts: &Facts, at: Instant) {
        let Facts { system_id, timeline, lsn, .. } = *facts;
        let mut clusters = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let known = clusters.iter().position(|samples| samples.system_id == system_id);
        let place = known.unwrap_or_else(|| {
            // A server that is made anew again and again must not fill the memory.
            if clusters.len() == CLUSTERS_MAX {
                clusters.remove(0);
            }
            clusters.push(Samples { system_id, ..Samples::default() });
            clusters.len() - 1
        });
        // The last one is the one that was noted last.
        clusters[place..].rotate_left(1);
        let samples = clusters.last_mut().expect("it was found or put there");
        if timeline < samples.timeline {
            return;
        }
        if timeline > samples.timeline {
            *samples = Samples { system_id, timeline, taken: VecDeque::with_capacity(SAMPLES_MAX) };
        }
        let is_news = |last: &Sample| lsn > last.lsn && at.saturating_duration_since(last.at) >= self.apart;
        if !samples.taken.back().is_none_or(is_news) {
            return;
        }
        if samples.taken.len() == SAMPLES_MAX {
            samples.taken.pop_front();
        }
        samples.taken.push_back(Sample { lsn, at });
    }

    /// How far a replica that has replayed up to its position is behind at `now`.
    pub(crate) fn lag(&self, facts: &Facts, now: Instant) -> Option<Duration> {
        let clusters = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let samples = clusters.iter().find(|samples| samples.system_id == facts.system_id)?;
        let lsn = facts.lsn;
        samples.taken.back()?;
        // Positions grow, so the missing samples are a suffix.
        let first_missing = samples.taken.partition_point(|sample| sample.lsn <= lsn);
        let lag = samples.taken.get(first_missing).map(|missing| now.saturating_duration_since(missing.at));
        Some(lag.unwrap_or(Duration::ZERO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Role;

    fn second(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn at(timeline: u32, lsn: u64) -> Facts {
        Facts { role: Role::Primary, timeline, lsn, incarnation: 1, system_id: 7, left_at: None }
    }

    #[test]
    fn a_primary_of_another_cluster_says_nothing_of_our_replicas() {
        let start = Instant::now();
        let clock = PrimaryClock::new(Duration::from_secs(10));
        clock.note(&at(1, 100), start);
        for stranger in 8..100 {
            clock.note(&Facts { system_id: stranger, ..at(9, 5_000) }, second(start, 1));
            clock.note(&at(1, 100 + stranger), second(start, stranger));
        }
        assert_eq!(clock.lag(&at(1, 150), second(start, 100)), Some(Duration::from_secs(49)));
        assert_eq!(clock.lag(&Facts { system_id: 1, ..at(1, 0) }, second(start, 100)), None);
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_missing_sample() {
        let start = Instant::now();
        let clock = PrimaryClock::new(Duration::from_secs(10));
        assert_eq!(clock.lag(&at(1, 0), start), None);
        for index in 1..=5 {
            clock.note(&at(1, index * 100), second(start, index));
        }
        let now = second(start, 10);
        assert_eq!(clock.lag(&at(1, 500), now), Some(Duration::ZERO));
        assert_eq!(clock.lag(&at(1, 499), now), Some(Duration::from_secs(5)));
        assert_eq!(clock.lag(&at(1, 250), now), Some(Duration::from_secs(7)));
        assert_eq!(clock.lag(&at(1, 0), now), Some(Duration::from_secs(9)));
    }

    #[test]
    fn a_long_lag_is_told_however_often_the_primary_is_asked() {
        let (start, lag_max) = (Instant::now(), Duration::from_secs(600));
        let clock = PrimaryClock::new(lag_max);
        for index in 0..100_000 {
            clock.note(
                &at(1, index + 1),
                start + Duration::from_millis(10) * u32::try_from(index).expect("small"),
            );
        }
        let lag = clock.lag(&at(1, 0), second(start, 1_000)).expect("it was sampled");
        assert!(lag > lag_max, "{lag:?}");
        assert!(
            clock.lag(&at(1, 100_000), second(start, 1_000)).expect("it was sampled")
                < Duration::from_secs(3)
        );
    }

    #[test]
    fn an_idle_primary_makes_no_lag() {
        let start = Instant::now();
        let clock = PrimaryClock::new(Duration::from_secs(10));
        for index in 0..10_000 {
            clock.note(&at(1, 100), second(start, index));
        }
        assert_eq!(clock.lag(&at(1, 100), second(start, 20_000)), Some(Duration::ZERO));
        assert_eq!(clock.lag(&at(1, 99), second(start, 20_000)), Some(Duration::from_secs(20_000)));
    }

    #[test]
    fn a_new_timeline_starts_afresh_and_an_old_one_is_ignored() {
        let start = Instant::now();
        let clock = PrimaryClock::new(Duration::from_secs(10));
        clock.note(&at(1, 900), start);
        clock.note(&at(2, 800), second(start, 1));
        clock.note(&at(1, 1000), second(start, 2));
        assert_eq!(clock.lag(&at(1, 800), second(start, 3)), Some(Duration::ZERO));
    }

    #[test]
    fn the_number_of_samples_is_bounded() {
        let start = Instant::now();
        let clock = PrimaryClock::new(Duration::from_secs(10));
        for index in 0..5_000 {
            clock.note(&at(1, index + 1), second(start, index));
        }
        let samples = clock.samples.lock().expect("no test thread panicked");
        assert_eq!(samples[0].taken.len(), SAMPLES_MAX);
    }
}
