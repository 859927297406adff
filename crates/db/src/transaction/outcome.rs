//! How a commit ended, by the server's own record: `pg_xact_status` of the transaction's id.
//! It never guesses: another timeline may have given the same id to another transaction, so there the answer is "unknown".
//! Used by `run`, and by workers that commit on a session of their own.

use std::fmt;
use std::time::Instant;

use postgres_types::Type;
use tokio::time::timeout;
use tokio_postgres::{Row, SimpleQueryRow};
use tracing::warn;

use crate::config::{OUTCOME_PAUSE, OUTCOME_TERMINATE_AFTER, OUTCOME_TIMEOUT};
use crate::connection::Connection;
use crate::db::Db;
use crate::error::Error;
use crate::statement::Statement;
use crate::token::Token;

/// Names one transaction, so that its outcome can be asked for when its connection is gone.
///
/// Take it right after `BEGIN` with [`CommitTicket::SQL`]; it must be in hand before `COMMIT` is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CommitTicket {
    /// The transaction's id, epoch included.
    pub xid: u64,
    /// The timeline it ran on.
    pub timeline: u32,
    /// The server process that ran it.
    pub backend_pid: i32,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It is durable; the token covers it.
    Committed(Token),
    /// Nothing of it remains.
    RolledBack,
    /// Nobody could say: no primary answered, a failover came between, or the record is gone.
    Unknown,
}

/// The record of one transaction, the present position for the token, and the timeline, which tells whether the record is ours.
pub(super) static RECORD: Statement = Statement::new(
    "SELECT pg_xact_status($1::text::xid8), pg_current_wal_insert_lsn()::text, \
     left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)",
    &[Type::TEXT],
);

/// Ends the server process that still holds the transaction open, and no other: a process id may be taken again.
static TERMINATE: Statement = Statement::new(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE pid = $1 AND backend_xid::text = ($2::text::xid8::xid)::text",
    &[Type::INT4, Type::TEXT],
);

/// What the record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    Committed(Token),
    Aborted,
    InProgress,
    /// Too old to be known, or of another timeline.
    Unknowable,
}

impl CommitTicket {
    /// Asks for the ticket of the running transaction; it gives the transaction its id.
    pub const SQL: &str = "SELECT pg_current_xact_id()::text, \
                           left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), pg_backend_pid()::text";

    /// Reads the row that [`CommitTicket::SQL`] answers with; None when it has another shape.
    #[must_use]
    pub fn from_row(row: &Row) -> Option<Self> {
        Self::from_texts(row.try_get(0).ok()?, row.try_get(1).ok()?, row.try_get(2).ok()?)
    }

    /// As [`CommitTicket::from_row`], for the simple protocol.
    #[must_use]
    pub fn from_simple_row(row: &SimpleQueryRow) -> Option<Self> {
        let text = |index| row.try_get(index).ok().flatten();
        Self::from_texts(text(0)?, text(1)?, text(2)?)
    }

    fn from_texts(xid: &str, timeline_hex: &str, backend_pid: &str) -> Option<Self> {
        Some(Self {
            xid: xid.parse().ok()?,
            timeline: u32::from_str_radix(timeline_hex, 16).ok()?,
            backend_pid: backend_pid.parse().ok()?,
        })
    }
}

impl fmt::Display for CommitTicket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "transaction {} of timeline {}", self.xid, self.timeline)
    }
}

impl Db {
    /// Finds out how a commit ended whose connection was lost. It asks for up to ten seconds; a transaction that still
    /// hangs on its lost connection after half a second is ended, so that the answer is final.
    pub async fn commit_outcome(&self, ticket: CommitTicket) -> CommitOutcome {
        let asked = timeout(OUTCOME_TIMEOUT, self.ask_until_known(ticket)).await;
        let outcome = asked.unwrap_or(CommitOutcome::Unknown);
        if outcome == CommitOutcome::Unknown {
            warn!(%ticket, "commit outcome unknown");
        }
        outcome
    }

    async fn ask_until_known(&self, ticket: CommitTicket) -> CommitOutcome {
        let started = Instant::now();
        loop {
            match self.ask(ticket, started).await {
                Ok(Recorded::Committed(token)) => return CommitOutcome::Committed(token),
                Ok(Recorded::Aborted) => return CommitOutcome::RolledBack,
                Ok(Recorded::Unknowable) => return CommitOutcome::Unknown,
                // Still running, or nobody to ask yet.
                Ok(Recorded::InProgress) | Err(_) => tokio::time::sleep(OUTCOME_PAUSE).await,
            }
        }
    }

    async fn ask(&self, ticket: CommitTicket, started: Instant) -> Result<Recorded, Error> {
        let connection = self.write().await?;
        let row = connection.query_one(&RECORD, &[&ticket.xid.to_string()]).await?;
        let recorded = read_record(&connection, &row, ticket)?;
        if recorded == Recorded::InProgress && started.elapsed() >= OUTCOME_TERMINATE_AFTER {
            connection.query(&TERMINATE, &[&ticket.backend_pid, &ticket.xid.to_string()]).await?;
        }
        Ok(recorded)
    }
}

pub(super) fn read_record(
    connection: &Connection,
    row: &Row,
    ticket: CommitTicket,
) -> Result<Recorded, Error> {
    let unknown_form =
        || Error::UnknownForm { node: connection.node().clone(), what: "the record of a commit" };
    let status: Option<&str> = row.try_get(0).map_err(|_| unknown_form())?;
    let lsn: &str = row.try_get(1).map_err(|_| unknown_form())?;
    let timeline: &str = row.try_get(2).map_err(|_| unknown_form())?;
    let token = Token::from_server(lsn, timeline).map_err(|_| unknown_form())?;
    Ok(judge(status, token, ticket))
}

fn judge(status: Option<&str>, token: Token, ticket: CommitTicket) -> Recorded {
    if token.timeline != ticket.timeline {
        return Recorded::Unknowable;
    }
    match status {
        Some("committed") => Recorded::Committed(token),
        Some("aborted") => Recorded::Aborted,
        Some("in progress") => Recorded::InProgress,
        _ => Recorded::Unknowable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_counts_only_on_the_transactions_own_timeline() {
        let ticket = CommitTicket { xid: 900, timeline: 3, backend_pid: 1 };
        let here = Token { timeline: 3, lsn: 5 };
        let later = Token { timeline: 4, lsn: 5 };
        assert_eq!(judge(Some("committed"), here, ticket), Recorded::Committed(here));
        assert_eq!(judge(Some("aborted"), here, ticket), Recorded::Aborted);
        assert_eq!(judge(Some("in progress"), here, ticket), Recorded::InProgress);
        assert_eq!(judge(None, here, ticket), Recorded::Unknowable);
        for status in [Some("committed"), Some("aborted"), Some("in progress"), None] {
            assert_eq!(judge(status, later, ticket), Recorded::Unknowable);
        }
    }

    #[test]
    fn a_ticket_is_read_from_the_servers_texts() {
        let ticket = CommitTicket::from_texts("4294967297", "0000000A", "42");
        assert_eq!(ticket, Some(CommitTicket { xid: 4_294_967_297, timeline: 10, backend_pid: 42 }));
        assert_eq!(CommitTicket::from_texts("", "0000000A", "42"), None);
    }
}
