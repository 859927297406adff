//! All SQL of merchants: keys and the statistics view.

use paystrata_db::{Connection, Error, Statement, Type};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::clock::Timestamp;

/// Answered from the primary key alone. Public so that a test can explain what the service runs.
pub static FIND_KEY: Statement = Statement::new(
    "SELECT merchant_id FROM api_keys WHERE digest = $1 AND revoked_at IS NULL",
    &[Type::BYTEA],
);
static INSERT_MERCHANT: Statement = Statement::new(
    "INSERT INTO merchants (id, name) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING",
    &[Type::UUID, Type::TEXT],
);
static INSERT_KEY: Statement = Statement::new(
    "INSERT INTO api_keys (digest, merchant_id, label) VALUES ($1, $2, $3) ON CONFLICT (digest) DO NOTHING",
    &[Type::BYTEA, Type::UUID, Type::TEXT],
);
static READ_STATS: Statement = Statement::new(
    "SELECT s.currency, s.status, s.payments, s.amount, s.captured, s.refunded
       FROM merchant_stats s WHERE s.merchant_id = $1 ORDER BY s.currency, s.status",
    &[Type::UUID],
);
static READ_REFRESHED_AT: Statement =
    Statement::new("SELECT refreshed_at FROM view_refreshes WHERE view = 'merchant_stats'", &[]);

/// What a key is stored as: SHA-256 of its text. Keys have at least 160 random bits, so no salt is needed.
#[must_use]
pub fn key_digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// The merchant that a key belongs to.
///
/// # Errors
/// The database refused or was not reached.
pub async fn find_merchant_by_key(connection: &Connection, digest: &[u8; 32]) -> Result<Option<Uuid>, Error> {
    let row = connection.query_opt(&FIND_KEY, &[&digest.as_slice()]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Adds a merchant with one key; adding it again changes nothing.
///
/// # Errors
/// The database refused or was not reached.
pub async fn add_merchant(
    connection: &Connection,
    id: Uuid,
    name: &str,
    key: &str,
    label: &str,
) -> Result<(), Error> {
    connection.execute(&INSERT_MERCHANT, &[&id, &name]).await?;
    connection.execute(&INSERT_KEY, &[&key_digest(key).as_slice(), &id, &label]).await?;
    Ok(())
}

/// Totals of one currency and status.
#[derive(Clone, Debug)]
pub struct StatsRow {
    /// ISO numeric code.
    pub currency: i16,
    /// Stored status.
    pub status: i16,
    /// How many.
    pub payments: i64,
    /// Sum, minor units.
    pub amount: i64,
    /// Sum, minor units.
    pub captured: i64,
    /// Sum, minor units.
    pub refunded: i64,
}

/// The totals as of the last refresh, and when that was.
///
/// # Errors
/// The database refused or was not reached.
pub async fn read_stats(
    connection: &Connection,
    merchant: Uuid,
) -> Result<(Vec<StatsRow>, Timestamp), Error> {
    // The time first: rows read after it are at least that fresh.
    let as_of = connection.query_one(&READ_REFRESHED_AT, &[]).await?.get::<_, time::OffsetDateTime>(0).into();
    let rows = connection.query(&READ_STATS, &[&merchant]).await?;
    let rows = rows
        .iter()
        .map(|row| StatsRow {
            currency: row.get(0),
            status: row.get(1),
            payments: row.get(2),
            amount: row.get(3),
            captured: row.get(4),
            refunded: row.get(5),
        })
        .collect();
    Ok((rows, as_of))
}
