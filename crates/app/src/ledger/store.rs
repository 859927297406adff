//! All SQL that reads entries and sums balances.

use paystrata_db::{Connection, Error, Statement, Type};
use uuid::Uuid;

/// Both sides of an account's entries, newest first. Each branch walks one index backwards and stops at the limit.
/// Public so that a test can explain what the service runs.
pub static LIST_ENTRIES: Statement = Statement::new(
    "(SELECT id, payment_id, -amount AS amount, debit_after AS after, debit_seq AS seq
        FROM entries WHERE debit_account = $1 AND debit_seq < $2 ORDER BY debit_seq DESC LIMIT $3)
     UNION ALL
     (SELECT id, payment_id, amount, credit_after, credit_seq
        FROM entries WHERE credit_account = $1 AND credit_seq < $2 ORDER BY credit_seq DESC LIMIT $3)
     ORDER BY seq DESC LIMIT $3",
    &[Type::UUID, Type::INT8, Type::INT8],
);

/// Balances are the fold of the entries (`paystrata verify` proves it), so summing them is summing every debit and
/// credit since the beginning, at the cost of one row per account. By way of the profiles, which every account has: the row
/// that payments rewrite has no index by merchant. Public so that a test can explain what the service runs.
pub static SUM_BALANCES: Statement = Statement::new(
    "SELECT a.currency, sum(greatest(-a.posted, 0))::text, sum(greatest(a.posted, 0))::text, sum(a.posted)::text
       FROM account_profiles p JOIN accounts a ON a.id = p.account_id
      WHERE p.merchant_id = $1 GROUP BY a.currency ORDER BY a.currency",
    &[Type::UUID],
);

static OWNER: Statement = Statement::new("SELECT merchant_id FROM accounts WHERE id = $1", &[Type::UUID]);

/// One side of a double entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntrySide {
    /// Of the double entry; both sides share it.
    pub id: Uuid,
    /// What it was for; `None` for an opening balance.
    pub payment_id: Option<Uuid>,
    /// Signed, minor units: negative leaves the account.
    pub amount: i64,
    /// Posted balance right after it.
    pub balance_after: i64,
    /// Position in the account, from 1.
    pub seq: i64,
}

/// Entries of an account before position `before`, newest first.
///
/// # Errors
/// The database refused or was not reached.
pub async fn list_entries(
    connection: &Connection,
    account: Uuid,
    before: i64,
    limit: i64,
) -> Result<Vec<EntrySide>, Error> {
    let rows = connection.query(&LIST_ENTRIES, &[&account, &before, &limit]).await?;
    Ok(rows
        .iter()
        .map(|row| EntrySide {
            id: row.get(0),
            payment_id: row.get(1),
            amount: row.get(2),
            balance_after: row.get(3),
            seq: row.get(4),
        })
        .collect())
}

/// Who owns an account.
///
/// # Errors
/// The database refused or was not reached.
pub async fn owner_of(connection: &Connection, account: Uuid) -> Result<Option<Uuid>, Error> {
    Ok(connection.query_opt(&OWNER, &[&account]).await?.map(|row| row.get(0)))
}

/// Sums of one currency. Sums of many balances may pass 64 bits, hence 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrialLine {
    /// ISO numeric code.
    pub currency: i16,
    /// Sum of the negative balances, as a positive number.
    pub debits: i128,
    /// Sum of the positive balances.
    pub credits: i128,
    /// Credits minus debits: zero, or money was made or lost.
    pub difference: i128,
}

/// The trial balance of a merchant.
///
/// # Errors
/// The database refused or was not reached.
pub async fn sum_balances(connection: &Connection, merchant: Uuid) -> Result<Vec<TrialLine>, Error> {
    let rows = connection.query(&SUM_BALANCES, &[&merchant]).await?;
    let number =
        |text: &str| text.parse().expect("a sum of bigint is a whole number of fewer than 39 digits");
    Ok(rows
        .iter()
        .map(|row| TrialLine {
            currency: row.get(0),
            debits: number(row.get(1)),
            credits: number(row.get(2)),
            difference: number(row.get(3)),
        })
        .collect())
}
