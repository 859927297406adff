//! Explanations, advice, builds of indexes and reviews of them, dropped at any poll: nothing that was run for a plan stays, no lock is
//! kept, and the next call sweeps and does the rest.

use std::time::Duration;

use paystrata_db::Statement;
use paystrata_db::plans::{
    AdviseOptions, Approval, CreateOptions, Created, IndexColumns, Measure, ReviewOptions, TableName,
    Workload, WorkloadStatement, create_index, explain, explain_generic, review_indexes,
};

use crate::drops::{at_polls, dropped_after, few, strides, whole};
use crate::support::{LIMIT, Plain, count, until_count, with_database};

/// What is left on a table that is being vacuumed or analyzed is not swept.
const SETUP: &str = "CREATE TABLE note (id int, k int) WITH (autovacuum_enabled = off); \
    INSERT INTO note SELECT i, i % 5000 FROM generate_series(1, 20000) i; ANALYZE note";
const NOTES: &str = "SELECT count(*) FROM note";
const INDEXES: &str = "SELECT count(*) FROM pg_index WHERE indrelid = 'note'::regclass";
const LOCKS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

static FIND: Statement = Statement::new("SELECT id FROM note WHERE k = 7", &[]);

fn index() -> IndexColumns {
    let table = TableName { schema: "public".to_owned(), name: "note".to_owned() };
    IndexColumns { table, columns: vec!["k".to_owned()] }
}

fn patient() -> CreateOptions {
    CreateOptions {
        approval: Approval::Given,
        lock_timeout: LIMIT,
        transaction_age_max: 10 * LIMIT,
        ..CreateOptions::default()
    }
}

/// Judges at once.
fn at_once() -> ReviewOptions {
    ReviewOptions {
        approval: Approval::Given,
        age_min: Duration::ZERO,
        scans_unused_max: 0,
        lock_timeout: LIMIT,
        transaction_age_max: 10 * LIMIT,
        ..ReviewOptions::default()
    }
}

fn of_session(name: &str) -> String {
    format!(
        "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'paystrata-db/{name}'"
    )
}

/// The server ends a session that has gone within a second. Here it does so at once, whatever it is about.
async fn ended(admin: &Plain, name: &str) {
    let theirs = of_session(name);
    count(admin, &format!("SELECT count(pg_terminate_backend(pid)) {theirs}")).await;
    until_count(admin, &format!("SELECT count(*) {theirs}"), 0).await;
    assert_eq!(count(admin, LOCKS).await, 0);
}

#[test]
fn a_statement_run_for_a_plan_and_dropped_at_any_poll_is_undone() {
    with_database(|bed| async move {
        let (db, admin) = (few(&bed).await, bed.admin().await);
        admin.client.batch_execute(SETUP).await.expect("make the table");
        for polls in strides(32) {
            let session = db.session("plans").await.expect("session");
            let run = explain(&session, "DELETE FROM note", &[], Measure::Anything);
            let run = dropped_after(polls, Box::pin(run)).await;
            drop(session);
            ended(&admin, "plans").await;
            assert_eq!(count(&admin, NOTES).await, 20_000, "after {polls} polls");
            whole(&db, &admin).await;
            if let Some(run) = run {
                assert!(run.expect("it runs").plan.execution.is_some());
                assert!(polls > 3, "it was dropped in several places");
                return;
            }
        }
        panic!("it never ended");
    });
}

#[test]
fn plans_and_advice_dropped_at_any_poll_leave_no_session() {
    with_database(|bed| async move {
        let (db, admin) = (few(&bed).await, bed.admin().await);
        let make = format!("CREATE EXTENSION hypopg; {SETUP}");
        admin.client.batch_execute(&make).await.expect("make the table");

        let theirs = format!("SELECT count(*) {}", of_session("explain"));
        let begin = |_| {
            Box::pin(async { db.explain(&FIND, &[], Measure::Reads).await.expect("explained").tables.len() })
        };
        at_polls(strides(32), &db, &admin, begin, |_, _| until_count(&admin, &theirs, 0)).await;

        let theirs = format!("SELECT count(*) {}", of_session("generic"));
        let begin = |_| {
            Box::pin(async {
                let session = db.session("generic").await.expect("session");
                explain_generic(&session, FIND.sql()).await.expect("planned").tables.len()
            })
        };
        at_polls(strides(32), &db, &admin, begin, |_, _| until_count(&admin, &theirs, 0)).await;

        let asked =
            WorkloadStatement { sql: "SELECT id FROM note WHERE k = $1".to_owned(), calls: 1_000_000 };
        let (workload, options) = (Workload { statements: vec![asked] }, AdviseOptions::default());
        let theirs = format!("SELECT count(*) {}", of_session("advise"));
        let begin = |_| {
            Box::pin(async {
                let advice = db.advise(&workload, &options).await.expect("advice");
                assert_eq!((advice.planned, advice.skipped.len()), (1, 0), "{advice}");
            })
        };
        at_polls(strides(32), &db, &admin, begin, |_, _| until_count(&admin, &theirs, 0)).await;
        assert_eq!(count(&admin, INDEXES).await, 0, "advice is no index");
    });
}

#[test]
fn a_build_dropped_at_any_poll_is_swept_or_there_and_the_next_call_leaves_one_index() {
    const VALID: &str =
        "SELECT count(*) FROM pg_index WHERE indrelid = 'note'::regclass AND indisvalid AND indisready";
    with_database(|bed| async move {
        let (db, admin) = (few(&bed).await, bed.admin().await);
        admin.client.batch_execute(SETUP).await.expect("make the table");
        let (index, options) = (index(), patient());
        for polls in strides(32) {
            let session = db.session("index").await.expect("session");
            let built = dropped_after(polls, Box::pin(create_index(&session, &index, &options))).await;
            drop(session);
            ended(&admin, "index").await;
            let was_there = count(&admin, VALID).await == 1;
            let session = db.session("index").await.expect("session");
            let next = Box::pin(create_index(&session, &index, &options)).await.expect("the next one");
            let expected = if was_there { Created::Needless } else { Created::Built };
            assert_eq!(next, expected, "after {polls} polls");
            assert_eq!((count(&admin, VALID).await, count(&admin, INDEXES).await), (1, 1), "{polls} polls");
            assert_eq!(count(&admin, LOCKS).await, 0, "after {polls} polls");
            whole(&db, &admin).await;
            if let Some(built) = built {
                assert_eq!(built.expect("built"), Created::Built);
                assert!(was_there && polls > 5, "it was dropped in several places");
                return;
            }
            let again = format!("DROP INDEX {}; DROP TABLE index_audit", index.name());
            admin.client.batch_execute(&again).await.expect("begin afresh");
        }
        panic!("it never ended");
    });
}

#[test]
fn a_review_dropped_at_any_poll_is_completed_by_the_next() {
    with_database(|bed| async move {
        let (db, admin) = (few(&bed).await, bed.admin().await);
        admin.client.batch_execute(SETUP).await.expect("make the table");
        let (index, options, judging) = (index(), patient(), at_once());
        for polls in strides(32) {
            let session = db.session("index").await.expect("session");
            let built = Box::pin(create_index(&session, &index, &options)).await;
            assert_eq!(built.expect("built"), Created::Built, "after {polls} polls");
            let reviewed = dropped_after(polls, Box::pin(review_indexes(&db, &judging))).await;
            ended(&admin, "review").await;
            let next = Box::pin(review_indexes(&db, &judging)).await.expect("the next one");
            assert_eq!(count(&admin, INDEXES).await, 0, "after {polls} polls: {next}");
            until_count(&admin, LOCKS, 0).await;
            whole(&db, &admin).await;
            if let Some(reviewed) = reviewed {
                let reviewed = reviewed.expect("reviewed");
                assert_eq!((reviewed.indexes.len(), next.indexes.len()), (1, 0), "{reviewed}");
                assert!(polls > 5, "it was dropped in several places");
                return;
            }
        }
        panic!("it never ended");
    });
}
