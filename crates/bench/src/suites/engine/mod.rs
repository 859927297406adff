//! Suite `engine`: durable book payments per second, in batches by the ledger engine against `pgbench` running the same
//! transaction one payment at a time, in one database and in turn. Void when money is lost, a payment is missing, or
//! the server does not flush.
//!
//! ```text
//! ground    a fresh database: migrations, accounts, the peer's function; settled the same way before every turn
//! ours      callers in process, closed loop, through `Engine::submit`
//! tail      the same engine, open loop at 80 % of its top rate: the 99th percentile
//! pgbench   the peer
//! audit     trial balance, fold of every balance, every acknowledged payment counted, for both sides' rows
//! ```

mod audit;
mod ground;
pub mod lanes;
mod mix;
mod ours;
mod pgbench;
mod render;
mod schema;
mod tail;

use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use paystrata_app::engine::EngineConfig;

use self::ground::Ground;
use self::mix::Mix;
use self::ours::{ClosedLoop, Driver};
use self::pgbench::Pgbench;
use self::tail::Tail;
use crate::measure::{Contender, interleave};
use crate::report::{Better, CaseReport, PeerFigures, SuiteReport, Summary, Target};
use crate::suite::{Context, Effort, Suite};
use crate::{database, machine};

/// One line of `suite::SUITES`.
pub const SUITE: Suite = Suite {
    name: "engine",
    about: "durable book payments in process, against pgbench with one payment per transaction",
    run,
};

const PEER: &str = "pgbench";
const UNIT: &str = "payments/s";
/// Every random choice of our side derives from it.
pub(crate) const SEED: u64 = 20_251_121;

/// What is asked of us at a number of callers, as a ratio against the peer, by mix.
struct Load {
    callers: usize,
    at_least: fn(Mix) -> Option<f64>,
}

/// 64 callers: small batches still win. 512: a busy node. 2,048: what the tail of batching looks like, no target.
const LOADS: [Load; 3] = [
    Load { callers: 64, at_least: |_| Some(1.3) },
    Load { callers: 512, at_least: |mix| Some(if mix == Mix::Uniform { 2.5 } else { 6.0 }) },
    Load { callers: 2_048, at_least: |_| None },
];

/// Latency at this part of the top rate is what a node in production lives with.
const TAIL_LOAD: f64 = 0.8;
/// The promise of `payment.process`, in milliseconds.
const TAIL_P99_MS_MAX: f64 = 100.0;

/// Sizes of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) rounds: u64,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
}

impl Sizes {
    fn of(effort: Effort) -> Self {
        let seconds = Duration::from_secs;
        match effort {
            Effort::Full => Self { rounds: 5, warm_up: seconds(2), duration: seconds(8) },
            Effort::Quick => Self { rounds: 1, warm_up: seconds(1), duration: seconds(1) },
        }
    }
}

fn run(context: &Context) -> BoxFuture<'_, anyhow::Result<SuiteReport>> {
    Box::pin(async move {
        context.machine.ensure_durable()?;
        let ground = Ground::lay(&context.primary).await.context("lay the ground")?;
        let outcome = measure(context, &ground).await;
        database::then_cleared(outcome, ground.clear()).await
    })
}

async fn measure(context: &Context, ground: &Ground) -> anyhow::Result<SuiteReport> {
    let sizes = Sizes::of(context.effort);
    let others = machine::others_busy().await;
    let driver = Driver::start(ground, &EngineConfig::default()).await?;
    let peers = [Pgbench::new(context, ground, Mix::Uniform)?, Pgbench::new(context, ground, Mix::Hot)?];
    let outcome = compare(context, ground, &driver, &peers, sizes).await;
    driver.close().await;
    let cases = outcome?;
    let acknowledged = driver.acknowledged() + peers.iter().map(Pgbench::acknowledged).sum::<u64>();
    let mut notes = vec![
        format!(
            "seed {SEED}; {} rounds of {:?} after {:?} of warm-up; accounts: {} uniform, {} hot",
            sizes.rounds,
            sizes.duration,
            sizes.warm_up,
            ground::ACCOUNTS,
            mix::HOT_ACCOUNTS
        ),
        others,
        pgbench::ABOUT.to_owned(),
        driver.about_answers(),
    ];
    notes.extend(driver.take_notes());
    notes.push(audit::verify(ground, acknowledged).await.context("verify the ledger afterwards")?);
    Ok(SuiteReport { suite: SUITE.name, cases, notes })
}

async fn compare(
    context: &Context,
    ground: &Ground,
    driver: &Driver,
    peers: &[Pgbench; 2],
    sizes: Sizes,
) -> anyhow::Result<Vec<CaseReport>> {
    let mut cases = Vec::new();
    let mut top_callers = LOADS[1].callers;
    for (mix, peer) in [Mix::Uniform, Mix::Hot].into_iter().zip(peers) {
        let loads: Vec<&Load> = LOADS.iter().filter(|load| is_measured(load, mix, context.effort)).collect();
        let mut contenders: Vec<Box<dyn Contender + '_>> = vec![Box::new(peer.contender(ground, sizes))];
        for load in &loads {
            contenders.push(Box::new(ClosedLoop { driver, ground, mix, callers: load.callers, sizes }));
        }
        let mut summaries =
            interleave(sizes.rounds, &mut contenders, &mut |line| context.progress(line)).await?;
        let ours = summaries.split_off(1);
        let theirs = summaries.pop().context("the peer was measured")?;
        if mix == Mix::Uniform {
            let top = loads.iter().zip(&ours).max_by(|(_, a), (_, b)| a.median().total_cmp(&b.median()));
            top_callers = top.map_or(top_callers, |(load, _)| load.callers);
        }
        cases.extend(loads.iter().zip(ours).map(|(load, ours)| case(mix, load, ours, &theirs)));
    }
    let mut contenders: [Box<dyn Contender + '_>; 1] =
        [Box::new(Tail { driver, ground, sizes, callers: top_callers, load: TAIL_LOAD })];
    // A void tail takes nothing from the figures above: without a figure its own case misses its target.
    let tail = match interleave(sizes.rounds, &mut contenders, &mut |line| context.progress(line)).await {
        Ok(mut summaries) => summaries.pop().context("the tail was measured")?,
        Err(error) => {
            driver.note(format!("no figure for the tail: {error:#}"));
            Summary { runs: Vec::new() }
        }
    };
    cases.push(CaseReport {
        case: "p99 at 80 % of top rate".to_owned(),
        unit: "ms",
        better: Better::Lower,
        ours: tail,
        peers: Vec::new(),
        target: Some(Target::FigureAtMost(TAIL_P99_MS_MAX)),
    });
    Ok(cases)
}

/// A quick run leaves out what has no target.
fn is_measured(load: &Load, mix: Mix, effort: Effort) -> bool {
    effort == Effort::Full || (load.at_least)(mix).is_some()
}

fn case(mix: Mix, load: &Load, ours: Summary, theirs: &Summary) -> CaseReport {
    let target = (load.at_least)(mix).map(|ratio| Target::RatioAtLeast { peer: PEER, ratio });
    CaseReport {
        case: format!("{}, {} callers", mix.name(), load.callers),
        unit: UNIT,
        better: Better::Higher,
        ours,
        peers: vec![PeerFigures { name: PEER, figures: theirs.clone() }],
        target,
    }
}
