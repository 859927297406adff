//! The end of a simulation: all is mended and quiet, and every node comes to see the last write of every key, at once if it is
//! told of them. Called by the simulator.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    reads::{Effort, Fails},
    simulator::{SLACK, World},
    source::Seen,
};
use crate::{Loaded, Policy, Version, flight::lock};

/// Longer than a load, a wait for another node and a trip to a tier together: by then, what was under way has ended.
const AFTERMATH: Duration = Duration::from_millis(200);

/// Longer than the longest pause of anything that is tried again.
const SETTLING: Duration = Duration::from_millis(1_500);

impl World {
    /// What a reader sees who is not content with a fallback, in a few attempts. The answer may be that there is no such key.
    async fn read_fresh(&self, node: usize, key: u64) -> Option<Option<Seen>> {
        let policy = Policy { soft_timeout: Duration::MAX, ..self.plan.policy.clone() };
        let on = self.on(node);
        let patient = on.cache.under(&Arc::new(policy));
        for _ in 0..10 {
            let effort = Effort { pauses_us: (0, 0), fails: Fails::No };
            match self.read_entry(&on, &patient, key, effort).await {
                Some(Loaded { value, is_stale: false, .. }) => return Some(value),
                _ => sleep(SLACK).await,
            }
        }
        None
    }

    /// True if the newest value of a key was taken along by the node that was to write it. A tier may have it, the source may have
    /// been given it at the last moment, and nobody was told either way.
    fn is_lost(&self, key: u64) -> bool {
        let lost = lock(&self.changes).lost.get(&key).copied();
        lost.is_some_and(|lost| self.source.last_write(key, u64::MAX).0 <= lost)
    }

    /// What a node has yet to write, if anything.
    fn unwritten(&self) -> Option<String> {
        (0..self.plan.nodes).find_map(|index| {
            let node = self.on(index);
            self.check_books(&node);
            let waiting = node.books.waiting();
            (!waiting.is_empty()).then(|| format!("node {index} has {waiting:?} to write"))
        })
    }

    /// What a node has not got right, if anything: a value that it has not written, a change that it has not told, or a key that it
    /// reads wrongly.
    async fn fault(&self) -> Option<String> {
        if let Some(unwritten) = self.unwritten() {
            return Some(unwritten);
        }
        for index in 0..self.plan.nodes {
            let pending = self.on(index).cache.stats().pending_invalidations;
            if pending > 0 {
                return Some(format!("node {index} has {pending} changes to tell"));
            }
        }
        for (node, key) in
            (0..self.plan.nodes).flat_map(|node| (0..self.plan.keys).map(move |key| (node, key)))
        {
            let last = self.source.read(key, Version::LATEST).map(|seen| seen.version);
            let read = self.read_fresh(node, key).await;
            let is_last = read.map(|seen| seen.map(|seen| seen.version)) == Some(last);
            if !is_last && !self.is_lost(key) {
                return Some(format!("node {node} reads {read:?} for version {last:?} of key {key}"));
            }
        }
        None
    }

    /// When all is mended and quiet, every node sees the last write of every key: at once if it is told of them.
    pub(super) async fn check_convergence(&self) {
        for node in (0..self.plan.nodes).map(|node| self.on(node)) {
            node.link.mend();
            node.far.mend();
            node.books.mend();
        }
        self.source.replayed.store(self.source.version.load(SeqCst), SeqCst);
        sleep(AFTERMATH).await;
        if !self.plan.has_line {
            // Nobody is told of what is written later than this.
            let last_attempt = Instant::now() + SETTLING;
            while let Some(fault) = self.unwritten() {
                assert!(
                    Instant::now() < last_attempt,
                    "seed {}: {fault}, though all is mended",
                    self.plan.seed
                );
                sleep(SLACK).await;
            }
            sleep(self.plan.policy.ttl.max(self.plan.policy.negative_ttl)).await;
        }
        let last_attempt = Instant::now() + SETTLING;
        while let Some(fault) = self.fault().await {
            assert!(Instant::now() < last_attempt, "seed {}: {fault}, though all is mended", self.plan.seed);
            sleep(SLACK).await;
        }
    }
}
