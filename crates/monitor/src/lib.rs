//! Latency monitoring that costs almost nothing: histograms, counters and gauges that threads do not fight over,
//! with thresholds, objectives, reports, Prometheus text and OTLP traces.
//!
//! ```
//! use std::time::Duration;
//! use paystrata_monitor::{Monitor, Objective};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let monitor = Monitor::new();
//! monitor.threshold("db.query", Duration::from_millis(30));
//! monitor.objective("db.query", Objective::new().p95(Duration::from_millis(5)).p99(Duration::from_millis(20)));
//!
//! // Look the handle up once and keep it: the lookup takes a lock, recording never does.
//! let query = monitor.operation("db.query");
//!
//! let answer: Result<u32, std::io::Error> = query.measure(async { Ok(42) }).await;
//! assert_eq!(answer.unwrap(), 42);
//!
//! let timer = query.start(); // recorded as cancelled if it is dropped, as with a dropped future
//! timer.fail();
//!
//! let report = monitor.report();
//! assert_eq!((report.operations[0].count, report.operations[0].errors), (2, 1));
//! assert!(report.table().contains("db.query"));
//! assert!(monitor.prometheus().contains("db_query_duration_seconds_count 2\n"));
//! # }
//! ```
//!
//! # Guarantees
//!
//! - **Recording never waits.** No lock, no allocation after a thread's first recording, no queue to fill up.
//!   The first 64 threads of a process own a shard each and record wait-free; further ones share one, lock-free.
//! - **Nothing is lost.** Every recording is in the next snapshot that begins after it; counts, sums, minima and
//!   maxima are exact, and quantiles are within 0.8 %. Durations are kept from 1 ns to 1 h; longer ones count as 1 h.
//! - **All outcomes are counted.** A call that failed or was given up took its time as well.
//! - **Memory is bounded**, scraped or not: 64 label sets of 8 labels per name, 1024 names. Over a bound, recordings
//!   go to the set labelled `overflow`, or to an instrument that is not reported, with one warning.
//! - **What is exported always parses**, whatever the names and labels.
//!
//! # Cost
//!
//! A recording finds the thread's shard and adds to two counters in it, without a locked instruction on an owned
//! one. A [`Timer`] reads the clock twice on top.
//! Per operation, label set and writing thread 18.4 KiB, at most 1.2 MiB; a counter 2 KiB. Reading costs a pass over
//! that memory and stops nobody.
//!
//! # What it does not do
//!
//! It does not sample, aggregate over time or keep a history: take two [`Snapshot`]s and ask [`Snapshot::since`] for
//! an interval. It serves no port and starts no thread, except for the trace exporter.
//!
//! # Features
//!
//! - `otlp`: [`otlp::layer`] sends `tracing` spans to an OpenTelemetry collector. Costs the OpenTelemetry SDK, an HTTP
//!   client, and at run time one thread.
// The link above has a target only with the feature.
#![cfg_attr(not(feature = "otlp"), doc = "", doc = "[`otlp::layer`]: #features")]

mod monitor;
mod operation;
mod outcome;
mod timer;

mod counter;
mod gauge;
mod labels;
mod registry;

mod buckets;
mod shard;
mod slot;
mod snapshot;

mod duration;
mod objective;
mod quantile;
mod threshold;

mod process;
mod prometheus;
mod report;

#[cfg(feature = "otlp")]
pub mod otlp;

pub use counter::Counter;
pub use gauge::Gauge;
pub use labels::{LABEL_SETS_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX, LabelSet};
pub use monitor::Monitor;
pub use objective::{Objective, Verdict};
pub use operation::Operation;
pub use outcome::Outcome;
pub use prometheus::PROMETHEUS_CONTENT_TYPE;
pub use quantile::Quantile;
pub use report::{CounterReport, GaugeReport, ObjectiveReport, OperationReport, Report};
pub use snapshot::Snapshot;
pub use timer::Timer;
