//! What callers are told while no server answers, and what monitors see while every connection is held.

use std::time::Duration;

use futures_util::FutureExt as _;
use paystrata_db::{Db, Error, NoPrimary, NodeState, TransactionError, TransactionOptions};
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::proxy::{Mode, Proxy};
use crate::support::{LIMIT, ONE, connected, count, until, url, with_database};

/// Scenario 20 of the reference.
#[test]
fn when_all_servers_have_been_gone_for_long_everybody_is_refused_at_once() {
    with_database(|bed| async move {
        let (primary, replica) =
            (Proxy::before(&bed.primary_url()).await, Proxy::before(&bed.replica_url()).await);
        let mut config = bed.config();
        config.primary_url = url(&primary.url(&bed.primary_url()));
        config.replica_urls = vec![url(&replica.url(&bed.replica_url()))];
        config.acquire_timeout = Duration::from_millis(200);
        let db = connected(config).await;
        primary.set(Mode::Refuse);
        replica.set(Mode::Refuse);
        until(&db, |status| status.nodes.iter().all(|node| node.state == NodeState::Down)).await;
        let is_told = |error: &Error| matches!(error, Error::NoPrimary { reason: NoPrimary::AllDown, .. });
        let refused = db.write().await.expect_err("nobody answers");
        assert!(is_told(&refused) && refused.is_retryable(), "{refused}");

        // By the first poll: nothing is waited for any more, and nothing dialled.
        let late = async {
            while db.write().now_or_never().is_none() {
                yield_now().await;
            }
        };
        timeout(LIMIT, late).await.expect("the outage gets longer than anybody waits");
        for _ in 0..100 {
            for taken in [db.write().now_or_never(), db.read().now_or_never()] {
                let refused = taken.expect("at once").expect_err("nobody answers");
                assert!(is_told(&refused), "{refused}");
            }
            let shared = db.query_one(None, &ONE, &[]).now_or_never().expect("at once");
            assert!(shared.is_err_and(|refused| is_told(&refused)));
            let begun = db
                .transaction(TransactionOptions::default(), |_tx| async { Ok::<_, Error>(()) })
                .now_or_never();
            let refused = begun.expect("at once").expect_err("nobody answers");
            assert!(matches!(&refused, TransactionError::Database(error) if is_told(error)), "{refused}");
        }

        primary.set(Mode::Forward);
        until(&db, |status| status.primary.is_some()).await;
        let answered = async {
            while db.query_one(None, &ONE, &[]).await.is_err() {
                yield_now().await;
            }
        };
        timeout(LIMIT, answered).await.expect("it is back");
    });
}

/// Scenario 23 of the reference.
#[test]
fn a_server_is_seen_while_every_connection_to_it_is_held_and_another_says_nothing() {
    with_database(|bed| async move {
        let (primary, silent) =
            (Proxy::before(&bed.primary_url()).await, Proxy::before(&bed.replica_url()).await);
        silent.set(Mode::BlackHole);
        let mut config = bed.config();
        config.primary_url = url(&primary.url(&bed.primary_url()));
        config.replica_urls = vec![url(&silent.url(&bed.replica_url()))];
        config.pool_size_max = 1;
        // The silent one is being dialled for as long as this test takes.
        config.connect_timeout = 10 * LIMIT;
        let db = Db::connect(config).await.expect("connect");
        let held = db.write().await.expect("the only one");
        let admin = bed.admin().await;
        admin.client.batch_execute("CREATE TABLE note (body int)").await.expect("create");
        for _ in 0..10 {
            admin.client.batch_execute("INSERT INTO note VALUES (1)").await.expect("insert");
            let written = count(&admin, "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint").await;
            let written = u64::try_from(written).expect("a position");
            until(&db, |status| status.nodes[0].lsn.is_some_and(|lsn| lsn >= written)).await;
        }
        primary.set(Mode::Refuse);
        until(&db, |status| status.nodes[0].state == NodeState::Down).await;
        primary.set(Mode::Forward);
        let status = until(&db, |status| status.nodes[0].state == NodeState::Up).await;
        assert_eq!((status.nodes[0].pool.in_use, status.nodes[1].state), (1, NodeState::Unknown));
        drop(held);
    });
}
