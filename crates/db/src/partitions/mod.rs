//! Monthly partitions of tables that are partitioned by RANGE on a UUIDv7 column: made ahead, listed, detached by age.
//! It never drops a table and never moves a row. Each step is one statement, so nothing is left half done when a
//! future is dropped. Called by whoever keeps the partitions, on a [`Session`].

mod month;

use tokio_postgres::error::SqlState;
use tracing::info;

pub use month::Month;

use crate::session::Session;

/// One monthly partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition {
    /// The month it holds.
    pub month: Month,
    /// Its table, for example `payments_2026_11`.
    pub name: String,
}

/// Why partitions could not be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// Table names are lower-case letters, digits and underscores, at most 55 long, so that a month can follow.
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
/// creating it in place: reads and writes go on. Privileges of `table` are not copied.
///
/// # Errors
/// [`PartitionError`]; what was made before stays. SQLSTATE 55P03 means that the lock was not to be had: try later.
pub async fn ensure_months(
    session: &Session,
    table: &str,
    from: Month,
    months_ahead: u32,
) -> Result<Vec<Partition>, PartitionError> {
    check_name(table)?;
    if months_ahead > MONTHS_AHEAD_MAX {
        return Err(PartitionError::TooManyMonths { months: months_ahead });
    }
    let mut wanted = Vec::new();
    let mut month = from;
    for _ in 0..=months_ahead {
        wanted.push(Partition { month, name: format!("{table}_{month}") });
        month = month.next();
    }
    let present = list(session, table).await?;
    for partition in wanted.iter().filter(|partition| !present.contains(partition)) {
        run(session, table, &attach_sql(table, partition)).await?;
        info!(table, partition = partition.name, "partition made");
    }
    Ok(wanted)
}

/// The attached monthly partitions, oldest first. Tables whose names do not end in a month are not among them.
///
/// # Errors
/// [`PartitionError::Postgres`].
pub async fn list(session: &Session, table: &str) -> Result<Vec<Partition>, PartitionError> {
    let children = children(session, table).await?;
    Ok(children.into_iter().filter(|child| !child.detaching).map(|child| child.partition).collect())
}

/// Detaches the partitions of all months before `month`, and gives them; their tables stay. Reads and writes go
/// on meanwhile, but each waits for older transactions to end. A table with a default partition is refused by the server.
///
/// # Errors
/// [`PartitionError::Postgres`]; what was detached before stays so. A detach that was cut off is finished by the next call.
pub async fn detach_before(
    session: &Session,
    table: &str,
    month: Month,
) -> Result<Vec<Partition>, PartitionError> {
    let children = children(session, table).await?;
    let mut detached = Vec::new();
    for child in children.into_iter().filter(|child| child.partition.month < month) {
        let name = &child.partition.name;
        let how = if child.detaching { "FINALIZE" } else { "CONCURRENTLY" };
        let outcome =
            run(session, table, &format!("ALTER TABLE {table} DETACH PARTITION {name} {how}")).await;
        match outcome {
            // Another process was quicker.
            Err(PartitionError::Postgres { source, .. })
                if source.code() == Some(&SqlState::UNDEFINED_TABLE) => {}
            other => other?,
        }
        info!(table, partition = name, "partition detached");
        detached.push(child.partition);
    }
    Ok(detached)
}

struct Child {
    partition: Partition,
    /// A concurrent detach was begun and cut off.
    detaching: bool,
}

async fn children(session: &Session, table: &str) -> Result<Vec<Child>, PartitionError> {
    check_name(table)?;
    let sql = format!(
        "SELECT child.relname::text, inhdetachpending FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid \
         WHERE inhparent = '{table}'::regclass"
    );
    let failed = |source| PartitionError::Postgres { table: table.to_owned(), source };
    let rows = session.client().query_typed(&sql, &[]).await.map_err(failed)?;
    let mut children = Vec::new();
    for row in rows {
        let name: String = row.try_get(0).map_err(failed)?;
        let detaching = row.try_get(1).map_err(failed)?;
        if let Some(month) = month_of(table, &name) {
            children.push(Child { partition: Partition { month, name }, detaching });
        }
    }
    children.sort_by_key(|child| child.partition.month);
    Ok(children)
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

async fn run(session: &Session, table: &str, sql: &str) -> Result<(), PartitionError> {
    let outcome = session.client().batch_execute(sql).await;
    outcome.map_err(|source| PartitionError::Postgres { table: table.to_owned(), source })
}

// Names are put into statements as they are, so nothing that would need quoting may pass.
fn check_name(table: &str) -> Result<(), PartitionError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let opens_well = table.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
    if opens_well && table.len() <= TABLE_NAME_MAX && table.bytes().all(plain) {
        Ok(())
    } else {
        Err(PartitionError::TableName { table: table.to_owned() })
    }
}

fn month_of(table: &str, name: &str) -> Option<Month> {
    let (year, month) = name.strip_prefix(table)?.strip_prefix('_')?.split_once('_')?;
    let well_formed = year.len() == 4 && month.len() == 2;
    well_formed.then(|| Month::new(year.parse().ok()?, month.parse().ok()?)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_reach_a_statement() {
        for table in ["payments", "_p", "p2"] {
            assert!(check_name(table).is_ok(), "{table}");
        }
        for table in ["", "2p", "Payments", "a.b", "a b", "a\"b", "a'b", "a;b", "\u{e9}", &"a".repeat(56)] {
            assert!(check_name(table).is_err(), "{table}");
        }
    }

    #[test]
    fn the_month_is_read_back_from_the_name() {
        assert_eq!(month_of("payments", "payments_2026_11"), Month::new(2026, 11));
        for name in
            ["payments_default", "payments_2026_13", "payments_26_11", "other_2026_11", "payments2026_11"]
        {
            assert_eq!(month_of("payments", name), None, "{name}");
        }
    }
}
