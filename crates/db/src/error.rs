//! Failures of routing, acquiring and querying, with the predicates callers decide by.
//! It holds no SQL, no parameters and no password. Every module between `Db` and the socket returns it.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::acquire::is_server_full;
use crate::holders::Holders;
use crate::node::NodeId;
use crate::route::NoPrimary;
use crate::sqlstate::{Class, classify};
use crate::status::PoolStatus;
use crate::token::Token;

/// What went wrong between asking for a connection and reading the answer of a statement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings contradict each other.
    #[error("settings refused: {problem}")]
    Settings {
        /// What contradicts what.
        problem: &'static str,
    },
    /// No connection within the acquire timeout.
    #[error("no connection to {node} after {waited:?} while {phase}: {pool}{holders}")]
    AcquireTimeout {
        /// The server asked.
        node: NodeId,
        /// What the wait was spent on.
        phase: AcquirePhase,
        /// How long it lasted.
        waited: Duration,
        /// The pool at that moment.
        pool: PoolStatus,
        /// Those who had held its connections for longest.
        holders: Holders,
    },
    /// The task that asks keeps a connection of the same pool and does nothing with it, and all others are held too: it
    /// may be waiting for itself. Ask for the second one before, or give the first one back.
    #[error(
        "this task keeps a connection to {node} while it asks for another, and none is free: {pool}{holders}"
    )]
    NestedAcquire {
        /// The server asked.
        node: NodeId,
        /// The pool at that moment.
        pool: PoolStatus,
        /// Those who had held its connections for longest.
        holders: Holders,
    },
    /// No server may be written to at present.
    #[error("no primary: {reason}{detail}")]
    NoPrimary {
        /// Why none of the known servers is it.
        reason: NoPrimary,
        /// The last errors of the servers, in brackets, or nothing.
        detail: String,
    },
    /// The write that the read is to see was committed beyond the point at which a later timeline, the primary's or one before
    /// it, left the token's: the failover has lost it, or it was among the last there were, and nobody can tell. No server
    /// shows it any more; read what there is, by [`Token::latest`], and see whether it is there.
    #[error(
        "the write of {token} is not in the history that goes on from {fork}: a failover has lost it, or may have"
    )]
    WriteLost {
        /// What the caller gave.
        token: Token,
        /// The later timeline, and where it began.
        fork: Token,
    },
    /// The server is known to be down and was not dialled.
    #[error("{node} is down")]
    NodeDown {
        /// The server.
        node: NodeId,
    },
    /// A connection could not be made.
    #[error("connect to {node}")]
    Dial {
        /// The server.
        node: NodeId,
        /// The driver's error.
        #[source]
        source: tokio_postgres::Error,
    },
    /// There is no way to the server: it refuses, or its name has no address.
    #[error("connect to {node}")]
    Unreachable {
        /// The server.
        node: NodeId,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// TLS is demanded, and the server does not show that it is the one that is meant, or refuses who asks. No statement was sent
    /// to it, and there is no way around it. As a rule a person must look; the log says so once for each change of cause.
    #[error("{node} is not trusted: {cause}")]
    Untrusted {
        /// The server.
        node: NodeId,
        /// Why, in words that hold no name and no address.
        cause: &'static str,
    },
    /// A connection was not made in time.
    #[error("connect to {node}: no answer within {after:?}")]
    DialTimeout {
        /// The server.
        node: NodeId,
        /// The limit.
        after: Duration,
    },
    /// The connection was gone before the statement was sent.
    #[error("connection to {node} was lost before the statement was sent")]
    Lost {
        /// The server.
        node: NodeId,
    },
    /// The statement failed.
    #[error("query on {node}")]
    Query {
        /// The server.
        node: NodeId,
        /// The driver's error.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The server stayed silent beyond the statement timeout.
    #[error("query on {node}: no answer within {after:?}")]
    Deadline {
        /// The server.
        node: NodeId,
        /// The limit.
        after: Duration,
    },
    /// The server went down while a read was running there.
    #[error("{node} went down during the read")]
    NodeLost {
        /// The server.
        node: NodeId,
    },
    /// The statement has another number of parameter types than values were given. Nothing was sent.
    #[error("the statement takes {expected} values, {found} were given")]
    ValueCount {
        /// Types in the statement.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// The number of rows is not the one asked for.
    #[error("expected {expected}, got {found} rows")]
    RowCount {
        /// What was asked for.
        expected: &'static str,
        /// What came.
        found: usize,
    },
    /// The server's answer to one of this crate's own statements has an unknown form.
    #[error("{node} answered in an unknown form: {what}")]
    UnknownForm {
        /// The server.
        node: NodeId,
        /// Which answer.
        what: &'static str,
    },
    /// What answers under a server's URL is a pooler, or something else that keeps session settings from the server.
    #[error(
        "{node} is a pooler and not a server: name it in pooler_url, and the server itself in primary_url or \
         replica_urls; sessions, migrations and probes go there"
    )]
    PoolerInTheWay {
        /// What was taken for a server.
        node: NodeId,
    },
    /// The statement needs a session of its own, and the connection leads through a pooler. Nothing was sent.
    #[error(
        "refused behind a pooler, where the next statement may meet another session: {what}; use Db::session"
    )]
    NeedsSession {
        /// What belongs to a session.
        what: &'static str,
    },
    /// The statement writes, by its first word, and was given to what reads: [`Db::read`](crate::Db::read) and its sisters,
    /// [`Db::query`](crate::Db::query), a [`Loader`](crate::Loader). A replica would refuse it, and the primary would take it
    /// while it serves the reads. Nothing was sent.
    #[error("{verb} was given to what reads, from whichever server: use Db::write or Db::transaction")]
    NotARead {
        /// The word.
        verb: &'static str,
    },
    /// The transaction has ended, or the `Db` is closed.
    #[error("closed")]
    Closed,
}

/// What the wait for a connection was spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcquirePhase {
    /// Waiting for another caller to give a connection back.
    Waiting,
    /// Waiting for one of the read permits of the primary.
    ReadPermit,
    /// Waiting for one of the connections that background work may have ([`Db::background`](crate::Db::background)).
    BackgroundPermit,
    /// Making a new connection.
    Connecting,
    /// Testing an idle connection.
    Testing,
}

impl std::fmt::Display for AcquirePhase {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Waiting => "waiting for a free one",
            Self::ReadPermit => "waiting for a read permit of the primary",
            Self::BackgroundPermit => "waiting for one that background work may have",
            Self::Connecting => "connecting",
            Self::Testing => "testing an idle one",
        })
    }
}

impl Error {
    /// What may be done next.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Query { source, .. } => classify(source),
            Self::Dial { source, .. } => match classify(source) {
                // A refused login or a missing database stays refused.
                Class::Never => Class::Never,
                _ => Class::NotSent,
            },
            Self::AcquireTimeout { .. }
            | Self::NoPrimary { .. }
            | Self::NodeDown { .. }
            | Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::DialTimeout { .. }
            | Self::Lost { .. } => Class::NotSent,
            Self::Deadline { .. } | Self::NodeLost { .. } => Class::OutcomeUnknown,
            Self::Settings { .. }
            | Self::NestedAcquire { .. }
            | Self::ValueCount { .. }
            | Self::RowCount { .. }
            | Self::UnknownForm { .. }
            | Self::PoolerInTheWay { .. }
            | Self::NeedsSession { .. }
            | Self::NotARead { .. }
            | Self::WriteLost { .. }
            | Self::Closed => Class::Never,
        }
    }

    /// The statement had no effect and may be sent again.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.class().is_retryable()
    }

    /// Nothing reached the server.
    #[must_use]
    pub fn is_not_sent(&self) -> bool {
        self.class() == Class::NotSent
    }

    /// The database, or our part of it, has no room for the caller now: answer with "try again later".
    #[must_use]
    pub fn is_overload(&self) -> bool {
        match self {
            Self::AcquireTimeout { phase, .. } => {
                matches!(
                    phase,
                    AcquirePhase::Waiting | AcquirePhase::ReadPermit | AcquirePhase::BackgroundPermit
                )
            }
            error => is_server_full(error),
        }
    }

    /// The driver's error, when there is one.
    #[must_use]
    pub fn postgres(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Query { source, .. } | Self::Dial { source, .. } => Some(source),
            _ => None,
        }
    }

    /// The server's code for the failure.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&SqlState> {
        self.postgres()?.code()
    }

    /// The violated constraint's name.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        self.postgres()?.as_db_error()?.constraint()
    }
}

/// Reads for a floor that is nobody's token, as that of a cache's load: where a failover has taken what it stands for, what there is
/// now is all there is, and `read` is asked once more for [`Token::latest`].
///
/// # Errors
/// Those of `read`.
pub async fn read_from_floor<T, E, Fut>(
    floor: Option<Token>,
    read: impl Fn(Option<Token>) -> Fut,
) -> Result<T, E>
where
    E: std::error::Error + 'static,
    Fut: Future<Output = Result<T, E>>,
{
    match read(floor).await {
        Err(error) if is_write_lost(&error) => read(floor.map(Token::latest)).await,
        found => found,
    }
}

/// True if the cause of this, however deep, is that a failover has lost the write that was to be seen.
#[must_use]
pub fn is_write_lost(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // Those who wait for one load share its error.
        let shared = error.downcast_ref::<Arc<Error>>().map(Arc::as_ref);
        if matches!(error.downcast_ref().or(shared), Some(Error::WriteLost { .. })) {
            return true;
        }
        cause = error.source();
    }
    false
}
