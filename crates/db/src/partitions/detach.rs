//! Detaches old months, each within a bound in time, and finishes what was cut off. It drops no table.
//! Concurrently where Postgres can; with a default partition it cannot, and then the table is locked for a moment.

use std::time::Duration;

use postgres_types::{ToSql, Type};
use tokio_postgres::error::SqlState;
use tracing::info;

use super::catalog::{Child, Children, children};
use super::error::has_code;
use super::{LOCK_TIMEOUT_MS, Month, Partition, PartitionError};
use crate::session::Session;

/// The bounds of a detach. Less than a millisecond counts as one, more than 24 days as 24 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetachLimits {
    /// Longest time for each partition, waits included.
    pub timeout: Duration,
    /// Longest wait for each lock of a table that has a default partition, and of those at the other ends of foreign keys: all who
    /// want the table wait behind it.
    pub lock_timeout: Duration,
}

impl Default for DetachLimits {
    /// A minute for each partition, 2 s for a lock.
    fn default() -> Self {
        let lock_timeout = Duration::from_millis(u64::from(LOCK_TIMEOUT_MS));
        Self { timeout: Duration::from_secs(60), lock_timeout }
    }
}

/// A setting of Postgres is an `i32`, and zero would mean no limit.
const TIMEOUT_MS_MAX: u128 = 2_147_483_647;

/// Detaches the partitions of all months before `month`, and gives them; their tables stay. As
/// [`detach_before_within`] with the limits that are the default.
///
/// # Errors
/// Those of [`detach_before_within`].
pub async fn detach_before(
    session: &Session,
    table: &str,
    month: Month,
) -> Result<Vec<Partition>, PartitionError> {
    detach_before_within(session, table, month, DetachLimits::default()).await
}

/// Detaches the partitions of all months before `month`, and gives them; their tables stay.
///
/// Reads and writes go on meanwhile, and each detach waits for older transactions to end (`DETACH .. CONCURRENTLY`). It
/// is two transactions, so that one that is cut off may be half done: queries leave the partition out, and no other can
/// be detached. The next call finishes it first, whatever its month, and gives it too. With foreign keys it waits for older
/// transactions no longer than for a lock.
///
/// From a table with a default partition nothing can be detached concurrently. Then each partition is detached under a
/// lock of the whole table, for milliseconds unless foreign keys refer to it; for the lock it waits no longer than
/// `limits` say, as everybody else waits behind it.
///
/// The session must not be in a transaction. If the future is dropped during a concurrent detach, the session closes.
///
/// # Errors
/// [`PartitionError::Locked`] when the lock was not to be had, [`PartitionError::DetachStopped`] when the timeout came
/// first, else [`PartitionError::TableName`], [`PartitionError::NotPartitioned`] or [`PartitionError::Postgres`]. What
/// was detached before stays so.
pub async fn detach_before_within(
    session: &Session,
    table: &str,
    month: Month,
    limits: DetachLimits,
) -> Result<Vec<Partition>, PartitionError> {
    let Children { mut months, default } = children(session, table).await?;
    // Postgres begins no detach while another one of the table is half done.
    months.sort_by_key(|child| !child.is_detaching);
    let mut detached = Vec::new();
    for child in months.into_iter().filter(|child| child.is_detaching || child.partition.month < month) {
        Detach { session, table, default: default.as_deref(), limits }.run(&child).await?;
        info!(table, partition = child.partition.name, "partition detached");
        detached.push(child.partition);
    }
    detached.sort();
    Ok(detached)
}

struct Detach<'a> {
    session: &'a Session,
    table: &'a str,
    default: Option<&'a str>,
    limits: DetachLimits,
}

impl Detach<'_> {
    async fn run(&self, child: &Child) -> Result<(), PartitionError> {
        let Self { session, table, limits, .. } = *self;
        let alter = format!("ALTER TABLE {table} DETACH PARTITION {}", child.path);
        let timeout_ms = millis(limits.timeout);
        // It keeps nobody from finishing what was begun before it was there.
        let default = self.default.filter(|_| !child.is_detaching);
        // Without either its waits keep nobody waiting, and have no limit but that of the whole.
        let keeps_waiting = default.is_some() || self.has_foreign_keys(child).await?;
        let lock_ms = if keeps_waiting { millis(limits.lock_timeout) } else { 0 };
        let outcome = match default {
            _ if child.is_detaching => {
                at_once(session, &format!("{alter} FINALIZE"), timeout_ms, lock_ms).await
            }
            Some(_) => at_once(session, &alter, timeout_ms, lock_ms).await,
            None => concurrently(session, &alter, timeout_ms, lock_ms).await,
        };
        let Err(source) = outcome else { return Ok(()) };
        let (table, partition) = (table.to_owned(), child.partition.name.clone());
        let no_lock = [SqlState::LOCK_NOT_AVAILABLE, SqlState::T_R_DEADLOCK_DETECTED];
        match default {
            // Another process was quicker.
            _ if has_code(&source, &[SqlState::UNDEFINED_TABLE]) => Ok(()),
            Some(default) if has_code(&source, &no_lock) => {
                let (default, within) = (default.to_owned(), limits.lock_timeout);
                Err(PartitionError::Locked { table, partition, default, within, source })
            }
            // As late as the timeout, for who calls: what was begun is finished by the next call.
            None if has_code(&source, &no_lock) => {
                Err(PartitionError::DetachStopped { table, partition, within: limits.lock_timeout, source })
            }
            _ if has_code(&source, &[SqlState::QUERY_CANCELED]) => {
                Err(PartitionError::DetachStopped { table, partition, within: limits.timeout, source })
            }
            _ => Err(PartitionError::Postgres { table, source }),
        }
    }

    /// Then tables at their other ends are locked as well: against writes, while the lock is waited for too.
    async fn has_foreign_keys(&self, child: &Child) -> Result<bool, PartitionError> {
        let Self { session, table, .. } = *self;
        let sql = "SELECT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND \
                   (conrelid = $1::text::regclass OR confrelid IN ($1::text::regclass, $2::text::regclass)))";
        let names = [(&child.path as &(dyn ToSql + Sync), Type::TEXT), (&table, Type::TEXT)];
        let answer = async { session.client().query_typed_one(sql, &names).await?.try_get(0) };
        match answer.await {
            Ok(has) => Ok(has),
            // Another process was quicker; the detach finds that out.
            Err(source) if has_code(&source, &[SqlState::UNDEFINED_TABLE]) => Ok(false),
            Err(source) => Err(PartitionError::Postgres { table: table.to_owned(), source }),
        }
    }
}

/// In one message, which is one transaction: its limits end with it, however it ends. A `lock_timeout_ms` of 0 is none.
async fn at_once(
    session: &Session,
    alter: &str,
    timeout_ms: u128,
    lock_timeout_ms: u128,
) -> Result<(), tokio_postgres::Error> {
    let sql = format!(
        "SET LOCAL lock_timeout = {lock_timeout_ms}; SET LOCAL statement_timeout = {timeout_ms}; {alter}"
    );
    session.client().batch_execute(&sql).await
}

/// It runs in no transaction, so its limits are the session's for as long.
async fn concurrently(
    session: &Session,
    alter: &str,
    timeout_ms: u128,
    lock_timeout_ms: u128,
) -> Result<(), tokio_postgres::Error> {
    let client = session.client();
    let own = "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')";
    let row = client.query_typed_one(own, &[]).await?;
    let (lock_timeout, statement_timeout): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    // A session that lives on has its own settings again.
    let guard = session.close_unless_done();
    let set = format!("SET lock_timeout = {lock_timeout_ms}; SET statement_timeout = {timeout_ms}");
    client.batch_execute(&set).await?;
    let outcome = client.batch_execute(&format!("{alter} CONCURRENTLY")).await;
    let reset = format!("SET lock_timeout = '{lock_timeout}'; SET statement_timeout = '{statement_timeout}'");
    let restored = client.batch_execute(&reset).await;
    if restored.is_ok() {
        guard.done();
    }
    outcome.and(restored)
}

pub(super) fn millis(limit: Duration) -> u128 {
    limit.as_millis().clamp(1, TIMEOUT_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_limit_means_none_at_all() {
        let table = [(Duration::ZERO, 1), (Duration::from_micros(2_900), 2), (Duration::MAX, TIMEOUT_MS_MAX)];
        for (limit, expected) in table {
            assert_eq!(millis(limit), expected, "{limit:?}");
        }
    }
}
