//! Suite `failover`: the primary is killed under fifty writers, its standby is promoted three seconds later, and the time from
//! then to the first acknowledged write counts. Void when an acknowledged row is gone, when a row stands that no writer knows
//! of, or when a writer is told anything but "committed" and "unknown".

mod pair;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures_util::future::BoxFuture;
use paystrata_db::{Config, Db, Statement, TransactionOptions, Type};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use self::pair::{Pair, Server};
use crate::machine;
use crate::report::{Better, CaseReport, SuiteReport, Summary, Target};
use crate::suite::{Context, Effort, Suite};

/// One line of `suite::SUITES`.
pub const SUITE: Suite = Suite {
    name: "failover",
    about: "kill -9 of the primary under fifty writers: from the promotion to the first acknowledged write",
    run,
};

const WRITERS: i64 = 50;
/// Numbers of one writer; it writes far fewer.
const STRIDE: i64 = 1_000_000_000;
/// Of undisturbed writing, before.
const BEFORE: Duration = Duration::from_secs(1);
/// How long a failover manager takes to be sure, more or less.
const PROMOTED_AFTER: Duration = Duration::from_secs(3);
/// Nothing here takes longer, or it never ends.
const LIMIT: Duration = Duration::from_secs(60);
/// Milliseconds.
const FIRST_WRITE_MAX: f64 = 1_000.0;

static INSERT: Statement = Statement::new("INSERT INTO event VALUES ($1)", &[Type::INT8]);

/// What writers were told, and when.
#[derive(Debug, Default)]
struct Told {
    committed: Vec<(i64, Instant)>,
    unknown: Vec<i64>,
}

/// What one failover came to.
#[derive(Debug)]
struct Outcome {
    first_write: Duration,
    committed: usize,
    unknown: usize,
}

fn run(context: &Context) -> BoxFuture<'_, anyhow::Result<SuiteReport>> {
    Box::pin(async move {
        let rounds = if context.effort == Effort::Full { 5 } else { 1 };
        let others = machine::others_busy().await;
        let (mut runs, mut committed, mut unknown) = (Vec::new(), 0, 0);
        for round in 1..=rounds {
            let pair = Pair::start(&context.postgres_bin).await.context("start two servers")?;
            let outcome = fail_over(&pair).await;
            pair.clear().await;
            let outcome = outcome.with_context(|| format!("round {round}"))?;
            let milliseconds = outcome.first_write.as_secs_f64() * 1_000.0;
            context.progress(&format!("round {round}/{rounds}  first write after {milliseconds:.1} ms"));
            runs.push(milliseconds);
            committed += outcome.committed;
            unknown += outcome.unknown;
        }
        let case = CaseReport {
            case: "kill -9 under 50 writers, first write after the promotion".to_owned(),
            unit: "ms",
            better: Better::Lower,
            ours: Summary { runs },
            peers: vec![],
            target: Some(Target::FigureAtMost(FIRST_WRITE_MAX)),
        };
        let notes = vec![
            others,
            format!(
                "{committed} rows were acknowledged, and none is gone; {unknown} commits were told to be unknown"
            ),
            format!("promoted {PROMOTED_AFTER:?} after the kill; the standby is synchronous"),
        ];
        Ok(SuiteReport { suite: SUITE.name, cases: vec![case], notes })
    })
}

async fn fail_over(pair: &Pair) -> anyhow::Result<Outcome> {
    let make = "CREATE TABLE event (body int8 PRIMARY KEY)";
    pair.client(Server::Primary).await?.batch_execute(make).await.context("make the table")?;
    let mut config = Config::new(pair.url(Server::Primary).parse()?);
    config.replica_urls = vec![pair.url(Server::Standby).parse()?];
    // A writer waits for the next primary and not for less.
    config.acquire_timeout = LIMIT;
    let db = Db::connect(config).await.context("connect the data layer")?;
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(db.clone(), writer, Arc::clone(&done)));
    }
    sleep(BEFORE).await;
    pair.kill_primary().await?;
    sleep(PROMOTED_AFTER).await;
    let standby = pair.client(Server::Standby).await?;
    let is_promoted: bool = standby.query_one("SELECT pg_promote(true, 60)", &[]).await?.get(0);
    ensure!(is_promoted, "the standby is not promoted");
    let promoted = Instant::now();
    // Long enough for every writer to be through once more.
    sleep(FIRST_WRITE_LIMIT).await;
    done.store(true, Ordering::Relaxed);
    let mut told = Vec::new();
    let ending = async {
        while let Some(ended) = writers.join_next().await {
            told.push(ended.context("a writer panicked")??);
        }
        anyhow::Ok(())
    };
    timeout(LIMIT, ending).await.context("a writer does not end")??;
    db.close().await;
    reckon(&standby, &told, promoted).await
}

/// Writing goes on for so long after the promotion.
const FIRST_WRITE_LIMIT: Duration = Duration::from_secs(3);

async fn write(db: Db, writer: i64, done: Arc<AtomicBool>) -> anyhow::Result<Told> {
    let options =
        TransactionOptions { timeout: LIMIT, attempts_max: 10_000, ..TransactionOptions::default() };
    let mut told = Told::default();
    for body in writer * STRIDE.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        match db.transaction(options, |tx| async move { tx.execute(&INSERT, &[&body]).await }).await {
            Ok(_) => told.committed.push((body, Instant::now())),
            Err(error) if error.outcome_is_unknown() => told.unknown.push(body),
            Err(error) => bail!("a writer was told: {error}"),
        }
    }
    Ok(told)
}

/// Compares what writers were told with what stands.
async fn reckon(
    standby: &tokio_postgres::Client,
    told: &[Told],
    promoted: Instant,
) -> anyhow::Result<Outcome> {
    let committed: Vec<i64> =
        told.iter().flat_map(|told| told.committed.iter().map(|(body, _)| *body)).collect();
    let unknown: Vec<i64> = told.iter().flat_map(|told| told.unknown.iter().copied()).collect();
    let count = async |sql: &str, bodies: &Vec<i64>| {
        let count: i64 = standby.query_one(sql, &[bodies]).await?.get(0);
        anyhow::Ok(usize::try_from(count)?)
    };
    let there = "SELECT count(*) FROM event WHERE body = ANY($1)";
    let found = count(there, &committed).await?;
    ensure!(found == committed.len(), "{} rows were acknowledged, and {found} stand: void", committed.len());
    let strangers = count("SELECT count(*) FROM event WHERE body <> ALL($1)", &committed).await?;
    ensure!(strangers == count(there, &unknown).await?, "rows stand that nobody was told of: void");
    let after = told.iter().flat_map(|told| &told.committed).map(|(_, at)| *at).filter(|at| *at > promoted);
    let first = after.min().context("nobody could write after the promotion: void")?;
    Ok(Outcome { first_write: first - promoted, committed: committed.len(), unknown: unknown.len() })
}
