//! All SQL of `view_refreshes`, the table in which processes tell each other of refreshes. Decides nothing.
//! Read before and inside a refresh, and by readers who want to know an age.

use std::time::{Duration, SystemTime};

use postgres_types::Type;
use tokio_postgres::Row;
use tracing::warn;

use super::error::ViewError;
use super::refresh::Run;
use super::{View, Views};
use crate::connection::Connection;
use crate::db::Db;
use crate::error::Error;
use crate::statement::Statement;

static STATUS: Statement = Statement::new(
    "SELECT asked.view, refreshed_at, extract(epoch FROM clock_timestamp() - refreshed_at)::float8, \
            extract(epoch FROM clock_timestamp() - greatest(finished_at, checked_at, failed_at))::float8, \
            took_ms, rows_written, refreshes, failed_at, error \
     FROM unnest($1) WITH ORDINALITY AS asked (view, place) LEFT JOIN view_refreshes USING (view) ORDER BY place",
    &[Type::TEXT_ARRAY],
);

static FAILED: Statement = Statement::new(
    "INSERT INTO view_refreshes (view, failed_at, error) VALUES ($1, clock_timestamp(), $2) \
     ON CONFLICT (view) DO UPDATE SET failed_at = excluded.failed_at, error = excluded.error",
    &[Type::TEXT, Type::TEXT],
);

/// What one refresh finds of its view, and the moment since which it reads.
const KNOWN_SQL: &str = "SELECT clock_timestamp(), refreshed_at, \
        extract(epoch FROM clock_timestamp() - refreshed_at)::float8, \
        coalesce(finished_at >= clock_timestamp() - make_interval(secs => $2), false), changes_seen \
     FROM (VALUES ($1)) AS asked (view) LEFT JOIN view_refreshes USING (view)";

const SOURCES_SQL: &str = "SELECT asked.view, refreshed_at, coalesce(refreshes, 0) \
     FROM unnest($1) WITH ORDINALITY AS asked (view, place) LEFT JOIN view_refreshes USING (view) ORDER BY place";

const REFRESHED_SQL: &str = "INSERT INTO view_refreshes AS known \
        (view, refreshed_at, finished_at, took_ms, rows_written, refreshes, changes_seen) \
     VALUES ($1, $2, clock_timestamp(), (extract(epoch FROM clock_timestamp() - $3) * 1000)::bigint, $4, $5, $6) \
     ON CONFLICT (view) DO UPDATE SET refreshed_at = excluded.refreshed_at, finished_at = excluded.finished_at, \
        took_ms = excluded.took_ms, rows_written = excluded.rows_written, \
        refreshes = known.refreshes + excluded.refreshes, changes_seen = excluded.changes_seen, \
        checked_at = NULL, failed_at = NULL, error = NULL";

const UNCHANGED_SQL: &str = "UPDATE view_refreshes SET checked_at = clock_timestamp() WHERE view = $1";

/// What is known of one view. Read from the primary.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ViewStatus {
    /// Its name.
    pub view: String,
    /// Everything committed before this is in it; by the clock of the database. None while it was never refreshed.
    pub as_of: Option<SystemTime>,
    /// The time since then.
    pub age: Option<Duration>,
    /// How long the last refresh that succeeded took.
    pub took: Option<Duration>,
    /// Rows that it wrote, where that is known without counting: of delta views.
    pub rows_written: Option<i64>,
    /// Refreshes that succeeded and may have changed something.
    pub refreshes: i64,
    /// When the last attempt failed; None once one has succeeded since.
    pub failed_at: Option<SystemTime>,
    /// Why it failed, without any value of a row.
    pub error: Option<String>,
    /// The time since an attempt last ended.
    pub(super) rested: Option<Duration>,
}

/// A view as one refresh finds it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The refresh reads what was committed before this, and perhaps more.
    pub(super) started: SystemTime,
    pub(super) as_of: Option<SystemTime>,
    pub(super) age: Option<Duration>,
    /// A refresh has succeeded since this one was asked for.
    pub(super) is_done_since: bool,
    pub(super) changes_seen: Option<String>,
}

/// A view that another one is made from.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) view: String,
    pub(super) as_of: Option<SystemTime>,
    pub(super) refreshes: i64,
}

/// What a successful refresh leaves behind.
#[derive(Clone, Debug)]
pub(super) struct Success {
    pub(super) as_of: SystemTime,
    pub(super) started: SystemTime,
    pub(super) rows_written: Option<i64>,
    /// 0 when nothing can have changed for those who read the view.
    pub(super) refreshes: i64,
    pub(super) changes_seen: Option<String>,
}

impl Views {
    /// What is known of every view, each after those it is made from. One round trip to the primary.
    ///
    /// # Errors
    /// The database refused or was not reached; SQLSTATE 42P01 means that the table of [`super::SCHEMA_SQL`] is missing.
    pub async fn status(&self) -> Result<Vec<ViewStatus>, Error> {
        let names: Vec<&str> = self.inner.entries.iter().map(|entry| entry.view.name.as_str()).collect();
        status(&self.inner.db.write().await?, &names).await
    }
}

/// What this server knows of the views, in their order.
pub(super) async fn status(connection: &Connection, views: &[&str]) -> Result<Vec<ViewStatus>, Error> {
    let rows = connection.query(&STATUS, &[&views]).await?;
    let unknown = |_| Error::UnknownForm { node: connection.node().clone(), what: "the state of a view" };
    rows.iter().map(read_status).collect::<Result<_, _>>().map_err(unknown)
}

fn read_status(row: &Row) -> Result<ViewStatus, tokio_postgres::Error> {
    let took_ms: Option<i64> = row.try_get(4)?;
    Ok(ViewStatus {
        view: row.try_get(0)?,
        as_of: row.try_get(1)?,
        age: seconds(row.try_get(2)?),
        took: took_ms.map(|took_ms| Duration::from_millis(took_ms.try_into().unwrap_or(0))),
        rows_written: row.try_get(5)?,
        refreshes: row.try_get::<_, Option<i64>>(6)?.unwrap_or(0),
        failed_at: row.try_get(7)?,
        error: row.try_get(8)?,
        rested: seconds(row.try_get(3)?),
    })
}

/// A clock that was set back gives negative ones.
fn seconds(seconds: Option<f64>) -> Option<Duration> {
    seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO))
}

/// Notes that an attempt failed. Should that fail too, a log line is all that remains of it.
pub(super) async fn note_failure(db: &Db, view: &View, failure: &ViewError) {
    let noted = async { db.write().await?.execute(&FAILED, &[&view.name, &failure.recorded()]).await };
    if let Err(error) = noted.await {
        warn!(view = view.name, %error, "note the failed refresh of a view");
    }
}

impl Run<'_> {
    /// `asked_before` is how long ago the refresh was asked for: the clocks of two machines are never compared.
    pub(super) async fn known(&self, asked_before: Duration) -> Result<Known, ViewError> {
        let seconds_before = asked_before.as_secs_f64();
        let row = self
            .query_one(KNOWN_SQL, &[(&self.view.name, Type::TEXT), (&seconds_before, Type::FLOAT8)])
            .await?;
        self.decode(|| {
            Ok(Known {
                started: row.try_get(0)?,
                as_of: row.try_get(1)?,
                age: seconds(row.try_get(2)?),
                is_done_since: row.try_get(3)?,
                changes_seen: row.try_get(4)?,
            })
        })
    }

    /// The views that this one is made from, as they are known before it reads them.
    pub(super) async fn sources(&self) -> Result<Vec<Source>, ViewError> {
        if self.view.made_from.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.query(SOURCES_SQL, &[(&self.view.made_from, Type::TEXT_ARRAY)]).await?;
        let read = |row: &Row| {
            Ok(Source { view: row.try_get(0)?, as_of: row.try_get(1)?, refreshes: row.try_get(2)? })
        };
        self.decode(|| rows.iter().map(read).collect())
    }

    pub(super) async fn note_success(&self, success: &Success) -> Result<(), ViewError> {
        let values: [(&(dyn postgres_types::ToSql + Sync), Type); 6] = [
            (&self.view.name, Type::TEXT),
            (&success.as_of, Type::TIMESTAMPTZ),
            (&success.started, Type::TIMESTAMPTZ),
            (&success.rows_written, Type::INT8),
            (&success.refreshes, Type::INT8),
            (&success.changes_seen, Type::TEXT),
        ];
        self.query(REFRESHED_SQL, &values).await.map(drop)
    }

    pub(super) async fn note_unchanged(&self) -> Result<(), ViewError> {
        self.query(UNCHANGED_SQL, &[(&self.view.name, Type::TEXT)]).await.map(drop)
    }
}
