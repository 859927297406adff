//! What became of a request, as types: known good, known bad, waiting, never sent, not known.
//! Never guesses: whatever is not proven is `Unknown`, and `NotSent` means no request byte left this process.

use std::time::Duration;

use crate::{
    amount::Amount,
    evidence::Evidence,
    request::{Attempt, TransactionId},
};

/// The answer to a request that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The gateway did it, once.
    Approved {
        /// The gateway's transaction: a new one for a charge and a refund, the parent for a capture and a void.
        transaction: TransactionId,
        /// The issuer's code, where there is one.
        auth_code: Option<String>,
        /// What was really done: a full refund of an unsettled charge is a void.
        effect: Effect,
        /// What the gateway said.
        evidence: Evidence,
    },
    /// The gateway refused and moved nothing. Final.
    Declined {
        /// The gateway's own code.
        code: String,
        /// The gateway's own words, bounded; for operators, not for customers.
        reason: String,
        /// Whose matter it is.
        category: DeclineCategory,
        /// What the gateway said; absent when we refused before sending.
        evidence: Option<Evidence>,
    },
    /// Held for review: the money is not lost; a webhook or a lookup tells later.
    Held {
        /// The held transaction.
        transaction: TransactionId,
        /// What the gateway said.
        evidence: Evidence,
    },
    /// Provably nothing was sent, so the request may be made again, here or elsewhere.
    NotSent {
        /// Why.
        reason: NotSentReason,
        /// When trying again makes sense, where known.
        retry_after: Option<Duration>,
    },
    /// The gateway may or may not have done it. Keep the money held and ask with [`Lookup`](crate::Lookup).
    Unknown {
        /// Why it is not known.
        reason: UnknownReason,
        /// What was received, if anything.
        evidence: Option<Evidence>,
    },
}

impl Outcome {
    /// For a resend: a refusal that the gateway gives before it looks for the earlier send proves nothing about it.
    pub(crate) fn after(self, attempt: Attempt) -> Self {
        match (attempt, self) {
            (
                Attempt::Resend,
                Self::Declined {
                    category: DeclineCategory::Request | DeclineCategory::Account | DeclineCategory::Processor,
                    evidence,
                    ..
                },
            ) => Self::Unknown { reason: UnknownReason::ResendRefused, evidence },
            // What is not sent now may have been sent before.
            (Attempt::Resend, Self::NotSent { reason, .. }) => {
                Self::Unknown { reason: UnknownReason::NotAsked(reason), evidence: None }
            }
            (_, outcome) => outcome,
        }
    }

    /// The lower-case name, for spans and labels.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Approved { .. } => "approved",
            Self::Declined { .. } => "declined",
            Self::Held { .. } => "held",
            Self::NotSent { .. } => "not_sent",
            Self::Unknown { .. } => "unknown",
        }
    }
}

/// What an approval did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Money is held.
    Authorized,
    /// Money is taken.
    Captured,
    /// The charge was undone before settlement.
    Voided,
    /// Money is on its way back.
    Refunded,
}

/// Whose matter a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeclineCategory {
    /// The issuer or the card: the payer must act.
    Card,
    /// The request: ids, amounts or states do not fit.
    Request,
    /// Our account at the gateway: credentials, currency, card types. An operator must act.
    Account,
    /// The processor behind the gateway failed; a new attempt may work later.
    Processor,
}

/// Why nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotSentReason {
    /// Name resolution, connection or TLS failed, or took too long.
    Connect,
    /// The breaker is open: the gateway has been failing.
    BreakerOpen,
    /// Too many calls are in flight.
    ConcurrencyLimit,
    /// The deadline passed first.
    DeadlineSpent,
    /// A question that must be answered first was not: the refund's state of its parent.
    Undecided,
}

/// Why an outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnknownReason {
    /// No complete reply in time.
    Timeout,
    /// The connection broke after the request was handed to it.
    ConnectionLost,
    /// An HTTP status that is no answer.
    Status(u16),
    /// The reply exceeded the body cap.
    BodyTooLarge,
    /// The reply could not be understood.
    Malformed,
    /// The gateway said it is too busy, or failed inside.
    Busy,
    /// The gateway says the request is a duplicate, and the original could not be verified.
    DuplicateUnverified,
    /// What the gateway shows contradicts the request: another amount, or an undone charge.
    Contradiction,
    /// A resend was refused for a reason that says nothing about the earlier send, such as changed credentials.
    ResendRefused,
    /// A search ended at its bound, or the list changed underneath it.
    SearchIncomplete,
    /// The question itself could not be sent.
    NotAsked(NotSentReason),
}

/// The answer to a [`Lookup`](crate::Lookup).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupOutcome {
    /// The gateway shows it.
    Found {
        /// What the gateway shows.
        state: TransactionState,
        /// The gateway's transaction.
        transaction: TransactionId,
        /// The amount it shows, where it shows one.
        amount: Option<Amount>,
        /// The issuer's code, where there is one.
        auth_code: Option<String>,
        /// What the gateway said.
        evidence: Evidence,
    },
    /// The gateway does not show it now. A request still on its way may appear later: ask twice, apart.
    Absent,
    /// It could not be told.
    Unknown {
        /// Why.
        reason: UnknownReason,
    },
}

/// What a gateway shows of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionState {
    /// Money is held.
    Authorized,
    /// Money is taken, not settled yet.
    Captured,
    /// Money is taken and settled.
    Settled,
    /// Undone before settlement.
    Voided,
    /// A refund, pending or settled.
    Refunded,
    /// Waiting for review.
    Held,
    /// Refused; nothing moved.
    Declined,
    /// An authorization that lapsed.
    Expired,
    /// Anything else, in the gateway's own word: a person must look.
    Other(String),
}

impl TransactionState {
    /// Whether money is held, taken or settled.
    pub fn is_approved(&self) -> bool {
        matches!(self, Self::Authorized | Self::Captured | Self::Settled)
    }
}
