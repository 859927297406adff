//! The arithmetic of reports, on snapshots with known values and a given time.

use super::*;
use crate::monitor::Monitor;
use crate::outcome::Outcome;

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// 1 ms to 100 ms, one of each; the tenth ones failed and 1 ms was given up.
fn hundred_recordings(monitor: &Monitor) {
    let operation = monitor.operation("db.query");
    for number in 1..=100 {
        let outcome = match number {
            1 => Outcome::Cancelled,
            _ if number % 10 == 0 => Outcome::Error,
            _ => Outcome::Success,
        };
        operation.record(ms(number), outcome);
    }
}

#[track_caller]
fn assert_near(actual_ns: u64, expected: Duration) {
    let expected_ns = to_ns(expected);
    assert!(
        actual_ns.abs_diff(expected_ns) * 128 <= expected_ns,
        "{actual_ns} ns is not near {expected_ns} ns"
    );
}

#[test]
#[expect(clippy::float_cmp, reason = "both sides are the same division of small whole numbers")]
fn figures_follow_from_what_was_recorded() {
    let monitor = Monitor::new();
    hundred_recordings(&monitor);
    let snapshot = monitor.operation("db.query").snapshot();
    let report = OperationReport::new("db.query", &snapshot, Duration::from_secs(20), None);

    assert_eq!((report.count, report.errors, report.cancelled), (100, 10, 1));
    assert_eq!(report.error_rate, 0.1);
    assert_eq!(report.rate_per_second, 5.0);
    assert_eq!(report.average_ns, 50_500_000);
    assert_eq!((report.min_ns, report.max_ns), (1_000_000, 100_000_000));
    assert_near(report.p50_ns, ms(50));
    assert_near(report.p95_ns, ms(95));
    assert_near(report.p99_ns, ms(99));
    assert_eq!(report.p999_ns, 100_000_000, "the quantile of the last rank is the exact maximum");
}

#[test]
fn without_recordings_all_figures_are_zero_and_no_verdict_is_given() {
    let monitor = Monitor::new();
    monitor.objective("db.query", Objective::new().p99(ms(1)));
    let _registered = monitor.operation("db.query");
    let report = monitor.report();
    let [operation] = &report.operations[..] else {
        panic!("one operation, not {}", report.operations.len())
    };
    assert_eq!((operation.count, operation.average_ns, operation.min_ns, operation.p50_ns), (0, 0, 0, 0));
    assert!(operation.error_rate.abs() < f64::EPSILON && operation.rate_per_second.abs() < f64::EPSILON);
    assert_eq!(operation.objective.as_ref().unwrap().verdict, Verdict::NoData);
}

#[test]
fn every_target_of_an_objective_counts() {
    let check = |objective, expected| {
        let monitor = Monitor::new();
        hundred_recordings(&monitor);
        monitor.objective("db.query", objective);
        assert_eq!(monitor.report().operations[0].objective.as_ref().unwrap().verdict, expected);
    };
    check(Objective::new(), Verdict::Met);
    check(Objective::new().p50(ms(52)).p95(ms(97)).p99(ms(101)), Verdict::Met);
    check(Objective::new().p50(ms(48)).p95(ms(97)).p99(ms(101)), Verdict::Missed);
    check(Objective::new().p50(ms(52)).p95(ms(93)).p99(ms(101)), Verdict::Missed);
    check(Objective::new().p50(ms(52)).p95(ms(97)).p99(ms(97)), Verdict::Missed);
}

#[test]
fn json_has_labels_and_verdicts_by_name() {
    let monitor = Monitor::new();
    monitor.operation_labelled("cache.get", &[("tier", "l1")]).record(ms(2), Outcome::Success);
    monitor.objective("cache.get", Objective::new().p99(ms(1)));
    monitor.threshold("cache.get", ms(7));
    monitor.counter("cache.evictions", "Entries evicted.").add(3);
    monitor.gauge_fn("cache.bytes", "Bytes held.", || 1.5);

    let json = serde_json::to_value(monitor.report()).unwrap();
    let operation = &json["operations"][0];
    assert_eq!(operation["labels"], serde_json::json!({ "tier": "l1" }));
    assert_eq!(operation["max_ns"], 2_000_000);
    assert_eq!(operation["threshold_ns"], 7_000_000);
    assert_eq!(operation["objective"]["verdict"], "missed");
    assert_eq!(operation["objective"]["p50_target_ns"], serde_json::Value::Null);
    assert_eq!(json["counters"][0]["value"], 3);
    assert_eq!(json["gauges"][0]["value"], 1.5);
}

#[test]
fn table_is_aligned_and_names_every_instrument() {
    let monitor = Monitor::new();
    hundred_recordings(&monitor);
    let _idle = monitor.operation_labelled("cache.get", &[("tier", "l1")]);
    monitor.threshold("db.query", ms(98));
    monitor.threshold("payment.process", ms(100));
    monitor.counter("webhooks.sent", "Webhooks sent.").add(3);
    monitor.gauge("pool.idle", "Idle connections.").set(2.5);
    let mut report = monitor.report();
    for operation in &mut report.operations {
        operation.rate_per_second = 12.34;
    }
    let expected = "\
operation           count  errors  error rate  cancelled  rate/s  average      min      p50      p95      p99   p99.9     max  verdict
cache.get{tier=l1}      0       0      0.00 %          0    12.3        -        -        -        -        -       -       -        -
db.query              100      10     10.00 %          1    12.3  50.5 ms  1.00 ms  50.1 ms  94.9 ms  99.1 ms  100 ms  100 ms        -

webhooks.sent = 3
pool.idle = 2.5
";
    assert_eq!(report.table(), expected);
}

#[test]
fn breaches_of_the_threshold_stand_in_the_verdict() {
    let monitor = Monitor::new();
    monitor.threshold("db.query", ms(98));
    hundred_recordings(&monitor);
    let report = monitor.report();
    assert_eq!(report.operations[0].threshold_breaches, 2);
    assert!(report.table().ends_with("2 over threshold\n"), "{}", report.table());
}
