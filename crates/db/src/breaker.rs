//! Whether reads are sent to a server that answers its monitor: one whose statements fail one after another rests for a while, and
//! then a single read tries it. Whether it can be reached at all is the monitor's to say.
//! Time is an argument. Kept by `node`, told by connections, asked by `read`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row that speak of the server.
const FAULTS_MAX: u32 = 5;

/// The first rest, and the longest: each is twice the one before.
const REST_MIN: Duration = Duration::from_millis(250);
const REST_MAX: Duration = Duration::from_secs(8);

/// How long a single read may try a server before another one may.
const TRIAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Breaker {
    /// Failures since the last success, changed under the lock. Zero is all that a statement looks at that went well after another.
    faults: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// In a row, without a success between.
    rests: u32,
    /// Until when no read goes there. Past, the next one is the trial.
    until: Option<Instant>,
    is_tried: bool,
}

impl Breaker {
    /// A statement, or an attempt to connect, failed by the server's fault. Told once for each connection.
    pub(crate) fn failed(&self, now: Instant) {
        let mut state = self.lock();
        let faults = self.faults.load(Ordering::Acquire).saturating_add(1);
        self.faults.store(faults, Ordering::Release);
        let is_over = match state.until {
            // Those that were under way when the rest began say nothing new.
            Some(until) => state.is_tried || now >= until,
            None => faults >= FAULTS_MAX,
        };
        if is_over {
            let rest = REST_MIN.saturating_mul(1 << state.rests.min(8)).min(REST_MAX);
            *state = State { rests: state.rests + 1, until: Some(now + rest), is_tried: false };
        }
    }

    /// A statement was answered, whatever it was told, or the server has come up anew.
    pub(crate) fn succeeded(&self) {
        if self.faults.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = self.lock();
        self.faults.store(0, Ordering::Release);
        *state = State::default();
    }

    pub(crate) fn is_resting(&self, now: Instant) -> bool {
        self.faults.load(Ordering::Acquire) > 0 && self.lock().until.is_some_and(|until| now < until)
    }

    /// A read has a connection there: after a rest it is the only one for a while.
    pub(crate) fn chosen(&self, now: Instant) {
        if self.faults.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut state = self.lock();
        if state.until.is_some_and(|until| now >= until) {
            (state.until, state.is_tried) = (Some(now + TRIAL), true);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    fn rested(now: Instant) -> Breaker {
        let breaker = Breaker::default();
        (0..FAULTS_MAX).for_each(|_| breaker.failed(now));
        breaker
    }

    #[test]
    fn five_failures_in_a_row_are_a_rest_and_a_success_between_them_is_none() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..10 {
            (1..FAULTS_MAX).for_each(|_| breaker.failed(now));
            assert!(!breaker.is_resting(now));
            breaker.succeeded();
        }
        let breaker = rested(now);
        assert!(breaker.is_resting(now + REST_MIN - MOMENT) && !breaker.is_resting(now + REST_MIN));
    }

    #[test]
    fn after_a_rest_one_read_tries_and_its_failure_doubles_the_rest() {
        let (now, mut rest) = (Instant::now(), REST_MIN);
        let (breaker, mut at) = (rested(now), now);
        for _ in 0..10 {
            breaker.failed(at + MOMENT);
            assert!(!breaker.is_resting(at + rest), "those under way lengthen nothing");
            at += rest;
            breaker.chosen(at);
            assert!(breaker.is_resting(at), "for the others");
            breaker.failed(at);
            rest = (rest * 2).min(REST_MAX);
            assert!(breaker.is_resting(at + rest - MOMENT));
        }
        breaker.chosen(at + rest);
        breaker.succeeded();
        assert!(!breaker.is_resting(at + rest));
        (1..FAULTS_MAX).for_each(|_| breaker.failed(at + rest));
        assert!(!breaker.is_resting(at + rest), "all is forgotten");
    }

    #[test]
    fn a_trial_that_never_ends_is_followed_by_another() {
        let now = Instant::now();
        let breaker = rested(now);
        breaker.chosen(now + REST_MIN);
        assert!(!breaker.is_resting(now + REST_MIN + TRIAL));
    }
}
