//! Lists a merchant's payments, newest first: numbered pages with a total, or a keyset cursor without one.

use std::sync::Arc;

use paystrata_db::{Connection, Token};
use uuid::Uuid;

use super::store::{PaymentFilter, Window, count_payments, list_payments};
use crate::app::App;
use crate::engine::{OperationError, PaymentRecord};
use crate::ids::MerchantId;

/// Which part of the list.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// A numbered page, from 1, and the total count.
    Page {
        /// From 1.
        number: i64,
        /// Rows a page.
        size: i64,
    },
    /// What follows a place.
    After {
        /// The last id of the part before.
        below: Option<Uuid>,
        /// Rows.
        limit: i64,
    },
}

/// One part of the list.
#[derive(Debug)]
pub struct PaymentPage {
    /// Newest first.
    pub rows: Vec<PaymentRecord>,
    /// Where the next part starts, if there is one.
    pub next: Option<Uuid>,
    /// All rows that match, for numbered pages.
    pub total: Option<i64>,
}

/// # Errors
/// No node could be read.
pub async fn list(
    app: &App,
    merchant: MerchantId,
    filter: &PaymentFilter,
    part: Part,
    after: Option<Token>,
) -> Result<PaymentPage, OperationError> {
    let (window, asked) = match part {
        Part::Page { number, size } => {
            (Window { below: Uuid::max(), limit: size + 1, offset: (number - 1) * size }, size)
        }
        // One more than asked tells whether there is a next part.
        Part::After { below, limit } => {
            (Window { below: below.unwrap_or(Uuid::max()), limit: limit + 1, offset: 0 }, limit)
        }
    };
    let read = |connection: Arc<Connection>| async move {
        let total = match part {
            Part::Page { .. } => Some(count_payments(&connection, merchant.0, filter).await?),
            Part::After { .. } => None,
        };
        Ok::<_, OperationError>((list_payments(&connection, merchant.0, filter, window).await?, total))
    };
    let (mut rows, total) = app.db.read_with(after, read).await?;
    let asked = usize::try_from(asked).unwrap_or(usize::MAX);
    let next = if rows.len() > asked { rows.get(asked - 1).map(|row| row.id) } else { None };
    rows.truncate(asked);
    Ok(PaymentPage { rows, next, total })
}
