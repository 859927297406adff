//! Suite `db`: `paystrata-db` against `pgbench`, `deadpool-postgres` used bare, `sqlx`, `psql`, and connections that commit row by
//! row. Void when a key that exists is not found, or when the rows that stand afterwards are not those that were acknowledged.
//!
//! ```text
//! ground    a database with pgbench's own million accounts, and tables to write to
//! reads     one key at a time: Loader, a plain read, and who else reads so
//! checkout  a connection taken and given back
//! writes    one row at a time: Batcher, and sixteen connections
//! rows      a hundred thousand rows for ..
//! bulk      .. insert_many and its peers
//! changes   .. update_many, upsert_many, and a statement per row
//! factors   prepared statements, kept results and materialized views, each against the plain query
//! sqlx      the peer of that name, with feature `peers`
//! ```

mod bulk;
mod changes;
mod checkout;
mod factors;
mod ground;
mod reads;
mod rows;
#[cfg(feature = "peers")]
mod sqlx;
mod writes;

use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::BoxFuture;

use self::changes::{By, Changing, Verb};
use self::ground::Ground;
use self::reads::SelectOnly;
use self::writes::{RowByRow, ThroughBatcher};
use crate::measure::{Contender, interleave};
use crate::psql::Psql;
use crate::report::{Better, CaseReport, PeerFigures, SuiteReport, Summary, Target};
use crate::suite::{Context, Effort, Suite};
use crate::{database, machine};

/// One line of `suite::SUITES`.
pub const SUITE: Suite = Suite {
    name: "db",
    about: "reads, writes, bulk loads and a checkout against pgbench, psql, sqlx, a bare pool and row-by-row commits",
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
    cases.extend(checkout_of(context, ground, sizes).await?);
    cases.extend(writes_of(context, ground, sizes).await?);
    cases.extend(many_rows_of(context, ground, sizes).await?);
    cases.extend(factors_of(context, ground, sizes).await?);
    let rows = ground.check_rows().await?;
    let notes = vec![
        format!(
            "seed {SEED}; {} rounds of {:?} after {:?} of warm-up",
            sizes.rounds, sizes.duration, sizes.warm_up
        ),
        others,
        format!("keys: random among {}; pgbench: -n -S -M prepared -c 16 -j 2", ground::KEYS),
        format!("{rows} rows were acknowledged one by one by both sides, and stand"),
        format!("{} rows in a load or a change; all were found as they must be after each turn", rows::ROWS),
    ];
    Ok(SuiteReport { suite: SUITE.name, cases, notes })
}

async fn reads_of(context: &Context, ground: &Ground, sizes: Sizes) -> anyhow::Result<Vec<CaseReport>> {
    let mut sides = Sides::new(context, sizes);
    let loader = sides.add(reads::through_loader(ground, sizes)?);
    let select = sides.add(Box::new(SelectOnly { ground, sizes }));
    let shared = sides.add(reads::shared(ground, sizes));
    let plain = sides.add(reads::plain(ground, sizes));
    let bare = sides.add(reads::bare_pool(ground, sizes)?);
    #[cfg(feature = "peers")]
    let sqlx = sides.add(sqlx::single(ground, sqlx::pool(ground).await?, sizes));
    let of = sides.measure().await?;
    let mut cases = vec![
        case("single reads, 64 callers, Loader", "keys/s", of(loader), ("pgbench -S", of(select), 4.0)),
        case("single reads, 64 callers, plain", "keys/s", of(shared), ("deadpool-postgres", of(bare), 1.3)),
    ];
    #[cfg(feature = "peers")]
    cases.push(case("single reads, 64 callers, plain", "keys/s", of(shared), ("sqlx", of(sqlx), 1.5)));
    let each = "single reads, 64 callers, a connection each";
    cases.push(case(each, "keys/s", of(plain), ("deadpool-postgres", of(bare), 0.97)));
    Ok(cases)
}

async fn checkout_of(context: &Context, ground: &Ground, sizes: Sizes) -> anyhow::Result<Vec<CaseReport>> {
    /// Nanoseconds.
    const CHECKOUT_MAX: f64 = 3_000.0;
    let mut sides = Sides::new(context, sizes);
    let (ours, bare) = (sides.add(checkout::ours(ground)), sides.add(checkout::bare(ground)?));
    let of = sides.measure().await?;
    let peer = ("deadpool-postgres", of(bare));
    let target = Some(Target::FigureAtMost(CHECKOUT_MAX));
    Ok(vec![CaseReport { better: Better::Lower, target, ..factor("checkout", "ns", of(ours), peer) }])
}

async fn writes_of(context: &Context, ground: &Ground, sizes: Sizes) -> anyhow::Result<Vec<CaseReport>> {
    let mut sides = Sides::new(context, sizes);
    let rows = sides.add(Box::new(RowByRow { ground, sizes }));
    let few = sides.add(Box::new(ThroughBatcher::new(ground, sizes, 64)?));
    let many = sides.add(Box::new(ThroughBatcher::new(ground, sizes, 512)?));
    let of = sides.measure().await?;
    let peer = "16 connections";
    Ok(vec![
        case("single rows, 64 callers, Batcher", "rows/s", of(few), (peer, of(rows), 2.5)),
        case("single rows, 512 callers, Batcher", "rows/s", of(many), (peer, of(rows), 6.0)),
    ])
}

async fn many_rows_of(context: &Context, ground: &Ground, sizes: Sizes) -> anyhow::Result<Vec<CaseReport>> {
    let rows = rows::new();
    bulk::fill(ground, &rows).await.context("fill the table that others are filled from")?;
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let psql = Psql::new(&context.postgres_bin, &ground.settings)?;
    #[cfg(feature = "peers")]
    let pool = sqlx::pool(ground).await?;
    let mut sides = Sides::new(context, sizes);
    let ours = sides.add(bulk::ours(ground, &rows).await?);
    let copied = sides.add(bulk::copied(ground, &psql, folder.path()).await?);
    let single = sides.add(Box::new(RowByRow { ground, sizes }));
    #[cfg(feature = "peers")]
    let arrays = sides.add(sqlx::arrays(ground, &pool, &rows));
    let of = sides.measure().await?;
    let name = "insert_many";
    let mut cases = vec![case(name, "rows/s", of(ours), ("psql \\copy", of(copied), 0.9))];
    #[cfg(feature = "peers")]
    cases.push(case(name, "rows/s", of(ours), ("sqlx UNNEST", of(arrays), 1.3)));
    cases.push(case(name, "rows/s", of(ours), ("16 connections", of(single), 10.0)));
    let changed = rows::changed(&rows);
    for verb in [Verb::Update, Verb::Upsert] {
        let mut sides = Sides::new(context, sizes);
        let side = |by| Box::new(Changing { verb, by, ground, rows: &changed });
        let (ours, each) = (sides.add(side(By::Bulk)), sides.add(side(By::Rows)));
        let of = sides.measure().await?;
        let name = if verb == Verb::Update { "update_many" } else { "upsert_many" };
        cases.push(factor(name, "rows/s", of(ours), ("a statement per row", of(each))));
    }
    Ok(cases)
}

async fn factors_of(context: &Context, ground: &Ground, sizes: Sizes) -> anyhow::Result<Vec<CaseReport>> {
    let prepared = factors::prepared(ground, sizes);
    let (kept, summed) = (factors::kept(ground, sizes)?, factors::summed(ground, sizes).await?);
    let pairs = [
        ("a join of three, prepared", "parsed each time", prepared),
        ("query cache, a hit", "the query", kept),
        ("sums of a million rows, materialized", "the query", summed),
    ];
    let mut cases = Vec::new();
    for (name, peer, [ours, theirs]) in pairs {
        let mut sides = Sides::new(context, sizes);
        let (ours, theirs) = (sides.add(ours), sides.add(theirs));
        let of = sides.measure().await?;
        cases.push(factor(name, "answers/s", of(ours), (peer, of(theirs))));
    }
    Ok(cases)
}

/// Sides of one or several cases that are measured in turn.
struct Sides<'run> {
    context: &'run Context,
    sizes: Sizes,
    contenders: Vec<Box<dyn Contender + 'run>>,
}

/// The place of a side among those that are measured together.
#[derive(Clone, Copy, Debug)]
struct Side(usize);

impl<'run> Sides<'run> {
    fn new(context: &'run Context, sizes: Sizes) -> Self {
        Self { context, sizes, contenders: Vec::new() }
    }

    fn add(&mut self, side: Box<dyn Contender + 'run>) -> Side {
        self.contenders.push(side);
        Side(self.contenders.len() - 1)
    }

    /// Measures all of them. What comes back gives the figures of each.
    async fn measure(mut self) -> anyhow::Result<impl Fn(Side) -> Summary> {
        let context = self.context;
        let progress = &mut |line: &str| context.progress(line);
        let summaries = interleave(self.sizes.rounds, &mut self.contenders, progress).await?;
        Ok(move |Side(place)| summaries[place].clone())
    }
}

fn case(
    name: &str,
    unit: &'static str,
    ours: Summary,
    (peer, figures, ratio): (&'static str, Summary, f64),
) -> CaseReport {
    let target = Some(Target::RatioAtLeast { peer, ratio });
    CaseReport { target, ..factor(name, unit, ours, (peer, figures)) }
}

/// A case that is shown and not judged.
fn factor(
    name: &str,
    unit: &'static str,
    ours: Summary,
    (peer, figures): (&'static str, Summary),
) -> CaseReport {
    CaseReport {
        case: name.to_owned(),
        unit,
        better: Better::Higher,
        ours,
        peers: vec![PeerFigures { name: peer, figures }],
        target: None,
    }
}
