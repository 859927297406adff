//! One row at a time, acknowledged after its commit: through `Batcher`, and by sixteen connections that commit each row.

use anyhow::{Context as _, ensure};
use futures_util::future::BoxFuture;
use paystrata_db::{Batcher, CoalesceOptions, Items, Statement, TransactionOptions, Type};
use tokio_postgres::NoTls;
use uuid::Uuid;

use super::Sizes;
use super::ground::Ground;
use crate::closed_loop;
use crate::measure::Contender;

static MANY: Statement = Statement::new(
    "INSERT INTO event (id, payment, amount, note) SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int8[], $4::text[])",
    &[Type::UUID_ARRAY, Type::UUID_ARRAY, Type::INT8_ARRAY, Type::TEXT_ARRAY],
);
const ONE: &str = "INSERT INTO event (id, payment, amount, note) VALUES ($1, $2, $3, $4)";

/// Fewer leave the flush idle, more only wait for it.
const CONNECTIONS: u64 = 16;
const NOTE: &str = "authorized by the issuer at the first attempt";

/// One event.
#[derive(Clone, Copy, Debug)]
struct Event {
    id: Uuid,
    payment: Uuid,
    amount: i64,
}

impl Event {
    fn new(amount: i64) -> Self {
        Self { id: Uuid::now_v7(), payment: Uuid::now_v7(), amount }
    }
}

/// Writes through one `Batcher`.
pub(super) struct ThroughBatcher<'run> {
    batcher: Batcher<Event, ()>,
    ground: &'run Ground,
    sizes: Sizes,
    callers: u64,
}

impl<'run> ThroughBatcher<'run> {
    pub(super) fn new(ground: &'run Ground, sizes: Sizes, callers: u64) -> anyhow::Result<Self> {
        let options = (CoalesceOptions::default(), TransactionOptions::default());
        let batcher =
            Batcher::new(&ground.db, options.0, options.1, |tx, events: Items<Event>| async move {
                let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
                let payments: Vec<Uuid> = events.iter().map(|event| event.payment).collect();
                let amounts: Vec<i64> = events.iter().map(|event| event.amount).collect();
                let notes = vec![NOTE; events.len()];
                tx.execute(&MANY, &[&ids, &payments, &amounts, &notes]).await?;
                Ok(vec![(); events.len()])
            })?;
        Ok(Self { batcher, ground, sizes, callers })
    }
}

impl Contender for ThroughBatcher<'_> {
    fn name(&self) -> String {
        format!("Batcher, {} callers", self.callers)
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.ground.settle())
    }

    fn measure(&mut self, _round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async move {
            let Sizes { warm_up, duration, .. } = self.sizes;
            let done = closed_loop::run(self.callers, warm_up, duration, |_, course| {
                let batcher = self.batcher.clone();
                async move {
                    for amount in 1.. {
                        if !course.goes_on() {
                            break;
                        }
                        batcher.submit(Event::new(amount)).await?;
                        course.done();
                    }
                    Ok(())
                }
            });
            let done = done.await?;
            self.ground.acknowledge(done.count);
            Ok(done.per_second)
        })
    }
}

/// The peer: connections of their own, a prepared statement each, one commit per row.
pub(super) struct RowByRow<'run> {
    pub(super) ground: &'run Ground,
    pub(super) sizes: Sizes,
}

impl Contender for RowByRow<'_> {
    fn name(&self) -> String {
        format!("{CONNECTIONS} connections, row by row")
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.ground.settle())
    }

    fn measure(&mut self, _round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async move {
            let Sizes { warm_up, duration, .. } = self.sizes;
            let done = closed_loop::run(CONNECTIONS, warm_up, duration, |_, course| {
                let settings = self.ground.settings.clone();
                async move {
                    let (client, connection) = settings.connect(NoTls).await.context("connect")?;
                    let connection = tokio::spawn(connection);
                    let insert = client.prepare(ONE).await?;
                    for amount in 1.. {
                        if !course.goes_on() {
                            break;
                        }
                        let Event { id, payment, amount } = Event::new(amount);
                        let rows = client.execute(&insert, &[&id, &payment, &amount, &NOTE]).await?;
                        ensure!(rows == 1, "one row was to be written, not {rows}");
                        course.done();
                    }
                    drop(client);
                    connection.await?.context("close the connection")
                }
            });
            let done = done.await?;
            self.ground.acknowledge(done.count);
            Ok(done.per_second)
        })
    }
}
