//! The numbers a cache lives by, as one value with defaults that suit a payment service.
//! Holds no behaviour beyond spreading lifetimes. Built by the caller, read everywhere.

use std::time::Duration;

/// How long entries live, how much room they get, and how long anyone waits.
///
/// Build one with `Policy { ttl: .., ..Policy::default() }`.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How long a value lives, in every tier. Zero stores nothing. Default 60 s.
    pub ttl: Duration,
    /// How long a value lives in process; never longer than what is left of `ttl`. Default 60 s.
    pub l1_ttl: Duration,
    /// Room in process for keys and values, in bytes as the weigher counts them. Default 64 MiB.
    pub l1_bytes_max: u64,
    /// How long "there is no such thing" is believed, in every tier. Default 5 s.
    pub negative_ttl: Duration,
    /// How many absent keys are remembered in process. They have their own room, so that a flood of
    /// made-up keys cannot push out values. Default 10,000.
    pub negative_entries_max: usize,
    /// How long one load may take, waiting for its turn included. Default 5 s.
    pub load_timeout: Duration,
    /// How many loaders run at once over all keys: the load the source can bear. Default 64.
    pub loads_max: usize,
    /// How many loads may wait for their turn. One more is refused at once. Default 1,024.
    pub loads_queued_max: usize,
    /// How old a value in process may be without word from the backplane. An entry is served only
    /// while its load, or the last message that went round, is younger. Default 5 s. Without a
    /// remote tier nobody else can change the truth behind this node's back, and it is not used.
    pub max_stale: Duration,
    /// The part of each lifetime that is left to chance, 0.0 to 1.0: a lifetime is shortened by up
    /// to this part, so that keys stored together do not expire together. Default 0.1.
    pub jitter: f64,
    /// How long to wait for another node that is loading the same key, before loading it as well
    /// (without storing it remotely). Zero does not wait. Default 30 ms.
    pub lease_wait: Duration,
    /// The largest value stored in the remote tier, encoded, in bytes. Default 1 MiB.
    pub l2_value_bytes_max: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            l1_ttl: Duration::from_secs(60),
            l1_bytes_max: 64 << 20,
            negative_ttl: Duration::from_secs(5),
            negative_entries_max: 10_000,
            load_timeout: Duration::from_secs(5),
            loads_max: 64,
            loads_queued_max: 1_024,
            max_stale: Duration::from_secs(5),
            jitter: 0.1,
            lease_wait: Duration::from_millis(30),
            l2_value_bytes_max: 1 << 20,
        }
    }
}

/// What a lifetime is for: something that was found, or the knowledge that nothing is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Value,
    Nothing,
}

impl Found {
    pub(crate) fn of<V>(value: Option<&V>) -> Self {
        if value.is_some() { Self::Value } else { Self::Nothing }
    }
}

impl Policy {
    /// The lifetime of a new entry in process, before what the remote tier says is left.
    pub(crate) fn local_lifetime(&self, found: Found) -> Duration {
        match found {
            Found::Value => self.spread(self.l1_ttl.min(self.ttl)),
            Found::Nothing => self.spread(self.negative_ttl),
        }
    }

    /// The lifetime of a new entry in the remote tier.
    pub(crate) fn remote_lifetime(&self, found: Found) -> Duration {
        match found {
            Found::Value => self.spread(self.ttl),
            Found::Nothing => self.spread(self.negative_ttl),
        }
    }

    /// Shortens by a random part of at most `jitter`.
    fn spread(&self, lifetime: Duration) -> Duration {
        if self.jitter.is_nan() || self.jitter <= 0.0 || lifetime == Duration::MAX {
            return lifetime;
        }
        let part = self.jitter.min(1.0) * rand::random::<f64>();
        lifetime.saturating_sub(lifetime.mul_f64(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_spreads_lifetimes_within_its_bound_and_never_lengthens() {
        let policy = Policy { jitter: 0.25, ..Policy::default() };
        let lifetimes: Vec<_> = (0..1_000).map(|_| policy.local_lifetime(Found::Value)).collect();
        let (shortest, longest) = (lifetimes.iter().min().unwrap(), lifetimes.iter().max().unwrap());
        assert!(*longest <= policy.l1_ttl, "{longest:?}");
        assert!(*shortest >= policy.l1_ttl.mul_f64(0.75), "{shortest:?}");
        assert!(*longest - *shortest > Duration::from_secs(5), "nothing was spread");
    }

    #[test]
    fn local_copy_never_outlives_the_value() {
        let policy = Policy { ttl: Duration::from_secs(1), jitter: 0.0, ..Policy::default() };
        assert_eq!(policy.local_lifetime(Found::Value), Duration::from_secs(1));
        assert_eq!(policy.local_lifetime(Found::Nothing), policy.negative_ttl);
    }

    #[test]
    fn endless_and_empty_lifetimes_survive_the_arithmetic() {
        let policy = Policy { ttl: Duration::MAX, l1_ttl: Duration::MAX, ..Policy::default() };
        assert_eq!(policy.local_lifetime(Found::Value), Duration::MAX);
        let policy = Policy { ttl: Duration::ZERO, jitter: f64::NAN, ..Policy::default() };
        assert_eq!(policy.remote_lifetime(Found::Value), Duration::ZERO);
    }
}
