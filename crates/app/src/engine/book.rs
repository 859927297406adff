//! The rows of one batch in memory: what was loaded under lock, and what the decisions add to it. Pure state: no SQL,
//! no time, no randomness. `load` fills it, `decide` and `settle` change it, `write` stores what changed.

use ahash::AHashMap;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::command::{Evidence, FraudDecision, PlannedOperation};
use super::key::KeyClaim;
use super::model::{
    AccountRecord, AccountStatus, OperationKind, OperationStatus, PaymentRecord, PaymentStatus, Rail, Reason,
};
use crate::clock::Timestamp;
use crate::money::{Currency, OVERDRAFT_UNBOUNDED};

/// No payment, capture or refund is accepted that would lift a balance above this, so that sums of two balances cannot
/// overflow. What a gateway has done is posted all the same: the other half of the range takes thousands of the largest
/// payments that were under way together.
pub(super) const BALANCE_MAX: i64 = i64::MAX / 2;

/// The kind of external accounts; reserved, so that no other account has it.
pub(super) const EXTERNAL_KIND: &str = "external";

/// Whether a row must be written, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowState {
    Loaded,
    Changed,
    New,
}

/// The narrow row of an account.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccountRow {
    pub(super) id: Uuid,
    pub(super) merchant_id: Uuid,
    pub(super) posted: i64,
    pub(super) held: i64,
    pub(super) overdraft_limit: i64,
    pub(super) entry_count: i64,
    pub(super) currency: Currency,
    pub(super) status: AccountStatus,
    pub(super) state: RowState,
}

impl AccountRow {
    /// What a payment may take: never more than an `i128` can tell exactly.
    pub(super) fn available(&self) -> i128 {
        i128::from(self.posted) - i128::from(self.held) + i128::from(self.overdraft_limit)
    }

    /// External accounts stand for the world outside; the API cannot name them.
    pub(super) fn is_external(&self) -> bool {
        self.overdraft_limit == OVERDRAFT_UNBOUNDED
    }
}

/// A key as stored or as claimed by an earlier command of the batch.
#[derive(Clone, Debug)]
pub(super) struct KeyRow {
    pub(super) resource_id: Uuid,
    pub(super) fingerprint: Vec<u8>,
    pub(super) status_code: u16,
    pub(super) answer: Option<Bytes>,
    pub(super) state: RowState,
}

/// A gateway operation as stored.
#[derive(Clone, Debug)]
pub(super) struct OperationRow {
    pub(super) kind: OperationKind,
    pub(super) status: OperationStatus,
    pub(super) fence: i32,
    pub(super) amount: i64,
    pub(super) retry_in_ms: i64,
    pub(super) evidence: Evidence,
    pub(super) state: RowState,
}

/// A new gateway operation.
#[derive(Clone, Debug)]
pub(super) struct NewOperation {
    pub(super) plan: PlannedOperation,
    pub(super) merchant_id: Uuid,
    pub(super) payment_id: Uuid,
    pub(super) kind: OperationKind,
    pub(super) rail: Rail,
    pub(super) amount: i64,
    pub(super) key_digest: Option<Uuid>,
    pub(super) parent_transaction: Option<String>,
    pub(super) card_last_four: Option<String>,
}

/// One double entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryRow {
    pub(super) id: Uuid,
    pub(super) payment_id: Option<Uuid>,
    pub(super) debit_account: Uuid,
    pub(super) credit_account: Uuid,
    pub(super) amount: i64,
    pub(super) debit_seq: i64,
    pub(super) credit_seq: i64,
    pub(super) debit_after: i64,
    pub(super) credit_after: i64,
}

/// One event of a payment.
#[derive(Clone, Debug)]
pub(super) struct EventRow {
    pub(super) payment_id: Uuid,
    pub(super) sequence: i32,
    pub(super) status: PaymentStatus,
    pub(super) reason: Reason,
    pub(super) evidence: Option<String>,
}

/// A payment to insert, with its fraud decision.
#[derive(Clone, Debug)]
pub(super) struct NewPayment {
    pub(super) record: PaymentRecord,
    pub(super) fraud: FraudDecision,
}

/// What the fraud rules said of a payment that did not come to be.
#[derive(Clone, Debug)]
pub(super) struct Rejection {
    pub(super) payment_id: Uuid,
    pub(super) merchant_id: Uuid,
    pub(super) fraud: FraudDecision,
}

/// One money movement to put on the books.
#[derive(Clone, Copy, Debug)]
pub(super) struct Posting {
    pub(super) entry_id: Uuid,
    pub(super) payment_id: Option<Uuid>,
    pub(super) debit: Uuid,
    pub(super) credit: Uuid,
    pub(super) amount: i64,
}

/// Everything a batch knows.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) now: Timestamp,
    pub(super) accounts: AHashMap<Uuid, AccountRow>,
    pub(super) payments: AHashMap<Uuid, (PaymentRecord, RowState)>,
    pub(super) operations: AHashMap<Uuid, OperationRow>,
    pub(super) keys: AHashMap<Uuid, KeyRow>,
    pub(super) new_payments: Vec<NewPayment>,
    /// Kept though their group was rolled back.
    pub(super) rejections: Vec<Rejection>,
    pub(super) new_profiles: Vec<AccountRecord>,
    pub(super) new_operations: Vec<NewOperation>,
    pub(super) entries: Vec<EntryRow>,
    pub(super) events: Vec<EventRow>,
    /// Previous values of what an all-or-nothing group touched; `None` outside such a group.
    journal: Option<Journal>,
}

#[derive(Debug, Default)]
struct Journal {
    accounts: Vec<AccountRow>,
    keys: Vec<Uuid>,
    payments: usize,
    entries: usize,
    events: usize,
}

impl Book {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            now,
            accounts: AHashMap::new(),
            payments: AHashMap::new(),
            operations: AHashMap::new(),
            keys: AHashMap::new(),
            new_payments: Vec::new(),
            rejections: Vec::new(),
            new_profiles: Vec::new(),
            new_operations: Vec::new(),
            entries: Vec::new(),
            events: Vec::new(),
            journal: None,
        }
    }

    /// Changes one account that is known to be in the book.
    pub(super) fn change_account(&mut self, id: Uuid, change: impl FnOnce(&mut AccountRow)) {
        let row = self.accounts.get_mut(&id).expect("decisions change only accounts they looked up");
        if let Some(journal) = &mut self.journal {
            journal.accounts.push(*row);
        }
        change(row);
        if row.state == RowState::Loaded {
            row.state = RowState::Changed;
        }
    }

    /// Moves money and writes its double entry.
    pub(super) fn post(&mut self, posting: Posting) {
        let Posting { entry_id, payment_id, debit, credit, amount } = posting;
        let (mut debit_seq, mut debit_after, mut credit_seq, mut credit_after) = (0, 0, 0, 0);
        self.change_account(debit, |row| {
            row.posted -= amount;
            row.entry_count += 1;
            (debit_seq, debit_after) = (row.entry_count, row.posted);
        });
        self.change_account(credit, |row| {
            row.posted += amount;
            row.entry_count += 1;
            (credit_seq, credit_after) = (row.entry_count, row.posted);
        });
        self.entries.push(EntryRow {
            id: entry_id,
            payment_id,
            debit_account: debit,
            credit_account: credit,
            amount,
            debit_seq,
            credit_seq,
            debit_after,
            credit_after,
        });
    }

    /// Makes sure the external account of a merchant's currency is there, and names it.
    pub(super) fn ensure_external(&mut self, merchant_id: Uuid, currency: Currency) -> Uuid {
        let id = external_account(merchant_id, currency);
        if !self.accounts.contains_key(&id) {
            let record = AccountRecord {
                id,
                merchant_id,
                posted: 0,
                held: 0,
                overdraft_limit: OVERDRAFT_UNBOUNDED,
                entry_count: 0,
                currency,
                status: AccountStatus::Active,
                kind: EXTERNAL_KIND.to_owned(),
                customer: None,
                metadata: None,
            };
            self.open(record);
        }
        id
    }

    /// Adds a new account.
    pub(super) fn open(&mut self, record: AccountRecord) {
        let row = AccountRow {
            id: record.id,
            merchant_id: record.merchant_id,
            posted: record.posted,
            held: record.held,
            overdraft_limit: record.overdraft_limit,
            entry_count: record.entry_count,
            currency: record.currency,
            status: record.status,
            state: RowState::New,
        };
        self.accounts.insert(row.id, row);
        self.new_profiles.push(record);
    }

    /// Writes the next event of a payment; its version must have been raised already.
    pub(super) fn record_event(&mut self, payment: &PaymentRecord, reason: Reason, evidence: Option<String>) {
        self.events.push(EventRow {
            payment_id: payment.id,
            sequence: payment.version,
            status: payment.status,
            reason,
            evidence,
        });
    }

    /// Claims a key for `resource_id`; with no answer yet, the work under it is still going on.
    pub(super) fn claim(&mut self, claim: &KeyClaim, resource_id: Uuid, answer: Option<(u16, Bytes)>) {
        let (status_code, answer) = answer.map_or((0, None), |(code, body)| (code, Some(body)));
        let fingerprint = claim.fingerprint.as_bytes().to_vec();
        self.keys.insert(
            claim.digest,
            KeyRow { resource_id, fingerprint, status_code, answer, state: RowState::New },
        );
        if let Some(journal) = &mut self.journal {
            journal.keys.push(claim.digest);
        }
    }

    /// Keeps the first answer under a key whose work was going on.
    pub(super) fn pin(&mut self, digest: Uuid, status_code: u16, body: &Bytes) {
        if let Some(row) = self.keys.get_mut(&digest)
            && row.answer.is_none()
        {
            row.answer = Some(body.clone());
            row.status_code = status_code;
            if row.state == RowState::Loaded {
                row.state = RowState::Changed;
            }
        }
    }

    /// From here on, [`Self::roll_back_group`] undoes everything.
    pub(super) fn begin_group(&mut self) {
        self.journal = Some(Journal {
            payments: self.new_payments.len(),
            entries: self.entries.len(),
            events: self.events.len(),
            ..Journal::default()
        });
    }

    pub(super) fn keep_group(&mut self) {
        self.journal = None;
    }

    pub(super) fn roll_back_group(&mut self) {
        let Some(journal) = self.journal.take() else { return };
        // Newest first, so that the oldest value of an account that changed twice is what remains.
        for row in journal.accounts.into_iter().rev() {
            self.accounts.insert(row.id, row);
        }
        for digest in journal.keys {
            self.keys.remove(&digest);
        }
        self.new_payments.truncate(journal.payments);
        self.entries.truncate(journal.entries);
        self.events.truncate(journal.events);
    }
}

/// The account that stands for the world outside, per merchant and currency: what opening balances and card charges
/// are credited from. Its id is derived, so that no look-up is needed to lock it.
#[must_use]
pub fn external_account(merchant_id: Uuid, currency: Currency) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(b"external account");
    hash.update(merchant_id.as_bytes());
    hash.update(currency.numeric().to_be_bytes());
    let full = hash.finalize();
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&full[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}
