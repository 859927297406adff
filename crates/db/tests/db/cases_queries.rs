//! Other cases of values that cannot be sent, of work that travels together, of migrations as other editors and tools write them,
//! and of views with odd names. The usual ones are in `loader`, `batcher`, `migrations` and `views`.

use std::error::Error as StdError;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use futures_util::future::join_all;
use paystrata_db::views::{Ended, Refresh, SCHEMA_SQL, View, Views, When};
use paystrata_db::{
    BatchError, Batcher, Class, CoalesceOptions, Db, LoadError, Loader, MigrateError, Migration, Migrator,
    Statement, ToSql, TransactionError, TransactionOptions, Transactional, Type,
};
use postgres_types::{IsNull, to_sql_checked};

use crate::support::{Bed, LIMIT, ONE, Plain, count, with_database};

async fn made(bed: &Bed, make: &str) -> (Db, Plain) {
    let admin = bed.admin().await;
    admin.client.batch_execute(make).await.expect("make the tables");
    (bed.primary_only().await, admin)
}

/// A number that cannot be sent when it is negative.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Natural(i64);

impl ToSql for Natural {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        if self.0 < 0 {
            return Err("a negative number".into());
        }
        out.put_i64(self.0);
        Ok(IsNull::No)
    }

    fn accepts(found: &Type) -> bool {
        *found == Type::INT8
    }

    to_sql_checked!();
}

/// Its own code fails as a broken connection does.
#[derive(Debug)]
struct Cut;

impl ToSql for Cut {
    fn to_sql(&self, _: &Type, _: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        Err(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)))
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[test]
fn what_cannot_be_sent_is_an_error_of_the_statement_though_it_looks_like_one_of_the_connection() {
    static ASK: Statement = Statement::new("SELECT $1::int8", &[Type::INT8]);
    static NO_TEXT: Statement = Statement::new("SELECT 1 -- \0", &[]);
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let connection = db.write().await.expect("acquire");
        // More often than a server may fail before it rests.
        for _ in 0..10 {
            let value = connection.query(&ASK, &[&Cut]).await.expect_err("it cannot be written");
            let text = connection.query(&NO_TEXT, &[]).await.expect_err("a zero byte ends a text");
            assert_eq!((value.class(), text.class()), (Class::Never, Class::Never), "{value:?} {text:?}");
        }
        connection.query_one(&ONE, &[]).await.expect("nothing is wrong with it");
        drop(connection);
        assert!(!db.status().nodes[0].resting, "nor with the server");
        let runs = AtomicU32::new(0);
        let options = TransactionOptions { timeout: LIMIT, ..TransactionOptions::default() };
        let ended = db.transaction(options, |tx| {
            runs.fetch_add(1, Ordering::Relaxed);
            async move { tx.query(&ASK, &[&Cut]).await.map(drop) }
        });
        let error = ended.await.expect_err("it cannot be written");
        assert!(matches!(error, TransactionError::Work(_)), "{error}");
        assert_eq!(runs.into_inner(), 1);
    });
}

#[test]
fn a_key_that_cannot_be_sent_fails_its_own_caller_only() {
    static CITIES: Statement =
        Statement::new("SELECT id, size FROM city WHERE id = ANY($1)", &[Type::INT8_ARRAY]);
    with_database(|bed| async move {
        let make =
            "CREATE TABLE city (id int8 PRIMARY KEY, size int8); INSERT INTO city VALUES (1, 10), (2, 20)";
        let (db, _admin) = made(&bed, make).await;
        let cities: Loader<Natural, i64> = Loader::new(&db, &CITIES, CoalesceOptions::default(), |row| {
            Ok((Natural(row.try_get(0)?), row.try_get(1)?))
        })
        .expect("a loader");
        let answers = join_all([1, -7, 2, 3].map(|id| cities.get(Natural(id)))).await;
        assert!(matches!(answers[0], Ok(Some(10))), "{answers:?}");
        assert!(matches!(answers[1], Err(LoadError::Database(_))), "{answers:?}");
        assert!(matches!(answers[2], Ok(Some(20))), "{answers:?}");
        assert!(matches!(answers[3], Ok(None)), "{answers:?}");
    });
}

#[test]
fn an_item_that_cannot_be_sent_fails_its_own_caller_only() {
    static ADD: Statement =
        Statement::new("INSERT INTO note SELECT unnest($1::int8[]) RETURNING body", &[Type::INT8_ARRAY]);
    with_database(|bed| async move {
        let (db, admin) = made(&bed, "CREATE TABLE note (body int8)").await;
        let options = (CoalesceOptions::default(), TransactionOptions::default());
        let notes: Batcher<Natural, i64> = Batcher::new(&db, options.0, options.1, |tx, bodies| async move {
            let rows = tx.query(&ADD, &[&&*bodies]).await?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        })
        .expect("a batcher");
        let answers = join_all([1, 2, -7, 3].map(|body| notes.submit(Natural(body)))).await;
        for (answer, body) in answers.iter().zip([1, 2, -7, 3]) {
            let is_right = match answer {
                Ok(committed) => committed.value == body,
                Err(error) => body < 0 && matches!(error, BatchError::RolledBack(_)),
            };
            assert!(is_right, "{body}: {answer:?}");
        }
        assert_eq!(count(&admin, "SELECT count(*) FROM note WHERE body IN (1, 2, 3)").await, 3);
        assert_eq!(count(&admin, "SELECT count(*) FROM note").await, 3);
    });
}

/// The database calls two spellings equal that the program does not: a row comes for a key that nobody has spelt so.
#[test]
fn a_key_that_comes_back_otherwise_fails_its_own_caller_only() {
    static PEOPLE: Statement =
        Statement::new("SELECT name, size FROM person WHERE name = ANY($1)", &[Type::TEXT_ARRAY]);
    with_database(|bed| async move {
        let make = "CREATE COLLATION any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
            CREATE TABLE person (name text COLLATE any_case PRIMARY KEY, size int8); \
            INSERT INTO person VALUES ('ann', 1), ('bob', 2)";
        let (db, _admin) = made(&bed, make).await;
        let people: Loader<String, i64> = Loader::new(&db, &PEOPLE, CoalesceOptions::default(), |row| {
            Ok((row.try_get(0)?, row.try_get(1)?))
        })
        .expect("a loader");
        let answers = join_all(["Ann", "bob", "eve"].map(|name| people.get(name.to_owned()))).await;
        assert!(!matches!(answers[0], Ok(None)), "there is one: {answers:?}");
        assert!(matches!(answers[1], Ok(Some(2))), "{answers:?}");
        assert!(matches!(answers[2], Ok(None)), "{answers:?}");
    });
}

async fn up(db: &Db, migrator: &Migrator) -> Result<Vec<u32>, MigrateError> {
    let session = db.session("migrate").await.expect("session");
    let applied = tokio::time::timeout(LIMIT, migrator.up(&session)).await.expect("an end");
    Ok(applied?.iter().map(|applied| applied.version).collect())
}

/// As editors of one system save them.
#[test]
fn a_mark_of_the_byte_order_at_the_beginning_of_a_migration_is_no_part_of_it() {
    static MARKED: Migrator = Migrator::new(&[
        Migration::from_file("0001_note.sql", "\u{feff}CREATE TABLE note (body int);\r\n"),
        Migration::from_file(
            "0002_index.sql",
            "\u{feff}-- no-transaction\r\nCREATE INDEX CONCURRENTLY note_a ON note (body);\r\n",
        ),
    ]);
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        assert_eq!(up(&db, &MARKED).await.expect("both"), [1, 2]);
        assert_eq!(up(&db, &MARKED).await.expect("none is left"), [0; 0]);
        let indexes = "SELECT count(*) FROM pg_indexes WHERE indexname = 'note_a'";
        assert_eq!(count(&bed.admin().await, indexes).await, 1);
    });
}

#[test]
fn the_first_line_that_takes_a_migration_out_of_its_transaction_is_a_whole_line() {
    for (sql, is_inside) in [
        ("-- no-transaction\nSELECT 1", false),
        ("-- no-transaction\r\nSELECT 1", false),
        ("-- no-transaction", false),
        ("-- no-transactions are to be seen from here\nSELECT 1", true),
        ("-- no-transaction-id wraps around here\nSELECT 1", true),
        ("SELECT 1; -- no-transaction", true),
    ] {
        let transactional = Migration::from_file("0001_a.sql", sql).transactional;
        assert_eq!(transactional == Transactional::Yes, is_inside, "{sql:?}");
    }
}

#[test]
fn migrations_of_nothing_and_with_the_line_ends_of_another_system_are_applied() {
    static EMPTY: Migrator = Migrator::new(&[
        Migration::from_file("0001_empty.sql", ""),
        Migration::from_file("0002_comment.sql", "-- only a comment\r\n"),
        Migration::from_file("0003_outside.sql", "-- no-transaction\r\n\r\n"),
        Migration::from_file(
            "0010_note.sql",
            "-- no-transaction\r\nCREATE TABLE note (body int); -- one; two\r\nCREATE INDEX CONCURRENTLY note_a ON note (body);\r\n",
        ),
    ]);
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        assert_eq!(up(&db, &EMPTY).await.expect("all"), [1, 2, 3, 10]);
        assert_eq!(up(&db, &EMPTY).await.expect("none is left"), [0; 0]);
        let valid = "SELECT count(*) FROM pg_index WHERE indexrelid = 'note_a'::regclass AND indisvalid";
        assert_eq!(count(&bed.admin().await, valid).await, 1);
    });
}

/// What is made for another tool than a server: rows behind a COPY, and commands with a backslash.
#[test]
fn a_migration_that_waits_for_rows_or_for_another_tool_is_named_and_leaves_nothing() {
    static WAITS: Migrator =
        Migrator::new(&[Migration::from_file("0001_rows.sql", "CREATE TABLE a (x int); COPY a FROM STDIN")]);
    static DUMPED: Migrator = Migrator::new(&[Migration::from_file(
        "0001_dump.sql",
        "CREATE TABLE a (x int); COPY a FROM STDIN;\n1\n2\n\\.\n",
    )]);
    static COMMANDED: Migrator =
        Migrator::new(&[Migration::from_file("0001_tool.sql", "CREATE TABLE a (x int);\n\\i other.sql\n")]);
    static FIRST: Migrator =
        Migrator::new(&[Migration::from_file("0001_note.sql", "CREATE TABLE note (body int)")]);
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        for migrator in [&WAITS, &DUMPED, &COMMANDED] {
            let told = up(&db, migrator).await;
            assert!(matches!(told, Err(MigrateError::ForPsql { version: 1, .. })), "{told:?}");
        }
        assert_eq!(up(&db, &FIRST).await.expect("the lock is free"), [1]);
        let left = "SELECT count(*) FROM pg_tables WHERE tablename = 'a'";
        assert_eq!(count(&bed.admin().await, left).await, 0);
    });
}

#[test]
fn a_view_may_be_named_like_a_word_of_the_language() {
    with_database(|bed| async move {
        let make = "CREATE MATERIALIZED VIEW \"order\" AS SELECT 1 AS one WITH NO DATA; \
            CREATE UNIQUE INDEX ON \"order\" (one)";
        let (db, admin) = made(&bed, make).await;
        admin.client.batch_execute(SCHEMA_SQL).await.expect("make the table of refreshes");
        let mut view = View::new("order", Refresh::Concurrent, When::OnDemand);
        view.timeout = LIMIT;
        view.lock_timeout = Duration::from_secs(10);
        let views = Views::new(&db, vec![view]).expect("a registry");
        for _ in 0..2 {
            let ended = views.refresh("order").await;
            assert!(matches!(ended, Ok(Ended::Refreshed { .. })), "{ended:?}");
        }
        assert_eq!(count(&admin, "SELECT count(*) FROM \"order\"").await, 1);
    });
}
