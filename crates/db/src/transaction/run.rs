//! Runs a transaction's closure: begin, work, commit, and again with a pause when the server rolled it back.
//! It reruns only what is known to have left nothing behind. Called through `Db::transaction`.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;

use super::handle::Open;
use super::outcome::{RECORD, Recorded, read_record};
use super::{CommitOutcome, CommitTicket, Committed, Transaction, TransactionError, TransactionOptions};
use crate::connection::Connection;
use crate::db::Db;
use crate::error::Error;
use crate::observe::{TransactionEnd, TransactionSeen};
use crate::sqlstate::Class;
use crate::usage::{Asker, Failure, Inside};

/// First bound of the random pause before a rerun; it doubles with each. Two conflicting transactions need only to miss each other.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// The last bound.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// How one run ended.
enum Ended<T, E> {
    Committed(Committed<T>),
    /// The server kept nothing and another run may succeed.
    Rerun {
        cause: String,
    },
    /// The closure did not run, and may the next time.
    NotBegun(Error),
    Failed(TransactionError<E>),
}

/// What a run leaves for the commit.
struct Worked<T> {
    open: Arc<Open>,
    ticket: CommitTicket,
    value: T,
}

impl Db {
    /// Runs `work` in a transaction on the primary and commits it.
    ///
    /// `work` runs again, after a random pause, when the server rolled it back for a conflict (40001, 40P01), when the
    /// primary changed, or when the connection broke before `COMMIT` was sent; so it must have no effects outside the
    /// database. Whether it was committed is read from the server's record, also when the connection breaks during the commit.
    ///
    /// Costs two round trips around those of `work`. The future may be dropped at any await; unless `COMMIT` was
    /// already sent, nothing remains.
    ///
    /// # Errors
    /// Each variant of [`TransactionError`] says what is left behind; only `OutcomeUnknown` leaves doubt.
    #[track_caller]
    pub fn transaction<T, E, F, Fut>(
        &self,
        options: TransactionOptions,
        work: F,
    ) -> impl Future<Output = Result<Committed<T>, TransactionError<E>>>
    where
        F: Fn(Transaction) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        self.transaction_from(options, work, self.asker(Location::caller()))
    }

    async fn transaction_from<T, E, F, Fut>(
        &self,
        options: TransactionOptions,
        work: F,
        asker: Asker,
    ) -> Result<Committed<T>, TransactionError<E>>
    where
        F: Fn(Transaction) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let started = Instant::now();
        let (mut attempts, runs) = (0, AtomicU32::new(0));
        let outcome = loop {
            attempts += 1;
            let left = options.timeout.saturating_sub(started.elapsed());
            let ended = match timeout(left, self.attempt(options, &work, &runs, asker)).await {
                Err(_) => Ended::Failed(TransactionError::Deadline { after: options.timeout }),
                Ok(Ok(worked)) => self.commit(worked).await,
                Ok(Err(ended)) => ended,
            };
            match ended {
                Ended::Committed(committed) => break Ok(committed),
                Ended::Failed(error) => break Err(error),
                Ended::Rerun { cause } if attempts >= options.attempts_max => {
                    break Err(TransactionError::Contended { attempts: runs.load(Ordering::Relaxed), cause });
                }
                Ended::NotBegun(error) if attempts >= options.attempts_max => {
                    // Whatever a lost `BEGIN` says of itself, nothing remains of it.
                    break Err(if error.is_retryable() {
                        TransactionError::Database(error)
                    } else {
                        let attempts = runs.load(Ordering::Relaxed);
                        TransactionError::Contended { attempts, cause: cause_of(&error) }
                    });
                }
                Ended::Rerun { .. } | Ended::NotBegun(_) => tokio::time::sleep(pause(attempts)).await,
            }
        };
        let end = match &outcome {
            Ok(_) => TransactionEnd::Committed,
            Err(error) if error.outcome_is_unknown() => TransactionEnd::Unknown,
            Err(_) => TransactionEnd::RolledBack,
        };
        self.shared.observer.transaction(&TransactionSeen {
            end,
            attempts: runs.load(Ordering::Relaxed),
            took: started.elapsed(),
        });
        outcome
    }

    /// Everything before the commit. Dropped halfway it leaves nothing: a sweep rolls back, or closes the connection.
    async fn attempt<T, E, F, Fut>(
        &self,
        options: TransactionOptions,
        work: &F,
        runs: &AtomicU32,
        asker: Asker,
    ) -> Result<Worked<T>, Ended<T, E>>
    where
        F: Fn(Transaction) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let connection =
            self.write_from(asker).await.map_err(|error| rerun_unless_final(error, Attempt::Acquire))?;
        let ticket = begin(&connection, options).await.map_err(|error| {
            if is_standby(&error) {
                connection.suspect_server();
            }
            rerun_unless_final(error, Attempt::Begin)
        })?;
        let open = Arc::new(Open::new(connection));
        runs.fetch_add(1, Ordering::Relaxed);
        let outcome = work(Transaction { open: Arc::clone(&open) }).await;
        open.end();
        let usage = open.connection.usage();
        let failure = usage.failure();
        if let Some(failure) = failure.as_ref().filter(|failure| failure.class.is_transaction_retryable()) {
            roll_back(&open.connection).await;
            // That a connection was lost says less than the code with which the server ended it.
            let code = ended_by(&open.connection).filter(|_| !failure.from_server);
            return Err(Ended::Rerun { cause: code.unwrap_or_else(|| failure.text.clone()) });
        }
        match outcome {
            Ok(value) => match doubt(failure, usage.has_pending()) {
                None => Ok(Worked { open, ticket, value }),
                Some(cause) => {
                    roll_back(&open.connection).await;
                    Err(Ended::Failed(TransactionError::Aborted { cause }))
                }
            },
            Err(error) => {
                roll_back(&open.connection).await;
                Err(Ended::Failed(TransactionError::Work(error)))
            }
        }
    }

    async fn commit<T, E>(&self, worked: Worked<T>) -> Ended<T, E> {
        let Worked { open, ticket, value } = worked;
        let connection = &open.connection;
        let xid = ticket.xid.to_string();
        // Before the first byte of it.
        connection.usage().set_in_transaction(Inside::Commit);
        let values: [&(dyn postgres_types::ToSql + Sync); 1] = [&xid];
        // One write: the record is asked for behind the commit, on the same connection. The driver throws away the
        // tag that tells COMMIT from ROLLBACK; the record says the same, and comes with the token.
        let (committed, record) =
            join(connection.control("COMMIT"), connection.query_one(&RECORD, &values)).await;
        if let Err(error) = committed {
            let class = error.class();
            if error.postgres().is_some_and(|source| source.as_db_error().is_some())
                && class != Class::OutcomeUnknown
            {
                // The server answered that it refused: the transaction is over, and so is any doubt.
                connection.usage().set_in_transaction(Inside::Nothing);
                return rerun_unless_final(error, Attempt::Commit);
            }
        } else if let Ok(row) = record {
            match read_record(connection, &row, ticket) {
                // On a server that was replaced meanwhile it may be nowhere on the new primary.
                Ok(Recorded::Committed(token)) if token.timeline >= self.timeline() => {
                    connection.usage().set_in_transaction(Inside::Nothing);
                    return Ended::Committed(Committed { value, token });
                }
                Ok(Recorded::Aborted) => {
                    connection.usage().set_in_transaction(Inside::Nothing);
                    let cause = "the server answered COMMIT by rolling back".to_owned();
                    return Ended::Failed(TransactionError::Aborted { cause });
                }
                Ok(Recorded::Committed(_) | Recorded::InProgress | Recorded::Unknowable) | Err(_) => {}
            }
        }
        let code = ended_by(connection);
        // The connection goes first: the question needs one, and a pool of one would wait for itself.
        drop(open);
        match self.commit_outcome(ticket).await {
            CommitOutcome::Committed(token) => Ended::Committed(Committed { value, token }),
            CommitOutcome::RolledBack => {
                let lost = || "connection lost during commit".to_owned();
                Ended::Rerun { cause: code.unwrap_or_else(lost) }
            }
            CommitOutcome::Unknown => Ended::Failed(TransactionError::OutcomeUnknown { ticket }),
        }
    }
}

async fn begin(connection: &Connection, options: TransactionOptions) -> Result<CommitTicket, Error> {
    // Before the first byte: a future dropped here must not give back a connection that may be inside a transaction.
    connection.usage().set_in_transaction(Inside::Transaction);
    // Behind a pooler each transaction may meet another server connection, so there the incarnation is asked for.
    let incarnation = Some(connection.incarnation()).filter(|incarnation| *incarnation != 0);
    let ask = if incarnation.is_some() { CommitTicket::SQL_BRIEF } else { CommitTicket::SQL };
    let row = connection
        .control(&format!("BEGIN ISOLATION LEVEL {} READ WRITE; {ask}", options.isolation.sql()))
        .await?;
    let ticket = row.as_ref().and_then(|row| match incarnation {
        Some(incarnation) => CommitTicket::from_brief_row(row, incarnation),
        None => CommitTicket::from_simple_row(row),
    });
    ticket.ok_or_else(|| Error::UnknownForm {
        node: connection.node().clone(),
        what: "the id of a transaction",
    })
}

/// Keeps the connection for others when the server confirms; otherwise it closes when dropped, to the same effect.
async fn roll_back(connection: &Connection) {
    let usage = connection.usage();
    if !usage.has_pending() && connection.control("ROLLBACK").await.is_ok() {
        usage.set_in_transaction(Inside::Nothing);
    }
}

/// Why a commit must not be sent although the closure gave a value.
fn doubt(failure: Option<Failure>, has_pending: bool) -> Option<String> {
    let failed = failure.filter(|failure| failure.from_server || failure.class != Class::Never);
    failed.map(|failure| failure.text).or_else(|| has_pending.then(|| "a statement was abandoned".to_owned()))
}

/// Where a run failed outside the closure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Acquire,
    Begin,
    Commit,
}

fn rerun_unless_final<T, E>(error: Error, during: Attempt) -> Ended<T, E> {
    let again = match during {
        // Acquiring has had its own timeout; waiting for it again would multiply the wait under overload.
        Attempt::Acquire => {
            error.class() == Class::NotSent
                && !error.is_overload()
                && !matches!(error, Error::NoPrimary { .. })
        }
        Attempt::Begin => error.class().is_transaction_retryable() || is_standby(&error),
        Attempt::Commit => error.class().is_retryable(),
    };
    match during {
        _ if !again => Ended::Failed(TransactionError::Database(error)),
        Attempt::Acquire | Attempt::Begin => Ended::NotBegun(error),
        Attempt::Commit => Ended::Rerun { cause: cause_of(&error) },
    }
}

/// The code with which the server has ended the connection while the closure was at something else, as when that took too long
/// (25P03).
fn ended_by(connection: &Connection) -> Option<String> {
    connection.pooled().presence.tap.ended_by().map(str::to_owned)
}

fn cause_of(error: &Error) -> String {
    error.sqlstate().map_or_else(|| error.to_string(), |code| code.code().to_owned())
}

/// What a server in recovery answers to `BEGIN .. READ WRITE`; nothing else in that text gives this code.
fn is_standby(error: &Error) -> bool {
    error.sqlstate() == Some(&SqlState::FEATURE_NOT_SUPPORTED)
}

/// Full jitter: any time up to the bound, so that those who met once do not meet again.
fn pause(attempts: u32) -> Duration {
    let bound = PAUSE_FIRST.saturating_mul(1 << attempts.min(10)).min(PAUSE_MAX);
    bound.mul_f64(rand::random())
}
