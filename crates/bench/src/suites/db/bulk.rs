//! A hundred thousand rows at once: `insert_many` against `psql \copy` of a binary file that lies ready, arrays through
//! `sqlx`, and sixteen connections that commit row by row.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::BoxFuture;
use paystrata_db::{Bulk, BulkOptions, TableName};

use super::ground::Ground;
use super::rows::{ROWS, Record};
use crate::measure::Contender;
use crate::psql::Psql;

/// Fills the empty table in its own way; gives the time.
type Load<'run> = Box<dyn Fn() -> BoxFuture<'run, anyhow::Result<Duration>> + Send + Sync + 'run>;

/// One way to fill a table.
pub(super) struct Filling<'run> {
    pub(super) name: &'static str,
    pub(super) ground: &'run Ground,
    pub(super) load: Load<'run>,
}

impl Contender for Filling<'_> {
    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn prepare(&mut self) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.ground.run("TRUNCATE record"))
    }

    fn measure(&mut self, _round: u64) -> BoxFuture<'_, anyhow::Result<f64>> {
        Box::pin(async move {
            let time = (self.load)().await?;
            let stand = self.ground.count("SELECT count(*) FROM record").await?;
            ensure!(stand == ROWS as u64, "{ROWS} rows were to be loaded, and {stand} stand: void");
            Ok(per_second(time))
        })
    }
}

/// Through `Bulk`.
pub(super) async fn ours<'run>(
    ground: &'run Ground,
    rows: &'run [Record],
) -> anyhow::Result<Box<dyn Contender + 'run>> {
    let table: Bulk<Record> = Bulk::open(&ground.db, &TableName::new("record")).await?;
    let load: Load<'run> = Box::new(move || {
        let (table, rows) = (table.clone(), rows.to_vec());
        Box::pin(async move {
            let begun = Instant::now();
            let report = table.insert_many(rows, &BulkOptions::default()).await?;
            let time = begun.elapsed();
            ensure!(report.affected == ROWS as u64, "{} rows were inserted: void", report.affected);
            Ok(time)
        })
    });
    Ok(Box::new(Filling { name: "insert_many", ground, load }))
}

/// Through PostgreSQL's own client. The file is `folder`'s, and as the server itself writes it.
pub(super) async fn copied<'run>(
    ground: &'run Ground,
    psql: &'run Psql,
    folder: &'run Path,
) -> anyhow::Result<Box<dyn Contender + 'run>> {
    let file = folder.join("record.bin");
    let path = file.to_str().context("the temporary folder's name is no text")?.to_owned();
    psql.run(&format!("\\copy record_before TO '{path}' WITH (FORMAT binary)")).await?;
    let load: Load<'run> = Box::new(move || {
        let command = format!("\\copy record FROM '{path}' WITH (FORMAT binary)");
        Box::pin(async move { psql.run(&command).await })
    });
    Ok(Box::new(Filling { name: "psql \\copy", ground, load }))
}

/// What a time makes of the rows.
#[expect(clippy::cast_precision_loss, reason = "a hundred thousand")]
fn per_second(time: Duration) -> f64 {
    ROWS as f64 / time.as_secs_f64()
}

/// Fills the table that others are filled from.
pub(super) async fn fill(ground: &Ground, rows: &[Record]) -> anyhow::Result<()> {
    let table: Bulk<Record> = Bulk::open(&ground.db, &TableName::new("record_before")).await?;
    table.insert_many(rows.to_vec(), &BulkOptions::default()).await?;
    ground.run("VACUUM (ANALYZE) record_before").await
}
