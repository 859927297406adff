//! L1: what this process holds, bounded in bytes, with absent keys in a room of their own.
//! Refuses to decide anything: who may install is settled by the caller under the shard lock of
//! the flight table; reads take no lock of ours. Called by `store`, `load` and `invalidate`.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use ahash::RandomState;
use quick_cache::{
    DefaultHashBuilder, Equivalent, Lifecycle, OptionsBuilder, UnitWeighter, Weighter,
    sync::{Cache as QuickCache, DefaultLifecycle},
};

use crate::Policy;

/// What L1 knows about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup<V> {
    /// A value.
    Hit(V),
    /// That there is none.
    Absent,
    /// Nothing.
    Miss,
}

/// The span in which an entry may be served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    /// When its time to live ends.
    pub(crate) expires_us: u64,
    /// When its load began: it reflects every write that was known by then.
    pub(crate) loaded_us: u64,
}

/// The instant of a read, and how far back this node can vouch for what it holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) now_us: u64,
    /// Every invalidation announced before this instant has been applied here.
    pub(crate) vouched_us: u64,
    pub(crate) max_stale_us: u64,
}

impl Life {
    #[inline]
    fn is_served_at(self, moment: Moment) -> bool {
        let fresh_us = self.loaded_us.max(moment.vouched_us);
        moment.now_us < self.expires_us && moment.now_us <= fresh_us.saturating_add(moment.max_stale_us)
    }

    fn is_over_at(self, moment: Moment) -> bool {
        self.expires_us <= moment.now_us
    }
}

#[derive(Clone)]
struct Entry<V> {
    value: V,
    life: Life,
    /// Kept, because the weight of an entry must not change while it is stored.
    weight: u64,
}

#[derive(Clone)]
struct ByWeight;

impl<K, V> Weighter<K, Entry<V>> for ByWeight {
    fn weight(&self, _key: &K, entry: &Entry<V>) -> u64 {
        entry.weight
    }
}

/// Entries that left L1, to be dropped by the caller once it holds no lock: their drop is foreign code.
pub(crate) struct Displaced<K, V> {
    removed: Option<(K, Entry<V>)>,
    evicted: Vec<(K, Entry<V>)>,
}

impl<K, V> Default for Displaced<K, V> {
    fn default() -> Self {
        Self { removed: None, evicted: Vec::new() }
    }
}

/// Counts evictions, and hands the evicted to [`Displaced`].
struct Evictions<K, V> {
    count: Arc<AtomicU64>,
    entry: std::marker::PhantomData<fn(K, V)>,
}

impl<K, V> Clone for Evictions<K, V> {
    fn clone(&self) -> Self {
        Self { count: Arc::clone(&self.count), entry: self.entry }
    }
}

impl<K, V> Lifecycle<K, Entry<V>> for Evictions<K, V> {
    type RequestState = Vec<(K, Entry<V>)>;

    fn on_evict(&self, evicted: &mut Self::RequestState, key: K, entry: Entry<V>) {
        self.count.fetch_add(1, Relaxed);
        evicted.push((key, entry));
    }
}

type Values<K, V> = QuickCache<K, Entry<V>, ByWeight, RandomState, Evictions<K, V>>;
type Absences<K> = QuickCache<K, Life, UnitWeighter, DefaultHashBuilder, DefaultLifecycle<K, Life>>;

/// Values and absences of one cache in this process.
pub(crate) struct Local<K, V> {
    values: Values<K, V>,
    absences: Absences<K>,
    evictions: Arc<AtomicU64>,
}

/// What an entry costs besides the heap behind its key and value: the slot and quick_cache's 21 bytes.
const fn slot_bytes<K, V>() -> usize {
    size_of::<K>() + size_of::<Entry<V>>() + 21
}

/// The guess from which quick_cache derives its ghost room; within two orders of magnitude will do.
const ENTRY_BYTES_GUESS: u64 = 512;

impl<K: Clone + Eq + Hash, V: Clone> Local<K, V> {
    pub(crate) fn new(policy: &Policy) -> Self {
        let entries = usize::try_from(policy.l1_bytes_max / ENTRY_BYTES_GUESS).unwrap_or(usize::MAX);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(entries.clamp(64, 1 << 20))
            .weight_capacity(policy.l1_bytes_max)
            .build()
            .expect("both capacities are set");
        let evictions = Arc::new(AtomicU64::new(0));
        let lifecycle = Evictions { count: Arc::clone(&evictions), entry: std::marker::PhantomData };
        Self {
            values: QuickCache::with_options(options, ByWeight, RandomState::new(), lifecycle),
            absences: QuickCache::new(policy.negative_entries_max),
            evictions,
        }
    }

    /// What may be served of `key` now. Drops what has expired, and only that.
    #[inline]
    pub(crate) fn get<Q>(&self, key: &Q, moment: Moment) -> Lookup<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        if let Some(entry) = self.values.get(key) {
            if entry.life.is_served_at(moment) {
                return Lookup::Hit(entry.value);
            }
            // Judged again under the lock: a fresh value may have come in between.
            drop(self.values.remove_if(key, |entry| entry.life.is_over_at(moment)));
        }
        match self.absences.get(key) {
            Some(life) if life.is_served_at(moment) => Lookup::Absent,
            Some(_) => {
                drop(self.absences.remove_if(key, |life| life.is_over_at(moment)));
                Lookup::Miss
            }
            None => Lookup::Miss,
        }
    }

    /// As `get`, but leaves everything in place, so that nothing foreign is dropped under a lock.
    pub(crate) fn peek(&self, key: &K, moment: Moment) -> Lookup<V> {
        match self.values.get(key) {
            Some(entry) if entry.life.is_served_at(moment) => return Lookup::Hit(entry.value),
            _ => {}
        }
        match self.absences.get(key) {
            Some(life) if life.is_served_at(moment) => Lookup::Absent,
            _ => Lookup::Miss,
        }
    }

    /// Puts what was found in the place of what was there. `heap_bytes` is the weigher's verdict.
    pub(crate) fn install(&self, key: K, found: Option<(V, u64)>, life: Life, out: &mut Displaced<K, V>) {
        self.remove(&key, out);
        match found {
            Some((value, heap_bytes)) => {
                let weight = heap_bytes.saturating_add(slot_bytes::<K, V>() as u64);
                self.values.insert_with_lifecycle(key, Entry { value, life, weight }, &mut out.evicted);
            }
            None => self.absences.insert(key, life),
        }
    }

    pub(crate) fn remove(&self, key: &K, out: &mut Displaced<K, V>) {
        out.removed = self.values.remove(key);
        self.absences.remove(key);
    }

    pub(crate) fn clear(&self) {
        self.values.clear();
        self.absences.clear();
    }

    pub(crate) fn entries(&self) -> u64 {
        self.values.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.values.weight()
    }

    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(now_us: u64) -> Moment {
        Moment { now_us, vouched_us: u64::MAX, max_stale_us: 0 }
    }

    fn local(l1_bytes_max: u64) -> Local<u64, u64> {
        Local::new(&Policy { l1_bytes_max, negative_entries_max: 100, ..Policy::default() })
    }

    const FOR_TEN: Life = Life { expires_us: 10, loaded_us: 0 };

    #[test]
    fn entry_ends_with_its_time_to_live() {
        let local = local(1 << 20);
        local.install(1, Some((11, 0)), FOR_TEN, &mut Displaced::default());
        local.install(2, None, FOR_TEN, &mut Displaced::default());
        assert_eq!((local.get(&1, moment(9)), local.get(&2, moment(9))), (Lookup::Hit(11), Lookup::Absent));
        assert_eq!((local.get(&1, moment(10)), local.get(&2, moment(10))), (Lookup::Miss, Lookup::Miss));
        assert_eq!(local.entries(), 0);
    }

    #[test]
    fn silence_hides_an_entry_and_a_sign_of_life_shows_it_again() {
        let local = local(1 << 20);
        local.install(1, Some((11, 0)), Life { expires_us: 100, loaded_us: 0 }, &mut Displaced::default());
        let silent = Moment { now_us: 30, vouched_us: 0, max_stale_us: 20 };
        assert_eq!(local.get(&1, silent), Lookup::Miss);
        assert_eq!(local.get(&1, Moment { vouched_us: 10, ..silent }), Lookup::Hit(11));
    }

    #[test]
    fn value_and_absence_replace_each_other() {
        let local = local(1 << 20);
        local.install(1, None, FOR_TEN, &mut Displaced::default());
        local.install(1, Some((11, 0)), FOR_TEN, &mut Displaced::default());
        assert_eq!(local.get(&1, moment(0)), Lookup::Hit(11));
        local.install(1, None, FOR_TEN, &mut Displaced::default());
        assert_eq!(local.get(&1, moment(0)), Lookup::Absent);
    }

    #[test]
    fn bytes_stay_within_the_room_and_evictions_are_counted() {
        let local = local(64 << 10);
        for key in 0..1_000 {
            local.install(key, Some((key, 1_000)), FOR_TEN, &mut Displaced::default());
        }
        assert!(local.bytes() <= 64 << 10, "{}", local.bytes());
        assert_eq!(local.entries() + local.evictions(), 1_000);
    }

    #[test]
    fn flood_of_absent_keys_pushes_out_no_value() {
        let local = local(1 << 20);
        local.install(1, Some((11, 0)), FOR_TEN, &mut Displaced::default());
        for key in 2..100_000 {
            local.install(key, None, FOR_TEN, &mut Displaced::default());
        }
        assert_eq!(local.get(&1, moment(0)), Lookup::Hit(11));
        assert!(local.absences.len() <= 100, "{}", local.absences.len());
    }
}
