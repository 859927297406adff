//! What the scenarios share: caches on the test's clock, loaders that are let go by the test, and nodes of a site.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use paystrata_cache::{
    Cache, CacheError, Clock, LoadContext, Loaded, Policy,
    testkit::{Link, Site},
};
use tokio::{sync::Notify, task::JoinHandle};

pub(crate) type Numbers = Cache<String, u64>;
pub(crate) type Answer = Result<Loaded<u64>, CacheError<Broken>>;

#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("source is broken")]
pub(crate) struct Broken;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Without chance.
pub(crate) fn exact(mut policy: Policy) -> Policy {
    policy.jitter = 0.0;
    policy
}

pub(crate) fn alone(policy: Policy) -> Numbers {
    Cache::builder("numbers").policy(exact(policy)).clock(Clock::tokio()).build()
}

/// A node of the site, which has heard of the others by when this returns.
pub(crate) async fn node(site: &Site, policy: Policy) -> (Numbers, Link) {
    let link = site.link();
    let tier = Arc::new(link.clone());
    let cache = Cache::builder("numbers")
        .policy(exact(policy))
        .clock(Clock::tokio())
        .tier(Arc::<Link>::clone(&tier))
        .backplane(tier)
        .build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    (cache, link)
}

/// A node that hears the others of the site and shares no tier with them.
pub(crate) async fn listener(site: &Site, policy: Policy) -> Numbers {
    let cache = Cache::builder("numbers")
        .policy(exact(policy))
        .clock(Clock::tokio())
        .backplane(Arc::new(site.link()))
        .build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    cache
}

/// A node with two tiers of different sites, the line that of the first.
pub(crate) async fn node_over_two(near: &Site, far: &Site, policy: Policy) -> (Numbers, Link, Link) {
    let (one, other) = (near.link(), far.link());
    let cache = Cache::builder("numbers")
        .policy(exact(policy))
        .clock(Clock::tokio())
        .tier(Arc::new(one.clone()))
        .tier(Arc::new(other.clone()))
        .backplane(Arc::new(one.clone()))
        .build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    (cache, one, other)
}

/// Waits until it is so, for as long as it takes on the paused clock.
pub(crate) async fn wait_for(is_so: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it does not come to pass");
}

/// Lets every spawned task run until it waits for the clock.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Time for a few trips to the site and back.
pub(crate) async fn trips() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// A loader that counts its calls and answers at once.
#[derive(Clone, Default)]
pub(crate) struct Teller {
    calls: Arc<AtomicUsize>,
}

impl Teller {
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    pub(crate) async fn read(&self, cache: &Numbers, key: &str, told: Result<Option<u64>, Broken>) -> Answer {
        let calls = Arc::clone(&self.calls);
        let load = move |_| async move {
            calls.fetch_add(1, SeqCst);
            told
        };
        cache.get_or_load_entry(key, load).await
    }

    /// The value of an answer that must be one.
    pub(crate) async fn value(&self, cache: &Numbers, key: &str, told: u64) -> u64 {
        self.read(cache, key, Ok(Some(told))).await.unwrap().value.unwrap()
    }
}

/// A loader that says when it has begun, and ends when it is let go.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    calls: Arc<AtomicUsize>,
    pub(crate) begun: Arc<Notify>,
    pub(crate) go: Arc<Notify>,
}

impl Gate {
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }

    pub(crate) fn read(
        &self,
        cache: &Numbers,
        key: &str,
        told: Result<Option<u64>, Broken>,
    ) -> JoinHandle<Answer> {
        self.read_tagged(cache, key, told, "")
    }

    pub(crate) fn read_tagged(
        &self,
        cache: &Numbers,
        key: &str,
        told: Result<Option<u64>, Broken>,
        tag: &'static str,
    ) -> JoinHandle<Answer> {
        let (gate, cache, key) = (self.clone(), cache.clone(), key.to_owned());
        let load = move |context: LoadContext<u64>| async move {
            if !tag.is_empty() {
                context.tag(tag);
            }
            gate.pass(told).await
        };
        tokio::spawn(async move { cache.get_or_load_entry(key.as_str(), load).await })
    }

    pub(crate) async fn pass(self, told: Result<Option<u64>, Broken>) -> Result<Option<u64>, Broken> {
        self.calls.fetch_add(1, SeqCst);
        self.begun.notify_one();
        self.go.notified().await;
        told
    }
}
