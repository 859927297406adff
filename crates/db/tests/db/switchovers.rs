//! Fifty writers while the primary is killed or handed over: what they were told is there, what they were not told is named as
//! unknown, and nothing else of it reaches them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use paystrata_db::{Config, Db, Statement, TransactionOptions, Type};

use crate::cluster::Cluster;
use crate::failover::on_cluster;
use crate::support::{LIMIT, connected, count, plain, until};

const WRITERS: i64 = 50;
/// Numbers of one writer; it writes far fewer.
const STRIDE: i64 = 1_000_000;

static INSERT: Statement = Statement::new("INSERT INTO note VALUES ($1)", &[Type::INT8]);

/// What came of a writer's rows.
#[derive(Debug, Default)]
struct Told {
    committed: Vec<i64>,
    unknown: Vec<i64>,
}

/// Writes a row after the other until `done`, and one more.
async fn write(db: &Db, writer: i64, done: &AtomicBool, written: &AtomicI64) -> Told {
    let options =
        TransactionOptions { timeout: 2 * LIMIT, attempts_max: 10_000, ..TransactionOptions::default() };
    let mut told = Told::default();
    for body in writer * STRIDE.. {
        let is_last = done.load(Ordering::Acquire);
        match db.transaction(options, |tx| async move { tx.execute(&INSERT, &[&body]).await }).await {
            Ok(_) => {
                told.committed.push(body);
                written.fetch_add(1, Ordering::Release);
            }
            Err(error) if error.outcome_is_unknown() => told.unknown.push(body),
            Err(error) => panic!("{body}: {error}"),
        }
        if is_last {
            break;
        }
    }
    told
}

/// Fifty writers, a strike that ends with another primary, and a reckoning. Gives the commits of unknown outcome.
async fn written_through(
    cluster: Arc<Cluster>,
    config: Config,
    strike: impl FnOnce(&Cluster) + Send + 'static,
) -> usize {
    let db = connected(config).await;
    let (done, written) = (AtomicBool::new(false), AtomicI64::new(0));
    let writers = join_all((0..WRITERS).map(|writer| write(&db, writer, &done, &written)));
    let fault = async {
        while written.load(Ordering::Acquire) < 4 * WRITERS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let same = Arc::clone(&cluster);
        tokio::task::spawn_blocking(move || strike(&same)).await.expect("strike");
        until(&db, |status| status.primary.as_ref() == Some(&status.nodes[1].id)).await;
        done.store(true, Ordering::Release);
    };
    let all = tokio::time::timeout(3 * LIMIT, Box::pin(async { tokio::join!(writers, fault).0 }));
    let told = all.await.expect("writes go on");

    let committed: Vec<i64> = told.iter().flat_map(|told| told.committed.iter().copied()).collect();
    let unknown: Vec<i64> = told.iter().flat_map(|told| told.unknown.iter().copied()).collect();
    let successor = plain(&cluster.url("replica")).await;
    let there = "SELECT count(*) FROM note WHERE body = ANY($1)";
    let of = async |bodies: &Vec<i64>| {
        let row = successor.client.query_one(there, &[bodies]).await.expect("count");
        usize::try_from(row.get::<_, i64>(0)).expect("a count")
    };
    assert_eq!(of(&committed).await, committed.len(), "acknowledged rows are gone");
    let all = count(&successor, "SELECT count(*) FROM note").await;
    assert_eq!(
        usize::try_from(all).expect("a count"),
        committed.len() + of(&unknown).await,
        "rows of nobody"
    );
    assert!(told.iter().all(|told| !told.committed.is_empty()), "every writer got through");
    unknown.len()
}

#[test]
fn a_primary_killed_under_fifty_writers_loses_nothing_that_was_acknowledged() {
    on_cluster(|cluster, config| async move {
        // Only so is a commit in two places when it is acknowledged.
        cluster.run_on("primary", "ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        cluster.run_on("primary", "SELECT pg_reload_conf()").await;
        let primary = plain(&cluster.url("primary")).await;
        let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        while count(&primary, synchronous).await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(primary);
        let unknown = written_through(cluster, config, |cluster| {
            cluster.kill("primary");
            cluster.promote("replica");
        });
        let unknown = unknown.await;
        assert!(unknown < 50, "at most the commits that were under way: {unknown}");
    });
}

#[test]
fn a_primary_handed_over_under_fifty_writers_shows_them_no_error() {
    on_cluster(|cluster, config| async move {
        let unknown = written_through(cluster, config, |cluster| {
            // It sends the rest of its log before it ends.
            cluster.stop("primary");
            cluster.promote("replica");
        });
        // One commit per connection may have been answered by the end of the server.
        let unknown = unknown.await;
        assert!(unknown <= 4, "{unknown}");
    });
}
