//! The read path: rendered accounts and payments behind the cache. Every commit voids what it changed before its
//! callers are answered, and a later load must come from a node that has replayed that commit. What was read in another
//! history of the database is void, too: a failover or a restore may have taken it back, and the shared tier outlives both.
//! Balances that decide anything are never read here: the engine reads its own, under lock. And who brings a token reads past all of
//! this: a document does not know up to where it was read, and a token, which may be of a lost write or made up, is no reason to
//! have others wait for its load, or share its error.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join;
use paystrata_cache::memcached::MemcachedTier;
use paystrata_cache::{
    Cache, CacheError, CacheKey, LoadContext, Observer, Policy, Reach, Readiness, RedisTier, Stats,
    TierOptions, Version,
};
use paystrata_db::{Db, History, Token, is_write_lost, read_from_floor};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::accounts::store::AccountReadError;
use crate::engine::{Changed, Commit, EngineObserver, Notice, OperationError};
use crate::ids::{AccountId, MerchantId, PaymentId};

/// Bytes of bookkeeping counted per document beside its body.
const OVERHEAD_BYTES: usize = 96;

/// Of the digest: two bodies of one resource meet by chance never.
const ETAG_BYTES: usize = 16;

/// How often what was read in a history that has ended is voided before the cache is passed by.
const ATTEMPTS_MAX: usize = 3;

/// How soon the memory of what nobody reads any more is given back.
const MAINTENANCE: Duration = Duration::from_secs(60);

/// Notices of this node's own that may wait to be deleted: half a megabyte. Those over it are found by their age.
const OWED_MAX: usize = 32_768;

type AccountKey = [u8; 16];
/// Owner and id: what another merchant is denied must not be cached as absent for the owner.
type PaymentKey = [u8; 32];

/// A resource as JSON, with what is needed to serve it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Who may see it.
    pub merchant_id: Uuid,
    /// Changes whenever the body does: a digest of it. A version would not do, because another history may give the same
    /// one to something else.
    pub etag: String,
    /// The JSON.
    pub body: Vec<u8>,
    /// Where it was read, if it is kept: cluster and timeline. `None` while that was not known.
    history: Option<(u64, u32)>,
}

impl Document {
    /// To be served, and perhaps kept.
    #[must_use]
    pub fn new(merchant_id: Uuid, body: Vec<u8>) -> Self {
        let digest = Sha256::digest(&body);
        let mut etag = String::with_capacity(2 * ETAG_BYTES);
        for byte in &digest[..ETAG_BYTES] {
            // Writing to a string does not fail.
            let _written = write!(etag, "{byte:02x}");
        }
        Self { merchant_id, etag, body, history: None }
    }

    /// Whether it was read in a history that has ended since. One that this process has not seen yet is as good as the present.
    fn is_of_the_past(&self, present: Option<History>) -> bool {
        let (Some((system_id, timeline)), Some(present)) = (self.history, present) else { return false };
        system_id != present.system_id || timeline < present.timeline
    }
}

/// What nodes share in front of the database.
#[derive(Clone, Debug)]
pub struct SharedTiers {
    /// Read first, and the line on which nodes tell each other what is void.
    pub redis: RedisTier,
    /// Read for what Redis does not have.
    pub memcached: Option<MemcachedTier>,
    /// What one call of either may take, the wait for its turn included.
    pub timeout: Duration,
}

/// How documents are cached.
#[derive(Clone, Debug)]
pub struct DocumentsConfig {
    /// Over both kinds.
    pub memory_bytes_max: u64,
    /// In every tier.
    pub ttl: Duration,
    /// Without word from other nodes; where there is none at all, no entry lives longer.
    pub max_stale: Duration,
}

/// What is read most, the hottest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HotKeys {
    /// Accounts.
    pub accounts: Vec<AccountId>,
    /// Payments, each with its owner.
    pub payments: Vec<(MerchantId, PaymentId)>,
}

/// The caches of the read path.
#[derive(Debug)]
pub struct Documents {
    accounts: Cache<AccountKey, Arc<Document>>,
    payments: Cache<PaymentKey, Arc<Document>>,
    timeline: Arc<Timeline>,
    told: Told,
    /// Notices of this node's commits whose changes have been voided here.
    owed: Mutex<Vec<Uuid>>,
}

/// Where the positions are that void documents. A node that commits nothing itself, too, is told of positions, and has to
/// look for replicas that have reached them.
#[derive(Debug)]
struct Timeline {
    db: Db,
    /// The newest that a commit of this node was made on.
    committed: AtomicU32,
}

impl Timeline {
    fn newest(&self) -> u32 {
        self.present().map_or(0, |history| history.timeline)
    }

    /// The newest history that this node knows of.
    fn present(&self) -> Option<History> {
        let seen = self.db.history()?;
        Some(History { timeline: seen.timeline.max(self.committed.load(Ordering::Relaxed)), ..seen })
    }
}

impl Documents {
    /// Caches in process, and in the tiers that are given, of what `db` has.
    #[must_use]
    pub fn new(
        config: &DocumentsConfig,
        db: &Db,
        tiers: Option<&SharedTiers>,
        observer: impl Fn(&str) -> Arc<dyn Observer>,
    ) -> Self {
        Self {
            accounts: build("accounts", config, tiers, observer("accounts")),
            payments: build("payments", config, tiers, observer("payments")),
            timeline: Arc::new(Timeline { db: db.clone(), committed: AtomicU32::new(0) }),
            told: Told::by(tiers),
            owed: Mutex::default(),
        }
    }

    /// An account, loaded by `load` on a miss from a node that has reached the given token.
    ///
    /// # Errors
    /// The loader's, or the cache's bounds.
    pub async fn account<F, Fut>(&self, id: Uuid, load: F) -> Result<Option<Arc<Document>>, ReadError>
    where
        F: Fn(Option<Token>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<Option<Document>, AccountReadError>> + Send + 'static,
    {
        find(&self.accounts, id.as_bytes(), &self.timeline, load).await
    }

    /// A payment; as [`Self::account`].
    ///
    /// # Errors
    /// The loader's, or the cache's bounds.
    pub async fn payment<F, Fut>(
        &self,
        merchant: MerchantId,
        id: Uuid,
        load: F,
    ) -> Result<Option<Arc<Document>>, ReadError>
    where
        F: Fn(Option<Token>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<Option<Document>, OperationError>> + Send + 'static,
    {
        find(&self.payments, &payment_key(merchant.0, id), &self.timeline, load).await
    }

    fn void(&self, accounts: &[Uuid], payments: &[(Uuid, Uuid)], version: Version) {
        // The part on this node is done when these return; the rest is told to other nodes behind.
        drop(self.accounts.invalidate_many(accounts.iter().map(Uuid::as_bytes), version));
        let payments: Vec<PaymentKey> =
            payments.iter().map(|(merchant, id)| payment_key(*merchant, *id)).collect();
        drop(self.payments.invalidate_many(payments.iter(), version));
    }

    /// Whether other nodes are told of what this one voids.
    #[must_use]
    pub fn are_shared(&self) -> bool {
        self.told == Told::OfOthers
    }

    /// Voids what notices are about, of whichever node, and has the others told.
    pub fn void_noticed(&self, notices: &[Notice]) {
        for notice in notices {
            match &notice.changed {
                Changed::Rows { accounts, payments } => self.void(accounts, payments, Version(notice.lsn)),
                Changed::Anything => self.void_all(Version(notice.lsn)),
            }
        }
    }

    /// By prefix, because it is because of writes that loads must not come before.
    fn void_all(&self, version: Version) {
        drop(self.accounts.prefix("").at(version).remove());
        drop(self.payments.prefix("").at(version).remove());
    }

    /// True once all that was voided here before has been announced; false if that takes longer than two seconds.
    pub async fn is_all_announced(&self) -> bool {
        let (accounts, payments) = (self.accounts.confirm(), self.payments.confirm());
        let (accounts, payments) = join(accounts.into_future(), payments.into_future()).await;
        accounts != Reach::Queued && payments != Reach::Queued
    }

    /// The notices of this node's own commits that can be deleted once [`Self::is_all_announced`] says so.
    #[must_use]
    pub fn owed(&self) -> Vec<Uuid> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first of the owed notices, so many, are deleted.
    pub fn paid(&self, count: usize) {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let count = count.min(owed.len());
        drop(owed.drain(..count));
    }

    /// Figures of both caches, by name.
    #[must_use]
    pub fn stats(&self) -> [(&'static str, Stats); 2] {
        [("accounts", self.accounts.stats()), ("payments", self.payments.stats())]
    }

    /// Of both caches, by name, whether what they share with other nodes is there. Asks no server.
    #[must_use]
    pub fn readiness(&self) -> [(&'static str, Readiness); 2] {
        [("accounts", self.accounts.readiness()), ("payments", self.payments.readiness())]
    }

    /// Waits until what the caches share with other nodes is there, for `limit` at most, and says whether it is. What is loaded
    /// before may be dropped when it comes up.
    pub async fn ready(&self, limit: Duration) -> bool {
        let (accounts, payments) = join(self.accounts.ready(limit), self.payments.ready(limit)).await;
        accounts.is_ok() && payments.is_ok()
    }

    /// What is read most on this node, by a sample of the hits; so many of each kind at most. Costs a walk through what is in
    /// process.
    #[must_use]
    pub fn hot_keys(&self, at_most: usize) -> HotKeys {
        let (accounts, payments) = (self.accounts.hot_keys(at_most), self.payments.hot_keys(at_most));
        let accounts = accounts.iter().filter_map(|key| AccountKey::decode(key));
        let payments = payments.iter().filter_map(|key| PaymentKey::decode(key));
        HotKeys {
            accounts: accounts.map(|key| AccountId(Uuid::from_bytes(key))).collect(),
            payments: payments.map(owner_and_id).collect(),
        }
    }

    /// Tells other nodes what is still to be told, and stops.
    pub async fn close(&self) {
        self.accounts.close().await;
        self.payments.close().await;
    }
}

/// From the cache, or loaded; never what was read in a history that this node knows to have ended.
async fn find<K, F, Fut, E>(
    cache: &Cache<K, Arc<Document>>,
    key: &K,
    timeline: &Arc<Timeline>,
    load: F,
) -> Result<Option<Arc<Document>>, ReadError>
where
    K: CacheKey,
    F: Fn(Option<Token>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<Option<Document>, E>> + Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    for _ in 0..ATTEMPTS_MAX {
        let (reading, load) = (Arc::clone(timeline), load.clone());
        let loader = move |context: LoadContext<Arc<Document>>| async move {
            // Before anything is read: if the history ends meanwhile, the document is of the past at once.
            let history = reading.present().map(|history| (history.system_id, history.timeline));
            let found = read_from_floor(floor_token(&context, &reading), load).await?;
            Ok::<_, E>(found.map(|document| Arc::new(Document { history, ..document })))
        };
        let found = cache.get_or_load(key, loader).await.map_err(ReadError::cached)?;
        match &found {
            // Here, in the shared tier, and on other nodes, which may not have seen the new history yet.
            Some(document) if document.is_of_the_past(timeline.present()) => {
                drop(cache.invalidate(key));
            }
            _ => return Ok(found),
        }
    }
    // A node that still sees the history before goes on sharing what it reads there.
    load(None).await.map(|found| found.map(Arc::new)).map_err(|error| ReadError::Failed(Box::new(error)))
}

fn build<K: CacheKey>(
    name: &str,
    config: &DocumentsConfig,
    tiers: Option<&SharedTiers>,
    observer: Arc<dyn Observer>,
) -> Cache<K, Arc<Document>> {
    let policy = policy(config, Told::by(tiers));
    let builder =
        Cache::builder(name).policy(policy).observer(observer).maintain_every(MAINTENANCE).weigher(
            |_, document: &Arc<Document>| document.body.len() + document.etag.len() + OVERHEAD_BYTES,
        );
    let Some(SharedTiers { redis, memcached, timeout }) = tiers else { return builder.build() };
    let options = TierOptions { timeout: *timeout, ..TierOptions::default() };
    let redis = Arc::new(redis.clone());
    let builder = builder.tier_with(Arc::<RedisTier>::clone(&redis), options.clone()).backplane(redis);
    match memcached {
        Some(memcached) => builder.tier_with(Arc::new(memcached.clone()), options).build(),
        None => builder.build(),
    }
}

/// Whether this node hears of what others write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    OfOthers,
    Nothing,
}

impl Told {
    fn by(tiers: Option<&SharedTiers>) -> Self {
        tiers.map_or(Self::Nothing, |_| Self::OfOthers)
    }
}

fn policy(config: &DocumentsConfig, told: Told) -> Policy {
    let usual = Policy::default();
    // Without word from others the life of an entry is all that bounds how old it gets, and chance lengthens it.
    let life_max = match told {
        Told::OfOthers => Duration::MAX,
        Told::Nothing => config.max_stale.div_f64(1.0 + usual.jitter),
    };
    let ttl = config.ttl.min(life_max);
    Policy {
        ttl,
        l1_ttl: ttl,
        negative_ttl: usual.negative_ttl.min(life_max),
        l1_bytes_max: config.memory_bytes_max / 2,
        max_stale: config.max_stale,
        ..usual
    }
}

fn payment_key(merchant: Uuid, id: Uuid) -> PaymentKey {
    let mut key = [0; 32];
    key[..16].copy_from_slice(merchant.as_bytes());
    key[16..].copy_from_slice(id.as_bytes());
    key
}

/// What [`payment_key`] has put together.
fn owner_and_id(key: PaymentKey) -> (MerchantId, PaymentId) {
    let half = |from: usize| Uuid::from_bytes(std::array::from_fn(|at| key[from + at]));
    (MerchantId(half(0)), PaymentId(half(16)))
}

/// The node a load must read from: one that has reached the write that last voided the key, or any when nothing ever
/// did. "The latest" is a position of the far future, which only the primary may answer.
fn floor_token(context: &LoadContext<Arc<Document>>, timeline: &Timeline) -> Option<Token> {
    match context.floor() {
        Version::NONE => None,
        Version(lsn) => Some(Token { timeline: timeline.newest(), lsn }),
    }
}

impl EngineObserver for Documents {
    fn committed(&self, commit: &Commit) {
        self.timeline.committed.fetch_max(commit.token.timeline, Ordering::Relaxed);
        self.void(&commit.accounts, &commit.payments, Version(commit.token.lsn));
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        if owed.len() < OWED_MAX {
            owed.extend(commit.notice);
        }
    }

    fn doubted(&self, commit: &Commit) {
        // Where it would be is not known: loads ask the primary for a while.
        self.void(&commit.accounts, &commit.payments, Version::LATEST);
    }

    fn all_doubted(&self) {
        self.void_all(Version::LATEST);
    }
}

/// Why a document could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Too many loads, or one took too long: try again.
    #[error("read is overloaded")]
    Overloaded,
    /// A failover of the database has lost the write that the caller's token stands for, or may have.
    #[error("the write of the token is lost")]
    WriteLost,
    /// The database, or a row that this version does not understand.
    #[error("load document")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ReadError {
    /// An account that was read past the cache.
    pub fn account(error: AccountReadError) -> Self {
        Self::past_the_cache(error)
    }

    /// A payment that was read past the cache.
    pub fn payment(error: OperationError) -> Self {
        Self::past_the_cache(error)
    }

    fn past_the_cache(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        if is_write_lost(&error) { Self::WriteLost } else { Self::Failed(Box::new(error)) }
    }

    fn cached<E: std::error::Error + Send + Sync + 'static>(error: CacheError<E>) -> Self {
        if error.is_retryable() { Self::Overloaded } else { Self::Failed(Box::new(error)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_failover_has_lost_is_not_waited_for_by_those_who_have_no_token() {
        let written = Token { timeline: 1, lsn: 600 };
        let load = async |after: Option<Token>| match after {
            Some(token) if token == written => {
                let fork = Token { timeline: 2, lsn: 500 };
                Err(AccountReadError::Database(paystrata_db::Error::WriteLost { token, fork }))
            }
            after => Ok(after),
        };
        assert_eq!(read_from_floor(None, load).await.unwrap(), None);
        let latest = Token { timeline: 1, lsn: u64::MAX };
        assert_eq!(read_from_floor(Some(written), load).await.unwrap(), Some(latest));
        assert!(read_from_floor(Some(written.latest()), load).await.is_ok());
    }
}
