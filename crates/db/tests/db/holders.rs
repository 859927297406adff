//! What a caller is told who gets no connection: who has them, and whether it is waiting for itself.

use std::time::Duration;

use futures_util::future::{join_all, pending};
use paystrata_db::{Db, Doing, Error, Statement, TransactionError, TransactionOptions, Type};
use tokio::sync::Notify;

use crate::support::{LIMIT, ONE, with_database};

static SLEEP: Statement = Statement::new("SELECT pg_sleep(3600), $1", &[Type::TEXT]);
const SECRET: &str = "4111-not-for-anybody";

#[test]
fn the_error_of_a_full_pool_names_its_holders_oldest_first() {
    with_database(|bed| async move {
        let mut config = bed.config();
        config.pool_size_max = 3;
        config.acquire_timeout = Duration::from_millis(100);
        let db = Db::connect(config).await.expect("connect");
        let opened = Notify::new();
        let open = async {
            let never = db.transaction(TransactionOptions::default(), |tx| {
                let opened = &opened;
                async move {
                    tx.query_one(&ONE, &[]).await?;
                    opened.notify_one();
                    pending::<Result<(), Error>>().await
                }
            });
            never.await
        };
        let ask = async {
            opened.notified().await;
            let line = line!() + 1;
            let running = db.write().await.expect("second");
            let kept = db.write().await.expect("third");
            let query = running.query(&SLEEP, &[&SECRET]);
            tokio::select! {
                biased;
                outcome = query => panic!("it cannot end by itself: {outcome:?}"),
                // Nobody else's task: this one holds a connection itself.
                error = tokio::spawn({ let db = db.clone(); async move { db.write().await.map(drop) } }) => {
                    drop(kept);
                    (error.expect("no panic").expect_err("all are held"), line)
                }
            }
        };
        let (error, line) = tokio::select! {
            _ = open => panic!("the transaction cannot end"),
            told = ask => told,
        };
        let text = error.to_string();
        let Error::AcquireTimeout { holders, .. } = &error else { panic!("{error}") };
        let doing: Vec<Doing> = holders.iter().map(|holder| holder.doing).collect();
        assert_eq!(
            doing,
            [Doing::OpenTransaction, Doing::Statement(Some(SLEEP.sql())), Doing::Nothing],
            "{text}"
        );
        assert!(holders.iter().all(|holder| holder.place.file().ends_with("holders.rs")), "{text}");
        assert_eq!(holders[1].place.line(), line, "{text}");
        assert!(holders.is_sorted_by(|older, newer| older.held >= newer.held), "{text}");
        assert!(text.contains("running SELECT pg_sleep(3600)") && !text.contains(SECRET), "{text}");
    });
}

#[test]
fn a_task_that_would_wait_for_itself_is_told_so() {
    with_database(|bed| async move {
        let mut config = bed.config();
        config.pool_size_max = 2;
        config.acquire_timeout = 20 * LIMIT;
        let db = Db::connect(config).await.expect("connect");
        let first = db.write().await.expect("one of two");
        let second = db.write().await.expect("two of two: nobody has to wait");
        let error = tokio::time::timeout(LIMIT, db.write()).await.expect("told before the wait is over");
        let error = error.expect_err("nobody else can give one back");
        assert!(matches!(error, Error::NestedAcquire { .. }) && !error.is_retryable(), "{error}");
        assert!(error.to_string().contains("holders.rs"), "{error}");
        drop(first);
        db.write().await.expect("the place is free").query_one(&ONE, &[]).await.expect("and works");
        drop(second);

        // As it happens: a helper inside of a transaction asks for a connection of its own.
        let _other = db.write().await.expect("one of two");
        let nested = db.transaction(TransactionOptions::default(), |tx| {
            let db = db.clone();
            async move {
                tx.query_one(&ONE, &[]).await?;
                db.write().await.map(drop)
            }
        });
        let error = tokio::time::timeout(LIMIT, nested).await.expect("told before the wait is over");
        let error = error.expect_err("it waits for itself");
        assert!(matches!(&error, TransactionError::Work(Error::NestedAcquire { .. })), "{error}");
    });
}

#[test]
fn neighbours_in_one_task_take_turns() {
    with_database(|bed| async move {
        static SHORT: Statement = Statement::new("SELECT 1 FROM pg_sleep(0.05)", &[]);
        let mut config = bed.config();
        config.pool_size_max = 2;
        let db = Db::connect(config).await.expect("connect");
        let turns = (0..20).map(|_| async { db.write().await?.query_one(&SHORT, &[]).await });
        for turn in join_all(turns).await {
            turn.expect("each waits for others of its task, and those come to an end");
        }
    });
}
