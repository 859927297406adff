//! What reads must not see any more after a change: by node, from what it was told, and for everybody, from what was
//! announced. The books of the simulator's checker; runs nothing.

use std::{collections::HashMap, sync::Mutex};

use tokio::time::Instant;

use super::source::{Seen, tags};
use crate::{
    CacheKey, Invalidation,
    backplane::{Mark, Swath},
    flight::lock,
    patterns,
    tier::Void,
};

/// What must not be seen any more: versions below, and what was read at or before the tick.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bar {
    pub(super) version: u64,
    pub(super) tick: u64,
}

impl Bar {
    pub(super) fn raise(&mut self, other: Self) {
        self.version = self.version.max(other.version);
        self.tick = self.tick.max(other.tick);
    }

    pub(super) fn admits(self, seen: Seen) -> bool {
        seen.version >= self.version && (self.tick == 0 || seen.read_tick > self.tick)
    }
}

/// What changes demand, by key.
#[derive(Debug, Default)]
pub(super) struct Demands {
    removed: HashMap<u64, Bar>,
    expired: HashMap<u64, Bar>,
}

/// What one node has been told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By the line, and by its own calls.
    pub(super) all: Demands,
    /// By its own calls.
    pub(super) ordered: Demands,
}

impl Demands {
    fn raise(&mut self, key: u64, bar: Bar, how: Void) {
        let bars = match how {
            Void::Remove => &mut self.removed,
            Void::Expire => &mut self.expired,
        };
        bars.entry(key).or_default().raise(bar);
    }

    /// Of what must be gone, and of what must be gone or flagged.
    pub(super) fn of(&self, key: u64) -> (Bar, Bar) {
        let removed = self.removed.get(&key).copied().unwrap_or_default();
        let mut expired = self.expired.get(&key).copied().unwrap_or_default();
        expired.raise(removed);
        (removed, expired)
    }
}

/// What the line has taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Announced {
    pub(super) at: Instant,
    pub(super) origin: u64,
    pub(super) key: u64,
    pub(super) bar: Bar,
    pub(super) how: Void,
}

/// A change that its announcement does not name, because nobody has numbered it or another has its number. The others were told
/// of it by the time that its node knew so.
#[derive(Debug, Clone, Copy)]
struct Confirmed {
    /// The last announcement by then: whoever has heard all up to it was told.
    last: Mark,
    key: u64,
    bar: Bar,
    how: Void,
}

/// Changes by the version that names them: the key that was written, and what they demand.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) by_version: HashMap<u64, (u64, Bar)>,
    pub(super) announced: Vec<Announced>,
    /// The mark of the last of them.
    pub(super) last: Mark,
    confirmed: Vec<Confirmed>,
    /// By key, the newest value that its node was to write and took along.
    pub(super) lost: HashMap<u64, u64>,
}

impl Changes {
    /// What the change demands of a key: of another one than was written, only that it be read after it.
    pub(super) fn bar(&self, version: u64, key: u64) -> Bar {
        match self.by_version.get(&version) {
            Some((written, bar)) if *written == key => *bar,
            Some((_, bar)) => Bar { version: 0, ..*bar },
            None => Bar::default(),
        }
    }

    /// The others have been told by now of what this demands of each key.
    pub(super) fn confirm(&mut self, origin: u64, how: Void, demands: &[(u64, Bar)]) {
        let (at, last) = (Instant::now(), self.last);
        for (key, bar) in demands.iter().copied() {
            self.announced.push(Announced { at, origin, key, bar, how });
            self.confirmed.push(Confirmed { last, key, bar, how });
        }
    }

    /// Notes what a node was told of them that has heard the line up to here, without a gap.
    pub(super) fn tell_confirmed(&self, told: &Mutex<Told>, heard: Mark) {
        let was_told = |confirmed: &&Confirmed| {
            heard.incarnation != 0
                && heard.incarnation == confirmed.last.incarnation
                && heard.sequence >= confirmed.last.sequence
        };
        for confirmed in self.confirmed.iter().filter(was_told) {
            tell(told, confirmed.key, confirmed.bar, confirmed.how);
        }
    }
}

/// The keys that a sweep goes over, of those there are.
pub(super) fn covered(swath: &Swath, keys: u64) -> Vec<u64> {
    let glob = patterns::glob_of(swath);
    let is_covered = |key: &u64| match swath {
        Swath::Tag(_) if glob.is_some() => glob.as_ref().is_some_and(|glob| glob.covers(&key.encode())),
        Swath::All => true,
        Swath::Prefix(prefix) => key.encode().starts_with(prefix),
        Swath::Tag(tag) => tags(*key).iter().any(|own| **own == **tag),
    };
    (0..keys).filter(is_covered).collect()
}

/// By a call of the node's own.
pub(super) fn order(told: &Mutex<Told>, key: u64, bar: Bar, how: Void) {
    let mut told = lock(told);
    told.all.raise(key, bar, how);
    told.ordered.raise(key, bar, how);
}

/// By the line.
pub(super) fn tell(told: &Mutex<Told>, key: u64, bar: Bar, how: Void) {
    lock(told).all.raise(key, bar, how);
}

/// What an announcement voids, of the keys there are: key, version, how.
pub(super) fn orders(change: &Invalidation, keys: u64) -> Vec<(u64, u64, Void)> {
    let named = change
        .keys
        .iter()
        .filter_map(|order| u64::decode(&order.key).map(|key| (key, order.version.0, order.how)));
    let swept = change.sweeps.iter().flat_map(|order| {
        covered(&order.swath, keys).into_iter().map(|key| (key, order.version.0, order.how))
    });
    named.chain(swept).collect()
}
