//! How many files and sockets this process may have open: raised at the start as far as the system allows, and shared out so
//! that clients' connections never take what payments need to reach PostgreSQL, Redis and the gateways. Called by `serve`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More is not asked for where the system sets no bound.
const WANTED_MAX: u64 = 1 << 20;
/// Of the descriptors, clients of the public listener may have so many sixteenths,
const PUBLIC_SIXTEENTHS: u64 = 12;
/// and those of the operator listener so many. The rest is for the servers behind and for files.
const OPERATORS_SIXTEENTHS: u64 = 1;

/// What this process may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors(u64);

impl Descriptors {
    /// Raises the soft limit to the hard one, and gives what is in force then.
    #[must_use]
    pub fn raised() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let (current, wanted) =
            (current.unwrap_or(WANTED_MAX), maximum.unwrap_or(WANTED_MAX).min(WANTED_MAX));
        if wanted <= current {
            return Self(current);
        }
        match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
            Ok(()) => Self(wanted),
            Err(error) => {
                tracing::warn!(%error, current, wanted, "raise the limit of open files");
                Self(current)
            }
        }
    }

    /// Connections to the public listener: as many as are wanted, or as its share allows. Says so if that is less.
    #[must_use]
    pub fn for_public(self, wanted: usize) -> usize {
        let share = self.sixteenths(PUBLIC_SIXTEENTHS);
        if share < wanted {
            let limit = self.0;
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
        wanted.min(self.sixteenths(OPERATORS_SIXTEENTHS))
    }

    fn sixteenths(self, count: u64) -> usize {
        usize::try_from((self.0 / 16).saturating_mul(count)).unwrap_or(usize::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_leave_some_for_what_payments_need() {
        let descriptors = Descriptors(1_024);
        assert_eq!((descriptors.for_public(16_384), descriptors.for_operators(16_384)), (768, 64));
        assert_eq!(
            (descriptors.for_public(100), descriptors.for_operators(10)),
            (100, 10),
            "no more than wanted"
        );
        assert_eq!((Descriptors(0).for_public(9), Descriptors(0).for_operators(9)), (1, 1));
    }

    #[test]
    fn soft_limit_is_raised_to_the_hard_one() {
        let Descriptors(raised) = Descriptors::raised();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current.unwrap_or(WANTED_MAX), raised);
        assert!(raised >= now.maximum.unwrap_or(WANTED_MAX).min(WANTED_MAX));
    }
}
