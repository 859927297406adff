//! Bodies of VelocityPay, both ways, and how a charge reads as an outcome.
//! Takes a state for success only when it is the one the request asked for.

use serde::{Deserialize, Serialize};

use crate::{
    amount::Amount,
    evidence::Evidence,
    outcome::{DeclineCategory, Effect, LookupOutcome, Outcome, TransactionState, UnknownReason},
    request::{Charge, Lookup, Reference, TransactionId, Verb},
};

/// Longer words are not for people.
const REASON_CHARACTERS_MAX: usize = 300;

#[derive(Serialize)]
pub(super) struct ChargeBody<'a> {
    reference: &'a str,
    amount: i64,
    currency: String,
    source: &'a str,
    destination: &'a str,
    capture: bool,
}

impl<'a> ChargeBody<'a> {
    pub(super) fn new(charge: &'a Charge, source: &'a str, destination: &'a str, verb: Verb) -> Self {
        Self {
            reference: charge.reference.as_str(),
            amount: charge.amount.minor_units(),
            currency: charge.amount.currency().code().to_owned(),
            source,
            destination,
            capture: verb == Verb::Purchase,
        }
    }
}

#[derive(Serialize)]
pub(super) struct FollowUpBody<'a> {
    #[serde(serialize_with = "write_reference")]
    reference: &'a Reference,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<i64>,
}

fn write_reference<S: serde::Serializer>(reference: &Reference, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reference.as_str())
}

impl<'a> FollowUpBody<'a> {
    pub(super) fn moving(reference: &'a Reference, amount: Amount) -> Self {
        Self { reference, amount: Some(amount.minor_units()) }
    }

    pub(super) fn plain(reference: &'a Reference) -> Self {
        Self { reference, amount: None }
    }

    pub(super) fn key(&self) -> &'a Reference {
        self.reference
    }
}

#[derive(Deserialize)]
pub(super) struct ChargeReply {
    id: String,
    reference: String,
    status: String,
    amount: i64,
    #[serde(default)]
    decline_code: Option<String>,
    #[serde(default)]
    operations: Vec<OperationReply>,
}

#[derive(Deserialize)]
struct OperationReply {
    reference: String,
    kind: String,
    #[serde(default)]
    amount: Option<i64>,
}

#[derive(Deserialize)]
pub(super) struct ChargesReply {
    data: Vec<ChargeReply>,
}

#[derive(Deserialize)]
pub(super) struct ErrorReply {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    #[serde(default)]
    message: String,
}

impl ErrorReply {
    pub(super) fn is_key_reused(&self) -> bool {
        self.error.code == "idempotency_key_reused"
    }

    /// The charge holds nothing any more: what a void is for.
    pub(super) fn is_undone(&self) -> bool {
        matches!(self.error.code.as_str(), "charge_voided" | "charge_expired")
    }

    pub(super) fn into_parts(self) -> (String, String) {
        (self.error.code, self.error.message.chars().take(REASON_CHARACTERS_MAX).collect())
    }
}

fn state(status: &str) -> TransactionState {
    match status {
        "authorized" => TransactionState::Authorized,
        "captured" => TransactionState::Captured,
        "settled" => TransactionState::Settled,
        "held" => TransactionState::Held,
        "declined" => TransactionState::Declined,
        "voided" => TransactionState::Voided,
        "expired" => TransactionState::Expired,
        "refunded" => TransactionState::Refunded,
        other => TransactionState::Other(other.to_owned()),
    }
}

impl ChargeReply {
    pub(super) fn into_outcome(self, effect: Effect, evidence: Evidence) -> Outcome {
        let Ok(transaction) = TransactionId::new(self.id) else {
            return Outcome::Unknown { reason: UnknownReason::Malformed, evidence: Some(evidence) };
        };
        let approved = match (effect, state(&self.status)) {
            (_, TransactionState::Held) => return Outcome::Held { transaction, evidence },
            (_, TransactionState::Declined) => {
                let code = self.decline_code.unwrap_or_else(|| "declined".to_owned());
                let reason = "The account's bank refused.".to_owned();
                return Outcome::Declined {
                    code,
                    reason,
                    category: DeclineCategory::Card,
                    evidence: Some(evidence),
                };
            }
            // A partly refunded charge stays captured or settled.
            (
                Effect::Refunded,
                TransactionState::Captured | TransactionState::Settled | TransactionState::Refunded,
            )
            | (Effect::Authorized, TransactionState::Authorized)
            | (Effect::Captured, TransactionState::Captured | TransactionState::Settled)
            | (Effect::Voided, TransactionState::Voided) => true,
            _ => false,
        };
        if approved {
            Outcome::Approved { transaction, auth_code: None, effect, evidence }
        } else {
            Outcome::Unknown { reason: UnknownReason::Contradiction, evidence: Some(evidence) }
        }
    }

    /// The end of the charge `id`, if this is it and it holds nothing any more: what the look-up of a void that is not among its
    /// operations finds.
    pub(super) fn into_undone(self, id: &TransactionId, evidence: Evidence) -> Option<LookupOutcome> {
        let state = state(&self.status);
        let is_undone = matches!(state, TransactionState::Voided | TransactionState::Expired);
        (is_undone && self.id == id.as_str()).then(|| {
            let transaction = id.clone();
            LookupOutcome::Found { state, transaction, amount: None, auth_code: None, evidence }
        })
    }

    /// The amount and state of the attempt: the charge itself, or one of its operations.
    fn attempt(&self, query: &Lookup) -> Option<(Option<i64>, TransactionState)> {
        if matches!(query.verb, Verb::Purchase | Verb::Authorize) {
            return (self.reference == query.reference.as_str())
                .then(|| (Some(self.amount), state(&self.status)));
        }
        let operation = self.operations.iter().find(|operation| {
            operation.reference == query.reference.as_str() && operation.kind == query.verb.as_str()
        })?;
        let state = match query.verb {
            Verb::Void => TransactionState::Voided,
            Verb::Refund => TransactionState::Refunded,
            Verb::Purchase | Verb::Authorize | Verb::Capture => state(&self.status),
        };
        Some((operation.amount, state))
    }
}

impl ChargesReply {
    pub(super) fn into_lookup(self, query: &Lookup, evidence: Evidence) -> LookupOutcome {
        let found = self.data.iter().find_map(|charge| Some((charge, charge.attempt(query)?)));
        let Some((charge, (amount, state))) = found else { return LookupOutcome::Absent };
        let Ok(transaction) = TransactionId::new(charge.id.clone()) else {
            return LookupOutcome::Unknown { reason: UnknownReason::Malformed };
        };
        if amount.is_some_and(|amount| amount != query.amount.minor_units()) {
            return LookupOutcome::Unknown { reason: UnknownReason::Contradiction };
        }
        let amount = amount.and_then(|minor_units| Amount::new(minor_units, query.amount.currency()).ok());
        LookupOutcome::Found { state, transaction, amount, auth_code: None, evidence }
    }
}
