//! Settles gateway operations whose outcome is not known, by asking the gateway. Owns every open operation whose time
//! has come: those that timed out, those whose sender died, those held for review. Guesses nothing: an operation that
//! a gateway does not know is given up only after it denied it twice, long after it could still have been on its way. A
//! person gets it only when the gateway has left many questions in a row without an answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, stream};
use paystrata_gateway::{Lookup, LookupOutcome, Reference, TransactionId};
use tokio::time::{MissedTickBehavior, interval};

use super::charge;
use super::handler::refusal::kept_for_operation;
use crate::app::App;
use crate::engine::{
    ChargeOutcome, Command, Decision, DueOperation, Evidence, OperationError, PaymentRecord, Rail, Refusal,
    Settlement, Submission, claim_due_operations, count_absence, find_payment, hand_over,
};
use crate::gateways::{gateway_amount, read_lookup, verb};

/// Operations taken at once, and look-ups under way at once, one each: a gateway in trouble must not be asked by all of
/// them together, and what waited for its turn would outlast its lease, and be taken and asked after by another node too.
const CLAIM_MAX: i64 = 8;
/// The gateway must deny an operation this often before it counts as never sent.
const ABSENCES_MIN: i32 = 2;
/// Between looks at one operation: doubles from the first to the last, after questions without an answer by their number,
/// after answers that settle nothing by the operation's age.
const PAUSE_MIN_MS: i64 = 2_000;
const PAUSE_MAX_MS: i64 = 300_000;
/// What a look-up and its settlement may take before another node may claim the operation.
const LEASE_MARGIN: Duration = Duration::from_secs(10);

const PANICS: &str = "resolver.panics";

/// Looks every interval until stopped; first at once, for what a crash left behind.
pub async fn run(app: Arc<App>) {
    let mut ticks = interval(app.config.resolver.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = app.draining.cancelled() => return,
        }
        // A full claim means that more are due: go on without waiting for the next tick.
        loop {
            let taken = match resolve_due(&app).await {
                Ok(taken) => taken,
                Err(error) => {
                    tracing::warn!(?error, "claim due operations");
                    0
                }
            };
            if i64::try_from(taken).unwrap_or(0) < CLAIM_MAX || app.draining.is_cancelled() {
                break;
            }
        }
    }
}

/// Takes what is due and asks after each; gives how many were taken.
///
/// # Errors
/// The operations could not be claimed; they stay due.
pub async fn resolve_due(app: &Arc<App>) -> Result<usize, OperationError> {
    let slowest = charge::deadline(app, Rail::AuthorizeNet).max(charge::deadline(app, Rail::VelocityPay));
    let lease_ms = i64::try_from((slowest + LEASE_MARGIN).as_millis()).unwrap_or(i64::MAX);
    let rails = app.gateways.rails();
    let due = claim_due_operations(&app.db.write().await?, &rails, lease_ms, CLAIM_MAX).await?;
    let taken = due.len();
    let asked = stream::iter(due).for_each_concurrent(None, |operation| async move {
        let id = operation.id;
        // Either way it stays open and falls due again when this claim's lease ends, and the others go on.
        match AssertUnwindSafe(resolve(app, operation)).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(?error, operation = %id, "resolve operation"),
            Err(_) => {
                tracing::error!(operation = %id, "resolve operation: caught a panic");
                app.monitor
                    .counter(PANICS, "Panics caught while a gateway operation was resolved.")
                    .increment();
            }
        }
    });
    asked.await;
    Ok(taken)
}

async fn resolve(app: &Arc<App>, operation: DueOperation) -> Result<(), OperationError> {
    let connection = app.db.write().await?;
    let Some(payment) = find_payment(&connection, operation.merchant_id, operation.payment_id).await? else {
        tracing::error!(payment = %operation.payment_id, "resolve operation of a payment that is not there");
        return hand_over(&connection, &operation).await;
    };
    // No connection is held while the gateway is asked.
    drop(connection);
    let answer = ask(app, &operation, &payment).await;
    let patience_ms = patience_ms(app, payment.rail);
    let finding = match answer.as_ref().map(|answer| read_lookup(operation.kind, answer)) {
        // What it once acknowledged, it cannot have never seen: that is no proof of anything.
        Some(None) if operation.transaction.is_none() => absent(app, &operation, patience_ms).await?,
        Some(Some((ChargeOutcome::Held, evidence))) => {
            Finding { outcome: ChargeOutcome::Held, evidence, retry_in_ms: bounded_ms(operation.age_ms) }
        }
        told => {
            let (outcome, evidence) = told.flatten().unwrap_or((ChargeOutcome::Unknown, Evidence::default()));
            if outcome == ChargeOutcome::Unknown && is_given_up(app, &operation, patience_ms) {
                tracing::error!(
                    operation = %operation.id, payment = %payment.id, attempts = operation.attempts,
                    "outcome of a gateway operation stays unknown: a person must look; the hold stays"
                );
                return hand_over(&app.db.write().await?, &operation).await;
            }
            Finding { outcome, evidence, retry_in_ms: pause_ms(operation.attempts) }
        }
    };
    settle(app, operation, payment, finding).await;
    Ok(())
}

/// What one question gave, and when the next one is due if that settles nothing.
struct Finding {
    outcome: ChargeOutcome,
    evidence: Evidence,
    retry_in_ms: i64,
}

/// The age from which a denial proves that nothing was sent. The sender begins within its allowance and ends within its
/// deadline; what it has sent by then arrives within the configured time or never.
fn patience_ms(app: &App, rail: Rail) -> i64 {
    let sent_by = charge::SETTLE_ALLOWANCE + charge::deadline(app, rail);
    i64::try_from((sent_by + app.config.resolver.not_found_after).as_millis()).unwrap_or(i64::MAX)
}

/// The gateway has left so many questions in a row without an answer that a person must look; never while a denial would
/// not be believed yet.
fn is_given_up(app: &App, operation: &DueOperation, patience_ms: i64) -> bool {
    let attempts_max = i32::try_from(app.config.resolver.attempts_max.get()).unwrap_or(i32::MAX);
    operation.attempts >= attempts_max && operation.age_ms >= patience_ms
}

async fn ask(app: &App, operation: &DueOperation, payment: &PaymentRecord) -> Option<LookupOutcome> {
    let gateway = app.gateways.of(payment.rail)?;
    let identifier = |text: &Option<String>| text.as_deref().and_then(|text| TransactionId::new(text).ok());
    let query = Lookup {
        verb: verb(operation.kind),
        reference: Reference::new(operation.reference.as_str()).ok()?,
        amount: gateway_amount(operation.amount, payment.currency),
        parent: identifier(&operation.parent_transaction),
        parent_amount: (payment.captured > 0).then(|| gateway_amount(payment.captured, payment.currency)),
        transaction: identifier(&operation.transaction),
        since: operation.sent_at.to_datetime(),
        deadline: charge::deadline(app, payment.rail),
    };
    Some(gateway.lookup(query).await)
}

/// The gateway does not show it. Only a second denial, past the time in which the request could still arrive, is proof.
async fn absent(app: &App, operation: &DueOperation, patience_ms: i64) -> Result<Finding, OperationError> {
    count_absence(&app.db.write().await?, operation).await?;
    let absences = operation.absences + 1;
    let is_proof = absences >= ABSENCES_MIN && operation.age_ms >= patience_ms;
    let outcome = if is_proof { ChargeOutcome::NotSent } else { ChargeOutcome::Unknown };
    let evidence =
        Evidence { text: Some(format!("absent at the gateway {absences} times")), ..Evidence::default() };
    // Not later than when it can be believed.
    let retry_in_ms = bounded_ms(operation.age_ms.min(patience_ms - operation.age_ms));
    Ok(Finding { outcome, evidence, retry_in_ms })
}

async fn settle(app: &App, operation: DueOperation, payment: PaymentRecord, finding: Finding) {
    let settlement = Settlement {
        payment,
        operation_id: operation.id,
        key_digest: operation.key_digest,
        fence: operation.fence,
        outcome: finding.outcome,
        retry_in_ms: finding.retry_in_ms,
        evidence: finding.evidence,
        refusals: Some(kept_for_operation(operation.kind, operation.id)),
    };
    let settled = app.engine.submit(Submission { claim: None, command: Command::Settle(settlement) }).await;
    match settled.map(|reply| reply.decision) {
        Ok(Decision::Answered(_) | Decision::Refused(Refusal::StaleFence)) => {}
        Ok(other) => tracing::error!(?other, operation = %operation.id, "settle operation"),
        Err(error) => tracing::warn!(%error, operation = %operation.id, "settle operation"),
    }
}

fn pause_ms(attempts: i32) -> i64 {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(0).min(16);
    bounded_ms(PAUSE_MIN_MS.saturating_mul(1 << doublings))
}

fn bounded_ms(pause_ms: i64) -> i64 {
    pause_ms.clamp(PAUSE_MIN_MS, PAUSE_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        assert_eq!(pause_ms(1), PAUSE_MIN_MS);
        assert_eq!(pause_ms(2), 2 * PAUSE_MIN_MS);
        assert_eq!(pause_ms(i32::MAX), PAUSE_MAX_MS);
    }
}
