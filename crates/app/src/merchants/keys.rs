//! API keys to merchants, through a small cache: a revoked key is refused within its time to live, counted from when the
//! replica that was asked had the revocation; a made-up one costs one query per few seconds. Holds digests only.

use std::sync::Arc;
use std::time::Duration;

use paystrata_cache::{Cache, CacheError, Observer, Policy, Stats};
use paystrata_db::{Db, Error};
use uuid::Uuid;

use super::store::{find_merchant_by_key, key_digest};
use crate::config::Profile;
use crate::ids::MerchantId;

/// How long a revoked key may still be accepted, beside the lag of a replica; chance adds a tenth.
const REVOCATION_LAG: Duration = Duration::from_secs(10);
/// Room for about 60,000 keys.
const BYTES_MAX: u64 = 4 << 20;

/// The keys of this service.
#[derive(Debug)]
pub struct Keys {
    cache: Cache<[u8; 32], [u8; 16]>,
    profile: Profile,
}

impl Keys {
    /// With nothing cached.
    #[must_use]
    pub fn new(profile: Profile, observer: Arc<dyn Observer>) -> Self {
        let policy = Policy {
            ttl: REVOCATION_LAG,
            l1_ttl: REVOCATION_LAG,
            negative_ttl: Duration::from_secs(2),
            l1_bytes_max: BYTES_MAX,
            ..Policy::default()
        };
        Self { cache: Cache::builder("api-keys").policy(policy).observer(observer).build(), profile }
    }

    /// Figures of the cache.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.cache.stats()
    }

    /// The merchant that the key belongs to.
    ///
    /// # Errors
    /// The database could not be asked.
    pub async fn merchant_of(&self, db: &Db, key: &str) -> Result<Option<MerchantId>, CacheError<Error>> {
        // The development key may stand in a database that was copied from a developer's machine.
        let known = Profile::Development.known_api_key();
        if self.profile != Profile::Development && known == Some(key) {
            return Ok(None);
        }
        let digest = key_digest(key);
        let db = db.clone();
        let found = self.cache.get_or_load(&digest, move |_| async move {
            // Given back before another is asked for: without a replica both are the primary's.
            let mut merchant = find_merchant_by_key(&db.read().await?, &digest).await?;
            if merchant.is_none() {
                // A key made a moment ago may not have reached the replicas.
                merchant = find_merchant_by_key(&db.write().await?, &digest).await?;
            }
            Ok::<_, Error>(merchant.map(Uuid::into_bytes))
        });
        Ok(found.await?.map(|bytes| MerchantId(Uuid::from_bytes(bytes))))
    }
}
