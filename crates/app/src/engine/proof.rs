//! Learns whether a batch whose COMMIT was cut off was committed. The transaction's id alone does not tell: after a crash
//! the server gives an unflushed id again, and after a failover it may name another transaction. What tells is a row
//! that only this batch can have inserted; the id only tells when to stop waiting for a server that is still at it.

use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::book::{Book, EXTERNAL_KIND, NewPayment, RowState};
use crate::clock::Timestamp;

/// A row that stands if and only if the batch was committed: one whose id only this batch can have made, or one that
/// carries this batch's own instant, because another node may have written the next event of the same payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// A payment it created.
    Payment { merchant_id: Uuid, id: Uuid },
    /// An account it opened.
    Account(Uuid),
    /// An event of a payment that was there before.
    Event { payment_id: Uuid, sequence: i32, occurred_at: Timestamp },
    /// A key it claimed.
    Key { digest: Uuid, created_at: Timestamp },
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
        if let Some(NewPayment { record, .. }) = book.new_payments.first() {
            return Some(Self::Payment { merchant_id: record.merchant_id, id: record.id });
        }
        // The external account has a derived id, which another node may open at the same moment.
        if let Some(account) = book.new_profiles.iter().find(|account| account.kind != EXTERNAL_KIND) {
            return Some(Self::Account(account.id));
        }
        if let Some(event) = book.events.first() {
            let (payment_id, sequence) = (event.payment_id, event.sequence);
            return Some(Self::Event { payment_id, sequence, occurred_at: book.now });
        }
        let claimed = book.keys.iter().find(|(_, row)| row.state == RowState::New);
        claimed.map(|(digest, _)| Self::Key { digest: *digest, created_at: book.now })
    }

    async fn stands(&self, client: &Client) -> Result<bool, Error> {
        let row = match self {
            Self::Payment { merchant_id, id } => {
                client
                    .query_opt("SELECT FROM payments WHERE merchant_id = $1 AND id = $2", &[merchant_id, id])
                    .await?
            }
            Self::Account(id) => client.query_opt("SELECT FROM accounts WHERE id = $1", &[id]).await?,
            Self::Event { payment_id, sequence, occurred_at } => {
                let query = "SELECT FROM outbox WHERE payment_id = $1 AND sequence = $2 AND occurred_at = $3";
                client.query_opt(query, &[payment_id, sequence, &occurred_at.to_datetime()]).await?
            }
            Self::Key { digest, created_at } => {
                let query = "SELECT FROM idempotency_keys WHERE digest = $1 AND created_at = $2";
                client.query_opt(query, &[digest, &created_at.to_datetime()]).await?
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
