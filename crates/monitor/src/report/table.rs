//! A report as text for a terminal: one aligned table of operations, then counters and gauges.

use std::fmt::Write;

use super::{OperationReport, Report};
use crate::duration::to_text;
use crate::objective::Verdict;

const HEADINGS: [&str; 14] = [
    "operation",
    "count",
    "errors",
    "error rate",
    "cancelled",
    "rate/s",
    "average",
    "min",
    "p50",
    "p95",
    "p99",
    "p99.9",
    "max",
    "verdict",
];

pub(super) fn render(report: &Report) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(report.operations.iter().map(row));
    let mut text = align(&rows);
    let counters =
        report.counters.iter().map(|counter| (counter.name, &counter.labels, counter.value.to_string()));
    let gauges = report.gauges.iter().map(|gauge| (gauge.name, &gauge.labels, gauge.value.to_string()));
    for (position, (name, labels, value)) in counters.chain(gauges).enumerate() {
        if position == 0 {
            text.push('\n');
        }
        writeln!(text, "{name}{labels} = {value}").expect("a string takes any text");
    }
    text
}

fn row(operation: &OperationReport) -> [String; 14] {
    let verdict = match (&operation.objective, operation.threshold_breaches) {
        (Some(objective), _) if objective.verdict == Verdict::Missed => "missed".to_owned(),
        (_, breaches) if breaches > 0 => format!("{breaches} over threshold"),
        (Some(objective), _) if objective.verdict == Verdict::Met => "met".to_owned(),
        _ => "-".to_owned(),
    };
    let time = |value_ns| if operation.count == 0 { "-".to_owned() } else { to_text(value_ns) };
    [
        format!("{}{}", operation.name, operation.labels),
        operation.count.to_string(),
        operation.errors.to_string(),
        format!("{:.2} %", operation.error_rate * 100.0),
        operation.cancelled.to_string(),
        format!("{:.1}", operation.rate_per_second),
        time(operation.average_ns),
        time(operation.min_ns),
        time(operation.p50_ns),
        time(operation.p95_ns),
        time(operation.p99_ns),
        time(operation.p999_ns),
        time(operation.max_ns),
        verdict,
    ]
}

/// The first column to the left, the others to the right, two spaces between them.
fn align<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        for (column, (width, cell)) in widths.iter().zip(row).enumerate() {
            let padded =
                if column == 0 { write!(text, "{cell:<width$}") } else { write!(text, "  {cell:>width$}") };
            padded.expect("a string takes any text");
        }
        text.push('\n');
    }
    text
}
