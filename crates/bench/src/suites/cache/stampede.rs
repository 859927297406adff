//! A thousand callers ask for a cold key at once, and its load takes ten milliseconds: there must be one load, and nobody
//! may wait for much longer than it takes. A second load makes the run void.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::BoxFuture;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::Sizes;
use super::keys::{Value, values};
use super::sides::{Side, foyer::Foyer, moka::MokaFuture, ours::Ours, quick::Quick};
use crate::latency::{Latencies, milliseconds};
use crate::measure::{Contender, interleave};
use crate::report::{Better, CaseReport, PeerFigures, Target};
use crate::suite::Context;

const CALLERS: usize = 1_000;
const LOAD: Duration = Duration::from_millis(10);
const P99_MS_MAX: f64 = 12.0;
/// Stampedes of one turn, each on a key of its own, after one that warms up.
const STAMPEDES: u64 = 10;

/// Counts loads, and is the load.
#[derive(Clone)]
struct Source {
    loads: Arc<AtomicU64>,
    value: Value,
}

impl Source {
    async fn load(self) -> Value {
        self.loads.fetch_add(1, Relaxed);
        // On a thread that sleeps: the runtime's own timer is only good to a millisecond.
        let slept = tokio::task::spawn_blocking(|| std::thread::sleep(LOAD)).await;
        slept.expect("sleeping does not panic");
        self.value
    }
}

/// A cache with single flight.
trait Loader: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    fn get(&self, key: u64, source: Source) -> BoxFuture<'_, bool>;
}

impl Loader for Ours<u64> {
    fn name(&self) -> &'static str {
        "paystrata"
    }

    fn get(&self, key: u64, source: Source) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let load = |_: paystrata_cache::LoadContext<Value>| async {
                Ok::<_, Infallible>(Some(source.load().await))
            };
            matches!(self.cache.get_or_load(&key, load).await, Ok(Some(_)))
        })
    }
}

impl Loader for Quick<u64> {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn get(&self, key: u64, source: Source) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let load = async { Ok::<_, Infallible>(source.load().await) };
            self.cache.get_or_insert_async(&key, load).await.is_ok()
        })
    }
}

impl Loader for MokaFuture<u64> {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn get(&self, key: u64, source: Source) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            self.cache.get_with(key, source.load()).await;
            true
        })
    }
}

impl Loader for Foyer<u64> {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn get(&self, key: u64, source: Source) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let load = || async { Ok::<_, Infallible>(source.load().await) };
            self.cache.get_or_fetch(&key, load).await.is_ok()
        })
    }
}

struct Stampedes {
    loader: Arc<dyn Loader>,
    next_key: u64,
    source: Source,
}

impl Stampedes {
    fn of(loader: impl Loader) -> Self {
        let source = Source { loads: Arc::default(), value: values(1).remove(0) };
        Self { loader: Arc::new(loader), next_key: 0, source }
    }

    /// One cold key.
    async fn run(&mut self) -> anyhow::Result<Latencies> {
        self.next_key += 1;
        let (key, before) = (self.next_key, self.source.loads.load(Relaxed));
        let gate = Arc::new(Barrier::new(CALLERS));
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (loader, source, gate) = (Arc::clone(&self.loader), self.source.clone(), Arc::clone(&gate));
            callers.spawn(async move {
                gate.wait().await;
                let called = Instant::now();
                loader.get(key, source).await.then(|| called.elapsed())
            });
        }
        let mut latencies = Latencies::default();
        while let Some(waited) = callers.join_next().await {
            latencies.record(waited.context("a caller panicked")?.context("a caller got no value")?);
        }
        let loads = self.source.loads.load(Relaxed) - before;
        ensure!(loads == 1, "{loads} loads of one key");
        Ok(latencies)
    }
}

impl Contender for Stampedes {
    fn name(&self) -> String {
        format!("{}, stampedes", self.loader.name())
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async { self.run().await.map(drop) })
    }

    fn measure(&mut self, _round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async {
            let mut all = Latencies::default();
            for _ in 0..STAMPEDES {
                all.add(&self.run().await?);
            }
            Ok(milliseconds(all.percentile(99.0)))
        })
    }
}

/// The case.
pub(super) async fn measure(context: &Context, sizes: Sizes) -> anyhow::Result<CaseReport> {
    /// More than there are stampedes.
    const ENTRIES: usize = 10_000;
    let mut contenders: [Box<dyn Contender>; 4] = [
        Box::new(Stampedes::of(Ours::<u64>::build(ENTRIES)?)),
        Box::new(Stampedes::of(Quick::<u64>::build(ENTRIES)?)),
        Box::new(Stampedes::of(MokaFuture::<u64>::build(ENTRIES)?)),
        Box::new(Stampedes::of(Foyer::<u64>::build(ENTRIES)?)),
    ];
    let mut summaries = interleave(sizes.rounds, &mut contenders, &mut |line| context.progress(line)).await?;
    let ours = summaries.remove(0);
    let names = [Quick::<u64>::NAME, MokaFuture::<u64>::NAME, Foyer::<u64>::NAME];
    let peers =
        names.into_iter().zip(summaries).map(|(name, figures)| PeerFigures { name, figures }).collect();
    Ok(CaseReport {
        case: format!("stampede of {CALLERS} on a load of {LOAD:?}, p99"),
        unit: "ms",
        better: Better::Lower,
        ours,
        peers,
        target: Some(Target::FigureAtMost(P99_MS_MAX)),
    })
}
