//! Captures an authorised payment: all of it, or part, and then the rest of the hold is released.

use std::sync::Arc;

use super::create::{finish, plan, submit_and_wait};
use super::model::{Done, PaymentError};
use crate::app::App;
use crate::engine::{Capture, Command, KeyClaim, PaymentRecord, Submission};
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
    let command = Command::Capture(Capture { payment, amount, operation });
    let reply = submit_and_wait(app, Submission { claim: Some(claim), command }).await?;
    finish(app, reply, None).await
}
