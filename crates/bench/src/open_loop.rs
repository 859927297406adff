//! Open-loop load: requests leave at planned instants whatever became of earlier ones, and each latency counts from its
//! planned instant, so a stall shows in every request that it delays (no coordinated omission). The generator reports
//! its own lag; a run in which it lagged is void. Used by the engine suite and by `paystrata-load open`.

use std::future::Future;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::latency::{Latencies, milliseconds};

/// A generator whose 99th percentile is later than this voids the run: a tenth of the 100 ms that we promise.
const LAG_MAX: Duration = Duration::from_millis(10);
/// What is due within a tick leaves together, up to a tick late, which counts in its latency. To wake for every single
/// one of 8,000 requests a second takes processor time from what is measured: its median was a half longer then.
const TICK: Duration = Duration::from_millis(1);
/// An answer that takes longer counts as failed: no client waits that long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests of one run at most; each costs a few hundred bytes until it is counted.
const REQUESTS_MAX: f64 = 20_000_000.0;

/// What to send, and when.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Requests per second, evenly spaced.
    pub rate: f64,
    /// Sent first and not recorded.
    pub warm_up: Duration,
    /// Recorded.
    pub duration: Duration,
    /// Requests without an answer at once; one more is not sent, and voids the run.
    pub in_flight_max: usize,
}

impl Plan {
    /// Refuses what cannot be run; [`run`] asks it as well.
    ///
    /// # Errors
    /// Too few or too many requests.
    pub fn check(&self) -> Result<(), PlanError> {
        let count = self.rate * (self.warm_up + self.duration).as_secs_f64();
        if (1.0..=REQUESTS_MAX).contains(&count) { Ok(()) } else { Err(PlanError::Requests) }
    }
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done as asked.
    Done,
    /// Refused or failed.
    Failed,
}

/// What became of all of them.
#[derive(Clone, Debug, Default)]
pub struct OpenLoopReport {
    /// Latencies of the recorded requests that were done, from their planned instants.
    pub latencies: Latencies,
    /// How late the generator itself was, for every recorded request.
    pub lag: Latencies,
    /// Requests done, warm-up included.
    pub done: u64,
    /// Requests refused, failed or unanswered, warm-up included.
    pub failed: u64,
    /// Requests not sent because too many were in flight.
    pub unsent: u64,
}

impl OpenLoopReport {
    /// Why the run counts for nothing, if so.
    #[must_use]
    pub fn void(&self) -> Option<String> {
        if self.unsent > 0 {
            return Some(format!("{} requests were not sent because too many were in flight", self.unsent));
        }
        let lag = self.lag.percentile(99.0);
        let (lag_ms, max_ms) = (milliseconds(lag), milliseconds(LAG_MAX));
        (lag > LAG_MAX)
            .then(|| format!("the generator lagged: p99 {lag_ms:.1} ms, at most {max_ms:.0} ms is allowed"))
    }
}

/// Why a plan cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Zero, negative, not a number, or more requests than one run may have.
    #[error("rate and duration must give between 1 and {REQUESTS_MAX} requests")]
    Requests,
}

/// One request on its way, with its planned instant.
type InFlight = (Duration, JoinHandle<(Outcome, Duration)>);

/// Sends as planned; `start` is called on the generator's own thread and must not block, the future it gives runs on
/// the present runtime.
///
/// # Errors
/// A plan that cannot be run.
pub async fn run<Start, Request>(plan: Plan, start: Start) -> Result<OpenLoopReport, PlanError>
where
    Start: FnMut(u64) -> Request + Send + 'static,
    Request: Future<Output = Outcome> + Send + 'static,
{
    plan.check()?;
    let runtime = Handle::current();
    let generator = tokio::task::spawn_blocking(move || generate(plan, &runtime, start));
    let (mut report, in_flight) = generator.await.expect("the generator neither panics nor is cancelled");
    for (planned, request) in in_flight {
        let (outcome, latency) = request.await.unwrap_or((Outcome::Failed, Duration::ZERO));
        match outcome {
            Outcome::Done => report.done += 1,
            Outcome::Failed => report.failed += 1,
        }
        if planned >= plan.warm_up && outcome == Outcome::Done {
            report.latencies.record(latency);
        }
    }
    Ok(report)
}

fn generate<Start, Request>(plan: Plan, runtime: &Handle, mut start: Start) -> (OpenLoopReport, Vec<InFlight>)
where
    Start: FnMut(u64) -> Request,
    Request: Future<Output = Outcome> + Send + 'static,
{
    let mut report = OpenLoopReport::default();
    let mut in_flight = Vec::new();
    let permits = Arc::new(Semaphore::new(plan.in_flight_max));
    let total = plan.warm_up + plan.duration;
    let begin = Instant::now();

    for sequence in 0_u64.. {
        let planned = planned_at(sequence, plan.rate);
        if planned >= total {
            break;
        }
        let lag = wait_until(begin + planned);
        if planned >= plan.warm_up {
            report.lag.record(lag);
        }
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            report.unsent += 1;
            continue;
        };
        let request = start(sequence);
        let task = async move {
            let outcome = timeout(ANSWER_TIMEOUT, request).await.unwrap_or(Outcome::Failed);
            let latency = (begin + planned).elapsed();
            drop(permit);
            (outcome, latency)
        };
        in_flight.push((planned, runtime.spawn(task)));
    }
    (report, in_flight)
}

/// From the sequence number, not from the last instant: rounding must not add up.
#[expect(clippy::cast_precision_loss, reason = "sequence numbers stay below REQUESTS_MAX, far under 2^52")]
fn planned_at(sequence: u64, rate: f64) -> Duration {
    Duration::from_secs_f64(sequence as f64 / rate)
}

/// Waits for an instant and tells how late it is now. Never sleeps for less than [`TICK`].
fn wait_until(instant: Instant) -> Duration {
    loop {
        let now = Instant::now();
        if now >= instant {
            return now - instant;
        }
        thread::sleep((instant - now).max(TICK));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rate: f64, in_flight_max: usize) -> Plan {
        Plan { rate, warm_up: Duration::from_millis(20), duration: Duration::from_millis(80), in_flight_max }
    }

    #[tokio::test]
    async fn every_planned_request_leaves_once_and_only_recorded_ones_count() {
        let (sender, mut sent) = tokio::sync::mpsc::channel(200);
        let report = run(plan(1_000.0, 200), move |sequence| {
            let sender = sender.clone();
            async move {
                sender.send(sequence).await.unwrap();
                if sequence == 99 { Outcome::Failed } else { Outcome::Done }
            }
        });
        let report = report.await.unwrap();
        let mut sequences = Vec::new();
        while let Some(sequence) = sent.recv().await {
            sequences.push(sequence);
        }
        sequences.sort_unstable();
        assert_eq!(sequences, (0..100).collect::<Vec<u64>>());
        assert_eq!((report.done, report.failed, report.unsent), (99, 1, 0));
        // The first 20 ms are warm-up, the last request failed.
        assert_eq!((report.latencies.count(), report.lag.count()), (79, 80));
    }

    /// Answers everybody when it is dropped.
    struct AnswerOnDrop(Arc<Semaphore>);

    impl Drop for AnswerOnDrop {
        fn drop(&mut self) {
            self.0.add_permits(3);
        }
    }

    #[tokio::test]
    async fn requests_over_the_bound_are_not_sent_and_void_the_run() {
        // The generator drops its closure once it has gone through the plan; only then are the first three answered.
        let answers = AnswerOnDrop(Arc::new(Semaphore::new(0)));
        let report = run(plan(1_000.0, 3), move |_| {
            let answer = Arc::clone(&answers.0);
            async move {
                answer.acquire().await.unwrap().forget();
                Outcome::Done
            }
        });
        let report = report.await.unwrap();
        assert_eq!((report.done, report.unsent), (3, 97));
        assert!(report.void().unwrap().contains("97"), "{:?}", report.void());
    }

    #[tokio::test]
    async fn plan_without_requests_is_refused() {
        for rate in [0.0, -1.0, f64::NAN, 1e12] {
            let refused = run(plan(rate, 1), |_| async { Outcome::Done }).await;
            assert_eq!(refused.err(), Some(PlanError::Requests), "{rate}");
        }
    }

    #[test]
    fn lag_beyond_the_bound_voids_the_run() {
        let mut report = OpenLoopReport::default();
        for _ in 0..98 {
            report.lag.record(Duration::from_micros(10));
        }
        assert_eq!(report.void(), None);
        for _ in 0..2 {
            report.lag.record(Duration::from_millis(11));
        }
        assert!(report.void().unwrap().contains("lagged"));
    }
}
