//! Captures an authorised payment: all of it, or part, and then the rest of the hold is released.

use std::sync::Arc;

use super::create::{change, plan};
use super::model::{Done, PaymentError};
use crate::app::App;
use crate::engine::{Capture, Command, KeyClaim, PaymentRecord};
use crate::money::Amount;

/// # Errors
/// Nothing was done, or the engine gave no decision.
pub async fn capture(
    app: &Arc<App>,
    claim: KeyClaim,
    payment: PaymentRecord,
    amount: Option<Amount>,
) -> Result<Done, PaymentError> {
    let operation = plan(app, payment.rail)?;
    let rail = payment.rail;
    change(app, claim, rail, Command::Capture(Capture { payment, amount, operation })).await
}
