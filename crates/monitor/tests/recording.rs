//! Recording as users do it: from many threads, through timers and futures, over thresholds and label bounds.

use std::future::{pending, ready};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use paystrata_monitor::{LABEL_SETS_MAX, Monitor, Operation, Outcome, Quantile};
use proptest::prelude::*;

fn outcomes(operation: &Operation) -> (u64, u64, u64) {
    let snapshot = operation.snapshot();
    (snapshot.count(), snapshot.errors(), snapshot.cancelled())
}

/// More threads at a time than can own a shard, and waves of them, so that shards are shared and change hands.
#[test]
fn recordings_from_many_threads_are_all_counted() {
    const WAVES: u64 = 4;
    const THREADS: u64 = 80;
    const RECORDINGS: u64 = 5_000;
    let monitor = Monitor::new();
    let operation = monitor.operation("db.query");
    let counter = monitor.counter("rows", "Rows.");
    for _wave in 0..WAVES {
        let all_run = Barrier::new(usize::try_from(THREADS).unwrap());
        std::thread::scope(|scope| {
            for _thread in 0..THREADS {
                scope.spawn(|| {
                    all_run.wait();
                    for number in 1..=RECORDINGS {
                        let outcome = if number % 5 == 0 { Outcome::Error } else { Outcome::Success };
                        operation.record(Duration::from_nanos(number), outcome);
                        counter.increment();
                    }
                    // So that no slot is given back before all have written.
                    all_run.wait();
                });
            }
        });
    }
    let snapshot = operation.snapshot();
    let count = WAVES * THREADS * RECORDINGS;
    assert_eq!((snapshot.count(), snapshot.errors()), (count, count / 5));
    assert_eq!(counter.value(), count);
    assert_eq!(snapshot.average(), Some(Duration::from_nanos(RECORDINGS.div_ceil(2))));
    assert_eq!(snapshot.min(), Some(Duration::from_nanos(1)));
    assert_eq!(snapshot.max(), Some(Duration::from_nanos(RECORDINGS)));
    assert_eq!(snapshot.histogram().len(), count);
}

#[test]
fn snapshots_taken_meanwhile_are_consistent_and_never_go_back() {
    let operation = Monitor::new().operation("db.query");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for number in 0..200_000_u64 {
                        operation.record(Duration::from_nanos(1_000 + number % 1_000), Outcome::Error);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            let mut count_before = 0;
            while !done.load(Ordering::Relaxed) {
                let snapshot = operation.snapshot();
                assert!(snapshot.count() >= count_before);
                assert!(snapshot.errors() <= snapshot.count());
                if let Some(median) = snapshot.quantile(Quantile::P50) {
                    assert!((1_000..2_000).contains(&median.as_nanos()), "{median:?}");
                }
                count_before = snapshot.count();
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(outcomes(&operation), (800_000, 800_000, 0));
}

#[test]
fn a_timer_records_once_whatever_its_end() {
    let operation = Monitor::new().operation("payment.process");
    operation.start().succeed();
    assert_eq!(outcomes(&operation), (1, 0, 0));
    operation.start().fail();
    assert_eq!(outcomes(&operation), (2, 1, 0));
    drop(operation.start());
    assert_eq!(outcomes(&operation), (3, 1, 1));
    let timer = operation.start_owned();
    std::thread::spawn(move || timer.succeed()).join().unwrap();
    assert_eq!(outcomes(&operation), (4, 1, 1));
    let panicking = operation.clone();
    let thread = std::thread::spawn(move || {
        let _timer = panicking.start();
        panic!("expected by the test");
    });
    assert!(thread.join().is_err());
    assert_eq!(outcomes(&operation), (5, 2, 1));
}

#[tokio::test]
async fn a_measured_future_keeps_its_result_and_a_dropped_one_counts_as_cancelled() {
    let operation = Monitor::new().operation("payment.process");
    assert_eq!(operation.measure(ready(Ok::<_, ()>(7))).await, Ok(7));
    assert_eq!(operation.measure(ready(Err::<(), _>("declined"))).await, Err("declined"));
    assert_eq!(outcomes(&operation), (2, 1, 0));
    {
        let mut future = Box::pin(operation.measure(pending::<Result<(), ()>>()));
        let polled = std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context)));
        assert!(polled.await.is_pending());
        assert_eq!(outcomes(&operation), (2, 1, 0));
    }
    assert_eq!(outcomes(&operation), (3, 1, 1));
}

#[test]
fn one_name_and_one_set_of_labels_is_one_operation() {
    let monitor = Monitor::new();
    monitor.operation("a").record(Duration::ZERO, Outcome::Success);
    let clone = monitor.clone();
    clone.operation("a").record(Duration::ZERO, Outcome::Success);
    assert_eq!(monitor.operation("a").snapshot().count(), 2);
    monitor.operation_labelled("a", &[("x", "1"), ("y", "2")]).record(Duration::ZERO, Outcome::Success);
    assert_eq!(monitor.operation_labelled("a", &[("y", "2"), ("x", "1")]).snapshot().count(), 1);
}

#[test]
fn label_sets_over_the_bound_land_in_one_labelled_overflow() {
    let monitor = Monitor::new();
    let sets = LABEL_SETS_MAX + 10;
    for number in 0..sets {
        monitor
            .operation_labelled("a", &[("merchant", &number.to_string())])
            .record(Duration::ZERO, Outcome::Success);
    }
    let report = monitor.report();
    assert_eq!(report.operations.len(), LABEL_SETS_MAX + 1);
    let overflow =
        report.operations.iter().find(|operation| operation.labels.to_string() == "{overflow=true}");
    assert_eq!(overflow.unwrap().count, 10);
    assert!(monitor.prometheus().contains("a_duration_seconds_count{overflow=\"true\"} 10\n"));
}

#[test]
fn a_name_of_another_kind_gives_a_working_instrument_that_is_not_reported() {
    let monitor = Monitor::new();
    monitor.counter("a", "Counter.").increment();
    let operation = monitor.operation("a");
    operation.record(Duration::ZERO, Outcome::Success);
    assert_eq!(operation.snapshot().count(), 1);
    let gauge = monitor.gauge("a", "Gauge.");
    gauge.add(1.5);
    gauge.add(-0.5);
    assert!((gauge.value() - 1.0).abs() < f64::EPSILON);
    let report = monitor.report();
    assert_eq!((report.operations.len(), report.counters.len(), report.gauges.len()), (0, 1, 0));
}

#[test]
fn a_gauge_function_may_use_the_monitor_and_the_latest_counts() {
    let monitor = Monitor::new();
    let inner = monitor.clone();
    monitor.gauge_fn("size", "Size.", || 1.0);
    monitor.gauge_fn("size", "Size.", move || {
        let _registered = inner.counter("asked", "Asked.");
        2.0
    });
    let report = monitor.report();
    assert_eq!(report.gauges.iter().map(|gauge| gauge.value).collect::<Vec<_>>(), [2.0]);
}

/// Counts warnings; `tracing` is the only way out for them.
struct CountWarnings<'count>(&'count AtomicUsize);

impl tracing::Subscriber for CountWarnings<'static> {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::WARN
    }
    fn new_span(&self, _span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _span: &tracing::span::Id, _values: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _span: &tracing::span::Id, _follows: &tracing::span::Id) {}
    fn event(&self, _event: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _span: &tracing::span::Id) {}
    fn exit(&self, _span: &tracing::span::Id) {}
}

#[test]
fn breaches_are_all_counted_and_warned_of_once() {
    static WARNINGS: AtomicUsize = AtomicUsize::new(0);
    let monitor = Monitor::new();
    // Before the operation is known.
    monitor.threshold("db.query", Duration::from_millis(30));
    let operation = monitor.operation_labelled("db.query", &[("node", "primary")]);
    tracing::subscriber::with_default(CountWarnings(&WARNINGS), || {
        operation.record(Duration::from_millis(30), Outcome::Success);
        assert_eq!(WARNINGS.load(Ordering::Relaxed), 0);
        for _ in 0..5 {
            operation.record(Duration::from_millis(31), Outcome::Success);
        }
    });
    assert_eq!(operation.snapshot().threshold_breaches(), 5);
    assert_eq!(WARNINGS.load(Ordering::Relaxed), 1);
}

#[test]
fn an_interval_is_the_difference_of_two_snapshots() {
    let operation = Monitor::new().operation("a");
    operation.record(Duration::from_secs(1), Outcome::Error);
    let before = operation.snapshot();
    operation.record(Duration::from_millis(1), Outcome::Success);
    operation.record(Duration::from_millis(3), Outcome::Cancelled);
    let interval = operation.snapshot().since(&before);
    assert_eq!((interval.count(), interval.errors(), interval.cancelled()), (2, 0, 1));
    assert_eq!(interval.average(), Some(Duration::from_millis(2)));
    let max_ns = interval.max().unwrap().as_nanos();
    assert!(max_ns.abs_diff(3_000_000) * 128 <= 3_000_000, "{max_ns}");
}

#[test]
fn durations_off_the_scale_count_as_its_end() {
    let operation = Monitor::new().operation("a");
    operation.record(Duration::MAX, Outcome::Success);
    assert_eq!(operation.snapshot().max(), Some(Duration::from_secs(3_600)));
    assert_eq!(operation.snapshot().histogram().len(), 1);
}

proptest! {
    /// Against the sorted values themselves, for our quantiles and for those of the histogram handed out.
    #[test]
    fn quantiles_are_within_one_percent_of_the_sorted_truth(
        magnitudes in prop::collection::vec((0_u32..40, any::<u64>()), 1..400),
        parts in 0_u32..=1_000_000,
    ) {
        let operation = Monitor::new().operation("a");
        let mut values_ns: Vec<u64> = magnitudes.iter().map(|(bits, noise)| (1 << bits) | (noise >> (64 - bits.max(&1)))).collect();
        for value_ns in &values_ns {
            operation.record(Duration::from_nanos(*value_ns), Outcome::Success);
        }
        values_ns.sort_unstable();
        let snapshot = operation.snapshot();
        let rank = (u64::try_from(values_ns.len()).unwrap() * u64::from(parts)).div_ceil(1_000_000).max(1);
        let truth_ns = u128::from(values_ns[usize::try_from(rank - 1).unwrap()]);

        let ours_ns = snapshot.quantile(Quantile::per_million(parts)).unwrap().as_nanos();
        prop_assert!(ours_ns.abs_diff(truth_ns) * 128 <= truth_ns, "{ours_ns} instead of {truth_ns}");

        // Half a rank earlier, so that rounding inside the histogram cannot pick the next value.
        let count = u32::try_from(values_ns.len()).unwrap();
        let quantile = (f64::from(u32::try_from(rank).unwrap()) - 0.5) / f64::from(count);
        let theirs_ns = u128::from(snapshot.histogram().value_at_quantile(quantile));
        prop_assert!(theirs_ns.abs_diff(truth_ns) * 100 <= truth_ns, "{theirs_ns} instead of {truth_ns}");
    }
}
