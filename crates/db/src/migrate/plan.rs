//! Compares the list with what the database has: pure, so that every disagreement has its row in a table test.
//! Called by `run`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::SystemTime;

use super::{MigrateError, Migration, MigrationState, MigrationStatus};

/// One row of `schema_migrations`.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) version: i64,
    pub(super) name: String,
    pub(super) checksum: Vec<u8>,
    pub(super) dirty: bool,
    pub(super) applied_at: SystemTime,
}

/// The migrations still to be applied, or the first disagreement.
pub(super) fn pending(
    list: &'static [Migration],
    records: &[Record],
) -> Result<Vec<&'static Migration>, MigrateError> {
    check_order(list)?;
    let known: HashMap<i64, &Migration> =
        list.iter().map(|migration| (i64::from(migration.version), migration)).collect();
    for record in records {
        let Some(migration) = known.get(&record.version) else {
            return Err(MigrateError::Missing { version: record.version, name: record.name.clone() });
        };
        let Migration { version, name, .. } = **migration;
        if record.dirty {
            return Err(MigrateError::Dirty { version, name });
        }
        if record.checksum != migration.checksum() {
            return Err(MigrateError::Changed { version, name });
        }
    }
    let newest = records.iter().filter_map(|record| u32::try_from(record.version).ok()).max();
    let is_applied =
        |migration: &&Migration| records.iter().any(|record| record.version == i64::from(migration.version));
    let pending: Vec<_> = list.iter().filter(|migration| !is_applied(migration)).collect();
    match (pending.first(), newest) {
        (Some(first), Some(newest)) if first.version < newest => {
            Err(MigrateError::OutOfOrder { version: first.version, name: first.name, newest })
        }
        _ => Ok(pending),
    }
}

/// Where each migration stands, of the list and of the database, by version.
pub(super) fn status(list: &'static [Migration], records: &[Record]) -> Vec<MigrationStatus> {
    let newest = records.iter().map(|record| record.version).max();
    let mut status: Vec<MigrationStatus> = list
        .iter()
        .map(|migration| {
            let version = i64::from(migration.version);
            let record = records.iter().find(|record| record.version == version);
            let state = record.map_or_else(
                || if newest > Some(version) { MigrationState::Skipped } else { MigrationState::Pending },
                |record| state(migration, record),
            );
            MigrationStatus { version, name: Cow::Borrowed(migration.name), state }
        })
        .collect();
    let is_listed =
        |record: &&Record| list.iter().any(|migration| i64::from(migration.version) == record.version);
    status.extend(records.iter().filter(|record| !is_listed(record)).map(|record| MigrationStatus {
        version: record.version,
        name: Cow::Owned(record.name.clone()),
        state: MigrationState::Unknown { at: record.applied_at },
    }));
    status.sort_by_key(|one| one.version);
    status
}

fn state(migration: &Migration, record: &Record) -> MigrationState {
    let at = record.applied_at;
    if record.dirty {
        MigrationState::Dirty
    } else if record.checksum == migration.checksum() {
        MigrationState::Applied { at }
    } else {
        MigrationState::Changed { at }
    }
}

fn check_order(list: &[Migration]) -> Result<(), MigrateError> {
    for pair in list.windows(2) {
        if pair[0].version >= pair[1].version {
            return Err(MigrateError::Unordered { version: pair[1].version, previous: pair[0].version });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    static LIST: [Migration; 3] = [
        Migration::from_file("1_a.sql", "A"),
        Migration::from_file("2_b.sql", "B"),
        Migration::from_file("3_c.sql", "C"),
    ];
    static UNORDERED: [Migration; 2] =
        [Migration::from_file("2_b.sql", "B"), Migration::from_file("2_c.sql", "C")];

    fn record(version: i64, sql: &'static str) -> Record {
        let checksum = Migration::from_file("1_a.sql", sql).checksum().to_vec();
        Record { version, name: "x".to_owned(), checksum, dirty: false, applied_at: SystemTime::UNIX_EPOCH }
    }

    fn check(records: &[Record], expected: Result<&[u32], &str>) {
        let outcome = pending(&LIST, records).map_err(|error| error.to_string());
        match (outcome, expected) {
            (Ok(pending), Ok(versions)) => {
                assert_eq!(pending.iter().map(|migration| migration.version).collect::<Vec<_>>(), versions);
            }
            (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
            (outcome, expected) => panic!("{outcome:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn every_disagreement_is_named() {
        check(&[], Ok(&[1, 2, 3]));
        check(&[record(1, "A")], Ok(&[2, 3]));
        check(&[record(1, "A"), record(2, "B"), record(3, "C")], Ok(&[]));
        check(&[record(1, "edited")], Err("migration 1 (a) was changed"));
        check(&[record(1, "A"), record(9, "Z")], Err("migration 9 (x), which this program does not know"));
        check(&[record(1, "A"), record(3, "C")], Err("migration 2 (b) is not applied, yet the later 3 is"));
        check(&[Record { dirty: true, ..record(1, "A") }], Err("migration 1 (a) stopped halfway"));
    }

    fn check_status(records: &[Record], expected: &[(i64, MigrationState)]) {
        let shown = status(&LIST, records);
        let states: Vec<_> = shown.iter().map(|one| (one.version, one.state)).collect();
        assert_eq!(states, expected);
        // The two never contradict each other.
        let disagrees = shown.iter().any(|one| one.state.is_disagreement());
        assert_eq!(pending(&LIST, records).is_err(), disagrees, "{states:?}");
    }

    #[test]
    fn status_names_the_migration_at_fault() {
        use MigrationState::{Applied, Changed, Dirty, Pending, Skipped, Unknown};
        let at = SystemTime::UNIX_EPOCH;
        check_status(&[], &[(1, Pending), (2, Pending), (3, Pending)]);
        check_status(&[record(1, "A")], &[(1, Applied { at }), (2, Pending), (3, Pending)]);
        check_status(&[record(1, "edited")], &[(1, Changed { at }), (2, Pending), (3, Pending)]);
        check_status(
            &[record(1, "A"), record(3, "C")],
            &[(1, Applied { at }), (2, Skipped), (3, Applied { at })],
        );
        check_status(
            &[record(9, "Z"), record(1, "A"), record(2, "B"), record(3, "C")],
            &[(1, Applied { at }), (2, Applied { at }), (3, Applied { at }), (9, Unknown { at })],
        );
        let half = Record { dirty: true, ..record(1, "A") };
        check_status(&[half], &[(1, Dirty), (2, Pending), (3, Pending)]);
    }

    #[test]
    fn a_list_out_of_order_is_refused() {
        assert!(matches!(pending(&UNORDERED, &[]), Err(MigrateError::Unordered { version: 2, previous: 2 })));
    }
}
