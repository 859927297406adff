//! What a prepared statement, a kept result and a summary made beforehand are worth against the plain query, to one caller
//! who waits for each answer.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::BoxFuture;
use paystrata_app::results::Results;
use paystrata_cache::Clock;
use paystrata_db::results::{QueryCache, ResultOptions};
use paystrata_db::views::{IfOlder, Refresh, SCHEMA_SQL, View, Views, When};
use paystrata_db::{Db, Statement, Type};

use super::Sizes;
use super::ground::{Ground, KEYS};
use crate::closed_loop;
use crate::measure::Contender;

/// Long enough that nothing is due during a run.
const HOUR: Duration = Duration::from_secs(3_600);
/// Results that are asked for in turn: all of them are kept.
const KEPT: i32 = 1_000;

/// Planned anew it costs what a small join costs.
const JOIN: &str = "SELECT a.abalance, b.bbalance, t.tbalance FROM pgbench_accounts a
    JOIN pgbench_branches b USING (bid) JOIN pgbench_tellers t ON t.bid = b.bid AND t.tid = b.bid * 10 WHERE a.aid = $1";
static PREPARED: Statement = Statement::new(JOIN, &[Type::INT4]);
static BALANCE: Statement =
    Statement::new("SELECT abalance FROM pgbench_accounts WHERE aid = $1", &[Type::INT4]);
static SUMS: Statement = Statement::new(
    "SELECT bid, count(*), sum(abalance) FROM pgbench_accounts GROUP BY bid ORDER BY bid",
    &[],
);
static SUMMARY: Statement = Statement::new("SELECT bid, count, sum FROM branch_sums ORDER BY bid", &[]);

/// Asks once, with a number of its own for each time; an error if the answer is not what it must be.
type Ask<'run> = Arc<dyn Fn(i32) -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync + 'run>;

/// One way to get an answer.
struct Asking {
    name: &'static str,
    ask: Ask<'static>,
    sizes: Sizes,
}

impl Contender for Asking {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin((self.ask)(1))
    }

    fn measure(&mut self, _round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async move {
            let Sizes { warm_up, duration, .. } = self.sizes;
            let done = closed_loop::run(1, warm_up, duration, |_, course| {
                let ask = Arc::clone(&self.ask);
                async move {
                    for number in (1..=KEYS).cycle() {
                        if !course.goes_on() {
                            break;
                        }
                        ask(number).await?;
                        course.done();
                        // An answer that is at hand awaits nothing, and somebody has to look at the clock.
                        tokio::task::consume_budget().await;
                    }
                    Ok(())
                }
            });
            Ok(done.await?.per_second)
        })
    }
}

fn asking<Fut>(
    name: &'static str,
    sizes: Sizes,
    ask: impl Fn(i32) -> Fut + Send + Sync + 'static,
) -> Box<dyn Contender>
where
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let ask = move |number| -> BoxFuture<'static, anyhow::Result<()>> { Box::pin(ask(number)) };
    Box::new(Asking { name, ask: Arc::new(ask), sizes })
}

/// A join by a prepared statement, and the same parsed and planned each time in one round trip.
pub(super) fn prepared(ground: &Ground, sizes: Sizes) -> [Box<dyn Contender>; 2] {
    let (db, client) = (ground.db.clone(), ground.client());
    let ours = move |key: i32| {
        let db = db.clone();
        async move {
            let found = db.query_opt(None, &PREPARED, &[&key]).await?;
            found.map(drop).context("an account that exists was not found")
        }
    };
    let parsed = move |key: i32| {
        let client = Arc::clone(&client);
        async move {
            let found = client.query_typed(JOIN, &[(&key, Type::INT4)]).await?;
            found.first().map(drop).context("an account that exists was not found")
        }
    };
    [asking("prepared", sizes, ours), asking("parsed each time", sizes, parsed)]
}

/// A result that is kept in process, and the query.
pub(super) fn kept(ground: &Ground, sizes: Sizes) -> anyhow::Result<[Box<dyn Contender>; 2]> {
    let cache = QueryCache::new(&ground.db, Arc::new(Results::new(&ground.db, 64 << 20, Clock::tokio())));
    let decode = |rows: &[tokio_postgres::Row]| rows.first().map(|row| row.try_get::<_, i32>(0)).transpose();
    let balances = cache.query(&BALANCE, &["pgbench_accounts"], ResultOptions::living(HOUR), decode)?;
    let ours = move |number: i32| {
        let balances = balances.clone();
        async move {
            let balance = balances.get(&[&(1 + number % KEPT)]).await?;
            balance.value.map(drop).context("an account that exists was not found")
        }
    };
    Ok([asking("query cache", sizes, ours), plain_balance(&ground.db, sizes)])
}

fn plain_balance(db: &Db, sizes: Sizes) -> Box<dyn Contender> {
    let db = db.clone();
    asking("the query (balance)", sizes, move |number: i32| {
        let db = db.clone();
        async move {
            let found = db.query_opt(None, &BALANCE, &[&(1 + number % KEPT)]).await?;
            found.map(drop).context("an account that exists was not found")
        }
    })
}

/// A view with the sums of each branch, and the sums made from a million accounts.
pub(super) async fn summed(ground: &Ground, sizes: Sizes) -> anyhow::Result<[Box<dyn Contender>; 2]> {
    let make = format!("{SCHEMA_SQL}; CREATE MATERIALIZED VIEW branch_sums AS {} WITH NO DATA", SUMS.sql());
    ground.run(&make).await?;
    let views = Views::new(&ground.db, vec![View::new("branch_sums", Refresh::Plain, When::OnDemand)])?;
    views.read("branch_sums", HOUR, IfOlder::Refresh).await?;
    let ours = move |_| {
        let views = views.clone();
        async move {
            let read = views.read("branch_sums", HOUR, IfOlder::Refuse).await?;
            branches(read.connection.query(&SUMMARY, &[]).await?.len())
        }
    };
    let db = ground.db.clone();
    let summing = move |_| {
        let db = db.clone();
        async move { branches(db.query(None, &SUMS, &[]).await?.len()) }
    };
    Ok([asking("materialized view", sizes, ours), asking("the query (sums)", sizes, summing)])
}

fn branches(rows: usize) -> anyhow::Result<()> {
    let branches = usize::try_from(KEYS / 100_000)?;
    ensure!(rows == branches, "{branches} branches were to be summed, not {rows}: void");
    Ok(())
}
