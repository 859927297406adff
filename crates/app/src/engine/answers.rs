//! Looks a key up without claiming it: for work that is made of many commands, such as a batch, whose answer is kept
//! as a whole. The claim itself happens in the engine like any other.

use bytes::Bytes;
use paystrata_db::{Connection, Statement};
use tokio_postgres::types::Type;

use super::command::{Answer, Decision, Refusal};
use super::key::KeyClaim;

static FIND_ANSWER: Statement = Statement::new(
    "SELECT fingerprint, status_code, answer FROM idempotency_keys WHERE digest = $1",
    &[Type::UUID],
);

/// What the key says about this request; `None` when it is free. Must be asked on the primary: a replica may not have
/// seen the key yet.
///
/// # Errors
/// The database refused or was not reached.
pub async fn find_answer(
    connection: &Connection,
    claim: &KeyClaim,
) -> Result<Option<Decision>, paystrata_db::Error> {
    let Some(row) = connection.query_opt(&FIND_ANSWER, &[&claim.digest]).await? else { return Ok(None) };
    if let Some(field) = claim.fingerprint.first_difference(row.get(0)) {
        return Ok(Some(Decision::Refused(Refusal::KeyReused(field))));
    }
    let status_code: i16 = row.get(1);
    Ok(Some(match row.get::<_, Option<&[u8]>>(2) {
        Some(body) => Decision::Replayed(Answer {
            status_code: u16::try_from(status_code).unwrap_or_default(),
            body: Bytes::copy_from_slice(body),
            payment: None,
        }),
        None => Decision::InProgress,
    }))
}

static FORGET: Statement = Statement::new(
    "DELETE FROM idempotency_keys WHERE digest IN
        (SELECT digest FROM idempotency_keys
          WHERE created_at < now() - $1 * interval '1 second' AND answer IS NOT NULL LIMIT $2)",
    &[Type::FLOAT8, Type::INT8],
);

/// Forgets keys older than the retention, at most `count_max` of them; gives how many. A key whose work is still
/// under way is kept whatever its age.
///
/// # Errors
/// The database refused or was not reached.
pub async fn forget_old_keys(
    connection: &Connection,
    retention: std::time::Duration,
    count_max: i64,
) -> Result<u64, paystrata_db::Error> {
    connection.execute(&FORGET, &[&retention.as_secs_f64(), &count_max]).await
}
