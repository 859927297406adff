//! The service's own schema in an empty database, made by the service's own code: migrations, and the partitions that
//! payments of now fall into.

use anyhow::Context as _;
use paystrata_app::migrations::{MIGRATOR, ensure_partitions};
use paystrata_db::{Config, Db};

/// A run that crosses the last midnight of a month must not fail.
const MONTHS_AHEAD: u32 = 1;

/// Makes the schema in the database that `connection` names.
pub(super) async fn create(connection: &str) -> anyhow::Result<()> {
    let db = Db::connect(Config::new(connection.parse()?)).await.context("connect")?;
    let made = async {
        let session = db.session("bench-schema").await.context("open a session")?;
        MIGRATOR.up(&session).await.context("migrate")?;
        ensure_partitions(&session, MONTHS_AHEAD).await.context("make partitions")
    };
    let made = made.await;
    db.close().await;
    made
}
