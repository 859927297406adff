//! One hash of a key serves L1, the hot table, the flight table and the floors.
//! One seeded state for the process, so that a key hashed once can be looked up everywhere; seeded, so
//! that nobody can make keys collide from outside. Called by every module that looks a key up.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::LazyLock,
};

use quick_cache::{DefaultHashBuilder, Equivalent};

static STATE: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);

/// The hash of a key, the same in every cache of this process.
#[inline]
pub(crate) fn hash_of<Q: Hash + ?Sized>(key: &Q) -> u64 {
    STATE.hash_one(key)
}

/// A key as it lies in a table that takes hashes as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored<K>(pub(crate) K);

impl<K: Hash> Hash for Stored<K> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(hash_of(&self.0));
    }
}

/// A key that is looked up, with its hash.
#[derive(Debug)]
pub(crate) struct Probe<'key, Q: ?Sized> {
    pub(crate) key: &'key Q,
    pub(crate) hash: u64,
}

impl<'key, Q: Hash + ?Sized> Probe<'key, Q> {
    #[inline]
    pub(crate) fn of(key: &'key Q) -> Self {
        Self { key, hash: hash_of(key) }
    }
}

impl<Q: ?Sized> Hash for Probe<'_, Q> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl<K, Q: Equivalent<K> + ?Sized> Equivalent<Stored<K>> for Probe<'_, Q> {
    #[inline]
    fn equivalent(&self, stored: &Stored<K>) -> bool {
        self.key.equivalent(&stored.0)
    }
}

/// Takes the one number it is given for the hash.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AsGiven(u64);

impl Hasher for AsGiven {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    #[inline]
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        // Never called by `Stored` and `Probe`; right all the same if it were.
        self.0 = hash_of(bytes) ^ self.0.rotate_left(5);
    }
}

/// Builds [`AsGiven`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BuildAsGiven;

impl BuildHasher for BuildAsGiven {
    type Hasher = AsGiven;

    #[inline]
    fn build_hasher(&self) -> AsGiven {
        AsGiven(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_key_and_its_borrowed_form_hash_alike() {
        let stored = BuildAsGiven.hash_one(Stored(String::from("key")));
        assert_eq!(stored, BuildAsGiven.hash_one(Probe::of("key")));
        assert_ne!(stored, BuildAsGiven.hash_one(Probe::of("other")));
        assert!(Probe::of("key").equivalent(&Stored(String::from("key"))));
    }
}
