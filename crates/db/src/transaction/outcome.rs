//! How a commit ended, by the server's own record: `pg_xact_status` of the transaction's id.
//! It never guesses: after a failover or a crash the server may give the same id to another transaction, and then
//! "committed" is said of that other one.
//! Used by `run`, and by workers that commit on a session of their own.

use std::fmt;
use std::time::Instant;

use postgres_types::Type;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Row, SimpleQueryRow};
use tracing::warn;

use crate::config::{OUTCOME_PAUSE, OUTCOME_TERMINATE_AFTER, OUTCOME_TIMEOUT};
use crate::connection::Connection;
use crate::db::Db;
use crate::error::Error;
use crate::incarnation::incarnation_sql;
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
    /// Names the life of the server between two starts or crashes.
    pub incarnation: i64,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// It is durable; the token covers it.
    Committed(Token),
    /// Nothing of it remains.
    RolledBack,
    /// Nobody could say: no primary answered, a failover or a crash came between, or the record is gone.
    Unknown,
}

/// The record of one transaction and the present position and timeline, for use on the transaction's own connection.
pub(super) static RECORD: Statement = Statement::new(
    "SELECT pg_xact_status($1::text::xid8), pg_current_wal_insert_lsn()::text, \
     left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)",
    &[Type::TEXT],
);

/// As [`RECORD`], and the incarnation, for use on another connection.
static RECORD_ELSEWHERE: Statement = Statement::new(
    concat!(
        "SELECT pg_xact_status($1::text::xid8), pg_current_wal_insert_lsn()::text, \
         left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), ",
        incarnation_sql!()
    ),
    &[Type::TEXT],
);

/// The timeline alone.
static TIMELINE: Statement =
    Statement::new("SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)", &[]);

/// Ends the server process that still holds the transaction open, and no other: a process id may be taken again. Not one
/// that may be waiting for a standby: that would only end the wait, and the record would say "committed" of what a
/// failover loses.
static TERMINATE: Statement = Statement::new(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
     WHERE pid = $1 AND backend_xid::text = ($2::text::xid8::xid)::text \
       AND wait_event IS DISTINCT FROM 'SyncRep' \
       AND (current_setting('synchronous_standby_names') = '' OR state LIKE 'idle in transaction%')",
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
    pub const SQL: &str = concat!(
        "SELECT pg_current_xact_id()::text, \
         left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), pg_backend_pid()::text, ",
        incarnation_sql!(),
        "::text"
    );

    /// As [`CommitTicket::SQL`] without the incarnation, which costs as much as the rest together and is known from the
    /// time when a direct connection was made: no connection outlives a crash of its server.
    pub(super) const SQL_BRIEF: &str = "SELECT pg_current_xact_id()::text, \
        left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), pg_backend_pid()::text";

    /// Reads the row that [`CommitTicket::SQL`] answers with; None when it has another shape.
    #[must_use]
    pub fn from_row(row: &Row) -> Option<Self> {
        let text = |index| row.try_get::<_, &str>(index).ok();
        Self::from_texts([text(0)?, text(1)?, text(2)?], text(3)?.parse().ok()?)
    }

    /// As [`CommitTicket::from_row`], for the simple protocol.
    #[must_use]
    pub fn from_simple_row(row: &SimpleQueryRow) -> Option<Self> {
        let incarnation = row.try_get(3).ok().flatten()?;
        Self::from_brief_row(row, incarnation.parse().ok()?)
    }

    pub(super) fn from_brief_row(row: &SimpleQueryRow, incarnation: i64) -> Option<Self> {
        let text = |index| row.try_get(index).ok().flatten();
        Self::from_texts([text(0)?, text(1)?, text(2)?], incarnation)
    }

    fn from_texts([xid, timeline_hex, backend_pid]: [&str; 3], incarnation: i64) -> Option<Self> {
        Some(Self {
            xid: xid.parse().ok()?,
            timeline: u32::from_str_radix(timeline_hex, 16).ok()?,
            backend_pid: backend_pid.parse().ok()?,
            incarnation,
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
    /// hangs on its lost connection after half a second is ended, so that the answer is final. One whose commit waits for a
    /// synchronous standby is left to wait, and its outcome is unknown until the standby has it.
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
        let row = match connection.query_one(&RECORD_ELSEWHERE, &[&ticket.xid.to_string()]).await {
            Ok(row) => row,
            Err(error) if error.sqlstate() == Some(&SqlState::INVALID_PARAMETER_VALUE) => {
                return never_given_out(&connection, ticket).await;
            }
            Err(error) => return Err(error),
        };
        let unknown = |_| Error::UnknownForm { node: connection.node().clone(), what: "its incarnation" };
        let incarnation: i64 = row.try_get(3).map_err(unknown)?;
        let recorded = after_a_crash(read_record(&connection, &row, ticket)?, incarnation, ticket);
        if recorded == Recorded::InProgress && started.elapsed() >= OUTCOME_TERMINATE_AFTER {
            connection.query(&TERMINATE, &[&ticket.backend_pid, &ticket.xid.to_string()]).await?;
        }
        Ok(recorded)
    }
}

/// An id beyond the last one: on the transaction's own timeline, a crash took the transaction with it before it was flushed.
async fn never_given_out(connection: &Connection, ticket: CommitTicket) -> Result<Recorded, Error> {
    let row = connection.query_one(&TIMELINE, &[]).await?;
    let unknown = || Error::UnknownForm { node: connection.node().clone(), what: "its timeline" };
    let timeline: &str = row.try_get(0).map_err(|_| unknown())?;
    let timeline = u32::from_str_radix(timeline, 16).map_err(|_| unknown())?;
    Ok(if timeline == ticket.timeline { Recorded::Aborted } else { Recorded::Unknowable })
}

/// What a record is worth once the server has recovered from a crash. A flushed commit keeps its id for ever, so "aborted" is
/// said of this one; "committed" may be said of another that was given the id again. What is in progress is waited for whatever
/// the incarnation: statistics that were reset by hand look like a crash, and the transaction lives on.
fn after_a_crash(recorded: Recorded, incarnation: i64, ticket: CommitTicket) -> Recorded {
    match recorded {
        Recorded::Committed(_) if incarnation != ticket.incarnation => Recorded::Unknowable,
        recorded => recorded,
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
        let ticket = CommitTicket { xid: 900, timeline: 3, backend_pid: 1, incarnation: 5 };
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
    fn after_a_crash_a_committed_id_may_be_anothers_and_any_other_record_is_a_loss() {
        let ticket = CommitTicket { xid: 900, timeline: 3, backend_pid: 1, incarnation: 5 };
        let committed = Recorded::Committed(Token { timeline: 3, lsn: 5 });
        for recorded in [committed, Recorded::InProgress, Recorded::Aborted, Recorded::Unknowable] {
            assert_eq!(after_a_crash(recorded, 5, ticket), recorded);
        }
        assert_eq!(after_a_crash(committed, 6, ticket), Recorded::Unknowable);
        for recorded in [Recorded::InProgress, Recorded::Aborted, Recorded::Unknowable] {
            assert_eq!(after_a_crash(recorded, 6, ticket), recorded);
        }
    }

    #[test]
    fn a_ticket_is_read_from_the_servers_texts() {
        let ticket = CommitTicket::from_texts(["4294967297", "0000000A", "42"], 7);
        let expected = CommitTicket { xid: 4_294_967_297, timeline: 10, backend_pid: 42, incarnation: 7 };
        assert_eq!(ticket, Some(expected));
        assert_eq!(CommitTicket::from_texts(["", "0000000A", "42"], 7), None);
    }
}
