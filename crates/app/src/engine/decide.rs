//! Decides commands against the locked rows of a [`Book`], in arrival order. Pure: the same book and command give
//! the same decision. Gateway outcomes are decided in `settle`.

use uuid::Uuid;

use super::book::{AccountRow, BALANCE_MAX, Book, NewOperation, NewPayment, Posting, Rejection, RowState};
use super::command::{
    Answer, Capture, Command, CreatePayment, Decision, Dispatch, Group, GroupOutcome, OpenAccount, Pin,
    PlannedOperation, Refund, Refusal, Side, Submission, Verdict, Void,
};
use super::key::KeyClaim;
use super::model::{
    AccountRecord, AccountStatus, CaptureMode, ChargeOutcome, FailureCode, OperationKind, PaymentRecord,
    PaymentStatus, Rail, Reason,
};
use super::queue::Render;
use super::settle;

/// A new resource.
pub(super) const CREATED: u16 = 201;
/// A changed resource.
pub(super) const OK: u16 = 200;
/// The fence under which the request handler sends the first request of an operation.
const FIRST_FENCE: i32 = 1;

/// Decides one submission.
pub(super) fn decide(book: &mut Book, render: &Render, submission: &Submission) -> Decision {
    let claim = submission.claim.as_ref();
    if let Some(decision) = claim.and_then(|claim| check_key(book, claim)) {
        return decision;
    }
    let decision = match &submission.command {
        Command::OpenAccount(command) => open_account(book, render, claim, command),
        Command::CreatePayment(command) => create_payment(book, render, claim, command),
        Command::CreateAll(group) => create_all(book, render, claim, group),
        Command::Capture(command) => capture(book, render, claim, command),
        Command::Void(command) => void(book, render, claim, command),
        Command::Refund(command) => refund(book, render, claim, command),
        Command::Settle(command) => settle::settle(book, render, command),
        Command::Pin(command) => pin(book, claim, command),
    };
    match decision {
        Decision::Refused(refusal) if refusal.is_lasting() => keep_refusal(book, submission, refusal),
        decision => decision,
    }
}

/// Claims the key with the refusal as its answer, where the claim says how that is written.
fn keep_refusal(book: &mut Book, submission: &Submission, refusal: Refusal) -> Decision {
    let Some((claim, write)) =
        submission.claim.as_ref().and_then(|claim| Some((claim, claim.refusals.as_ref()?)))
    else {
        return Decision::Refused(refusal);
    };
    let answer = write.write(&refusal);
    let resource = submission.command.resource_id().unwrap_or(claim.digest);
    book.claim(claim, resource, Some((answer.status_code, answer.body.clone())));
    Decision::RefusalKept(answer)
}

/// What a key that was used before says about this request; `None` when the key is free.
fn check_key(book: &Book, claim: &KeyClaim) -> Option<Decision> {
    let row = book.keys.get(&claim.digest)?;
    if let Some(field) = claim.fingerprint.first_difference(&row.fingerprint) {
        return Some(Decision::Refused(Refusal::KeyReused(field)));
    }
    Some(match &row.answer {
        Some(body) => {
            Decision::Replayed(Answer { status_code: row.status_code, body: body.clone(), payment: None })
        }
        None => Decision::InProgress,
    })
}

/// Claims the key with its final answer and gives that answer.
fn answer(book: &mut Book, claim: Option<&KeyClaim>, resource: Uuid, answer: Answer) -> Decision {
    if let Some(claim) = claim {
        book.claim(claim, resource, Some((answer.status_code, answer.body.clone())));
    }
    Decision::Answered(answer)
}

fn open_account(
    book: &mut Book,
    render: &Render,
    claim: Option<&KeyClaim>,
    command: &OpenAccount,
) -> Decision {
    let mut record = AccountRecord {
        id: command.id,
        merchant_id: command.merchant_id,
        posted: 0,
        held: 0,
        overdraft_limit: command.overdraft_limit,
        entry_count: 0,
        currency: command.currency,
        status: AccountStatus::Active,
        kind: command.kind.clone(),
        customer: command.customer.clone(),
        metadata: command.metadata.clone(),
    };
    if let Some(opening) = command.opening_balance {
        let external = book.ensure_external(command.merchant_id, command.currency);
        let world = book.accounts.get(&external).expect("it was just made sure of");
        if world.available() < i128::from(opening.get()) {
            return Decision::Refused(Refusal::LimitExceeded);
        }
        book.open(record.clone());
        book.post(Posting {
            entry_id: command.id,
            payment_id: None,
            debit: external,
            credit: command.id,
            amount: opening.get(),
        });
        record.posted = opening.get();
        record.entry_count = 1;
    } else {
        book.open(record.clone());
    }
    let body = (render.account)(&record);
    answer(book, claim, command.id, Answer { status_code: CREATED, body, payment: None })
}

fn create_payment(
    book: &mut Book,
    render: &Render,
    claim: Option<&KeyClaim>,
    command: &CreatePayment,
) -> Decision {
    let from = match command.from {
        Some(id) => id,
        None => book.ensure_external(command.merchant_id, command.currency),
    };
    let failure = match judge(book, command, from) {
        Ok(failure) => failure,
        Err(refusal) => return Decision::Refused(refusal),
    };
    let mut record = new_record(command, from);
    if let Some(failure) = failure {
        record.status = PaymentStatus::Failed;
        record.failure = Some(failure);
    } else if command.rail == Rail::Book && command.capture == CaptureMode::Automatic {
        record.status = PaymentStatus::Succeeded;
        record.captured = record.amount;
        let (debit, credit, amount) = (from, command.to, record.amount);
        book.post(Posting { entry_id: record.id, payment_id: Some(record.id), debit, credit, amount });
    } else {
        record.status =
            if command.rail == Rail::Book { PaymentStatus::Authorized } else { PaymentStatus::Processing };
        book.change_account(from, |row| row.held += record.amount);
    }
    book.record_event(&record, Reason::Created, None);
    book.new_payments.push(NewPayment { record: record.clone(), fraud: command.fraud.clone() });
    match &command.operation {
        Some(plan) if record.status == PaymentStatus::Processing => {
            let kind = OperationKind::first(command.capture);
            send(book, claim, &record, plan, Effect { kind, amount: record.amount })
        }
        _ => {
            let body = (render.payment)(&record);
            let id = record.id;
            answer(book, claim, id, Answer { status_code: CREATED, body, payment: Some(Box::new(record)) })
        }
    }
}

/// Whether the payment can be created, and if so whether it fails at once.
fn judge(book: &Book, command: &CreatePayment, from: Uuid) -> Result<Option<FailureCode>, Refusal> {
    if from == command.to {
        return Err(Refusal::SameAccount);
    }
    let sender = nameable(book, command, from, Side::From)?;
    let receiver = nameable(book, command, command.to, Side::To)?;
    let amount = command.amount.get();
    Ok(if command.fraud.verdict == Verdict::Reject {
        Some(FailureCode::FraudRejected)
    } else if sender.available() < i128::from(amount) {
        Some(FailureCode::InsufficientFunds)
    } else if receiver.posted > BALANCE_MAX - amount {
        Some(FailureCode::LimitExceeded)
    } else {
        None
    })
}

fn nameable<'book>(
    book: &'book Book,
    command: &CreatePayment,
    id: Uuid,
    side: Side,
) -> Result<&'book AccountRow, Refusal> {
    let row = book.accounts.get(&id).filter(|row| row.merchant_id == command.merchant_id);
    // Only the service itself pays from an external account, by leaving `from` out.
    let row = row.filter(|row| !row.is_external() || (side == Side::From && command.from.is_none()));
    let row = row.ok_or(Refusal::AccountNotFound(side))?;
    if row.status != AccountStatus::Active {
        return Err(Refusal::AccountClosed(side));
    }
    if row.currency != command.currency {
        return Err(Refusal::CurrencyMismatch(side));
    }
    Ok(row)
}

fn new_record(command: &CreatePayment, from: Uuid) -> PaymentRecord {
    PaymentRecord {
        id: command.id,
        merchant_id: command.merchant_id,
        from,
        to: command.to,
        amount: command.amount.get(),
        captured: 0,
        refunded: 0,
        refunding: 0,
        currency: command.currency,
        rail: command.rail,
        status: PaymentStatus::Processing,
        failure: None,
        outcome: None,
        capture: command.capture,
        version: 1,
        updated_at: None,
        merchant_reference: command.merchant_reference.clone(),
        gateway_transaction: None,
        card_last_four: command.card_last_four.clone(),
        metadata: command.metadata.clone(),
    }
}

/// All of them or none: the first that is refused or fails undoes the others.
fn create_all(book: &mut Book, render: &Render, claim: Option<&KeyClaim>, group: &Group) -> Decision {
    // A member's key is claimed only together with its group's. One that is known without it was decided by itself, as
    // part of a batch that was not all or nothing, and what it did cannot be undone.
    if group.members.iter().any(|(member, _)| book.keys.contains_key(&member.digest)) {
        return Decision::Refused(Refusal::MemberDecided);
    }
    book.begin_group();
    let (applied, body) = match create_members(book, render, &group.members) {
        Ok(answers) => {
            book.keep_group();
            (true, (group.render)(GroupOutcome::Applied(&answers)))
        }
        Err((index, refusal)) => {
            book.roll_back_group();
            keep_rejections(book, &group.members);
            let count = group.members.len();
            (false, (group.render)(GroupOutcome::Refused { refusal: &refusal, index, count }))
        }
    };
    let kept = Answer { status_code: OK, body, payment: None };
    if let Some(claim) = claim {
        book.claim(claim, claim.digest, Some((kept.status_code, kept.body.clone())));
    }
    if applied { Decision::Answered(kept) } else { Decision::RefusalKept(kept) }
}

/// The decisions of the fraud rules are kept though nothing else of the group is: else their bounds and the blocklist
/// could be sounded without a trace.
fn keep_rejections(book: &mut Book, members: &[(KeyClaim, CreatePayment)]) {
    let rejected = members.iter().filter(|(_, command)| command.fraud.verdict == Verdict::Reject);
    book.rejections.extend(rejected.map(|(_, command)| Rejection {
        payment_id: command.id,
        merchant_id: command.merchant_id,
        fraud: command.fraud.clone(),
    }));
}

fn create_members(
    book: &mut Book,
    render: &Render,
    members: &[(KeyClaim, CreatePayment)],
) -> Result<Vec<Answer>, (usize, Refusal)> {
    let mut answers = Vec::with_capacity(members.len());
    for (index, (claim, command)) in members.iter().enumerate() {
        let answer = match create_payment(book, render, Some(claim), command) {
            Decision::Answered(answer) => answer,
            Decision::Refused(refusal) => return Err((index, refusal)),
            // Members are book payments, which are answered in the commit that creates them.
            _ => return Err((index, Refusal::StaleFence)),
        };
        if let Some(failure) = answer.payment.as_ref().and_then(|payment| payment.failure) {
            return Err((index, Refusal::WouldFail(failure)));
        }
        answers.push(answer);
    }
    Ok(answers)
}

/// What a gateway is asked to do.
#[derive(Clone, Copy)]
struct Effect {
    kind: OperationKind,
    amount: i64,
}

/// Commits an operation for the caller to send, under a key whose answer waits for its outcome.
fn send(
    book: &mut Book,
    claim: Option<&KeyClaim>,
    payment: &PaymentRecord,
    plan: &PlannedOperation,
    effect: Effect,
) -> Decision {
    if let Some(claim) = claim {
        book.claim(claim, payment.id, None);
    }
    book.new_operations.push(NewOperation {
        plan: plan.clone(),
        merchant_id: payment.merchant_id,
        payment_id: payment.id,
        kind: effect.kind,
        rail: payment.rail,
        amount: effect.amount,
        key_digest: claim.map(|claim| claim.digest),
        parent_transaction: payment.gateway_transaction.clone(),
        card_last_four: payment.card_last_four.clone(),
    });
    Decision::Send(Box::new(Dispatch {
        payment: payment.clone(),
        operation: plan.clone(),
        kind: effect.kind,
        amount: effect.amount,
        fence: FIRST_FENCE,
        key_digest: claim.map(|claim| claim.digest),
        refusals: claim.and_then(|claim| claim.refusals.clone()),
    }))
}

/// The payment under lock, for a change that needs one of `states`.
fn locked(book: &Book, read: &PaymentRecord, states: &[PaymentStatus]) -> Result<PaymentRecord, Refusal> {
    let (record, _) = book.payments.get(&read.id).ok_or(Refusal::PaymentNotFound)?;
    if states.contains(&record.status) { Ok(record.clone()) } else { Err(Refusal::WrongState(record.status)) }
}

fn capture(book: &mut Book, render: &Render, claim: Option<&KeyClaim>, command: &Capture) -> Decision {
    let mut payment =
        match locked(book, &command.payment, &[PaymentStatus::Authorized, PaymentStatus::Succeeded]) {
            Ok(payment) => payment,
            Err(refusal) => return Decision::Refused(refusal),
        };
    let amount = command.amount.map_or(payment.amount, |amount| amount.get());
    if payment.status == PaymentStatus::Succeeded {
        // Captured before: the same amount is the same wish, another one contradicts what happened.
        if payment.capture == CaptureMode::Automatic
            || (command.amount.is_some() && amount != payment.captured)
        {
            return Decision::Refused(Refusal::WrongState(payment.status));
        }
        return unchanged(book, render, claim, payment);
    }
    if amount > payment.amount {
        return Decision::Refused(Refusal::MoreThanLeft(payment.amount));
    }
    if !has_room(book, payment.to, amount) {
        return Decision::Refused(Refusal::LimitExceeded);
    }
    if let Some(plan) = &command.operation {
        return request(book, claim, payment, plan, Effect { kind: OperationKind::Capture, amount });
    }
    settle::move_held(book, &mut payment, amount);
    finish(book, render, claim, payment, Reason::Captured, OK)
}

fn void(book: &mut Book, render: &Render, claim: Option<&KeyClaim>, command: &Void) -> Decision {
    let mut payment =
        match locked(book, &command.payment, &[PaymentStatus::Authorized, PaymentStatus::Cancelled]) {
            Ok(payment) => payment,
            Err(refusal) => return Decision::Refused(refusal),
        };
    if payment.status == PaymentStatus::Cancelled {
        return unchanged(book, render, claim, payment);
    }
    if let Some(plan) = &command.operation {
        let amount = payment.amount;
        return request(book, claim, payment, plan, Effect { kind: OperationKind::Void, amount });
    }
    settle::release_held(book, &payment);
    payment.status = PaymentStatus::Cancelled;
    finish(book, render, claim, payment, Reason::Voided, OK)
}

fn refund(book: &mut Book, render: &Render, claim: Option<&KeyClaim>, command: &Refund) -> Decision {
    let states = [PaymentStatus::Succeeded, PaymentStatus::PartiallyRefunded];
    let mut payment = match locked(book, &command.payment, &states) {
        Ok(payment) => payment,
        Err(refusal) => return Decision::Refused(refusal),
    };
    let left = payment.refundable();
    let amount = command.amount.map_or(left, |amount| amount.get());
    if amount > left || left == 0 {
        let at_best = left + payment.refunding;
        let may_pass = amount.max(1) <= at_best;
        let refusal = if may_pass { Refusal::RefundUnderWay(left) } else { Refusal::MoreThanLeft(left) };
        return Decision::Refused(refusal);
    }
    let giver = book.accounts.get(&payment.to).expect("the accounts of a loaded payment are loaded with it");
    if giver.available() < i128::from(amount) {
        return Decision::Refused(Refusal::InsufficientFunds);
    }
    if !has_room(book, payment.from, amount) {
        return Decision::Refused(Refusal::LimitExceeded);
    }
    if let Some(plan) = &command.operation {
        book.change_account(payment.to, |row| row.held += amount);
        payment.refunding += amount;
        return request(book, claim, payment, plan, Effect { kind: OperationKind::Refund, amount });
    }
    settle::move_back(book, &mut payment, amount);
    finish(book, render, claim, payment, Reason::Refunded, CREATED)
}

/// Whether an account of a loaded payment can take `amount`.
fn has_room(book: &Book, id: Uuid, amount: i64) -> bool {
    book.accounts.get(&id).is_some_and(|row| row.posted <= BALANCE_MAX - amount)
}

/// Commits a further gateway operation on an existing payment.
fn request(
    book: &mut Book,
    claim: Option<&KeyClaim>,
    mut payment: PaymentRecord,
    plan: &PlannedOperation,
    effect: Effect,
) -> Decision {
    // A refund leaves the payment succeeded while it is under way; a capture or void puts its state in question.
    if effect.kind != OperationKind::Refund {
        payment.status = PaymentStatus::Processing;
        payment.outcome = None;
    }
    touch(book, &mut payment, Reason::Requested, None);
    send(book, claim, &payment, plan, effect)
}

/// Stores a change of a payment with its event.
pub(super) fn touch(book: &mut Book, payment: &mut PaymentRecord, reason: Reason, evidence: Option<String>) {
    payment.version += 1;
    payment.updated_at = Some(book.now);
    book.record_event(payment, reason, evidence);
    book.payments.insert(payment.id, (payment.clone(), RowState::Changed));
}

fn finish(
    book: &mut Book,
    render: &Render,
    claim: Option<&KeyClaim>,
    mut payment: PaymentRecord,
    reason: Reason,
    status_code: u16,
) -> Decision {
    touch(book, &mut payment, reason, None);
    let body = (render.payment)(&payment);
    let id = payment.id;
    answer(book, claim, id, Answer { status_code, body, payment: Some(Box::new(payment)) })
}

/// The wish was fulfilled before: the present state is the answer.
fn unchanged(book: &mut Book, render: &Render, claim: Option<&KeyClaim>, payment: PaymentRecord) -> Decision {
    let body = (render.payment)(&payment);
    let id = payment.id;
    answer(book, claim, id, Answer { status_code: OK, body, payment: Some(Box::new(payment)) })
}

fn pin(book: &mut Book, claim: Option<&KeyClaim>, command: &Pin) -> Decision {
    let kept = Answer { status_code: command.status_code, body: command.body.clone(), payment: None };
    answer(book, claim, command.resource_id, kept)
}

/// Whether the last word of a gateway leaves the payment waiting.
pub(super) fn is_open(outcome: ChargeOutcome) -> bool {
    matches!(outcome, ChargeOutcome::Unknown | ChargeOutcome::Held)
}
