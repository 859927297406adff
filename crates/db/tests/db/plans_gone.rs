//! Prepared statements that the server no longer takes, or has too many of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use paystrata_db::{Db, Error, Statement, TransactionOptions};

use crate::support::{LIMIT, with_database};

/// As many as a connection keeps.
const KEPT_MAX: i64 = 256;

static ALL: Statement = Statement::new("SELECT * FROM card", &[]);
static KEPT: Statement = Statement::new("SELECT count(*) FROM pg_prepared_statements", &[]);

/// One read of all columns, each time by another way.
async fn columns(db: &Db, number: usize) -> Result<usize, Error> {
    Ok(match number % 4 {
        0 => db.query_one(None, &ALL, &[]).await?.len(),
        1 => db.read().await?.query_one(&ALL, &[]).await?.len(),
        2 => db.write().await?.query_one(&ALL, &[]).await?.len(),
        _ => {
            let options =
                TransactionOptions { timeout: LIMIT, attempts_max: 100, ..TransactionOptions::default() };
            let read =
                db.transaction(
                    options,
                    |tx| async move { Ok::<_, Error>(tx.query_one(&ALL, &[]).await?.len()) },
                );
            read.await.unwrap_or_else(|error| panic!("in a transaction: {error}")).value
        }
    })
}

#[test]
fn fifty_readers_of_all_columns_notice_no_new_column() {
    with_database(|bed| async move {
        let admin = bed.admin().await;
        let make = "CREATE TABLE card (a int); INSERT INTO card VALUES (1)";
        admin.client.batch_execute(make).await.expect("create");
        let db = bed.primary_only().await;
        let (done, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let reader = |_| {
            let (db, done, reads) = (db.clone(), Arc::clone(&done), Arc::clone(&reads));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let number = reads.fetch_add(1, Ordering::Relaxed);
                    columns(&db, number).await.unwrap_or_else(|error| panic!("read {number}: {error}"));
                }
            })
        };
        let readers = join_all((0..50).map(reader));
        let alter = async {
            for number in 0..20 {
                let before = reads.load(Ordering::Relaxed);
                let add = format!("ALTER TABLE card ADD COLUMN c{number} int");
                admin.client.batch_execute(&add).await.expect("alter");
                while reads.load(Ordering::Relaxed) < before + 200 && !done.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            done.store(true, Ordering::Relaxed);
        };
        let both = Box::pin(async { tokio::join!(readers, alter).0 });
        let ended = tokio::time::timeout(2 * LIMIT, both).await.expect("it ends");
        ended.into_iter().for_each(|reader| reader.expect("no reader got an error"));
        for number in 0..4 {
            assert_eq!(columns(&db, number).await.expect("read"), 21);
        }
    });
}

#[test]
fn ten_thousand_statements_leave_no_more_on_a_connection_than_it_keeps() {
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let connection = db.write().await.expect("acquire");
        for number in 0..10_000 {
            let sql: &'static str = Box::leak(format!("SELECT {number}").into_boxed_str());
            let statement = Statement::new(sql, &[]);
            let row = connection.query_one(&statement, &[]).await.expect("query");
            assert_eq!(row.get::<_, i32>(0), number);
        }
        let kept: i64 = connection.query_one(&KEPT, &[]).await.expect("count").get(0);
        assert!(kept <= KEPT_MAX + 1, "{kept}");
    });
}
