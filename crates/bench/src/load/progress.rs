//! Shows how far a run is, on standard error: a bar on a terminal, else a line every few seconds.

use std::future::Future;
use std::io::{IsTerminal as _, Write as _, stderr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

const BAR_PERIOD: Duration = Duration::from_millis(200);
const LINE_PERIOD: Duration = Duration::from_secs(5);
const BAR_WIDTH: u64 = 30;

/// Runs `work` and shows meanwhile how much of `total` is done.
pub async fn watch<T>(what: &str, total: u64, done: &AtomicU64, work: impl Future<Output = T>) -> T {
    follow(done, work, |done, elapsed| bar(what, done, total, elapsed)).await
}

/// Runs `work` and shows meanwhile how much is done, where nobody knows how much there will be.
pub async fn count<T>(what: &str, done: &AtomicU64, work: impl Future<Output = T>) -> T {
    follow(done, work, |done, elapsed| format!("{what} {done}, {:.0}/s", per_second(done, elapsed))).await
}

async fn follow<T>(
    done: &AtomicU64,
    work: impl Future<Output = T>,
    line: impl Fn(u64, Duration) -> String,
) -> T {
    let is_terminal = stderr().is_terminal();
    let mut ticks = interval(if is_terminal { BAR_PERIOD } else { LINE_PERIOD });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let begin = Instant::now();
    let mut work = pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = ticks.tick() => show(is_terminal, &line(done.load(Ordering::Relaxed), begin.elapsed())),
        }
    };
    show(is_terminal, &line(done.load(Ordering::Relaxed), begin.elapsed()));
    if is_terminal {
        let _ = writeln!(stderr());
    }
    result
}

fn show(is_terminal: bool, line: &str) {
    // A closed standard error is no reason to stop.
    let mut stderr = stderr().lock();
    let _ = if is_terminal { write!(stderr, "\r{line}\x1b[K") } else { writeln!(stderr, "{line}") };
    let _ = stderr.flush();
}

fn bar(what: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let total = total.max(1);
    let filled = (done.min(total) * BAR_WIDTH) / total;
    let bar: String = (0..BAR_WIDTH).map(|place| if place < filled { '#' } else { '.' }).collect();
    let rate = per_second(done, elapsed);
    format!("{what} [{bar}] {done}/{total} ({} %), {rate:.0}/s", done.min(total) * 100 / total)
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn per_second(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_shows_bar_count_and_rate() {
        assert_eq!(
            bar("seed", 50, 100, Duration::from_secs(5)),
            "seed [###############...............] 50/100 (50 %), 10/s"
        );
        assert!(bar("seed", 0, 0, Duration::ZERO).contains("0/1 (0 %), 0/s"));
    }

    #[tokio::test]
    async fn result_of_the_work_is_given() {
        assert_eq!(watch("work", 1, &AtomicU64::new(0), async { 7 }).await, 7);
    }
}
