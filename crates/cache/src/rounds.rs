//! How much goes to a shared tier in one call, which has one time limit whatever it carries. What is written is cut by its
//! bytes; of what is read only the number of keys is known, and it shrinks where calls take too long.
//! Refuses to keep a reader waiting for longer than one call may take and half of it again. Called by `tier_side`.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes of values in one call, unless one value alone has more: what a network of 100 Mbit/s carries in 80 ms.
const BYTES_MAX: usize = 1 << 20;

/// Keys that are read together even where calls have taken too long: a server that hangs is no reason to ask it key by key.
const KEYS_MIN: usize = 8;

/// How many keys are read in one call.
#[derive(Debug)]
pub(crate) struct ReadSize(AtomicUsize);

impl ReadSize {
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// So many took too long. Fast, because each costs a time limit and brings the breaker nearer.
    pub(crate) fn shrink(&self, keys: usize) {
        if keys > KEYS_MIN {
            self.0.fetch_min((keys / 4).max(KEYS_MIN), Relaxed);
        }
    }

    /// So many went. Slow, for the same reason, and slower where there was not much time to spare.
    pub(crate) fn grow(&self, keys: usize, spare: Spare) {
        if keys == self.get() {
            let more = if spare == Spare::Much { keys.div_ceil(8) } else { 1 };
            let _shrunk = self.0.compare_exchange(keys, keys.saturating_add(more), Relaxed, Relaxed);
        }
    }
}

/// What a call has left of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spare {
    /// Half of it or more.
    Much,
    Little,
}

/// The orders in rounds, each as long as its bytes allow.
pub(crate) fn by_bytes<T>(mut orders: &[T], bytes: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let mut total = 0;
        let fits = |order: &&T| {
            total += bytes(order);
            total <= BYTES_MAX
        };
        let count = orders.iter().take_while(fits).count().max(1).min(orders.len());
        let round;
        (round, orders) = orders.split_at(count);
        (!round.is_empty()).then_some(round)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_as_long_as_their_bytes_allow_and_leave_nothing_out() {
        let cut = |sizes: &[usize]| -> Vec<Vec<usize>> {
            by_bytes(sizes, |size| *size).map(<[usize]>::to_vec).collect()
        };
        let half = BYTES_MAX / 2;
        assert_eq!(cut(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(cut(&[0; 1_000]), [[0; 1_000]]);
        assert_eq!(cut(&[half, half, 1]), [vec![half, half], vec![1]]);
        assert_eq!(cut(&[1, BYTES_MAX + 1, 2, 3]), [vec![1], vec![BYTES_MAX + 1], vec![2, 3]]);
    }

    #[test]
    fn reads_shrink_where_they_take_too_long_and_grow_where_they_go() {
        let size = ReadSize::new();
        size.shrink(512);
        size.shrink(512);
        assert_eq!(size.get(), 128, "those that were under way together count once");
        size.grow(100, Spare::Much);
        assert_eq!(size.get(), 128, "it says nothing of more");
        size.grow(128, Spare::Much);
        size.grow(144, Spare::Little);
        assert_eq!(size.get(), 145);
        for _ in 0..9 {
            size.shrink(size.get());
        }
        assert_eq!(size.get(), KEYS_MIN);
    }
}
