//! Futures that are dropped: at every poll, and in the middle of a COPY. Nothing stays, and the pool goes on.

use futures_util::TryStreamExt as _;
use paystrata_db::{BULK_SCHEMA, Bulk, BulkOptions, Conflict, Db};

use super::{Note, chunks_of, made, notes, open, polled};
use crate::support::{Bed, ONE, Plain, count, until_count, with_database};

const NOTES: &str = "SELECT count(*) FROM note";
const TEMPORARY: &str = "SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'";
/// Server processes of what is tested.
const PROCESSES: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
    AND application_name LIKE 'paystrata-db%'";
const BUSY: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
    AND application_name = 'paystrata-db' AND state <> 'idle'";

#[test]
fn a_load_dropped_in_the_middle_of_a_copy_leaves_nothing() {
    with_database(|bed| async move {
        // Row 500 waits for a lock that the test holds.
        let make = "CREATE TABLE note (id int8 PRIMARY KEY, body text); \
            CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                IF new.id = 500 THEN PERFORM pg_advisory_xact_lock(42); END IF; RETURN new; END $$; \
            CREATE TRIGGER t BEFORE INSERT ON note FOR EACH ROW EXECUTE FUNCTION wait_here()";
        let (db, copies) = made(&bed, make).await;
        let (table, admin): (Bulk<Note>, _) = (open(&db, "note").await, bed.admin().await);
        admin.client.batch_execute("SELECT pg_advisory_lock(42)").await.expect("lock");
        let load = tokio::spawn({
            let table = table.clone();
            async move { table.insert_many(notes(0..2_000), &BulkOptions::default()).await.map(drop) }
        });
        let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        until_count(&bed.admin().await, waiting, 1).await;
        load.abort();
        assert!(load.await.expect_err("it was dropped").is_cancelled());
        // The lock is still held: only a cancel ends the statement.
        until_count(&admin, BUSY, 0).await;
        assert_eq!((count(&admin, NOTES).await, copies.take()), (0, 0));
        admin.client.batch_execute("SELECT pg_advisory_unlock(42)").await.expect("unlock");
        let again = table.insert_many(notes(0..2_000), &BulkOptions::default()).await.expect("load");
        assert_eq!(again.affected, 2_000);
    });
}

/// Ends everything that `db` has with the server, so that what stands now stands for good.
async fn settled(db: &Db, admin: &Plain) {
    db.close().await;
    until_count(admin, PROCESSES, 0).await;
}

async fn connected(bed: &Bed) -> (Db, Bulk<Note>) {
    let db = bed.primary_only().await;
    let table = open(&db, "note").await;
    (db, table)
}

#[test]
fn a_load_dropped_at_any_poll_keeps_whole_chunks_and_a_job_completes_it() {
    with_database(|bed| async move {
        let admin = bed.admin().await;
        let make = format!("{BULK_SCHEMA}; CREATE TABLE note (id int8, body text)");
        admin.client.batch_execute(&make).await.expect("make the tables");
        for polls in 0.. {
            let options = BulkOptions { job: Some(format!("job {polls}")), ..chunks_of(1_500) };
            let (db, table) = connected(&bed).await;
            let first = polled(polls, Box::pin(table.insert_many(notes(0..3_000), &options))).await;
            settled(&db, &admin).await;
            let stand = count(&admin, NOTES).await;
            assert!([0, 1_500, 3_000].contains(&stand), "{stand} after {polls} polls");
            let (db, table) = connected(&bed).await;
            let report = table.insert_many(notes(0..3_000), &options).await.expect("the rest");
            assert_eq!(report.skipped, stand.cast_unsigned(), "after {polls} polls");
            assert_eq!(count(&admin, "SELECT count(DISTINCT id) FROM note").await, 3_000);
            assert_eq!(count(&admin, NOTES).await, 3_000);
            settled(&db, &admin).await;
            if let Some(first) = first {
                assert_eq!(first.expect("load").affected, 3_000);
                assert!(polls > 5, "it was dropped in several places");
                return;
            }
            admin.client.batch_execute("TRUNCATE note").await.expect("empty");
        }
    });
}

#[test]
fn an_upsert_and_an_update_dropped_at_any_poll_leave_no_table_and_no_part() {
    with_database(|bed| async move {
        let (admin, options) = (bed.admin().await, BulkOptions::default());
        let make = "CREATE TABLE note (id int8 PRIMARY KEY, body text)";
        admin.client.batch_execute(make).await.expect("make the table");
        let conflict = Conflict { key: &["id"], update: &["body"] };
        for polls in 0.. {
            admin.client.batch_execute("TRUNCATE note").await.expect("empty");
            let (db, table) = connected(&bed).await;
            let upserted =
                polled(polls, Box::pin(table.upsert_many(notes(0..900), conflict, &options))).await;
            settled(&db, &admin).await;
            assert_eq!(count(&admin, TEMPORARY).await, 0);
            let stand = count(&admin, NOTES).await;
            assert!([0, 900].contains(&stand), "{stand} after {polls} polls");
            let two = "TRUNCATE note; INSERT INTO note VALUES (1, 'old'), (2, 'old')";
            admin.client.batch_execute(two).await.expect("two rows");
            let (db, table) = connected(&bed).await;
            let updated = polled(polls, Box::pin(table.update_many(notes(0..900), &["id"], &options))).await;
            settled(&db, &admin).await;
            assert_eq!(count(&admin, TEMPORARY).await, 0);
            let old = count(&admin, "SELECT count(*) FROM note WHERE body = 'old'").await;
            assert!([0, 2].contains(&old), "{old} after {polls} polls");
            if let (Some(upserted), Some(updated)) = (upserted, updated) {
                assert_eq!(upserted.expect("upsert").affected, 900);
                assert_eq!(updated.expect("update").missing_count, 898);
                assert!(polls > 5, "they were dropped in several places");
                return;
            }
        }
    });
}

#[test]
fn rows_on_their_way_out_are_dropped_at_any_poll() {
    with_database(|bed| async move {
        let make = "CREATE TABLE note (id int8, body text); \
            INSERT INTO note SELECT g, repeat('x', 100) FROM generate_series(1, 3000) g";
        let (db, _) = made(&bed, make).await;
        let (table, admin): (Bulk<Note>, _) = (open(&db, "note").await, bed.admin().await);
        let options = BulkOptions::default();
        for polls in 0.. {
            let read = async {
                let rows = table.copy_out(None, None, &options).await.expect("copy out");
                rows.try_fold(0, |count, _: Note| async move { Ok(count + 1) }).await
            };
            let read = polled(polls, Box::pin(read)).await;
            until_count(&admin, BUSY, 0).await;
            db.query_one(None, &ONE, &[]).await.expect("the next read is served");
            if let Some(count) = read {
                assert_eq!(count.expect("all rows"), 3_000);
                assert!(polls > 5, "it was dropped in several places");
                return;
            }
        }
    });
}
