//! Captures, voids, refunds and the review of held transactions.
//! Repeats answer as if approved with 311 and 310; credits need a settled charge (54) and stay within it (55).

use time::OffsetDateTime;

use super::{
    charge::{amount, auth_code, duplicate, fingerprint},
    wire::TransactionResponse,
};
use crate::simulator::{
    ledger::{Kind, Ledger, Status, Transaction},
    ordered::Ordered,
};

const APPROVED: &str = "This transaction has been approved.";

fn parent_id(request: &Ordered) -> Option<u64> {
    request.text(&["refTransId"])?.parse().ok()
}

fn not_found() -> TransactionResponse {
    TransactionResponse::error("16", "The transaction cannot be found.")
}

/// The reference that an effect on a parent is counted under: the request's own, or the parent's.
fn counted_under(ref_id: Option<&str>, parent: &Transaction) -> String {
    ref_id.unwrap_or(&parent.reference).to_owned()
}

pub(super) fn capture(
    ledger: &mut Ledger,
    request: &Ordered,
    ref_id: Option<&str>,
    now: OffsetDateTime,
) -> TransactionResponse {
    let Some(parent) = parent_id(request).and_then(|id| ledger.get(id)).cloned() else { return not_found() };
    let wanted = amount(request).unwrap_or(parent.amount);
    match parent.status {
        Status::Authorized if wanted.scaled() > parent.amount.scaled() => TransactionResponse::error(
            "47",
            "The amount requested for settlement cannot be greater than the original amount authorized.",
        ),
        Status::Authorized => {
            ledger.capture(parent.id, wanted, now);
            ledger.count(&counted_under(ref_id, &parent), |effects| effects.capture += 1);
            TransactionResponse::of_parent(&parent, "1", APPROVED)
        }
        Status::Captured | Status::Settled => {
            TransactionResponse::of_parent(&parent, "311", "This transaction has already been captured.")
        }
        _ => not_found(),
    }
}

pub(super) fn void(ledger: &mut Ledger, request: &Ordered, ref_id: Option<&str>) -> TransactionResponse {
    let Some(parent) = parent_id(request).and_then(|id| ledger.get_mut(id)) else { return not_found() };
    match parent.status {
        Status::Authorized | Status::Captured | Status::Held | Status::RefundPending => {
            parent.status = Status::Voided;
            let parent = parent.clone();
            ledger.count(&counted_under(ref_id, &parent), |effects| effects.void += 1);
            TransactionResponse::of_parent(&parent, "1", APPROVED)
        }
        Status::Voided => {
            TransactionResponse::of_parent(parent, "310", "This transaction has already been voided.")
        }
        Status::Settled | Status::Declined | Status::Expired | Status::RefundSettled => not_found(),
    }
}

pub(super) fn refund(ledger: &mut Ledger, request: &Ordered, now: OffsetDateTime) -> TransactionResponse {
    let Some(amount) = amount(request) else {
        return TransactionResponse::error("5", "A valid amount is required.");
    };
    if let Some(refusal) = duplicate(ledger, request, now) {
        return refusal;
    }
    let not_eligible = || {
        let text = "The referenced transaction does not meet the criteria for issuing a credit.";
        TransactionResponse::error("54", text)
    };
    let Some(parent) = parent_id(request).and_then(|id| ledger.get_mut(id)) else { return not_eligible() };
    let number = request.text(&["payment", "creditCard", "cardNumber"]).unwrap_or_default();
    if parent.status != Status::Settled || !number.ends_with(&parent.last4) {
        return not_eligible();
    }
    let charged = parent.captured.unwrap_or(parent.amount);
    if parent.refunded_scaled + amount.scaled() > charged.scaled() {
        return TransactionResponse::error(
            "55",
            "The sum of credits against the referenced transaction is too large.",
        );
    }
    parent.refunded_scaled += amount.scaled();
    let parent = parent.clone();
    let reference = request.text(&["order", "invoiceNumber"]).unwrap_or(&parent.reference).to_owned();
    ledger.count(&reference, |effects| effects.refund += 1);
    let id = ledger.add(now, |id| Transaction {
        id,
        kind: Kind::Refund,
        status: Status::RefundPending,
        reference,
        parent: Some(parent.id),
        amount,
        captured: None,
        refunded_scaled: 0,
        auth_code: auth_code(id),
        submitted_at: now,
        operations: Vec::new(),
        ..parent
    });
    ledger.duplicates.insert(fingerprint(request), (now, id));
    ledger.get(id).map_or_else(not_found, TransactionResponse::of)
}

/// `updateHeldTransactionRequest`: approve or decline a held transaction.
pub(super) fn decide_held(
    ledger: &mut Ledger,
    content: &Ordered,
    now: OffsetDateTime,
) -> TransactionResponse {
    let action = content.text(&["heldTransactionRequest", "action"]).unwrap_or_default().to_owned();
    let id = content.text(&["heldTransactionRequest", "refTransId"]).and_then(|text| text.parse().ok());
    let Some(held) =
        id.and_then(|id: u64| ledger.get(id)).filter(|held| held.status == Status::Held).cloned()
    else {
        return not_found();
    };
    match (action.as_str(), held.kind) {
        ("approve", Kind::Authorize) => {
            if let Some(held) = ledger.get_mut(held.id) {
                held.status = Status::Authorized;
            }
        }
        ("approve", _) => ledger.capture(held.id, held.amount, now),
        ("decline", _) => {
            if let Some(held) = ledger.get_mut(held.id) {
                held.status = Status::Declined;
            }
        }
        _ => return TransactionResponse::error("33", "action is approve or decline"),
    }
    TransactionResponse::of_parent(&held, "1", APPROVED)
}
