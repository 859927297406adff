//! The cache as its users hold it: a cheap handle, and the verbs that read. The verbs that void and write are in
//! `invalidate`, those over many keys in `batch`. Holds no logic of races; that is in `store`, `lead` and `read`.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::{
    CacheBuilder, CacheError, CacheKey, Load, LoadContext, Loaded, Lookup, Policy, Stats,
    answer::Answer,
    fleet::Fleet,
    flight::lock,
    hash::Probe,
    packed::Packed,
    read::{answer_of_absence, answer_of_hit},
    stats::count,
    store::{KeyForm, Look, Moment, Standing, Store},
    write_behind::{Unwritten, WriteQueue},
};

/// A cache of values `V` by keys `K`. Cloning gives another handle to the same cache.
///
/// See the [crate's guide](crate) for what it promises and costs.
pub struct Cache<K, V> {
    pub(crate) store: Arc<Store<K, V>>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) owner: Arc<Owner>,
}

impl<K, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            policy: Arc::clone(&self.policy),
            owner: Arc::clone(&self.owner),
        }
    }
}

impl<K, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(formatter)
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// Begins a cache. The name tells it apart from others in shared tiers and in figures; it is the same on every node.
    pub fn builder(name: impl Into<Arc<str>>) -> CacheBuilder<K, V> {
        CacheBuilder::new(name.into())
    }

    pub(crate) fn assemble(store: Arc<Store<K, V>>, tasks: Vec<JoinHandle<()>>) -> Self {
        let (policy, fleet) = (Arc::clone(&store.policy), Arc::clone(&store.fleet));
        let has_courier = fleet.is_shared() || store.writes.is_some();
        let unwritten =
            store.writes.as_ref().map(|writes| Arc::<WriteQueue<K, V>>::clone(writes) as Arc<dyn Unwritten>);
        let (closing, has_tasks) = (tokio::sync::Mutex::default(), !tasks.is_empty());
        let owner = Owner { fleet, has_courier, unwritten, has_tasks, tasks: Mutex::new(tasks), closing };
        Self { store, policy, owner: Arc::new(owner) }
    }

    /// A handle to the same cache whose reads and writes follow an edited copy of the policy. What is fixed when a cache
    /// is built, as the [policy](Policy)'s fields say, stays as it is. Costs one copy of the policy; keep the handle if the same is needed often.
    #[must_use]
    pub fn with(&self, edit: impl FnOnce(&mut Policy)) -> Self {
        let mut policy = Policy::clone(&self.policy);
        edit(&mut policy);
        Self { policy: Arc::new(policy), ..self.clone() }
    }

    /// A handle to the same cache whose reads and writes follow `policy`.
    #[must_use]
    pub fn under(&self, policy: &Arc<Policy>) -> Self {
        Self { policy: Arc::clone(policy), ..self.clone() }
    }

    /// The policy of this handle.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The value of `key` if L1 has it and it is not past its lifetime. Never waits, never loads.
    #[inline]
    pub fn get<Q: KeyForm<K> + ?Sized>(&self, key: &Q) -> Option<V> {
        let (probe, moment) = (Probe::of(key), self.store.moment());
        match self.hit(&probe, &moment) {
            Some(value) => Some(value),
            None => self.looked_at(&probe).and_then(|answer| answer.value),
        }
    }

    /// What `f` makes of the value of `key`, if L1 has it and it is not past its lifetime. The value of a key that is
    /// read very often is lent and not cloned: threads that read it at once do not wait for each other's reference counts.
    #[inline]
    pub fn get_with<Q: KeyForm<K> + ?Sized, T>(&self, key: &Q, f: impl FnOnce(&V) -> T) -> Option<T> {
        let (probe, moment) = (Probe::of(key), self.store.moment());
        match self.read_copy(&probe, &moment, f) {
            Ok(read) => Some(read),
            Err(f) => match self.read_entry(&probe, &moment) {
                Some(value) => Some(f(&value)),
                None => self.looked_at(&probe).and_then(|answer| answer.value).map(|value| f(&value)),
            },
        }
    }

    /// A value that needs no second look, counted as a hit; a miss is not counted.
    #[inline]
    pub(crate) fn hit<Q: KeyForm<K> + ?Sized>(&self, probe: &Probe<'_, Q>, moment: &Moment) -> Option<V> {
        match self.read_copy(probe, moment, V::clone) {
            Ok(value) => Some(value),
            Err(_) => self.read_entry(probe, moment),
        }
    }

    /// A hit of a key that this thread has a copy of.
    #[inline]
    fn read_copy<Q: KeyForm<K> + ?Sized, T, F: FnOnce(&V) -> T>(
        &self,
        probe: &Probe<'_, Q>,
        moment: &Moment,
        read: F,
    ) -> Result<T, F> {
        let read = self.store.local.fronts.read(probe, |entry| moment.finds_fresh(entry), read)?;
        self.count_hit(probe);
        Ok(read)
    }

    /// A hit of any other key.
    #[inline]
    fn read_entry<Q: KeyForm<K> + ?Sized>(&self, probe: &Probe<'_, Q>, moment: &Moment) -> Option<V> {
        let store = &*self.store;
        let value = store.hit(probe, moment)?;
        self.count_hit(probe);
        if store.local.fronts.is_again(probe.hash) {
            self.copy(probe);
        }
        Some(value)
    }

    #[cold]
    fn copy<Q: KeyForm<K> + ?Sized>(&self, probe: &Probe<'_, Q>) {
        let local = &self.store.local;
        // Before the look into L1: see `front`.
        let change = local.fronts.before(probe.hash);
        if let Some(packed) = local.read(probe, Packed::clone) {
            local.fronts.keep(probe, change, packed);
        }
    }

    /// As [`get`](Self::get), but tells "there is none" from "not known".
    pub fn lookup<Q: KeyForm<K> + ?Sized>(&self, key: &Q) -> Lookup<V> {
        let probe = Probe::of(key);
        match self.looked_at(&probe) {
            Some(Answer { value: Some(value), .. }) => Lookup::Hit(value),
            Some(_) => Lookup::Absent,
            None => Lookup::Miss,
        }
    }

    /// What L1 has of `key`, past its lifetime too, if it is within its grace.
    pub fn get_stale<Q: KeyForm<K> + ?Sized>(&self, key: &Q) -> Option<Loaded<V>> {
        let probe = Probe::of(key);
        let answer = match self.store.look(&probe) {
            Look::Doubt(answer, Standing::Fallback | Standing::Resting) => {
                count(&self.store.counters.misses);
                Some(self.store.serve_stale(answer))
            }
            look => self.counted(&probe, look).map(|(answer, _)| answer),
        };
        answer.map(|answer| self.loaded(answer))
    }

    /// What L1 has of each key, in the order of the keys. Never waits, never loads.
    pub fn get_many<'key, Q>(&self, keys: impl IntoIterator<Item = &'key Q>) -> Vec<Option<V>>
    where
        Q: KeyForm<K> + ?Sized + 'key,
    {
        keys.into_iter().map(|key| self.get(key)).collect()
    }

    /// The value of `key`: from L1, or from a load that is under way, or from the shared tiers, or from `load`, which
    /// gives `Ok(None)` to say that there is no such thing.
    ///
    /// A load runs on its own task, without the caller's task-locals but in its tracing span. If the caller drops this
    /// future, the load goes on for the others and for the cache.
    ///
    /// # Errors
    ///
    /// Only what [`CacheError`] lists: the loader's own error, and limits of the policy. A failing shared tier is none.
    ///
    /// # Panics
    ///
    /// On a miss, outside of a Tokio runtime.
    pub async fn get_or_load<Q, F, Fut, A, E>(&self, key: &Q, load: F) -> Result<Option<V>, CacheError<E>>
    where
        Q: KeyForm<K> + ?Sized,
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let (probe, moment) = (Probe::of(key), self.store.moment());
        if let Some(value) = self.hit(&probe, &moment) {
            return Ok(Some(value));
        }
        match self.at_once(&probe) {
            Ok(answer) => Ok(answer.value),
            Err(look) => Box::pin(self.answer(key, look, load)).await.map(|answer| answer.value),
        }
    }

    /// As [`get_or_load`](Self::get_or_load), and tells where the answer comes from, how old it is, and whether it is
    /// past its lifetime.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load).
    pub async fn get_or_load_entry<Q, F, Fut, A, E>(
        &self,
        key: &Q,
        load: F,
    ) -> Result<Loaded<V>, CacheError<E>>
    where
        Q: KeyForm<K> + ?Sized,
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let answer = match self.at_once(&Probe::of(key)) {
            Ok(answer) => answer,
            Err(look) => Box::pin(self.answer(key, look, load)).await?,
        };
        Ok(self.loaded(answer))
    }

    /// The answer that nothing has to be done for, counted: a value, or that there is none.
    fn at_once<Q: KeyForm<K> + ?Sized>(&self, probe: &Probe<'_, Q>) -> Result<Answer<V>, Look<V>> {
        match self.store.look(probe) {
            Look::Hit(entry) => {
                self.count_hit(probe);
                Ok(answer_of_hit(entry))
            }
            Look::Absent(entry) => {
                count(&self.store.counters.absent_hits);
                Ok(answer_of_absence(entry))
            }
            look => Err(look),
        }
    }

    /// The answer for somebody who can load.
    async fn answer<Q, F, Fut, A, E>(
        &self,
        key: &Q,
        look: Look<V>,
        load: F,
    ) -> Result<Answer<V>, CacheError<E>>
    where
        Q: KeyForm<K> + ?Sized,
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        self.count_look(&Probe::of(key), &look);
        match self.store.settled_by(look) {
            Some((answer, Standing::Due)) => {
                self.store.refresh(&key.to_owned(), &self.policy, load);
                Ok(answer)
            }
            Some((answer, _)) => Ok(answer),
            None => self.store.read_slow(key.to_owned(), &self.policy, load).await,
        }
    }

    /// The answer for somebody who cannot load, counted.
    pub(crate) fn looked_at<Q: KeyForm<K> + ?Sized>(&self, probe: &Probe<'_, Q>) -> Option<Answer<V>> {
        self.looked_over(probe).map(|(answer, _)| answer)
    }

    /// The answer for somebody who can load, counted. Whoever gets one that is due has to see to its refresh.
    pub(crate) fn looked_to_load(&self, probe: &Probe<'_, K>) -> Option<(Answer<V>, Standing)> {
        self.counted(probe, self.store.look(probe))
    }

    fn looked_over<Q: KeyForm<K> + ?Sized>(&self, probe: &Probe<'_, Q>) -> Option<(Answer<V>, Standing)> {
        match self.store.look(probe) {
            Look::Hit(entry) => {
                self.count_hit(probe);
                Some((answer_of_hit(entry), Standing::Fresh))
            }
            look => self.looked_closer(probe, look),
        }
    }

    #[cold]
    fn looked_closer<Q: KeyForm<K> + ?Sized>(
        &self,
        probe: &Probe<'_, Q>,
        look: Look<V>,
    ) -> Option<(Answer<V>, Standing)> {
        match look {
            // Stale values are given to those who ask for them.
            Look::Doubt(_, Standing::Resting) => {
                count(&self.store.counters.misses);
                None
            }
            look => self.counted(probe, look),
        }
    }

    fn counted<Q: KeyForm<K> + ?Sized>(
        &self,
        probe: &Probe<'_, Q>,
        look: Look<V>,
    ) -> Option<(Answer<V>, Standing)> {
        self.count_look(probe, &look);
        self.store.settled_by(look)
    }

    fn count_look<Q: KeyForm<K> + ?Sized>(&self, probe: &Probe<'_, Q>, look: &Look<V>) {
        let counters = &self.store.counters;
        match look {
            Look::Hit(_) => self.count_hit(probe),
            Look::Absent(_) => count(&counters.absent_hits),
            Look::Doubt(_, Standing::Due) => self.count_hit(probe),
            // Its age is recorded with those of all stale answers.
            Look::Doubt(_, Standing::Unvouched | Standing::Resting) => {
                counters.hits.count();
            }
            Look::Doubt(..) | Look::Miss => count(&counters.misses),
        }
    }

    #[inline]
    fn count_hit<Q: KeyForm<K> + ?Sized>(&self, probe: &Probe<'_, Q>) {
        if self.store.counters.hits.count() {
            self.sample(probe);
        }
    }

    /// Looks into L1 also where a copy was hit: L1 must not take the key for one that nobody reads.
    #[cold]
    fn sample<Q: KeyForm<K> + ?Sized>(&self, probe: &Probe<'_, Q>) {
        let store = &*self.store;
        let Some(loaded_us) = store.local.read(probe, Packed::loaded_us) else { return };
        store.heat.record(probe.hash);
        store.counters.served_ages.record_us(store.clock.now_us().saturating_sub(loaded_us));
    }

    pub(crate) fn loaded(&self, answer: Answer<V>) -> Loaded<V> {
        answer.into_loaded(self.store.clock.now_us())
    }

    /// The figures of this moment. Costs a lock per shard of L1.
    pub fn stats(&self) -> Stats {
        self.store.stats()
    }

    /// Has the shared tiers and the writer confirm what is pending, takes leave of the other nodes and stops the tasks
    /// of this cache. Waits for a few time limits at most, and for the writer for as long as
    /// [`WriterOptions::flush`](crate::WriterOptions::flush) says; what it has not written by then is lost, which is logged
    /// as an error, told to the [observer](crate::Observer::writes_lost), and still seen in
    /// [`pending_writes`](Stats::pending_writes). Changes of which the others have not been told by then are logged as a
    /// warning, told to the [observer](crate::Observer::pending_lost), and still seen in
    /// [`pending_invalidations`](Stats::pending_invalidations). Reads go on working; invalidations no longer reach other
    /// nodes, and under [`Write::Behind`](crate::Write::Behind) nothing can be set.
    ///
    /// Goes on in the background if this is dropped, or not polled. Who drops the cache without it writes and tells nothing more, and
    /// what is lost is told in the same ways once the last handle is gone. Closed twice at once, both wait for the same end.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime, if the cache has tasks.
    pub async fn close(&self) {
        if let Some(writes) = &self.store.writes {
            writes.close();
        }
        if !self.owner.has_tasks {
            return;
        }
        let (store, owner) = (Arc::clone(&self.store), Arc::clone(&self.owner));
        let ending = async move {
            if let Some(writes) = &store.writes {
                writes.flush(Arc::downgrade(&store)).await;
            }
            owner.end().await;
        };
        // A task, so that nobody who stops polling keeps the cache, or others who close it, from the end.
        let _ended = tokio::spawn(ending.in_current_span()).await;
    }
}

/// Owns the tasks: they end with the last handle.
pub(crate) struct Owner {
    fleet: Arc<Fleet>,
    has_courier: bool,
    unwritten: Option<Arc<dyn Unwritten>>,
    /// From the beginning.
    has_tasks: bool,
    /// The courier first, if there is one.
    pub(crate) tasks: Mutex<Vec<JoinHandle<()>>>,
    /// Held while the tasks are being ended, by a task.
    closing: tokio::sync::Mutex<()>,
}

impl Owner {
    async fn end(&self) {
        let _turn = self.closing.lock().await;
        let mut ending = Ending { owner: self, tasks: std::mem::take(&mut *lock(&self.tasks)) };
        if ending.tasks.is_empty() {
            return;
        }
        let others = usize::from(self.has_courier);
        ending.tasks[others..].iter().for_each(JoinHandle::abort);
        if let Some(courier) = ending.tasks[..others].first_mut() {
            self.fleet.stop.notify_one();
            if tokio::time::timeout(self.fleet.confirmation, &mut *courier).await.is_err() {
                courier.abort();
            }
        }
        ending.tasks.clear();
        self.report_lost();
    }

    fn report_lost(&self) {
        let unwritten = self.unwritten.as_ref().map_or(0, |writes| writes.count());
        if unwritten > 0 {
            let cache = &self.fleet.cache;
            tracing::error!(%cache, unwritten, "values that were set have not been written and are lost");
            self.fleet.observer.writes_lost(cache, unwritten);
        }
        let pending = self.fleet.outbox.pending();
        if pending > 0 {
            let cache = &self.fleet.cache;
            tracing::warn!(%cache, pending, "other nodes were not told of all invalidations");
            self.fleet.observer.pending_lost(cache, pending);
        }
    }
}

/// Tasks that are about to end. If the runtime ends before they have, they are left to who closes the cache next, or drops it.
struct Ending<'a> {
    owner: &'a Owner,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        lock(&self.owner.tasks).append(&mut self.tasks);
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let tasks = std::mem::take(&mut *lock(&self.tasks));
        if !tasks.is_empty() {
            tasks.iter().for_each(JoinHandle::abort);
            self.report_lost();
        }
    }
}
