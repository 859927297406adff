//! What a transaction's caller is told, and whether it is true.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use paystrata_db::{
    CommitOutcome, Committed, Db, Error, Isolation, Statement, Transaction, TransactionError,
    TransactionOptions, Type,
};

use crate::proxy::{Mode, Proxy};
use crate::support::{Bed, LIMIT, config, connected, count, until_count, with_database};

static INSERT: Statement = Statement::new("INSERT INTO note VALUES ($1)", &[Type::INT4]);
static DIVIDE: Statement = Statement::new("SELECT 1 / 0", &[]);
static READ: Statement = Statement::new("SELECT value FROM counter WHERE id = $1", &[Type::INT4]);
static WRITE: Statement =
    Statement::new("UPDATE counter SET value = $2 WHERE id = $1", &[Type::INT4, Type::INT4]);
static ADD: Statement = Statement::new("UPDATE counter SET value = value + 1 WHERE id = $1", &[Type::INT4]);

const NOTES: &str = "SELECT count(*) FROM note";
const DEFAULT: TransactionOptions =
    TransactionOptions { isolation: Isolation::ReadCommitted, attempts_max: 5, timeout: LIMIT };

async fn tables(bed: &Bed) {
    let sql = "CREATE TABLE note (body int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED); \
               CREATE TABLE counter (id int PRIMARY KEY, value int NOT NULL); INSERT INTO counter VALUES (1, 0), (2, 0)";
    bed.admin().await.client.batch_execute(sql).await.expect("create the tables");
}

async fn insert(db: &Db) -> Result<Committed<u64>, TransactionError<Error>> {
    db.transaction(DEFAULT, |tx| async move { tx.execute(&INSERT, &[&1]).await }).await
}

#[test]
fn an_error_of_the_closure_leaves_nothing_and_comes_back() {
    with_database(|bed| async move {
        tables(&bed).await;
        let db = bed.primary_only().await;
        let outcome = db.transaction(DEFAULT, |tx| async move {
            tx.execute(&INSERT, &[&1]).await.expect("insert");
            Err::<(), _>("enough")
        });
        assert!(matches!(outcome.await, Err(TransactionError::Work("enough"))));
        assert_eq!(count(&bed.admin().await, NOTES).await, 0);
        assert!(insert(&db).await.is_ok());
        assert_eq!(count(&bed.admin().await, NOTES).await, 1);
    });
}

#[test]
fn a_swallowed_failure_is_never_reported_as_committed() {
    with_database(|bed| async move {
        tables(&bed).await;
        let db = bed.primary_only().await;
        let outcome = db.transaction(DEFAULT, |tx| async move {
            tx.execute(&INSERT, &[&1]).await?;
            let _swallowed = tx.query(&DIVIDE, &[]).await;
            Ok::<_, Error>(())
        });
        let error = outcome.await.expect_err("the server has aborted it");
        assert!(matches!(&error, TransactionError::Aborted { cause } if cause == "22012"), "{error}");
        assert_eq!(count(&bed.admin().await, NOTES).await, 0);
    });
}

#[test]
fn an_abandoned_statement_is_never_committed() {
    with_database(|bed| async move {
        static SLOW: Statement = Statement::new("SELECT pg_sleep(3600)", &[]);
        tables(&bed).await;
        let db = bed.primary_only().await;
        let outcome = db.transaction(DEFAULT, |tx| async move {
            tx.execute(&INSERT, &[&1]).await?;
            tokio::select! {
                biased;
                _ = tx.query(&SLOW, &[]) => {}
                () = std::future::ready(()) => {}
            }
            Ok::<_, Error>(())
        });
        assert!(matches!(outcome.await, Err(TransactionError::Aborted { .. })));
        until_count(&bed.admin().await, NOTES, 0).await;
    });
}

#[test]
fn a_constraint_that_fails_at_commit_is_told() {
    with_database(|bed| async move {
        tables(&bed).await;
        let db = bed.primary_only().await;
        insert(&db).await.expect("the first one");
        let error = insert(&db).await.expect_err("the key exists");
        let TransactionError::Database(error) = error else { panic!("{error}") };
        assert_eq!(error.sqlstate().map(|code| code.code()), Some("23505"));
        assert_eq!(error.constraint(), Some("note_pkey"));
        assert_eq!(db.status().nodes[0].pool.size, 1, "the connection is still good");
    });
}

#[test]
fn serialization_failures_are_rerun_until_every_increment_counts() {
    with_database(|bed| async move {
        tables(&bed).await;
        let db = bed.primary_only().await;
        let runs = std::sync::Arc::new(AtomicU32::new(0));
        let options = TransactionOptions { isolation: Isolation::Serializable, attempts_max: 200, ..DEFAULT };
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (db, runs) = (db.clone(), std::sync::Arc::clone(&runs));
            callers.spawn(async move {
                for _ in 0..10 {
                    let added = db.transaction(options, |tx| {
                        runs.fetch_add(1, Ordering::Relaxed);
                        increment(tx)
                    });
                    added.await.expect("it succeeds in the end");
                }
            });
        }
        callers.join_all().await;
        let admin = bed.admin().await;
        assert_eq!(count(&admin, "SELECT value::bigint FROM counter WHERE id = 1").await, 40);
        assert!(runs.load(Ordering::Relaxed) >= 40);
    });
}

async fn increment(tx: Transaction) -> Result<(), Error> {
    let value: i32 = tx.query_one(&READ, &[&1]).await?.get(0);
    tx.execute(&WRITE, &[&1, &(value + 1)]).await?;
    Ok(())
}

#[test]
fn a_deadlock_is_rerun_and_both_sides_succeed() {
    with_database(|bed| async move {
        tables(&bed).await;
        let db = bed.primary_only().await;
        let both_hold_one = tokio::sync::Barrier::new(2);
        let cross = |first: i32, second: i32| {
            let (db, both_hold_one) = (&db, &both_hold_one);
            let runs = AtomicU32::new(0);
            async move {
                let runs = &runs;
                let outcome = db.transaction(DEFAULT, |tx| async move {
                    tx.execute(&ADD, &[&first]).await?;
                    if runs.fetch_add(1, Ordering::Relaxed) == 0 {
                        both_hold_one.wait().await;
                    }
                    tx.execute(&ADD, &[&second]).await
                });
                outcome.await.expect("it succeeds in the end");
                runs.load(Ordering::Relaxed)
            }
        };
        let (one, other) = tokio::join!(cross(1, 2), cross(2, 1));
        assert!(one + other > 2, "one of them was rolled back and ran again");
        assert_eq!(count(&bed.admin().await, "SELECT sum(value) FROM counter").await, 4);
    });
}

/// The connection breaks in the manner of `fault` while a commit is under way.
async fn check_broken_commit(bed: Bed, fault: Mode) {
    tables(&bed).await;
    let proxy = Proxy::before(&bed.primary_url()).await;
    let mut config = config(&proxy.url(&bed.primary_url()));
    config.statement_timeout = Duration::from_secs(1);
    let db = connected(config).await;
    proxy.set(fault);
    let committed = insert(&db).await.expect("the outcome is found out, and the work redone if need be");
    proxy.sprung().await;
    assert_eq!(committed.value, 1);
    assert!(committed.token.lsn > 0);
    assert_eq!(count(&bed.admin().await, NOTES).await, 1);
}

#[test]
fn a_commit_whose_answer_is_lost_is_found_to_be_committed() {
    with_database(|bed| check_broken_commit(bed, Mode::LoseAnswer));
}

#[test]
fn a_commit_that_is_lost_itself_is_run_again() {
    with_database(|bed| check_broken_commit(bed, Mode::LoseCommit));
}

#[test]
fn a_commit_stuck_on_a_silent_connection_is_ended_and_run_again() {
    with_database(|bed| check_broken_commit(bed, Mode::HoldCommit));
}

#[test]
fn an_outcome_that_nobody_can_tell_is_unknown_until_the_server_is_back() {
    with_database(|bed| async move {
        tables(&bed).await;
        let proxy = Proxy::before(&bed.primary_url()).await;
        let db = connected(config(&proxy.url(&bed.primary_url()))).await;
        proxy.set(Mode::LoseAnswerAndRefuse);
        let error = insert(&db).await.expect_err("nobody is left to ask");
        assert!(error.outcome_is_unknown() && !error.is_retryable(), "{error}");
        let TransactionError::OutcomeUnknown { ticket } = error else { panic!("{error}") };
        proxy.set(Mode::Forward);
        assert!(matches!(db.commit_outcome(ticket).await, CommitOutcome::Committed(_)));
        assert_eq!(count(&bed.admin().await, NOTES).await, 1);
    });
}

#[test]
fn a_transaction_out_of_time_leaves_nothing() {
    with_database(|bed| async move {
        tables(&bed).await;
        let db = bed.primary_only().await;
        let options = TransactionOptions { timeout: Duration::from_millis(200), ..DEFAULT };
        let outcome = db.transaction(options, |tx| async move {
            tx.execute(&INSERT, &[&1]).await?;
            std::future::pending::<Result<(), Error>>().await
        });
        assert!(matches!(outcome.await, Err(TransactionError::Deadline { .. })));
        until_count(&bed.admin().await, NOTES, 0).await;
        assert!(insert(&db).await.is_ok());
    });
}

#[test]
fn a_handle_that_outlives_its_transaction_is_refused() {
    with_database(|bed| async move {
        tables(&bed).await;
        let db = bed.primary_only().await;
        let escaped =
            db.transaction(DEFAULT, |tx| async move { Ok::<_, Error>(tx) }).await.expect("commit").value;
        assert!(matches!(escaped.execute(&INSERT, &[&1]).await, Err(Error::Closed)));
        assert_eq!(count(&bed.admin().await, NOTES).await, 0);
    });
}

#[test]
fn a_server_that_ends_the_connection_before_the_commit_causes_a_rerun() {
    with_database(|bed| async move {
        static SUICIDE: Statement = Statement::new("SELECT pg_terminate_backend(pg_backend_pid())", &[]);
        tables(&bed).await;
        let db = bed.primary_only().await;
        let runs = AtomicU32::new(0);
        let outcome = db.transaction(DEFAULT, |tx| {
            let first = runs.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                tx.execute(&INSERT, &[&1]).await?;
                if first {
                    tx.query(&SUICIDE, &[]).await?;
                }
                Ok::<_, Error>(())
            }
        });
        outcome.await.expect("the second run commits");
        assert_eq!((runs.into_inner(), count(&bed.admin().await, NOTES).await), (2, 1));
    });
}
