//! Write-behind: values that were set, on their way to the caller's own store, many at a time, the newest of each key.
//! Reads that L1 cannot answer see them before they ask anybody else. Bounded in values, bytes and time: over a bound `set`
//! refuses, a call of the writer that takes too long is given up and made again, and what is not written when the cache
//! ends is told. Never writes an older value of a key after a newer one. Filled by `store`, read by `consult`.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{sync::Notify, time::timeout};

use crate::{
    CacheKey, SetRefused, Version,
    answer::{Answer, Origin},
    fleet::Fleet,
    flight::lock,
    hash::Probe,
    invalidation::KeyOrder,
    lead::Lead,
    life::{Life, Span},
    local::Traits,
    outbox::Putting,
    recent::Bar,
    store::Store,
    tags::Tag,
    tier::Void,
};

/// Takes values that were set to where they are kept for good.
pub trait Writer<K, V>: Send + Sync {
    /// Writes all of them. Called again with the same ones, and newer ones of the same keys, if it fails, panics or takes
    /// longer than [`WriterOptions::timeout`] (its future is dropped then), so it must be idempotent; the version tells
    /// which of two values of a key is newer. After each failure it is asked for half as many at once, down to one, which
    /// then goes behind the others: a value that cannot be written keeps no other from it.
    fn write<'a>(&'a self, values: &'a [(K, V, Version)]) -> BoxFuture<'a, Result<(), WriteFailed>>;
}

/// A writer could not write; it is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("values could not be written")]
pub struct WriteFailed;

/// How a writer is used. Build one with `WriterOptions { .., ..WriterOptions::default() }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterOptions {
    /// What one call may take. Default 5 s.
    pub timeout: Duration,
    /// Keys whose values wait to be written; of one more, `set` is refused. Default 65,536.
    pub pending_max: usize,
    /// What they may weigh: keys and values as L1 counts them, and what the shared tiers were given of them. Of more, `set`
    /// is refused; a value that is heavier by itself is taken when no other waits. Default 64 MiB.
    pub pending_bytes_max: usize,
    /// What [`Cache::close`](crate::Cache::close) waits at most until all is written. Default 10 s.
    pub flush: Duration,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            pending_max: 65_536,
            pending_bytes_max: 64 << 20,
            flush: Duration::from_secs(10),
        }
    }
}

/// Values in one call of the writer, at most.
const BATCH_MAX: usize = 256;

/// Between two attempts.
const RETRY: Duration = Duration::from_millis(200);

/// A value that waits to be written. Which of two of a key it is, is told by its address.
#[derive(Debug)]
pub(crate) struct Waiting<V> {
    pub(crate) value: V,
    pub(crate) version: Version,
    pub(crate) tags: Box<[Arc<Tag>]>,
    /// What the shared tiers were given of it.
    pub(crate) put: Option<Putting>,
    /// Of key and value, as L1 counts them.
    pub(crate) bytes: usize,
    /// A load of this node has come upon it. What L1 holds of the key may have come of that load: from before the write, where
    /// something newer was known of the key; or this value, though something newer is there that this node was not told of.
    pub(crate) is_met: AtomicBool,
}

impl<V> Waiting<V> {
    /// All that waits with it.
    fn weight(&self) -> usize {
        self.bytes + self.put.as_ref().map_or(0, |put| put.bytes.len())
    }
}

struct Pending<K, V> {
    by_key: HashMap<K, (u64, Arc<Waiting<V>>)>,
    /// The keys by their places, first come first.
    order: BTreeMap<u64, K>,
    last_place: u64,
    /// Places that were promised and are not taken yet.
    promised: usize,
    /// What waits and what was promised, together.
    bytes: usize,
    /// Values in the next call of the writer: fewer after each that failed, more after each that did not.
    batch_max: usize,
    is_closed: bool,
}

/// Values on their way to the writer.
pub(crate) struct WriteQueue<K, V> {
    writer: Arc<dyn Writer<K, V>>,
    options: WriterOptions,
    fleet: Arc<Fleet>,
    pending: Mutex<Pending<K, V>>,
    wake: Notify,
    /// One batch at a time, so that an older value of a key is not written after a newer one.
    writing: tokio::sync::Mutex<()>,
}

/// Room for one value, asked for before anything is done. Given back by its drop.
pub(crate) struct Room<K, V> {
    queue: Arc<WriteQueue<K, V>>,
    pub(crate) bytes: usize,
}

impl<K, V> Drop for Room<K, V> {
    fn drop(&mut self) {
        let mut pending = lock(&self.queue.pending);
        pending.promised -= 1;
        pending.bytes -= self.bytes;
    }
}

impl<K: Clone + Eq + Hash, V> Room<K, V> {
    /// Puts the value in its place, unless a newer one of its key waits there. Gives what is not needed any more, to be
    /// dropped by the caller once it holds no lock.
    pub(crate) fn fill(&self, key: &K, waiting: Waiting<V>) -> Result<Option<Arc<Waiting<V>>>, Waiting<V>> {
        let mut pending = lock(&self.queue.pending);
        let known = pending.by_key.get(key).map(|(place, known)| (*place, known.version));
        if known.is_some_and(|(_, version)| version > waiting.version) {
            return Err(waiting);
        }
        let place = match known {
            Some((place, _)) => place,
            None => pending.take_place(key),
        };
        pending.bytes += waiting.weight();
        let replaced = pending.by_key.insert(key.clone(), (place, Arc::new(waiting)));
        pending.bytes -= replaced.as_ref().map_or(0, |(_, waiting)| waiting.weight());
        drop(pending);
        self.queue.wake.notify_one();
        Ok(replaced.map(|(_, waiting)| waiting))
    }
}

impl<K: Clone + Eq + Hash, V> Pending<K, V> {
    fn take_place(&mut self, key: &K) -> u64 {
        self.last_place += 1;
        self.order.insert(self.last_place, key.clone());
        self.last_place
    }

    /// Of a key that has no place in the order.
    fn move_to_end(&mut self, key: &K) {
        let place = self.take_place(key);
        if let Some(entry) = self.by_key.get_mut(key) {
            entry.0 = place;
        }
    }
}

impl<K: Clone + Eq + Hash, V> WriteQueue<K, V> {
    pub(crate) fn new(writer: Arc<dyn Writer<K, V>>, options: WriterOptions, fleet: Arc<Fleet>) -> Self {
        let pending = Pending {
            by_key: HashMap::new(),
            order: BTreeMap::new(),
            last_place: 0,
            promised: 0,
            bytes: 0,
            batch_max: BATCH_MAX,
            is_closed: false,
        };
        let (wake, writing) = (Notify::new(), tokio::sync::Mutex::new(()));
        Self { writer, options, fleet, pending: Mutex::new(pending), wake, writing }
    }

    /// Room for a value of this key that weighs so much, if there is any.
    pub(crate) fn room(self: &Arc<Self>, key: &K, bytes: usize) -> Result<Room<K, V>, SetRefused> {
        let mut pending = lock(&self.pending);
        if pending.is_closed {
            return Err(SetRefused::Closed);
        }
        // Its place is taken by the new one.
        let known = pending.by_key.get(key).map(|(_, waiting)| waiting.weight());
        let others = pending.by_key.len() + pending.promised - usize::from(known.is_some());
        let total = (pending.bytes - known.unwrap_or(0)).saturating_add(bytes);
        let has_no_place = known.is_none() && others >= self.options.pending_max;
        if has_no_place || (others > 0 && total > self.options.pending_bytes_max) {
            return Err(SetRefused::Full);
        }
        pending.promised += 1;
        pending.bytes += bytes;
        Ok(Room { queue: Arc::clone(self), bytes })
    }

    /// True if a value of this key waits to be written.
    pub(crate) fn has(&self, key: &K) -> bool {
        lock(&self.pending).by_key.contains_key(key)
    }

    /// The value of this key that waits to be written, for a load.
    fn meet(&self, key: &K) -> Option<Arc<Waiting<V>>> {
        let pending = lock(&self.pending);
        let (_, waiting) = pending.by_key.get(key)?;
        // Under the lock: what is off the queue is not met any more.
        waiting.is_met.store(true, Relaxed);
        Some(Arc::clone(waiting))
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> WriteQueue<K, V> {
    /// Writes what is pending as it comes, for ever.
    pub(crate) async fn run(&self, store: Weak<Store<K, V>>) {
        loop {
            self.wake.notified().await;
            self.drain(&store).await;
        }
    }

    /// Writes what is pending, as far as that can be done in its time.
    pub(crate) async fn flush(&self, store: Weak<Store<K, V>>) {
        // What is left is told by whoever ends the cache.
        let _left = timeout(self.options.flush, self.drain(&store)).await;
    }

    async fn drain(&self, store: &Weak<Store<K, V>>) {
        while self.is_expecting() {
            if self.write_batch(store).await.is_err() {
                tokio::time::sleep(RETRY).await;
            }
            // A value whose place is promised comes at once.
            tokio::task::yield_now().await;
        }
    }

    async fn write_batch(&self, store: &Weak<Store<K, V>>) -> Result<(), WriteFailed> {
        let _one_at_a_time = self.writing.lock().await;
        let batch = self.batch();
        if batch.is_empty() {
            return Ok(());
        }
        let values: Vec<(K, V, Version)> = batch
            .iter()
            .map(|(key, waiting)| (key.clone(), waiting.value.clone(), waiting.version))
            .collect();
        let write = AssertUnwindSafe(async { self.writer.write(&values).await }).catch_unwind();
        let problem = match timeout(self.options.timeout, write).await {
            Ok(Ok(Ok(()))) => None,
            Ok(Ok(Err(WriteFailed))) => Some("it failed"),
            Ok(Err(_panic)) => Some("it panicked"),
            Err(_elapsed) => Some("it took too long"),
        };
        if let Some(problem) = problem {
            let (cache, values) = (&*self.fleet.cache, values.len());
            tracing::warn!(cache, values, problem, "the writer is asked again");
            self.not_written(&batch);
            return Err(WriteFailed);
        }
        self.written(&batch, store);
        Ok(())
    }

    fn batch(&self) -> Vec<(K, Arc<Waiting<V>>)> {
        let pending = lock(&self.pending);
        let first = pending.order.values().take(pending.batch_max);
        let waiting = first.filter_map(|key| Some((key.clone(), Arc::clone(&pending.by_key.get(key)?.1))));
        waiting.collect()
    }

    /// Halves what is asked of the writer next, until a value that it never takes is alone; that one goes to the end of the
    /// queue, so that it keeps no other from being written.
    fn not_written(&self, batch: &[(K, Arc<Waiting<V>>)]) {
        let mut pending = lock(&self.pending);
        pending.batch_max = (batch.len() / 2).max(1);
        let [(key, _)] = batch else { return };
        let Some(place) = pending.by_key.get(key).map(|(place, _)| *place) else { return };
        pending.order.remove(&place);
        pending.move_to_end(key);
    }

    /// Takes what was written off the queue, unless a newer value of its key has come meanwhile: that one goes to the end.
    /// What other nodes have loaded of the keys until now was loaded from before the write, so they are told again; and this
    /// one does as it tells them, where a load of its own has met the value.
    fn written(&self, batch: &[(K, Arc<Waiting<V>>)], store: &Weak<Store<K, V>>) {
        let mut told = Vec::new();
        let mut pending = lock(&self.pending);
        pending.batch_max = (pending.batch_max * 2).min(BATCH_MAX);
        for (key, written) in batch {
            let Some((place, waiting)) = pending.by_key.get(key) else { continue };
            let (place, is_newest) = (*place, Arc::ptr_eq(waiting, written));
            pending.order.remove(&place);
            if is_newest {
                // The batch still holds it: nothing foreign is dropped under the lock.
                pending.by_key.remove(key);
                pending.bytes -= written.weight();
                told.push((key, written));
            } else {
                pending.move_to_end(key);
            }
        }
        drop(pending);
        let order = |(key, written): &(&K, &Arc<Waiting<V>>)| {
            let order = KeyOrder { key: key.encode(), how: Void::Remove, version: written.version };
            (order, written.put.clone())
        };
        self.fleet.order(told.iter().map(order).collect(), vec![]);
        let Some(store) = store.upgrade() else { return };
        for (key, written) in told.iter().filter(|(_, written)| written.is_met.load(Relaxed)) {
            store.void(key, Void::Remove, written.version, 0);
        }
    }
}

impl<K: CacheKey, V: Clone> Lead<K, V> {
    /// The value that was set on this node and is not written yet, unless something newer is known of the key. To a load
    /// it is what the source says.
    pub(crate) fn unwritten(&self) -> Option<Answer<V>> {
        let store = &self.store;
        let waiting = store.writes.as_ref()?.meet(&self.key)?;
        let (probe, now_us) = (Probe { key: &self.key, hash: self.hash }, store.clock.now_us());
        if !store.is_newest(&probe, waiting.version, &waiting.tags, Bar::Numbered, now_us) {
            return None;
        }
        let span = Span::of_value(&self.policy, None);
        let life = Life::begin(&self.policy, span, now_us, now_us, self.flight.stamp);
        let traits = Traits {
            tags: waiting.tags.clone(),
            version: waiting.version,
            validator: None,
            idle: self.idle(),
        };
        let value = Some(waiting.value.clone());
        Some(Answer { value, life, traits: traits.shared(), origin: Origin::Local, is_stale: false })
    }
}

impl<K, V> WriteQueue<K, V> {
    pub(crate) fn pending(&self) -> usize {
        lock(&self.pending).by_key.len()
    }

    /// True while values wait, or are about to.
    fn is_expecting(&self) -> bool {
        let pending = lock(&self.pending);
        !pending.by_key.is_empty() || pending.promised > 0
    }
}

/// What the end of a cache needs to know of its writer, whatever its keys and values.
pub(crate) trait Unwritten: Send + Sync {
    /// Takes no more values.
    fn close(&self);

    /// How many wait.
    fn count(&self) -> usize;
}

impl<K: Send + Sync, V: Send + Sync> Unwritten for WriteQueue<K, V> {
    fn close(&self) {
        lock(&self.pending).is_closed = true;
    }

    fn count(&self) -> usize {
        self.pending()
    }
}
