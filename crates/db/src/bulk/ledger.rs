//! The record of a job: which rows of its input are committed. It is written in the transaction of the rows themselves, so
//! neither can stand without the other. A run that begins takes the job over; a chunk of an older run is refused from then on.

use std::ops::Range;

use postgres_types::Type;

use super::encode::Chunk;
use super::error::{BulkCause, Rejected};
use super::write::Failed;
use crate::connection::Connection;
use crate::db::Db;
use crate::error::Error;
use crate::statement::Statement;
use crate::transaction::{TransactionError, TransactionOptions};

/// The tables that jobs need, to be put into a migration. Running it again changes nothing. Whoever needs a
/// job no more deletes its row in `paystrata_bulk_job`, and the others go with it.
pub const BULK_SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS paystrata_bulk_job (
    job text PRIMARY KEY,
    work text NOT NULL,
    run int8 NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS paystrata_bulk_chunk (
    job text NOT NULL REFERENCES paystrata_bulk_job ON DELETE CASCADE,
    first_row int8 NOT NULL,
    rows int8 NOT NULL,
    rejected int8 NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job, first_row)
);
CREATE TABLE IF NOT EXISTS paystrata_bulk_rejected (
    job text NOT NULL REFERENCES paystrata_bulk_job ON DELETE CASCADE,
    row int8 NOT NULL,
    sqlstate text NOT NULL,
    column_name text,
    constraint_name text,
    -- One element per column, in the server's binary form; NULL when the row could not be encoded.
    fields bytea[],
    PRIMARY KEY (job, row)
);
";

/// Waits for chunks of an older run that are under way, as they hold the row.
static BEGIN_RUN: Statement = Statement::new(
    "INSERT INTO paystrata_bulk_job AS held (job, work, run) VALUES ($1, $2, 1) \
     ON CONFLICT (job) DO UPDATE SET run = held.run + 1, started_at = now() WHERE held.work = EXCLUDED.work \
     RETURNING run",
    &[Type::TEXT, Type::TEXT],
);

/// Chunks that follow each other are one range.
static COMMITTED: Statement = Statement::new(
    "SELECT min(first_row), max(first_row + rows) FROM ( \
        SELECT first_row, rows, sum(gap) OVER (ORDER BY first_row) AS island FROM ( \
            SELECT first_row, rows, \
                (first_row IS DISTINCT FROM lag(first_row + rows) OVER (ORDER BY first_row))::int AS gap \
            FROM paystrata_bulk_chunk WHERE job = $1) AS chunk) AS chunk \
     GROUP BY island ORDER BY 1",
    &[Type::TEXT],
);

/// Inserts nothing once another run has begun.
static MARK: Statement = Statement::new(
    "INSERT INTO paystrata_bulk_chunk (job, first_row, rows, rejected) \
     SELECT job, $3, $4, $5 FROM paystrata_bulk_job WHERE job = $1 AND run = $2 FOR SHARE",
    &[Type::TEXT, Type::INT8, Type::INT8, Type::INT8, Type::INT8],
);

static KEEP: Statement = Statement::new(
    "INSERT INTO paystrata_bulk_rejected (job, row, sqlstate, column_name, constraint_name, fields) \
     VALUES ($1, $2, $3, $4, $5, $6)",
    &[Type::TEXT, Type::INT8, Type::TEXT, Type::TEXT, Type::TEXT, Type::BYTEA_ARRAY],
);

/// The rows that earlier runs have committed, in order.
#[derive(Debug, Default)]
pub(super) struct Committed {
    ranges: Vec<Range<u64>>,
    /// The first range that is not yet behind the input.
    next: usize,
}

impl Committed {
    /// Whether a row is committed; rows are asked for in rising order.
    pub(super) fn contains(&mut self, place: u64) -> bool {
        while self.ranges.get(self.next).is_some_and(|range| range.end <= place) {
            self.next += 1;
        }
        self.ranges.get(self.next).is_some_and(|range| range.contains(&place))
    }
}

/// One run of a job.
#[derive(Clone, Debug)]
pub(super) struct Run {
    job: String,
    run: i64,
}

impl Run {
    /// Takes the job over and reads what is committed. `work` says what the job does: under another work it is refused.
    pub(super) async fn begin(db: &Db, job: &str, work: &str) -> Result<(Self, Committed), BulkCause> {
        let options = TransactionOptions::default();
        let begun = db.transaction(options, |tx| async move {
            let run: Option<i64> = tx.query_opt(&BEGIN_RUN, &[&job, &work]).await?.map(|row| row.get(0));
            Ok::<_, Error>(run)
        });
        let run = begun.await.map_err(|error| match error {
            TransactionError::Work(error) | TransactionError::Database(error) => BulkCause::Database(error),
            error => BulkCause::Transaction { rows: 0..0, source: Box::new(error) },
        })?;
        let run = run.value.ok_or_else(|| BulkCause::Settings {
            problem: format!("job {job} belongs to other work than {work}"),
        })?;
        let connection = db.write().await.map_err(BulkCause::Database)?;
        let rows = connection.query(&COMMITTED, &[&job]).await.map_err(BulkCause::Database)?;
        let ranges =
            rows.iter().map(|row| row.get::<_, i64>(0).cast_unsigned()..row.get::<_, i64>(1).cast_unsigned());
        Ok((Self { job: job.to_owned(), run }, Committed { ranges: ranges.collect(), next: 0 }))
    }

    /// Records a chunk in its own transaction.
    pub(super) async fn mark(
        &self,
        connection: &Connection,
        chunk: &Chunk,
        rejected: usize,
    ) -> Result<(), Failed> {
        let Range { start, end } = chunk.places;
        let [first, rows] = [start, end - start].map(u64::cast_signed);
        let rejected = i64::try_from(rejected).unwrap_or(i64::MAX);
        let marked = connection.execute(&MARK, &[&self.job, &self.run, &first, &rows, &rejected]).await;
        match marked.map_err(Failed::Elsewhere)? {
            0 => Err(Failed::Stop(BulkCause::TakenOver { job: self.job.clone() })),
            _ => Ok(()),
        }
    }

    /// Keeps a rejected row in its chunk's own transaction.
    pub(super) async fn keep(
        &self,
        connection: &Connection,
        rejected: &Rejected,
        fields: Option<Vec<Option<&[u8]>>>,
    ) -> Result<(), Failed> {
        let (row, refusal) = (rejected.row.cast_signed(), &rejected.refusal);
        let sqlstate = refusal.sqlstate.code();
        connection
            .execute(&KEEP, &[&self.job, &row, &sqlstate, &refusal.column, &refusal.constraint, &fields])
            .await
            .map(drop)
            .map_err(Failed::Elsewhere)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_inside_a_range_are_committed_and_those_between_are_not() {
        let mut committed = Committed { ranges: vec![2..4, 6..7], next: 0 };
        let found: Vec<u64> = (0..9).filter(|place| committed.contains(*place)).collect();
        assert_eq!(found, [2, 3, 6]);
    }
}
