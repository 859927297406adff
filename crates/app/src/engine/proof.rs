//! Learns whether a batch whose COMMIT was cut off was committed. The transaction's id alone does not tell: after a crash
//! the server gives an unflushed id again, and after a failover it may name another transaction. What tells is a row
//! that only this batch can have inserted; the id only tells when to stop waiting for a server that is still at it.

use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::book::{Book, RowState};

/// A row that stands if and only if the batch was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// One of its events.
    Event { payment_id: Uuid, sequence: i32 },
    /// One of its accounts.
    Account(Uuid),
    /// One of its keys, claimed for one of its resources.
    Key { digest: Uuid, resource_id: Uuid },
}

/// What the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Committed,
    RolledBack,
    /// Its backend has not noticed yet that nobody waits for it.
    StillRunning,
}

impl Proof {
    /// A row of this book; `None` for a batch that inserts nothing, which can be run again without harm.
    pub(super) fn of(book: &Book) -> Option<Self> {
        let event = book.events.first();
        let event = event.map(|event| Self::Event { payment_id: event.payment_id, sequence: event.sequence });
        let account = || book.new_profiles.first().map(|account| Self::Account(account.id));
        let key = || {
            let claimed = book.keys.iter().find(|(_, row)| row.state == RowState::New);
            claimed.map(|(digest, row)| Self::Key { digest: *digest, resource_id: row.resource_id })
        };
        event.or_else(account).or_else(key)
    }

    async fn stands(&self, client: &Client) -> Result<bool, Error> {
        let row = match self {
            Self::Event { payment_id, sequence } => {
                let query = "SELECT FROM outbox WHERE payment_id = $1 AND sequence = $2";
                client.query_opt(query, &[payment_id, sequence]).await?
            }
            Self::Account(id) => client.query_opt("SELECT FROM accounts WHERE id = $1", &[id]).await?,
            Self::Key { digest, resource_id } => {
                let query = "SELECT FROM idempotency_keys WHERE digest = $1 AND resource_id = $2";
                client.query_opt(query, &[digest, resource_id]).await?
            }
        };
        Ok(row.is_some())
    }
}

/// Asks the primary, on a connection that is not the batch's.
pub(super) async fn ask(client: &Client, xid: &str, proof: Option<&Proof>) -> Result<Fate, Error> {
    // The status is NULL for ids too old to be known and an error for ids that were never given out: after a crash that
    // is ours if it was never flushed. Both leave the word to the proof.
    let status = client.query_one("SELECT pg_xact_status($1::text::xid8)", &[&xid]).await;
    match status {
        Ok(row) if row.get::<_, Option<&str>>(0) == Some("in progress") => return Ok(Fate::StillRunning),
        Err(error) if error.as_db_error().is_none() => return Err(error),
        Ok(_) | Err(_) => {}
    }
    match proof {
        Some(proof) if proof.stands(client).await? => Ok(Fate::Committed),
        _ => Ok(Fate::RolledBack),
    }
}
