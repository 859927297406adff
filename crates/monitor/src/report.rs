//! What the monitor knows, as plain values: for a page, for JSON through `serde`, or as a table for a terminal.
//! Computes from snapshots and reads no clock of its own. Called by `monitor`.

mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;

use crate::duration::to_ns;
use crate::labels::LabelSet;
use crate::objective::{Objective, Verdict};
use crate::quantile::Quantile;
use crate::registry::{Metric, Registry};
use crate::snapshot::Snapshot;

/// Everything a monitor has recorded, in order of names and labels.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Since the monitor was made.
    pub uptime_seconds: f64,
    /// Operations, one entry per label set.
    pub operations: Vec<OperationReport>,
    /// Counters, one entry per label set.
    pub counters: Vec<CounterReport>,
    /// Gauges, stored and computed, one entry per label set.
    pub gauges: Vec<GaugeReport>,
}

/// One operation and label set. Times are nanoseconds; zero, like every quantile, while `count` is zero.
#[derive(Clone, Debug, Serialize)]
pub struct OperationReport {
    /// The name it was registered by.
    pub name: &'static str,
    /// Its fixed labels.
    pub labels: LabelSet,
    /// Recordings, whatever their outcome.
    pub count: u64,
    /// Those that ended in an error.
    pub errors: u64,
    /// Those that were given up.
    pub cancelled: u64,
    /// Errors per recording, from 0 to 1.
    pub error_rate: f64,
    /// Recordings per second since the operation was registered.
    pub rate_per_second: f64,
    /// Arithmetic mean; exact.
    pub average_ns: u64,
    /// Shortest; exact.
    pub min_ns: u64,
    /// Longest; exact.
    pub max_ns: u64,
    /// Median; within 0.8 %, like the other quantiles.
    pub p50_ns: u64,
    /// 95th percentile.
    pub p95_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// 99.9th percentile.
    pub p999_ns: u64,
    /// The threshold, if there is one.
    pub threshold_ns: Option<u64>,
    /// Recordings above the threshold.
    pub threshold_breaches: u64,
    /// The objective and whether it was met, if there is one.
    pub objective: Option<ObjectiveReport>,
}

/// An objective and its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectiveReport {
    /// Whether all targets were met.
    pub verdict: Verdict,
    /// Target for the median.
    pub p50_target_ns: Option<u64>,
    /// Target for the 95th percentile.
    pub p95_target_ns: Option<u64>,
    /// Target for the 99th percentile.
    pub p99_target_ns: Option<u64>,
}

/// One counter and label set.
#[derive(Clone, Debug, Serialize)]
pub struct CounterReport {
    /// The name it was registered by.
    pub name: &'static str,
    /// Its fixed labels.
    pub labels: LabelSet,
    /// Its sum.
    pub value: u64,
}

/// One gauge and label set.
#[derive(Clone, Debug, Serialize)]
pub struct GaugeReport {
    /// The name it was registered by.
    pub name: &'static str,
    /// Its fixed labels.
    pub labels: LabelSet,
    /// Its value; what is not a finite number is `null` in JSON.
    pub value: f64,
}

impl Report {
    pub(crate) fn new(uptime: Duration, registry: &Registry) -> Self {
        let mut report = Self {
            uptime_seconds: uptime.as_secs_f64(),
            operations: Vec::new(),
            counters: Vec::new(),
            gauges: Vec::new(),
        };
        for (name, metric) in registry.iter() {
            report.add(name, metric);
        }
        report
    }

    /// The report as an aligned table of operations, with counters and gauges below, for a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        table::render(self)
    }

    fn add(&mut self, name: &'static str, metric: &Metric) {
        match metric {
            Metric::Operation(family) => {
                let objective = family.objective.as_ref();
                self.operations.extend(family.series.iter().map(|(labels, operation)| OperationReport {
                    labels: labels.clone(),
                    threshold_ns: operation.threshold_ns(),
                    ..OperationReport::new(name, &operation.snapshot(), operation.age(), objective)
                }));
            }
            Metric::Counter(counter) => {
                self.counters.extend(counter.series.iter().map(|(labels, counter)| CounterReport {
                    name,
                    labels: labels.clone(),
                    value: counter.value(),
                }));
            }
            Metric::Gauge(gauge) => {
                self.gauges.extend(gauge.series.iter().map(|(labels, gauge)| GaugeReport {
                    name,
                    labels: labels.clone(),
                    value: gauge.value(),
                }));
            }
            Metric::GaugeFn(gauge) => {
                self.gauges.extend(gauge.series.iter().map(|(labels, gauge)| GaugeReport {
                    name,
                    labels: labels.clone(),
                    value: gauge.value(),
                }));
            }
        }
    }
}

impl OperationReport {
    /// The figures of a snapshot that was gathered in `elapsed`, without labels and threshold.
    fn new(
        name: &'static str,
        snapshot: &Snapshot,
        elapsed: Duration,
        objective: Option<&Objective>,
    ) -> Self {
        let quantile_ns = |quantile| snapshot.quantile(quantile).map_or(0, to_ns);
        Self {
            name,
            labels: LabelSet::default(),
            count: snapshot.count(),
            errors: snapshot.errors(),
            cancelled: snapshot.cancelled(),
            error_rate: ratio(snapshot.errors() as f64, snapshot.count() as f64),
            rate_per_second: ratio(snapshot.count() as f64, elapsed.as_secs_f64()),
            average_ns: snapshot.average().map_or(0, to_ns),
            min_ns: snapshot.min().map_or(0, to_ns),
            max_ns: snapshot.max().map_or(0, to_ns),
            p50_ns: quantile_ns(Quantile::P50),
            p95_ns: quantile_ns(Quantile::P95),
            p99_ns: quantile_ns(Quantile::P99),
            p999_ns: quantile_ns(Quantile::P999),
            threshold_ns: None,
            threshold_breaches: snapshot.threshold_breaches(),
            objective: objective.map(|objective| ObjectiveReport {
                verdict: objective.judge(snapshot),
                p50_target_ns: objective.p50_ns(),
                p95_target_ns: objective.p95_ns(),
                p99_target_ns: objective.p99_ns(),
            }),
        }
    }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}
