//! Applies what a gateway said to the payment and its hold. A settlement under an old fence, or of an operation that
//! is settled already, changes nothing: whoever holds the newer fence has asked again.

use super::book::{Book, OperationRow, Posting, RowState};
use super::command::{Answer, Decision, Refusal, Settlement};
use super::decide::{CREATED, OK, is_open, touch};
use super::model::{
    ChargeOutcome, FailureCode, OperationKind, OperationStatus, PaymentRecord, PaymentStatus, Reason,
};
use super::queue::Render;
use crate::ids::EntryId;

pub(super) fn settle(book: &mut Book, render: &Render, command: &Settlement) -> Decision {
    let stale = Decision::Refused(Refusal::StaleFence);
    let Some(operation) = book.operations.get(&command.operation_id).cloned() else { return stale };
    let Some((mut payment, _)) = book.payments.get(&command.payment.id).cloned() else { return stale };
    if operation.fence != command.fence || !is_unsettled(operation.status) {
        return stale;
    }
    apply(book, &mut payment, &operation, command.outcome);
    payment.outcome = outcome_shown(&payment, operation.kind, command.outcome);
    if payment.gateway_transaction.is_none() {
        payment.gateway_transaction.clone_from(&command.evidence.transaction);
    }
    let reason =
        if command.outcome == ChargeOutcome::Unknown { Reason::OutcomeUnknown } else { Reason::Settled };
    // Asking again and learning nothing is not an event: the resolver may ask many times.
    let learned_nothing = matches!(
        (command.outcome, operation.status),
        (ChargeOutcome::Unknown, OperationStatus::Unknown) | (ChargeOutcome::Held, OperationStatus::Held)
    );
    if !learned_nothing {
        touch(book, &mut payment, reason, command.evidence.text.clone());
    }
    let settled = OperationRow {
        status: status_after(command.outcome),
        retry_in_ms: command.retry_in_ms,
        evidence: command.evidence.clone(),
        state: RowState::Changed,
        ..operation
    };
    let kind = settled.kind;
    book.operations.insert(command.operation_id, settled);
    let answer = written(render, command, kind, payment);
    if let Some(digest) = command.key_digest {
        book.pin(digest, answer.status_code, &answer.body);
    }
    Decision::Answered(answer)
}

/// The payment as it is now; or, when a change of an existing payment came to nothing, the problem that says so.
fn written(render: &Render, command: &Settlement, kind: OperationKind, payment: PaymentRecord) -> Answer {
    let refusal = match command.outcome {
        ChargeOutcome::Declined if !is_first(kind) => Some(Refusal::Declined),
        ChargeOutcome::NotSent if !is_first(kind) => Some(Refusal::GatewayUnavailable),
        _ => None,
    };
    if let (Some(refusal), Some(write)) = (refusal, &command.refusals) {
        return Answer { payment: Some(Box::new(payment)), ..write.write(&refusal) };
    }
    let status_code = if matches!(kind, OperationKind::Capture | OperationKind::Void) { OK } else { CREATED };
    Answer { status_code, body: (render.payment)(&payment), payment: Some(Box::new(payment)) }
}

/// A charge or an authorisation: what a payment begins with.
fn is_first(kind: OperationKind) -> bool {
    matches!(kind, OperationKind::Purchase | OperationKind::Authorize)
}

/// A payment shows what the gateway said to its charge. A later change shows only while it is open; it was asked for
/// because the charge had been approved, and approved the charge remains.
fn outcome_shown(
    payment: &PaymentRecord,
    kind: OperationKind,
    outcome: ChargeOutcome,
) -> Option<ChargeOutcome> {
    if is_first(kind) || is_open(outcome) {
        return Some(outcome);
    }
    // Another refund of the same payment is under way: what is known of that one stays.
    let refund_open = kind == OperationKind::Refund && payment.refunding > 0;
    if refund_open { payment.outcome } else { Some(ChargeOutcome::Approved) }
}

fn is_unsettled(status: OperationStatus) -> bool {
    matches!(
        status,
        OperationStatus::Sending | OperationStatus::Unknown | OperationStatus::Held | OperationStatus::Manual
    )
}

fn status_after(outcome: ChargeOutcome) -> OperationStatus {
    match outcome {
        ChargeOutcome::Approved => OperationStatus::Succeeded,
        ChargeOutcome::Declined => OperationStatus::Declined,
        ChargeOutcome::Held => OperationStatus::Held,
        ChargeOutcome::NotSent => OperationStatus::NotSent,
        ChargeOutcome::Unknown => OperationStatus::Unknown,
    }
}

fn apply(book: &mut Book, payment: &mut PaymentRecord, operation: &OperationRow, outcome: ChargeOutcome) {
    if is_open(outcome) {
        // The hold stays; only a person or the gateway can end this.
        let first = matches!(operation.kind, OperationKind::Purchase | OperationKind::Authorize);
        if outcome == ChargeOutcome::Held && first {
            payment.status = PaymentStatus::RequiresReview;
        }
        return;
    }
    let approved = outcome == ChargeOutcome::Approved;
    match operation.kind {
        OperationKind::Purchase if approved => move_held(book, payment, operation.amount),
        OperationKind::Authorize if approved => payment.status = PaymentStatus::Authorized,
        OperationKind::Purchase | OperationKind::Authorize => {
            release_held(book, payment);
            payment.status = PaymentStatus::Failed;
            payment.failure = Some(match outcome {
                ChargeOutcome::NotSent => FailureCode::GatewayUnavailable,
                _ => FailureCode::Declined,
            });
        }
        OperationKind::Capture if approved => move_held(book, payment, operation.amount),
        OperationKind::Void if approved => {
            release_held(book, payment);
            payment.status = PaymentStatus::Cancelled;
        }
        // What was authorised still is.
        OperationKind::Capture | OperationKind::Void => payment.status = PaymentStatus::Authorized,
        OperationKind::Refund => {
            book.change_account(payment.to, |row| row.held -= operation.amount);
            payment.refunding -= operation.amount;
            if approved {
                move_back(book, payment, operation.amount);
            }
        }
    }
}

/// Posts `amount` of what the sender holds for this payment and releases the rest of the hold.
pub(super) fn move_held(book: &mut Book, payment: &mut PaymentRecord, amount: i64) {
    release_held(book, payment);
    let entry_id = EntryId::new().0;
    let (debit, credit) = (payment.from, payment.to);
    book.post(Posting { entry_id, payment_id: Some(payment.id), debit, credit, amount });
    payment.captured = amount;
    payment.status = PaymentStatus::Succeeded;
}

/// Releases all that the sender holds for this payment.
pub(super) fn release_held(book: &mut Book, payment: &PaymentRecord) {
    book.change_account(payment.from, |row| row.held -= payment.amount);
}

/// Posts `amount` back from the receiver to the sender.
pub(super) fn move_back(book: &mut Book, payment: &mut PaymentRecord, amount: i64) {
    let entry_id = EntryId::new().0;
    let (debit, credit) = (payment.to, payment.from);
    book.post(Posting { entry_id, payment_id: Some(payment.id), debit, credit, amount });
    payment.refunded += amount;
    payment.status = if payment.refunded == payment.captured {
        PaymentStatus::Refunded
    } else {
        PaymentStatus::PartiallyRefunded
    };
}
