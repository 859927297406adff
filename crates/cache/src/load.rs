//! One load, on a task of its own: the remote tier, then the loader, then L1, then the remote tier.
//! On a task of its own, so that a caller who goes away takes nothing from those who wait with it.
//! Bounded by the policy's `load_timeout` and by the remote tier's command timeout. Spawned by `cache`.

use std::{hash::Hash, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout};

use crate::{
    CacheKey, LoadEnd, Version,
    consult::{Consulted, consult, write_back},
    flight::Outcome,
    stats::count,
    store::{Lead, Store},
};

/// What a loader is told.
#[derive(Debug, Clone)]
pub struct LoadContext {
    floor: Version,
}

impl LoadContext {
    /// The version that the loaded value must at least reflect. A loader that reads from a replica
    /// must choose one that has replayed it, or read from the primary. [`Version::LATEST`] leaves
    /// only the primary.
    pub fn floor(&self) -> Version {
        self.floor
    }
}

/// Runs one load to its end.
pub(crate) async fn run<K, V, F, Fut, E>(mut lead: Lead<K, V>, load: F)
where
    K: CacheKey,
    V: Clone,
    F: FnOnce(LoadContext) -> Fut,
    Fut: Future<Output = Result<Option<V>, E>>,
    E: Send + Sync + 'static,
{
    let store = Arc::clone(&lead.store);
    match consult(&lead).await {
        Consulted::Found { value, life } => lead.settle(Outcome::Loaded(value), life),
        Consulted::Load { floor, lease } => {
            let begun_us = store.clock.now_us();
            let outcome = call(&store, LoadContext { floor }, load).await;
            let loaded = match &outcome {
                Outcome::Loaded(value) => Some(value.clone()),
                _ => None,
            };
            let life = loaded.as_ref().and_then(|value| store.life(value.as_ref(), begun_us));
            // The waiters first: the remote tier's trip is none of their business.
            lead.settle(outcome, life);
            if let Some(token) = lease {
                write_back(&lead, token, loaded).await;
            }
        }
    }
}

/// Calls the loader when it is its turn, within the time limit.
async fn call<K, V, F, Fut, E>(store: &Store<K, V>, context: LoadContext, load: F) -> Outcome<V>
where
    K: Clone + Eq + Hash,
    V: Clone,
    F: FnOnce(LoadContext) -> Fut,
    Fut: Future<Output = Result<Option<V>, E>>,
    E: Send + Sync + 'static,
{
    let begun = Instant::now();
    let attempt = async {
        let _turn = store.loads.acquire().await.expect("the semaphore is never closed");
        count(&store.counters.loads);
        // The closure itself may panic as well, so it is called inside.
        AssertUnwindSafe(async { load(context).await }).catch_unwind().await
    };
    let (outcome, end) = match timeout(store.policy.load_timeout, attempt).await {
        Ok(Ok(Ok(Some(value)))) => (Outcome::Loaded(Some(value)), LoadEnd::Found),
        Ok(Ok(Ok(None))) => (Outcome::Loaded(None), LoadEnd::Absent),
        Ok(Ok(Err(error))) => (Outcome::Failed(Arc::new(error)), LoadEnd::Failed),
        Ok(Err(_panic)) => (Outcome::Panicked, LoadEnd::Panicked),
        Err(_elapsed) => (Outcome::TimedOut, LoadEnd::TimedOut),
    };
    report(store, end, begun.elapsed());
    outcome
}

fn report<K, V>(store: &Store<K, V>, end: LoadEnd, elapsed: Duration) {
    if !matches!(end, LoadEnd::Found | LoadEnd::Absent) {
        count(&store.counters.load_failures);
    }
    store.observer.load_ended(&store.name, end, elapsed);
}
