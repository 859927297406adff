//! The tail: the same engine under open-loop load at a fixed rate, timed from the planned instants. The figure is the
//! 99th percentile in milliseconds. A payment that was refused was never answered: its round counts as infinitely slow.
//! A run in which the generator lagged is void. Each round first measures what the engine can do at that moment, because
//! tables that have grown since make 80 % of an earlier top rate a load beyond the present one; the load follows at once,
//! so that both see the same state. (A checkpoint in between would make each page's first change a full image again: for
//! some seconds the top rate itself is lower then.)

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::bail;
use futures_util::future::BoxFuture;

use super::ground::Ground;
use super::mix::{Draws, Mix};
use super::ours::{ClosedLoop, Driver, describe, difference, is_made};
use super::{SEED, Sizes};
use crate::latency::milliseconds;
use crate::measure::Contender;
use crate::open_loop::{self, Outcome, Plan};

/// The engine's own queue refuses earlier; this only bounds the generator.
const IN_FLIGHT_MAX: usize = 20_000;

/// Open-loop load on uniform accounts.
#[derive(Debug)]
pub(super) struct Tail<'run> {
    pub(super) driver: &'run Driver,
    pub(super) ground: &'run Ground,
    pub(super) sizes: Sizes,
    /// Callers that reach the top rate.
    pub(super) callers: usize,
    /// The part of the top rate that is offered.
    pub(super) load: f64,
}

impl Contender for Tail<'_> {
    fn name(&self) -> String {
        format!("engine, uniform, open loop at {:.0} % of the top rate, p99 in ms", self.load * 100.0)
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.ground.settle())
    }

    fn measure(&mut self, round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async move {
            let top_rate = self.closed_loop().measure(round).await?;
            self.run(round, top_rate * self.load).await
        })
    }
}

impl Tail<'_> {
    fn closed_loop(&self) -> ClosedLoop<'_> {
        let Self { driver, ground, sizes, callers, .. } = *self;
        ClosedLoop { driver, ground, mix: Mix::Uniform, callers, sizes }
    }

    async fn run(&self, round: u64, rate: f64) -> anyhow::Result<f64> {
        let plan = Plan {
            rate,
            warm_up: self.sizes.warm_up,
            duration: self.sizes.duration,
            in_flight_max: IN_FLIGHT_MAX,
        };
        let mut draws = Draws::new(Mix::Uniform, SEED ^ (round << 32) ^ 1);
        let (engine, maker) = (self.driver.engine().clone(), Arc::clone(self.driver.maker()));
        let counter = Arc::clone(self.driver.counter());
        let before = self.driver.engine().stats();
        let report = open_loop::run(plan, move |_| {
            // Queued here, on the generator's thread, so that nothing stands between the plan and the engine.
            let queued = engine.enqueue(maker.submission(draws.draw()));
            let counter = Arc::clone(&counter);
            async move {
                let Ok(queued) = queued else { return Outcome::Failed };
                match queued.await {
                    Ok(reply) if is_made(&reply) => {
                        counter.fetch_add(1, Ordering::Relaxed);
                        Outcome::Done
                    }
                    _ => Outcome::Failed,
                }
            }
        });
        let report = report.await?;
        let work = difference(self.driver.engine().stats(), before);
        self.driver.note(format!(
            "open loop at {rate:.0}/s, round {}: {}; generator lag p99 {:.2} ms; {}",
            round + 1,
            report.latencies,
            milliseconds(report.lag.percentile(99.0)),
            describe(work)
        ));
        if let Some(reason) = report.void() {
            bail!("the run is void: {reason}");
        }
        if report.failed > 0 {
            let all = report.failed + report.done;
            self.driver.note(format!(
                "  {} of {all} payments were refused, so this round has no p99",
                report.failed
            ));
            return Ok(f64::INFINITY);
        }
        Ok(milliseconds(report.latencies.percentile(99.0)))
    }
}
