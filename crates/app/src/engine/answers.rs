//! Looks keys up without claiming them: for work that is made of many commands, such as a batch, whose answer is kept
//! as a whole, and for requests that are refused before they come to the engine. The claim itself happens there.

use std::collections::HashMap;

use bytes::Bytes;
use paystrata_db::{Connection, Statement};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::command::{Answer, Decision, Refusal};
use super::key::KeyClaim;

static FIND_ANSWERS: Statement = Statement::new(
    "SELECT digest, fingerprint, status_code, answer FROM idempotency_keys WHERE digest = ANY($1)",
    &[Type::UUID_ARRAY],
);

/// What each key says about its request, in the order of the claims; `None` for one that is free. One round trip. Must be
/// asked on the primary: a replica may not have seen a key yet.
///
/// # Errors
/// The database refused or was not reached.
pub async fn find_answers(
    connection: &Connection,
    claims: &[&KeyClaim],
) -> Result<Vec<Option<Decision>>, paystrata_db::Error> {
    let digests: Vec<Uuid> = claims.iter().map(|claim| claim.digest).collect();
    let rows = connection.query(&FIND_ANSWERS, &[&digests]).await?;
    let rows: HashMap<Uuid, &Row> = rows.iter().map(|row| (row.get(0), row)).collect();
    Ok(claims.iter().map(|claim| rows.get(&claim.digest).map(|row| decision_of(claim, row))).collect())
}

fn decision_of(claim: &KeyClaim, row: &Row) -> Decision {
    if let Some(field) = claim.fingerprint.first_difference(row.get(1)) {
        return Decision::Refused(Refusal::KeyReused(field));
    }
    let status_code: i16 = row.get(2);
    match row.get::<_, Option<&[u8]>>(3) {
        Some(body) => Decision::Replayed(Answer {
            status_code: u16::try_from(status_code).unwrap_or_default(),
            body: Bytes::copy_from_slice(body),
            payment: None,
        }),
        None => Decision::InProgress,
    }
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
