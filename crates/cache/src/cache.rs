//! The cache as its users hold it: a cheap handle, and the verbs that read. The verbs that void are
//! in `invalidate`. Holds no logic of races; that is in `store` and `load`.

use std::{
    any::Any,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex},
};

use quick_cache::Equivalent;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::{
    CacheBuilder, CacheError, CacheKey, LoadContext, Lookup, Stats,
    flight::{Outcome, Waiter, lock},
    load,
    remote::courier::Outbound,
    stats::count,
    store::{Boarding, Store},
};

/// A cache of values `V` by keys `K`. Cloning gives another handle to the same cache.
///
/// See the [crate's guide](crate) for what it promises and costs.
pub struct Cache<K, V> {
    pub(crate) store: Arc<Store<K, V>>,
    owner: Arc<Owner>,
}

impl<K, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store), owner: Arc::clone(&self.owner) }
    }
}

impl<K, V> fmt::Debug for Cache<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(formatter)
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// Begins a cache. The name tells it apart from others in the remote tier and in figures; it is
    /// the same on every node.
    pub fn builder(name: impl Into<Arc<str>>) -> CacheBuilder<K, V> {
        CacheBuilder::new(name.into())
    }

    pub(crate) fn assemble(store: Arc<Store<K, V>>, courier: Option<JoinHandle<()>>) -> Self {
        let outbound = store.remote.as_ref().map(|side| Arc::clone(&side.outbound));
        Self { store, owner: Arc::new(Owner { outbound, courier: Mutex::new(courier) }) }
    }

    /// The value of `key` if L1 has it. Never waits, never loads.
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        match self.lookup(key) {
            Lookup::Hit(value) => Some(value),
            Lookup::Absent | Lookup::Miss => None,
        }
    }

    /// As [`get`](Self::get), but tells "there is none" from "not known".
    #[inline]
    pub fn lookup<Q>(&self, key: &Q) -> Lookup<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.store.look(key)
    }

    /// What L1 has of each key, in the order of the keys. Never waits, never loads.
    pub fn get_many<'key, Q>(&self, keys: impl IntoIterator<Item = &'key Q>) -> Vec<Option<V>>
    where
        Q: Hash + Equivalent<K> + ?Sized + 'key,
    {
        keys.into_iter().map(|key| self.get(key)).collect()
    }

    /// The value of `key`: from L1, or from a load that is under way, or from the remote tier, or
    /// from `load`, which gives `Ok(None)` to say that there is no such thing.
    ///
    /// A load runs on its own task, without the caller's task-locals but in its tracing span. If the
    /// caller drops this future, the load goes on for the others and for the cache.
    ///
    /// # Errors
    ///
    /// Only what [`CacheError`] lists: the loader's own error, and limits of the policy. A failing
    /// remote tier is none.
    ///
    /// # Panics
    ///
    /// On a miss, outside of a Tokio runtime.
    pub async fn get_or_load<Q, F, Fut, E>(&self, key: &Q, load: F) -> Result<Option<V>, CacheError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: FnOnce(LoadContext) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Option<V>, E>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        match self.store.look(key) {
            Lookup::Hit(value) => return Ok(Some(value)),
            Lookup::Absent => return Ok(None),
            Lookup::Miss => {}
        }
        let waiter = match self.store.board(key.to_owned()) {
            Boarding::Found(Lookup::Hit(value)) => return Ok(Some(value)),
            Boarding::Found(_) => return Ok(None),
            Boarding::Joined(waiter) => {
                count(&self.store.counters.joins);
                waiter
            }
            Boarding::Lead(lead, waiter) => {
                // Not aborted with the caller: the load is bounded by the policy's timeout.
                drop(tokio::spawn(load::run(lead, load).in_current_span()));
                waiter
            }
            Boarding::Full => {
                count(&self.store.counters.overloads);
                return Err(CacheError::Overloaded);
            }
        };
        self.landed(waiter).await
    }

    async fn landed<E: Send + Sync + 'static>(&self, waiter: Waiter<V>) -> Result<Option<V>, CacheError<E>> {
        Err(match waiter.outcome().await {
            Outcome::Loaded(value) => return Ok(value),
            Outcome::Failed(error) => own_error(error),
            Outcome::TimedOut => CacheError::Timeout { after: self.store.policy.load_timeout },
            Outcome::Panicked => CacheError::Panicked,
            Outcome::Stopped => CacheError::Stopped,
        })
    }

    /// The figures of this moment. Costs a lock per shard of L1.
    pub fn stats(&self) -> Stats {
        self.store.stats()
    }

    /// Has the remote tier confirm what is pending, takes leave of the other nodes and stops the
    /// task that speaks to them. Waits for a few command timeouts at most. Reads go on working;
    /// invalidations no longer reach other nodes.
    pub async fn close(&self) {
        self.owner.close().await;
    }
}

fn own_error<E: Send + Sync + 'static>(error: Arc<dyn Any + Send + Sync>) -> CacheError<E> {
    error.downcast().map_or(CacheError::LoadElsewhere, CacheError::Load)
}

/// Owns the courier: it ends with the last handle.
struct Owner {
    outbound: Option<Arc<Outbound>>,
    courier: Mutex<Option<JoinHandle<()>>>,
}

impl Owner {
    async fn close(&self) {
        let courier = lock(&self.courier).take();
        let (Some(outbound), Some(mut courier)) = (&self.outbound, courier) else { return };
        outbound.stop.notify_one();
        if tokio::time::timeout(outbound.timing.confirmation, &mut courier).await.is_err() {
            courier.abort();
        }
        self.report_undelivered();
    }

    fn report_undelivered(&self) {
        if let Some(outbound) = &self.outbound
            && outbound.outbox.pending() > 0
        {
            let pending = outbound.outbox.pending();
            tracing::warn!(cache = %outbound.cache, pending, "other nodes were not told of all invalidations");
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some(courier) = lock(&self.courier).take() {
            courier.abort();
            self.report_undelivered();
        }
    }
}
