//! A dedicated connection to the primary, outside every pool, for long-lived workers, migrations and maintenance.
//! It has no statement timeout of its own and is not replaced when the primary changes: its owner notices
//! (`is_closed`, SQLSTATE 25006) and asks `Db::session` for another.

use std::sync::Arc;

use tokio_postgres::Client;
use tokio_util::task::AbortOnDropHandle;

use crate::dial::Dialled;
use crate::error::Error;
use crate::node::{Node, NodeId};
use crate::token::Token;

/// A direct, unpooled connection. It closes when dropped; the server notices within a second, ends a statement
/// that is still running, rolls back, and frees the session's locks.
#[derive(Debug)]
pub struct Session {
    client: Client,
    node: Arc<Node>,
    task: AbortOnDropHandle<()>,
}

/// Closes the session unless disarmed: for work that must not be left half done on a session that lives on.
#[derive(Debug)]
pub(crate) struct CloseUnlessDone<'a> {
    session: &'a Session,
    done: bool,
}

impl Session {
    pub(crate) fn new(dialled: Dialled, node: Arc<Node>) -> Self {
        Self { client: dialled.client, node, task: AbortOnDropHandle::new(dialled.task) }
    }

    /// The driver's client, with everything it can do.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The server behind it.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node.id
    }

    /// Its owner met a failure that may speak of the server: until that has been looked at again, which is at once,
    /// [`Db::primary_life`](crate::Db::primary_life) is unknown and no pooled read goes there.
    pub fn suspect_server(&self) {
        self.node.suspect();
    }

    /// The connection is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || self.task.is_finished()
    }

    /// The token that covers everything committed so far. One round trip; to save it, pipeline [`Token::SQL`]
    /// behind your own `COMMIT`.
    ///
    /// # Errors
    /// [`Error::Query`] or [`Error::UnknownForm`].
    pub async fn token(&self) -> Result<Token, Error> {
        let row = self.client.query_typed_one(Token::SQL, &[]).await;
        let row = row.map_err(|source| Error::Query { node: self.node.id.clone(), source })?;
        Token::from_row(&row)
            .map_err(|_| Error::UnknownForm { node: self.node.id.clone(), what: "the log position" })
    }

    pub(crate) fn close_unless_done(&self) -> CloseUnlessDone<'_> {
        CloseUnlessDone { session: self, done: false }
    }
}

impl CloseUnlessDone<'_> {
    pub(crate) fn done(mut self) {
        self.done = true;
    }
}

impl Drop for CloseUnlessDone<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.session.task.abort();
        }
    }
}
