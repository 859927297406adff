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
    /// Raises the soft limit to the hard one, and takes what is in force then. Says so if it is less than this configuration
    /// may need: beyond it payments through a gateway would fail for want of a socket.
    #[must_use]
    pub fn raised(config: &Config) -> Self {
        let descriptors = Self { limit: raise(), needed: needed(config) };
        let Self { limit, needed } = descriptors;
        if descriptors.is_short() {
            tracing::warn!(
                limit,
                needed,
                "fewer open files than payments may need: raise `ulimit -n`, or lower gateways.*.in_flight_max or \
                 db.pool_size_max"
            );
        }
        descriptors
    }

    /// Whether what payments may need and the least shares of the listeners do not fit together.
    const fn is_short(self) -> bool {
        self.needed > self.limit / 16 * (16 - PUBLIC_SIXTEENTHS_MIN - OPERATORS_SIXTEENTHS)
    }

    /// Connections to the public listener: as many as are wanted, or as its share allows. Says so if that is less.
    #[must_use]
    pub fn for_public(self, wanted: usize) -> usize {
        let left = self.limit.saturating_sub(self.needed + self.limit / 16 * OPERATORS_SIXTEENTHS);
        let sixteenth = self.limit / 16;
        let share = left.clamp(sixteenth * PUBLIC_SIXTEENTHS_MIN, sixteenth * PUBLIC_SIXTEENTHS_MAX);
        let share = connections(share);
        if share < wanted {
            let limit = self.limit;
            tracing::warn!(
                limit,
                wanted,
                share,
                "fewer connections than http.in_flight_max calls for: raise `ulimit -n`"
            );
        }
        wanted.min(share)
    }

    /// Connections to the operator listener, likewise.
    #[must_use]
    pub fn for_operators(self, wanted: usize) -> usize {
        wanted.min(connections(self.limit / 16 * OPERATORS_SIXTEENTHS))
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

    const fn descriptors(limit: u64, needed: u64) -> Descriptors {
        Descriptors { limit, needed }
    }

    #[test]
    fn listeners_get_what_payments_leave() {
        for (limit, needed, public, operators, is_short) in [
            (65_536, 330, 16_384, 4_096, false),
            (1_024, 100, 768, 64, false),
            (1_024, 330, 630, 64, false),
            (1_024, 2_000, 256, 64, true),
            (65_536, 20_330, 16_384, 4_096, false),
            (65_536, 60_000, 16_384, 4_096, true),
            (32_768, 20_330, 10_390, 2_048, false),
            (0, 330, 1, 1, true),
        ] {
            let shared = descriptors(limit, needed);
            let told = (shared.for_public(16_384), shared.for_operators(16_384), shared.is_short());
            assert_eq!(told, (public, operators, is_short), "{shared:?}");
        }
        let ample = descriptors(1_024, 100);
        assert_eq!((ample.for_public(100), ample.for_operators(10)), (100, 10), "no more than wanted");
    }

    #[test]
    fn soft_limit_is_raised_to_the_hard_one() {
        let raised = raise();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current.unwrap_or(WANTED_MAX), raised);
        assert!(raised >= now.maximum.unwrap_or(WANTED_MAX).min(WANTED_MAX));
    }
}
