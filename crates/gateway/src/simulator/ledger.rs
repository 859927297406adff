//! The simulated transactions of both gateways, their settlement, and the count of effects per reference.
//! Knows no wire format. In memory and bounded: a full ledger refuses new transactions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::Duration,
};

use serde::Serialize;
use time::OffsetDateTime;

/// About 1 GiB of transactions; beyond it the simulator says that it is busy.
const TRANSACTIONS_MAX: usize = 2_000_000;
/// Settlement goes into one batch for so long.
const BATCH_SPAN: Duration = Duration::from_secs(6 * 3600);
/// Where ids start, at random: as long as real ones. What an earlier simulator has made is forgotten, and its ids must not
/// come to mean something else.
const FIRST_IDS: std::ops::Range<u64> = 10_000_000_001..90_000_000_001;

/// An exact amount as it was written: `10.50` is 1050 with 2 decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Money {
    pub(super) units: i64,
    pub(super) decimals: u32,
}

impl Money {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = format!("{whole}{fraction}");
        let decimals = u32::try_from(fraction.len()).ok().filter(|decimals| *decimals <= 4)?;
        if whole.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        Some(Self { units: digits.parse().ok()?, decimals })
    }

    /// In ten-thousandths, so that amounts written differently compare.
    pub(super) fn scaled(self) -> i128 {
        i128::from(self.units) * 10_i128.pow(4 - self.decimals.min(4))
    }

    pub(super) fn text(self) -> String {
        if self.decimals == 0 {
            return self.units.to_string();
        }
        let decimals = self.decimals as usize;
        let digits = format!("{:0>width$}", self.units, width = decimals + 1);
        let (whole, fraction) = digits.split_at(digits.len() - decimals);
        format!("{whole}.{fraction}")
    }
}

/// What changed something, per reference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Effects {
    /// Purchases that were approved or held.
    pub purchase: u32,
    /// Authorizations that were approved or held.
    pub authorize: u32,
    /// Captures.
    pub capture: u32,
    /// Voids.
    pub void: u32,
    /// Refunds.
    pub refund: u32,
}

impl Effects {
    /// All of them.
    pub fn total(&self) -> u32 {
        self.purchase + self.authorize + self.capture + self.void + self.refund
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Purchase,
    Authorize,
    Refund,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Authorized,
    Captured,
    Settled,
    Held,
    Declined,
    Voided,
    /// An authorization that was not captured in time.
    Expired,
    RefundPending,
    RefundSettled,
}

/// A capture, void or refund of VelocityPay, kept with its charge.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) reference: String,
    pub(super) kind: &'static str,
    pub(super) amount: Option<i64>,
}

#[derive(Debug, Clone)]
pub(super) struct Transaction {
    pub(super) id: u64,
    pub(super) kind: Kind,
    pub(super) status: Status,
    pub(super) reference: String,
    pub(super) parent: Option<u64>,
    pub(super) currency: String,
    pub(super) amount: Money,
    pub(super) captured: Option<Money>,
    pub(super) refunded_scaled: i128,
    pub(super) auth_code: String,
    pub(super) last4: String,
    pub(super) avs: String,
    pub(super) cvv: String,
    pub(super) submitted_at: OffsetDateTime,
    pub(super) operations: Vec<Operation>,
}

#[derive(Debug)]
pub(super) struct Batch {
    pub(super) id: u64,
    pub(super) settled_at: OffsetDateTime,
    pub(super) transactions: Vec<u64>,
}

/// An earlier answer under an idempotency key.
#[derive(Debug, Clone)]
pub(super) struct Remembered {
    pub(super) body_hash: u64,
    pub(super) status: u16,
    pub(super) answer: String,
}

#[derive(Debug)]
pub(super) struct Ledger {
    settle_after: Duration,
    next_id: u64,
    transactions: BTreeMap<u64, Transaction>,
    unsettled: BTreeSet<u64>,
    /// When each transaction settles, in the order of their times.
    due: VecDeque<(OffsetDateTime, u64)>,
    pub(super) batches: Vec<Batch>,
    /// When a request was last seen, and what it made.
    pub(super) duplicates: HashMap<u64, (OffsetDateTime, u64)>,
    pub(super) by_reference: HashMap<String, u64>,
    pub(super) remembered: HashMap<String, Remembered>,
    effects: HashMap<String, Effects>,
    /// References whose amount has triggered its fault: a resend passes.
    triggered: HashSet<String>,
}

impl Ledger {
    pub(super) fn new(settle_after: Duration) -> Self {
        Self {
            settle_after,
            next_id: rand::random_range(FIRST_IDS),
            transactions: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            due: VecDeque::new(),
            batches: Vec::new(),
            duplicates: HashMap::new(),
            by_reference: HashMap::new(),
            remembered: HashMap::new(),
            effects: HashMap::new(),
            triggered: HashSet::new(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        // Every other map grows by at most one entry per transaction or key.
        self.transactions.len() >= TRANSACTIONS_MAX || self.remembered.len() >= TRANSACTIONS_MAX
    }

    /// Adds a transaction under a new id; `build` gets the id.
    pub(super) fn add(&mut self, now: OffsetDateTime, build: impl FnOnce(u64) -> Transaction) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let transaction = build(id);
        if matches!(transaction.status, Status::Captured | Status::RefundPending) {
            self.due.push_back((now + self.settle_after, id));
        }
        self.unsettled.insert(id);
        self.by_reference.insert(transaction.reference.clone(), id);
        self.transactions.insert(id, transaction);
        id
    }

    pub(super) fn get(&self, id: u64) -> Option<&Transaction> {
        self.transactions.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Transaction> {
        self.transactions.get_mut(&id)
    }

    /// Marks a transaction captured and due for settlement.
    pub(super) fn capture(&mut self, id: u64, amount: Money, now: OffsetDateTime) {
        if let Some(transaction) = self.transactions.get_mut(&id) {
            transaction.status = Status::Captured;
            transaction.captured = Some(amount);
            self.due.push_back((now + self.settle_after, id));
        }
    }

    pub(super) fn count(&mut self, reference: &str, add: impl FnOnce(&mut Effects)) {
        add(self.effects.entry(reference.to_owned()).or_default());
    }

    pub(super) fn effects(&self, reference: &str) -> Effects {
        self.effects.get(reference).copied().unwrap_or_default()
    }

    pub(super) fn all_effects(&self) -> BTreeMap<String, Effects> {
        self.effects.iter().map(|(reference, effects)| (reference.clone(), *effects)).collect()
    }

    pub(super) fn transactions_count(&self) -> usize {
        self.transactions.len()
    }

    /// True the first time a reference is seen here.
    pub(super) fn trigger_once(&mut self, reference: &str) -> bool {
        self.triggered.len() < TRANSACTIONS_MAX && self.triggered.insert(reference.to_owned())
    }

    /// A page of unsettled transactions, newest first, and how many there are.
    pub(super) fn unsettled_page(&self, limit: usize, page: usize) -> (Vec<&Transaction>, usize) {
        let ids = self.unsettled.iter().rev().skip(limit * (page - 1)).take(limit);
        (ids.filter_map(|id| self.transactions.get(id)).collect(), self.unsettled.len())
    }

    /// A page of a batch, newest first; `None` when there is no such batch.
    pub(super) fn batch_page(
        &self,
        batch: u64,
        limit: usize,
        page: usize,
    ) -> Option<(Vec<&Transaction>, usize)> {
        let batch = self.batches.iter().find(|candidate| candidate.id == batch)?;
        let ids = batch.transactions.iter().rev().skip(limit * (page - 1)).take(limit);
        Some((ids.filter_map(|id| self.transactions.get(id)).collect(), batch.transactions.len()))
    }

    /// Settles what is due by `now`.
    pub(super) fn tick(&mut self, now: OffsetDateTime) {
        while let Some((_, id)) = self.due.pop_front_if(|(at, _)| *at <= now) {
            self.settle(id, now);
        }
    }

    pub(super) fn settle_all(&mut self) {
        let now = OffsetDateTime::now_utc();
        while let Some((_, id)) = self.due.pop_front() {
            self.settle(id, now);
        }
    }

    pub(super) fn expire_authorizations(&mut self) {
        let authorized = |transaction: &&mut Transaction| transaction.status == Status::Authorized;
        self.transactions.values_mut().filter(authorized).for_each(|held| held.status = Status::Expired);
    }

    fn settle(&mut self, id: u64, now: OffsetDateTime) {
        let Some(transaction) = self.transactions.get_mut(&id) else { return };
        transaction.status = match transaction.status {
            Status::Captured => Status::Settled,
            Status::RefundPending => Status::RefundSettled,
            // Voided since it became due.
            _ => return,
        };
        self.unsettled.remove(&id);
        let open = self.batches.last_mut().filter(|batch| now - batch.settled_at < BATCH_SPAN);
        match open {
            Some(batch) => batch.transactions.push(id),
            None => {
                let batch_id = self.batches.len() as u64 + 1;
                self.batches.push(Batch { id: batch_id, settled_at: now, transactions: vec![id] });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Money;

    #[test]
    fn money_keeps_its_decimals_and_compares_across_them() {
        for text in ["10.50", "0.05", "7", "1.234", "0.0001"] {
            assert_eq!(Money::parse(text).unwrap().text(), text);
        }
        assert_eq!(Money::parse("5").unwrap().scaled(), Money::parse("5.00").unwrap().scaled());
        for text in ["", "-1", "1e3", ".5", "1.23456"] {
            assert_eq!(Money::parse(text), None, "{text}");
        }
    }
}
