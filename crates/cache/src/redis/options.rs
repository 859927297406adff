//! How a Redis tier is asked to behave, and what of that is refused: limits that could not do what they
//! are there for. Refuses to judge whether one is wise, or goes together with those of the caches.
//! Asked by `RedisTier::open`, before anything is made.

use std::time::Duration;

use super::RedisTierError;
use crate::YoungServer;

/// How a Redis tier behaves, over all caches attached to it. No time may be zero: the tier is not opened then
/// ([`RedisTierError::InvalidOption`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisOptions {
    /// Goes before every key and channel. Nodes that share entries share it. Default `paystrata`.
    pub namespace: String,
    /// What one trip to a server may take: longer than zero. Default 80 ms: below the timeout of the tier, so that a shard
    /// that hangs fails its own keys and no others.
    pub command_timeout: Duration,
    /// What connecting may take: longer than zero. Default 1 s.
    pub connect_timeout: Duration,
    /// How often the caches attached send pulses: after four without a word, and at least a second, the
    /// subscription is looked into. Longer than zero; less than 5 ms is as good as 5 ms. Default 500 ms.
    pub heartbeat: Duration,
    /// What to think of a server that has not been up for [`FLOOR_LIFE`](crate::FLOOR_LIFE). Default: its floors may be
    /// lost. Everything works meanwhile; misses are loaded from the primary, and values that are put without a claim
    /// are not stored.
    pub young_server: YoungServer,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            namespace: "paystrata".to_owned(),
            command_timeout: Duration::from_millis(80),
            connect_timeout: Duration::from_secs(1),
            heartbeat: Duration::from_millis(500),
            young_server: YoungServer::Blind,
        }
    }
}

impl RedisOptions {
    /// Names the first option that could not do what it is there for.
    pub(super) fn check(&self) -> Result<(), RedisTierError> {
        let times = [
            ("RedisOptions::command_timeout", self.command_timeout),
            ("RedisOptions::connect_timeout", self.connect_timeout),
            ("RedisOptions::heartbeat", self.heartbeat),
        ];
        match times.into_iter().find(|(_, time)| time.is_zero()) {
            Some((field, time)) => Err(RedisTierError::InvalidOption {
                field,
                value: format!("{time:?}"),
                expected: "longer than zero",
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RedisTier;

    const LEAST: Duration = Duration::from_nanos(1);

    /// By way of the tier, so that the check is seen to be made.
    #[track_caller]
    fn check(change: impl FnOnce(&mut RedisOptions), expected: Option<&str>) {
        let mut options = RedisOptions::default();
        change(&mut options);
        let refused = RedisTier::connect("redis://127.0.0.1", options).err();
        assert_eq!(refused.map(|error| error.to_string()).as_deref(), expected);
    }

    #[test]
    fn time_of_zero_is_refused_by_its_name() {
        check(
            |options| options.command_timeout = Duration::ZERO,
            Some("`RedisOptions::command_timeout` is 0ns: expected longer than zero"),
        );
        check(
            |options| options.connect_timeout = Duration::ZERO,
            Some("`RedisOptions::connect_timeout` is 0ns: expected longer than zero"),
        );
        check(
            |options| options.heartbeat = Duration::ZERO,
            Some("`RedisOptions::heartbeat` is 0ns: expected longer than zero"),
        );
    }

    #[test]
    fn time_that_is_short_or_without_end_is_taken() {
        check(|_| {}, None);
        for time in [LEAST, Duration::MAX] {
            check(|options| options.command_timeout = time, None);
            check(|options| options.connect_timeout = time, None);
            check(|options| options.heartbeat = time, None);
        }
    }
}
