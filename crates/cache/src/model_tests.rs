//! Random reads, writes and faults on two nodes, against the promise itself: a read that starts
//! after a node was told of a change sees nothing that was loaded before that change.
//! On the test's clock and an in-memory remote tier; the seed of a failing run is in its message.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::{
    Cache, CacheKey, LoadContext, Policy, Version,
    flight::lock,
    remote::{
        double::{Double, Server},
        message::Body,
    },
};

const KEYS: u64 = 4;
const NODES: usize = 2;

/// What the source holds: the version of the last write of the key, and when it was read, in ticks.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Seen {
    version: u64,
    read_tick: u64,
}

/// The truth: versions of writes in commit order, and a replica that lags behind.
#[derive(Debug)]
struct Source {
    /// By key, the versions of its writes.
    writes: Mutex<HashMap<u64, Vec<u64>>>,
    version: AtomicU64,
    replayed: AtomicU64,
    tick: AtomicU64,
    /// By version, the tick at which its writer invalidated.
    invalidated: Mutex<HashMap<u64, u64>>,
}

impl Source {
    fn commit(&self, key: u64) -> u64 {
        let version = self.version.fetch_add(1, SeqCst) + 1;
        lock(&self.writes).entry(key).or_default().push(version);
        version
    }

    fn tick(&self) -> u64 {
        self.tick.fetch_add(1, SeqCst) + 1
    }

    /// Reads as a loader would: from the replica if it is new enough, else from the primary.
    fn read(&self, key: u64, floor: Version) -> Seen {
        let replayed = self.replayed.load(SeqCst);
        let visible = if Version(replayed) >= floor { replayed } else { u64::MAX };
        let writes = lock(&self.writes);
        let versions = writes.get(&key).into_iter().flatten();
        let version = versions.filter(|version| **version <= visible).max().copied().unwrap_or(0);
        Seen { version, read_tick: self.tick() }
    }
}

/// What one node has been told: by key, the least version and the tick that reads must exceed.
type Told = Arc<Mutex<HashMap<u64, (u64, u64)>>>;

#[derive(Clone)]
struct World {
    seed: u64,
    source: Arc<Source>,
    nodes: Vec<(Cache<u64, Seen>, Double, Told)>,
}

fn tell(told: &Told, key: u64, version: u64, tick: u64) {
    let mut told = lock(told);
    let known = told.entry(key).or_default();
    *known = (known.0.max(version), known.1.max(tick));
}

impl World {
    fn new(seed: u64) -> Self {
        let source = Arc::new(Source {
            writes: Mutex::default(),
            version: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            tick: AtomicU64::new(0),
            invalidated: Mutex::default(),
        });
        let server = Server::new(seed);
        let node = || {
            let double = server.node();
            let told = Told::default();
            let policy = Policy { load_timeout: Duration::from_millis(200), ..Policy::default() };
            let cache = Cache::builder("model").policy(policy).tier(Arc::new(double.clone())).build();
            double.overhear({
                let (told, source) = (Arc::clone(&told), Arc::clone(&source));
                move |message| {
                    let Body::Invalidate(keys) = &message.body else { return };
                    for (key, version) in keys {
                        let tick = lock(&source.invalidated).get(&version.0).copied().unwrap_or(0);
                        tell(&told, u64::decode(key).unwrap(), version.0, tick);
                    }
                }
            });
            (cache, double, told)
        };
        Self { seed, nodes: (0..NODES).map(|_| node()).collect(), source }
    }

    async fn read(&self, node: usize, key: u64, pauses: (u64, u64)) -> Seen {
        let (cache, _, told) = &self.nodes[node];
        let (version, tick) = lock(told).get(&key).copied().unwrap_or_default();
        let source = Arc::clone(&self.source);
        let load = move |context: LoadContext| async move {
            sleep(Duration::from_micros(pauses.0)).await;
            let seen = source.read(key, context.floor());
            sleep(Duration::from_micros(pauses.1)).await;
            Ok::<_, Infallible>(Some(seen))
        };
        let seen = cache.get_or_load(&key, load).await.unwrap().unwrap();
        assert!(
            seen.version >= version && (tick == 0 || seen.read_tick > tick),
            "seed {}: node {node} was told of version {version} of key {key} at {tick} and then read {seen:?}",
            self.seed
        );
        seen
    }

    /// Commits and invalidates, or sets, and says what this node must not see any more.
    fn write(&self, node: usize, key: u64, sets: bool) -> crate::Confirmation {
        let (cache, _, told) = &self.nodes[node];
        let version = self.source.commit(key);
        lock(&self.source.invalidated).insert(version, self.source.tick());
        let confirmation = if sets {
            let seen = Seen { version, read_tick: self.source.tick() };
            cache.set(key, seen, Version(version))
        } else {
            cache.invalidate_many([&key], Version(version))
        };
        // A value set before the write of a later version is not older than what that one voided.
        let tick = if sets { 0 } else { lock(&self.source.invalidated)[&version] };
        tell(told, key, version, tick);
        confirmation
    }

    async fn user(self, node: usize, mut dice: StdRng) {
        for _ in 0..60 {
            let key = dice.random_range(0..KEYS);
            match dice.random_range(0..10) {
                0..6 => {
                    let pauses = (dice.random_range(0..5_000), dice.random_range(0..5_000));
                    let read = self.read(node, key, pauses);
                    // A caller who goes away must take nothing with it.
                    let patience = Duration::from_micros(dice.random_range(0..40_000));
                    let _left = tokio::time::timeout(patience, read).await;
                }
                6..8 => drop(self.write(node, key, dice.random_bool(0.3))),
                8 => {
                    let _reach = self.write(node, key, false).await;
                }
                _ => {
                    let confirmation = self.nodes[node].0.clear();
                    if dice.random_bool(0.5) {
                        confirmation.await;
                    }
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
            let (_, double, _) = &self.nodes[dice.random_range(0..NODES)];
            match dice.random_range(0..7) {
                0 => double.node.down.store(true, SeqCst),
                1 => double.node.deafen(),
                2 => double.node.lost_answers.store(30, SeqCst),
                3 => double.node.lost_messages.store(30, SeqCst),
                4 => {
                    // What a server has forgotten is only noticed because its connections break.
                    double.server.restart();
                    for (_, double, _) in &self.nodes {
                        double.node.deafen();
                        double.node.mend_hearing();
                    }
                }
                _ => double.mend(),
            }
        }
    }

    /// When all is mended and quiet, every node sees the last write of every key.
    async fn check_convergence(&self) {
        self.nodes.iter().for_each(|(_, double, _)| double.mend());
        self.source.replayed.store(self.source.version.load(SeqCst), SeqCst);
        sleep(Duration::from_secs(10)).await;
        for node in 0..NODES {
            for key in 0..KEYS {
                let seen = self.read(node, key, (0, 0)).await;
                let last = self.source.read(key, Version::LATEST).version;
                assert_eq!(seen.version, last, "seed {}: node {node} kept key {key}", self.seed);
            }
            let pending = self.nodes[node].0.stats().pending_invalidations;
            assert_eq!(pending, 0, "seed {}: node {node}", self.seed);
        }
    }
}

impl Double {
    fn mend(&self) {
        self.node.down.store(false, SeqCst);
        self.node.lost_answers.store(0, SeqCst);
        self.node.lost_messages.store(0, SeqCst);
        self.node.mend_hearing();
    }
}

async fn run(seed: u64) -> Vec<crate::Stats> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut next = || StdRng::seed_from_u64(dice.random());
    let world = World::new(seed);
    let background =
        [tokio::spawn(world.clone().replica(next())), tokio::spawn(world.clone().trouble(next()))];
    let users: Vec<_> =
        (0..NODES * 3).map(|user| tokio::spawn(world.clone().user(user % NODES, next()))).collect();
    for user in users {
        user.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    background.iter().for_each(tokio::task::JoinHandle::abort);
    world.check_convergence().await;
    world.nodes.iter().map(|(cache, _, _)| cache.stats()).collect()
}

#[tokio::test(start_paused = true)]
async fn no_read_sees_what_was_loaded_before_a_change_its_node_was_told_of() {
    // A fixed hundred by default. Of random ones about one in a thousand breaks the promise: see P5 in
    // `docs/guarantees.md`, which is open for that reason. PAYSTRATA_TEST_SEED=7559710672261473611 shows it.
    let first: u64 = std::env::var("PAYSTRATA_TEST_SEED").ok().map_or(1, |seed| seed.parse().unwrap());
    let mut sum = crate::Stats::default();
    for run_number in 0..100 {
        for stats in run(first.wrapping_add(run_number)).await {
            sum.hits += stats.hits;
            sum.l2_hits += stats.l2_hits;
            sum.joins += stats.joins;
            sum.refused_stale_sets += stats.refused_stale_sets;
            sum.gaps += stats.gaps;
            sum.pending_overflows += stats.pending_overflows;
        }
    }
    // The runs must have been where it is dangerous.
    let visited = [sum.hits, sum.l2_hits, sum.joins, sum.refused_stale_sets, sum.gaps, sum.pending_overflows];
    assert!(visited.iter().all(|figure| *figure > 50), "seed {first}: {sum:?}");
}
