//! Connections that wait beside their pool: cleaned ones that a caller left in a mess, and fresh ones made before others
//! end. The pool takes from here before it dials. It tests nothing: whoever takes one does.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pool::Pooled;

/// The waiting connections of one pool.
#[derive(Debug, Default)]
pub(crate) struct Bench {
    seats: Mutex<Seats>,
}

#[expect(clippy::vec_box, reason = "the pool takes it in its box")]
#[derive(Debug, Default)]
struct Seats {
    waiting: Vec<Box<Pooled>>,
    is_closed: bool,
}

impl Bench {
    /// Seats a connection if `has_room` says so of the number that sits there already; else gives it back to be closed.
    pub(crate) fn seat(
        &self,
        pooled: Box<Pooled>,
        has_room: impl FnOnce(usize) -> bool,
    ) -> Result<(), Box<Pooled>> {
        let mut seats = self.lock();
        if seats.is_closed || !has_room(seats.waiting.len()) {
            return Err(pooled);
        }
        seats.waiting.push(pooled);
        Ok(())
    }

    /// The one that sits there for longest.
    pub(crate) fn take(&self) -> Option<Box<Pooled>> {
        let mut seats = self.lock();
        if seats.waiting.is_empty() { None } else { Some(seats.waiting.remove(0)) }
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Takes the first that is such.
    pub(crate) fn take_if(&self, is_such: impl Fn(&Pooled) -> bool) -> Option<Box<Pooled>> {
        let mut seats = self.lock();
        let index = seats.waiting.iter().position(|pooled| is_such(pooled))?;
        Some(seats.waiting.remove(index))
    }

    /// From now on nobody is seated; gives back who was, to be closed outside of the lock.
    #[expect(clippy::vec_box, reason = "as it sits there")]
    pub(crate) fn close(&self) -> Vec<Box<Pooled>> {
        let mut seats = self.lock();
        seats.is_closed = true;
        std::mem::take(&mut seats.waiting)
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
