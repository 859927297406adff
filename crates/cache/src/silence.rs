//! When a connection that answers nobody is given up: several calls in a row have waited, together for the time that one may
//! take, and nothing came. Calls count whose callers have gone away as well: who has less patience than the connection would
//! otherwise keep a dead one for ever. Refuses to take a call that was dropped at once for a sign of anything.
//! Called by the connections of `memcached` and `postgres`.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::flight::lock;

/// Calls in a row: one may be bad luck.
const CALLS_MIN: u32 = 3;

/// What one connection owes.
#[derive(Debug, Default)]
pub(crate) struct Silence(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Calls since the last answer.
    calls: u32,
    /// What they have waited, without counting any moment twice.
    waited: Duration,
    counted_to: Option<Instant>,
    answered_at: Option<Instant>,
}

/// A call that waits. Dropped without an answer it counts against the connection.
pub(crate) struct Asking<'a, F: FnMut()> {
    silence: &'a Silence,
    begun: Instant,
    limit: Duration,
    give_up: F,
    is_answered: bool,
}

impl Silence {
    /// Begins a call that may take `limit`. `give_up` is called if it is one too many.
    pub(crate) fn ask<F: FnMut()>(&self, limit: Duration, give_up: F) -> Asking<'_, F> {
        Asking { silence: self, begun: Instant::now(), limit, give_up, is_answered: false }
    }

    /// An answer has come, whatever it says and whether anybody still waits for it.
    pub(crate) fn hear(&self) {
        *lock(&self.0) = State { answered_at: Some(Instant::now()), ..State::default() };
    }

    /// True if the connection is to be given up.
    fn add(&self, begun: Instant, limit: Duration) -> bool {
        let now = Instant::now();
        let mut state = lock(&self.0);
        if state.answered_at.is_some_and(|answered_at| answered_at >= begun) {
            return false;
        }
        let from = state.counted_to.map_or(begun, |counted_to| counted_to.max(begun));
        state.waited += now.saturating_duration_since(from);
        state.counted_to = Some(now);
        state.calls += 1;
        state.calls >= CALLS_MIN && state.waited >= limit
    }
}

impl<F: FnMut()> Asking<'_, F> {
    /// An answer has come, whatever it says.
    pub(crate) fn answered(mut self) {
        self.is_answered = true;
        self.silence.hear();
    }
}

impl<F: FnMut()> Drop for Asking<'_, F> {
    fn drop(&mut self) {
        if !self.is_answered && self.silence.add(self.begun, self.limit) {
            (self.give_up)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(250);

    async fn wait(silence: &Silence, given_up: &Cell<u32>, patience: Duration) {
        let asking = silence.ask(LIMIT, || given_up.set(given_up.get() + 1));
        tokio::time::sleep(patience).await;
        drop(asking);
    }

    #[tokio::test(start_paused = true)]
    async fn impatient_callers_find_a_dead_connection_out_together() {
        let (silence, given_up) = (Silence::default(), Cell::new(0));
        for _ in 0..2 {
            wait(&silence, &given_up, Duration::from_millis(100)).await;
            assert_eq!(given_up.get(), 0);
        }
        wait(&silence, &given_up, Duration::from_millis(100)).await;
        assert_eq!(given_up.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_who_go_at_once_or_all_at_the_same_time_prove_nothing() {
        let (silence, given_up) = (Silence::default(), Cell::new(0));
        for _ in 0..100 {
            wait(&silence, &given_up, Duration::from_millis(2)).await;
        }
        assert_eq!(given_up.get(), 0, "200 ms in all");
        let silence = Silence::default();
        let at_once = (0..50).map(|_| wait(&silence, &given_up, Duration::from_millis(100)));
        futures_util::future::join_all(at_once).await;
        assert_eq!(given_up.get(), 0, "100 ms in all");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_nobody_waited_for_speak_for_the_connection_too() {
        let (silence, given_up) = (Silence::default(), Cell::new(0));
        for _ in 0..10 {
            wait(&silence, &given_up, Duration::from_millis(100)).await;
            tokio::time::advance(Duration::from_millis(10)).await;
            silence.hear();
        }
        assert_eq!(given_up.get(), 0, "each answer came soon after its caller had left");
    }

    #[tokio::test(start_paused = true)]
    async fn answer_after_a_call_began_speaks_for_the_connection() {
        let (silence, given_up) = (Silence::default(), Cell::new(0));
        let long: Vec<_> = (0..5).map(|_| silence.ask(LIMIT, || given_up.set(given_up.get() + 1))).collect();
        tokio::time::sleep(2 * LIMIT).await;
        silence.ask(LIMIT, || {}).answered();
        drop(long);
        assert_eq!(given_up.get(), 0);
    }
}
