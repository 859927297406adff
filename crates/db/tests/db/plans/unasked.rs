//! What the slow log does not do: run a statement for its plan, or ask the server about what is quick.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use paystrata_db::plans::{SlowLog, SlowLogOptions};
use paystrata_db::{Db, Observer, Statement};

use crate::support::{Bed, LIMIT, ONE, count, with_database};

/// Draws a number, which no rollback takes back.
static DRAW: Statement = Statement::new("INSERT INTO note SELECT nextval('drawn') FROM pg_sleep(0.3)", &[]);

async fn observed(bed: &Bed, threshold: Duration) -> (Arc<SlowLog>, Db) {
    let make = "CREATE TABLE note (owner bigint); CREATE SEQUENCE drawn";
    bed.admin().await.client.batch_execute(make).await.expect("create");
    let log = SlowLog::new(SlowLogOptions { threshold, ..SlowLogOptions::default() });
    let observer = Arc::clone(&log) as Arc<dyn Observer>;
    (log, Db::connect_observed(bed.config(), observer).await.expect("connect"))
}

/// Scenario 45 of the reference.
#[test]
fn a_slow_statement_has_its_plan_and_is_not_run_for_it() {
    with_database(|bed| async move {
        let (log, db) = observed(&bed, Duration::from_millis(200)).await;
        db.write().await.expect("connection").execute(&DRAW, &[]).await.expect("slow");
        let told = log.end_window(&db).await;
        let [slow] = &told[..] else { panic!("one statement: {told:#?}") };
        let plan = slow.plan.as_deref().unwrap_or_default();
        assert!(plan.contains("ModifyTable on public.note"), "{told:#?}");
        let admin = bed.admin().await;
        assert_eq!(count(&admin, "SELECT count(*) FROM note").await, 1);
        assert_eq!(count(&admin, "SELECT last_value FROM drawn").await, 1);
    });
}

/// Scenario 45 of the reference.
#[test]
fn a_window_in_which_all_was_quick_ends_without_asking_anybody() {
    with_database(|bed| async move {
        let (log, db) = observed(&bed, 10 * LIMIT).await;
        let connection = db.write().await.expect("connection");
        for _ in 0..100 {
            connection.query_one(&ONE, &[]).await.expect("quick");
        }
        let told = log.end_window(&db).now_or_never().expect("by the first poll");
        assert!(told.is_empty(), "{told:#?}");
        let calls: Vec<u64> = log.workload().statements.iter().map(|one| one.calls).collect();
        assert_eq!(calls, [100], "each was counted");
    });
}
