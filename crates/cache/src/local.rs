//! L1: what this process holds, bounded in bytes, with absent keys in a room of their own.
//! Refuses to decide anything: who may install is settled by the caller under the shard lock of
//! the flight table; reads take no lock of ours. Called by `store`.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use quick_cache::{
    Equivalent, Lifecycle, OptionsBuilder, UnitWeighter, Weighter,
    sync::{Cache as QuickCache, DefaultLifecycle},
};

use crate::{
    Policy, Version,
    hash::{BuildAsGiven, Probe, Stored},
    life::Life,
    tags::Tag,
};

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

/// What few entries have, kept apart so that the others do not pay for it.
#[derive(Debug, Default)]
pub(crate) struct Traits {
    pub(crate) tags: Box<[Arc<Tag>]>,
    pub(crate) version: Version,
    pub(crate) validator: Option<Arc<str>>,
    /// How long it may lie unread, and when it was last read.
    pub(crate) idle: Option<Idle>,
}

#[derive(Debug)]
pub(crate) struct Idle {
    limit_us: u64,
    /// How precisely it is known when it was read. Coarse, to spare the line that readers share.
    grain_us: u64,
    used_us: AtomicU64,
}

impl Idle {
    /// A sixty-fourth of what it is asked for is precise enough.
    pub(crate) fn new(limit_us: u64, grain_us: u64, now_us: u64) -> Self {
        Self { limit_us, grain_us: grain_us.min(limit_us) / 64, used_us: AtomicU64::new(now_us) }
    }

    pub(crate) fn used_us(&self) -> u64 {
        self.used_us.load(Relaxed)
    }

    /// True if nobody has read it for too long.
    pub(crate) fn is_over_at(&self, now_us: u64) -> bool {
        now_us >= self.used_us().saturating_add(self.limit_us)
    }

    /// Somebody reads it.
    pub(crate) fn touch(&self, now_us: u64) {
        if now_us >= self.used_us().saturating_add(self.grain_us) {
            self.used_us.store(now_us, Relaxed);
        }
    }
}

impl Traits {
    /// Kept only if there is something to keep.
    pub(crate) fn shared(self) -> Option<Arc<Self>> {
        let is_plain = self.tags.is_empty()
            && self.version == Version::NONE
            && self.validator.is_none()
            && self.idle.is_none();
        (!is_plain).then(|| Arc::new(self))
    }
}

/// A value, or the knowledge that there is none (`V = ()`), as it lies in L1.
#[derive(Debug, Clone)]
pub(crate) struct Entry<V> {
    pub(crate) value: V,
    pub(crate) life: Life,
    pub(crate) traits: Option<Arc<Traits>>,
    /// Kept, because the weight of an entry must not change while it is stored.
    weight: u64,
}

impl<V> Entry<V> {
    pub(crate) fn weight(&self) -> u64 {
        self.weight
    }

    /// Somebody reads it.
    pub(crate) fn touch(&self, now_us: u64) {
        if let Some(idle) = self.traits.as_ref().and_then(|traits| traits.idle.as_ref()) {
            idle.touch(now_us);
        }
    }
}

#[derive(Clone)]
pub(crate) struct ByWeight;

impl<K, V> Weighter<K, Entry<V>> for ByWeight {
    fn weight(&self, _key: &K, entry: &Entry<V>) -> u64 {
        entry.weight
    }
}

/// Entries that left L1, to be dropped by the caller once it holds no lock: their drop is foreign code.
pub(crate) struct Displaced<K, V> {
    removed: Option<(Stored<K>, Entry<V>)>,
    absence: Option<(Stored<K>, Entry<()>)>,
    evicted: Vec<(Stored<K>, Entry<V>)>,
}

impl<K, V> Default for Displaced<K, V> {
    fn default() -> Self {
        Self { removed: None, absence: None, evicted: Vec::new() }
    }
}

/// Counts evictions, and hands the evicted to [`Displaced`].
pub(crate) struct Evictions<K, V> {
    count: Arc<AtomicU64>,
    entry: std::marker::PhantomData<fn(K, V)>,
}

impl<K, V> Clone for Evictions<K, V> {
    fn clone(&self) -> Self {
        Self { count: Arc::clone(&self.count), entry: self.entry }
    }
}

impl<K, V> Lifecycle<Stored<K>, Entry<V>> for Evictions<K, V> {
    type RequestState = Vec<(Stored<K>, Entry<V>)>;

    fn on_evict(&self, evicted: &mut Self::RequestState, key: Stored<K>, entry: Entry<V>) {
        self.count.fetch_add(1, Relaxed);
        evicted.push((key, entry));
    }
}

type Values<K, V> = QuickCache<Stored<K>, Entry<V>, ByWeight, BuildAsGiven, Evictions<K, V>>;
type Absences<K> =
    QuickCache<Stored<K>, Entry<()>, UnitWeighter, BuildAsGiven, DefaultLifecycle<Stored<K>, Entry<()>>>;

/// Values and absences of one cache in this process.
pub(crate) struct Local<K, V> {
    pub(crate) values: Values<K, V>,
    pub(crate) absences: Absences<K>,
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
        let absences = policy.negative_entries_max;
        Self {
            values: QuickCache::with_options(options, ByWeight, BuildAsGiven, lifecycle),
            absences: QuickCache::with(
                absences,
                absences as u64,
                UnitWeighter,
                BuildAsGiven,
                DefaultLifecycle::default(),
            ),
            evictions,
        }
    }

    #[inline]
    pub(crate) fn value<Q: Equivalent<K> + ?Sized>(&self, probe: &Probe<'_, Q>) -> Option<Entry<V>> {
        self.values.get(probe)
    }

    #[inline]
    pub(crate) fn absence<Q: Equivalent<K> + ?Sized>(&self, probe: &Probe<'_, Q>) -> Option<Entry<()>> {
        self.absences.get(probe)
    }

    /// Puts what was found in the place of what was there. `heap_bytes` is the weigher's verdict.
    pub(crate) fn install(
        &self,
        probe: &Probe<'_, K>,
        found: Option<(V, u64)>,
        life: Life,
        traits: Option<Arc<Traits>>,
        out: &mut Displaced<K, V>,
    ) {
        self.remove(probe, out);
        let key = Stored(probe.key.clone());
        match found {
            Some((value, heap_bytes)) => {
                let weight = heap_bytes.saturating_add(slot_bytes::<K, V>() as u64);
                let entry = Entry { value, life, traits, weight };
                self.values.insert_with_lifecycle(key, entry, &mut out.evicted);
            }
            None => self.absences.insert(key, Entry { value: (), life, traits, weight: 1 }),
        }
    }

    /// Gives the entry of a value another life, if it is still the one that had `known`.
    pub(crate) fn relive(&self, probe: &Probe<'_, K>, known: &Life, life: Life, out: &mut Displaced<K, V>) {
        let Some((key, mut entry)) = self.values.remove_if(probe, |entry| entry.life == *known) else {
            return;
        };
        entry.life = life;
        self.values.insert_with_lifecycle(key, entry, &mut out.evicted);
    }

    pub(crate) fn remove<Q: Equivalent<K> + ?Sized>(&self, probe: &Probe<'_, Q>, out: &mut Displaced<K, V>) {
        out.removed = self.values.remove(probe);
        out.absence = self.absences.remove(probe);
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
    use crate::life::Span;

    fn local(l1_bytes_max: u64) -> Local<u64, u64> {
        Local::new(&Policy { l1_bytes_max, negative_entries_max: 100, ..Policy::default() })
    }

    fn put(local: &Local<u64, u64>, key: u64, found: Option<(u64, u64)>) {
        let policy = Policy::default();
        let life = Life::begin(&policy, Span::of_value(&policy, None), 0, 0, 0);
        local.install(&Probe::of(&key), found, life, None, &mut Displaced::default());
    }

    #[test]
    fn value_and_absence_replace_each_other() {
        let (local, probe) = (local(1 << 20), Probe::of(&1));
        put(&local, 1, None);
        put(&local, 1, Some((11, 0)));
        assert!(local.value(&probe).is_some() && local.absence(&probe).is_none());
        put(&local, 1, None);
        assert!(local.value(&probe).is_none() && local.absence(&probe).is_some());
    }

    #[test]
    fn bytes_stay_within_the_room_and_evictions_are_counted() {
        let local = local(64 << 10);
        (0..1_000).for_each(|key| put(&local, key, Some((key, 1_000))));
        assert!(local.bytes() <= 64 << 10, "{}", local.bytes());
        assert_eq!(local.entries() + local.evictions(), 1_000);
    }

    #[test]
    fn flood_of_absent_keys_pushes_out_no_value() {
        let local = local(1 << 20);
        put(&local, 1, Some((11, 0)));
        (2..100_000).for_each(|key| put(&local, key, None));
        assert!(local.value(&Probe::of(&1)).is_some());
        assert!(local.absences.len() <= 100, "{}", local.absences.len());
    }
}
