//! The seeded plan of `seed`: which accounts there are and what is sent in which order. A pure function of seed and
//! number: two runs of the same plan send the same bytes under the same keys, so that the second one must be answered
//! from the first.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::accounts::NewAccount;
use super::zipf::Zipf;

/// Skew of accounts: some shops are a hundred times busier than others.
const ZIPF_EXPONENT: f64 = 1.0;
/// One account for so many payments, within bounds.
const PAYMENTS_PER_ACCOUNT: u64 = 50;
const ACCOUNTS_MIN: u64 = 40;
const ACCOUNTS_MAX: u64 = 2_000;
/// The largest opening balance, in minor units.
const OPENING_BALANCE_MAX: i64 = 15_000_000;
/// More than all accounts of a currency hold together, 2,000 x 15,000,000, and below what fraud rules refuse by default.
const OVERDRAW_AMOUNT: i64 = 40_000_000_000;
/// The largest amount of the API, and one more.
const AMOUNT_OVER_LIMIT: i64 = 1_000_000_000_000_000;
/// Largest ordinary amount: a long tail, but no account is emptied by one payment.
const AMOUNT_MAX: f64 = 2_000_000.0;

/// A currency of the plan.
struct CurrencyShare {
    code: &'static str,
    /// Of a hundred accounts and payments.
    share: u64,
    /// Minor units of a typical payment: about 25 dollars' worth.
    typical: f64,
}

const CURRENCIES: [CurrencyShare; 5] = [
    CurrencyShare { code: "USD", share: 50, typical: 2_500.0 },
    CurrencyShare { code: "EUR", share: 24, typical: 2_300.0 },
    CurrencyShare { code: "GBP", share: 12, typical: 2_000.0 },
    CurrencyShare { code: "JPY", share: 9, typical: 3_800.0 },
    CurrencyShare { code: "KWD", share: 5, typical: 7_700.0 },
];

/// Numbers of Authorize.Net's sandbox.
const CARDS: [&str; 4] = ["4111111111111111", "4007000000027", "5424000000000015", "370000000000002"];
/// Postal code by which the sandbox declines.
const DECLINING_ZIP: &str = "46282";
const ACCEPTED_ZIP: &str = "46201";
/// Amounts that end so make the simulator drop or delay its answer: this load is one
/// without faults.
const FAULTY_ENDINGS: std::ops::RangeInclusive<i64> = 77..=79;

/// How a payment of the plan travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlannedRail {
    /// Account to account.
    Book,
    /// Account to account through a gateway.
    VelocityPay,
    /// A card that is accepted.
    Card,
    /// A card that the sandbox declines.
    DeclinedCard,
}

/// One well-formed payment; accounts by position in [`Plan::accounts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// How it travels.
    pub rail: PlannedRail,
    /// Sender; a card has none.
    pub from: usize,
    /// Receiver.
    pub to: usize,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: &'static str,
    /// Which card of the sandbox, on card rails.
    pub card: &'static str,
    /// The merchant's own name for it.
    pub merchant_reference: Option<String>,
    /// Whether it carries metadata.
    pub channel: Option<&'static str>,
}

/// What is wrong with a row that must be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The receiver does not exist.
    UnknownAccount,
    /// The amount is below zero.
    NegativeAmount,
    /// The amount has a decimal point.
    FloatAmount,
    /// The accounts have another currency.
    CurrencyMismatch,
    /// The amount is over the API's limit.
    OverLimit,
}

const FLAWS: [Flaw; 5] =
    [Flaw::UnknownAccount, Flaw::NegativeAmount, Flaw::FloatAmount, Flaw::CurrencyMismatch, Flaw::OverLimit];

/// What is sent, and so what must come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sent once.
    Pay(Order),
    /// Sent twice under one key: the same bytes must come back, marked as replayed.
    Duplicate(Order),
    /// Sent twice under one key with another amount the second time: refused.
    ReuseKey(Order),
    /// Sent, and refunded in part if it succeeded: the minor units to give back.
    Refund(Order, i64),
    /// For more than anybody has: a payment that failed.
    Overdraw(Order),
    /// A row that must be refused.
    Bad(Flaw, Order),
}

/// The whole plan.
#[derive(Debug)]
pub struct Plan {
    random: StdRng,
    payments: u64,
    next: u64,
    accounts: Vec<NewAccount>,
    /// Positions of each currency's accounts, in the order of [`CURRENCIES`].
    pools: Vec<Vec<usize>>,
    laws: Vec<Zipf>,
}

impl Plan {
    /// The plan of a seed and a number of payments.
    #[must_use]
    pub fn new(seed: u64, payments: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let total = (payments / PAYMENTS_PER_ACCOUNT).clamp(ACCOUNTS_MIN, ACCOUNTS_MAX);
        let (mut accounts, mut pools) = (Vec::new(), Vec::new());
        for currency in &CURRENCIES {
            // Two at least: a payment needs another account.
            let count = (total * currency.share / 100).max(2);
            let mut pool = Vec::new();
            for _ in 0..count {
                pool.push(accounts.len());
                let opening_balance = random.random_range(OPENING_BALANCE_MAX / 3..=OPENING_BALANCE_MAX);
                accounts.push(NewAccount { currency: currency.code, opening_balance });
            }
            pools.push(pool);
        }
        let laws = pools.iter().map(|pool| Zipf::new(pool.len(), ZIPF_EXPONENT)).collect();
        Self { random, payments, next: 0, accounts, pools, laws }
    }

    /// What to open before anything is sent.
    #[must_use]
    pub fn accounts(&self) -> &[NewAccount] {
        &self.accounts
    }

    fn order(&mut self, rail: PlannedRail) -> Order {
        let is_card = matches!(rail, PlannedRail::Card | PlannedRail::DeclinedCard);
        // The sandbox merchant settles in dollars.
        let chosen = if is_card { 0 } else { self.currency() };
        let (currency, pool, law) = (&CURRENCIES[chosen], &self.pools[chosen], &self.laws[chosen]);
        let from = law.draw(&mut self.random);
        let drawn = law.draw(&mut self.random);
        let to = if drawn == from { (from + 1) % pool.len() } else { drawn };
        let mut amount = amount(&mut self.random, currency.typical);
        if rail != PlannedRail::Book && FAULTY_ENDINGS.contains(&(amount % 100)) {
            amount += 3;
        }
        let merchant_reference = self.random.random_bool(0.3).then(|| format!("order-{}", self.next));
        let channel = self.random.random_bool(0.2).then_some("web");
        let card = CARDS[self.random.random_range(0..CARDS.len())];
        Order {
            rail,
            from: pool[from],
            to: pool[to],
            amount,
            currency: currency.code,
            card,
            merchant_reference,
            channel,
        }
    }

    fn currency(&mut self) -> usize {
        let mut point = self.random.random_range(0..100);
        for (index, currency) in CURRENCIES.iter().enumerate() {
            if point < currency.share {
                return index;
            }
            point -= currency.share;
        }
        0
    }

    fn rail(&mut self) -> PlannedRail {
        match self.random.random_range(0..1_000) {
            0..940 => PlannedRail::Book,
            940..970 => PlannedRail::VelocityPay,
            970..994 => PlannedRail::Card,
            _ => PlannedRail::DeclinedCard,
        }
    }
}

impl Iterator for Plan {
    /// The step with its number, which names its key.
    type Item = (u64, Step);

    fn next(&mut self) -> Option<(u64, Step)> {
        if self.next == self.payments {
            return None;
        }
        let number = self.next;
        self.next += 1;
        let step = match self.random.random_range(0..1_000) {
            0..20 => {
                let rail = self.rail();
                Step::Duplicate(self.order(rail))
            }
            20..30 => Step::ReuseKey(self.order(PlannedRail::Book)),
            30..50 => {
                let order = self.order(PlannedRail::Book);
                let part = self.random.random_range(1..=order.amount);
                Step::Refund(order, part)
            }
            50..65 => Step::Overdraw(Order { amount: OVERDRAW_AMOUNT, ..self.order(PlannedRail::Book) }),
            65..85 => {
                let flaw = FLAWS[self.random.random_range(0..FLAWS.len())];
                Step::Bad(flaw, self.order(PlannedRail::Book))
            }
            _ => {
                let rail = self.rail();
                Step::Pay(self.order(rail))
            }
        };
        Some((number, step))
    }
}

/// Log-normal around the typical amount, by Box and Muller's transform.
#[expect(clippy::cast_possible_truncation, reason = "clamped to a range that an i64 holds")]
fn amount(random: &mut StdRng, typical: f64) -> i64 {
    let (a, b): (f64, f64) = (random.random(), random.random());
    let normal = (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos();
    (typical * (1.1 * normal).exp()).clamp(1.0, AMOUNT_MAX) as i64
}

/// The request body of an order, with another amount where one is given.
#[must_use]
pub fn body(order: &Order, ids: &[String], amount: i64) -> String {
    let mut body = json!({"to": ids[order.to], "amount": amount, "currency": order.currency});
    let map = body.as_object_mut().expect("it was written as an object");
    match order.rail {
        PlannedRail::Book => {}
        PlannedRail::VelocityPay => drop(map.insert("rail".to_owned(), json!("velocity_pay"))),
        PlannedRail::Card | PlannedRail::DeclinedCard => {
            let zip = if order.rail == PlannedRail::Card { ACCEPTED_ZIP } else { DECLINING_ZIP };
            let card = json!({"number": order.card, "expiration": "2099-12", "code": card_code(order.card), "billing_zip": zip});
            map.insert("rail".to_owned(), json!("authorize_net"));
            map.insert("card".to_owned(), card);
        }
    }
    if matches!(order.rail, PlannedRail::Book | PlannedRail::VelocityPay) {
        map.insert("from".to_owned(), json!(ids[order.from]));
    }
    if let Some(reference) = &order.merchant_reference {
        map.insert("merchant_reference".to_owned(), json!(reference));
    }
    if let Some(channel) = order.channel {
        map.insert("metadata".to_owned(), json!({ "channel": channel }));
    }
    body.to_string()
}

fn card_code(number: &str) -> &'static str {
    // American Express has four digits.
    if number.len() == 15 { "1234" } else { "123" }
}

/// The request body of a row that must be refused.
#[must_use]
pub fn bad_body(flaw: Flaw, order: &Order, ids: &[String]) -> String {
    let good = body(order, ids, order.amount);
    let mut value: Value = serde_json::from_str(&good).expect("it was written as JSON");
    match flaw {
        Flaw::UnknownAccount => value["to"] = json!("acc_00000000000070008000000000000000"),
        Flaw::NegativeAmount => value["amount"] = json!(-order.amount),
        // Written as text: a whole float must be refused as well.
        Flaw::FloatAmount => {
            return good.replacen(&order.amount.to_string(), &format!("{}.0", order.amount), 1);
        }
        Flaw::CurrencyMismatch => {
            value["currency"] = json!(if order.currency == "USD" { "EUR" } else { "USD" });
        }
        Flaw::OverLimit => value["amount"] = json!(AMOUNT_OVER_LIMIT),
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const PAYMENTS: u64 = 20_000;

    fn steps(seed: u64) -> Vec<(u64, Step)> {
        Plan::new(seed, PAYMENTS).collect()
    }

    #[test]
    fn plan_is_a_function_of_its_seed() {
        let (first, again, other) = (Plan::new(7, 100), Plan::new(7, 100), Plan::new(8, 100));
        assert_eq!(first.accounts(), again.accounts());
        assert_eq!(first.collect::<Vec<_>>(), again.collect::<Vec<_>>());
        assert_ne!(Plan::new(7, 100).collect::<Vec<_>>(), other.collect::<Vec<_>>());
    }

    #[test]
    fn every_number_comes_once_and_every_kind_of_step_comes() {
        let steps = steps(1);
        assert!(steps.iter().map(|(number, _)| *number).eq(0..PAYMENTS));
        let mut kinds: HashMap<std::mem::Discriminant<Step>, u32> = HashMap::new();
        for (_, step) in &steps {
            *kinds.entry(std::mem::discriminant(step)).or_default() += 1;
        }
        assert_eq!(kinds.len(), 6);
        assert!(kinds.values().all(|count| *count > 100), "{kinds:?}");
    }

    #[test]
    fn rails_are_about_94_3_and_3_of_a_hundred() {
        let mut counts = [0.0_f64; 3];
        for (_, step) in steps(2) {
            if let Step::Pay(order) = step {
                let rail = match order.rail {
                    PlannedRail::Book => 0,
                    PlannedRail::VelocityPay => 1,
                    PlannedRail::Card | PlannedRail::DeclinedCard => 2,
                };
                counts[rail] += 1.0;
            }
        }
        let total: f64 = counts.iter().sum();
        for (count, expected) in counts.iter().zip([0.94, 0.03, 0.03]) {
            assert!((count / total - expected).abs() < 0.01, "{counts:?}");
        }
    }

    #[test]
    fn well_formed_orders_stay_within_one_currency_and_two_accounts() {
        let plan = Plan::new(3, PAYMENTS);
        let accounts = plan.accounts().to_vec();
        for (_, step) in plan {
            let (Step::Pay(order)
            | Step::Duplicate(order)
            | Step::ReuseKey(order)
            | Step::Refund(order, _)
            | Step::Overdraw(order)
            | Step::Bad(_, order)) = step;
            assert_ne!(order.from, order.to);
            for account in [order.from, order.to] {
                assert_eq!(accounts[account].currency, order.currency);
            }
            assert!(order.amount > 0, "{order:?}");
            assert!(
                order.rail == PlannedRail::Book || !FAULTY_ENDINGS.contains(&(order.amount % 100)),
                "{order:?}"
            );
        }
    }

    #[test]
    fn overdraw_exceeds_all_that_accounts_can_hold() {
        let plan = Plan::new(4, u64::MAX);
        let total: i64 = plan.accounts().iter().map(|account| account.opening_balance).sum();
        assert!(total < OVERDRAW_AMOUNT, "{total}");
    }

    #[test]
    fn bad_rows_differ_from_good_ones_in_their_flaw_alone() {
        let ids: Vec<String> = (0..2).map(|index| format!("acc_{index}")).collect();
        let order = Order {
            rail: PlannedRail::Book,
            from: 0,
            to: 1,
            amount: 500,
            currency: "USD",
            card: CARDS[0],
            merchant_reference: None,
            channel: None,
        };
        let good: Value = serde_json::from_str(&body(&order, &ids, 500)).unwrap();
        assert_eq!(good, json!({"from": "acc_0", "to": "acc_1", "amount": 500, "currency": "USD"}));
        for (flaw, field) in [
            (Flaw::UnknownAccount, "to"),
            (Flaw::NegativeAmount, "amount"),
            (Flaw::FloatAmount, "amount"),
            (Flaw::CurrencyMismatch, "currency"),
            (Flaw::OverLimit, "amount"),
        ] {
            let bad = bad_body(flaw, &order, &ids);
            let value: Value = serde_json::from_str(&bad).unwrap();
            let changed: Vec<&String> =
                good.as_object().unwrap().keys().filter(|name| value[*name] != good[*name]).collect();
            assert_eq!(changed, [field], "{flaw:?}: {bad}");
        }
        assert!(bad_body(Flaw::FloatAmount, &order, &ids).contains("500.0"));
    }

    #[test]
    fn card_orders_carry_a_card_and_no_sender() {
        let ids = vec!["acc_0".to_owned(), "acc_1".to_owned()];
        let mut plan = Plan::new(5, 1);
        let order = Order { from: 0, to: 1, ..plan.order(PlannedRail::DeclinedCard) };
        let value: Value = serde_json::from_str(&body(&order, &ids, 10)).unwrap();
        assert_eq!(
            (&value["rail"], &value["from"], &value["card"]["billing_zip"]),
            (&json!("authorize_net"), &Value::Null, &json!("46282"))
        );
    }
}
