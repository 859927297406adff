//! multi-tier-cache with one tier, its quick_cache backend, which is the faster of those it has. It knows string keys and
//! bytes only.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multi_tier_cache::{CacheManager, CacheStrategy, CacheTier, QuickCacheBackend};

use super::Side;
use crate::suites::cache::keys::Value;

pub(in crate::suites::cache) struct MultiTier {
    manager: CacheManager,
}

impl Side<String> for MultiTier {
    const NAME: &'static str = "multi-tier-cache";

    fn build(entries_max: usize) -> anyhow::Result<Self> {
        let backend = Arc::new(QuickCacheBackend::new(entries_max as u64)?);
        let tier = CacheTier::new(backend, 1, false, 1, 1.0);
        Ok(Self { manager: CacheManager::new_with_tiers(vec![tier], None)? })
    }

    async fn insert(&self, key: String, value: Value) {
        let strategy = CacheStrategy::Custom(Duration::from_secs(3_600));
        // A value that is not stored shows as a miss when it is read.
        let _ = self.manager.set_with_strategy(&key, Bytes::copy_from_slice(&*value), strategy).await;
    }

    #[inline]
    async fn read(&self, probe: &str) -> bool {
        matches!(black_box(self.manager.get(probe).await), Ok(Some(_)))
    }
}
