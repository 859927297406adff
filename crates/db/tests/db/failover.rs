//! Promotion, fencing, restarts and pauses, on servers of the test's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use paystrata_db::{
    Class, CommitOutcome, CommitTicket, Config, Db, Error, NoPrimary, NodeState, Role, Statement, Token,
    TransactionError, TransactionOptions, Type,
};

use crate::cluster::Cluster;
use crate::support::{LIMIT, config, connected, count, plain, until, until_count, url};

static INSERT: Statement = Statement::new("INSERT INTO note VALUES ($1)", &[Type::INT8]);
static NEWEST: Statement = Statement::new("SELECT coalesce(max(body), 0) FROM note", &[]);

/// Gives `test` servers of its own, and settings that name all of them in the order in which they were started.
pub(crate) fn on_cluster<Fut: Future<Output = ()>>(test: impl FnOnce(Arc<Cluster>, Config) -> Fut) {
    on_servers(Cluster::start, test);
}

/// As [`on_cluster`], with a second replica.
pub(crate) fn on_two_replicas<Fut: Future<Output = ()>>(test: impl FnOnce(Arc<Cluster>, Config) -> Fut) {
    on_servers(Cluster::start_with_second, test);
}

fn on_servers<Fut: Future<Output = ()>>(
    start: fn() -> Cluster,
    test: impl FnOnce(Arc<Cluster>, Config) -> Fut,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be built").block_on(async {
        let cluster = Arc::new(start());
        let mut config = config(&cluster.url("primary"));
        config.replica_urls = cluster.replicas().map(|name| url(&cluster.url(name))).collect();
        cluster.run_on("primary", "CREATE TABLE note (body bigint PRIMARY KEY)").await;
        test(cluster, config).await;
    });
}

async fn insert(db: &Db, body: i64) -> Token {
    let options = TransactionOptions { timeout: LIMIT, attempts_max: 50, ..TransactionOptions::default() };
    let added = db.transaction(options, |tx| async move { tx.execute(&INSERT, &[&body]).await });
    added.await.expect("insert").token
}

#[test]
fn an_id_given_again_after_a_crash_is_never_taken_for_the_lost_commit() {
    on_cluster(|cluster, config| async move {
        let db = connected(config).await;
        let session = db.session("worker").await.expect("session");
        session.client().batch_execute("BEGIN").await.expect("begin");
        let row = session.client().query_one(CommitTicket::SQL, &[]).await.expect("ticket");
        let ticket = CommitTicket::from_row(&row).expect("a ticket");
        // The process that started the server lives on, and its start time with it.
        cluster.kill_one_process("primary").await;
        until(&db, |status| status.nodes[0].state == NodeState::Down).await;
        until(&db, |status| status.nodes[0].state == NodeState::Up).await;

        let admin = plain(&cluster.url("primary")).await;
        let next = "SELECT pg_current_xact_id()::text::bigint";
        let given_out = i64::try_from(ticket.xid).expect("a young server");
        let mut last = count(&admin, next).await;
        assert!(last <= given_out, "the crash took the id back");
        while last < given_out {
            last = count(&admin, next).await;
        }
        let status = format!("SELECT (pg_xact_status('{}'::xid8) = 'committed')::int::bigint", ticket.xid);
        assert_eq!(count(&admin, &status).await, 1, "the server says committed, of another transaction");
        assert_eq!(db.commit_outcome(ticket).await, CommitOutcome::Unknown);
    });
}

#[test]
fn an_id_that_a_crash_took_back_and_nobody_was_given_again_is_a_rollback() {
    on_cluster(|cluster, config| async move {
        let db = connected(config).await;
        let session = db.session("worker").await.expect("session");
        session.client().batch_execute("BEGIN").await.expect("begin");
        let row = session.client().query_one(CommitTicket::SQL, &[]).await.expect("ticket");
        let ticket = CommitTicket::from_row(&row).expect("a ticket");
        cluster.kill_one_process("primary").await;
        until(&db, |status| status.nodes[0].state == NodeState::Down).await;
        until(&db, |status| status.nodes[0].state == NodeState::Up).await;
        assert_eq!(db.commit_outcome(ticket).await, CommitOutcome::RolledBack);
    });
}

/// As a careful caller does it: after an unknown outcome the same again, and its own key tells whether it was there.
async fn insert_through(db: &Db, body: i64) {
    let options = TransactionOptions { timeout: LIMIT, attempts_max: 50, ..TransactionOptions::default() };
    let mut doubt = false;
    loop {
        match db.transaction(options, |tx| async move { tx.execute(&INSERT, &[&body]).await }).await {
            Ok(_) => return,
            Err(error) if error.outcome_is_unknown() => doubt = true,
            Err(TransactionError::Work(error)) if doubt && error.constraint() == Some("note_pkey") => return,
            Err(error) => panic!("insert {body}: {error}"),
        }
    }
}

#[test]
fn a_commit_on_a_primary_that_was_replaced_meanwhile_is_not_reported_as_done() {
    on_cluster(|cluster, config| async move {
        let db = connected(config).await;
        let options = TransactionOptions { timeout: LIMIT, ..TransactionOptions::default() };
        let ended = db.transaction(options, |tx| {
            let (same, db) = (Arc::clone(&cluster), db.clone());
            async move {
                tx.execute(&INSERT, &[&1_i64]).await?;
                // The old primary goes on as before: it takes this commit, and nobody will ever read it.
                tokio::task::spawn_blocking(move || same.promote("replica")).await.expect("promote");
                until(&db, |status| status.primary.as_ref() == Some(&status.nodes[1].id)).await;
                Ok::<_, Error>(())
            }
        });
        let error = ended.await.expect_err("the new primary does not have it");
        assert!(error.outcome_is_unknown(), "{error}");
        let (old, new) = (plain(&cluster.url("primary")).await, plain(&cluster.url("replica")).await);
        assert_eq!(count(&old, "SELECT count(*) FROM note").await, 1, "the old primary did take it");
        assert_eq!(count(&new, "SELECT count(*) FROM note").await, 0);
    });
}

#[test]
fn writes_move_to_the_promoted_replica_and_the_old_primary_is_fenced() {
    on_cluster(|cluster, config| async move {
        let db = connected(config).await;
        let before = insert(&db, 1).await;
        until(&db, |status| status.nodes[1].lsn.is_some_and(|lsn| lsn >= before.lsn)).await;

        // Writers that never stop: what they were told must be there afterwards.
        let (done, acknowledged) = (AtomicBool::new(false), AtomicI64::new(1));
        let writer = async {
            for body in 2.. {
                insert_through(&db, body).await;
                acknowledged.store(body, Ordering::Release);
                if done.load(Ordering::Acquire) {
                    break;
                }
            }
        };
        let fault = async {
            let same = Arc::clone(&cluster);
            let promoted = tokio::task::spawn_blocking(move || {
                // A clean stop sends everything to the replica, so that nothing acknowledged is lost.
                same.stop("primary");
                same.promote("replica");
            });
            promoted.await.expect("promote");
            until(&db, |status| status.primary.as_ref() == Some(&status.nodes[1].id)).await;
            done.store(true, Ordering::Release);
        };
        tokio::time::timeout(LIMIT, Box::pin(async { tokio::join!(writer, fault) }))
            .await
            .expect("writes go on");
        let newest = acknowledged.into_inner();
        let successor = plain(&cluster.url("replica")).await;
        assert_eq!(count(&successor, "SELECT count(*) FROM note").await, newest);

        let after = insert(&db, newest + 1).await;
        assert!(after > before && after.timeline > before.timeline);
        let connection = db.read_after(before).await.expect("a token of the old timeline");
        assert_eq!(connection.role(), Role::Primary);

        // The old one comes back and still believes itself the primary.
        cluster.boot("primary");
        let status = until(&db, |status| status.nodes[0].state == NodeState::Up).await;
        assert_eq!(status.nodes[0].role, Some(Role::Primary));
        assert_eq!(status.primary.as_ref(), Some(&status.nodes[1].id));
        cluster.crash("replica");
        until(&db, |status| status.nodes[1].state == NodeState::Down).await;
        let refused = db.status_when(LIMIT, |status| status.primary.is_none()).await.expect("nobody is left");
        assert_eq!(refused.nodes[0].state, NodeState::Up);
    });
}

#[test]
fn a_token_of_a_write_that_a_failover_has_lost_is_refused_and_those_before_it_are_not() {
    on_cluster(|cluster, config| async move {
        let db = connected(config.clone()).await;
        let kept = insert(&db, 1).await;
        until(&db, |status| status.nodes[1].lsn.is_some_and(|lsn| lsn >= kept.lsn)).await;
        // From here on the replica is sent nothing.
        cluster.set("replica", "primary_conninfo", "").await;
        let replica = plain(&cluster.url("replica")).await;
        until_count(&replica, "SELECT count(*) FROM pg_stat_wal_receiver", 0).await;
        let lost = insert(&db, 2).await;
        assert_eq!((lost.timeline, lost.lsn > kept.lsn), (kept.timeline, true));
        let same = Arc::clone(&cluster);
        let strike = move || {
            same.kill("primary");
            same.promote("replica");
        };
        tokio::task::spawn_blocking(strike).await.expect("strike");
        until(&db, |status| status.primary.as_ref() == Some(&status.nodes[1].id)).await;
        let newest = db.query_one(Some(kept), &NEWEST, &[]).await.expect("it is there");
        assert_eq!(newest.get::<_, i64>(0), 1);
        // To one who has seen the failover, and to one who comes later.
        for db in [db, Db::connect(config).await.expect("the new primary answers")] {
            let refused = [
                db.query_one(Some(lost), &NEWEST, &[]).await.map(drop),
                db.read_after(lost).await.map(drop),
                db.read_with(
                    Some(lost),
                    |connection| async move { connection.query_one(&NEWEST, &[]).await },
                )
                .await
                .map(drop),
            ];
            for refused in refused {
                let error = refused.expect_err("it is nowhere");
                let is_told = matches!(&error, Error::WriteLost { token, fork } if *token == lost && fork.timeline > lost.timeline);
                assert!(is_told, "{error}");
                assert_eq!(error.class(), Class::Never);
            }
            // It is made again, under a token of its own.
            let again = insert(&db, insert_next(&db).await).await;
            assert_eq!(db.read_after(again).await.expect("a read").role(), Role::Primary);
        }
    });
}

async fn insert_next(db: &Db) -> i64 {
    db.query_one(None, &NEWEST, &[]).await.expect("newest").get::<_, i64>(0) + 1
}

#[test]
fn a_token_of_a_new_primary_is_honoured_by_a_process_that_has_not_heard_of_it() {
    on_cluster(|cluster, config| async move {
        let mut seldom = config.clone();
        seldom.monitor_interval = LIMIT;
        let behind = connected(seldom).await;
        // The old primary goes on as before.
        let same = Arc::clone(&cluster);
        tokio::task::spawn_blocking(move || same.promote("replica")).await.expect("promote");
        let ahead = connected(config).await;
        until(&ahead, |status| status.primary.as_ref() == Some(&status.nodes[1].id)).await;
        let token = insert(&ahead, 7).await;
        assert_eq!(
            behind.status().primary,
            Some(behind.status().nodes[0].id.clone()),
            "it takes the old one for it"
        );
        let row = behind.query_one(Some(token), &NEWEST, &[]).await.expect("query");
        assert_eq!(row.get::<_, i64>(0), 7);
        let connection = behind.read_after(token).await.expect("read");
        assert_eq!(connection.query_one(&NEWEST, &[]).await.expect("newest").get::<_, i64>(0), 7);
    });
}

#[test]
fn a_commit_that_waits_for_a_standby_is_not_said_to_be_done_while_it_does() {
    on_cluster(|cluster, config| async move {
        cluster.stop("replica");
        let settings = "ALTER SYSTEM SET synchronous_standby_names = '*'";
        cluster.run_on("primary", settings).await;
        cluster.run_on("primary", "SELECT pg_reload_conf()").await;
        let admin = plain(&cluster.url("primary")).await;
        let is_on = "SELECT (current_setting('synchronous_standby_names') = '*')::int::bigint";
        while count(&admin, is_on).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let calm = config.clone();
        let hasty = Config { statement_timeout: Duration::from_millis(300), ..config };
        let db = Db::connect(hasty).await.expect("the primary is there");
        let options = TransactionOptions { timeout: LIMIT, ..TransactionOptions::default() };
        let ended = db.transaction(options, |tx| async move { tx.execute(&INSERT, &[&1_i64]).await }).await;
        let error = ended.expect_err("no standby has it");
        let TransactionError::OutcomeUnknown { ticket } = error else { panic!("{error}") };
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        assert_eq!(count(&admin, waits).await, 1, "the server still waits for the standby");
        // A handle that is closed ends nothing of it either.
        db.close().await;
        assert_eq!(count(&admin, waits).await, 1);
        cluster.boot("replica");
        let db = connected(calm).await;
        let known = async {
            loop {
                if let CommitOutcome::Committed(_) = db.commit_outcome(ticket).await {
                    break;
                }
            }
        };
        tokio::time::timeout(LIMIT, known).await.expect("the standby has it now");
    });
}

#[test]
fn a_fenced_primary_is_named_as_the_reason() {
    on_cluster(|cluster, mut config| async move {
        config.acquire_timeout = Duration::from_millis(100);
        cluster.promote("replica");
        let db = connected(config).await;
        let status = until(&db, |status| status.primary.is_some()).await;
        assert_eq!(status.primary.as_ref(), Some(&status.nodes[1].id), "the later timeline wins");
        cluster.crash("replica");
        until(&db, |status| status.nodes[1].state == NodeState::Down).await;
        let error = db.write().await.expect_err("the other one is fenced");
        assert!(matches!(error, Error::NoPrimary { reason: NoPrimary::Fenced, .. }), "{error}");
    });
}

#[test]
fn a_replica_that_stops_replaying_loses_its_reads_and_gets_them_back() {
    on_cluster(|cluster, mut config| async move {
        config.replica_lag_max = Duration::from_millis(100);
        let db = connected(config).await;
        cluster.run_on("replica", "SELECT pg_wal_replay_pause()").await;
        let token = insert(&db, 5).await;
        let connection = db.read_after(token).await.expect("read");
        assert_eq!(connection.role(), Role::Primary);
        assert_eq!(connection.query_one(&NEWEST, &[]).await.expect("query").get::<_, i64>(0), 5);
        let late = |status: &paystrata_db::Status| {
            status.nodes[1].lag.is_some_and(|lag| lag > Duration::from_millis(100))
        };
        until(&db, late).await;
        assert_eq!(db.read().await.expect("read").role(), Role::Primary);
        cluster.run_on("replica", "SELECT pg_wal_replay_resume()").await;
        until(&db, |status| !late(status) && status.nodes[1].lsn.is_some_and(|lsn| lsn >= token.lsn)).await;
        assert_eq!(db.read().await.expect("read").role(), Role::Replica);
        assert_eq!(db.read_after(token).await.expect("read").role(), Role::Replica);
    });
}

#[test]
fn a_restarted_primary_is_used_again_without_handing_out_old_connections() {
    on_cluster(|cluster, config| async move {
        let db = connected(config).await;
        let token = insert(&db, 1).await;
        // Replication is asynchronous: what the replica has not got by then, it never will.
        until(&db, |status| status.nodes[1].lsn.is_some_and(|lsn| lsn >= token.lsn)).await;
        cluster.crash("primary");
        until(&db, |status| status.nodes[0].state == NodeState::Down).await;
        let read = db.read().await.expect("the replica reads on");
        assert_eq!(read.role(), Role::Replica);
        assert_eq!(read.query_one(&NEWEST, &[]).await.expect("query").get::<_, i64>(0), 1);
        cluster.boot("primary");
        until(&db, |status| status.nodes[0].state == NodeState::Up).await;
        for _ in 0..8 {
            let connection = db.write().await.expect("acquire");
            connection.query_one(&NEWEST, &[]).await.expect("no connection from before the crash");
        }
    });
}

/// Such a server refuses the very beginning of a transaction, and not as it refuses a write.
#[test]
fn a_primary_that_comes_back_as_a_standby_before_anybody_looks_costs_a_transaction_nothing() {
    on_cluster(|cluster, config| async move {
        let mut seldom = config;
        seldom.monitor_interval = 10 * LIMIT;
        let db = connected(seldom).await;
        insert(&db, 1).await;
        let same = Arc::clone(&cluster);
        let swap = move || {
            same.stop("primary");
            same.promote("replica");
            same.boot_as_standby("primary");
        };
        tokio::task::spawn_blocking(swap).await.expect("swap");
        assert_eq!(db.status().primary, Some(db.status().nodes[0].id.clone()), "nobody has looked");
        insert(&db, 2).await;
        assert_eq!(count(&plain(&cluster.url("replica")).await, "SELECT count(*) FROM note").await, 2);
    });
}
