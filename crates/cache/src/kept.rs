//! How a value lies in quick_cache, and how it is looked up there: by its key, by its key and life, or to read its entry in
//! its place. Holds nothing itself. Called by `local`.

use std::{
    cell::Cell,
    hash::{Hash, Hasher},
};

use quick_cache::Equivalent;

use crate::{
    hash::{Probe, hash_of},
    life::Life,
    packed::Packed,
};

/// A value's key and entry, as quick_cache keeps them. The entry is a part of the key, because a look-up is shown the key
/// in its place: it can judge the entry there and take what it needs, without copying the rest. Equal by the key alone.
#[derive(Debug, Clone)]
pub(crate) struct Kept<K, V> {
    pub(crate) key: K,
    pub(crate) packed: Packed<V>,
}

impl<K: Hash, V> Hash for Kept<K, V> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(hash_of(&self.key));
    }
}

impl<K: PartialEq, V> PartialEq for Kept<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<K: Eq, V> Eq for Kept<K, V> {}

impl<K, V, Q: Equivalent<K> + ?Sized> Equivalent<Kept<K, V>> for Probe<'_, Q> {
    #[inline]
    fn equivalent(&self, kept: &Kept<K, V>) -> bool {
        self.key.equivalent(&kept.key)
    }
}

/// Looks a key up and reads its entry in place, under the shard's read lock.
pub(crate) struct Reading<'a, 'key, Q: ?Sized, F, R> {
    pub(crate) probe: &'a Probe<'key, Q>,
    pub(crate) read: F,
    /// What it made of the entry.
    pub(crate) found: Cell<Option<R>>,
}

impl<Q: ?Sized, F, R> Hash for Reading<'_, '_, Q, F, R> {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.probe.hash);
    }
}

impl<K, V, Q, F, R> Equivalent<Kept<K, V>> for Reading<'_, '_, Q, F, R>
where
    Q: Equivalent<K> + ?Sized,
    F: Fn(&Packed<V>) -> R,
{
    #[inline]
    fn equivalent(&self, kept: &Kept<K, V>) -> bool {
        let is_it = self.probe.key.equivalent(&kept.key);
        if is_it {
            self.found.set(Some((self.read)(&kept.packed)));
        }
        is_it
    }
}

/// Looks a key up whose entry has this life.
pub(crate) struct Seen<'a, 'key, Q: ?Sized> {
    pub(crate) probe: &'a Probe<'key, Q>,
    pub(crate) life: &'a Life,
}

impl<Q: ?Sized> Hash for Seen<'_, '_, Q> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.probe.hash);
    }
}

impl<K, V, Q: Equivalent<K> + ?Sized> Equivalent<Kept<K, V>> for Seen<'_, '_, Q> {
    fn equivalent(&self, kept: &Kept<K, V>) -> bool {
        self.probe.key.equivalent(&kept.key) && kept.packed.life().is_that(self.life)
    }
}
