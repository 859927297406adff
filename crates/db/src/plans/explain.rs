//! Asks the server for a statement's plan, on a session that is the caller's own.
//! A statement is run only when that is asked for, inside a transaction that is rolled back, and one that writes only when
//! told so in so many words. It leaves nothing behind: no prepared name, no setting. Called through `Db::explain`.

use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::time::Duration;

use postgres_types::{FromSql, ToSql, Type};
use tokio_postgres::Client;

use super::plan::{Plan, TableName};
use super::table::{TableFacts, table_facts};
use crate::connection::Values;
use crate::db::Db;
use crate::error::Error;
use crate::session::Session;
use crate::statement::Statement;

/// Planning, or running where that was asked for, may take this long.
pub const EXPLAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A table that somebody is changing the form of is not waited for longer than this.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the statement is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Measure {
    /// It is planned only.
    #[default]
    No,
    /// It is run, in a transaction that cannot write and is rolled back. A statement that writes is refused.
    Reads,
    /// It is run even if it writes; the transaction is rolled back. What does not roll back stays: values taken from
    /// sequences, the work and locks of the moment, what triggers do outside of the database.
    Anything,
}

/// A plan, and what the server knows of the tables in it.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The plan.
    pub plan: Plan,
    /// The tables that it reads.
    pub tables: Vec<TableFacts>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// No session to ask on.
    #[error("reach the server to explain a statement")]
    Session(#[from] Error),
    /// The statement writes or locks rows, and only reads were to be run.
    #[error("not run: the statement writes ({node}), and only reads may be run for a plan")]
    NotARead {
        /// The node that writes.
        node: String,
    },
    /// The server refused the statement, or what is asked around it.
    #[error("explain the statement")]
    Refused(#[from] tokio_postgres::Error),
    /// The server's answer has an unknown form.
    #[error("the server's plan has an unknown form")]
    UnknownForm,
}

impl Db {
    /// The plan that the primary would use now for `statement` with these values. Dials a session of its own: some
    /// milliseconds, for tools and tests and not for the path of a request.
    ///
    /// # Errors
    /// [`PlanError`].
    pub async fn explain(
        &self,
        statement: &Statement,
        values: Values<'_>,
        measure: Measure,
    ) -> Result<Explained, PlanError> {
        let (expected, found) = (statement.types().len(), values.len());
        if expected != found {
            return Err(Error::ValueCount { expected, found }.into());
        }
        let session = self.session("explain").await?;
        let values: Vec<(&(dyn ToSql + Sync), Type)> =
            values.iter().copied().zip(statement.types().iter().cloned()).collect();
        explain(&session, statement.sql(), &values, measure).await
    }
}

/// The plan of any text of one statement with these values, on `session`, which must not be in a transaction.
/// If the future is dropped or fails halfway, the session closes.
///
/// # Errors
/// [`PlanError`].
pub async fn explain(
    session: &Session,
    sql: &str,
    values: &[(&(dyn ToSql + Sync), Type)],
    measure: Measure,
) -> Result<Explained, PlanError> {
    let guard = session.close_unless_done();
    let client = session.client();
    begin(client, measure).await?;
    let mut plan = ask(client, &format!("EXPLAIN (FORMAT JSON, VERBOSE) {sql}"), values).await?;
    if measure != Measure::No {
        if let (Measure::Reads, Some(node)) = (measure, writing_node(&plan)) {
            client.batch_execute("ROLLBACK").await?;
            guard.done();
            return Err(PlanError::NotARead { node });
        }
        let run = format!("EXPLAIN (FORMAT JSON, VERBOSE, ANALYZE, BUFFERS) {sql}");
        plan = ask(client, &run, values).await?;
    }
    finish(client, plan, guard).await
}

/// The plan of a statement whose values are not known: the server's generic one. The types of its parameters are found
/// out by the server. Nothing is run.
///
/// # Errors
/// [`PlanError`]; also where a parameter's type cannot be found out.
pub async fn explain_generic(session: &Session, sql: &str) -> Result<Explained, PlanError> {
    let guard = session.close_unless_done();
    let client = session.client();
    begin(client, Measure::No).await?;
    let generic = Generic::prepare(client, sql).await?;
    let plan = generic.plan(client).await?;
    generic.forget(client).await?;
    finish(client, plan, guard).await
}

/// A statement prepared on a session by name, to be planned again and again as its indexes change.
#[derive(Debug)]
pub(super) struct Generic {
    execute: String,
}

/// Nobody else names anything on the session.
const NAME: &str = "paystrata_plan";

impl Generic {
    /// Begins with the transaction open.
    pub(super) async fn prepare(client: &Client, sql: &str) -> Result<Self, PlanError> {
        // By the extended protocol, which takes one statement and no more.
        client.execute_typed(&format!("PREPARE {NAME} AS {sql}"), &[]).await?;
        let count = "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = $1";
        let row = client.query_typed_one(count, &[(&NAME, Type::TEXT)]).await?;
        let parameters = usize::try_from(row.try_get::<_, i32>(0)?).unwrap_or(0);
        // A generic plan does not look at the values.
        let values = vec!["NULL"; parameters].join(", ");
        let execute = if parameters == 0 { NAME.to_owned() } else { format!("{NAME}({values})") };
        Ok(Self { execute })
    }

    pub(super) async fn plan(&self, client: &Client) -> Result<Plan, PlanError> {
        // A generic plan is kept, and a hypothetical index does not make it outdated.
        client.batch_execute("DISCARD PLANS").await?;
        ask(client, &format!("EXPLAIN (FORMAT JSON, VERBOSE) EXECUTE {}", self.execute), &[]).await
    }

    pub(super) async fn forget(self, client: &Client) -> Result<(), PlanError> {
        Ok(client.batch_execute(&format!("DEALLOCATE {NAME}")).await?)
    }
}

/// Opens the transaction in which everything is asked.
pub(super) async fn begin(client: &Client, measure: Measure) -> Result<(), PlanError> {
    let access = if measure == Measure::Anything { "READ WRITE" } else { "READ ONLY" };
    let begin = format!(
        "BEGIN {access}; SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; \
         SET LOCAL plan_cache_mode = force_generic_plan",
        EXPLAIN_TIMEOUT.as_millis(),
        LOCK_TIMEOUT.as_millis()
    );
    Ok(client.batch_execute(&begin).await?)
}

async fn finish(
    client: &Client,
    plan: Plan,
    guard: crate::session::CloseUnlessDone<'_>,
) -> Result<Explained, PlanError> {
    // What was run is undone before anything else is asked.
    client.batch_execute("ROLLBACK").await?;
    let names: BTreeSet<TableName> = plan.nodes().filter_map(|node| node.table.clone()).collect();
    let tables = table_facts(client, &names).await?;
    guard.done();
    Ok(Explained { plan, tables })
}

async fn ask(client: &Client, sql: &str, values: &[(&(dyn ToSql + Sync), Type)]) -> Result<Plan, PlanError> {
    let row = client.query_typed_one(sql, values).await?;
    let Json(text) = row.try_get(0)?;
    Plan::read(&text).ok_or(PlanError::UnknownForm)
}

fn writing_node(plan: &Plan) -> Option<String> {
    let writes = |kind: &str| matches!(kind, "ModifyTable" | "LockRows");
    plan.nodes().find(|node| writes(&node.kind)).map(super::plan::PlanNode::label)
}

/// The text of a column of type `json`.
struct Json(String);

impl FromSql<'_> for Json {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?.to_owned()))
    }

    fn accepts(found: &Type) -> bool {
        *found == Type::JSON
    }
}
