//! Why a bulk operation ended early, and what of it stands. Names, positions and codes only: no value of a row is ever
//! part of it, and the server's own message, which may quote one, is left out.

use std::fmt;
use std::ops::Range;

use tokio_postgres::error::{DbError, SqlState};

use super::report::BulkReport;
use super::row::FieldError;
use crate::error::Error;
use crate::sqlstate::classify_code;
use crate::transaction::{CommitTicket, TransactionError};

/// A bulk operation that ended early.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct BulkError {
    /// Why.
    #[source]
    pub cause: BulkCause,
    /// What stands: the chunks that were committed before.
    pub done: Box<BulkReport>,
}

/// Why a bulk operation ended early. Rows are counted from 0, in the order of the input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BulkCause {
    /// The table, one of the columns or a setting does not fit; nothing was sent.
    #[error("bulk refused: {problem}")]
    Settings {
        /// What does not fit, with the name of the table, column or setting.
        problem: String,
    },
    /// The input gave an error. Of the chunk that it came in nothing was sent.
    #[error("the input failed at row {row}")]
    Input {
        /// The row that did not come.
        row: u64,
        /// The input's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A row cannot be sent, and of its chunk nothing was; or one that was read does not fit.
    #[error("row {row}: {source}")]
    Value {
        /// The row.
        row: u64,
        /// Its column, and what is wrong.
        source: FieldError,
    },
    /// The server rejected a row. Nothing of its chunk remains.
    #[error("{0}")]
    Rejected(Rejected),
    /// More rows were rejected than may be. Nothing of the chunk remains in which the bound was passed.
    #[error("more than {limit} rows were rejected")]
    TooManyRejected {
        /// The bound.
        limit: usize,
    },
    /// The server refused a chunk for a reason that is no single row's. Nothing of it remains.
    #[error("rows {} to {} refused: {refusal}", .rows.start, .rows.end.saturating_sub(1))]
    Refused {
        /// The chunk.
        rows: Range<u64>,
        /// The server's code and the names it gave.
        refusal: Refusal,
    },
    /// A chunk found no connection, lost its connections, or ran out of time. Nothing of it remains.
    #[error("rows {} to {}", .rows.start, .rows.end.saturating_sub(1))]
    Transaction {
        /// The chunk.
        rows: Range<u64>,
        /// How its transaction ended.
        #[source]
        source: Box<TransactionError<Error>>,
    },
    /// The connection broke during a chunk's commit and nobody could say how it ended. With a job, running it again is safe.
    #[error("rows {} to {}: commit outcome unknown: {ticket}", .rows.start, .rows.end.saturating_sub(1))]
    OutcomeUnknown {
        /// The chunk.
        rows: Range<u64>,
        /// What to ask for later with [`crate::Db::commit_outcome`].
        ticket: CommitTicket,
    },
    /// The server refused to give rows, or ended giving them.
    #[error("reading ended at row {row}: {refusal}")]
    Unreadable {
        /// Rows given before.
        row: u64,
        /// The server's code and the names it gave.
        refusal: Refusal,
    },
    /// The connection broke while rows were read. Nothing was changed.
    #[error("reading ended at row {row}")]
    ReadLost {
        /// Rows given before.
        row: u64,
        /// How it broke.
        #[source]
        source: Error,
    },
    /// Another run of the same job began. What this one had committed stands, and the other run skips it.
    #[error("another run of job {job} has taken over")]
    TakenOver {
        /// The job.
        job: String,
    },
    /// No connection for looking at the table or the job, or the look failed.
    #[error(transparent)]
    Database(Error),
}

impl BulkCause {
    /// Nothing remains of what is named, and the same again may succeed. With a job, run the whole input again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Transaction { source, .. } => source.is_retryable(),
            Self::Database(error) => error.is_retryable(),
            Self::Unreadable { refusal, .. } => classify_code(refusal.sqlstate.code()).is_read_retryable(),
            Self::ReadLost { .. } => true,
            _ => false,
        }
    }
}

/// A row that was not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Counted from 0, in the order of the input.
    pub row: u64,
    /// Who rejected it, and why.
    pub refusal: Refusal,
}

/// Why something was refused: a code and names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The server's code; for a value that was refused before it was sent, the one that the server has for it.
    pub sqlstate: SqlState,
    /// The column, where it is known.
    pub column: Option<String>,
    /// The violated constraint, where there is one.
    pub constraint: Option<String>,
}

impl Refusal {
    /// Takes the names out of the server's report and leaves the rest, which may quote values.
    pub(super) fn of(failure: &DbError) -> Self {
        Self {
            sqlstate: failure.code().clone(),
            column: failure.column().map(str::to_owned),
            constraint: failure.constraint().map(str::to_owned),
        }
    }

    /// As the server would refuse it.
    pub(super) fn of_field(error: FieldError) -> Self {
        use super::row::FieldProblem;
        let sqlstate = match error.problem {
            FieldProblem::Nul => SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            FieldProblem::TooLong => SqlState::PROGRAM_LIMIT_EXCEEDED,
            _ => SqlState::DATA_EXCEPTION,
        };
        Self { sqlstate, column: Some(error.column.to_owned()), constraint: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "SQLSTATE {}", self.sqlstate.code())?;
        if let Some(column) = &self.column {
            write!(formatter, ", column {column}")?;
        }
        if let Some(constraint) = &self.constraint {
            write!(formatter, ", constraint {constraint}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "row {} rejected: {}", self.row, self.refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_a_replica_ended_may_be_made_again_and_one_that_is_wrong_may_not() {
        for (code, may) in [("40001", true), ("57P01", true), ("22012", false), ("42601", false)] {
            let refusal = Refusal { sqlstate: SqlState::from_code(code), column: None, constraint: None };
            assert_eq!(BulkCause::Unreadable { row: 3, refusal }.is_retryable(), may, "{code}");
        }
    }
}
