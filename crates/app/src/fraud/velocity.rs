//! Payments per merchant and account in a sliding window, approximated by two fixed buckets of which the older fades out linearly.
//! Bounded: an account that has been silent for two windows is forgotten, and a full shard forgets its oldest.
//! Counts in this process only.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use uuid::Uuid;

/// Shards keep threads out of each other's way.
const SHARDS: usize = 64;
/// Accounts counted per shard: 64 * 16,384 is a million accounts, about 80 MB at most.
const ACCOUNTS_MAX: usize = 16_384;

#[derive(Debug)]
pub(super) struct Velocity {
    window: Duration,
    start: Instant,
    shards: Vec<Mutex<AHashMap<Sender, Buckets>>>,
}

/// Whose payments are counted together: those that one merchant asks for from one account. The account alone would let a
/// merchant use up another one's count by naming an account that is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sender {
    pub(super) merchant: Uuid,
    pub(super) account: Uuid,
}

#[derive(Clone, Copy, Debug, Default)]
struct Buckets {
    index: u64,
    current: u64,
    previous: u64,
}

/// One counted payment. Gives its count back when it is dropped, unless it was kept: whatever becomes of a request, only
/// a payment that came to be counts.
#[derive(Debug)]
#[must_use = "a ticket that is dropped gives its count back"]
pub struct Ticket {
    /// Taken away when the count is to stay.
    velocity: Option<Arc<Velocity>>,
    sender: Sender,
    index: u64,
    count: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(velocity) = self.velocity.take() {
            velocity.forget(self);
        }
    }
}

impl Ticket {
    /// The payment came to be: its count stays.
    pub fn keep(mut self) {
        self.velocity = None;
    }

    /// Payments in the window, this one included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }
}

impl Velocity {
    /// With nothing counted; windows begin at `start`.
    pub(super) fn new(window: Duration, start: Instant) -> Self {
        let window = window.max(Duration::from_millis(1));
        let shards = (0..SHARDS).map(|_| Mutex::new(AHashMap::new())).collect();
        Self { window, start, shards }
    }

    /// Counts one payment and tells how many there are now.
    pub(super) fn count(self: &Arc<Self>, sender: Sender, now: Instant) -> Ticket {
        let elapsed_ms = now.saturating_duration_since(self.start).as_millis();
        let window_ms = self.window.as_millis();
        let index = u64::try_from(elapsed_ms / window_ms).unwrap_or(u64::MAX);
        let into_ms = elapsed_ms % window_ms;
        let mut shard = self.shard(sender).lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= ACCOUNTS_MAX && !shard.contains_key(&sender) {
            make_room(&mut shard, index);
        }
        let buckets = shard.entry(sender).or_default();
        buckets.roll_to(index);
        buckets.current += 1;
        let fading = u128::from(buckets.previous) * (window_ms - into_ms) / window_ms;
        let count = buckets.current.saturating_add(u64::try_from(fading).unwrap_or(u64::MAX));
        Ticket { velocity: Some(Arc::clone(self)), sender, index, count }
    }

    fn forget(&self, ticket: &Ticket) {
        let mut shard = self.shard(ticket.sender).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buckets) = shard.get_mut(&ticket.sender) {
            if buckets.index == ticket.index {
                buckets.current = buckets.current.saturating_sub(1);
            } else if buckets.index == ticket.index + 1 {
                buckets.previous = buckets.previous.saturating_sub(1);
            }
        }
    }

    fn shard(&self, sender: Sender) -> &Mutex<AHashMap<Sender, Buckets>> {
        &self.shards[usize::from(sender.account.as_bytes()[15]) % SHARDS]
    }
}

impl Buckets {
    fn roll_to(&mut self, index: u64) {
        if index == self.index {
            return;
        }
        self.previous = if index == self.index + 1 { self.current } else { 0 };
        self.current = 0;
        self.index = index;
    }
}

fn make_room(shard: &mut AHashMap<Sender, Buckets>, index: u64) {
    shard.retain(|_, buckets| buckets.index + 1 >= index);
    if shard.len() >= ACCOUNTS_MAX {
        let oldest =
            shard.iter().min_by_key(|(_, buckets)| (buckets.index, buckets.current)).map(|(id, _)| *id);
        oldest.and_then(|id| shard.remove(&id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides() {
        let velocity = Arc::new(Velocity::new(Duration::from_secs(10), Instant::now()));
        let sender = Sender { merchant: Uuid::nil(), account: Uuid::now_v7() };
        let at = |seconds| velocity.start + Duration::from_secs(seconds);
        for _ in 0..4 {
            velocity.count(sender, at(0)).keep();
        }
        // Half of the older bucket is still in the window, then none of it.
        for _ in 0..2 {
            let ticket = velocity.count(sender, at(15));
            assert_eq!(ticket.count(), 3, "one that was dropped does not count");
        }
        assert_eq!(velocity.count(sender, at(40)).count(), 1);
    }

    #[test]
    fn a_full_shard_stays_bounded() {
        let mut shard = AHashMap::new();
        for _ in 0..ACCOUNTS_MAX {
            let sender = Sender { merchant: Uuid::nil(), account: Uuid::now_v7() };
            shard.insert(sender, Buckets { index: 5, current: 1, previous: 0 });
        }
        make_room(&mut shard, 5);
        assert_eq!(shard.len(), ACCOUNTS_MAX - 1);
        make_room(&mut shard, 7);
        assert_eq!(shard.len(), 0);
    }
}
