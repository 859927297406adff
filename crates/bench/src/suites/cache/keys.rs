//! The keys and values that every side is given: numbers and strings, each with a book of probes to read by, in an order
//! that no prefetcher can guess. Building a probe costs nothing while it is measured.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use paystrata_cache::CacheKey;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// What is cached. As long as a small record; shared, as the cost of copying it is nobody's in question.
pub(super) type Value = Arc<[u8; VALUE_BYTES]>;

/// A cache line.
pub(super) const VALUE_BYTES: usize = 64;

/// The length of a string key: a prefix and digits, as an id in a payment service has.
pub(super) const TEXT_BYTES: usize = 24;

/// A key of some side.
pub(super) trait Key: Clone + Send + Sync + 'static {
    /// What it is looked up by.
    type Probe: ?Sized + Sync;
    /// Probes in a fixed order.
    type Book: Send + Sync;
    /// In the name of a case.
    const NAME: &'static str;
    /// Bytes of one on the heap.
    const HEAP_BYTES: usize;
    /// The key of a number; no two numbers have the same.
    fn of(number: u64) -> Self;
    /// Probes for these numbers, in this order.
    fn book(numbers: &[u64]) -> Self::Book;
    /// The probe at a place.
    fn probe(book: &Self::Book, place: usize) -> &Self::Probe;
}

/// A key that maps take by any borrowed form.
pub(super) trait MapKey:
    Key<Probe: Hash + Eq + ToOwned<Owned = Self>> + CacheKey + Borrow<Self::Probe>
{
}

impl MapKey for u64 {}
impl MapKey for String {}

impl Key for u64 {
    type Probe = Self;
    type Book = Vec<Self>;
    const NAME: &'static str = "u64";
    const HEAP_BYTES: usize = 0;

    fn of(number: u64) -> Self {
        // Odd, so that it is a bijection: ids of a service do not count up from zero.
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn book(numbers: &[u64]) -> Vec<Self> {
        numbers.iter().copied().map(Self::of).collect()
    }

    #[inline]
    fn probe(book: &Vec<Self>, place: usize) -> &Self {
        &book[place]
    }
}

impl Key for String {
    type Probe = str;
    /// One text, so that reading a probe is a walk along memory and not a miss of its own.
    type Book = Self;
    const NAME: &'static str = "String";
    const HEAP_BYTES: usize = TEXT_BYTES;

    fn of(number: u64) -> Self {
        format!("acc_{number:020}")
    }

    fn book(numbers: &[u64]) -> Self {
        numbers.iter().copied().map(Self::of).collect()
    }

    #[inline]
    fn probe(book: &Self, place: usize) -> &str {
        &book[place * TEXT_BYTES..(place + 1) * TEXT_BYTES]
    }
}

/// The numbers below `count`, shuffled the same way each time.
pub(super) fn shuffled(count: usize, seed: u64) -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..count as u64).collect();
    numbers.shuffle(&mut StdRng::seed_from_u64(seed));
    numbers
}

/// As many values.
pub(super) fn values(count: usize) -> Vec<Value> {
    (0..count).map(|number| Arc::new([number.to_le_bytes()[0]; VALUE_BYTES])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_find_the_keys_of_their_numbers() {
        let numbers = shuffled(100, 1);
        let (text, words) = (String::book(&numbers), u64::book(&numbers));
        for (place, number) in numbers.iter().enumerate() {
            assert_eq!(String::probe(&text, place), String::of(*number));
            assert_eq!(*u64::probe(&words, place), u64::of(*number));
        }
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        assert!(numbers != sorted && sorted == (0..100).collect::<Vec<_>>());
    }
}
