//! Whole caches over Redis: one server, a Cluster, and a primary under Sentinels.

use std::sync::Arc;

use paystrata_cache::{RedisServers, RedisTier, Version};

use crate::{
    fixture::{Node, patient},
    server::{Cluster, Server, Watched},
    whole::{Numbers, check, node, read, until},
};

async fn whole(servers: &RedisServers) -> Numbers {
    let tier: Arc<RedisTier> = Arc::new(Node::up(servers, patient()).await.tier);
    node(tier.clone(), tier).await
}

// T39, T50, T75
#[tokio::test]
async fn two_nodes_over_redis_agree() {
    let server = Server::start().await;
    let servers = RedisServers::Single { url: server.url() };
    check(&whole(&servers).await, &whole(&servers).await).await;
}

// T39, T50, T75
#[tokio::test]
async fn two_nodes_over_a_cluster_agree() {
    let cluster = Cluster::start().await;
    let servers = RedisServers::Cluster { seeds: cluster.urls() };
    Node::up(&servers, patient()).await.settled().await;
    check(&whole(&servers).await, &whole(&servers).await).await;
}

// T39, T50
#[tokio::test]
async fn two_nodes_over_a_primary_under_sentinels_agree() {
    let watched = Watched::start().await;
    let servers = RedisServers::Sentinel {
        sentinels: watched.sentinel_urls(),
        service: "pay".to_owned(),
        login: "redis://unused".to_owned(),
    };
    check(&whole(&servers).await, &whole(&servers).await).await;
}

// T65, H25
#[tokio::test]
async fn words_of_another_release_on_the_channel_are_skipped_and_counted() {
    let server = Server::start().await;
    let servers = RedisServers::Single { url: server.url() };
    let (one, other) = (whole(&servers).await, whole(&servers).await);
    assert_eq!(read(&one, "k", 1).await, Some(1));
    server.ask::<u64>("PUBLISH test:whole P9whatever").await;
    until("it is counted", || one.stats().unreadable == 1).await;
    assert_eq!((one.get("k"), one.stats().gaps), (Some(1), 0));
    drop(other.invalidate_many(["k"], Version(5)));
    until("what is understood is obeyed", || one.get("k").is_none()).await;
}
