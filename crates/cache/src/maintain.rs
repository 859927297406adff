//! Dropping what is over: entries that no read has come across since their time ended, or since a sweep made them void.
//! In small steps, each with the lock of one shard for one entry at a time. Called by hand, or by a task of the cache.

use std::{sync::Weak, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::Instrument;

use crate::{
    Cache, CacheKey, Maintenance,
    clock::beat,
    hash::{Probe, Stored},
    kept::Kept,
    life::Life,
    local::{Entry, Traits},
    spans,
    store::{Standing, Store},
};

/// Entries of one step: some 50 microseconds of one thread.
const STEP: u64 = 512;

/// Between two steps, so that a million entries are gone through in a few seconds and nobody notices.
const PAUSE: Duration = Duration::from_millis(1);

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// Drops what is in process and good for nothing any more, and tells how many entries that were. Reads do this for
    /// the keys they ask for; this does it for those that nobody asks for. Costs a walk through L1, with the lock of one
    /// of its shards at a time, without a pause; [`maintain`](Self::maintain) goes in steps.
    pub fn drop_expired(&self) -> u64 {
        let mut done = Maintenance::default();
        let store = &*self.store;
        store.local.iter().for_each(|kept| store.drop_if_over(&kept, &mut done));
        store
            .local
            .absences
            .iter()
            .for_each(|(key, entry)| store.drop_absence_if_over(&key, &entry, &mut done));
        done.entries + done.absences
    }

    /// As [`drop_expired`](Self::drop_expired), in steps of 512 entries with a millisecond in between. Dropped at any
    /// point it leaves what it has done. [`maintain_every`](crate::CacheBuilder::maintain_every) has the cache do it.
    pub async fn maintain(&self) -> Maintenance {
        self.store.maintain().await
    }
}

/// Goes through the cache again and again, until it is gone.
pub(crate) async fn run<K, V>(store: Weak<Store<K, V>>, every: Duration)
where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
{
    let mut beat = beat(every);
    loop {
        beat.tick().await;
        let Some(store) = store.upgrade() else { return };
        let done = store.maintain().await;
        store.observer.maintained(&store.name, &done);
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Store<K, V> {
    /// One round, whoever asks for it.
    async fn maintain(&self) -> Maintenance {
        let span = spans::maintain(&self.name);
        let done = self.walk().instrument(span.clone()).await;
        span.record("cache.keys", done.entries + done.absences);
        done
    }

    async fn walk(&self) -> Maintenance {
        let begun = Instant::now();
        let mut done = Maintenance::default();
        for kept in self.local.iter() {
            self.drop_if_over(&kept, &mut done);
            rest(done.seen).await;
        }
        for (key, entry) in self.local.absences.iter() {
            self.drop_absence_if_over(&key, &entry, &mut done);
            rest(done.seen).await;
        }
        Maintenance { took: begun.elapsed(), ..done }
    }

    fn drop_if_over(&self, seen: &Kept<K, V>, done: &mut Maintenance) {
        done.seen += 1;
        let life = seen.packed.life();
        // Only what was seen: a fresh value may have come in between. It is dropped here, without a lock.
        if self.is_over(&seen.key, &life, seen.packed.traits())
            && let Some(dropped) = self.local.reap(&Probe::of(&seen.key), &life)
        {
            done.entries += 1;
            done.bytes += dropped.packed.weight();
        }
    }

    fn drop_absence_if_over(&self, key: &Stored<K>, seen: &Entry<()>, done: &mut Maintenance) {
        done.seen += 1;
        let is_seen = |entry: &Entry<()>| entry.life == seen.life;
        if self.is_over(&key.0, &seen.life, seen.traits.as_deref())
            && self.local.absences.remove_if(&Probe::of(&key.0), is_seen).is_some()
        {
            done.absences += 1;
        }
    }

    fn is_over(&self, key: &K, life: &Life, traits: Option<&Traits>) -> bool {
        self.standing(|| key.encode(), life, traits) == Standing::Over
    }
}

async fn rest(seen: u64) {
    if seen.is_multiple_of(STEP) {
        sleep(PAUSE).await;
    }
}
