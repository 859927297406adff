//! What explaining runs, and what it does not.

use paystrata_db::plans::{Measure, PlanError, explain, explain_generic};
use paystrata_db::{Statement, Type};

use super::{on, plan};
use crate::support::{LIMIT, count, with_database};

static FIND: Statement =
    Statement::new("SELECT * FROM note WHERE id = $1 AND body = $2", &[Type::INT4, Type::TEXT]);

const SETUP: &str = "CREATE TABLE note (id int PRIMARY KEY, body text); \
    INSERT INTO note SELECT i, 'b' || i FROM generate_series(1, 100) i; ANALYZE note; CREATE SEQUENCE drawn; \
    CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS 'DELETE FROM note; SELECT 1'";
const NOTES: &str = "SELECT count(*) FROM note";

#[test]
fn a_statement_is_planned_with_its_values_and_run_only_when_asked() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        on(&db.session("setup").await.expect("session"), SETUP).await;
        let planned = db.explain(&FIND, &[&7, &"b7"], Measure::No).await.expect("planned");
        assert!(planned.plan.execution.is_none() && planned.plan.nodes().all(|node| node.actual.is_none()));
        let run = db.explain(&FIND, &[&7, &"b7"], Measure::Reads).await.expect("run");
        assert_eq!(run.plan.root.index.as_deref(), Some("note_pkey"));
        assert_eq!(run.plan.root.actual.map(|actual| actual.rows.round()), Some(1.0));
        assert!(run.plan.execution.is_some());
        assert_eq!(run.tables[0].rows_analyzed, Some(100.0));
        let few = db.explain(&FIND, &[&7], Measure::No).await.expect_err("a value is missing");
        assert!(matches!(few, PlanError::Session(_)), "{few}");
    });
}

#[test]
fn what_writes_is_refused_unless_told_so_and_rolled_back_then() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("plans").await.expect("session");
        on(&session, SETUP).await;
        for sql in [
            "DELETE FROM note",
            "WITH gone AS (DELETE FROM note RETURNING id) SELECT count(*) FROM gone",
            "SELECT * FROM note FOR UPDATE",
        ] {
            let refused = explain(&session, sql, &[], Measure::Reads).await.expect_err(sql);
            assert!(matches!(refused, PlanError::NotARead { .. }), "{sql}: {refused}");
        }
        // Looks like a read; the server itself refuses what it does.
        for sql in ["SELECT writes()", "SELECT nextval('drawn')"] {
            let session = db.session("plans").await.expect("session");
            let refused = explain(&session, sql, &[], Measure::Reads).await.expect_err(sql);
            let PlanError::Refused(source) = refused else { panic!("{sql}: {refused}") };
            assert_eq!(source.code().map(|code| code.code()), Some("25006"), "{sql}");
            // Its transaction is open.
            let closed = async {
                while !session.is_closed() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(LIMIT, closed).await.expect("it closes");
        }
        assert_eq!(count(&bed.admin().await, NOTES).await, 100);
        let run = plan(&session, "DELETE FROM note WHERE id <= 40", Measure::Anything).await;
        let deleted = run.plan.nodes().last().and_then(|node| node.total(|actual| actual.rows));
        assert_eq!(deleted.map(f64::round), Some(40.0));
        assert_eq!(count(&bed.admin().await, NOTES).await, 100);
    });
}

#[test]
fn one_text_is_one_statement() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        on(&db.session("setup").await.expect("session"), SETUP).await;
        for sql in ["SELECT 1; DELETE FROM note", "SELECT 1; COMMIT; DELETE FROM note"] {
            let session = db.session("plans").await.expect("session");
            assert!(explain(&session, sql, &[], Measure::Anything).await.is_err(), "{sql}");
            let session = db.session("plans").await.expect("session");
            assert!(explain_generic(&session, sql).await.is_err(), "{sql}");
        }
        assert_eq!(count(&bed.admin().await, NOTES).await, 100);
    });
}

#[test]
fn a_statement_without_values_has_its_generic_plan_and_leaves_no_name() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let session = db.session("plans").await.expect("session");
        on(&session, SETUP).await;
        for _ in 0..2 {
            let explained = explain_generic(&session, FIND.sql()).await.expect("planned");
            assert_eq!(explained.plan.root.index.as_deref(), Some("note_pkey"));
            let filter = explained.plan.root.condition("Filter").expect("a filter");
            assert!(filter.contains("$2"), "{filter}");
        }
        assert_eq!(explain_generic(&session, NOTES).await.expect("planned").tables.len(), 1);
        let left = "SELECT count(*) FROM pg_prepared_statements";
        let row = session.client().query_one(left, &[]).await.expect("ask");
        // The question itself, prepared by the driver.
        assert_eq!(row.get::<_, i64>(0), 1);
    });
}
