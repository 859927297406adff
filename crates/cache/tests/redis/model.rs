//! Random operations on a few records, each answer compared with what a naive model of the contract gives.
//! The seed is printed with a failure; `PAYSTRATA_TEST_SEEDS` sets how many are tried.

use std::collections::HashMap;

use bytes::Bytes;
use paystrata_cache::{
    RedisServers, Version,
    testkit::whole,
    tier::{Claim, Found, Over, Payload, Put, Settlement, Stored, Token, Void, Voiding},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    fixture::{LEASE, LIFE, Node, bytes, patient, payload, timeless},
    server::{Cluster, Server},
};

const KEYS: usize = 5;
const STEPS: usize = 250;

/// What a record is, as the trait's documentation has it. Nothing runs out within the test.
#[derive(Debug, Clone, Default)]
struct Model {
    state: State,
    floor: Version,
    payload: Option<Payload>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    Value,
    Claimed(Token),
    /// A value that is loaded anew.
    Ahead(Token),
}

impl State {
    fn is_value(self) -> bool {
        matches!(self, Self::Value | Self::Ahead(_))
    }
}

impl Model {
    fn read(&mut self, claim: Option<Claim>) -> Found {
        let is_value = self.state.is_value();
        let value = is_value.then(|| self.payload.clone()).flatten();
        let Some(claim) = claim else {
            return value.map_or(Found::Nothing, Found::Value);
        };
        match (value, self.state, claim.over) {
            (Some(value), _, Over::Nothing) => return Found::Value(value),
            (_, State::Claimed(token) | State::Ahead(token), _) if token != claim.token => {
                return Found::Held { floor: self.floor, fallback: self.payload.clone() };
            }
            (_, _, Over::Poison) => self.payload = None,
            _ => {}
        }
        let is_ahead = is_value && claim.over == Over::Ahead;
        self.state = if is_ahead { State::Ahead(claim.token) } else { State::Claimed(claim.token) };
        Found::Claimed { floor: self.floor, fallback: self.payload.clone() }
    }

    fn settle(&mut self, token: Token, settlement: &Settlement) -> Stored {
        let is_ahead = self.state == State::Ahead(token);
        if self.state != State::Claimed(token) && !is_ahead {
            return Stored::Refused;
        }
        self.state = State::Free;
        match settlement {
            Settlement::Release if is_ahead => {}
            Settlement::Release | Settlement::Outdate => return Stored::Yes,
            Settlement::Value { bytes, .. } => self.payload = Some(text(bytes)),
            Settlement::Extend { .. } if self.payload.is_none() => return Stored::Refused,
            Settlement::Extend { .. } => {}
        }
        self.state = State::Value;
        Stored::Yes
    }

    fn void(&mut self, version: Version, how: Void) {
        self.state = State::Free;
        self.floor = self.floor.max(version);
        if how == Void::Remove {
            self.payload = None;
        }
    }

    fn put(&mut self, version: Version, bytes: &Bytes) -> Stored {
        if version < self.floor {
            // A fallback may be older than what is refused, and whoever loads over it has seen it; so may be whatever came
            // after a change without a number.
            if self.floor == Version::LATEST || (!self.state.is_value() && self.payload.is_some()) {
                (self.state, self.payload) = (State::Free, None);
            }
            return Stored::Refused;
        }
        *self = Self { state: State::Value, floor: version, payload: Some(text(bytes)) };
        Stored::Yes
    }
}

fn text(bytes: &Bytes) -> Payload {
    Payload { bytes: bytes.clone(), ..payload("") }
}

/// Distinct keys, in random order.
fn some_keys(random: &mut StdRng, seed: u64) -> Vec<Bytes> {
    let mut keys: Vec<usize> = (0..KEYS).collect();
    for at in (1..KEYS).rev() {
        keys.swap(at, random.random_range(0..=at));
    }
    keys.truncate(if random.random_bool(0.6) { 1 } else { random.random_range(1..=KEYS) });
    keys.iter().map(|key| bytes(&format!("{{{seed}}} key {key}"))).collect()
}

fn version(random: &mut StdRng) -> Version {
    if random.random_bool(0.03) { Version::LATEST } else { Version(random.random_range(0..40)) }
}

async fn step(
    node: &Node,
    models: &mut HashMap<Bytes, Model>,
    random: &mut StdRng,
    seed: u64,
    number: usize,
) {
    let keys = some_keys(random, seed);
    let mut model =
        |key: &Bytes, act: &mut dyn FnMut(&mut Model)| act(models.entry(key.clone()).or_default());
    match random.random_range(0..10) {
        0..4 => {
            let over = [Over::Nothing, Over::Ahead, Over::Value, Over::Poison][random.random_range(0..4)];
            let token = Token(random.random_range(1..4));
            let claim = random.random_bool(0.7).then_some(Claim { token, lease: LEASE, over });
            let found = node.share.read(&keys, claim).await.and_then(whole).unwrap();
            for (key, found) in keys.iter().zip(found) {
                model(key, &mut |model| {
                    assert_eq!(timeless(found.clone()), model.read(claim), "{key:?} {claim:?}");
                });
            }
        }
        4..7 => {
            let settlements = keys.iter().map(|key| {
                let settlement = match random.random_range(0..5) {
                    0 => Settlement::Extend { lifetime: LIFE },
                    1 => Settlement::Release,
                    2 => Settlement::Outdate,
                    _ => Settlement::Value { bytes: bytes(&format!("value {number}")), lifetime: LIFE },
                };
                (key.clone(), Token(random.random_range(1..4)), settlement)
            });
            let settlements: Vec<_> = settlements.collect();
            let stored = node.share.settle(&settlements).await.and_then(whole).unwrap();
            for ((key, token, settlement), stored) in settlements.iter().zip(stored) {
                model(key, &mut |model| {
                    assert_eq!(stored, model.settle(*token, settlement), "{key:?} {settlement:?}");
                });
            }
        }
        7..9 => {
            let how = if random.random_bool(0.5) { Void::Remove } else { Void::Expire };
            let voidings = keys.iter().map(|key| Voiding { key: key.clone(), version: version(random), how });
            let voidings: Vec<_> = voidings.collect();
            node.share.void(&voidings).await.and_then(whole).unwrap();
            for voiding in &voidings {
                model(&voiding.key, &mut |model| model.void(voiding.version, how));
            }
        }
        _ => {
            let puts = keys.iter().map(|key| Put {
                key: key.clone(),
                version: version(random),
                bytes: bytes(&format!("put {number}")),
                lifetime: LIFE,
            });
            let puts: Vec<_> = puts.collect();
            let stored = node.share.put(&puts).await.and_then(whole).unwrap();
            for (put, stored) in puts.iter().zip(stored) {
                model(&put.key, &mut |model| {
                    assert_eq!(stored, model.put(put.version, &put.bytes), "{put:?}");
                });
            }
        }
    }
}

/// Names the seed when a step fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::io::Write::write_all(&mut std::io::stderr(), format!("seed {}\n", self.0).as_bytes())
                .unwrap();
        }
    }
}

async fn runs(node: &Node, seeds: u64) {
    for seed in 0..seeds {
        let _named = Named(seed);
        let (mut random, mut models) = (StdRng::seed_from_u64(seed), HashMap::new());
        for number in 0..STEPS {
            step(node, &mut models, &mut random, seed, number).await;
        }
    }
}

fn seeds(default: u64) -> u64 {
    std::env::var("PAYSTRATA_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(default)
}

#[tokio::test]
async fn record_behaves_like_its_model() {
    let server = Server::start().await;
    runs(&Node::on(&server).await, seeds(20)).await;
}

#[tokio::test]
async fn record_behaves_like_its_model_on_a_cluster() {
    let cluster = Cluster::start().await;
    let node = Node::up(&RedisServers::Cluster { seeds: cluster.urls() }, patient()).await;
    node.settled().await;
    runs(&node, seeds(10)).await;
}
