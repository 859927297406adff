//! Bounds, order and hygiene of the pools; what happens to abandoned work.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use paystrata_db::{AcquirePhase, Class, Db, Error, Statement, TransactionOptions, Type};

use tokio::runtime::Builder;

use crate::support::{LIMIT, ONE, config, count, until_count, with_database, with_database_on};

static SLEEP: Statement = Statement::new("SELECT pg_sleep(3600)", &[]);
static BACKEND: Statement = Statement::new("SELECT pg_backend_pid()", &[]);
const SLEEPING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                        AND state = 'active' AND query LIKE 'SELECT pg_sleep%'";

/// Without the server's own look for its client, so that only the cancel can end an abandoned query in time.
fn deaf(url: &str) -> String {
    format!("{url}?options=-c%20client_connection_check_interval%3D0")
}

#[test]
fn an_exhausted_pool_says_what_it_knows() {
    with_database(|bed| async move {
        let mut config = bed.config();
        config.pool_size_max = 2;
        config.acquire_timeout = Duration::from_millis(100);
        let endpoint = config.primary_url.endpoint().to_owned();
        let db = Db::connect(config).await.expect("connect");
        let _held = (db.write().await.expect("first"), db.write().await.expect("second"));
        // In a task of its own: one that holds a connection itself is told another thing.
        let other = db.clone();
        let refused = tokio::spawn(async move { other.write().await.map(drop) });
        let error = refused.await.expect("no panic").expect_err("both are held");
        let Error::AcquireTimeout { node, phase, pool, .. } = &error else { panic!("{error}") };
        assert_eq!((node.to_string(), *phase), (endpoint, AcquirePhase::Waiting));
        assert_eq!((pool.size_max, pool.size, pool.in_use), (2, 2, 2));
        assert!(error.is_overload() && error.is_retryable());
    });
}

/// In tasks of their own: one that holds a connection itself is told another thing.
async fn written_over(db: &Db) -> Result<(), Error> {
    let db = db.clone();
    let writing = tokio::spawn(async move { db.write().await?.execute(&ONE, &[]).await.map(drop) });
    writing.await.expect("no panic")
}

#[test]
fn background_work_leaves_a_connection_to_those_who_wait() {
    with_database(|bed| async move {
        let mut config = bed.config();
        config.pool_size_max = 4;
        config.acquire_timeout = Duration::from_millis(100);
        let db = Db::connect(config).await.expect("connect");
        let background = db.background();
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(background.clone().write().await.expect("three of four"));
        }
        let refused = written_over(&background).await.expect_err("the fourth is not for it");
        let Error::AcquireTimeout { phase, pool, .. } = &refused else { panic!("{refused}") };
        assert_eq!((*phase, pool.in_use, pool.size_max), (AcquirePhase::BackgroundPermit, 3, 4));
        assert!(refused.is_overload() && refused.is_retryable());
        for _ in 0..10 {
            written_over(&db).await.expect("there is one for callers who wait");
        }
        // One that is given back, or dropped with something on it, is there for the next.
        let left = held.pop().expect("three");
        let sleeping = tokio::time::timeout(Duration::from_millis(5), left.query(&SLEEP, &[])).await;
        assert!(sleeping.is_err());
        drop(left);
        written_over(&background).await.expect("a permit is free again");
        // Others may take all of it while nothing goes on in the background.
        drop(held);
        let all = join_all((0..4).map(|_| db.write())).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
    });
}

#[test]
fn callers_are_served_in_the_order_they_came() {
    // On one thread a caller that is counted as waiting also stands in line.
    with_database_on(Builder::new_current_thread(), |bed| async move {
        let mut config = bed.config();
        config.pool_size_max = 1;
        let db = Db::connect(config).await.expect("connect");
        let held = db.write().await.expect("the only one");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..200 {
            let (own, order) = (db.clone(), Arc::clone(&order));
            callers.spawn(async move {
                let _connection = own.write().await.expect("a turn comes");
                order.lock().expect("no caller panicked").push(caller);
            });
            // The next one comes only when this one stands in line.
            while db.status().nodes[0].pool.waiting <= caller {
                tokio::task::yield_now().await;
            }
        }
        drop(held);
        callers.join_all().await;
        assert_eq!(*order.lock().expect("no caller panicked"), (0..200).collect::<Vec<_>>());
    });
}

#[test]
fn a_dropped_query_is_cancelled_on_the_server_and_holds_nobody_up() {
    with_database(|bed| async move {
        let mut config = config(&deaf(&bed.primary_url()));
        config.pool_size_max = 1;
        config.statement_timeout = 2 * LIMIT;
        let db = Db::connect(config).await.expect("connect");
        let admin = bed.admin().await;
        let connection = db.write().await.expect("acquire");
        tokio::select! {
            outcome = connection.query(&SLEEP, &[]) => panic!("it cannot end by itself: {outcome:?}"),
            () = until_count(&admin, SLEEPING, 1) => {}
        }
        drop(connection);
        let next = db.write().await.expect("the slot is free at once");
        next.query_one(&ONE, &[]).await.expect("the next borrower is not behind the abandoned query");
        until_count(&admin, SLEEPING, 0).await;
        assert_eq!(db.status().swept, 1);
    });
}

#[test]
fn a_hundred_dropped_queries_leave_a_working_pool() {
    with_database(|bed| async move {
        let mut config = config(&deaf(&bed.primary_url()));
        config.statement_timeout = 2 * LIMIT;
        let db = Db::connect(config).await.expect("connect");
        let admin = bed.admin().await;
        for _ in 0..25 {
            let mut callers = tokio::task::JoinSet::new();
            for _ in 0..4 {
                let db = db.clone();
                callers.spawn(async move {
                    db.write().await.expect("acquire").query(&SLEEP, &[]).await.map(drop)
                });
            }
            until_count(&admin, SLEEPING, 4).await;
            callers.shutdown().await;
            until_count(&admin, SLEEPING, 0).await;
        }
        for _ in 0..100 {
            let connection = db.write().await.expect("acquire");
            connection.query_one(&ONE, &[]).await.expect("no cancel hits a later query");
        }
        assert_eq!(db.status().swept, 100);
        assert_eq!(db.status().nodes[0].in_flight, 0);
    });
}

#[test]
fn a_dropped_transaction_leaves_nothing() {
    with_database(|bed| async move {
        static INSERT: Statement = Statement::new("INSERT INTO note VALUES (1)", &[]);
        let mut config = config(&deaf(&bed.primary_url()));
        config.pool_size_max = 1;
        let db = Db::connect(config).await.expect("connect");
        let admin = bed.admin().await;
        admin.client.batch_execute("CREATE TABLE note (body int)").await.expect("create the table");
        let inserted = tokio::sync::Notify::new();
        let transaction = db.transaction(TransactionOptions::default(), |tx| {
            let inserted = &inserted;
            async move {
                tx.execute(&INSERT, &[]).await?;
                inserted.notify_one();
                std::future::pending::<Result<(), Error>>().await
            }
        });
        tokio::select! {
            outcome = transaction => panic!("it cannot end by itself: {outcome:?}"),
            () = inserted.notified() => {}
        }
        db.write()
            .await
            .expect("the slot is free")
            .query_one(&ONE, &[])
            .await
            .expect("and outside a transaction");
        let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
        until_count(&admin, idle, 0).await;
        until_count(&admin, "SELECT count(*) FROM note", 0).await;
    });
}

#[test]
fn connections_that_the_server_closed_are_not_handed_out() {
    // On one thread the servers' last words are read before the answer that nobody is left.
    with_database_on(Builder::new_current_thread(), |bed| async move {
        let mut config = bed.config();
        config.pool_size_min = 4;
        let db = Db::connect(config).await.expect("connect");
        let admin = bed.admin().await;
        let ours = "datname = current_database() AND application_name = 'paystrata-db'";
        let terminate = format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {ours}");
        assert_eq!(count(&admin, &terminate).await, 4);
        until_count(&admin, &format!("SELECT count(*) FROM pg_stat_activity WHERE {ours}"), 0).await;
        for _ in 0..8 {
            // A write is not rerun, so each of these fails if it meets a closed connection.
            let connection = db.write().await.expect("acquire");
            let outcome = connection.query_one(&ONE, &[]).await;
            assert!(outcome.as_ref().map_or_else(Error::is_not_sent, |_| true), "{outcome:?}");
        }
        db.write().await.expect("acquire").query_one(&ONE, &[]).await.expect("the pool has healed");
    });
}

#[test]
fn the_server_stops_a_statement_that_runs_too_long() {
    with_database(|bed| async move {
        let mut config = bed.config();
        config.statement_timeout = Duration::from_millis(100);
        let db = Db::connect(config).await.expect("connect");
        let connection = db.write().await.expect("acquire");
        let before: i32 = connection.query_one(&BACKEND, &[]).await.expect("query").get(0);
        let error = connection.query(&SLEEP, &[]).await.expect_err("it takes an hour");
        assert_eq!((error.class(), error.sqlstate().map(|code| code.code())), (Class::Caller, Some("57014")));
        let after: i32 =
            connection.query_one(&BACKEND, &[]).await.expect("the connection is still good").get(0);
        assert_eq!(before, after);
    });
}

#[test]
fn a_statement_prepared_before_ddl_is_prepared_anew() {
    with_database(|bed| async move {
        static ALL: Statement = Statement::new("SELECT * FROM note", &[]);
        let admin = bed.admin().await;
        admin
            .client
            .batch_execute("CREATE TABLE note (a int); INSERT INTO note VALUES (1)")
            .await
            .expect("create");
        let db = bed.primary_only().await;
        let connection = db.write().await.expect("acquire");
        assert_eq!(connection.query_one(&ALL, &[]).await.expect("query").len(), 1);
        admin.client.batch_execute("ALTER TABLE note ADD COLUMN b int").await.expect("alter");
        assert_eq!(connection.query_one(&ALL, &[]).await.expect("the caller notices nothing").len(), 2);

        let columns = db.transaction(TransactionOptions::default(), |tx| async move {
            Ok::<_, Error>(tx.query_one(&ALL, &[]).await?.len())
        });
        assert_eq!(columns.await.expect("in a transaction too").value, 2);
    });
}

/// As many connections as a closure is rerun have the old plan, and one more.
#[test]
fn a_statement_that_ddl_has_made_worthless_is_prepared_anew_by_every_connection_of_the_pool() {
    with_database(|bed| async move {
        static ALL: Statement = Statement::new("SELECT * FROM memo", &[]);
        let admin = bed.admin().await;
        admin
            .client
            .batch_execute("CREATE TABLE memo (a int); INSERT INTO memo VALUES (1)")
            .await
            .expect("create");
        let db = bed.primary_only().await;
        let options = TransactionOptions { attempts_max: 3, ..TransactionOptions::default() };
        let connections = join_all((0..=options.attempts_max).map(|_| db.write())).await;
        for connection in connections {
            let connection = connection.expect("acquire");
            assert_eq!(connection.query_one(&ALL, &[]).await.expect("query").len(), 1);
        }
        admin.client.batch_execute("ALTER TABLE memo ADD COLUMN b int").await.expect("alter");
        let columns =
            db.transaction(options, |tx| async move { Ok::<_, Error>(tx.query_one(&ALL, &[]).await?.len()) });
        assert_eq!(columns.await.expect("the second attempt meets no old plan").value, 2);
    });
}

#[test]
fn values_that_do_not_fit_the_statement_are_refused_unsent() {
    with_database(|bed| async move {
        static ECHO: Statement = Statement::new("SELECT $1", &[Type::INT8]);
        let db = bed.primary_only().await;
        let connection = db.write().await.expect("acquire");
        let error = connection.query(&ECHO, &[]).await.expect_err("one value is missing");
        assert!(matches!(error, Error::ValueCount { expected: 1, found: 0 }), "{error}");
        let error = connection.query(&ECHO, &[&"text"]).await.expect_err("a text is no number");
        assert_eq!(error.class(), Class::Never);
        assert_eq!(connection.query_one(&ECHO, &[&5_i64]).await.expect("query").get::<_, i64>(0), 5);
    });
}

#[test]
fn a_closed_db_refuses_and_its_connections_end() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let admin = bed.admin().await;
        db.close().await;
        assert!(matches!(db.write().await, Err(Error::Closed)));
        assert!(matches!(db.read().await, Err(Error::Closed)));
        let ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND application_name LIKE 'paystrata-db%'";
        until_count(&admin, ours, 0).await;
    });
}
