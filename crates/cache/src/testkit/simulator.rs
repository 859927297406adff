//! Many nodes, one source with a lagging replica, random reads by every verb, writes and faults, all from one seed, on
//! Tokio's paused clock; and a checker of what this crate promises:
//!
//! - A read that starts after its node was told of a change sees nothing that was loaded before that change, and
//!   nothing older than the version it was told of (P5), whether it was told by its own call or by the line.
//! - A read sees every change that was announced longer ago than `max_stale`, whatever its node could hear (P6). Who
//!   joins a load sees what that load saw, so the time that a load may take is added.
//! - A change that nobody has numbered is a change to its own node at once, and to others once it is confirmed and they have heard
//!   the line up to there: voiding by a predicate, of which more is held to in `predicates`, and sweeps without a version.
//! - What is written behind is read on the node that has set it, whatever is voided meanwhile, unless a newer version of the key is
//!   known there; the others see it once they were told that it is written. More of that is in `behind`.
//! - When all is mended and quiet, every node sees the last write of every key, but for what a node took along that ended
//!   without being closed.
//!
//! An answer that is flagged as stale may be older than what was *expired*, never than what was *removed*. Under
//! `Silence::Serve` an answer that is flagged, or whose verb has no flag, need not reflect what its node was not told.
//! Without a line nobody is told: a node then promises what its own calls demand, and sees the last write of every key
//! once what it holds has lived out its time. What a read must reflect is worked out in `reads`.

use std::{
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    Link, Site,
    behind::Books,
    changes::Ways,
    demands::{Announced, Changes, Told, orders, tell},
    predicates::Loads,
    reads::{Effort, Fails, Verb, Verbs},
    source::{Seen, SimulatedLoader, Source},
};
use crate::{
    Cache, Clock, LineOptions, Policy, Stats, TierOptions,
    backplane::{Backplane, Line},
    flight::lock,
    keeper::keeps,
};

/// A simulation to be run: `Simulation { nodes: 3, ..Simulation::new(seed) }`.
///
/// | to see | set |
/// |---|---|
/// | fallbacks, and loads that are slow or fail | `policy.grace`, `policy.soft_timeout`, `policy.grace_backoff`, `failures` |
/// | refreshes, ahead of time or on a schedule | `policy.refresh_at` or `policy.refresh_every`, not both |
/// | hits, batches, reloads, absent keys, overflows of the line | `verbs` |
/// | entries that are pushed out | `policy.l1_bytes_max`: 300 bytes hold fewer than four keys |
/// | reads of the tiers where L1 has let go | `policy.l1_ttl` |
/// | a node that serves through silence | `policy.on_silence` |
/// | nodes that come late, end, and are replaced | `late_nodes`, `endings` |
/// | two tiers, none, no line | `tiers`, `has_line` |
/// | voiding by predicates, writing behind | `ways` |
///
/// What is not yours in it: the tiers and the line are those of this kit and not Redis, memcached or Postgres; keys, values and
/// the source are its own ([`SimulatedLoader`]); and of each cache only the policy can be set. Calls of a tier may take 15 ms there, three
/// changes may wait to be told, and a tier that was left alone is tried again after 100 ms. Its users read for some hundred
/// milliseconds: lifetimes that are longer do not end meanwhile.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// Every step, wait and fault is drawn from it. Three things are the process's own, and another in each: which keys share a slot or
    /// a group (hashes of keys are seeded by chance), the tokens of claims, and the names of nodes. A seed that failed fails again unless it
    /// takes one of those.
    pub seed: u64,
    /// How many caches: one or more.
    pub nodes: usize,
    /// How many of them are not there from the beginning, but come in the middle of it, with nothing in process.
    pub late_nodes: usize,
    /// Whether nodes end in the middle of it, with loads and claims under way, and others come in their place. They have told their
    /// changes by then: what nobody was told of is lost with its node. One half of them is closed, and the other is dropped, with what
    /// it had yet to write.
    pub endings: bool,
    /// How many users at each.
    pub users: usize,
    /// What each of them does, one after the other.
    pub steps: usize,
    /// How many keys they share: one or more. The fewer, the more often they meet.
    pub keys: u64,
    /// Out of 100 loads, so many fail.
    pub failures: u64,
    /// Of all caches. Begin with that of [`Simulation::new`], whose limits suit the simulation's times.
    pub policy: Policy,
    /// By which verbs they read.
    pub verbs: Verbs,
    /// By which ways they change values, besides those that name a write.
    pub ways: Ways,
    /// How many shared tiers there are: none, one or two; more are taken for two.
    pub tiers: usize,
    /// Whether the nodes tell each other what is void.
    pub has_line: bool,
}

/// What was seen in a simulation, to tell whether it was where it is dangerous.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Of each node, those that have ended included.
    pub stats: Vec<Stats>,
    /// Answers that were flagged as stale.
    pub stale: u64,
    /// Answers that were checked.
    pub reads: u64,
    /// Of them, those that there is no such key.
    pub absent: u64,
    /// Values that were given to reads of many keys that may load.
    pub members: u64,
    /// Values in process that a predicate meant.
    pub meant: u64,
    /// Those that it did not mean.
    pub spared: u64,
    /// Calls of a loader that were under way when a predicate was asked for.
    pub overtaken: u64,
    /// Values that were taken to be written behind.
    pub taken: u64,
    /// Those that were refused, because too many waited.
    pub full: u64,
    /// Those that were written, but for those in whose place a newer one came.
    pub written: u64,
    /// Those that were lost with a node that was not closed.
    pub lost: u64,
    /// Demands on other nodes, key by key, of what was confirmed and is not named by its announcement: voided by a predicate or swept
    /// without a number, or written behind.
    pub confirmed: u64,
}

impl Simulation {
    /// A small one: two nodes over a tier and a line, three users each who do 25 things, four keys, reads of one verb, and five loads
    /// of a hundred that fail. It takes some milliseconds.
    pub fn new(seed: u64) -> Self {
        let policy = Policy {
            load_timeout: Duration::from_millis(60),
            lease_wait: Duration::from_millis(15),
            jitter: 0.0,
            max_stale: MAX_STALE,
            error_ttl: Duration::from_millis(1),
            ..Policy::default()
        };
        Self {
            seed,
            nodes: 2,
            late_nodes: 0,
            endings: false,
            users: 3,
            steps: 25,
            keys: 4,
            failures: 5,
            policy,
            verbs: Verbs::Entry,
            ways: Ways::Numbered,
            tiers: 1,
            has_line: true,
        }
    }

    /// Those that are there from the beginning.
    fn early_nodes(&self) -> usize {
        self.nodes.saturating_sub(self.late_nodes)
    }

    /// Runs it on a runtime of its own, whose clock is paused.
    ///
    /// # Panics
    ///
    /// If a promise was broken; the message names the seed.
    pub fn run(self, loader: Arc<dyn SimulatedLoader>) -> Report {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime without drivers needs nothing of the system");
        // Inside, because caches start their tasks when they are built.
        runtime.block_on(async { World::new(self, loader).run().await })
    }
}

/// Long against the ways of the line, short against a simulation.
const MAX_STALE: Duration = Duration::from_millis(40);

/// What a way there, a look and a way back may take besides.
pub(super) const SLACK: Duration = Duration::from_millis(15);

pub(super) struct Node {
    pub(super) cache: Cache<u64, Seen>,
    /// Its way to the first tier and to the line.
    pub(super) link: Link,
    /// Its way to the second tier.
    pub(super) far: Link,
    pub(super) told: Arc<Mutex<Told>>,
    pub(super) books: Arc<Books>,
    pub(super) origin: u64,
}

/// Where one node is after another. Each begins when somebody comes to it first.
#[derive(Default)]
struct Place {
    ended: u64,
    /// Of those, how many are not gone yet.
    ending: u64,
    node: Option<Arc<Node>>,
}

#[derive(Clone)]
pub(super) struct World {
    pub(super) plan: Arc<Simulation>,
    site: Site,
    far: Site,
    /// The way of somebody who is no node.
    pub(super) outside: Arc<dyn Line>,
    pub(super) source: Arc<Source>,
    nodes: Arc<Vec<Mutex<Place>>>,
    /// Nodes that are about to end.
    endings: Arc<Mutex<Vec<JoinHandle<()>>>>,
    pub(super) changes: Arc<Mutex<Changes>>,
    pub(super) loads: Arc<Loads>,
    pub(super) loader: Arc<dyn SimulatedLoader>,
    pub(super) report: Arc<Mutex<Report>>,
}

impl World {
    fn new(plan: Simulation, loader: Arc<dyn SimulatedLoader>) -> Self {
        let plan = Arc::new(plan);
        let site = Site::new(plan.seed);
        let world = Self {
            outside: site.link().line("simulated"),
            site,
            far: Site::new(plan.seed.wrapping_add(2)),
            source: Arc::default(),
            nodes: Arc::new((0..plan.nodes).map(|_| Mutex::default()).collect()),
            endings: Arc::default(),
            changes: Arc::default(),
            loads: Arc::default(),
            loader,
            report: Arc::default(),
            plan,
        };
        // Nothing ever goes wrong with the witness: what it hears has been announced by then.
        world.site.wire.witness({
            let (changes, keys) = (Arc::clone(&world.changes), world.plan.keys);
            move |overheard| {
                let mut changes = lock(&changes);
                changes.last = overheard.mark;
                for (key, version, how) in orders(&overheard.change, keys) {
                    let bar = changes.bar(version, key);
                    let origin = overheard.change.origin;
                    changes.announced.push(Announced { at: Instant::now(), origin, key, bar, how });
                }
            }
        });
        for index in 0..world.plan.early_nodes() {
            world.on(index);
        }
        world
    }

    pub(super) fn on(&self, index: usize) -> Arc<Node> {
        let mut place = lock(&self.nodes[index]);
        let number = place.ended * self.plan.nodes as u64 + index as u64;
        Arc::clone(place.node.get_or_insert_with(|| Arc::new(self.new_node(number))))
    }

    /// True if no node is left that was in this place before.
    pub(super) fn is_alone(&self, index: usize) -> bool {
        lock(&self.nodes[index]).ending == 0
    }

    /// Has the node end that is in a place, as soon as it has told its changes and nobody is at it any more.
    fn end(&self, index: usize, closes: bool) {
        let node = {
            let mut place = lock(&self.nodes[index]);
            let node = place.node.take();
            place.ended += 1;
            place.ending += u64::from(node.is_some());
            node
        };
        let Some(node) = node else { return };
        let world = self.clone();
        let ending = tokio::spawn(async move {
            while Arc::strong_count(&node) > 1 || node.cache.stats().pending_invalidations > 0 {
                node.link.mend();
                node.far.mend();
                sleep(Duration::from_millis(1)).await;
            }
            if closes {
                node.cache.close().await;
            }
            world.check_books(&node);
            lock(&world.report).stats.push(node.cache.stats());
            let books = Arc::clone(&node.books);
            drop(node);
            world.close_books(&books, closes);
            lock(&world.nodes[index]).ending -= 1;
        });
        lock(&self.endings).push(ending);
    }

    fn new_node(&self, number: u64) -> Node {
        let origin = self.plan.seed.wrapping_mul(31).wrapping_add(number * 2) | 1;
        let link = self.site.link();
        let told = Arc::<Mutex<Told>>::default();
        link.overhear({
            let (told, changes, keys) = (Arc::clone(&told), Arc::clone(&self.changes), self.plan.keys);
            move |overheard| {
                // It was told by its own calls. What it announces may be more, when it had to give up keys.
                if overheard.change.origin == origin {
                    return;
                }
                for (key, version, how) in orders(&overheard.change, keys) {
                    let bar = lock(&changes).bar(version, key);
                    tell(&told, key, bar, how);
                }
            }
        });
        let (far, books, loads) = (self.far.link(), Arc::<Books>::default(), Arc::clone(&self.loads));
        let (source, loader) = (Arc::clone(&self.source), Arc::clone(&self.loader));
        let mut building = Cache::builder("simulated")
            .clock(Clock::tokio())
            .policy(self.plan.policy.clone())
            .pending_keys_max(3)
            .origin(origin);
        if keeps(self.plan.policy.refresh_every) {
            building = building.keep_fresh(move |key, context| {
                let load = loader.load(key, context, Arc::clone(&source));
                Arc::clone(&loads).watched(origin, load)
            });
        }
        for way in [&link, &far].into_iter().take(self.plan.tiers) {
            let options = TierOptions {
                timeout: Duration::from_millis(15),
                breaker_pause: Duration::from_millis(100),
                ..TierOptions::default()
            };
            building = building.tier_with(Arc::new(way.clone()), options);
        }
        if self.plan.has_line {
            let options = LineOptions { timeout: Duration::from_millis(20), ..LineOptions::default() };
            building = building.backplane_with(Arc::new(link.clone()), options);
        }
        if self.plan.ways == Ways::Behind {
            building = self.writing_behind(building, &books, origin);
        }
        Node { cache: building.build(), link, far, told, books, origin }
    }

    async fn run(self) -> Report {
        let seed = self.plan.seed;
        let mut dice = StdRng::seed_from_u64(seed);
        let mut next = || StdRng::seed_from_u64(dice.random());
        let background =
            [tokio::spawn(self.clone().replica(next())), tokio::spawn(self.clone().trouble(next()))];
        let users = self.plan.nodes * self.plan.users;
        let users: Vec<_> =
            (0..users).map(|user| tokio::spawn(self.clone().user(user % self.plan.nodes, next()))).collect();
        for user in users {
            user.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        background.iter().for_each(JoinHandle::abort);
        let endings = std::mem::take(&mut *lock(&self.endings));
        for ending in endings {
            ending.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        self.check_convergence().await;
        let mut report = lock(&self.report).clone();
        report.stats.extend((0..self.plan.nodes).map(|node| self.on(node).cache.stats()));
        report
    }

    async fn user(self, node: usize, mut dice: StdRng) {
        if node >= self.plan.early_nodes() {
            sleep(Duration::from_micros(dice.random_range(0..80_000))).await;
        }
        for _ in 0..self.plan.steps {
            let key = dice.random_range(0..self.plan.keys);
            // Not one more where they do nothing besides, so that such a seed stays the run it was.
            let sides = if self.plan.ways == Ways::Numbered { 21 } else { 25 };
            match dice.random_range(0..sides) {
                0..12 => {
                    let pauses_us = (dice.random_range(0..5_000), dice.random_range(0..5_000));
                    let fails =
                        if dice.random_range(0..100) < self.plan.failures { Fails::Yes } else { Fails::No };
                    let verb = Verb::draw(self.plan.verbs, self.plan.keys, &mut dice);
                    let read = self.read(node, key, &verb, Effort { pauses_us, fails });
                    // A caller who goes away must take nothing with it.
                    let patience = Duration::from_micros(dice.random_range(0..40_000));
                    let _left = tokio::time::timeout(patience, read).await;
                }
                12..15 => drop(self.write(node, key, &mut dice)),
                15..17 => {
                    let _reach = self.write(node, key, &mut dice).await;
                }
                17..19 => drop(self.sweep(node, &mut dice)),
                19 => self.commit_outside(key, self.left(&mut dice)).await,
                20 => {
                    let _reach = self.sweep(node, &mut dice).await;
                }
                _ => self.change_besides(node, &mut dice).await,
            }
            sleep(Duration::from_micros(dice.random_range(0..3_000))).await;
        }
    }

    async fn replica(self, mut dice: StdRng) {
        loop {
            sleep(Duration::from_micros(dice.random_range(0..20_000))).await;
            let (replayed, version) = (&self.source.replayed, self.source.version.load(SeqCst));
            let known = replayed.load(SeqCst);
            replayed.store(dice.random_range(known..=version), SeqCst);
        }
    }

    async fn trouble(self, mut dice: StdRng) {
        loop {
            sleep(Duration::from_micros(dice.random_range(0..30_000))).await;
            let index = dice.random_range(0..self.plan.nodes);
            let Some(node) = lock(&self.nodes[index]).node.clone() else { continue };
            if self.plan.endings && dice.random_range(0..8) == 0 {
                self.end(index, dice.random_range(0..2) == 0);
                continue;
            }
            let is_far = self.plan.tiers > 1 && dice.random_range(0..2) == 0;
            let (link, site) = if is_far { (&node.far, &self.far) } else { (&node.link, &self.site) };
            let sides = if self.plan.verbs == Verbs::All { 13 } else { 11 };
            match dice.random_range(0..sides) {
                0 => link.faults.set_down(true),
                1 => link.deafen(),
                2 => link.faults.lose_answers(30),
                3 => link.faults.lose_messages(30),
                4 => link.faults.swap_messages(30),
                5 => site.restart(),
                6 => site.shelf.restart(),
                7 => self.site.wire.forget_log(),
                8 => link.faults.set_tier_down(true),
                11 => link.overflow(),
                12 => link.faults.set_part_down(50),
                _ => link.mend(),
            }
        }
    }
}
