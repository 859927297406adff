//! Many nodes, one source with a lagging replica, random reads by every verb, writes and faults, all from one seed, on
//! Tokio's paused clock; and a checker of what this crate promises:
//!
//! - A read that starts after its node was told of a change sees nothing that was loaded before that change, and
//!   nothing older than the version it was told of (P5), whether it was told by its own call or by the line.
//! - A read sees every change that was announced longer ago than `max_stale`, whatever its node could hear (P6). Who
//!   joins a load sees what that load saw, so the time that a load may take is added.
//! - When all is mended and quiet, every node sees the last write of every key.
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
    demands::{Announced, Bar, Changes, Told, covered, orders, tell},
    reads::{Effort, Fails, Verb, Verbs},
    source::{Left, Seen, SimulatedLoader, Source, tags},
};
use crate::{
    Cache, CacheKey, Clock, Confirmation, Invalidation, LineOptions, Loaded, Policy, Stats, TierOptions,
    Version,
    backplane::{Backplane, Line, Swath},
    flight::lock,
    patterns,
    tier::Void,
};

/// A simulation to be run.
#[derive(Debug, Clone)]
pub struct Simulation {
    /// Every step, wait and fault is drawn from it. Three things are the process's own, and another in each: which keys share a slot or
    /// a group (hashes of keys are seeded by chance), the tokens of claims, and the names of nodes. A seed that failed fails again unless it
    /// takes one of those.
    pub seed: u64,
    /// How many caches.
    pub nodes: usize,
    /// How many of them are not there from the beginning, but come in the middle of it, with nothing in process.
    pub late_nodes: usize,
    /// Whether nodes end in the middle of it, with loads and claims under way, and others come in their place. They have told their
    /// changes by then: what nobody was told of is lost with its node.
    pub endings: bool,
    /// How many users at each.
    pub users: usize,
    /// What each of them does, one after the other.
    pub steps: usize,
    /// How many keys they share.
    pub keys: u64,
    /// Out of 100 loads, so many fail.
    pub failures: u64,
    /// Of all caches.
    pub policy: Policy,
    /// By which verbs they read.
    pub verbs: Verbs,
    /// How many shared tiers there are, up to two.
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
}

impl Simulation {
    /// A small one: two nodes over a tier and a line, three users each, four keys, and reads of one verb.
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

/// Longer than a load, a wait for another node and a trip to a tier together: by then, what was under way has ended.
const AFTERMATH: Duration = Duration::from_millis(200);

/// Longer than the longest pause of anything that is tried again.
const SETTLING: Duration = Duration::from_millis(1_500);

pub(super) struct Node {
    pub(super) cache: Cache<u64, Seen>,
    /// Its way to the first tier and to the line.
    link: Link,
    /// Its way to the second tier.
    far: Link,
    pub(super) told: Arc<Mutex<Told>>,
    pub(super) origin: u64,
}

/// Where one node is after another. Each begins when somebody comes to it first.
#[derive(Default)]
struct Place {
    ended: u64,
    node: Option<Arc<Node>>,
}

#[derive(Clone)]
pub(super) struct World {
    pub(super) plan: Arc<Simulation>,
    site: Site,
    far: Site,
    /// The way of somebody who is no node.
    outside: Arc<dyn Line>,
    pub(super) source: Arc<Source>,
    nodes: Arc<Vec<Mutex<Place>>>,
    /// Nodes that are about to end.
    endings: Arc<Mutex<Vec<JoinHandle<()>>>>,
    pub(super) changes: Arc<Mutex<Changes>>,
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
            loader,
            report: Arc::default(),
            plan,
        };
        // Nothing ever goes wrong with the witness: what it hears has been announced by then.
        world.site.wire.witness({
            let (changes, keys) = (Arc::clone(&world.changes), world.plan.keys);
            move |overheard| {
                let mut changes = lock(&changes);
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

    /// Has the node end that is in a place, as soon as it has told its changes and nobody is at it any more.
    fn end(&self, index: usize, closes: bool) {
        let node = {
            let mut place = lock(&self.nodes[index]);
            place.ended += 1;
            place.node.take()
        };
        let Some(node) = node else { return };
        let report = Arc::clone(&self.report);
        let ending = tokio::spawn(async move {
            while Arc::strong_count(&node) > 1 || node.cache.stats().pending_invalidations > 0 {
                node.link.mend();
                node.far.mend();
                sleep(Duration::from_millis(1)).await;
            }
            if closes {
                node.cache.close().await;
            }
            lock(&report).stats.push(node.cache.stats());
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
        let (far, source, loader) = (self.far.link(), Arc::clone(&self.source), Arc::clone(&self.loader));
        let mut building = Cache::builder("simulated")
            .keep_fresh(move |key, context| loader.load(key, context, Arc::clone(&source)))
            .clock(Clock::tokio())
            .policy(self.plan.policy.clone())
            .pending_keys_max(3)
            .origin(origin);
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
        Node { cache: building.build(), link, far, told, origin }
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

    /// Commits, and voids or sets, and says what this node must not see any more.
    fn write(&self, node: usize, key: u64, dice: &mut StdRng) -> Confirmation {
        let node = self.on(node);
        let is_set = dice.random_range(0..10) < 3;
        let version = self.source.commit(key, if is_set { Left::Something } else { self.left(dice) });
        let tick = if is_set { 0 } else { self.source.tick() };
        // A value set before the write of a later version is not older than what that one voided.
        let bar = Bar { version, tick };
        lock(&self.changes).by_version.insert(version, (key, bar));
        let (confirmation, how) = match (is_set, dice.random_range(0..4)) {
            (true, _) => {
                let seen = Seen { version, read_tick: self.source.tick() };
                let [one, other] = tags(key);
                let tags = [one.as_str(), other.as_str()];
                let set = node.cache.set_tagged(key, seen, Version(version), &tags);
                // One that is refused has voided the key all the same.
                (set.unwrap_or_else(|_refused| Confirmation::of_nobody()), Void::Remove)
            }
            (false, 0) => (node.cache.expire_many([&key], Version(version)), Void::Expire),
            (false, _) => (node.cache.invalidate_many([&key], Version(version)), Void::Remove),
        };
        tell(&node.told, key, bar, how);
        confirmation
    }

    /// Draws nothing where only one verb is asked for, as reads do.
    fn left(&self, dice: &mut StdRng) -> Left {
        let is_deleted = self.plan.verbs == Verbs::All && dice.random_range(0..4) == 0;
        if is_deleted { Left::Nothing } else { Left::Something }
    }

    /// Commits, and announces in the same step, as a transaction does that has its outbox in the store: nobody has
    /// voided the tier. Without a line there is nobody to announce it to.
    async fn commit_outside(&self, key: u64, left: Left) {
        let version = self.source.commit(key, left);
        if !self.plan.has_line {
            return;
        }
        let bar = Bar { version, tick: self.source.tick() };
        lock(&self.changes).by_version.insert(version, (key, bar));
        let change = Invalidation::at(Version(version)).remove(&key);
        let announced = self.outside.announce(&change.announcement()).await;
        assert!(announced.is_ok(), "nothing ever goes wrong with this way");
    }

    fn sweep(&self, node: usize, dice: &mut StdRng) -> Confirmation {
        let node = self.on(node);
        let key = dice.random_range(0..self.plan.keys);
        let version = self.source.commit(u64::MAX, Left::Something);
        let bar = Bar { version: 0, tick: self.source.tick() };
        lock(&self.changes).by_version.insert(version, (u64::MAX, bar));
        let kinds = if self.plan.verbs == Verbs::All { 6 } else { 5 };
        let swath = match dice.random_range(0..kinds) {
            0 => Swath::All,
            1 => Swath::Prefix(key.encode()),
            2 => Swath::Prefix(key.encode().slice(..7)),
            3 => Swath::Tag(Arc::from("even")),
            5 => patterns::swath_of(&[b"*", &key.encode()[4..]].concat()),
            _ => Swath::Tag(Arc::from(format!("key:{key}"))),
        };
        let covering = match &swath {
            Swath::All => node.cache.prefix([]),
            Swath::Prefix(prefix) => node.cache.prefix(prefix),
            // A pattern is one of a reserved name.
            Swath::Tag(tag) => node.cache.tag(tag),
        };
        let covering = covering.at(Version(version));
        let (confirmation, how) = match dice.random_range(0..3) {
            0 => (covering.expire(), Void::Expire),
            _ => (covering.remove(), Void::Remove),
        };
        covered(&swath, self.plan.keys).iter().for_each(|key| tell(&node.told, *key, bar, how));
        confirmation
    }

    async fn user(self, node: usize, mut dice: StdRng) {
        if node >= self.plan.early_nodes() {
            sleep(Duration::from_micros(dice.random_range(0..80_000))).await;
        }
        for _ in 0..self.plan.steps {
            let key = dice.random_range(0..self.plan.keys);
            match dice.random_range(0..21) {
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
                _ => {
                    let _reach = self.sweep(node, &mut dice).await;
                }
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

    /// What a reader sees who is not content with a fallback, in a few attempts. The answer may be that there is no such key.
    async fn read_fresh(&self, node: usize, key: u64) -> Option<Option<Seen>> {
        let policy = Policy { soft_timeout: Duration::MAX, ..self.plan.policy.clone() };
        let on = self.on(node);
        let patient = on.cache.under(&Arc::new(policy));
        for _ in 0..10 {
            let effort = Effort { pauses_us: (0, 0), fails: Fails::No };
            match self.read_entry(&on, &patient, key, effort).await {
                Some(Loaded { value, is_stale: false, .. }) => return Some(value),
                _ => sleep(SLACK).await,
            }
        }
        None
    }

    /// What a node has not got right, if anything: a change that it has not told, or a key that it reads wrongly.
    async fn fault(&self) -> Option<String> {
        for index in 0..self.plan.nodes {
            let pending = self.on(index).cache.stats().pending_invalidations;
            if pending > 0 {
                return Some(format!("node {index} has {pending} changes to tell"));
            }
        }
        for (node, key) in
            (0..self.plan.nodes).flat_map(|node| (0..self.plan.keys).map(move |key| (node, key)))
        {
            let last = self.source.read(key, Version::LATEST).map(|seen| seen.version);
            let read = self.read_fresh(node, key).await;
            if read.map(|seen| seen.map(|seen| seen.version)) != Some(last) {
                return Some(format!("node {node} reads {read:?} for version {last:?} of key {key}"));
            }
        }
        None
    }

    /// When all is mended and quiet, every node sees the last write of every key: at once if it is told of them.
    async fn check_convergence(&self) {
        for node in (0..self.plan.nodes).map(|node| self.on(node)) {
            node.link.mend();
            node.far.mend();
        }
        self.source.replayed.store(self.source.version.load(SeqCst), SeqCst);
        sleep(AFTERMATH).await;
        if !self.plan.has_line {
            sleep(self.plan.policy.ttl.max(self.plan.policy.negative_ttl)).await;
        }
        let last_attempt = Instant::now() + SETTLING;
        while let Some(fault) = self.fault().await {
            assert!(Instant::now() < last_attempt, "seed {}: {fault}, though all is mended", self.plan.seed);
            sleep(SLACK).await;
        }
    }
}
