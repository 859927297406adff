//! Redis in front of memcached, of which one hangs and goes away, and then the other. The line is in memory and outlives
//! both: what a tier could not be told of a change, the nodes are. Each node has L1 forget what it reads, so that the
//! tiers are asked.

use std::{convert::Infallible, sync::Arc, time::Duration};

use paystrata_cache::{
    Cache, LineOptions, Origin, Policy, RedisOptions, RedisServers, RedisTier, TierOptions, Version,
    YoungServer,
    memcached::{MemcachedOptions, MemcachedTier},
    testkit::Site,
};

use crate::{
    fixture::{Node, patient},
    memcached::{self, until_up},
    proxy::{Mode, Proxy},
    server::Server,
    whole::{Numbers, until},
};

/// What a call of a tier may take: a server that hangs costs it once or twice, and one that lives never takes so long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Long enough for anything that happens at all; no test measures time by it.
const LIMIT: Duration = Duration::from_secs(60);

/// The servers, and the ways to them.
struct House {
    redis: Server,
    proxy: Proxy,
    near: RedisTier,
    memcached: memcached::Server,
    far: MemcachedTier,
    site: Site,
}

impl House {
    async fn start() -> Self {
        let redis = Server::start().await;
        let proxy = Proxy::to(redis.port()).await;
        let options = RedisOptions { command_timeout: PATIENCE, ..patient() };
        let near = Node::up(&RedisServers::Single { url: proxy.url() }, options).await.tier;
        let memcached = memcached::Server::start().await;
        let options = MemcachedOptions {
            command_timeout: PATIENCE,
            young_server: YoungServer::Trusted,
            ..MemcachedOptions::default()
        };
        let far = MemcachedTier::connect(&memcached.address(), options).unwrap();
        Self { redis, proxy, near, memcached, far, site: Site::new(91) }
    }

    async fn node(&self) -> Numbers {
        let policy = Policy {
            jitter: 0.0,
            ttl: Duration::from_secs(600),
            l1_ttl: Duration::ZERO,
            max_stale: LIMIT,
            load_timeout: LIMIT,
            ..Policy::default()
        };
        let options = || TierOptions { timeout: PATIENCE, breaker_failures: 1, ..TierOptions::default() };
        let line = LineOptions { timeout: LIMIT, heartbeat: Duration::from_millis(50) };
        let node = Cache::builder("house")
            .policy(policy)
            .tier_with(Arc::new(self.near.clone()), options())
            .tier_with(Arc::new(self.far.clone()), options())
            .backplane_with(Arc::new(self.site.link()), line)
            .build();
        until("the line is heard", || node.stats().backplane_silence.is_some()).await;
        until("both tiers are up", || is_up(&node) == [true, true]).await;
        node
    }
}

fn is_up(node: &Numbers) -> Vec<bool> {
    node.stats().tiers.iter().map(|tier| tier.is_up).collect()
}

/// What the node has stored in either tier.
fn stored(node: &Numbers) -> Vec<u64> {
    node.stats().tiers.iter().map(|tier| tier.stored).collect()
}

/// An answer, which there must be, and where it comes from.
async fn read(node: &Numbers, key: &str, told: u64) -> (u64, Origin) {
    let load = move |_| async move { Ok::<_, Infallible>(Some(told)) };
    let loaded = node.get_or_load_entry(key, load).await.unwrap();
    (loaded.value.unwrap(), loaded.origin)
}

/// Has one node change a key, and waits until the other has heard of it: the `count`th change that it hears of.
async fn change(changing: &Numbers, hearing: &Numbers, key: &str, count: u64) {
    drop(changing.invalidate_many([key], Version(count)));
    until("it is announced", || changing.stats().pending_invalidations == 0).await;
    until("it is heard", || hearing.stats().remote_invalidations == count).await;
}

// T57
#[tokio::test]
async fn either_of_two_real_tiers_hangs_and_goes_away_and_the_other_one_answers_without_an_error() {
    let mut house = House::start().await;
    let (one, other) = (house.node().await, house.node().await);
    far_one_is_lost(&mut house, &one, &other).await;
    near_one_is_lost(&house, &one, &other).await;
}

/// And comes back empty.
async fn far_one_is_lost(house: &mut House, one: &Numbers, other: &Numbers) {
    assert_eq!(read(one, "a", 1).await, (1, Origin::Loader));
    until("both tiers have it", || stored(one) == [1, 1]).await;
    house.memcached.hang();
    assert_eq!(read(other, "a", 9).await, (1, Origin::Tier(0)), "nobody asks behind what is found in front");
    assert_eq!(read(other, "b", 2).await, (2, Origin::Loader), "the tier that hangs is passed over");
    assert!(other.stats().tiers[1].opened > 0);
    until("the near one has it", || stored(other) == [1, 0]).await;
    assert_eq!(read(one, "b", 9).await, (2, Origin::Tier(0)));

    house.memcached.kill();
    until_up(&house.far, &[false]).await;
    change(other, one, "a", 1).await;
    assert_eq!(read(one, "a", 3).await, (3, Origin::Loader));
    until("the near one has it", || stored(one) == [2, 1]).await;
    assert_eq!(read(other, "a", 9).await, (3, Origin::Tier(0)));

    house.memcached.run().await;
    until("it is used again", || [one, other].iter().all(|node| is_up(node) == [true, true])).await;
}

/// And comes back with all that it had.
async fn near_one_is_lost(house: &House, one: &Numbers, other: &Numbers) {
    assert_eq!(read(one, "c", 4).await, (4, Origin::Loader));
    until("both tiers have it", || stored(one) == [3, 2]).await;
    house.proxy.all(Mode::HoldReplies);
    assert_eq!(read(other, "c", 9).await, (4, Origin::Tier(1)), "the tier that hangs is passed over");
    assert!(other.stats().tiers[0].opened > 0);

    house.proxy.all(Mode::Cut);
    until("the near one is down", || !house.near.is_up()).await;
    change(other, one, "c", 2).await;
    assert_eq!(read(one, "c", 5).await, (5, Origin::Loader));
    until("the far one has it", || stored(one) == [3, 3]).await;
    assert_eq!(read(other, "c", 9).await, (5, Origin::Tier(1)));

    house.proxy.all(Mode::Pass);
    until("it is used again", || [one, other].iter().all(|node| is_up(node) == [true, true])).await;
    assert!(house.redis.ask::<bool>("EXISTS test:house:c").await, "it has what it was not told is void");
    assert_eq!(read(one, "c", 9).await, (5, Origin::Tier(1)), "and nobody believes it");
    until("it has taken up what the far one has", || stored(one) == [4, 3]).await;
    assert_eq!(read(other, "c", 9).await, (5, Origin::Tier(0)));
}
