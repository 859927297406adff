//! The state of one cache, and the moves that must be right in every race: look, begin a load,
//! settle it, void it. The order "raise the floor, block the remote tier, then void under the
//! shard lock" is what makes invalidation win. Knows no verbs of the caller; called by the rest.

use std::{
    hash::Hash,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use quick_cache::Equivalent;
use tokio::sync::Semaphore;

use crate::{
    CacheKey, Observer, Policy, Stats, Version,
    clock::{Clock, micros},
    flight::{Flight, Flights, Outcome, Seat, Waiter},
    floors::Floors,
    local::{Displaced, Life, Local, Lookup, Moment},
    remote::{backplane::Hearing, courier::Outbound, envelope::Codec},
    stats::{Counters, count},
};

/// Says how many bytes of heap a key and its value occupy.
pub(crate) type Weigher<K, V> = Box<dyn Fn(&K, &V) -> usize + Send + Sync>;

/// What a cache with a remote tier has besides.
pub(crate) struct RemoteSide<V> {
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) hearing: Hearing,
    pub(crate) codec: Codec<V>,
}

/// One cache.
pub(crate) struct Store<K, V> {
    pub(crate) name: Arc<str>,
    pub(crate) policy: Policy,
    pub(crate) clock: Clock,
    pub(crate) local: Local<K, V>,
    pub(crate) flights: Flights<K, V>,
    pub(crate) floors: Floors,
    pub(crate) loads: Semaphore,
    pub(crate) counters: Arc<Counters>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) weigher: Weigher<K, V>,
    pub(crate) remote: Option<RemoteSide<V>>,
    pub(crate) max_stale_us: u64,
}

/// What a reader that L1 could not answer has to do.
pub(crate) enum Boarding<K: Clone + Eq + Hash, V> {
    /// Nothing: somebody was quicker.
    Found(Lookup<V>),
    /// Wait.
    Joined(Waiter<V>),
    /// Run the load, and wait.
    Lead(Lead<K, V>, Waiter<V>),
    /// Give up: there are as many loads as there may be.
    Full,
}

impl<K: Clone + Eq + Hash, V: Clone> Store<K, V> {
    #[inline]
    pub(crate) fn moment(&self) -> Moment {
        let now_us = self.clock.now_us();
        let vouched_us = self.remote.as_ref().map_or(u64::MAX, |side| side.hearing.vouched_us());
        Moment { now_us, vouched_us, max_stale_us: self.max_stale_us }
    }

    /// What L1 knows of `key`, counted.
    #[inline]
    pub(crate) fn look<Q: Hash + Equivalent<K> + ?Sized>(&self, key: &Q) -> Lookup<V> {
        let found = self.local.get(key, self.moment());
        match found {
            Lookup::Hit(_) => self.counters.hits.count(),
            Lookup::Absent => count(&self.counters.absent_hits),
            Lookup::Miss => count(&self.counters.misses),
        }
        found
    }

    /// Takes `key` off L1 and forbids loads that have begun to store it, here or remotely.
    ///
    /// Where the remote tier has not been told yet, the caller has pushed the key to the outbox
    /// before, so that a load begun after this returns does not ask the remote tier.
    pub(crate) fn void(&self, key: &K, version: Version, now_us: u64) {
        let hash = self.flights.hash(key);
        self.floors.raise(hash, version, now_us);
        let mut displaced = Displaced::default();
        let mut shard = self.flights.lock(hash);
        shard.void(key);
        self.local.remove(key, &mut displaced);
        drop(shard);
    }

    /// As `void`, for every key. Loads are voided first: one begun before could otherwise store
    /// after L1 was emptied.
    pub(crate) fn void_all(&self, version: Version, now_us: u64) {
        self.floors.raise_all(version, now_us);
        self.flights.void_all();
        self.local.clear();
    }

    /// Puts a value that the caller knows, with its version, in the place of whatever was there,
    /// unless something newer is known of: then nothing is left in its place.
    pub(crate) fn put(&self, key: K, value: V, version: Version) {
        let now_us = self.clock.now_us();
        let hash = self.flights.hash(&key);
        let heap_bytes = self.heap_bytes(&key, &value);
        let life = self.life(Some(&value), now_us);
        let mut displaced = Displaced::default();
        let mut shard = self.flights.lock(hash);
        shard.void(&key);
        // Under the lock, so that of two callers the one with the newer version decides.
        let is_newest = version >= self.floors.floor(hash, now_us);
        self.floors.raise(hash, version, now_us);
        match life {
            Some(life) if is_newest => {
                self.local.install(key, Some((value, heap_bytes)), life, &mut displaced);
            }
            _ => self.local.remove(&key, &mut displaced),
        }
        drop(shard);
        if !is_newest {
            self.refuse_stale_set();
        }
    }

    /// The life of something found just now whose load began at `loaded_us`; none if it has no life.
    pub(crate) fn life(&self, value: Option<&V>, loaded_us: u64) -> Option<Life> {
        let lifetime = self.policy.local_lifetime(crate::policy::Found::of(value));
        let expires_us = self.clock.now_us().saturating_add(micros(lifetime));
        (!lifetime.is_zero()).then_some(Life { expires_us, loaded_us })
    }

    pub(crate) fn refuse_stale_set(&self) {
        count(&self.counters.refused_stale_sets);
        self.observer.stale_set_refused(&self.name);
    }

    fn heap_bytes(&self, key: &K, value: &V) -> u64 {
        (self.weigher)(key, value) as u64
    }

    fn silence(&self, hearing: &Hearing) -> Option<Duration> {
        let vouched_us = hearing.vouched_us();
        let silence_us = self.clock.now_us().saturating_sub(vouched_us);
        (vouched_us > 0).then_some(Duration::from_micros(silence_us))
    }

    pub(crate) fn stats(&self) -> Stats {
        let outbox = self.remote.as_ref().map(|side| &side.outbound.outbox);
        Stats {
            evictions: self.local.evictions(),
            entries: self.local.entries(),
            bytes: self.local.bytes(),
            pending_invalidations: outbox.map_or(0, |outbox| outbox.pending() as u64),
            backplane_silence: self.remote.as_ref().and_then(|side| self.silence(&side.hearing)),
            pending_overflows: outbox.map_or(0, |outbox| outbox.overflows() as u64),
            ..self.counters.snapshot()
        }
    }
}

impl<K: CacheKey, V: Clone> Store<K, V> {
    /// Joins the load of `key`, or becomes the one who loads.
    pub(crate) fn board(self: &Arc<Self>, key: K) -> Boarding<K, V> {
        let hash = self.flights.hash(&key);
        let mut shard = self.flights.lock(hash);
        // A load may have ended since L1 was asked; it stores and leaves the table under this lock.
        match self.local.peek(&key, self.moment()) {
            Lookup::Miss => {}
            found => return Boarding::Found(found),
        }
        if let Some(flight) = shard.find(&key) {
            return Boarding::Joined(flight.waiter());
        }
        let Some(seat) = self.flights.take_seat() else { return Boarding::Full };
        let flight = shard.begin(key.clone());
        drop(shard);
        let waiter = flight.waiter();
        let key_bytes = self.remote.as_ref().map_or_else(Bytes::new, |_| key.encode());
        let store = Arc::clone(self);
        Boarding::Lead(Lead { store, key, key_bytes, hash, flight, settled: false, _seat: seat }, waiter)
    }
}

/// The right to say how a load ended. Dropped without having said so, it says that the load was stopped.
pub(crate) struct Lead<K: Clone + Eq + Hash, V> {
    pub(crate) store: Arc<Store<K, V>>,
    pub(crate) key: K,
    /// Empty without a remote tier.
    pub(crate) key_bytes: Bytes,
    pub(crate) hash: u64,
    pub(crate) flight: Arc<Flight<V>>,
    settled: bool,
    _seat: Seat,
}

impl<K: Clone + Eq + Hash, V: Clone> Lead<K, V> {
    /// Stores what was loaded, if it has a life and nothing has overtaken it, and tells the waiters.
    pub(crate) fn settle(&mut self, outcome: Outcome<V>, life: Option<Life>) {
        let store = &self.store;
        // Foreign code (clone, weigher) runs before the lock is taken.
        let storable = match (&outcome, life) {
            (Outcome::Loaded(Some(value)), Some(life)) => {
                Some((Some((value.clone(), store.heap_bytes(&self.key, value))), life))
            }
            (Outcome::Loaded(None), Some(life)) => Some((None, life)),
            _ => None,
        };
        let key = self.key.clone();
        let mut displaced = Displaced::default();
        let mut shard = store.flights.lock(self.hash);
        let voided = self.flight.is_voided();
        match storable {
            Some((found, life)) if !voided => store.local.install(key, found, life, &mut displaced),
            _ => {}
        }
        shard.end(&self.key, &self.flight);
        drop(shard);
        if voided && matches!(outcome, Outcome::Loaded(_)) {
            store.refuse_stale_set();
        }
        self.settled = true;
        self.flight.land(outcome);
    }
}

impl<K: Clone + Eq + Hash, V> Drop for Lead<K, V> {
    fn drop(&mut self) {
        if !self.settled {
            self.store.flights.lock(self.hash).end(&self.key, &self.flight);
            self.flight.land(Outcome::Stopped);
        }
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
