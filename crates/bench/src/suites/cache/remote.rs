//! The second tier: single reads of many callers against the bare multiplexed connection's `GET`, and batches of 64 against
//! its `MGET`. The first tier is told to keep nothing, so that each read goes to Redis; one that reaches the loader instead
//! makes the run void.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::BoxFuture;
use paystrata_cache::{Cache, LoadContext, Policy, RedisOptions, RedisTier};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;

use super::Sizes;
use crate::measure::{Contender, interleave};
use crate::report::{Better, CaseReport, PeerFigures, Target};
use crate::suite::Context;

const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 100;
const CALLERS: u64 = 64;
/// Keys of one batch, and callers with a batch each: a few fill the connection, more only wait.
const BATCH: u64 = 64;
const BATCH_CALLERS: u64 = 4;
/// Outlives the run; a server that is not private is clean again afterwards.
const TTL: Duration = Duration::from_secs(900);
/// The share of reads that may find no entry, being the first to come or refused by a time limit.
const LOADED_PART_MAX: f64 = 0.001;

/// A read of some keys, by whatever way.
trait Source: Send + Sync + 'static {
    /// How many of them had a value.
    fn read(&self, keys: Vec<u64>) -> BoxFuture<'_, anyhow::Result<u64>>;
}

/// Our two tiers over the loader.
#[derive(Clone)]
struct Ours {
    cache: Cache<u64, Arc<str>>,
    loads: Arc<AtomicU64>,
}

impl Ours {
    fn connect(url: &str) -> anyhow::Result<Self> {
        let options = RedisOptions { namespace: "paystrata-bench".to_owned(), ..RedisOptions::default() };
        let tier = RedisTier::connect(url, options)?;
        let policy = Policy { ttl: TTL, l1_ttl: Duration::ZERO, ..Policy::default() };
        let cache = Cache::builder("bench").policy(policy).redis(&tier).build();
        Ok(Self { cache, loads: Arc::default() })
    }

    async fn get(&self, key: u64) -> anyhow::Result<u64> {
        let loads = Arc::clone(&self.loads);
        let load = move |_: LoadContext<Arc<str>>| async move {
            loads.fetch_add(1, Relaxed);
            Ok::<_, Infallible>(Some(Arc::from(value())))
        };
        Ok(u64::from(self.cache.get_or_load(&key, load).await?.is_some()))
    }

    async fn get_many(&self, keys: &[u64]) -> anyhow::Result<u64> {
        let loads = Arc::clone(&self.loads);
        let load = move |missing: Vec<u64>, _: LoadContext<Arc<str>>| {
            let loads = Arc::clone(&loads);
            async move {
                loads.fetch_add(missing.len() as u64, Relaxed);
                let found = missing.iter().map(|_| Ok(Some(Arc::from(value())))).collect();
                Ok::<Vec<Result<Option<Arc<str>>, Infallible>>, Infallible>(found)
            }
        };
        let mut found = 0;
        for answer in self.cache.get_or_load_many(keys, load).await {
            found += u64::from(answer?.is_some());
        }
        Ok(found)
    }

    fn hits_in_redis(&self) -> u64 {
        self.cache.stats().tiers.iter().map(|tier| tier.hits).sum()
    }
}

/// As long as a small record in JSON.
fn value() -> String {
    "x".repeat(VALUE_BYTES)
}

impl Source for Ours {
    fn read(&self, keys: Vec<u64>) -> BoxFuture<'_, anyhow::Result<u64>> {
        Box::pin(async move {
            if let [key] = keys[..] {
                return self.get(key).await;
            }
            self.get_many(&keys).await
        })
    }
}

/// What a user without a cache library would write.
#[derive(Clone)]
struct Bare(MultiplexedConnection);

fn bare_key(key: u64) -> String {
    format!("paystrata-bench:bare:{key}")
}

impl Source for Bare {
    fn read(&self, keys: Vec<u64>) -> BoxFuture<'_, anyhow::Result<u64>> {
        let mut connection = self.0.clone();
        Box::pin(async move {
            if let [key] = keys[..] {
                let found: Option<String> = connection.get(bare_key(key)).await?;
                return Ok(u64::from(found.is_some()));
            }
            let names: Vec<String> = keys.into_iter().map(bare_key).collect();
            let found: Vec<Option<String>> = connection.mget(names).await?;
            Ok(found.iter().flatten().count() as u64)
        })
    }
}

impl Bare {
    async fn connect(url: &str) -> anyhow::Result<Self> {
        let client = redis::Client::open(url).map_err(|_| anyhow::anyhow!("--redis-url is no Redis URL"))?;
        let mut connection = client.get_multiplexed_async_connection().await.context("connect to Redis")?;
        let mut pipeline = redis::pipe();
        for key in 0..KEYS {
            pipeline.set_ex(bare_key(key), value(), TTL.as_secs()).ignore();
        }
        let () = pipeline.query_async(&mut connection).await.context("store the bare values")?;
        Ok(Self(connection))
    }
}

/// A closed loop of callers; the figure is keys per second.
struct Loop {
    name: &'static str,
    source: Arc<dyn Source>,
    callers: u64,
    batch: u64,
    duration: Duration,
}

impl Loop {
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    async fn run(&self, duration: Duration) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let mut callers = JoinSet::new();
        for caller in 0..self.callers {
            let (source, batch) = (Arc::clone(&self.source), self.batch);
            callers.spawn(async move {
                let (mut key, mut found) = (caller * 1_009, 0);
                while begun.elapsed() < duration {
                    // A stride that shares no factor with the number of keys meets them all, in no order.
                    let keys: Vec<u64> = (0..batch).map(|step| (key + step * 7_919) % KEYS).collect();
                    found += source.read(keys).await?;
                    key += batch * 7_919;
                }
                anyhow::Ok(found)
            });
        }
        let mut found = 0;
        while let Some(caller) = callers.join_next().await {
            found += caller.context("a caller panicked")??;
        }
        Ok(found as f64 / begun.elapsed().as_secs_f64())
    }
}

impl Contender for Loop {
    fn name(&self) -> String {
        format!("{}, {} callers", self.name, self.callers)
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async { self.run(self.duration / 4).await.map(drop) })
    }

    fn measure(&mut self, _round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(self.run(self.duration))
    }
}

/// The cases.
pub(super) async fn measure(
    context: &Context,
    sizes: Sizes,
    notes: &mut Vec<String>,
) -> anyhow::Result<Vec<CaseReport>> {
    let url = context.redis_url.as_deref().context("this suite needs --redis-url")?;
    let (ours, bare) = (Ours::connect(url)?, Bare::connect(url).await?);
    fill(&ours).await?;
    let loads_before = ours.loads.load(Relaxed);
    let hits_before = ours.hits_in_redis();
    let single = (CALLERS, 1, "single L2 reads, 64 callers", "redis GET", 0.85, "reads/s");
    let batch = (BATCH_CALLERS, BATCH, "L2 batches of 64, 4 callers", "redis MGET", 0.8, "keys/s");
    let mut cases = Vec::new();
    for (callers, batch, case, peer, ratio, unit) in [single, batch] {
        let duration = sizes.remote;
        let sides: [(&'static str, Arc<dyn Source>); 2] =
            [("paystrata", Arc::new(ours.clone())), (peer, Arc::new(bare.clone()))];
        let mut contenders = sides.map(|(name, source)| {
            Box::new(Loop { name, source, callers, batch, duration }) as Box<dyn Contender>
        });
        let mut summaries =
            interleave(sizes.rounds, &mut contenders, &mut |line| context.progress(line)).await?;
        let peers = vec![PeerFigures { name: peer, figures: summaries.remove(1) }];
        cases.push(CaseReport {
            case: case.to_owned(),
            unit,
            better: Better::Higher,
            ours: summaries.remove(0),
            peers,
            target: Some(Target::RatioAtLeast { peer, ratio }),
        });
    }
    let (loads, hits) = (ours.loads.load(Relaxed) - loads_before, ours.hits_in_redis() - hits_before);
    ours.cache.close().await;
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let part = loads as f64 / hits.max(1) as f64;
    ensure!(part <= LOADED_PART_MAX, "{loads} loads to {hits} hits in Redis: the second tier was not read");
    notes.push(format!("L2: {hits} reads were answered by Redis and {loads} by the loader"));
    Ok(cases)
}

/// Loads every key once, and waits until the second tier has them all.
async fn fill(ours: &Ours) -> anyhow::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let begun = Instant::now();
    // Redis may not be connected at once, and writes go on behind the answer: until a pass loads nothing.
    loop {
        let before = ours.loads.load(Relaxed);
        for first in (0..KEYS).step_by(64) {
            ours.read((first..(first + 64).min(KEYS)).collect()).await?;
        }
        if ours.loads.load(Relaxed) == before {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "the second tier does not take the values");
    }
}
