//! Transactions as closures: rerun when the server rolled them back through no fault of theirs, and honest about
//! their end. "Committed" is said only when the server's own record says so.
//!
//! ```text
//! begin ──> run closure ──> commit ──> committed
//!   ^            │             ├──> rolled back: rerun, or tell
//!   └── pause <──┴─────────────┘
//!                              └──> connection lost: ask another connection (`outcome`)
//! ```
//!
//! It keeps no savepoints and offers no way to commit halfway. Called through [`crate::Db::transaction`].

mod handle;
mod outcome;
mod run;

use std::fmt;
use std::time::Duration;

use crate::error::Error;
use crate::token::Token;

pub use handle::Transaction;
pub use outcome::{CommitOutcome, CommitTicket};

/// What a committed transaction gives.
#[derive(Clone, Copy, Debug)]
pub struct Committed<T> {
    /// The closure's value.
    pub value: T,
    /// Reads that carry it see this transaction.
    pub token: Token,
}

/// How a transaction is to be run.
#[derive(Clone, Copy, Debug)]
pub struct TransactionOptions {
    /// The isolation level. Above `ReadCommitted` the snapshot is taken when the transaction begins.
    pub isolation: Isolation,
    /// How often the closure may run, the first time included; at least once.
    pub attempts_max: u32,
    /// A limit over all runs and pauses. A commit that was sent is seen through to its outcome beyond it.
    pub timeout: Duration,
}

/// SQL's isolation levels, as Postgres has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// Each statement sees what was committed before it began.
    #[default]
    ReadCommitted,
    /// All statements see one snapshot.
    RepeatableRead,
    /// As if transactions ran one after the other; expect reruns.
    Serializable,
}

impl Default for TransactionOptions {
    fn default() -> Self {
        Self { isolation: Isolation::ReadCommitted, attempts_max: 5, timeout: Duration::from_secs(10) }
    }
}

impl Isolation {
    pub(crate) fn sql(self) -> &'static str {
        match self {
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }
}

/// Why a transaction is not known to be committed.
#[derive(Debug)]
#[non_exhaustive]
pub enum TransactionError<E> {
    /// The closure gave an error; nothing of the transaction remains.
    Work(E),
    /// No connection, or the commit was refused (a deferred constraint); nothing remains.
    Database(Error),
    /// The closure gave a value although one of its statements had failed and aborted the transaction; nothing remains.
    Aborted {
        /// The SQLSTATE of the failure, or its text.
        cause: String,
    },
    /// Every run was rolled back by conflicts or by losing its connection; nothing remains.
    Contended {
        /// How often the closure ran.
        attempts: u32,
        /// The SQLSTATE of the last failure, or its text.
        cause: String,
    },
    /// The time was up before a commit was sent; nothing remains.
    Deadline {
        /// The limit.
        after: Duration,
    },
    /// The connection broke during the commit and nobody could say how it ended. It may have been committed.
    OutcomeUnknown {
        /// What to ask for later with [`crate::Db::commit_outcome`].
        ticket: CommitTicket,
    },
}

impl<E> TransactionError<E> {
    /// Nothing remains, and running the same again may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Database(error) => error.is_retryable(),
            Self::Contended { .. } | Self::Deadline { .. } => true,
            Self::Work(_) | Self::Aborted { .. } | Self::OutcomeUnknown { .. } => false,
        }
    }

    /// It may have been committed.
    #[must_use]
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. })
    }
}

impl<E: fmt::Display> fmt::Display for TransactionError<E> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work(error) => write!(formatter, "transaction rolled back: {error}"),
            Self::Database(error) => write!(formatter, "transaction rolled back: {error}"),
            Self::Aborted { cause } => {
                write!(formatter, "transaction aborted by an unreported failure: {cause}")
            }
            Self::Contended { attempts, cause } => {
                write!(formatter, "transaction rolled back {attempts} times, last by {cause}")
            }
            Self::Deadline { after } => write!(formatter, "transaction not finished within {after:?}"),
            Self::OutcomeUnknown { ticket } => write!(formatter, "commit outcome unknown: {ticket}"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for TransactionError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Work(error) => Some(error),
            Self::Database(error) => Some(error),
            _ => None,
        }
    }
}
