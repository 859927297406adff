//! Opens an account. With an opening balance, the same commit moves it from the external account of the currency.

use crate::app::App;
use crate::engine::{Command, EngineError, KeyClaim, OpenAccount, Reply, Submission};

/// # Errors
/// Only the engine's; a refusal is a decision in the reply.
pub async fn create(app: &App, claim: Option<KeyClaim>, open: OpenAccount) -> Result<Reply, EngineError> {
    app.submit(&Submission { claim, command: Command::OpenAccount(Box::new(open)) }).await
}
