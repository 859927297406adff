//! Tells which rows of a batch somebody outside the engine holds, once waiting for a lock took too long: the commands that
//! need those rows are set aside, so that the others need not wait with them. Locks nothing beyond its own statement.
//! Rows that another lane holds, of this node or another, are not named: it gives them up when its own wait ends.
//! Called by the lane.

use std::time::Duration;

use ahash::{AHashMap, AHashSet};
use tokio::time::sleep;
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::command::Submission;
use super::load::Needs;

/// Each takes what locks it can get without waiting, which are gone with the statement, and names the rest with the
/// transaction that holds it, unless that is a lane's. Sessions are named in `Lane::new`.
const BLOCKED_ACCOUNTS: &str = "WITH free AS MATERIALIZED
        (SELECT id FROM accounts WHERE id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED)
   SELECT r.id, r.xmax::text FROM accounts r WHERE r.id = ANY($1) AND r.id NOT IN (SELECT id FROM free)
      AND NOT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity s ON s.pid = l.pid
                       WHERE l.locktype = 'transactionid' AND l.granted AND l.transactionid = r.xmax
                         AND s.application_name LIKE '%/engine-%')";

const BLOCKED_OPERATIONS: &str = "WITH free AS MATERIALIZED
        (SELECT id FROM gateway_operations WHERE id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED)
   SELECT r.id, r.xmax::text FROM gateway_operations r WHERE r.id = ANY($1) AND r.id NOT IN (SELECT id FROM free)
      AND NOT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity s ON s.pid = l.pid
                       WHERE l.locktype = 'transactionid' AND l.granted AND l.transactionid = r.xmax
                         AND s.application_name LIKE '%/engine-%')";

const BLOCKED_PAYMENTS: &str = "WITH free AS MATERIALIZED
        (SELECT p.id FROM unnest($1::uuid[], $2::uuid[]) AS wanted (merchant_id, id)
           JOIN payments p ON p.merchant_id = wanted.merchant_id AND p.id = wanted.id
            FOR NO KEY UPDATE OF p SKIP LOCKED)
   SELECT r.id, r.xmax::text FROM unnest($1::uuid[], $2::uuid[]) AS wanted (merchant_id, id)
     JOIN payments r ON r.merchant_id = wanted.merchant_id AND r.id = wanted.id
    WHERE r.id NOT IN (SELECT id FROM free)
      AND NOT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity s ON s.pid = l.pid
                       WHERE l.locktype = 'transactionid' AND l.granted AND l.transactionid = r.xmax
                         AND s.application_name LIKE '%/engine-%')";

/// Between two looks: longer than a probe of another lane holds a row.
const PAUSE: Duration = Duration::from_millis(50);

/// The rows among those that the submissions need which one and the same transaction holds at two looks: whoever merely
/// works on a row has passed it on by then. Up to six round trips and a pause.
pub(super) async fn blocked<'jobs>(
    client: &Client,
    submissions: impl Iterator<Item = &'jobs Submission>,
) -> Result<AHashSet<Uuid>, Error> {
    let needs = Needs::of(submissions);
    let first = look(client, &needs).await?;
    if first.is_empty() {
        return Ok(AHashSet::new());
    }
    sleep(PAUSE).await;
    let second = look(client, &needs).await?;
    Ok(second.into_iter().filter(|(id, holder)| first.get(id) == Some(holder)).map(|(id, _)| id).collect())
}

/// Held rows, each with its holder.
async fn look(client: &Client, needs: &Needs) -> Result<AHashMap<Uuid, String>, Error> {
    let mut rows = client.query(BLOCKED_ACCOUNTS, &[&needs.accounts]).await?;
    if !needs.operations.is_empty() {
        rows.extend(client.query(BLOCKED_OPERATIONS, &[&needs.operations]).await?);
    }
    if !needs.payments.is_empty() {
        let (merchants, payments): (Vec<Uuid>, Vec<Uuid>) = needs.payments.iter().copied().unzip();
        rows.extend(client.query(BLOCKED_PAYMENTS, &[&merchants, &payments]).await?);
    }
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Whether the submission needs one of these rows.
pub(super) fn needs_any(submission: &Submission, blocked: &AHashSet<Uuid>) -> bool {
    let needs = Needs::of(std::iter::once(submission));
    let payments = needs.payments.iter().map(|(_, id)| id);
    needs.accounts.iter().chain(&needs.operations).chain(payments).any(|id| blocked.contains(id))
}
