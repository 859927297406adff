//! What this node has changed and the other nodes have not been told yet. While a key is in here, reads of it on
//! this node do not trust the shared tiers.
//! Orders are numbered. A tier is shown those after the last that were tried on it; a key that is given again after that gets
//! a new number, so that it is shown again, as it is then. What all have been told of is taken in a batch and confirmed.
//! Bounded: over the bound the keys are given up for one order to void everything, and until that is announced
//! nothing in the shared tiers is trusted. Filled by `invalidate`, emptied by `courier`.

mod pending;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use self::pending::{State, weight};
use crate::{
    FLOOR_LIFE, Version,
    clock::micros,
    flight::lock,
    invalidation::{KeyOrder, SweepOrder},
    sweeps::Sweeps,
};

/// Keys in one batch: one script call of about a millisecond on the server, which serves nobody else then.
pub(crate) const BATCH_KEYS_MAX: usize = 512;

/// Keys that are shown in one round: between two rounds there is a pulse.
const ROUND_KEYS_MAX: usize = 4 * BATCH_KEYS_MAX;

/// Bytes of keys and values in one batch: what one message to all nodes, or one write to a tier, may weigh.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Bytes pending before the keys are given up: they are expected to be far below 800 bytes each.
const PENDING_BYTES_MAX: usize = 8 << 20;

/// Sweeps pending before they become one over everything.
const PENDING_SWEEPS_MAX: usize = 1_024;

/// Until then a value without a number may be put into a tier: what another node does meanwhile may come before or after it.
const UNNUMBERED_AGE_MAX: Duration = Duration::from_millis(100);

/// Changes on their way to the other nodes.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// How many orders are pending, so that reads need no lock while there are none.
    pending: AtomicUsize,
    overflows: AtomicUsize,
    /// The last order when keys were given up last.
    given_up_to: AtomicU64,
    keys_max: usize,
    pub(crate) wake: Notify,
    /// All orders with a lower number have been carried out.
    done_below: watch::Sender<u64>,
}

/// A value to be put in the place of the old one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Putting {
    pub(crate) bytes: Bytes,
    /// From when it was set.
    pub(crate) lifetime: Duration,
    /// The last part of it.
    pub(crate) grace: Duration,
    pub(crate) set_us: u64,
}

impl Putting {
    /// What is left of its life, while a tier is sure to tell whatever has overtaken it: of a numbered one for half of the
    /// time for which floors are kept; of one without a number it cannot, and it is put at once or not at all.
    pub(crate) fn left(&self, version: Version, now_us: u64) -> Option<Duration> {
        let age_us = now_us.saturating_sub(self.set_us);
        let left = self.lifetime.saturating_sub(Duration::from_micros(age_us));
        let is_numbered = version != Version::NONE && version != Version::LATEST;
        let age_max_us = if is_numbered { micros(FLOOR_LIFE) / 2 } else { micros(UNNUMBERED_AGE_MAX) };
        (age_us < age_max_us && !left.is_zero()).then_some(left)
    }
}

/// Whether an order fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// There was no room: all pending orders became one to void everything.
    Overflowed,
}

/// One key's order, as it is shown to the tiers.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) number: u64,
    /// What was shown of the key before, if that has yet to be announced: whoever is told this has been told that.
    pub(crate) earlier: Option<u64>,
    pub(crate) order: KeyOrder,
    pub(crate) put: Option<Putting>,
}

/// What the courier announces next. It stays pending until it is confirmed.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) keys: Vec<Announced>,
    pub(crate) sweeps: Vec<(u64, SweepOrder)>,
    /// Every tier has been told of it.
    pub(crate) is_told: bool,
}

/// One key's order on its way to the other nodes.
#[derive(Debug)]
pub(crate) struct Announced {
    number: u64,
    since: u64,
    pub(crate) order: KeyOrder,
}

impl Outbox {
    pub(crate) fn new(keys_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            pending: AtomicUsize::new(0),
            overflows: AtomicUsize::new(0),
            given_up_to: AtomicU64::new(0),
            keys_max,
            wake: Notify::new(),
            done_below: watch::Sender::new(1),
        }
    }

    /// Orders all of it. From here on `blocks` holds for the keys. The caller has begun the sweeps. Gives the
    /// number of the last order.
    pub(crate) fn push(
        &self,
        keys: impl IntoIterator<Item = (KeyOrder, Option<Putting>)>,
        swept: Vec<SweepOrder>,
        sweeps: &Sweeps,
    ) -> (u64, Pushed) {
        let mut state = lock(&self.state);
        for (order, put) in keys {
            state.push_key(order, put);
        }
        for order in swept {
            state.push_sweep(order);
        }
        if state.bytes > PENDING_BYTES_MAX {
            state.drop_puts();
        }
        let mut pushed = Pushed::Queued;
        if state.keys.len() > self.keys_max
            || state.bytes > PENDING_BYTES_MAX
            || state.sweeps.len() > PENDING_SWEEPS_MAX
        {
            state.give_up(sweeps);
            self.overflows.fetch_add(1, Ordering::Relaxed);
            self.given_up_to.store(state.last_number, Ordering::Release);
            pushed = Pushed::Overflowed;
        }
        self.publish(&state);
        let number = state.last_number;
        drop(state);
        self.wake.notify_one();
        (number, pushed)
    }

    /// True while what a shared tier says of `key` may be what this node has changed.
    pub(crate) fn blocks(&self, key: &Bytes) -> bool {
        self.pending.load(Ordering::SeqCst) > 0 && lock(&self.state).keys.contains_key(key)
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }

    /// Keys and sweeps that are pending.
    pub(crate) fn count(&self) -> (usize, usize) {
        let state = lock(&self.state);
        let under_way = state.under_way.as_ref().map_or(0, |batch| batch.sweeps.len());
        (state.keys.len(), state.sweeps.len() + under_way)
    }

    pub(crate) fn overflows(&self) -> usize {
        self.overflows.load(Ordering::Relaxed)
    }

    /// True if this order may be among those that were given up for one over everything.
    pub(crate) fn may_have_given_up(&self, number: u64) -> bool {
        number <= self.given_up_to.load(Ordering::Acquire)
    }

    /// The number of the last order that was given; 0 before the first.
    pub(crate) fn last_number(&self) -> u64 {
        lock(&self.state).last_number
    }

    /// Waits until every order up to `number` has been carried out.
    pub(crate) async fn done(&self, number: u64) {
        let mut done_below = self.done_below.subscribe();
        // The sender lives as long as `self`.
        let _closed = done_below.wait_for(|below| *below > number).await;
    }

    /// The number up to which orders are shown from here on: one that is given again gets a new number. Some thousands at
    /// most are shown in one round, so that a round has an end.
    pub(crate) fn show(&self) -> u64 {
        let mut state = lock(&self.state);
        let beyond = state.order.range(state.shown_to + 1..).nth(ROUND_KEYS_MAX - 1);
        state.shown_to = beyond.map_or(state.last_number, |(number, _)| *number);
        state.shown_to
    }

    /// Whether some orders have yet to be shown.
    pub(crate) fn has_unshown(&self) -> bool {
        let state = lock(&self.state);
        state.order.range(state.shown_to + 1..).next().is_some()
    }

    /// The numbers of the keys' orders after one and up to another, and behind them those of `late` that still stand, from
    /// `late_from` on and then the others. A key is among them once: as it is now.
    pub(crate) fn numbers(
        &self,
        (after, up_to): (u64, u64),
        late: &mut BTreeSet<u64>,
        late_from: u64,
    ) -> VecDeque<u64> {
        let state = lock(&self.state);
        late.retain(|number| state.order.contains_key(number));
        let fresh = state.order.range(after.saturating_add(1)..).map(|(number, _)| *number);
        let fresh = fresh.take_while(|number| *number <= up_to);
        let late = late.range(late_from..).chain(late.range(..late_from)).copied();
        fresh.chain(late).filter(|number| !state.is_replaced(*number, up_to)).collect()
    }

    /// The first of these orders, as many as may go together and at most `keys_max`, as they are now. They are taken off
    /// `numbers`.
    pub(crate) fn orders(&self, numbers: &mut VecDeque<u64>, keys_max: usize) -> Vec<Shown> {
        let state = lock(&self.state);
        let (mut orders, mut bytes) = (Vec::new(), 0);
        while let Some(number) = numbers.front().copied() {
            if let Some((key, pending)) = state.pending_at(number) {
                bytes += weight(key, pending.put.as_ref());
                if orders.len() == keys_max || (bytes > BATCH_BYTES_MAX && !orders.is_empty()) {
                    break;
                }
                let earlier = state.earlier_than(number);
                orders.push(Shown { number, earlier, order: pending.order(key), put: pending.put.clone() });
            }
            numbers.pop_front();
        }
        orders
    }

    /// What is to be announced next, if anything, of the orders and sweeps up to a number, until it is confirmed or
    /// given back: keys of which all tiers were told, or keys of which some tier was not.
    pub(crate) fn next_batch(
        &self,
        up_to: u64,
        is_told: impl Fn(u64) -> bool,
        told: bool,
    ) -> Option<Arc<Batch>> {
        let mut state = lock(&self.state);
        let batch = state.take_batch(up_to, &is_told, told);
        state.under_way = (!batch.is_empty()).then(|| Arc::new(batch));
        state.under_way.clone()
    }

    /// The batch could not be announced: it is pending as before, and what was given again since then is what it is now.
    pub(crate) fn give_back(&self, batch: &Batch) {
        let mut state = lock(&self.state);
        state.under_way = None;
        for announced in &batch.keys {
            state.put_back(announced);
        }
        let sweeps = std::mem::take(&mut state.sweeps);
        state.sweeps = batch.sweeps.iter().cloned().chain(sweeps).collect();
        self.publish(&state);
    }

    /// Confirms orders of which every tier was told, and the sweeps up to a number, where nobody else is to be told. Gives
    /// the sweeps.
    pub(crate) fn confirm_told(&self, told: &[u64], up_to: u64) -> Vec<SweepOrder> {
        let mut state = lock(&self.state);
        let batch = state.take_told(told, up_to);
        if !batch.is_empty() {
            self.confirm_in(state, &batch);
        }
        batch.sweeps.into_iter().map(|(_, order)| order).collect()
    }

    /// The batch has been carried out. Orders given again since then stay pending.
    pub(crate) fn confirm(&self, batch: &Batch) {
        self.confirm_in(lock(&self.state), batch);
    }

    fn confirm_in(&self, mut state: MutexGuard<'_, State>, batch: &Batch) {
        state.under_way = None;
        for Announced { number, since, order } in &batch.keys {
            state.waited_for.remove(since);
            state.forget(*number, &order.key);
        }
        for (number, _) in &batch.sweeps {
            state.waited_for.remove(number);
        }
        self.publish(&state);
        let done_below = state.waited_for.first().copied().unwrap_or(state.last_number + 1);
        drop(state);
        self.done_below.send_replace(done_below);
    }

    fn publish(&self, state: &State) {
        let under_way = state.under_way.as_ref().map_or(0, |batch| batch.sweeps.len());
        self.pending.store(state.keys.len() + state.sweeps.len() + under_way, Ordering::SeqCst);
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.sweeps.is_empty()
    }

    /// Those that are waited for.
    fn numbers(&self) -> BTreeSet<u64> {
        let keys = self.keys.iter().map(|announced| announced.since);
        keys.chain(self.sweeps.iter().map(|(number, _)| *number)).collect()
    }
}

#[cfg(test)]
mod tests;
