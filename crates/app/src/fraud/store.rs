//! All SQL of fraud rules: the entries of the blocklist that are in force. What was decided about a payment is written by
//! the engine.

use paystrata_db::{Connection, Error, Statement, Type};

static READ_BLOCKLIST: Statement = Statement::new(
    "SELECT entry FROM fraud_blocklist WHERE expires_at IS NULL OR expires_at > now() LIMIT $1",
    &[Type::INT8],
);

/// The entries in force, at most `rows_max` of them.
///
/// # Errors
/// The database refused or was not reached.
pub(super) async fn read_blocklist(connection: &Connection, rows_max: i64) -> Result<Vec<String>, Error> {
    let rows = connection.query(&READ_BLOCKLIST, &[&rows_max]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
