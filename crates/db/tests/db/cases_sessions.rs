//! Other cases of what is left on a connection, and of how a transaction ends: at the commit, by somebody else's hand, or by an
//! error that only follows from another. The usual ones are in `hygiene`, `transactions` and `holders`.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;

use paystrata_db::{
    Connection, Db, Error, Isolation, Statement, ToSql, TransactionError, TransactionOptions, Type,
};
use tokio::sync::Barrier;

use crate::support::{Bed, LIMIT, ONE, Plain, count, until, until_count, with_database};

static ADD: Statement = Statement::new("INSERT INTO note VALUES ($1)", &[Type::INT8]);
static BACKEND: Statement = Statement::new("SELECT pg_backend_pid()::int8", &[]);
const NOTES: &str = "SELECT count(*) FROM note";

async fn made(bed: &Bed, make: &str) -> Plain {
    let admin = bed.admin().await;
    admin.client.batch_execute(make).await.expect("make the tables");
    admin
}

/// A pool of one.
async fn single(bed: &Bed) -> Db {
    let mut config = bed.config();
    config.pool_size_max = 1;
    Db::connect(config).await.expect("connect")
}

fn patient() -> TransactionOptions {
    TransactionOptions { timeout: 2 * LIMIT, ..TransactionOptions::default() }
}

async fn backend(connection: &Connection) -> i64 {
    connection.query_one(&BACKEND, &[]).await.expect("ask").get(0)
}

/// Has one borrower run `told`, and gives the connection to the next when it was cleaned: the same one. A machine that stands still
/// for a moment costs the connection instead: then once more.
async fn after(db: &Db, told: &Statement) -> Connection {
    for _ in 0..10 {
        let cleaned = db.status().cleaned;
        let connection = db.write().await.expect("acquire");
        let before = backend(&connection).await;
        connection.execute(told, &[]).await.expect("tell");
        drop(connection);
        if db.status_when(LIMIT / 10, |status| status.cleaned > cleaned).await.is_ok() {
            let connection = db.write().await.expect("acquire");
            assert_eq!(backend(&connection).await, before, "the same server process");
            return connection;
        }
    }
    panic!("it was never cleaned");
}

#[test]
fn a_setting_that_is_changed_through_the_table_of_settings_is_gone_for_the_next() {
    static SET: Statement =
        Statement::new("UPDATE pg_settings SET setting = '77000' WHERE name = 'statement_timeout'", &[]);
    static SHOWN: Statement = Statement::new("SELECT current_setting('statement_timeout')", &[]);
    async fn shown(connection: &Connection) -> String {
        connection.query_one(&SHOWN, &[]).await.expect("ask").get(0)
    }
    with_database(|bed| async move {
        let db = single(&bed).await;
        let connection = db.write().await.expect("acquire");
        let fresh = shown(&connection).await;
        connection.execute(&SET, &[]).await.expect("set");
        assert_ne!(shown(&connection).await, fresh, "it does change the session");
        drop(connection);
        assert_eq!(shown(&db.write().await.expect("acquire")).await, fresh);
    });
}

#[test]
fn what_a_block_listens_to_and_keeps_open_is_gone_for_the_next() {
    static BLOCK: Statement = Statement::new(
        "DO $$ BEGIN LISTEN news; EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT 1'; \
         PERFORM pg_advisory_lock(11); SET ROLE pg_monitor; END $$",
        &[],
    );
    static LEFT: Statement = Statement::new(
        "SELECT (SELECT count(*) FROM pg_listening_channels()) + (SELECT count(*) FROM pg_cursors WHERE name = 'held') \
         + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) \
         + (current_user = 'pg_monitor')::int",
        &[],
    );
    with_database(|bed| async move {
        let db = single(&bed).await;
        let connection = after(&db, &BLOCK).await;
        assert_eq!(connection.query_one(&LEFT, &[]).await.expect("ask").get::<_, i64>(0), 0);
    });
}

#[test]
fn a_statement_that_a_block_has_named_is_gone_for_the_next() {
    static BLOCK: Statement = Statement::new("DO $$ BEGIN EXECUTE 'PREPARE mine AS SELECT 1'; END $$", &[]);
    static LEFT: Statement =
        Statement::new("SELECT count(*) FROM pg_prepared_statements WHERE from_sql", &[]);
    with_database(|bed| async move {
        let db = single(&bed).await;
        let connection = after(&db, &BLOCK).await;
        assert_eq!(connection.query_one(&LEFT, &[]).await.expect("ask").get::<_, i64>(0), 0);
        // Nor is it in the way of another of that name.
        connection.execute(&BLOCK, &[]).await.expect("the name is free");
    });
}

#[test]
fn the_last_value_that_a_block_has_drawn_is_nothing_to_the_next() {
    static BLOCK: Statement = Statement::new("DO $$ BEGIN PERFORM nextval('drawn'); END $$", &[]);
    static LAST: Statement = Statement::new("SELECT lastval()", &[]);
    with_database(|bed| async move {
        made(&bed, "CREATE SEQUENCE drawn").await;
        let db = single(&bed).await;
        let told = after(&db, &BLOCK).await.query_one(&LAST, &[]).await;
        let code = told.as_ref().err().and_then(Error::sqlstate).map(|code| code.code());
        assert_eq!(code, Some("55000"), "{told:?}");
    });
}

#[test]
fn names_that_a_block_has_taken_away_are_given_anew_also_inside_of_a_transaction() {
    static BLOCK: Statement = Statement::new("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$", &[]);
    with_database(|bed| async move {
        let db = single(&bed).await;
        let connection = db.write().await.expect("acquire");
        connection.query_one(&ONE, &[]).await.expect("named");
        connection.execute(&BLOCK, &[]).await.expect("unnamed");
        connection.query_one(&ONE, &[]).await.expect("named again");
        connection.execute(&BLOCK, &[]).await.expect("unnamed again");
        drop(connection);
        until(&db, |status| status.cleaned == 1).await;
        let asked = db.transaction(patient(), |tx| async move { tx.query_one(&ONE, &[]).await });
        assert_eq!(asked.await.expect("it runs again").value.get::<_, i32>(0), 1);
    });
}

#[test]
fn two_statements_in_one_text_are_refused_and_neither_runs() {
    static TWO: Statement = Statement::new("INSERT INTO note VALUES (1); INSERT INTO note VALUES (2)", &[]);
    with_database(|bed| async move {
        let admin = made(&bed, "CREATE TABLE note (body int8)").await;
        let db = single(&bed).await;
        let error = db.write().await.expect("acquire").execute(&TWO, &[]).await.expect_err("two");
        assert_eq!(error.sqlstate().map(|code| code.code()), Some("42601"), "{error}");
        assert_eq!(count(&admin, NOTES).await, 0);
    });
}

/// Each reads what the other writes, so that the server notices only when both have.
#[test]
fn a_conflict_that_shows_at_the_commit_alone_runs_the_closure_again() {
    static SUM: Statement = Statement::new("SELECT sum(value) FROM counter", &[]);
    static GROW: Statement = Statement::new("UPDATE counter SET value = value + 1 WHERE id = 1", &[]);
    const OTHER: &str = "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(value) FROM counter; \
        UPDATE counter SET value = value + 1 WHERE id = 2; COMMIT";
    with_database(|bed| async move {
        let make = "CREATE TABLE counter (id int8 PRIMARY KEY, value int8); INSERT INTO counter VALUES (1, 0), (2, 0)";
        let admin = made(&bed, make).await;
        let db = bed.primary_only().await;
        let runs = AtomicU32::new(0);
        let options = TransactionOptions { isolation: Isolation::Serializable, ..patient() };
        let ended = db.transaction(options, |tx| {
            let is_first = runs.fetch_add(1, Ordering::Relaxed) == 0;
            let admin = &admin;
            async move {
                tx.query_one(&SUM, &[]).await?;
                tx.execute(&GROW, &[]).await?;
                if is_first {
                    admin.client.batch_execute(OTHER).await.expect("the other commits first");
                }
                Ok::<_, Error>(())
            }
        });
        ended.await.expect("the second run commits");
        assert_eq!(runs.into_inner(), 2);
        assert_eq!(count(&admin, "SELECT count(*) FROM counter WHERE value = 1").await, 2);
    });
}

/// The first commit of a note takes an hour.
const SLOW_COMMIT: &str = "CREATE TABLE note (body int8 PRIMARY KEY); CREATE SEQUENCE turns; \
    CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        IF nextval('turns') = 1 THEN PERFORM pg_sleep(3600); END IF; RETURN NULL; END $$; \
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED \
        FOR EACH ROW EXECUTE FUNCTION late()";

/// What has become of a transaction.
struct Struck {
    ended: Result<(), TransactionError<Error>>,
    runs: u32,
    noted: i64,
}

/// A transaction whose first commit is struck by `end`, a function of the server.
async fn struck_at_its_commit(bed: &Bed, end: &str) -> Struck {
    let admin = made(bed, SLOW_COMMIT).await;
    let mut config = bed.config();
    config.statement_timeout = 2 * LIMIT;
    let db = Db::connect(config).await.expect("connect");
    let runs = AtomicU32::new(0);
    let transaction = db.transaction(patient(), |tx| {
        runs.fetch_add(1, Ordering::Relaxed);
        async move { tx.execute(&ADD, &[&1_i64]).await.map(drop) }
    });
    let strike = format!(
        "SELECT count({end}(pid)) FROM pg_stat_activity \
         WHERE datname = current_database() AND query = 'COMMIT' AND wait_event = 'PgSleep'"
    );
    let (ended, ()) = tokio::join!(transaction, until_count(&admin, &strike, 1));
    let noted = count(&admin, NOTES).await;
    Struck { ended: ended.map(drop), runs: runs.into_inner(), noted }
}

#[test]
fn a_commit_whose_server_process_is_ended_is_found_to_be_rolled_back_and_runs_again() {
    with_database(|bed| async move {
        let Struck { ended, runs, noted } = struck_at_its_commit(&bed, "pg_terminate_backend").await;
        ended.expect("the second run commits");
        assert_eq!((runs, noted), (2, 1));
    });
}

#[test]
fn a_commit_that_is_cancelled_is_told_and_leaves_nothing() {
    with_database(|bed| async move {
        let Struck { ended, runs, noted } = struck_at_its_commit(&bed, "pg_cancel_backend").await;
        let error = ended.expect_err("somebody wanted it to end");
        let TransactionError::Database(error) = error else { panic!("{error}") };
        assert_eq!(error.sqlstate().map(|code| code.code()), Some("57014"));
        assert_eq!((runs, noted), (1, 0));
    });
}

/// Over a server that ends whoever rests in a transaction.
async fn impatient(bed: &Bed) -> Db {
    let mut config = bed.config();
    let patience = ("idle_in_transaction_session_timeout".to_owned(), "500ms".to_owned());
    config.server_settings = vec![patience];
    Db::connect(config).await.expect("connect")
}

#[test]
fn a_session_that_the_server_ends_while_the_closure_rests_costs_another_run() {
    with_database(|bed| async move {
        let admin = made(&bed, "CREATE TABLE note (body int8)").await;
        let db = impatient(&bed).await;
        let runs = AtomicU32::new(0);
        let options = TransactionOptions { attempts_max: 20, ..patient() };
        let ended = db.transaction(options, |tx| {
            let is_first = runs.fetch_add(1, Ordering::Relaxed) == 0;
            let admin = &admin;
            async move {
                let pid: i64 = tx.query_one(&BACKEND, &[]).await?.get(0);
                tx.execute(&ADD, &[&1_i64]).await?;
                if is_first {
                    let alive = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
                    until_count(admin, &alive, 0).await;
                }
                Ok::<_, Error>(())
            }
        });
        ended.await.expect("a later run commits");
        assert!(runs.into_inner() >= 2);
        assert_eq!(count(&admin, NOTES).await, 1);
    });
}

#[test]
fn a_closure_that_rests_for_too_long_each_time_is_told_by_the_code_of_the_server() {
    with_database(|bed| async move {
        let admin = made(&bed, "CREATE TABLE note (body int8)").await;
        let db = impatient(&bed).await;
        // It has another statement to run, or only the commit is left.
        for is_done in [false, true] {
            let options = TransactionOptions { attempts_max: 2, ..patient() };
            let ended = db.transaction(options, |tx| {
                let admin = &admin;
                async move {
                    let pid: i64 = tx.query_one(&BACKEND, &[]).await?.get(0);
                    let alive = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
                    until_count(admin, &alive, 0).await;
                    if is_done { Ok(()) } else { tx.execute(&ADD, &[&1_i64]).await.map(drop) }
                }
            });
            let error = ended.await.expect_err("the server ends it each time");
            assert!(error.is_retryable(), "{error}");
            let TransactionError::Contended { cause, .. } = error else { panic!("{error}") };
            assert_eq!(cause, "25P03", "is done: {is_done}");
        }
        assert_eq!(count(&admin, NOTES).await, 0);
    });
}

/// The answers to statements that run side by side may be read in any order.
#[test]
fn a_conflict_is_seen_behind_the_failure_that_only_follows_from_it() {
    static CONFLICT_IF: Statement = Statement::new("SELECT conflict_if($1)", &[Type::BOOL]);
    with_database(|bed| async move {
        let make = "CREATE FUNCTION conflict_if(yes bool) RETURNS int8 LANGUAGE plpgsql AS $$ BEGIN \
                IF yes THEN RAISE serialization_failure; END IF; RETURN 1; END $$";
        let _admin = made(&bed, make).await;
        let db = bed.primary_only().await;
        let runs = AtomicU32::new(0);
        let ended = db.transaction(patient(), |tx| {
            let is_first = runs.fetch_add(1, Ordering::Relaxed) == 0;
            async move {
                // From here on each is sent when it is polled first.
                tx.query_one(&CONFLICT_IF, &[&false]).await?;
                if !is_first {
                    return Ok(());
                }
                let yes = true;
                let values: [&(dyn ToSql + Sync); 1] = [&yes];
                let mut conflict = pin!(tx.query_one(&CONFLICT_IF, &values));
                let is_sent = poll_fn(|context| Poll::Ready(conflict.as_mut().poll(context).is_pending()));
                assert!(is_sent.await, "its answer has not come yet");
                let follows = tx.query_one(&ONE, &[]).await.expect_err("the transaction has failed");
                assert_eq!(follows.sqlstate().map(|code| code.code()), Some("25P02"), "{follows}");
                conflict.await.map(drop)
            }
        });
        ended.await.expect("the second run commits");
        assert_eq!(runs.into_inner(), 2);
    });
}

/// The server has answered: there is no doubt about what became of the statement, and nothing is wrong with the server.
#[test]
fn a_file_that_is_not_there_is_an_error_of_the_statement() {
    static READ: Statement = Statement::new("SELECT pg_read_file('there/is/no/such/file')", &[]);
    with_database(|bed| async move {
        let db = bed.primary_only().await;
        let runs = AtomicU32::new(0);
        let ended = db.transaction(patient(), |tx| {
            runs.fetch_add(1, Ordering::Relaxed);
            async move { tx.query_one(&READ, &[]).await.map(drop) }
        });
        let error = ended.await.expect_err("there is none");
        let TransactionError::Work(error) = error else { panic!("{error}") };
        assert_eq!(error.sqlstate().map(|code| code.code()), Some("58P01"));
        assert_eq!(runs.into_inner(), 1);
    });
}

#[test]
fn neighbours_in_one_task_that_each_keep_one_and_want_another_are_told() {
    with_database(|bed| async move {
        let mut config = bed.config();
        config.pool_size_max = 2;
        config.acquire_timeout = 20 * LIMIT;
        let db = Db::connect(config).await.expect("connect");
        let both_keep_one = Barrier::new(2);
        let twice = || async {
            let _first = db.write().await?;
            both_keep_one.wait().await;
            db.write().await.map(drop)
        };
        let both = async { tokio::join!(twice(), twice()) };
        let (one, other) = tokio::time::timeout(LIMIT, both).await.expect("told before the wait is over");
        let is_told = |told: &Result<(), Error>| matches!(told, Err(Error::NestedAcquire { .. }));
        assert!(is_told(&one) || is_told(&other), "{one:?} {other:?}");
        db.write().await.expect("all are free again").query_one(&ONE, &[]).await.expect("and work");
    });
}
