//! Codes and words of Authorize.Net and what they mean to a caller.
//! An unknown code is never read as final where money may have moved.

use crate::outcome::{DeclineCategory, TransactionState};

pub(super) const DUPLICATE: &str = "11";
pub(super) const NOT_ELIGIBLE_FOR_CREDIT: &str = "54";
pub(super) const PARTLY_APPROVED: &str = "295";
pub(super) const ALREADY_VOIDED: &str = "310";
pub(super) const ALREADY_CAPTURED: &str = "311";
pub(super) const SUCCESSFUL: &str = "I00001";
pub(super) const NO_RECORDS: &str = "I00004";
pub(super) const NOT_FOUND: &str = "E00040";

/// A system error, or the server is too busy. It is not documented that nothing happened, so nothing is assumed.
pub(super) fn is_busy(code: &str) -> bool {
    matches!(code, "E00001" | "E00053")
}

/// The envelope was refused: the transaction was never looked at.
pub(super) fn is_refusal_before_processing(code: &str) -> bool {
    matches!(
        code,
        "E00002"
            | "E00003"
            | "E00004"
            | "E00005"
            | "E00006"
            | "E00007"
            | "E00008"
            | "E00009"
            | "E00013"
            | "E00014"
            | "E00015"
            | NOT_FOUND
    )
}

/// Whose matter a decline is, by reason code or envelope code.
pub(super) fn category(code: &str) -> DeclineCategory {
    match code {
        "13" | "17" | "28" | "35" | "84" | "103" | "test_mode" | "E00005" | "E00006" | "E00007"
        | "E00008" | "E00009" => DeclineCategory::Account,
        "19" | "20" | "21" | "22" | "23" | "25" | "26" | "57" | "58" | "59" | "60" | "61" | "62" | "63"
        | "153" => DeclineCategory::Processor,
        "5" | "11" | "12" | "16" | "33" | "47" | "54" | "55" | "155" | "310" | "311" => {
            DeclineCategory::Request
        }
        code if code.starts_with('E') => DeclineCategory::Request,
        _ => DeclineCategory::Card,
    }
}

/// What a `transactionStatus` shows.
pub(super) fn state(status: &str) -> TransactionState {
    match status {
        "authorizedPendingCapture" => TransactionState::Authorized,
        "capturedPendingSettlement"
        | "pendingSettlement"
        | "pendingFinalSettlement"
        | "updatingSettlement" => TransactionState::Captured,
        "settledSuccessfully" => TransactionState::Settled,
        "voided" => TransactionState::Voided,
        "refundPendingSettlement" | "refundSettledSuccessfully" => TransactionState::Refunded,
        "FDSPendingReview" | "FDSAuthorizedPendingReview" | "underReview" | "authorizedPendingRelease" => {
            TransactionState::Held
        }
        "declined" | "failedReview" | "generalError" | "communicationError" => TransactionState::Declined,
        "expired" => TransactionState::Expired,
        other => TransactionState::Other(other.to_owned()),
    }
}
