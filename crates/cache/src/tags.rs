//! Tags by name, each with its epoch, interned so that an entry finds the epochs of its tags without a lookup.
//! Bounded: over the bound the tags that no entry carries are dropped, and entries older than what was dropped
//! count as void if they have any tag. Used by `sweeps`.

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

use crate::{epoch::Epoch, flight::lock};

/// Tags remembered: some 10 MB when full.
const TAGS_MAX: usize = 65_536;

/// A tag and its sweeps.
#[derive(Debug)]
pub(crate) struct Tag {
    pub(crate) name: Arc<str>,
    pub(crate) epoch: Epoch,
}

/// All tags this node knows of.
#[derive(Debug, Default)]
pub(crate) struct Tags {
    known: Mutex<HashMap<Arc<str>, Arc<Tag>>>,
    forgotten_local: AtomicU64,
    forgotten_fleet: AtomicU64,
}

impl Tags {
    /// The tag of this name.
    pub(crate) fn intern(&self, name: &str) -> Arc<Tag> {
        let mut known = lock(&self.known);
        if let Some(tag) = known.get(name) {
            return Arc::clone(tag);
        }
        if known.len() >= TAGS_MAX {
            self.prune(&mut known);
        }
        let name: Arc<str> = Arc::from(name);
        let tag = Arc::new(Tag { name: Arc::clone(&name), epoch: Epoch::default() });
        known.insert(name, Arc::clone(&tag));
        tag
    }

    /// Drops the tags that nothing carries and that no sweep of this node is on its way for; if none can be
    /// dropped so, the bound is exceeded by the tags that entries hold, which L1's own bound limits.
    fn prune(&self, known: &mut HashMap<Arc<str>, Arc<Tag>>) {
        known.retain(|_, tag| {
            let is_kept = Arc::strong_count(tag) > 1 || tag.epoch.is_pending();
            if !is_kept {
                self.forgotten_local.fetch_max(tag.epoch.newest_local(), AcqRel);
                self.forgotten_fleet.fetch_max(tag.epoch.newest_fleet(), AcqRel);
            }
            is_kept
        });
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
        known.values().for_each(|tag| tag.epoch.reset_fleet());
        self.forgotten_fleet.store(forgotten, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{epoch::Left, tier::Void};

    #[test]
    fn number_of_tags_is_bounded_and_what_is_forgotten_voids_what_is_older() {
        let tags = Tags::default();
        let held = tags.intern("held");
        tags.intern("swept").epoch.raise_local(Void::Remove, 7);
        (0..TAGS_MAX).for_each(|number| drop(tags.intern(&number.to_string())));
        assert!(lock(&tags.known).len() <= TAGS_MAX);
        assert_eq!(tags.forgotten_local(), 7);
        assert!(Arc::ptr_eq(&held, &tags.intern("held")));
        assert_eq!(held.epoch.left_here(0), Left::Whole);
    }
}
