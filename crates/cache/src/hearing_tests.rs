//! How long an entry is served without word from the other nodes, and what silence and leave-taking
//! mean. On the test's clock and an in-memory remote tier.

use std::{convert::Infallible, sync::Arc, sync::atomic::Ordering::SeqCst, time::Duration};

use tokio::time::sleep;

use crate::{
    Cache, Policy, Version,
    remote::double::{Double, Server},
};

const MAX_STALE: Duration = Duration::from_secs(2);

/// Many times the bound on staleness, far below the time to live.
const LONG: Duration = Duration::from_secs(60);

type Node = (Cache<u64, u64>, Double);

fn node(server: &Arc<Server>) -> Node {
    let tier = server.node();
    let hour = Duration::from_secs(3_600);
    let policy = Policy { max_stale: MAX_STALE, ttl: hour, l1_ttl: hour, ..Policy::default() };
    (Cache::builder("hearing").policy(policy).tier(Arc::new(tier.clone())).build(), tier)
}

async fn read(cache: &Cache<u64, u64>, value: u64) -> u64 {
    let found = cache.get_or_load(&1, move |_| async move { Ok::<_, Infallible>(Some(value)) }).await;
    found.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn signs_of_life_keep_an_entry_served_and_silence_ends_it() {
    let (cache, tier) = node(&Server::new(1));
    assert_eq!(read(&cache, 7).await, 7);
    sleep(LONG).await;
    assert_eq!(cache.get(&1), Some(7));
    assert!(cache.stats().backplane_silence.is_some_and(|silence| silence < MAX_STALE));

    tier.node.deafen();
    sleep(MAX_STALE / 2).await;
    assert_eq!(cache.get(&1), Some(7));
    sleep(MAX_STALE).await;
    assert_eq!(cache.get(&1), None);
}

#[tokio::test(start_paused = true)]
async fn other_nodes_write_is_seen_within_the_bound_by_a_node_that_cannot_hear() {
    let server = Server::new(2);
    let ((writer, _), (reader, tier)) = (node(&server), node(&server));
    assert_eq!(read(&reader, 1).await, 1);
    tier.node.deafen();
    writer.invalidate_many([&1], Version(5)).await;
    assert_eq!(read(&reader, 2).await, 1, "nobody has told it");
    sleep(MAX_STALE * 2).await;
    assert_eq!(read(&reader, 2).await, 2);
    // What it loads without hearing is served for the bound as well, and not longer.
    sleep(MAX_STALE / 2).await;
    assert_eq!(reader.get(&1), Some(2));
    sleep(MAX_STALE).await;
    assert_eq!(reader.get(&1), None);
}

#[tokio::test(start_paused = true)]
async fn lost_remote_tier_does_not_end_what_l1_can_do() {
    let (cache, tier) = node(&Server::new(3));
    tier.node.down.store(true, SeqCst);
    assert_eq!(read(&cache, 1).await, 1);
    sleep(MAX_STALE / 2).await;
    assert_eq!(read(&cache, 2).await, 1, "an entry is good for the bound after its load");
    sleep(MAX_STALE).await;
    assert_eq!(read(&cache, 3).await, 3);
}

#[tokio::test(start_paused = true)]
async fn peer_that_vanishes_is_missed_once_and_one_that_takes_leave_never() {
    let server = Server::new(4);
    let ((stays, _), (polite, _), (lost, _)) = (node(&server), node(&server), node(&server));
    sleep(MAX_STALE).await;
    polite.close().await;
    sleep(LONG).await;
    assert_eq!(stays.stats().gaps, 0);
    drop(lost);
    sleep(LONG).await;
    assert_eq!(stays.stats().gaps, 1);
}
