//! Whole caches over memcached, with a line in memory: memcached has none.

use std::sync::Arc;

use paystrata_cache::testkit::Site;

use crate::{
    server::{Server, tier, until_up},
    whole::{check, node},
};

// T39, T50, T75
#[tokio::test]
async fn two_nodes_over_memcached_agree() {
    let servers = [Server::start().await, Server::start().await];
    let tier = Arc::new(tier(&servers.iter().map(Server::address).collect::<Vec<_>>()));
    let site = Site::new(1);
    let line = || Arc::new(site.link());
    let (one, other) = (node(tier.clone(), line()).await, node(tier.clone(), line()).await);
    until_up(&tier, &[true, true]).await;
    check(&one, &other).await;
}
