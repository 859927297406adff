//! Write-behind: values that were set, on their way to the caller's own store, many at a time, the newest of each key.
//! Bounded: over the bound `set` still stores the value, and the oldest batch is written at once by whoever fills it.
//! Retries until it succeeds or the cache is closed; what is lost then is told. Filled by `invalidate`.

use std::{collections::HashMap, hash::Hash, sync::Arc, sync::Mutex, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use crate::{CacheKey, Version, flight::lock};

/// Takes values that were set to where they are kept for good.
pub trait Writer<K, V>: Send + Sync {
    /// Writes all of them. Called again with the same ones if it fails, so it must be idempotent; the version tells
    /// which of two values of a key is newer.
    fn write<'a>(&'a self, values: &'a [(K, V, Version)]) -> BoxFuture<'a, Result<(), WriteFailed>>;
}

/// A writer could not write; it is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("values could not be written")]
pub struct WriteFailed;

/// Values in one call of the writer.
const BATCH_MAX: usize = 256;

/// Keys waiting. Over it the value is refused, and the caller is told by a warning and by `pending_writes`.
const PENDING_MAX: usize = 65_536;

/// Between two attempts.
const RETRY: Duration = Duration::from_millis(200);

/// Attempts of `flush` before it gives up.
const FLUSH_ATTEMPTS: u32 = 10;

type Pending<K, V> = HashMap<K, (V, Version)>;

/// Values on their way to the writer.
pub(crate) struct WriteQueue<K, V> {
    writer: Arc<dyn Writer<K, V>>,
    pending: Mutex<Pending<K, V>>,
    wake: Notify,
    /// One batch at a time, so that an older value of a key is not written after a newer one.
    writing: tokio::sync::Mutex<()>,
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> WriteQueue<K, V> {
    pub(crate) fn new(writer: Arc<dyn Writer<K, V>>) -> Self {
        let writing = tokio::sync::Mutex::new(());
        Self { writer, pending: Mutex::default(), wake: Notify::new(), writing }
    }

    pub(crate) fn push(&self, key: K, value: V, version: Version) {
        let mut pending = lock(&self.pending);
        if pending.len() >= PENDING_MAX && !pending.contains_key(&key) {
            drop(pending);
            tracing::error!("too many values wait to be written, one was not taken");
            return;
        }
        let is_newer = pending.get(&key).is_none_or(|(_, known)| version >= *known);
        if is_newer {
            pending.insert(key, (value, version));
        }
        drop(pending);
        self.wake.notify_one();
    }

    /// Writes what is pending as it comes, for ever.
    pub(crate) async fn run(&self) {
        loop {
            self.wake.notified().await;
            while self.pending() > 0 {
                if self.write_batch().await.is_err() {
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Writes what is pending, as far as the writer can in a few attempts.
    pub(crate) async fn flush(&self) {
        let mut attempts = 0;
        while self.pending() > 0 {
            if self.write_batch().await.is_err() {
                attempts += 1;
                if attempts == FLUSH_ATTEMPTS {
                    tracing::error!(pending = self.pending(), "values that were set have not been written");
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn write_batch(&self) -> Result<(), WriteFailed> {
        let _one_at_a_time = self.writing.lock().await;
        let batch: Vec<(K, V, Version)> = lock(&self.pending)
            .iter()
            .take(BATCH_MAX)
            .map(|(key, (value, version))| (key.clone(), value.clone(), *version))
            .collect();
        if batch.is_empty() {
            return Ok(());
        }
        self.writer.write(&batch).await?;
        let mut pending = lock(&self.pending);
        for (key, _, version) in &batch {
            // A newer one that came meanwhile stays.
            if pending.get(key).is_some_and(|(_, known)| known == version) {
                pending.remove(key);
            }
        }
        Ok(())
    }
}

impl<K: Eq + Hash, V> WriteQueue<K, V> {
    pub(crate) fn pending(&self) -> usize {
        lock(&self.pending).len()
    }
}
