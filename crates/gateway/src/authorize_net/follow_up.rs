//! Capture and void: both act on a parent, both answer a repeat as if approved (311, 310).
//! A repeat counts as done only when the parent's own record shows the wanted state; so does the void of what has lapsed.

use super::{
    AuthorizeNet,
    charge::{Settled, settle},
    codes,
    wire::Transaction,
};
use crate::{
    evidence::Evidence,
    outcome::{DeclineCategory, Effect, Outcome, TransactionState, UnknownReason},
    request::{Capture, TransactionId, Void},
    resilience::deadline::Deadline,
};

pub(super) async fn capture(gateway: &AuthorizeNet, capture: &Capture) -> Outcome {
    let deadline = Deadline::after(capture.deadline);
    let transaction = Transaction::capture(capture.parent.as_str(), capture.amount);
    let settled = match gateway.create(&transaction, capture.reference.as_str(), deadline).await {
        Err(failure) => return failure.into(),
        Ok((reply, evidence)) => settle(&reply, evidence, Effect::Captured),
    };
    let (code, evidence) = match settled {
        Settled::Outcome(outcome) => return outcome,
        Settled::AlreadyDone { code, evidence } => (code, evidence),
        Settled::Duplicate { evidence, .. } => (codes::DUPLICATE.to_owned(), evidence),
    };
    let Ok(Some((details, shown))) = gateway.details(&capture.parent, deadline).await else {
        return unverified(evidence);
    };
    let taken =
        details.settle_amount.as_str().and_then(|text| capture.amount.currency().parse_minor_units(text));
    match codes::state(details.transaction_status.as_str().unwrap_or_default()) {
        TransactionState::Captured | TransactionState::Settled
            if taken == Some(capture.amount.minor_units()) =>
        {
            done(&capture.parent, Effect::Captured, shown)
        }
        // Somebody captured another amount; this capture did not and cannot happen.
        TransactionState::Captured | TransactionState::Settled if taken.is_some() => Outcome::Declined {
            code,
            reason: "The authorization was captured before with another amount.".to_owned(),
            category: DeclineCategory::Request,
            evidence: Some(shown),
        },
        _ => unverified(shown),
    }
}

pub(super) async fn void(gateway: &AuthorizeNet, void: &Void) -> Outcome {
    let deadline = Deadline::after(void.deadline);
    let outcome = void_parent(gateway, &void.parent, void.reference.as_str(), deadline).await;
    if !matches!(&outcome, Outcome::Declined { category: DeclineCategory::Request, .. }) {
        return outcome;
    }
    // An authorization that has lapsed cannot be voided, and holds nothing any more either: that is all a void is for.
    let Ok(Some((details, shown))) = gateway.details(&void.parent, deadline).await else { return outcome };
    match codes::state(details.transaction_status.as_str().unwrap_or_default()) {
        TransactionState::Voided | TransactionState::Expired => done(&void.parent, Effect::Voided, shown),
        _ => outcome,
    }
}

pub(super) async fn void_parent(
    gateway: &AuthorizeNet,
    parent: &TransactionId,
    reference: &str,
    deadline: Deadline,
) -> Outcome {
    let transaction = Transaction::void(parent.as_str());
    let settled = match gateway.create(&transaction, reference, deadline).await {
        Err(failure) => return failure.into(),
        Ok((reply, evidence)) => settle(&reply, evidence, Effect::Voided),
    };
    let evidence = match settled {
        Settled::Outcome(outcome) => return outcome,
        Settled::AlreadyDone { evidence, .. } | Settled::Duplicate { evidence, .. } => evidence,
    };
    let Ok(Some((details, shown))) = gateway.details(parent, deadline).await else {
        return unverified(evidence);
    };
    match codes::state(details.transaction_status.as_str().unwrap_or_default()) {
        TransactionState::Voided => done(parent, Effect::Voided, shown),
        _ => unverified(shown),
    }
}

fn done(parent: &TransactionId, effect: Effect, evidence: Evidence) -> Outcome {
    Outcome::Approved { transaction: parent.clone(), auth_code: None, effect, evidence }
}

fn unverified(evidence: Evidence) -> Outcome {
    Outcome::Unknown { reason: UnknownReason::DuplicateUnverified, evidence: Some(evidence) }
}
