//! Latency objectives: targets for the 50th, 95th and 99th percentile, and the verdict on a snapshot.
//! Judges what it is given and keeps nothing. Called by `report`.

use std::time::Duration;

use serde::Serialize;

use crate::duration::to_ns;
use crate::quantile::Quantile;
use crate::snapshot::Snapshot;

/// Targets for an operation's latency. Those that are not set are not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Objective {
    p50: Option<Duration>,
    p95: Option<Duration>,
    p99: Option<Duration>,
}

/// Whether an objective was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every target was met.
    Met,
    /// At least one was not.
    Missed,
    /// Nothing was recorded, so nothing can be said.
    NoData,
}

impl Objective {
    /// No target yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { p50: None, p95: None, p99: None }
    }

    /// Half of all calls must take no longer.
    #[must_use]
    pub const fn p50(self, target: Duration) -> Self {
        Self { p50: Some(target), ..self }
    }

    /// 95 of 100 calls must take no longer.
    #[must_use]
    pub const fn p95(self, target: Duration) -> Self {
        Self { p95: Some(target), ..self }
    }

    /// 99 of 100 calls must take no longer.
    #[must_use]
    pub const fn p99(self, target: Duration) -> Self {
        Self { p99: Some(target), ..self }
    }

    pub(crate) fn p50_ns(&self) -> Option<u64> {
        self.p50.map(to_ns)
    }

    pub(crate) fn p95_ns(&self) -> Option<u64> {
        self.p95.map(to_ns)
    }

    pub(crate) fn p99_ns(&self) -> Option<u64> {
        self.p99.map(to_ns)
    }

    pub(crate) fn judge(&self, snapshot: &Snapshot) -> Verdict {
        if snapshot.count() == 0 {
            return Verdict::NoData;
        }
        let targets = [(Quantile::P50, self.p50), (Quantile::P95, self.p95), (Quantile::P99, self.p99)];
        let is_met = |(quantile, target): (Quantile, Option<Duration>)| {
            target.is_none_or(|target| snapshot.quantile(quantile).is_some_and(|value| value <= target))
        };
        if targets.into_iter().all(is_met) { Verdict::Met } else { Verdict::Missed }
    }
}
