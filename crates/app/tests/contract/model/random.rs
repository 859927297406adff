//! Random commands for the model test: mostly sensible, sometimes not, and now and then one that was sent before. Holds
//! what the callers have learned from replies; decides nothing.

use paystrata_app::engine::{
    Capture, CaptureMode, ChargeOutcome, Command, CreatePayment, Dispatch, Evidence, FingerprintBuilder,
    FraudDecision, KeyClaim, PaymentRecord, Rail, Refund, Settlement, Submission, Verdict, Void,
};
use paystrata_app::money::Amount;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

use crate::states::{account, plan};

/// Few accounts, so that callers meet.
const ACCOUNTS_MAX: usize = 8;
/// What is remembered for changes and replays; older is forgotten.
const KNOWN_MAX: usize = 64;

/// What has been learned so far, and the source of chance.
#[derive(Debug)]
pub(crate) struct Dice {
    random: StdRng,
    merchant: Uuid,
    accounts: Vec<Uuid>,
    payments: Vec<PaymentRecord>,
    operations: Vec<Dispatch>,
    sent: Vec<Submission>,
    keys: u64,
}

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            merchant: Uuid::now_v7(),
            accounts: Vec::new(),
            payments: Vec::new(),
            operations: Vec::new(),
            sent: Vec::new(),
            keys: 0,
        }
    }

    /// Notes a payment that a reply told of.
    pub(crate) fn learn_payment(&mut self, payment: &PaymentRecord) {
        remember(&mut self.payments, payment.clone());
    }

    /// Notes an operation that a reply asked to send.
    pub(crate) fn learn_operation(&mut self, dispatch: &Dispatch) {
        remember(&mut self.operations, dispatch.clone());
        self.learn_payment(&dispatch.payment);
    }

    /// The next command with its key.
    pub(crate) fn roll(&mut self) -> Submission {
        if self.accounts.len() < ACCOUNTS_MAX {
            return self.open();
        }
        let submission = match self.random.random_range(0..100) {
            0..45 => self.create(),
            45..70 if !self.payments.is_empty() => self.change(),
            70..88 if !self.operations.is_empty() => return self.settle(),
            88..96 if !self.sent.is_empty() => return self.resend(),
            96..100 if !self.sent.is_empty() => return self.mismatch(),
            _ => self.create(),
        };
        remember(&mut self.sent, submission.clone());
        submission
    }

    fn open(&mut self) -> Submission {
        let opening_balance = i64::from(self.random.random_range(0..3_u8)) * 100;
        let mut open = account(self.merchant, opening_balance);
        open.overdraft_limit = if self.random.random_bool(0.25) { 50 } else { 0 };
        // The last of them has another currency, so that some payments do not fit.
        if self.accounts.len() + 1 == ACCOUNTS_MAX {
            open.currency = "EUR".parse().expect("a currency");
        }
        self.accounts.push(open.id);
        Submission { claim: Some(self.new_claim()), command: Command::OpenAccount(Box::new(open)) }
    }

    fn create(&mut self) -> Submission {
        let (from, to) = (self.any_account(), self.any_account());
        let rail = if self.random.random_bool(0.6) { Rail::Book } else { Rail::VelocityPay };
        let capture = if self.random.random_bool(0.5) { CaptureMode::Automatic } else { CaptureMode::Manual };
        let verdict = if self.random.random_bool(0.03) { Verdict::Reject } else { Verdict::Allow };
        let create = CreatePayment {
            id: Uuid::now_v7(),
            merchant_id: self.merchant,
            from: Some(from),
            to,
            amount: Amount::new(self.random.random_range(1..=60)).expect("a positive amount"),
            currency: "USD".parse().expect("a currency"),
            rail,
            capture,
            fraud: FraudDecision { verdict, score: 0, reasons: Vec::new() },
            operation: (rail != Rail::Book).then(plan),
            merchant_reference: None,
            card_last_four: None,
            metadata: None,
        };
        Submission { claim: Some(self.new_claim()), command: Command::CreatePayment(Box::new(create)) }
    }

    /// An account, or once in a while one that does not exist.
    fn any_account(&mut self) -> Uuid {
        if self.random.random_bool(0.02) {
            return Uuid::now_v7();
        }
        self.accounts[self.random.random_range(0..self.accounts.len())]
    }

    fn change(&mut self) -> Submission {
        let payment = self.payments[self.random.random_range(0..self.payments.len())].clone();
        let operation = (payment.rail != Rail::Book).then(plan);
        let part = self.random.random_bool(0.5).then(|| self.random.random_range(1..=70));
        let amount = part.and_then(|part| Amount::new(part).ok());
        let command = match self.random.random_range(0..10) {
            0..4 => Command::Capture(Capture { payment, amount, operation }),
            4..6 => Command::Void(Void { payment, operation }),
            _ => Command::Refund(Refund { payment, amount, operation }),
        };
        // The API needs a key here, the engine does not.
        let claim = self.random.random_bool(0.9).then(|| self.new_claim());
        Submission { claim, command }
    }

    fn settle(&mut self) -> Submission {
        let sent = self.operations[self.random.random_range(0..self.operations.len())].clone();
        let outcome = match self.random.random_range(0..10) {
            0..5 => ChargeOutcome::Approved,
            5 => ChargeOutcome::Declined,
            6 => ChargeOutcome::NotSent,
            7 => ChargeOutcome::Held,
            _ => ChargeOutcome::Unknown,
        };
        let settlement = Settlement {
            payment: sent.payment,
            operation_id: sent.operation.id,
            key_digest: sent.key_digest,
            fence: if self.random.random_bool(0.1) { sent.fence + 1 } else { sent.fence },
            outcome,
            retry_in_ms: 86_400_000,
            evidence: Evidence::default(),
            refusals: None,
        };
        Submission { claim: None, command: Command::Settle(settlement) }
    }

    /// What was sent before, as a caller sends it again: the same key and wish, new ids inside.
    fn resend(&mut self) -> Submission {
        let mut submission = self.sent[self.random.random_range(0..self.sent.len())].clone();
        match &mut submission.command {
            Command::CreatePayment(create) => {
                create.id = Uuid::now_v7();
                create.operation = create.operation.as_ref().map(|_| plan());
            }
            Command::Capture(Capture { operation, .. })
            | Command::Void(Void { operation, .. })
            | Command::Refund(Refund { operation, .. }) => *operation = operation.as_ref().map(|_| plan()),
            other => panic!("not remembered for resending: {other:?}"),
        }
        submission
    }

    fn mismatch(&mut self) -> Submission {
        let mut submission = self.resend();
        if let Some(claim) = &mut submission.claim {
            let mut builder = FingerprintBuilder::new(b"model");
            builder.field(3, b"something else");
            claim.fingerprint = builder.finish();
        }
        submission
    }

    fn new_claim(&mut self) -> KeyClaim {
        self.keys += 1;
        let mut builder = FingerprintBuilder::new(b"model");
        builder.field(2, &self.keys.to_be_bytes());
        KeyClaim::new(self.merchant, &format!("key {}", self.keys), builder.finish())
    }
}

fn remember<T>(known: &mut Vec<T>, new: T) {
    if known.len() == KNOWN_MAX {
        known.remove(0);
    }
    known.push(new);
}
