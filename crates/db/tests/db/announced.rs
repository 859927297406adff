//! Migrations that announce themselves: what those notice of them who read meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use futures_util::future::join_all;
use paystrata_db::{
    Class, Db, Error, MigrateError, Migration, Migrator, Observer, QuerySeen, Role, Statement, ToSql,
    TransactionOptions, Type,
};
use postgres_types::{IsNull, to_sql_checked};

use crate::support::{Bed, LIMIT, ONE, connected, count, with_database};

/// Long enough for every monitor of a busy machine to hear of it.
const AHEAD: Duration = Duration::from_secs(10);

static COLUMNS: [Migration; 3] = [
    Migration::from_file("0001_b.sql", "ALTER TABLE card ADD COLUMN b int"),
    Migration::from_file("0002_c.sql", "ALTER TABLE card ADD COLUMN c int"),
    Migration::from_file("0003_d.sql", "-- no-transaction\nALTER TABLE card ADD COLUMN d int;"),
];
static SILENT: Migrator = Migrator::new(&COLUMNS);
static ANNOUNCED: Migrator = Migrator::new(&COLUMNS).announced(AHEAD);

/// Leaves its session in a transaction that has failed, with a role that may write nothing, where no table is found.
static FAILS: [Migration; 1] = [Migration::from_file(
    "0001_fails.sql",
    "-- no-transaction\nSELECT set_config('search_path', '', false);\nSET ROLE pg_monitor;\nBEGIN;\nSELECT 1 / 0;",
)];
static FAILING: Migrator = Migrator::new(&FAILS).announced(Duration::ZERO);

/// The first one lasts for so long that its announcement lapses, and each of the others keeps what it finds of one.
static LAPSING: [Migration; 3] = [
    Migration::from_file(
        "0001_long.sql",
        "CREATE TABLE found AS SELECT * FROM schema_announcements; \
         UPDATE schema_announcements SET in_force_until = clock_timestamp()",
    ),
    Migration::from_file("0002_second.sql", "INSERT INTO found SELECT * FROM schema_announcements"),
    Migration::from_file("0003_third.sql", "INSERT INTO found SELECT * FROM schema_announcements"),
];
static RENEWING: Migrator = Migrator::new(&LAPSING).announced(Duration::ZERO);

/// Whoever binds its value changes the table first, so often.
const OVERTAKING: &str = "CREATE TABLE card (a int); INSERT INTO card VALUES (1); CREATE SEQUENCE changes; \
    CREATE FUNCTION changes_card(int8) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN \
        IF nextval('changes') <= $1 THEN ALTER TABLE card ADD COLUMN b int; END IF; RETURN true; END $$; \
    CREATE DOMAIN overtaking AS int8 CHECK (changes_card(VALUE))";
static OVERTAKEN: Statement = Statement::new("SELECT * FROM card WHERE $1::overtaking > 0", &[Type::UNKNOWN]);

static ALL: Statement = Statement::new("SELECT * FROM card", &[]);
static MOODS: Statement = Statement::new("SELECT mood, filler FROM moods", &[]);
/// How often the plan with that text that was used most was used.
static USES: Statement = Statement::new(
    "SELECT coalesce(max(generic_plans + custom_plans), 0) FROM pg_prepared_statements WHERE statement = $1",
    &[Type::TEXT],
);
/// No text is new to its connection twice.
static NEXT: AtomicUsize = AtomicUsize::new(0);

const LEFT: &str = "CREATE TABLE schema_announcements \
    (is_only boolean PRIMARY KEY DEFAULT true, number bigint, in_force_until timestamptz); \
    INSERT INTO schema_announcements (number, in_force_until) VALUES (1, 'infinity')";
const ENDED: &str = "SELECT count(*) FROM schema_announcements WHERE in_force_until IS NULL";

/// Counts statements that failed in a transaction because the schema had changed below them.
#[derive(Debug, Default)]
struct Outdated(AtomicUsize);

impl Observer for Outdated {
    fn query(&self, seen: &QuerySeen<'_>) {
        self.0.fetch_add(usize::from(seen.failure == Some(Class::StalePlan)), Ordering::Relaxed);
    }
}

/// A value of a domain over `int8`, of which the driver knows nothing.
#[derive(Debug)]
struct Overtaking(i64);

impl ToSql for Overtaking {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.put_i64(self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
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
    until_named(&db, Role::Primary, true).await;
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

/// Waits until a server of that role is asked by name what it is asked a second time, or is not any more.
async fn until_named(db: &Db, role: Role, wanted: bool) {
    let wanted = if wanted { 2 } else { 1 };
    let asked = async {
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let sql: &'static str = Box::leak(format!("SELECT {number}").into_boxed_str());
            let connection = db.read().await.expect("connection");
            for _ in 0..2 {
                connection.query_one(&Statement::new(sql, &[]), &[]).await.expect("read");
            }
            let uses: i64 = connection.query_one(&USES, &[&sql]).await.expect("ask").get(0);
            if connection.role() == role && uses == wanted {
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
        let admin = bed.admin().await;
        let number = "SELECT number FROM schema_announcements WHERE in_force_until IS NULL";
        let ended = count(&admin, number).await;
        // Nothing is pending any more, and nothing is announced.
        let session = bed.primary_only().await.session("migrate").await.expect("session");
        assert!(ANNOUNCED.up(&session).await.expect("up").is_empty());
        assert_eq!(count(&admin, number).await, ended);
        let left = "UPDATE schema_announcements SET number = number + 1, in_force_until = 'infinity'";
        admin.client.batch_execute(left).await.expect("as a process leaves it that dies after its last file");
        assert!(ANNOUNCED.up(&session).await.expect("up").is_empty());
        assert!(count(&admin, number).await > ended);
    });
}

#[test]
fn an_announcement_ends_however_its_migration_has_failed() {
    with_database(|bed| async move {
        let session = bed.primary_only().await.session("migrate").await.expect("session");
        let failed = FAILING.up(&session).await.expect_err("it divides by zero");
        assert!(matches!(failed, MigrateError::Failed { version: 1, .. }), "{failed:?}");
        assert_eq!(count(&bed.admin().await, ENDED).await, 1);
    });
}

#[test]
fn rows_of_a_type_that_is_new_to_the_connection_are_read_while_a_change_is_announced() {
    const MADE: &str = "CREATE TYPE mood AS ENUM ('calm'); CREATE TABLE moods AS \
        SELECT 'calm'::mood AS mood, repeat('x', 1000) AS filler FROM generate_series(1, 2000)";
    with_database(|bed| async move {
        let admin = bed.admin().await;
        admin.client.batch_execute(MADE).await.expect("create");
        admin.client.batch_execute(LEFT).await.expect("announce");
        let db = bed.primary_only().await;
        until_named(&db, Role::Primary, false).await;
        let connection = db.read().await.expect("connection");
        assert_eq!(connection.query(&MOODS, &[]).await.expect("read").len(), 2000);
    });
}

#[test]
fn a_server_serves_while_its_announcements_are_locked() {
    with_database(|bed| async move {
        let admin = bed.admin().await;
        admin.client.batch_execute(LEFT).await.expect("announce");
        let lock = "BEGIN; LOCK TABLE schema_announcements IN ACCESS EXCLUSIVE MODE";
        admin.client.batch_execute(lock).await.expect("lock");
        // A link's first probe is not over before what was announced is heard of, or cannot be.
        let mut config = bed.config();
        config.server_settings = vec![("lock_timeout".to_owned(), "60s".to_owned())];
        let db = connected(config).await;
        let connection = db.read().await.expect("connection");
        connection.query_one(&ONE, &[]).await.expect("read");
        assert_eq!(count(&admin, "SELECT number FROM schema_announcements").await, 1, "it holds the lock");
    });
}

/// Each change comes between the statement's two round trips, and is taken back with what it has overtaken.
#[test]
fn a_statement_is_overtaken_by_three_announced_changes_before_it_fails() {
    with_database(|bed| async move {
        let admin = bed.admin().await;
        admin.client.batch_execute(OVERTAKING).await.expect("create");
        admin.client.batch_execute(LEFT).await.expect("announce");
        let db = bed.primary_only().await;
        until_named(&db, Role::Primary, false).await;
        for (changes, is_answered) in [(3, true), (4, false)] {
            admin.client.batch_execute("ALTER SEQUENCE changes RESTART").await.expect("begin anew");
            let told =
                db.write().await.expect("connection").query_one(&OVERTAKEN, &[&Overtaking(changes)]).await;
            match told {
                Ok(row) => assert_eq!((row.len(), is_answered), (1, true)),
                Err(error) => {
                    assert_eq!((error.class(), is_answered), (Class::StalePlan, false), "{error:?}");
                }
            }
            assert_eq!(count(&admin, "SELECT last_value FROM changes").await, 4);
        }
    });
}

#[test]
fn what_has_lapsed_is_announced_again_before_the_next_file() {
    with_database(|bed| async move {
        let session = bed.primary_only().await.session("migrate").await.expect("session");
        assert_eq!(RENEWING.up(&session).await.expect("up").len(), LAPSING.len());
        let admin = bed.admin().await;
        // The first file is of the first announcement; the others share the second one.
        let found = "SELECT count(*) FROM found WHERE in_force_until > clock_timestamp() AND number = ";
        assert_eq!(
            (count(&admin, &format!("{found}1")).await, count(&admin, &format!("{found}2")).await),
            (1, 2)
        );
        assert_eq!(count(&admin, ENDED).await, 1);
        assert_eq!(count(&admin, "SELECT number FROM schema_announcements").await, 3);
    });
}

/// On a replica too.
#[test]
fn an_announcement_whose_process_has_gone_ceases_by_itself() {
    const OVER: &str = "UPDATE schema_announcements SET in_force_until = clock_timestamp()";
    with_database(|bed| async move {
        let admin = bed.admin().await;
        let dbs = [(bed.primary_only().await, Role::Primary), (bed.replicated().await, Role::Replica)];
        for (db, role) in dbs {
            until_named(&db, role, true).await;
            admin.client.batch_execute(LEFT).await.expect("as a process leaves it");
            until_named(&db, role, false).await;
            admin.client.batch_execute(OVER).await.expect("its time is over");
            until_named(&db, role, true).await;
            admin.client.batch_execute("DROP TABLE schema_announcements").await.expect("drop");
        }
    });
}
