//! Everything as Prometheus text exposition, format 0.0.4.
//! What it writes always parses: names are made valid, values are escaped, and of two instruments whose names become
//! the same only the first is written. Reads no clock and no file. Called by `monitor`.

mod name;
#[cfg(test)]
mod tests;
mod writer;

use crate::buckets::middle_ns;
use crate::labels::{LabelSet, SeriesSet};
use crate::operation::Operation;
use crate::process::ProcessFigures;
use crate::registry::{Metric, OperationFamily, Registry};
use crate::snapshot::Snapshot;
use writer::{Heading, Kind, Writer};

/// What to serve the exposition as.
pub const PROMETHEUS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the exported buckets. Those that OpenTelemetry's conventions advise for HTTP and for databases,
/// and below them the microseconds in which a cache or a prepared statement answers.
const BUCKET_BOUNDS_NS: [u64; 32] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    30_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    150_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    300_000_000_000,
    1_800_000_000_000,
    3_600_000_000_000,
];

pub(crate) fn render(registry: &Registry, process: Option<&ProcessFigures>) -> String {
    let mut writer = Writer::default();
    for (name, metric) in registry.iter() {
        match metric {
            Metric::Operation(family) => write_operation(&mut writer, name, family),
            Metric::Counter(counter) => {
                let name = name::counter(name);
                let heading = Heading { name: &name, kind: Kind::Counter, help: counter.help };
                write_values(&mut writer, heading, &counter.series, |counter| counter.value().to_string());
            }
            Metric::Gauge(gauge) => {
                let name = name::metric(name);
                let heading = Heading { name: &name, kind: Kind::Gauge, help: gauge.help };
                write_values(&mut writer, heading, &gauge.series, |gauge| number(gauge.value()));
            }
            Metric::GaugeFn(gauge) => {
                let name = name::metric(name);
                let heading = Heading { name: &name, kind: Kind::Gauge, help: gauge.help };
                write_values(&mut writer, heading, &gauge.series, |gauge| number(gauge.value()));
            }
        }
    }
    if let Some(process) = process {
        write_process(&mut writer, process);
    }
    writer.finish()
}

fn write_operation(writer: &mut Writer, name: &'static str, family: &OperationFamily) {
    let snapshots: Vec<(&LabelSet, Snapshot)> =
        family.series.iter().map(|(labels, operation)| (labels, Operation::snapshot(operation))).collect();
    if snapshots.is_empty() {
        return;
    }
    let duration = name::duration(name);
    let help = format!("Duration of {name} in seconds, all outcomes.");
    if writer.begin(Heading { name: &duration, kind: Kind::Histogram, help: &help }) {
        for (labels, snapshot) in &snapshots {
            write_histogram(writer, &duration, labels, snapshot);
        }
    }
    let mut write_counter = |suffix: &str, which: &str, value: fn(&Snapshot) -> u64| {
        let counter = format!("{}{suffix}", name::without_duration(name));
        let help = format!("Calls of {name} that {which}.");
        if writer.begin(Heading { name: &counter, kind: Kind::Counter, help: &help }) {
            for (labels, snapshot) in &snapshots {
                writer.sample(&counter, labels, None, &value(snapshot).to_string());
            }
        }
    };
    write_counter("_errors_total", "failed", Snapshot::errors);
    write_counter("_cancelled_total", "were given up", Snapshot::cancelled);
    write_counter(
        "_threshold_breaches_total",
        "were slower than the threshold",
        Snapshot::threshold_breaches,
    );
}

fn write_histogram(writer: &mut Writer, name: &str, labels: &LabelSet, snapshot: &Snapshot) {
    let bucket = format!("{name}_bucket");
    let mut cells = snapshot.filled_cells().peekable();
    let mut below = 0;
    for bound_ns in BUCKET_BOUNDS_NS {
        // A cell that a bound cuts goes where its middle is: the bound is then off by at most 0.8 %.
        while let Some((_, count)) = cells.next_if(|(cell, _)| middle_ns(*cell) <= bound_ns) {
            below += count;
        }
        let bound_seconds = (bound_ns as f64 / 1e9).to_string();
        writer.sample(&bucket, labels, Some(("le", &bound_seconds)), &below.to_string());
    }
    let count = snapshot.count().to_string();
    writer.sample(&bucket, labels, Some(("le", "+Inf")), &count);
    writer.sample(&format!("{name}_sum"), labels, None, &number(snapshot.sum_ns as f64 / 1e9));
    writer.sample(&format!("{name}_count"), labels, None, &count);
}

fn write_values<T: Clone>(
    writer: &mut Writer,
    heading: Heading<'_>,
    series: &SeriesSet<T>,
    value: impl Fn(&T) -> String,
) {
    if writer.begin(heading) {
        for (labels, instrument) in series.iter() {
            writer.sample(heading.name, labels, None, &value(instrument));
        }
    }
}

/// Names are those of OpenTelemetry's process metrics, but for the start time, which has none and is Prometheus' own.
fn write_process(writer: &mut Writer, process: &ProcessFigures) {
    let no_labels = LabelSet::default();
    let figures = [
        (
            "process_cpu_time_seconds_total",
            Kind::Counter,
            "Processor time used, user and system.",
            process.cpu_seconds,
        ),
        ("process_memory_usage_bytes", Kind::Gauge, "Resident memory.", process.resident_bytes as f64),
        ("process_memory_virtual_bytes", Kind::Gauge, "Virtual memory.", process.virtual_bytes as f64),
        ("process_thread_count", Kind::Gauge, "Threads.", process.threads as f64),
        ("process_start_time_seconds", Kind::Gauge, "Start, in seconds since 1970.", process.start_seconds),
    ];
    for (name, kind, help, value) in figures {
        if writer.begin(Heading { name, kind, help }) {
            writer.sample(name, &no_labels, None, &number(value));
        }
    }
    let name = "process_unix_file_descriptor_count";
    if let Some(descriptors) = process.open_descriptors
        && writer.begin(Heading { name, kind: Kind::Gauge, help: "Open file descriptors." })
    {
        writer.sample(name, &no_labels, None, &descriptors.to_string());
    }
}

fn number(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() }
    } else {
        value.to_string()
    }
}
