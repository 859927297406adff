//! Purchase and authorize: one `createTransactionRequest`, and for a duplicate the adoption of the original.
//! Never adopts an original that the gateway does not show with our invoice number and amount.

use std::time::Duration;

use time::OffsetDateTime;

use super::{
    AuthorizeNet, DUPLICATE_WINDOW, codes, lookup,
    reply::{CreateReply, Details, Judgement},
    wire::Transaction,
};
use crate::{
    amount::Amount,
    evidence::Evidence,
    outcome::{DeclineCategory, Effect, Outcome, TransactionState, UnknownReason},
    request::{Charge, Reference, TransactionId},
    resilience::deadline::Deadline,
};

/// Clocks of ours and theirs may differ by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Purchase,
    Authorize,
}

pub(super) async fn run(gateway: &AuthorizeNet, kind: Kind, charge: &Charge) -> Outcome {
    let deadline = Deadline::after(charge.deadline);
    let (transaction_type, effect) = match kind {
        Kind::Purchase => ("authCaptureTransaction", Effect::Captured),
        Kind::Authorize => ("authOnlyTransaction", Effect::Authorized),
    };
    let Some(transaction) = Transaction::charge(transaction_type, charge) else {
        return unsupported_method();
    };
    let created = gateway.create(&transaction, charge.reference.as_str(), deadline).await;
    // The card must not be held in the clear longer than it takes to send it.
    drop(transaction);
    match created {
        Err(failure) => failure.into(),
        Ok((reply, evidence)) => match settle(&reply, evidence, effect) {
            Settled::Outcome(outcome) => outcome,
            Settled::Duplicate { original, evidence } => {
                adopt(gateway, &charge.reference, charge.amount, original, deadline, evidence).await
            }
            Settled::AlreadyDone { evidence, .. } => {
                Outcome::Unknown { reason: UnknownReason::Malformed, evidence: Some(evidence) }
            }
        },
    }
}

fn unsupported_method() -> Outcome {
    Outcome::Declined {
        code: "unsupported_method".to_owned(),
        reason: "Authorize.Net charges cards and tokens.".to_owned(),
        category: DeclineCategory::Request,
        evidence: None,
    }
}

/// A judged reply: an outcome, or a case that needs a question first.
pub(super) enum Settled {
    Outcome(Outcome),
    Duplicate { original: Option<TransactionId>, evidence: Evidence },
    AlreadyDone { code: String, evidence: Evidence },
}

pub(super) fn settle(reply: &CreateReply, evidence: Evidence, effect: Effect) -> Settled {
    Settled::Outcome(match reply.judge() {
        Judgement::Approved { transaction, auth_code } => {
            Outcome::Approved { transaction, auth_code, effect, evidence }
        }
        Judgement::Held { transaction } => Outcome::Held { transaction, evidence },
        Judgement::Declined { code, reason } => {
            Outcome::Declined { category: codes::category(&code), code, reason, evidence: Some(evidence) }
        }
        Judgement::Unclear(reason) => Outcome::Unknown { reason, evidence: Some(evidence) },
        Judgement::Duplicate { original } => return Settled::Duplicate { original, evidence },
        Judgement::AlreadyDone { code } => return Settled::AlreadyDone { code, evidence },
    })
}

/// The original of a duplicate, verified by the gateway's own record, as the outcome of this attempt.
pub(super) async fn adopt(
    gateway: &AuthorizeNet,
    reference: &Reference,
    amount: Amount,
    original: Option<TransactionId>,
    deadline: Deadline,
    evidence: Evidence,
) -> Outcome {
    let found = match original {
        Some(transaction) => gateway
            .details(&transaction, deadline)
            .await
            .map(|found| found.map(|(details, evidence)| (transaction, details, evidence))),
        None => {
            let since = OffsetDateTime::now_utc() - DUPLICATE_WINDOW - CLOCK_SKEW;
            lookup::search(gateway, reference, since, deadline).await
        }
    };
    match found {
        Ok(Some((transaction, details, evidence)))
            if details.invoice_number() == Some(reference.as_str()) =>
        {
            outcome_of_original(transaction, &details, amount, evidence)
        }
        _ => Outcome::Unknown { reason: UnknownReason::DuplicateUnverified, evidence: Some(evidence) },
    }
}

fn outcome_of_original(
    transaction: TransactionId,
    details: &Details,
    amount: Amount,
    evidence: Evidence,
) -> Outcome {
    let shown = details.auth_amount.as_str().and_then(|text| amount.currency().parse_minor_units(text));
    let effect = match codes::state(details.transaction_status.as_str().unwrap_or_default()) {
        TransactionState::Declined => {
            let (code, reason) =
                ("declined".to_owned(), "The original of this duplicate was declined.".to_owned());
            return Outcome::Declined {
                code,
                reason,
                category: DeclineCategory::Card,
                evidence: Some(evidence),
            };
        }
        _ if shown != Some(amount.minor_units()) => None,
        TransactionState::Held => return Outcome::Held { transaction, evidence },
        TransactionState::Authorized => Some(Effect::Authorized),
        TransactionState::Captured | TransactionState::Settled => Some(Effect::Captured),
        TransactionState::Refunded => Some(Effect::Refunded),
        TransactionState::Voided | TransactionState::Expired | TransactionState::Other(_) => None,
    };
    match effect {
        Some(effect) => {
            let auth_code = details.auth_code.as_str().map(str::to_owned);
            Outcome::Approved { transaction, auth_code, effect, evidence }
        }
        None => Outcome::Unknown { reason: UnknownReason::Contradiction, evidence: Some(evidence) },
    }
}
