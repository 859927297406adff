//! The orders that are pending, by key and by number: how one that is given again is merged with what was shown before, and
//! which of them go together. Kept by `outbox`, behind its lock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ahash::RandomState;
use bytes::Bytes;

use super::{Announced, BATCH_BYTES_MAX, BATCH_KEYS_MAX, Batch, Putting};
use crate::{
    Version,
    backplane::Swath,
    invalidation::{KeyOrder, SweepOrder},
    sweeps::Sweeps,
    tier::Void,
};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) keys: HashMap<Bytes, Pending, RandomState>,
    /// The keys that are not under way, by number, oldest first.
    pub(super) order: BTreeMap<u64, Bytes>,
    pub(super) sweeps: Vec<(u64, SweepOrder)>,
    pub(super) under_way: Option<Arc<Batch>>,
    /// Since when each order is waited for, by number.
    pub(super) waited_for: BTreeSet<u64>,
    /// Orders up to this number have been shown to whoever tells the tiers.
    pub(super) shown_to: u64,
    pub(super) bytes: usize,
    pub(super) last_number: u64,
}

/// An order's number rises each time it is given after it was shown.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    number: u64,
    /// The number that whoever waits for it has waited for since; who waits for `earlier` is not among them.
    since: u64,
    how: Void,
    version: Version,
    pub(super) put: Option<Putting>,
    /// As it was shown before it was given again, if that has yet to be announced. Without it, a key that is given again during
    /// each round would never be announced.
    earlier: Option<Earlier>,
}

/// What the tiers were told at least, and others may therefore be told, of a key that was given again since.
#[derive(Debug, Clone, Copy)]
struct Earlier {
    number: u64,
    since: u64,
    how: Void,
    version: Version,
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// An order given again keeps its place until it is shown, with the stricter of both demands. A value that is older than
    /// what is pending is not put: it would be taken for one of the newer version.
    pub(super) fn push_key(&mut self, order: KeyOrder, mut put: Option<Putting>) {
        let KeyOrder { key, mut how, mut version } = order;
        let mut number = self.next_number();
        let mut since = number;
        let mut earlier = None;
        if let Some(previous) = self.keys.remove(&key) {
            self.bytes -= weight(&key, previous.put.as_ref());
            put = put.filter(|_| version >= previous.version);
            version = version.max(previous.version);
            how = how.min(previous.how);
            earlier = previous.earlier.filter(|earlier| self.order.contains_key(&earlier.number));
            let is_in_order = self.order.contains_key(&previous.number);
            if is_in_order && previous.number > self.shown_to {
                (number, since) = (previous.number, previous.since);
            } else if is_in_order && earlier.is_none() {
                earlier = Some(previous.as_shown());
            } else if is_in_order {
                self.order.remove(&previous.number);
                since = previous.since;
            }
        }
        self.bytes += weight(&key, put.as_ref());
        self.order.insert(number, key.clone());
        self.waited_for.insert(since);
        self.keys.insert(key, Pending { number, since, how, version, put, earlier });
    }

    pub(super) fn pending_at(&self, number: u64) -> Option<(&Bytes, &Pending)> {
        let key = self.order.get(&number)?;
        Some((key, self.keys.get(key)?))
    }

    /// Values are the larger part, and the lesser loss: without them their keys are voided and read from the source.
    pub(super) fn drop_puts(&mut self) {
        let puts = self.keys.values_mut().filter_map(|pending| pending.put.take());
        self.bytes -= puts.map(|put| put.bytes.len()).sum::<usize>();
    }

    pub(super) fn push_sweep(&mut self, order: SweepOrder) {
        let number = self.next_number();
        self.waited_for.insert(number);
        self.sweeps.push((number, order));
    }

    /// Whether this is what was shown of a key that has another number by now, and that one is among those up to `up_to`.
    pub(super) fn is_replaced(&self, number: u64, up_to: u64) -> bool {
        self.pending_at(number).is_some_and(|(_, pending)| number < pending.number && pending.number <= up_to)
    }

    /// The number under which the key of this one was shown before, if that has yet to be announced.
    pub(super) fn earlier_than(&self, number: u64) -> Option<u64> {
        let earlier = self.pending_at(number)?.1.earlier?.number;
        (earlier < number && self.order.contains_key(&earlier)).then_some(earlier)
    }

    /// The orders of these numbers, and the sweeps up to a number. What was shown of a key before goes with what it is now.
    pub(super) fn take_told(&mut self, numbers: &[u64], up_to: u64) -> Batch {
        let mut keys = Vec::new();
        // The highest first, so that it takes the earlier one with it.
        for number in numbers.iter().rev() {
            let Some(key) = self.order.get(number).cloned() else { continue };
            let Some(pending) = self.keys.get(&key) else { continue };
            let earlier = pending.earlier.filter(|earlier| earlier.number == *number);
            keys.push(earlier.unwrap_or_else(|| self.with_earlier(pending)).announced(&key));
            if earlier.is_none() {
                self.include_earlier(&key);
            }
            self.order.remove(number);
        }
        Batch { keys, sweeps: self.take_sweeps(up_to), is_told: true }
    }

    fn take_sweeps(&mut self, up_to: u64) -> Vec<(u64, SweepOrder)> {
        let (sweeps, later) =
            std::mem::take(&mut self.sweeps).into_iter().partition(|(number, _)| *number <= up_to);
        self.sweeps = later;
        sweeps
    }

    /// The oldest keys of which every tier was told, or of which some tier was not, and the sweeps, up to a number.
    pub(super) fn take_batch(&mut self, up_to: u64, is_told: &impl Fn(u64) -> bool, told: bool) -> Batch {
        let (mut keys, mut bytes, mut merged) = (Vec::new(), 0, Vec::new());
        for (number, key) in self.order.range(..=up_to) {
            let Some(pending) = self.keys.get(key) else { continue };
            let earlier = pending.earlier.filter(|earlier| earlier.number == *number);
            let is_ready = pending.number <= up_to && (is_told(pending.number) || !is_told(*number));
            if earlier.is_some() && is_ready {
                merged.push(key.clone());
                continue;
            }
            if is_told(*number) != told {
                continue;
            }
            bytes += key.len();
            if keys.len() == BATCH_KEYS_MAX || (bytes > BATCH_BYTES_MAX && !keys.is_empty()) {
                break;
            }
            keys.push(earlier.unwrap_or_else(|| self.with_earlier(pending)).announced(key));
        }
        for key in merged {
            self.include_earlier(&key);
        }
        for Announced { number, .. } in &keys {
            self.order.remove(number);
        }
        Batch { keys, sweeps: self.take_sweeps(up_to), is_told: told }
    }

    /// Everything that is not under way becomes one sweep.
    pub(super) fn give_up(&mut self, sweeps: &Sweeps) {
        let version = self.keys.values().map(|pending| pending.version);
        let version = version.chain(self.sweeps.iter().map(|(_, order)| order.version)).max();
        // Before anything is let go, so that nothing in the shared tiers is trusted in between.
        let swath = sweeps.begin(Swath::All, Void::Remove);
        for (_, order) in self.sweeps.drain(..) {
            sweeps.number(&order.swath, order.how, None);
        }
        // Whoever waits for one of those that are given up waits for the sweep.
        let under_way = self.under_way.as_deref().map(Batch::numbers).unwrap_or_default();
        let lowest = self.waited_for.difference(&under_way).next().copied();
        let number = lowest.unwrap_or_else(|| self.next_number());
        self.waited_for = under_way;
        self.waited_for.insert(number);
        self.keys.clear();
        self.order.clear();
        self.bytes = 0;
        let order = SweepOrder { swath, how: Void::Remove, version: version.unwrap_or_default() };
        self.sweeps.push((number, order));
    }

    pub(super) fn put_back(&mut self, announced: &Announced) {
        let Announced { number, since, order: KeyOrder { key, how, version } } = announced;
        let Some(pending) = self.keys.get_mut(key) else {
            return self.wait_for_all(*since);
        };
        self.order.insert(*number, key.clone());
        if pending.number != *number {
            // It was given again meanwhile; and twice, if there is an earlier one already: that is part of what it is now.
            if pending.earlier.is_some_and(|earlier| earlier.number != *number) {
                self.include_earlier(key);
            }
            let earlier = Earlier { number: *number, since: *since, how: *how, version: *version };
            self.keys.entry(key.clone()).and_modify(|pending| pending.earlier = Some(earlier));
        }
    }

    /// As it is now, for those too who wait for what was shown before.
    fn with_earlier(&self, pending: &Pending) -> Earlier {
        let shown = pending.as_shown();
        let earlier = pending.earlier.filter(|earlier| self.order.contains_key(&earlier.number));
        Earlier { since: earlier.map_or(shown.since, |earlier| earlier.since.min(shown.since)), ..shown }
    }

    /// What was shown of this key before goes with what it is now.
    fn include_earlier(&mut self, key: &Bytes) {
        if let Some(pending) = self.keys.get_mut(key)
            && let Some(earlier) = pending.earlier.take()
            && self.order.remove(&earlier.number).is_some()
        {
            self.waited_for.remove(&pending.since.max(earlier.since));
            pending.since = pending.since.min(earlier.since);
        }
    }

    /// Whoever waits for this order, which was given up while it was announced, waits for the sweep that takes its place.
    fn wait_for_all(&mut self, since: u64) {
        let Some((number, _)) = self.sweeps.iter_mut().find(|(_, order)| order.swath == Swath::All) else {
            return;
        };
        let later = since.max(*number);
        *number = since.min(*number);
        self.waited_for.remove(&later);
    }

    pub(super) fn forget(&mut self, number: u64, key: &Bytes) {
        if self.keys.get(key).is_some_and(|pending| pending.number == number)
            && let Some(pending) = self.keys.remove(key)
        {
            self.bytes -= weight(key, pending.put.as_ref());
        }
    }
}

impl Pending {
    pub(super) fn order(&self, key: &Bytes) -> KeyOrder {
        KeyOrder { key: key.clone(), how: self.how, version: self.version }
    }

    fn as_shown(&self) -> Earlier {
        Earlier { number: self.number, since: self.since, how: self.how, version: self.version }
    }
}

impl Earlier {
    fn announced(self, key: &Bytes) -> Announced {
        let Self { number, since, how, version } = self;
        Announced { number, since, order: KeyOrder { key: key.clone(), how, version } }
    }
}

/// Bytes that an order takes up, but for what every order does.
pub(super) fn weight(key: &Bytes, put: Option<&Putting>) -> usize {
    key.len() + put.map_or(0, |put| put.bytes.len())
}
