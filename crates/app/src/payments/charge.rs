//! Asks a gateway for one committed operation and settles what it says. Runs on a task of its own that outlives the
//! caller; holds no database connection while the gateway is asked. What cannot be settled here, the resolver settles.

use std::time::Duration;

use paystrata_db::Token;
use paystrata_gateway::{
    Attempt, Capture, Charge, Method, Outcome, Reference, Refund, Request, TransactionId, Void,
};
use tokio::time::sleep;

use super::create::Means;
use super::model::{Done, Occasion, PaymentError};
use crate::app::App;
use crate::engine::{
    ChargeOutcome, Command, Decision, Dispatch, EngineError, Evidence, OperationKind, Rail, Refusal,
    Settlement, Submission,
};
use crate::gateways::{gateway_amount, read_outcome};
use crate::ids::AccountId;

/// Tries to commit a gateway's answer this often; after that the resolver asks the gateway again.
const SETTLE_TRIES_MAX: u32 = 5;
const SETTLE_PAUSE: Duration = Duration::from_millis(200);
/// An operation is sent only this soon after the engine was asked to commit it. Its lease is the gateway's own limit and
/// twice this: once for being sent, once for committing the answer.
pub(super) const SETTLE_ALLOWANCE: Duration = Duration::from_secs(5);
/// When the resolver first looks at an operation whose outcome is not known.
const FIRST_LOOK_MS: i64 = 2_000;

/// The longest one call of a rail's gateway may take, retries included.
#[must_use]
pub fn deadline(app: &App, rail: Rail) -> Duration {
    let gateways = &app.config.gateways;
    match rail {
        Rail::Book => None,
        Rail::VelocityPay => gateways.velocity_pay.as_ref().map(|config| config.timeout),
        Rail::AuthorizeNet => gateways.authorize_net.as_ref().map(|config| config.timeout),
    }
    .unwrap_or(Duration::from_secs(10))
}

/// Sends the operation and settles it. Must run on a task that outlives its caller.
///
/// # Errors
/// The engine could not commit the answer; the operation stays open and the resolver settles it.
pub(super) async fn charge(
    app: &App,
    dispatch: Dispatch,
    means: Means,
    token: Token,
) -> Result<Done, PaymentError> {
    let (outcome, evidence) = match ask(app, &dispatch, means).await {
        Some(outcome) => read_outcome(&outcome),
        None => (ChargeOutcome::NotSent, Evidence::default()),
    };
    let settlement = Settlement {
        payment: dispatch.payment,
        operation_id: dispatch.operation.id,
        key_digest: dispatch.key_digest,
        fence: dispatch.fence,
        outcome,
        retry_in_ms: FIRST_LOOK_MS,
        evidence,
        refusals: dispatch.refusals,
    };
    settle(app, settlement, token).await
}

/// Commits what the gateway said. The key whose answer waits is known to the operation's row.
async fn settle(app: &App, settlement: Settlement, token: Token) -> Result<Done, PaymentError> {
    let mut tries = 0;
    loop {
        let submission = Submission { claim: None, command: Command::Settle(settlement.clone()) };
        match app.engine.submit(submission).await {
            Ok(reply) => {
                return match reply.decision {
                    Decision::Answered(answer) => {
                        Ok(Done { answer, occasion: Occasion::First, token: reply.token.max(token) })
                    }
                    // The lease ran out and the resolver took the operation over: its answer is the one that counts.
                    Decision::Refused(Refusal::StaleFence) => Err(PaymentError::InProgress),
                    Decision::Refused(refusal) => Err(PaymentError::Refused(refusal)),
                    _ => Err(PaymentError::InProgress),
                };
            }
            Err(error) => {
                tries += 1;
                tracing::warn!(%error, tries, operation = %settlement.operation_id, "settle operation");
                if tries >= SETTLE_TRIES_MAX {
                    return Err(PaymentError::Engine(EngineError::OutcomeUnknown));
                }
                sleep(SETTLE_PAUSE * tries).await;
            }
        }
    }
}

/// `None` when the request cannot even be formed, so that nothing was sent.
async fn ask(app: &App, dispatch: &Dispatch, means: Means) -> Option<Outcome> {
    let rail = dispatch.payment.rail;
    let request = request(dispatch, means.method, deadline(app, rail))?;
    let gateway = app.gateways.of(rail)?;
    Some(match means.slot {
        Some(slot) => gateway.execute_in(slot, request).await,
        None => gateway.execute(request).await,
    })
}

fn request(dispatch: &Dispatch, method: Option<Method>, deadline: Duration) -> Option<Request> {
    let payment = &dispatch.payment;
    let reference = Reference::new(dispatch.operation.reference.as_str()).ok()?;
    let amount = gateway_amount(dispatch.amount, payment.currency);
    let parent = payment.gateway_transaction.as_deref().and_then(|text| TransactionId::new(text).ok());
    Some(match dispatch.kind {
        kind @ (OperationKind::Purchase | OperationKind::Authorize) => {
            let method = method.unwrap_or_else(|| Method::Accounts {
                source: AccountId(payment.from).to_string(),
                destination: AccountId(payment.to).to_string(),
            });
            let charge = Charge { reference, amount, method, attempt: Attempt::First, deadline };
            if kind == OperationKind::Purchase {
                Request::Purchase(charge)
            } else {
                Request::Authorize(charge)
            }
        }
        OperationKind::Capture => Request::Capture(Capture {
            reference,
            parent: parent?,
            amount,
            attempt: Attempt::First,
            deadline,
        }),
        OperationKind::Void => {
            Request::Void(Void { reference, parent: parent?, attempt: Attempt::First, deadline })
        }
        OperationKind::Refund => Request::Refund(Refund {
            reference,
            parent: parent?,
            amount,
            card_last4: payment.card_last_four.clone(),
            attempt: Attempt::First,
            deadline,
        }),
    })
}
