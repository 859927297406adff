//! Voids an authorised payment: the hold is released and nothing moves.

use std::sync::Arc;

use super::create::{finish, plan, submit_and_wait};
use super::model::{Done, PaymentError};
use crate::app::App;
use crate::engine::{Command, KeyClaim, PaymentRecord, Submission, Void};

/// # Errors
/// Nothing was done, or the engine gave no decision.
pub async fn void(app: &Arc<App>, claim: KeyClaim, payment: PaymentRecord) -> Result<Done, PaymentError> {
    let operation = plan(app, payment.rail)?;
    let command = Command::Void(Void { payment, operation });
    let reply = submit_and_wait(app, Submission { claim: Some(claim), command }).await?;
    finish(app, reply, None).await
}
