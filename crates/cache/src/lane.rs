//! A small number for each thread that counts, which no other thread has while it lives: what only one thread touches
//! needs no locked instruction. Threads beyond the bound share one number. Called by `stats` and `front`.

use std::{
    array::from_fn,
    cell::{Cell, UnsafeCell},
    sync::{Mutex, OnceLock, PoisonError},
};

/// Threads that have a number of their own at one time. The rest have this one together.
pub(crate) const OWN_STRIPES: usize = 31;

/// Which numbers are taken, a bit for each.
static TAKEN: Mutex<u32> = Mutex::new(0);

thread_local! {
    /// One above the number; zero until this thread has one. A constant without a destructor, so that its use needs no
    /// check.
    static LANE: Cell<usize> = const { Cell::new(0) };
    /// Gives the number back when the thread ends.
    static LEASE: Lease = Lease::take();
}

/// This thread's number, at most [`OWN_STRIPES`].
#[inline]
pub(crate) fn of_this_thread() -> usize {
    match LANE.get() {
        0 => take(),
        above => above - 1,
    }
}

#[cold]
fn take() -> usize {
    // Nobody counts by a number after it was given back: a thread that is ending shares the last one.
    let lane = LEASE.try_with(|lease| lease.0).unwrap_or(OWN_STRIPES);
    LANE.set(lane + 1);
    lane
}

struct Lease(usize);

impl Lease {
    fn take() -> Self {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = (taken.trailing_ones() as usize).min(OWN_STRIPES);
        if lane < OWN_STRIPES {
            *taken |= 1 << lane;
        }
        Self(lane)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        LANE.set(OWN_STRIPES + 1);
        if self.0 < OWN_STRIPES {
            // What was counted is seen by the next one who has the number, by way of this lock.
            *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) &= !(1 << self.0);
        }
    }
}

/// One `T` for each thread that has a number of its own, touched by that thread alone and dropped with this.
pub(crate) struct PerLane<T> {
    lanes: Box<[OnceLock<Box<Owned<T>>>; OWN_STRIPES]>,
}

/// What only the thread with one number touches.
struct Owned<T> {
    /// Set while the thread is inside, so that foreign code called from there does not come in again.
    is_inside: Cell<bool>,
    inner: UnsafeCell<T>,
}

#[expect(unsafe_code, reason = "a lock per hit would cost as much as the rest of it")]
// SAFETY: `PerLane` gives out an `Owned` only by the number of the thread that asks, and no two living threads have the same
// number (`Lease`). A thread that takes over a number takes `TAKEN`'s lock after the one before gave it back under
// it, so it sees all that was done. What remains is that another thread than the one that made `T` uses and drops it.
unsafe impl<T: Send> Sync for Owned<T> {}

impl<T> PerLane<T> {
    pub(crate) fn new() -> Self {
        Self { lanes: Box::new(from_fn(|_| OnceLock::new())) }
    }

    /// What `work` makes of this thread's `T`; nothing if it has none, or is inside already.
    #[inline]
    pub(crate) fn enter<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.lanes.get(of_this_thread())?.get()?.enter(work)
    }

    /// As `enter`, but makes it first where there is none and the thread may have one.
    #[inline]
    pub(crate) fn enter_or_make<R>(
        &self,
        make: impl FnOnce() -> T,
        work: impl FnOnce(&mut T) -> R,
    ) -> Option<R> {
        let lane = self.lanes.get(of_this_thread())?;
        let owned = || Box::new(Owned { is_inside: Cell::new(false), inner: UnsafeCell::new(make()) });
        lane.get_or_init(owned).enter(work)
    }
}

impl<T> Owned<T> {
    #[inline]
    fn enter<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        if self.is_inside.replace(true) {
            return None;
        }
        let _inside = Inside(&self.is_inside);
        #[expect(unsafe_code, reason = "see `Owned`")]
        // SAFETY: only this thread comes here, and `is_inside` says that it holds no other reference.
        let inner = unsafe { &mut *self.inner.get() };
        Some(work(inner))
    }
}

/// Leaves, also by a panic.
struct Inside<'a>(&'a Cell<bool>);

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_living_threads_have_one_number_but_the_shared_one() {
        let running = std::sync::Barrier::new(40);
        let lanes: Vec<usize> = std::thread::scope(|scope| {
            let lane = || {
                let lane = of_this_thread();
                running.wait();
                lane
            };
            let threads: Vec<_> = (0..40).map(|_| scope.spawn(lane)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut own: Vec<usize> = lanes.into_iter().filter(|lane| *lane < OWN_STRIPES).collect();
        let count = own.len();
        own.sort_unstable();
        own.dedup();
        assert_eq!(own.len(), count);
        assert!(count > 0, "every thread shares");
    }

    #[test]
    fn numbers_come_back_when_their_threads_end() {
        for _ in 0..10 * OWN_STRIPES {
            let lane = std::thread::spawn(of_this_thread).join().unwrap();
            assert!(lane <= OWN_STRIPES);
        }
        let lane = std::thread::spawn(of_this_thread).join().unwrap();
        assert!(lane < OWN_STRIPES, "all numbers are lost");
    }

    #[test]
    fn each_thread_has_what_it_made_and_does_not_come_in_twice() {
        let counts: PerLane<u64> = PerLane::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let before = counts.enter(|count| *count).unwrap_or(0);
                    let own = counts.enter_or_make(|| 0, |_| counts.enter(|_| ()).is_none());
                    assert!(own.is_none_or(|is_alone| is_alone), "came in twice");
                    (0..1_000).for_each(|_| _ = counts.enter_or_make(|| 0, |count| *count += 1));
                    // A number may have been another thread's before.
                    assert!(counts.enter(|count| *count).is_none_or(|count| count == before + 1_000));
                });
            }
        });
    }

    #[test]
    fn panic_inside_leaves_it_usable() {
        let counts: PerLane<u64> = PerLane::new();
        let panicking = std::panic::AssertUnwindSafe(|| counts.enter_or_make(|| 7, |_| panic!("on purpose")));
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert_eq!(counts.enter(|count| *count), Some(7));
    }
}
