//! A circuit breaker: after enough failures calls are refused at once, later a few probes decide.
//! Trips at 50 % failures of at least 20 calls in 10 s; opens 5 s, doubling to 120 s, with equal jitter; half open
//! admits 3 leased probes, of which 2 must succeed. A dropped permit counts for nothing and gives its probe back.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use crate::observer::BreakerState;

const BUCKETS: usize = 10;
const BUCKET: Duration = Duration::from_secs(1);
/// Fewer calls say nothing about a rate.
const CALLS_MIN: u32 = 20;
const FAILURES_PERCENT: u32 = 50;
const OPEN_MIN: Duration = Duration::from_secs(5);
const OPEN_MAX: Duration = Duration::from_secs(120);
const PROBES: usize = 3;
const PROBES_HEALTHY_MIN: usize = 2;
/// A probe that has not told by then is taken for lost, and its place is given to another.
const PROBE_LEASE: Duration = Duration::from_secs(30);
/// After this long closed, the next opening is short again.
const HEALED_AFTER: Duration = Duration::from_secs(60);

/// What one call says of its gateway's health. A decline is healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Healthy,
    Failing,
}

#[derive(Debug)]
pub(crate) struct Breaker {
    circuit: Mutex<Circuit>,
}

#[derive(Debug)]
struct Circuit {
    phase: Phase,
    /// Grows with every change of phase; a permit of an older generation changes nothing.
    generation: u64,
    trips: u32,
    window: Window,
}

#[derive(Debug)]
enum Phase {
    Closed { since: Instant },
    Open { until: Instant },
    HalfOpen { leases: Vec<Lease>, healthy: usize, failing: usize },
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    number: u64,
    until: Instant,
}

/// Leave for one call.
#[derive(Debug)]
pub(crate) struct Permit {
    breaker: Arc<Breaker>,
    generation: u64,
    probe: Option<u64>,
}

impl Breaker {
    pub(crate) fn new(now: Instant) -> Self {
        let phase = Phase::Closed { since: now };
        Self { circuit: Mutex::new(Circuit { phase, generation: 0, trips: 0, window: Window::new(now) }) }
    }

    pub(crate) fn state(&self) -> BreakerState {
        match self.lock().phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Leave to call, or how long to stay away.
    pub(crate) fn admit(self: &Arc<Self>, now: Instant) -> Result<Permit, Duration> {
        let mut circuit = self.lock();
        if let Phase::Open { until } = circuit.phase {
            if now < until {
                return Err(until - now);
            }
            circuit.turn(Phase::HalfOpen { leases: Vec::with_capacity(PROBES), healthy: 0, failing: 0 });
        }
        let generation = circuit.generation;
        let mut probe = None;
        if let Phase::HalfOpen { leases, healthy, failing } = &mut circuit.phase {
            leases.retain(|lease| lease.until > now);
            if leases.len() + *healthy + *failing >= PROBES {
                let earliest = leases.iter().map(|lease| lease.until).min().unwrap_or(now);
                return Err((earliest - now).min(OPEN_MIN));
            }
            let number = leases.iter().map(|lease| lease.number + 1).max().unwrap_or(0);
            leases.push(Lease { number, until: now + PROBE_LEASE });
            probe = Some(number);
        }
        Ok(Permit { breaker: Arc::clone(self), generation, probe })
    }

    fn lock(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().expect("no panic while the breaker is locked")
    }
}

impl Permit {
    /// Tells how the call went; gives the new state when it changed. `fraction` is random in `0..1`.
    pub(crate) fn record(mut self, verdict: Verdict, now: Instant, fraction: f64) -> Option<BreakerState> {
        let breaker = Arc::clone(&self.breaker);
        let mut circuit = breaker.lock();
        if circuit.generation != self.generation {
            return None;
        }
        let probe = self.probe.take();
        match &mut circuit.phase {
            Phase::Closed { since } => {
                if now.saturating_duration_since(*since) >= HEALED_AFTER {
                    circuit.trips = 0;
                }
                circuit.window.record(verdict, now);
                circuit.window.is_failing(now).then(|| circuit.trip(now, fraction))
            }
            Phase::Open { .. } => None,
            Phase::HalfOpen { leases, healthy, failing } => {
                leases.retain(|lease| Some(lease.number) != probe);
                match verdict {
                    Verdict::Healthy => *healthy += 1,
                    Verdict::Failing => *failing += 1,
                }
                if *healthy >= PROBES_HEALTHY_MIN {
                    circuit.window = Window::new(now);
                    circuit.turn(Phase::Closed { since: now });
                    return Some(BreakerState::Closed);
                }
                (*failing > PROBES - PROBES_HEALTHY_MIN).then(|| circuit.trip(now, fraction))
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(probe) = self.probe else { return };
        let mut circuit = self.breaker.lock();
        if circuit.generation != self.generation {
            return;
        }
        if let Phase::HalfOpen { leases, .. } = &mut circuit.phase {
            leases.retain(|lease| lease.number != probe);
        }
    }
}

impl Circuit {
    fn turn(&mut self, phase: Phase) {
        self.phase = phase;
        self.generation += 1;
    }

    fn trip(&mut self, now: Instant, fraction: f64) -> BreakerState {
        let open = OPEN_MIN.saturating_mul(2_u32.saturating_pow(self.trips)).min(OPEN_MAX);
        self.trips = self.trips.saturating_add(1);
        // Equal jitter: half is certain, half is random, so that many clients do not probe together.
        self.turn(Phase::Open { until: now + open / 2 + (open / 2).mul_f64(fraction) });
        BreakerState::Open
    }
}

/// Calls and failures of the last ten seconds.
#[derive(Debug)]
struct Window {
    start: Instant,
    buckets: [Bucket; BUCKETS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    second: u64,
    calls: u32,
    failures: u32,
}

impl Window {
    fn new(start: Instant) -> Self {
        Self { start, buckets: [Bucket::default(); BUCKETS] }
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / BUCKET.as_secs()
    }

    fn record(&mut self, verdict: Verdict, now: Instant) {
        let second = self.second(now);
        let place = usize::try_from(second % BUCKETS as u64).expect("a remainder of ten fits");
        let bucket = &mut self.buckets[place];
        if bucket.second != second {
            *bucket = Bucket { second, ..Bucket::default() };
        }
        bucket.calls = bucket.calls.saturating_add(1);
        bucket.failures = bucket.failures.saturating_add(u32::from(verdict == Verdict::Failing));
    }

    fn is_failing(&self, now: Instant) -> bool {
        let oldest = (self.second(now) + 1).saturating_sub(BUCKETS as u64);
        let live = self.buckets.iter().filter(|bucket| bucket.second >= oldest);
        let (calls, failures) = live.fold((0_u32, 0_u32), |(calls, failures), bucket| {
            (calls.saturating_add(bucket.calls), failures.saturating_add(bucket.failures))
        });
        calls >= CALLS_MIN && u64::from(failures) * 100 >= u64::from(calls) * u64::from(FAILURES_PERCENT)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Breaker, BreakerState, Duration, Instant, OPEN_MIN, PROBE_LEASE, PROBES, Verdict};

    fn fail(breaker: &Arc<Breaker>, now: Instant) -> Option<BreakerState> {
        breaker.admit(now).unwrap().record(Verdict::Failing, now, 1.0)
    }

    fn tripped(now: Instant) -> Arc<Breaker> {
        let breaker = Arc::new(Breaker::new(now));
        for _ in 0..19 {
            assert_eq!(fail(&breaker, now), None);
        }
        assert_eq!(fail(&breaker, now), Some(BreakerState::Open));
        breaker
    }

    #[test]
    fn twentieth_failure_opens_it() {
        let now = Instant::now();
        let breaker = tripped(now);
        assert_eq!(breaker.admit(now).unwrap_err(), OPEN_MIN);
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn old_failures_and_a_minority_of_failures_do_not_open_it() {
        let now = Instant::now();
        let breaker = Arc::new(Breaker::new(now));
        for second in 0..100 {
            assert_eq!(fail(&breaker, now + Duration::from_secs(second)), None, "{second}");
        }
        let breaker = Arc::new(Breaker::new(now));
        for _ in 0..100 {
            breaker.admit(now).unwrap().record(Verdict::Healthy, now, 1.0);
        }
        for _ in 0..99 {
            assert_eq!(fail(&breaker, now), None);
        }
        assert_eq!(fail(&breaker, now), Some(BreakerState::Open));
    }

    #[test]
    fn half_open_admits_three_probes_and_two_healthy_ones_close_it() {
        let now = Instant::now();
        let breaker = tripped(now);
        let later = now + OPEN_MIN;
        let mut probes: Vec<_> = (0..PROBES).map(|_| breaker.admit(later).unwrap()).collect();
        breaker.admit(later).unwrap_err();
        assert_eq!(probes.remove(0).record(Verdict::Healthy, later, 1.0), None);
        breaker.admit(later).unwrap_err();
        assert_eq!(probes.remove(0).record(Verdict::Healthy, later, 1.0), Some(BreakerState::Closed));
        assert_eq!(
            probes.remove(0).record(Verdict::Failing, later, 1.0),
            None,
            "an old generation says nothing"
        );
        assert!(breaker.admit(later).is_ok());
    }

    #[test]
    fn failing_probes_reopen_it_for_longer() {
        let now = Instant::now();
        let breaker = tripped(now);
        let later = now + OPEN_MIN;
        assert_eq!(fail(&breaker, later), None);
        assert_eq!(fail(&breaker, later), Some(BreakerState::Open));
        assert_eq!(breaker.admit(later).unwrap_err(), OPEN_MIN * 2);
    }

    #[test]
    fn dropped_and_lost_probes_give_their_place_back() {
        let now = Instant::now();
        let breaker = tripped(now);
        let later = now + OPEN_MIN;
        let probes: Vec<_> = (0..PROBES).map(|_| breaker.admit(later).unwrap()).collect();
        breaker.admit(later).unwrap_err();
        drop(probes);
        let stuck: Vec<_> = (0..PROBES).map(|_| breaker.admit(later).unwrap()).collect();
        breaker.admit(later + PROBE_LEASE / 2).unwrap_err();
        let fresh = breaker.admit(later + PROBE_LEASE).unwrap();
        drop(stuck);
        fresh.record(Verdict::Healthy, later + PROBE_LEASE, 1.0);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }
}
