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

mod catalog;
mod detach;
mod error;
mod month;
mod watch;

use tokio_postgres::error::SqlState;
use tracing::info;

pub use detach::{DetachLimits, detach_before, detach_before_within};
pub use error::PartitionError;
pub use month::Month;
pub use watch::{DEFAULT_ROWS_MAX, DefaultPartition, Watched, watch};

use crate::session::Session;
use catalog::{Children, children};
use error::has_code;

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

/// Makes the partitions from `from` to `months_ahead` months later, both included, where they are missing. Gives
/// those it was asked for. Safe from several processes at once.
///
/// A partition is made as a table of its own and then attached, which takes a weaker lock on `table` than
/// creating it in place: reads and writes go on, except those that need the default partition while that is scanned.
/// Privileges of `table` are not copied.
///
/// # Errors
/// [`PartitionError`]; what was made before stays. SQLSTATE 55P03 means that the lock was not to be had: try later.
/// With [`PartitionError::DefaultHoldsRows`], which tells the first such month, all months that could be made were.
pub async fn ensure_months(
    session: &Session,
    table: &str,
    from: Month,
    months_ahead: u32,
) -> Result<Vec<Partition>, PartitionError> {
    if months_ahead > MONTHS_AHEAD_MAX {
        return Err(PartitionError::TooManyMonths { months: months_ahead });
    }
    let Children { months, default } = children(session, table).await?;
    let mut wanted = Vec::new();
    let mut month = from;
    for _ in 0..=months_ahead {
        wanted.push(Partition { month, name: format!("{table}_{month}") });
        month = month.next();
    }
    let is_present =
        |wanted: &Partition| months.iter().any(|child| !child.is_detaching && child.partition == *wanted);
    let mut blocked = None;
    for partition in wanted.iter().filter(|partition| !is_present(partition)) {
        match attach(session, table, partition, default.as_deref()).await {
            Ok(()) => info!(table, partition = partition.name, "partition made"),
            // Were the later months left out, their rows would go to the default partition too.
            Err(error @ PartitionError::DefaultHoldsRows { .. }) => blocked = blocked.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    blocked.map_or(Ok(wanted), Err)
}

/// The attached monthly partitions, oldest first. Tables whose names do not end in a month are not among them.
///
/// # Errors
/// [`PartitionError::TableName`], [`PartitionError::NotPartitioned`], [`PartitionError::Postgres`].
pub async fn list(session: &Session, table: &str) -> Result<Vec<Partition>, PartitionError> {
    let months = children(session, table).await?.months;
    Ok(months.into_iter().filter(|child| !child.is_detaching).map(|child| child.partition).collect())
}

async fn attach(
    session: &Session,
    table: &str,
    partition: &Partition,
    default: Option<&str>,
) -> Result<(), PartitionError> {
    let outcome = session.client().batch_execute(&attach_sql(table, partition)).await;
    outcome.map_err(|source| match default {
        Some(default) if is_of_default(&source, partition) => PartitionError::DefaultHoldsRows {
            table: table.to_owned(),
            month: partition.month,
            default: default.to_owned(),
            source,
        },
        _ => PartitionError::Postgres { table: table.to_owned(), source },
    })
}

/// A row is where it may not be, and not in the table that was to be attached: that may have been there before.
fn is_of_default(error: &tokio_postgres::Error, partition: &Partition) -> bool {
    let table = error.as_db_error().and_then(|error| error.table());
    has_code(error, &[SqlState::CHECK_VIOLATION]) && table != Some(partition.name.as_str())
}

/// One statement that does all or nothing, and nothing when another process has done it.
fn attach_sql(table: &str, partition: &Partition) -> String {
    let Partition { month, name } = partition;
    let (first, end) = (month.first_uuid(), month.next().first_uuid());
    format!(
        "DO $do$ BEGIN \
         PERFORM set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', true); \
         PERFORM pg_advisory_xact_lock({LOCK_CLASS}, hashtext('{table}')); \
         IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = '{table}'::regclass AND inhrelid = to_regclass('{name}')) THEN \
         CREATE TABLE IF NOT EXISTS {name} (LIKE {table} INCLUDING ALL); \
         ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{end}'); \
         END IF; END $do$"
    )
}
