//! Single flight: for one key at most one load that may be stored runs; others wait for it.
//! The lock of a key's shard is the one place where "may this still be stored" is decided: L1 is
//! written, and loads are voided, only under it. It is never held across an await.
//! Called by `store`, `read`, `load` and `invalidate`.

use std::{
    any::Any,
    collections::{HashMap, VecDeque},
    convert::Infallible,
    hash::Hash,
    ops::{Deref, DerefMut},
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::Notify;

use crate::{
    answer::Answer,
    hash::{BuildAsGiven, Stored},
    sync::{
        self, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

pub(crate) use crate::sync::plain::lock;

/// How a load ended, as its waiters learn it.
pub(crate) enum Outcome<V> {
    Loaded(Answer<V>),
    /// The loader's error; each waiter knows the type it expects.
    Failed(Arc<dyn Any + Send + Sync>),
    TimedOut,
    Panicked,
    /// The loader gave no answer to what it was asked.
    Unanswered,
    /// The tiers have nothing, and the one who asked them has no loader.
    NotLoaded,
    /// The tiers have nothing, and there are as many loads as there may be.
    Overloaded,
    /// Whoever had the lead went away before a loader ran: somebody else takes it.
    Vacant,
    /// The task was dropped before it came to an end.
    Stopped,
}

impl<V> Outcome<V> {
    /// True if a loader was called, or was to be called, and gave nothing.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(
            self,
            Self::Failed(_) | Self::TimedOut | Self::Panicked | Self::Unanswered | Self::Overloaded
        )
    }
}

impl<V: Clone> Clone for Outcome<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Loaded(answer) => Self::Loaded(answer.clone()),
            Self::Failed(error) => Self::Failed(Arc::clone(error)),
            Self::TimedOut => Self::TimedOut,
            Self::Panicked => Self::Panicked,
            Self::Unanswered => Self::Unanswered,
            Self::NotLoaded => Self::NotLoaded,
            Self::Overloaded => Self::Overloaded,
            Self::Vacant => Self::Vacant,
            Self::Stopped => Self::Stopped,
        }
    }
}

/// One load on its way.
pub(crate) struct Flight<V> {
    outcome: OnceLock<Outcome<V>>,
    /// Wakes the waiters: it has landed, or there is something to fall back on.
    told: Notify,
    /// Written only under the lock of the key's shard.
    voided: AtomicBool,
    /// As `voided`, because nobody waits for it any longer: somebody else loads what it was to load.
    left: AtomicBool,
    /// Whoever has the lead asks the tiers in a future of its caller's, which may not be polled for as long as that one likes.
    is_in_hand: AtomicBool,
    /// A loader that has a place waits for it.
    rushed: AtomicBool,
    /// The last sweep that this load is sure to reflect.
    pub(crate) stamp: u64,
    pub(crate) begun_us: u64,
    /// What its waiters may take instead of waiting longer.
    fallback: OnceLock<Answer<V>>,
    /// Until when a failure is remembered.
    remembered_until_us: OnceLock<u64>,
}

/// The end of a flight, awaited.
pub(crate) struct Waiter<V> {
    pub(crate) flight: Arc<Flight<V>>,
    /// The last sweep when this waiter came.
    pub(crate) joined: u64,
}

impl<V: Clone> Waiter<V> {
    /// Dropping this future leaves the load running for the others.
    pub(crate) async fn outcome(&self) -> Outcome<V> {
        match self.outcome_or(|_| None::<Infallible>).await {
            Ok(outcome) => outcome,
            Err(never) => match never {},
        }
    }

    /// The end of the flight, or what `taken` makes of the fallback that is there by then.
    pub(crate) async fn outcome_or<T>(
        &self,
        taken: impl Fn(&Answer<V>) -> Option<T>,
    ) -> Result<Outcome<V>, T> {
        loop {
            // Made before the look: it is woken by whatever lands, or is offered, from here on.
            let told = self.flight.told.notified();
            if let Some(outcome) = self.flight.outcome.get() {
                return Ok(outcome.clone());
            }
            if let Some(taken) = self.flight.fallback().and_then(&taken) {
                return Err(taken);
            }
            told.await;
        }
    }
}

impl<V> Flight<V> {
    fn new(stamp: u64, begun_us: u64) -> Self {
        Self {
            outcome: OnceLock::new(),
            told: Notify::new(),
            voided: AtomicBool::new(false),
            left: AtomicBool::new(false),
            is_in_hand: AtomicBool::new(false),
            rushed: AtomicBool::new(false),
            stamp,
            begun_us,
            fallback: OnceLock::new(),
            remembered_until_us: OnceLock::new(),
        }
    }

    pub(crate) fn waiter(self: &Arc<Self>, joined: u64) -> Waiter<V> {
        Waiter { flight: Arc::clone(self), joined }
    }

    /// Once, by whoever has the lead.
    pub(crate) fn land(&self, outcome: Outcome<V>) {
        let _first = self.outcome.set(outcome);
        self.told.notify_waiters();
    }

    /// What its waiters may have once they have waited long enough: the first that is offered.
    pub(crate) fn offer(&self, fallback: Answer<V>) {
        if self.fallback.set(fallback).is_ok() {
            self.told.notify_waiters();
        }
    }

    pub(crate) fn fallback(&self) -> Option<&Answer<V>> {
        self.fallback.get()
    }

    pub(crate) fn take_in_hand(&self, is_in_hand: bool) {
        self.is_in_hand.store(is_in_hand, Ordering::Relaxed);
    }

    /// A loader that has a place waits for it: it is not to wait for one in turn.
    pub(crate) fn rush(&self) {
        self.rushed.store(true, Ordering::Relaxed);
        self.told.notify_waiters();
    }

    /// Ends once such a loader waits for it.
    pub(crate) async fn rushed(&self) {
        loop {
            // Made before the look, as in `outcome_or`.
            let told = self.told.notified();
            if self.rushed.load(Ordering::Relaxed) {
                return;
            }
            told.await;
        }
    }

    /// How long it has been under way.
    pub(crate) fn age(&self, now_us: u64) -> Duration {
        Duration::from_micros(now_us.saturating_sub(self.begun_us))
    }

    /// True if its end waits for a caller to be polled.
    pub(crate) fn is_in_hand(&self) -> bool {
        self.is_in_hand.load(Ordering::Relaxed) && self.outcome.get().is_none()
    }

    /// True once an invalidation has overtaken this load. Certain only under the shard lock.
    pub(crate) fn is_voided(&self) -> bool {
        self.voided.load(Ordering::Relaxed)
    }

    /// True once it may not store anything. Certain only under the shard lock.
    pub(crate) fn is_overtaken(&self) -> bool {
        self.is_voided() || self.left.load(Ordering::Relaxed)
    }
}

/// A place among the loads that may be in flight; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Failures remembered per shard: what a flood of failing keys may hold for the short time that they are.
const REMEMBERED_MAX: usize = 256;

/// The flights of one shard. At most one per key.
pub(crate) struct Shard<K, V> {
    flights: HashMap<Stored<K>, Arc<Flight<V>>, BuildAsGiven>,
    /// Flights that have failed and stay for a while, so that whoever asks gets their error. Oldest first.
    remembered: VecDeque<(Stored<K>, Arc<Flight<V>>)>,
    /// Flights that have left the table, with errors and values of others: dropped by [`Locked`].
    gone: Vec<Arc<Flight<V>>>,
    /// How often keys of this shard were voided. Written only under its lock.
    voids: Arc<AtomicU64>,
}

impl<K: Clone + Eq + Hash, V> Shard<K, V> {
    /// The load of `key` on its way, or its failure if it is still remembered.
    pub(crate) fn find(&mut self, key: &K, now_us: u64) -> Option<Arc<Flight<V>>> {
        let key = Stored(key.clone());
        let flight = self.flights.get(&key)?;
        let is_over = flight.remembered_until_us.get().is_some_and(|until_us| now_us >= *until_us);
        if is_over {
            self.gone.extend(self.flights.remove(&key));
            return None;
        }
        self.flights.get(&key).map(Arc::clone)
    }

    pub(crate) fn begin(&mut self, key: K, stamp: u64, now_us: u64) -> Arc<Flight<V>> {
        let flight = Arc::new(Flight::new(stamp, now_us));
        self.flights.insert(Stored(key), Arc::clone(&flight));
        flight
    }

    /// Takes `flight` off the table, unless a later one has its place.
    pub(crate) fn end(&mut self, key: &K, flight: &Arc<Flight<V>>) {
        let key = Stored(key.clone());
        if self.flights.get(&key).is_some_and(|present| Arc::ptr_eq(present, flight)) {
            self.flights.remove(&key);
        }
    }

    /// As `end`, but its failure stays until then. Within a bound: over it the oldest failure is forgotten.
    pub(crate) fn end_remembered(&mut self, key: &K, flight: &Arc<Flight<V>>, now_us: u64, until_us: u64) {
        let key = Stored(key.clone());
        if !self.flights.get(&key).is_some_and(|present| Arc::ptr_eq(present, flight)) {
            return;
        }
        let _set_once = flight.remembered_until_us.set(until_us);
        self.remembered.push_back((key, Arc::clone(flight)));
        while self.remembered.front().is_some_and(|(_, oldest)| {
            let until_us = oldest.remembered_until_us.get().copied().unwrap_or(0);
            self.remembered.len() > REMEMBERED_MAX || until_us <= now_us
        }) {
            let Some((key, oldest)) = self.remembered.pop_front() else { break };
            self.end(&key.0, &oldest);
            self.gone.push(oldest);
        }
    }

    /// Leaves `flight` to those who have joined it, and lets the next reader begin a new one: what it finds is not stored.
    pub(crate) fn leave(&mut self, key: &K, flight: &Arc<Flight<V>>) {
        flight.left.store(true, Ordering::Relaxed);
        self.end(key, flight);
    }

    /// True if no key of this shard was voided since that many had been.
    pub(crate) fn is_untouched_since(&self, voids: u64) -> bool {
        self.voids.load(Ordering::Relaxed) == voids
    }

    /// Forbids the load of `key` to store anything, and lets the next reader begin a new one.
    pub(crate) fn void(&mut self, key: &K) {
        self.voids.fetch_add(1, Ordering::SeqCst);
        if let Some(flight) = self.flights.remove(&Stored(key.clone())) {
            flight.voided.store(true, Ordering::Relaxed);
            self.gone.push(flight);
        }
    }

    pub(crate) fn void_where(&mut self, is_meant: impl Fn(&K) -> bool) {
        self.voids.fetch_add(1, Ordering::SeqCst);
        let Self { flights, gone, .. } = self;
        flights.retain(|key, flight| {
            let is_voided = is_meant(&key.0);
            if is_voided {
                flight.voided.store(true, Ordering::Relaxed);
                gone.push(Arc::clone(flight));
            }
            !is_voided
        });
    }
}

/// A shard under its lock. What is gone from it is dropped once the lock is given back: fields are dropped in their order.
pub(crate) struct Locked<'shard, K, V> {
    shard: MutexGuard<'shard, Shard<K, V>>,
    gone: Vec<Arc<Flight<V>>>,
}

impl<'shard, K, V> Locked<'shard, K, V> {
    fn of(shard: &'shard Mutex<Shard<K, V>>) -> Self {
        Self { shard: sync::lock(shard), gone: Vec::new() }
    }
}

impl<K, V> Deref for Locked<'_, K, V> {
    type Target = Shard<K, V>;

    fn deref(&self) -> &Shard<K, V> {
        &self.shard
    }
}

impl<K, V> DerefMut for Locked<'_, K, V> {
    fn deref_mut(&mut self) -> &mut Shard<K, V> {
        &mut self.shard
    }
}

impl<K, V> Drop for Locked<'_, K, V> {
    fn drop(&mut self) {
        self.gone = std::mem::take(&mut self.shard.gone);
    }
}

/// Shards of the table: 64 keep loads of different keys from waiting for one another.
const SHARD_BITS: u32 = 6;

/// Keys of one shard are voided under one lock, and counted together.
pub(crate) fn shard_of(hash: u64) -> usize {
    usize::try_from(hash >> (u64::BITS - SHARD_BITS)).unwrap_or(0)
}

/// All flights of one cache.
pub(crate) struct Flights<K, V> {
    shards: Box<[Mutex<Shard<K, V>>]>,
    /// Those of the shards, for who begins something without a flight.
    voids: Box<[Arc<AtomicU64>]>,
    in_flight: Arc<AtomicUsize>,
    in_flight_max: usize,
}

impl<K: Clone + Eq + Hash, V> Flights<K, V> {
    pub(crate) fn new(in_flight_max: usize) -> Self {
        let voids: Box<[Arc<AtomicU64>]> = (0..1_usize << SHARD_BITS).map(|_| Arc::default()).collect();
        let shard = |voids: &Arc<AtomicU64>| {
            let voids = Arc::clone(voids);
            let (flights, remembered, gone) = (HashMap::default(), VecDeque::new(), Vec::new());
            Mutex::new(Shard { flights, remembered, gone, voids })
        };
        Self { shards: voids.iter().map(shard).collect(), voids, in_flight: Arc::default(), in_flight_max }
    }

    pub(crate) fn lock(&self, hash: u64) -> Locked<'_, K, V> {
        Locked::of(&self.shards[shard_of(hash)])
    }

    /// How often keys of this hash's shard were voided until now: what is read after this and found to be untouched under
    /// the lock of the shard may be stored.
    pub(crate) fn voids(&self, hash: u64) -> u64 {
        self.voids[shard_of(hash)].load(Ordering::SeqCst)
    }

    /// Voids the loads of all keys that are meant, shard by shard.
    pub(crate) fn void_where(&self, is_meant: impl Fn(&K) -> bool) {
        for shard in &self.shards {
            Locked::of(shard).void_where(&is_meant);
        }
    }

    /// How many loads may be in flight.
    pub(crate) fn seats_max(&self) -> usize {
        self.in_flight_max
    }

    /// A seat for one more load, if there is one.
    pub(crate) fn take_seat(&self) -> Option<Arc<Seat>> {
        // Raised first and given back by the drop, so that two callers cannot take the last one.
        let seat = Seat(Arc::clone(&self.in_flight));
        let taken = self.in_flight.fetch_add(1, Ordering::Relaxed);
        (taken < self.in_flight_max).then(|| Arc::new(seat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voided_flight_makes_room_for_a_new_one_and_cannot_end_it() {
        let flights = Flights::<u64, u64>::new(1);
        let mut shard = flights.lock(0);
        let old = shard.begin(1, 0, 0);
        shard.void(&1);
        let new = shard.begin(1, 0, 0);
        shard.end(&1, &old);
        assert!(old.is_voided() && !new.is_voided());
        assert!(shard.find(&1, 0).is_some_and(|found| Arc::ptr_eq(&found, &new)));
    }

    /// An error that looks whether the lock is free when it is dropped.
    struct Looking(Arc<Flights<u64, u64>>);

    impl Drop for Looking {
        fn drop(&mut self) {
            assert!(self.0.shards[0].try_lock().is_ok(), "it is dropped under the lock");
        }
    }

    #[test]
    fn failure_that_is_forgotten_is_dropped_without_the_lock() {
        let flights = Arc::new(Flights::<u64, u64>::new(1));
        for key in 0..=REMEMBERED_MAX as u64 {
            let mut shard = flights.lock(0);
            let flight = shard.begin(key, 0, 0);
            flight.land(Outcome::Failed(Arc::new(Looking(Arc::clone(&flights)))));
            shard.end_remembered(&key, &flight, 0, 10);
            drop(flight);
        }
        assert_eq!(Arc::strong_count(&flights), 1 + REMEMBERED_MAX, "the first is forgotten");
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

    #[test]
    fn failures_are_remembered_for_their_time_and_within_their_bound() {
        let flights = Flights::<u64, u64>::new(1);
        let mut shard = flights.lock(0);
        for key in 0..1_000 {
            let flight = shard.begin(key, 0, 0);
            shard.end_remembered(&key, &flight, 0, 10);
        }
        assert_eq!(shard.flights.len(), REMEMBERED_MAX);
        assert!(shard.find(&999, 9).is_some() && shard.find(&999, 10).is_none());
    }
}
