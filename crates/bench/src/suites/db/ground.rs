//! The ground all sides stand on: a database of its own with pgbench's tables and one to write to, dropped at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use paystrata_db::{Config, Db};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use super::rows;
use crate::database;
use crate::pgbench::Pgbench;
use crate::suite;

/// pgbench's accounts, from 1.
pub(super) const KEYS: i32 = 1_000_000;
/// 100,000 accounts each.
const SCALE: u32 = 10;

/// A row as an event of a payment has it.
const TABLE: &str = "CREATE TABLE event (
    id uuid PRIMARY KEY, payment uuid NOT NULL, amount int8 NOT NULL, note text NOT NULL, at timestamptz NOT NULL DEFAULT now())";

/// The database of one run of the suite.
pub(super) struct Ground {
    pub(super) settings: tokio_postgres::Config,
    pub(super) db: Db,
    pub(super) pgbench: Pgbench,
    client: Arc<Client>,
    connection: JoinHandle<Result<(), tokio_postgres::Error>>,
    server: tokio_postgres::Config,
    name: String,
    /// Rows that a side was told are committed.
    acknowledged: AtomicU64,
}

impl Ground {
    /// Makes the database and fills it.
    pub(super) async fn lay(context: &suite::Context) -> anyhow::Result<Self> {
        let server = context.primary.clone();
        let name = format!("paystrata_bench_db_{}", std::process::id());
        let make = [format!("DROP DATABASE IF EXISTS {name}"), format!("CREATE DATABASE {name}")];
        database::administer(&server, &make).await?;
        let mut settings = server.clone();
        settings.dbname(&name).application_name("paystrata-bench");
        let pgbench = Pgbench::new(&context.postgres_bin, &settings)?;
        pgbench.initialize(SCALE).await.context("fill pgbench's tables")?;
        let (client, connection) = settings.connect(NoTls).await.context("connect to the new database")?;
        let connection = tokio::spawn(connection);
        client.batch_execute(TABLE).await.context("create the table")?;
        client.batch_execute(rows::TABLES).await.context("create the tables of many rows")?;
        let url = database::connection_text(&settings)?.parse().context("read the connection settings")?;
        let db = Db::connect(Config::new(url)).await.context("connect the data layer")?;
        let (client, acknowledged) = (Arc::new(client), AtomicU64::new(0));
        Ok(Self { settings, db, pgbench, client, connection, server, name, acknowledged })
    }

    /// Brings the database into the state in which every turn begins.
    pub(super) async fn settle(&self) -> anyhow::Result<()> {
        self.client.batch_execute("VACUUM (ANALYZE) event").await?;
        self.client.batch_execute("CHECKPOINT").await.context("settle")
    }

    /// Runs statements on the ground's own connection, and has the server write out what they left behind.
    pub(super) async fn run(&self, sql: &str) -> anyhow::Result<()> {
        self.client.batch_execute(sql).await.with_context(|| format!("run {sql}"))?;
        self.client.batch_execute("CHECKPOINT").await.context("settle")
    }

    /// What a query for one number gives.
    pub(super) async fn count(&self, sql: &str) -> anyhow::Result<u64> {
        let count: i64 = self.client.query_one(sql, &[]).await.with_context(|| format!("run {sql}"))?.get(0);
        Ok(u64::try_from(count)?)
    }

    /// The ground's own connection, outside of any pool.
    pub(super) fn client(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }

    /// Counts rows that were acknowledged.
    pub(super) fn acknowledge(&self, rows: u64) {
        self.acknowledged.fetch_add(rows, Ordering::Relaxed);
    }

    /// Asserts that what stands is what was acknowledged, and gives its number.
    pub(super) async fn check_rows(&self) -> anyhow::Result<u64> {
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        let stand: i64 = self.client.query_one("SELECT count(*) FROM event", &[]).await?.get(0);
        ensure!(
            u64::try_from(stand).ok() == Some(acknowledged),
            "{acknowledged} rows were acknowledged, and {stand} stand: void"
        );
        Ok(acknowledged)
    }

    /// Drops the database.
    pub(super) async fn clear(self) -> anyhow::Result<()> {
        self.db.close().await;
        drop(self.client);
        // How this connection ends makes no difference any more.
        let _ = self.connection.await;
        let drop_it = [format!("DROP DATABASE {} WITH (FORCE)", self.name)];
        database::administer(&self.server, &drop_it).await
    }
}
