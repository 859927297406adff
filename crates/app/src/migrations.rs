//! The schema's history, compiled in, and the partitions that must stand before a payment can be written. Driven by
//! `paystrata migrate` and by `serve` at start; safe from many processes at once.

use std::fmt::Write as _;
use std::time::SystemTime;

use paystrata_db::partitions::{Month, PartitionError, ensure_months};
use paystrata_db::{MigrationState, MigrationStatus, Migrator, Session, migrations};
use time::OffsetDateTime;
use time::macros::format_description;

/// All migrations, in order.
pub static MIGRATOR: Migrator = Migrator::new(migrations!(
    "../migrations/",
    "0001_merchants_and_accounts.sql",
    "0002_payments_and_entries.sql",
    "0003_gateways_and_fraud.sql",
    "0004_merchant_stats.sql",
    "0005_change_notices.sql",
    "0006_view_refreshes.sql",
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

/// Where the migrations stand, a line each: `0001 merchants_and_accounts  applied 2026-11-21 03:04:05 UTC`.
#[must_use]
pub fn status_page(status: &[MigrationStatus]) -> String {
    let width = status.iter().map(|one| one.name.chars().count()).max().unwrap_or(0);
    let mut page = String::new();
    for MigrationStatus { version, name, state } in status {
        let standing = match *state {
            MigrationState::Applied { at } => format!("applied {}", utc(at)),
            MigrationState::Pending => "pending".to_owned(),
            MigrationState::Skipped => "PENDING, yet a later one is applied".to_owned(),
            MigrationState::Changed { at } => format!("applied {}, EDITED since", utc(at)),
            MigrationState::Unknown { at } => format!("applied {}, UNKNOWN to this program", utc(at)),
            MigrationState::Dirty => "STOPPED HALFWAY".to_owned(),
        };
        writeln!(page, "{version:04} {name:width$}  {standing}").expect("a string takes every line");
    }
    page
}

fn utc(at: SystemTime) -> String {
    let to_the_second = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    OffsetDateTime::from(at).format(&to_the_second).expect("every part is a number that a time has")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn status_is_written_for_people() {
        let at = SystemTime::UNIX_EPOCH + Duration::new(1_795_230_245, 123_456_000);
        let status = [
            (1, "accounts", MigrationState::Applied { at }),
            (2, "payments_and_entries", MigrationState::Changed { at }),
            (3, "notes", MigrationState::Skipped),
            (4, "half", MigrationState::Dirty),
            (5, "next", MigrationState::Unknown { at }),
            (10_006, "last", MigrationState::Pending),
        ];
        let status =
            status.map(|(version, name, state)| MigrationStatus { version, name: name.into(), state });
        let expected = "\
0001 accounts              applied 2026-11-21 03:04:05 UTC
0002 payments_and_entries  applied 2026-11-21 03:04:05 UTC, EDITED since
0003 notes                 PENDING, yet a later one is applied
0004 half                  STOPPED HALFWAY
0005 next                  applied 2026-11-21 03:04:05 UTC, UNKNOWN to this program
10006 last                  pending
";
        assert_eq!(status_page(&status), expected);
        assert_eq!(status_page(&[]), "");
    }
}
