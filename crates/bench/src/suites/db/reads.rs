//! One key at a time among a million: through `Loader`, by a plain read, by `pgbench -S`, and through a bare pool.

use anyhow::{Context as _, ensure};
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use futures_util::future::BoxFuture;
use paystrata_db::{CoalesceOptions, Loader, Statement, Type};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_postgres::NoTls;

use super::ground::{Ground, KEYS};
use super::{SEED, Sizes};
use crate::closed_loop;
use crate::measure::Contender;

static MANY: Statement =
    Statement::new("SELECT aid, abalance FROM pgbench_accounts WHERE aid = ANY($1)", &[Type::INT4_ARRAY]);
pub(super) static ONE: Statement =
    Statement::new("SELECT abalance FROM pgbench_accounts WHERE aid = $1", &[Type::INT4]);

const CALLERS: u64 = 64;
/// As many as `pgbench` has, and as `Db` opens at most.
const CONNECTIONS: usize = 16;

/// Callers in process that read keys drawn at random, one at a time each.
pub(super) struct Reads<'run, R> {
    name: &'static str,
    /// Whether the key was found.
    read: R,
    ground: &'run Ground,
    sizes: Sizes,
}

impl<R, Fut> Contender for Reads<'_, R>
where
    R: Fn(i32) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<bool>> + Send + 'static,
{
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.ground.settle())
    }

    fn measure(&mut self, round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async move {
            let Sizes { warm_up, duration, .. } = self.sizes;
            let done = closed_loop::run(CALLERS, warm_up, duration, |caller, course| {
                let read = self.read.clone();
                let mut keys = SmallRng::seed_from_u64(SEED ^ (round << 32) ^ (caller << 8));
                async move {
                    while course.goes_on() {
                        let is_found = read(keys.random_range(1..=KEYS)).await?;
                        ensure!(is_found, "a key that exists was not found");
                        course.done();
                    }
                    Ok(())
                }
            });
            Ok(done.await?.per_second)
        })
    }
}

/// Reads by somebody else's means.
#[cfg(feature = "peers")]
pub(super) fn through<'run, R, Fut>(
    name: &'static str,
    read: R,
    ground: &'run Ground,
    sizes: Sizes,
) -> Box<dyn Contender + 'run>
where
    R: Fn(i32) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = anyhow::Result<bool>> + Send + 'static,
{
    Box::new(Reads { name, read, ground, sizes })
}

/// Reads through one `Loader`.
pub(super) fn through_loader(ground: &Ground, sizes: Sizes) -> anyhow::Result<Box<dyn Contender + '_>> {
    let decode = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
    let loader: Loader<i32, i32> = Loader::new(&ground.db, &MANY, CoalesceOptions::default(), decode)?;
    let read = move |key| {
        let loader = loader.clone();
        async move { Ok(loader.get(key).await?.is_some()) }
    };
    Ok(Box::new(Reads { name: "Loader", read, ground, sizes }))
}

/// A connection and a statement for each read.
pub(super) fn plain(ground: &Ground, sizes: Sizes) -> Box<dyn Contender + '_> {
    let db = ground.db.clone();
    let read = move |key| {
        let db = db.clone();
        // Not `Db::read`: without a replica it may use only half of the pool.
        async move { Ok(db.write().await?.query_opt(&ONE, &[&key]).await?.is_some()) }
    };
    Box::new(Reads { name: "plain reads", read, ground, sizes })
}

/// Statements that travel with those of other callers.
pub(super) fn shared(ground: &Ground, sizes: Sizes) -> Box<dyn Contender + '_> {
    let db = ground.db.clone();
    let read = move |key: i32| {
        let db = db.clone();
        async move { Ok(db.query_opt(None, &ONE, &[&key]).await?.is_some()) }
    };
    Box::new(Reads { name: "Db::query", read, ground, sizes })
}

/// The peer of the plain reads: the pool below ours, with its own cache of prepared statements and its fastest recycling.
pub(super) fn bare_pool(ground: &Ground, sizes: Sizes) -> anyhow::Result<Box<dyn Contender + '_>> {
    let fastest = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(ground.settings.clone(), NoTls, fastest);
    let pool = Pool::builder(manager).max_size(CONNECTIONS).runtime(Runtime::Tokio1).build()?;
    let read = move |key| {
        let pool = pool.clone();
        async move {
            let client = pool.get().await?;
            let statement = client.prepare_typed_cached(ONE.sql(), ONE.types()).await?;
            Ok(client.query_opt(&statement, &[&key]).await?.is_some())
        }
    };
    Ok(Box::new(Reads { name: "deadpool-postgres", read, ground, sizes }))
}

/// The peer of the coalesced reads: `pgbench`'s own read-only script.
pub(super) struct SelectOnly<'run> {
    pub(super) ground: &'run Ground,
    pub(super) sizes: Sizes,
}

impl Contender for SelectOnly<'_> {
    fn name(&self) -> String {
        "pgbench -S".to_owned()
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.ground.settle())
    }

    fn measure(&mut self, round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async move {
            let (pgbench, seed) = (&self.ground.pgbench, SEED + round);
            let arguments = ["--select-only", "--client", "16", "--jobs", "2"];
            pgbench.run(&arguments, self.sizes.warm_up.as_secs().max(1), seed).await.context("warm up")?;
            Ok(pgbench.run(&arguments, self.sizes.duration.as_secs().max(1), seed + 1_000).await?.per_second)
        })
    }
}
