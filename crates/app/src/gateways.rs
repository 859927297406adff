//! The external gateways of this service, by rail. Translates between the engine's vocabulary and the gateway crate's;
//! decides nothing.

use std::sync::Arc;

use paystrata_gateway::{Gateway, LookupOutcome, Outcome, TransactionState, Verb};

use crate::engine::{ChargeOutcome, Evidence, OperationKind, Rail};
use crate::money::Currency;

/// Stored evidence is an excerpt, in bytes.
const EVIDENCE_BYTES_MAX: usize = 1_024;

/// The configured gateways.
#[derive(Clone, Debug, Default)]
pub struct Gateways {
    /// Cards.
    pub authorize_net: Option<Arc<dyn Gateway>>,
    /// Accounts.
    pub velocity_pay: Option<Arc<dyn Gateway>>,
}

impl Gateways {
    /// The rails that have a gateway.
    #[must_use]
    pub fn rails(&self) -> Vec<Rail> {
        Rail::ALL.iter().copied().filter(|rail| self.of(*rail).is_some()).collect()
    }

    /// The gateway of a rail; `None` for the book, and for rails that are not configured.
    #[must_use]
    pub fn of(&self, rail: Rail) -> Option<&Arc<dyn Gateway>> {
        match rail {
            Rail::Book => None,
            Rail::VelocityPay => self.velocity_pay.as_ref(),
            Rail::AuthorizeNet => self.authorize_net.as_ref(),
        }
    }
}

/// The gateway crate's form of an amount.
///
/// # Panics
/// Never: amounts of stored payments are positive and currencies come from the ISO table.
#[must_use]
pub fn gateway_amount(minor_units: i64, currency: Currency) -> paystrata_gateway::Amount {
    let currency = paystrata_gateway::Currency::new(currency.code(), currency.exponent())
        .expect("every currency of the ISO table has three capitals and an exponent up to 4");
    paystrata_gateway::Amount::new(minor_units, currency).expect("stored amounts are positive")
}

/// The gateway crate's form of an operation.
#[must_use]
pub fn verb(kind: OperationKind) -> Verb {
    match kind {
        OperationKind::Purchase => Verb::Purchase,
        OperationKind::Authorize => Verb::Authorize,
        OperationKind::Capture => Verb::Capture,
        OperationKind::Void => Verb::Void,
        OperationKind::Refund => Verb::Refund,
    }
}

/// What an answer means to the ledger, with what backs it.
#[must_use]
pub fn read_outcome(outcome: &Outcome) -> (ChargeOutcome, Evidence) {
    match outcome {
        Outcome::Approved { transaction, auth_code, evidence, .. } => (
            ChargeOutcome::Approved,
            Evidence {
                transaction: Some(transaction.as_str().to_owned()),
                code: auth_code.clone(),
                text: Some(excerpt(evidence.as_str())),
            },
        ),
        Outcome::Declined { code, reason, .. } => {
            let evidence =
                Evidence { transaction: None, code: Some(code.clone()), text: Some(excerpt(reason)) };
            (ChargeOutcome::Declined, evidence)
        }
        Outcome::Held { transaction, evidence } => (
            ChargeOutcome::Held,
            Evidence {
                transaction: Some(transaction.as_str().to_owned()),
                code: None,
                text: Some(excerpt(evidence.as_str())),
            },
        ),
        Outcome::NotSent { reason, .. } => (ChargeOutcome::NotSent, told(&format!("{reason:?}"))),
        Outcome::Unknown { reason, .. } => (ChargeOutcome::Unknown, told(&format!("{reason:?}"))),
    }
}

/// What a look-up says about one operation; `None` when the gateway does not show it.
#[must_use]
pub fn read_lookup(kind: OperationKind, outcome: &LookupOutcome) -> Option<(ChargeOutcome, Evidence)> {
    let LookupOutcome::Found { state, transaction, auth_code, evidence, .. } = outcome else {
        return match outcome {
            LookupOutcome::Unknown { reason } => Some((ChargeOutcome::Unknown, told(&format!("{reason:?}")))),
            _ => None,
        };
    };
    let evidence = Evidence {
        transaction: Some(transaction.as_str().to_owned()),
        code: auth_code.clone(),
        text: Some(excerpt(evidence.as_str())),
    };
    Some((judge(kind, state), evidence))
}

/// Whether the state that a gateway shows is what the operation was to bring about.
fn judge(kind: OperationKind, state: &TransactionState) -> ChargeOutcome {
    use TransactionState as S;
    match (kind, state) {
        (_, S::Held) => ChargeOutcome::Held,
        (OperationKind::Purchase | OperationKind::Capture, S::Captured | S::Settled)
        | (OperationKind::Authorize, S::Authorized)
        // What has lapsed holds nothing any more, which is all that a void is for.
        | (OperationKind::Void, S::Voided | S::Expired)
        // A full refund before settlement is a void at the gateway.
        | (OperationKind::Refund, S::Refunded | S::Voided) => ChargeOutcome::Approved,
        // Whether a capture came before somebody's void or not: nothing was taken in the end.
        (_, S::Declined)
        | (OperationKind::Purchase | OperationKind::Authorize, S::Expired | S::Voided)
        | (OperationKind::Capture, S::Voided) => ChargeOutcome::Declined,
        // The look-up of a capture or void that never arrived shows its parent as it was: that is for `Absent` to say.
        _ => ChargeOutcome::Unknown,
    }
}

fn told(reason: &str) -> Evidence {
    Evidence { text: Some(excerpt(reason)), ..Evidence::default() }
}

fn excerpt(text: &str) -> String {
    let mut end = text.len().min(EVIDENCE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    // A NUL cannot be stored in a text column, and evidence is not worth losing a settlement for.
    text[..end].replace('\0', "")
}
