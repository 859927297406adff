//! The state of one cache, and the moves that must be right in every race: look, begin a load, settle it, void it.
//! The order "raise the floor, block the shared tiers, then void under the shard lock" is what makes invalidation
//! win. Knows no verbs of the caller; called by the rest.

use std::{
    hash::Hash,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use quick_cache::Equivalent;
use tokio::sync::Semaphore;

use crate::{
    CacheKey, Observer, Policy, SetRefused, Silence, Version,
    answer::{Answer, Origin},
    backplane::Swath,
    clock::Clock,
    codec::{Codec, CodecError, SealedFields, TAGS_MAX},
    epoch::Left,
    explain::{Chronicle, SweepLog},
    fleet::Fleet,
    flight::Flights,
    floors::Floors,
    hash::Probe,
    keeper::Keeper,
    lead::Purpose,
    life::{Life, State},
    local::{Displaced, Entry, Local, Traits, slot_bytes},
    packed::Bounds,
    patterns,
    read::answer_of_absence,
    recent::Bar,
    stats::{Counters, count},
    tags::Tag,
    tier::Void,
    warm::Heat,
    write_behind::{Room, Waiting, WriteQueue},
};

/// Says how many bytes of heap a key and its value occupy.
pub(crate) type Weigher<K, V> = Box<dyn Fn(&K, &V) -> usize + Send + Sync>;

/// What one entry may be said to weigh: a thousand of these still add up.
const WEIGHT_MAX: usize = usize::MAX >> 16;

/// A value and the bytes of heap behind it, or that there is none, as L1 takes it.
type Storable<V> = (Option<(V, u64)>, Life, Option<Arc<Traits>>);

/// One cache.
pub(crate) struct Store<K, V> {
    pub(crate) name: Arc<str>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) clock: Clock,
    pub(crate) local: Local<K, V>,
    pub(crate) flights: Flights<K, V>,
    pub(crate) floors: Floors,
    pub(crate) loads: Arc<Semaphore>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) weigher: Weigher<K, V>,
    pub(crate) codec: Option<Codec<V>>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) writes: Option<Arc<WriteQueue<K, V>>>,
    pub(crate) chronicle: Chronicle,
    pub(crate) sweep_log: SweepLog,
    pub(crate) heat: Heat,
    pub(crate) keeper: Option<Keeper<K, V>>,
}

/// What an entry is good for at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// To be served.
    Fresh,
    /// To be served, and to be loaded anew.
    Due,
    /// To be served with a flag: the line is silent, and the policy says to go on.
    Unvouched,
    /// A fallback whose load has just failed: to be served without asking again, with a flag.
    Resting,
    /// A fallback.
    Fallback,
    /// Not to be served, but it may be again when the line is heard.
    Silent,
    /// For nothing.
    Over,
}

/// A key, or what it is borrowed as.
pub trait KeyForm<K>: Hash + Equivalent<K> + ToOwned<Owned = K> {}

impl<K, Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized> KeyForm<K> for Q {}

/// When, and after which sweeps, entries are read. Made once for a read: three loads and the clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    now_us: u64,
    /// An entry with this stamp or a higher one has not been swept. Nothing has, while the line is silent.
    stamp: u64,
    /// As `stamp`, for entries without tags.
    stamp_untagged: u64,
}

impl Moment {
    /// True if there is no need to look closer.
    #[inline]
    pub(crate) fn finds_fresh(&self, bounds: &Bounds) -> bool {
        self.now_us < bounds.check_us
            && (bounds.stamp >= self.stamp || (!bounds.is_tagged && bounds.stamp >= self.stamp_untagged))
    }
}

/// Whether an entry that is good for nothing is taken off when it is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reap {
    Yes,
    No,
}

/// A value that the caller sets.
pub(crate) struct Setting<V> {
    pub(crate) value: V,
    pub(crate) traits: Traits,
    pub(crate) life: Life,
    pub(crate) bar: Bar,
    /// What had been voided near the key before the change was ordered.
    pub(crate) voids: u64,
    /// It is one for the schedule.
    pub(crate) is_kept: bool,
}

/// What L1 says of a key.
pub(crate) enum Look<V> {
    Hit(Entry<V>),
    Absent(Entry<()>),
    /// Not to be served as it is; how it stands is told.
    Doubt(Answer<V>, Standing),
    Miss,
}

impl<K: CacheKey, V: Clone> Store<K, V> {
    /// The value of a key that needs no second look: what most reads come to.
    #[inline]
    pub(crate) fn hit<Q: KeyForm<K> + ?Sized>(&self, probe: &Probe<'_, Q>, moment: &Moment) -> Option<V> {
        self.local
            .read(probe, |kept| moment.finds_fresh(&kept.bounds()).then(|| kept.value().clone()))
            .flatten()
    }

    /// What L1 knows of `key`.
    #[cold]
    pub(crate) fn look<Q: KeyForm<K> + ?Sized>(&self, probe: &Probe<'_, Q>) -> Look<V> {
        match self.local.value(probe) {
            Some(entry) => self.look_closer(probe, entry, Reap::Yes),
            None => self.look_for_absence(probe, Reap::Yes),
        }
    }

    /// As `look`, but leaves everything in place, so that nothing foreign is dropped under a lock.
    pub(crate) fn peek(&self, probe: &Probe<'_, K>) -> Look<V> {
        match self.local.value(probe) {
            Some(entry) => self.look_closer(probe, entry, Reap::No),
            None => self.look_for_absence(probe, Reap::No),
        }
    }

    /// What entries are held against that are read now. Made before the look-up, so that nothing under its lock waits for
    /// it: whatever is swept before the read begins is seen.
    #[inline]
    pub(crate) fn moment(&self) -> Moment {
        let (now_us, sweeps) = (self.clock.now_us(), &self.fleet.sweeps);
        if now_us < self.fleet.horizon.trusted_until_us() {
            Moment { now_us, stamp: sweeps.newest(), stamp_untagged: sweeps.newest_wide() }
        } else {
            Moment { now_us, stamp: u64::MAX, stamp_untagged: u64::MAX }
        }
    }

    fn look_closer<Q: KeyForm<K> + ?Sized>(
        &self,
        probe: &Probe<'_, Q>,
        entry: Entry<V>,
        reap: Reap,
    ) -> Look<V> {
        let key = || probe.key.to_owned().encode();
        // Before it is judged: whatever is up to it is judged then.
        let newest = self.fleet.sweeps.newest();
        let standing = self.standing(key, &entry.life, entry.traits.as_deref());
        if reap == Reap::Yes && standing != Standing::Over {
            entry.touch(self.clock.now_us());
        }
        match standing {
            Standing::Fresh => {
                if entry.life.stamp < newest {
                    self.local.restamp(probe, &entry, newest);
                }
                Look::Hit(entry)
            }
            Standing::Over => {
                // Judged again under the lock: a fresh value may have come in between.
                let life = entry.life;
                if reap == Reap::Yes {
                    drop(self.local.reap(probe, &life));
                }
                Look::Miss
            }
            Standing::Due
            | Standing::Unvouched
            | Standing::Resting
            | Standing::Fallback
            | Standing::Silent => Look::Doubt(answer_of(entry, standing), standing),
        }
    }

    fn look_for_absence<Q: KeyForm<K> + ?Sized>(&self, probe: &Probe<'_, Q>, reap: Reap) -> Look<V> {
        let Some(entry) = self.local.absence(probe) else { return Look::Miss };
        match self.standing(|| probe.key.to_owned().encode(), &entry.life, entry.traits.as_deref()) {
            standing @ (Standing::Fresh | Standing::Due | Standing::Unvouched) => {
                if reap == Reap::Yes {
                    entry.touch(self.clock.now_us());
                }
                match standing {
                    Standing::Unvouched => Look::Doubt(answer_of_absence(entry), standing),
                    _ => Look::Absent(entry),
                }
            }
            Standing::Silent => Look::Miss,
            Standing::Resting | Standing::Fallback | Standing::Over => {
                let life = entry.life;
                if reap == Reap::Yes {
                    drop(self.local.absences.remove_if(probe, |entry| entry.life == life));
                }
                Look::Miss
            }
        }
    }

    pub(crate) fn standing(
        &self,
        key: impl FnOnce() -> Bytes,
        life: &Life,
        traits: Option<&Traits>,
    ) -> Standing {
        let now_us = self.clock.now_us();
        let tags = traits.map_or(&[][..], |traits| &traits.tags);
        let left = self.fleet.sweeps.left_here(key, tags, life.stamp);
        let idle = traits.and_then(|traits| traits.idle.as_ref());
        let is_idle = idle.is_some_and(|idle| idle.is_over_at(now_us));
        if left == Left::Nothing || is_idle || life.is_over_at(now_us) {
            return Standing::Over;
        }
        let horizon = &self.fleet.horizon;
        let vouched_until_us = life.loaded_us.saturating_add(horizon.max_stale_us());
        let is_vouched = now_us < horizon.trusted_until_us() || now_us < vouched_until_us;
        if !is_vouched && self.policy.on_silence == Silence::Refuse {
            return Standing::Silent;
        }
        let is_fallback =
            left == Left::Fallback || life.state == State::Fallback || now_us >= life.expires_us;
        if is_fallback {
            let has_grace = life.state == State::Fallback || life.grace_ends_us > life.expires_us;
            let is_resting = life.state == State::Fallback && left == Left::Whole && now_us < life.expires_us;
            return match () {
                () if !has_grace => Standing::Over,
                () if is_resting => Standing::Resting,
                () => Standing::Fallback,
            };
        }
        match () {
            () if !is_vouched => Standing::Unvouched,
            () if life.is_due_at(now_us) => Standing::Due,
            () => Standing::Fresh,
        }
    }

    /// True if `answer` may still be given to somebody who asks now, with a flag.
    pub(crate) fn is_usable(&self, key: &K, answer: &Answer<V>) -> bool {
        let standing = self.standing(|| key.encode(), &answer.life, answer.traits.as_deref());
        !matches!(standing, Standing::Over | Standing::Silent)
    }

    /// True if `answer` is within its lifetime, and nothing has made it less than it was.
    pub(crate) fn is_good_still(&self, key: &K, answer: &Answer<V>) -> bool {
        let standing = self.standing(|| key.encode(), &answer.life, answer.traits.as_deref());
        !answer.is_stale && matches!(standing, Standing::Fresh | Standing::Due | Standing::Unvouched)
    }

    /// Takes `key` off L1 and forbids loads that have begun to store it, here or remotely.
    ///
    /// Where the shared tiers have not been told yet, the caller has ordered it before, so that a load begun after
    /// this returns does not trust them.
    pub(crate) fn void(&self, key: &K, how: Void, version: Version, origin: u64) {
        let probe = Probe::of(key);
        let now_us = self.clock.now_us();
        self.floors.raise(probe.hash, version, now_us);
        self.chronicle.note(probe.hash, how, version, origin, now_us);
        let mut displaced = Displaced::default();
        let mut shard = self.flights.lock(probe.hash);
        shard.void(key);
        match how {
            Void::Remove => self.local.remove(&probe, &mut displaced),
            Void::Expire => self.local.outdate(&probe, &mut displaced),
        }
        drop(shard);
    }

    /// What loads must reflect, and what is set must not be older than, because of a sweep.
    pub(crate) fn raise_for_sweep(&self, swath: &Swath, version: Version) {
        if version != Version::NONE {
            let now_us = self.clock.now_us();
            self.floors.raise_all(version, now_us);
            self.fleet.sweeps.note_write(swath, version, now_us);
        }
    }

    /// Voids what this node holds of the swath, because of what `origin` has announced; zero is this node. As with `void`, the caller
    /// has ordered it before.
    pub(crate) fn sweep(&self, swath: &Swath, how: Void, version: Version, origin: u64) {
        count(&self.counters.sweeps);
        self.sweep_log.note(swath, how, version, origin, self.clock.now_us());
        self.raise_for_sweep(swath, version);
        self.fleet.sweeps.sweep_here(swath, how);
        match swath {
            // Whatever tags a load will come back with, `settle` and `landed` judge them.
            Swath::Tag(_) => {
                if let Some(glob) = patterns::glob_of(swath) {
                    self.flights.void_where(|key| glob.covers(&key.encode()));
                }
            }
            Swath::All => {
                self.flights.void_where(|_| true);
                if how == Void::Remove {
                    self.local.clear();
                }
            }
            Swath::Prefix(prefix) => self.flights.void_where(|key| key.encode().starts_with(prefix)),
        }
    }

    /// Forgets what is held and loading. Loads are voided first: one begun before could otherwise store after L1
    /// was emptied.
    pub(crate) fn start_afresh(&self) {
        let now_us = self.clock.now_us();
        self.fleet.horizon.excuse_silence(now_us);
        self.floors.go_blind(now_us);
        self.fleet.sweeps.sweep_here(&Swath::All, Void::Remove);
        self.flights.void_where(|_| true);
        self.local.clear();
    }

    /// The bytes for the shared tiers, if there are any and the codec can take the value.
    pub(crate) fn seal(&self, fields: &SealedFields<'_>, value: Option<&V>) -> Option<Bytes> {
        let sealed = self.codec.as_ref()?.seal(fields, value);
        sealed.inspect_err(|error| self.unstorable(error)).ok()
    }

    /// Takes note of a value that is not stored everywhere as it should be.
    pub(crate) fn unstorable(&self, error: &CodecError) {
        count(&self.counters.unstorable);
        tracing::debug!(cache = %self.name, %error, "a value is not stored, or in process only");
        self.observer.unstorable(&self.name, error);
    }

    /// True if nothing is known of the key that is newer than this version, or that may be.
    pub(crate) fn is_newest(
        &self,
        probe: &Probe<'_, K>,
        version: Version,
        tags: &[Arc<Tag>],
        bar: Bar,
        now_us: u64,
    ) -> bool {
        let swept = self.fleet.sweeps.newest_write(
            || probe.key.encode(),
            tags,
            |floor| match bar {
                Bar::Any => floor.read(now_us),
                Bar::Numbered => floor.numbered(),
            },
        );
        version >= swept && self.floors.recent.admits(probe.hash, version, bar, now_us)
    }

    /// Puts a value that the caller knows, with its version, in the place of whatever was there, and in its place among
    /// those that are to be written; unless something newer is known of: then nothing is left in its place.
    pub(crate) fn put(
        &self,
        key: &K,
        setting: Setting<V>,
        writing: Option<(Room<K, V>, Waiting<V>)>,
    ) -> Result<(), SetRefused> {
        let Setting { value, traits, life, bar, voids, is_kept } = setting;
        let version = traits.version;
        let probe = Probe::of(key);
        let now_us = self.clock.now_us();
        let heap_bytes = self.heap_bytes(key, &value);
        let is_small = heap_bytes <= self.local.value_bytes_max();
        if !is_small {
            count(&self.counters.oversize);
        }
        let has_few_tags = traits.tags.len() <= TAGS_MAX;
        let (room, waiting) = writing.unzip();
        let mut displaced = Displaced::default();
        let mut shard = self.flights.lock(probe.hash);
        // The newest when it was ordered. What was voided since is not told apart from it by its number; a value that waits
        // to be written is read from there.
        let is_first = version != Version::LATEST || waiting.is_some() || shard.is_untouched_since(voids);
        shard.void(key);
        // Under the lock, so that of two callers the one with the newer version decides, here and in the queue.
        let is_newest = has_few_tags && self.is_newest(&probe, version, &traits.tags, bar, now_us);
        self.floors.raise(probe.hash, version, now_us);
        let filled = match (&room, waiting) {
            (Some(room), Some(waiting)) if is_newest => Some(room.fill(key, waiting)),
            (_, waiting) => waiting.map(Err),
        };
        let is_taken = is_newest && !matches!(filled, Some(Err(_)));
        let is_installed = is_taken && is_first && is_small && life.expires_us > now_us;
        let is_kept = is_installed && is_kept;
        if is_installed {
            self.local.install(&probe, Some((value, heap_bytes)), life, traits.shared(), &mut displaced);
        } else {
            self.local.remove(&probe, &mut displaced);
        }
        drop(shard);
        if let (true, Some(keeper)) = (is_kept, &self.keeper) {
            keeper.note(key, Purpose::Renew, now_us);
        }
        match () {
            () if !has_few_tags => Err(SetRefused::TooManyTags),
            () if !is_taken => {
                self.refuse_stale_set();
                Err(SetRefused::Overtaken)
            }
            () => Ok(()),
        }
    }

    /// What L1 is to hold of an answer, if anything. Runs foreign code: call it without a lock.
    pub(crate) fn storable(&self, key: &K, answer: &Answer<V>) -> Option<Storable<V>> {
        if answer.life.is_over_at(self.clock.now_us()) {
            return None;
        }
        let heap_bytes = answer.value.as_ref().map(|value| self.heap_bytes(key, value));
        if heap_bytes.is_some_and(|bytes| bytes > self.local.value_bytes_max()) {
            count(&self.counters.oversize);
            return None;
        }
        Some((answer.value.clone().zip(heap_bytes), answer.life, answer.traits.clone()))
    }

    pub(crate) fn refuse_stale_set(&self) {
        count(&self.counters.refused_stale_sets);
        self.observer.stale_set_refused(&self.name);
    }

    /// More than L1 has room for, of what cannot be weighed.
    pub(crate) fn heap_bytes(&self, key: &K, value: &V) -> u64 {
        self.weighed(key, value).map_or(u64::MAX, |bytes| bytes as u64)
    }

    /// None if the weigher panics, or says what no memory has.
    fn weighed(&self, key: &K, value: &V) -> Option<usize> {
        let weighed = catch_unwind(AssertUnwindSafe(|| (self.weigher)(key, value))).ok();
        weighed.filter(|bytes| *bytes <= WEIGHT_MAX)
    }

    /// What L1 counts for them, if they can be weighed.
    pub(crate) fn weight(&self, key: &K, value: &V) -> Option<usize> {
        Some(self.weighed(key, value)? + slot_bytes::<K, V>())
    }
}

fn answer_of<V>(entry: Entry<V>, standing: Standing) -> Answer<V> {
    let is_stale = !matches!(standing, Standing::Fresh | Standing::Due);
    Answer {
        value: Some(entry.value),
        life: entry.life,
        traits: entry.traits,
        origin: Origin::Local,
        is_stale,
    }
}

impl<K, V> std::fmt::Debug for Store<K, V> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Cache")
            .field("name", &self.name)
            .field("policy", &self.policy)
            .field("misses", &self.counters.misses.load(Relaxed))
            .finish_non_exhaustive()
    }
}
