//! Refunds what a payment moved, in one go or several; never more than was captured, refunds under way included.

use std::sync::Arc;

use super::create::{finish, plan, submit_and_wait};
use super::model::{Done, PaymentError};
use crate::app::App;
use crate::engine::{Command, KeyClaim, PaymentRecord, Refund, Submission};
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
    let command = Command::Refund(Refund { payment, amount, operation });
    let reply = submit_and_wait(app, Submission { claim: Some(claim), command }).await?;
    finish(app, reply, None).await
}
