//! Rows that were rejected, and how many of them there may be: counted over all chunks that are under way, so that those side by side
//! do not pass the limit together. It decides nothing. Kept by `write`.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::error::Rejected;

/// What a chunk adds to the rejected rows of the whole operation: counted while it may be committed, so that chunks side by side do not
/// pass the limit together, and given back if it is not.
pub(super) struct Claim<'a> {
    all: &'a AtomicUsize,
    own: AtomicUsize,
}

impl<'a> Claim<'a> {
    pub(super) fn on(all: &'a AtomicUsize) -> Self {
        Self { all, own: AtomicUsize::new(0) }
    }

    /// Gives what is claimed in all.
    pub(super) fn set(&self, own: usize) -> usize {
        let before = self.own.swap(own, Ordering::Relaxed);
        if own >= before {
            self.all.fetch_add(own - before, Ordering::Relaxed) + (own - before)
        } else {
            self.all.fetch_sub(before - own, Ordering::Relaxed) - (before - own)
        }
    }

    pub(super) fn keep(&self) {
        self.own.store(0, Ordering::Relaxed);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// The rows of one attempt that were rejected.
pub(super) struct Rejects<'a> {
    pub(super) rejected: Vec<Rejected>,
    /// Where those stand in the chunk that the server rejected.
    pub(super) bad: Vec<usize>,
    pub(super) claim: &'a Claim<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_counts_while_it_may_be_committed() {
        let all = AtomicUsize::new(5);
        let (one, other) = (Claim::on(&all), Claim::on(&all));
        assert_eq!((one.set(3), other.set(1), one.set(0)), (8, 9, 6));
        other.keep();
        drop(other);
        assert_eq!(one.set(2), 8);
        drop(one);
        assert_eq!(all.into_inner(), 6);
    }
}
