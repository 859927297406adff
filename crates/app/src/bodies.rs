//! The memory of all bodies together, charged as their bytes arrive: whoever announces much and sends little holds little.
//! A part is left to small bodies, so that no number of slow batches keeps single payments out. Waits for nobody: a holder
//! may be as slow as its caller. Called by `http::limits`.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A body of at most so many bytes takes nothing from what batches share. Every body starts as such a one.
const SMALL_BYTES_MAX: usize = 1024 * 1024;
/// The part of the budget that only small bodies may use.
const SMALL_SHARE: usize = 4;

/// Bytes that bodies may have together.
#[derive(Clone, Debug)]
pub struct Budget {
    all: Arc<Semaphore>,
    /// What bodies that are not small may take of it.
    large: Arc<Semaphore>,
}

/// What one body holds, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    held: Option<OwnedSemaphorePermit>,
    held_large: Option<OwnedSemaphorePermit>,
}

/// The bodies of others leave no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Budget {
    /// `bytes_max` for all bodies, a quarter of it for small ones only: less where the largest body would not fit into the
    /// rest.
    #[must_use]
    pub fn new(bytes_max: usize, largest: usize) -> Self {
        let large = (bytes_max - bytes_max / SMALL_SHARE).max(largest).min(bytes_max);
        Self { all: Arc::new(Semaphore::new(bytes_max)), large: Arc::new(Semaphore::new(large)) }
    }

    /// Bytes that nobody holds.
    #[must_use]
    pub fn left(&self) -> usize {
        self.all.available_permits()
    }

    /// Whether a body of so many bytes could be taken now. Reserves nothing.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        bytes <= self.left() && (bytes <= SMALL_BYTES_MAX || bytes <= self.large.available_permits())
    }

    pub(crate) fn share(&self) -> Share {
        Share { budget: self.clone(), held: None, held_large: None }
    }
}

impl Share {
    /// Holds `bytes` in all from now on, unless it does already.
    ///
    /// # Errors
    /// The share stays as it is.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), Full> {
        let more = missing(&self.budget.all, self.held.as_ref(), bytes)?;
        // A body that outgrows a small one is counted from its first byte, as if it had been announced.
        let large = if bytes > SMALL_BYTES_MAX { bytes } else { 0 };
        let more_large = missing(&self.budget.large, self.held_large.as_ref(), large)?;
        join(&mut self.held, more);
        join(&mut self.held_large, more_large);
        Ok(())
    }
}

/// What is missing of `bytes`, taken.
fn missing(
    semaphore: &Arc<Semaphore>,
    held: Option<&OwnedSemaphorePermit>,
    bytes: usize,
) -> Result<Option<OwnedSemaphorePermit>, Full> {
    let missing = bytes.saturating_sub(held.map_or(0, OwnedSemaphorePermit::num_permits));
    if missing == 0 {
        return Ok(None);
    }
    let permits = u32::try_from(missing).expect("no setting lets a body have more than 2^30 bytes");
    Arc::clone(semaphore).try_acquire_many_owned(permits).map(Some).map_err(|_| Full)
}

fn join(held: &mut Option<OwnedSemaphorePermit>, more: Option<OwnedSemaphorePermit>) {
    match (held.as_mut(), more) {
        (Some(held), Some(more)) => held.merge(more),
        (None, more) => *held = more,
        (Some(_), None) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    fn holding(budget: &Budget, bytes: usize) -> Result<Share, Full> {
        let mut share = budget.share();
        share.grow_to(bytes).map(|()| share)
    }

    #[test]
    fn large_bodies_leave_a_quarter_to_small_ones() {
        let budget = Budget::new(16 * MIB, 4 * MIB);
        let batches = [4, 4, 4].map(|size| holding(&budget, size * MIB).unwrap());
        assert_eq!(holding(&budget, MIB + 1).unwrap_err(), Full);
        assert!(!budget.has_room(MIB + 1) && budget.has_room(MIB));
        let small = [1, 1, 1, 1].map(|size| holding(&budget, size * MIB).unwrap());
        assert_eq!((holding(&budget, 1).unwrap_err(), budget.left()), (Full, 0));
        drop((batches, small));
        assert_eq!(budget.left(), 16 * MIB);
    }

    #[test]
    fn a_share_grows_from_small_to_large_and_stays_as_it_is_when_it_cannot() {
        let budget = Budget::new(8 * MIB, MIB);
        let mut share = holding(&budget, MIB).unwrap();
        assert_eq!(budget.large.available_permits(), 6 * MIB);
        share.grow_to(2 * MIB).unwrap();
        share.grow_to(MIB).unwrap();
        assert_eq!((budget.left(), budget.large.available_permits()), (6 * MIB, 4 * MIB));
        assert_eq!(share.grow_to(7 * MIB), Err(Full));
        assert_eq!((budget.left(), budget.large.available_permits()), (6 * MIB, 4 * MIB));
        drop(share);
        assert_eq!((budget.left(), budget.large.available_permits()), (8 * MIB, 6 * MIB));
    }

    #[test]
    fn the_largest_body_always_fits_into_an_empty_budget() {
        for (bytes_max, largest) in [(4 * MIB, 4 * MIB), (8 * MIB, 7 * MIB), (MIB, 1)] {
            assert!(holding(&Budget::new(bytes_max, largest), largest).is_ok(), "{bytes_max}");
        }
    }
}
