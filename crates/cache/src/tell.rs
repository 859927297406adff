//! What each shared tier has been told of what this node has changed. A tier that fails is shown the same again, and keeps
//! neither the other tiers nor other keys waiting.
//! The last tier is told first: who reads meanwhile takes what lies in a lower one up into those above, under a claim that the
//! change has yet to end there. Where a lower one is told late, those above are told again. Called by `courier`.

use std::collections::{BTreeSet, VecDeque};

use crate::{
    fleet::Fleet,
    outbox::{BATCH_KEYS_MAX, Shown},
    stats::count,
    tier::{Answers, Put, Stored, TierError, Voiding},
    tier_side::TierSide,
};

/// Which tiers are told what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whom {
    /// All of them, and what failed is tried again.
    All,
    /// Those that answered last time, and what is new.
    Well,
}

/// How far each tier has been told, in their order.
#[derive(Debug)]
pub(crate) struct Telling {
    debts: Vec<Debt>,
    /// Orders that some tier was told of, and that nobody has asked about yet.
    news: BTreeSet<u64>,
}

/// What one tier has yet to be told.
#[derive(Debug)]
struct Debt {
    /// Orders up to this number were tried.
    tried_to: u64,
    /// Those that failed, and those that a lower tier was told late: it has to be told of them again.
    late: BTreeSet<u64>,
    /// From which of them on it is told next.
    late_from: u64,
    /// It did not answer last time.
    is_out: bool,
    /// So many it is told at once: half as many whenever none of them was done in time, for what lies there may be large.
    keys_max: usize,
}

impl Debt {
    fn new() -> Self {
        Self { tried_to: 0, late: BTreeSet::new(), late_from: 0, is_out: false, keys_max: BATCH_KEYS_MAX }
    }

    fn is_told(&self, number: u64) -> bool {
        number <= self.tried_to && !self.late.contains(&number)
    }
}

impl Telling {
    pub(crate) fn new(tiers: usize) -> Self {
        Self { debts: (0..tiers).map(|_| Debt::new()).collect(), news: BTreeSet::new() }
    }

    /// True if no tier has yet to be told of this order.
    pub(crate) fn is_told(&self, number: u64) -> bool {
        self.debts.iter().all(|debt| debt.is_told(number))
    }

    /// The orders that have come to be told everywhere since this was asked last, in their order.
    pub(crate) fn take_news(&mut self) -> Vec<u64> {
        let news = std::mem::take(&mut self.news);
        news.into_iter().filter(|number| self.is_told(*number)).collect()
    }

    /// Tells the tiers of the orders up to a number that they have not been told of, as far as they are meant.
    ///
    /// # Errors
    ///
    /// The first, if some are left of which a tier that was to be told was not.
    pub(crate) async fn tell(&mut self, fleet: &Fleet, up_to: u64, whom: Whom) -> Result<(), TierError> {
        let mut ended = Ok(());
        for index in (0..self.debts.len()).rev() {
            let (above, debts) = self.debts.split_at_mut(index);
            let debt = &mut debts[0];
            if whom == Whom::Well && debt.is_out {
                continue;
            }
            let mut fresh = BTreeSet::new();
            let late = if whom == Whom::All { &mut debt.late } else { &mut fresh };
            let numbers = fleet.outbox.numbers((debt.tried_to, up_to), late, debt.late_from);
            debt.tried_to = up_to;
            let told = tell_tier(fleet, &fleet.tiers[index], debt, numbers, &mut ended).await;
            self.news.extend(&told);
            // Those that have been told of it before are told again.
            for debt in above {
                debt.late.extend(told.iter().filter(|number| **number <= debt.tried_to));
            }
        }
        ended
    }
}

/// Tells one tier of these orders. Gives those that it was told.
async fn tell_tier(
    fleet: &Fleet,
    tier: &TierSide,
    debt: &mut Debt,
    mut numbers: VecDeque<u64>,
    ended: &mut Result<(), TierError>,
) -> Vec<u64> {
    let mut told = Vec::new();
    debt.is_out = false;
    loop {
        let shown = fleet.outbox.orders(&mut numbers, debt.keys_max);
        if shown.is_empty() {
            return told;
        }
        let answers = tell_orders(tier, &shown, fleet.clock.now_us()).await;
        for (Shown { number, earlier, .. }, answer) in shown.iter().zip(&answers) {
            match answer {
                Ok(()) => {
                    for number in earlier.iter().chain([number]) {
                        debt.late.remove(number);
                        told.push(*number);
                    }
                }
                Err(error) => {
                    *ended = ended.and(Err(*error));
                    debt.late.insert(*number);
                }
            }
        }
        if answers.iter().all(Result::is_ok) && shown.len() == debt.keys_max {
            // Slower than it shrinks: a batch that is too large costs a whole timeout.
            debt.keys_max = (debt.keys_max + debt.keys_max.div_ceil(8)).min(BATCH_KEYS_MAX);
        } else if answers.iter().all(Result::is_err) && answers.contains(&Err(TierError::TimedOut)) {
            debt.keys_max = (shown.len() / 2).max(1);
        }
        // Where only the servers of these keys are away the others' are told: it costs no time.
        let is_away = |answer: &Result<(), TierError>| *answer == Err(TierError::Down);
        let goes_on = tier.is_up() && answers.iter().all(is_away);
        if !goes_on && answers.iter().all(Result::is_err) {
            debt.is_out = !tier.is_up() || answers.contains(&Err(TierError::TimedOut));
            // Who refuses these need not refuse the others: it is told of those first next time.
            debt.late_from = numbers.front().copied().unwrap_or(0);
            debt.late.extend(numbers);
            return told;
        }
    }
}

/// Puts what is to be put and may be still, and voids the rest.
async fn tell_orders(tier: &TierSide, shown: &[Shown], now_us: u64) -> Answers<()> {
    let (mut voids, mut void_places) = (Vec::new(), Vec::new());
    let (mut puts, mut put_places) = (Vec::new(), Vec::new());
    for (place, Shown { order, put, .. }) in shown.iter().enumerate() {
        let left = put.as_ref().and_then(|put| Some((put, put.left(order.version, now_us)?)));
        match left {
            Some((put, left)) if put.bytes.len() <= tier.options.value_bytes_max => {
                puts.push(Put {
                    key: order.key.clone(),
                    version: order.version,
                    bytes: put.bytes.clone(),
                    lifetime: left.min(tier.options.ttl.saturating_add(put.grace)),
                });
                put_places.push(place);
            }
            _ => {
                if left.is_some() {
                    count(&tier.counters.oversize);
                }
                voids.push(Voiding { key: order.key.clone(), version: order.version, how: order.how });
                void_places.push(place);
            }
        }
    }
    let mut answers = vec![Ok(()); shown.len()];
    if !puts.is_empty() {
        for (place, stored) in put_places.into_iter().zip(tier.put(&puts).await) {
            // One that is refused has been overtaken: something newer is there, and is left alone.
            match stored {
                Ok(Stored::Yes) => count(&tier.counters.stored),
                Ok(Stored::Refused) => count(&tier.counters.refused),
                Err(_) => {}
            }
            answers[place] = stored.map(drop);
        }
    }
    if !voids.is_empty() {
        for (place, voided) in void_places.into_iter().zip(tier.void(&voids).await) {
            answers[place] = voided;
        }
    }
    answers
}
