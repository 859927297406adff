//! Applies pending migrations under a lock that only one process can hold, and keeps the record.
//! Dropped halfway it closes the session, which frees the lock and rolls back. Called by the binary and by tools.

use std::time::{Duration, Instant};

use postgres_types::{ToSql, Type};
use tokio_postgres::Client;
use tracing::{info, warn};

use super::plan::{self, Record};
use super::split::{for_psql, statements};
use super::{Applied, MigrateError, Migration, MigrationStatus, Migrator, Transactional, announce};
use crate::session::Session;

/// "dbmigrat" in ASCII; one lock per database, for all programs that use this crate.
const LOCK_KEY: i64 = 0x6462_6d69_6772_6174;
/// How long to wait for another process: long enough for an index on a large table to be built.
const LOCK_WAIT: Duration = Duration::from_secs(15 * 60);
/// Pause between two tries for the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations ( \
    version bigint PRIMARY KEY, \
    name text NOT NULL, \
    checksum bytea NOT NULL CHECK (octet_length(checksum) = 32), \
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(), \
    duration_ms bigint NOT NULL, \
    dirty boolean NOT NULL DEFAULT false)";
const SELECT: &str =
    "SELECT version, name, checksum, dirty, applied_at FROM schema_migrations ORDER BY version";
const INSERT: &str =
    "INSERT INTO schema_migrations (version, name, checksum, duration_ms, dirty) VALUES ($1, $2, $3, $4, $5)";
const FINISH: &str = "UPDATE schema_migrations SET dirty = false, duration_ms = $2, applied_at = clock_timestamp() WHERE version = $1";
/// What a migration has set for its session is neither for the record nor for the next migration: dumps begin with an empty
/// `search_path`.
const FORGET_SETTINGS: &str = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL";

impl Migrator {
    /// Applies what is pending, in order, and tells what it applied. Safe from several processes at once: one
    /// works, the others wait and find nothing left to do.
    ///
    /// If the future is dropped, or fails while the lock cannot be given back, the session closes.
    ///
    /// # Errors
    /// [`MigrateError`] names the migration; those before it stay applied.
    pub async fn up(&self, session: &Session) -> Result<Vec<Applied>, MigrateError> {
        let guard = session.close_unless_done();
        let client = session.client();
        lock(client).await?;
        let outcome = self.up_locked(client).await;
        // Where it cannot be given back it ends with the session; what a migration failed of is told all the same.
        match client.execute_typed("SELECT pg_advisory_unlock($1)", &[(&LOCK_KEY, Type::INT8)]).await {
            Ok(_) => guard.done(),
            Err(error) if outcome.is_ok() => return Err(error.into()),
            Err(_) => {}
        }
        outcome
    }

    /// Where each migration stands, of the list and of the database, by version. It changes nothing; what `up` would
    /// refuse shows as the state of the migration at fault.
    ///
    /// # Errors
    /// [`MigrateError::Bookkeeping`].
    pub async fn status(&self, session: &Session) -> Result<Vec<MigrationStatus>, MigrateError> {
        Ok(plan::status(self.migrations, &records(session.client()).await?))
    }

    async fn up_locked(&self, client: &Client) -> Result<Vec<Applied>, MigrateError> {
        client.batch_execute(CREATE_TABLE).await?;
        let pending = plan::pending(self.migrations, &records(client).await?)?;
        pending.iter().try_for_each(|migration| refuse_what_is_for_psql(migration))?;
        let Some(ahead) = self.ahead else {
            return apply(client, pending, None).await;
        };
        if pending.is_empty() {
            tell_unended(announce::end_left(client).await);
            return Ok(Vec::new());
        }
        announce::begin(client, ahead).await?;
        let outcome = apply(client, pending, Some(ahead)).await;
        if outcome.is_err() {
            // It may have left its session in a transaction, with another role, or where the table is not found.
            let _rolled_back = client.batch_execute("ROLLBACK").await;
            let _forgotten = client.batch_execute(FORGET_SETTINGS).await;
        }
        tell_unended(announce::end(client).await);
        outcome
    }
}

// A server that is sent a COPY waits for its rows, and the session with it.
fn refuse_what_is_for_psql(migration: &Migration) -> Result<(), MigrateError> {
    let Migration { version, name, sql, .. } = *migration;
    for_psql(sql).map_or(Ok(()), |what| Err(MigrateError::ForPsql { version, name, what }))
}

// What was applied is applied, and what a migration failed of is told all the same.
fn tell_unended(ended: Result<(), tokio_postgres::Error>) {
    if let Err(error) = ended {
        warn!(%error, "announcement of migrations not ended; it ceases by itself");
    }
}

async fn apply(
    client: &Client,
    pending: Vec<&'static Migration>,
    announced: Option<Duration>,
) -> Result<Vec<Applied>, MigrateError> {
    let mut applied = Vec::new();
    for migration in pending {
        if let Some(ahead) = announced {
            announce::renew(client, ahead).await?;
        }
        let started = Instant::now();
        match migration.transactional {
            Transactional::Yes => apply_in_transaction(client, migration, started).await?,
            Transactional::No => apply_outside(client, migration, started).await?,
        }
        let took = started.elapsed();
        info!(version = migration.version, name = migration.name, ?took, "migration applied");
        applied.push(Applied { version: migration.version, name: migration.name, took });
    }
    Ok(applied)
}

// Asked again and again instead of waited for on the server: a waiting statement keeps its snapshot, for whose end the
// other's CREATE INDEX CONCURRENTLY would wait, and the two would deadlock.
async fn lock(client: &Client) -> Result<(), MigrateError> {
    let started = Instant::now();
    loop {
        let row =
            client.query_typed_one("SELECT pg_try_advisory_lock($1)", &[(&LOCK_KEY, Type::INT8)]).await?;
        if row.try_get(0)? {
            return Ok(());
        }
        if started.elapsed() >= LOCK_WAIT {
            return Err(MigrateError::Locked { waited: LOCK_WAIT });
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

async fn records(client: &Client) -> Result<Vec<Record>, MigrateError> {
    let table = client.query_typed_one("SELECT to_regclass('schema_migrations') IS NOT NULL", &[]).await?;
    if !table.try_get::<_, bool>(0)? {
        return Ok(Vec::new());
    }
    let rows = client.query_typed(SELECT, &[]).await?;
    let read = |row: &tokio_postgres::Row| -> Result<Record, tokio_postgres::Error> {
        Ok(Record {
            version: row.try_get(0)?,
            name: row.try_get(1)?,
            checksum: row.try_get(2)?,
            dirty: row.try_get(3)?,
            applied_at: row.try_get(4)?,
        })
    };
    rows.iter().map(|row| read(row).map_err(MigrateError::from)).collect()
}

async fn apply_in_transaction(
    client: &Client,
    migration: &Migration,
    started: Instant,
) -> Result<(), MigrateError> {
    client.batch_execute("BEGIN").await?;
    let outcome = async {
        // Compared at the end: a migration that commits or rolls back itself runs on in another transaction.
        let begun = transaction_id(client).await?;
        let failed =
            |source| MigrateError::Failed { version: migration.version, name: migration.name, source };
        client.batch_execute(migration.sql).await.map_err(failed)?;
        if transaction_id(client).await? != begun {
            return Err(MigrateError::EndedTransaction { version: migration.version, name: migration.name });
        }
        client.batch_execute(FORGET_SETTINGS).await.map_err(failed)?;
        record(client, migration, millis(started), Finished::Yes).await?;
        client.batch_execute("COMMIT").await.map_err(failed)
    };
    let outcome = outcome.await;
    if outcome.is_err() {
        // Where it cannot be rolled back the session ends, to the same effect; what it failed of is told all the same.
        let _rolled_back = client.batch_execute("ROLLBACK").await;
    }
    outcome
}

async fn apply_outside(client: &Client, migration: &Migration, started: Instant) -> Result<(), MigrateError> {
    // Marked before the first statement, so that a crash halfway is seen.
    record(client, migration, 0, Finished::No).await?;
    for statement in statements(migration.sql) {
        let done = client.batch_execute(statement).await;
        done.map_err(|source| MigrateError::Failed {
            version: migration.version,
            name: migration.name,
            source,
        })?;
    }
    client.batch_execute(FORGET_SETTINGS).await?;
    let version = i64::from(migration.version);
    client.execute_typed(FINISH, &[(&version, Type::INT8), (&millis(started), Type::INT8)]).await?;
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Finished {
    Yes,
    No,
}

async fn record(
    client: &Client,
    migration: &Migration,
    took_ms: i64,
    finished: Finished,
) -> Result<(), MigrateError> {
    let version = i64::from(migration.version);
    let checksum = migration.checksum().to_vec();
    let dirty = finished == Finished::No;
    let values: [(&(dyn ToSql + Sync), Type); 5] = [
        (&version, Type::INT8),
        (&migration.name, Type::TEXT),
        (&checksum, Type::BYTEA),
        (&took_ms, Type::INT8),
        (&dirty, Type::BOOL),
    ];
    client.execute_typed(INSERT, &values).await?;
    Ok(())
}

async fn transaction_id(client: &Client) -> Result<String, MigrateError> {
    let row = client.query_typed_one("SELECT pg_current_xact_id()::text", &[]).await?;
    Ok(row.try_get(0)?)
}

fn millis(started: Instant) -> i64 {
    i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX)
}
