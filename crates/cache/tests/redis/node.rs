//! One node of a test: a cache on a tier of its own, and a source that says what loaders find.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use paystrata_cache::{Cache, Policy, RedisOptions, RedisTier};
use tokio::{sync::Notify, task::JoinHandle};

pub(crate) struct Node {
    pub(crate) cache: Cache<String, u64>,
    pub(crate) tier: RedisTier,
    pub(crate) calls: Arc<AtomicU64>,
}

/// Commands may take long on a busy test machine; no test but those about it should time out.
pub(crate) fn patient() -> RedisOptions {
    RedisOptions {
        namespace: "test".to_owned(),
        command_timeout: Duration::from_secs(20),
        heartbeat: Duration::from_millis(50),
        ..RedisOptions::default()
    }
}

pub(crate) fn steady() -> Policy {
    Policy {
        jitter: 0.0,
        max_stale: Duration::from_secs(60),
        lease_wait: Duration::ZERO,
        ..Policy::default()
    }
}

impl Node {
    /// A node that is connected and hears.
    pub(crate) async fn up(url: &str) -> Self {
        Self::up_with(url, patient(), steady()).await
    }

    pub(crate) async fn up_with(url: &str, options: RedisOptions, policy: Policy) -> Self {
        let node = Self::new(url, options, policy);
        node.is_up().await;
        // One of its own messages has come back: from here on nothing passes it by.
        eventually("the node listens", async || node.cache.stats().backplane_silence.is_some()).await;
        node
    }

    pub(crate) fn new(url: &str, options: RedisOptions, policy: Policy) -> Self {
        let tier = RedisTier::connect(url, options).unwrap();
        let cache = Cache::builder("numbers").policy(policy).redis(&tier).build();
        Self { cache, tier, calls: Arc::default() }
    }

    pub(crate) async fn is_up(&self) {
        eventually("the tier is up", async || self.tier.is_up()).await;
    }

    /// The value of `key`, which the source says is `value`.
    pub(crate) async fn read(&self, key: &str, value: u64) -> u64 {
        let calls = Arc::clone(&self.calls);
        let load = move |_| async move {
            calls.fetch_add(1, SeqCst);
            Ok::<_, Infallible>(Some(value))
        };
        self.cache.get_or_load(key, load).await.unwrap().unwrap()
    }

    /// Reads, and waits until the remote tier has the value: it is written after the reader is answered.
    pub(crate) async fn read_and_store(&self, key: &str, value: u64) {
        let stored = self.cache.stats().l2_stored;
        assert_eq!(self.read(key, value).await, value);
        eventually("the value is stored remotely", async || self.cache.stats().l2_stored > stored).await;
    }

    /// Waits until values are stored remotely again after an outage. A subscription that comes back
    /// meanwhile voids the loads under way, so more than one may be needed.
    pub(crate) async fn stores_again(&self) {
        let (stored, mut attempt) = (self.cache.stats().l2_stored, 0);
        while self.cache.stats().l2_stored == stored {
            attempt += 1;
            assert!(attempt < 5_000, "never stored again");
            assert_eq!(self.read(&format!("attempt {attempt}"), attempt).await, attempt);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Begins a load that has called the source and ends when it is let go.
    pub(crate) async fn begin_read(
        &self,
        key: &'static str,
        value: u64,
    ) -> (Arc<Notify>, JoinHandle<Option<u64>>) {
        let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let load = {
            let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
            move |_| async move {
                begun.notify_one();
                go.notified().await;
                Ok::<_, Infallible>(Some(value))
            }
        };
        let cache = self.cache.clone();
        let read = tokio::spawn(async move { cache.get_or_load(key, load).await.unwrap() });
        begun.notified().await;
        (go, read)
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(SeqCst)
    }
}

/// How many nodes are subscribed.
pub(crate) async fn listeners(url: &str) -> u64 {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let (_, count): (String, u64) =
        redis::cmd("PUBSUB").arg("NUMSUB").arg("test:").query_async(&mut connection).await.unwrap();
    count
}

/// Waits for a condition that must come true, and fails with its name if it does not.
pub(crate) async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}
