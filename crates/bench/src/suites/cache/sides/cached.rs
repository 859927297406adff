//! `cached`, two of its sharded stores: the bounded one, and the one with a time to live, which has no bound but reads
//! under a shared lock. The faster of the two in a case is the one that counts.

use std::hint::black_box;
use std::time::Duration;

use cached::{ShardedLruCache, ShardedTtlCache};

use super::Side;
use crate::suites::cache::keys::{MapKey, Value};

pub(in crate::suites::cache) struct CachedLru<K> {
    cache: ShardedLruCache<K, Value>,
}

impl<K: MapKey> Side<K> for CachedLru<K> {
    const NAME: &'static str = "cached lru";

    fn build(entries_max: usize) -> anyhow::Result<Self> {
        Ok(Self { cache: ShardedLruCache::new(entries_max) })
    }

    async fn insert(&self, key: K, value: Value) {
        drop(self.cache.set(key, value));
    }

    #[inline]
    async fn read(&self, probe: &K::Probe) -> bool {
        black_box(self.cache.get(probe)).is_some()
    }
}

pub(in crate::suites::cache) struct CachedTtl<K> {
    cache: ShardedTtlCache<K, Value>,
}

impl<K: MapKey> Side<K> for CachedTtl<K> {
    const NAME: &'static str = "cached ttl";

    fn build(_entries_max: usize) -> anyhow::Result<Self> {
        Ok(Self { cache: ShardedTtlCache::new(Duration::from_secs(3_600)) })
    }

    async fn insert(&self, key: K, value: Value) {
        drop(self.cache.set(key, value));
    }

    #[inline]
    async fn read(&self, probe: &K::Probe) -> bool {
        black_box(self.cache.get(probe)).is_some()
    }
}
