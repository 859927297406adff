//! Versions issued by the caller's store, and the rule that turns them into a floor for a load.
//! Never made from a clock: two nodes whose clocks differ agree on versions all the same.
//! Used by every module that says "at least as new as".

use std::fmt;

/// How new a value is, in the caller's own order: a Postgres LSN, a row version, a sequence number.
///
/// Only the order counts. One cache must use one source of versions for all its keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

impl Version {
    /// No claim: any copy is new enough.
    pub const NONE: Self = Self(0);

    /// Newer than any copy: only the authoritative store will do (the primary, not a replica).
    ///
    /// This is the version of an invalidation whose write nobody numbered. As a floor it holds for
    /// [`FLOOR_LIFE`](crate::FLOOR_LIFE), by when a replica has caught up or has been taken out.
    pub const LATEST: Self = Self(u64::MAX);
}

impl fmt::Debug for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::LATEST => formatter.write_str("Version(LATEST)"),
            Self(number) => write!(formatter, "Version({number})"),
        }
    }
}
