//! The right to load one key: got by being first, held until the load's end is told to those who wait, and given
//! back if its holder goes away. Decides under the shard lock whether what was loaded may still be stored.
//! Got by `read` and `batch`, carried by `load`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    CacheKey, Policy, Version,
    answer::{Answer, Origin},
    backplane::Mark,
    clock::micros,
    consult::Plan,
    flight::{Flight, Outcome, Seat, Shard, Waiter},
    hash::Probe,
    keeper::keeps,
    life::Life,
    local::{Displaced, Idle},
    places::Within,
    read::answer_of_hit,
    reflect::reflects,
    store::{Look, Standing, Store},
    tier::{Settlement, Token},
    write_back::{Writing, write_back},
};

/// What a reader that L1 could not answer has to do.
pub(crate) enum Boarding<K: CacheKey, V: Clone> {
    /// Nothing: somebody was quicker.
    Found(Look<V>),
    /// Wait.
    Joined(Waiter<V>),
    /// Load, and let the others know.
    Lead(Lead<K, V>),
    /// Give up: there are as many loads as there may be.
    Full,
}

/// Why somebody boards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// L1 has no answer.
    Read,
    /// L1 has no answer, and there is no loader.
    Peek,
    /// L1 has an answer that is to be replaced, if nobody sees to it yet.
    Refresh,
    /// L1 has an answer, perhaps a fresh one, that is to be replaced because it is time.
    Renew,
    /// Somebody wants what the source says from now on, whatever L1 and the tiers have.
    Reload,
    /// Somebody wants what reflects a version, and whatever L1 has does not.
    Reflect,
    /// As `Renew`, but another node has been chosen to load: what it has stored in the shared tiers is taken.
    Adopt,
}

impl Purpose {
    /// True if L1 has an answer that goes on being served meanwhile.
    pub(crate) fn is_ahead(self) -> bool {
        matches!(self, Self::Refresh | Self::Renew | Self::Adopt)
    }

    /// True if nothing that L1 has will do, be it served to others without a load.
    fn passes_over(self) -> bool {
        matches!(self, Self::Reload | Self::Reflect)
    }

    /// True if a loader is to be called in the end.
    pub(crate) fn may_load(self) -> bool {
        matches!(self, Self::Read | Self::Refresh | Self::Renew | Self::Reload | Self::Reflect)
    }
}

/// A claim at a shared tier.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) tier: usize,
    pub(crate) token: Token,
}

/// The right to say how a load ended. Dropped without having said so, it lets somebody else take it.
pub(crate) struct Lead<K: CacheKey, V: Clone> {
    pub(crate) store: Arc<Store<K, V>>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) key: K,
    /// Empty without anybody to share with.
    pub(crate) key_bytes: Bytes,
    pub(crate) hash: u64,
    pub(crate) flight: Arc<Flight<V>>,
    /// What the fleet had announced, and this node heard, when the load began.
    pub(crate) mark: Mark,
    pub(crate) purpose: Purpose,
    /// What a tier has will do from this version on.
    pub(crate) asked_version: Version,
    pub(crate) held: Vec<Held>,
    /// Asked for, and on its way.
    pub(crate) asked: Option<Held>,
    /// Asked for, and no answer will come: whether they stand is not known.
    pub(crate) doubtful: Vec<Held>,
    settled: bool,
    /// Shared by the loads of one batch; taken at the latest before the loader is called.
    seat: Option<Arc<Seat>>,
    /// Whose loaders wait for it.
    pub(crate) within: Within,
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Store<K, V> {
    /// Joins the load of `key`, or becomes the one who loads. Without a seat one is taken, if there is one.
    pub(crate) fn board(
        self: &Arc<Self>,
        key: &K,
        policy: &Arc<Policy>,
        purpose: Purpose,
        seat: Option<&Arc<Seat>>,
    ) -> Boarding<K, V> {
        let probe = Probe::of(key);
        // No loader waits for what goes on behind what it was given.
        let within = if purpose.is_ahead() { Within::default() } else { Within::here() };
        let mut shard = self.flights.lock(probe.hash);
        let now_us = self.clock.now_us();
        // A load may have ended since L1 was asked; it stores and leaves the table under this lock.
        let fallback = match to_load(self.peek(&probe), purpose) {
            Ok(fallback) => fallback,
            Err(found) => {
                drop(shard);
                return Boarding::Found(found);
            }
        };
        let stamp = self.fleet.sweeps.stamp();
        if purpose != Purpose::Reload
            && let Some(flight) = self.joinable(&mut shard, key, policy, now_us)
        {
            if within.has(&self.loads) {
                flight.rush();
            }
            return Boarding::Joined(flight.waiter(stamp));
        }
        // No loader is called, or only if the tiers have nothing: then one is taken.
        let asks_first = matches!(purpose, Purpose::Read | Purpose::Reflect) && !self.fleet.tiers.is_empty();
        let is_seated_later = purpose == Purpose::Peek || asks_first;
        let seat = if is_seated_later { None } else { seat.cloned().or_else(|| self.flights.take_seat()) };
        if seat.is_none() && !is_seated_later {
            drop(shard);
            return unseated(fallback, purpose);
        }
        if purpose == Purpose::Reload {
            // A load that is under way may have read before this was asked for.
            shard.void(key);
        }
        let mark = self.fleet.horizon.mark();
        let flight = shard.begin(key.clone(), stamp, now_us);
        let displaced = fallback.map(|answer| self.offer(&probe, &flight, answer, purpose));
        drop(shard);
        drop(displaced);
        let mut lead = Lead {
            store: Arc::clone(self),
            policy: Arc::clone(policy),
            key: key.clone(),
            key_bytes: Bytes::new(),
            hash: probe.hash,
            flight,
            mark,
            purpose,
            asked_version: Version::NONE,
            held: Vec::new(),
            asked: None,
            doubtful: Vec::new(),
            settled: false,
            seat,
            within,
        };
        // Foreign code: should it panic, there is a lead by now, whose end frees the key.
        if self.fleet.is_shared() {
            lead.key_bytes = lead.key.encode();
        }
        Boarding::Lead(lead)
    }
}

impl<K: CacheKey, V: Clone> Store<K, V> {
    /// Has those who wait for a load know what there is to fall back on. Gives what leaves L1 by that.
    fn offer(
        &self,
        probe: &Probe<'_, K>,
        flight: &Flight<V>,
        answer: Answer<V>,
        purpose: Purpose,
    ) -> Displaced<K, V> {
        let mut displaced = Displaced::default();
        let life = answer.life;
        if purpose == Purpose::Refresh {
            // Once: who reads from now on until it expires does not come here.
            let next = Life { check_us: life.expires_us, ..life };
            self.local.relive(probe, &life, next, &mut displaced);
        }
        flight.offer(answer);
        displaced
    }

    /// The load of `key` on its way. One that waits for a caller to be polled, for longer than the tiers take or this policy has anybody
    /// wait, is left to that caller.
    fn joinable(
        &self,
        shard: &mut Shard<K, V>,
        key: &K,
        policy: &Policy,
        now_us: u64,
    ) -> Option<Arc<Flight<V>>> {
        let flight = shard.find(key, now_us)?;
        let patience = || self.fleet.trips_max(policy.lease_wait).min(policy.load_timeout);
        if flight.is_in_hand() && flight.age(now_us) >= patience() {
            shard.leave(key, &flight);
            return None;
        }
        Some(flight)
    }
}

/// What there is to fall back on, for want of a seat.
fn unseated<K: CacheKey, V: Clone>(fallback: Option<Answer<V>>, purpose: Purpose) -> Boarding<K, V> {
    match fallback {
        Some(answer) if !purpose.passes_over() => Boarding::Found(Look::Doubt(answer, Standing::Resting)),
        _ => Boarding::Full,
    }
}

/// Whether a key is loaded of which L1 says this, and what there is to fall back on; else what was found.
fn to_load<V>(look: Look<V>, purpose: Purpose) -> Result<Option<Answer<V>>, Look<V>> {
    let is_replaced = purpose.passes_over() || matches!(purpose, Purpose::Renew | Purpose::Adopt);
    match look {
        Look::Miss | Look::Doubt(_, Standing::Silent) => Ok(None),
        Look::Absent(_) if purpose.passes_over() => Ok(None),
        Look::Hit(entry) if is_replaced => Ok(Some(answer_of_hit(entry))),
        Look::Doubt(answer, Standing::Fallback) => Ok(Some(answer)),
        Look::Doubt(answer, Standing::Due) if purpose.is_ahead() => Ok(Some(answer)),
        Look::Doubt(answer, _) if purpose.passes_over() => Ok(Some(answer)),
        found => Err(found),
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Lead<K, V> {
    /// Ends a load for which there was no seat: with what there is to fall back on, or with a refusal, which each of those who
    /// get it counts.
    pub(crate) fn turn_away(mut self, fallback: Option<Answer<V>>) -> Option<Answer<V>> {
        let store = Arc::clone(&self.store);
        match fallback.filter(|answer| store.is_usable(&self.key, answer)) {
            Some(answer) => {
                let answer = Answer { is_stale: true, ..answer };
                self.settle(answer.clone(), Storing::No);
                Some(answer)
            }
            None => {
                self.fail(Outcome::Overloaded, Duration::ZERO);
                None
            }
        }
    }
}

impl<K: CacheKey, V: Clone> Lead<K, V> {
    /// Lets those who wait for the load have its fallback instead.
    pub(crate) fn offer_fallback(&self, plan: &Plan<V>) {
        if let Some(fallback) = plan.fallback.clone() {
            self.flight.offer(fallback);
        }
    }

    /// True if what a tier has will not do.
    pub(crate) fn is_too_old(&self, found: &Answer<V>) -> bool {
        !reflects(found.version(), self.asked_version)
    }

    /// True if asking the shared tiers alone may take longer than the policy has a caller wait. Then it is not the caller
    /// who asks them.
    pub(crate) fn may_try_patience(&self) -> bool {
        let policy = &self.policy;
        let has_fallback = self.flight.fallback().is_some();
        let patience = if has_fallback { policy.soft_timeout } else { Duration::MAX };
        patience.min(policy.load_timeout) < self.store.fleet.trips_max(policy.lease_wait)
    }

    /// That of its batch, if it was taken already.
    pub(crate) fn seat(&self) -> Option<Arc<Seat>> {
        self.seat.clone()
    }

    /// Takes a seat for the loader's call, that of the batch if it has one. False if there is none left.
    pub(crate) fn is_seated(&mut self, of_batch: &mut Option<Arc<Seat>>) -> bool {
        if self.seat.is_none() {
            if of_batch.is_none() {
                *of_batch = self.store.flights.take_seat();
            }
            self.seat = of_batch.clone();
        }
        self.seat.is_some()
    }

    /// The caller asks the tiers itself: should nobody poll it, those who wait for it need not wait for that.
    pub(crate) fn take_in_hand(&self) {
        self.flight.take_in_hand(true);
    }

    /// A task goes on with it.
    pub(crate) fn hand_over(&self) {
        self.flight.take_in_hand(false);
    }

    pub(crate) fn waiter(&self) -> Waiter<V> {
        self.flight.waiter(self.flight.stamp)
    }

    /// Stores what was loaded, if it has a life and nothing has overtaken it, and tells the waiters. What was there before is not
    /// served any more either way: it is older. True if nothing has overtaken it: then it may take its place in shared tiers too.
    pub(crate) fn settle(&mut self, answer: Answer<V>, keep: Storing) -> bool {
        let store = &self.store;
        let now_us = store.clock.now_us();
        // Foreign code (clone, weigher) runs before the lock is taken.
        let stored = if keep == Storing::Yes { store.storable(&self.key, &answer) } else { None };
        // Of what a tier has, nothing was there before if nothing was offered when the load began.
        let is_news =
            keep != Storing::No && (answer.origin == Origin::Loader || self.flight.fallback().is_some());
        let probe = Probe { key: &self.key, hash: self.hash };
        let mut displaced = Displaced::default();
        let mut shard = store.flights.lock(self.hash);
        let (is_voided, is_overtaken) = (self.flight.is_voided(), self.flight.is_overtaken());
        let mut is_kept = false;
        match stored {
            _ if is_overtaken => {}
            Some((found, life, traits)) => {
                is_kept = found.is_some() && keeps(self.policy.refresh_every);
                store.local.install(&probe, found, life, traits, &mut displaced);
            }
            None if !is_news => {}
            // As in the tiers: what is not stored makes a fallback of what was there, unless it is that there is nothing.
            None if answer.value.is_some() => store.local.outdate(&probe, &mut displaced),
            None => store.local.remove(&probe, &mut displaced),
        }
        shard.end(&self.key, &self.flight);
        drop(shard);
        if let (true, Some(keeper)) = (is_kept, &store.keeper) {
            keeper.note(&self.key, self.purpose, now_us);
        }
        if is_voided && keep == Storing::Yes {
            store.refuse_stale_set();
        }
        self.land(Outcome::Loaded(answer));
        !is_overtaken
    }

    /// Tells the waiters that there is no answer; whoever asks until then is told the same.
    pub(crate) fn fail(&mut self, outcome: Outcome<V>, remembered: Duration) {
        let now_us = self.store.clock.now_us();
        let until_us = now_us.saturating_add(micros(remembered));
        let mut shard = self.store.flights.lock(self.hash);
        if until_us > now_us {
            shard.end_remembered(&self.key, &self.flight, now_us, until_us);
        } else {
            shard.end(&self.key, &self.flight);
        }
        drop(shard);
        self.land(outcome);
    }

    fn land(&mut self, outcome: Outcome<V>) {
        self.settled = true;
        self.seat = None;
        self.flight.land(outcome);
    }

    /// When what is stored under this lead was read, if that matters.
    pub(crate) fn idle(&self) -> Option<Idle> {
        Idle::under(&self.policy, self.store.clock.now_us())
    }
}

/// Whether an answer is stored in process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storing {
    Yes,
    /// It is no news: what is there stays.
    No,
    /// It is not to be stored, and what is there is older.
    Nothing,
}

impl<K: CacheKey, V: Clone> Drop for Lead<K, V> {
    fn drop(&mut self) {
        if !self.settled {
            self.store.flights.lock(self.hash).end(&self.key, &self.flight);
            self.land(Outcome::Vacant);
        }
        self.doubtful.extend(self.asked.take());
        if self.held.is_empty() && self.doubtful.is_empty() {
            return;
        }
        // Nobody else may load for the fleet while the claims stand, so they are given back.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let fleet = Arc::clone(&self.store.fleet);
        let release = Writing::of(self, Settlement::Release, Duration::ZERO);
        let (again, late) =
            (release.of_doubtful(), fleet.tiers.iter().map(|tier| tier.options.timeout).max());
        drop(runtime.spawn(async move {
            write_back(&fleet, vec![release]).await;
            // Over another connection the release may have overtaken the claim.
            if let (Some(again), Some(late)) = (again, late) {
                tokio::time::sleep(late).await;
                write_back(&fleet, vec![again]).await;
            }
        }));
    }
}
