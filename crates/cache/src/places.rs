//! Places among the loaders of a cache that run at once, and who does without one: a load that a loader of the same cache waits for,
//! where none is free. It would wait for its loader's place, and its loader for it; run in that loader's place it is no more load on
//! the source, as the loader does nothing meanwhile unless it waits for several. Knows a loader by its task: what it spawns waits
//! for places like anybody. Used by `lead` and `load`.

use std::sync::Arc;

use futures_util::future::select_all;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::flight::Flight;

tokio::task_local! {
    static WITHIN: Within;
}

/// The caches of which loaders wait for what is done here, each by its places.
#[derive(Debug, Clone, Default)]
pub(crate) struct Within(Option<Arc<[Arc<Semaphore>]>>);

impl Within {
    /// Of the task that asks.
    pub(crate) fn here() -> Self {
        WITHIN.try_with(Self::clone).unwrap_or_default()
    }

    /// True if one of them is the cache with these places.
    pub(crate) fn has(&self, places: &Arc<Semaphore>) -> bool {
        self.all().any(|own| Arc::ptr_eq(own, places))
    }

    /// Runs a loader of the cache with these places, whose loads are known to be within it.
    pub(crate) fn run<F: Future>(
        &self,
        places: &Arc<Semaphore>,
        loader: F,
    ) -> impl Future<Output = F::Output> {
        let within = if self.has(places) {
            self.clone()
        } else {
            Self(Some(self.all().chain([places]).cloned().collect()))
        };
        WITHIN.scope(within, loader)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Semaphore>> {
        self.0.iter().flat_map(|places| places.iter())
    }
}

/// A place for the loader's call that ends these flights, of which there is one at least; none if it does without. Waits
/// for one until a loader that has one waits for the call.
pub(crate) async fn place<'places, V>(
    places: &'places Arc<Semaphore>,
    within: &Within,
    flights: &[&Flight<V>],
) -> Option<SemaphorePermit<'places>> {
    if let Ok(place) = places.try_acquire() {
        return Some(place);
    }
    if within.has(places) {
        return None;
    }
    let rushed = select_all(flights.iter().map(|flight| Box::pin(flight.rushed())));
    tokio::select! {
        biased;
        place = places.acquire() => Some(place.expect("the semaphore is never closed")),
        _ = rushed => None,
    }
}
