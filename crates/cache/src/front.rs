//! Copies of what a thread reads again and again, kept by that thread: a hit there takes no lock and shares no cache line
//! that anybody writes, but for the value's own reference count, and not even that where the value is only lent.
//! Decides nothing: a copy is given up when its key changes, and judged by the caller like any entry. Kept by `local`.
//!
//! A copy carries the number that its key's group had before the entry was taken from L1. Whoever changes a key in L1
//! raises the number after the change and before returning: a copy that was taken before the change is then no longer
//! believed, and one taken after it is right.

use std::array::from_fn;

use quick_cache::Equivalent;

use crate::{
    hash::Probe,
    lane::PerLane,
    packed::{Bounds, Packed},
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

/// Places for copies in one thread: as many hot keys as fit the processor's second cache with their values.
const PLACES: usize = 2_048;
/// What is longer by itself, key and value, is not copied: a thread's places would take many times what its copies may weigh.
const PLACE_BYTES_MAX: usize = 256;
/// A copy lies in one of so many places from the one its hash names.
const WINDOW: usize = 8;
/// Hits remembered of what has no copy.
const SEEN: usize = 8_192;
/// Groups of keys whose changes are told apart. A scheduler's numbers are dear, and it looks at one key.
const GROUPS: usize = if cfg!(feature = "shuttle") { 4 } else { 1_024 };
/// What a thread has to its credit, at most. It goes without copies once that is used up: by half as many reads that find none in a
/// row, or many more of which fewer than two in five find one, from where on copies cost more than they are worth.
const CREDIT: u32 = 16_384;
const FOUND: u32 = 3;
const MISSED: u32 = 2;
/// For how many reads it does: twice as many each time, up to the second.
const NAP_MIN: u32 = 1 << 16;
const NAP_MAX: u32 = 1 << 22;
/// Of so many hits that are worth a copy one takes the place of another: a set that is larger than the places does not
/// push itself out again and again.
const TURNED_AWAY: u32 = 16;
/// Hits after which room for another copy is looked for again, once there was none: twice as many each time, up to the
/// second.
const REST_MIN: u32 = 4_096;
const REST_MAX: u32 = 1 << 22;
/// What one thread's copies may weigh, as a part of the room of L1: they may outlive their entries there.
const PART_OF_ROOM: u64 = 64;
/// They may weigh this in any case, but for half of the room of L1: a sixty-fourth of a small cache is next to nothing.
const BYTES_FREE: u64 = 1 << 20;

/// The copies of one cache.
pub(crate) struct Fronts<K, V> {
    /// How often the keys of each group have changed.
    changes: Box<[AtomicU64; GROUPS]>,
    fronts: PerLane<Front<K, V>>,
    bytes_max: u64,
}

/// What one thread has.
struct Front<K, V> {
    /// None before the first copy.
    places: Option<Box<[Place<K, V>; PLACES]>>,
    /// The copy at the place was hit since it last stood in the way of another.
    is_hit: [bool; PLACES],
    weights: Box<[u32; PLACES]>,
    /// A part of the hash that last came by here without a copy: what comes again before another one does is copied, so
    /// that a scan copies nothing.
    seen: Box<[u16; SEEN]>,
    bytes: u64,
    /// Hits since the last one whose copy took the place of another.
    turned_away: u32,
    /// Hits for which nothing is copied, because there was no room; and for how many it will be the next time.
    rest: u32,
    next_rest: u32,
    /// Reads that ask for no copy, because too few of the last ones found one; and how many it will be the next time.
    asleep: u32,
    next_nap: u32,
    /// More for each read that finds a copy, and less for each that does not. Reads that all find one write nothing here.
    credit: u32,
}

/// Where a copy may lie: a line of the processor's cache, where the key is a number or a string and the value is counted.
#[repr(C, align(64))]
struct Place<K, V> {
    /// Of the copy; of nothing where there has never been one.
    hash: u64,
    copied: Option<Copied<K, V>>,
}

#[repr(C)]
struct Copied<K, V> {
    /// The number of its group before the entry was taken from L1.
    change: u64,
    check_us: u64,
    /// Twice the stamp, and one more if it has tags.
    stamp: u64,
    key: K,
    value: V,
}

impl<K, V> Copied<K, V> {
    #[inline]
    fn bounds(&self) -> Bounds {
        Bounds { check_us: self.check_us, stamp: self.stamp >> 1, is_tagged: self.stamp & 1 == 1 }
    }
}

/// Takes the place of a hash where there is none. A key whose hash it is has no copy.
const NONE: u64 = 0;

impl<K, V> Fronts<K, V> {
    /// For an L1 with room for so many bytes.
    pub(crate) fn new(l1_bytes_max: u64) -> Self {
        Self {
            changes: Box::new(from_fn(|_| AtomicU64::new(0))),
            fronts: PerLane::new(),
            bytes_max: (l1_bytes_max / PART_OF_ROOM).max(BYTES_FREE).min(l1_bytes_max / 2),
        }
    }

    /// What `read` makes of this thread's copy, if there is one that `is_fresh`; otherwise `read` is given back.
    ///
    /// `read` is foreign code: it may come back here, and then finds no copies.
    #[inline]
    pub(crate) fn read<Q, T, F>(
        &self,
        probe: &Probe<'_, Q>,
        is_fresh: impl FnOnce(&Bounds) -> bool,
        read: F,
    ) -> Result<T, F>
    where
        Q: Equivalent<K> + ?Sized,
        F: FnOnce(&V) -> T,
    {
        let mut read = Some(read);
        let found = self.fronts.enter(|front| {
            if front.is_asleep() {
                return None;
            }
            let change = self.before(probe.hash);
            let is_right =
                |(_, copied): &(usize, &Copied<K, V>)| copied.change == change && is_fresh(&copied.bounds());
            let Some((place, copied)) = front.find(probe).filter(is_right) else {
                front.has_missed();
                return None;
            };
            let read = read.take()?;
            let made = read(&copied.value);
            front.is_hit[place] = true;
            front.has_found();
            Some(made)
        });
        found.flatten().ok_or_else(|| read.take().expect("only what was found was read"))
    }

    /// The number that a copy of a key with this hash must carry if it is taken from L1 afterwards.
    #[inline]
    pub(crate) fn before(&self, hash: u64) -> u64 {
        self.change(hash).load(SeqCst)
    }

    /// Takes note of a hit in L1. True if the key was hit before, lately: then it is worth a copy.
    #[inline]
    pub(crate) fn is_again(&self, hash: u64) -> bool {
        if size_of::<Place<K, V>>() > PLACE_BYTES_MAX {
            return false;
        }
        self.fronts.enter_or_make(Front::new, |front| front.is_again(hash)).unwrap_or(false)
    }

    /// Keeps a copy of what was taken from L1 after `change` had been asked for.
    pub(crate) fn keep<Q>(&self, probe: &Probe<'_, Q>, change: u64, packed: Packed<V>)
    where
        Q: ToOwned<Owned = K> + ?Sized,
    {
        // It has no more bits than that.
        let weight = u32::try_from(packed.weight()).unwrap_or(u32::MAX);
        let make_room = |front: &mut Front<K, V>| front.make_room(probe.hash, weight, self.bytes_max);
        let room = self.fronts.enter_or_make(Front::new, make_room).flatten();
        let Some((place, displaced)) = room else { return };
        // Out here, because cloning and dropping are foreign code, that may come back. The memory of the key that had to
        // go serves again: a set of keys larger than the places allocates nothing while it is read.
        let key = displaced.map(|copied| copied.key);
        let key = match key {
            Some(mut key) => {
                probe.key.clone_into(&mut key);
                key
            }
            None => probe.key.to_owned(),
        };
        let Bounds { check_us, stamp, is_tagged } = packed.bounds();
        let stamp = stamp << 1 | u64::from(is_tagged);
        let copied = Copied { change, check_us, stamp, key, value: packed.into_value() };
        drop(self.fronts.enter(|front| front.put(place, probe.hash, weight, copied)));
    }

    /// The key with this hash has changed in L1.
    #[inline]
    pub(crate) fn changed(&self, hash: u64) {
        self.change(hash).fetch_add(1, SeqCst);
    }

    /// Every key may have changed in L1.
    pub(crate) fn all_changed(&self) {
        self.changes.iter().for_each(|changes| _ = changes.fetch_add(1, SeqCst));
    }

    #[inline]
    fn change(&self, hash: u64) -> &AtomicU64 {
        &self.changes[low(hash >> 32) % GROUPS]
    }
}

impl<K, V> Front<K, V> {
    fn new() -> Self {
        Self {
            places: None,
            is_hit: [false; PLACES],
            weights: Box::new([0; PLACES]),
            seen: Box::new([0; SEEN]),
            bytes: 0,
            turned_away: 0,
            rest: 0,
            next_rest: REST_MIN,
            asleep: 0,
            next_nap: NAP_MIN,
            credit: CREDIT,
        }
    }

    #[inline]
    fn is_asleep(&mut self) -> bool {
        let is_asleep = self.asleep > 0;
        if is_asleep {
            self.asleep -= 1;
        }
        is_asleep
    }

    #[inline]
    fn has_found(&mut self) {
        if self.credit < CREDIT {
            self.credit = (self.credit + FOUND).min(CREDIT);
            if self.credit == CREDIT {
                self.next_nap = NAP_MIN;
            }
        }
    }

    /// Gives up for a while where copies are of no use: the set that is read is too large.
    #[inline]
    fn has_missed(&mut self) {
        self.credit = self.credit.saturating_sub(MISSED);
        if self.credit == 0 {
            // So that enough must find one afterwards before the next time is short again.
            self.credit = CREDIT / 2;
            self.asleep = self.next_nap;
            self.next_nap = (self.next_nap * 2).min(NAP_MAX);
        }
    }

    #[inline]
    fn find<Q: Equivalent<K> + ?Sized>(&self, probe: &Probe<'_, Q>) -> Option<(usize, &Copied<K, V>)> {
        let places = self.places.as_ref()?;
        for place in window(probe.hash) {
            if places[place].hash == probe.hash {
                let copied = places[place].copied.as_ref().filter(|copied| probe.key.equivalent(&copied.key));
                return copied.map(|copied| (place, copied));
            }
            if places[place].hash == NONE {
                return None;
            }
        }
        None
    }

    #[inline]
    fn is_again(&mut self, hash: u64) -> bool {
        if self.asleep > 0 || self.rest > 0 {
            self.rest = self.rest.saturating_sub(1);
            return false;
        }
        let part = (hash >> 48) as u16;
        let is_again = std::mem::replace(&mut self.seen[low(hash >> 16) % SEEN], part) == part;
        if !is_again || window(hash).any(|place| [NONE, hash].contains(&self.hash_at(place))) {
            return is_again;
        }
        self.turned_away = (self.turned_away + 1) % TURNED_AWAY;
        self.turned_away == 0 && self.may_displace(displaced_by(hash))
    }

    /// A copy that was hit is spared once.
    fn may_displace(&mut self, place: usize) -> bool {
        !std::mem::take(&mut self.is_hit[place])
    }

    /// The place for a copy of this weight, and what had to make room there; nothing if there is none.
    fn make_room(&mut self, hash: u64, weight: u32, bytes_max: u64) -> Option<(usize, Option<Copied<K, V>>)> {
        if hash == NONE {
            return None;
        }
        let mut places = window(hash);
        let place = places.find(|place| [NONE, hash].contains(&self.hash_at(*place)));
        let place = place.unwrap_or(displaced_by(hash));
        if self.bytes - u64::from(self.weights[place]) + u64::from(weight) > bytes_max {
            self.rest = self.next_rest;
            self.next_rest = (self.next_rest * 2).min(REST_MAX);
            return None;
        }
        self.next_rest = REST_MIN;
        self.weigh(place, 0);
        let places = self.places.get_or_insert_with(empty_places);
        Some((place, places[place].copied.take()))
    }

    /// Gives what has come there meanwhile.
    fn put(&mut self, place: usize, hash: u64, weight: u32, copied: Copied<K, V>) -> Option<Copied<K, V>> {
        self.weigh(place, weight);
        self.is_hit[place] = false;
        let place = &mut self.places.get_or_insert_with(empty_places)[place];
        place.hash = hash;
        place.copied.replace(copied)
    }

    fn hash_at(&self, place: usize) -> u64 {
        self.places.as_ref().map_or(NONE, |places| places[place].hash)
    }

    fn weigh(&mut self, place: usize, weight: u32) {
        let before = std::mem::replace(&mut self.weights[place], weight);
        self.bytes = self.bytes - u64::from(before) + u64::from(weight);
    }
}

fn empty_places<K, V>() -> Box<[Place<K, V>; PLACES]> {
    let places = std::iter::repeat_with(|| Place { hash: NONE, copied: None }).take(PLACES);
    let places: Box<[_]> = places.collect();
    places.try_into().unwrap_or_else(|_| unreachable!("they are as many as were taken"))
}

/// The places where a copy may lie. A place, once taken, is never empty again, so the first empty one ends a search.
#[inline]
fn window(hash: u64) -> impl Iterator<Item = usize> {
    (0..WINDOW).map(move |step| (low(hash) + step) % PLACES)
}

/// The place of its window that a hash takes where none is free. Any would do; bits that chose neither place nor group are
/// as good as a die.
#[inline]
fn displaced_by(hash: u64) -> usize {
    (low(hash) + low(hash >> 56) % WINDOW) % PLACES
}

#[expect(clippy::cast_possible_truncation, reason = "a few low bits are what is wanted")]
#[inline]
fn low(hash: u64) -> usize {
    hash as usize
}

#[cfg(test)]
mod tests;
