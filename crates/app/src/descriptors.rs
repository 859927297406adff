//! How many files and sockets this process may have open: raised at the start as far as the system allows, and shared out so
//! that clients' connections never take what payments need to reach PostgreSQL, Redis and the gateways. Called by `serve`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// More is not asked for where the system sets no bound.
const WANTED_MAX: u64 = 1 << 20;
/// Of the descriptors, clients of the public listener may have so many sixteenths at most,
const PUBLIC_SIXTEENTHS_MAX: u64 = 12;
/// so many at least, however much payments may need,
const PUBLIC_SIXTEENTHS_MIN: u64 = 4;
/// and those of the operator listener so many.
const OPERATORS_SIXTEENTHS: u64 = 1;
/// What a pool opens beside its connections: its probe, and replacements of old ones.
const PER_POOL: usize = 3;
/// Look-ups at gateways (16 a rail), connections that are cleaned beside their pools (64), Redis, logs, and room to spare.
const SPARE: usize = 160;

/// What this process may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    limit: u64,
    /// That the servers behind and the files may take at their configured bounds.
    needed: u64,
}

impl Descriptors {
    /// Raises the soft limit to the hard one, and takes what is in force then.
    #[must_use]
    pub fn raised(config: &Config) -> Self {
        Self { limit: raise(), needed: needed(config) }
    }

    /// Connections to the public listener and to the operator listener: as many as are wanted of each, or as their shares
    /// allow. Says so if that is less, or if what is left is less than payments may need: beyond it those through a
    /// gateway would fail for want of a socket.
    #[must_use]
    pub fn for_listeners(self, wanted: usize) -> (usize, usize) {
        let Self { limit, needed } = self;
        let (public, operators) = self.shares(wanted);
        if public < wanted {
            tracing::warn!(
                limit,
                wanted,
                public,
                "fewer connections than http.in_flight_max calls for: raise `ulimit -n`"
            );
        }
        if self.is_short(public, operators) {
            tracing::warn!(
                limit,
                needed,
                public,
                operators,
                "fewer open files than clients and payments may need: raise `ulimit -n`, or lower \
                 gateways.*.in_flight_max or db.pool_size_max"
            );
        }
        (public, operators)
    }

    fn shares(self, wanted: usize) -> (usize, usize) {
        let sixteenth = self.limit / 16;
        let operators = sixteenth * OPERATORS_SIXTEENTHS;
        let left = self.limit.saturating_sub(self.needed + operators);
        let public = left.clamp(sixteenth * PUBLIC_SIXTEENTHS_MIN, sixteenth * PUBLIC_SIXTEENTHS_MAX);
        (wanted.min(connections(public)), wanted.min(connections(operators)))
    }

    fn is_short(self, public: usize, operators: usize) -> bool {
        let listeners = u64::try_from(public + operators).unwrap_or(u64::MAX);
        self.needed.saturating_add(listeners) > self.limit
    }
}

fn connections(share: u64) -> usize {
    usize::try_from(share).unwrap_or(usize::MAX).max(1)
}

/// The soft limit, raised to the hard one.
fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let (current, wanted) = (current.unwrap_or(WANTED_MAX), maximum.unwrap_or(WANTED_MAX).min(WANTED_MAX));
    if wanted <= current {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, current, wanted, "raise the limit of open files");
            current
        }
    }
}

fn needed(config: &Config) -> u64 {
    let pools = 1 + config.db.replica_urls.len();
    let database = pools * (config.db.pool_size_max.get() + PER_POOL) + config.engine.lanes.get();
    let rails = &config.gateways;
    let card = rails.authorize_net.as_ref().map_or(0, |rail| rail.in_flight_max.get());
    let transfer = rails.velocity_pay.as_ref().map_or(0, |rail| rail.in_flight_max.get());
    u64::try_from(database + card + transfer + SPARE).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_get_what_payments_leave() {
        for (limit, needed, wanted, public, operators, is_short) in [
            (65_536, 330, 16_384, 16_384, 4_096, false),
            (1_024, 100, 16_384, 768, 64, false),
            (1_024, 330, 16_384, 630, 64, false),
            (1_024, 2_000, 16_384, 256, 64, true),
            (1_024, 330, 100, 100, 64, false),
            (32_768, 20_330, 16_384, 10_390, 2_048, false),
            // All of it fits, because no more is wanted.
            (16_384, 12_000, 1_024, 1_024, 1_024, false),
            (16_384, 15_000, 1_024, 1_024, 1_024, true),
            (0, 330, 16_384, 1, 1, true),
        ] {
            let descriptors = Descriptors { limit, needed };
            let shares = descriptors.shares(wanted);
            assert_eq!(shares, (public, operators), "{descriptors:?}");
            assert_eq!(descriptors.is_short(public, operators), is_short, "{descriptors:?}");
        }
    }

    #[test]
    fn soft_limit_is_raised_to_the_hard_one() {
        let raised = raise();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current.unwrap_or(WANTED_MAX), raised);
        assert!(raised >= now.maximum.unwrap_or(WANTED_MAX).min(WANTED_MAX));
    }
}
