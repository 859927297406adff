//! Loading keys anew on a schedule, so that what is read often is neither late nor loaded by whoever reads it: the keys
//! that were read since they were loaded last, and those that are pinned. Of the nodes that keep a key, one loads it per
//! period, chosen by a claim in the first shared tier; the others take from there what it has loaded.
//! Refuses to keep what nobody reads. Bounded in keys and in loads at once. Started by `builder`, fed by `lead` and `store`.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    StreamExt,
    future::{BoxFuture, FutureExt},
    stream,
};
use tokio::time::sleep;
use tracing::Instrument;

use crate::{
    Cache, CacheKey, Load, LoadContext,
    answer::Answer,
    clock::beat,
    consult::{Verdict, consult, is_later},
    flight::{Outcome, lock},
    hash::Probe,
    lead::{Boarding, Lead, Purpose, Storing},
    life::ENDLESS,
    spans,
    stats::count,
    store::Store,
    tier::{Claim, Found, Over, Settlement, Token},
    tier_side::TierSide,
};

/// Keys that are kept: some megabytes of them, and more than a source should be asked for again and again.
pub(crate) const KEPT_MAX: usize = 16_384;

/// Loads of the schedule at once: most of `loads_max` is for those who wait.
const AT_ONCE: usize = 8;

/// Keys that are pinned under one lock, for which whoever stores a value may have to wait.
const PINNED_AT_ONCE: usize = 512;

/// Ends the name under which nodes agree in the first tier on who loads; reserved.
pub(crate) const TURNS: &str = "#turns";

/// Parts of the period after which it is looked whether another node has loaded what it is to load: after an eighth, three
/// eighths and five eighths of it.
const ADOPT_AFTER: [u32; 3] = [8, 4, 4];

/// Keys in one question to the tier.
const ROUND_MAX: usize = 512;

/// Loads one key anew, with the loader that the builder was given.
pub(crate) type Renewal<K, V> = Box<dyn Fn(&Arc<Store<K, V>>, K) -> BoxFuture<'static, ()> + Send + Sync>;

/// The keys that are kept, and how.
pub(crate) struct Keeper<K, V> {
    kept: Mutex<HashMap<K, Kept>>,
    renew: Renewal<K, V>,
    /// Where nodes agree on who loads; a share of the first tier under a name of its own, so that no record of a value is
    /// touched.
    turns: Option<TierSide>,
    /// The keys whose turn this node took last, and with what token.
    taken: Mutex<(HashSet<K>, Token)>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    loaded_us: u64,
    /// Somebody waited for that load.
    is_read: bool,
    is_pinned: bool,
}

impl<K: Clone + Eq + Hash, V> Keeper<K, V> {
    pub(crate) fn new(renew: Renewal<K, V>, turns: Option<TierSide>) -> Self {
        Self { kept: Mutex::default(), renew, turns, taken: Mutex::new((HashSet::new(), Token::random())) }
    }

    /// A key was stored in process just now.
    pub(crate) fn note(&self, key: &K, purpose: Purpose, now_us: u64) {
        let is_read = !purpose.is_ahead();
        // What was only set leaves half of the room to what is read.
        let room = if is_read { KEPT_MAX } else { KEPT_MAX / 2 };
        let mut kept = lock(&self.kept);
        if let Some(known) = kept.get_mut(key) {
            *known = Kept { loaded_us: now_us, is_read, ..*known };
        } else if kept.len() < room {
            kept.insert(key.clone(), Kept { loaded_us: now_us, is_read, is_pinned: false });
        }
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.kept).len()
    }

    fn pin(&self, keys: impl IntoIterator<Item = K>) -> usize {
        let mut keys = keys.into_iter().fuse();
        // So that one that is named twice counts once; and once so many are pinned, no other can be.
        let mut taken = HashSet::new();
        while taken.len() < KEPT_MAX {
            // Before the lock: it is the caller's code.
            let named: Vec<K> = keys.by_ref().take(PINNED_AT_ONCE).collect();
            if named.is_empty() {
                break;
            }
            let (pinned, _refused) = self.pin_each(named);
            taken.extend(pinned);
        }
        taken.len()
    }

    /// Gives the keys that are pinned now, and those for which there is no room.
    fn pin_each(&self, keys: Vec<K>) -> (Vec<K>, Vec<K>) {
        let mut kept = lock(&self.kept);
        keys.into_iter().partition(|key| {
            if let Some(known) = kept.get_mut(key) {
                known.is_pinned = true;
                return true;
            }
            let has_room = kept.len() < KEPT_MAX;
            if has_room {
                kept.insert(key.clone(), Kept { loaded_us: 0, is_read: false, is_pinned: true });
            }
            has_room
        })
    }

    fn unpin(&self, key: &K) {
        if let Some(known) = lock(&self.kept).get_mut(key) {
            known.is_pinned = false;
        }
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// Has these keys loaded every [`refresh_every`](crate::Policy::refresh_every) by the loader that
    /// [`keep_fresh`](crate::CacheBuilder::keep_fresh) was given, whether they are read or not, until they are unpinned.
    /// Gives how many were taken, one that is named twice once: 16,384 keys at most are kept, those that are read included, and none
    /// without a loader. Once that many are taken, no more are asked for.
    pub fn pin(&self, keys: impl IntoIterator<Item = K>) -> usize {
        self.store.keeper.as_ref().map_or(0, |keeper| keeper.pin(keys))
    }

    /// Has `key` kept from now on only while it is read.
    pub fn unpin(&self, key: &K) {
        if let Some(keeper) = &self.store.keeper {
            keeper.unpin(key);
        }
    }
}

/// The loader of a schedule, without its type.
pub(crate) fn renewal<K, V, F, Fut, A, E>(load: F) -> Renewal<K, V>
where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
    F: Fn(K, LoadContext<V>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<A, E>> + Send + 'static,
    A: Into<Load<V>> + Send + 'static,
    E: Send + Sync + 'static,
{
    let load = Arc::new(load);
    Box::new(move |store, key| {
        let (store, load) = (Arc::clone(store), Arc::clone(&load));
        async move {
            let policy = Arc::clone(&store.policy);
            let Boarding::Lead(lead) = store.board(&key, &policy, Purpose::Renew, None) else { return };
            store.load_anew(lead, move |context| load(key, context)).await;
        }
        .boxed()
    })
}

/// Keeps what is to be kept, until the cache is gone.
pub(crate) async fn run<K, V>(store: Weak<Store<K, V>>, every: Duration)
where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
{
    let mut beat = beat(every);
    loop {
        beat.tick().await;
        let Some(store) = store.upgrade() else { return };
        let span = spans::refresh(&store.name);
        store.keep_fresh(every).instrument(span).await;
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Store<K, V> {
    async fn keep_fresh(self: &Arc<Self>, every: Duration) {
        let Some(keeper) = &self.keeper else { return };
        keeper.end_turns().await;
        let due = self.due(keeper);
        let mut theirs = Vec::new();
        for round in due.chunks(ROUND_MAX) {
            let (ours, others) = keeper.take_turns(round, every).await;
            theirs.extend(others);
            let renewals = ours.into_iter().map(|key| (keeper.renew)(self, key));
            stream::iter(renewals).buffer_unordered(AT_ONCE).collect::<()>().await;
        }
        // Whoever loads them may have begun just now, and may take its time.
        for (tried, part) in ADOPT_AFTER.into_iter().enumerate() {
            if theirs.is_empty() {
                return;
            }
            sleep(every / part).await;
            let is_last = tried + 1 == ADOPT_AFTER.len();
            let mut left = Vec::new();
            for round in theirs.chunks(ROUND_MAX) {
                left.extend(self.adopt(round, is_last).await);
            }
            theirs = left;
        }
    }

    /// The keys whose time it is. Lets go of those of which nothing is served in process any more.
    fn due(&self, keeper: &Keeper<K, V>) -> Vec<K> {
        // Copied, so that nobody who stores a value waits for a walk through L1.
        let kept: Vec<(K, Kept)> =
            lock(&keeper.kept).iter().map(|(key, kept)| (key.clone(), *kept)).collect();
        let (mut due, mut gone) = (Vec::new(), Vec::new());
        let now_us = self.clock.now_us();
        for (key, kept) in kept {
            let entry = self.local.peek(&Probe::of(&key));
            let was_read = entry.as_ref().is_some_and(|entry| {
                let idle = entry.traits.as_ref().and_then(|traits| traits.idle.as_ref());
                kept.is_read || idle.is_none_or(|idle| idle.used_us() > kept.loaded_us)
            });
            if was_read || kept.is_pinned {
                due.push(key);
            } else if entry.is_none_or(|entry| entry.life.expires_us <= now_us) {
                gone.push((key, kept));
            }
        }
        let mut kept = lock(&keeper.kept);
        for (key, seen) in gone {
            // Unless it has come back meanwhile.
            if kept.get(&key).is_some_and(|kept| kept.loaded_us == seen.loaded_us && !kept.is_pinned) {
                kept.remove(&key);
            }
        }
        due
    }

    /// Takes what another node has loaded, and gives the keys of which it seems that it has not yet. By the lives alone that is
    /// a guess: the last time whatever is not older is taken.
    async fn adopt(self: &Arc<Self>, keys: &[K], is_last: bool) -> Vec<K> {
        let mut left = Vec::new();
        let mut leads: Vec<Lead<K, V>> = Vec::new();
        for key in keys {
            if let Boarding::Lead(lead) = self.board(key, &self.policy, Purpose::Adopt, None) {
                leads.push(lead);
            }
        }
        let verdicts = consult(&mut leads, 0).await;
        for (mut lead, verdict) in leads.into_iter().zip(verdicts) {
            let known = lead.flight.fallback().cloned();
            let is_taken = |answer: &Answer<V>| {
                let is_new = is_last || is_later(&lead.policy, answer, known.as_ref());
                is_new && !answer.is_older_than(known.as_ref())
            };
            match (verdict, &known) {
                (Verdict::Found(answer), _) if is_taken(&answer) => {
                    count(&self.counters.adoptions);
                    lead.settle(answer, Storing::Yes);
                }
                (_, Some(known)) => {
                    left.push(lead.key.clone());
                    lead.settle(known.clone(), Storing::No);
                }
                (_, None) => lead.fail(Outcome::NotLoaded, Duration::ZERO),
            }
        }
        left
    }
}

impl<K: CacheKey, V> Keeper<K, V> {
    /// Gives back what was taken last time: a lease that a tier counts in seconds may outlive the period.
    async fn end_turns(&self) {
        let Some(turns) = &self.turns else { return };
        let (taken, token) = {
            let mut taken = lock(&self.taken);
            (std::mem::take(&mut taken.0), taken.1)
        };
        let releases: Vec<_> = taken.iter().map(|key| (key.encode(), token, Settlement::Release)).collect();
        for round in releases.chunks(ROUND_MAX) {
            turns.settle(round).await;
        }
    }

    /// Whose turn it is to load which of the keys: this node's, and other nodes'. A tier that does not answer leaves
    /// every node to itself.
    async fn take_turns(&self, keys: &[K], every: Duration) -> (Vec<K>, Vec<K>) {
        let Some(turns) = &self.turns else { return (keys.to_vec(), vec![]) };
        let names: Vec<Bytes> = keys.iter().map(CacheKey::encode).collect();
        // It is held until this node's next turn, and ends by itself if there is none.
        let claim = Claim { token: lock(&self.taken).1, lease: every.mul_f64(1.125), over: Over::Nothing };
        let answers = turns.read(&names, Some(claim)).await;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for (key, answer) in keys.iter().zip(answers) {
            match answer {
                Ok(Found::Held { .. }) => theirs.push(key.clone()),
                _ => ours.push(key.clone()),
            }
        }
        lock(&self.taken).0.extend(ours.iter().cloned());
        (ours, theirs)
    }
}

/// True if a policy has its keys kept.
pub(crate) fn keeps(refresh_every: Duration) -> bool {
    refresh_every < ENDLESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_more_keys_than_there_is_room_for_no_more_are_asked_for_and_each_counts_once() {
        let renew = |_: &Arc<Store<u64, u64>>, _: u64| async {}.boxed();
        let keeper: Keeper<u64, u64> = Keeper::new(Box::new(renew), None);
        keeper.note(&0, Purpose::Read, 1);
        assert_eq!(keeper.pin((0..1_000).chain(0..1_000)), 1_000);
        let room = KEPT_MAX as u64;
        let without_end = (0_u64..).inspect(|key| {
            assert!(keeper.len() <= KEPT_MAX, "it is asked for without the lock");
            assert!(*key < 2 * room, "it is asked for {key}");
        });
        assert_eq!((keeper.pin(without_end), keeper.len()), (KEPT_MAX, KEPT_MAX));
        assert_eq!(keeper.pin([5, room + 1, 7, 5]), 2, "there is room for no other");
        assert!(lock(&keeper.kept).values().all(|kept| kept.is_pinned));
    }
}
