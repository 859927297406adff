//! Callers in a closed loop: each has one thing under way at any time. Gives the rate after a warm-up, and how often it was
//! done in all. A caller that fails ends the run.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What a run did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    /// After the warm-up.
    pub(crate) per_second: f64,
    /// Warm-up and end included.
    pub(crate) count: u64,
}

/// What the callers of one run share.
#[derive(Debug, Default)]
pub(crate) struct Course {
    is_over: AtomicBool,
    count: AtomicU64,
}

impl Course {
    /// Whether to begin another one.
    pub(crate) fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// One more is done.
    pub(crate) fn done(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs as many callers side by side; `caller` makes each from its number and works until the course is over.
pub(crate) async fn run<F, Fut>(
    callers: u64,
    warm_up: Duration,
    duration: Duration,
    caller: F,
) -> anyhow::Result<Done>
where
    F: Fn(u64, Arc<Course>) -> Fut,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let course = Arc::new(Course::default());
    let mut tasks = JoinSet::new();
    for number in 0..callers {
        tasks.spawn(caller(number, Arc::clone(&course)));
    }
    sleep(warm_up).await;
    let (begin, before) = (Instant::now(), course.count.load(Ordering::Relaxed));
    sleep(duration).await;
    let (elapsed, after) = (begin.elapsed(), course.count.load(Ordering::Relaxed));
    course.is_over.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.context("await a caller")??;
    }
    let count = course.count.load(Ordering::Relaxed);
    Ok(Done { per_second: rate(after - before, elapsed), count })
}

#[expect(clippy::cast_precision_loss, reason = "counts of one run stay far under 2^52")]
fn rate(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_call_counts_and_a_failure_ends_the_run() {
        let short = Duration::from_millis(5);
        let done = run(3, short, short, |_, course| async move {
            while course.goes_on() {
                course.done();
                tokio::task::yield_now().await;
            }
            Ok(())
        });
        let done = done.await.expect("nobody failed");
        assert!(done.count > 3 && done.per_second > 0.0, "{done:?}");
        let failed = run(2, short, short, |number, _| async move {
            anyhow::ensure!(number == 0, "the second one fails");
            Ok(())
        });
        assert!(failed.await.is_err());
    }
}
