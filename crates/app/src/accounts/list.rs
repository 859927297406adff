//! Lists a merchant's accounts, newest first, by keyset cursor.

use paystrata_db::Token;
use uuid::Uuid;

use super::store::{AccountFilter, AccountReadError, list_accounts};
use crate::app::App;
use crate::engine::AccountRecord;
use crate::ids::MerchantId;

/// One page and whether there are more.
#[derive(Debug)]
pub struct AccountPage {
    /// Newest first.
    pub rows: Vec<AccountRecord>,
    /// Where the next page starts.
    pub next: Option<Uuid>,
}

/// # Errors
/// No node could be read.
pub async fn list(
    app: &App,
    merchant: MerchantId,
    filter: &AccountFilter,
    before: Option<Uuid>,
    limit: i64,
    after: Option<Token>,
) -> Result<AccountPage, AccountReadError> {
    let before = before.unwrap_or(Uuid::max());
    let mut rows = app
        .db
        .read_with(after, |connection| async move {
            // One more than asked tells whether there is a next page.
            list_accounts(&connection, merchant.0, filter, before, limit + 1).await
        })
        .await?;
    let asked = usize::try_from(limit).unwrap_or(usize::MAX);
    let next = if rows.len() > asked { rows.get(asked - 1).map(|row| row.id) } else { None };
    rows.truncate(asked);
    Ok(AccountPage { rows, next })
}
