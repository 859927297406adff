//! Bare quick_cache with the hasher and the lock that it comes with: what our first tier stands on, and so the floor.

use std::hint::black_box;

use quick_cache::sync::Cache;

use super::Side;
use crate::suites::cache::keys::{MapKey, Value};

pub(in crate::suites::cache) struct Quick<K> {
    pub(in crate::suites::cache) cache: Cache<K, Value>,
}

impl<K: MapKey> Side<K> for Quick<K> {
    const NAME: &'static str = "quick_cache";

    fn build(entries_max: usize) -> anyhow::Result<Self> {
        Ok(Self { cache: Cache::new(entries_max) })
    }

    async fn insert(&self, key: K, value: Value) {
        self.cache.insert(key, value);
    }

    #[inline]
    async fn read(&self, probe: &K::Probe) -> bool {
        black_box(self.cache.get(probe)).is_some()
    }
}
