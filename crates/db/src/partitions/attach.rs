//! Makes months ahead, each within a bound in time: a table of its own that is then attached. What is stopped leaves nothing.
//! It attaches nothing whose detach is half done.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tracing::info;

use super::catalog::{Children, children};
use super::detach::millis;
use super::error::has_code;
use super::{LOCK_CLASS, LOCK_TIMEOUT_MS, MONTHS_AHEAD_MAX, Month, Partition, PartitionError};
use crate::session::Session;

/// Months that are to have their partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonthsAhead {
    /// The first one.
    pub from: Month,
    /// So many after it: with 0 it is that one alone, and 120 are the most.
    pub months: u32,
}

/// The bounds of making a month. Less than a millisecond counts as one, more than 24 days as 24 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachLimits {
    /// Longest time for each month, waits included. Rows that the default partition holds, or a table that was there before, are
    /// looked through within it.
    pub timeout: Duration,
    /// Longest wait for each lock: all who want the table wait behind it.
    pub lock_timeout: Duration,
}

impl Default for AttachLimits {
    /// A minute for each month, 2 s for a lock.
    fn default() -> Self {
        let lock_timeout = Duration::from_millis(u64::from(LOCK_TIMEOUT_MS));
        Self { timeout: Duration::from_secs(60), lock_timeout }
    }
}

/// Makes the partitions from `from` to `months_ahead` months later, both included, where they are missing. Gives
/// those it was asked for. As [`ensure_months_within`] with the limits that are the default.
///
/// # Errors
/// Those of [`ensure_months_within`].
pub async fn ensure_months(
    session: &Session,
    table: &str,
    from: Month,
    months_ahead: u32,
) -> Result<Vec<Partition>, PartitionError> {
    let wanted = MonthsAhead { from, months: months_ahead };
    ensure_months_within(session, table, wanted, AttachLimits::default()).await
}

/// Makes the partitions of the months where they are missing, and gives all that were asked for. Safe from several processes at
/// once.
///
/// A partition is made as a table of its own and then attached, which takes a weaker lock on `table` than
/// creating it in place: reads and writes go on, except those that need the default partition while that is scanned.
/// Privileges of `table` are not copied. Not for inside of a transaction of the session: these limits would be those of all that
/// comes after in it.
///
/// # Errors
/// [`PartitionError`]; what was made before stays. SQLSTATE 55P03 means that the lock was not to be had: try later.
/// With [`PartitionError::DefaultHoldsRows`] and [`PartitionError::Detaching`], which tell the first such month, all months that
/// could be made were.
pub async fn ensure_months_within(
    session: &Session,
    table: &str,
    wanted: MonthsAhead,
    limits: AttachLimits,
) -> Result<Vec<Partition>, PartitionError> {
    let MonthsAhead { from, months } = wanted;
    if months > MONTHS_AHEAD_MAX {
        return Err(PartitionError::TooManyMonths { months });
    }
    let children = children(session, table).await?;
    let mut wanted = Vec::new();
    let mut month = from;
    for _ in 0..=months {
        wanted.push(Partition { month, name: format!("{table}_{month}") });
        month = month.next();
    }
    let mut blocked = None;
    for partition in &wanted {
        match (Attach { session, table, limits }).ensure(partition, &children).await {
            Ok(()) => {}
            // Were the later months left out, their rows would go to the default partition too, or nowhere.
            Err(error @ (PartitionError::DefaultHoldsRows { .. } | PartitionError::Detaching { .. })) => {
                blocked = blocked.or(Some(error));
            }
            Err(error) => return Err(error),
        }
    }
    blocked.map_or(Ok(wanted), Err)
}

struct Attach<'a> {
    session: &'a Session,
    table: &'a str,
    limits: AttachLimits,
}

impl Attach<'_> {
    async fn ensure(&self, partition: &Partition, children: &Children) -> Result<(), PartitionError> {
        let table = || self.table.to_owned();
        if let Some(child) = children.months.iter().find(|child| child.partition == *partition) {
            if child.is_detaching {
                // It may be under way elsewhere: that it is to go, or to stay, is for a person to say.
                return Err(PartitionError::Detaching { table: table(), partition: partition.name.clone() });
            }
            return Ok(());
        }
        let attached = self.session.client().batch_execute(&self.sql(partition)).await;
        attached.map_err(|source| match &children.default {
            Some(default) if is_of_default(&source, partition) => PartitionError::DefaultHoldsRows {
                table: table(),
                month: partition.month,
                default: default.clone(),
                source,
            },
            _ if has_code(&source, &[SqlState::QUERY_CANCELED]) => PartitionError::AttachStopped {
                table: table(),
                partition: partition.name.clone(),
                within: self.limits.timeout,
                source,
            },
            _ => PartitionError::Postgres { table: table(), source },
        })?;
        info!(table = self.table, partition = partition.name, "partition made");
        Ok(())
    }

    /// In one message, which is one transaction: its limits end with it. It does all or nothing, and nothing when another process has
    /// done it. Of one whose detach was begun since the catalog was read, the server says that it is a partition already.
    fn sql(&self, partition: &Partition) -> String {
        let Self { table, limits, .. } = self;
        let Partition { month, name } = partition;
        let (first, end) = (month.first_uuid(), month.next().first_uuid());
        let (lock_timeout_ms, timeout_ms) = (millis(limits.lock_timeout), millis(limits.timeout));
        format!(
            "SET LOCAL lock_timeout = {lock_timeout_ms}; SET LOCAL statement_timeout = {timeout_ms}; \
             DO $do$ BEGIN \
             PERFORM pg_advisory_xact_lock({LOCK_CLASS}, hashtext('{table}')); \
             IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = '{table}'::regclass \
                AND inhrelid = to_regclass('{name}') AND NOT inhdetachpending) THEN \
             CREATE TABLE IF NOT EXISTS {name} (LIKE {table} INCLUDING ALL); \
             ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES FROM ('{first}') TO ('{end}'); \
             END IF; END $do$"
        )
    }
}

/// A row is where it may not be, and not in the table that was to be attached: that may have been there before.
fn is_of_default(error: &tokio_postgres::Error, partition: &Partition) -> bool {
    let table = error.as_db_error().and_then(|error| error.table());
    has_code(error, &[SqlState::CHECK_VIOLATION]) && table != Some(partition.name.as_str())
}
