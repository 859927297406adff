//! Building an advised index.

use std::time::Duration;

use paystrata_db::plans::{
    Approval, CreateError, CreateOptions, Created, IndexColumns, TableName, create_index, sweep_invalid,
};

use super::on;
use crate::support::{LIMIT, count, until_count, with_database};

/// What is left on a table that is being vacuumed or analyzed is not swept.
const SETUP: &str = "CREATE TABLE note (id int, k int) WITH (autovacuum_enabled = off); \
    INSERT INTO note SELECT i, i % 10 FROM generate_series(1, 1000) i";
const VALID: &str = "SELECT count(*) FROM pg_index WHERE indrelid = 'note'::regclass AND indisvalid";
const INVALID: &str = "SELECT count(*) FROM pg_index WHERE indrelid = 'note'::regclass AND NOT indisvalid";

fn index() -> IndexColumns {
    let table = TableName { schema: "public".to_owned(), name: "note".to_owned() };
    IndexColumns { table, columns: vec!["k".to_owned()] }
}

fn approved() -> CreateOptions {
    CreateOptions {
        approval: Approval::Given,
        lock_timeout: Duration::from_millis(100),
        ..CreateOptions::default()
    }
}

#[test]
fn nothing_is_built_without_approval() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("index").await.expect("session");
        on(&session, SETUP).await;
        let refused = create_index(&session, &index(), &CreateOptions::default()).await;
        assert!(matches!(refused, Err(CreateError::NotApproved)), "{refused:?}");
        let admin = bed.admin().await;
        assert_eq!(count(&admin, VALID).await + count(&admin, INVALID).await, 0);
        assert_eq!(count(&admin, "SELECT count(*) FROM pg_tables WHERE tablename = 'index_audit'").await, 0);
    });
}

#[test]
fn what_is_approved_is_built_once_and_has_its_rows_in_the_audit() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("index").await.expect("session");
        on(&session, SETUP).await;
        for expected in [Created::Built, Created::Needless] {
            assert_eq!(create_index(&session, &index(), &approved()).await.expect("built"), expected);
        }
        let admin = bed.admin().await;
        assert_eq!(count(&admin, VALID).await, 1);
        let acts = "SELECT string_agg(act, ' ' ORDER BY at) = 'begun built' FROM index_audit";
        assert!(admin.client.query_one(acts, &[]).await.expect("audit").get::<_, bool>(0));
        let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        assert_eq!(count(&admin, held).await, 0);
    });
}

#[test]
fn a_build_that_gets_no_lock_gives_up_and_leaves_nothing_that_the_next_does_not_sweep() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("index").await.expect("session");
        on(&session, SETUP).await;
        let admin = bed.admin().await;
        // A transaction that has written keeps a concurrent build waiting once its index stands in the catalog.
        admin.client.batch_execute("BEGIN; INSERT INTO note VALUES (0, 0)").await.expect("write");
        let refused = create_index(&session, &index(), &approved()).await.expect_err("it waits in vain");
        assert!(matches!(refused, CreateError::GaveUp { .. }), "{refused:?}");
        admin.client.batch_execute("COMMIT").await.expect("commit");
        assert_eq!(create_index(&session, &index(), &approved()).await.expect("built"), Created::Built);
        assert_eq!((count(&admin, VALID).await, count(&admin, INVALID).await), (1, 0));
        assert!(
            count(&admin, "SELECT count(*) FROM index_audit WHERE act = 'failed' AND detail <> ''").await > 0
        );
    });
}

#[test]
fn a_build_cut_halfway_is_swept_and_what_others_left_is_not() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("index").await.expect("session");
        on(&session, SETUP).await;
        let (writer, admin) = (bed.admin().await, bed.admin().await);
        // Invalid, named like ours, and not ours: the values repeat.
        let foreign = "CREATE UNIQUE INDEX CONCURRENTLY advised_foreign ON note (k)";
        admin.client.batch_execute(foreign).await.expect_err("the values repeat");
        writer.client.batch_execute("BEGIN; INSERT INTO note VALUES (0, 0)").await.expect("write");
        let patient = CreateOptions { lock_timeout: Duration::from_secs(600), ..approved() };
        let index = index();
        tokio::select! {
            outcome = create_index(&session, &index, &patient) => panic!("it waits for the writer: {outcome:?}"),
            () = until_count(&admin, INVALID, 2) => {}
        }
        writer.client.batch_execute("COMMIT").await.expect("commit");
        // The server ends the build and frees the lock when it sees that the session has gone.
        let building = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                        AND application_name = 'paystrata-db/index'";
        until_count(&admin, building, 0).await;
        let session = db.session("index").await.expect("session");
        let swept = sweep_invalid(&session).await.expect("swept");
        // The build may have ended well in the moment between.
        let ours_stands = count(&admin, VALID).await == 1;
        assert!(swept == [format!("public.{}", index.name())] || ours_stands, "{swept:?}");
        let left = "SELECT count(*) FROM pg_class WHERE relname = 'advised_foreign'";
        assert_eq!(count(&admin, left).await, 1);
    });
}

/// Who vacuums holds the same lock as who builds, and a person may build what a cut build of ours had begun.
#[test]
fn what_a_person_may_be_building_is_not_swept() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("index").await.expect("session");
        on(&session, SETUP).await;
        let (writer, person) = (bed.admin().await, bed.admin().await);
        writer.client.batch_execute("BEGIN; INSERT INTO note VALUES (0, 0)").await.expect("write");
        create_index(&session, &index(), &approved()).await.expect_err("it waits in vain");
        assert_eq!(count(&person, INVALID).await, 1, "the writer keeps it from being dropped too");
        writer.client.batch_execute("COMMIT").await.expect("commit");
        let hold = "BEGIN; LOCK TABLE note IN SHARE UPDATE EXCLUSIVE MODE";
        person.client.batch_execute(hold).await.expect("hold");
        assert!(sweep_invalid(&session).await.expect("nothing to wait for").is_empty());
        person.client.batch_execute("COMMIT").await.expect("let go");
        let swept = sweep_invalid(&session).await.expect("swept");
        assert_eq!(swept, [format!("public.{}", index().name())]);
    });
}

#[test]
fn what_is_left_on_a_table_that_was_being_vacuumed_is_swept_when_the_build_meets_it() {
    const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
        AND wait_event_type = 'Lock' AND query LIKE 'CREATE INDEX CONCURRENTLY%'";
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("index").await.expect("session");
        on(&session, SETUP).await;
        let (writer, vacuum, admin) = (bed.admin().await, bed.admin().await, bed.admin().await);
        writer.client.batch_execute("BEGIN; INSERT INTO note VALUES (0, 0)").await.expect("write");
        create_index(&session, &index(), &approved()).await.expect_err("it waits in vain");
        writer.client.batch_execute("COMMIT").await.expect("commit");
        assert_eq!(count(&admin, INVALID).await, 1);
        let hold = "BEGIN; LOCK TABLE note IN SHARE UPDATE EXCLUSIVE MODE";
        vacuum.client.batch_execute(hold).await.expect("hold");
        let patient = CreateOptions { lock_timeout: LIMIT, transaction_age_max: 10 * LIMIT, ..approved() };
        let index = index();
        let (built, ()) = tokio::join!(create_index(&session, &index, &patient), async {
            until_count(&admin, WAITING, 1).await;
            vacuum.client.batch_execute("COMMIT").await.expect("let go");
        });
        assert_eq!(built.expect("built"), Created::Built);
        assert_eq!((count(&admin, VALID).await, count(&admin, INVALID).await), (1, 0));
    });
}

#[test]
fn what_bears_the_name_and_is_not_ours_is_named_and_left_alone() {
    const AUDITED: &str = "SELECT count(*) FROM index_audit";
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("index").await.expect("session");
        on(&session, SETUP).await;
        let (admin, name) = (bed.admin().await, index().name());
        for (made, gone, by) in [
            (format!("CREATE INDEX {name} ON note (id)"), "INDEX", "an index of another form"),
            (format!("CREATE UNIQUE INDEX CONCURRENTLY {name} ON note (k)"), "INDEX", "an invalid index"),
            (format!("CREATE TABLE {name} (a int)"), "TABLE", "another relation"),
        ] {
            // The values repeat, so that the unique one stays invalid.
            let _made = admin.client.batch_execute(&made).await;
            let refused = create_index(&session, &index(), &approved()).await.expect_err("its name is taken");
            assert!(matches!(refused, CreateError::NameTaken { .. }), "{refused:?}");
            let text = refused.to_string();
            assert!(text.contains(by) && text.contains(&format!("public.{name}")), "{text}");
            assert_eq!(count(&admin, AUDITED).await, 0, "nothing was begun");
            admin.client.batch_execute(&format!("DROP {gone} {name}")).await.expect("it is still there");
        }
        assert_eq!(create_index(&session, &index(), &approved()).await.expect("built"), Created::Built);
    });
}

#[test]
fn who_is_told_to_come_again_may_do_so_on_the_same_session() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let (one, other) =
            (db.session("index").await.expect("session"), db.session("other").await.expect("session"));
        on(&one, SETUP).await;
        // What a build holds for as long as it takes.
        on(&other, "SELECT pg_advisory_lock(x'006462696e646578'::bigint)").await;
        for _ in 0..2 {
            let told = create_index(&one, &index(), &approved()).await;
            assert!(matches!(told, Err(CreateError::Busy)), "{told:?}");
            let told = sweep_invalid(&one).await;
            assert!(matches!(told, Err(CreateError::Busy)), "{told:?}");
        }
        on(&other, "SELECT pg_advisory_unlock_all()").await;
        assert_eq!(create_index(&one, &index(), &approved()).await.expect("built"), Created::Built);
    });
}
