//! Which server answers, before, during and after faults.

use std::sync::Arc;
use std::time::Duration;

use paystrata_db::{
    CoalesceOptions, Connection, Db, Error, Loader, NoPrimary, NodeState, Role, Statement, Status, ToSql,
    Token, TransactionOptions, Type,
};
use tokio::sync::Notify;

use crate::proxy::{Mode, Proxy};
use crate::support::{Bed, LIMIT, ONE, config, connected, until, url, with_database};

static ADD: Statement = Statement::new("INSERT INTO note (body) VALUES ($1)", &[Type::INT8]);
static FORGET: Statement = Statement::new("DELETE FROM note WHERE body = 1", &[]);
static NEWEST: Statement = Statement::new("SELECT max(body) FROM note", &[]);
static SLEEP: Statement = Statement::new("SELECT pg_sleep(3600)", &[]);

async fn note_table(bed: &Bed) {
    bed.admin()
        .await
        .client
        .batch_execute("CREATE TABLE note (body bigint)")
        .await
        .expect("create the table");
}

async fn add(db: &Db, body: i64) -> Token {
    let added =
        db.transaction(TransactionOptions::default(), |tx| async move { tx.execute(&ADD, &[&body]).await });
    added.await.expect("add a note").token
}

async fn newest(connection: &Connection) -> i64 {
    connection.query_one(&NEWEST, &[]).await.expect("read the newest").get(0)
}

fn replica_state(state: NodeState) -> impl Fn(&Status) -> bool {
    move |status| status.nodes[1].state == state
}

#[test]
fn reads_go_to_the_replica_and_writes_to_the_primary() {
    with_database(|bed| async move {
        let db = bed.replicated().await;
        assert_eq!(db.read().await.expect("read").role(), Role::Replica);
        assert_eq!(db.write().await.expect("write").role(), Role::Primary);
    });
}

#[test]
fn roles_are_discovered_whatever_the_settings_say() {
    with_database(|bed| async move {
        let mut config = config(&bed.replica_url());
        config.replica_urls = vec![url(&bed.primary_url())];
        // The replica has to know the test's database before it takes a connection to it.
        let _ready = bed.replicated().await;
        let db = connected(config).await;
        let expected = url(&bed.primary_url()).endpoint().to_owned();
        assert_eq!(db.write().await.expect("write").node().to_string(), expected);
        assert_ne!(db.read().await.expect("read").node().to_string(), expected);
    });
}

#[test]
fn every_read_after_a_write_sees_it() {
    with_database(|bed| async move {
        note_table(&bed).await;
        let db = bed.replicated().await;
        for body in 0..200 {
            let token = add(&db, body).await;
            let connection = db.read_after(token).await.expect("read");
            assert_eq!(newest(&connection).await, body, "on {:?}", connection.role());
        }
    });
}

#[test]
fn a_replica_that_has_replayed_the_token_serves_it() {
    with_database(|bed| async move {
        note_table(&bed).await;
        let db = bed.replicated().await;
        let token = add(&db, 7).await;
        until(&db, |status| status.nodes[1].lsn.is_some_and(|lsn| lsn >= token.lsn)).await;
        let connection = db.read_after(token).await.expect("read");
        assert_eq!((connection.role(), newest(&connection).await), (Role::Replica, 7));
    });
}

#[test]
fn tokens_that_no_replica_has_reached_go_to_the_primary() {
    with_database(|bed| async move {
        let db = bed.replicated().await;
        let timeline = until(&db, |_| true).await.nodes[0].timeline.expect("the primary answers");
        for token in [Token { timeline, lsn: u64::MAX }, Token { timeline: timeline - 1, lsn: 1 }] {
            assert_eq!(db.read_after(token).await.expect("read").role(), Role::Primary, "{token}");
        }
    });
}

#[test]
fn a_token_of_a_timeline_that_no_server_has_reached_is_refused() {
    with_database(|bed| async move {
        let mut config = bed.config();
        config.replica_urls = vec![url(&bed.replica_url())];
        config.acquire_timeout = Duration::from_millis(200);
        let db = connected(config).await;
        let timeline = until(&db, |_| true).await.nodes[0].timeline.expect("the primary answers");
        let token = Token { timeline: timeline + 1, lsn: 1 };
        let is_refused = |error: &Error| {
            matches!(error, Error::NoPrimary { reason: NoPrimary::OlderThanToken, .. })
                && error.is_retryable()
        };
        let refused = db.read_after(token).await.expect_err("the write is not there");
        assert!(is_refused(&refused), "{refused}");
        let refused = db.query_one(Some(token), &NEWEST, &[]).await.expect_err("nor through a lane");
        assert!(is_refused(&refused), "{refused}");
        // A token is a caller's word: it fences nobody.
        assert_eq!(db.timeline(), timeline);
        db.write().await.expect("write");
    });
}

#[test]
fn a_silent_replica_never_serves_a_token_it_was_not_seen_to_reach() {
    with_database(|bed| async move {
        note_table(&bed).await;
        let proxy = Proxy::before(&bed.replica_url()).await;
        let mut config = bed.config();
        config.replica_urls = vec![url(&proxy.url(&bed.replica_url()))];
        let db = connected(config).await;
        proxy.set(Mode::BlackHole);
        let token = add(&db, 8).await;
        let connection = db.read_after(token).await.expect("read");
        assert_eq!((connection.role(), newest(&connection).await), (Role::Primary, 8));
    });
}

#[test]
fn connecting_needs_the_primary_and_no_replica() {
    with_database(|bed| async move {
        let proxy = Proxy::before(&bed.primary_url()).await;
        proxy.set(Mode::Refuse);
        let nowhere = url(&proxy.url(&bed.primary_url()));
        let mut settings = bed.config();
        settings.replica_urls = vec![nowhere.clone()];
        let db = Db::connect(settings).await.expect("connect without the replica");
        assert_eq!(db.read().await.expect("read").role(), Role::Primary);

        let refused = Db::connect(config(&proxy.url(&bed.primary_url()))).await.expect_err("no primary");
        assert!(matches!(&refused, Error::NoPrimary { reason: NoPrimary::AllDown, .. }), "{refused}");
        assert!(refused.is_retryable());
        assert!(refused.to_string().contains(nowhere.endpoint()), "{refused}");
    });
}

#[test]
fn a_replica_that_goes_and_comes_back_changes_who_reads() {
    with_database(|bed| async move {
        let proxy = Proxy::before(&bed.replica_url()).await;
        let mut config = bed.config();
        config.replica_urls = vec![url(&proxy.url(&bed.replica_url()))];
        let db = connected(config).await;
        proxy.set(Mode::Refuse);
        until(&db, replica_state(NodeState::Down)).await;
        let connection = db.read().await.expect("read");
        connection.query_one(&ONE, &[]).await.expect("the primary answers");
        assert_eq!(connection.role(), Role::Primary);
        proxy.set(Mode::Forward);
        until(&db, replica_state(NodeState::Up)).await;
        let connection = db.read().await.expect("read");
        connection.query_one(&ONE, &[]).await.expect("a connection made before the fault is not handed out");
        assert_eq!(connection.role(), Role::Replica);
    });
}

/// With one server in development, and with two in production.
#[test]
fn what_writes_is_refused_where_reads_go_whichever_server_serves_them() {
    with_database(|bed| async move {
        note_table(&bed).await;
        for db in [bed.primary_only().await, bed.replicated().await] {
            let one = [&1_i64 as &(dyn ToSql + Sync)];
            let token = add(&db, 0).await;
            let connection = db.read_after(token).await.expect("read");
            let refused = [
                connection.query(&ADD, &one).await.map(drop),
                connection.execute(&ADD, &one).await.map(drop),
                db.query(None, &ADD, &one).await.map(drop),
                db.read_with(None, |connection| async move {
                    connection.execute(&ADD, &[&1_i64]).await.map(drop)
                })
                .await,
                Loader::<i64, i64>::new(&db, &ADD, CoalesceOptions::default(), |row| {
                    Ok((row.try_get(0)?, row.try_get(1)?))
                })
                .map(drop),
            ];
            for refused in refused {
                let refused = refused.expect_err("a replica would refuse it");
                assert!(matches!(refused, Error::NotARead { verb: "INSERT" }), "{refused:?}");
                assert!(refused.to_string().contains("Db::write") && !refused.is_retryable(), "{refused}");
            }
            assert_eq!(newest(&connection).await, 0, "the connection is as it was");
            db.write().await.expect("write").execute(&ADD, &one).await.expect("it is taken there");
            db.write().await.expect("write").execute(&FORGET, &[]).await.expect("delete");
        }
    });
}

/// The first run hangs on the replica until the fault; the second must find the primary.
async fn check_rerun(bed: Bed, fault: Mode) {
    let proxy = Proxy::before(&bed.replica_url()).await;
    let mut config = bed.config();
    config.replica_urls = vec![url(&proxy.url(&bed.replica_url()))];
    config.statement_timeout = 2 * LIMIT;
    let db = connected(config).await;
    let started = Notify::new();
    let read = db.read_with(None, |connection: Arc<Connection>| {
        let started = &started;
        async move {
            if connection.role() == Role::Replica {
                started.notify_one();
                connection.query(&SLEEP, &[]).await?;
            }
            let row = connection.query_one(&ONE, &[]).await?;
            Ok::<_, Error>((connection.role(), row.get::<_, i32>(0)))
        }
    });
    let strike = async {
        started.notified().await;
        proxy.set(fault);
    };
    let (outcome, ()) =
        tokio::time::timeout(LIMIT, Box::pin(async { tokio::join!(read, strike) })).await.expect("it ends");
    assert_eq!(outcome.expect("the rerun succeeds"), (Role::Primary, 1));
}

#[test]
fn a_read_whose_replica_closes_is_rerun_on_the_primary() {
    with_database(|bed| check_rerun(bed, Mode::Refuse));
}

#[test]
fn a_read_whose_replica_goes_silent_is_rerun_on_the_primary() {
    with_database(|bed| check_rerun(bed, Mode::BlackHole));
}

#[test]
fn a_read_that_swallowed_a_failure_is_rerun_whatever_it_made_of_it() {
    with_database(|bed| async move {
        static CONFLICT: Statement = Statement::new("SELECT conflict()", &[]);
        let make = "CREATE FUNCTION conflict() RETURNS int8 LANGUAGE plpgsql AS \
                    $$ BEGIN RAISE serialization_failure; END $$";
        bed.admin().await.client.batch_execute(make).await.expect("make the function");
        let db = connected(bed.config()).await;
        let runs = std::sync::atomic::AtomicU32::new(0);
        let read = db.read_with(None, |connection| {
            let run = runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move {
                let statement = if run == 0 { &CONFLICT } else { &ONE };
                let rows = connection.query(statement, &[]).await.unwrap_or_default();
                Ok::<_, Error>(rows.len())
            }
        });
        assert_eq!(read.await.expect("the rerun succeeds"), 1);
    });
}

#[test]
fn a_readers_own_fault_is_not_rerun() {
    with_database(|bed| async move {
        static WRONG: Statement = Statement::new("SELECT nothing_of_that_name", &[]);
        let db = bed.replicated().await;
        let runs = std::sync::atomic::AtomicU32::new(0);
        let outcome = db.read_with(None, |connection| {
            runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async move { connection.query(&WRONG, &[]).await }
        });
        let error = outcome.await.expect_err("the column does not exist");
        assert_eq!(error.sqlstate().map(|code| code.code()), Some("42703"));
        assert_eq!(runs.into_inner(), 1);
    });
}

#[test]
fn reads_may_take_only_half_of_the_primarys_connections() {
    with_database(|bed| async move {
        let mut config = bed.config();
        config.acquire_timeout = Duration::from_millis(200);
        let db = Db::connect(config).await.expect("connect");
        let first = db.read().await.expect("one of two");
        let _second = db.read().await.expect("two of two");
        let refused = db.read().await.expect_err("the budget is used up");
        assert!(refused.is_overload(), "{refused}");
        let write = db.write().await.expect("writes have the other half");
        write.query_one(&ONE, &[]).await.expect("it works");
        drop(first);
        assert!(db.read().await.is_ok());
    });
}

/// A host that is off swallows what is sent to it.
#[test]
fn a_first_server_that_says_nothing_keeps_nobody_from_connecting_to_the_primary() {
    with_database(|bed| async move {
        let proxy = Proxy::before(&bed.replica_url()).await;
        proxy.set(Mode::BlackHole);
        let mut config = config(&proxy.url(&bed.replica_url()));
        config.replica_urls = vec![url(&bed.primary_url())];
        let db = Db::connect(config).await.expect("the other one takes writes");
        assert_eq!(db.status().nodes[0].state, NodeState::Unknown);
        db.write().await.expect("a connection").query_one(&ONE, &[]).await.expect("a query");
    });
}
