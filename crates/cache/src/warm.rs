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

use crate::{Cache, CacheKey, Load, LoadContext, hash::hash_of, life::ENDLESS};

/// How fast a cache is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Keys in one batch, at most; zero counts as one. Default 64.
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
        // An interval of zero is none: it would never tick. What is endless would be no instant.
        let mut beat = interval(pace.every.clamp(Duration::from_micros(1), ENDLESS));
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
        let heat = self.store.heat.counts();
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
            key = keys.next() => match key {
                Some(key) => batch.push(key),
                None => break,
            },
            () = &mut patience => break,
        }
    }
    beat.tick().await;
    Some(batch)
}

/// Places of the sample. A power of two.
const PLACES: u64 = 512;

/// Which hashes are hit often: a place counts for its hash and against it when another one comes, and changes hands when
/// it is empty (Misra and Gries, 1982, with places by hash). Each hash has two, and comes against the colder one: of two that
/// are hit alike and have one place between them, neither would be found.
#[derive(Debug)]
pub(crate) struct Heat(Box<[Place]>);

#[derive(Debug, Default)]
struct Place {
    hash: AtomicU64,
    count: AtomicU64,
}

impl Heat {
    pub(crate) fn new() -> Self {
        Self((0..PLACES).map(|_| Place::default()).collect())
    }

    /// One sampled hit. Races between threads lose a count, which a sample bears.
    pub(crate) fn record(&self, hash: u64) {
        let [one, other] = self.places(hash);
        if let Some(own) = [one, other].into_iter().find(|place| place.hash.load(Relaxed) == hash) {
            own.count.fetch_add(1, Relaxed);
            return;
        }
        let colder = if other.count.load(Relaxed) < one.count.load(Relaxed) { other } else { one };
        if colder.count.load(Relaxed) == 0 {
            colder.hash.store(hash, Relaxed);
            colder.count.store(1, Relaxed);
        } else {
            // Of two threads that take the last one, one is too late.
            let _too_late = colder.count.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1));
        }
    }

    /// Two of them, whatever the hash: what differs by one bit or more is another place.
    fn places(&self, hash: u64) -> [&Place; 2] {
        let one = (hash >> 30) % PLACES;
        let other = one ^ (1 + (hash >> 39) % (PLACES - 1));
        [one, other].map(|place| &self.0[usize::try_from(place).unwrap_or(0)])
    }

    fn counts(&self) -> HashMap<u64, u64> {
        let mut counts = HashMap::new();
        for place in &self.0 {
            let count = place.count.load(Relaxed);
            if count > 0 {
                // Two threads may have given one hash both of its places.
                *counts.entry(place.hash.load(Relaxed)).or_default() += count;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash with this place, and another that differs from it by these bits.
    fn hash(place: u64, bits: u64) -> u64 {
        (place << 30) | ((bits - 1) << 39)
    }

    #[test]
    fn keys_that_are_hit_alike_and_share_a_place_or_two_are_both_found() {
        for pair in [
            // The first place of both; that of one and the second of the other; both places.
            [hash(5, 2), hash(5, 3)],
            [hash(5, 2), hash(7, 4)],
            [hash(5, 2), hash(7, 2)],
        ] {
            let heat = Heat::new();
            (0..100).for_each(|_| pair.iter().for_each(|hash| heat.record(*hash)));
            assert_eq!(heat.counts(), HashMap::from(pair.map(|hash| (hash, 100))));
        }
    }

    #[test]
    fn third_key_takes_the_colder_of_two_places_once_it_is_hit_more_often() {
        let heat = Heat::new();
        let [hot, cooling, coming] = [0, 1, 2].map(|key| hash(5, 2) + key);
        (0..100).for_each(|_| heat.record(hot));
        (0..10).for_each(|_| heat.record(cooling));
        (0..9).for_each(|_| heat.record(coming));
        assert_eq!(heat.counts(), HashMap::from([(hot, 100), (cooling, 1)]));
        (0..11).for_each(|_| heat.record(coming));
        assert_eq!(heat.counts(), HashMap::from([(hot, 100), (coming, 10)]));
    }

    #[test]
    fn every_hash_has_two_places() {
        let heat = Heat::new();
        for place in 0..PLACES {
            for bits in 1..PLACES {
                let [one, other] = heat.places(hash(place, bits));
                assert!(!std::ptr::eq(one, other), "{place} {bits}");
            }
        }
    }
}
