//! How a memcached tier is asked to behave, and what of that is refused: limits that could not do what they
//! are there for. Refuses to judge whether one is wise, or goes together with those of the caches.
//! Asked by `MemcachedTier::connect`, before anything is made.

use std::{fmt::Debug, time::Duration};

use super::{MemcachedTierError, record::HEADER_BYTES, share::ITEM_OVERHEAD_BYTES};
use crate::YoungServer;

/// What an item takes beside its key and its value.
const ITEM_BYTES_BARE: usize = HEADER_BYTES + ITEM_OVERHEAD_BYTES;

/// How a memcached tier behaves, over all caches attached to it. No time and no number may be zero: the tier is not made then
/// ([`MemcachedTierError::InvalidOption`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemcachedOptions {
    /// Goes before every key. Nodes that share entries share it. Default `paystrata`.
    pub namespace: String,
    /// What one call may take before the next tier or the loader is asked instead: longer than zero, and a day at most, whatever
    /// is set. One server may keep it waiting for half of that (1 ms at least), so that what the others answered is not lost with
    /// it. Default 80 ms: below the timeout of the tier.
    pub command_timeout: Duration,
    /// What connecting may take: longer than zero. Default 1 s.
    pub connect_timeout: Duration,
    /// Connections to each server, at least 1; all calls share them. Default 2: one is kept busy by one core.
    pub connections: usize,
    /// Calls at once, over all caches, at least 1; more wait, within their timeout. Default 1,024.
    pub calls_max: usize,
    /// What to think of a server that has not been up for [`FLOOR_LIFE`](crate::FLOOR_LIFE). Default: its floors may be
    /// lost.
    pub young_server: YoungServer,
    /// The largest item to store, in bytes, if the server would take a larger one: its key, its value, and 160 bytes that any
    /// item is taken to need. More than those. Default 1 MiB.
    pub item_bytes_max: usize,
}

impl Default for MemcachedOptions {
    fn default() -> Self {
        Self {
            namespace: "paystrata".to_owned(),
            command_timeout: Duration::from_millis(80),
            connect_timeout: Duration::from_secs(1),
            connections: 2,
            calls_max: 1_024,
            young_server: YoungServer::Blind,
            item_bytes_max: 1_024 * 1_024,
        }
    }
}

impl MemcachedOptions {
    /// Names the first option that could not do what it is there for.
    pub(super) fn check(&self) -> Result<(), MemcachedTierError> {
        let Self { command_timeout, connect_timeout, connections, calls_max, item_bytes_max, .. } = *self;
        let times = [
            ("MemcachedOptions::command_timeout", command_timeout),
            ("MemcachedOptions::connect_timeout", connect_timeout),
        ];
        if let Some((field, time)) = times.into_iter().find(|(_, time)| time.is_zero()) {
            return Err(invalid(field, &time, "longer than zero"));
        }
        let bounds =
            [("MemcachedOptions::connections", connections), ("MemcachedOptions::calls_max", calls_max)];
        if let Some((field, bound)) = bounds.into_iter().find(|(_, bound)| *bound == 0) {
            return Err(invalid(field, &bound, "at least 1"));
        }
        if item_bytes_max <= ITEM_BYTES_BARE {
            let expected = "more than 160, which an item takes beside its key and its value";
            return Err(invalid("MemcachedOptions::item_bytes_max", &item_bytes_max, expected));
        }
        Ok(())
    }
}

fn invalid(field: &'static str, value: &dyn Debug, expected: &'static str) -> MemcachedTierError {
    MemcachedTierError::InvalidOption { field, value: format!("{value:?}"), expected }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memcached::MemcachedTier;

    const LEAST: Duration = Duration::from_nanos(1);

    /// By way of the tier, so that the check is seen to be made.
    #[track_caller]
    fn check(change: impl FnOnce(&mut MemcachedOptions), expected: Option<&str>) {
        let mut options = MemcachedOptions::default();
        change(&mut options);
        let refused = MemcachedTier::connect("a", options).err();
        assert_eq!(refused.map(|error| error.to_string()).as_deref(), expected);
    }

    #[test]
    fn time_of_zero_is_refused_by_its_name() {
        check(
            |options| options.command_timeout = Duration::ZERO,
            Some("`MemcachedOptions::command_timeout` is 0ns: expected longer than zero"),
        );
        check(
            |options| options.connect_timeout = Duration::ZERO,
            Some("`MemcachedOptions::connect_timeout` is 0ns: expected longer than zero"),
        );
    }

    #[test]
    fn bound_that_lets_nothing_through_is_refused_by_its_name() {
        check(
            |options| options.connections = 0,
            Some("`MemcachedOptions::connections` is 0: expected at least 1"),
        );
        check(
            |options| options.calls_max = 0,
            Some("`MemcachedOptions::calls_max` is 0: expected at least 1"),
        );
        check(
            |options| options.item_bytes_max = 160,
            Some(
                "`MemcachedOptions::item_bytes_max` is 160: expected more than 160, which an item takes beside its key and its \
                 value",
            ),
        );
    }

    #[test]
    fn option_at_the_edge_is_taken() {
        check(|_| {}, None);
        for time in [LEAST, Duration::MAX] {
            check(|options| options.command_timeout = time, None);
            check(|options| options.connect_timeout = time, None);
        }
        check(|options| options.connections = 1, None);
        for calls_max in [1, usize::MAX] {
            check(|options| options.calls_max = calls_max, None);
        }
        for item_bytes_max in [161, usize::MAX] {
            check(|options| options.item_bytes_max = item_bytes_max, None);
        }
    }
}
