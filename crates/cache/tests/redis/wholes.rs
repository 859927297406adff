//! Whole caches over Redis: one server, a Cluster, and a primary under Sentinels.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use paystrata_cache::{
    Cache, LoadContext, Origin, RedisOptions, RedisServers, RedisTier, Version,
    backplane::{Announcement, Backplane},
    codec::{Codec, Compression},
};

use crate::{
    fixture::{Node, bytes, patient},
    server::{Cluster, Server, Watched},
    whole::{Numbers, check, node, read, until},
};

async fn whole(servers: &RedisServers) -> Numbers {
    whole_with(servers, patient()).await
}

/// A cache that is connected to every server: a shard that is still dialed would be passed over.
pub(crate) async fn whole_with(servers: &RedisServers, options: RedisOptions) -> Numbers {
    let connected = Node::up(servers, options).await;
    connected.settled().await;
    let tier: Arc<RedisTier> = Arc::new(connected.tier);
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

// T65, H25
#[tokio::test]
async fn announcement_of_another_release_voids_all_that_it_may_be_about_and_is_counted() {
    let server = Server::start().await;
    let servers = RedisServers::Single { url: server.url() };
    let (one, other) = (whole(&servers).await, whole(&servers).await);
    for key in ["a", "b"] {
        assert_eq!(read(&one, key, 1).await, Some(1));
    }
    let newer = Node::up(&servers, patient()).await.tier.line("whole");
    let body = bytes("a form that is to come");
    newer.announce(&Announcement { body, sweeps: vec![], version: Version::NONE }).await.unwrap();
    until("it is counted", || one.stats().unreadable == 1 && other.stats().unreadable == 1).await;
    assert_eq!((one.get("a"), one.get("b"), one.stats().gaps), (None, None, 1));
    assert_eq!(read(&one, "a", 2).await, Some(2), "what the tier has from before is not believed either");
    drop(other.invalidate_many(["a"], Version(5)));
    until("what is understood is obeyed", || one.get("a").is_none()).await;
}

// T79, H27
#[tokio::test]
async fn caches_of_two_databases_of_one_server_do_not_hear_each_other() {
    let server = Server::start().await;
    let servers = |database: u8| RedisServers::Single { url: format!("{}/{database}", server.url()) };
    let (one, same, other) = (whole(&servers(1)).await, whole(&servers(1)).await, whole(&servers(2)).await);
    assert_eq!((read(&one, "k", 1).await, read(&other, "k", 2).await), (Some(1), Some(2)));
    until("the tier has it", || one.stats().tiers[0].stored == 1).await;
    other.clear().await;
    assert_eq!(other.get("k"), None, "its own are gone");
    let pulses = one.stats();
    drop(same.invalidate_many(["another"], Version(1)));
    until("who shares the database is heard", || one.stats().remote_invalidations == 1).await;
    let now = one.stats();
    assert_eq!(
        (one.get("k"), now.gaps, now.unreadable, now.sweeps),
        (Some(1), pulses.gaps, 0, pulses.sweeps)
    );
    assert_eq!(read(&same, "k", 3).await, Some(1), "and the tier is believed");
}

/// T69, and the one-line form of a cached function, over a real tier.
#[tokio::test]
async fn function_whose_answers_are_compressed_is_called_once_for_two_nodes() {
    let server = Server::start().await;
    let servers = RedisServers::Single { url: server.url() };
    let calls = Arc::new(AtomicUsize::new(0));
    let build = async || {
        let tier: Arc<RedisTier> = Arc::new(Node::up(&servers, patient()).await.tier);
        let calls = Arc::clone(&calls);
        let cache: Cache<(String, u32), String> = Cache::builder("pages")
            .codec(Codec::json().compress(Compression::Zstd { level: 3 }, 1_024))
            .tier(tier.clone())
            .backplane(tier)
            .build();
        until("the line is heard", || cache.stats().backplane_silence.is_some()).await;
        let page = move |(word, times): (String, u32), _: LoadContext<String>| {
            calls.fetch_add(1, SeqCst);
            async move { Ok::<_, Infallible>(Some(word.repeat(times as usize))) }
        };
        cache.wrap(page).tagged("pages").tagged_by(|(word, _)| [format!("word:{word}")])
    };
    let (one, other) = (build().await, build().await);
    let arguments = || ("paystrata ".to_owned(), 10_000);
    let first = one.call(arguments()).await.unwrap().unwrap();
    until("the tier has it", || one.cache().stats().tiers[0].stored == 1).await;
    let found = other.call_entry(arguments()).await.unwrap();
    assert_eq!((found.value.as_deref(), found.origin), (Some(&*first), Origin::Tier(0)));
    assert_eq!(other.call(arguments()).await.unwrap().as_deref(), Some(&*first));
    assert_eq!(calls.load(SeqCst), 1);
    let written = one.cache().stats().tiers[0].bytes_written;
    assert!(written > 0 && written < 2_000, "{written} bytes of 100,000");
    drop(one.cache().tag("word:paystrata ").remove());
    until("it is void on both", || other.cache().get(&arguments()).is_none()).await;
    other.call(arguments()).await.unwrap();
    assert_eq!(calls.load(SeqCst), 2);
}
