//! Random writes and reads on two nodes of one real Redis, whose connections are cut at random.
//! The promise that is checked: a read that starts after this node's own invalidation sees the write
//! behind it, and in the end both nodes see the last write. The seed is in the message of a failure.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use paystrata_cache::{LoadContext, RedisOptions, Version};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    node::{Node, eventually, patient, steady},
    proxy::{Mode, Proxy},
    server::Server,
};

const KEYS: usize = 3;
const STEPS: usize = 300;

/// By key, the version of its last write, which is also its value.
#[derive(Clone, Default)]
struct Source {
    last: Arc<[AtomicU64; KEYS]>,
    version: Arc<AtomicU64>,
}

impl Source {
    async fn read(&self, node: &Node, key: usize) -> u64 {
        let last = Arc::clone(&self.last);
        let load = move |_: LoadContext| async move {
            let value = last[key].load(SeqCst);
            tokio::task::yield_now().await;
            Ok::<_, std::convert::Infallible>(Some(value))
        };
        node.cache.get_or_load(key.to_string().as_str(), load).await.unwrap().unwrap()
    }

    fn write(&self, key: usize) -> Version {
        let version = self.version.fetch_add(1, SeqCst) + 1;
        self.last[key].fetch_max(version, SeqCst);
        Version(version)
    }
}

async fn user(seed: u64, source: Source, node: Arc<Node>) {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut told = [0; KEYS];
    for _ in 0..STEPS {
        let key = dice.random_range(0..KEYS);
        if dice.random_bool(0.3) {
            let version = source.write(key);
            let confirmation = node.cache.invalidate_many([&key.to_string()], version);
            told[key] = version.0;
            if dice.random_bool(0.3) {
                confirmation.await;
            }
        } else {
            let seen = source.read(&node, key).await;
            assert!(seen >= told[key], "seed {seed}: told of {} and read {seen}", told[key]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_invalidations_always_win_and_all_nodes_agree_in_the_end() {
    let seed: u64 =
        std::env::var("PAYSTRATA_TEST_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    let server = Server::start().await;
    let proxies = [Proxy::to(server.port()).await, Proxy::to(server.port()).await];
    let options = RedisOptions { command_timeout: Duration::from_millis(200), ..patient() };
    let nodes = [
        Arc::new(Node::up_with(&proxies[0].url(), options.clone(), steady()).await),
        Arc::new(Node::up_with(&proxies[1].url(), options, steady()).await),
    ];
    let source = Source::default();
    let users: Vec<_> = (0..6_u64)
        .map(|number| {
            let node = &nodes[usize::from(number % 2 == 1)];
            tokio::spawn(user(seed.wrapping_add(number), source.clone(), Arc::clone(node)))
        })
        .collect();
    let mut dice = StdRng::seed_from_u64(seed);
    while users.iter().any(|user| !user.is_finished()) {
        let proxy = &proxies[usize::from(dice.random_bool(0.5))];
        let mode = [Mode::Pass, Mode::Pass, Mode::HoldReplies, Mode::Cut][dice.random_range(0..4)];
        let line = if dice.random_bool(0.5) { &proxy.commands } else { &proxy.subscription };
        line.send_replace(mode);
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..20))).await;
    }
    for user in users {
        user.await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    proxies.iter().for_each(|proxy| proxy.all(Mode::Pass));
    let agree = async || {
        for node in &nodes {
            for key in 0..KEYS {
                if source.read(node, key).await != source.last[key].load(SeqCst) {
                    return false;
                }
            }
        }
        nodes.iter().all(|node| node.cache.stats().pending_invalidations == 0)
    };
    eventually(&format!("seed {seed}: all nodes agree"), agree).await;
}
