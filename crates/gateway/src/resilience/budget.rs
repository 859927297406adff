//! The retry budget: retries are at most 10 % of calls plus 3 a second, over any stretch of time, plus a small
//! reserve. Integer arithmetic in thousandths of a retry, so that no ratio is truncated away (as in tower#857).

use std::sync::Mutex;

use tokio::time::Instant;

/// One retry.
const RETRY_MILLI: u64 = 1000;
/// Each call earns a tenth of a retry.
const EARNED_PER_CALL_MILLI: u64 = 100;
/// Time earns 3 retries a second, so that a quiet client may retry at all.
const EARNED_PER_SECOND_MILLI: u64 = 3000;
/// What can be saved up: 10 s of the time's share.
const BALANCE_MAX_MILLI: u64 = 30_000;

#[derive(Debug)]
pub(crate) struct Budget {
    account: Mutex<Account>,
}

#[derive(Debug)]
struct Account {
    balance_milli: u64,
    settled_at: Instant,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { account: Mutex::new(Account { balance_milli: EARNED_PER_SECOND_MILLI, settled_at: now }) }
    }

    /// Notes one call.
    pub(crate) fn deposit(&self, now: Instant) {
        let mut account = self.account.lock().expect("no panic while the budget is locked");
        account.earn(now);
        account.balance_milli = (account.balance_milli + EARNED_PER_CALL_MILLI).min(BALANCE_MAX_MILLI);
    }

    /// Takes one retry, if there is one.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        let mut account = self.account.lock().expect("no panic while the budget is locked");
        account.earn(now);
        let granted = account.balance_milli >= RETRY_MILLI;
        if granted {
            account.balance_milli -= RETRY_MILLI;
        }
        granted
    }
}

impl Account {
    fn earn(&mut self, now: Instant) {
        let elapsed_ms = now.saturating_duration_since(self.settled_at).as_millis();
        // 3000 milli-retries a second are exactly 3 a millisecond; the rest of a millisecond stays unsettled.
        let elapsed_ms = u64::try_from(elapsed_ms).unwrap_or(u64::MAX);
        self.settled_at += std::time::Duration::from_millis(elapsed_ms);
        let earned = elapsed_ms.saturating_mul(EARNED_PER_SECOND_MILLI / 1000);
        self.balance_milli = self.balance_milli.saturating_add(earned).min(BALANCE_MAX_MILLI);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::Budget;

    proptest! {
        /// Over any history: retries <= 10 % of calls + 3/s + the reserve of 3.
        #[test]
        fn retries_stay_within_the_budget(steps in prop::collection::vec((0_u64..400, 0_u32..8), 1..300)) {
            let start = Instant::now();
            let budget = Budget::new(start);
            let (mut elapsed_ms, mut calls, mut retries) = (0_u64, 0_u64, 0_u64);
            for (pause_ms, wanted) in steps {
                elapsed_ms += pause_ms;
                let now = start + Duration::from_millis(elapsed_ms);
                budget.deposit(now);
                calls += 1;
                retries += (0..wanted).map(|_| u64::from(budget.withdraw(now))).sum::<u64>();
                prop_assert!(retries * 1000 <= calls * 100 + elapsed_ms * 3 + 3000);
            }
        }
    }

    #[test]
    fn a_spent_budget_earns_again() {
        let now = Instant::now();
        let budget = Budget::new(now);
        let granted = (0..10).filter(|_| budget.withdraw(now)).count();
        assert_eq!(granted, 3);
        assert!(budget.withdraw(now + Duration::from_millis(334)));
    }
}
