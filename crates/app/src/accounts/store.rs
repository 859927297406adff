//! All SQL of accounts that reads. The statements that write stand in the engine.

use paystrata_db::{Connection, Error, Statement, Type};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::engine::{AccountRecord, AccountStatus};
use crate::money::Currency;

static FIND_ACCOUNT: Statement = Statement::new(
    "SELECT a.id, a.merchant_id, a.posted, a.held, a.overdraft_limit, a.entry_count, a.currency, a.status,
            p.kind, p.customer, p.metadata
       FROM accounts a JOIN account_profiles p ON p.account_id = a.id
      WHERE a.id = $1",
    &[Type::UUID],
);

/// Newest first; the filters that are NULL do not count. Each combination starts from one of the profile indexes.
/// The service's own accounts are left out: their ids are hashes, which tell no time and would break the cursor's order.
static LIST_ACCOUNTS: Statement = Statement::new(
    "SELECT a.id, a.merchant_id, a.posted, a.held, a.overdraft_limit, a.entry_count, a.currency, a.status,
            p.kind, p.customer, p.metadata
       FROM account_profiles p JOIN accounts a ON a.id = p.account_id
      WHERE p.merchant_id = $1 AND p.account_id < $2 AND p.kind <> 'external'
        AND ($3::text IS NULL OR p.customer = $3) AND ($4::text IS NULL OR p.kind = $4)
        AND ($5::int2 IS NULL OR a.status = $5)
      ORDER BY p.account_id DESC LIMIT $6",
    &[Type::UUID, Type::UUID, Type::TEXT, Type::TEXT, Type::INT2, Type::INT8],
);

/// Why an account could not be read.
#[derive(Debug, thiserror::Error)]
pub enum AccountReadError {
    /// The database.
    #[error("query accounts")]
    Database(#[from] Error),
    /// A stored row that this version does not understand.
    #[error("read account {0}")]
    Stored(Uuid),
}

/// One account with its profile, whoever owns it.
///
/// # Errors
/// The database refused or was not reached.
pub async fn find_account(
    connection: &Connection,
    id: Uuid,
) -> Result<Option<AccountRecord>, AccountReadError> {
    let row = connection.query_opt(&FIND_ACCOUNT, &[&id]).await?;
    row.as_ref().map(account_from_row).transpose()
}

/// What a list is narrowed to.
#[derive(Clone, Debug, Default)]
pub struct AccountFilter {
    /// Exact holder.
    pub customer: Option<String>,
    /// Exact kind.
    pub kind: Option<String>,
    /// Exact status.
    pub status: Option<AccountStatus>,
}

/// Accounts of a merchant older than `before`, newest first.
///
/// # Errors
/// The database refused or was not reached.
pub async fn list_accounts(
    connection: &Connection,
    merchant: Uuid,
    filter: &AccountFilter,
    before: Uuid,
    limit: i64,
) -> Result<Vec<AccountRecord>, AccountReadError> {
    let status = filter.status.map(AccountStatus::code);
    let rows = connection
        .query(&LIST_ACCOUNTS, &[&merchant, &before, &filter.customer, &filter.kind, &status, &limit])
        .await?;
    rows.iter().map(account_from_row).collect()
}

fn account_from_row(row: &Row) -> Result<AccountRecord, AccountReadError> {
    let id = row.get(0);
    Ok(AccountRecord {
        id,
        merchant_id: row.get(1),
        posted: row.get(2),
        held: row.get(3),
        overdraft_limit: row.get(4),
        entry_count: row.get(5),
        currency: Currency::from_numeric(row.get(6)).map_err(|_| AccountReadError::Stored(id))?,
        status: AccountStatus::from_code(row.get(7)).map_err(|_| AccountReadError::Stored(id))?,
        kind: row.get(8),
        customer: row.get(9),
        metadata: row.get(10),
    })
}
