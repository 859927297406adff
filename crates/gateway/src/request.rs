//! What a caller asks of a gateway, for all gateways alike.
//! Checks the form of identifiers once, so that no gateway has to; knows no wire format.

use std::{fmt, time::Duration};

use thiserror::Error;
use time::OffsetDateTime;

use crate::{amount::Amount, card::Card, secret::Secret};

/// Authorize.Net's limit for `invoiceNumber`, the shortest of all gateways.
const REFERENCE_CHARACTERS_MAX: usize = 20;
/// Gateways issue far shorter ids; longer text is not an id.
const TRANSACTION_CHARACTERS_MAX: usize = 64;

/// Why an identifier is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum IdentifierError {
    /// Not 1 to 20 letters, digits, `-` or `_`.
    #[error("an attempt reference is 1 to 20 letters, digits, hyphens or underscores")]
    Reference,
    /// Not 1 to 64 letters, digits, `-` or `_`.
    #[error("a transaction id is 1 to 64 letters, digits, hyphens or underscores")]
    Transaction,
}

/// Our own name of one attempt, unique per attempt and kept before the attempt is made.
/// It is `invoiceNumber` at Authorize.Net and the idempotency key at VelocityPay.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference(String);

impl Reference {
    /// Takes 1 to 20 ASCII letters, digits, hyphens or underscores.
    pub fn new(text: impl Into<String>) -> Result<Self, IdentifierError> {
        let text = text.into();
        if !is_identifier(&text, REFERENCE_CHARACTERS_MAX) {
            return Err(IdentifierError::Reference);
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The gateway's own name of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TransactionId(String);

impl TransactionId {
    /// Takes 1 to 64 ASCII letters, digits, hyphens or underscores.
    pub fn new(text: impl Into<String>) -> Result<Self, IdentifierError> {
        let text = text.into();
        if !is_identifier(&text, TRANSACTION_CHARACTERS_MAX) {
            return Err(IdentifierError::Transaction);
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn is_identifier(text: &str, characters_max: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !text.is_empty() && text.len() <= characters_max && text.bytes().all(allowed)
}

/// Whether this attempt may already have reached the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// No request of this reference was ever sent.
    First,
    /// The outcome of an earlier send of the same reference is not known. A refusal of the resend then proves nothing
    /// about the earlier send, and is reported as `Unknown`.
    Resend,
}

/// What pays.
#[derive(Debug, Clone)]
pub enum Method {
    /// A card, sent as typed.
    Card(Card),
    /// A single-use token from the gateway's own form or a wallet (`opaqueData`).
    Token {
        /// Such as `COMMON.ACCEPT.INAPP.PAYMENT`.
        descriptor: String,
        /// The token.
        value: Secret,
    },
    /// Two accounts known to the gateway; the source pays the destination.
    Accounts {
        /// Who pays.
        source: String,
        /// Who is paid.
        destination: String,
    },
}

/// A purchase or an authorization.
#[derive(Debug, Clone)]
pub struct Charge {
    /// Unique per attempt; the same for a resend of the same attempt.
    pub reference: Reference,
    /// What is charged.
    pub amount: Amount,
    /// What pays.
    pub method: Method,
    /// Whether this reference may have been sent before.
    pub attempt: Attempt,
    /// The longest the whole call may take, retries and waits included.
    pub deadline: Duration,
}

/// A capture of an authorization.
#[derive(Debug, Clone)]
pub struct Capture {
    /// Unique per attempt.
    pub reference: Reference,
    /// The authorization.
    pub parent: TransactionId,
    /// At most the authorized amount.
    pub amount: Amount,
    /// Whether this reference may have been sent before.
    pub attempt: Attempt,
    /// The longest the whole call may take.
    pub deadline: Duration,
}

/// The undoing of a charge that has not settled.
#[derive(Debug, Clone)]
pub struct Void {
    /// Unique per attempt.
    pub reference: Reference,
    /// What is undone.
    pub parent: TransactionId,
    /// Whether this reference may have been sent before.
    pub attempt: Attempt,
    /// The longest the whole call may take.
    pub deadline: Duration,
}

/// The return of charged money.
#[derive(Debug, Clone)]
pub struct Refund {
    /// Unique per attempt.
    pub reference: Reference,
    /// The charge that is refunded.
    pub parent: TransactionId,
    /// What is returned; the caller keeps the sum of refunds within the charge.
    pub amount: Amount,
    /// The last four digits of the charged card, where the caller has them; asked of the gateway otherwise.
    pub card_last4: Option<String>,
    /// Whether this reference may have been sent before.
    pub attempt: Attempt,
    /// The longest the whole call may take.
    pub deadline: Duration,
}

/// The verbs that change something at a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Authorize and capture in one step.
    Purchase,
    /// Hold the money.
    Authorize,
    /// Take held money.
    Capture,
    /// Undo before settlement.
    Void,
    /// Give back.
    Refund,
}

impl Verb {
    /// The lower-case name, for spans and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Purchase => "purchase",
            Self::Authorize => "authorize",
            Self::Capture => "capture",
            Self::Void => "void",
            Self::Refund => "refund",
        }
    }
}

/// One request that changes something.
#[derive(Debug, Clone)]
pub enum Request {
    /// Charge at once.
    Purchase(Charge),
    /// Hold the money, to be captured later.
    Authorize(Charge),
    /// Take held money.
    Capture(Capture),
    /// Undo before settlement.
    Void(Void),
    /// Give back.
    Refund(Refund),
}

impl Request {
    /// The verb.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Purchase(_) => Verb::Purchase,
            Self::Authorize(_) => Verb::Authorize,
            Self::Capture(_) => Verb::Capture,
            Self::Void(_) => Verb::Void,
            Self::Refund(_) => Verb::Refund,
        }
    }

    /// Whether the reference may have been sent before.
    pub fn attempt(&self) -> Attempt {
        match self {
            Self::Purchase(charge) | Self::Authorize(charge) => charge.attempt,
            Self::Capture(capture) => capture.attempt,
            Self::Void(void) => void.attempt,
            Self::Refund(refund) => refund.attempt,
        }
    }

    /// The attempt's reference.
    pub fn reference(&self) -> &Reference {
        match self {
            Self::Purchase(charge) | Self::Authorize(charge) => &charge.reference,
            Self::Capture(capture) => &capture.reference,
            Self::Void(void) => &void.reference,
            Self::Refund(refund) => &refund.reference,
        }
    }
}

/// A question: what became of an attempt?
#[derive(Debug, Clone)]
pub struct Lookup {
    /// What the attempt was to do.
    pub verb: Verb,
    /// The attempt's reference.
    pub reference: Reference,
    /// What the attempt was to move; a void's is the amount of its parent.
    pub amount: Amount,
    /// The transaction that a capture, void or refund acts on.
    pub parent: Option<TransactionId>,
    /// What the parent took, as the asker knows it: a refund of all of it may have been made by voiding it, a refund of a
    /// part cannot.
    pub parent_amount: Option<Amount>,
    /// The attempt's own transaction, when a webhook or an earlier reply told it: saves the search.
    pub transaction: Option<TransactionId>,
    /// The earliest moment the attempt may have been sent: bounds the search. Authorize.Net's settled lists reach back
    /// 31 days; an older search ends as `Unknown`.
    pub since: OffsetDateTime,
    /// The longest the whole call may take.
    pub deadline: Duration,
}

#[cfg(test)]
mod tests {
    use super::{IdentifierError, Reference, TransactionId};

    #[test]
    fn identifiers_outside_their_form_are_refused() {
        assert!(Reference::new("A1-b_2").is_ok());
        for text in ["", "a b", "123456789012345678901", "ä"] {
            assert_eq!(Reference::new(text), Err(IdentifierError::Reference), "{text}");
        }
        assert_eq!(TransactionId::new("../x"), Err(IdentifierError::Transaction));
    }
}
