//! Payments per merchant and account in a sliding window, approximated by two fixed buckets of which the older fades out linearly.
//! A payment that is sent several times at once counts once. Bounded: an account that has been silent for two windows is forgotten,
//! and a full shard forgets its oldest. Counts in this process only.

use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    shards: Vec<Mutex<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    senders: AHashMap<Sender, Buckets>,
    /// As many as there are requests in flight.
    under_way: AHashMap<Payment, UnderWay>,
}

/// One payment, however often it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Payment {
    sender: Sender,
    key: Uuid,
}

#[derive(Debug)]
struct UnderWay {
    tickets: usize,
    /// The bucket that it was counted in.
    index: u64,
    /// Payments in the window when it was counted, itself included.
    count: u64,
    /// It came to be.
    is_kept: bool,
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

/// One counted payment. The last ticket of a payment gives its count back when it is dropped, unless one of them was kept:
/// whatever becomes of a request, only a payment that came to be counts.
#[derive(Debug)]
#[must_use = "a ticket that is dropped gives its count back"]
pub struct Ticket {
    velocity: Arc<Velocity>,
    payment: Payment,
    count: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.velocity.release(&self.payment);
    }
}

impl Ticket {
    /// The payment came to be: its count stays.
    pub fn keep(self) {
        let mut shard = self.velocity.shard(self.payment.sender);
        if let Some(under_way) = shard.under_way.get_mut(&self.payment) {
            under_way.is_kept = true;
        }
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
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { window, start, shards }
    }

    /// Counts the payment that is asked for under `key`, unless it is being counted already, and tells how many there are.
    pub(super) fn count(self: &Arc<Self>, sender: Sender, key: Uuid, now: Instant) -> Ticket {
        let payment = Payment { sender, key };
        let mut shard = self.shard(sender);
        let count = if let Some(under_way) = shard.under_way.get_mut(&payment) {
            under_way.tickets += 1;
            under_way.count
        } else {
            let (index, count) = self.add(&mut shard.senders, sender, now);
            shard.under_way.insert(payment, UnderWay { tickets: 1, index, count, is_kept: false });
            count
        };
        Ticket { velocity: Arc::clone(self), payment, count }
    }

    /// The bucket of the payment, and the payments in the window.
    fn add(&self, senders: &mut AHashMap<Sender, Buckets>, sender: Sender, now: Instant) -> (u64, u64) {
        let elapsed_ms = now.saturating_duration_since(self.start).as_millis();
        let window_ms = self.window.as_millis();
        let index = u64::try_from(elapsed_ms / window_ms).unwrap_or(u64::MAX);
        let into_ms = elapsed_ms % window_ms;
        if senders.len() >= ACCOUNTS_MAX && !senders.contains_key(&sender) {
            make_room(senders, index);
        }
        let buckets = senders.entry(sender).or_default();
        buckets.roll_to(index);
        buckets.current += 1;
        let fading = u128::from(buckets.previous) * (window_ms - into_ms) / window_ms;
        (index, buckets.current.saturating_add(u64::try_from(fading).unwrap_or(u64::MAX)))
    }

    fn release(&self, payment: &Payment) {
        let mut shard = self.shard(payment.sender);
        let Entry::Occupied(mut found) = shard.under_way.entry(*payment) else { return };
        found.get_mut().tickets -= 1;
        if found.get().tickets > 0 {
            return;
        }
        let UnderWay { index, is_kept, .. } = found.remove();
        let counted = shard.senders.get_mut(&payment.sender).filter(|_| !is_kept);
        if let Some(buckets) = counted {
            if buckets.index == index {
                buckets.current = buckets.current.saturating_sub(1);
            } else if buckets.index == index + 1 {
                buckets.previous = buckets.previous.saturating_sub(1);
            }
        }
    }

    fn shard(&self, sender: Sender) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[usize::from(sender.account.as_bytes()[15]) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
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
            velocity.count(sender, Uuid::now_v7(), at(0)).keep();
        }
        // Half of the older bucket is still in the window, then none of it.
        for _ in 0..2 {
            let ticket = velocity.count(sender, Uuid::now_v7(), at(15));
            assert_eq!(ticket.count(), 3, "one that was dropped does not count");
        }
        assert_eq!(velocity.count(sender, Uuid::now_v7(), at(40)).count(), 1);
    }

    #[test]
    fn a_payment_that_is_sent_again_meanwhile_counts_once() {
        let velocity = Arc::new(Velocity::new(Duration::from_secs(10), Instant::now()));
        let sender = Sender { merchant: Uuid::nil(), account: Uuid::now_v7() };
        let (key, now) = (Uuid::now_v7(), velocity.start);
        let tickets: Vec<Ticket> = (0..5).map(|_| velocity.count(sender, key, now)).collect();
        assert!(tickets.iter().all(|ticket| ticket.count() == 1));
        assert_eq!(velocity.count(sender, Uuid::now_v7(), now).count(), 2);
        let mut tickets = tickets.into_iter();
        tickets.next().expect("there are five").keep();
        drop(tickets);
        assert_eq!(velocity.count(sender, Uuid::now_v7(), now).count(), 2, "one of them came to be");
        drop(velocity.count(sender, key, now));
        assert_eq!(velocity.count(sender, Uuid::now_v7(), now).count(), 2, "a replay gives its count back");
        assert!(velocity.shard(sender).under_way.is_empty());
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
