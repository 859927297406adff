//! All SQL of accounts that reads. The statements that write stand in the engine.

use std::sync::LazyLock;

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

/// Newest first. Each combination of filters has a text of its own, because one text for all of them
/// (`$3 IS NULL OR customer = $3`) has a generic plan that can use no index but the merchant's.
static LISTS: LazyLock<Vec<Statement>> = LazyLock::new(|| {
    const TYPES: [Type; 6] = [Type::UUID, Type::UUID, Type::TEXT, Type::TEXT, Type::INT2, Type::INT8];
    (0..8).map(|place| Statement::new(list_sql(place).leak(), &TYPES)).collect()
});

const BY_CUSTOMER: usize = 1;
const BY_KIND: usize = 2;
const BY_STATUS: usize = 4;

/// The service's own accounts are left out: their ids are hashes, which tell no time and would break the cursor's order.
/// OFFSET 0 keeps the join a look-up per row: a generic plan expects many rows, and may rather hash every account.
/// The status changes, so it stands in no index: closed accounts are looked for among all the others.
fn list_sql(place: usize) -> String {
    let when = |filter: usize, condition: &'static str| if place & filter == 0 { "" } else { condition };
    format!(
        "SELECT a.id, a.merchant_id, a.posted, a.held, a.overdraft_limit, a.entry_count, a.currency, a.status,
            p.kind, p.customer, p.metadata
       FROM account_profiles p
      CROSS JOIN LATERAL (
            SELECT id, merchant_id, posted, held, overdraft_limit, entry_count, currency, status
              FROM accounts WHERE id = p.account_id OFFSET 0) a
      WHERE p.merchant_id = $1 AND p.account_id < $2 AND p.kind <> 'external'{}{}{}
      ORDER BY p.account_id DESC LIMIT $6",
        when(BY_CUSTOMER, " AND p.customer = $3"),
        when(BY_KIND, " AND p.kind = $4"),
        when(BY_STATUS, " AND a.status = $5"),
    )
}

/// The statement that lists with this filter. Public so that a test can explain what the service runs.
#[must_use]
pub fn list_statement(filter: &AccountFilter) -> &'static Statement {
    let when = |counts: bool, place: usize| if counts { place } else { 0 };
    let place = when(filter.customer.is_some(), BY_CUSTOMER)
        + when(filter.kind.is_some(), BY_KIND)
        + when(filter.status.is_some(), BY_STATUS);
    &LISTS[place]
}

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
        .query(list_statement(filter), &[&merchant, &before, &filter.customer, &filter.kind, &status, &limit])
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
