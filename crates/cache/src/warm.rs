//! Filling a cache before it is needed, at a pace that the source can bear: from a list or a stream of keys, or from the
//! keys that were hot in the last run. Called by whoever starts a service.

use std::{
    collections::HashMap,
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream::Fuse};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};

use crate::{Cache, CacheKey, Load, LoadContext, hash::hash_of};

/// How fast a cache is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Keys in one batch, at most. Default 64.
    pub batch: usize,
    /// From the start of one batch to the start of the next, at least; a key waits no longer for others to come along.
    /// Default 10 ms.
    pub every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { batch: 64, every: Duration::from_millis(10) }
    }
}

/// How far warming has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Keys asked for.
    pub keys: u64,
    /// Of which there was a value.
    pub found: u64,
    /// Of which nobody could tell.
    pub failed: u64,
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// Loads the keys of a stream batch by batch, and tells how far it has got after each. What is there already is not
    /// loaded. Dropped at any point it leaves what it has done.
    ///
    /// `futures_util::stream::iter(keys)` makes a stream of a list.
    pub async fn warm<F, Fut, A, E>(
        &self,
        keys: impl Stream<Item = K> + Send,
        pace: Pace,
        load: F,
        mut told: impl FnMut(Progress) + Send,
    ) -> Progress
    where
        F: Fn(Vec<K>, LoadContext<V>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<A, E>>, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let mut progress = Progress::default();
        // An interval of zero is none: it would never tick.
        let mut beat = interval(pace.every.max(Duration::from_micros(1)));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut keys = pin!(keys.fuse());
        while let Some(batch) = gathered(keys.as_mut(), pace.batch, &mut beat).await {
            let answers = self.get_or_load_many(&batch, load.clone()).await;
            for answer in &answers {
                progress.keys += 1;
                match answer {
                    Ok(value) => progress.found += u64::from(value.is_some()),
                    Err(_) => progress.failed += 1,
                }
            }
            told(progress);
        }
        progress
    }

    /// The keys in process that are read most, by a sample of the hits, hottest first, as
    /// [`encode`](CacheKey::encode) spells them: to be kept over a restart and given to
    /// [`decode`](CacheKey::decode) and [`warm`](Self::warm). At most 512. Costs a walk through L1 that clones its
    /// entries one by one.
    pub fn hot_keys(&self, at_most: usize) -> Vec<bytes::Bytes> {
        let heat: HashMap<u64, u64> = self.store.heat.counts().into_iter().collect();
        let mut hot: Vec<(u64, bytes::Bytes)> = self
            .store
            .local
            .iter()
            .filter_map(|kept| {
                let count = heat.get(&hash_of(&kept.key))?;
                Some((*count, kept.key.encode()))
            })
            .collect();
        hot.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        hot.into_iter().take(at_most).map(|(_, key)| key).collect()
    }
}

/// The next batch, on the beat: what has come by then, or none once there are no more keys. Not `ready_chunks`: a
/// stream that has to work for each key, and does so only while it is polled, would give batches of one.
async fn gathered<K>(
    mut keys: Pin<&mut Fuse<impl Stream<Item = K>>>,
    keys_max: usize,
    beat: &mut Interval,
) -> Option<Vec<K>> {
    let mut batch = vec![keys.next().await?];
    // The beat alone may be overdue: by the time that the last batch took.
    let mut patience = pin!(sleep(beat.period()));
    while batch.len() < keys_max && !keys.is_done() {
        tokio::select! {
            // What is there goes along although it is time.
            biased;
            Some(key) = keys.next() => batch.push(key),
            () = &mut patience => break,
        }
    }
    beat.tick().await;
    Some(batch)
}

/// Slots of the sample.
const SLOTS: usize = 512;

/// Which hashes are hit often: a slot counts for its hash and against it when another one comes, and changes hands when
/// it is empty (Misra and Gries, 1982, with a slot by hash).
#[derive(Debug)]
pub(crate) struct Heat(Box<[(AtomicU64, AtomicU64)]>);

impl Heat {
    pub(crate) fn new() -> Self {
        Self((0..SLOTS).map(|_| (AtomicU64::new(0), AtomicU64::new(0))).collect())
    }

    /// One sampled hit. Races between threads lose a count, which a sample bears.
    pub(crate) fn record(&self, hash: u64) {
        let (known, count) = &self.0[usize::try_from(hash >> 30).unwrap_or(0) % SLOTS];
        if known.load(Relaxed) == hash {
            count.fetch_add(1, Relaxed);
        } else if count.load(Relaxed) == 0 {
            known.store(hash, Relaxed);
            count.store(1, Relaxed);
        } else {
            // Of two threads that take the last one, one is too late.
            let _too_late = count.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
        }
    }

    fn counts(&self) -> Vec<(u64, u64)> {
        let read = |slot: &(AtomicU64, AtomicU64)| (slot.0.load(Relaxed), slot.1.load(Relaxed));
        self.0.iter().map(read).filter(|(_, count)| *count > 0).collect()
    }
}
