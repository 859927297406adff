//! Reads that share connections: each caller gets its own answer, whatever becomes of the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use paystrata_db::{
    AcquireSeen, Config, Db, Error, NodeState, Observer, Role, Statement, Token, TransactionOptions, Type,
};
use tokio::time::{sleep, timeout};

use crate::proxy::{Mode, Proxy};
use crate::support::{Bed, LIMIT, ONE, config, connected, count, until, until_count, url, with_database};

static SQUARE: Statement = Statement::new("SELECT $1::bigint * $1", &[Type::INT8]);
static SHARE: Statement = Statement::new("SELECT 100 / $1::bigint", &[Type::INT8]);
static SLEEP: Statement = Statement::new("SELECT pg_sleep(3600)", &[]);
static NAP: Statement = Statement::new("SELECT $1::bigint FROM pg_sleep(0.03)", &[Type::INT8]);
static MANY: Statement = Statement::new("SELECT generate_series(1, $1::bigint)", &[Type::INT8]);
static IS_REPLICA: Statement = Statement::new("SELECT pg_is_in_recovery()", &[]);
static ADD: Statement = Statement::new("INSERT INTO note (body) VALUES ($1)", &[Type::INT8]);
static NEWEST: Statement = Statement::new("SELECT max(body) FROM note", &[]);

/// Counts the connections that were handed out.
#[derive(Debug, Default)]
struct Acquires(AtomicU64);

impl Observer for Acquires {
    fn acquire(&self, _seen: &AcquireSeen<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Two lanes.
fn roomy(bed: &Bed) -> Config {
    let mut config = bed.config();
    config.pool_size_max = 8;
    config
}

async fn primary_only(bed: &Bed) -> Db {
    Db::connect(roomy(bed)).await.expect("connect")
}

async fn square(db: &Db, of: i64) -> i64 {
    db.query_one(None, &SQUARE, &[&of]).await.expect("a square").get(0)
}

async fn squares(db: &Db, count: i64) {
    let numbers: Vec<i64> = (0..count).collect();
    let found = join_all(numbers.iter().map(|number| square(db, *number))).await;
    assert!(found.iter().zip(&numbers).all(|(found, number)| *found == number * number), "{found:?}");
}

/// Nothing of ours runs on the server, and nobody holds a connection.
async fn at_rest(db: &Db, bed: &Bed) {
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                AND application_name = 'paystrata-db' AND state <> 'idle'";
    until_count(&bed.admin().await, busy, 0).await;
    until(db, |status| status.nodes.iter().all(|node| node.pool.in_use == 0)).await;
}

#[test]
fn many_callers_get_their_own_answers_over_a_few_connections() {
    with_database(|bed| async move {
        let acquires = Arc::new(Acquires::default());
        let db = Db::connect_observed(roomy(&bed), Arc::<Acquires>::clone(&acquires)).await.expect("connect");
        // On a busy machine some may leave a lane that seems to stand still; not in every round.
        let few = async {
            loop {
                let before = acquires.0.load(Ordering::Relaxed);
                squares(&db, 200).await;
                if acquires.0.load(Ordering::Relaxed) - before < 20 {
                    return;
                }
            }
        };
        timeout(LIMIT, few).await.expect("hardly any of 200 reads needs a connection of its own");
        // They are not kept when there is nothing to read.
        at_rest(&db, &bed).await;
        let rows = db.query(None, &MANY, &[&10_000_i64]).await.expect("many rows");
        assert_eq!(rows.len(), 10_000);
    });
}

#[test]
fn a_statement_that_fails_fails_alone() {
    with_database(|bed| async move {
        let db = primary_only(&bed).await;
        let asked = (0..100_i64).map(|number| {
            let db = &db;
            async move { (number, db.query_one(None, &SHARE, &[&(number % 10)]).await) }
        });
        for (number, told) in join_all(asked).await {
            match told {
                Ok(row) => assert_eq!(row.get::<_, i64>(0), 100 / (number % 10)),
                Err(error) => {
                    assert_eq!((number % 10, error.sqlstate().map(|code| code.code())), (0, Some("22012")));
                }
            }
        }
        let none = db.query_opt(None, &MANY, &[&0_i64]).await.expect("no row");
        assert!(none.is_none());
        for (rows, told) in [
            (2_i64, db.query_opt(None, &MANY, &[&2_i64]).await.map(drop)),
            (2, db.query_one(None, &MANY, &[&2_i64]).await.map(drop)),
            (0, db.query_one(None, &MANY, &[&0_i64]).await.map(drop)),
        ] {
            let Err(Error::RowCount { found, .. }) = told else { panic!("{told:?}") };
            assert_eq!(i64::try_from(found).expect("few"), rows);
        }
        let told = db.query(None, &SQUARE, &[]).await;
        assert!(matches!(told, Err(Error::ValueCount { expected: 1, found: 0 })), "{told:?}");
    });
}

#[test]
fn a_statement_that_runs_long_holds_nobody_up() {
    with_database(|bed| async move {
        let acquires = Arc::new(Acquires::default());
        let db = Db::connect_observed(roomy(&bed), Arc::<Acquires>::clone(&acquires)).await.expect("connect");
        squares(&db, 10).await;
        let slow = tokio::spawn({
            let db = db.clone();
            async move { db.query(None, &SLEEP, &[]).await.map(drop) }
        });
        let asleep = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)%' AND state = 'active' \
                      AND pid <> pg_backend_pid()";
        until_count(&bed.admin().await, asleep, 1).await;
        for _ in 0..20 {
            timeout(LIMIT, squares(&db, 100)).await.expect("they do not wait for it");
        }
        assert!(!slow.is_finished());
        slow.abort();
        at_rest(&db, &bed).await;
        // Known by now: it keeps to a connection of its own.
        let before = acquires.0.load(Ordering::Relaxed);
        let slow = tokio::spawn({
            let db = db.clone();
            async move { db.query(None, &SLEEP, &[]).await.map(drop) }
        });
        until_count(&bed.admin().await, asleep, 1).await;
        assert!(acquires.0.load(Ordering::Relaxed) > before);
        squares(&db, 100).await;
        assert!(!slow.is_finished());
        slow.abort();
        at_rest(&db, &bed).await;
    });
}

/// One that sleeps ahead of those that were sent behind it: they are sent again elsewhere, and each is answered once.
#[test]
fn who_waits_behind_a_statement_that_runs_long_runs_elsewhere() {
    with_database(|bed| async move {
        let mut config = bed.config();
        // One lane.
        config.pool_size_max = 6;
        let db = Db::connect(config).await.expect("connect");
        squares(&db, 1).await;
        let naps = join_all((0..3_i64).map(|number| {
            let db = &db;
            async move { db.query_one(None, &NAP, &[&number]).await.map(|row| row.get::<_, i64>(0)) }
        }));
        let (naps, ()) = tokio::join!(naps, squares(&db, 100));
        let naps: Vec<_> = naps.into_iter().map(|nap| nap.expect("it ends")).collect();
        assert_eq!(naps, [0, 1, 2]);
        at_rest(&db, &bed).await;
    });
}

#[test]
fn who_brings_a_new_statement_behind_one_that_runs_long_runs_elsewhere() {
    with_database(|bed| async move {
        static NEW: Statement = Statement::new("SELECT 'new'::text", &[]);
        let mut config = bed.config();
        // One lane.
        config.pool_size_max = 6;
        let db = Db::connect(config).await.expect("connect");
        squares(&db, 1).await;
        let (long, new) = (db.query_one(None, &SLEEP, &[]), async {
            // Once the other is under way.
            sleep(Duration::from_millis(2)).await;
            db.query_one(None, &NEW, &[]).await
        });
        tokio::select! {
            biased;
            slept = long => panic!("it was waited for: {slept:?}"),
            row = new => assert_eq!(row.expect("the new one").get::<_, String>(0), "new"),
        }
    });
}

#[test]
fn callers_that_go_away_take_nothing_from_the_others() {
    with_database(|bed| async move {
        let db = primary_only(&bed).await;
        for round in 0..200_u64 {
            let leaving = join_all((0..20).map(|number| square(&db, number)));
            let limit = Duration::from_micros(round * 10);
            let (_gone_or_done, ()) = tokio::join!(timeout(limit, leaving), squares(&db, 20));
        }
        at_rest(&db, &bed).await;
        squares(&db, 20).await;
    });
}

#[test]
fn a_read_with_a_token_sees_the_write_and_one_without_goes_to_the_replica() {
    with_database(|bed| async move {
        let admin = bed.admin().await;
        admin.client.batch_execute("CREATE TABLE note (body bigint)").await.expect("create the table");
        let proxy = Proxy::before(&bed.replica_url()).await;
        let mut config = roomy(&bed);
        config.replica_urls = vec![url(&proxy.url(&bed.replica_url()))];
        let db = connected(config).await;
        let add = async |body: i64| -> Token {
            let added = db.transaction(TransactionOptions::default(), |tx| async move {
                tx.execute(&ADD, &[&body]).await
            });
            added.await.expect("add a note").token
        };
        let newest = async |after| db.query_one(after, &NEWEST, &[]).await.expect("read").get::<_, i64>(0);
        for body in 0..100 {
            let token = add(body).await;
            assert_eq!(newest(Some(token)).await, body);
        }
        until(&db, |status| status.nodes[1].role == Some(Role::Replica)).await;
        for _ in 0..50 {
            let row = db.query_one(None, &IS_REPLICA, &[]).await.expect("read");
            assert!(row.get::<_, bool>(0), "without a token");
        }
        // Not from a replica that was not seen to have it, though its lane is open.
        proxy.set(Mode::BlackHole);
        let token = add(100).await;
        assert_eq!(newest(Some(token)).await, 100);
        // Sent to it before anybody knew, and answered by the other server.
        squares(&db, 50).await;
        until(&db, |status| status.nodes[1].state == NodeState::Down).await;
        squares(&db, 50).await;
    });
}

#[test]
fn connections_that_the_server_ends_are_replaced_unnoticed() {
    with_database(|bed| async move {
        let db = primary_only(&bed).await;
        let admin = bed.admin().await;
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() \
                   AND application_name = 'paystrata-db'";
        for _ in 0..10 {
            squares(&db, 50).await;
            let ((), ended) = tokio::join!(squares(&db, 50), count(&admin, end));
            assert!(ended > 0, "there were some");
            // Their server is suspect until it was looked at, and is primary all the while.
            squares(&db, 50).await;
        }
    });
}

#[test]
fn nothing_is_read_over_a_lane_once_the_handle_is_closed() {
    with_database(|bed| async move {
        let db = primary_only(&bed).await;
        squares(&db, 50).await;
        db.close().await;
        let told = db.query(None, &ONE, &[]).await;
        assert!(matches!(told, Err(Error::Closed)), "{told:?}");
        let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                    AND application_name LIKE 'paystrata-db%'";
        until_count(&bed.admin().await, open, 0).await;
    });
}

/// A pool of which nothing can be spared has no lanes, and a lane takes no more than its part.
#[test]
fn a_small_pool_and_a_busy_one_serve_reads_all_the_same() {
    with_database(|bed| async move {
        let mut small = config(&bed.primary_url());
        small.pool_size_max = 2;
        let db = Db::connect(small).await.expect("connect");
        squares(&db, 20).await;
        let busy = primary_only(&bed).await;
        squares(&busy, 20).await;
        sleep(Duration::from_millis(1)).await;
        let held = join_all((0..5).map(|_| busy.write())).await;
        let refused: Vec<_> = held.iter().filter_map(|taken| taken.as_ref().err()).collect();
        assert!(refused.is_empty(), "{refused:?}");
        // In a task of its own: one that holds connections itself may be told that it waits for itself.
        let other = busy.clone();
        tokio::spawn(async move { squares(&other, 100).await }).await.expect("there is room for them");
        drop(held);
        at_rest(&busy, &bed).await;
        let background = busy.background();
        squares(&background, 100).await;
        at_rest(&busy, &bed).await;
    });
}

/// Testing its idle connections, and dialling new ones, may take longer than anybody who reads has time for.
#[test]
fn a_server_that_falls_silent_before_there_is_a_lane_keeps_a_read_for_as_long_as_any_other() {
    with_database(|bed| async move {
        // The replica has the database by then: who looks so seldom would not see it come.
        drop(bed.replicated().await);
        let proxy = Proxy::before(&bed.replica_url()).await;
        let mut config = roomy(&bed);
        config.replica_urls = vec![url(&proxy.url(&bed.replica_url()))];
        (config.pool_size_min, config.monitor_interval) = (2, LIMIT);
        // Half of it is for the replica. What is dialled into the void has its own limit, which is longer.
        config.acquire_timeout = Duration::from_secs(2);
        let db = connected(config).await;
        // They were heard of too long ago to be handed out untested.
        sleep(Duration::from_millis(1_200)).await;
        proxy.set(Mode::BlackHole);
        let read = tokio::spawn(async move { square(&db, 7).await });
        let answer = timeout(LIMIT / 2, read).await.expect("the primary is there").expect("a read");
        assert_eq!(answer, 49);
    });
}
