//! Single flight: for one key at most one load that may be stored runs; others wait for it.
//! The lock of a key's shard is the one place where "may this still be stored" is decided: L1 is
//! written, and loads are voided, only under it. It is never held across an await.
//! Called by `store`, `load` and `invalidate`.

use std::{
    any::Any,
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use ahash::RandomState;
use tokio::sync::watch;

/// How a load ended, as its waiters learn it.
pub(crate) enum Outcome<V> {
    Loaded(Option<V>),
    /// The loader's error; each waiter knows the type it expects.
    Failed(Arc<dyn Any + Send + Sync>),
    TimedOut,
    Panicked,
    /// The task was dropped before it came to an end.
    Stopped,
}

impl<V: Clone> Clone for Outcome<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Loaded(value) => Self::Loaded(value.clone()),
            Self::Failed(error) => Self::Failed(Arc::clone(error)),
            Self::TimedOut => Self::TimedOut,
            Self::Panicked => Self::Panicked,
            Self::Stopped => Self::Stopped,
        }
    }
}

/// One load on its way.
pub(crate) struct Flight<V> {
    outcome: watch::Sender<Option<Outcome<V>>>,
    /// Written only under the lock of the key's shard.
    voided: AtomicBool,
}

/// The end of a flight, awaited.
pub(crate) struct Waiter<V>(watch::Receiver<Option<Outcome<V>>>);

impl<V: Clone> Waiter<V> {
    /// Dropping this future leaves the load running for the others.
    pub(crate) async fn outcome(mut self) -> Outcome<V> {
        match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Outcome::Stopped),
            Err(_closed) => Outcome::Stopped,
        }
    }
}

impl<V> Flight<V> {
    fn new() -> Self {
        Self { outcome: watch::Sender::new(None), voided: AtomicBool::new(false) }
    }

    pub(crate) fn waiter(&self) -> Waiter<V> {
        Waiter(self.outcome.subscribe())
    }

    pub(crate) fn land(&self, outcome: Outcome<V>) {
        self.outcome.send_replace(Some(outcome));
    }

    /// True once an invalidation has overtaken this load. Certain only under the shard lock.
    pub(crate) fn is_voided(&self) -> bool {
        self.voided.load(Ordering::Relaxed)
    }
}

/// A place among the loads that may be in flight; given back when it is dropped.
pub(crate) struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The flights of one shard. At most one per key.
pub(crate) struct Shard<K, V> {
    flights: HashMap<K, Arc<Flight<V>>, RandomState>,
}

impl<K: Eq + Hash, V> Shard<K, V> {
    pub(crate) fn find(&self, key: &K) -> Option<&Arc<Flight<V>>> {
        self.flights.get(key)
    }

    pub(crate) fn begin(&mut self, key: K) -> Arc<Flight<V>> {
        let flight = Arc::new(Flight::new());
        self.flights.insert(key, Arc::clone(&flight));
        flight
    }

    /// Takes `flight` off the table, unless a later one has its place.
    pub(crate) fn end(&mut self, key: &K, flight: &Arc<Flight<V>>) {
        if self.flights.get(key).is_some_and(|present| Arc::ptr_eq(present, flight)) {
            self.flights.remove(key);
        }
    }

    /// Forbids the load of `key` to store anything, and lets the next reader begin a new one.
    pub(crate) fn void(&mut self, key: &K) {
        if let Some(flight) = self.flights.remove(key) {
            flight.voided.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn void_all(&mut self) {
        for (_, flight) in self.flights.drain() {
            flight.voided.store(true, Ordering::Relaxed);
        }
    }
}

/// Shards of the table: 64 keep loads of different keys from waiting for one another.
const SHARD_BITS: u32 = 6;

/// All flights of one cache.
pub(crate) struct Flights<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    hasher: RandomState,
    in_flight: Arc<AtomicUsize>,
    in_flight_max: usize,
}

impl<K: Eq + Hash, V> Flights<K, V> {
    pub(crate) fn new(in_flight_max: usize) -> Self {
        let hasher = RandomState::new();
        let shard = || Mutex::new(Shard { flights: HashMap::with_hasher(hasher.clone()) });
        Self {
            shards: (0..1_usize << SHARD_BITS).map(|_| shard()).collect(),
            hasher,
            in_flight: Arc::default(),
            in_flight_max,
        }
    }

    pub(crate) fn hash(&self, key: &K) -> u64 {
        self.hasher.hash_one(key)
    }

    pub(crate) fn lock(&self, hash: u64) -> MutexGuard<'_, Shard<K, V>> {
        let index = usize::try_from(hash >> (u64::BITS - SHARD_BITS)).unwrap_or(0);
        lock(&self.shards[index])
    }

    /// Voids every load of the cache, shard by shard.
    pub(crate) fn void_all(&self) {
        for shard in &self.shards {
            lock(shard).void_all();
        }
    }

    /// A seat for one more load, if there is one.
    pub(crate) fn take_seat(&self) -> Option<Seat> {
        // Raised first and given back by the drop, so that two callers cannot take the last one.
        let seat = Seat(Arc::clone(&self.in_flight));
        let taken = self.in_flight.fetch_add(1, Ordering::Relaxed);
        (taken < self.in_flight_max).then_some(seat)
    }
}

/// Locks, also after a panic under the lock: the table is consistent between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voided_flight_makes_room_for_a_new_one_and_cannot_end_it() {
        let flights = Flights::<u64, u64>::new(1);
        let mut shard = flights.lock(0);
        let old = shard.begin(1);
        shard.void(&1);
        let new = shard.begin(1);
        shard.end(&1, &old);
        assert!(old.is_voided() && !new.is_voided());
        assert!(shard.find(&1).is_some_and(|found| Arc::ptr_eq(found, &new)));
    }

    #[test]
    fn seats_are_bounded_and_given_back() {
        let flights = Flights::<u64, u64>::new(2);
        let first = flights.take_seat();
        let second = flights.take_seat();
        assert!(first.is_some() && second.is_some() && flights.take_seat().is_none());
        drop(first);
        assert!(flights.take_seat().is_some());
    }
}
