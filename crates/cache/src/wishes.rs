//! The versions that readers of this node ask for, key by key, while they do. Knows nothing of what was written: of a version
//! nothing is left once nobody asks for it. Asked and given up by `reflect`; read through `floors`, and by `consult`, when a load
//! begins.

use std::collections::{BTreeMap, HashMap};

use crate::{
    Version,
    hash::BuildAsGiven,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
        lock,
    },
};

/// Bounded: as many as there are readers who wait, and loads that they have begun.
#[derive(Debug)]
pub(crate) struct Wishes {
    /// How many ask, so that loads take no lock while nobody does. Relaxed is enough, as of floors: the lock of the key's shard
    /// orders it.
    readers: AtomicUsize,
    wished: Mutex<Wished>,
}

#[derive(Debug, Default)]
struct Wished {
    /// By the hash of the key: for each version how many ask for it.
    by_key: HashMap<u64, BTreeMap<Version, usize>, BuildAsGiven>,
    /// Of loads, by their address: what their leads ask for.
    led: HashMap<usize, Version>,
}

impl Wishes {
    pub(crate) fn new() -> Self {
        Self { readers: AtomicUsize::new(0), wished: Mutex::new(Wished::default()) }
    }

    /// The highest version that somebody asks for.
    pub(crate) fn floor(&self, hash: u64) -> Version {
        if self.readers.load(Relaxed) == 0 {
            return Version::NONE;
        }
        let wished = lock(&self.wished);
        let highest = wished.by_key.get(&hash).and_then(BTreeMap::last_key_value);
        highest.map_or(Version::NONE, |(version, _)| *version)
    }

    pub(crate) fn ask(&self, hash: u64, version: Version) {
        self.readers.fetch_add(1, Relaxed);
        *lock(&self.wished).by_key.entry(hash).or_default().entry(version).or_default() += 1;
    }

    pub(crate) fn give_up(&self, hash: u64, version: Version) {
        let mut wished = lock(&self.wished);
        if let Some(versions) = wished.by_key.get_mut(&hash) {
            if let Some(readers) = versions.get_mut(&version) {
                *readers -= 1;
                if *readers == 0 {
                    versions.remove(&version);
                }
            }
            if versions.is_empty() {
                wished.by_key.remove(&hash);
            }
        }
        drop(wished);
        self.readers.fetch_sub(1, Relaxed);
    }

    pub(crate) fn lead(&self, flight: usize, version: Version) {
        lock(&self.wished).led.insert(flight, version);
    }

    pub(crate) fn land(&self, flight: usize) {
        lock(&self.wished).led.remove(&flight);
    }

    pub(crate) fn is_led_at(&self, flight: usize, version: Version) -> bool {
        lock(&self.wished).led.get(&flight).is_some_and(|told| *told >= version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floor_is_the_highest_version_that_somebody_asks_for_and_gone_with_the_last_one() {
        let wishes = Wishes::new();
        for version in [5, 9, 9] {
            wishes.ask(7, Version(version));
        }
        wishes.ask(8, Version(20));
        assert_eq!((wishes.floor(7), wishes.floor(6)), (Version(9), Version::NONE));
        wishes.give_up(7, Version(9));
        assert_eq!(wishes.floor(7), Version(9), "another one asks for it");
        wishes.give_up(7, Version(9));
        assert_eq!(wishes.floor(7), Version(5));
        wishes.give_up(7, Version(5));
        wishes.give_up(8, Version(20));
        assert_eq!((wishes.floor(7), wishes.floor(8)), (Version::NONE, Version::NONE));
        assert!(lock(&wishes.wished).by_key.is_empty() && wishes.readers.load(Relaxed) == 0);
    }

    #[test]
    fn load_is_known_to_be_told_while_it_is_led() {
        let wishes = Wishes::new();
        wishes.lead(1, Version(9));
        assert!(wishes.is_led_at(1, Version(9)) && wishes.is_led_at(1, Version(8)));
        assert!(!wishes.is_led_at(1, Version(10)) && !wishes.is_led_at(2, Version(1)));
        wishes.land(1);
        assert!(!wishes.is_led_at(1, Version(1)));
    }
}
