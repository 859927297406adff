//! moka, blocking and async, with ahash in the place of SipHash and without a time to live: it then reads fewer clocks.
//! And once with one, as every entry of ours has one.

use std::hint::black_box;
use std::time::Duration;

use ahash::RandomState;
use moka::{future, sync};

use super::Side;
use crate::suites::cache::keys::{MapKey, Value};

pub(in crate::suites::cache) struct MokaSync<K> {
    cache: sync::Cache<K, Value, RandomState>,
}

impl<K: MapKey> Side<K> for MokaSync<K> {
    const NAME: &'static str = "moka sync";

    fn build(entries_max: usize) -> anyhow::Result<Self> {
        let builder = sync::Cache::builder().max_capacity(entries_max as u64);
        Ok(Self { cache: builder.build_with_hasher(RandomState::new()) })
    }

    async fn insert(&self, key: K, value: Value) {
        self.cache.insert(key, value);
    }

    #[inline]
    async fn read(&self, probe: &K::Probe) -> bool {
        black_box(self.cache.get(probe)).is_some()
    }
}

pub(in crate::suites::cache) struct MokaTtl<K>(MokaSync<K>);

impl<K: MapKey> Side<K> for MokaTtl<K> {
    const NAME: &'static str = "moka sync ttl";

    fn build(entries_max: usize) -> anyhow::Result<Self> {
        let builder = sync::Cache::builder().max_capacity(entries_max as u64);
        let builder = builder.time_to_live(Duration::from_secs(3_600));
        Ok(Self(MokaSync { cache: builder.build_with_hasher(RandomState::new()) }))
    }

    async fn insert(&self, key: K, value: Value) {
        self.0.insert(key, value).await;
    }

    #[inline]
    async fn read(&self, probe: &K::Probe) -> bool {
        self.0.read(probe).await
    }
}

pub(in crate::suites::cache) struct MokaFuture<K> {
    pub(in crate::suites::cache) cache: future::Cache<K, Value, RandomState>,
}

impl<K: MapKey> Side<K> for MokaFuture<K> {
    const NAME: &'static str = "moka future";

    fn build(entries_max: usize) -> anyhow::Result<Self> {
        let builder = future::Cache::builder().max_capacity(entries_max as u64);
        Ok(Self { cache: builder.build_with_hasher(RandomState::new()) })
    }

    async fn insert(&self, key: K, value: Value) {
        self.cache.insert(key, value).await;
    }

    #[inline]
    async fn read(&self, probe: &K::Probe) -> bool {
        black_box(self.cache.get(probe).await).is_some()
    }
}
