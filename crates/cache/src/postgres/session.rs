//! One connection with every statement prepared, shared by any number of callers: what they send is
//! pipelined, and each statement is a transaction of its own. Callers may go away at any time; what was
//! sent is done or not, never in part. Supervised by `link`.

use std::{future::Future, time::Duration};

use futures_util::StreamExt;
use tokio::{task::AbortHandle, time::timeout};
use tokio_postgres::{Client, Error, Row, Statement, types::ToSql};

use super::{
    dial::{Dial, Dialed},
    sql,
};
use crate::{silence::Silence, tier::TierError};

pub(super) struct Session {
    client: Client,
    pub(super) statements: Statements,
    task: AbortHandle,
    silence: Silence,
}

/// Every statement there is, ready to run.
pub(super) struct Statements {
    pub(super) read: Statement,
    pub(super) inspect: Statement,
    pub(super) claim: Statement,
    pub(super) settle: Statement,
    pub(super) void: Statement,
    pub(super) put: Statement,
    pub(super) prune: Statement,
    pub(super) attach: Statement,
    pub(super) announce: Statement,
    pub(super) pulse: Statement,
    pub(super) replay: Statement,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Postgres(#[from] Error),
    #[error("no answer in time")]
    TimedOut,
}

impl Session {
    /// Connects and prepares. The server ends what takes longer than `command_timeout`.
    pub(super) async fn establish(
        dial: &Dial,
        schema: &str,
        connect_timeout: Duration,
        command_timeout: Duration,
    ) -> Result<Self, Broken> {
        let preparing = async {
            let Dialed { client, mut messages } = dial.dial().await?;
            let task = tokio::spawn(async move { while let Some(Ok(_)) = messages.next().await {} });
            let task = EndOnDrop(Some(task.abort_handle()));
            client.batch_execute(&settings(command_timeout)).await?;
            let statements = Statements::prepare(&client, schema).await?;
            let task = task.keep().expect("it is kept once");
            Ok(Self { client, statements, task, silence: Silence::default() })
        };
        timeout(connect_timeout, preparing).await.map_err(|_| Broken::TimedOut)?
    }

    /// The rows of a statement.
    pub(super) async fn query(
        &self,
        limit: Duration,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, TierError> {
        self.call(limit, self.client.query(statement, parameters)).await
    }

    /// The number of rows that a statement changed.
    pub(super) async fn execute(
        &self,
        limit: Duration,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, TierError> {
        self.call(limit, self.client.execute(statement, parameters)).await
    }

    /// Waits for an answer, and draws the consequence from how it comes.
    async fn call<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, TierError> {
        let asking = self.silence.ask(limit, || self.task.abort());
        let answered = timeout(limit, answer).await.map_err(|_elapsed| TierError::TimedOut)?;
        asking.answered();
        answered.map_err(|error| self.judge(&error))
    }

    fn judge(&self, error: &Error) -> TierError {
        let Some(code) = error.code() else { return TierError::Failed };
        // Read-only: the server was demoted, or this is a replica. Undefined table, function or schema: it
        // was made anew. In each case another connection may do better.
        if matches!(code.code(), "25006" | "42P01" | "42883" | "3F000") {
            self.task.abort();
        }
        // The message may quote what was stored.
        tracing::debug!(code = code.code(), "statement of the cache failed");
        if code.code() == "57014" { TierError::TimedOut } else { TierError::Failed }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed() || self.task.is_finished()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends the task of a connection that does not come to be.
struct EndOnDrop(Option<AbortHandle>);

impl EndOnDrop {
    fn keep(mut self) -> Option<AbortHandle> {
        self.0.take()
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// What each session sets for itself. Statements that wait for a row must see it as it is then (read
/// committed). All that is looked for is found by an index, whatever the statistics of a table say that
/// was empty a minute ago.
fn settings(command_timeout: Duration) -> String {
    let limit_ms = command_timeout.as_millis().clamp(1, 2_147_483_647);
    format!(
        "SET statement_timeout = {limit_ms}; SET lock_timeout = {limit_ms}; \
         SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off; \
         SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off"
    )
}

impl Statements {
    async fn prepare(client: &Client, schema: &str) -> Result<Self, Error> {
        let prepare = async |text: &str| client.prepare(&sql::fill(text, schema)).await;
        Ok(Self {
            read: prepare(sql::READ).await?,
            inspect: prepare(sql::INSPECT).await?,
            claim: prepare(sql::CLAIM).await?,
            settle: prepare(sql::SETTLE).await?,
            void: prepare(sql::VOID).await?,
            put: prepare(sql::PUT).await?,
            prune: prepare(sql::PRUNE).await?,
            attach: prepare(sql::ATTACH).await?,
            announce: prepare(sql::ANNOUNCE).await?,
            pulse: prepare(sql::PULSE).await?,
            replay: prepare(sql::REPLAY).await?,
        })
    }
}
