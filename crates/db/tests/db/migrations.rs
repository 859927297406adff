//! Migrations against a real database.

use paystrata_db::{Db, MigrateError, Migration, MigrationState, Migrator};

use crate::support::{count, until_count, with_database};

static FIRST: Migrator =
    Migrator::new(&[Migration::from_file("0001_note.sql", "CREATE TABLE note (body int)")]);
static BOTH: Migrator = Migrator::new(&[
    Migration::from_file("0001_note.sql", "CREATE TABLE note (body int)"),
    Migration::from_file(
        "0002_index.sql",
        "-- no-transaction\nCREATE INDEX CONCURRENTLY note_a ON note (body);\nCREATE INDEX CONCURRENTLY note_b ON note (body);",
    ),
]);
static EDITED: Migrator =
    Migrator::new(&[Migration::from_file("0001_note.sql", "CREATE TABLE note (body bigint)")]);
static HALF: Migrator = Migrator::new(&[Migration::from_file(
    "0001_half.sql",
    "-- no-transaction\nCREATE TABLE a (x int);\nSELECT 1 / 0;",
)]);
static BROKEN: Migrator =
    Migrator::new(&[Migration::from_file("0001_broken.sql", "CREATE TABLE a (x int); SELECT 1 / 0;")]);
static ENDS_ITSELF: Migrator =
    Migrator::new(&[Migration::from_file("0001_ends.sql", "CREATE TABLE a (x int); COMMIT; BEGIN;")]);
static SLOW: Migrator =
    Migrator::new(&[Migration::from_file("0001_slow.sql", "CREATE TABLE a (x int); SELECT pg_sleep(3600);")]);

const INDEXES: &str = "SELECT count(*) FROM pg_indexes WHERE tablename = 'note'";
const RECORDS: &str = "SELECT count(*) FROM schema_migrations";

async fn up(db: &Db, migrator: &Migrator) -> Result<Vec<u32>, MigrateError> {
    let session = db.session("migrate").await.expect("session");
    Ok(migrator.up(&session).await?.iter().map(|applied| applied.version).collect())
}

#[test]
fn what_is_pending_is_applied_once() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("migrate").await.expect("session");
        let states = |status: Vec<paystrata_db::MigrationStatus>| {
            status.into_iter().map(|one| one.state).collect::<Vec<_>>()
        };
        assert_eq!(states(BOTH.status(&session).await.expect("status")), [MigrationState::Pending; 2]);
        assert_eq!(up(&db, &FIRST).await.expect("the first"), [1]);
        assert_eq!(up(&db, &BOTH).await.expect("the second"), [2]);
        assert_eq!(up(&db, &BOTH).await.expect("nothing left"), [0; 0]);
        assert_eq!(count(&bed.admin().await, INDEXES).await, 2);
        let applied = states(BOTH.status(&session).await.expect("status"));
        assert!(applied.iter().all(|state| matches!(state, MigrationState::Applied { .. })), "{applied:?}");
    });
}

#[test]
fn of_processes_that_start_together_one_applies() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let outcomes = tokio::join!(up(&db, &BOTH), up(&db, &BOTH), up(&db, &BOTH));
        let mut applied =
            [outcomes.0, outcomes.1, outcomes.2].map(|outcome| outcome.expect("none fails").len());
        applied.sort_unstable();
        assert_eq!(applied, [0, 0, 2]);
        assert_eq!(count(&bed.admin().await, RECORDS).await, 2);
    });
}

#[test]
fn an_edited_or_unknown_migration_stops_everything() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        up(&db, &BOTH).await.expect("up");
        let edited = up(&db, &EDITED).await.expect_err("the checksum differs");
        assert!(matches!(edited, MigrateError::Changed { version: 1, name: "note" }), "{edited}");
        let older = up(&db, &FIRST).await.expect_err("the program is older than the schema");
        assert!(matches!(older, MigrateError::Missing { version: 2, .. }), "{older}");
        let session = db.session("migrate").await.expect("session");
        let status = EDITED.status(&session).await.expect("status");
        let found: Vec<_> = status.iter().map(|one| (one.version, one.name.as_ref(), one.state)).collect();
        assert!(
            matches!(
                found[..],
                [(1, "note", MigrationState::Changed { .. }), (2, "index", MigrationState::Unknown { .. })]
            ),
            "{found:?}"
        );
    });
}

#[test]
fn a_failed_migration_leaves_nothing_but_the_one_outside_a_transaction_its_mark() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let admin = bed.admin().await;
        let tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'a'";
        for migrator in [&BROKEN, &ENDS_ITSELF] {
            let error = up(&db, migrator).await.expect_err("it fails");
            let named = matches!(
                error,
                MigrateError::Failed { version: 1, .. } | MigrateError::EndedTransaction { version: 1, .. }
            );
            assert!(named, "{error}");
            assert_eq!(count(&admin, RECORDS).await, 0);
        }
        // Its own COMMIT has let the table through, which is why transaction control is refused.
        admin.client.batch_execute("DROP TABLE IF EXISTS a").await.expect("clean up");
        assert!(up(&db, &BROKEN).await.is_err());
        assert_eq!(count(&admin, tables).await, 0);

        assert!(matches!(up(&db, &HALF).await, Err(MigrateError::Failed { version: 1, .. })));
        assert_eq!(count(&admin, tables).await, 1);
        let again = up(&db, &HALF).await.expect_err("a person has to look");
        assert!(matches!(again, MigrateError::Dirty { version: 1, name: "half" }), "{again}");
    });
}

#[test]
fn a_dropped_migration_frees_the_lock_and_leaves_nothing() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let admin = bed.admin().await;
        let session = db.session("migrate").await.expect("session");
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                        AND state = 'active' AND query LIKE '%pg_sleep(3600)%' AND pid <> pg_backend_pid()";
        tokio::select! {
            outcome = SLOW.up(&session) => panic!("it takes an hour: {outcome:?}"),
            () = until_count(&admin, sleeping, 1) => {}
        }
        // The session lives on in a variable, and must be closed all the same.
        assert_eq!(up(&db, &FIRST).await.expect("the lock is free"), [1]);
        until_count(&admin, "SELECT count(*) FROM pg_tables WHERE tablename = 'a'", 0).await;
        assert!(session.is_closed());
    });
}

/// As dumps begin, and as is written by hand.
#[test]
fn what_a_migration_sets_is_neither_for_the_record_nor_for_the_next_one() {
    static DUMPS: Migrator = Migrator::new(&[
        Migration::from_file(
            "0001_dump.sql",
            "SELECT pg_catalog.set_config('search_path', '', false); CREATE TABLE public.a (x int);",
        ),
        Migration::from_file(
            "0002_set.sql",
            "SET search_path = pg_temp; SET lock_timeout = 1; CREATE TABLE public.b (x int)",
        ),
        Migration::from_file(
            "0003_outside.sql",
            "-- no-transaction\nSET search_path = '';\nSET ROLE pg_monitor;\nRESET ROLE;\nCREATE INDEX CONCURRENTLY ON public.b (x);\nSET ROLE pg_monitor;",
        ),
        Migration::from_file(
            "0004_next.sql",
            "CREATE TABLE c AS SELECT current_setting('lock_timeout') AS lock_timeout",
        ),
    ]);
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        assert_eq!(up(&db, &DUMPS).await.expect("all of them"), [1, 2, 3, 4]);
        assert_eq!(up(&db, &DUMPS).await.expect("none is left"), [0; 0]);
        let admin = bed.admin().await;
        assert_eq!(count(&admin, "SELECT count(*) FROM public.c WHERE lock_timeout = '1ms'").await, 0);
        assert_eq!(count(&admin, "SELECT count(*) FROM public.schema_migrations WHERE NOT dirty").await, 4);
    });
}

#[test]
fn a_migration_whose_session_ends_is_named() {
    static KILLED: Migrator = Migrator::new(&[
        Migration::from_file("0001_a.sql", "CREATE TABLE a (x int)"),
        Migration::from_file("0002_end.sql", "SELECT pg_terminate_backend(pg_backend_pid())"),
    ]);
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let told = up(&db, &KILLED).await;
        assert!(matches!(told, Err(MigrateError::Failed { version: 2, .. })), "{told:?}");
        assert_eq!(count(&bed.admin().await, RECORDS).await, 1);
    });
}
