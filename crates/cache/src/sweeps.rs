//! Which entries sweeps (of a tag, of a prefix, of everything) have made void. An entry is judged by its stamp:
//! the number of the last sweep its node knew of when its load began.
//! Touches no entry: a sweep of a million of them costs a few stores. Bounded in prefixes and tags; over the
//! bound more is void than need be, never less. Called by `store`, `consult` and `horizon`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::{
    Version,
    backplane::{Snapshot, Swath},
    cutoffs::{Cutoffs, digest_of},
    epoch::{Epoch, Left},
    floors::Floor,
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

/// Prefixes remembered. Over it the two oldest become one that is shorter.
const PREFIXES_MAX: usize = 64;

#[derive(Debug)]
struct Prefix {
    bytes: Bytes,
    epoch: Epoch,
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
    /// As `last`, once the epoch has been raised: an entry with a lower stamp may be void.
    newest: AtomicU64,
    /// As `newest`, for entries without tags.
    newest_wide: AtomicU64,
    all: Epoch,
    prefixes: ArcSwap<Vec<Arc<Prefix>>>,
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
    /// Gives the swath that was begun, which is everything if there was no room for another prefix.
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
        let number = self.last.fetch_add(1, SeqCst) + 1;
        self.with_epoch(swath, |epoch| epoch.raise_local(how, number));
        if !matches!(swath, Swath::Tag(_)) {
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
        // First: a prefix that is gone from the list was folded into something else before, and is found there.
        let prefixes = self.prefixes.load();
        let forgotten = if tags.is_empty() { Version::NONE } else { read(&self.tags.forgotten_floor) };
        let by_tags = tags.iter().map(|tag| read(&tag.epoch.floor)).max().unwrap_or_default();
        let so_far = by_tags.max(forgotten).max(read(&self.all.floor));
        if prefixes.is_empty() {
            return so_far;
        }
        let key = key();
        let covering = prefixes.iter().filter(|prefix| key.starts_with(&prefix.bytes));
        covering.map(|prefix| read(&prefix.epoch.floor)).max().map_or(so_far, |found| found.max(so_far))
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
        self.all.reset_fleet();
        self.prefixes.load().iter().for_each(|prefix| prefix.epoch.reset_fleet());
        self.tags.reset_fleet(snapshot.forgotten_sequence);
        self.cutoffs.reset(snapshot.forgotten_sequence);
        for sweep in &snapshot.sweeps {
            self.sweep_there(&sweep.swath, sweep.how, sweep.sequence);
        }
    }

    fn with_epoch(&self, swath: &Swath, change: impl FnOnce(&Epoch)) -> Took {
        match swath {
            // Under the lock, so that a prefix is not folded into another while its epoch is changed.
            Swath::Prefix(bytes) if !bytes.is_empty() => {
                let _changing = lock(&self.changing);
                if let Some(prefix) = self.prefix(bytes) {
                    change(&prefix.epoch);
                    return Took::Itself;
                }
            }
            Swath::Tag(name) => {
                change(&self.tags.intern(name).epoch);
                return Took::Itself;
            }
            Swath::All | Swath::Prefix(_) => {}
        }
        change(&self.all);
        Took::All
    }

    /// The prefix, remembered from now on; `None` if there is no room, and everything must stand for it.
    fn prefix(&self, bytes: &Bytes) -> Option<Arc<Prefix>> {
        let known = self.prefixes.load();
        if let Some(prefix) = known.iter().find(|prefix| prefix.bytes == *bytes) {
            return Some(Arc::clone(prefix));
        }
        let mut prefixes = Vec::clone(&known);
        if prefixes.len() >= PREFIXES_MAX {
            self.fold(&mut prefixes);
        }
        let prefix = Arc::new(Prefix { bytes: bytes.clone(), epoch: Epoch::default() });
        let has_room = prefixes.len() < PREFIXES_MAX;
        if has_room {
            prefixes.push(Arc::clone(&prefix));
        }
        self.prefixes.store(Arc::new(prefixes));
        has_room.then_some(prefix)
    }

    /// Makes the two oldest prefixes that are not on their way one, or a part of everything. If all of them are
    /// on their way, there is no room.
    fn fold(&self, prefixes: &mut Vec<Arc<Prefix>>) {
        let settled: Vec<usize> =
            (0..prefixes.len()).filter(|index| !prefixes[*index].epoch.is_pending()).take(2).collect();
        let [first, second] = settled[..] else { return };
        let (second, first) = (prefixes.remove(second), prefixes.remove(first));
        let shared = first.bytes.iter().zip(&second.bytes).take_while(|(one, other)| one == other).count();
        let bytes = first.bytes.slice(..shared);
        if bytes.is_empty() {
            self.all.absorb(&first.epoch);
            self.all.absorb(&second.epoch);
            return;
        }
        let folded = match prefixes.iter().find(|prefix| prefix.bytes == bytes) {
            Some(present) => Arc::clone(present),
            None => {
                let folded = Arc::new(Prefix { bytes, epoch: Epoch::default() });
                prefixes.insert(0, Arc::clone(&folded));
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
        let prefixes = self.prefixes.load();
        let so_far = by_tags.max(left(&self.all, stamp));
        if so_far == Left::Nothing || prefixes.is_empty() {
            return so_far;
        }
        let key = key();
        let covering = prefixes.iter().filter(|prefix| key.starts_with(&prefix.bytes));
        covering.map(|prefix| left(&prefix.epoch, stamp)).max().map_or(so_far, |found| found.max(so_far))
    }

    /// True while a sweep of this node over this key, whatever its tags, has no number yet.
    pub(crate) fn is_pending_over(&self, key: &Bytes) -> bool {
        self.all.is_pending()
            || self
                .prefixes
                .load()
                .iter()
                .any(|prefix| prefix.epoch.is_pending() && key.starts_with(&prefix.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(sweeps.prefixes.load().len() <= PREFIXES_MAX);
        for number in 0..1_000 {
            let key = Bytes::from(format!("p{number:03}:x"));
            assert_eq!(sweeps.left_here(|| key, &[], 0), Left::Nothing, "{number}");
        }
        assert_eq!(left(&sweeps, "p999:x", sweeps.stamp()), Left::Whole);
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
