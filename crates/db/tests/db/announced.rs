//! Migrations that announce themselves: what those notice of them who read meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use paystrata_db::{
    Class, Db, Error, Migration, Migrator, Observer, QuerySeen, Statement, TransactionOptions, Type,
};

use crate::support::{Bed, LIMIT, count, with_database};

/// Long enough for every monitor of a busy machine to hear of it.
const AHEAD: Duration = Duration::from_secs(10);

static COLUMNS: [Migration; 3] = [
    Migration::from_file("0001_b.sql", "ALTER TABLE card ADD COLUMN b int"),
    Migration::from_file("0002_c.sql", "ALTER TABLE card ADD COLUMN c int"),
    Migration::from_file("0003_d.sql", "-- no-transaction\nALTER TABLE card ADD COLUMN d int;"),
];
static SILENT: Migrator = Migrator::new(&COLUMNS);
static ANNOUNCED: Migrator = Migrator::new(&COLUMNS).announced(AHEAD);

static ALL: Statement = Statement::new("SELECT * FROM card", &[]);
static NAMES: Statement =
    Statement::new("SELECT count(*) FROM pg_prepared_statements WHERE statement = $1", &[Type::TEXT]);

/// Counts statements that failed in a transaction because the schema had changed below them.
#[derive(Debug, Default)]
struct Outdated(AtomicUsize);

impl Observer for Outdated {
    fn query(&self, seen: &QuerySeen<'_>) {
        self.0.fetch_add(usize::from(seen.failure == Some(Class::StalePlan)), Ordering::Relaxed);
    }
}

async fn columns(db: &Db) -> usize {
    let options = TransactionOptions { timeout: LIMIT, attempts_max: 100, ..TransactionOptions::default() };
    let read =
        db.transaction(options, |tx| async move { Ok::<_, Error>(tx.query_one(&ALL, &[]).await?.len()) });
    read.await.expect("it runs again where it has to").value
}

/// How many statements were outdated while eight readers read all columns and the table got three more.
async fn outdated_by(bed: &Bed, migrator: &'static Migrator) -> usize {
    let admin = bed.admin().await;
    admin
        .client
        .batch_execute("CREATE TABLE card (a int); INSERT INTO card VALUES (1)")
        .await
        .expect("create");
    let outdated = Arc::new(Outdated::default());
    let observer = Arc::clone(&outdated);
    let db = Db::connect_observed(bed.config(), observer).await.expect("connect");
    let (done, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let readers = (0..8).map(|_| {
        let (db, done, reads) = (db.clone(), Arc::clone(&done), Arc::clone(&reads));
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                columns(&db).await;
                reads.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    until_more(&reads, 200).await;
    let session = db.session("migrate").await.expect("session");
    assert_eq!(migrator.up(&session).await.expect("up").len(), COLUMNS.len());
    until_more(&reads, 200).await;
    done.store(true, Ordering::Relaxed);
    join_all(readers).await.into_iter().for_each(|reader| reader.expect("no reader got an error"));
    assert_eq!(columns(&db).await, 1 + COLUMNS.len());
    until_named(&db, true).await;
    outdated.0.load(Ordering::Relaxed)
}

async fn until_more(reads: &AtomicUsize, more: usize) {
    let before = reads.load(Ordering::Relaxed);
    let read = async {
        while reads.load(Ordering::Relaxed) < before + more {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LIMIT, read).await.expect("they go on");
}

/// Waits until statements that are new to their connection are known there by name, or are not any more.
async fn until_named(db: &Db, wanted: bool) {
    let asked = async {
        for number in 0.. {
            let sql: &'static str = Box::leak(format!("SELECT {number}").into_boxed_str());
            let connection = db.read().await.expect("connection");
            connection.query_one(&Statement::new(sql, &[]), &[]).await.expect("read");
            let names: i64 = connection.query_one(&NAMES, &[&sql]).await.expect("ask").get(0);
            if (names > 0) == wanted {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, asked).await.expect("it is heard of");
}

#[test]
fn what_is_announced_outdates_no_statement_and_what_is_not_does() {
    with_database(|bed| async move {
        assert!(outdated_by(&bed, &SILENT).await > 0, "or nobody read at the right moment");
    });
    with_database(|bed| async move {
        assert_eq!(outdated_by(&bed, &ANNOUNCED).await, 0);
        let announced = "SELECT number FROM schema_announcements WHERE in_force_until IS NULL";
        assert_eq!(count(&bed.admin().await, announced).await, 1);
        // Nothing is pending any more, and nothing is announced.
        let session = bed.primary_only().await.session("migrate").await.expect("session");
        assert!(ANNOUNCED.up(&session).await.expect("up").is_empty());
        assert_eq!(count(&bed.admin().await, announced).await, 1);
    });
}

/// On a replica too.
#[test]
fn an_announcement_whose_process_has_gone_ceases_by_itself() {
    const LEFT: &str = "CREATE TABLE schema_announcements \
        (is_only boolean PRIMARY KEY DEFAULT true, number bigint, in_force_until timestamptz); \
        INSERT INTO schema_announcements (number, in_force_until) VALUES (1, 'infinity')";
    const OVER: &str = "UPDATE schema_announcements SET in_force_until = clock_timestamp()";
    with_database(|bed| async move {
        let admin = bed.admin().await;
        for db in [bed.primary_only().await, bed.replicated().await] {
            until_named(&db, true).await;
            admin.client.batch_execute(LEFT).await.expect("as a process leaves it");
            until_named(&db, false).await;
            admin.client.batch_execute(OVER).await.expect("its time is over");
            until_named(&db, true).await;
            admin.client.batch_execute("DROP TABLE schema_announcements").await.expect("drop");
        }
    });
}
