//! Migrations dropped at any poll: the lock is free, each one is applied and recorded or neither, or marked as half done, and the
//! next run does the rest.

use std::time::Duration;

use paystrata_db::{Db, MigrateError, Migration, MigrationState, Migrator, Session};

use crate::drops::{dropped_after, few, strides, whole};
use crate::support::{Plain, count, until_count, with_database};

static STEPS: Migrator = Migrator::new(&[
    Migration::from_file("0001_note.sql", "CREATE TABLE note (body int); INSERT INTO note VALUES (1)"),
    Migration::from_file(
        "0002_more.sql",
        "INSERT INTO note VALUES (2); ALTER TABLE note ADD COLUMN more int",
    ),
    Migration::from_file("0003_other.sql", "CREATE TABLE other AS SELECT body FROM note"),
])
.announced(Duration::from_millis(1));

static OUTSIDE: Migrator = Migrator::new(&[
    Migration::from_file("0001_note.sql", "CREATE TABLE note (body int)"),
    Migration::from_file(
        "0002_index.sql",
        "-- no-transaction\nCREATE INDEX CONCURRENTLY note_a ON note (body);\nCREATE INDEX CONCURRENTLY note_b ON note (body);",
    ),
]);

const AFRESH: &str = "DROP TABLE IF EXISTS note, other, schema_migrations";
const LOCKS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

async fn session(db: &Db) -> Session {
    db.session("migrate").await.expect("session")
}

/// Drops a run of `migrator` after so many polls, and waits until the server has nothing to do with it any more. Gives what it
/// gave, and a session for the next one.
async fn cut(db: &Db, admin: &Plain, migrator: &Migrator, polls: usize) -> (Option<usize>, Session) {
    const OURS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'paystrata-db/migrate'";
    let begun = session(db).await;
    let ended = dropped_after(polls, Box::pin(migrator.up(&begun))).await;
    drop(begun);
    until_count(admin, OURS, 0).await;
    assert_eq!(count(admin, LOCKS).await, 0, "after {polls} polls");
    (ended.map(|ended| ended.expect("they can be applied").len()), session(db).await)
}

async fn states(migrator: &Migrator, session: &Session) -> Vec<MigrationState> {
    migrator.status(session).await.expect("status").into_iter().map(|one| one.state).collect()
}

fn applied(states: &[MigrationState]) -> usize {
    states.iter().filter(|state| matches!(state, MigrationState::Applied { .. })).count()
}

#[test]
fn migrations_dropped_at_any_poll_are_recorded_as_they_are_and_completed_by_the_next_run() {
    /// How many of them show in the schema.
    const SHOWN: &str = "SELECT (to_regclass('note') IS NOT NULL)::int + (to_regclass('other') IS NOT NULL)::int \
        + (SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('note') AND attname = 'more')";
    const ANNOUNCED: &str = "SELECT count(*) FROM schema_announcements WHERE in_force_until IS NOT NULL";
    with_database(|bed| async move {
        let (db, admin) = (few(&bed).await, bed.admin().await);
        // Runs that were dropped after the first of them and before the last.
        let mut parts = 0;
        for polls in strides(32) {
            admin.client.batch_execute(AFRESH).await.expect("begin afresh");
            let (ended, next) = cut(&db, &admin, &STEPS, polls).await;
            let states = states(&STEPS, &next).await;
            assert!(!states.iter().any(|state| state.is_disagreement()), "after {polls} polls: {states:?}");
            let stand = applied(&states);
            let shown = i64::try_from(stand).expect("three at most");
            assert_eq!(count(&admin, SHOWN).await, shown, "after {polls} polls");
            parts += usize::from(stand == 1 || stand == 2);
            let rest = STEPS.up(&next).await.expect("the rest");
            assert_eq!(rest.len(), 3 - stand, "after {polls} polls");
            assert_eq!(count(&admin, "SELECT count(*) FROM other").await, 2, "each was applied once");
            assert_eq!(count(&admin, ANNOUNCED).await, 0, "what was announced is over");
            assert_eq!(count(&admin, LOCKS).await, 0);
            whole(&db, &admin).await;
            if let Some(ended) = ended {
                assert_eq!((ended, stand), (3, 3));
                assert!(parts > 2, "it was dropped between them: {parts}");
                return;
            }
        }
        panic!("it never ended");
    });
}

#[test]
fn a_migration_outside_of_a_transaction_dropped_at_any_poll_is_marked_until_it_is_whole() {
    const INDEXES: &str = "SELECT count(*) FROM pg_index WHERE indrelid = to_regclass('note') AND indisvalid";
    with_database(|bed| async move {
        let (db, admin) = (few(&bed).await, bed.admin().await);
        let mut marked = 0;
        for polls in strides(32) {
            admin.client.batch_execute(AFRESH).await.expect("begin afresh");
            let (ended, next) = cut(&db, &admin, &OUTSIDE, polls).await;
            let found = states(&OUTSIDE, &next).await;
            if found.last() == Some(&MigrationState::Dirty) {
                marked += 1;
                let refused = OUTSIDE.up(&next).await.expect_err("a person has to look");
                assert!(matches!(refused, MigrateError::Dirty { version: 2, name: "index" }), "{refused}");
                // As the error says.
                let undo =
                    "DROP INDEX IF EXISTS note_a, note_b; DELETE FROM schema_migrations WHERE version = 2";
                admin.client.batch_execute(undo).await.expect("undo");
            } else {
                let indexes = if applied(&found) == 2 { 2 } else { 0 };
                assert_eq!(count(&admin, INDEXES).await, indexes, "after {polls} polls: {found:?}");
            }
            let stand = applied(&found);
            let rest = OUTSIDE.up(&next).await.expect("the rest");
            assert_eq!(rest.len(), 2 - stand, "after {polls} polls");
            assert_eq!(count(&admin, INDEXES).await, 2, "after {polls} polls");
            assert_eq!(count(&admin, LOCKS).await, 0);
            whole(&db, &admin).await;
            if let Some(ended) = ended {
                assert_eq!((ended, stand), (2, 2));
                assert!(marked > 0, "it was dropped halfway");
                return;
            }
        }
        panic!("it never ended");
    });
}
