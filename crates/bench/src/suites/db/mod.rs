//! Suite `db`: `paystrata-db` against `pgbench`, `deadpool-postgres` used bare, and connections that commit row by row.
//! Void when a key that exists is not found, or when the rows that stand afterwards are not those that were acknowledged.
//!
//! ```text
//! ground   a database with pgbench's own million accounts, and a table to write to
//! reads    one key at a time: Loader, a plain read, and who else reads so
//! writes   one row at a time: Batcher, and sixteen connections
//! ```

mod ground;
mod reads;
mod writes;

use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;

use self::ground::Ground;
use self::reads::SelectOnly;
use self::writes::{RowByRow, ThroughBatcher};
use crate::measure::{Contender, interleave};
use crate::report::{Better, CaseReport, PeerFigures, SuiteReport, Target};
use crate::suite::{Context, Effort, Suite};
use crate::{database, machine};

/// One line of `suite::SUITES`.
pub const SUITE: Suite = Suite {
    name: "db",
    about: "single reads and writes that travel together, and a plain read, against pgbench, a bare pool and row-by-row commits",
    run,
};

/// Draws of all sides begin with it.
const SEED: u64 = 20_261_121;

/// Sizes of a run.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    rounds: u64,
    warm_up: Duration,
    duration: Duration,
}

impl Sizes {
    fn of(effort: Effort) -> Self {
        let seconds = Duration::from_secs;
        match effort {
            Effort::Full => Self { rounds: 5, warm_up: seconds(1), duration: seconds(5) },
            Effort::Quick => Self { rounds: 2, warm_up: seconds(1), duration: seconds(1) },
        }
    }
}

fn run(context: &Context) -> BoxFuture<'_, anyhow::Result<SuiteReport>> {
    Box::pin(async move {
        context.machine.ensure_durable()?;
        let ground = Ground::lay(context).await.context("lay the ground")?;
        let outcome = measure(context, &ground).await;
        database::then_cleared(outcome, ground.clear()).await
    })
}

async fn measure(context: &Context, ground: &Ground) -> anyhow::Result<SuiteReport> {
    let sizes = Sizes::of(context.effort);
    let others = machine::others_busy().await;
    let mut cases = reads_of(context, ground, sizes).await?;
    cases.extend(writes_of(context, ground, sizes).await?);
    let rows = ground.check_rows().await?;
    let notes = vec![
        format!(
            "seed {SEED}; {} rounds of {:?} after {:?} of warm-up",
            sizes.rounds, sizes.duration, sizes.warm_up
        ),
        others,
        format!("keys: random among {}; pgbench: -n -S -M prepared -c 16 -j 2", ground::KEYS),
        format!("{rows} rows were acknowledged by both sides, and stand"),
    ];
    Ok(SuiteReport { suite: SUITE.name, cases, notes })
}

async fn reads_of(context: &Context, ground: &Ground, sizes: Sizes) -> anyhow::Result<Vec<CaseReport>> {
    let mut contenders: Vec<Box<dyn Contender + '_>> = vec![
        reads::through_loader(ground, sizes)?,
        Box::new(SelectOnly { ground, sizes }),
        reads::shared(ground, sizes),
        reads::plain(ground, sizes),
        reads::bare_pool(ground, sizes)?,
    ];
    let summaries = interleave(sizes.rounds, &mut contenders, &mut |line| context.progress(line)).await?;
    let [loader, select, shared, plain, bare] =
        summaries.try_into().map_err(|_| anyhow::anyhow!("five sides were measured"))?;
    Ok(vec![
        case("single reads, 64 callers, Loader", "keys/s", loader, ("pgbench -S", select, 4.0)),
        case("single reads, 64 callers, plain", "keys/s", shared, ("deadpool-postgres", bare.clone(), 1.3)),
        case(
            "single reads, 64 callers, a connection each",
            "keys/s",
            plain,
            ("deadpool-postgres", bare, 0.97),
        ),
    ])
}

async fn writes_of(context: &Context, ground: &Ground, sizes: Sizes) -> anyhow::Result<Vec<CaseReport>> {
    let mut contenders: Vec<Box<dyn Contender + '_>> = vec![
        Box::new(RowByRow { ground, sizes }),
        Box::new(ThroughBatcher::new(ground, sizes, 64)?),
        Box::new(ThroughBatcher::new(ground, sizes, 512)?),
    ];
    let summaries = interleave(sizes.rounds, &mut contenders, &mut |line| context.progress(line)).await?;
    let [rows, few, many] = summaries.try_into().map_err(|_| anyhow::anyhow!("three sides were measured"))?;
    let peer = "16 connections";
    Ok(vec![
        case("single rows, 64 callers, Batcher", "rows/s", few, (peer, rows.clone(), 2.5)),
        case("single rows, 512 callers, Batcher", "rows/s", many, (peer, rows, 6.0)),
    ])
}

fn case(
    name: &str,
    unit: &'static str,
    ours: crate::report::Summary,
    (peer, figures, ratio): (&'static str, crate::report::Summary, f64),
) -> CaseReport {
    CaseReport {
        case: name.to_owned(),
        unit,
        better: Better::Higher,
        ours,
        peers: vec![PeerFigures { name: peer, figures }],
        target: Some(Target::RatioAtLeast { peer, ratio }),
    }
}
