//! Builds an advised index: concurrently, one at a time in a database, on a session of its own, and only when told so.
//! A build that fails or is cut leaves an invalid index: it is dropped, now or by the next call. Nothing is ever dropped
//! that the audit does not show to be ours. Every act has its row in the audit table. Whether what was built pays is for
//! `review` to find out.

use std::time::Duration;

use postgres_types::{ToSql, Type};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::candidate::{IndexColumns, NAME_PREFIX, quoted};
use super::catalog::indexes;
use super::plan::TableName;
use crate::session::Session;

/// Whether an index may be built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Approval {
    /// No: [`create_index`] refuses.
    #[default]
    Withheld,
    /// A person, or a rule of theirs, has said yes.
    Given,
}

/// How an index is built.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Off unless given.
    pub approval: Approval,
    /// Longest wait for a lock; others who want the table wait behind it for as long.
    pub lock_timeout: Duration,
    /// Longest build.
    pub build_timeout: Duration,
    /// Builds that are tried when a lock was not to be had.
    pub attempts_max: u32,
    /// A transaction open for longer than this keeps a build waiting: then none is begun.
    pub transaction_age_max: Duration,
    /// What one call saves by the advice, in the planner's units ([`IndexAdvice::saves_per_call`](super::IndexAdvice::saves_per_call)).
    /// The audit keeps it for [`review_indexes`](super::review_indexes), which without it knows only how often the index is used.
    pub saves_per_call: Option<f64>,
}

impl Default for CreateOptions {
    /// Not approved, 3 s for a lock, an hour for a build, 3 attempts, transactions up to a minute old, savings not known.
    fn default() -> Self {
        Self {
            approval: Approval::default(),
            lock_timeout: Duration::from_secs(3),
            build_timeout: Duration::from_secs(3600),
            attempts_max: 3,
            transaction_age_max: Duration::from_secs(60),
            saves_per_call: None,
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was built, and the planner may use it.
    Built,
    /// A valid index begins with the same columns already; nothing was done.
    Needless,
}

/// Why an index was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// Nobody has said yes.
    #[error("not built: creation is off unless CreateOptions::approval is given")]
    NotApproved,
    /// Another one is being built in this database.
    #[error("not built: another index is being built in this database")]
    Busy,
    /// A transaction would keep the build waiting.
    #[error("not built: a transaction has been open for {seconds} s")]
    OldTransaction {
        /// For how long.
        seconds: i64,
    },
    /// What the index would be called is the name of something that was not begun here. Nothing was tried, and that is left alone.
    #[error("not built: {by} of the name {name} was not begun here; drop or rename it first")]
    NameTaken {
        /// The name, with its schema.
        name: String,
        /// What bears it: another index, or another relation.
        by: &'static str,
    },
    /// A lock was not to be had in time, the build took too long, or what a cut one had left could not be dropped before (SQLSTATE
    /// 42P07). What is left is dropped now or, where the same lock forbids that, by the next call; the planner never uses it.
    #[error("not built after {attempts} attempts")]
    GaveUp {
        /// How often it was tried.
        attempts: u32,
        /// What stopped the last one.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server refused.
    #[error("build an index")]
    Refused(#[from] tokio_postgres::Error),
}

/// "dbindex" in ASCII: one build per database.
const LOCK_KEY: i64 = 0x64_6269_6e64_6578;

macro_rules! check_sql {
    () => {
        "CHECK (act IN ('begun', 'built', 'failed', 'swept', 'condemned', 'taken back'))"
    };
}

/// Rows written to the table of the index `i` that cost each of its indexes something, since the primary's counters began.
/// Updates that touch no index cost it nothing.
macro_rules! written_sql {
    () => {
        "(pg_stat_get_tuples_inserted(i.indrelid) + pg_stat_get_tuples_updated(i.indrelid) \
        - pg_stat_get_tuples_hot_updated(i.indrelid))::float8"
    };
}
pub(super) use written_sql;

/// A row that says `built` has the identity of the index, which another one of the same name does not share.
const AUDIT_SQL: &str = concat!(
    "CREATE TABLE IF NOT EXISTS index_audit ( \
    at timestamptz NOT NULL DEFAULT clock_timestamp(), \
    act text NOT NULL CONSTRAINT index_audit_act_check ",
    check_sql!(),
    ", schema_name text NOT NULL, index_name text NOT NULL, statement text NOT NULL, detail text NOT NULL, \
    index_oid oid, saves_per_call float8, rows_written float8)"
);
/// Whether the table was made before the audit said how much had been written by the time of a build.
const IS_OLD_SQL: &str = "SELECT NOT EXISTS (SELECT FROM pg_attribute \
    WHERE attrelid = to_regclass('index_audit') AND attname = 'rows_written' AND NOT attisdropped)";
const RENEW_SQL: &str = concat!(
    "ALTER TABLE index_audit ADD COLUMN IF NOT EXISTS index_oid oid, \
    ADD COLUMN IF NOT EXISTS saves_per_call float8, ADD COLUMN IF NOT EXISTS rows_written float8, \
    DROP CONSTRAINT IF EXISTS index_audit_act_check, ADD CONSTRAINT index_audit_act_check ",
    check_sql!()
);
/// What was written by then is the base line of what the index costs: it answers for no row from before it.
const BUILT_SQL: &str = concat!(
    "INSERT INTO index_audit \
    (act, schema_name, index_name, statement, detail, index_oid, saves_per_call, rows_written) \
    SELECT 'built', $1, $2, $3, '', c.oid, $4, ",
    written_sql!(),
    " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_index i ON i.indexrelid = c.oid \
    WHERE n.nspname = $1 AND c.relname = $2"
);
/// Only what the audit shows to have been begun by us, bears our kind of name, and serves nobody. While somebody holds the
/// lock of a concurrent build on the table, the index may be one that a person is building with our statement: a drop and
/// that build would wait for each other. The part of a partitioned index cannot be dropped.
const LEFTOVERS_SQL: &str = "SELECT DISTINCT n.nspname::text, c.relname::text FROM pg_index i \
    JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN index_audit a ON a.schema_name = n.nspname AND a.index_name = c.relname AND a.act = 'begun' \
    WHERE NOT i.indisvalid AND NOT c.relispartition AND starts_with(c.relname, $1) \
    AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.relation = i.indrelid \
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
        AND l.mode = 'ShareUpdateExclusiveLock')";
/// Who bears the name that an index would have, and whether that was begun by us and is of no use to anybody.
const BEARER_SQL: &str = "SELECT CASE WHEN i.indexrelid IS NULL THEN 'relation' WHEN i.indisvalid THEN 'index' ELSE 'invalid' END, \
    coalesce(NOT i.indisvalid, false) AND EXISTS (SELECT FROM index_audit a \
        WHERE a.schema_name = n.nspname AND a.index_name = c.relname AND a.act = 'begun') \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_index i ON i.indexrelid = c.oid \
    WHERE n.nspname = $1 AND c.relname = $2";
const OLDEST_SQL: &str = "SELECT coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0)::bigint \
    FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database() \
    AND backend_type = 'client backend'";

/// Builds one index on `session`, which must not be in a transaction.
///
/// If the future is dropped, or fails while the lock cannot be given back, the session closes: the server ends the build
/// within a second, and the next call drops what is left of it.
///
/// # Errors
/// [`CreateError`].
pub async fn create_index(
    session: &Session,
    index: &IndexColumns,
    options: &CreateOptions,
) -> Result<Created, CreateError> {
    if options.approval == Approval::Withheld {
        return Err(CreateError::NotApproved);
    }
    let guard = session.close_unless_done();
    let client = session.client();
    if !lock(client, options.lock_timeout).await? {
        // Nothing was left on the session.
        guard.done();
        return Err(CreateError::Busy);
    }
    let outcome = build(client, index, options).await;
    unlock(client).await?;
    guard.done();
    outcome
}

/// Drops the invalid indexes that builds of ours have left, and gives their names. It waits for each lock as long as
/// [`CreateOptions::default`] says, and leaves alone what is on a table of which an index is being built, or which is being
/// vacuumed: the next call looks again.
///
/// # Errors
/// [`CreateError::Busy`] or [`CreateError::Refused`].
pub async fn sweep_invalid(session: &Session) -> Result<Vec<String>, CreateError> {
    let guard = session.close_unless_done();
    let client = session.client();
    if !lock(client, CreateOptions::default().lock_timeout).await? {
        guard.done();
        return Err(CreateError::Busy);
    }
    let swept = sweep(client).await;
    unlock(client).await?;
    guard.done();
    Ok(swept?)
}

/// The right to build and drop, with the audit table as it should be and a limit to each wait for a lock. False, and nothing
/// set, if somebody else has it.
pub(super) async fn lock(client: &Client, lock_timeout: Duration) -> Result<bool, tokio_postgres::Error> {
    let row = client.query_typed_one("SELECT pg_try_advisory_lock($1)", &[(&LOCK_KEY, Type::INT8)]).await?;
    if !row.try_get::<_, bool>(0)? {
        return Ok(false);
    }
    client.batch_execute(&format!("SET lock_timeout = {}", limit_ms(lock_timeout))).await?;
    client.batch_execute(AUDIT_SQL).await?;
    if client.query_typed_one(IS_OLD_SQL, &[]).await?.try_get::<_, bool>(0)? {
        client.batch_execute(RENEW_SQL).await?;
    }
    Ok(true)
}

/// Gives it back, and the session its limits.
pub(super) async fn unlock(client: &Client) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("RESET lock_timeout; RESET statement_timeout").await?;
    client.execute_typed("SELECT pg_advisory_unlock($1)", &[(&LOCK_KEY, Type::INT8)]).await?;
    Ok(())
}

/// A limit of the server in milliseconds, of which it takes 0 for none at all and no more than these.
fn limit_ms(limit: Duration) -> u128 {
    limit.as_millis().clamp(1, i32::MAX.unsigned_abs().into())
}

/// How long the oldest transaction in this database has been open on this server.
pub(super) async fn oldest_transaction_seconds(client: &Client) -> Result<i64, tokio_postgres::Error> {
    client.query_typed_one(OLDEST_SQL, &[]).await?.try_get(0)
}

/// Whether a transaction that has been open for so long is waited for rather than gone ahead of.
pub(super) fn is_old(seconds: i64, age_max: Duration) -> bool {
    u64::try_from(seconds).unwrap_or(0) > age_max.as_secs()
}

async fn build(
    client: &Client,
    index: &IndexColumns,
    options: &CreateOptions,
) -> Result<Created, CreateError> {
    client.batch_execute(&format!("SET statement_timeout = {}", limit_ms(options.build_timeout))).await?;
    sweep(client).await?;
    let mut attempts = 0;
    loop {
        // Each time: what was in the way of the last one may have been somebody's build of the same.
        let existing = indexes(client, &index.table).await?;
        if existing.iter().any(|other| other.serves_prefixes && index.is_prefix_of(&other.columns)) {
            return Ok(Created::Needless);
        }
        let seconds = oldest_transaction_seconds(client).await?;
        if is_old(seconds, options.transaction_age_max) {
            return Err(CreateError::OldTransaction { seconds });
        }
        // Before the audit says that it is ours.
        refuse_a_taken_name(client, index).await?;
        attempts += 1;
        // Before the build, so that a cut one is known to be ours.
        audit(client, "begun", index, "").await?;
        let Err(source) = client.batch_execute(&index.create_sql()).await else { break };
        audit(client, "failed", index, source.as_db_error().map_or("", |error| error.message())).await?;
        // The first sweep left it to whoever held the table's lock, and the build came after them.
        let met_a_leftover = source.code() == Some(&SqlState::DUPLICATE_TABLE);
        if !met_a_leftover && !is_worth_another_try(&source) {
            sweep(client).await?;
            return Err(source.into());
        }
        // Whoever held the lock may keep it from being dropped too: then the next call does it.
        let swept = sweep(client).await;
        if attempts >= options.attempts_max || swept.is_err() {
            return Err(CreateError::GaveUp { attempts, source });
        }
    }
    note_built(client, index, options.saves_per_call).await?;
    Ok(Created::Built)
}

/// What a cut build of ours has left may bear it: that is swept.
async fn refuse_a_taken_name(client: &Client, index: &IndexColumns) -> Result<(), CreateError> {
    let (schema, name) = (&index.table.schema, index.name());
    let bearer = client.query_typed(BEARER_SQL, &[(schema, Type::TEXT), (&name, Type::TEXT)]).await?;
    let Some(bearer) = bearer.first() else { return Ok(()) };
    if bearer.try_get(1)? {
        return Ok(());
    }
    let kind: &str = bearer.try_get(0)?;
    let by = match kind {
        "index" => "an index of another form",
        "invalid" => "an invalid index (or one that is being built)",
        _ => "another relation",
    };
    Err(CreateError::NameTaken { name: format!("{schema}.{name}"), by })
}

/// A lock or the time was not to be had, or the build and another transaction waited for each other.
pub(super) fn is_worth_another_try(error: &tokio_postgres::Error) -> bool {
    let codes = [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED, SqlState::T_R_DEADLOCK_DETECTED];
    error.code().is_some_and(|code| codes.contains(code))
}

/// Drops what cut builds of ours, and cut drops, have left.
pub(super) async fn sweep(client: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    let mut swept = Vec::new();
    for row in client.query_typed(LEFTOVERS_SQL, &[(&NAME_PREFIX, Type::TEXT)]).await? {
        let (schema, name): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let sql = format!("DROP INDEX CONCURRENTLY IF EXISTS {}.{}", quoted(&schema), quoted(&name));
        client.batch_execute(&sql).await?;
        note(client, ["swept", &schema, &name, &sql, ""]).await?;
        swept.push(format!("{schema}.{name}"));
    }
    Ok(swept)
}

async fn audit(
    client: &Client,
    act: &str,
    index: &IndexColumns,
    detail: &str,
) -> Result<(), tokio_postgres::Error> {
    let TableName { schema, .. } = &index.table;
    note(client, [act, schema, &index.name(), &index.create_sql(), detail]).await
}

async fn note_built(
    client: &Client,
    index: &IndexColumns,
    saves_per_call: Option<f64>,
) -> Result<(), tokio_postgres::Error> {
    let (schema, name, statement) = (&index.table.schema, index.name(), index.create_sql());
    let values: [(&(dyn ToSql + Sync), Type); 4] = [
        (schema, Type::TEXT),
        (&name, Type::TEXT),
        (&statement, Type::TEXT),
        (&saves_per_call, Type::FLOAT8),
    ];
    client.execute_typed(BUILT_SQL, &values).await?;
    Ok(())
}

/// One row of the audit: act, schema, index, statement, detail.
pub(super) async fn note(client: &Client, row: [&str; 5]) -> Result<(), tokio_postgres::Error> {
    let sql = "INSERT INTO index_audit (act, schema_name, index_name, statement, detail) \
               VALUES ($1, $2, $3, $4, $5)";
    let values = row.each_ref().map(|value| (value as &(dyn ToSql + Sync), Type::TEXT));
    client.execute_typed(sql, &values).await?;
    Ok(())
}
