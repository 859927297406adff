//! Reads of many keys, each of which must reflect a version: as `reflect` has it for one, with one trip to each tier for all that
//! L1 does not have at its version, and one call of the loader for all that no tier has. Keys that ask for nothing, and for what
//! the source says from now on, go with them. Joins the loads of single keys, and is joined by them. Called through `Cache`.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::join_all;
use tracing::Instrument;

use crate::{
    Cache, CacheError, CacheKey, Load, LoadContext, Policy, Version,
    answer::Answer,
    batch::{Answered, run},
    consult::consult,
    flight::{Flight, Seat, Waiter},
    hash::{BuildAsGiven, Probe, Stored},
    lead::{Boarding, Lead, Purpose},
    read::Landed,
    reflect::{Asking, Led, Told},
    spans,
    stats::count,
    store::{KeyForm, Standing, Store},
};

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// The values of `keys`, in their order, each from no earlier than the write that is named with it: as
    /// [`get_or_load_at_least`](Self::get_or_load_at_least) for each of them, with the trips and calls of
    /// [`get_or_load_many`](Self::get_or_load_many). `load` is called at most once per 512 keys that nobody has at their versions,
    /// and once more for those of which a load was under way that began for less and ended with less.
    ///
    /// A key that is named several times is looked up once, for the highest version that is named with it. [`Version::NONE`] asks
    /// for nothing, and [`Version::LATEST`] for what the source says from now on ([`reload`](Self::reload)); one that is loaded for
    /// its version leaves the others as they are.
    ///
    /// The loader's [floor](LoadContext::floor) is the highest that one of the keys has which it is given, because it is told one
    /// for all: a loader that chooses its replica by it reads all of them there, and one that cannot reach it fails for all. An
    /// error met under such a floor is not remembered of any of them, nor does a fallback of theirs rest for it.
    ///
    /// ```
    /// # use std::convert::Infallible;
    /// # use paystrata_cache::{Cache, LoadContext, Version};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let users: Cache<u64, u64> = Cache::builder("users").build();
    /// let load = |ids: Vec<u64>, context: LoadContext<u64>| async move {
    ///     Ok::<_, Infallible>(ids.iter().map(|_| Ok::<_, Infallible>(context.floor().0)).collect())
    /// };
    /// let read = users.get_or_load_many_at_least([(&7_u64, Version(40)), (&8, Version::NONE)], load).await;
    /// assert_eq!(read[0].as_ref().unwrap(), &Some(40));
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// On a miss, outside of a Tokio runtime.
    pub async fn get_or_load_many_at_least<'key, Q, F, Fut, A, E>(
        &self,
        keys: impl IntoIterator<Item = (&'key Q, Version)>,
        load: F,
    ) -> Vec<Result<Option<V>, CacheError<E>>>
    where
        Q: KeyForm<K> + ?Sized + 'key,
        F: Fn(Vec<K>, LoadContext<V>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<A, E>>, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let (asked, order): (Vec<(K, Version)>, Vec<usize>) = distinct(keys);
        let mut answers: Vec<Option<Answered<V, E>>> = Vec::with_capacity(asked.len());
        let (mut missing, mut due) = (Vec::new(), Vec::new());
        for (place, (key, version)) in asked.into_iter().enumerate() {
            let looked = self.looked_at_least(&key, version);
            match &looked {
                Some((_, Standing::Due)) => due.push(key),
                Some(_) => {}
                None => missing.push((place, key, version)),
            }
            answers.push(looked.map(|(answer, _)| Ok(answer)));
        }
        self.refresh_many(due, &load);
        let read = |round| self.store.load_many_at_least(&self.policy, round, load.clone());
        let answers = self.complete(answers, order, &missing, read).await;
        answers.into_iter().map(|answer| answer.map(|answer| answer.value)).collect()
    }

    /// The answer that no load has to be waited for, counted. Whoever gets one that is due has to see to its refresh.
    fn looked_at_least(&self, key: &K, version: Version) -> Option<(Answer<V>, Standing)> {
        let store = &*self.store;
        let look = match self.found_at_least(&Probe::of(key), version) {
            Ok(answer) => return Some((answer, Standing::Fresh)),
            Err(look) => look,
        };
        let settled = store.settled_at_least(look, version);
        if settled.is_some() {
            store.counters.hits.count();
        } else if version != Version::LATEST {
            // An ordered load is neither a hit nor a miss.
            count(&store.counters.misses);
        }
        settled
    }
}

/// Each key once, with the highest version that is named with it, and for each of the caller's keys which one it is.
fn distinct<'key, K, Q>(keys: impl IntoIterator<Item = (&'key Q, Version)>) -> (Vec<(K, Version)>, Vec<usize>)
where
    K: CacheKey,
    Q: KeyForm<K> + ?Sized + 'key,
{
    let mut places = HashMap::with_hasher(BuildAsGiven);
    let mut asked: Vec<(K, Version)> = Vec::new();
    let order = keys.into_iter().map(|(key, version)| {
        let (key, next) = (key.to_owned(), asked.len());
        let place = *places.entry(Stored(key.clone())).or_insert(next);
        match asked.get_mut(place) {
            Some((_, highest)) => *highest = version.max(*highest),
            None => asked.push((key, version)),
        }
        place
    });
    let order = order.collect();
    (asked, order)
}

/// A key that is read past L1.
struct Wish<K, V> {
    place: usize,
    key: K,
    version: Version,
    /// Of a version that a load can be told.
    asking: Option<Asking<K, V>>,
    /// The load that began before it was asked for.
    earlier: Option<Arc<Flight<V>>>,
    /// This call has loaded it: once, whatever becomes of the load.
    is_loaded: bool,
}

/// What is waited for, of one key.
struct Awaited<K, V> {
    wish: Wish<K, V>,
    waiter: Waiter<V>,
    told: Told,
}

/// The right to load one key, and the version that is asked for as long as it is loaded.
type Asked<K, V> = (Lead<K, V>, Option<Led<K, V>>);

/// What is left to do for a call: keys to wait for, and those of them that it loads itself.
struct Boarded<K: CacheKey, V: Clone> {
    awaited: Vec<Awaited<K, V>>,
    leads: Vec<Asked<K, V>>,
}

fn purpose_of(version: Version) -> Purpose {
    match version {
        Version::NONE => Purpose::Read,
        Version::LATEST => Purpose::Reload,
        Version(_) => Purpose::Reflect,
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Store<K, V> {
    /// Reads keys past what L1 has of them. The loader is called at most once for each.
    async fn load_many_at_least<F, Fut, A, E>(
        self: &Arc<Self>,
        policy: &Arc<Policy>,
        wanted: Vec<(usize, K, Version)>,
        load: F,
    ) -> Vec<(usize, Answered<V, E>)>
    where
        F: Fn(Vec<K>, LoadContext<V>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<A, E>>, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let wish = |(place, key, version)| self.wish(place, key, version);
        let (mut wishes, mut done): (Vec<_>, Vec<_>) = (wanted.into_iter().map(wish).collect(), Vec::new());
        while !wishes.is_empty() {
            let Boarded { awaited, leads } =
                self.board_wishes(policy, std::mem::take(&mut wishes), &mut done);
            if !leads.is_empty() {
                let (store, load) = (Arc::clone(self), load.clone());
                let loading = async move { store.load_many_told(leads, &load).await };
                drop(tokio::spawn(loading.in_current_span()));
            }
            let landed = awaited.into_iter().map(|Awaited { wish, waiter, told }| async move {
                let landed = self.landed_at(&wish.key, policy, waiter, wish.version).await;
                (wish, told, landed)
            });
            for (wish, told, landed) in join_all(landed).await {
                match landed {
                    Landed::Answered(answer) if told.takes(&answer, wish.version) => {
                        done.push((wish.place, Ok(answer)));
                    }
                    Landed::Refused(error) => done.push((wish.place, Err(error))),
                    Landed::Nothing | Landed::Again if wish.is_loaded => {
                        done.push((wish.place, Err(CacheError::Stopped)));
                    }
                    Landed::Answered(_) | Landed::Nothing | Landed::Again => wishes.push(wish),
                }
            }
        }
        done
    }

    fn wish(self: &Arc<Self>, place: usize, key: K, version: Version) -> Wish<K, V> {
        let (asking, earlier) = match purpose_of(version) {
            Purpose::Reflect => {
                let (asking, earlier) = self.ask(&Probe::of(&key), version);
                (Some(asking), earlier)
            }
            _ => (None, None),
        };
        Wish { place, key, version, asking, earlier, is_loaded: false }
    }

    /// Joins and leads; what is answered by then goes to `done`.
    fn board_wishes<E>(
        self: &Arc<Self>,
        policy: &Arc<Policy>,
        wishes: Vec<Wish<K, V>>,
        done: &mut Vec<(usize, Answered<V, E>)>,
    ) -> Boarded<K, V> {
        let (mut awaited, mut leads) = (Vec::new(), Vec::new());
        // With tiers, one is taken if they do not have everything; a load that is ordered is made whatever they have.
        let is_seated =
            self.fleet.tiers.is_empty() || wishes.iter().any(|wish| wish.version == Version::LATEST);
        let seat = if is_seated { self.flights.take_seat() } else { None };
        for mut wish in wishes {
            match self.board_wish(policy, &wish, seat.as_ref()) {
                Ok(Boarding::Lead(mut lead)) => {
                    wish.is_loaded = true;
                    let waiter = lead.waiter();
                    let led = wish.asking.as_ref().map(|asking| Led::begin(asking.again(), &mut lead));
                    leads.push((lead, led));
                    awaited.push(Awaited { wish, waiter, told: Told::ByLead });
                }
                Ok(Boarding::Joined(waiter)) => {
                    count(&self.counters.joins);
                    let told = self.told(&waiter.flight, wish.earlier.as_ref(), wish.version);
                    awaited.push(Awaited { wish, waiter, told });
                }
                Ok(Boarding::Found(_) | Boarding::Full) => {
                    count(&self.counters.overloads);
                    done.push((wish.place, Err(CacheError::Overloaded)));
                }
                Err(answer) => done.push((wish.place, Ok(answer))),
            }
        }
        Boarded { awaited, leads }
    }

    /// As `board`, or the answer that L1 has by now.
    fn board_wish(
        self: &Arc<Self>,
        policy: &Arc<Policy>,
        wish: &Wish<K, V>,
        seat: Option<&Arc<Seat>>,
    ) -> Result<Boarding<K, V>, Answer<V>> {
        let (probe, purpose) = (Probe::of(&wish.key), purpose_of(wish.version));
        if purpose == Purpose::Reflect
            && let Some((answer, _)) = self.settled_at_least(self.look(&probe), wish.version)
        {
            return Err(answer);
        }
        match self.board(&wish.key, policy, purpose, seat) {
            // What others are given without a load is nothing for who asks for a version.
            Boarding::Found(look) if purpose == Purpose::Read => match self.settled_by(look) {
                Some((answer, _)) => Err(answer),
                None => Ok(Boarding::Full),
            },
            boarding => Ok(boarding),
        }
    }

    /// Asks the tiers about keys that are waited for, and loads what they do not have at its version. Asks for the versions as long
    /// as it runs.
    async fn load_many_told<F, Fut, A, E>(self: &Arc<Self>, asked: Vec<Asked<K, V>>, load: &F)
    where
        F: Fn(Vec<K>, LoadContext<V>) -> Fut,
        Fut: Future<Output = Result<Vec<Result<A, E>>, E>>,
        A: Into<Load<V>>,
        E: Send + Sync + 'static,
    {
        let (mut leads, _led): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
        let verdicts = consult(&mut leads, 0).await;
        let (mut to_load, mut seat) = (Vec::new(), leads.iter().find_map(Lead::seat));
        for (mut lead, verdict) in leads.into_iter().zip(verdicts) {
            let Some(plan) = lead.plan_of(verdict) else { continue };
            if lead.is_seated(&mut seat) {
                to_load.push((lead, plan));
            } else {
                drop(lead.turn_away(plan.fallback));
            }
        }
        // The loads have it now, and give it back as they end.
        drop(seat);
        if let Some((first, _)) = to_load.first() {
            let span = spans::load(&self.name, first.purpose, to_load.len());
            run(Arc::clone(self), to_load, span, load).await;
        }
    }
}
