//! Monthly partitions of tables that are partitioned by RANGE on a UUIDv7 column: made ahead, watched, detached by age.
//! It never drops a table and never moves a row. What is cut off changes nothing or is finished by the next call.
//! Called by whoever keeps the partitions, on a [`Session`] that is not in a transaction.
//!
//! - *Keys*: one column of type `uuid` with UUIDv7 values (RFC 9562), which begin with 48 bits of milliseconds. A
//!   partition is one calendar month in UTC. Times, numbers and keys of several columns are refused by the server.
//! - *Names*: `payments_2026_11` is the November 2026 of `payments`; partitions of other names are left alone. A
//!   table's name is plain and has no schema: it is looked up along the session's `search_path`, and partitions are
//!   made in the path's first schema. Those that stand in another schema are found there.
//! - *Default partition*: not needed, and with costs. Making a month scans and locks it, a month whose rows it holds
//!   cannot be made, and a detach locks the whole table. [`watch()`] counts its rows.

mod attach;
mod catalog;
mod detach;
mod error;
mod month;
mod watch;

pub use attach::{AttachLimits, MonthsAhead, ensure_months, ensure_months_within};
pub use detach::{DetachLimits, detach_before, detach_before_within};
pub use error::PartitionError;
pub use month::Month;
pub use watch::{DEFAULT_ROWS_MAX, DefaultPartition, Watched, watch};

use crate::session::Session;
use catalog::children;

/// One monthly partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    /// The month it holds.
    pub month: Month,
    /// Its table, for example `payments_2026_11`.
    pub name: String,
}

/// An identifier has 63 bytes and the month takes 8.
const TABLE_NAME_MAX: usize = 55;
/// Every partition costs each query planning time; ten years ahead is a slip of the pen.
const MONTHS_AHEAD_MAX: u32 = 120;
/// A statement that waits for a table lock makes all later ones wait behind it.
const LOCK_TIMEOUT_MS: u32 = 2_000;
/// First word of the advisory lock "partitions of one table": "part" in ASCII.
const LOCK_CLASS: i32 = 0x7061_7274;

/// The attached monthly partitions, oldest first. Tables whose names do not end in a month are not among them.
///
/// # Errors
/// [`PartitionError::TableName`], [`PartitionError::NotPartitioned`], [`PartitionError::Postgres`].
pub async fn list(session: &Session, table: &str) -> Result<Vec<Partition>, PartitionError> {
    let months = children(session, table).await?.months;
    Ok(months.into_iter().filter(|child| !child.is_detaching).map(|child| child.partition).collect())
}
