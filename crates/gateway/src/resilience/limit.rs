//! How many requests are in flight at once, how many may wait for a slot and how long, and how much of it those may
//! take who wait with patience. Refuses at once beyond; a dropped waiter or holder gives its place back.

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
    /// Half of the slots: work that waits for minutes must leave room for callers who wait for milliseconds.
    patient: Arc<Semaphore>,
    slots_max: usize,
    waiting: AtomicUsize,
    waiting_max: usize,
    wait_max: Duration,
}

/// A place at a gateway for one request, given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    _slot: OwnedSemaphorePermit,
    _share: Option<OwnedSemaphorePermit>,
}

/// How long to wait for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// A burst's length, as [`ResilienceSettings`](crate::ResilienceSettings) sets it; refused at once when too many wait.
    Brief,
    /// So long. At most half of the places go to those who wait like this, however many they are.
    For(Duration),
}

/// Too many requests are in flight and waiting. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests are in flight")]
pub struct Overloaded;

impl Limit {
    pub(crate) fn new(slots_max: usize, waiting_max: usize, wait_max: Duration) -> Self {
        let slots_max = slots_max.clamp(1, Semaphore::MAX_PERMITS);
        let slots = Arc::new(Semaphore::new(slots_max));
        let patient = Arc::new(Semaphore::new((slots_max / 2).max(1)));
        Self { slots, patient, slots_max, waiting: AtomicUsize::new(0), waiting_max, wait_max }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.slots_max - self.slots.available_permits()
    }

    /// A slot, held until it is dropped.
    pub(crate) async fn reserve(&self, patience: Patience) -> Result<Slot, Overloaded> {
        match patience {
            Patience::Brief => self.enter(Deadline::after(self.wait_max)).await,
            Patience::For(wait) => self.enter_patiently(Deadline::after(wait)).await,
        }
    }

    async fn enter_patiently(&self, deadline: Deadline) -> Result<Slot, Overloaded> {
        let share = take(&self.patient, deadline.remaining()).await?;
        let slot = take(&self.slots, deadline.remaining()).await?;
        Ok(Slot { _slot: slot, _share: Some(share) })
    }

    /// As [`Self::reserve`] with little patience, and never beyond the deadline.
    pub(crate) async fn enter(&self, deadline: Deadline) -> Result<Slot, Overloaded> {
        if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(Slot { _slot: slot, _share: None });
        }
        let _place = Place::take(&self.waiting, self.waiting_max).ok_or(Overloaded)?;
        let slot = take(&self.slots, self.wait_max.min(deadline.remaining())).await?;
        Ok(Slot { _slot: slot, _share: None })
    }
}

async fn take(places: &Arc<Semaphore>, wait: Duration) -> Result<OwnedSemaphorePermit, Overloaded> {
    let acquired = tokio::time::timeout(wait, Arc::clone(places).acquire_owned());
    acquired.await.map_err(|_| Overloaded)?.map_err(|_| Overloaded)
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

    use super::{Deadline, Limit, Overloaded, Patience};

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
    async fn the_patient_leave_half_of_the_slots_to_others() {
        let limit = Limit::new(4, 0, Duration::from_millis(100));
        let patience = Patience::For(Duration::from_secs(60));
        let held = [limit.reserve(patience).await.unwrap(), limit.reserve(patience).await.unwrap()];
        assert_eq!(limit.reserve(patience).await.err(), Some(Overloaded), "waited for a minute");
        assert_eq!(limit.in_flight(), 2);
        let brief =
            [limit.reserve(Patience::Brief).await.unwrap(), limit.reserve(Patience::Brief).await.unwrap()];
        assert_eq!(limit.reserve(Patience::Brief).await.err(), Some(Overloaded));
        drop((held, brief));
        assert!(limit.reserve(patience).await.is_ok());
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
