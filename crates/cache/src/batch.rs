//! Reads of many keys: one trip to each tier for all that L1 does not have, and one call of the loader for all that no
//! tier has. Joins the loads of single keys that are under way, and is joined by them. Called through `Cache`.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures_util::{FutureExt, future::join_all};
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::{
    Cache, CacheError, CacheKey, Load, LoadContext, Loaded, Policy, Version,
    answer::Answer,
    consult::{Plan, Verdict, consult},
    flight::Waiter,
    hash::{BuildAsGiven, Probe, Stored},
    lead::{Boarding, Lead, Purpose, Storing},
    load::{Called, Ending, call, finish, stale_of},
    read::Landed,
    scout::Scouted,
    spans,
    stats::count,
    store::{KeyForm, Standing, Store},
    write_back::write_back,
};

/// Keys of one round through the tiers and the loader. More are taken in several rounds, side by side as far as there are
/// places for loads.
pub(crate) const ROUND_MAX: usize = 512;

/// One key's answer.
pub(crate) type Answered<V, E> = Result<Answer<V>, CacheError<E>>;

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// The values of `keys`, in their order: each from L1, from a load that is under way, from the shared tiers (one trip
    /// to each for all keys, and one more to claim what none has), or from `load`, which is called at most once per 512
    /// keys that nobody has, and answers them in the order in which it is given them. A key that is named several times is
    /// looked up once.
    ///
    /// `load` gives one result per key, or one error for all of them. What it says to its context holds for all of them, and
    /// what it says to [`LoadContext::of`] for one, which also shows what is there of it already.
    pub async fn get_or_load_many<'key, Q, F, Fut, A, E>(
        &self,
        keys: impl IntoIterator<Item = &'key Q>,
        load: F,
    ) -> Vec<Result<Option<V>, CacheError<E>>>
    where
        Q: KeyForm<K> + ?Sized + 'key,
        F: Fn(Vec<K>, LoadContext<V>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<A, E>>, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let answers = self.answer_many(keys, load).await;
        answers.into_iter().map(|answer| answer.map(|answer| answer.value)).collect()
    }

    /// As [`get_or_load_many`](Self::get_or_load_many), and tells of each where it comes from, how old it is, and whether
    /// it is past its lifetime.
    pub async fn get_or_load_many_entries<'key, Q, F, Fut, A, E>(
        &self,
        keys: impl IntoIterator<Item = &'key Q>,
        load: F,
    ) -> Vec<Result<Loaded<V>, CacheError<E>>>
    where
        Q: KeyForm<K> + ?Sized + 'key,
        F: Fn(Vec<K>, LoadContext<V>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<A, E>>, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let answers = self.answer_many(keys, load).await;
        answers.into_iter().map(|answer| answer.map(|answer| self.loaded(answer))).collect()
    }

    async fn answer_many<'key, Q, F, Fut, A, E>(
        &self,
        keys: impl IntoIterator<Item = &'key Q>,
        load: F,
    ) -> Vec<Answered<V, E>>
    where
        Q: KeyForm<K> + ?Sized + 'key,
        F: Fn(Vec<K>, LoadContext<V>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<A, E>>, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let Wanted { answers, order, missing, due } = self.look_at_all(keys);
        self.refresh_many(due, &load);
        let read = |round| self.round(round, load.clone());
        self.complete(answers, order, &missing, read).await
    }

    /// Has keys that are due loaded in the background, if there are any.
    pub(crate) fn refresh_many<F, Fut, A, E>(&self, due: Vec<K>, load: &F)
    where
        F: Fn(Vec<K>, LoadContext<V>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<A, E>>, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        if !due.is_empty() {
            let (store, policy, load) = (Arc::clone(&self.store), Arc::clone(&self.policy), load.clone());
            let span = spans::refresh(&store.name);
            drop(tokio::spawn(refresh(store, policy, due, load).instrument(span)));
        }
    }

    /// Reads what is missing, in rounds, and gives each of the caller's keys the answer of its place.
    pub(crate) async fn complete<T, Fut, E>(
        &self,
        mut answers: Vec<Option<Answered<V, E>>>,
        order: Vec<usize>,
        missing: &[T],
        read: impl Fn(Vec<T>) -> Fut,
    ) -> Vec<Answered<V, E>>
    where
        T: Clone,
        Fut: Future<Output = Vec<(usize, Answered<V, E>)>>,
    {
        for abreast in missing.chunks(self.store.keys_abreast()) {
            let rounds = abreast.chunks(ROUND_MAX).map(|round| {
                let span = spans::read(&self.store.name, round.len());
                let reading = read(round.to_vec()).instrument(span.clone());
                reading
                    .inspect(move |done| spans::read_many_ended(&span, done.iter().map(|(_, answer)| answer)))
            });
            for (place, answer) in join_all(rounds).await.into_iter().flatten() {
                answers[place] = Some(answer);
            }
        }
        if order.len() == answers.len() {
            return answers.into_iter().map(|answer| answer.unwrap_or(Err(CacheError::Stopped))).collect();
        }
        let answer_at = |place: usize| match &answers[place] {
            Some(Ok(answer)) => Ok(answer.clone()),
            Some(Err(error)) => Err(error.clone()),
            None => Err(CacheError::Stopped),
        };
        order.into_iter().map(answer_at).collect()
    }

    /// What L1 has of the keys.
    fn look_at_all<'key, Q, E>(&self, keys: impl IntoIterator<Item = &'key Q>) -> Wanted<K, V, E>
    where
        Q: KeyForm<K> + ?Sized + 'key,
    {
        let keys = keys.into_iter();
        let (fewest, _) = keys.size_hint();
        let mut places = HashMap::with_capacity_and_hasher(fewest, BuildAsGiven);
        let mut wanted = Wanted {
            answers: Vec::with_capacity(fewest),
            order: Vec::with_capacity(fewest),
            missing: Vec::new(),
            due: Vec::new(),
        };
        for key in keys {
            let next = wanted.answers.len();
            let key = key.to_owned();
            let place = *places.entry(Stored(key.clone())).or_insert(next);
            wanted.order.push(place);
            if place < next {
                continue;
            }
            let answer = match self.looked_to_load(&Probe::of(&key)) {
                Some((answer, standing)) => {
                    if standing == Standing::Due {
                        wanted.due.push(key);
                    }
                    Some(Ok(answer))
                }
                None => {
                    wanted.missing.push((place, key));
                    None
                }
            };
            wanted.answers.push(answer);
        }
        wanted
    }

    async fn round<F, Fut, A, E>(&self, wanted: Vec<(usize, K)>, load: F) -> Vec<(usize, Answered<V, E>)>
    where
        F: Fn(Vec<K>, LoadContext<V>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<Result<A, E>>, E>> + Send + 'static,
        A: Into<Load<V>> + Send + 'static,
        E: Send + Sync + 'static,
    {
        let store = &self.store;
        let Scouted { found, left: mut wanted, next_tier } = store.scout(&self.policy, wanted).await;
        let mut done: Vec<_> = found.into_iter().map(|(place, answer)| (place, Ok(answer))).collect();
        // Each is loaded once by this call, whatever becomes of the load.
        let mut loaded = HashSet::new();
        while !wanted.is_empty() {
            let mut waiting = self.board_all(&wanted, &mut done);
            if waiting.leads.iter().any(Lead::may_try_patience) {
                let leads = self.seat_all(&mut waiting, &mut done);
                loaded.extend(leads.iter().map(|(place, _)| *place));
                let leads = leads.into_iter().map(|(_, lead)| lead).collect();
                let (store, load) = (Arc::clone(store), load.clone());
                let loading = async move { load_all(&store, leads, next_tier, &load).await };
                drop(tokio::spawn(loading.in_current_span()));
            }
            waiting.leads.iter().for_each(Lead::take_in_hand);
            let verdicts = consult(&mut waiting.leads, next_tier).await;
            let to_load = self.settle_all(&mut waiting, verdicts, &mut done);
            loaded.extend(to_load.iter().map(|(place, ..)| *place));
            let to_load: Vec<_> = to_load.into_iter().map(|(_, lead, plan)| (lead, plan)).collect();
            if !to_load.is_empty() {
                let span = spans::load(&store.name, Purpose::Read, to_load.len());
                let (store, load) = (Arc::clone(store), load.clone());
                drop(tokio::spawn(async move { run(store, to_load, span, &load).await }));
            }
            let landed = waiting.waiters.into_iter().map(|(place, key, waiter)| async move {
                let landed = store.landed(&key, &self.policy, waiter).await;
                (place, key, landed)
            });
            wanted = Vec::new();
            for (place, key, landed) in join_all(landed).await {
                match landed {
                    Landed::Answered(answer) => done.push((place, Ok(answer))),
                    Landed::Refused(error) => done.push((place, Err(error))),
                    Landed::Nothing | Landed::Again if loaded.contains(&place) => {
                        done.push((place, Err(CacheError::Stopped)));
                    }
                    Landed::Nothing | Landed::Again => wanted.push((place, key)),
                }
            }
        }
        done
    }

    /// Ends the loads that the tiers have answered, and those for which there is no seat. Gives the others, which are waited for.
    fn settle_all<E>(
        &self,
        waiting: &mut Waiting<K, V>,
        verdicts: Vec<Verdict<V>>,
        done: &mut Vec<(usize, Answered<V, E>)>,
    ) -> Vec<(usize, Lead<K, V>, Plan<V>)> {
        let store = &self.store;
        let (mut to_load, mut seat) = (Vec::new(), None);
        let leads = std::mem::take(&mut waiting.leads).into_iter().zip(waiting.places.drain(..));
        for ((mut lead, place), verdict) in leads.zip(verdicts) {
            match verdict {
                Verdict::Found(answer) => {
                    lead.settle(answer.clone(), Storing::Yes);
                    done.push((place, Ok(answer)));
                }
                Verdict::Stale(answer) => {
                    let answer = store.serve_stale(answer);
                    lead.settle(answer.clone(), Storing::No);
                    done.push((place, Ok(answer)));
                }
                Verdict::Load(plan) if !lead.is_seated(&mut seat) => {
                    done.push((place, store.turned_away(lead, plan.fallback)));
                }
                Verdict::Load(plan) => {
                    lead.hand_over();
                    lead.offer_fallback(&plan);
                    waiting.waiters.push((place, lead.key.clone(), lead.waiter()));
                    to_load.push((place, lead, plan));
                }
            }
        }
        to_load
    }

    /// The loads that a task is to see to from the beginning, and who waits for each; those for which there is no seat have ended.
    fn seat_all<E>(
        &self,
        waiting: &mut Waiting<K, V>,
        done: &mut Vec<(usize, Answered<V, E>)>,
    ) -> Vec<(usize, Lead<K, V>)> {
        let (mut seated, mut seat) = (Vec::new(), None);
        for (mut lead, place) in std::mem::take(&mut waiting.leads).into_iter().zip(waiting.places.drain(..))
        {
            if lead.is_seated(&mut seat) {
                waiting.waiters.push((place, lead.key.clone(), lead.waiter()));
                seated.push((place, lead));
            } else {
                done.push((place, self.store.turned_away(lead, None)));
            }
        }
        seated
    }

    /// Joins and leads; what is answered by then goes to `done`.
    fn board_all<E>(&self, wanted: &[(usize, K)], done: &mut Vec<(usize, Answered<V, E>)>) -> Waiting<K, V> {
        let store = &self.store;
        let mut waiting = Waiting { leads: Vec::new(), places: Vec::new(), waiters: Vec::new() };
        // With tiers, one is taken if they do not have everything.
        let seat = if store.fleet.tiers.is_empty() { store.flights.take_seat() } else { None };
        for (place, key) in wanted {
            match store.board(key, &self.policy, Purpose::Read, seat.as_ref()) {
                Boarding::Found(look) => match store.settled_by(look) {
                    Some((answer, _)) => done.push((*place, Ok(answer))),
                    None => done.push((*place, Err(CacheError::Stopped))),
                },
                Boarding::Joined(waiter) => {
                    count(&store.counters.joins);
                    waiting.waiters.push((*place, key.clone(), waiter));
                }
                Boarding::Lead(lead) => {
                    waiting.leads.push(lead);
                    waiting.places.push(*place);
                }
                Boarding::Full => {
                    count(&store.counters.overloads);
                    done.push((*place, Err(CacheError::Overloaded)));
                }
            }
        }
        waiting
    }
}

impl<K: CacheKey, V: Clone> Store<K, V> {
    /// Keys of one call that are read at once: more rounds than there may be loads would turn each other away.
    pub(crate) fn keys_abreast(&self) -> usize {
        self.flights.seats_max().max(1).saturating_mul(ROUND_MAX)
    }
}

/// What L1 said of the keys of one call. Answers are by place, which each key has once; `order` says whose answer each of
/// the caller's keys gets.
struct Wanted<K, V, E> {
    answers: Vec<Option<Answered<V, E>>>,
    order: Vec<usize>,
    missing: Vec<(usize, K)>,
    /// Answered, and to be loaded anew.
    due: Vec<K>,
}

/// Loads many keys anew, those that nobody does yet. What is there is served meanwhile.
async fn refresh<K, V, F, Fut, A, E>(store: Arc<Store<K, V>>, policy: Arc<Policy>, due: Vec<K>, load: F)
where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
    F: Fn(Vec<K>, LoadContext<V>) -> Fut,
    Fut: Future<Output = Result<Vec<Result<A, E>>, E>>,
    A: Into<Load<V>>,
    E: Send + Sync + 'static,
{
    for round in due.chunks(ROUND_MAX) {
        let seat = store.flights.take_seat();
        let mut leads = Vec::with_capacity(round.len());
        for key in round {
            if let Boarding::Lead(lead) = store.board(key, &policy, Purpose::Refresh, seat.as_ref()) {
                leads.push(lead);
            }
        }
        load_all(&store, leads, 0, &load).await;
    }
}

/// Asks the tiers from `first_tier` on about keys that somebody waits for elsewhere, and loads what they do not have.
async fn load_all<K, V, F, Fut, A, E>(
    store: &Arc<Store<K, V>>,
    mut leads: Vec<Lead<K, V>>,
    first_tier: usize,
    load: &F,
) where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
    F: Fn(Vec<K>, LoadContext<V>) -> Fut,
    Fut: Future<Output = Result<Vec<Result<A, E>>, E>>,
    A: Into<Load<V>>,
    E: Send + Sync + 'static,
{
    let Some(purpose) = leads.first().map(|lead| lead.purpose) else { return };
    let verdicts = consult(&mut leads, first_tier).await;
    let (mut to_load, mut seat) = (Vec::new(), None);
    for (mut lead, verdict) in leads.into_iter().zip(verdicts) {
        match verdict {
            Verdict::Found(answer) => drop(lead.settle(answer, Storing::Yes)),
            // Another node loads it; this one goes on with what it has.
            Verdict::Stale(answer) => {
                lead.settle(Answer { is_stale: true, ..answer }, Storing::No);
            }
            Verdict::Load(plan) if !lead.is_seated(&mut seat) => drop(lead.turn_away(plan.fallback)),
            Verdict::Load(plan) => {
                lead.offer_fallback(&plan);
                to_load.push((lead, plan));
            }
        }
    }
    if !to_load.is_empty() {
        let span = spans::load(&store.name, purpose, to_load.len());
        run(Arc::clone(store), to_load, span, load).await;
    }
}

/// What one round has to do and to wait for.
struct Waiting<K: CacheKey, V: Clone> {
    leads: Vec<Lead<K, V>>,
    places: Vec<usize>,
    waiters: Vec<(usize, K, Waiter<V>)>,
}

/// Runs one load of many keys to its end.
pub(crate) async fn run<K, V, F, Fut, A, E>(
    store: Arc<Store<K, V>>,
    mut to_load: Vec<(Lead<K, V>, Plan<V>)>,
    span: Span,
    load: &F,
) where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
    F: Fn(Vec<K>, LoadContext<V>) -> Fut,
    Fut: Future<Output = Result<Vec<Result<A, E>>, E>>,
    A: Into<Load<V>>,
    E: Send + Sync + 'static,
{
    // The floor is one for all of them.
    let is_wished = to_load.iter().any(|(lead, plan)| plan.is_wished || lead.purpose == Purpose::Reload);
    to_load.iter_mut().for_each(|(_, plan)| plan.is_wished = is_wished);
    let Some((first, _)) = to_load.first() else { return };
    let floor = to_load.iter().map(|(_, plan)| plan.floor).max().unwrap_or(Version::NONE);
    let stale: Vec<_> = to_load.iter().map(|(_, plan)| plan.fallback.as_ref().and_then(stale_of)).collect();
    let context = LoadContext::new(floor, stale);
    let keys: Vec<K> = to_load.iter().map(|(lead, _)| lead.key.clone()).collect();
    let (begun_us, begun) = (store.clock.now_us(), Instant::now());
    let told = context.clone();
    let work = async move { load(keys, told).await };
    let flights: Vec<_> = to_load.iter().map(|(lead, _)| &*lead.flight).collect();
    let ended = call(&store, first, &flights, work.instrument(span.clone())).await;
    let took = begun.elapsed();
    let endings: Vec<Ending<V>> = match ended {
        Ok(Ok(answers)) => answers.into_iter().map(ending_of).collect(),
        Ok(Err(error)) => {
            let error = Arc::new(error);
            to_load.iter().map(|_| Ending::Failed(Arc::<E>::clone(&error))).collect()
        }
        Err(Ending::TimedOut) => to_load.iter().map(|_| Ending::TimedOut).collect(),
        Err(_) => to_load.iter().map(|_| Ending::Panicked).collect(),
    };
    // A loader that answers too few keys has not answered the last ones.
    let endings = endings.into_iter().chain(std::iter::repeat_with(|| Ending::Unanswered));
    let mut writings = Vec::new();
    for (place, ((lead, plan), ending)) in to_load.iter_mut().zip(endings).enumerate() {
        let edits = context.edits_of(place);
        writings.extend(finish(lead, plan, &edits, Called { ending, begun_us, took }, &span));
    }
    drop(to_load);
    writings.retain(|writing| !writing.is_empty());
    if writings.is_empty() {
        return;
    }
    let after = spans::write_back(&store.name, &span);
    drop(span);
    write_back(&store.fleet, writings).instrument(after).await;
}

fn ending_of<V, A: Into<Load<V>>, E: Send + Sync + 'static>(answer: Result<A, E>) -> Ending<V> {
    match answer {
        Ok(answer) => Ending::Answered(answer.into()),
        Err(error) => Ending::Failed(Arc::new(error)),
    }
}
