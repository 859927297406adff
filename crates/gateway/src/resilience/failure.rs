//! How an attempt or a call fails, always together with whether bytes may have been written.
//! Gives no text of the peer: reasons are closed sets, evidence is masked elsewhere.

use std::time::Duration;

use super::class::Written;
use crate::{
    evidence::Evidence,
    outcome::{LookupOutcome, NotSentReason, Outcome, UnknownReason},
};

/// One failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptFailure {
    pub(crate) reason: UnknownReason,
    pub(crate) written: Written,
    /// The gateway's own wish (`Retry-After`).
    pub(crate) pause: Option<Duration>,
    pub(crate) evidence: Option<Evidence>,
}

impl AttemptFailure {
    /// No byte of the request was handed to a connection.
    pub(crate) fn unwritten(reason: UnknownReason) -> Self {
        Self { reason, written: Written::Nothing, pause: None, evidence: None }
    }

    /// The gateway may have seen the request.
    pub(crate) fn uncertain(reason: UnknownReason, evidence: Option<Evidence>) -> Self {
        Self { reason, written: Written::Maybe, pause: None, evidence }
    }

    pub(crate) fn label(&self) -> &'static str {
        match (self.written, self.reason) {
            (Written::Nothing, _) => "connect",
            (Written::Maybe, UnknownReason::Timeout) => "timeout",
            (Written::Maybe, UnknownReason::ConnectionLost) => "connection_lost",
            (Written::Maybe, UnknownReason::Status(_)) => "status",
            (Written::Maybe, UnknownReason::BodyTooLarge) => "body_too_large",
            (Written::Maybe, UnknownReason::Busy) => "busy",
            (Written::Maybe, _) => "malformed",
        }
    }
}

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallFailure {
    NotSent { reason: NotSentReason, retry_after: Option<Duration> },
    Unknown { reason: UnknownReason, evidence: Option<Evidence> },
}

impl CallFailure {
    pub(crate) fn not_sent(reason: NotSentReason, retry_after: Option<Duration>) -> Self {
        Self::NotSent { reason, retry_after }
    }

    pub(crate) fn unknown(reason: UnknownReason) -> Self {
        Self::Unknown { reason, evidence: None }
    }

    /// An earlier attempt that may have been written outweighs a later refusal to send.
    pub(super) fn prefer(unresolved: Option<AttemptFailure>, refusal: Self) -> Self {
        match unresolved {
            Some(failure) => Self::Unknown { reason: failure.reason, evidence: failure.evidence },
            None => refusal,
        }
    }

    pub(super) fn last(unresolved: Option<AttemptFailure>, failure: AttemptFailure) -> Self {
        match failure.written {
            Written::Maybe => Self::Unknown { reason: failure.reason, evidence: failure.evidence },
            Written::Nothing => {
                Self::prefer(unresolved, Self::not_sent(NotSentReason::Connect, failure.pause))
            }
        }
    }

    /// As the answer to a question.
    pub(crate) fn into_lookup(self) -> LookupOutcome {
        let reason = match self {
            Self::NotSent { reason, .. } => UnknownReason::NotAsked(reason),
            Self::Unknown { reason, .. } => reason,
        };
        LookupOutcome::Unknown { reason }
    }
}

impl From<CallFailure> for Outcome {
    fn from(failure: CallFailure) -> Self {
        match failure {
            CallFailure::NotSent { reason, retry_after } => Self::NotSent { reason, retry_after },
            CallFailure::Unknown { reason, evidence } => Self::Unknown { reason, evidence },
        }
    }
}
