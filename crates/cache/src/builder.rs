//! Puts a cache together. Starts the tasks that a remote tier needs, and nothing without one.

use std::{fmt, sync::Arc};

use tokio::sync::{Notify, Semaphore};

use crate::{
    Cache, CacheKey, Observer, Policy,
    clock::{Clock, micros},
    flight::Flights,
    floors::Floors,
    local::Local,
    observer::Silent,
    remote::{
        Tier,
        backplane::{Hearing, Listener},
        courier::{self, Outbound},
        envelope::Codec,
        outbox::Outbox,
    },
    stats::Counters,
    store::{RemoteSide, Store, Weigher},
};

/// A cache in the making; see [`Cache::builder`].
pub struct CacheBuilder<K, V> {
    name: Arc<str>,
    policy: Policy,
    weigher: Weigher<K, V>,
    observer: Arc<dyn Observer>,
    tier: Option<(Arc<dyn Tier>, Codec<V>)>,
}

impl<K, V> fmt::Debug for CacheBuilder<K, V> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CacheBuilder")
            .field("name", &self.name)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> CacheBuilder<K, V> {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            policy: Policy::default(),
            weigher: Box::new(|_, _| 0),
            observer: Arc::new(Silent),
            tier: None,
        }
    }

    /// Sets lifetimes, room and waits; otherwise [`Policy::default`].
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Says how many bytes of heap a key and its value occupy; the entry itself is counted by the
    /// cache. Without it, values are taken to have no heap. Called once per stored value.
    #[must_use]
    pub fn weigher(mut self, weigher: impl Fn(&K, &V) -> usize + Send + Sync + 'static) -> Self {
        self.weigher = Box::new(weigher);
        self
    }

    /// Sets who is told of what happens.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// Shares entries and invalidations with other nodes through Redis.
    #[cfg(feature = "redis")]
    #[must_use]
    pub fn redis(self, tier: &crate::RedisTier) -> Self
    where
        V: serde::Serialize + serde::de::DeserializeOwned,
    {
        self.tier(tier.attachable())
    }

    #[cfg(any(feature = "redis", test))]
    pub(crate) fn tier(mut self, tier: Arc<dyn Tier>) -> Self
    where
        V: serde::Serialize + serde::de::DeserializeOwned,
    {
        self.tier = Some((tier, Codec::json()));
        self
    }

    /// The cache.
    ///
    /// # Panics
    ///
    /// With a remote tier, outside of a Tokio runtime.
    pub fn build(self) -> Cache<K, V> {
        let clock = Clock::start();
        let counters = Arc::new(Counters::default());
        let tier = self.tier.as_ref().map(|(tier, _)| Arc::clone(tier));
        let remote = self.tier.map(|(tier, codec)| {
            remote_side(&*tier, codec, Arc::clone(&self.name), clock, Arc::clone(&counters))
        });
        let in_flight_max = self.policy.loads_max.saturating_add(self.policy.loads_queued_max);
        let store = Arc::new(Store {
            name: self.name,
            clock,
            local: Local::new(&self.policy),
            flights: Flights::new(in_flight_max),
            floors: Floors::new(),
            loads: Semaphore::new(self.policy.loads_max.clamp(1, Semaphore::MAX_PERMITS)),
            counters,
            observer: self.observer,
            weigher: self.weigher,
            remote,
            max_stale_us: micros(self.policy.max_stale),
            policy: self.policy,
        });
        if let Some(tier) = tier {
            let listener: Arc<dyn Listener> = Arc::<Store<K, V>>::clone(&store);
            tier.listen(Arc::downgrade(&listener));
        }
        let courier =
            store.remote.as_ref().map(|side| tokio::spawn(courier::run(Arc::clone(&side.outbound))));
        Cache::assemble(store, courier)
    }
}

fn remote_side<V>(
    tier: &dyn Tier,
    codec: Codec<V>,
    cache: Arc<str>,
    clock: Clock,
    counters: Arc<Counters>,
) -> RemoteSide<V> {
    let origin = rand::random();
    let outbound = Outbound {
        remote: tier.remote(&cache),
        cache,
        outbox: Outbox::new(tier.pending_keys_max()),
        origin,
        clock,
        counters,
        timing: tier.timing(),
        pulse: Notify::new(),
        stop: Notify::new(),
    };
    RemoteSide { outbound: Arc::new(outbound), hearing: Hearing::new(origin), codec }
}
