//! A borrowed connection: runs statements, one deadline each, and goes back to its pool when dropped.
//! It gives no access to the session below. Dropped with anything left on it, it leaves the pool, which costs nobody a
//! wait, and comes back when a sweep has cleaned it. Handed out by `Db`.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool::managed::Object;
use futures_util::{TryStreamExt, pin_mut};
use postgres_types::{ToSql, Type};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_postgres::{Row, RowStream, SimpleQueryMessage, SimpleQueryRow, Statement as Prepared};

use crate::config::DEADLINE_GRACE;
use crate::dial::Path;
use crate::error::Error;
use crate::migrate::SchemaState;
use crate::node::{Node, NodeId, Observation, Role};
use crate::observe::{Observer, QuerySeen};
use crate::pool::{PoolObject, Pooled};
use crate::repeats;
use crate::sqlstate::{Class, is_no_answer};
use crate::statement::Statement;
use crate::sweep::{Left, Sweeper};
use crate::usage::Usage;

/// The values of a statement's parameters, in order.
pub type Values<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection to one server, returned to its pool on drop.
///
/// Every method may be dropped at any await. Statements may be run side by side on one connection; they are pipelined.
#[derive(Debug)]
pub struct Connection {
    object: Option<PoolObject>,
    role: Role,
    usage: Arc<Usage>,
    context: Arc<Context>,
    /// Of the bounds that it counts in.
    permits: Vec<OwnedSemaphorePermit>,
    /// It was asked for to read: that its server would take a write today is chance.
    is_for_reads: bool,
}

/// Times that a statement runs again because its plan is worthless while announced changes go on: several may overtake it, each
/// between its two round trips.
const RERUNS_MAX_ANNOUNCED: u32 = 3;
/// Without them each connection meets a change once.
const RERUNS_MAX: u32 = 1;

/// What the connections to one server need besides their sockets.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) node: Arc<Node>,
    pub(crate) sweeper: Arc<Sweeper>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) statement_timeout: Duration,
}

struct Fetched {
    rows: Vec<Row>,
    affected: u64,
}

impl Connection {
    pub(crate) fn new(
        object: PoolObject,
        role: Role,
        usage: Usage,
        context: Arc<Context>,
        permits: Vec<OwnedSemaphorePermit>,
    ) -> Self {
        context.node.enter();
        let usage = Arc::new(usage);
        object.presence.hold(&usage);
        Self { object: Some(object), role, usage, context, permits, is_for_reads: false }
    }

    /// The same, which refuses what is seen to write.
    pub(crate) fn for_reads(mut self) -> Self {
        self.is_for_reads = true;
        self
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Observation> {
        self.context.node.subscribe()
    }

    /// The server behind it.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.context.node.id
    }

    /// Has the monitor look at that server at once.
    pub(crate) fn suspect_server(&self) {
        self.context.node.suspect();
    }

    /// As what that server was chosen.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// All rows. One round trip, two when the statement is new to the connection or a migration is announced.
    ///
    /// # Errors
    /// [`Error::Query`] with the server's error, [`Error::Deadline`] or [`Error::Lost`]; of a connection for reading,
    /// [`Error::NotARead`].
    pub async fn query(&self, statement: &Statement, values: Values<'_>) -> Result<Vec<Row>, Error> {
        Ok(self.fetch(statement, values).await?.rows)
    }

    /// Exactly one row.
    ///
    /// # Errors
    /// As [`Connection::query`], and [`Error::RowCount`].
    pub async fn query_one(&self, statement: &Statement, values: Values<'_>) -> Result<Row, Error> {
        exactly_one(self.query(statement, values).await?)
    }

    /// One row or none.
    ///
    /// # Errors
    /// As [`Connection::query`], and [`Error::RowCount`].
    pub async fn query_opt(&self, statement: &Statement, values: Values<'_>) -> Result<Option<Row>, Error> {
        at_most_one(self.query(statement, values).await?)
    }

    /// The number of rows affected.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub async fn execute(&self, statement: &Statement, values: Values<'_>) -> Result<u64, Error> {
        Ok(self.fetch(statement, values).await?.affected)
    }

    pub(crate) fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    pub(crate) fn incarnation(&self) -> i64 {
        self.pooled().incarnation
    }

    /// Runs a text by the simple protocol; for this crate's own transaction control. Answers with the first row.
    pub(crate) async fn control(&self, sql: &str) -> Result<Option<SimpleQueryRow>, Error> {
        self.control_within(self.context.statement_timeout, sql).await
    }

    /// As [`Connection::control`], with a limit of the caller's.
    pub(crate) async fn control_within(
        &self,
        limit: Duration,
        sql: &str,
    ) -> Result<Option<SimpleQueryRow>, Error> {
        let messages = self.guarded_within(limit, self.pooled().client.simple_query(sql)).await?;
        Ok(messages.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        }))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.pooled().client.is_closed()
    }

    /// Whether its pool would still hand it out, as far as its server goes: nobody has seen that fail or start anew.
    pub(crate) fn is_current(&self) -> bool {
        let node = &self.context.node;
        !self.is_closed() && self.pooled().generation == node.generation() && !node.is_suspect()
    }

    pub(crate) fn has_prepared(&self, statement: &Statement) -> bool {
        let prepared = self.pooled().presence.statements.get(statement.sql(), self.context.node.schema());
        prepared.is_some_and(|prepared| prepared.params() == statement.types())
    }

    /// Has the server parse a statement that it does not know yet.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub(crate) async fn prepare(&self, statement: &Statement) -> Result<(), Error> {
        self.guarded(self.prepared(statement, self.context.node.schema())).await.map(drop)
    }

    async fn fetch(&self, statement: &Statement, values: Values<'_>) -> Result<Fetched, Error> {
        let (expected, found) = (statement.types().len(), values.len());
        if expected != found {
            return Err(Error::ValueCount { expected, found });
        }
        if self.is_for_reads
            && let Some(verb) = statement.writing_verb()
        {
            return Err(Error::NotARead { verb });
        }
        if self.pooled().path == Path::Pooler
            && let Some(what) = statement.session_feature()
        {
            return Err(Error::NeedsSession { what });
        }
        repeats::note(statement);
        if statement.leaves_session_state() {
            self.usage.note_session_state();
        }
        let started = Instant::now();
        // Pinned here: each layer around it would copy it once, and it is large.
        let mut outcome = self.guarded(pin!(self.attempt(statement, values))).await;
        let mut reruns = 0;
        while outcome.as_ref().is_err_and(|error| error.class() == Class::StalePlan) {
            // DDL made the plan or the name worthless before the statement had any effect. A transaction that is rerun for it
            // may get any other connection.
            self.pooled().presence.forget_everywhere(statement.sql());
            if self.usage.is_in_transaction() || reruns >= self.reruns_max() {
                break;
            }
            reruns += 1;
            self.usage.forget_failure();
            outcome = self.guarded(Box::pin(self.attempt(statement, values))).await;
        }
        let now = Instant::now();
        let took = now.saturating_duration_since(started);
        // What fails at once is not quick.
        let is_answer =
            |error: &Error| matches!(error, Error::Deadline { .. }) || !error.class().is_node_fault();
        if outcome.as_ref().err().is_none_or(is_answer) {
            self.context.node.record_latency(took, now);
        }
        self.report(statement.sql(), took, outcome.as_ref().err());
        outcome
    }

    fn reruns_max(&self) -> u32 {
        if self.context.node.schema().is_settled() { RERUNS_MAX } else { RERUNS_MAX_ANNOUNCED }
    }

    /// Tells the observer of a statement that ended.
    pub(crate) fn report(&self, sql: &'static str, took: Duration, error: Option<&Error>) {
        let failure = error.map(Error::class);
        self.context.observer.query(&QuerySeen { node: self.node(), role: self.role, sql, took, failure });
    }

    async fn guarded<T>(
        &self,
        call: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        self.guarded_within(self.context.statement_timeout, call).await
    }

    /// Counts the call as under way, limits it in time, and takes note of its failure.
    pub(crate) async fn guarded_within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        let outcome = if self.is_closed() {
            Err(Error::Lost { node: self.node().clone() })
        } else {
            let ticket = self.usage.begin();
            let after = limit.saturating_add(DEADLINE_GRACE);
            match tokio::time::timeout(after, call).await {
                // The ticket stays open: the statement may still be running.
                Err(_) => Err(Error::Deadline { node: self.node().clone(), after }),
                Ok(outcome) => {
                    ticket.finish();
                    outcome.map_err(|source| Error::Query { node: self.node().clone(), source })
                }
            }
        };
        match &outcome {
            Ok(_) => self.context.node.breaker().succeeded(),
            Err(error) => self.take_note_of(error),
        }
        outcome
    }

    fn take_note_of(&self, error: &Error) {
        self.usage.record_failure(error);
        let node = &self.context.node;
        if error.postgres().is_some_and(is_no_answer) {
            self.usage.note_lost_its_way();
        }
        if error.class().is_node_fault() {
            node.suspect();
        }
        let is_answer = error.postgres().and_then(|source| source.as_db_error()).is_some();
        let is_of_server = match error.sqlstate() {
            // It shuts down, has crashed, starts, or cannot read its disk.
            Some(code) => matches!(code.code(), "57P01" | "57P02" | "57P03" | "58030"),
            None => error.class().is_node_fault() && !matches!(error, Error::Lost { .. }),
        };
        if is_of_server {
            if self.pooled().generation == node.generation() && self.usage.tells_fault() {
                node.breaker().failed(Instant::now());
            }
        } else if is_answer {
            node.breaker().succeeded();
        }
    }

    async fn attempt(
        &self,
        statement: &Statement,
        values: Values<'_>,
    ) -> Result<Fetched, tokio_postgres::Error> {
        let schema = self.context.node.schema();
        let stream = match self.pooled().path {
            Path::Direct => {
                let prepared = self.prepared(statement, schema).await?;
                self.pooled().client.query_raw(&prepared, values.iter().copied()).await?
            }
            Path::Pooler => self.unnamed(statement, values).await?,
        };
        pin_mut!(stream);
        let mut rows = Vec::new();
        while let Some(row) = stream.try_next().await? {
            rows.push(row);
        }
        Ok(Fetched { rows, affected: stream.rows_affected().unwrap_or(0) })
    }

    async fn prepared(
        &self,
        statement: &Statement,
        schema: SchemaState,
    ) -> Result<Prepared, tokio_postgres::Error> {
        let Pooled { client, presence, .. } = self.pooled();
        let statements = &presence.statements;
        // What is about to change is prepared for each use: in a transaction nothing changes before it runs, for the locks
        // that parsing takes are kept to its end. By its text alone it cannot go: while its rows come, and wait to be read,
        // nothing can be asked about their types.
        let cached = statements.get(statement.sql(), schema).filter(|_| schema.is_settled());
        // One text with two lists of types would need two plans; the parameters tell them apart.
        if let Some(prepared) = cached.filter(|prepared| prepared.params() == statement.types()) {
            return Ok(prepared);
        }
        let prepared = client.prepare_typed(statement.sql(), statement.types()).await?;
        statements.insert(statement.sql(), prepared.clone(), schema);
        Ok(prepared)
    }

    // Behind a pooler each message may meet another server connection, so the text travels with its values.
    async fn unnamed(
        &self,
        statement: &Statement,
        values: Values<'_>,
    ) -> Result<RowStream, tokio_postgres::Error> {
        let typed: Vec<(&(dyn ToSql + Sync), Type)> =
            values.iter().copied().zip(statement.types().iter().cloned()).collect();
        self.pooled().client.query_typed_raw(statement.sql(), typed).await
    }

    /// Behind a pooler nothing is prepared but the driver's look-up of a type that came after the connection.
    fn knows_too_few_types(&self, pooled: &Pooled) -> bool {
        let failed = || self.usage.failure().is_some_and(|failure| failure.class == Class::StalePlan);
        pooled.path == Path::Pooler && failed()
    }

    pub(crate) fn pooled(&self) -> &Pooled {
        self.object.as_deref().expect("the connection is taken only by drop")
    }

    /// What would meet the next borrower. Told by the wire and not by what was done: an answer may have been missed.
    fn left_behind(&self, pooled: &Pooled) -> Option<Left> {
        let left = Left {
            statement: self.usage.has_pending(),
            commit: self.usage.is_committing(),
            session_state: self.usage.has_session_state(),
            lost_its_way: self.usage.has_lost_its_way(),
        };
        let is_anything = left.statement
            || left.session_state
            || left.lost_its_way
            || self.usage.is_in_transaction()
            || !pooled.presence.tap.is_clean();
        is_anything.then_some(left)
    }
}

pub(crate) fn at_most_one(mut rows: Vec<Row>) -> Result<Option<Row>, Error> {
    if rows.len() > 1 {
        return Err(Error::RowCount { expected: "at most one row", found: rows.len() });
    }
    Ok(rows.pop())
}

pub(crate) fn exactly_one(rows: Vec<Row>) -> Result<Row, Error> {
    let found = rows.len();
    at_most_one(rows).ok().flatten().ok_or(Error::RowCount { expected: "exactly one row", found })
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.context.node.leave();
        self.permits.clear();
        let Some(object) = self.object.take() else { return };
        // Before anybody else can hold it.
        object.presence.release();
        if self.knows_too_few_types(&object) {
            // Its successor looks them up when it is made.
            drop(Object::take(object));
        } else if let Some(left) = self.left_behind(&object) {
            // Taking it frees the pool's slot at once; the sweep then costs nobody a wait.
            let pool = Object::pool(&object);
            self.context.sweeper.sweep(Object::take(object), pool, left);
        }
    }
}
