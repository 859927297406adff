//! Which shard a thread writes to: up to 64 threads own one each, the rest share the last.
//! Ownership is what makes recording wait-free: an owner adds with a plain load and store, no locked instruction.
//! Knows nothing of what the shards hold. Called by `shard` and `counter` on every recording.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// Threads that can own a shard at one time. One machine word of claims; a server has at most a few
/// workers per core, and the threads beyond it are merely slower, never wrong.
const OWNERS_MAX: usize = 64;

/// Shards an instrument may have: one per owner and the shared one.
pub(crate) const SLOTS: usize = OWNERS_MAX + 1;

const SHARED: usize = OWNERS_MAX;
const UNASSIGNED: usize = usize::MAX;

/// One bit per owned slot, for the whole process: a thread owns the same slot in every instrument.
static CLAIMED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // Apart from the lease, so that the hot path reads a cell that needs no destructor check.
    static SLOT: Cell<usize> = const { Cell::new(UNASSIGNED) };
    static LEASE: Lease = const { Lease { bit: Cell::new(0) } };
}

/// How many threads may write to a slot at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writers {
    /// The calling thread alone, until it ends.
    One,
    /// Any number.
    Many,
}

/// A thread's slot; given back when the thread ends.
struct Lease {
    bit: Cell<u64>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Destructors that still run on this thread may record: they must not write to a slot that is given away.
        SLOT.set(SHARED);
        // Release: the next owner must see every count this thread stored.
        CLAIMED.fetch_and(!self.bit.get(), Ordering::Release);
    }
}

/// The calling thread's slot, below [`SLOTS`]. One thread-local load after the first call.
#[inline]
pub(crate) fn current() -> usize {
    let slot = SLOT.get();
    if slot == UNASSIGNED { claim() } else { slot }
}

/// Whether the calling thread, whose slot this is, is its only writer.
#[inline]
pub(crate) fn writers(slot: usize) -> Writers {
    if slot == SHARED { Writers::Many } else { Writers::One }
}

#[cold]
fn claim() -> usize {
    // The lease is gone only while the thread is being torn down.
    let slot = LEASE
        .try_with(|lease| {
            let slot = claim_free_slot()?;
            lease.bit.set(1 << slot);
            Some(slot)
        })
        .ok()
        .flatten()
        .unwrap_or(SHARED);
    SLOT.set(slot);
    slot
}

fn claim_free_slot() -> Option<usize> {
    let mut claimed = CLAIMED.load(Ordering::Relaxed);
    loop {
        let free = claimed.trailing_ones();
        let bit = 1_u64.checked_shl(free)?;
        // Acquire: pairs with the release in `Lease::drop`.
        match CLAIMED.compare_exchange_weak(claimed, claimed | bit, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => return usize::try_from(free).ok(),
            Err(current) => claimed = current,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Barrier;

    #[test]
    fn living_threads_never_share_an_owned_slot_and_ended_ones_give_it_back() {
        const THREADS: usize = OWNERS_MAX + 16;
        for _wave in 0..3 {
            let everyone_has_claimed = Barrier::new(THREADS);
            let slots: Vec<usize> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..THREADS)
                    .map(|_| {
                        scope.spawn(|| {
                            let slot = current();
                            everyone_has_claimed.wait();
                            assert_eq!(slot, current(), "a slot is kept for the life of the thread");
                            slot
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let owned: Vec<usize> =
                slots.iter().copied().filter(|slot| writers(*slot) == Writers::One).collect();
            let distinct: BTreeSet<usize> = owned.iter().copied().collect();
            assert_eq!(owned.len(), distinct.len());
            // Other tests of this process may hold some; a leak over the waves would leave none.
            assert!(owned.len() > OWNERS_MAX / 2, "only {} slots could be owned", owned.len());
        }
    }
}
