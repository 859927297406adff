//! Voids an authorised payment: the hold is released and nothing moves.

use std::sync::Arc;

use super::create::{change, plan};
use super::model::{Done, PaymentError};
use crate::app::App;
use crate::engine::{Command, KeyClaim, PaymentRecord, Void};

/// # Errors
/// Nothing was done, or the engine gave no decision.
pub async fn void(app: &Arc<App>, claim: KeyClaim, payment: PaymentRecord) -> Result<Done, PaymentError> {
    let operation = plan(app, payment.rail)?;
    let rail = payment.rail;
    change(app, claim, rail, Command::Void(Void { payment, operation })).await
}
