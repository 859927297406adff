//! Handles to measured operations: what user code holds and records with.
//! Recording takes no lock; keep the handle, because looking one up by name does take one.
//! Made by `registry`, read by `report` and `prometheus`.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::duration::to_ns;
use crate::labels::LabelSet;
use crate::outcome::Outcome;
use crate::shard::{Breach, Shards};
use crate::snapshot::Snapshot;
use crate::threshold::Threshold;
use crate::timer::Timer;

/// A handle to one measured operation and label set. Cloning copies a pointer.
#[derive(Clone)]
pub struct Operation {
    series: Arc<Series>,
}

/// What all label sets of one operation share.
#[derive(Debug)]
pub(crate) struct Family {
    name: &'static str,
    created: Instant,
    pub(crate) threshold: Threshold,
}

struct Series {
    family: Arc<Family>,
    labels: LabelSet,
    created: Instant,
    shards: Shards,
}

impl Family {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, created: Instant::now(), threshold: Threshold::unlimited() }
    }

    #[cold]
    fn warn_of_breach(&self, labels: &LabelSet, value_ns: u64) {
        let now_ms = to_ns(self.created.elapsed()) / 1_000_000;
        if let Some(unsaid) = self.threshold.admit_warning(now_ms) {
            tracing::warn!(
                operation = self.name,
                %labels,
                elapsed_us = value_ns / 1_000,
                threshold_us = self.threshold.limit_ns().map(|limit_ns| limit_ns / 1_000),
                unsaid,
                "operation was slower than its threshold"
            );
        }
    }
}

impl Operation {
    pub(crate) fn new(family: Arc<Family>, labels: LabelSet) -> Self {
        Self { series: Arc::new(Series { family, labels, created: Instant::now(), shards: Shards::new() }) }
    }

    /// The name it was registered by.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.series.family.name
    }

    /// Its fixed labels.
    #[must_use]
    pub fn labels(&self) -> &LabelSet {
        &self.series.labels
    }

    /// Starts the clock. The timer records when it is told the outcome, or as cancelled when it is dropped before.
    /// Costs a reading of the clock, and another one at the end: each more than the recording itself.
    #[must_use = "a timer that is dropped at once records a cancellation"]
    pub fn start(&self) -> Timer<'_> {
        Timer::borrowed(self)
    }

    /// Like [`start`](Self::start), for a timer that has to outlive this handle, as in a struct.
    /// Costs a reference count on top, which threads that start at the same time contend for.
    #[must_use = "a timer that is dropped at once records a cancellation"]
    pub fn start_owned(&self) -> Timer<'static> {
        Timer::owned(self.clone())
    }

    /// Records a duration that was measured elsewhere; more than an hour counts as an hour.
    /// Takes no lock; the first recording of each thread allocates 18.4 KiB.
    #[inline]
    pub fn record(&self, elapsed: Duration, outcome: Outcome) {
        let series = &*self.series;
        let value_ns = to_ns(elapsed);
        let breach = series.family.threshold.judge(value_ns);
        series.shards.record(value_ns, outcome, breach);
        if breach == Breach::Over {
            series.family.warn_of_breach(&series.labels, value_ns);
        }
    }

    /// Runs the future and records how long it took and how it ended; a future that is dropped is recorded as cancelled.
    ///
    /// # Errors
    /// Those of the future, untouched.
    pub async fn measure<T, E>(&self, future: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let timer = self.start();
        let result = future.await;
        match &result {
            Ok(_) => timer.succeed(),
            Err(_) => timer.fail(),
        }
        result
    }

    /// What was recorded so far. Reads 18.4 KiB per writing thread; recording goes on meanwhile.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.series.shards.snapshot()
    }

    /// Since the first registration of this name and label set.
    pub(crate) fn age(&self) -> Duration {
        self.series.created.elapsed()
    }

    pub(crate) fn threshold_ns(&self) -> Option<u64> {
        self.series.family.threshold.limit_ns()
    }
}

impl fmt::Debug for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Operation({}{})", self.name(), self.labels())
    }
}
