//! Reads that must reflect a version, as that of a write whose caller was handed it by another node: what this node was not
//! told of yet is not waited for. A value counts by the version that it was stored with; what is older, or says nothing, will
//! not do for this reader, and goes on being served to the others until what is loaded takes its place.
//! While somebody asks, every load of the key that begins is told; with the last one who asks that floor is gone, so that a
//! version which nobody will ever write holds up nothing. Called through `Cache`.

use std::sync::Arc;

use tracing::Instrument;

use crate::{
    Cache, CacheError, CacheKey, Load, LoadContext, Loaded, Policy, Version,
    answer::{Answer, Origin},
    consult::{Plan, Verdict, consult_one},
    flight::{Flight, Waiter},
    hash::Probe,
    lead::{Boarding, Lead, Purpose, Storing},
    load,
    local::Traits,
    read::{Landed, answer_of_absence, answer_of_hit},
    spans,
    stats::count,
    store::{KeyForm, Look, Standing, Store},
};

/// True if what is stored with the one version will do for who asks for the other. [`Version::LATEST`] on a value says that it was
/// the newest when it was set, and no more.
pub(crate) fn reflects(known: Version, asked: Version) -> bool {
    asked == Version::NONE || (known != Version::LATEST && known >= asked)
}

fn version_of(traits: Option<&Traits>) -> Version {
    traits.map_or(Version::NONE, |traits| traits.version)
}

fn version_seen<V>(look: &Look<V>) -> Version {
    match look {
        Look::Hit(entry) => version_of(entry.traits.as_deref()),
        Look::Absent(entry) => version_of(entry.traits.as_deref()),
        Look::Doubt(answer, _) => answer.version(),
        Look::Miss => Version::NONE,
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// The value of `key`, from no earlier than the write `version`, whether or not this node has been told of that write: for a
    /// caller who has written on another node and brings the version of the write along (read your writes).
    ///
    /// What L1 or a shared tier has will do if it was stored with that version or a higher one, said by its loader
    /// ([`LoadContext::version`]) or by whoever [set](Self::set) it. Anything older or without a version is loaded anew, the
    /// knowledge that there is no such thing too, and the loader's [floor](LoadContext::floor) is `version` at least. Until what
    /// is loaded takes its place in every tier, other callers are given what is there; other nodes are not told.
    ///
    /// The loader's word counts, as in every load: it has been told the floor, so a lower version on its answer says only that
    /// nothing has changed since. A loader that cannot reach the floor fails, and so does this call: the only fallback that it
    /// takes is one of that version. A load that is under way is joined; if it began for less and ends with less, those who
    /// waited for it load together once more, so that two loads may be waited for.
    ///
    /// A value that was set here under [`Write::Behind`](crate::Write::Behind) and is not written yet is the answer whatever its
    /// version: it is what the source will say. So a newer write of the same key by another node, of which this one has not been
    /// told, is missed until the value is written or the news arrives.
    ///
    /// [`Version::NONE`] asks for nothing ([`get_or_load`](Self::get_or_load)), and [`Version::LATEST`] for what the source says
    /// from now on ([`reload`](Self::reload)). What becomes of a version that has yet to be written is for the loader to say. Nothing
    /// of it stays here, nor is its error remembered, but loads of the key that begin meanwhile, for whomever, are told of it too: look
    /// at versions from strangers before you pass them on.
    ///
    /// A hit costs what one of [`get_or_load`](Self::get_or_load) costs that this thread has no copy of.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load).
    ///
    /// # Panics
    ///
    /// On a miss, outside of a Tokio runtime.
    pub async fn get_or_load_at_least<Q, F, Fut, A, E>(
        &self,
        key: &Q,
        version: Version,
        load: F,
    ) -> Result<Option<V>, CacheError<E>>
    where
        Q: KeyForm<K> + ?Sized,
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let probe = Probe::of(key);
        if let Some(value) = self.hit_at_least(&probe, version) {
            return Ok(Some(value));
        }
        match self.found_at_least(&probe, version) {
            Ok(answer) => Ok(answer.value),
            Err(look) => {
                Box::pin(self.answer_at_least(key, version, look, load)).await.map(|loaded| loaded.value)
            }
        }
    }

    /// As [`get_or_load_at_least`](Self::get_or_load_at_least), and tells where the answer comes from, how old it is, and whether
    /// it is past its lifetime.
    ///
    /// # Errors
    ///
    /// As [`get_or_load`](Self::get_or_load).
    pub async fn get_or_load_at_least_entry<Q, F, Fut, A, E>(
        &self,
        key: &Q,
        version: Version,
        load: F,
    ) -> Result<Loaded<V>, CacheError<E>>
    where
        Q: KeyForm<K> + ?Sized,
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        match self.found_at_least(&Probe::of(key), version) {
            Ok(answer) => Ok(self.loaded(answer)),
            Err(look) => Box::pin(self.answer_at_least(key, version, look, load)).await,
        }
    }

    /// A value that needs no second look, counted. Copies of threads know no versions and are not asked.
    #[inline]
    fn hit_at_least<Q: KeyForm<K> + ?Sized>(&self, probe: &Probe<'_, Q>, version: Version) -> Option<V> {
        let (store, moment) = (&*self.store, self.store.moment());
        let found = store.local.read(probe, |kept| {
            let will_do = moment.finds_fresh(&kept.bounds()) && reflects(version_of(kept.traits()), version);
            will_do.then(|| (kept.value().clone(), kept.loaded_us()))
        });
        let (value, loaded_us) = found.flatten()?;
        self.count_served(probe.hash, loaded_us);
        Some(value)
    }

    /// The answer that nothing has to be done for, counted: a value, or that there is none.
    pub(crate) fn found_at_least<Q: KeyForm<K> + ?Sized>(
        &self,
        probe: &Probe<'_, Q>,
        version: Version,
    ) -> Result<Answer<V>, Look<V>> {
        match self.store.look(probe) {
            look if !reflects(version_seen(&look), version) => Err(look),
            Look::Hit(entry) => {
                self.count_served(probe.hash, entry.life.loaded_us);
                Ok(answer_of_hit(entry))
            }
            Look::Absent(entry) => {
                count(&self.store.counters.absent_hits);
                Ok(answer_of_absence(entry))
            }
            look => Err(look),
        }
    }

    #[inline]
    fn count_served(&self, hash: u64, loaded_us: u64) {
        let store = &*self.store;
        if store.counters.hits.count() {
            store.heat.record(hash);
            store.counters.served_ages.record_us(store.clock.now_us().saturating_sub(loaded_us));
        }
    }

    /// The answer for somebody who can load, and has looked into L1.
    async fn answer_at_least<Q, F, Fut, A, E>(
        &self,
        key: &Q,
        version: Version,
        look: Look<V>,
        load: F,
    ) -> Result<Loaded<V>, CacheError<E>>
    where
        Q: KeyForm<K> + ?Sized,
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        match version {
            Version::NONE => return self.get_or_load_entry(key, load).await,
            Version::LATEST => return self.reload_entry(key, load).await,
            Version(_) => {}
        }
        let store = &self.store;
        if let Some((answer, standing)) = store.settled_at_least(look, version) {
            store.counters.hits.count();
            if standing == Standing::Due {
                store.refresh(&key.to_owned(), &self.policy, load);
            }
            return Ok(self.loaded(answer));
        }
        count(&store.counters.misses);
        let span = spans::read(&store.name, 1);
        let loading = store.load_at_least(key.to_owned(), &self.policy, version, load);
        let ended = loading.instrument(span.clone()).await;
        spans::read_ended(&span, &ended);
        ended.map(|answer| self.loaded(answer))
    }
}

/// What is known of the floor of a load that a reader waits for.
pub(crate) enum Told {
    /// Its lead asks for as much, and ends it with nothing less.
    ByLead,
    /// It began after this reader had asked: its loader is told.
    InTime,
    /// It began before.
    TooLate,
}

impl Told {
    /// True if how the load ended will do.
    pub(crate) fn takes<V>(&self, answer: &Answer<V>, version: Version) -> bool {
        let is_told = match self {
            Self::ByLead => true,
            // A tier knows nothing of this reader, and a fallback is from before.
            Self::InTime => answer.origin == Origin::Loader && !answer.is_stale,
            Self::TooLate => false,
        };
        is_told || reflects(answer.version(), version)
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Store<K, V> {
    /// As `settled_by`, if it will do.
    pub(crate) fn settled_at_least(&self, look: Look<V>, version: Version) -> Option<(Answer<V>, Standing)> {
        if reflects(version_seen(&look), version) { self.settled_by(look) } else { None }
    }

    /// Reads `key` past what L1 has of it. The loader is called at most once.
    async fn load_at_least<F, Fut, A, E>(
        self: &Arc<Self>,
        key: K,
        policy: &Arc<Policy>,
        version: Version,
        load: F,
    ) -> Result<Answer<V>, CacheError<E>>
    where
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let probe = Probe::of(&key);
        let (asking, earlier) = self.ask(&probe, version);
        let mut load = Some(load);
        loop {
            if let Some((answer, _)) = self.settled_at_least(self.look(&probe), version) {
                return Ok(answer);
            }
            let (waiter, told) = match self.board(&key, policy, Purpose::Reflect, None) {
                // What others are given without a load is nothing for who asks for a version.
                Boarding::Full | Boarding::Found(_) => {
                    count(&self.counters.overloads);
                    return Err(CacheError::Overloaded);
                }
                Boarding::Joined(waiter) => {
                    count(&self.counters.joins);
                    let told = self.told(&waiter.flight, earlier.as_ref(), version);
                    (waiter, told)
                }
                Boarding::Lead(lead) => {
                    let load = load.take().expect("a load that was led to its task is not left");
                    (self.begin_load(lead, asking.again(), load), Told::ByLead)
                }
            };
            match Box::pin(self.landed_at(&key, policy, waiter, version)).await {
                Landed::Answered(answer) if told.takes(&answer, version) => return Ok(answer),
                Landed::Refused(error) => return Err(error),
                Landed::Nothing | Landed::Again if load.is_none() => return Err(CacheError::Stopped),
                Landed::Answered(_) | Landed::Nothing | Landed::Again => {}
            }
        }
    }

    /// Has every load of the key that begins from here on told of the version. Gives the one that began before, if it is still
    /// under way: the lock of the shard tells which is which.
    pub(crate) fn ask(
        self: &Arc<Self>,
        probe: &Probe<'_, K>,
        version: Version,
    ) -> (Asking<K, V>, Option<Arc<Flight<V>>>) {
        let now_us = self.clock.now_us();
        let mut shard = self.flights.lock(probe.hash);
        let asking = Asking::begin(self, probe.hash, version);
        let earlier = shard.find(probe.key, now_us);
        drop(shard);
        (asking, earlier)
    }

    pub(crate) fn told(
        &self,
        flight: &Arc<Flight<V>>,
        earlier: Option<&Arc<Flight<V>>>,
        version: Version,
    ) -> Told {
        match earlier {
            _ if self.floors.wishes.is_led_at(address(flight), version) => Told::ByLead,
            Some(earlier) if Arc::ptr_eq(earlier, flight) => Told::TooLate,
            _ => Told::InTime,
        }
    }

    /// Asks the tiers and loads on a task of its own, which asks for the version as long as it runs.
    fn begin_load<F, Fut, A, E>(
        self: &Arc<Self>,
        mut lead: Lead<K, V>,
        asking: Asking<K, V>,
        load: F,
    ) -> Waiter<V>
    where
        F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<A, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let (waiter, led) = (lead.waiter(), Led::begin(asking, &mut lead));
        let store = Arc::clone(self);
        let loading = async move {
            store.load_told(lead, load).await;
            drop(led);
        };
        drop(tokio::spawn(loading.in_current_span()));
        waiter
    }

    /// Ends a load with what a tier has, or the loader gives, for who leads it.
    async fn load_told<F, Fut, A, E>(&self, mut lead: Lead<K, V>, load: F)
    where
        F: FnOnce(LoadContext<V>) -> Fut,
        Fut: Future<Output = Result<A, E>>,
        A: Into<Load<V>>,
        E: Send + Sync + 'static,
    {
        let verdict = consult_one(&mut lead).await;
        let Some(plan) = lead.plan_of(verdict) else { return };
        if !lead.is_seated(&mut None) {
            drop(lead.turn_away(plan.fallback));
            return;
        }
        let span = spans::load(&self.name, lead.purpose, 1);
        load::run(lead, plan, span, load).await;
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Lead<K, V> {
    /// Ends the load with what a tier has, if it will do for who leads it. Else it says what is to be loaded, with the fallback
    /// if that will do; one that will not is left to those who ask for less.
    pub(crate) fn plan_of(&mut self, verdict: Verdict<V>) -> Option<Plan<V>> {
        let plan = match verdict {
            Verdict::Found(answer) => {
                self.settle(answer, Storing::Yes);
                return None;
            }
            Verdict::Stale(answer) if !self.is_too_old(&answer) => {
                self.settle(Answer { is_stale: true, ..answer }, Storing::No);
                return None;
            }
            // Another node loads it, for a floor that nobody here knows; and what the tier has said of floors is lost.
            Verdict::Stale(answer) => {
                Plan { floor: Version::LATEST, fallback: Some(answer), lies_in: None, is_wished: true }
            }
            Verdict::Load(plan) => plan,
        };
        self.offer_fallback(&plan);
        let will_do = plan.fallback.as_ref().is_some_and(|old| !self.is_too_old(old));
        Some(if will_do { plan } else { Plan { fallback: None, lies_in: None, ..plan } })
    }
}

/// A reader asks for a version of a key, until this is dropped.
pub(crate) struct Asking<K, V> {
    store: Arc<Store<K, V>>,
    hash: u64,
    version: Version,
}

impl<K, V> Asking<K, V> {
    fn begin(store: &Arc<Store<K, V>>, hash: u64, version: Version) -> Self {
        store.floors.wishes.ask(hash, version);
        Self { store: Arc::clone(store), hash, version }
    }

    /// For somebody who may go on asking for longer.
    pub(crate) fn again(&self) -> Self {
        Self::begin(&self.store, self.hash, self.version)
    }
}

impl<K, V> Drop for Asking<K, V> {
    fn drop(&mut self) {
        self.store.floors.wishes.give_up(self.hash, self.version);
    }
}

/// A load whose lead asks, until this is dropped.
pub(crate) struct Led<K, V> {
    asking: Asking<K, V>,
    /// Held, so that no other one gets its address meanwhile.
    flight: Arc<Flight<V>>,
}

impl<K: CacheKey, V: Clone> Led<K, V> {
    /// From here on what a tier has will do from that version on.
    pub(crate) fn begin(asking: Asking<K, V>, lead: &mut Lead<K, V>) -> Self {
        let flight = Arc::clone(&lead.flight);
        lead.asked_version = asking.version;
        asking.store.floors.wishes.lead(address(&flight), asking.version);
        Self { asking, flight }
    }
}

impl<K, V> Drop for Led<K, V> {
    fn drop(&mut self) {
        self.asking.store.floors.wishes.land(address(&self.flight));
    }
}

/// Tells one flight from all others that live at the same time.
fn address<V>(flight: &Arc<Flight<V>>) -> usize {
    Arc::as_ptr(flight).addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_value_and_one_that_says_nothing_will_not_do() {
        assert!(reflects(Version(9), Version(9)) && reflects(Version(9), Version(8)));
        assert!(!reflects(Version(8), Version(9)) && !reflects(Version::NONE, Version(1)));
        assert!(!reflects(Version::LATEST, Version(1)) && !reflects(Version::LATEST, Version::LATEST));
        assert!(reflects(Version::NONE, Version::NONE) && reflects(Version::LATEST, Version::NONE));
    }
}
