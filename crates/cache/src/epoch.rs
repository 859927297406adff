//! Until when everything of one swath is void: by the number of the last sweep over it, in the order of this
//! node (for what it holds) and in the order of the fleet (for what lies in shared tiers).
//! Only rises; a sweep is never taken back by an older one that comes late. Used by `sweeps`.

use crate::{
    floors::Floor,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Release},
    },
    tier::Void,
};

/// What sweeps leave of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Left {
    /// All of it.
    Whole,
    /// A fallback.
    Fallback,
    /// Nothing.
    Nothing,
}

impl Left {
    fn by(how: Void) -> Self {
        match how {
            Void::Remove => Self::Nothing,
            Void::Expire => Self::Fallback,
        }
    }
}

/// The sweeps over one swath.
#[derive(Debug, Default)]
pub(crate) struct Epoch {
    removed: Numbers,
    expired: Numbers,
    /// The newest write because of which there was a sweep.
    pub(crate) floor: Floor,
}

#[derive(Debug, Default)]
struct Numbers {
    local: AtomicU64,
    fleet: AtomicU64,
    /// Sweeps of this node that have no number in the fleet's order yet.
    pending: AtomicU32,
}

impl Epoch {
    fn of(&self, how: Void) -> &Numbers {
        match how {
            Void::Remove => &self.removed,
            Void::Expire => &self.expired,
        }
    }

    /// A sweep whose number in the fleet's order is to come.
    pub(crate) fn begin(&self, how: Void) {
        self.of(how).pending.fetch_add(1, AcqRel);
    }

    /// The end of a `begin`, once for each.
    pub(crate) fn settle(&self, how: Void) {
        self.of(how).pending.fetch_sub(1, AcqRel);
    }

    pub(crate) fn raise_local(&self, how: Void, number: u64) {
        self.of(how).local.fetch_max(number, AcqRel);
    }

    pub(crate) fn raise_fleet(&self, how: Void, number: u64) {
        self.of(how).fleet.fetch_max(number, AcqRel);
    }

    /// Forgets the fleet's order: another one begins.
    pub(crate) fn reset_fleet(&self) {
        self.removed.fleet.store(0, Release);
        self.expired.fleet.store(0, Release);
    }

    /// What is left here of something with this stamp.
    #[inline]
    pub(crate) fn left_here(&self, stamp: u64) -> Left {
        match () {
            () if self.removed.local.load(Acquire) > stamp => Left::Nothing,
            () if self.expired.local.load(Acquire) > stamp => Left::Fallback,
            () => Left::Whole,
        }
    }

    /// What is left in shared tiers of something with this stamp.
    pub(crate) fn left_there(&self, stamp: u64) -> Left {
        let swept =
            |numbers: &Numbers| numbers.pending.load(Acquire) > 0 || numbers.fleet.load(Acquire) > stamp;
        match () {
            () if swept(&self.removed) => Left::by(Void::Remove),
            () if swept(&self.expired) => Left::by(Void::Expire),
            () => Left::Whole,
        }
    }

    /// True while a sweep of this node has no number yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.removed.pending.load(Acquire) > 0 || self.expired.pending.load(Acquire) > 0
    }

    pub(crate) fn newest_local(&self) -> u64 {
        self.removed.local.load(Acquire).max(self.expired.local.load(Acquire))
    }

    pub(crate) fn newest_fleet(&self) -> u64 {
        self.removed.fleet.load(Acquire).max(self.expired.fleet.load(Acquire))
    }

    /// Takes over what another epoch says: its swath has become part of this one.
    pub(crate) fn absorb(&self, other: &Self) {
        self.floor.absorb(&other.floor);
        for how in [Void::Remove, Void::Expire] {
            let (from, to) = (other.of(how), self.of(how));
            to.local.fetch_max(from.local.load(Acquire), AcqRel);
            to.fleet.fetch_max(from.fleet.load(Acquire), AcqRel);
        }
    }
}
