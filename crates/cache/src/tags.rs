//! Tags by name, each with its epoch, interned so that an entry finds the epochs of its tags without a lookup.
//! Bounded: over the bound the tags that no entry carries are dropped, and entries older than what was dropped
//! count as void if they have any tag. While entries hold most of them, the next look for such tags waits until there are
//! twice as many, so that a tag costs the same however many there are. Used by `sweeps`.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
};

use crate::{epoch::Epoch, flight::lock, floors::Floor};

/// Tags remembered: some 10 MB when full.
const TAGS_MAX: usize = 65_536;

/// A tag by the name that the cache has for it. Names that begin with a zero byte are its own (`patterns`, `cutoffs`): one that
/// somebody gave begins with `\0=` instead, and no two that were given have the same.
pub(crate) fn name_of(given: &str) -> Cow<'_, str> {
    if given.starts_with('\0') { Cow::Owned(format!("\0={given}")) } else { Cow::Borrowed(given) }
}

/// A tag and its sweeps.
#[derive(Debug)]
pub(crate) struct Tag {
    pub(crate) name: Arc<str>,
    pub(crate) epoch: Epoch,
}

/// All tags this node knows of.
#[derive(Debug, Default)]
pub(crate) struct Tags {
    known: Mutex<Known>,
    forgotten_local: AtomicU64,
    forgotten_fleet: AtomicU64,
    /// Of all tags that were forgotten.
    pub(crate) forgotten_floor: Floor,
}

#[derive(Debug)]
struct Known {
    tags: HashMap<Arc<str>, Arc<Tag>>,
    /// How many there are when it is next looked for those that nothing carries.
    prune_at: usize,
}

impl Default for Known {
    fn default() -> Self {
        Self { tags: HashMap::new(), prune_at: TAGS_MAX }
    }
}

impl Tags {
    /// The tag of this name.
    pub(crate) fn intern(&self, name: &str) -> Arc<Tag> {
        let mut known = lock(&self.known);
        if let Some(tag) = known.tags.get(name) {
            return Arc::clone(tag);
        }
        if known.tags.len() >= known.prune_at {
            self.prune(&mut known);
        }
        let name: Arc<str> = Arc::from(name);
        let tag = Arc::new(Tag { name: Arc::clone(&name), epoch: Epoch::default() });
        known.tags.insert(name, Arc::clone(&tag));
        tag
    }

    /// Drops the tags that nothing carries and that no sweep of this node is on its way for. The bound is exceeded by the
    /// tags that entries hold, which L1's own bound limits, and by as many again before it is looked next.
    fn prune(&self, known: &mut Known) {
        known.tags.retain(|_, tag| {
            let is_kept = Arc::strong_count(tag) > 1 || tag.epoch.is_pending();
            if !is_kept {
                self.forgotten_local.fetch_max(tag.epoch.newest_local(), AcqRel);
                self.forgotten_fleet.fetch_max(tag.epoch.newest_fleet(), AcqRel);
                self.forgotten_floor.absorb(&tag.epoch.floor);
            }
            is_kept
        });
        known.prune_at = (known.tags.len() * 2).max(TAGS_MAX);
    }

    /// Sweeps of tags up to this number of this node's order may have been forgotten.
    pub(crate) fn forgotten_local(&self) -> u64 {
        self.forgotten_local.load(Acquire)
    }

    /// Sweeps of tags up to this number of the fleet's order may have been forgotten.
    pub(crate) fn forgotten_fleet(&self) -> u64 {
        self.forgotten_fleet.load(Acquire)
    }

    /// Begins with the fleet's order anew.
    pub(crate) fn reset_fleet(&self, forgotten: u64) {
        let known = lock(&self.known);
        known.tags.values().for_each(|tag| tag.epoch.reset_fleet());
        self.forgotten_fleet.store(forgotten, Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{backplane::Swath, cutoffs, epoch::Left, patterns, tier::Void};

    #[test]
    fn name_that_somebody_gave_is_none_of_the_caches_own_and_keeps_apart_from_others() {
        let given = ["", "a", "\0", "\0=", "\0=\0", "\0glob:61", "\0key:00000000000000000000000000000001"];
        for name in given {
            let swath = Swath::Tag(name_of(name).into());
            assert!(patterns::glob_of(&swath).is_none() && cutoffs::digest_of(&swath).is_none(), "{name:?}");
        }
        let names: HashSet<_> = given.into_iter().map(name_of).collect();
        assert_eq!(names.len(), given.len());
        assert_eq!(name_of("a"), "a");
    }

    #[test]
    fn number_of_tags_is_bounded_and_what_is_forgotten_voids_what_is_older() {
        let tags = Tags::default();
        let held = tags.intern("held");
        tags.intern("swept").epoch.raise_local(Void::Remove, 7);
        (0..TAGS_MAX).for_each(|number| drop(tags.intern(&number.to_string())));
        assert!(lock(&tags.known).tags.len() <= TAGS_MAX);
        assert_eq!(tags.forgotten_local(), 7);
        assert!(Arc::ptr_eq(&held, &tags.intern("held")));
        assert_eq!(held.epoch.left_here(0), Left::Whole);
    }

    #[test]
    fn tags_that_entries_hold_are_not_gone_through_for_every_new_one() {
        let tags = Tags::default();
        let held: Vec<_> = (0..TAGS_MAX).map(|number| tags.intern(&number.to_string())).collect();
        drop(tags.intern("looked for, and none could go"));
        tags.intern("swept").epoch.raise_local(Void::Remove, 7);
        (0..TAGS_MAX - 2).for_each(|number| drop(tags.intern(&format!("new {number}"))));
        assert_eq!(tags.forgotten_local(), 0, "it was looked again before there were twice as many");
        drop(tags.intern("one more"));
        assert_eq!(tags.forgotten_local(), 7);
        drop(held);
        let free: Vec<_> = (0..TAGS_MAX).map(|number| tags.intern(&format!("free {number}"))).collect();
        assert!(lock(&tags.known).tags.len() <= 2 * TAGS_MAX);
        drop(free);
    }
}
