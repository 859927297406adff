//! Which accounts pay which: the two mixes, drawn from seeded randomness. Our side draws here, the peer draws from the
//! same ranges in its own script.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::ground::ACCOUNTS;

/// Accounts of the hot mix: every second payment or so waits for another one's lock.
pub(crate) const HOT_ACCOUNTS: usize = 10;
/// Largest amount, in minor units. Small against the opening balance, so that no payment fails for lack of funds.
pub(crate) const AMOUNT_MAX: i64 = 1_000;

/// How payments spread over accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Over all accounts alike.
    Uniform,
    /// Over [`HOT_ACCOUNTS`].
    Hot,
}

impl Mix {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Hot => "hot",
        }
    }

    /// Accounts that take part.
    pub(crate) fn accounts(self) -> usize {
        match self {
            Self::Uniform => ACCOUNTS,
            Self::Hot => HOT_ACCOUNTS,
        }
    }
}

/// One payment to make, by position of its accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Draw {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) amount: i64,
}

/// An endless, seeded sequence of payments.
#[derive(Debug)]
pub(crate) struct Draws {
    random: StdRng,
    accounts: usize,
}

impl Draws {
    pub(crate) fn new(mix: Mix, seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), accounts: mix.accounts() }
    }

    pub(crate) fn draw(&mut self) -> Draw {
        let from = self.random.random_range(0..self.accounts);
        // Never the same account twice: a step of 1 to all but one around the ring.
        let to = (from + self.random.random_range(1..self.accounts)) % self.accounts;
        Draw { from, to, amount: self.random.random_range(1..=AMOUNT_MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_repeat_with_their_seed_and_stay_in_range() {
        for mix in [Mix::Uniform, Mix::Hot] {
            let sequence = |seed| {
                let mut draws = Draws::new(mix, seed);
                (0..1_000).map(|_| draws.draw()).collect::<Vec<_>>()
            };
            assert_eq!(sequence(1), sequence(1));
            assert_ne!(sequence(1), sequence(2));
            for draw in sequence(3) {
                assert!(
                    draw.from != draw.to && draw.from < mix.accounts() && draw.to < mix.accounts(),
                    "{draw:?}"
                );
                assert!((1..=AMOUNT_MAX).contains(&draw.amount), "{draw:?}");
            }
        }
    }

    #[test]
    fn hot_mix_uses_every_hot_account() {
        let mut draws = Draws::new(Mix::Hot, 9);
        let seen: std::collections::HashSet<usize> = (0..1_000).map(|_| draws.draw().to).collect();
        assert_eq!(seen.len(), HOT_ACCOUNTS);
    }
}
