//! What a cache tells whoever listens, besides `stats()` and `tracing`. Every method defaults to
//! nothing. Never called on an L1 hit, and never under a lock.
//! Implemented by the service that owns the cache, to feed its own metrics.

use std::{fmt, time::Duration};

/// How one call of a loader ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadEnd {
    /// With a value.
    Found,
    /// With the knowledge that there is none.
    Absent,
    /// With the loader's error.
    Failed,
    /// At the policy's `load_timeout`.
    TimedOut,
    /// With a panic.
    Panicked,
}

/// Why a cache dropped everything it had in process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapCause {
    /// The subscription was lost and is up again: messages may have passed in between.
    Resubscribed,
    /// A publisher's sequence jumped: a message was lost on the way.
    Skipped,
    /// A message could not be read.
    Unreadable,
    /// More messages came in than the node could take.
    Overflowed,
    /// A publisher fell silent without a goodbye: what it wanted to say last is unknown.
    SilentPeer,
}

/// Listens to a cache. Methods must return quickly: they run on the task that did the work.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A loader was called and ended so after `elapsed`.
    fn load_ended(&self, cache: &str, end: LoadEnd, elapsed: Duration) {
        let _ = (cache, end, elapsed);
    }

    /// A value that was overtaken by an invalidation while it was loaded was not stored.
    fn stale_set_refused(&self, cache: &str) {
        let _ = cache;
    }

    /// A command to the remote tier failed or was not even tried; the loader was asked instead.
    fn remote_failed(&self, cache: &str) {
        let _ = cache;
    }

    /// Messages may have been missed, so L1 was dropped.
    fn gap_noticed(&self, cache: &str, cause: GapCause) {
        let _ = (cache, cause);
    }

    /// More invalidations waited for the remote tier than there is room for; it will be emptied
    /// as a whole before it is trusted again.
    fn pending_overflowed(&self, cache: &str) {
        let _ = cache;
    }
}

/// The observer of a cache that nobody listens to.
#[derive(Debug)]
pub(crate) struct Silent;

impl Observer for Silent {}
