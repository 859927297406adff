//! Writes one chunk in one transaction, with its mark in the job's ledger. When the server rejects a row, the chunk is
//! rolled back and run again behind savepoints, first around the row that the server named, else in halves, so that
//! the bad rows are found without going row by row and the others are loaded.
//!
//! ```text
//! at once ──> a row is rejected ──> in parts ──> rejected only at the commit ──> in parts, constraints checked at once
//! ```

mod orphans;

use std::ops::Range;
use std::slice;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use futures_util::future::join;
use tokio_postgres::error::SqlState;

use self::orphans::Tries;
use super::encode::{Chunk, Leading};
use super::error::{BulkCause, Refusal, Rejected};
use super::ledger::Run;
use super::locate::{Located, locate};
use super::method::choose;
use super::options::{BadRows, BulkOptions, Method};
use super::parts::{split, without};
use super::rejects::{Claim, Rejects};
use super::report::BulkReport;
use super::send::{arrays, values};
use super::sql;
use super::table::Target;
use crate::coalesce::may_be_of_one_row;
use crate::connection::Connection;
use crate::db::Db;
use crate::error::Error;
use crate::transaction::{Transaction, TransactionError, TransactionOptions};

/// Pause before a chunk that found no server is tried again: short beside a restart, long beside a probe.
const AWAY_PAUSE: Duration = Duration::from_millis(200);

const SAVE: &str = "SAVEPOINT paystrata_bulk";
const RELEASE: &str = "RELEASE SAVEPOINT paystrata_bulk";
const BEFORE_ALL: &str = "SAVEPOINT paystrata_bulk_all";
const GO_BACK_BEFORE_ALL: &str = "ROLLBACK TO SAVEPOINT paystrata_bulk_all";
const GO_BACK: &str = "ROLLBACK TO SAVEPOINT paystrata_bulk; RELEASE SAVEPOINT paystrata_bulk";

/// What is done with the rows.
#[derive(Debug)]
pub(super) enum Verb {
    Insert,
    /// Copied into a temporary table and merged from there.
    Staged(Staged),
}

/// The texts of a merge.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) copy: String,
    pub(super) merge: String,
    pub(super) answer: MergeAnswer,
}

/// How a merge says what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MergeAnswer {
    /// By the number of rows in its tag.
    Affected,
    /// By a row: updated, missing, places of the missing.
    Missing,
}

impl Verb {
    /// What encoded rows begin with.
    pub(super) fn leading(&self) -> Leading {
        match self {
            Self::Insert => Leading::Nothing,
            Self::Staged(_) => Leading::Place,
        }
    }
}

/// Why an attempt at a chunk ended.
#[derive(Debug)]
pub(super) enum Failed {
    /// A statement with rows in it failed.
    Rows(Error),
    /// Another statement failed: no row is to blame.
    Elsewhere(Error),
    /// It is decided.
    Stop(BulkCause),
}

/// How carefully a chunk is written.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Care {
    AtOnce,
    /// In parts, beginning around this row where the server named one.
    Parts(Option<usize>),
    /// In parts, and deferred constraints are checked with each statement.
    Immediate,
}

/// What the statements of an attempt did.
#[derive(Debug, Default)]
struct Written {
    affected: u64,
    missing: Vec<u64>,
    missing_count: u64,
}

/// Writes the chunks of one operation.
pub(super) struct Writer {
    pub(super) db: Db,
    pub(super) target: Arc<Target>,
    pub(super) verb: Verb,
    pub(super) options: BulkOptions,
    pub(super) run: Option<Run>,
    /// Rows rejected in chunks that were committed, or may yet be.
    pub(super) rejected: AtomicUsize,
}

impl Writer {
    /// Writes a chunk and commits it. What it gives counts this chunk alone.
    pub(super) async fn load(&self, chunk: &Chunk) -> Result<BulkReport, BulkCause> {
        let started = Instant::now();
        let mut care = Care::AtOnce;
        let claim = Claim::on(&self.rejected);
        loop {
            let left = self.options.chunk_timeout.saturating_sub(started.elapsed());
            let options = TransactionOptions { timeout: left, ..self.options.transaction() };
            let (care_now, claim_now) = (&care, &claim);
            let work = |tx: Transaction| async move { self.attempt(&tx, chunk, care_now, claim_now).await };
            match self.db.transaction(options, work).await {
                Ok(committed) => {
                    claim.keep();
                    return Ok(BulkReport { token: Some(committed.token), ..committed.value });
                }
                // A server that is away may be back within the chunk's own limit.
                Err(TransactionError::Database(error))
                    if error.is_not_sent() && started.elapsed() + AWAY_PAUSE < self.options.chunk_timeout =>
                {
                    tokio::time::sleep(AWAY_PAUSE).await;
                }
                Err(error) => care = self.more_care(chunk, &care, error)?,
            }
        }
    }

    /// How to go on after a chunk was rolled back, or why not.
    fn more_care(
        &self,
        chunk: &Chunk,
        care: &Care,
        error: TransactionError<Failed>,
    ) -> Result<Care, BulkCause> {
        let rows = || chunk.places.clone();
        let (error, wrap): (Error, fn(Error) -> TransactionError<Error>) = match error {
            TransactionError::Work(Failed::Stop(cause)) => return Err(cause),
            TransactionError::Work(Failed::Rows(error)) => {
                if *care == Care::AtOnce && may_be_of_one_row(&error) {
                    return Ok(Care::Parts(self.located(&error).map(|located| located.row)));
                }
                (error, TransactionError::Work)
            }
            TransactionError::Work(Failed::Elsewhere(error)) => (error, TransactionError::Work),
            // A deferred constraint speaks at the commit.
            TransactionError::Database(error) if *care != Care::Immediate && may_be_of_one_row(&error) => {
                return Ok(Care::Immediate);
            }
            TransactionError::Database(error) => (error, TransactionError::Database),
            TransactionError::OutcomeUnknown { ticket } => {
                return Err(BulkCause::OutcomeUnknown { rows: rows(), ticket });
            }
            TransactionError::Aborted { cause } => {
                return Err(ended(chunk, TransactionError::Aborted { cause }));
            }
            TransactionError::Contended { attempts, cause } => {
                return Err(ended(chunk, TransactionError::Contended { attempts, cause }));
            }
            TransactionError::Deadline { .. } => {
                let after = self.options.chunk_timeout;
                return Err(ended(chunk, TransactionError::Deadline { after }));
            }
        };
        match error.postgres().and_then(tokio_postgres::Error::as_db_error) {
            // The server's own words may quote a value.
            Some(failure) => Err(BulkCause::Refused { rows: rows(), refusal: Refusal::of(failure) }),
            None => Err(ended(chunk, wrap(error))),
        }
    }

    /// Everything before the commit.
    async fn attempt(
        &self,
        tx: &Transaction,
        chunk: &Chunk,
        care: &Care,
        claim: &Claim<'_>,
    ) -> Result<BulkReport, Failed> {
        let connection = tx.connection().map_err(Failed::Elsewhere)?;
        let mut rejects = Rejects { rejected: chunk.refused.clone(), bad: Vec::new(), claim };
        self.check_rejected(&rejects)?;
        let preparation = self.preparation(care);
        // One write: what prepares the transaction travels with the first statement.
        let prepare = connection.control_within(self.options.chunk_timeout, &preparation);
        let written = match care {
            _ if chunk.len() == 0 => {
                prepare.await.map_err(Failed::Elsewhere)?;
                Written::default()
            }
            Care::AtOnce => {
                let all = 0..chunk.len();
                let write = self.write(connection, chunk, slice::from_ref(&all));
                let (prepared, written) = join(prepare, write).await;
                prepared.map_err(Failed::Elsewhere)?;
                written.map_err(Failed::Rows)?
            }
            Care::Parts(_) | Care::Immediate => {
                prepare.await.map_err(Failed::Elsewhere)?;
                // Before rows are called bad that are not.
                self.check_types(connection, chunk).await?;
                self.write_in_parts(connection, chunk, care, &mut rejects).await?
            }
        };
        self.check_types(connection, chunk).await?;
        let mut rejected = rejects.rejected;
        rejected.sort_by_key(|rejected| rejected.row);
        self.record(connection, chunk, &rejected).await?;
        let all = chunk.places.end - chunk.places.start;
        Ok(BulkReport {
            chunks: 1,
            accepted: all - u64::try_from(rejected.len()).unwrap_or(all),
            affected: written.affected,
            bytes: u64::try_from(chunk.bytes()).unwrap_or(u64::MAX),
            rejected,
            missing: written.missing,
            missing_count: written.missing_count,
            ..BulkReport::default()
        })
    }

    /// Where rows are copied: typed parameters are converted, or refused.
    async fn check_types(&self, connection: &Connection, chunk: &Chunk) -> Result<(), Failed> {
        let method = choose(self.options.method, &self.target, chunk.len());
        let is_copied =
            matches!(self.verb, Verb::Staged(_)) || !matches!(method, Method::Insert | Method::Unnest);
        if !is_copied || chunk.len() == 0 {
            return Ok(());
        }
        let checked = connection.check_types(self.options.chunk_timeout, &self.target).await;
        checked.map_err(Failed::Elsewhere)?.map_or(Ok(()), |cause| Err(Failed::Stop(cause)))
    }

    fn preparation(&self, care: &Care) -> String {
        let timeout = i32::try_from(self.options.chunk_timeout.as_millis()).unwrap_or(i32::MAX);
        let mut text = format!("SET LOCAL statement_timeout = {timeout}");
        if let Verb::Staged(_) = self.verb {
            text.push_str("; ");
            text.push_str(&sql::make_staging(&self.target));
        }
        if *care == Care::Immediate {
            text.push_str("; SET CONSTRAINTS ALL IMMEDIATE");
        }
        text
    }

    /// Writes part after part, each behind a savepoint; a part that is rejected is split until its bad rows stand alone.
    async fn write_in_parts(
        &self,
        connection: &Connection,
        chunk: &Chunk,
        care: &Care,
        rejects: &mut Rejects<'_>,
    ) -> Result<Written, Failed> {
        let save = self.save();
        let hint = if let Care::Parts(hint) = care { *hint } else { None };
        self.control(connection, BEFORE_ALL).await?;
        let mut parts = Vec::new();
        split(&mut parts, 0..chunk.len(), hint);
        let mut written = Written::default();
        // Rows that refer to a row of their table that is not there, perhaps yet: it may be among those of a later part.
        let mut orphans: Vec<(usize, Error)> = Vec::new();
        let (mut is_again, mut is_out_of_order, mut tries) = (false, false, Tries::new());
        loop {
            let mut is_any_written = false;
            while let Some(part) = parts.pop() {
                self.control(connection, &save).await?;
                let error = match self.write(connection, chunk, slice::from_ref(&part)).await {
                    Ok(more) => {
                        written.add(more);
                        is_any_written = true;
                        is_out_of_order |= is_again;
                        self.control(connection, RELEASE).await?;
                        continue;
                    }
                    Err(error) if may_be_of_one_row(&error) => error,
                    Err(error) => return Err(Failed::Rows(error)),
                };
                self.control(connection, GO_BACK).await?;
                // The savepoint undid it: the transaction is as good as before.
                connection.usage().forget_failure();
                let located = self.located(&error);
                if part.len() > 1 {
                    let hint = located.map(|located| part.start + located.row);
                    split(&mut parts, part, hint);
                } else if self.may_be_orphan(&error) {
                    orphans.push((part.start, error));
                } else {
                    self.reject(chunk, part.start, &error, rejects)?;
                }
            }
            if !is_any_written {
                // Those that are left may refer to each other. On the heap: it is seldom needed, and large.
                let rows = orphans.iter().map(|(row, _)| *row).collect();
                let group = Box::pin(self.write_together(connection, chunk, rows, &mut tries)).await?;
                let Some(group) = group else { break };
                written.add(group.written);
                orphans.retain(|(row, _)| group.rows.binary_search(row).is_err());
                is_out_of_order = true;
            }
            is_again = true;
            // In turns from the last and from the first on: most refer to rows of one side.
            parts.extend(orphans.drain(..).map(|(row, _)| row..row + 1));
        }
        orphans.sort_by_key(|(row, _)| *row);
        for (row, error) in orphans {
            self.reject(chunk, row, &error, rejects)?;
        }
        if is_out_of_order && let Verb::Staged(_) = self.verb {
            // Of two rows with one key the later one is to win: now that the bad ones are known, the others are merged together.
            self.control(connection, GO_BACK_BEFORE_ALL).await?;
            let good = without(chunk.len(), &mut rejects.bad);
            return self.write(connection, chunk, &good).await.map_err(Failed::Rows);
        }
        Ok(written)
    }

    /// What a part begins with.
    fn save(&self) -> String {
        match &self.verb {
            Verb::Insert => SAVE.to_owned(),
            Verb::Staged(_) => format!("{SAVE}; {}", sql::clear_staging()),
        }
    }

    /// Runs a text with no row in it.
    async fn control(&self, connection: &Connection, text: &str) -> Result<(), Failed> {
        let answer = connection.control_within(self.options.chunk_timeout, text).await;
        answer.map(drop).map_err(Failed::Elsewhere)
    }

    fn may_be_orphan(&self, error: &Error) -> bool {
        let own = &self.target.own_references;
        error.sqlstate() == Some(&SqlState::FOREIGN_KEY_VIOLATION)
            && error.constraint().is_some_and(|broken| own.iter().any(|own| own == broken))
    }

    fn reject(
        &self,
        chunk: &Chunk,
        row: usize,
        error: &Error,
        rejects: &mut Rejects<'_>,
    ) -> Result<(), Failed> {
        let located = self.located(error);
        let failure = error.postgres().and_then(tokio_postgres::Error::as_db_error);
        let mut refusal = failure.map(Refusal::of).expect("the server gave a code for it");
        refusal.column = refusal.column.or_else(|| located?.column);
        let one = Rejected { row: chunk.place(row), refusal };
        if self.options.bad_rows == BadRows::Fail {
            return Err(Failed::Stop(BulkCause::Rejected(one)));
        }
        rejects.rejected.push(one);
        rejects.bad.push(row);
        self.check_rejected(rejects)
    }

    fn check_rejected(&self, rejects: &Rejects<'_>) -> Result<(), Failed> {
        let limit = self.options.rejected_max;
        if rejects.claim.set(rejects.rejected.len()) > limit {
            return Err(Failed::Stop(BulkCause::TooManyRejected { limit }));
        }
        Ok(())
    }

    /// Writes some rows by as few statements as there are; of several ranges, staged rows only.
    async fn write(
        &self,
        connection: &Connection,
        chunk: &Chunk,
        ranges: &[Range<usize>],
    ) -> Result<Written, Error> {
        let (limit, target) = (self.options.chunk_timeout, &*self.target);
        let mut written = Written::default();
        if let Verb::Staged(staged) = &self.verb {
            for rows in ranges {
                connection.copy_in(limit, &staged.copy, chunk, rows.clone()).await?;
            }
            return merge(connection, limit, staged).await;
        }
        // A row that stands alone because it may be bad goes as its chunk went: only COPY names the column that it could not convert.
        let is_copied = choose(self.options.method, target, chunk.len()) == Method::Copy;
        for rows in ranges.iter().cloned() {
            let method = choose(self.options.method, target, rows.len());
            written.affected += match if is_copied && rows.len() == 1 { Method::Copy } else { method } {
                Method::Insert => {
                    let text = sql::insert_values(target, rows.len());
                    connection.run_once(limit, &text, values(target, chunk, rows)).await?.affected
                }
                Method::Unnest => {
                    let text = sql::insert_unnest(target);
                    let parameters =
                        arrays(target, chunk, rows).expect("its columns were seen to have arrays");
                    connection.run_once(limit, &text, parameters).await?.affected
                }
                Method::Copy | Method::Auto => {
                    connection.copy_in(limit, &sql::copy_in(target), chunk, rows).await?
                }
            };
        }
        Ok(written)
    }

    async fn record(
        &self,
        connection: &Connection,
        chunk: &Chunk,
        rejected: &[Rejected],
    ) -> Result<(), Failed> {
        let Some(run) = &self.run else { return Ok(()) };
        run.mark(connection, chunk, rejected.len()).await?;
        if self.options.bad_rows == BadRows::Quarantine {
            for one in rejected {
                let row = chunk.row_of(one.row);
                let fields = row.map(|row| chunk.fields(row).collect());
                run.keep(connection, one, fields).await?;
            }
        }
        Ok(())
    }

    fn located(&self, error: &Error) -> Option<Located> {
        let failure = error.postgres()?.as_db_error()?;
        let relation = match self.verb {
            Verb::Insert => &self.target.relation,
            Verb::Staged(_) => sql::STAGING,
        };
        let columns: Vec<&str> = self.target.columns.iter().map(|column| column.name).collect();
        locate(failure, relation, &columns)
    }
}

fn ended(chunk: &Chunk, error: TransactionError<Error>) -> BulkCause {
    BulkCause::Transaction { rows: chunk.places.clone(), source: Box::new(error) }
}

async fn merge(connection: &Connection, limit: Duration, staged: &Staged) -> Result<Written, Error> {
    let answer = connection.run_once(limit, &staged.merge, Vec::new()).await?;
    if staged.answer == MergeAnswer::Affected {
        return Ok(Written { affected: answer.affected, ..Written::default() });
    }
    let unknown = || Error::UnknownForm { node: connection.node().clone(), what: "the result of a merge" };
    let row = answer.rows.first().ok_or_else(unknown)?;
    let number = |index| row.try_get(index).map(i64::cast_unsigned).map_err(|_| unknown());
    let missing: Vec<i64> = row.try_get(2).map_err(|_| unknown())?;
    let missing = missing.into_iter().map(i64::cast_unsigned).collect();
    Ok(Written { affected: number(0)?, missing_count: number(1)?, missing })
}

impl Written {
    fn add(&mut self, more: Self) {
        self.affected += more.affected;
        self.missing.extend(more.missing);
        self.missing_count += more.missing_count;
    }
}
