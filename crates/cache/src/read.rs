//! The slow path of a read, once L1 has no plain answer: join a load or lead one, ask the shared tiers, and wait
//! within the policy's limits. Called by `cache` and `under`.

use std::{
    any::Any,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::time::timeout;
use tracing::Instrument;

use crate::{
    CacheError, CacheKey, Load, LoadContext, Policy, Version,
    answer::{Answer, Origin},
    consult::{Verdict, consult_one},
    flight::{Outcome, Waiter},
    hash::Probe,
    lead::{Boarding, Lead, Purpose, Storing},
    load,
    local::Entry,
    reflect::reflects,
    spans,
    stats::{SAMPLE, count},
    store::{Look, Standing, Store},
};

/// How waiting for a load ended.
pub(crate) enum Landed<V, E> {
    Answered(Answer<V>),
    Refused(CacheError<E>),
    /// The tiers have nothing, and there was no loader.
    Nothing,
    /// The load's answer is not for this waiter, or there is none: ask again.
    Again,
}

pub(crate) fn answer_of_hit<V>(entry: Entry<V>) -> Answer<V> {
    Answer {
        value: Some(entry.value),
        life: entry.life,
        traits: entry.traits,
        origin: Origin::Local,
        is_stale: false,
    }
}

pub(crate) fn answer_of_absence<V>(entry: Entry<()>) -> Answer<V> {
    Answer { value: None, life: entry.life, traits: entry.traits, origin: Origin::Local, is_stale: false }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Store<K, V> {
    /// The answer that a look gives to somebody who can load: `None` if there is none. Whoever gets one that is due has
    /// to see to its refresh.
    pub(crate) fn settled_by(&self, look: Look<V>) -> Option<(Answer<V>, Standing)> {
        match look {
            Look::Hit(entry) => Some((answer_of_hit(entry), Standing::Fresh)),
            Look::Absent(entry) => Some((answer_of_absence(entry), Standing::Fresh)),
            Look::Doubt(answer, Standing::Due) => Some((answer, Standing::Due)),
            Look::Doubt(answer, standing @ (Standing::Resting | Standing::Unvouched)) => {
                Some((self.serve_stale(answer), standing))
            }
            Look::Doubt(..) | Look::Miss => None,
        }
    }

    pub(crate) fn serve_stale(&self, answer: Answer<V>) -> Answer<V> {
        if self.counters.stale.fetch_add(1, Relaxed).is_multiple_of(SAMPLE) {
            self.counters.served_ages.record_us(self.clock.now_us().saturating_sub(answer.life.loaded_us));
        }
        self.observer.stale_served(&self.name);
        Answer { is_stale: true, ..answer }
    }

    /// Reads `key` past L1. The loader is called at most once.
    pub(crate) async fn read_slow<F, Fut, A, E>(
        self: &Arc<Self>,
        key: K,
        policy: &Arc<Policy>,
        load: F,
    ) -> Result<Answer<V>, CacheError<E>>
    where
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let span = spans::read(&self.name, 1);
        let ended = self.read_or_load(key, policy, load).instrument(span.clone()).await;
        spans::read_ended(&span, &ended);
        ended
    }

    async fn read_or_load<F, Fut, A, E>(
        self: &Arc<Self>,
        key: K,
        policy: &Arc<Policy>,
        load: F,
    ) -> Result<Answer<V>, CacheError<E>>
    where
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let mut load = Some(load);
        loop {
            let waiter = match self.board(&key, policy, Purpose::Read, None) {
                Boarding::Found(look) => match self.settled_by(look) {
                    Some((answer, _)) => return Ok(answer),
                    None => continue,
                },
                Boarding::Full => {
                    count(&self.counters.overloads);
                    return Err(CacheError::Overloaded);
                }
                Boarding::Joined(waiter) => {
                    count(&self.counters.joins);
                    waiter
                }
                Boarding::Lead(mut lead) if lead.may_try_patience() => {
                    if !lead.is_seated(&mut None) {
                        return self.turned_away(lead, None);
                    }
                    let load = load.take().expect("a load that was led to its task is not left");
                    let (waiter, store) = (lead.waiter(), Arc::clone(self));
                    let loading = async move { store.load_anew(lead, load).await };
                    drop(tokio::spawn(loading.in_current_span()));
                    waiter
                }
                Boarding::Lead(mut lead) => match self.asked_tiers(&mut lead).await {
                    Verdict::Found(answer) => {
                        lead.settle(answer.clone(), Storing::Yes);
                        return Ok(answer);
                    }
                    Verdict::Stale(answer) => {
                        let answer = self.serve_stale(answer);
                        lead.settle(answer.clone(), Storing::No);
                        return Ok(answer);
                    }
                    Verdict::Load(plan) if !lead.is_seated(&mut None) => {
                        return self.turned_away(lead, plan.fallback);
                    }
                    Verdict::Load(plan) => {
                        let load = load.take().expect("a load that was led to its task is not left");
                        load::spawn(lead, plan, load)
                    }
                },
            };
            // In a place of its own: who finds the value in a tier does not pay for its size.
            match Box::pin(self.landed(&key, policy, waiter)).await {
                Landed::Answered(answer) => return Ok(answer),
                Landed::Refused(error) => return Err(error),
                Landed::Nothing | Landed::Again if load.is_none() => return Err(CacheError::Stopped),
                Landed::Nothing | Landed::Again => {}
            }
        }
    }

    /// What the tiers say, asked by the caller itself.
    pub(crate) async fn asked_tiers(&self, lead: &mut Lead<K, V>) -> Verdict<V> {
        if !self.fleet.tiers.is_empty() {
            lead.take_in_hand();
        }
        consult_one(lead).await
    }

    /// Loads `key` anew in the background, if nobody does so yet. What is there is served meanwhile.
    pub(crate) fn refresh<F, Fut, A, E>(self: &Arc<Self>, key: &K, policy: &Arc<Policy>, load: F)
    where
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let Boarding::Lead(lead) = self.board(key, policy, Purpose::Refresh, None) else { return };
        let store = Arc::clone(self);
        let refresh = async move { store.load_anew(lead, load).await };
        drop(tokio::spawn(refresh.instrument(spans::refresh(&self.name))));
    }

    /// Loads what somebody waits for elsewhere, or has an answer of already, unless another node does.
    pub(crate) async fn load_anew<F, Fut, A, E>(&self, mut lead: Lead<K, V>, load: F)
    where
        F: FnOnce(LoadContext<V>) -> Fut,
        Fut: Future<Output = Result<A, E>>,
        A: Into<Load<V>>,
        E: Send + Sync + 'static,
    {
        match consult_one(&mut lead).await {
            Verdict::Found(answer) => drop(lead.settle(answer, Storing::Yes)),
            Verdict::Load(plan) if !lead.is_seated(&mut None) => drop(lead.turn_away(plan.fallback)),
            Verdict::Load(plan) => {
                lead.offer_fallback(&plan);
                let span = spans::load(&self.name, lead.purpose, 1);
                load::run(lead, plan, span, load).await;
            }
            // Another node refreshes it; this one goes on with what it has.
            Verdict::Stale(answer) => {
                lead.settle(Answer { is_stale: true, ..answer }, Storing::No);
            }
        }
    }

    /// What somebody gets for whom there is no seat; who leads has a fallback or not, whatever the tiers have said.
    pub(crate) fn turned_away<E>(
        &self,
        lead: Lead<K, V>,
        fallback: Option<Answer<V>>,
    ) -> Result<Answer<V>, CacheError<E>> {
        let fallback = fallback.or_else(|| lead.flight.fallback().cloned());
        match lead.turn_away(fallback) {
            Some(answer) => Ok(self.serve_stale(answer)),
            None => {
                count(&self.counters.overloads);
                Err(CacheError::Overloaded)
            }
        }
    }

    /// Waits for a load, until it ends or the policy says that it has taken too long. Where it is a caller who asks the tiers, and
    /// has not been polled for so long that they must have answered, or that somebody has lost patience, the next one begins
    /// anew.
    pub(crate) fn landed<E: Send + Sync + 'static>(
        &self,
        key: &K,
        policy: &Policy,
        waiter: Waiter<V>,
    ) -> impl Future<Output = Landed<V, E>> {
        self.landed_at(key, policy, waiter, Version::NONE)
    }

    /// As `landed`, for somebody who takes no fallback that is older than `version`.
    pub(crate) async fn landed_at<E: Send + Sync + 'static>(
        &self,
        key: &K,
        policy: &Policy,
        waiter: Waiter<V>,
        version: Version,
    ) -> Landed<V, E> {
        let flight = Arc::clone(&waiter.flight);
        let mut landing = pin!(self.landed_in_time(key, policy, waiter, version));
        if self.fleet.tiers.is_empty() {
            return landing.await;
        }
        let trips_max = self.fleet.trips_max(policy.lease_wait);
        let left = trips_max.saturating_sub(flight.age(self.clock.now_us()));
        let landed = match timeout(left, landing.as_mut()).await {
            Ok(landed) => landed,
            Err(_elapsed) if flight.is_in_hand() => Landed::Again,
            Err(_elapsed) => landing.await,
        };
        if flight.is_in_hand() {
            self.flights.lock(Probe::of(key).hash).leave(key, &flight);
        }
        landed
    }

    async fn landed_in_time<E: Send + Sync + 'static>(
        &self,
        key: &K,
        policy: &Policy,
        waiter: Waiter<V>,
        version: Version,
    ) -> Landed<V, E> {
        let flight = &waiter.flight;
        let waited = flight.age(self.clock.now_us());
        let left = policy.load_timeout.saturating_sub(waited);
        let patience = policy.soft_timeout.saturating_sub(waited).min(left);
        let usable = |answer: &Answer<V>| {
            let will_do = reflects(answer.version(), version) && self.is_usable(key, answer);
            will_do.then(|| answer.clone())
        };
        let outcome = match timeout(patience, waiter.outcome()).await {
            Ok(outcome) => outcome,
            // From now on a fallback will do, be it offered by a tier that has yet to answer.
            Err(_elapsed) => match timeout(left - patience, waiter.outcome_or(usable)).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(answer)) => return Landed::Answered(self.serve_stale(answer)),
                Err(_elapsed) => {
                    return Landed::Refused(CacheError::Timeout { after: policy.load_timeout });
                }
            },
        };
        match flight.fallback().and_then(usable).filter(|_| outcome.is_failure()) {
            // The load was ordered by somebody who wants no fallback; this one does.
            Some(answer) => Landed::Answered(self.serve_stale(answer)),
            None => self.judged(key, policy, &waiter, outcome),
        }
    }

    pub(crate) fn judged<E: Send + Sync + 'static>(
        &self,
        key: &K,
        policy: &Policy,
        waiter: &Waiter<V>,
        outcome: Outcome<V>,
    ) -> Landed<V, E> {
        let error = match outcome {
            // A sweep may have come between the load's beginning and this reader: then it is not for this one.
            Outcome::Loaded(answer) if waiter.joined > waiter.flight.stamp => {
                let sweeps = &self.fleet.sweeps;
                let tags = answer.traits.as_ref().map_or(&[][..], |traits| &traits.tags);
                let left = sweeps.left_here(|| key.encode(), tags, answer.life.stamp);
                let is_for_all =
                    left == crate::epoch::Left::Whole || (answer.is_stale && self.is_usable(key, &answer));
                return if is_for_all { Landed::Answered(self.flagged(answer)) } else { Landed::Again };
            }
            Outcome::Loaded(answer) => return Landed::Answered(self.flagged(answer)),
            Outcome::NotLoaded => return Landed::Nothing,
            Outcome::Vacant => return Landed::Again,
            Outcome::Failed(error) => own_error(error),
            Outcome::TimedOut => CacheError::Timeout { after: policy.load_abandon.max(policy.load_timeout) },
            Outcome::Panicked => CacheError::Panicked,
            Outcome::Unanswered => CacheError::Unanswered,
            Outcome::Stopped => CacheError::Stopped,
            Outcome::Overloaded => {
                count(&self.counters.overloads);
                CacheError::Overloaded
            }
        };
        Landed::Refused(error)
    }

    fn flagged(&self, answer: Answer<V>) -> Answer<V> {
        if answer.is_stale { self.serve_stale(answer) } else { answer }
    }
}

fn own_error<E: Send + Sync + 'static>(error: Arc<dyn Any + Send + Sync>) -> CacheError<E> {
    error.downcast().map_or(CacheError::LoadElsewhere, CacheError::Load)
}
