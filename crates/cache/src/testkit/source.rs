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

/// The truth: versions of writes in commit order, and a replica that lags behind.
#[derive(Debug, Default)]
pub struct Source {
    /// By key, the versions of its writes.
    writes: Mutex<HashMap<u64, Vec<u64>>>,
    pub(super) version: AtomicU64,
    pub(super) replayed: AtomicU64,
    tick: AtomicU64,
}

impl Source {
    /// Reads as a good loader does: from the replica if it has replayed `floor`, else from the primary.
    pub fn read(&self, key: u64, floor: Version) -> Seen {
        let replayed = self.replayed.load(SeqCst);
        let visible = if Version(replayed) >= floor { replayed } else { u64::MAX };
        let writes = lock(&self.writes);
        let versions = writes.get(&key).into_iter().flatten();
        let version = versions.filter(|version| **version <= visible).max().copied().unwrap_or(0);
        Seen { version, read_tick: self.tick() }
    }

    pub(super) fn commit(&self, key: u64) -> u64 {
        let version = self.version.fetch_add(1, SeqCst) + 1;
        lock(&self.writes).entry(key).or_default().push(version);
        version
    }

    pub(super) fn tick(&self) -> u64 {
        self.tick.fetch_add(1, SeqCst) + 1
    }
}

/// A loader did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the simulated source failed")]
pub struct SimulationError;

/// A loader to be run in the simulation: yours, around the source it is given.
pub trait SimulatedLoader: Send + Sync + 'static {
    /// Loads one key.
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
            Ok(Some(source.read(key, context.floor())))
        })
    }
}

/// The tags that an honest loader puts on a key.
pub(super) fn tags(key: u64) -> [String; 2] {
    [format!("key:{key}"), if key.is_multiple_of(2) { "even".to_owned() } else { "odd".to_owned() }]
}
