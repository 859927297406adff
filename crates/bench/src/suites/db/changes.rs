//! A hundred thousand rows changed, or put where half of them stand already: `update_many` and `upsert_many` against a prepared
//! statement per row, sent without waiting for each other in one transaction.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use paystrata_db::{Bulk, BulkOptions, Conflict, TableName};
use tokio_postgres::{NoTls, Statement, Transaction};

use super::ground::Ground;
use super::rows::{CHANGED, ROWS, Record};
use crate::measure::Contender;

/// Statements of a connection that are on their way at once; more gain nothing.
const UNDER_WAY: usize = 256;

const UPDATE: &str = "UPDATE record SET payment = $2, amount = $3, note = $4, at = $5 WHERE id = $1";
const UPSERT: &str = "INSERT INTO record (id, payment, amount, note, at) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (id) DO UPDATE SET payment = excluded.payment, amount = excluded.amount, note = excluded.note, at = excluded.at";

/// What is done to the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Update,
    Upsert,
}

/// By whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// One call of `Bulk`.
    Bulk,
    /// A statement per row.
    Rows,
}

/// One side of one case.
pub(super) struct Changing<'run> {
    pub(super) verb: Verb,
    pub(super) by: By,
    pub(super) ground: &'run Ground,
    /// As they are to be.
    pub(super) rows: &'run [Record],
}

impl Changing<'_> {
    async fn in_bulk(&self) -> anyhow::Result<Duration> {
        let table: Bulk<Record> = Bulk::open(&self.ground.db, &TableName::new("record")).await?;
        let (rows, options) = (self.rows.to_vec(), BulkOptions::default());
        let begun = Instant::now();
        let report = match self.verb {
            Verb::Update => table.update_many(rows, &["id"], &options).await?,
            Verb::Upsert => {
                let conflict = Conflict { key: &["id"], update: &["payment", "amount", "note", "at"] };
                table.upsert_many(rows, conflict, &options).await?
            }
        };
        let time = begun.elapsed();
        ensure!(report.affected == ROWS as u64, "{} rows were changed: void", report.affected);
        Ok(time)
    }

    async fn row_by_row(&self) -> anyhow::Result<Duration> {
        let (mut client, connection) = self.ground.settings.connect(NoTls).await.context("connect")?;
        let connection = tokio::spawn(connection);
        let sql = if self.verb == Verb::Update { UPDATE } else { UPSERT };
        let statement = client.prepare(sql).await?;
        let begun = Instant::now();
        let transaction = client.transaction().await?;
        let mut under_way = FuturesOrdered::new();
        for row in self.rows {
            if under_way.len() == UNDER_WAY {
                changed_one(under_way.next().await)?;
            }
            under_way.push_back(change(&transaction, &statement, row));
        }
        while !under_way.is_empty() {
            changed_one(under_way.next().await)?;
        }
        drop(under_way);
        transaction.commit().await?;
        let time = begun.elapsed();
        drop(client);
        connection.await?.context("close the connection")?;
        Ok(time)
    }
}

async fn change(
    transaction: &Transaction<'_>,
    statement: &Statement,
    row: &Record,
) -> Result<u64, tokio_postgres::Error> {
    transaction.execute(statement, &[&row.id, &row.payment, &row.amount, &row.note, &row.at]).await
}

fn changed_one(done: Option<Result<u64, tokio_postgres::Error>>) -> anyhow::Result<()> {
    let rows = done.context("a statement is under way")??;
    ensure!(rows == 1, "one row was to be changed, not {rows}: void");
    Ok(())
}

impl Contender for Changing<'_> {
    fn name(&self) -> String {
        match (self.by, self.verb) {
            (By::Bulk, Verb::Update) => "update_many",
            (By::Bulk, Verb::Upsert) => "upsert_many",
            (By::Rows, Verb::Update) => "a statement per row (update)",
            (By::Rows, Verb::Upsert) => "a statement per row (upsert)",
        }
        .to_owned()
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        let standing = if self.verb == Verb::Update { "true" } else { "amount % 2 = 0" };
        Box::pin(async move {
            let refill =
                format!("TRUNCATE record; INSERT INTO record SELECT * FROM record_before WHERE {standing}");
            self.ground.run(&refill).await?;
            self.ground.run("VACUUM (ANALYZE) record").await
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "a hundred thousand")]
    fn measure(&mut self, _round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async move {
            let time = match self.by {
                By::Bulk => self.in_bulk().await?,
                By::Rows => self.row_by_row().await?,
            };
            let changed = format!("SELECT count(*) FROM record WHERE note = '{CHANGED}'");
            let changed = self.ground.count(&changed).await?;
            ensure!(changed == ROWS as u64, "{ROWS} rows were to be changed, and {changed} are: void");
            Ok(ROWS as f64 / time.as_secs_f64())
        })
    }
}
