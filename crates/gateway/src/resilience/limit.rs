//! How many calls are in flight at once, and how many may wait for a slot and how long.
//! Refuses at once beyond both; a dropped waiter or holder gives its place back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::deadline::Deadline;

#[derive(Debug)]
pub(crate) struct Limit {
    slots: Arc<Semaphore>,
    slots_max: usize,
    waiting: AtomicUsize,
    waiting_max: usize,
    wait_max: Duration,
}

/// Too many calls are in flight and waiting.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overloaded;

impl Limit {
    pub(crate) fn new(slots_max: usize, waiting_max: usize, wait_max: Duration) -> Self {
        let slots_max = slots_max.clamp(1, Semaphore::MAX_PERMITS);
        let slots = Arc::new(Semaphore::new(slots_max));
        Self { slots, slots_max, waiting: AtomicUsize::new(0), waiting_max, wait_max }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots_max - self.slots.available_permits()
    }

    /// A slot, held until it is dropped.
    pub(crate) async fn enter(&self, deadline: Deadline) -> Result<OwnedSemaphorePermit, Overloaded> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(slot);
        }
        let _place = Place::take(&self.waiting, self.waiting_max).ok_or(Overloaded)?;
        let acquired = tokio::time::timeout(
            self.wait_max.min(deadline.remaining()),
            Arc::clone(&self.slots).acquire_owned(),
        );
        acquired.await.map_err(|_| Overloaded)?.map_err(|_| Overloaded)
    }
}

/// A place in the queue, given back on drop.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, waiting_max: usize) -> Option<Self> {
        let place = Self(waiting);
        // The guard exists before the check, so that the count is given back on refusal as well.
        (waiting.fetch_add(1, Ordering::Relaxed) < waiting_max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::Ordering, time::Duration};

    use super::{Deadline, Limit, Overloaded};

    #[tokio::test(start_paused = true)]
    async fn beyond_slots_and_places_a_call_is_refused() {
        let limit = Limit::new(1, 1, Duration::from_millis(100));
        let deadline = Deadline::after(Duration::from_secs(5));
        let slot = limit.enter(deadline).await.unwrap();
        assert_eq!(limit.in_flight(), 1);
        let (waited, refused) = tokio::join!(limit.enter(deadline), limit.enter(deadline));
        assert_eq!(waited.err(), Some(Overloaded), "waits, then gives up");
        assert_eq!(refused.err(), Some(Overloaded), "no place to wait");
        assert_eq!(limit.waiting.load(Ordering::Relaxed), 0);
        drop(slot);
        assert!(limit.enter(deadline).await.is_ok());
        assert_eq!(limit.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_waiter_gives_its_place_back() {
        let limit = Limit::new(1, 1, Duration::from_secs(1));
        let deadline = Deadline::after(Duration::from_secs(5));
        let _slot = limit.enter(deadline).await.unwrap();
        tokio::time::timeout(Duration::from_millis(10), limit.enter(deadline)).await.unwrap_err();
        assert_eq!(limit.waiting.load(Ordering::Relaxed), 0);
    }
}
