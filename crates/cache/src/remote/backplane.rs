//! What a cache does when it hears from the other nodes, or has reason to think that it did not.
//! Never writes to the remote tier: whoever announces a change has made it there already.
//! Called by the subscription of the remote tier, on its task.

use std::{
    hash::Hash,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    message::{Body, Message},
    peers::{Peers, Verdict},
};
use crate::{CacheKey, GapCause, clock::micros, flight::lock, stats::count, store::Store};

/// Listens on behalf of one cache.
pub(crate) trait Listener: Send + Sync {
    /// The cache whose messages are wanted.
    fn cache(&self) -> &str;

    /// A message about that cache, in the order of its publisher.
    fn heard(&self, message: &Message);

    /// Messages may be missing.
    fn missed(&self, cause: GapCause);

    /// The subscription has just come up, for the first time.
    fn subscribed(&self);
}

/// What the backplane has told this node so far.
#[derive(Debug)]
pub(crate) struct Hearing {
    peers: std::sync::Mutex<Peers>,
    /// Every message published before this instant has been applied here. It is the instant at
    /// which this node sent the youngest message that came back to it: Redis delivers in order.
    vouched_us: AtomicU64,
}

impl Hearing {
    pub(crate) fn new(origin: u64) -> Self {
        Self { peers: std::sync::Mutex::new(Peers::new(origin)), vouched_us: AtomicU64::new(0) }
    }

    #[inline]
    pub(crate) fn vouched_us(&self) -> u64 {
        self.vouched_us.load(Ordering::Relaxed)
    }
}

impl<K, V> Listener for Store<K, V>
where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
{
    fn cache(&self) -> &str {
        &self.name
    }

    fn heard(&self, message: &Message) {
        let Some(side) = &self.remote else { return };
        let now_us = self.clock.now_us();
        let verdict = lock(&side.hearing.peers).judge(message, now_us);
        match verdict {
            Verdict::Own => {
                side.hearing.vouched_us.fetch_max(message.sent_us, Ordering::Relaxed);
                let limit_us = micros(self.policy.max_stale);
                if lock(&side.hearing.peers).forget_silent(now_us, limit_us) > 0 {
                    self.missed(GapCause::SilentPeer);
                }
            }
            Verdict::Apply => self.apply(&message.body, now_us),
            Verdict::Gap => {
                self.missed(GapCause::Skipped);
                self.apply(&message.body, now_us);
            }
        }
    }

    fn missed(&self, cause: GapCause) {
        count(&self.counters.gaps);
        tracing::debug!(cache = %self.name, ?cause, "drop L1, messages may be missing");
        self.start_afresh();
        self.observer.gap_noticed(&self.name, cause);
        if cause == GapCause::Resubscribed {
            self.ask_for_pulse();
        }
    }

    fn subscribed(&self) {
        self.start_afresh();
        self.ask_for_pulse();
    }
}

impl<K: CacheKey, V: Clone> Store<K, V> {
    fn apply(&self, body: &Body, now_us: u64) {
        match body {
            Body::Invalidate(keys) => {
                for (bytes, version) in keys {
                    count(&self.counters.remote_invalidations);
                    match K::decode(bytes) {
                        Some(key) => self.void(&key, *version, now_us),
                        // A key of another release's shape: some key of ours may be meant.
                        None => self.void_all(*version, now_us),
                    }
                }
            }
            Body::Clear(version) => self.void_all(*version, now_us),
            Body::Heartbeat | Body::Goodbye => {}
        }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Store<K, V> {
    /// Forgets what is held and loading.
    fn start_afresh(&self) {
        let now_us = self.clock.now_us();
        if let Some(side) = &self.remote {
            lock(&side.hearing.peers).excuse_silence(now_us);
        }
        self.floors.go_blind(now_us);
        self.void_all(crate::Version::NONE, now_us);
    }

    fn ask_for_pulse(&self) {
        if let Some(side) = &self.remote {
            side.outbound.pulse.notify_one();
        }
    }
}
