//! What a read comes back with, inside ([`Answer`]) and for the caller ([`Loaded`]).

use std::{sync::Arc, time::Duration};

use crate::{Version, life::Life, local::Traits};

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// This process.
    Local,
    /// A shared tier: 0 is the one that was named first.
    Tier(usize),
    /// The loader, called by this read or by another one that it waited for.
    Loader,
}

/// A value and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<V> {
    /// The value; `None` if there is no such thing.
    pub value: Option<V>,
    /// Where it comes from.
    pub origin: Origin,
    /// How long ago its load began, or since it was found unchanged. Of a value from a shared tier, by what the tier has left
    /// of its lifetime: to the millisecond (memcached: the second), too little if the load took long, and off by up to the policy's
    /// `jitter` where it was found unchanged.
    pub age: Duration,
    /// True if it is past its lifetime and was served because the load failed, is slow, or is somebody else's;
    /// or because the backplane has been silent.
    pub is_stale: bool,
}

/// As a flight carries it.
#[derive(Debug, Clone)]
pub(crate) struct Answer<V> {
    pub(crate) value: Option<V>,
    pub(crate) life: Life,
    pub(crate) traits: Option<Arc<Traits>>,
    pub(crate) origin: Origin,
    pub(crate) is_stale: bool,
}

impl<V> Answer<V> {
    /// What its loader said it is, if it did.
    pub(crate) fn version(&self) -> Version {
        self.traits.as_ref().map_or(Version::NONE, |traits| traits.version)
    }

    /// True if the versions say so.
    pub(crate) fn is_older_than(&self, known: Option<&Self>) -> bool {
        known.is_some_and(|known| self.version() < known.version())
    }

    pub(crate) fn into_loaded(self, now_us: u64) -> Loaded<V> {
        let age = Duration::from_micros(now_us.saturating_sub(self.life.loaded_us));
        Loaded { value: self.value, origin: self.origin, age, is_stale: self.is_stale }
    }
}
