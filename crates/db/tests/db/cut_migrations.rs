//! A migration outside of a transaction that is cut halfway: what stands, what is said of it, and how it is mended.

use paystrata_db::{Db, MigrateError, Migration, MigrationState, MigrationStatus, Migrator};

use crate::support::{count, with_database};

/// Ends its own session until somebody has mended what it stumbles over.
static CUT: Migrator = Migrator::new(&[Migration::from_file(
    "0001_cut.sql",
    "-- no-transaction\nCREATE TABLE IF NOT EXISTS half (x int);\n\
     SELECT pg_terminate_backend(pg_backend_pid()) WHERE to_regclass('mended') IS NULL;\n\
     CREATE TABLE whole (x int);",
)]);

const TABLES: &str = "SELECT count(*) FROM pg_tables WHERE tablename IN ('half', 'whole')";

async fn up(db: &Db) -> Result<Vec<u32>, MigrateError> {
    let session = db.session("migrate").await.expect("session");
    Ok(CUT.up(&session).await?.iter().map(|applied| applied.version).collect())
}

/// Scenario 44 of the reference.
#[test]
fn a_migration_cut_outside_of_a_transaction_stays_marked_until_a_person_has_mended_it() {
    with_database(|bed| async move {
        let (db, admin) = (bed.primary_only().await, bed.admin().await);
        let cut = up(&db).await;
        assert!(matches!(cut, Err(MigrateError::Failed { version: 1, .. })), "{cut:?}");
        assert_eq!(count(&admin, TABLES).await, 1, "what it had done stands");
        for _ in 0..2 {
            let refused = up(&db).await.expect_err("a person has to look");
            assert!(matches!(refused, MigrateError::Dirty { version: 1, name: "cut" }), "{refused}");
        }
        let session = db.session("status").await.expect("session");
        let status = CUT.status(&session).await.expect("status");
        assert!(
            matches!(status[..], [MigrationStatus { version: 1, state: MigrationState::Dirty, .. }]),
            "{status:?}"
        );
        // As the error says.
        let mend = "CREATE TABLE mended (); DELETE FROM schema_migrations WHERE version = 1";
        admin.client.batch_execute(mend).await.expect("mend");
        assert_eq!(up(&db).await.expect("it runs again"), [1]);
        assert_eq!(count(&admin, TABLES).await, 2);
        assert_eq!(up(&db).await.expect("nothing is left"), [0; 0]);
    });
}
