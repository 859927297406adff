//! Many rows at once: [`Bulk`] inserts, upserts, updates and reads them, mapped by [`Row`]. Rows are encoded once, committed
//! chunk by chunk, and named by their place in the input when they are rejected. It keeps no rows beyond the chunks under way.
//!
//! ```text
//! input ──> reader (encodes a chunk) ──> lane (one transaction per chunk, with its mark in the job's ledger) ──> report
//! ```

mod copy_out;
mod encode;
mod error;
mod lanes;
mod ledger;
mod locate;
mod method;
mod options;
mod parts;
mod reader;
mod rejects;
mod report;
mod row;
mod send;
mod sql;
mod table;
mod write;

use std::convert::Infallible;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, pin_mut};

use self::ledger::{Committed, Run};
use self::reader::Reader;
use self::report::MISSING_MAX;
use self::table::Target;
use self::write::{MergeAnswer, Staged, Verb, Writer};
use crate::db::Db;
use crate::token::Token;

pub use error::{BulkCause, BulkError, Refusal, Rejected};
pub use ledger::BULK_SCHEMA;
pub use options::{BadRows, BulkOptions, Method, Progress};
pub use report::BulkReport;
pub use row::{Column, FieldError, FieldProblem, FieldReader, FieldWriter, Row};
pub use table::TableName;

/// Loads and reads the rows of one table.
///
/// ```no_run
/// # use paystrata_db::{Bulk, BulkOptions, Db, TableName};
/// struct City {
///     id: i64,
///     name: String,
/// }
/// paystrata_db::row!(City { id: INT8, name: TEXT });
///
/// # async fn run(db: &Db) -> Result<(), Box<dyn std::error::Error>> {
/// let cities: Bulk<City> = Bulk::open(db, &TableName::new("city")).await?;
/// let rows = (0..1_000_000).map(|id| City { id, name: format!("city {id}") });
/// let report = cities.insert_many(rows, &BulkOptions::default()).await?;
/// println!("{} rows", report.affected);
/// # Ok(())
/// # }
/// ```
///
/// An input may be of any length: memory is what `chunk_bytes_max` allows, once per lane and once more. A chunk is a transaction: it
/// is rerun like any other when the server rolled it back for a conflict or the connection broke, and its commit is known. Chunks
/// that were committed stay when a later one fails; the error says what stands.
///
/// Any of its futures may be dropped at any await: chunks whose commit was not yet sent leave nothing.
pub struct Bulk<R> {
    db: Db,
    target: Arc<Target>,
    row: PhantomData<fn() -> R>,
}

/// When a row of an upsert is there already, and what then becomes of it.
#[derive(Clone, Copy, Debug)]
pub struct Conflict<'a> {
    /// Columns with a unique index over exactly them.
    pub key: &'a [&'a str],
    /// Columns to take from the new row; with none, the old row is left as it is.
    pub update: &'a [&'a str],
}

impl<R> Clone for Bulk<R> {
    fn clone(&self) -> Self {
        Self { db: self.db.clone(), target: Arc::clone(&self.target), row: PhantomData }
    }
}

impl<R> fmt::Debug for Bulk<R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Bulk").field("table", &self.target.sql).finish_non_exhaustive()
    }
}

impl<R: Row> Bulk<R> {
    /// Checks the table and the columns of `R` against the catalog, once. Eight round trips at most.
    ///
    /// # Errors
    /// [`BulkCause::Settings`] names the table, or the column that is missing or holds another type.
    pub async fn open(db: &Db, table: &TableName) -> Result<Self, BulkError> {
        let connection = db.write().await.map_err(|error| alone(BulkCause::Database(error)))?;
        let target = Target::find(&connection, table, R::COLUMNS).await.map_err(alone)?;
        Ok(Self { db: db.clone(), target: Arc::new(target), row: PhantomData })
    }

    /// Inserts rows, each chunk by `INSERT`, arrays or COPY, whichever was measured to be fastest for its size.
    ///
    /// Costs two round trips per chunk around those of the method: one for `INSERT` and arrays, three for COPY, for which the
    /// columns' types are looked at again.
    ///
    /// # Errors
    /// [`BulkError`] says why it ended and what was committed before.
    pub async fn insert_many(
        &self,
        rows: impl IntoIterator<Item = R>,
        options: &BulkOptions,
    ) -> Result<BulkReport, BulkError> {
        self.insert_stream(given(rows), options).await
    }

    /// As [`Bulk::insert_many`], from a stream. When the stream gives an error, full chunks before it are committed and the
    /// one that it came in is not.
    ///
    /// # Errors
    /// As [`Bulk::insert_many`], and [`BulkCause::Input`].
    pub async fn insert_stream<E>(
        &self,
        rows: impl Stream<Item = Result<R, E>>,
        options: &BulkOptions,
    ) -> Result<BulkReport, BulkError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.target.check_writable(0..self.target.columns.len()).map_err(alone)?;
        self.target.check_rules(options.method).map_err(alone)?;
        self.load(rows, Verb::Insert, format!("insert into {}", self.target.sql), options).await
    }

    /// Inserts rows, or updates those that are there already. Of rows with one key the last in the input wins, in a chunk
    /// and between chunks; rows with a NULL in the key are no duplicates of each other. `options.lanes_max` must be 1.
    ///
    /// Each chunk is copied into a temporary table, and merged from there by one statement.
    ///
    /// # Errors
    /// As [`Bulk::insert_many`]. SQLSTATE 42P10 says that no unique index covers exactly the key.
    pub async fn upsert_many(
        &self,
        rows: impl IntoIterator<Item = R>,
        conflict: Conflict<'_>,
        options: &BulkOptions,
    ) -> Result<BulkReport, BulkError> {
        self.upsert_stream(given(rows), conflict, options).await
    }

    /// As [`Bulk::upsert_many`], from a stream.
    ///
    /// # Errors
    /// As [`Bulk::upsert_many`], and [`BulkCause::Input`].
    pub async fn upsert_stream<E>(
        &self,
        rows: impl Stream<Item = Result<R, E>>,
        conflict: Conflict<'_>,
        options: &BulkOptions,
    ) -> Result<BulkReport, BulkError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (target, positions) = (&*self.target, |what, names| self.target.positions(what, names));
        target.check_writable(0..target.columns.len()).map_err(alone)?;
        let key = positions("the key", conflict.key).map_err(alone)?;
        let update = positions("the columns to update", conflict.update).map_err(alone)?;
        check_staged(&key, options).map_err(alone)?;
        let merge = sql::upsert(target, &key, &update);
        let staged = Staged { copy: sql::copy_staging(target), merge, answer: MergeAnswer::Affected };
        let work = format!("upsert into {} by {}", target.sql, conflict.key.join(", "));
        self.load(rows, Verb::Staged(staged), work, options).await
    }

    /// Updates rows by a key, all other columns of `R` from the new row; one statement per chunk. The report tells which rows
    /// found no match. Of rows with one key the last in the input wins. `options.lanes_max` must be 1.
    ///
    /// A row that a trigger leaves alone counts as missing.
    ///
    /// # Errors
    /// As [`Bulk::insert_many`].
    pub async fn update_many(
        &self,
        rows: impl IntoIterator<Item = R>,
        key: &[&str],
        options: &BulkOptions,
    ) -> Result<BulkReport, BulkError> {
        self.update_stream(given(rows), key, options).await
    }

    /// As [`Bulk::update_many`], from a stream.
    ///
    /// # Errors
    /// As [`Bulk::update_many`], and [`BulkCause::Input`].
    pub async fn update_stream<E>(
        &self,
        rows: impl Stream<Item = Result<R, E>>,
        key: &[&str],
        options: &BulkOptions,
    ) -> Result<BulkReport, BulkError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let target = &*self.target;
        let named = target.positions("the key", key).map_err(alone)?;
        check_staged(&named, options).map_err(alone)?;
        let others: Vec<usize> =
            (0..target.columns.len()).filter(|position| !named.contains(position)).collect();
        if others.is_empty() {
            return Err(alone(refused("the row has no column beside the key")));
        }
        target.check_writable(others.iter().copied()).map_err(alone)?;
        let merge = sql::update(target, &named, &others, MISSING_MAX);
        let staged = Staged { copy: sql::copy_staging(target), merge, answer: MergeAnswer::Missing };
        let work = format!("update {} by {}", target.sql, key.join(", "));
        self.load(rows, Verb::Staged(staged), work, options).await
    }

    /// Reads all rows, or those that `condition` is true for, in no order: from a replica that has replayed `after`, else
    /// from the primary. All rows are of one snapshot. `options.chunk_timeout` bounds the server's silence between two rows; the
    /// other options have no part in it.
    ///
    /// The stream holds a pooled connection, and its snapshot keeps the server from cleaning up, until it ends or is dropped.
    ///
    /// # Errors
    /// [`BulkCause::Unreadable`] when the server refuses, [`BulkCause::Value`] when a value does not fit `R`, and
    /// [`BulkCause::Database`].
    pub async fn copy_out(
        &self,
        condition: Option<&'static str>,
        after: Option<Token>,
        options: &BulkOptions,
    ) -> Result<BoxStream<'static, Result<R, BulkCause>>, BulkCause>
    where
        R: Send + 'static,
    {
        options.check()?;
        let connection = match after {
            Some(token) => self.db.read_after(token).await,
            None => self.db.read().await,
        };
        let connection = connection.map_err(BulkCause::Database)?;
        copy_out::copy_out(connection, Arc::clone(&self.target), condition, options.chunk_timeout).await
    }

    async fn load<E>(
        &self,
        rows: impl Stream<Item = Result<R, E>>,
        verb: Verb,
        work: String,
        options: &BulkOptions,
    ) -> Result<BulkReport, BulkError>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        options.check().map_err(alone)?;
        let (run, committed) = match &options.job {
            None => (None, Committed::default()),
            Some(job) => {
                let (run, committed) = Run::begin(&self.db, job, &work).await.map_err(alone)?;
                (Some(run), committed)
            }
        };
        let writer = Writer {
            db: self.db.clone(),
            target: Arc::clone(&self.target),
            verb,
            options: options.clone(),
            run,
            rejected: AtomicUsize::new(0),
        };
        pin_mut!(rows);
        let reader = Reader::new(rows, &writer.options, writer.verb.leading(), committed);
        // On the heap: otherwise every future around it would be as large.
        Box::pin(lanes::run(&writer, reader)).await
    }
}

fn given<R>(rows: impl IntoIterator<Item = R>) -> impl Stream<Item = Result<R, Infallible>> {
    stream::iter(rows.into_iter().map(Ok))
}

/// Nothing was committed before it.
fn alone(cause: BulkCause) -> BulkError {
    BulkError { cause, done: Box::default() }
}

fn refused(problem: &str) -> BulkCause {
    BulkCause::Settings { problem: problem.to_owned() }
}

fn check_staged(key: &[usize], options: &BulkOptions) -> Result<(), BulkCause> {
    if key.is_empty() {
        return Err(refused("the key names no column"));
    }
    if options.lanes_max > 1 {
        return Err(refused("lanes_max must be 1 here: the last of two rows with one key is to win"));
    }
    Ok(())
}
