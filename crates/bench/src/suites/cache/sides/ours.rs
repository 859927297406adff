//! Our side: with time to live, jitter, counters and the invalidation machinery on, as they always are.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Duration;

use paystrata_cache::{Cache, CacheBuilder, LoadContext, Policy, Version};

use super::Side;
use crate::suites::cache::keys::{MapKey, Value, values};

/// Longer than any run.
const TTL: Duration = Duration::from_secs(3_600);

/// Read by `get`.
pub(in crate::suites::cache) struct Ours<K> {
    pub(in crate::suites::cache) cache: Cache<K, Value>,
}

/// The same cache, read by `get_or_load`.
pub(in crate::suites::cache) struct Loading<K> {
    cache: Cache<K, Value>,
}

/// The same, with entries that have a tag and a version, after sweeps over others.
pub(in crate::suites::cache) struct Swept<K>(Ours<K>);

impl<K: MapKey> Swept<K> {
    /// Of another tag, of a prefix and of a pattern that no key has.
    pub(in crate::suites::cache) fn sweep_others(&self) {
        let cache = &self.0.cache;
        drop(cache.tag("another").remove());
        drop(cache.prefix("no key begins so").expire());
        drop(cache.pattern("*nor looks so*").remove());
    }
}

impl<K: MapKey> Side<K> for Swept<K> {
    const NAME: &'static str = "paystrata get, swept";

    fn build(entries_max: usize) -> anyhow::Result<Self> {
        Ours::build(entries_max).map(Self)
    }

    async fn insert(&self, key: K, value: Value) {
        drop(self.0.cache.set_tagged(key, value, Version(1), &["kept"]));
    }

    #[inline]
    async fn read(&self, probe: &K::Probe) -> bool {
        self.0.read(probe).await
    }
}

impl<K: MapKey> Ours<K> {
    pub(in crate::suites::cache) fn loading(&self) -> Loading<K> {
        Loading { cache: self.cache.clone() }
    }
}

fn builder<K: MapKey>(bytes_max: u64) -> CacheBuilder<K, Value> {
    Cache::builder("bench").policy(Policy {
        ttl: TTL,
        l1_ttl: TTL,
        l1_bytes_max: bytes_max,
        ..Policy::default()
    })
}

/// What the cache itself says that one entry weighs, so that a number of entries can be asked for.
fn entry_bytes<K: MapKey>() -> u64 {
    let cache = builder::<K>(1 << 20).build();
    drop(cache.set(K::of(0), values(1).remove(0), Version::NONE));
    cache.stats().bytes
}

impl<K: MapKey> Side<K> for Ours<K> {
    const NAME: &'static str = "paystrata get";

    fn build(entries_max: usize) -> anyhow::Result<Self> {
        let bytes_max = entry_bytes::<K>() * entries_max as u64;
        Ok(Self { cache: builder(bytes_max).build() })
    }

    async fn insert(&self, key: K, value: Value) {
        drop(self.cache.set(key, value, Version::NONE));
    }

    #[inline]
    async fn read(&self, probe: &K::Probe) -> bool {
        black_box(self.cache.get(probe)).is_some()
    }
}

impl<K: MapKey> Side<K> for Loading<K> {
    const NAME: &'static str = "paystrata get_or_load";

    fn build(entries_max: usize) -> anyhow::Result<Self> {
        Ok(Ours::build(entries_max)?.loading())
    }

    async fn insert(&self, key: K, value: Value) {
        drop(self.cache.set(key, value, Version::NONE));
    }

    #[inline]
    async fn read(&self, probe: &K::Probe) -> bool {
        // A load finds nothing: a read that is no hit shows.
        let load = |_: LoadContext<Value>| async { Ok::<_, Infallible>(None) };
        matches!(black_box(self.cache.get_or_load(probe, load).await), Ok(Some(_)))
    }
}
