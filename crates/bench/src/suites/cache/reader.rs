//! One filled cache read in a loop: how long a hit takes and what it allocates, on one thread or on several at once. A read
//! that is no hit makes the figure void.

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use super::allocator::asked;
use super::keys::{Key, Value};
use super::processors;
use super::sides::Side;
use crate::measure::Contender;
use crate::report::Summary;

/// Reads between two looks at the clock: long enough that the look costs nothing, short enough to end in time.
const BATCH: usize = 8_192;
/// Of one turn: a turn of a second with reads of ten nanoseconds.
const BATCHES_MAX: usize = 12_000;

/// What one thread found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reads {
    nanoseconds: f64,
    allocations: f64,
}

/// A filled cache, whatever it is.
pub(super) trait Reader: Send + Sync {
    fn name(&self) -> &'static str;
    /// Reads for so long. The time is the median of the batches' means, so that a moment in which the processor was
    /// another program's does not count. `part` says where in its probes the thread begins.
    fn read_for(&self, duration: Duration, part: f64) -> anyhow::Result<Reads>;
}

/// A cache and what it is read by.
pub(super) struct Filled<K: Key, S> {
    side: S,
    book: Arc<K::Book>,
    probes: usize,
    handle: Handle,
}

impl<K: Key, S: Side<K>> Filled<K, S> {
    /// Of a cache that holds a key for each of the `probes`.
    pub(super) fn new(side: S, book: Arc<K::Book>, probes: usize) -> Self {
        Self { side, book, probes, handle: Handle::current() }
    }

    async fn batch(&self, place: &mut usize) -> usize {
        let mut hits = 0;
        for _ in 0..BATCH {
            hits += usize::from(self.side.read(K::probe(&self.book, *place)).await);
            *place += 1;
            if *place == self.probes {
                *place = 0;
            }
        }
        hits
    }
}

impl<K: Key, S: Side<K>> Reader for Filled<K, S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place among the probes")]
    fn read_for(&self, duration: Duration, part: f64) -> anyhow::Result<Reads> {
        let mut place = (self.probes as f64 * part) as usize % self.probes;
        // Made before allocations are counted.
        let mut batches = Vec::with_capacity(BATCHES_MAX);
        self.handle.block_on(async {
            let mut hits = 0;
            let before = asked();
            let begun = Instant::now();
            let mut last = Duration::ZERO;
            while last < duration && batches.len() < BATCHES_MAX {
                hits += self.batch(&mut place).await;
                let now = begun.elapsed();
                batches.push((now - last).as_nanos() as f64 / BATCH as f64);
                last = now;
            }
            let allocations = asked().allocations - before.allocations;
            let reads = batches.len() * BATCH;
            ensure!(hits == reads, "{} of {reads} reads were no hits", reads - hits);
            Ok(Reads {
                nanoseconds: Summary { runs: batches }.median(),
                allocations: allocations as f64 / reads as f64,
            })
        })
    }
}

/// Fills a cache with these keys.
pub(super) async fn fill<K: Key>(side: &impl Side<K>, values: &[Value]) {
    for (number, value) in (0..).zip(values) {
        side.insert(K::of(number), Arc::clone(value)).await;
    }
}

/// How long a turn is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) warm_up: Duration,
    pub(super) duration: Duration,
}

/// A cache read by so many threads at once; the figure is the time of a read in nanoseconds, the threads' mean.
pub(super) struct Hits<'a> {
    pub(super) reader: &'a dyn Reader,
    pub(super) threads: u8,
    pub(super) turn: Turn,
    /// The most allocations per read that any turn had.
    pub(super) allocations: &'a mut f64,
}

impl Hits<'_> {
    fn read(&mut self) -> anyhow::Result<f64> {
        let (reader, turn, threads) = (self.reader, self.turn, self.threads);
        let barrier = &Barrier::new(usize::from(threads));
        let read = |thread| {
            move || {
                let part = f64::from(thread) / f64::from(threads);
                // Judged only after the barriers: one that left before them would leave the others waiting.
                let kept = processors::keep_to(thread);
                barrier.wait();
                let warm = reader.read_for(turn.warm_up, part);
                barrier.wait();
                kept?;
                warm?;
                reader.read_for(turn.duration, part)
            }
        };
        let found: Vec<anyhow::Result<Reads>> = std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|thread| scope.spawn(read(thread))).collect();
            running.into_iter().map(|thread| thread.join().expect("a reader does not panic")).collect()
        });
        let mut sum = 0.0;
        for reads in found {
            let reads = reads.with_context(|| format!("read {}", reader.name()))?;
            sum += reads.nanoseconds;
            *self.allocations = self.allocations.max(reads.allocations);
        }
        Ok(sum / f64::from(threads))
    }
}

impl Contender for Hits<'_> {
    fn name(&self) -> String {
        format!("{}, {} threads", self.reader.name(), self.threads)
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn measure(&mut self, _round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async { tokio::task::block_in_place(|| self.read()) })
    }
}
