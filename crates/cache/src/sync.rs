//! The locks and atomics in which loads, invalidations and sweeps meet: the standard ones, or, with the feature
//! `shuttle`, those of a scheduler that tries their orders (`races`). Refuses to have any of its own.
//! Used by `flight`, `floors`, `wishes`, `epoch`, `sweeps` and `front`; in what is explored no other lock is held across one of these.

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic};

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic};

/// Locks, also after a panic under the lock: what it guards is consistent between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The same for what no scheduler needs to see.
pub(crate) mod plain {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// Locks, also after a panic under the lock.
    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
