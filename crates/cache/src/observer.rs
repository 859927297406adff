//! What a cache tells whoever listens, besides `stats()` and `tracing`. Every method defaults to
//! nothing. Never called on an L1 hit, and never under a lock.
//! Implemented by the service that owns the cache, to feed its own metrics.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use crate::{codec::CodecError, tier::TierError};

/// How one call of a loader ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadEnd {
    /// With a value.
    Found,
    /// With the knowledge that there is none.
    Absent,
    /// With the loader's error.
    Failed,
    /// At the policy's `load_abandon`, or with the runtime.
    TimedOut,
    /// With a panic.
    Panicked,
    /// With word that the value has not changed.
    NotModified,
}

impl LoadEnd {
    /// One word for it, for labels of figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Absent => "absent",
            Self::Failed => "failed",
            Self::TimedOut => "timeout",
            Self::Panicked => "panicked",
            Self::NotModified => "not_modified",
        }
    }

    /// True if it gave no answer.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::Panicked)
    }
}

/// How one call of a shared tier ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierCall {
    /// What the tier is called ([`TierOptions::name`](crate::TierOptions::name)).
    pub tier: &'static str,
    /// What the tier is made of: `redis`, `memcached`, `postgres`.
    pub kind: &'static str,
    /// `read`, `settle`, `void` or `put`; `inspect` where somebody asks what is known of a key.
    pub verb: &'static str,
    /// How many keys it was about.
    pub keys: usize,
    /// The wait for its turn included.
    pub took: Duration,
    /// Why it failed, if it did.
    pub error: Option<TierError>,
}

/// What one round of maintenance found and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Maintenance {
    /// Entries that were looked at, those of absent keys included.
    pub seen: u64,
    /// Values that were dropped because their time was over or because a sweep had made them void.
    pub entries: u64,
    /// Of absent keys, likewise.
    pub absences: u64,
    /// What the values weighed, as L1 counts them.
    pub bytes: u64,
    /// From the first to the last step, the pauses in between included.
    pub took: Duration,
}

/// Why a cache dropped everything it had in process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapCause {
    /// Announcements were missed, and are no longer to be had.
    Skipped,
    /// The order of announcements is another: the store behind the line may have forgotten something.
    OrderLost,
    /// An announcement could not be read.
    Unreadable,
    /// A node fell silent without a goodbye: what it wanted to say last is unknown.
    SilentPeer,
}

/// Listens to a cache. Methods must return quickly: they run on the task that did the work. One that panics has not listened.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A loader was called and ended so after `elapsed`.
    fn load_ended(&self, cache: &str, end: LoadEnd, elapsed: Duration) {
        let _ = (cache, end, elapsed);
    }

    /// A value that was overtaken by an invalidation while it was loaded was not stored, or one that was set is older than
    /// the last change.
    fn stale_set_refused(&self, cache: &str) {
        let _ = cache;
    }

    /// A read of a shared tier failed, for all keys of the call or for some of them: about those the next tier is asked,
    /// or the loader. The tier is named as in its [options](crate::TierOptions::name), here and below.
    fn tier_failed(&self, cache: &str, tier: &'static str) {
        let _ = (cache, tier);
    }

    /// A tier has failed too often: it is left alone for [`TierOptions::breaker_pause`](crate::TierOptions::breaker_pause),
    /// then tried with one call at a time.
    fn tier_opened(&self, cache: &str, tier: &'static str) {
        let _ = (cache, tier);
    }

    /// A tier that was left alone has answered, and is asked again.
    fn tier_closed(&self, cache: &str, tier: &'static str) {
        let _ = (cache, tier);
    }

    /// A value was not stored because it has too many tags, or stays in this process because the codec cannot take it.
    fn unstorable(&self, cache: &str, error: &CodecError) {
        let _ = (cache, error);
    }

    /// Another node has announced changes of so many keys and so many sweeps, and this one has done its part.
    fn voided_elsewhere(&self, cache: &str, keys: usize, sweeps: usize) {
        let _ = (cache, keys, sweeps);
    }

    /// A change, made here or announced by another node, has named so many keys by bytes that are no key of this cache: another
    /// type of key spelled them, or another release. Any of its keys may be meant, so everything is void.
    fn keys_unreadable(&self, cache: &str, keys: usize) {
        let _ = (cache, keys);
    }

    /// A shared tier was called. Calls that were not made because it is left alone are none.
    fn tier_called(&self, cache: &str, call: &TierCall) {
        let _ = (cache, call);
    }

    /// What was over was dropped, as [`CacheBuilder::maintain_every`](crate::CacheBuilder::maintain_every) has it.
    fn maintained(&self, cache: &str, done: &Maintenance) {
        let _ = (cache, done);
    }

    /// A value past its lifetime was served, because the load failed or is slow.
    fn stale_served(&self, cache: &str) {
        let _ = cache;
    }

    /// Announcements may have been missed, so L1 was dropped.
    fn gap_noticed(&self, cache: &str, cause: GapCause) {
        let _ = (cache, cause);
    }

    /// The cache has ended, closed or dropped, with values that were set and that its writer has not taken: they are lost,
    /// up to those that the writer was just about to take.
    fn writes_lost(&self, cache: &str, values: usize) {
        let _ = (cache, values);
    }

    /// The cache has ended, closed or dropped, with so many changes (keys and sweeps) that the shared tiers or the other
    /// nodes have not been told of, up to those that were just on their way. What a tier has of them is served for as long
    /// as it lives; nodes that hear a line drop what they have in process once this one has been silent for
    /// [`max_stale`](crate::Policy::max_stale).
    fn pending_lost(&self, cache: &str, changes: usize) {
        let _ = (cache, changes);
    }

    /// More changes waited to be told than there is room for; everything shared becomes void
    /// before it is trusted again.
    fn pending_overflowed(&self, cache: &str) {
        let _ = cache;
    }
}

/// The observer of a cache that nobody listens to.
#[derive(Debug)]
pub(crate) struct Silent;

impl Observer for Silent {}

/// Another observer, whose panics end none of the tasks that tell it something.
#[derive(Debug)]
pub(crate) struct Guarded(pub(crate) Arc<dyn Observer>);

macro_rules! guarded {
    ($($method:ident($($argument:ident: $kind:ty),*);)*) => {
        impl Observer for Guarded {
            $(fn $method(&self, cache: &str, $($argument: $kind),*) {
                // The panic hook has reported it.
                let _panicked = catch_unwind(AssertUnwindSafe(|| self.0.$method(cache, $($argument),*)));
            })*
        }
    };
}

guarded! {
    load_ended(end: LoadEnd, elapsed: Duration);
    stale_set_refused();
    tier_failed(tier: &'static str);
    tier_opened(tier: &'static str);
    tier_closed(tier: &'static str);
    unstorable(error: &CodecError);
    voided_elsewhere(keys: usize, sweeps: usize);
    keys_unreadable(keys: usize);
    tier_called(call: &TierCall);
    maintained(done: &Maintenance);
    stale_served();
    gap_noticed(cause: GapCause);
    writes_lost(values: usize);
    pending_lost(changes: usize);
    pending_overflowed();
}
