//! Refund: a credit for a settled charge, a void for the whole of an unsettled one.
//! Asks for the charge's state before it sends anything; refuses a part of an unsettled charge, which cannot be voided.

use super::{
    AuthorizeNet,
    charge::{Settled, adopt, settle},
    codes, follow_up,
    reply::Details,
    wire::Transaction,
};
use crate::{
    evidence::Evidence,
    outcome::{DeclineCategory, Effect, NotSentReason, Outcome, TransactionState, UnknownReason},
    request::{Attempt, Refund},
    resilience::{deadline::Deadline, failure::CallFailure},
};

/// Settlement may come between the question and the void; then the question is asked once more.
const ROUNDS_MAX: u32 = 2;

pub(super) async fn run(gateway: &AuthorizeNet, refund: &Refund) -> Outcome {
    let deadline = Deadline::after(refund.deadline);
    let mut outcome = undecided(None);
    for _ in 0..ROUNDS_MAX {
        outcome = match gateway.details(&refund.parent, deadline).await {
            // Only a question failed, and it is the first thing this round does.
            Err(CallFailure::NotSent { reason, retry_after }) => {
                return Outcome::NotSent { reason, retry_after };
            }
            Err(CallFailure::Unknown { .. }) => return undecided(None),
            Ok(None) => return refused("16", "The gateway does not know the charge.", None),
            Ok(Some((details, evidence))) => match route(refund, &details) {
                Route::Credit => return credit(gateway, refund, &details, deadline).await,
                Route::Done => {
                    return Outcome::Approved {
                        transaction: refund.parent.clone(),
                        auth_code: None,
                        effect: Effect::Voided,
                        evidence,
                    };
                }
                Route::Refused(reason) => {
                    return refused(codes::NOT_ELIGIBLE_FOR_CREDIT, reason, Some(evidence));
                }
                Route::Void => {
                    let reference = refund.reference.as_str();
                    follow_up::void_parent(gateway, &refund.parent, reference, deadline).await
                }
            },
        };
        if !matches!(&outcome, Outcome::Declined { category: DeclineCategory::Request, .. }) {
            return outcome;
        }
    }
    outcome
}

enum Route {
    Credit,
    Void,
    /// An earlier send of this same refund voided the charge.
    Done,
    Refused(&'static str),
}

fn route(refund: &Refund, details: &Details) -> Route {
    let charged = details
        .settle_amount
        .as_str()
        .or(details.auth_amount.as_str())
        .and_then(|text| refund.amount.currency().parse_minor_units(text));
    let whole = charged == Some(refund.amount.minor_units());
    match codes::state(details.transaction_status.as_str().unwrap_or_default()) {
        TransactionState::Settled => Route::Credit,
        TransactionState::Authorized | TransactionState::Captured | TransactionState::Held if whole => {
            Route::Void
        }
        TransactionState::Authorized | TransactionState::Captured | TransactionState::Held => {
            Route::Refused("The charge has not settled: only the whole of it can be given back.")
        }
        TransactionState::Voided if refund.attempt == Attempt::Resend => Route::Done,
        TransactionState::Voided => Route::Refused("The charge is voided already."),
        _ => Route::Refused("The charge is in no state to be refunded."),
    }
}

async fn credit(gateway: &AuthorizeNet, refund: &Refund, details: &Details, deadline: Deadline) -> Outcome {
    let Some(last4) = refund.card_last4.as_deref().or_else(|| details.card_last4()) else {
        return refused("33", "The last four digits of the card are not known.", None);
    };
    let reference = refund.reference.as_str();
    let transaction = Transaction::refund(refund.parent.as_str(), refund.amount, last4, reference);
    match gateway.create(&transaction, reference, deadline).await {
        Err(failure) => failure.into(),
        Ok((reply, evidence)) => match settle(&reply, evidence, Effect::Refunded) {
            Settled::Outcome(outcome) => outcome,
            Settled::Duplicate { original, evidence } => {
                adopt(gateway, &refund.reference, refund.amount, original, deadline, evidence).await
            }
            Settled::AlreadyDone { evidence, .. } => {
                Outcome::Unknown { reason: UnknownReason::Malformed, evidence: Some(evidence) }
            }
        },
    }
}

fn undecided(retry_after: Option<std::time::Duration>) -> Outcome {
    Outcome::NotSent { reason: NotSentReason::Undecided, retry_after }
}

fn refused(code: &str, reason: &str, evidence: Option<Evidence>) -> Outcome {
    Outcome::Declined {
        code: code.to_owned(),
        reason: reason.to_owned(),
        category: DeclineCategory::Request,
        evidence,
    }
}
