//! Whole caches over a Postgres table and its notifications.

use std::sync::Arc;

use crate::{
    server::Bed,
    whole::{check, node},
};

// T39, T50, T75
#[tokio::test]
async fn two_nodes_over_postgres_agree() {
    let bed = Bed::shared().await;
    let (first, second) = (Arc::new(bed.tier()), Arc::new(bed.tier()));
    let (one, other) = (node(first.clone(), first).await, node(second.clone(), second).await);
    check(&one, &other).await;
}
