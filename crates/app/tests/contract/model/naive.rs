//! The engine as a child would write it: maps, one command at a time, no database. What it says, the engine must say.
//! Knows nothing of batches, locks or commits.

use std::collections::BTreeMap;

use paystrata_app::engine::{
    CaptureMode, ChargeOutcome, Command, CreatePayment, FailureCode, OpenAccount, OperationKind,
    PaymentStatus, Rail, Refusal, Settlement, Side, Submission, Verdict,
};
use uuid::Uuid;

/// What a command must be answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// An account was opened.
    Opened,
    /// A payment as it now is.
    Payment { status: PaymentStatus, captured: i64, refunded: i64, failure: Option<FailureCode> },
    /// A gateway must be asked.
    Send(OperationKind),
    /// What was answered before.
    Replayed,
    /// The first is under way.
    InProgress,
    /// Nothing was done.
    Refused(Refusal),
}

#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) posted: i64,
    pub(crate) held: i64,
    pub(crate) entries: i64,
    limit: i64,
    currency: String,
}

#[derive(Clone, Debug)]
struct Payment {
    from: Uuid,
    to: Uuid,
    amount: i64,
    captured: i64,
    refunded: i64,
    refunding: i64,
    rail: Rail,
    capture: CaptureMode,
    status: PaymentStatus,
    failure: Option<FailureCode>,
}

#[derive(Clone, Debug)]
struct Operation {
    payment: Uuid,
    kind: OperationKind,
    amount: i64,
    open: Open,
    key: Option<Uuid>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Yes,
    No,
}

#[derive(Clone, Debug)]
struct Key {
    fingerprint: Vec<u8>,
    answered: Open,
}

/// All state there is.
#[derive(Debug, Default)]
pub(crate) struct Naive {
    pub(crate) accounts: BTreeMap<Uuid, Account>,
    pub(crate) opened_total: i64,
    payments: BTreeMap<Uuid, Payment>,
    operations: BTreeMap<Uuid, Operation>,
    keys: BTreeMap<Uuid, Key>,
}

impl Naive {
    /// Does one command.
    pub(crate) fn apply(&mut self, submission: &Submission) -> Expected {
        if let Some(claim) = &submission.claim
            && let Some(key) = self.keys.get(&claim.digest)
        {
            return match claim.fingerprint.first_difference(&key.fingerprint) {
                Some(field) => Expected::Refused(Refusal::KeyReused(field)),
                None if key.answered == Open::Yes => Expected::InProgress,
                None => Expected::Replayed,
            };
        }
        let key = submission.claim.as_ref().map(|claim| claim.digest);
        let done = match &submission.command {
            Command::OpenAccount(open) => Ok(self.open(open)),
            Command::CreatePayment(create) => self.create(create, key),
            Command::Capture(capture) => {
                let plan = capture.operation.as_ref().map(|plan| plan.id);
                self.capture(capture.payment.id, capture.amount.map(|amount| amount.get()), plan, key)
            }
            Command::Void(void) => {
                self.void(void.payment.id, void.operation.as_ref().map(|plan| plan.id), key)
            }
            Command::Refund(refund) => {
                let plan = refund.operation.as_ref().map(|plan| plan.id);
                self.refund(refund.payment.id, refund.amount.map(|amount| amount.get()), plan, key)
            }
            Command::Settle(settlement) => self.settle(settlement),
            other => panic!("the model is not asked for {other:?}"),
        };
        match done {
            Ok(expected) => {
                if let Some(claim) = &submission.claim {
                    let answered = if matches!(expected, Expected::Send(_)) { Open::Yes } else { Open::No };
                    let fingerprint = claim.fingerprint.as_bytes().to_vec();
                    self.keys.insert(claim.digest, Key { fingerprint, answered });
                }
                expected
            }
            Err(refusal) => Expected::Refused(refusal),
        }
    }

    fn open(&mut self, open: &OpenAccount) -> Expected {
        let posted = open.opening_balance.map_or(0, |amount| amount.get());
        self.opened_total += posted;
        let account = Account {
            posted,
            held: 0,
            entries: i64::from(posted > 0),
            limit: open.overdraft_limit,
            currency: open.currency.code().to_owned(),
        };
        self.accounts.insert(open.id, account);
        Expected::Opened
    }

    fn create(&mut self, create: &CreatePayment, key: Option<Uuid>) -> Result<Expected, Refusal> {
        let from = create.from.expect("the model pays from accounts only");
        if from == create.to {
            return Err(Refusal::SameAccount);
        }
        for (id, side) in [(from, Side::From), (create.to, Side::To)] {
            let account = self.accounts.get(&id).ok_or(Refusal::AccountNotFound(side))?;
            if account.currency != create.currency.code() {
                return Err(Refusal::CurrencyMismatch(side));
            }
        }
        let amount = create.amount.get();
        let failure = if create.fraud.verdict == Verdict::Reject {
            Some(FailureCode::FraudRejected)
        } else if self.available(from) < amount {
            Some(FailureCode::InsufficientFunds)
        } else {
            None
        };
        let payment = Payment {
            from,
            to: create.to,
            amount,
            captured: 0,
            refunded: 0,
            refunding: 0,
            rail: create.rail,
            capture: create.capture,
            status: if failure.is_some() { PaymentStatus::Failed } else { PaymentStatus::Processing },
            failure,
        };
        self.payments.insert(create.id, payment);
        if failure.is_some() {
            return Ok(self.show(create.id));
        }
        self.account(from).held += amount;
        match (create.rail, create.capture) {
            (Rail::Book, CaptureMode::Automatic) => self.take(create.id, amount),
            (Rail::Book, CaptureMode::Manual) => self.payment(create.id).status = PaymentStatus::Authorized,
            _ => {
                let plan = create.operation.as_ref().map(|plan| plan.id);
                return Ok(self.send(create.id, plan, OperationKind::first(create.capture), amount, key));
            }
        }
        Ok(self.show(create.id))
    }

    fn capture(
        &mut self,
        id: Uuid,
        asked: Option<i64>,
        plan: Option<Uuid>,
        key: Option<Uuid>,
    ) -> Result<Expected, Refusal> {
        let payment = self.payments.get(&id).ok_or(Refusal::PaymentNotFound)?.clone();
        let amount = asked.unwrap_or(payment.amount);
        match payment.status {
            PaymentStatus::Authorized if amount > payment.amount => {
                Err(Refusal::MoreThanLeft(payment.amount))
            }
            PaymentStatus::Authorized if payment.rail == Rail::Book => {
                self.take(id, amount);
                Ok(self.show(id))
            }
            PaymentStatus::Authorized => {
                self.payment(id).status = PaymentStatus::Processing;
                Ok(self.send(id, plan, OperationKind::Capture, amount, key))
            }
            PaymentStatus::Succeeded
                if payment.capture == CaptureMode::Manual
                    && asked.is_none_or(|asked| asked == payment.captured) =>
            {
                Ok(self.show(id))
            }
            status => Err(Refusal::WrongState(status)),
        }
    }

    fn void(&mut self, id: Uuid, plan: Option<Uuid>, key: Option<Uuid>) -> Result<Expected, Refusal> {
        let payment = self.payments.get(&id).ok_or(Refusal::PaymentNotFound)?.clone();
        match (payment.status, payment.rail) {
            (PaymentStatus::Cancelled, _) => Ok(self.show(id)),
            (PaymentStatus::Authorized, Rail::Book) => {
                self.release(id, PaymentStatus::Cancelled);
                Ok(self.show(id))
            }
            (PaymentStatus::Authorized, _) => {
                self.payment(id).status = PaymentStatus::Processing;
                Ok(self.send(id, plan, OperationKind::Void, payment.amount, key))
            }
            (status, _) => Err(Refusal::WrongState(status)),
        }
    }

    fn refund(
        &mut self,
        id: Uuid,
        asked: Option<i64>,
        plan: Option<Uuid>,
        key: Option<Uuid>,
    ) -> Result<Expected, Refusal> {
        let payment = self.payments.get(&id).ok_or(Refusal::PaymentNotFound)?.clone();
        if !matches!(payment.status, PaymentStatus::Succeeded | PaymentStatus::PartiallyRefunded) {
            return Err(Refusal::WrongState(payment.status));
        }
        let left = payment.captured - payment.refunded - payment.refunding;
        let amount = asked.unwrap_or(left);
        if left == 0 || amount > left {
            let passes = amount <= left + payment.refunding && left + payment.refunding > 0;
            return Err(if passes { Refusal::RefundUnderWay(left) } else { Refusal::MoreThanLeft(left) });
        }
        if self.available(payment.to) < amount {
            return Err(Refusal::InsufficientFunds);
        }
        if payment.rail == Rail::Book {
            self.give_back(id, amount);
            return Ok(self.show(id));
        }
        self.account(payment.to).held += amount;
        self.payment(id).refunding += amount;
        Ok(self.send(id, plan, OperationKind::Refund, amount, key))
    }

    fn settle(&mut self, settlement: &Settlement) -> Result<Expected, Refusal> {
        let operation = self.operations.get(&settlement.operation_id).ok_or(Refusal::StaleFence)?.clone();
        if operation.open == Open::No || settlement.fence != 1 {
            return Err(Refusal::StaleFence);
        }
        let (id, approved) = (operation.payment, settlement.outcome == ChargeOutcome::Approved);
        match (operation.kind, settlement.outcome) {
            (_, ChargeOutcome::Unknown) => {}
            (OperationKind::Purchase | OperationKind::Authorize, ChargeOutcome::Held) => {
                self.payment(id).status = PaymentStatus::RequiresReview;
            }
            (_, ChargeOutcome::Held) => {}
            (OperationKind::Purchase | OperationKind::Capture, ChargeOutcome::Approved) => {
                self.take(id, operation.amount);
            }
            (OperationKind::Authorize, ChargeOutcome::Approved) => {
                self.payment(id).status = PaymentStatus::Authorized;
            }
            (OperationKind::Void, ChargeOutcome::Approved) => self.release(id, PaymentStatus::Cancelled),
            (OperationKind::Purchase | OperationKind::Authorize, refused) => {
                self.release(id, PaymentStatus::Failed);
                let never = refused == ChargeOutcome::NotSent;
                self.payment(id).failure =
                    Some(if never { FailureCode::GatewayUnavailable } else { FailureCode::Declined });
            }
            (OperationKind::Capture | OperationKind::Void, _) => {
                self.payment(id).status = PaymentStatus::Authorized;
            }
            (OperationKind::Refund, _) => {
                let to = self.payment(id).to;
                self.account(to).held -= operation.amount;
                self.payment(id).refunding -= operation.amount;
                if approved {
                    self.give_back(id, operation.amount);
                }
            }
        }
        if !matches!(settlement.outcome, ChargeOutcome::Unknown | ChargeOutcome::Held) {
            self.operations.get_mut(&settlement.operation_id).expect("found above").open = Open::No;
        }
        if let Some(key) = operation.key.and_then(|key| self.keys.get_mut(&key)) {
            key.answered = Open::No;
        }
        Ok(self.show(id))
    }

    fn send(
        &mut self,
        payment: Uuid,
        plan: Option<Uuid>,
        kind: OperationKind,
        amount: i64,
        key: Option<Uuid>,
    ) -> Expected {
        let id = plan.expect("gateway rails come with an operation");
        self.operations.insert(id, Operation { payment, kind, amount, open: Open::Yes, key });
        Expected::Send(kind)
    }

    /// Posts `amount` of what is held and releases the rest.
    fn take(&mut self, id: Uuid, amount: i64) {
        self.release(id, PaymentStatus::Succeeded);
        self.payment(id).captured = amount;
        let (from, to) = (self.payment(id).from, self.payment(id).to);
        self.post(from, to, amount);
    }

    fn release(&mut self, id: Uuid, status: PaymentStatus) {
        let payment = self.payment(id);
        payment.status = status;
        let (from, amount) = (payment.from, payment.amount);
        self.account(from).held -= amount;
    }

    fn give_back(&mut self, id: Uuid, amount: i64) {
        let payment = self.payment(id);
        payment.refunded += amount;
        let whole = payment.refunded == payment.captured;
        payment.status = if whole { PaymentStatus::Refunded } else { PaymentStatus::PartiallyRefunded };
        let (from, to) = (payment.from, payment.to);
        self.post(to, from, amount);
    }

    fn post(&mut self, debit: Uuid, credit: Uuid, amount: i64) {
        for (id, change) in [(debit, -amount), (credit, amount)] {
            let account = self.account(id);
            account.posted += change;
            account.entries += 1;
        }
    }

    fn available(&self, id: Uuid) -> i64 {
        let account = &self.accounts[&id];
        account.posted - account.held + account.limit
    }

    fn account(&mut self, id: Uuid) -> &mut Account {
        self.accounts.get_mut(&id).expect("payments name accounts that exist")
    }

    fn payment(&mut self, id: Uuid) -> &mut Payment {
        self.payments.get_mut(&id).expect("found before")
    }

    fn show(&self, id: Uuid) -> Expected {
        let payment = &self.payments[&id];
        Expected::Payment {
            status: payment.status,
            captured: payment.captured,
            refunded: payment.refunded,
            failure: payment.failure,
        }
    }
}
