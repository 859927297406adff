//! Fraud rules: pure predicates over a snapshot of facts, in memory. All of them are asked, always. The verdict goes
//! into the engine's command and is stored in the commit that creates the payment. Moves no money, asks no network, and
//! judges nothing before the blocklist was read.
//!
//! ```text
//! facts -> [blocklist, amount, velocity] -> verdict + score + reasons
//! ```

mod blocklist;
mod rules;
mod store;
mod velocity;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use blocklist::{Blocklist, BlocklistError, refresh_blocklist};
pub use rules::Facts;
pub use velocity::Ticket;

use crate::engine::{FraudDecision, Verdict};
use velocity::{Sender, Velocity};

/// The rules in force.
#[derive(Clone, Debug)]
pub struct FraudConfig {
    /// Off means that every payment is allowed, with the reason that rules are off.
    pub enabled: Switch,
    /// Time the rules are meant to take. Beyond it a warning is logged and the verdict stands: every rule is asked.
    pub budget: Duration,
    /// Largest amount of one payment, minor units.
    pub amount_max: i64,
    /// Payments from one account within the window.
    pub velocity_count_max: u64,
    /// The sliding window.
    pub velocity_window: Duration,
    /// Entries such as `account:acc_...` and `bin:411111`.
    pub blocklist: Vec<String>,
}

/// Whether something is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// The fraud rules with their counters.
#[derive(Debug)]
pub struct Fraud {
    config: FraudConfig,
    clock: fn() -> Instant,
    blocklist: Blocklist,
    velocity: Arc<Velocity>,
}

/// The stored blocklist was not read yet: whoever is on it would pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the blocklist was not read yet")]
pub struct BlocklistUnread;

/// The rules, once they can be asked.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'fraud> {
    fraud: &'fraud Fraud,
}

/// A decision, with the count it added to the sender's velocity.
#[derive(Debug)]
pub struct Scored {
    /// For the command.
    pub decision: FraudDecision,
    /// To be kept if a payment comes of it.
    pub ticket: Option<Ticket>,
}

impl Fraud {
    /// Rules with empty counters.
    #[must_use]
    pub fn new(config: FraudConfig, clock: fn() -> Instant) -> Self {
        let blocklist = Blocklist::new(&config.blocklist);
        let velocity = Arc::new(Velocity::new(config.velocity_window, clock()));
        Self { config, clock, blocklist, velocity }
    }

    /// The blocklist, to be refreshed from the database.
    #[must_use]
    pub fn blocklist(&self) -> &Blocklist {
        &self.blocklist
    }

    /// The rules in force.
    ///
    /// # Errors
    /// The blocklist was not read since the start, and the rules are not switched off.
    pub fn rules(&self) -> Result<Rules<'_>, BlocklistUnread> {
        let is_complete = self.config.enabled == Switch::Off || self.blocklist.is_read();
        if is_complete { Ok(Rules { fraud: self }) } else { Err(BlocklistUnread) }
    }
}

impl Rules<'_> {
    /// Scores one payment: a few hundred nanoseconds, no I/O.
    #[must_use]
    pub fn score(self, facts: &Facts<'_>) -> Scored {
        let Fraud { config, clock, blocklist, velocity } = self.fraud;
        if config.enabled == Switch::Off {
            let reasons = vec!["fraud rules are off".to_owned()];
            let decision = FraudDecision { verdict: Verdict::Allow, score: 0, reasons };
            return Scored { decision, ticket: None };
        }
        let started = clock();
        let ticket = velocity.count(sender_of(facts), facts.key, started);
        let mut hits = rules::blocked(facts, blocklist);
        hits.extend(rules::amount_above(facts, config.amount_max));
        hits.extend(rules::too_many(ticket.count(), config.velocity_count_max));
        // A thread may be set aside for longer than all the rules take. Whom they would have stopped must not pay for that.
        let took = clock().saturating_duration_since(started);
        if took > config.budget {
            tracing::warn!(?took, budget = ?config.budget, "fraud rules exceeded their budget");
        }
        let verdict = if hits.is_empty() { Verdict::Allow } else { Verdict::Reject };
        let score = if hits.is_empty() { 0 } else { rules::SCORE_MAX };
        Scored { decision: FraudDecision { verdict, score, reasons: hits }, ticket: Some(ticket) }
    }
}

fn sender_of(facts: &Facts<'_>) -> Sender {
    // Card payments count against the account they pay into.
    Sender { merchant: facts.merchant.0, account: facts.from.unwrap_or(facts.to).0 }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ahash::AHashSet;

    use super::*;
    use crate::ids::{AccountId, MerchantId};

    const MERCHANT: MerchantId = MerchantId(uuid::Uuid::nil());

    fn fraud(amount_max: i64, velocity_count_max: u64, blocklist: &[String]) -> Fraud {
        fraud_with(amount_max, velocity_count_max, blocklist, Instant::now)
    }

    fn fraud_with(
        amount_max: i64,
        velocity_count_max: u64,
        blocklist: &[String],
        clock: fn() -> Instant,
    ) -> Fraud {
        let config = FraudConfig {
            enabled: Switch::On,
            budget: Duration::from_millis(5),
            amount_max,
            velocity_count_max,
            velocity_window: Duration::from_secs(60),
            blocklist: blocklist.to_vec(),
        };
        let fraud = Fraud::new(config, clock);
        fraud.blocklist().replace_stored(AHashSet::new());
        fraud
    }

    fn score(fraud: &Fraud, facts: &Facts<'_>) -> Scored {
        fraud.rules().expect("the blocklist was read").score(facts)
    }

    fn facts(from: AccountId, amount: i64) -> Facts<'static> {
        Facts {
            merchant: MERCHANT,
            key: uuid::Uuid::now_v7(),
            from: Some(from),
            to: AccountId::new(),
            amount,
            card_bin: None,
        }
    }

    #[test]
    fn amount_limit_is_exact() {
        let fraud = fraud(1_000, 10, &[]);
        assert_eq!(score(&fraud, &facts(AccountId::new(), 1_000)).decision.verdict, Verdict::Allow);
        let rejected = score(&fraud, &facts(AccountId::new(), 1_001)).decision;
        assert_eq!(rejected.verdict, Verdict::Reject);
        assert_eq!(rejected.reasons, ["amount 1001 is above 1000"]);
    }

    #[test]
    fn the_payment_after_the_last_allowed_one_is_rejected() {
        let fraud = fraud(1_000, 3, &[]);
        let sender = AccountId::new();
        for _ in 0..3 {
            let scored = score(&fraud, &facts(sender, 1));
            assert_eq!(scored.decision.verdict, Verdict::Allow);
            scored.ticket.expect("the rules are on").keep();
        }
        assert_eq!(score(&fraud, &facts(sender, 1)).decision.verdict, Verdict::Reject);
        assert_eq!(score(&fraud, &facts(AccountId::new(), 1)).decision.verdict, Verdict::Allow);
    }

    #[test]
    fn a_merchant_uses_up_nobody_elses_count() {
        let fraud = fraud(1_000, 1, &[]);
        let theirs = facts(AccountId::new(), 1);
        for _ in 0..3 {
            let other = Facts { merchant: MerchantId::new(), key: uuid::Uuid::now_v7(), ..theirs };
            score(&fraud, &other).ticket.expect("the rules are on").keep();
        }
        assert_eq!(score(&fraud, &theirs).decision.verdict, Verdict::Allow);
    }

    #[test]
    fn only_a_count_that_is_kept_stays() {
        let fraud = fraud(1_000, 1, &[]);
        let sender = AccountId::new();
        for _ in 0..2 {
            drop(score(&fraud, &facts(sender, 1)));
        }
        let scored = score(&fraud, &facts(sender, 1));
        assert_eq!(scored.decision.verdict, Verdict::Allow);
        scored.ticket.expect("the rules are on").keep();
        assert_eq!(score(&fraud, &facts(sender, 1)).decision.verdict, Verdict::Reject);
    }

    #[test]
    fn blocked_sender_receiver_and_card_are_rejected() {
        let (bad, good) = (AccountId::new(), AccountId::new());
        let fraud = fraud(1_000, 10, &[format!("account:{bad}"), "bin:411111".into()]);
        let from_bad = Facts { to: good, ..facts(bad, 1) };
        let to_bad = Facts { to: bad, ..facts(good, 1) };
        let card = Facts { from: None, card_bin: Some("411111"), ..facts(good, 1) };
        for bad in [from_bad, to_bad, card] {
            assert_eq!(score(&fraud, &bad).decision.verdict, Verdict::Reject, "{bad:?}");
        }
        let other = Facts { from: None, card_bin: Some("400000"), ..facts(good, 1) };
        assert_eq!(score(&fraud, &other).decision.verdict, Verdict::Allow);
    }

    /// A clock of a thread that is set aside for a second between any two looks.
    fn halting() -> Instant {
        thread_local!(static NOW: Cell<Instant> = Cell::new(Instant::now()));
        NOW.with(|now| now.replace(now.get() + Duration::from_secs(1)))
    }

    #[test]
    fn a_thread_that_was_set_aside_skips_no_rule() {
        let blocked = AccountId::new();
        let fraud = fraud_with(1_000, 1, &[format!("account:{blocked}")], halting);
        let broken = [
            (facts(blocked, 1), format!("account:{blocked} is blocked")),
            (facts(AccountId::new(), 1_001), "amount 1001 is above 1000".to_owned()),
        ];
        for (facts, reason) in broken {
            let decision = score(&fraud, &facts).decision;
            assert_eq!((decision.verdict, decision.reasons), (Verdict::Reject, vec![reason]));
        }
        let sender = AccountId::new();
        let first = score(&fraud, &facts(sender, 1));
        assert_eq!(first.decision, FraudDecision { verdict: Verdict::Allow, score: 0, reasons: Vec::new() });
        first.ticket.expect("the rules are on").keep();
        assert_eq!(score(&fraud, &facts(sender, 1)).decision.verdict, Verdict::Reject);
    }

    #[test]
    fn nobody_is_judged_before_the_blocklist_was_read_unless_the_rules_are_off() {
        let blocked = AccountId::new();
        let unread =
            |enabled| Fraud::new(FraudConfig { enabled, ..fraud(1_000, 10, &[]).config }, Instant::now);
        let fraud = unread(Switch::On);
        assert_eq!(fraud.rules().map(|_| ()), Err(BlocklistUnread));
        fraud.blocklist().replace_stored(AHashSet::from_iter([format!("account:{blocked}")]));
        assert_eq!(score(&fraud, &facts(blocked, 1)).decision.verdict, Verdict::Reject);
        assert!(unread(Switch::Off).rules().is_ok());
    }
}
