//! foyer's in-process cache with S3-FIFO, whose reads need no exclusive lock, and ahash. A read gives a counted handle,
//! so the value itself is not cloned.

use std::hint::black_box;

use ahash::RandomState;
use foyer_memory::{Cache, CacheBuilder, S3FifoConfig};

use super::Side;
use crate::suites::cache::keys::{MapKey, Value};

pub(in crate::suites::cache) struct Foyer<K: MapKey> {
    pub(in crate::suites::cache) cache: Cache<K, Value, RandomState>,
}

impl<K: MapKey> Side<K> for Foyer<K> {
    const NAME: &'static str = "foyer";

    fn build(entries_max: usize) -> anyhow::Result<Self> {
        let builder = CacheBuilder::new(entries_max)
            .with_eviction_config(S3FifoConfig::default())
            .with_hash_builder(RandomState::new());
        Ok(Self { cache: builder.build() })
    }

    async fn insert(&self, key: K, value: Value) {
        drop(self.cache.insert(key, value));
    }

    #[inline]
    async fn read(&self, probe: &K::Probe) -> bool {
        black_box(self.cache.get(probe)).is_some()
    }
}
