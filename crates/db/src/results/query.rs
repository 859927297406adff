//! Reads through a [`ResultCache`], and writes that void what they change before they return.
//! Decides which server a load reads from and up to where its result reaches; keeps nothing itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postgres_types::ToSql;
use tokio_postgres::Row;

use super::encoded::{Encoded, encode, key};
use super::{
    CachedResult, ResultAnswer, ResultCache, ResultError, ResultLoad, ResultOptions, ResultRequest, Written,
};
use crate::connection::{Connection, Values};
use crate::db::Db;
use crate::error::Error;
use crate::statement::Statement;
use crate::token::{Token, parse_lsn};
use crate::transaction::{Committed, Transaction, TransactionError, TransactionOptions};

/// A position up to which everything is seen by the statement after it. A replica sees what it has replayed. The primary
/// may have logged a commit that it does not show yet, but never one whose token was given out; such a token is not
/// before this position, and may equal it, hence the byte that is taken off.
static POSITION: Statement = Statement::new(
    "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() - 1 END::text",
    &[],
);

/// Tables of one query at most.
const TABLES_MAX: usize = 32;

/// Reads and writes with a [`ResultCache`] between. Cheap to clone.
#[derive(Clone, Debug)]
pub struct QueryCache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Db,
    cache: Arc<dyn ResultCache>,
    /// Numbers queries, so that the keys of two never meet.
    queries: AtomicU64,
}

type Decode<V> = Arc<dyn Fn(&[Row]) -> Result<V, tokio_postgres::Error> + Send + Sync>;

/// One query whose results are kept, of type `V`. Made once and kept, as a [`Loader`](crate::Loader) is: two that are made alike share
/// no results. Cheap to clone.
pub struct CachedQuery<V> {
    cache: QueryCache,
    number: u64,
    statement: &'static Statement,
    tables: &'static [&'static str],
    options: ResultOptions,
    decode: Decode<V>,
}

/// A result and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Cached<V> {
    /// What the query's function made of the rows.
    pub value: Arc<V>,
    /// It contains everything up to here, and perhaps more.
    pub as_of: Token,
    /// It is past its life, and is given because the database could not be asked.
    pub is_stale: bool,
}

/// Voids when dropped, unless nothing was written.
struct Voiding<'a> {
    cache: &'a dyn ResultCache,
    tables: &'a [&'a str],
    written: Option<Written>,
}

impl QueryCache {
    /// Reads of `db` through `cache`.
    #[must_use]
    pub fn new(db: &Db, cache: Arc<dyn ResultCache>) -> Self {
        Self { inner: Arc::new(Inner { db: db.clone(), cache, queries: AtomicU64::new(0) }) }
    }

    /// A query whose results are kept. `tables` are all that it reads, by the names that writes say; those below a view among them.
    /// `decode` makes of the rows what is kept; it need not keep the rows.
    ///
    /// # Errors
    /// [`Error::Settings`] without a table, with more than 32, or with a life of zero.
    pub fn query<V: Send + Sync + 'static>(
        &self,
        statement: &'static Statement,
        tables: &'static [&'static str],
        options: ResultOptions,
        decode: impl Fn(&[Row]) -> Result<V, tokio_postgres::Error> + Send + Sync + 'static,
    ) -> Result<CachedQuery<V>, Error> {
        if tables.is_empty() || tables.len() > TABLES_MAX {
            return Err(Error::Settings { problem: "tables of a cached query must be 1 to 32" });
        }
        if options.ttl == Duration::ZERO {
            return Err(Error::Settings { problem: "ttl of a cached query must not be zero" });
        }
        let number = self.inner.queries.fetch_add(1, Ordering::Relaxed);
        Ok(CachedQuery { cache: self.clone(), number, statement, tables, options, decode: Arc::new(decode) })
    }

    /// As [`Db::transaction`], and when it returns every result that reads one of `tables` is void, unless nothing was committed. A
    /// commit whose outcome is not known voids too, and so does a future that is dropped, as of then: a commit that was sent by that time may
    /// come later.
    ///
    /// # Errors
    /// As [`Db::transaction`].
    pub async fn transaction<T, E, F, Fut>(
        &self,
        options: TransactionOptions,
        tables: &[&str],
        work: F,
    ) -> Result<Committed<T>, TransactionError<E>>
    where
        F: Fn(Transaction) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut voiding = Voiding { cache: &*self.inner.cache, tables, written: Some(Written::Unknown) };
        let outcome = self.inner.db.transaction(options, work).await;
        voiding.written = match &outcome {
            Ok(committed) => Some(Written::At(committed.token)),
            Err(error) if error.outcome_is_unknown() => Some(Written::Unknown),
            Err(_) => None,
        };
        drop(voiding);
        outcome
    }

    /// Voids every result that reads one of `tables`, because of a write that did not come through here: a
    /// [`Batcher`](crate::Batcher)'s, with its token.
    pub fn invalidate(&self, tables: &[&str], written: Written) {
        self.inner.cache.invalidate(tables, written);
    }
}

impl<V: Send + Sync + 'static> CachedQuery<V> {
    /// The result for these values: as old as its life allows, but from after every write that this node was told of.
    ///
    /// # Errors
    /// See [`ResultError`].
    pub async fn get(&self, values: Values<'_>) -> Result<Cached<V>, ResultError> {
        self.ask(None, values).await
    }

    /// The result for these values, everything up to `token` included, whatever this node was told.
    ///
    /// # Errors
    /// See [`ResultError`].
    pub async fn get_after(&self, token: Token, values: Values<'_>) -> Result<Cached<V>, ResultError> {
        self.ask(Some(token), values).await
    }

    async fn ask(&self, after: Option<Token>, values: Values<'_>) -> Result<Cached<V>, ResultError> {
        let values = encode(self.statement, values)?;
        let key = key(self.number, &values);
        let load = self.load(after, values.into());
        let request = ResultRequest { key, after, tables: self.tables, options: self.options, load };
        let ResultAnswer { result, is_stale } = self.cache.inner.cache.get_or_load(request).await?;
        let value = result.value().ok_or(ResultError::GivenUp)?;
        Ok(Cached { value, as_of: result.as_of, is_stale })
    }

    fn load(&self, after: Option<Token>, values: Arc<[Encoded]>) -> ResultLoad {
        let (db, statement, decode) = (self.cache.inner.db.clone(), self.statement, Arc::clone(&self.decode));
        ResultLoad::new(move |floor| {
            let (db, decode, values) = (db.clone(), Arc::clone(&decode), Arc::clone(&values));
            async move {
                let wanted = floor.max(after);
                let read = db.read_with(wanted, |connection| {
                    let values = Arc::clone(&values);
                    async move { read(&connection, statement, &values).await }
                });
                let (as_of, rows) = read.await?;
                let value = decode(&rows).map_err(|error| ResultError::Decode(Arc::new(error)))?;
                let bytes = rows.iter().map(Row::raw_size_bytes).sum();
                // What was asked for is there, as far as there is such a position: tokens come from callers.
                let reached = [floor, after].into_iter().flatten().filter(|token| is_reached(*token, as_of));
                Ok(CachedResult::new(value, bytes, reached.fold(as_of, Token::max)))
            }
        })
    }
}

/// Whether the server that had all up to `as_of` had what the token stands for: a position says one byte less than is there.
fn is_reached(token: Token, as_of: Token) -> bool {
    token.timeline <= as_of.timeline && token.lsn <= as_of.lsn.saturating_add(1)
}

/// The rows, and a position that they contain.
async fn read(
    connection: &Connection,
    statement: &Statement,
    values: &[Encoded],
) -> Result<(Token, Vec<Row>), Error> {
    let unknown = || Error::UnknownForm { node: connection.node().clone(), what: "the log position" };
    // As of before the position, like the position as of before the rows: a server that is promoted meanwhile has more than it says.
    let timeline = connection.subscribe().borrow().facts.map_or(0, |facts| facts.timeline);
    let position = connection.query_one(&POSITION, &[]).await?;
    let lsn = position.try_get(0).ok().and_then(parse_lsn).ok_or_else(unknown)?;
    let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
    Ok((Token { timeline, lsn }, connection.query(statement, &values).await?))
}

impl Drop for Voiding<'_> {
    fn drop(&mut self) {
        if let Some(written) = self.written {
            self.cache.invalidate(self.tables, written);
        }
    }
}

impl<V> Clone for CachedQuery<V> {
    fn clone(&self) -> Self {
        Self { cache: self.cache.clone(), decode: Arc::clone(&self.decode), ..*self }
    }
}

impl<V> fmt::Debug for CachedQuery<V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CachedQuery").field("sql", &self.statement.sql()).finish_non_exhaustive()
    }
}
