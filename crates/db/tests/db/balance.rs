//! Which server serves a read when one of several is slow, conflicts with its replay, or speaks garbage.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use paystrata_db::{Class, Connection, Db, Error, NodeId, NodeState, Role, Statement, Type};
use tokio::sync::Notify;

use crate::cluster::Cluster;
use crate::failover::on_cluster;
use crate::proxy::{MARK, Mode, Proxy};
use crate::support::{Bed, LIMIT, ONE, connected, plain, until_count, url, with_database};

static LOOK: Statement = Statement::new("SELECT count(*), pg_sleep(3600)::text FROM note", &[]);
static NOTES: Statement = Statement::new("SELECT count(*) FROM note", &[]);

const READERS: usize = 8;

/// How many of the reads of eight readers `node` serves, in percent.
async fn share(db: &Db, node: &NodeId, reads: usize) -> usize {
    let read = async || {
        let mut served = 0;
        for _ in 0..reads / READERS {
            let connection = db.read().await.expect("read");
            connection.query_one(&ONE, &[]).await.expect("query");
            served += usize::from(connection.node() == node);
        }
        served
    };
    join_all((0..READERS).map(|_| read())).await.iter().sum::<usize>() * 100 / reads
}

#[test]
fn a_slow_replica_serves_few_reads_until_it_is_quick_again() {
    with_database(|bed| async move {
        let (quick, slow) =
            (Proxy::before(&bed.replica_url()).await, Proxy::before(&bed.replica_url()).await);
        let mut config = bed.config();
        config.pool_size_max = READERS;
        config.replica_urls = [&quick, &slow].map(|proxy| url(&proxy.url(&bed.replica_url()))).to_vec();
        let db = connected(config).await;
        let node = db.status().nodes[2].id.clone();
        slow.set(Mode::Slow);
        // It is found out by being used.
        let found_out = async { while share(&db, &node, 800).await >= 10 {} };
        tokio::time::timeout(2 * LIMIT, found_out).await.expect("it is asked less");
        slow.set(Mode::Forward);
        let recovered = async { while share(&db, &node, 80).await < 25 {} };
        tokio::time::timeout(LIMIT, recovered).await.expect("it is asked again");
    });
}

static PID: Statement = Statement::new("SELECT pg_backend_pid()", &[]);
static SAY: Statement = Statement::new("SELECT $1::text", &[Type::TEXT]);

/// Two replicas, of which the second is behind the proxy that is given.
async fn with_two_replicas(bed: &Bed, pool_size_max: usize) -> (Db, [Proxy; 2]) {
    let proxies = [Proxy::before(&bed.replica_url()).await, Proxy::before(&bed.replica_url()).await];
    let mut config = bed.config();
    config.pool_size_max = pool_size_max;
    config.acquire_timeout = Duration::from_secs(2);
    config.replica_urls = proxies.each_ref().map(|proxy| url(&proxy.url(&bed.replica_url()))).to_vec();
    (connected(config).await, proxies)
}

// Scenario 20: a breaker per node
#[test]
fn a_replica_that_answers_its_monitor_and_fails_its_statements_is_left_alone() {
    with_database(|bed| async move {
        let (db, [_sound, sick]) = with_two_replicas(&bed, READERS).await;
        let node = db.status().nodes[2].id.clone();
        let say = async || {
            let connection = db.read().await.expect("read");
            connection.query_one(&SAY, &[&MARK]).await.map(|_row| connection.node().clone())
        };
        sick.set(Mode::LoseMarked);
        let mut failures = 0;
        for _ in 0..400 {
            failures += usize::from(say().await.is_err());
        }
        let status = db.status_when(LIMIT, |status| status.nodes[2].state == NodeState::Up).await;
        assert!(status.is_ok(), "its monitor is content");
        assert!((5..30).contains(&failures), "{failures} of 400 reads");
        sick.set(Mode::Forward);
        let serves = async { while say().await.ok().as_ref() != Some(&node) {} };
        tokio::time::timeout(2 * LIMIT, serves).await.expect("it is tried again");
        assert!(!db.status().nodes[2].resting);
    });
}

#[test]
fn a_read_that_one_replica_has_no_connection_for_goes_to_another() {
    with_database(|bed| async move {
        let (db, _proxies) = with_two_replicas(&bed, 1).await;
        for _ in 0..4 {
            let mut held = vec![db.read().await.expect("read"), db.read().await.expect("read")];
            assert!(held.iter().all(|connection| connection.role() == Role::Replica));
            assert_ne!(held[0].node(), held[1].node());
            // It waits at one of them, and never comes to the primary.
            let (waiting, release) = tokio::join!(db.read(), async {
                tokio::task::yield_now().await;
                let released = held.remove(0);
                released.node().clone()
            });
            let served = waiting.expect("read");
            assert_eq!((served.role(), served.node()), (Role::Replica, &release));
        }
    });
}

/// How a read of a thousand notes ends whose replica has to clear them away: what it counted, and in how many runs.
async fn conflicting(cluster: &Cluster, db: &Db) -> (i64, u32) {
    cluster
        .run_on("primary", "INSERT INTO note SELECT generate_series(1, 1000) ON CONFLICT DO NOTHING")
        .await;
    let replica = plain(&cluster.url("replica")).await;
    until_count(&replica, "SELECT count(*) FROM pg_class WHERE relname = 'note'", 1).await;
    let (looking, runs) = (Notify::new(), AtomicU32::new(0));
    let read = db.read_with(None, |connection: Arc<Connection>| {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        let looking = &looking;
        async move {
            if run == 0 {
                assert_eq!(connection.role(), Role::Replica);
                looking.notify_one();
                connection.query(&LOOK, &[]).await?;
            }
            let row = connection.query_one(&NOTES, &[]).await?;
            Ok::<_, Error>(row.get::<_, i64>(0))
        }
    });
    let conflict = async {
        looking.notified().await;
        let looks = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)%' AND wait_event = 'PgSleep'";
        until_count(&replica, looks, 1).await;
        cluster.run_on("primary", "DELETE FROM note").await;
        loop {
            // What the look still sees is cleared away, as soon as nobody on the primary sees it any more.
            cluster.run_on("primary", "VACUUM note").await;
        }
    };
    let notes = Box::pin(async {
        tokio::select! {
            notes = read => notes.expect("the rerun succeeds"),
            () = conflict => unreachable!("it has no end"),
        }
    });
    let notes = tokio::time::timeout(LIMIT, notes).await.expect("it ends");
    (notes, runs.into_inner())
}

#[test]
fn a_read_that_conflicts_with_its_replicas_replay_is_rerun() {
    on_cluster(|cluster, config| async move {
        cluster.run_on("replica", "ALTER SYSTEM SET max_standby_streaming_delay = 0").await;
        cluster.run_on("replica", "SELECT pg_reload_conf()").await;
        let db = connected(config).await;
        // With no patience at all the replica may also have cancelled the look for something older.
        for _ in 0..10 {
            let (notes, runs) = conflicting(&cluster, &db).await;
            assert_eq!(runs, 2);
            if notes == 0 {
                return;
            }
        }
        panic!("ten looks were cancelled before there was a conflict");
    });
}

/// A server whose words are garbled on their way once is told from one that answers: the caller gets an error or the right
/// answer, and everybody after it the right answer.
async fn check_garbled(bed: Bed, fault: Mode) {
    let proxy = Proxy::before(&bed.primary_url()).await;
    let mut config = bed.config();
    config.primary_url = url(&proxy.url(&bed.primary_url()));
    config.statement_timeout = Duration::from_millis(500);
    let db = connected(config).await;
    for round in 0..10 {
        let is_alone = round % 2 == 0;
        let connection = if is_alone { Some(db.write().await.expect("a connection")) } else { None };
        proxy.set(fault);
        let answer = match &connection {
            Some(connection) => connection.query_one(&ONE, &[]).await,
            None => db.query_one(None, &ONE, &[]).await,
        };
        // Whoever came first was struck: the statement, or the monitor beside it.
        if let Ok(row) = answer {
            assert_eq!(row.get::<_, i32>(0), 1);
        }
        drop(connection);
        proxy.set(Mode::Forward);
        let well = async {
            while db.query_one(None, &ONE, &[]).await.is_err() {}
            while db.write().await.expect("a connection").query_one(&ONE, &[]).await.is_err() {}
        };
        tokio::time::timeout(LIMIT, well).await.expect("the pool has others");
    }
}

#[test]
fn an_answer_of_no_known_kind_costs_its_connection_and_nothing_else() {
    with_database(|bed| check_garbled(bed, Mode::GarbleKind));
}

#[test]
fn an_answer_of_a_wrong_length_costs_its_connection_and_nothing_else() {
    with_database(|bed| check_garbled(bed, Mode::GarbleLength));
}

#[test]
fn an_answer_to_something_else_is_of_unknown_outcome_and_costs_its_connection() {
    with_database(|bed| async move {
        let proxy = Proxy::before(&bed.primary_url()).await;
        let mut config = bed.config();
        config.primary_url = url(&proxy.url(&bed.primary_url()));
        let db = connected(config).await;
        let pid = async |connection: &Connection| connection.query_one(&PID, &[]).await;
        let connection = db.write().await.expect("a connection");
        let first: i32 = pid(&connection).await.expect("prepared").get(0);
        proxy.set(Mode::GarbleAnswer);
        let error = pid(&connection).await.expect_err("another answer");
        assert_eq!(error.class(), Class::OutcomeUnknown, "{error}");
        proxy.sprung().await;
        drop(connection);
        for _ in 0..4 {
            let connection = db.write().await.expect("a connection");
            assert_ne!(pid(&connection).await.expect("sound").get::<_, i32>(0), first);
        }
    });
}
