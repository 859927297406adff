//! Refunds what a payment moved, in one go or several; never more than was captured, refunds under way included.

use std::sync::Arc;

use super::create::{change, plan};
use super::model::{Done, PaymentError};
use crate::app::App;
use crate::engine::{Command, KeyClaim, PaymentRecord, Refund};
use crate::money::Amount;

/// # Errors
/// Nothing was done, or the engine gave no decision.
pub async fn refund(
    app: &Arc<App>,
    claim: KeyClaim,
    payment: PaymentRecord,
    amount: Option<Amount>,
) -> Result<Done, PaymentError> {
    let operation = plan(app, payment.rail)?;
    let rail = payment.rail;
    change(app, claim, rail, Command::Refund(Refund { payment, amount, operation })).await
}
