//! What this node has invalidated and the remote tier has not confirmed yet. While a key is in here,
//! reads of it on this node do not trust the remote tier.
//! Bounded: over the bound the keys are given up for one order to void everything, and until that
//! is confirmed nothing remote is trusted. Filled by `invalidate`, emptied by `courier`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use ahash::RandomState;
use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::{Version, flight::lock};

/// Keys in one batch: one script call of about a millisecond on the server, which serves nobody else then.
const BATCH_KEYS_MAX: usize = 512;

/// Bytes of keys in one batch: what one message to all nodes may weigh.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Bytes of pending keys before they are given up: keys are expected to be far below 800 bytes.
const PENDING_BYTES_MAX: usize = 8 << 20;

/// Invalidations on their way to the remote tier.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// How many orders are pending, so that reads need no lock while there are none.
    pending: AtomicUsize,
    overflows: AtomicUsize,
    keys_max: usize,
    wake: Notify,
    progress: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    keys: HashMap<Bytes, Pending, RandomState>,
    /// The keys by number, oldest first.
    order: BTreeMap<u64, Bytes>,
    bytes: usize,
    clear: Option<Pending>,
    last_number: u64,
}

/// An order's number rises each time it is given, so that a confirmation of an earlier one is told apart.
#[derive(Debug, Clone, Copy)]
struct Pending {
    number: u64,
    version: Version,
}

/// Whether an order fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// There was no room: all pending keys became one order to void everything.
    Overflowed,
}

/// What the courier sends next.
#[derive(Debug)]
pub(crate) enum Batch {
    Keys { keys: Vec<(Bytes, Version)>, numbers: Vec<u64> },
    Clear { version: Version, number: u64 },
}

impl Outbox {
    pub(crate) fn new(keys_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            pending: AtomicUsize::new(0),
            overflows: AtomicUsize::new(0),
            keys_max,
            wake: Notify::new(),
            progress: watch::Sender::new(()),
        }
    }

    /// Orders tombstones. From here on `blocks` holds for the keys.
    pub(crate) fn push(&self, keys: &[Bytes], version: Version) -> Pushed {
        let mut state = lock(&self.state);
        for key in keys {
            state.push_key(key, version);
        }
        let pushed = if state.keys.len() > self.keys_max || state.bytes > PENDING_BYTES_MAX {
            state.give_up_keys();
            self.overflows.fetch_add(1, Ordering::Relaxed);
            Pushed::Overflowed
        } else {
            Pushed::Queued
        };
        self.publish(&state);
        drop(state);
        self.wake.notify_one();
        pushed
    }

    /// Orders that everything is voided. From here on `blocks` holds for every key.
    pub(crate) fn push_clear(&self, version: Version) {
        let mut state = lock(&self.state);
        state.push_clear(version);
        self.publish(&state);
        drop(state);
        self.wake.notify_one();
    }

    /// True while what the remote tier says of `key` may be what this node has invalidated.
    pub(crate) fn blocks(&self, key: &Bytes) -> bool {
        self.pending.load(Ordering::SeqCst) > 0 && {
            let state = lock(&self.state);
            state.clear.is_some() || state.keys.contains_key(key)
        }
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }

    pub(crate) fn overflows(&self) -> usize {
        self.overflows.load(Ordering::Relaxed)
    }

    /// Wakes the courier again, for what its last batch left.
    pub(crate) fn nudge(&self) {
        self.wake.notify_one();
    }

    /// Waits until something is pushed. A push while nobody waits is remembered.
    pub(crate) async fn pushed(&self) {
        self.wake.notified().await;
    }

    /// Waits until nothing is pending of `keys`, nor an order to void everything.
    pub(crate) async fn confirmed(&self, keys: &[Bytes]) {
        // Subscribed before the check, so that a confirmation in between is not missed.
        let mut progress = self.progress.subscribe();
        while self.pending() > 0 && (self.is_clearing() || keys.iter().any(|key| self.blocks(key))) {
            if progress.changed().await.is_err() {
                return;
            }
        }
    }

    fn is_clearing(&self) -> bool {
        lock(&self.state).clear.is_some()
    }

    /// What is to be sent next, if anything. It stays pending until `confirm`.
    pub(crate) fn next_batch(&self) -> Option<Batch> {
        let state = lock(&self.state);
        // First, because it takes the place of keys that were given up before those now pending.
        if let Some(Pending { number, version }) = state.clear {
            return Some(Batch::Clear { version, number });
        }
        let (mut keys, mut numbers, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (number, key) in state.order.iter().take(BATCH_KEYS_MAX) {
            bytes += key.len();
            if bytes > BATCH_BYTES_MAX && !keys.is_empty() {
                break;
            }
            let version = state.keys.get(key).map_or(Version::LATEST, |pending| pending.version);
            keys.push((key.clone(), version));
            numbers.push(*number);
        }
        (!keys.is_empty()).then_some(Batch::Keys { keys, numbers })
    }

    /// The tier has done what the batch says. Orders given again since then stay pending.
    pub(crate) fn confirm(&self, batch: &Batch) {
        let mut state = lock(&self.state);
        match batch {
            Batch::Clear { number, .. } => {
                if state.clear.is_some_and(|pending| pending.number == *number) {
                    state.clear = None;
                }
            }
            Batch::Keys { numbers, .. } => numbers.iter().for_each(|number| state.forget(*number)),
        }
        self.publish(&state);
        drop(state);
        self.progress.send_replace(());
    }

    fn publish(&self, state: &State) {
        self.pending.store(state.keys.len() + usize::from(state.clear.is_some()), Ordering::SeqCst);
    }
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn push_key(&mut self, key: &Bytes, version: Version) {
        let number = self.next_number();
        let previous = self.keys.get(key).copied();
        let version = previous.map_or(version, |previous| previous.version.max(version));
        match previous {
            Some(previous) => drop(self.order.remove(&previous.number)),
            None => self.bytes += key.len(),
        }
        self.keys.insert(key.clone(), Pending { number, version });
        self.order.insert(number, key.clone());
    }

    fn push_clear(&mut self, version: Version) {
        let version = self.clear.map_or(version, |pending| pending.version.max(version));
        self.clear = Some(Pending { number: self.next_number(), version });
    }

    fn give_up_keys(&mut self) {
        let version = self.keys.values().map(|pending| pending.version).max().unwrap_or_default();
        self.push_clear(version);
        self.keys.clear();
        self.order.clear();
        self.bytes = 0;
    }

    fn forget(&mut self, number: u64) {
        if let Some(key) = self.order.remove(&number) {
            self.bytes -= key.len();
            self.keys.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Bytes {
        Bytes::from(number.to_string())
    }

    fn sent(outbox: &Outbox) -> Vec<(Bytes, Version)> {
        match outbox.next_batch() {
            Some(Batch::Keys { keys, .. }) => keys,
            _ => vec![],
        }
    }

    #[test]
    fn key_blocks_until_its_batch_is_confirmed() {
        let outbox = Outbox::new(10);
        outbox.push(&[key(1), key(2)], Version(5));
        let batch = outbox.next_batch().unwrap();
        assert!(outbox.blocks(&key(1)) && !outbox.blocks(&key(3)));
        outbox.confirm(&batch);
        assert!(!outbox.blocks(&key(1)));
        assert_eq!(outbox.pending(), 0);
    }

    #[test]
    fn key_pushed_again_while_it_is_sent_stays_pending_with_the_higher_version() {
        let outbox = Outbox::new(10);
        outbox.push(&[key(1)], Version(5));
        let batch = outbox.next_batch().unwrap();
        outbox.push(&[key(1)], Version(4));
        outbox.confirm(&batch);
        assert!(outbox.blocks(&key(1)));
        assert_eq!(sent(&outbox), [(key(1), Version(5))]);
    }

    #[test]
    fn overflow_blocks_every_key_until_the_clear_that_follows_it_is_confirmed() {
        let outbox = Outbox::new(2);
        outbox.push(&[key(1), key(2)], Version(5));
        let keys = outbox.next_batch().unwrap();
        assert_eq!(outbox.push(&[key(3)], Version(7)), Pushed::Overflowed);
        outbox.confirm(&keys);
        assert!(outbox.blocks(&key(99)));
        let clear = outbox.next_batch().unwrap();
        assert!(matches!(clear, Batch::Clear { version: Version(7), .. }), "{clear:?}");

        // Overflows again while the first order is under way: that one proves nothing any more.
        assert_eq!(outbox.push(&[key(4), key(5), key(6)], Version(8)), Pushed::Overflowed);
        outbox.confirm(&clear);
        assert!(outbox.blocks(&key(99)));
        outbox.confirm(&outbox.next_batch().unwrap());
        assert!(!outbox.blocks(&key(99)));
        assert_eq!((outbox.pending(), outbox.overflows()), (0, 2));
    }

    #[test]
    fn batches_are_bounded_in_keys_and_bytes_and_make_progress() {
        let outbox = Outbox::new(10_000);
        let keys: Vec<_> = (0..1_000).map(key).collect();
        outbox.push(&keys, Version(1));
        assert_eq!(sent(&outbox).len(), BATCH_KEYS_MAX);
        let mut rounds = 0;
        while let Some(batch) = outbox.next_batch() {
            outbox.confirm(&batch);
            rounds += 1;
        }
        assert_eq!(rounds, 2);

        let long = Bytes::from(vec![b'x'; BATCH_BYTES_MAX + 1]);
        outbox.push(&[long, key(1)], Version(1));
        assert_eq!(sent(&outbox).len(), 1, "one key too long for a batch goes alone");
    }

    #[test]
    fn bytes_are_bounded_as_well() {
        let outbox = Outbox::new(usize::MAX);
        let long = Bytes::from(vec![b'x'; PENDING_BYTES_MAX]);
        assert_eq!(outbox.push(&[long], Version(1)), Pushed::Queued);
        assert_eq!(outbox.push(&[key(1)], Version(1)), Pushed::Overflowed);
    }

    #[tokio::test(start_paused = true)]
    async fn waiter_wakes_when_its_keys_are_confirmed() {
        let outbox = std::sync::Arc::new(Outbox::new(10));
        outbox.push(&[key(1)], Version(5));
        let waiting = tokio::spawn({
            let outbox = std::sync::Arc::clone(&outbox);
            async move { outbox.confirmed(&[key(1)]).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        outbox.confirm(&outbox.next_batch().unwrap());
        waiting.await.unwrap();
    }
}
