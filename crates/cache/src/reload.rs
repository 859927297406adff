//! Loads that a caller orders whatever is cached: the answer is what the source says from now on, and takes the place of
//! what is there. Until then the others go on with that. Joins nothing, and takes no fallback. Called through `Cache`.

use std::sync::Arc;

use tokio::time::timeout;
use tracing::Instrument;

use crate::{
    Cache, CacheError, CacheKey, Load, LoadContext, Loaded, Policy,
    answer::Answer,
    lead::{Boarding, Purpose},
    read::Landed,
    spans,
    stats::count,
    store::{KeyForm, Store},
};

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// The value of `key` as `load` gives it now, whatever this node and the shared tiers have of it. Until then others are
    /// given what is there, which the loader is [shown](LoadContext::stale) too; its [floor](LoadContext::floor) is
    /// [`Version::LATEST`](crate::Version::LATEST), so that no replica's older answer takes the place of a newer one. Stored in
    /// every tier. Where another load has claimed the key in one, that claim ends and the key is void there, and the other
    /// nodes are told.
    ///
    /// A load that is under way began earlier: it answers those who wait for it and stores nothing. So of several that are
    /// ordered at once, each loads and the last one to begin is stored. Else the other nodes go on with their copies until these
    /// end; to take them away, [`invalidate`](Self::invalidate) the key instead. A value that was set under
    /// [`Write::Behind`](crate::Write::Behind) and is not written yet is what the source will say, and is the answer.
    ///
    /// Counted among the loads, and neither as a hit nor as a miss.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load). There is no fallback: a failed load is an error, and what is in process stays; a shared
    /// tier may be left without a value, to be loaded by who reads next.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub async fn reload<Q, F, Fut, A, E>(&self, key: &Q, load: F) -> Result<Option<V>, CacheError<E>>
    where
        Q: KeyForm<K> + ?Sized,
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        self.reload_entry(key, load).await.map(|loaded| loaded.value)
    }

    /// As [`reload`](Self::reload), and tells how old the answer is.
    ///
    /// # Errors
    ///
    /// As [`reload`](Self::reload).
    pub async fn reload_entry<Q, F, Fut, A, E>(&self, key: &Q, load: F) -> Result<Loaded<V>, CacheError<E>>
    where
        Q: KeyForm<K> + ?Sized,
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let span = spans::read(&self.store.name, 1);
        let loading = Box::pin(self.store.load_now(key.to_owned(), &self.policy, load));
        let ended = loading.instrument(span.clone()).await;
        spans::read_ended(&span, &ended);
        ended.map(|answer| self.loaded(answer))
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Store<K, V> {
    async fn load_now<F, Fut, A, E>(
        self: &Arc<Self>,
        key: K,
        policy: &Arc<Policy>,
        load: F,
    ) -> Result<Answer<V>, CacheError<E>>
    where
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let Boarding::Lead(lead) = self.board(&key, policy, Purpose::Reload, None) else {
            count(&self.counters.overloads);
            return Err(CacheError::Overloaded);
        };
        // The time runs from here: the tiers are asked by a task, which nobody's patience ends.
        let (waiter, store) = (lead.waiter(), Arc::clone(self));
        let loading = async move { store.load_anew(lead, load).await };
        drop(tokio::spawn(loading.in_current_span()));
        let Ok(outcome) = timeout(policy.load_timeout, waiter.outcome()).await else {
            return Err(CacheError::Timeout { after: policy.load_timeout });
        };
        match self.judged(&key, policy, &waiter, outcome) {
            Landed::Answered(answer) => Ok(answer),
            Landed::Refused(error) => Err(error),
            Landed::Nothing | Landed::Again => Err(CacheError::Stopped),
        }
    }
}
