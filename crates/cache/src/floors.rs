//! The version that a load of a key must at least reflect, as far as this node has been told.
//! Bounded: keys share slots by hash, so a floor may be higher than the key's own, never lower. That is right for what a
//! loader is told; a value that is set is judged by its own key's changes (`recent`), which are noted here too.
//! Raised by every invalidation before it voids anything, and by who asks for a version for as long as it does (`wishes`);
//! read when a load begins.

use std::time::Duration;

use crate::{
    Version,
    clock::micros,
    recent::Recent,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    wishes::Wishes,
};

/// How long a floor is kept where it cannot be kept for ever: tombstones in the remote tier, and
/// [`Version::LATEST`]. It must exceed the lag of any replica that a loader may read.
pub const FLOOR_LIFE: Duration = Duration::from_secs(60);

/// Slots: 1,024 x 16 bytes. A shared slot only sends a loader to a fresher replica than needed.
const SLOTS: usize = if cfg!(feature = "shuttle") { 2 } else { 1_024 };

/// Floors by slot, one for the whole cache, and those of keys that somebody asks for at a version, while they do.
///
/// Relaxed is enough: a floor is raised before the shard lock is taken to void loads, and read
/// after a load has registered under that lock, so the lock orders the two.
#[derive(Debug)]
pub(crate) struct Floors {
    slots: Box<[Floor]>,
    whole: Floor,
    /// The keys' own changes.
    pub(crate) recent: Recent,
    pub(crate) wishes: Wishes,
    /// Until when messages that this node has missed may be about writes a replica has not replayed.
    blind_until_us: AtomicU64,
    /// As above, where the tiers' own floors are of no help either.
    swept_until_us: AtomicU64,
}

/// One floor: a version that stays, and one for a while that nobody has numbered.
#[derive(Debug, Default)]
pub(crate) struct Floor {
    version: AtomicU64,
    latest_until_us: AtomicU64,
}

impl Floors {
    pub(crate) fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Floor::default()).collect(),
            whole: Floor::default(),
            recent: Recent::new(),
            wishes: Wishes::new(),
            blind_until_us: AtomicU64::new(0),
            swept_until_us: AtomicU64::new(0),
        }
    }

    pub(crate) fn raise(&self, hash: u64, version: Version, now_us: u64) {
        self.slot(hash).raise(version, now_us);
        self.recent.note(hash, version, now_us);
    }

    /// As `raise`, where it is not known whether the key has changed: loaders are told, and values that are set are not
    /// judged by it.
    pub(crate) fn raise_for_loads(&self, hash: u64, version: Version, now_us: u64) {
        self.slot(hash).raise(version, now_us);
    }

    /// Raises the floor of every key.
    pub(crate) fn raise_all(&self, version: Version, now_us: u64) {
        self.whole.raise(version, now_us);
    }

    pub(crate) fn floor(&self, hash: u64, now_us: u64) -> Version {
        self.slot(hash).read(now_us).max(self.whole.read(now_us)).max(self.wishes.floor(hash))
    }

    /// Messages may have been missed, and with them floors.
    pub(crate) fn go_blind(&self, now_us: u64) {
        self.blind_until_us.fetch_max(now_us.saturating_add(micros(FLOOR_LIFE)), Relaxed);
    }

    /// Sweeps may have been made because of writes a replica has not replayed, and of which ones is not known.
    pub(crate) fn go_blind_to_sweeps(&self, now_us: u64) {
        self.swept_until_us.fetch_max(now_us.saturating_add(micros(FLOOR_LIFE)), Relaxed);
    }

    /// True while sweeps may have been made of which this node does not know the writes.
    pub(crate) fn is_blind_to_sweeps(&self, now_us: u64) -> bool {
        now_us < self.swept_until_us.load(Relaxed)
    }

    /// The floor of a load for which the remote tier's tombstones were asked.
    pub(crate) fn aided_floor(&self, hash: u64, now_us: u64) -> Version {
        if self.is_blind_to_sweeps(now_us) { Version::LATEST } else { self.floor(hash, now_us) }
    }

    /// The floor of a load for which the remote tier's tombstones could not be asked.
    pub(crate) fn unaided_floor(&self, hash: u64, now_us: u64) -> Version {
        let is_blind = now_us < self.blind_until_us.load(Relaxed).max(self.swept_until_us.load(Relaxed));
        if is_blind { Version::LATEST } else { self.floor(hash, now_us) }
    }

    fn slot(&self, hash: u64) -> &Floor {
        // The middle bits: the shard of the flight table takes the top ones.
        let index = usize::try_from((hash >> 20) & 0xffff_ffff).unwrap_or(0) % SLOTS;
        &self.slots[index]
    }
}

impl Floor {
    pub(crate) fn raise(&self, version: Version, now_us: u64) {
        if version == Version::LATEST {
            self.latest_until_us.fetch_max(now_us + micros(FLOOR_LIFE), Relaxed);
        } else {
            self.version.fetch_max(version.0, Relaxed);
        }
    }

    pub(crate) fn read(&self, now_us: u64) -> Version {
        if now_us < self.latest_until_us.load(Relaxed) { Version::LATEST } else { self.numbered() }
    }

    pub(crate) fn numbered(&self) -> Version {
        Version(self.version.load(Relaxed))
    }

    /// Takes over what another one says.
    pub(crate) fn absorb(&self, other: &Self) {
        self.version.fetch_max(other.version.load(Relaxed), Relaxed);
        self.latest_until_us.fetch_max(other.latest_until_us.load(Relaxed), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_only_rises() {
        let floors = Floors::new();
        floors.raise(7, Version(5), 0);
        floors.raise(7, Version(3), 0);
        assert_eq!(floors.floor(7, 0), Version(5));
        assert_eq!(floors.floor(u64::MAX, 0), Version::NONE);
    }

    #[test]
    fn whole_cache_floor_holds_for_every_key() {
        let floors = Floors::new();
        floors.raise(7, Version(5), 0);
        floors.raise_all(Version(9), 0);
        assert_eq!(floors.floor(7, 0), Version(9));
        assert_eq!(floors.floor(u64::MAX, 0), Version(9));
    }

    #[test]
    fn blind_node_asks_for_the_latest_where_no_tombstone_can_tell_it_better() {
        let floors = Floors::new();
        floors.raise(7, Version(5), 0);
        floors.go_blind(10);
        assert_eq!((floors.unaided_floor(7, 10), floors.floor(7, 10)), (Version::LATEST, Version(5)));
        assert_eq!(floors.unaided_floor(7, 10 + micros(FLOOR_LIFE)), Version(5));
    }

    #[test]
    fn latest_floor_ends_and_leaves_the_numbered_one() {
        let floors = Floors::new();
        floors.raise(7, Version(5), 0);
        floors.raise(7, Version::LATEST, 10);
        assert_eq!(floors.floor(7, 10), Version::LATEST);
        assert_eq!(floors.floor(7, 10 + micros(FLOOR_LIFE)), Version(5));
    }
}
