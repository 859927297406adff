//! The schema's history, compiled in, and the partitions that must stand before a payment can be written. Driven by
//! `paystrata migrate` and by `serve` at start; safe from many processes at once.

use std::time::SystemTime;

use paystrata_db::partitions::{Month, PartitionError, ensure_months};
use paystrata_db::{Migrator, Session, migrations};

/// All migrations, in order.
pub static MIGRATOR: Migrator = Migrator::new(migrations!(
    "../migrations/",
    "0001_merchants_and_accounts.sql",
    "0002_payments_and_entries.sql",
    "0003_gateways_and_fraud.sql",
    "0004_merchant_stats.sql",
));

/// The tables that are partitioned by month.
pub const PARTITIONED: [&str; 3] = ["payments", "entries", "outbox"];

/// Makes the partitions of this month and the months ahead, where they are missing. Last month's too: a request that
/// began before midnight carries an id of the old month.
///
/// # Errors
/// The database refused or was not reached; what was made stays.
pub async fn ensure_partitions(session: &Session, months_ahead: u32) -> Result<(), PartitionError> {
    let now = Month::containing(SystemTime::now());
    let previous = if now.month() == 1 {
        Month::new(now.year() - 1, 12)
    } else {
        Month::new(now.year(), now.month() - 1)
    };
    let first = previous.unwrap_or(now);
    for table in PARTITIONED {
        ensure_months(session, table, first, months_ahead + 1).await?;
    }
    Ok(())
}
