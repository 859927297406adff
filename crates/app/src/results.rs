//! Keeps results of reads in a cache of this process: the port of the data layer, joined to `paystrata-cache`. Tables are
//! tags, tokens are versions. Other nodes are not told: they see a write through a token, or when a result's life ends.
//! Given to a `QueryCache` by whoever reads the same again and again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use paystrata_cache::{Cache, CacheError, Clock, LoadContext, Observer, Policy, Stats, Version};
use paystrata_db::results::{CachedResult, ResultAnswer, ResultCache, ResultError, ResultRequest, Written};
use paystrata_db::{Db, Token, read_from_floor};

/// Bytes of bookkeeping counted per result beside its rows and its key.
const OVERHEAD_BYTES: usize = 128;
/// After a load that failed: how long a stale result is given before the database is asked again.
const STALE_PAUSE: Duration = Duration::from_secs(1);

/// The names of both caches, in figures and traces.
const KEPT: &str = "results";
const CATCHING_UP: &str = "results-after";

/// A key, and the token that a kept result was too old for.
type Catch = (Vec<u8>, (u32, u64));

/// Results in process.
#[derive(Debug)]
pub struct Results {
    db: Db,
    kept: Cache<Vec<u8>, CachedResult>,
    /// Keeps nothing: of all who need a result from after the same token, one loads it. It is a cache of its own because its loads
    /// wait for loads of the other, and two that wait for each other's room would never end.
    catching_up: Cache<Catch, CachedResult>,
}

impl Results {
    /// With room for so many bytes, as they come from the server.
    #[must_use]
    pub fn new(db: &Db, bytes_max: u64, clock: Clock) -> Self {
        Self::observed(db, bytes_max, clock, |_| Arc::new(Unobserved))
    }

    /// As [`Self::new`]; what happens in each of the caches is told to the observer that is given for its name.
    #[must_use]
    pub fn observed(
        db: &Db,
        bytes_max: u64,
        clock: Clock,
        observer: impl Fn(&str) -> Arc<dyn Observer>,
    ) -> Self {
        let policy = Policy {
            // Each result says its own.
            ttl: Duration::MAX,
            l1_ttl: Duration::MAX,
            jitter: 0.0,
            grace: Duration::ZERO,
            grace_backoff: STALE_PAUSE,
            // A failed query is asked again by the next one who wants it.
            error_ttl: Duration::ZERO,
            l1_bytes_max: bytes_max,
            ..Policy::default()
        };
        let nothing = Policy { ttl: Duration::ZERO, l1_ttl: Duration::ZERO, ..policy };
        let weigh = |key: &[u8], result: &CachedResult| key.len() + result.bytes + OVERHEAD_BYTES;
        Self {
            db: db.clone(),
            kept: Cache::builder(KEPT)
                .policy(policy)
                .clock(clock)
                .observer(observer(KEPT))
                .weigher(move |key: &Vec<u8>, result| weigh(key, result))
                .build(),
            catching_up: Cache::builder(CATCHING_UP)
                .policy(nothing)
                .clock(clock)
                .observer(observer(CATCHING_UP))
                .weigher(move |(key, _): &Catch, result| weigh(key, result))
                .build(),
        }
    }

    /// Figures of both caches, by name: of what is kept, and of loads for readers whose token it was too old for.
    #[must_use]
    pub fn stats(&self) -> [(&'static str, Stats); 2] {
        [(KEPT, self.kept.stats()), (CATCHING_UP, self.catching_up.stats())]
    }

    async fn answer(&self, request: ResultRequest) -> Result<ResultAnswer, ResultError> {
        let found = self.kept.get_or_load_entry(&request.key, loader(&self.db, &request)).await;
        let found = found.map_err(said)?;
        match found.value {
            Some(result) if result.contains(request.after) => {
                Ok(ResultAnswer { result, is_stale: found.is_stale })
            }
            _ => self.catch_up(request).await,
        }
    }

    /// Loads what is kept anew, because it is older than the reader's token; also where it was only given for want of a better one.
    async fn catch_up(&self, request: ResultRequest) -> Result<ResultAnswer, ResultError> {
        let after = request.after.map_or((0, 0), |token| (token.timeline, token.lsn));
        let catch = (request.key.clone(), after);
        let (db, kept) = (self.db.clone(), self.kept.clone());
        let caught = self.catching_up.get_or_load(&catch, move |_| async move {
            let reloaded = kept.reload(&request.key, loader(&db, &request)).await;
            reloaded.map_err(said)
        });
        let result = caught.await.map_err(said)?.ok_or(ResultError::GivenUp)?;
        Ok(ResultAnswer { result, is_stale: false })
    }
}

/// Of caches whose loads nobody measures.
#[derive(Debug)]
struct Unobserved;

impl Observer for Unobserved {}

impl ResultCache for Results {
    fn get_or_load(&self, request: ResultRequest) -> BoxFuture<'_, Result<ResultAnswer, ResultError>> {
        self.answer(request).boxed()
    }

    fn invalidate(&self, tables: &[&str], written: Written) {
        let version = match written {
            Written::At(token) => Version(token.lsn),
            Written::Unknown => Version::LATEST,
        };
        for table in tables {
            // Done on this node when it returns, and there is nobody else to be told.
            drop(self.kept.tag(table).at(version).remove());
        }
    }
}

/// Loads the result from a server that has reached what was written, and says how long it lives and what makes it void.
fn loader(
    db: &Db,
    request: &ResultRequest,
) -> impl FnOnce(LoadContext<CachedResult>) -> BoxFuture<'static, Result<CachedResult, ResultError>> + Send + 'static
{
    let (db, load) = (db.clone(), request.load.clone());
    let (tables, options) = (request.tables, request.options);
    move |context| {
        async move {
            let floor = match context.floor() {
                Version::NONE => None,
                Version(lsn) => Some(Token { timeline: db.timeline(), lsn }),
            };
            let result = read_from_floor(floor, |floor| load.run(floor)).await?;
            context.ttl(options.ttl).grace(options.stale_if_error);
            for table in tables {
                context.tag(table);
            }
            Ok(result)
        }
        .boxed()
    }
}

fn said(error: CacheError<ResultError>) -> ResultError {
    match error {
        CacheError::Load(error) => (*error).clone(),
        CacheError::Timeout { .. } => ResultError::TimedOut,
        CacheError::Overloaded => ResultError::Overloaded,
        CacheError::LoadElsewhere | CacheError::Panicked | CacheError::Unanswered | CacheError::Stopped => {
            ResultError::GivenUp
        }
    }
}
