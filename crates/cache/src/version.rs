//! Versions issued by the caller's store, and the rule that turns them into a floor for a load.
//! Never made from a clock: two nodes whose clocks differ agree on versions all the same.
//! Used by every module that says "at least as new as".

use std::fmt;

/// How new a value is, in the caller's own order: a Postgres LSN, a number from a sequence, an offset of a log.
///
/// Only the order counts, and it is **one order for all keys of a cache**: of two writes, whatever their keys, the later one has
/// the higher number. A version that each row counts for itself is none, because keys share floors: the loader of a row at
/// version 3 would be told to reflect the version 1,000 of a neighbour, and never could. Take one sequence for the table.
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
