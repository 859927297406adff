//! Keys whose change was announced while some shared tier may still have the old record: whatever was stamped before
//! the number of the announcement is void there. The line keeps them among its tags, under a name that no other tag
//! has, so that nodes still to come learn of them.
//! Only rises, and is bounded: over the bound all records are void that are older than what was dropped. Used by `sweeps`.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
};

use ahash::RandomState;
use xxhash_rust::xxh3::xxh3_128;

use crate::{backplane::Swath, epoch::Left, flight::lock, tier::Void};

/// Keys remembered: some 3 MB when full.
const KEYS_MAX: usize = 65_536;

/// Begins the name of a key among the tags; reserved.
const PREFIX: &str = "\0key:";

/// What stands for a key by the side of tags. Two keys of one digest only void more than need be.
pub(crate) fn swath_of(key: &[u8]) -> Swath {
    Swath::Tag(Arc::from(format!("{PREFIX}{:032x}", xxh3_128(key))))
}

/// The digest of the key that a swath stands for, if it stands for one.
pub(crate) fn digest_of(swath: &Swath) -> Option<u128> {
    let Swath::Tag(name) = swath else { return None };
    let digits = name.strip_prefix(PREFIX).filter(|digits| digits.len() == 32)?;
    u128::from_str_radix(digits, 16).ok()
}

/// Since when records of one key count.
#[derive(Debug, Clone, Copy, Default)]
struct Cutoff {
    removed: u64,
    expired: u64,
}

/// All keys of one cache that have a cutoff.
#[derive(Debug, Default)]
pub(crate) struct Cutoffs {
    known: Mutex<HashMap<u128, Cutoff, RandomState>>,
    /// A record with this stamp or a higher one is cut off by none.
    newest: AtomicU64,
    /// Cutoffs up to this number may have been dropped.
    forgotten: AtomicU64,
}

impl Cutoffs {
    /// Records of this key with a stamp below `number` are void from now on.
    pub(crate) fn raise(&self, digest: u128, how: Void, number: u64) {
        let mut known = lock(&self.known);
        if known.len() >= KEYS_MAX && !known.contains_key(&digest) {
            self.forget_older_half(&mut known);
        }
        let cutoff = known.entry(digest).or_default();
        let since = match how {
            Void::Remove => &mut cutoff.removed,
            Void::Expire => &mut cutoff.expired,
        };
        *since = number.max(*since);
        self.newest.fetch_max(number, AcqRel);
    }

    fn forget_older_half(&self, known: &mut HashMap<u128, Cutoff, RandomState>) {
        let mut numbers: Vec<u64> = known.values().map(|cutoff| cutoff.removed.max(cutoff.expired)).collect();
        let middle = numbers.len() / 2;
        let (_, last_dropped, _) = numbers.select_nth_unstable(middle);
        // Before they go, because readers look at this last.
        self.forgotten.fetch_max(*last_dropped, AcqRel);
        known.retain(|_, cutoff| cutoff.removed.max(cutoff.expired) > *last_dropped);
    }

    /// What is left of a record of `key` with this stamp.
    pub(crate) fn left(&self, key: &[u8], stamp: u64) -> Left {
        let mut left = Left::Whole;
        if self.newest.load(Acquire) > stamp {
            let cutoff = lock(&self.known).get(&xxh3_128(key)).copied().unwrap_or_default();
            left = match () {
                () if cutoff.removed > stamp => Left::Nothing,
                () if cutoff.expired > stamp => Left::Fallback,
                () => Left::Whole,
            };
        }
        if self.forgotten.load(Acquire) > stamp { Left::Nothing } else { left }
    }

    /// Begins with another order of announcements, of which those up to `forgotten` may be missing.
    pub(crate) fn reset(&self, forgotten: u64) {
        let mut known = lock(&self.known);
        known.clear();
        self.newest.store(0, Release);
        self.forgotten.store(forgotten, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raise(cutoffs: &Cutoffs, key: &[u8], how: Void, number: u64) {
        cutoffs.raise(digest_of(&swath_of(key)).unwrap(), how, number);
    }

    #[test]
    fn only_what_was_stamped_before_the_announcement_of_its_own_key_is_void() {
        let cutoffs = Cutoffs::default();
        raise(&cutoffs, b"a", Void::Remove, 7);
        raise(&cutoffs, b"b", Void::Expire, 8);
        let lefts = [(b"a", 6), (b"a", 7), (b"b", 7), (b"b", 8), (b"c", 0)]
            .map(|(key, stamp)| cutoffs.left(key, stamp));
        assert_eq!(lefts, [Left::Nothing, Left::Whole, Left::Fallback, Left::Whole, Left::Whole]);
        // One that comes late takes nothing back.
        raise(&cutoffs, b"a", Void::Remove, 3);
        assert_eq!(cutoffs.left(b"a", 6), Left::Nothing);
    }

    #[test]
    fn number_of_keys_is_bounded_and_what_is_forgotten_voids_what_is_older() {
        let cutoffs = Cutoffs::default();
        let all = 1..=3 * KEYS_MAX as u64;
        all.clone().for_each(|number| raise(&cutoffs, &number.to_be_bytes(), Void::Remove, number));
        assert!(lock(&cutoffs.known).len() <= KEYS_MAX);
        for number in all {
            assert_eq!(cutoffs.left(&number.to_be_bytes(), number - 1), Left::Nothing, "{number}");
        }
        assert_eq!(cutoffs.left(b"other", 3 * KEYS_MAX as u64 - 1), Left::Whole);
    }

    #[test]
    fn order_that_begins_anew_forgets_what_its_store_has_forgotten() {
        let cutoffs = Cutoffs::default();
        raise(&cutoffs, b"a", Void::Remove, 7);
        cutoffs.reset(3);
        assert_eq!([2, 3].map(|stamp| cutoffs.left(b"a", stamp)), [Left::Nothing, Left::Whole]);
    }

    #[test]
    fn tags_of_users_stand_for_no_key() {
        for name in ["", "key:1", "\0key:", "\0key:zz", "\0key:00000000000000000000000000000000f"] {
            assert_eq!(digest_of(&Swath::Tag(name.into())), None, "{name:?}");
        }
    }
}
