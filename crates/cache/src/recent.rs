//! What this node knows of the newest change of each key that changed lately: what a value that is set is judged by.
//! Unlike the slots of `floors`, no key answers for another. Bounded in keys; one that is pushed out within
//! [`FLOOR_LIFE`](crate::FLOOR_LIFE) leaves its version behind for that long, so that a value older than it is not taken.
//! Filled and asked by `floors`.

use std::collections::{HashMap, VecDeque};

use crate::{
    FLOOR_LIFE, Version,
    clock::micros,
    hash::BuildAsGiven,
    sync::{Mutex, lock},
};

/// Keys are divided among so many locks.
const SHARDS: usize = 16;

/// Keys remembered by each shard, some 60 bytes apiece: all in all 65,536 keys, which is 1,092 different ones a second for
/// [`FLOOR_LIFE`](crate::FLOOR_LIFE), in 4 MB when full.
const KEYS_PER_SHARD: usize = 4_096;

/// Which changes refuse a value that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bar {
    /// Newer ones, and those of which nobody knows how new they are: it was written somewhere before it was set.
    Any,
    /// Newer ones: setting it is the write itself, and comes after what nobody has numbered.
    Numbered,
}

/// The newest changes, by the hash of the key.
#[derive(Debug)]
pub(crate) struct Recent(Box<[Mutex<Shard>]>);

#[derive(Debug, Default)]
struct Shard {
    changes: HashMap<u64, Change, BuildAsGiven>,
    /// The hashes of `changes`, the one to be pushed out next first.
    order: VecDeque<u64>,
    /// The newest version that was pushed out before its time, and until when it counts.
    forgotten: Version,
    forgotten_until_us: u64,
}

#[derive(Debug)]
struct Change {
    version: Version,
    latest_until_us: u64,
    noted_us: u64,
    /// It was noted again since it was last spared.
    is_again: bool,
}

impl Recent {
    pub(crate) fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::new(Shard::default())).collect())
    }

    /// The key has been changed by the write `version`.
    pub(crate) fn note(&self, hash: u64, version: Version, now_us: u64) {
        if version == Version::NONE {
            return;
        }
        let mut shard = lock(self.shard(hash));
        match shard.changes.get_mut(&hash) {
            Some(change) => change.is_again = true,
            None => {
                shard.make_room(now_us);
                shard.order.push_back(hash);
                let change =
                    Change { version: Version::NONE, latest_until_us: 0, noted_us: 0, is_again: false };
                shard.changes.insert(hash, change);
            }
        }
        let Some(change) = shard.changes.get_mut(&hash) else { return };
        change.noted_us = now_us;
        if version == Version::LATEST {
            change.latest_until_us = now_us.saturating_add(micros(FLOOR_LIFE));
        } else {
            change.version = change.version.max(version);
        }
    }

    /// The version of the newest change of the key, as far as it is known.
    pub(crate) fn newest(&self, hash: u64, bar: Bar, now_us: u64) -> Version {
        match lock(self.shard(hash)).changes.get(&hash) {
            Some(change) if bar == Bar::Any && now_us < change.latest_until_us => Version::LATEST,
            Some(change) => change.version,
            None => Version::NONE,
        }
    }

    /// True if a value of this version may be taken for the key's newest.
    pub(crate) fn admits(&self, hash: u64, version: Version, bar: Bar, now_us: u64) -> bool {
        let forgotten = lock(self.shard(hash)).forgotten_at(now_us);
        // A value without a version claims nothing that could be older than what was forgotten of some key.
        let is_late = version != Version::NONE && version < forgotten;
        !is_late && version >= self.newest(hash, bar, now_us)
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        // The middle bits: the tables of the shards take the top and the bottom ones.
        let index = usize::try_from((hash >> 40) & 0xff).unwrap_or(0) % SHARDS;
        &self.0[index]
    }
}

impl Shard {
    fn forgotten_at(&self, now_us: u64) -> Version {
        if now_us < self.forgotten_until_us { self.forgotten } else { Version::NONE }
    }

    /// Pushes one key out if there is none too many to come: the oldest that was not noted again.
    fn make_room(&mut self, now_us: u64) {
        while self.changes.len() >= KEYS_PER_SHARD {
            let Some(hash) = self.order.pop_front() else { return };
            match self.changes.get_mut(&hash) {
                Some(change) if change.is_again => {
                    change.is_again = false;
                    self.order.push_back(hash);
                }
                _ => self.push_out(hash, now_us),
            }
        }
    }

    fn push_out(&mut self, hash: u64, now_us: u64) {
        let Some(change) = self.changes.remove(&hash) else { return };
        let until_us = change.noted_us.saturating_add(micros(FLOOR_LIFE));
        if now_us < until_us && change.version != Version::NONE {
            self.forgotten = self.forgotten_at(now_us).max(change.version);
            self.forgotten_until_us = self.forgotten_until_us.max(until_us);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE_US: u64 = 60_000_000;

    /// Hashes of one shard.
    fn hashes(count: usize) -> impl Iterator<Item = u64> {
        (0..count as u64).map(|number| (number << 48) | number)
    }

    #[test]
    fn change_refuses_older_values_of_its_key_and_of_no_other() {
        let recent = Recent::new();
        recent.note(1, Version(5), 0);
        recent.note(1, Version(3), 0);
        recent.note(2, Version::LATEST, 0);
        let admits = |hash, version| recent.admits(hash, Version(version), Bar::Any, 0);
        assert!(!admits(1, 4) && admits(1, 5));
        assert!(!admits(2, 9) && admits(3, 0));
    }

    #[test]
    fn unnumbered_change_refuses_for_its_time_and_no_value_whose_setting_is_the_write() {
        let recent = Recent::new();
        recent.note(1, Version(5), 0);
        recent.note(1, Version::LATEST, 0);
        assert!(!recent.admits(1, Version(6), Bar::Any, LIFE_US - 1));
        assert!(recent.admits(1, Version(6), Bar::Any, LIFE_US));
        assert!(recent.admits(1, Version(6), Bar::Numbered, 0));
        assert!(!recent.admits(1, Version(4), Bar::Numbered, 0));
    }

    #[test]
    fn keys_are_bounded_and_what_was_pushed_out_refuses_what_is_older_for_its_time() {
        let recent = Recent::new();
        for (version, hash) in hashes(3 * KEYS_PER_SHARD).enumerate() {
            recent.note(hash, Version(version as u64 + 1), 0);
        }
        let shard = lock(&recent.0[0]);
        assert_eq!((shard.changes.len(), shard.order.len()), (KEYS_PER_SHARD, KEYS_PER_SHARD));
        drop(shard);
        let forgotten = 2 * KEYS_PER_SHARD as u64;
        let admits = |version, now_us| recent.admits(0, Version(version), Bar::Any, now_us);
        assert!(!admits(forgotten - 1, 0) && admits(forgotten, 0));
        assert!(admits(0, 0), "it claims nothing");
        assert!(admits(1, LIFE_US));
    }

    #[test]
    fn key_that_is_changed_again_and_again_is_not_pushed_out() {
        let recent = Recent::new();
        for hash in hashes(3 * KEYS_PER_SHARD) {
            recent.note(0, Version::LATEST, 0);
            recent.note(hash, Version::LATEST, 0);
        }
        assert_eq!(recent.newest(0, Bar::Any, 0), Version::LATEST);
        assert!(
            recent.admits((1 << 48) | 1, Version(1), Bar::Any, 0),
            "what was not numbered leaves nothing behind"
        );
    }
}
