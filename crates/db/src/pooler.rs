//! Poolers in transaction mode (PgBouncer): how one is recognised, what must not go through it, and what a connection through
//! it has to know beforehand. It opens no session on anybody's behalf. Called by dials, pools, connections and `Db::connect`.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use tracing::info;

use crate::config::Config;
use crate::dial::{DialSettings, Purpose, dial};
use crate::error::Error;
use crate::node::NodeId;
use crate::session_words::{TEMPORARY, names_any, sets_for_session};
use crate::url::ConnectionUrl;

/// What a pooler says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolerSeen {
    /// Name and version: `PgBouncer 1.18.0`.
    pub version: String,
    /// How long a client keeps a server connection.
    pub mode: PoolerMode,
}

/// How long a client of a pooler keeps one server connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolerMode {
    /// Until it leaves.
    Session,
    /// Until the end of its transaction: what this crate is made for.
    Transaction,
    /// Until the end of its statement: no transaction holds, so `Db::connect` refuses it.
    Statement,
}

/// Sent with the first packet straight to a server. Whoever keeps it from the server stands in between.
pub(crate) const STRAIGHT_OPTION: &str = "-c paystrata_db.straight=on";

/// Whether that has arrived, as a column.
macro_rules! straight_sql {
    () => {
        "coalesce(current_setting('paystrata_db.straight', true), '') = 'on'"
    };
}
pub(crate) use straight_sql;

/// The name of PgBouncer's console, which is no database.
const CONSOLE: &str = "pgbouncer";
/// Asking the console at the start must not cost more than this; what it does not say is not needed.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Types of a database's own that a connection learns when it is made. Each costs a round trip or two.
const TYPES_MAX: i64 = 100;

/// The server's sessions end, and with them what such a call leaves there, at nobody's will behind a pooler.
const SESSION_FEATURES: [(&[&str], &str); 4] = [
    (
        &["PG_ADVISORY_LOCK", "PG_ADVISORY_UNLOCK", "PG_TRY_ADVISORY_LOCK"],
        "a session's advisory lock (use pg_advisory_xact_lock or pg_try_advisory_xact_lock)",
    ),
    (&["PG_LISTENING_CHANNELS"], "LISTEN"),
    (&["CURRVAL", "LASTVAL"], "the session's last value of a sequence (use RETURNING)"),
    (&TEMPORARY, "a temporary table"),
];

/// What a statement would leave on, or want of, the session that it meets. It looks for words, in comments and literals too. Asked
/// when a statement is made, which is at compile time for a `static`.
pub(crate) const fn session_feature(sql: &str) -> Option<&'static str> {
    let mut index = 0;
    while index < SESSION_FEATURES.len() {
        let (words, what) = SESSION_FEATURES[index];
        if names_any(sql, words) {
            return Some(what);
        }
        index += 1;
    }
    if sets_for_session(sql) { Some("a setting (use set_config(.., true))") } else { None }
}

/// PgBouncer's answer to the settings that every connection straight to a server begins with.
pub(crate) fn refuses_options(error: &tokio_postgres::Error) -> bool {
    // PgBouncer translates nothing, and no server says this.
    error.as_db_error().is_some_and(|refusal| {
        *refusal.code() == SqlState::PROTOCOL_VIOLATION
            && refusal.message().starts_with("unsupported startup parameter")
    })
}

const TYPES_SQL: &str = "SELECT format('%I.%I', n.nspname, t.typname) FROM pg_type t \
    JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid \
    LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A' \
    WHERE t.oid >= 16384 AND n.nspname NOT LIKE 'pg\\_%' AND t.typtype <> 'p' \
    AND (t.typrelid = 0 OR c.relkind = 'c') AND (e.oid IS NULL OR e.typrelid = 0) \
    AND has_schema_privilege(n.oid, 'USAGE') ORDER BY t.oid LIMIT $1";
/// Not built into the driver and in every database: with it the driver's own look-up stands, so that it prepares nothing later.
const ALWAYS: &str = "information_schema.sql_identifier[]";

/// Lets the driver look up the types of the database's own, inside a transaction, and forgets the names that it prepares for it:
/// later look-ups would meet other server connections, and leave names that collide with those of other processes.
///
/// Two round trips, one or two for each type, and two more.
pub(crate) async fn preload_types(client: &Client) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("BEGIN READ ONLY; DEALLOCATE ALL").await?;
    let limit = [(&TYPES_MAX as &(dyn postgres_types::ToSql + Sync), postgres_types::Type::INT8)];
    let rows = client.query_typed(TYPES_SQL, &limit).await?;
    let mut columns = vec![format!("NULL::{ALWAYS}")];
    for row in &rows {
        columns.push(format!("NULL::{}", row.try_get::<_, &str>(0)?));
    }
    client.query_typed(&format!("SELECT {}", columns.join(", ")), &[]).await?;
    client.batch_execute("DEALLOCATE ALL; COMMIT").await
}

/// Refuses a pooler that says of itself that it keeps no transaction together. One that says nothing is believed.
pub(crate) async fn refuse_statement_mode(config: &Config) -> Result<(), Error> {
    let Some(url) = &config.pooler_url else { return Ok(()) };
    match timeout(CONSOLE_TIMEOUT, ask_console(url, config)).await {
        Ok(Ok(PoolerSeen { mode: PoolerMode::Statement, .. })) => Err(Error::Settings {
            problem: "the pooler of pooler_url is in statement mode, in which no transaction holds; \
                      set its pool_mode to transaction",
        }),
        Ok(Ok(PoolerSeen { version, mode })) => {
            info!(pooler = url.endpoint(), version, ?mode, "pooler recognised");
            Ok(())
        }
        // Whether it serves shows when it is used; only its console is closed to us.
        Ok(Err(_)) | Err(_) => Ok(()),
    }
}

/// Asks PgBouncer's console for version and mode.
pub(crate) async fn ask_console(url: &ConnectionUrl, config: &Config) -> Result<PoolerSeen, Error> {
    let node = NodeId::new(url.endpoint());
    let dialled =
        dial(&node, &url.to_database(CONSOLE), &DialSettings::new(config), Purpose::BehindPooler).await?;
    // Ends with the socket's task.
    let _task = tokio_util::task::AbortOnDropHandle::new(dialled.task);
    let client = dialled.client;
    let asked = async |sql: &'static str| {
        let messages = client.simple_query(sql).await;
        messages.map_err(|source| Error::Query { node: node.clone(), source }).map(rows)
    };
    let version = asked("SHOW VERSION").await?;
    let databases = asked("SHOW DATABASES").await?;
    let settings = asked("SHOW CONFIG").await?;
    let unknown = |what| Error::UnknownForm { node: node.clone(), what };
    let version = version.first().and_then(|row| row.try_get(0).ok().flatten());
    let own = url.settings().get_dbname().or(url.settings().get_user()).unwrap_or_default();
    let mode = named(&databases, "name", own, "pool_mode")
        .or_else(|| named(&settings, "key", "pool_mode", "value"))
        .and_then(|mode| match mode {
            "session" => Some(PoolerMode::Session),
            "transaction" => Some(PoolerMode::Transaction),
            "statement" => Some(PoolerMode::Statement),
            _ => None,
        });
    Ok(PoolerSeen {
        version: version.ok_or_else(|| unknown("the pooler's version"))?.to_owned(),
        mode: mode.ok_or_else(|| unknown("the pooler's mode"))?,
    })
}

fn rows(messages: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// The column `wanted` of the row whose column `by` is `name`; nothing where it is empty.
fn named<'a>(rows: &'a [SimpleQueryRow], by: &str, name: &str, wanted: &str) -> Option<&'a str> {
    let row = rows.iter().find(|row| matches!(row.try_get(by), Ok(Some(found)) if found == name))?;
    row.try_get(wanted).ok().flatten().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_session_is_recognised() {
        for (sql, word) in [
            ("SELECT pg_advisory_lock(1)", "advisory"),
            ("select PG_TRY_ADVISORY_LOCK_SHARED(1)", "advisory"),
            ("SELECT a, pg_advisory_unlock(a) FROM t", "advisory"),
            ("CREATE TEMP TABLE t (a int)", "temporary"),
            ("SELECT currval('s')", "sequence"),
            ("SELECT set_config('search_path', 'x', false)", "setting"),
            ("SELECT set_config('a', $1, $2)", "setting"),
            ("UPDATE pg_settings SET setting = $1 WHERE name = $2", "setting"),
            ("INSERT INTO \"pg_temp\".t VALUES (1)", "temporary"),
        ] {
            assert!(session_feature(sql).is_some_and(|what| what.contains(word)), "{sql}");
        }
    }

    #[test]
    fn what_ends_with_its_transaction_is_let_through() {
        for sql in [
            "SELECT pg_advisory_xact_lock(1)",
            "SELECT pg_try_advisory_xact_lock(1)",
            "SELECT set_config('app.tenant', $1, true)",
            "SELECT my_currval FROM t",
            "INSERT INTO lists (a) VALUES (1)",
        ] {
            assert_eq!(session_feature(sql), None, "{sql}");
        }
    }
}
