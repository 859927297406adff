//! L1: what this process holds, bounded in bytes, with absent keys in a room of their own.
//! Refuses to decide anything: who may install is settled by the caller under the shard lock of
//! the flight table; reads take no lock of ours. Called by `store`.

use std::{
    cell::Cell,
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
    clock::micros,
    front::Fronts,
    hash::{BuildAsGiven, Probe, Stored},
    keeper::keeps,
    kept::{Kept, Reading, Seen},
    life::{ENDLESS, Life, State},
    packed::Packed,
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
    /// Of an entry stored now; none if it does not matter when it is read.
    pub(crate) fn under(policy: &Policy, now_us: u64) -> Option<Self> {
        let Policy { tti, refresh_every, .. } = *policy;
        (tti < ENDLESS || keeps(refresh_every)).then(|| Self::new(micros(tti), micros(refresh_every), now_us))
    }

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
    pub(crate) fn new(value: V, life: Life, traits: Option<Arc<Traits>>, weight: u64) -> Self {
        Self { value, life, traits, weight }
    }

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

impl<K, V> Weighter<Kept<K, V>, ()> for ByWeight {
    fn weight(&self, kept: &Kept<K, V>, (): &()) -> u64 {
        kept.packed.weight()
    }
}

/// Entries that left L1, to be dropped by the caller once it holds no lock: their drop is foreign code.
pub(crate) struct Displaced<K, V> {
    removed: Option<Kept<K, V>>,
    absence: Option<(Stored<K>, Entry<()>)>,
    evicted: Vec<Kept<K, V>>,
}

impl<K, V> Default for Displaced<K, V> {
    fn default() -> Self {
        Self { removed: None, absence: None, evicted: Vec::new() }
    }
}

/// Hands what quick_cache pushes out or replaces to [`Displaced`].
pub(crate) struct Leaving<K, V>(std::marker::PhantomData<fn(K, V)>);

impl<K, V> Clone for Leaving<K, V> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<K, V> Lifecycle<Kept<K, V>, ()> for Leaving<K, V> {
    type RequestState = Vec<Kept<K, V>>;

    fn on_evict(&self, leaving: &mut Self::RequestState, kept: Kept<K, V>, (): ()) {
        leaving.push(kept);
    }
}

type Values<K, V> = QuickCache<Kept<K, V>, (), ByWeight, BuildAsGiven, Leaving<K, V>>;
type Absences<K> =
    QuickCache<Stored<K>, Entry<()>, UnitWeighter, BuildAsGiven, DefaultLifecycle<Stored<K>, Entry<()>>>;

/// Values and absences of one cache in this process.
pub(crate) struct Local<K, V> {
    values: Values<K, V>,
    pub(crate) absences: Absences<K>,
    pub(crate) fronts: Fronts<K, V>,
    value_bytes_max: u64,
    evictions: AtomicU64,
}

/// What an entry costs besides the heap behind its key and value: the slot and quick_cache's 21 bytes.
pub(crate) const fn slot_bytes<K, V>() -> usize {
    size_of::<Kept<K, V>>() + 21
}

/// What lies behind an entry's key and value, by guess. quick_cache derives its ghost room from it, which it fills only
/// as far as there are evictions: a guess too high costs hit ratio, one too low some bytes for each entry.
const HEAP_BYTES_GUESS: usize = 64;

/// Of a shard's room, one entry may have so many hundredths: quick_cache refuses a heavier one without a word.
const ENTRY_PERCENT_MAX: u128 = 96;

/// What one entry may weigh at most, where there is so much room in so many shards.
pub(crate) fn entry_bytes_max(l1_bytes_max: u64, shards: usize) -> u64 {
    let room = u128::from(l1_bytes_max / shards as u64);
    u64::try_from(room * ENTRY_PERCENT_MAX / 100).unwrap_or(u64::MAX)
}

/// As many shards as quick_cache would choose, so that the room of one is known: four per core, and none for a few entries.
fn shards_for(entries: usize) -> usize {
    let mut shards = (4 * std::thread::available_parallelism().map_or(1, usize::from)).next_power_of_two();
    while shards > 1 && entries.div_ceil(shards) < 32 {
        shards /= 2;
    }
    shards
}

impl<K: Clone + Eq + Hash, V: Clone> Local<K, V> {
    pub(crate) fn new(policy: &Policy) -> Self {
        let entry_bytes = (slot_bytes::<K, V>() + HEAP_BYTES_GUESS) as u64;
        let entries = usize::try_from(policy.l1_bytes_max / entry_bytes).unwrap_or(usize::MAX);
        let shards = shards_for(entries);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(entries.clamp(64, 1 << 24))
            .weight_capacity(policy.l1_bytes_max)
            .shards(shards)
            .build()
            .expect("both capacities are set");
        let leaving = Leaving(std::marker::PhantomData);
        let absences = policy.negative_entries_max;
        Self {
            values: QuickCache::with_options(options, ByWeight, BuildAsGiven, leaving),
            absences: QuickCache::with(
                absences,
                absences as u64,
                UnitWeighter,
                BuildAsGiven,
                DefaultLifecycle::default(),
            ),
            fronts: Fronts::new(policy.l1_bytes_max),
            value_bytes_max: policy.l1_value_bytes_max.min(
                entry_bytes_max(policy.l1_bytes_max, shards).saturating_sub(slot_bytes::<K, V>() as u64),
            ),
            evictions: AtomicU64::new(0),
        }
    }

    /// What the weigher may say at most of what is kept.
    pub(crate) fn value_bytes_max(&self) -> u64 {
        self.value_bytes_max
    }

    /// What `read` makes of the entry of a value, in its place and under the lock of its shard.
    #[inline]
    pub(crate) fn read<Q: Equivalent<K> + ?Sized, R>(
        &self,
        probe: &Probe<'_, Q>,
        read: impl Fn(&Packed<V>) -> R,
    ) -> Option<R> {
        let reading = Reading { probe, read, found: Cell::new(None) };
        self.values.get(&reading);
        reading.found.into_inner()
    }

    pub(crate) fn value<Q: Equivalent<K> + ?Sized>(&self, probe: &Probe<'_, Q>) -> Option<Entry<V>> {
        self.read(probe, Packed::entry)
    }

    /// As `value`, but is no sign to quick_cache that anybody wants it.
    pub(crate) fn peek<Q: Equivalent<K> + ?Sized>(&self, probe: &Probe<'_, Q>) -> Option<Entry<V>> {
        let reading = Reading { probe, read: Packed::entry, found: Cell::new(None) };
        self.values.peek(&reading);
        reading.found.into_inner()
    }

    /// No sweep up to `newest` means the entry that was `judged`, if it is still there: reads need not look closer again.
    pub(crate) fn restamp<Q: Equivalent<K> + ?Sized>(
        &self,
        probe: &Probe<'_, Q>,
        judged: &Entry<V>,
        newest: u64,
    ) {
        let restamp = |packed: &Packed<V>| packed.restamp(judged, newest);
        self.values.peek(&Reading { probe, read: restamp, found: Cell::new(None) });
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
        match found {
            Some((value, heap_bytes)) => {
                let weight = heap_bytes.saturating_add(slot_bytes::<K, V>() as u64);
                let packed = Packed::of(Entry { value, life, traits, weight });
                let kept = Kept { key: probe.key.clone(), packed };
                out.absence = self.absences.remove(probe);
                // What is there is replaced and not removed first: quick_cache would forget how often it was asked for.
                self.values.insert_with_lifecycle(kept, (), &mut out.evicted);
                let evicted = out.evicted.iter().filter(|kept| kept.key != *probe.key).count();
                if evicted > 0 {
                    self.evictions.fetch_add(evicted as u64, Relaxed);
                }
            }
            None => {
                out.removed = self.values.remove(probe).map(|(kept, ())| kept);
                let absence = Entry { value: (), life, traits, weight: 1 };
                self.absences.insert(Stored(probe.key.clone()), absence);
            }
        }
        self.fronts.changed(probe.hash);
    }

    /// Gives the entry of a value another life, if it is still the one that had `known`. The caller sees to it that
    /// nothing is installed for the key meanwhile.
    pub(crate) fn relive(&self, probe: &Probe<'_, K>, known: &Life, life: Life, out: &mut Displaced<K, V>) {
        if let Some(mut entry) = self.value(probe).filter(|entry| entry.life.is_that(known)) {
            entry.life = life;
            let kept = Kept { key: probe.key.clone(), packed: Packed::of(entry) };
            // Refused if it was pushed out meanwhile: then there is nothing to give another life.
            if let Err((kept, ())) = self.values.replace_with_lifecycle(kept, (), true, &mut out.evicted) {
                out.removed = Some(kept);
            }
        }
        // Also where L1 has let go of it: a thread may have a copy.
        self.fronts.changed(probe.hash);
    }

    /// Makes the entry of a value a fallback, if it has a grace; takes it off otherwise.
    pub(crate) fn outdate(&self, probe: &Probe<'_, K>, out: &mut Displaced<K, V>) {
        let kept = self.value(probe).filter(|entry| {
            entry.life.state == State::Fallback || entry.life.grace_ends_us > entry.life.expires_us
        });
        match kept {
            Some(entry) => self.relive(probe, &entry.life, entry.life.as_fallback(0), out),
            None => self.remove(probe, out),
        }
    }

    pub(crate) fn remove<Q: Equivalent<K> + ?Sized>(&self, probe: &Probe<'_, Q>, out: &mut Displaced<K, V>) {
        out.removed = self.values.remove(probe).map(|(kept, ())| kept);
        out.absence = self.absences.remove(probe);
        self.fronts.changed(probe.hash);
    }

    /// Takes off the entry of a value that has this life, and gives it.
    pub(crate) fn reap<Q: Equivalent<K> + ?Sized>(
        &self,
        probe: &Probe<'_, Q>,
        life: &Life,
    ) -> Option<Kept<K, V>> {
        self.values.remove(&Seen { probe, life }).map(|(kept, ())| kept)
    }

    /// All values, in no order, each copied under the lock of its shard.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Kept<K, V>> {
        self.values.iter().map(|(kept, ())| kept)
    }

    /// Takes everything off, one by one: what is dropped is foreign code, and quick_cache's `clear` drops it under its locks. Something
    /// that comes meanwhile may stay.
    pub(crate) fn clear(&self) {
        self.values.drain().for_each(drop);
        self.absences.drain().for_each(drop);
        self.fronts.all_changed();
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
    fn entry_that_was_judged_by_later_sweeps_is_still_the_same_to_whoever_has_seen_it_before() {
        let (local, probe) = (local(1 << 20), Probe::of(&1));
        put(&local, 1, Some((11, 0)));
        let seen = local.value(&probe).unwrap();
        local.restamp(&probe, &seen, 5);
        local.restamp(&probe, &seen, 4);
        assert_eq!(local.value(&probe).unwrap().life.stamp, 5, "what was judged had another stamp");
        local.relive(&probe, &seen.life, seen.life.as_fallback(0), &mut Displaced::default());
        assert_eq!(local.value(&probe).unwrap().life.state, State::Fallback);
        let fallback = local.value(&probe).unwrap();
        local.restamp(&probe, &seen, 9);
        assert_eq!(local.value(&probe).unwrap().life.stamp, fallback.life.stamp, "it is another by now");
        assert!(local.reap(&probe, &Life { stamp: 9, ..fallback.life }).is_some());
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
