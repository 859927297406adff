//! What one borrower leaves, the next must not find; and what the wire loses must not stay in the pool.

use std::time::Duration;

use futures_util::future::pending;
use paystrata_db::{Class, Connection, Db, Error, NodeState, Statement, TransactionOptions, Type};
use tokio::sync::Notify;

use crate::proxy::{Mode, Proxy};
use crate::support::{Bed, LIMIT, ONE, config, count, until, until_count, with_database};

static BACKEND: Statement = Statement::new("SELECT pg_backend_pid()", &[]);
static SLEEP: Statement = Statement::new("SELECT pg_sleep(3600)", &[]);
static NAP: Statement = Statement::new("SELECT 1 FROM pg_sleep(0.02)", &[]);
static ADD: Statement = Statement::new("INSERT INTO note VALUES ($1)", &[Type::INT8]);
static FAIL: Statement = Statement::new("SELECT 1/0", &[]);
const SLEEPING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                        AND state = 'active' AND query LIKE 'SELECT pg_sleep%'";

/// One connection, which nothing but a cancel frees of what it runs.
async fn single(bed: &Bed) -> Db {
    let url = format!("{}?options=-c%20client_connection_check_interval%3D0", bed.primary_url());
    let mut config = config(&url);
    config.pool_size_max = 1;
    config.statement_timeout = 2 * LIMIT;
    Db::connect(config).await.expect("connect")
}

async fn backend(connection: &Connection) -> i32 {
    connection.query_one(&BACKEND, &[]).await.expect("ask").get(0)
}

async fn until_cleaned(db: &Db, times: u64) {
    until(db, |status| status.cleaned == times).await;
}

#[test]
fn a_connection_comes_back_from_a_dropped_query_and_its_cancel_strikes_nobody_else() {
    with_database(|bed| async move {
        let db = single(&bed).await;
        let admin = bed.admin().await;
        let before = backend(&db.write().await.expect("acquire")).await;
        // Fewer than a connection is cleaned before it is closed.
        for round in 1..=12 {
            let connection = db.write().await.expect("acquire");
            tokio::select! {
                outcome = connection.query(&SLEEP, &[]) => panic!("it cannot end by itself: {outcome:?}"),
                () = until_count(&admin, SLEEPING, 1) => {}
            }
            drop(connection);
            until_cleaned(&db, round).await;
            let connection = db.write().await.expect("acquire");
            // Long enough for a late cancel to find it.
            connection.query_one(&NAP, &[]).await.expect("no cancel was left over");
            assert_eq!(backend(&connection).await, before, "the same server process");
        }
        assert_eq!(db.status().nodes[0].pool.size, 1);
    });
}

#[test]
fn a_connection_is_not_cleaned_for_ever() {
    with_database(|bed| async move {
        let db = single(&bed).await;
        let admin = bed.admin().await;
        let before = backend(&db.write().await.expect("acquire")).await;
        let mut rounds = 0;
        while backend(&db.write().await.expect("acquire")).await == before {
            rounds += 1;
            assert!(rounds <= 16, "it should have been closed");
            let connection = db.write().await.expect("acquire");
            tokio::select! {
                outcome = connection.query(&SLEEP, &[]) => panic!("it cannot end by itself: {outcome:?}"),
                () = until_count(&admin, SLEEPING, 1) => {}
            }
            drop(connection);
            until_count(&admin, SLEEPING, 0).await;
            until(&db, |status| status.swept == rounds).await;
            // Either it is back, or the server has lost it.
            let alive = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {before}");
            while db.status().cleaned < rounds && count(&admin, &alive).await == 1 {}
        }
        assert_eq!(rounds, 16);
    });
}

/// Leaves a transaction open by dropping it where it waits, after `fails` or not.
async fn leave_open(db: &Db, fails: bool) {
    let opened = Notify::new();
    let transaction = db.transaction(TransactionOptions::default(), |tx| {
        let opened = &opened;
        async move {
            tx.execute(&ADD, &[&1_i64]).await?;
            if fails {
                tx.query(&FAIL, &[]).await.expect_err("a division by zero");
            }
            opened.notify_one();
            pending::<Result<(), Error>>().await
        }
    });
    tokio::select! {
        outcome = transaction => panic!("it cannot end by itself: {outcome:?}"),
        () = opened.notified() => {}
    }
}

/// The API lets nobody say BEGIN; a transaction that is dropped leaves the same behind.
#[test]
fn an_open_or_failed_transaction_is_rolled_back_before_the_next_borrower_comes() {
    with_database(|bed| async move {
        let db = single(&bed).await;
        let admin = bed.admin().await;
        admin.client.batch_execute("CREATE TABLE note (body bigint)").await.expect("create");
        let before = backend(&db.write().await.expect("acquire")).await;
        for (round, fails) in [(1, false), (2, true)] {
            leave_open(&db, fails).await;
            until_cleaned(&db, round).await;
            let connection = db.write().await.expect("acquire");
            assert_eq!(backend(&connection).await, before, "the same server process");
            // In a transaction left open this would be lost with it, in a failed one refused.
            connection.execute(&ADD, &[&2_i64]).await.expect("it is outside of a transaction");
            drop(connection);
        }
        assert_eq!(count(&admin, "SELECT count(*) FROM note WHERE body = 1").await, 0);
        assert_eq!(count(&admin, "SELECT count(*) FROM note WHERE body = 2").await, 2);
        assert_eq!(db.status().swept, 0, "there was nothing to cancel");
    });
}

/// The API takes no SET, LISTEN or DECLARE; what functions and tables can do to a session is left to try. A role that is set
/// by `set_config` goes the way of the other settings.
#[test]
fn what_a_borrower_told_its_session_is_gone_for_the_next() {
    static SET: Statement = Statement::new(
        "SELECT set_config('search_path', 'elsewhere', false), set_config('statement_timeout', '77s', false)",
        &[],
    );
    static ROLE: Statement = Statement::new("SELECT set_config('role', 'pg_monitor', false)", &[]);
    static LOCK: Statement = Statement::new("SELECT pg_advisory_lock(4711)", &[]);
    static TABLE: Statement = Statement::new("CREATE LOCAL /* here */\n TEMP TABLE mine (a int)", &[]);
    static BLOCK: Statement = Statement::new("/* x */ DO $$ BEGIN SET search_path = nowhere; END $$", &[]);
    static SHOWN: Statement = Statement::new(
        "SELECT current_setting('search_path') || '/' || current_setting('statement_timeout') || '/' \
         || current_user || '/' || (SELECT count(*) FROM pg_class WHERE relname = 'mine') || '/' \
         || (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
        &[],
    );
    async fn shown(connection: &Connection) -> String {
        connection.query_one(&SHOWN, &[]).await.expect("ask").get(0)
    }
    with_database(|bed| async move {
        let db = single(&bed).await;
        let connection = db.write().await.expect("acquire");
        let (fresh, before) = (shown(&connection).await, backend(&connection).await);
        drop(connection);
        // More often than a connection is cleaned of abandoned statements before it is closed.
        for (round, told) in (1..).zip([&SET, &ROLE, &LOCK, &TABLE, &BLOCK].repeat(4)) {
            let connection = db.write().await.expect("acquire");
            connection.query(told, &[]).await.expect("tell");
            assert_ne!(shown(&connection).await, fresh, "it does change the session: {}", told.sql());
            drop(connection);
            until_cleaned(&db, round).await;
            let connection = db.write().await.expect("acquire");
            assert_eq!(shown(&connection).await, fresh, "after {}", told.sql());
            assert_eq!(backend(&connection).await, before, "the same server process");
        }
    });
}

#[test]
fn what_a_borrower_told_its_transaction_costs_nobody_a_connection() {
    static TENANT: Statement = Statement::new("SELECT set_config('app.tenant', $1, true)", &[Type::TEXT]);
    static SHOWN: Statement = Statement::new("SELECT coalesce(current_setting('app.tenant', true), '')", &[]);
    with_database(|bed| async move {
        let db = single(&bed).await;
        let before = backend(&db.write().await.expect("acquire")).await;
        for _ in 0..40 {
            let told = db.transaction(TransactionOptions::default(), |tx| async move {
                tx.query_one(&TENANT, &[&"seven"]).await?;
                Ok::<_, Error>(tx.query_one(&SHOWN, &[]).await?.get::<_, String>(0))
            });
            assert_eq!(told.await.expect("a transaction").value, "seven");
            let connection = db.write().await.expect("acquire");
            assert_eq!(backend(&connection).await, before, "the same server process");
            assert_eq!(connection.query_one(&SHOWN, &[]).await.expect("ask").get::<_, String>(0), "");
        }
        assert_eq!((db.status().swept, db.status().cleaned), (0, 0), "there was nothing to clean");
    });
}

#[test]
fn a_clean_connection_is_given_back_and_taken_without_asking_the_server() {
    with_database(|bed| async move {
        let proxy = Proxy::before(&bed.primary_url()).await;
        let mut config = config(&proxy.url(&bed.primary_url()));
        config.pool_size_max = 1;
        let db = Db::connect(config).await.expect("connect");
        db.write().await.expect("acquire").query_one(&ONE, &[]).await.expect("query");
        // Nothing comes back any more: a question would never be answered.
        proxy.set(Mode::BlackHole);
        for _ in 0..100 {
            db.write().await.expect("no question was asked");
        }
        assert_eq!(db.status().nodes[0].pool.size, 1);
    });
}

#[test]
fn connections_lost_in_a_black_hole_give_their_places_back() {
    with_database(|bed| async move {
        let proxy = Proxy::before(&bed.primary_url()).await;
        let mut config = config(&proxy.url(&bed.primary_url()));
        config.pool_size_min = 2;
        config.pool_size_max = 2;
        config.statement_timeout = Duration::from_millis(100);
        let db = Db::connect(config).await.expect("connect");
        for _ in 0..2 {
            // In flight on one, idle on the other.
            proxy.set(Mode::Forward);
            until(&db, |status| status.nodes[0].state == NodeState::Up).await;
            let connection = db.write().await.expect("acquire");
            connection.query_one(&ONE, &[]).await.expect("query");
            proxy.set(Mode::SilenceOld);
            let error = connection.query_one(&ONE, &[]).await.expect_err("no answer comes");
            assert_eq!(error.class(), Class::OutcomeUnknown, "{error}");
            drop(connection);
            // The other one may be handed out once before it is found out; never for ever.
            for _ in 0..8 {
                let answered = async { db.write().await?.query_one(&ONE, &[]).await };
                let answered = tokio::time::timeout(LIMIT, answered).await.expect("an end");
                assert!(answered.as_ref().map_or_else(|error| error.class() != Class::Never, |_| true));
            }
            let both = [db.write().await.expect("one place"), db.write().await.expect("and the other")];
            for connection in both {
                connection.query_one(&ONE, &[]).await.expect("on fresh connections");
            }
        }
    });
}
