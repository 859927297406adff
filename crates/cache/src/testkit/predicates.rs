//! Voiding by a predicate in a simulation: of what the node has in process, what is meant is gone at once, and what is not meant is
//! served as before. What was being loaded there, about which nobody could be asked, is stored nowhere.
//! Called by the simulator's users; `reads` asks here whether a value should not have been stored.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, Mutex},
};

use rand::{RngExt, rngs::StdRng};
use tokio::task::JoinHandle;

use super::{
    demands::{Bar, order},
    simulator::{Node, World},
    source::Seen,
};
use crate::{Lookup, flight::lock, tier::Void};

/// The loaders' calls of all nodes, and which of them a predicate has overtaken.
#[derive(Debug, Default)]
pub(super) struct Loads(Mutex<Calls>);

#[derive(Debug, Default)]
struct Calls {
    last: u64,
    under_way: HashMap<u64, Call>,
    /// Of what was read by calls that have ended, by the tick of its reading, that of the predicate.
    overtaken: HashMap<u64, u64>,
}

#[derive(Debug)]
struct Call {
    origin: u64,
    /// The tick of the first predicate on its node since it began.
    overtaken: Option<u64>,
}

impl Loads {
    /// A node calls its loader. Gives the call's number.
    pub(super) fn begin(&self, origin: u64) -> u64 {
        let mut calls = lock(&self.0);
        calls.last += 1;
        let number = calls.last;
        calls.under_way.insert(number, Call { origin, overtaken: None });
        number
    }

    /// It gives these values.
    pub(super) fn end(&self, number: u64, read: impl IntoIterator<Item = Seen>) {
        let mut calls = lock(&self.0);
        let ended = calls.under_way.remove(&number);
        let Some(tick) = ended.and_then(|call| call.overtaken) else { return };
        calls.overtaken.extend(read.into_iter().map(|seen| (seen.read_tick, tick)));
    }

    /// Begins and ends a call around a load of one key.
    pub(super) async fn watched<E>(
        self: Arc<Self>,
        origin: u64,
        load: impl Future<Output = Result<Option<Seen>, E>>,
    ) -> Result<Option<Seen>, E> {
        let number = self.begin(origin);
        let loaded = load.await;
        self.end(number, loaded.iter().flatten().copied());
        loaded
    }

    /// Gives how many calls of this node there are that no predicate has overtaken yet.
    fn overtake(&self, origin: u64, tick: u64) -> u64 {
        let (mut calls, mut overtaken) = (lock(&self.0), 0);
        for call in calls.under_way.values_mut().filter(|call| call.origin == origin) {
            overtaken += u64::from(call.overtaken.is_none());
            call.overtaken.get_or_insert(tick);
        }
        overtaken
    }

    /// True if the value was being loaded when a predicate was asked for on that node, before this tick: it is stored nowhere, and who
    /// reads later on any node must not see it.
    pub(super) fn has_overtaken(&self, seen: Seen, begun_tick: u64) -> bool {
        lock(&self.0).overtaken.get(&seen.read_tick).is_some_and(|tick| *tick <= begun_tick)
    }
}

/// What a predicate means.
#[derive(Debug, Clone, Copy)]
enum Meant {
    Key(u64),
    EvenVersions,
    Everything,
    Nothing,
}

impl Meant {
    fn draw(keys: u64, dice: &mut StdRng) -> Self {
        let key = dice.random_range(0..keys);
        match dice.random_range(0..8) {
            0..3 => Self::Key(key),
            3..6 => Self::EvenVersions,
            6 => Self::Everything,
            _ => Self::Nothing,
        }
    }

    fn includes(self, key: u64, seen: Seen) -> bool {
        match self {
            Self::Key(meant) => key == meant,
            Self::EvenVersions => seen.version.is_multiple_of(2),
            Self::Everything => true,
            Self::Nothing => false,
        }
    }
}

impl World {
    /// Voids what a predicate means on this node, and sees at once whether that, and nothing else, is gone. Ends once the others were
    /// told, or were not in time.
    pub(super) fn void_by_predicate(&self, place: usize, dice: &mut StdRng) -> JoinHandle<()> {
        let (node, what) = (self.on(place), Meant::draw(self.plan.keys, dice));
        let known: Vec<Lookup<Seen>> = (0..self.plan.keys).map(|key| node.cache.lookup(&key)).collect();
        let tick = self.source.tick();
        let (meant, spared) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let confirmation = node.cache.invalidate_if(|key, seen| {
            let is_meant = what.includes(*key, *seen);
            if is_meant {
                meant.borrow_mut().push(*key);
            } else {
                spared.borrow_mut().push((*key, *seen));
            }
            is_meant
        });
        let overtaken = self.loads.overtake(node.origin, tick);
        let (meant, spared) = (meant.into_inner(), spared.into_inner());
        for key in &meant {
            let left = (node.cache.get(key), node.cache.get_stale(key), node.cache.lookup(key));
            assert_eq!(left, (None, None, Lookup::Miss), "seed {}: key {key}: {what:?}", self.plan.seed);
        }
        self.check_spared(&node, what, &known, &spared);
        let mut report = lock(&self.report);
        report.meant += meant.len() as u64;
        report.spared += spared.len() as u64;
        report.overtaken += overtaken;
        drop(report);
        // Nobody has numbered it: loads read where the last write is.
        let bar = |key| Bar { version: self.source.last_write(key, u64::MAX).0, tick };
        let demands: Vec<_> = meant.into_iter().map(|key| (key, bar(key))).collect();
        demands.iter().for_each(|(key, bar)| order(&node.told, *key, *bar, Void::Remove));
        self.watch(node.origin, confirmation, Void::Remove, demands)
    }

    /// What was served before, and was asked about and not meant, is served; that there is no such key is known as before.
    fn check_spared(&self, node: &Node, what: Meant, known: &[Lookup<Seen>], spared: &[(u64, Seen)]) {
        for (key, known) in (0..self.plan.keys).zip(known) {
            let is_left = match *known {
                Lookup::Hit(seen) if spared.contains(&(key, seen)) => {
                    // Twice: the second time it may be a copy of the thread's own.
                    [node.cache.get(&key), node.cache.get(&key)] == [Some(seen); 2]
                }
                Lookup::Absent => node.cache.lookup(&key) == Lookup::Absent,
                Lookup::Hit(_) | Lookup::Miss => true,
            };
            assert!(is_left, "seed {}: key {key}: {what:?} took {known:?}", self.plan.seed);
        }
    }
}
