//! Results of reads that are kept for a while: which reads, of which tables, for how long, and what a write makes void. What
//! keeps them is a [`ResultCache`], a port that the composing application fills; nothing here keeps anything.
//! Called by whoever reads the same again and again.
//!
//! ```no_run
//! use std::sync::Arc;
//! use std::time::Duration;
//! use paystrata_db::results::{QueryCache, ResultCache, ResultOptions};
//! use paystrata_db::{Db, Error, Statement, TransactionOptions, Type};
//!
//! static NAME: Statement = Statement::new("SELECT name FROM city WHERE id = $1", &[Type::INT8]);
//! static RENAME: Statement = Statement::new("UPDATE city SET name = $2 WHERE id = $1", &[Type::INT8, Type::TEXT]);
//!
//! # async fn run(db: Db, cache: Arc<dyn ResultCache>) -> Result<(), Box<dyn std::error::Error>> {
//! let cached = QueryCache::new(&db, cache);
//! let names = cached.query(&NAME, &["city"], ResultOptions::living(Duration::from_secs(60)), |rows| {
//!     rows.first().map(|row| row.try_get::<_, String>(0)).transpose()
//! })?;
//! names.get(&[&7_i64]).await?; // from the database
//! names.get(&[&7_i64]).await?; // from the cache
//! let renamed = cached.transaction(TransactionOptions::default(), &["city"], |tx| async move {
//!     tx.execute(&RENAME, &[&7_i64, &"Ghent"]).await
//! });
//! let token = renamed.await?.token;
//! names.get(&[&7_i64]).await?; // sees the write, here
//! names.get_after(token, &[&7_i64]).await?; // and on any node
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//!
//! - **A write that goes through [`QueryCache::transaction`] is seen by every read that begins after it has returned**, on this node, and on
//!   every other that the cache behind the port tells. A commit whose outcome is not known voids too; so does a future that is dropped.
//! - **A read with a token never gets a result from before it**, on any node: each result knows a position in the log that it contains.
//! - **A failed read is not kept**, and what is past its life is served only where [`ResultOptions::stale_if_error`] says so.
//!
//! What changes a table without telling (another program, a trigger, a cascade to a table that was not named) is seen when the result's life ends.
//!
//! # What it costs
//!
//! A result that is kept costs what the port's cache costs. Any other costs one round trip more than the query: it asks for the position first.

mod encoded;
mod query;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::error::Error;
use crate::token::Token;

pub use query::{Cached, CachedQuery, QueryCache};

/// What keeps results. All of it is for whoever writes one; readers use [`QueryCache`].
///
/// An implementation
/// - runs one load of a key at a time, and gives its result or its error to everybody who waits for it; keeps no error;
/// - gives no result whose load began before a table of it was voided, once [`ResultCache::invalidate`] has returned, and has later
///   loads reach what was written;
/// - gives no result whose [`CachedResult::as_of`] is before [`ResultRequest::after`], a stale one included;
/// - keeps a result no longer than its options say, and all results within a bound of bytes.
pub trait ResultCache: Send + Sync + fmt::Debug {
    /// The result of a key: a kept one, or what the load gives.
    fn get_or_load(&self, request: ResultRequest) -> BoxFuture<'_, Result<ResultAnswer, ResultError>>;

    /// Voids every result that reads one of these tables. What has to be done on this node is done when it returns.
    fn invalidate(&self, tables: &[&str], written: Written);
}

type Load = dyn Fn(Option<Token>) -> BoxFuture<'static, Result<CachedResult, ResultError>> + Send + Sync;

/// What is asked of a [`ResultCache`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ResultRequest {
    /// Query and values. Unlike for any two that differ.
    pub key: Vec<u8>,
    /// The result must contain everything up to here.
    pub after: Option<Token>,
    /// The tables that the query reads.
    pub tables: &'static [&'static str],
    /// For how long.
    pub options: ResultOptions,
    /// How to load it.
    pub load: ResultLoad,
}

/// Runs the query; again each time it is asked.
#[derive(Clone)]
pub struct ResultLoad(Arc<Load>);

/// A result, of whichever type its query has. Cheap to clone.
#[derive(Clone)]
pub struct CachedResult {
    value: Arc<dyn Any + Send + Sync>,
    /// What its rows weighed on the wire.
    pub bytes: usize,
    /// It contains everything up to here, and perhaps more.
    pub as_of: Token,
}

/// What a [`ResultCache`] answers.
#[derive(Clone, Debug)]
pub struct ResultAnswer {
    /// The result.
    pub result: CachedResult,
    /// It is past its life, and is given because the load failed.
    pub is_stale: bool,
}

/// Up to where the loads that follow an invalidation must read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The write's own token.
    At(Token),
    /// Nobody knows; loads go to the primary for a while.
    Unknown,
}

/// For how long results are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResultOptions {
    /// Served so long after their load.
    pub ttl: Duration,
    /// Served for so much longer if the load that is to follow fails, flagged as stale, unless a table was written. Zero: not at all.
    pub stale_if_error: Duration,
}

/// Why a read gave nothing. Shared by all who waited for a load, so it is cheap to clone.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// The query failed.
    #[error("cached read")]
    Database(#[source] Arc<Error>),
    /// The rows could not be read as the query's type.
    #[error("read the rows of a cached read")]
    Decode(#[source] Arc<tokio_postgres::Error>),
    /// A value does not fit its parameter's type. Nothing was sent.
    #[error("value {position} of a cached read does not fit its parameter")]
    Value {
        /// Which, from 1.
        position: usize,
    },
    /// As many loads run and wait as may. Nothing was sent.
    #[error("too many cached reads wait for the database")]
    Overloaded,
    /// The load took longer than its callers wait. It goes on.
    #[error("a cached read was not answered in time")]
    TimedOut,
    /// The load ended without an answer: its runtime was shut down, or reading a row panicked.
    #[error("the load of a cached read was given up")]
    GivenUp,
}

impl From<Error> for ResultError {
    fn from(error: Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl ResultOptions {
    /// Served so long after the load, and never past that.
    #[must_use]
    pub const fn living(ttl: Duration) -> Self {
        Self { ttl, stale_if_error: Duration::ZERO }
    }
}

impl ResultLoad {
    /// What the load gives; this is also how tests of a [`ResultCache`] make one.
    pub fn new<F, Fut>(load: F) -> Self
    where
        F: Fn(Option<Token>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<CachedResult, ResultError>> + Send + 'static,
    {
        Self(Arc::new(move |floor| Box::pin(load(floor))))
    }

    /// Runs the query on a server that has reached `floor`, and what the request asks for besides.
    pub fn run(&self, floor: Option<Token>) -> BoxFuture<'static, Result<CachedResult, ResultError>> {
        (self.0)(floor)
    }
}

impl CachedResult {
    /// A result that contains everything up to `as_of`.
    #[must_use]
    pub fn new<V: Send + Sync + 'static>(value: V, bytes: usize, as_of: Token) -> Self {
        Self { value: Arc::new(value), bytes, as_of }
    }

    /// The value, if it is of this type.
    #[must_use]
    pub fn value<V: Send + Sync + 'static>(&self) -> Option<Arc<V>> {
        Arc::clone(&self.value).downcast().ok()
    }

    /// Whether a reader who brings this token may have it.
    #[must_use]
    pub fn contains(&self, after: Option<Token>) -> bool {
        after.is_none_or(|after| self.as_of >= after)
    }
}

impl fmt::Debug for ResultLoad {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ResultLoad").finish_non_exhaustive()
    }
}

// The value may be anything, also what nobody may see.
impl fmt::Debug for CachedResult {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CachedResult")
            .field("bytes", &self.bytes)
            .field("as_of", &self.as_of)
            .finish_non_exhaustive()
    }
}
