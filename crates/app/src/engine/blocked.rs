//! Tells which rows of a batch somebody outside the engine holds, once waiting for a lock took too long: the commands that
//! need those rows are set aside, so that the others need not wait with them. Locks nothing beyond its own statement.
//! Called by the lane.

use ahash::AHashSet;
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::command::Submission;
use super::load::Needs;

/// Each takes what locks it can get without waiting, which are gone with the statement, and names the rest.
const BLOCKED_ACCOUNTS: &str = "WITH free AS MATERIALIZED
        (SELECT id FROM accounts WHERE id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED)
   SELECT id FROM accounts WHERE id = ANY($1) AND id NOT IN (SELECT id FROM free)";

const BLOCKED_OPERATIONS: &str = "WITH free AS MATERIALIZED
        (SELECT id FROM gateway_operations WHERE id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED)
   SELECT id FROM gateway_operations WHERE id = ANY($1) AND id NOT IN (SELECT id FROM free)";

const BLOCKED_PAYMENTS: &str = "WITH free AS MATERIALIZED
        (SELECT p.id FROM unnest($1::uuid[], $2::uuid[]) AS wanted (merchant_id, id)
           JOIN payments p ON p.merchant_id = wanted.merchant_id AND p.id = wanted.id
            FOR NO KEY UPDATE OF p SKIP LOCKED)
   SELECT id FROM unnest($2::uuid[]) AS wanted (id) WHERE id NOT IN (SELECT id FROM free)";

/// The rows among those that the submissions need which are held at this moment. Three round trips.
pub(super) async fn blocked<'jobs>(
    client: &Client,
    submissions: impl Iterator<Item = &'jobs Submission>,
) -> Result<AHashSet<Uuid>, Error> {
    let needs = Needs::of(submissions);
    let mut rows = client.query(BLOCKED_ACCOUNTS, &[&needs.accounts]).await?;
    if !needs.operations.is_empty() {
        rows.extend(client.query(BLOCKED_OPERATIONS, &[&needs.operations]).await?);
    }
    if !needs.payments.is_empty() {
        let (merchants, payments): (Vec<Uuid>, Vec<Uuid>) = needs.payments.into_iter().unzip();
        rows.extend(client.query(BLOCKED_PAYMENTS, &[&merchants, &payments]).await?);
    }
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Whether the submission needs one of these rows.
pub(super) fn needs_any(submission: &Submission, blocked: &AHashSet<Uuid>) -> bool {
    let needs = Needs::of(std::iter::once(submission));
    let payments = needs.payments.iter().map(|(_, id)| id);
    needs.accounts.iter().chain(&needs.operations).chain(payments).any(|id| blocked.contains(id))
}
