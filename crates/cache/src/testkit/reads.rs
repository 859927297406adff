//! The reads of a simulation, by every verb that reads, and what each of their answers must reflect.
//! Draws nothing where only one verb is asked for, so that such a seed stays the run it was.
//! Called by the simulator's users.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::{
    demands::{Announced, Bar},
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
    flagged: Bar,
    /// It says that it is not.
    fresh: Bar,
    /// It says nothing, and is no fallback.
    hit: Bar,
    /// It says nothing.
    any: Bar,
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
type Checked = (u64, Sight, Bar);

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

/// Loads one key, with its pauses.
async fn load_one(
    (loader, source): (Arc<dyn SimulatedLoader>, Arc<Source>),
    key: u64,
    context: LoadContext<Seen>,
    effort: Effort,
) -> Result<Option<Seen>, SimulationError> {
    let answers = load_some((loader, source), vec![key], context, effort).await?;
    answers.into_iter().next().unwrap_or(Ok(None))
}

/// Loads keys in one call. One that fails says so of the first key only.
async fn load_some(
    (loader, source): (Arc<dyn SimulatedLoader>, Arc<Source>),
    keys: Vec<u64>,
    context: LoadContext<Seen>,
    effort: Effort,
) -> Result<Vec<Result<Option<Seen>, SimulationError>>, SimulationError> {
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
    Ok(answers)
}

impl World {
    /// What a read on this node must reflect if it starts now.
    fn bars(&self, node: &Node, key: u64) -> Bars {
        let told = lock(&node.told);
        let mut removed = told.removed.get(&key).copied().unwrap_or_default();
        let mut expired = told.expired.get(&key).copied().unwrap_or_default();
        drop(told);
        expired.raise(removed);
        let (told_removed, told_expired) = (removed, expired);
        let policy = &self.plan.policy;
        let now = Instant::now();
        let bound = policy.max_stale + policy.load_timeout + SLACK;
        let told_by_now = |announced: &&Announced| {
            announced.key == key && announced.origin != node.origin && announced.at + bound < now
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
        // Who serves through a silence promises less, and flags it.
        let is_open = policy.on_silence == Silence::Serve;
        let flagged = if is_open { told_removed } else { removed };
        let hit = if is_open { told_expired } else { expired };
        let any = if policy.grace.is_zero() { hit } else { flagged };
        Bars { flagged, fresh: expired, hit, any }
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
            self.check(checked, verb);
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
        let bars = self.bars(on, key);
        let parts = (Arc::clone(&self.loader), Arc::clone(&self.source));
        let load = move |context| load_one(parts, key, context, effort);
        let loaded = cache.get_or_load_entry(&key, load).await.ok()?;
        let bar = if loaded.is_stale { bars.flagged } else { bars.fresh };
        self.check((key, Sight::of_answer(Some(loaded.value)), bar), &loaded);
        lock(&self.report).stale += u64::from(loaded.is_stale);
        Some(loaded)
    }

    async fn read_plain(&self, on: &Node, key: u64, effort: Effort) -> Sight {
        let parts = (Arc::clone(&self.loader), Arc::clone(&self.source));
        let load = move |context| load_one(parts, key, context, effort);
        Sight::of_answer(on.cache.get_or_load(&key, load).await.ok())
    }

    /// Sees everything that was committed before it, whoever was told.
    async fn reload(&self, on: &Node, key: u64, effort: Effort) -> Checked {
        let bar = Bar { version: self.source.last_write(key, u64::MAX).0, tick: self.source.tick() };
        let parts = (Arc::clone(&self.loader), Arc::clone(&self.source));
        let load = move |context| load_one(parts, key, context, effort);
        (key, Sight::of_answer(on.cache.reload(&key, load).await.ok()), bar)
    }

    async fn read_batch(&self, on: &Node, keys: &[u64], effort: Effort) -> Vec<Checked> {
        let bars: Vec<Bar> = keys.iter().map(|key| self.bars(on, *key).any).collect();
        let parts = (Arc::clone(&self.loader), Arc::clone(&self.source));
        let load = move |keys: Vec<u64>, context| load_some(parts.clone(), keys, context, effort);
        let answers = on.cache.get_or_load_many(keys.iter(), load).await;
        lock(&self.report).members +=
            answers.iter().filter(|answer| matches!(answer, Ok(Some(_)))).count() as u64;
        let checked = keys.iter().zip(answers).zip(bars);
        checked.map(|((key, answer), bar)| (*key, Sight::of_answer(answer.ok()), bar)).collect()
    }

    fn told_of(&self, bars: &Bars, key: u64, loaded: Option<Loaded<Seen>>) -> Vec<Checked> {
        let Some(loaded) = loaded else { return vec![] };
        lock(&self.report).stale += u64::from(loaded.is_stale);
        let bar = if loaded.is_stale { bars.flagged } else { bars.fresh };
        vec![(key, Sight::of_answer(Some(loaded.value)), bar)]
    }

    fn check(&self, (key, sight, bar): Checked, how: &dyn std::fmt::Debug) {
        let is_admitted = match sight {
            Sight::Nothing => return,
            Sight::Absent => self.source.was_absent_since(key, bar.version),
            Sight::Value(seen) => bar.admits(seen),
        };
        assert!(
            is_admitted,
            "seed {}: key {key}: a read that starts beyond {bar:?} saw {sight:?} ({how:?})",
            self.plan.seed
        );
        let mut report = lock(&self.report);
        report.reads += 1;
        report.absent += u64::from(sight == Sight::Absent);
    }
}
