//! What this node has changed and the other nodes have not been told yet. While a key is in here, reads of it on
//! this node do not trust the shared tiers.
//! Bounded: over the bound the keys are given up for one order to void everything, and until that is announced
//! nothing in the shared tiers is trusted. Filled by `invalidate`, emptied by `courier`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ahash::RandomState;
use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::{
    FLOOR_LIFE, Version,
    backplane::Swath,
    clock::micros,
    flight::lock,
    invalidation::{KeyOrder, SweepOrder},
    sweeps::Sweeps,
    tier::Void,
};

/// Keys in one batch: one script call of about a millisecond on the server, which serves nobody else then.
const BATCH_KEYS_MAX: usize = 512;

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

#[derive(Debug, Default)]
struct State {
    keys: HashMap<Bytes, Pending, RandomState>,
    /// The keys that are not under way, by number, oldest first.
    order: BTreeMap<u64, Bytes>,
    sweeps: Vec<(u64, SweepOrder)>,
    under_way: Option<Arc<Batch>>,
    bytes: usize,
    last_number: u64,
}

/// An order's number rises each time it is given while the earlier one is under way.
#[derive(Debug, Clone)]
struct Pending {
    number: u64,
    how: Void,
    version: Version,
    put: Option<Putting>,
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

/// What the courier carries next. It stays pending until `confirm`.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) keys: Vec<(u64, KeyOrder, Option<Putting>)>,
    pub(crate) sweeps: Vec<(u64, SweepOrder)>,
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

    /// What is to be carried next, if anything: again the last one, if it was not confirmed.
    pub(crate) fn next_batch(&self) -> Option<Arc<Batch>> {
        let mut state = lock(&self.state);
        if state.under_way.is_none() {
            let batch = state.take_batch();
            let is_empty = batch.keys.is_empty() && batch.sweeps.is_empty();
            state.under_way = (!is_empty).then(|| Arc::new(batch));
        }
        state.under_way.clone()
    }

    /// The batch has been carried out. Orders given again since then stay pending.
    pub(crate) fn confirm(&self, batch: &Batch) {
        let mut state = lock(&self.state);
        state.under_way = None;
        for (number, order, _) in &batch.keys {
            state.forget(*number, &order.key);
        }
        self.publish(&state);
        let done_below = state.lowest_number();
        drop(state);
        self.done_below.send_replace(done_below);
    }

    fn publish(&self, state: &State) {
        let under_way = state.under_way.as_ref().map_or(0, |batch| batch.sweeps.len());
        self.pending.store(state.keys.len() + state.sweeps.len() + under_way, Ordering::SeqCst);
    }
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// An order given again before it is under way keeps its place, with the stricter of both demands. A value that is older
    /// than what is pending is not put: it would be taken for one of the newer version.
    fn push_key(&mut self, order: KeyOrder, mut put: Option<Putting>) {
        let KeyOrder { key, mut how, mut version } = order;
        let mut number = self.next_number();
        if let Some(previous) = self.keys.remove(&key) {
            self.bytes -= weight(&key, previous.put.as_ref());
            put = put.filter(|_| version >= previous.version);
            version = version.max(previous.version);
            how = how.min(previous.how);
            if self.order.contains_key(&previous.number) {
                number = previous.number;
            }
        }
        self.bytes += weight(&key, put.as_ref());
        self.order.insert(number, key.clone());
        self.keys.insert(key, Pending { number, how, version, put });
    }

    /// Values are the larger part, and the lesser loss: without them their keys are voided and read from the source.
    fn drop_puts(&mut self) {
        let puts = self.keys.values_mut().filter_map(|pending| pending.put.take());
        self.bytes -= puts.map(|put| put.bytes.len()).sum::<usize>();
    }

    fn push_sweep(&mut self, order: SweepOrder) {
        let number = self.next_number();
        self.sweeps.push((number, order));
    }

    fn take_batch(&mut self) -> Batch {
        let (mut keys, mut bytes) = (Vec::new(), 0);
        while let Some((number, key)) = self.order.first_key_value() {
            let Some(pending) = self.keys.get(key) else {
                self.order.pop_first();
                continue;
            };
            bytes += weight(key, pending.put.as_ref());
            if keys.len() == BATCH_KEYS_MAX || (bytes > BATCH_BYTES_MAX && !keys.is_empty()) {
                break;
            }
            let order = KeyOrder { key: key.clone(), how: pending.how, version: pending.version };
            keys.push((*number, order, pending.put.clone()));
            self.order.pop_first();
        }
        Batch { keys, sweeps: std::mem::take(&mut self.sweeps) }
    }

    /// Everything that is not under way becomes one sweep.
    fn give_up(&mut self, sweeps: &Sweeps) {
        let lowest = self.lowest();
        let version = self.keys.values().map(|pending| pending.version);
        let version = version.chain(self.sweeps.iter().map(|(_, order)| order.version)).max();
        // Before anything is let go, so that nothing in the shared tiers is trusted in between.
        let swath = sweeps.begin(Swath::All, Void::Remove);
        for (_, order) in self.sweeps.drain(..) {
            sweeps.number(&order.swath, order.how, None);
        }
        // Whoever waits for one of those that are given up waits for the sweep.
        let number = lowest.unwrap_or_else(|| self.next_number());
        self.keys.clear();
        self.order.clear();
        self.bytes = 0;
        let order = SweepOrder { swath, how: Void::Remove, version: version.unwrap_or_default() };
        self.sweeps.push((number, order));
    }

    fn forget(&mut self, number: u64, key: &Bytes) {
        if self.keys.get(key).is_some_and(|pending| pending.number == number)
            && let Some(pending) = self.keys.remove(key)
        {
            self.bytes -= weight(key, pending.put.as_ref());
        }
    }

    /// The lowest number of what is not under way.
    fn lowest(&self) -> Option<u64> {
        let key = self.order.first_key_value().map(|(number, _)| *number);
        let sweep = self.sweeps.iter().map(|(number, _)| *number).min();
        key.into_iter().chain(sweep).min()
    }

    fn lowest_number(&self) -> u64 {
        self.lowest().unwrap_or(self.last_number + 1)
    }
}

fn weight(key: &Bytes, put: Option<&Putting>) -> usize {
    key.len() + put.map_or(0, |put| put.bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Bytes {
        Bytes::from(number.to_string())
    }

    fn push(outbox: &Outbox, sweeps: &Sweeps, keys: &[Bytes], version: u64) -> (u64, Pushed) {
        let order =
            |key: &Bytes| (KeyOrder { key: key.clone(), how: Void::Remove, version: Version(version) }, None);
        outbox.push(keys.iter().map(order).collect::<Vec<_>>(), vec![], sweeps)
    }

    fn sent(outbox: &Outbox) -> Vec<(Bytes, Version)> {
        let batch = outbox.next_batch();
        let keys = batch.iter().flat_map(|batch| &batch.keys);
        keys.map(|(_, order, _)| (order.key.clone(), order.version)).collect()
    }

    #[test]
    fn values_over_the_bound_are_dropped_and_no_key_is_given_up_for_them() {
        let (outbox, sweeps) = (Outbox::new(1_000), Sweeps::default());
        let large = Putting {
            bytes: Bytes::from(vec![0; 1 << 20]),
            lifetime: Duration::from_secs(1),
            grace: Duration::ZERO,
            set_us: 0,
        };
        for number in 0..20 {
            let order = KeyOrder { key: key(number), how: Void::Remove, version: Version(1) };
            let (_, pushed) = outbox.push([(order, Some(large.clone()))], vec![], &sweeps);
            assert_eq!(pushed, Pushed::Queued);
        }
        let bytes = lock(&outbox.state).bytes;
        assert!(bytes <= PENDING_BYTES_MAX, "{bytes}");
        assert_eq!((outbox.pending(), outbox.overflows()), (20, 0));
    }

    #[test]
    fn key_blocks_until_its_batch_is_confirmed() {
        let (outbox, sweeps) = (Outbox::new(10), Sweeps::default());
        push(&outbox, &sweeps, &[key(1), key(2)], 5);
        let batch = outbox.next_batch().unwrap();
        assert!(outbox.blocks(&key(1)) && !outbox.blocks(&key(3)));
        outbox.confirm(&batch);
        assert!(!outbox.blocks(&key(1)));
        assert_eq!(outbox.pending(), 0);
    }

    #[test]
    fn key_pushed_again_while_it_is_sent_stays_pending_with_the_higher_version() {
        let (outbox, sweeps) = (Outbox::new(10), Sweeps::default());
        push(&outbox, &sweeps, &[key(1)], 5);
        let batch = outbox.next_batch().unwrap();
        push(&outbox, &sweeps, &[key(1)], 4);
        assert!(Arc::ptr_eq(&batch, &outbox.next_batch().unwrap()), "the same is tried again");
        outbox.confirm(&batch);
        assert!(outbox.blocks(&key(1)));
        assert_eq!(sent(&outbox), [(key(1), Version(5))]);
    }

    #[test]
    fn overflow_sweeps_everything_and_what_was_under_way_proves_nothing() {
        let (outbox, sweeps) = (Outbox::new(2), Sweeps::default());
        push(&outbox, &sweeps, &[key(1), key(2)], 5);
        let keys = outbox.next_batch().unwrap();
        assert_eq!(push(&outbox, &sweeps, &[key(3)], 7).1, Pushed::Overflowed);
        outbox.confirm(&keys);
        assert!(sweeps.is_pending_over(&key(99)));
        let clear = outbox.next_batch().unwrap();
        let [(_, SweepOrder { swath: Swath::All, version: Version(7), .. })] = &clear.sweeps[..] else {
            panic!("{clear:?}")
        };
        outbox.confirm(&clear);
        assert_eq!((outbox.pending(), outbox.overflows()), (0, 1));
    }

    #[test]
    fn batches_are_bounded_in_keys_and_bytes_and_make_progress() {
        let (outbox, sweeps) = (Outbox::new(10_000), Sweeps::default());
        let keys: Vec<_> = (0..1_000).map(key).collect();
        push(&outbox, &sweeps, &keys, 1);
        assert_eq!(sent(&outbox).len(), BATCH_KEYS_MAX);
        let mut rounds = 0;
        while let Some(batch) = outbox.next_batch() {
            outbox.confirm(&batch);
            rounds += 1;
        }
        assert_eq!(rounds, 2);

        let long = Bytes::from(vec![b'x'; BATCH_BYTES_MAX + 1]);
        push(&outbox, &sweeps, &[long, key(1)], 1);
        assert_eq!(sent(&outbox).len(), 1, "one key too long for a batch goes alone");
    }

    #[test]
    fn bytes_are_bounded_as_well() {
        let (outbox, sweeps) = (Outbox::new(usize::MAX), Sweeps::default());
        let long = Bytes::from(vec![b'x'; PENDING_BYTES_MAX]);
        assert_eq!(push(&outbox, &sweeps, &[long], 1).1, Pushed::Queued);
        assert_eq!(push(&outbox, &sweeps, &[key(1)], 1).1, Pushed::Overflowed);
    }

    #[tokio::test(start_paused = true)]
    async fn waiter_wakes_when_its_order_is_done_and_not_before() {
        let (outbox, sweeps) = (Arc::new(Outbox::new(10)), Sweeps::default());
        push(&outbox, &sweeps, &[key(1)], 5);
        let first = outbox.next_batch().unwrap();
        let (number, _) = push(&outbox, &sweeps, &[key(2)], 5);
        let waiting = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.done(number).await }
        });
        tokio::task::yield_now().await;
        outbox.confirm(&first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        outbox.confirm(&outbox.next_batch().unwrap());
        waiting.await.unwrap();
    }
    #[tokio::test(start_paused = true)]
    async fn waiter_of_a_key_that_was_given_up_wakes_with_the_sweep_and_not_before() {
        let (outbox, sweeps) = (Arc::new(Outbox::new(2)), Sweeps::default());
        push(&outbox, &sweeps, &[key(1)], 5);
        let first = outbox.next_batch().unwrap();
        let (number, _) = push(&outbox, &sweeps, &[key(2)], 5);
        assert_eq!(push(&outbox, &sweeps, &[key(3)], 5).1, Pushed::Overflowed);
        let waiting = tokio::spawn({
            let outbox = Arc::clone(&outbox);
            async move { outbox.done(number).await }
        });
        outbox.confirm(&first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        outbox.confirm(&outbox.next_batch().unwrap());
        waiting.await.unwrap();
        assert!(outbox.may_have_given_up(number));
    }

    #[test]
    fn value_that_is_older_than_a_pending_change_of_its_key_is_not_put() {
        let (outbox, sweeps) = (Outbox::new(10), Sweeps::default());
        let put = |version, bytes: &'static [u8]| {
            let order = KeyOrder { key: key(1), how: Void::Remove, version: Version(version) };
            let put = Putting {
                bytes: Bytes::from_static(bytes),
                lifetime: Duration::from_secs(1),
                grace: Duration::ZERO,
                set_us: 0,
            };
            outbox.push([(order, Some(put))], vec![], &sweeps);
        };
        let pending = || lock(&outbox.state).keys[&key(1)].put.as_ref().map(|put| put.bytes.clone());
        put(5, b"five");
        put(4, b"four");
        assert_eq!(pending(), None);
        put(6, b"six");
        assert_eq!(pending(), Some(Bytes::from_static(b"six")));
        push(&outbox, &sweeps, &[key(1)], 7);
        put(6, b"six");
        assert_eq!(pending(), None);
    }
}
