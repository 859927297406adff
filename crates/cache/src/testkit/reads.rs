//! The reads of a simulation, by every verb that reads, and what each of their answers must reflect.
//! Draws nothing where only one verb is asked for, so that such a seed stays the run it was.
//! Called by the simulator's users.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::{
    demands::{Announced, Bar},
    predicates::Loads,
    simulator::{Node, SLACK, World},
    source::{Seen, SimulatedLoader, SimulationError, Source},
};
use crate::{Cache, LoadContext, Loaded, Lookup, Silence, flight::lock, tier::Void};

/// By which verbs the users of a simulation read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbs {
    /// Only the one that tells most of its answer.
    Entry,
    /// Every one, by dice.
    All,
}

/// One read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verb {
    Entry,
    Plain,
    /// What L1 has, several times at once: the second time it may be a copy of the thread's own.
    Hits,
    Lookup,
    Stale,
    Peek,
    Many(Vec<u64>),
    Batch(Vec<u64>),
    Reload,
}

/// What the loader of one read does besides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    /// Before it reads, and after it.
    pub(super) pauses_us: (u64, u64),
    pub(super) fails: Fails,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fails {
    Yes,
    No,
}

/// What an answer must reflect, by what is known of it.
#[derive(Debug, Clone, Copy)]
struct Bars {
    /// It is flagged as stale.
    flagged: Demand,
    /// It says that it is not.
    fresh: Demand,
    /// It says nothing, and is no fallback.
    hit: Demand,
    /// It says nothing.
    any: Demand,
}

/// What one answer must reflect.
#[derive(Debug, Clone, Copy)]
struct Demand {
    all: Bar,
    /// The part of it that the node's own calls have ordered. No more is asked of what waits on this node to be written, or did just
    /// now: it is read there whatever others have announced meanwhile.
    ordered: Bar,
    /// When the read began.
    begun: Begun,
}

#[derive(Debug, Clone, Copy)]
struct Begun {
    at: Instant,
    tick: u64,
}

/// What a read saw of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sight {
    /// No answer: there is nothing to check.
    Nothing,
    /// That there is no such key.
    Absent,
    Value(Seen),
}

impl Sight {
    /// Of a verb that says the same of what it does not have and of what there is not.
    fn of_value(seen: Option<Seen>) -> Self {
        seen.map_or(Self::Nothing, Self::Value)
    }

    /// Of a verb that knows the difference.
    fn of_answer(answer: Option<Option<Seen>>) -> Self {
        answer.map_or(Self::Nothing, |seen| seen.map_or(Self::Absent, Self::Value))
    }
}

/// What was seen of one key, and what had to be.
type Checked = (u64, Sight, Demand);

impl Verb {
    pub(super) fn draw(verbs: Verbs, keys: u64, dice: &mut StdRng) -> Self {
        if verbs == Verbs::Entry {
            return Self::Entry;
        }
        let some = |dice: &mut StdRng| {
            let count = dice.random_range(2..=4);
            (0..count).map(|_| dice.random_range(0..keys)).collect()
        };
        match dice.random_range(0..15) {
            0 | 1 => Self::Entry,
            2 | 3 => Self::Plain,
            4 | 5 => Self::Hits,
            6 => Self::Lookup,
            7 => Self::Stale,
            8 => Self::Peek,
            9 => Self::Many(some(dice)),
            10 => Self::Reload,
            _ => Self::Batch(some(dice)),
        }
    }
}

/// Who loads on one node, and from where.
#[derive(Clone)]
struct Loading {
    loader: Arc<dyn SimulatedLoader>,
    source: Arc<Source>,
    loads: Arc<Loads>,
    origin: u64,
}

/// Loads one key, with its pauses.
async fn load_one(
    loading: Loading,
    key: u64,
    context: LoadContext<Seen>,
    effort: Effort,
) -> Result<Option<Seen>, SimulationError> {
    let answers = load_some(loading, vec![key], context, effort).await?;
    answers.into_iter().next().unwrap_or(Ok(None))
}

/// Loads keys in one call. One that fails says so of the first key only.
async fn load_some(
    Loading { loader, source, loads, origin }: Loading,
    keys: Vec<u64>,
    context: LoadContext<Seen>,
    effort: Effort,
) -> Result<Vec<Result<Option<Seen>, SimulationError>>, SimulationError> {
    let number = loads.begin(origin);
    sleep(Duration::from_micros(effort.pauses_us.0)).await;
    let mut answers = Vec::new();
    for key in keys {
        let answer = match effort.fails {
            Fails::Yes if answers.is_empty() => Err(SimulationError),
            Fails::Yes | Fails::No => loader.load(key, context.clone(), Arc::clone(&source)).await,
        };
        answers.push(answer);
    }
    sleep(Duration::from_micros(effort.pauses_us.1)).await;
    loads.end(number, answers.iter().flatten().flatten().copied());
    Ok(answers)
}

impl World {
    /// What a read on this node must reflect if it starts now.
    fn bars(&self, node: &Node, key: u64) -> Bars {
        lock(&self.changes).tell_confirmed(&node.told, node.cache.store.fleet.horizon.mark());
        let told = lock(&node.told);
        let ((mut removed, mut expired), (ordered_removed, ordered_expired)) =
            (told.all.of(key), told.ordered.of(key));
        drop(told);
        let (told_removed, told_expired) = (removed, expired);
        let policy = &self.plan.policy;
        let now = Instant::now();
        let told_by_now = |announced: &&Announced| {
            announced.key == key && announced.origin != node.origin && announced.at + self.bound() < now
        };
        if self.plan.has_line {
            for announced in lock(&self.changes).announced.iter().filter(told_by_now) {
                match announced.how {
                    Void::Remove => removed.raise(announced.bar),
                    Void::Expire => expired.raise(announced.bar),
                }
            }
        }
        expired.raise(removed);
        let begun = Begun { at: now, tick: self.source.now() };
        let demand = |all: Bar, ordered: Bar| Demand { all, ordered, begun };
        // Who serves through a silence promises less, and flags it.
        let is_open = policy.on_silence == Silence::Serve;
        let flagged = demand(if is_open { told_removed } else { removed }, ordered_removed);
        let hit = demand(if is_open { told_expired } else { expired }, ordered_expired);
        let any = if policy.grace.is_zero() { hit } else { flagged };
        Bars { flagged, fresh: demand(expired, ordered_expired), hit, any }
    }

    /// How long ago a change was announced that every node must reflect.
    fn bound(&self) -> Duration {
        self.plan.policy.max_stale + self.plan.policy.load_timeout + SLACK
    }

    /// Reads, and checks every answer.
    pub(super) async fn read(&self, node: usize, key: u64, verb: &Verb, effort: Effort) {
        let on = &*self.on(node);
        let bars = self.bars(on, key);
        let hit = |seen| vec![(key, Sight::of_value(seen), bars.hit)];
        let checked: Vec<Checked> = match verb {
            Verb::Entry => {
                self.read_entry(on, &on.cache, key, effort).await;
                return;
            }
            Verb::Plain => vec![(key, self.read_plain(on, key, effort).await, bars.any)],
            Verb::Hits => {
                let hits = [on.cache.get(&key), on.cache.get(&key), on.cache.get_with(&key, |seen| *seen)];
                hits.into_iter().flat_map(hit).collect()
            }
            Verb::Lookup => match on.cache.lookup(&key) {
                Lookup::Hit(seen) => hit(Some(seen)),
                Lookup::Absent => vec![(key, Sight::Absent, bars.hit)],
                Lookup::Miss => vec![],
            },
            Verb::Stale => self.told_of(&bars, key, on.cache.get_stale(&key)),
            Verb::Peek => self.told_of(&bars, key, on.cache.read(&key).await),
            Verb::Many(keys) => {
                let bars = keys.iter().map(|key| self.bars(on, *key).hit);
                let seen = on.cache.get_many(keys.iter());
                let seen = seen.into_iter().map(Sight::of_value);
                keys.iter().zip(seen).zip(bars).map(|((key, seen), bar)| (*key, seen, bar)).collect()
            }
            Verb::Batch(keys) => self.read_batch(on, keys, effort).await,
            Verb::Reload => vec![self.reload(on, key, effort).await],
        };
        for checked in checked {
            self.check(on, checked, verb);
        }
    }

    /// As `read`, by the verb that tells most, under a policy of the caller's choice.
    pub(super) async fn read_entry(
        &self,
        on: &Node,
        cache: &Cache<u64, Seen>,
        key: u64,
        effort: Effort,
    ) -> Option<Loaded<Seen>> {
        let (bars, loading) = (self.bars(on, key), self.loading(on));
        let load = move |context| load_one(loading, key, context, effort);
        let loaded = cache.get_or_load_entry(&key, load).await.ok()?;
        let demand = if loaded.is_stale { bars.flagged } else { bars.fresh };
        self.check(on, (key, Sight::of_answer(Some(loaded.value)), demand), &loaded);
        lock(&self.report).stale += u64::from(loaded.is_stale);
        Some(loaded)
    }

    fn loading(&self, on: &Node) -> Loading {
        let (loader, source) = (Arc::clone(&self.loader), Arc::clone(&self.source));
        Loading { loader, source, loads: Arc::clone(&self.loads), origin: on.origin }
    }

    async fn read_plain(&self, on: &Node, key: u64, effort: Effort) -> Sight {
        let loading = self.loading(on);
        let load = move |context| load_one(loading, key, context, effort);
        Sight::of_answer(on.cache.get_or_load(&key, load).await.ok())
    }

    /// Sees everything that was committed before it, whoever was told, and what waits on this node.
    async fn reload(&self, on: &Node, key: u64, effort: Effort) -> Checked {
        let (demand, loading) = (self.bars(on, key).fresh, self.loading(on));
        let version = self.source.last_write(key, u64::MAX).0.max(demand.ordered.version);
        let demand = Demand { all: Bar { version, tick: self.source.tick() }, ..demand };
        let load = move |context| load_one(loading, key, context, effort);
        (key, Sight::of_answer(on.cache.reload(&key, load).await.ok()), demand)
    }

    async fn read_batch(&self, on: &Node, keys: &[u64], effort: Effort) -> Vec<Checked> {
        let demands: Vec<Demand> = keys.iter().map(|key| self.bars(on, *key).any).collect();
        let loading = self.loading(on);
        let load = move |keys: Vec<u64>, context| load_some(loading.clone(), keys, context, effort);
        let answers = on.cache.get_or_load_many(keys.iter(), load).await;
        lock(&self.report).members +=
            answers.iter().filter(|answer| matches!(answer, Ok(Some(_)))).count() as u64;
        let checked = keys.iter().zip(answers).zip(demands);
        checked.map(|((key, answer), demand)| (*key, Sight::of_answer(answer.ok()), demand)).collect()
    }

    fn told_of(&self, bars: &Bars, key: u64, loaded: Option<Loaded<Seen>>) -> Vec<Checked> {
        let Some(loaded) = loaded else { return vec![] };
        lock(&self.report).stale += u64::from(loaded.is_stale);
        let demand = if loaded.is_stale { bars.flagged } else { bars.fresh };
        vec![(key, Sight::of_answer(Some(loaded.value)), demand)]
    }

    fn check(&self, on: &Node, (key, sight, demand): Checked, how: &dyn std::fmt::Debug) {
        let is_admitted = match sight {
            Sight::Nothing => return,
            Sight::Absent => self.admits_absence(on, key, demand.all.version),
            Sight::Value(seen) => self.admits(on, key, seen, demand),
        };
        assert!(
            is_admitted,
            "seed {}: key {key}: a read that starts beyond {demand:?} saw {sight:?} ({how:?})",
            self.plan.seed
        );
        let mut report = lock(&self.report);
        report.reads += 1;
        report.absent += u64::from(sight == Sight::Absent);
    }

    fn admits(&self, on: &Node, key: u64, seen: Seen, demand: Demand) -> bool {
        if self.loads.has_overtaken(seen, demand.begun.tick) {
            return false;
        }
        let Some(own) = on.books.own(key, seen) else { return demand.all.admits(seen) };
        let seen = own.as_read(seen);
        let was_just_read = own.waited_within(self.bound(), demand.begun.at);
        demand.ordered.admits(seen) && (was_just_read || demand.all.admits(seen))
    }

    /// The source may have yet to be given what this node has set.
    fn admits_absence(&self, on: &Node, key: u64, version: u64) -> bool {
        if on.books.has_set(key, version) {
            self.source.was_deleted_after(key, version)
        } else {
            self.source.was_absent_since(key, version)
        }
    }
}
