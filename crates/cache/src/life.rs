//! The instants between which an entry may be served, made from a policy and the time of its load.
//! Refuses to look at sweeps and silence; `store` does. Called by whoever stores an entry.

use std::time::Duration;

use crate::{Policy, clock::micros, packed::NUMBER_BITS};

/// When an entry is what. All instants are microseconds of the cache's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    /// Until then a read need look no further.
    pub(crate) check_us: u64,
    /// When its time to live ends. Of a fallback: until when it is served without asking the loader again.
    pub(crate) expires_us: u64,
    /// When it is no fallback any more either.
    pub(crate) grace_ends_us: u64,
    /// When its load began: it reflects every write that was known by then.
    pub(crate) loaded_us: u64,
    /// The number of the last sweep this node knew of then.
    pub(crate) stamp: u64,
    pub(crate) state: State,
}

/// What an entry is good for while it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is served.
    Good,
    /// It is there for when the loader fails. Made so by its age, or by `expire`.
    Fallback,
}

/// How long something that was just loaded is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// In process.
    pub(crate) local: Duration,
    /// In shared tiers.
    pub(crate) shared: Duration,
    /// As a fallback, after that.
    pub(crate) grace: Duration,
}

impl Span {
    /// Of a value, with one roll of the dice for all tiers, so that no tier outlives another by chance.
    pub(crate) fn of_value(policy: &Policy, ttl: Option<Duration>) -> Self {
        let ttl = ttl.unwrap_or(policy.ttl);
        let spread = Spread::roll(policy.jitter);
        let local = spread.over(policy.l1_ttl.min(ttl));
        let shared = spread.over(ttl).min(SHARED_MAX);
        Self { local, shared, grace: policy.grace.min(GRACE_MAX) }
    }

    /// The same with another grace.
    pub(crate) fn with_grace(self, grace: Duration) -> Self {
        Self { grace: grace.min(GRACE_MAX), ..self }
    }

    /// The same, stored in no shared tier.
    pub(crate) fn unshared(self) -> Self {
        Self { shared: Duration::ZERO, ..self }
    }

    /// Of the knowledge that nothing is there, which is no fallback for anything.
    pub(crate) fn of_nothing(policy: &Policy, ttl: Option<Duration>) -> Self {
        let lifetime = Spread::roll(policy.jitter).over(ttl.unwrap_or(policy.negative_ttl));
        Self { local: lifetime, shared: lifetime.min(SHARED_MAX), grace: Duration::ZERO }
    }

    /// Of what a shared tier has, with no more left of it than the tier says.
    pub(crate) fn of_record(policy: &Policy, is_value: bool, remaining: Duration, grace: Duration) -> Self {
        let longest = if is_value { policy.l1_ttl.min(policy.ttl) } else { policy.negative_ttl };
        // The dice are rolled only where they matter: most records have less left than they were given.
        let local = match () {
            () if longest >= remaining => remaining,
            () if longest.is_zero() => longest,
            () => Spread::roll(policy.jitter).over(longest).min(remaining),
        };
        Self { local, shared: remaining, grace }
    }
}

impl Life {
    /// The life in process of something whose load began at `loaded_us` and ended `now_us`.
    pub(crate) fn begin(policy: &Policy, span: Span, loaded_us: u64, now_us: u64, stamp: u64) -> Self {
        let (expires_us, grace_ends_us) = ends(span, loaded_us, now_us);
        let check_us = match policy.refresh_at {
            part if part > 0.0 && part < 1.0 && span.local < ENDLESS => {
                now_us.saturating_add(micros(span.local.mul_f64(part)))
            }
            _ => expires_us,
        };
        // Where it matters when a value is read, every hit looks closer.
        let check_us = if policy.tti < ENDLESS || policy.refresh_every < ENDLESS { 0 } else { check_us };
        Self { check_us, expires_us, grace_ends_us, loaded_us, stamp, state: State::Good }
    }

    /// True if it is to be loaded anew, because most of its life is over. One that every hit looks at closer is checked from its
    /// beginning, and never due: packed and unpacked, the beginning is when it was loaded.
    pub(crate) fn is_due_at(self, now_us: u64) -> bool {
        self.check_us > self.loaded_us && now_us >= self.check_us
    }

    /// True if it is the same life, whatever sweeps it was judged by since.
    pub(crate) fn is_that(&self, other: &Self) -> bool {
        Self { stamp: other.stamp, ..*self } == *other
    }

    /// What comes after its time to live.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_micros(self.grace_ends_us.saturating_sub(self.expires_us))
    }

    /// The life of the same thing once it only serves as a fallback, not to be doubted until `retry_us`.
    pub(crate) fn as_fallback(self, retry_us: u64) -> Self {
        Self { check_us: 0, expires_us: retry_us, state: State::Fallback, ..self }
    }

    /// True if there is any use for it at `now_us`.
    pub(crate) fn is_over_at(self, now_us: u64) -> bool {
        now_us >= self.grace_ends_us
    }
}

/// When something that was loaded just now ends, and its grace. With a grace the two differ, packed too: what is expired is known
/// by that to be a fallback, so what lives for ever ends after a hundred years then, and a grace is no shorter than what an instant
/// is rounded by.
fn ends(span: Span, loaded_us: u64, now_us: u64) -> (u64, u64) {
    let grace_us = micros(span.grace);
    if grace_us == 0 {
        let expires_us = now_us.saturating_add(micros(span.local));
        return (expires_us, expires_us);
    }
    let expires_us = now_us.saturating_add(micros(span.local.min(ENDLESS)));
    let rounded_by_us = expires_us.saturating_sub(loaded_us) >> (NUMBER_BITS - 1);
    (expires_us, expires_us.saturating_add(grace_us.max(rounded_by_us)))
}

/// Beyond this a lifetime counts as endless: no float arithmetic on it.
pub(crate) const ENDLESS: Duration = Duration::from_secs(86_400 * 36_500);

/// No shared tier is given a value for longer, and a grace beyond it for longer than that: no tier keeps anything for ever, and
/// what it cuts off must not be the part in which a value is fresh.
const SHARED_MAX: Duration = Duration::from_secs(86_400 * 365 * 8);
const GRACE_MAX: Duration = Duration::from_secs(86_400 * 365);

/// By how much lifetimes are lengthened.
#[derive(Debug, Clone, Copy)]
struct Spread(f64);

impl Spread {
    fn roll(jitter: f64) -> Self {
        if jitter.is_nan() || jitter <= 0.0 {
            return Self(0.0);
        }
        Self(jitter.min(1.0) * rand::random::<f64>())
    }

    fn over(self, lifetime: Duration) -> Duration {
        if self.0 <= 0.0 || lifetime >= ENDLESS {
            return lifetime;
        }
        lifetime.saturating_add(lifetime.mul_f64(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{local::Entry, packed::Packed};

    #[test]
    fn jitter_spreads_lifetimes_within_its_bound_and_never_shortens() {
        let policy = Policy { jitter: 0.25, ..Policy::default() };
        let lifetimes: Vec<_> = (0..1_000).map(|_| Span::of_value(&policy, None).local).collect();
        let (shortest, longest) = (lifetimes.iter().min().unwrap(), lifetimes.iter().max().unwrap());
        assert!(*shortest >= policy.ttl, "{shortest:?}");
        assert!(*longest <= policy.ttl.mul_f64(1.25), "{longest:?}");
        assert!(*longest - *shortest > Duration::from_secs(5), "nothing was spread");
    }

    #[test]
    fn local_copy_never_outlives_the_value() {
        let policy = Policy { ttl: Duration::from_secs(1), ..Policy::default() };
        let span = Span::of_value(&policy, None);
        assert_eq!(span.local, span.shared);
        let left = Duration::from_millis(7);
        for is_value in [true, false] {
            assert_eq!(Span::of_record(&policy, is_value, left, Duration::ZERO).local, left);
        }
        let policy = Policy { l1_ttl: Duration::from_millis(5), jitter: 0.25, ..policy };
        let span = Span::of_record(&policy, true, left, Duration::ZERO);
        assert!((policy.l1_ttl..=policy.l1_ttl.mul_f64(1.25)).contains(&span.local), "{span:?}");
        assert_eq!(span.shared, left);
    }

    #[test]
    fn endless_and_empty_lifetimes_survive_the_arithmetic() {
        let endless =
            Policy { ttl: Duration::MAX, l1_ttl: Duration::MAX, refresh_at: 0.8, ..Policy::default() };
        let span = Span::of_value(&endless, None);
        assert_eq!(Life::begin(&endless, span, 1, 1, 0).expires_us, u64::MAX);
        let graceful = Span { grace: Duration::from_micros(1), ..span };
        for now_us in [1, u64::from(u32::MAX)] {
            let life = Life::begin(&endless, graceful, 1, now_us, 0);
            let packed = Packed::of(Entry::new((), life, None, 0)).life();
            assert!(packed.grace_ends_us > packed.expires_us, "{packed:?}");
        }
        let policy = Policy { ttl: Duration::ZERO, jitter: f64::NAN, ..Policy::default() };
        assert_eq!(Span::of_value(&policy, None).shared, Duration::ZERO);
    }
}
