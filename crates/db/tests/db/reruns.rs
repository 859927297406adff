//! How often a closure runs that never succeeds, and what remains of it.

use std::sync::atomic::{AtomicU32, Ordering};

use paystrata_db::{Error, Statement, TransactionError, TransactionOptions, Type};

use crate::support::{LIMIT, count, with_database};

static ADD: Statement = Statement::new("INSERT INTO note VALUES ($1)", &[Type::INT8]);
static CONFLICT: Statement = Statement::new("SELECT conflict()", &[]);

const MAKE: &str = "CREATE TABLE note (body int8); \
    CREATE FUNCTION conflict() RETURNS int8 LANGUAGE plpgsql AS $$ BEGIN RAISE serialization_failure; END $$";

/// Scenario 30 of the reference.
#[test]
fn a_conflict_that_never_ends_is_given_up_after_as_many_runs_as_are_allowed() {
    with_database(|bed| async move {
        let admin = bed.admin().await;
        admin.client.batch_execute(MAKE).await.expect("make the function");
        let db = bed.primary_only().await;
        for attempts_max in [1, 3] {
            let options =
                TransactionOptions { attempts_max, timeout: LIMIT, ..TransactionOptions::default() };
            let runs = AtomicU32::new(0);
            let ended = db.transaction(options, |tx| {
                runs.fetch_add(1, Ordering::Relaxed);
                async move {
                    tx.execute(&ADD, &[&1_i64]).await?;
                    tx.query(&CONFLICT, &[]).await?;
                    Ok::<_, Error>(())
                }
            });
            let error = ended.await.expect_err("it never succeeds");
            let TransactionError::Contended { attempts, cause } = &error else { panic!("{error}") };
            assert_eq!((*attempts, cause.as_str()), (attempts_max, "40001"));
            assert!(error.is_retryable(), "whoever has more patience may go on");
            assert_eq!(runs.into_inner(), attempts_max);
        }
        assert_eq!(count(&admin, "SELECT count(*) FROM note").await, 0);
    });
}
