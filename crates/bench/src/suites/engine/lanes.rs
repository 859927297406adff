//! Suite `lanes`: the same engine with other numbers of lanes, in one database and in turn. Says what one, three and four
//! connections are worth against the default of two; there is no peer and no target.

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use paystrata_app::engine::EngineConfig;

use super::ground::Ground;
use super::mix::Mix;
use super::ours::{ClosedLoop, Driver};
use super::{SEED, Sizes, UNIT, audit};
use crate::measure::{Contender, interleave};
use crate::report::{Better, CaseReport, PeerFigures, SuiteReport};
use crate::suite::{Context, Effort, Suite};
use crate::{database, machine};

/// One line of `suite::SUITES`.
pub const SUITE: Suite =
    Suite { name: "lanes", about: "the engine with two lanes, against itself with one, three and four", run };

const OTHERS: [(&str, usize); 3] = [("1 lane", 1), ("3 lanes", 3), ("4 lanes", 4)];
const LOADS: [(Mix, usize); 3] = [(Mix::Uniform, 64), (Mix::Uniform, 512), (Mix::Hot, 512)];

/// A quick run leaves out the load that says least about lanes: 64 callers seldom fill two.
fn loads(effort: Effort) -> impl Iterator<Item = (Mix, usize)> {
    LOADS.into_iter().filter(move |(_, callers)| effort == Effort::Full || *callers > 64)
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
    let busy = machine::others_busy().await;
    let mut drivers = vec![Driver::start(ground, &EngineConfig::default()).await?];
    for (_, lanes) in OTHERS {
        drivers.push(Driver::start(ground, &EngineConfig { lanes, ..EngineConfig::default() }).await?);
    }
    let mut cases = Vec::new();
    for (mix, callers) in loads(context.effort) {
        let loop_of = |driver| Box::new(ClosedLoop { driver, ground, mix, callers, sizes });
        let mut contenders: Vec<Box<dyn Contender + '_>> =
            drivers.iter().map(|driver| loop_of(driver) as Box<dyn Contender + '_>).collect();
        let mut summaries =
            interleave(sizes.rounds, &mut contenders, &mut |line| context.progress(line)).await?.into_iter();
        let ours = summaries.next().context("the default was measured")?;
        let peers =
            OTHERS.iter().zip(summaries).map(|((name, _), figures)| PeerFigures { name, figures }).collect();
        let case = format!("{}, {callers} callers", mix.name());
        cases.push(CaseReport { case, unit: UNIT, better: Better::Higher, ours, peers, target: None });
    }
    let mut acknowledged = 0;
    for driver in &drivers {
        driver.close().await;
        acknowledged += driver.acknowledged();
    }
    let verdict = audit::verify(ground, acknowledged).await.context("verify the ledger afterwards")?;
    Ok(SuiteReport { suite: SUITE.name, cases, notes: vec![format!("seed {SEED}"), busy, verdict] })
}
