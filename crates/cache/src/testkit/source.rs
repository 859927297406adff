//! The truth of a simulation: what was committed, what a lagging replica shows of it, and who loads it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{LoadContext, Version, flight::lock};

/// What the source holds of a key: the version of its last write that the reader saw, and when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Of the last write.
    pub version: u64,
    /// In ticks, which are in the order of all that happens in the simulation.
    pub read_tick: u64,
}

/// What a write leaves of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Something,
    /// It deleted the key.
    Nothing,
}

/// The truth: writes in commit order, and a replica that lags behind. Each key was there before the first of them.
#[derive(Debug, Default)]
pub struct Source {
    /// By key, in the order of their versions.
    writes: Mutex<HashMap<u64, Vec<(u64, Left)>>>,
    pub(super) version: AtomicU64,
    pub(super) replayed: AtomicU64,
    tick: AtomicU64,
}

impl Source {
    /// Reads as a good loader does: from the replica if it has replayed `floor`, else from the primary. Nothing if the last
    /// write that is visible there deleted the key.
    pub fn read(&self, key: u64, floor: Version) -> Option<Seen> {
        let replayed = self.replayed.load(SeqCst);
        let visible = if Version(replayed) >= floor { replayed } else { u64::MAX };
        let (version, left) = self.last_write(key, visible);
        let seen = Seen { version, read_tick: self.tick() };
        (left == Left::Something).then_some(seen)
    }

    /// The last write of a key up to that version, and what it left of the key.
    pub(super) fn last_write(&self, key: u64, visible: u64) -> (u64, Left) {
        let writes = lock(&self.writes);
        let mut versions = writes.get(&key).into_iter().flatten();
        versions.rfind(|(version, _)| *version <= visible).copied().unwrap_or((0, Left::Something))
    }

    /// True if there was no such key at some time from `version` on.
    pub(super) fn was_absent_since(&self, key: u64, version: u64) -> bool {
        self.last_write(key, version).1 == Left::Nothing || self.was_deleted_after(key, version)
    }

    /// True if a later write than `version` deleted the key.
    pub(super) fn was_deleted_after(&self, key: u64, version: u64) -> bool {
        let writes = lock(&self.writes);
        let mut later = writes.get(&key).into_iter().flatten().filter(|(later, _)| *later > version);
        later.any(|(_, left)| *left == Left::Nothing)
    }

    pub(super) fn commit(&self, key: u64, left: Left) -> u64 {
        let mut writes = lock(&self.writes);
        let version = self.number();
        writes.entry(key).or_default().push((version, left));
        version
    }

    /// The version of a write that is yet to come.
    pub(super) fn number(&self) -> u64 {
        self.version.fetch_add(1, SeqCst) + 1
    }

    /// Commits what was numbered before, in its place: where something newer is there, nobody sees it but on a replica that has not
    /// got so far. One that has got beyond the number shows it at once, since a number that was given early says nothing of a place
    /// in a log.
    pub(super) fn commit_late(&self, key: u64, version: u64) {
        let mut writes = lock(&self.writes);
        let of_key = writes.entry(key).or_default();
        let place = of_key.partition_point(|(known, _)| *known < version);
        if of_key.get(place).is_none_or(|(known, _)| *known != version) {
            of_key.insert(place, (version, Left::Something));
        }
    }

    pub(super) fn tick(&self) -> u64 {
        self.tick.fetch_add(1, SeqCst) + 1
    }

    /// The last tick so far.
    pub(super) fn now(&self) -> u64 {
        self.tick.load(SeqCst)
    }
}

/// A loader did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the simulated source failed")]
pub struct SimulationError;

/// A loader to be run in the simulation: the rule by which yours reads, around the source it is given.
///
/// The checker must know what each answer reflects, so keys are `u64`, values are [`Seen`], and they come from [`Source`]: your
/// statements, types and codec cannot be run here. What can be run is
///
/// - where it reads for a [floor](LoadContext::floor): [`Source::read`] with that floor is a good loader, with
///   [`Version::NONE`] one that takes whatever the replica shows, with [`Version::LATEST`] one that always asks the primary;
/// - what it says to its context: a lifetime, a grace, or that the answer is not to be stored. It has to put the tags on it that
///   [`HonestLoader`] puts, because the simulation sweeps by them. One call may load a batch, whose keys share one context
///   here: a version or a validator would be said of all of them;
/// - how it waits (on Tokio's clock, which is paused: the runtime has no I/O), and how it fails.
///
/// It cannot answer [`Load::NotModified`](crate::Load::NotModified). To test a loader as it is, build caches of your own on a
/// [`Site`](super::Site).
pub trait SimulatedLoader: Send + Sync + 'static {
    /// Loads one key. Called for each key of a batch, one after the other.
    fn load(
        &self,
        key: u64,
        context: LoadContext<Seen>,
        source: Arc<Source>,
    ) -> BoxFuture<'static, Result<Option<Seen>, SimulationError>>;
}

/// Reads what the floor demands, and puts two tags on the answer: `key:<key>` and `odd` or `even`.
#[derive(Debug, Clone, Copy, Default)]
pub struct HonestLoader;

impl SimulatedLoader for HonestLoader {
    fn load(
        &self,
        key: u64,
        context: LoadContext<Seen>,
        source: Arc<Source>,
    ) -> BoxFuture<'static, Result<Option<Seen>, SimulationError>> {
        Box::pin(async move {
            for tag in tags(key) {
                context.tag(tag);
            }
            Ok(source.read(key, context.floor()))
        })
    }
}

/// The tags that an honest loader puts on a key.
pub(super) fn tags(key: u64) -> [String; 2] {
    [format!("key:{key}"), if key.is_multiple_of(2) { "even".to_owned() } else { "odd".to_owned() }]
}
