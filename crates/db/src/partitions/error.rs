//! Why partitions could not be kept. Callers: all functions of this module.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::{MONTHS_AHEAD_MAX, Month, TABLE_NAME_MAX};

/// Why partitions could not be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// Table names are lower-case letters, digits and underscores, without a schema, at most 55 long, so that a month
    /// can follow.
    #[error("{table:?} is no plain lower-case table name of at most {TABLE_NAME_MAX} characters")]
    TableName {
        /// The name given.
        table: String,
    },
    /// More months than could be meant.
    #[error("{months} months ahead is more than {MONTHS_AHEAD_MAX}")]
    TooManyMonths {
        /// The number given.
        months: u32,
    },
    /// There is a table of that name, which has no partitions.
    #[error("{table} is not a partitioned table")]
    NotPartitioned {
        /// Its name.
        table: String,
    },
    /// Rows of the month went to the default partition before the month had its own. Nothing was made for this month:
    /// move those rows out, then ask again.
    #[error(
        "make the partition {table}_{month} of {table}: the default partition {default} holds rows of its range, \
         from {} to before {}; move them out first",
        .month.first_uuid(),
        .month.next().first_uuid()
    )]
    DefaultHoldsRows {
        /// The partitioned table.
        table: String,
        /// The month that has no partition.
        month: Month,
        /// The default partition, quoted and with its schema where a statement would need that.
        default: String,
        /// The server's error.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The month's partition is half detached: a detach runs, or was cut off. Queries leave it out, and its rows are refused or go to
    /// the default partition. [`detach_before`](super::detach_before) finishes it, whatever its month; then it can be made, of
    /// the same table.
    #[error("make {partition} of {table}: its detach was begun and is not finished; finish it first")]
    Detaching {
        /// The partitioned table.
        table: String,
        /// The partition.
        partition: String,
    },
    /// A partition was not made in time: its locks, or looking through the default partition or a table of its name that was there
    /// before, took longer. Nothing of it remains. A valid check that says what the partition holds spares the looking.
    #[error("make {partition} of {table}: not done within {within:?}; nothing was changed")]
    AttachStopped {
        /// The partitioned table.
        table: String,
        /// The partition.
        partition: String,
        /// The timeout.
        within: Duration,
        /// The server's error.
        #[source]
        source: tokio_postgres::Error,
    },
    /// With a default partition, a detach needs the whole table for a moment, and others had it, or they and it waited
    /// for each other. Nothing of this partition was changed: try again when their transactions have ended.
    #[error(
        "detach {partition}: {table} has the default partition {default} and must be locked as a whole, \
         which was not to be had within {within:?}; nothing was changed"
    )]
    Locked {
        /// The partitioned table.
        table: String,
        /// The partition to be detached.
        partition: String,
        /// The default partition.
        default: String,
        /// The longest wait for each lock.
        within: Duration,
        /// The server's error.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A detach was stopped before its end: an older transaction stayed open for longer than its timeout, or somebody
    /// cancelled it. It may be half done, and is then finished by the next call.
    #[error(
        "detach {partition} from {table}: stopped before its end, for which it had {within:?}; call again"
    )]
    DetachStopped {
        /// The partitioned table.
        table: String,
        /// The partition to be detached.
        partition: String,
        /// The timeout.
        within: Duration,
        /// The server's error.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server refused.
    #[error("keep partitions of {table}")]
    Postgres {
        /// The partitioned table.
        table: String,
        /// The server's error.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// The server's error is one of these.
pub(super) fn has_code(error: &tokio_postgres::Error, codes: &[SqlState]) -> bool {
    error.code().is_some_and(|code| codes.contains(code))
}
