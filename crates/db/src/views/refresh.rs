//! One refresh of one view: on a connection of its own, in one transaction that holds the view's advisory lock. Whatever makes
//! it needless is looked up under the lock, so that nobody repeats what another process has just done.
//! It never retries. Called by `rounds` and `read`.
//!
//! ```text
//! begin ──> lock ──> known? ──> named? ──> sources ──> changed? ──> refresh ──> note ──> commit
//!             └─ busy ─┴─ done since, young enough ┴─ unchanged ──> skipped, with the last success
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use postgres_types::{ToSql, Type};
use tokio::time::timeout;
use tokio_postgres::Row;

use super::changes::fingerprint;
use super::delta::Extent;
use super::error::ViewError;
use super::state::{Known, Source, Success, note_failure};
use super::{Entry, Refresh, View, When, quoted_path};
use crate::db::Db;
use crate::error::Error;
use crate::session::Session;
use crate::sqlstate::Class;
use crate::token::Token;

/// How a refresh ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The view is new, for everybody.
    Refreshed {
        /// Everything committed before this is in it; by the clock of the database.
        as_of: SystemTime,
        /// From the call to the commit.
        took: Duration,
        /// Rows written, where that is known without counting: of delta views.
        rows_written: Option<i64>,
        /// Reads that carry it see the refreshed view.
        token: Token,
    },
    /// Nothing was done.
    Skipped {
        /// Why not.
        why: Skipped,
        /// Everything committed before this is in the view; None while it was never refreshed.
        as_of: Option<SystemTime>,
        /// Reads that carry it see the view of that time, or a newer one.
        token: Token,
    },
}

/// Why a refresh was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Skipped {
    /// Another process is refreshing the view.
    Busy,
    /// Another process has refreshed it since it was asked for, or was found to be due.
    Done,
    /// Nothing that it reads has changed.
    Unchanged,
}

/// Why a refresh is asked for, and so what makes it needless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Somebody wants it.
    Now,
    /// Its time has come. Needless as well if nothing has changed.
    Due {
        /// When it was looked up what is due: another process may have refreshed it since.
        known_at: Instant,
    },
    /// A reader wants it to be no older. Waits for a refresh that is under way.
    NoOlderThan(Duration),
}

/// What a refresh has written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) rows: Option<i64>,
    /// Whether those who read the view may see something else than before.
    pub(super) is_changed: bool,
}

/// A refresh under way.
pub(super) struct Run<'a> {
    session: &'a Session,
    pub(super) view: &'a View,
    /// The names of all views of the registry.
    pub(super) registered: &'a [String],
}

/// First word of the advisory lock "refresh of one view": "view" in ASCII.
const LOCK_CLASS: i32 = 0x7669_6577;

impl Entry {
    /// Refreshes the view unless that is needless. Dropped at any await, it leaves nothing behind.
    pub(super) async fn refresh(&self, db: &Db, ask: Ask) -> Result<Ended, ViewError> {
        let view = &self.view;
        let is_committing = AtomicBool::new(false);
        // On the heap: it is large, and whoever waits for it should not be.
        let ended = timeout(view.timeout, Box::pin(attempt(db, self, ask, &is_committing))).await;
        let ended = ended.unwrap_or_else(|_| match is_committing.into_inner() {
            true => Err(ViewError::CommitUnknown { view: view.name.clone() }),
            false => Err(ViewError::Timeout { view: view.name.clone(), after: view.timeout }),
        });
        // What may have succeeded is not written over.
        if let Err(failure) = &ended
            && !matches!(failure, ViewError::CommitUnknown { .. })
        {
            note_failure(db, view, failure).await;
        }
        ended
    }
}

async fn attempt(db: &Db, entry: &Entry, ask: Ask, is_committing: &AtomicBool) -> Result<Ended, ViewError> {
    let view = &entry.view;
    let begun = Instant::now();
    let session = db.session(&format!("view-{}", view.name)).await.map_err(|error| view.failed(error))?;
    let run = Run { session: &session, view, registered: &entry.registered };
    run.begin().await?;
    let lock = run.lock(ask).await?;
    let since = if let Ask::Due { known_at } = ask { known_at } else { begun };
    let known = run.known(since.elapsed()).await?;
    let needless = match ask {
        _ if lock == Lock::Elsewhere => Some(Skipped::Busy),
        Ask::NoOlderThan(age_max) => known.age.is_some_and(|age| age <= age_max).then_some(Skipped::Done),
        Ask::Now | Ask::Due { .. } => known.is_done_since.then_some(Skipped::Done),
    };
    if let Some(why) = needless {
        return run.skip(why, known.as_of).await;
    }
    run.configure().await?;
    run.check_sources().await?;
    let sources = run.sources().await?;
    let as_of = oldest(view, &known, &sources)?;
    let is_watched = matches!(view.when, When::OnChange { .. }) && !matches!(view.refresh, Refresh::Delta(_));
    let changes = if is_watched { fingerprint(&run, &sources).await? } else { None };
    let is_unchanged = changes.is_some() && changes == known.changes_seen && known.as_of.is_some();
    if matches!(ask, Ask::Due { .. }) && is_unchanged {
        run.note_unchanged().await?;
        return run.skip(Skipped::Unchanged, known.as_of).await;
    }
    let written = run.work(&known).await?;
    let success = Success {
        as_of,
        started: known.started,
        rows_written: written.rows,
        refreshes: i64::from(written.is_changed),
        changes_seen: changes,
    };
    run.note_success(&success).await?;
    is_committing.store(true, Ordering::Relaxed);
    let unknown = || ViewError::CommitUnknown { view: view.name.clone() };
    run.control("COMMIT").await.map_err(|error| match error {
        ViewError::Database { source, .. } if source.class() == Class::OutcomeUnknown => unknown(),
        refused => refused,
    })?;
    let token = session.token().await.map_err(|_| unknown())?;
    Ok(Ended::Refreshed { as_of, took: begun.elapsed(), rows_written: written.rows, token })
}

/// Since when the view will be true: not since later than what it is made from.
fn oldest(view: &View, known: &Known, sources: &[Source]) -> Result<SystemTime, ViewError> {
    let mut oldest = known.started;
    for source in sources {
        let blocked = || ViewError::Blocked { view: view.name.clone(), by: source.view.clone() };
        oldest = oldest.min(source.as_of.ok_or_else(blocked)?);
    }
    Ok(oldest)
}

/// Who has the view's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lock {
    Here,
    Elsewhere,
}

type TypedValues<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

impl Run<'_> {
    async fn begin(&self) -> Result<(), ViewError> {
        self.control("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE").await?;
        self.set("statement_timeout", &self.view.timeout.as_millis().to_string()).await
    }

    async fn lock(&self, ask: Ask) -> Result<Lock, ViewError> {
        let key: [(&(dyn ToSql + Sync), Type); 2] =
            [(&LOCK_CLASS, Type::INT4), (&self.view.name, Type::TEXT)];
        if matches!(ask, Ask::NoOlderThan(_)) {
            self.query("SELECT pg_advisory_xact_lock($1, hashtext($2))", &key).await?;
            return Ok(Lock::Here);
        }
        let row = self.query_one("SELECT pg_try_advisory_xact_lock($1, hashtext($2))", &key).await?;
        let is_here: bool = self.decode(|| row.try_get(0))?;
        Ok(if is_here { Lock::Here } else { Lock::Elsewhere })
    }

    /// Only now, because the wait for another process's refresh has its own limit.
    async fn configure(&self) -> Result<(), ViewError> {
        self.set("lock_timeout", &self.view.lock_timeout.as_millis().to_string()).await?;
        for (setting, value) in &self.view.settings {
            self.set(setting, value).await?;
        }
        Ok(())
    }

    async fn work(&self, known: &Known) -> Result<Written, ViewError> {
        match &self.view.refresh {
            Refresh::Delta(delta) => {
                let extent = known.as_of.map_or(Extent::Whole, |_| Extent::ChangedKeys);
                return delta.refresh(self, extent).await;
            }
            Refresh::Plain => self.materialize("").await?,
            Refresh::Concurrent => self.materialize("CONCURRENTLY").await?,
        }
        Ok(Written { rows: None, is_changed: true })
    }

    async fn materialize(&self, how: &str) -> Result<(), ViewError> {
        /// The same test as Postgres's own.
        const FORM_SQL: &str = "SELECT relispopulated, EXISTS (SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisunique \
                AND indisvalid AND indimmediate AND indpred IS NULL AND indexprs IS NULL) \
             FROM pg_class WHERE oid = to_regclass($1)";
        let view = &self.view.name;
        if !self.is_relation(&["m"]).await? {
            return Err(ViewError::Missing { view: view.clone(), expected: "materialized view" });
        }
        let form = self.query_one(FORM_SQL, &[(view, Type::TEXT)]).await?;
        let (is_populated, has_unique_index): (bool, bool) =
            self.decode(|| Ok((form.try_get(0)?, form.try_get(1)?)))?;
        if !how.is_empty() && !has_unique_index {
            return Err(ViewError::NoUniqueIndex { view: view.clone() });
        }
        // Postgres refuses to do it concurrently while there is nothing to compare with, and nobody to be kept waiting.
        let how = if is_populated { how } else { "" };
        self.control(&format!("REFRESH MATERIALIZED VIEW {how} {}", quoted_path(view))).await
    }

    /// Whether the view's name is that of a relation of one of these kinds.
    pub(super) async fn is_relation(&self, kinds: &[&str]) -> Result<bool, ViewError> {
        let sql =
            "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1) AND relkind::text = ANY($2))";
        let row = self.query_one(sql, &[(&self.view.name, Type::TEXT), (&kinds, Type::TEXT_ARRAY)]).await?;
        self.decode(|| row.try_get(0))
    }

    async fn skip(&self, why: Skipped, as_of: Option<SystemTime>) -> Result<Ended, ViewError> {
        Ok(Ended::Skipped { why, as_of, token: self.commit().await? })
    }

    async fn commit(&self) -> Result<Token, ViewError> {
        // No statement has failed, or this would not be reached: COMMIT cannot turn into a rollback.
        self.control("COMMIT").await?;
        self.session.token().await.map_err(|error| self.view.failed(error))
    }

    async fn set(&self, setting: &str, value: &str) -> Result<(), ViewError> {
        let values: [(&(dyn ToSql + Sync), Type); 2] = [(&setting, Type::TEXT), (&value, Type::TEXT)];
        self.query("SELECT set_config($1, $2, true)", &values).await.map(drop)
    }

    async fn control(&self, sql: &str) -> Result<(), ViewError> {
        self.session.client().batch_execute(sql).await.map_err(|source| self.failed(source))
    }

    pub(super) async fn query(&self, sql: &str, values: TypedValues<'_>) -> Result<Vec<Row>, ViewError> {
        let rows = self.session.client().query_typed(sql, values).await;
        rows.map_err(|source| self.failed(source))
    }

    pub(super) async fn query_one(&self, sql: &str, values: TypedValues<'_>) -> Result<Row, ViewError> {
        let mut rows = self.query(sql, values).await?;
        let found = rows.len();
        let one = rows.pop().filter(|_| found == 1);
        one.ok_or_else(|| self.view.failed(Error::RowCount { expected: "exactly one row", found }))
    }

    /// The number of rows affected.
    pub(super) async fn execute(&self, sql: &str, values: TypedValues<'_>) -> Result<i64, ViewError> {
        let affected = self.session.client().execute_typed(sql, values).await;
        let affected = affected.map_err(|source| self.failed(source))?;
        Ok(i64::try_from(affected).unwrap_or(i64::MAX))
    }

    /// Reads what a row holds.
    pub(super) fn decode<T>(
        &self,
        read: impl FnOnce() -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, ViewError> {
        read().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: tokio_postgres::Error) -> ViewError {
        self.view.failed(Error::Query { node: self.session.node().clone(), source })
    }
}

impl View {
    pub(super) fn failed(&self, source: Error) -> ViewError {
        ViewError::Database { view: self.name.clone(), source }
    }
}
