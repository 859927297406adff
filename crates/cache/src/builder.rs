//! Puts a cache together, once `settings` has nothing against it. Starts the tasks that shared tiers and a line need, and
//! nothing without them.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Notify, Semaphore};

use crate::{
    Cache, CacheKey, Clock, LineOptions, Load, LoadContext, Observer, Policy, TierOptions, Writer,
    WriterOptions,
    backplane::{Backplane, Line, Listener},
    clock::micros,
    codec::Codec,
    courier::{self, Ward},
    explain::{Chronicle, SweepLog},
    extend::Extensions,
    fleet::Fleet,
    flight::Flights,
    floors::Floors,
    horizon::Horizon,
    keeper::{self, Keeper, Renewal, TURNS},
    life::ENDLESS,
    local::{Local, slot_bytes},
    maintain,
    observer::{Guarded, Silent},
    outbox::Outbox,
    settings::{Asked, BuildError},
    stats::Counters,
    store::{Store, Weigher},
    sweeps::Sweeps,
    tier::Tier,
    tier_side::TierSide,
    warm::Heat,
    write_behind::WriteQueue,
};

/// What a caller waits at most for the confirmation of a change: longer than a breaker stays open by default.
const CONFIRMATION: Duration = Duration::from_secs(2);

/// Changed keys that may wait to be told: some 10 MB.
const PENDING_KEYS_MAX: usize = 65_536;

/// A cache in the making; see [`Cache::builder`].
pub struct CacheBuilder<K, V> {
    name: Arc<str>,
    policy: Policy,
    weigher: Weigher<K, V>,
    observer: Arc<dyn Observer>,
    clock: Clock,
    tiers: Vec<(Arc<dyn Tier>, TierOptions)>,
    backplane: Option<(Arc<dyn Backplane>, LineOptions)>,
    codec: Option<Codec<V>>,
    writer: Option<(Arc<dyn Writer<K, V>>, WriterOptions)>,
    pending_keys_max: usize,
    origin: u64,
    renewal: Option<Renewal<K, V>>,
    maintain_every: Duration,
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
            clock: Clock::system(),
            tiers: Vec::new(),
            backplane: None,
            codec: None,
            writer: None,
            pending_keys_max: PENDING_KEYS_MAX,
            origin: rand::random::<u64>() | 1,
            renewal: None,
            maintain_every: Duration::MAX,
        }
    }

    /// Sets lifetimes, room and waits; otherwise [`Policy::default`].
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Says how many bytes of heap a key and its value occupy; the entry itself is counted by the cache. Without it,
    /// values are taken to have no heap. Called once per stored value.
    #[must_use]
    pub fn weigher(mut self, weigher: impl Fn(&K, &V) -> usize + Send + Sync + 'static) -> Self {
        self.weigher = Box::new(weigher);
        self
    }

    /// Sets who is told of what happens.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Arc::new(Guarded(observer));
        self
    }

    /// Sets where the time comes from: [`Clock::tokio`] for tests that pause it.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Puts a shared tier between those named before and the loader.
    #[must_use]
    pub fn tier(self, tier: Arc<dyn Tier>) -> Self
    where
        V: Serialize + DeserializeOwned,
    {
        self.tier_with(tier, TierOptions::default())
    }

    /// As [`tier`](Self::tier), with its own lifetimes and limits.
    #[must_use]
    pub fn tier_with(mut self, tier: Arc<dyn Tier>, options: TierOptions) -> Self
    where
        V: Serialize + DeserializeOwned,
    {
        self.tiers.push((tier, options));
        #[cfg(feature = "messagepack")]
        self.codec.get_or_insert_with(Codec::messagepack);
        self
    }

    /// As [`tier_with`](Self::tier_with), with a codec for all shared tiers, which may be one of your own: then values
    /// need not be serializable.
    #[must_use]
    pub fn tier_with_codec(mut self, tier: Arc<dyn Tier>, options: TierOptions, codec: Codec<V>) -> Self {
        self.tiers.push((tier, options));
        self.codec(codec)
    }

    /// Tells other nodes what is void, and hears it from them. Of several, the one named last is used.
    #[must_use]
    pub fn backplane(self, backplane: Arc<dyn Backplane>) -> Self {
        self.backplane_with(backplane, LineOptions::default())
    }

    /// As [`backplane`](Self::backplane), with other limits.
    #[must_use]
    pub fn backplane_with(mut self, backplane: Arc<dyn Backplane>, options: LineOptions) -> Self {
        self.backplane = Some((backplane, options));
        self
    }

    /// Shares values and changes with other nodes through Redis: as a [`tier`](Self::tier) and as the
    /// [`backplane`](Self::backplane).
    #[cfg(feature = "redis")]
    #[must_use]
    pub fn redis(self, tier: &crate::RedisTier) -> Self
    where
        V: Serialize + DeserializeOwned,
    {
        self.tier(Arc::new(tier.clone())).backplane(Arc::new(tier.clone()))
    }

    /// Sets how values become bytes in shared tiers. Default: [`Codec::messagepack`] if that feature is on. See
    /// [`tier_with_codec`](Self::tier_with_codec) for values that are not serializable. Not used without a shared tier.
    #[must_use]
    pub fn codec(mut self, codec: Codec<V>) -> Self {
        self.codec = Some(codec);
        self
    }

    /// Sets where values go that are set under [`Write::Behind`](crate::Write::Behind): by the cache's own policy, or by one that
    /// [single calls are given](Cache::with).
    #[must_use]
    pub fn writer(self, writer: Arc<dyn Writer<K, V>>) -> Self {
        self.writer_with(writer, WriterOptions::default())
    }

    /// As [`writer`](Self::writer), with limits of its own.
    #[must_use]
    pub fn writer_with(mut self, writer: Arc<dyn Writer<K, V>>, options: WriterOptions) -> Self {
        self.writer = Some((writer, options));
        self
    }

    /// Loads keys anew every [`refresh_every`](Policy::refresh_every): those that were read since, and those that are
    /// [pinned](Cache::pin). At most 16,384 of them, eight at once. With a shared tier one node of the fleet loads a key
    /// per period, and the others take from the tier what it has loaded. Ends with the cache. Refused without a period.
    ///
    /// ```
    /// # use std::{convert::Infallible, time::Duration};
    /// # use paystrata_cache::{Cache, Policy};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # async fn rate(pair: String) -> Result<Option<f64>, Infallible> { Ok(Some(1.08)) }
    /// let rates: Cache<String, f64> = Cache::builder("rates")
    ///     .policy(Policy { refresh_every: Duration::from_secs(10), ..Policy::default() })
    ///     .keep_fresh(|pair, _context| rate(pair))
    ///     .build();
    /// rates.pin(["EURUSD".to_owned()]);
    /// # }
    /// ```
    #[must_use]
    pub fn keep_fresh<F, Fut, A, E>(mut self, load: F) -> Self
    where
        F: Fn(K, LoadContext<V>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        self.renewal = Some(keeper::renewal(load));
        self
    }

    /// Drops entries that are over in the background, this often, and tells the [observer](Observer::maintained) of it.
    /// Without it (the default) they are dropped when they are read, or when their room is needed. A minute is good, a
    /// millisecond the least, and `Duration::MAX` never.
    #[must_use]
    pub fn maintain_every(mut self, every: Duration) -> Self {
        self.maintain_every = every;
        self
    }

    /// Sets how many changed keys may wait to be told to the others; over it everything shared becomes void. At least 1.
    /// Default 65,536.
    #[must_use]
    pub fn pending_keys_max(mut self, keys: usize) -> Self {
        self.pending_keys_max = keys;
        self
    }

    /// Sets what tells this node from the others, instead of chance: for simulations that are to be repeated.
    #[cfg(any(test, feature = "testkit"))]
    #[must_use]
    pub fn origin(mut self, origin: u64) -> Self {
        self.origin = origin | 1;
        self
    }

    /// The cache.
    ///
    /// # Panics
    ///
    /// With a shared tier, a backplane, a writer, or something to do at intervals, outside of a Tokio runtime. And where
    /// [`try_build`](Self::try_build) gives an error, with the cache's name and that error: that is a mistake in the program.
    /// Where settings come from outside of it, take `try_build`.
    pub fn build(self) -> Cache<K, V> {
        let name = Arc::clone(&self.name);
        self.try_build().unwrap_or_else(|error| panic!("cache `{name}`: {error}"))
    }

    /// The cache, if what was asked for fits together. If not, nothing was connected and nothing started.
    ///
    /// # Errors
    ///
    /// [`BuildError`]: a setting that could not do what it is there for, or that another one makes do nothing. The
    /// [guide](crate::guide::policies) lists them.
    ///
    /// # Panics
    ///
    /// With a shared tier, a backplane, a writer, or something to do at intervals, outside of a Tokio runtime.
    pub fn try_build(self) -> Result<Cache<K, V>, BuildError> {
        self.asked().check()?;
        if let Some(doubt) = self.asked().doubt() {
            tracing::warn!(cache = %self.name, %doubt, "a setting is hardly what was meant");
        }
        Ok(self.assemble())
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            name: &self.name,
            policy: &self.policy,
            tiers: self.tiers.iter().map(|(_, options)| options).collect(),
            line: self.backplane.as_ref().map(|(_, options)| options),
            writer: self.writer.as_ref().map(|(_, options)| options),
            has_codec: self.codec.is_some(),
            has_renewal: self.renewal.is_some(),
            pending_keys_max: self.pending_keys_max,
            maintain_every: self.maintain_every,
            slot_bytes: slot_bytes::<K, V>() as u64,
        }
    }

    fn assemble(self) -> Cache<K, V> {
        let counters = Arc::new(Counters::default());
        let share = |(tier, options): &(Arc<dyn Tier>, TierOptions)| {
            TierSide::new(&self.name, &self.observer, tier.share(&self.name), options.clone(), self.clock)
        };
        let line: Option<(Arc<dyn Line>, LineOptions)> =
            self.backplane.as_ref().map(|(line, options)| (line.line(&self.name), options.clone()));
        let horizon = match &line {
            Some(_) => Horizon::with_line(micros(self.policy.max_stale)),
            None => Horizon::alone(),
        };
        let fleet = Arc::new(Fleet {
            cache: Arc::clone(&self.name),
            tiers: self.tiers.iter().map(share).collect(),
            line,
            outbox: Outbox::new(self.pending_keys_max),
            extensions: Extensions::default(),
            sweeps: Sweeps::default(),
            horizon,
            counters: Arc::clone(&counters),
            observer: Arc::clone(&self.observer),
            clock: self.clock,
            origin: self.origin,
            confirmation: CONFIRMATION,
            pulse: Notify::new(),
            stop: Notify::new(),
        });
        let turns = self.tiers.first().filter(|_| self.renewal.is_some()).map(|(tier, options)| {
            let share = tier.share(&format!("{}{TURNS}", self.name));
            TierSide::new(&self.name, &self.observer, share, options.clone(), self.clock)
        });
        let in_flight_max = self.policy.loads_max.saturating_add(self.policy.loads_queued_max);
        let store = Arc::new(Store {
            name: self.name,
            clock: self.clock,
            local: Local::new(&self.policy),
            flights: Flights::new(in_flight_max),
            floors: Floors::new(),
            loads: Arc::new(Semaphore::new(self.policy.loads_max.clamp(1, Semaphore::MAX_PERMITS))),
            counters,
            observer: self.observer,
            weigher: self.weigher,
            codec: self.codec,
            writes: self
                .writer
                .map(|(writer, options)| Arc::new(WriteQueue::new(writer, options, Arc::clone(&fleet)))),
            fleet,
            chronicle: Chronicle::new(),
            sweep_log: SweepLog::default(),
            heat: Heat::new(),
            keeper: self.renewal.map(|renewal| Keeper::new(renewal, turns)),
            policy: Arc::new(self.policy),
        });
        let mut tasks = start(&store);
        if self.maintain_every < ENDLESS {
            tasks.push(tokio::spawn(maintain::run(Arc::downgrade(&store), self.maintain_every)));
        }
        Cache::assemble(store, tasks)
    }
}

/// Starts what a cache needs in the background.
fn start<K, V>(store: &Arc<Store<K, V>>) -> Vec<tokio::task::JoinHandle<()>>
where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
{
    let mut tasks = Vec::new();
    if store.fleet.is_shared() || store.writes.is_some() {
        let ward: Arc<dyn Ward> = Arc::<Store<K, V>>::clone(store);
        let ward: Weak<dyn Ward> = Arc::downgrade(&ward);
        tasks.push(tokio::spawn(courier::run(Arc::clone(&store.fleet), ward)));
    }
    if let Some((line, _)) = &store.fleet.line {
        let listener: Arc<dyn Listener> = crate::hearing::listener(store);
        line.listen(Arc::downgrade(&listener));
    }
    if let Some(writes) = &store.writes {
        let (writes, store) = (Arc::clone(writes), Arc::downgrade(store));
        tasks.push(tokio::spawn(async move { writes.run(store).await }));
    }
    let refresh_every = store.policy.refresh_every;
    if store.keeper.is_some() && keeper::keeps(refresh_every) {
        tasks.push(tokio::spawn(keeper::run(Arc::downgrade(store), refresh_every)));
    }
    tasks
}

#[cfg(all(test, not(feature = "messagepack")))]
mod tests {
    use super::*;
    use crate::testkit::Site;

    #[tokio::test]
    async fn shared_tier_without_a_codec_is_refused() {
        let tier = || Arc::new(Site::new(1).link());
        let refused = Cache::<u64, String>::builder("names").tier(tier()).try_build();
        assert_eq!(refused.err(), Some(BuildError::NoCodec));
        let raw = Cache::<u64, String>::builder("names").tier(tier()).codec(Codec::raw()).try_build();
        assert!(raw.is_ok());
    }
}
