//! A connection taken and given back, with nobody else in the way: what the layer around the pool adds to the pool. No side
//! may ask the server anything.

use std::time::{Duration, Instant};

use anyhow::ensure;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use futures_util::future::BoxFuture;
use tokio_postgres::NoTls;

use super::ground::Ground;
use crate::measure::Contender;

/// In one turn.
const CHECKOUTS: u32 = 200_000;
/// Not counted: connects, and warms up.
const BEFORE: u32 = 1_000;

/// One pool, by how it is used.
pub(super) enum Checkout {
    /// `Db::write`.
    Ours(paystrata_db::Db),
    /// `deadpool-postgres` as it comes, with the recycling that asks nothing.
    Bare(Pool),
}

pub(super) fn ours(ground: &Ground) -> Box<dyn Contender> {
    Box::new(Checkout::Ours(ground.db.clone()))
}

pub(super) fn bare(ground: &Ground) -> anyhow::Result<Box<dyn Contender>> {
    let fastest = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(ground.settings.clone(), NoTls, fastest);
    Ok(Box::new(Checkout::Bare(Pool::builder(manager).max_size(16).runtime(Runtime::Tokio1).build()?)))
}

impl Checkout {
    async fn many(&self, times: u32) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        for _ in 0..times {
            match self {
                Self::Ours(db) => drop(db.write().await?),
                Self::Bare(pool) => drop(pool.get().await?),
            }
        }
        Ok(begun.elapsed())
    }
}

impl Contender for Checkout {
    fn name(&self) -> String {
        match self {
            Self::Ours(_) => "Db::write",
            Self::Bare(_) => "deadpool-postgres, checkout",
        }
        .to_owned()
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async move { self.many(BEFORE).await.map(drop) })
    }

    fn measure(&mut self, _round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async move {
            // A task of its own, as a request is.
            let time = self.many(CHECKOUTS).await?;
            ensure!(!time.is_zero(), "the clock stands still");
            Ok(time.as_secs_f64() * 1e9 / f64::from(CHECKOUTS))
        })
    }
}
