//! Which entries sweeps (of a tag, of a prefix, of a pattern, of everything) have made void. An entry is judged by its stamp:
//! the number of the last sweep its node knew of when its load began.
//! Touches no entry: a sweep of a million of them costs a few stores. Bounded in ranges of keys and tags; over the
//! bound more is void than need be, never less. Called by `store`, `consult` and `horizon`.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;

use crate::{
    Version,
    backplane::{Snapshot, Swath},
    cutoffs::{Cutoffs, digest_of},
    epoch::{Epoch, Left},
    floors::Floor,
    patterns::{Glob, glob_of},
    sync::{
        Mutex,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, SeqCst},
        },
        lock,
    },
    tags::{Tag, Tags},
    tier::Void,
};

/// Ranges of keys remembered. Over it the two oldest become one that is wider.
const RANGES_MAX: usize = 64;

/// The keys that begin so, and look so.
#[derive(Debug)]
struct Range {
    begin: Bytes,
    glob: Option<Glob>,
    epoch: Epoch,
}

impl Range {
    /// None of a swath that is no range of keys.
    fn of(swath: &Swath) -> Option<Self> {
        let (begin, glob) = match swath {
            Swath::Prefix(bytes) if !bytes.is_empty() => (bytes.clone(), None),
            swath => glob_of(swath).map(|glob| (glob.literal(), Some(glob)))?,
        };
        Some(Self { begin, glob, epoch: Epoch::default() })
    }

    fn covers(&self, key: &[u8]) -> bool {
        key.starts_with(&self.begin) && self.glob.as_ref().is_none_or(|glob| glob.covers(key))
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.begin, &self.glob) == (&other.begin, &other.glob)
    }
}

/// Whose epoch was changed for a swath.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Took {
    Itself,
    All,
}

/// All sweeps of one cache.
#[derive(Debug, Default)]
pub(crate) struct Sweeps {
    /// The number of the last sweep in this node's order.
    last: AtomicU64,
    /// Held by a sweep of what this node holds, from its number to `newest`.
    in_order: Mutex<()>,
    /// As `last`, once the epoch has been raised: an entry with a lower stamp may be void. Whatever is up to it is in the epochs.
    newest: AtomicU64,
    /// As `newest`, for entries without tags.
    newest_wide: AtomicU64,
    all: Epoch,
    ranges: ArcSwap<Vec<Arc<Range>>>,
    changing: Mutex<()>,
    pub(crate) tags: Tags,
    cutoffs: Cutoffs,
}

impl Sweeps {
    /// The stamp of a load that begins now.
    #[inline]
    pub(crate) fn stamp(&self) -> u64 {
        self.last.load(SeqCst)
    }

    /// An entry with this stamp or a higher one has not been swept.
    #[inline]
    pub(crate) fn newest(&self) -> u64 {
        self.newest.load(Acquire)
    }

    /// An entry without tags and with this stamp or a higher one has not been swept.
    #[inline]
    pub(crate) fn newest_wide(&self) -> u64 {
        self.newest_wide.load(Acquire)
    }

    /// Begins a sweep of this node's own: what shared tiers have of the swath is void until `number` says since when.
    /// Gives the swath that was begun, which is everything if there was no room for another range.
    pub(crate) fn begin(&self, swath: Swath, how: Void) -> Swath {
        let is_all = self.with_epoch(&swath, |epoch| epoch.begin(how)) == Took::All;
        if is_all { Swath::All } else { swath }
    }

    /// The fleet's number of a sweep that was begun here, or none because it will never have one.
    pub(crate) fn number(&self, swath: &Swath, how: Void, number: Option<u64>) {
        self.with_epoch(swath, |epoch| {
            if let Some(number) = number {
                epoch.raise_fleet(how, number);
            }
            epoch.settle(how);
        });
    }

    /// Voids what this node holds of the swath: whatever was loaded before this returns.
    pub(crate) fn sweep_here(&self, swath: &Swath, how: Void) {
        // One after another: an entry that is judged whole gets `newest` as its stamp, and no sweep with a lower number may be
        // missing then.
        let _in_order = lock(&self.in_order);
        let number = self.last.fetch_add(1, SeqCst) + 1;
        self.with_epoch(swath, |epoch| epoch.raise_local(how, number));
        if !matches!(swath, Swath::Tag(_)) || glob_of(swath).is_some() {
            self.newest_wide.fetch_max(number, AcqRel);
        }
        self.newest.fetch_max(number, AcqRel);
    }

    /// The write because of which what follows sweeps: what is set of the swath must not be older. Said before the sweep.
    pub(crate) fn note_write(&self, swath: &Swath, version: Version, now_us: u64) {
        if version != Version::NONE {
            self.with_epoch(swath, |epoch| epoch.floor.raise(version, now_us));
        }
    }

    /// The newest write because of which there was a sweep over this entry.
    pub(crate) fn newest_write(
        &self,
        key: impl FnOnce() -> Bytes,
        tags: &[Arc<Tag>],
        read: impl Fn(&Floor) -> Version,
    ) -> Version {
        // First: a range that is gone from the list was folded into something else before, and is found there.
        let ranges = self.ranges.load();
        let forgotten = if tags.is_empty() { Version::NONE } else { read(&self.tags.forgotten_floor) };
        let by_tags = tags.iter().map(|tag| read(&tag.epoch.floor)).max().unwrap_or_default();
        let so_far = by_tags.max(forgotten).max(read(&self.all.floor));
        if ranges.is_empty() {
            return so_far;
        }
        let key = key();
        let covering = ranges.iter().filter(|range| range.covers(&key));
        covering.map(|range| read(&range.epoch.floor)).max().map_or(so_far, |found| found.max(so_far))
    }

    /// A sweep with its number in the fleet's order, made by any node.
    pub(crate) fn sweep_there(&self, swath: &Swath, how: Void, number: u64) {
        match digest_of(swath) {
            Some(digest) => self.cutoffs.raise(digest, how, number),
            None => drop(self.with_epoch(swath, |epoch| epoch.raise_fleet(how, number))),
        }
    }

    /// Takes the fleet's order from a snapshot. The caller has seen to it that nothing is judged by it meanwhile.
    pub(crate) fn adopt(&self, snapshot: &Snapshot) {
        {
            // So that no range's epoch is folded into another's half-way.
            let _changing = lock(&self.changing);
            self.all.reset_fleet();
            self.ranges.load().iter().for_each(|range| range.epoch.reset_fleet());
        }
        self.tags.reset_fleet(snapshot.forgotten_sequence);
        self.cutoffs.reset(snapshot.forgotten_sequence);
        for sweep in &snapshot.sweeps {
            self.sweep_there(&sweep.swath, sweep.how, sweep.sequence);
        }
    }

    fn with_epoch(&self, swath: &Swath, change: impl FnOnce(&Epoch)) -> Took {
        if let Some(range) = Range::of(swath) {
            // Under the lock, so that a range is not folded into another while its epoch is changed.
            let _changing = lock(&self.changing);
            if let Some(range) = self.range(range) {
                change(&range.epoch);
                return Took::Itself;
            }
        } else if let Swath::Tag(name) = swath {
            change(&self.tags.intern(name).epoch);
            return Took::Itself;
        }
        change(&self.all);
        Took::All
    }

    /// The range, remembered from now on; `None` if there is no room, and everything must stand for it.
    fn range(&self, range: Range) -> Option<Arc<Range>> {
        let known = self.ranges.load();
        if let Some(range) = known.iter().find(|known| known.is_same(&range)) {
            return Some(Arc::clone(range));
        }
        let mut ranges = Vec::clone(&known);
        if ranges.len() >= RANGES_MAX {
            self.fold(&mut ranges);
        }
        let range = Arc::new(range);
        let has_room = ranges.len() < RANGES_MAX;
        if has_room {
            ranges.push(Arc::clone(&range));
        }
        self.ranges.store(Arc::new(ranges));
        has_room.then_some(range)
    }

    /// Makes the two oldest ranges that are not on their way one prefix, or a part of everything. If all of them are
    /// on their way, there is no room.
    fn fold(&self, ranges: &mut Vec<Arc<Range>>) {
        let settled: Vec<usize> =
            (0..ranges.len()).filter(|index| !ranges[*index].epoch.is_pending()).take(2).collect();
        let [first, second] = settled[..] else { return };
        let (second, first) = (ranges.remove(second), ranges.remove(first));
        let shared = first.begin.iter().zip(&second.begin).take_while(|(one, other)| one == other).count();
        let Some(prefix) = Range::of(&Swath::Prefix(first.begin.slice(..shared))) else {
            self.all.absorb(&first.epoch);
            self.all.absorb(&second.epoch);
            return;
        };
        let folded = match ranges.iter().find(|range| range.is_same(&prefix)) {
            Some(present) => Arc::clone(present),
            None => {
                let folded = Arc::new(prefix);
                ranges.insert(0, Arc::clone(&folded));
                folded
            }
        };
        folded.epoch.absorb(&first.epoch);
        folded.epoch.absorb(&second.epoch);
    }

    /// What is left of an entry of this node.
    pub(crate) fn left_here(&self, key: impl FnOnce() -> Bytes, tags: &[Arc<Tag>], stamp: u64) -> Left {
        let by_tags = self.left_of_tags(tags, self.tags.forgotten_local(), stamp, Epoch::left_here);
        self.left_by(key, by_tags, stamp, Epoch::left_here)
    }

    /// What is left of a value in a shared tier.
    pub(crate) fn left_there(&self, key: &Bytes, tags: &[Arc<Tag>], stamp: u64) -> Left {
        let by_tags = self.left_of_tags(tags, self.tags.forgotten_fleet(), stamp, Epoch::left_there);
        let so_far = by_tags.max(self.cutoffs.left(key, stamp));
        self.left_by(|| key.clone(), so_far, stamp, Epoch::left_there)
    }

    fn left_of_tags(
        &self,
        tags: &[Arc<Tag>],
        forgotten: u64,
        stamp: u64,
        left: impl Fn(&Epoch, u64) -> Left,
    ) -> Left {
        if !tags.is_empty() && forgotten > stamp {
            return Left::Nothing;
        }
        tags.iter().map(|tag| left(&tag.epoch, stamp)).max().unwrap_or(Left::Whole)
    }

    fn left_by(
        &self,
        key: impl FnOnce() -> Bytes,
        by_tags: Left,
        stamp: u64,
        left: impl Fn(&Epoch, u64) -> Left,
    ) -> Left {
        // First: see `newest_write`.
        let ranges = self.ranges.load();
        let so_far = by_tags.max(left(&self.all, stamp));
        if so_far == Left::Nothing || ranges.is_empty() {
            return so_far;
        }
        let key = key();
        let covering = ranges.iter().filter(|range| range.covers(&key));
        covering.map(|range| left(&range.epoch, stamp)).max().map_or(so_far, |found| found.max(so_far))
    }

    /// Which sweeps of this node have no number yet, of those that have begun by now.
    pub(crate) fn pending(&self) -> Pending<'_> {
        Pending { ranges: self.ranges.load(), all: &self.all }
    }
}

/// See [`Sweeps::pending`]. One over everything is seen also if it begins later.
pub(crate) struct Pending<'a> {
    ranges: Guard<Arc<Vec<Arc<Range>>>>,
    all: &'a Epoch,
}

impl Pending<'_> {
    /// True if one is over this key, whatever its tags.
    pub(crate) fn is_over(&self, key: &Bytes) -> bool {
        self.all.is_pending() || self.ranges.iter().any(|range| range.epoch.is_pending() && range.covers(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patterns::swath_of;

    fn prefix(text: &str) -> Swath {
        Swath::Prefix(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn left(sweeps: &Sweeps, key: &'static str, stamp: u64) -> Left {
        sweeps.left_here(|| Bytes::from_static(key.as_bytes()), &[], stamp)
    }

    #[test]
    fn sweep_voids_what_was_stamped_before_it_and_nothing_else() {
        let sweeps = Sweeps::default();
        let before = sweeps.stamp();
        sweeps.sweep_here(&prefix("a:"), Void::Remove);
        sweeps.sweep_here(&prefix("b:"), Void::Expire);
        let after = sweeps.stamp();
        assert_eq!(left(&sweeps, "a:1", before), Left::Nothing);
        assert_eq!(left(&sweeps, "b:1", before), Left::Fallback);
        assert_eq!(left(&sweeps, "c:1", before), Left::Whole);
        assert_eq!(left(&sweeps, "a:1", after), Left::Whole);
    }

    #[test]
    fn too_many_prefixes_void_more_and_never_less() {
        let sweeps = Sweeps::default();
        for number in 0..1_000 {
            sweeps.sweep_here(&prefix(&format!("p{number:03}:")), Void::Remove);
        }
        assert!(sweeps.ranges.load().len() <= RANGES_MAX);
        for number in 0..1_000 {
            let key = Bytes::from(format!("p{number:03}:x"));
            assert_eq!(sweeps.left_here(|| key, &[], 0), Left::Nothing, "{number}");
        }
        assert_eq!(left(&sweeps, "p999:x", sweeps.stamp()), Left::Whole);
    }

    #[test]
    fn sweep_of_a_pattern_voids_the_keys_that_match_and_folds_into_a_prefix() {
        let sweeps = Sweeps::default();
        sweeps.sweep_here(&swath_of(b"user:*:name"), Void::Remove);
        let lefts = ["user:7:name", "user:7:age", "users"].map(|key| left(&sweeps, key, 0));
        assert_eq!(lefts, [Left::Nothing, Left::Whole, Left::Whole]);
        let number = sweeps.stamp();
        assert_eq!(
            (sweeps.newest(), sweeps.newest_wide()),
            (number, number),
            "entries without tags are looked at"
        );
        for number in 0..RANGES_MAX {
            sweeps.sweep_here(&swath_of(format!("user:{number}:*x").as_bytes()), Void::Remove);
        }
        assert_eq!(["user:7:name", "user:5:zx"].map(|key| left(&sweeps, key, 0)), [Left::Nothing; 2]);
        assert_eq!(left(&sweeps, "users", 0), Left::Whole);
    }

    #[test]
    fn shared_tiers_are_not_trusted_with_a_swath_until_its_sweep_is_numbered() {
        let sweeps = Sweeps::default();
        let key = Bytes::from_static(b"a:1");
        let tag = sweeps.tags.intern("t");
        let swath = Swath::Tag("t".into());
        let swath = sweeps.begin(swath, Void::Remove);
        let tags = [tag];
        assert_eq!(sweeps.left_there(&key, &tags, 99), Left::Nothing);
        sweeps.number(&swath, Void::Remove, Some(5));
        assert_eq!(sweeps.left_there(&key, &tags, 4), Left::Nothing);
        assert_eq!(sweeps.left_there(&key, &tags, 5), Left::Whole);
        assert_eq!(sweeps.left_there(&key, &[], 0), Left::Whole);
    }

    #[test]
    fn late_and_older_sweep_takes_nothing_back() {
        let sweeps = Sweeps::default();
        sweeps.sweep_there(&Swath::All, Void::Remove, 9);
        sweeps.sweep_there(&Swath::All, Void::Remove, 3);
        assert_eq!(sweeps.left_there(&Bytes::new(), &[], 8), Left::Nothing);
    }
}
