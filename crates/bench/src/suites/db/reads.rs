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
static ONE: Statement = Statement::new("SELECT abalance FROM pgbench_accounts WHERE aid = $1", &[Type::INT4]);

const CALLERS: u64 = 64;
/// As many as `pgbench` has, and as `Db` opens at most.
const CONNECTIONS: usize = 16;

fn draws(round: u64, caller: u64) -> SmallRng {
    SmallRng::seed_from_u64(SEED ^ (round << 32) ^ (caller << 8))
}

/// Reads through one `Loader`.
pub(super) struct ThroughLoader<'run> {
    loader: Loader<i32, i32>,
    ground: &'run Ground,
    sizes: Sizes,
}

impl<'run> ThroughLoader<'run> {
    pub(super) fn new(ground: &'run Ground, sizes: Sizes) -> anyhow::Result<Self> {
        let decode = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, row.try_get(1)?));
        let loader = Loader::new(&ground.db, &MANY, CoalesceOptions::default(), decode)?;
        Ok(Self { loader, ground, sizes })
    }
}

impl Contender for ThroughLoader<'_> {
    fn name(&self) -> String {
        "Loader".to_owned()
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.ground.settle())
    }

    fn measure(&mut self, round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async move {
            let done =
                closed_loop::run(CALLERS, self.sizes.warm_up, self.sizes.duration, |caller, course| {
                    let (loader, mut keys) = (self.loader.clone(), draws(round, caller));
                    async move {
                        while course.goes_on() {
                            let found = loader.get(keys.random_range(1..=KEYS)).await?;
                            ensure!(found.is_some(), "a key that exists was not found");
                            course.done();
                        }
                        Ok(())
                    }
                });
            Ok(done.await?.per_second)
        })
    }
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

/// `Db::read` and one statement each.
pub(super) struct PlainReads<'run> {
    pub(super) ground: &'run Ground,
    pub(super) sizes: Sizes,
}

impl Contender for PlainReads<'_> {
    fn name(&self) -> String {
        "plain reads".to_owned()
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.ground.settle())
    }

    fn measure(&mut self, round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async move {
            let done =
                closed_loop::run(CALLERS, self.sizes.warm_up, self.sizes.duration, |caller, course| {
                    let (db, mut keys) = (self.ground.db.clone(), draws(round, caller));
                    async move {
                        while course.goes_on() {
                            let key = keys.random_range(1..=KEYS);
                            // Not `Db::read`: without a replica it may use only half of the pool.
                            let row = db.write().await?.query_opt(&ONE, &[&key]).await?;
                            ensure!(row.is_some(), "a key that exists was not found");
                            course.done();
                        }
                        Ok(())
                    }
                });
            Ok(done.await?.per_second)
        })
    }
}

/// The peer of the plain reads: the pool below ours, with its own cache of prepared statements and its fastest recycling.
pub(super) struct BarePool<'run> {
    pool: Pool,
    ground: &'run Ground,
    sizes: Sizes,
}

impl<'run> BarePool<'run> {
    pub(super) fn new(ground: &'run Ground, sizes: Sizes) -> anyhow::Result<Self> {
        let fastest = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(ground.settings.clone(), NoTls, fastest);
        let pool = Pool::builder(manager).max_size(CONNECTIONS).runtime(Runtime::Tokio1).build()?;
        Ok(Self { pool, ground, sizes })
    }
}

impl Contender for BarePool<'_> {
    fn name(&self) -> String {
        "deadpool-postgres".to_owned()
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.ground.settle())
    }

    fn measure(&mut self, round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async move {
            let done =
                closed_loop::run(CALLERS, self.sizes.warm_up, self.sizes.duration, |caller, course| {
                    let (pool, mut keys) = (self.pool.clone(), draws(round, caller));
                    async move {
                        while course.goes_on() {
                            let key = keys.random_range(1..=KEYS);
                            let client = pool.get().await?;
                            let statement = client.prepare_typed_cached(ONE.sql(), ONE.types()).await?;
                            let row = client.query_opt(&statement, &[&key]).await?;
                            ensure!(row.is_some(), "a key that exists was not found");
                            course.done();
                        }
                        Ok(())
                    }
                });
            Ok(done.await?.per_second)
        })
    }
}
