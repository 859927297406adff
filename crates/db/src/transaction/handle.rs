//! What a transaction's closure works with: the four ways to run a statement, and nothing else.
//! It cannot commit, and refuses work once its transaction has ended. Made by `run`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::Row;

use crate::connection::{Connection, Values};
use crate::error::Error;
use crate::node::NodeId;
use crate::statement::Statement;

/// An open transaction. Statements may run side by side; they are pipelined.
#[derive(Debug)]
pub struct Transaction {
    pub(super) open: Arc<Open>,
}

/// Shared between the closure's handle and the runner, which outlives it.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) connection: Connection,
    ended: AtomicBool,
}

impl Open {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, ended: AtomicBool::new(false) }
    }

    /// From now on a handle that escaped its closure is refused.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

impl Transaction {
    /// As [`Connection::query`].
    ///
    /// # Errors
    /// As [`Connection::query`], and [`Error::Closed`] once the transaction has ended.
    pub async fn query(&self, statement: &Statement, values: Values<'_>) -> Result<Vec<Row>, Error> {
        self.connection()?.query(statement, values).await
    }

    /// As [`Connection::query_one`].
    ///
    /// # Errors
    /// As [`Connection::query_one`], and [`Error::Closed`] once the transaction has ended.
    pub async fn query_one(&self, statement: &Statement, values: Values<'_>) -> Result<Row, Error> {
        self.connection()?.query_one(statement, values).await
    }

    /// As [`Connection::query_opt`].
    ///
    /// # Errors
    /// As [`Connection::query_opt`], and [`Error::Closed`] once the transaction has ended.
    pub async fn query_opt(&self, statement: &Statement, values: Values<'_>) -> Result<Option<Row>, Error> {
        self.connection()?.query_opt(statement, values).await
    }

    /// As [`Connection::execute`].
    ///
    /// # Errors
    /// As [`Connection::execute`], and [`Error::Closed`] once the transaction has ended.
    pub async fn execute(&self, statement: &Statement, values: Values<'_>) -> Result<u64, Error> {
        self.connection()?.execute(statement, values).await
    }

    /// The server behind it.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        self.open.connection.node()
    }

    pub(crate) fn connection(&self) -> Result<&Connection, Error> {
        let ended = self.open.ended.load(Ordering::Acquire);
        if ended { Err(Error::Closed) } else { Ok(&self.open.connection) }
    }
}
