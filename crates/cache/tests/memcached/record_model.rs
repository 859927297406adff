//! What every tier must do, whatever it is made of: random operations on one share against a naive model,
//! and claims under contention. Knows no server; time plays no part, because all lives are long.
//! Used by the tests of the memcached and of the Postgres tier.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use paystrata_cache::{
    Version,
    testkit::whole,
    tier::{Claim, Found, Over, Put, Settlement, Stored, TierShare, Token, Void, Voiding},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const LIFE: Duration = Duration::from_secs(3_600);
const LEASE: Duration = Duration::from_secs(600);
const STEPS: u32 = 400;

/// Keys that a careless tier trips over, and one per kind of care.
pub(crate) fn keys() -> Vec<Bytes> {
    let mut keys: Vec<Bytes> = ["", "plain", "a b", "line\nbreak", "*", "{a}b", "größe", "a:b", "\0"]
        .into_iter()
        .map(|key| Bytes::from_static(key.as_bytes()))
        .collect();
    keys.extend([300, 301, 1_000, 1_001, 5_000].map(|length| Bytes::from(vec![b'x'; length])));
    keys.push(Bytes::from_static(b"\xff\xfe\r\n"));
    keys
}

/// One record as it should be.
#[derive(Debug, Clone, Default)]
struct Record {
    floor: Version,
    kept: Option<Bytes>,
    is_value: bool,
    claim: Option<Token>,
}

/// What was found, without what is left of its life.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Value(Bytes),
    Nothing,
    Claimed(Version, Option<Bytes>),
    Held(Version, Option<Bytes>),
}

impl From<Found> for Answer {
    fn from(found: Found) -> Self {
        let bytes = |payload: paystrata_cache::tier::Payload| {
            assert!(payload.remaining <= LIFE && payload.remaining > LIFE / 2, "{:?}", payload.remaining);
            payload.bytes
        };
        match found {
            Found::Value(payload) => Self::Value(bytes(payload)),
            Found::Nothing => Self::Nothing,
            Found::Claimed { floor, fallback } => Self::Claimed(floor, fallback.map(bytes)),
            Found::Held { floor, fallback } => Self::Held(floor, fallback.map(bytes)),
        }
    }
}

impl Record {
    fn read(&mut self, claim: Option<Claim>) -> Answer {
        let value = self.kept.clone().filter(|_| self.is_value);
        let Some(claim) = claim else { return value.map_or(Answer::Nothing, Answer::Value) };
        if let (Some(value), Over::Nothing) = (value, claim.over) {
            return Answer::Value(value);
        }
        match self.claim {
            Some(token) if token == claim.token => return Answer::Claimed(self.floor, self.kept.clone()),
            Some(_) => return Answer::Held(self.floor, self.kept.clone()),
            None => {}
        }
        if claim.over == Over::Poison {
            self.kept = None;
        }
        self.claim = Some(claim.token);
        self.is_value &= claim.over == Over::Ahead;
        Answer::Claimed(self.floor, self.kept.clone())
    }

    fn settle(&mut self, token: Token, settlement: &Settlement) -> Stored {
        if self.claim != Some(token) {
            return Stored::Refused;
        }
        self.claim = None;
        match settlement {
            Settlement::Value { bytes, .. } => {
                self.kept = Some(bytes.clone());
                self.is_value = true;
            }
            Settlement::Extend { .. } if self.kept.is_none() => return Stored::Refused,
            Settlement::Extend { .. } => self.is_value = true,
            Settlement::Release => {}
            Settlement::Outdate => self.is_value = false,
        }
        Stored::Yes
    }

    fn void(&mut self, voiding: &Voiding) {
        self.floor = self.floor.max(voiding.version);
        self.claim = None;
        self.is_value = false;
        if voiding.how == Void::Remove {
            self.kept = None;
        }
    }

    fn put(&mut self, put: &Put) -> Stored {
        if put.version < self.floor {
            // A fallback may be older than what is refused, and whoever loads over it has seen it; so may be whatever came
            // after a change without a number.
            if self.floor == Version::LATEST || (!self.is_value && self.kept.is_some()) {
                (self.kept, self.claim, self.is_value) = (None, None, false);
            }
            return Stored::Refused;
        }
        *self = Self { floor: put.version, kept: Some(put.bytes.clone()), is_value: true, claim: None };
        Stored::Yes
    }
}

/// Seeds to run: the one that is asked for, or some.
fn seeds() -> Vec<u64> {
    match std::env::var("PAYSTRATA_TEST_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..4).map(|_| rand::random()).collect(),
    }
}

/// Random batches of all four verbs answer as the model does. `share` gives a share of an empty cache of this name.
pub(crate) async fn answers_as_the_model_does(share: impl Fn(&str) -> Arc<dyn TierShare>) {
    for seed in seeds() {
        println!("PAYSTRATA_TEST_SEED={seed}");
        Run {
            random: StdRng::seed_from_u64(seed),
            share: share(&format!("model {seed}")),
            keys: keys(),
            records: HashMap::new(),
            tokens: vec![Token(1)],
        }
        .run()
        .await;
    }
}

struct Run {
    random: StdRng,
    share: Arc<dyn TierShare>,
    keys: Vec<Bytes>,
    records: HashMap<Bytes, Record>,
    tokens: Vec<Token>,
}

impl Run {
    async fn run(mut self) {
        for step in 0..STEPS {
            let keys = self.some_keys();
            match self.random.random_range(0..10) {
                0..5 => self.read(step, keys).await,
                5..8 => self.settle(step, keys).await,
                8 => self.void(keys).await,
                _ => self.put(step, keys).await,
            }
        }
        // Whatever was done: in the end all is as it should be.
        let all = self.keys.clone();
        let found = self.share.read(&all, None).await.and_then(whole).unwrap();
        for (key, found) in all.iter().zip(found) {
            assert_eq!(Answer::from(found), self.record(key).read(None), "{key:?}");
        }
    }

    fn record(&mut self, key: &Bytes) -> &mut Record {
        self.records.entry(key.clone()).or_default()
    }

    fn some_keys(&mut self) -> Vec<Bytes> {
        let count = self.random.random_range(1..=self.keys.len());
        let mut keys = self.keys.clone();
        for index in 0..count {
            let other = self.random.random_range(index..keys.len());
            keys.swap(index, other);
        }
        keys.truncate(if self.random.random_bool(0.7) { count.min(2) } else { count });
        keys
    }

    fn a_token(&mut self) -> Token {
        self.tokens[self.random.random_range(0..self.tokens.len())]
    }

    fn a_version(&mut self) -> Version {
        match self.random.random_range(0..40) {
            0 => Version::NONE,
            39 => Version::LATEST,
            number => Version((1 + number % 11) * 1_000_000_000_000_000_000),
        }
    }

    async fn read(&mut self, step: u32, keys: Vec<Bytes>) {
        let token = if self.random.random_bool(0.1) { self.a_token() } else { Token(self.random.random()) };
        let over = [Over::Nothing, Over::Ahead, Over::Value, Over::Poison][self.random.random_range(0..4)];
        let claim = self.random.random_bool(0.7).then_some(Claim { token, lease: LEASE, over });
        if claim.is_some() {
            self.tokens.push(token);
        }
        let found = self.share.read(&keys, claim).await.and_then(whole).unwrap();
        assert_eq!(found.len(), keys.len());
        for (key, found) in keys.iter().zip(found) {
            let expected = self.record(key).read(claim);
            assert_eq!(Answer::from(found), expected, "step {step}, read {key:?} with {claim:?}");
        }
    }

    async fn settle(&mut self, step: u32, keys: Vec<Bytes>) {
        let mut claims = Vec::new();
        for (index, key) in keys.into_iter().enumerate() {
            let held = self.record(&key).claim.filter(|_| index % 4 < 3);
            let token = held.unwrap_or_else(|| self.a_token());
            let settlement = match self.random.random_range(0..5) {
                0 | 1 => Settlement::Value { bytes: format!("loaded {step} {index}").into(), lifetime: LIFE },
                2 => Settlement::Extend { lifetime: LIFE },
                3 => Settlement::Outdate,
                _ => Settlement::Release,
            };
            claims.push((key, token, settlement));
        }
        let stored = self.share.settle(&claims).await.and_then(whole).unwrap();
        assert_eq!(stored.len(), claims.len());
        for ((key, token, settlement), stored) in claims.iter().zip(stored) {
            let expected = self.record(key).settle(*token, settlement);
            assert_eq!(stored, expected, "step {step}, settle {key:?} with {settlement:?}");
        }
    }

    async fn void(&mut self, keys: Vec<Bytes>) {
        let mut voidings = Vec::new();
        for key in keys {
            let how = if self.random.random_bool(0.5) { Void::Remove } else { Void::Expire };
            voidings.push(Voiding { key, version: self.a_version(), how });
        }
        self.share.void(&voidings).await.and_then(whole).unwrap();
        for voiding in &voidings {
            self.record(&voiding.key).void(voiding);
        }
    }

    async fn put(&mut self, step: u32, keys: Vec<Bytes>) {
        let mut puts = Vec::new();
        for key in keys {
            let bytes = format!("put {step}").into();
            puts.push(Put { key, version: self.a_version(), bytes, lifetime: LIFE });
        }
        let stored = self.share.put(&puts).await.and_then(whole).unwrap();
        for (put, stored) in puts.iter().zip(stored) {
            assert_eq!(stored, self.record(&put.key).put(put), "step {step}, {put:?}");
        }
    }
}

/// Of many who want to load the same keys at once, one may, whether the keys are unknown or voided; and
/// however batches overlap and in whatever order they name their keys, all are answered.
pub(crate) async fn one_of_many_wins_a_claim(share: Arc<dyn TierShare>) {
    let keys: Vec<Bytes> = (0..8).map(|number| Bytes::from(format!("contended {number}"))).collect();
    let void = |key: &Bytes| Voiding { key: key.clone(), version: Version(3), how: Void::Remove };
    for floor in [Version::NONE, Version(3), Version(3)] {
        let callers = (0..24usize).map(|caller| {
            let (share, mut keys) = (Arc::clone(&share), keys.clone());
            keys.rotate_left(caller % 8);
            if caller % 2 == 1 {
                keys.reverse();
            }
            async move {
                let claim = Claim { token: Token::random(), lease: LEASE, over: Over::Nothing };
                let found = share.read(&keys, Some(claim)).await.and_then(whole).unwrap();
                let mut won = Vec::new();
                for (key, found) in keys.into_iter().zip(found) {
                    match found {
                        Found::Claimed { floor, fallback: None } => won.push((key, floor)),
                        Found::Held { fallback: None, .. } => {}
                        other => panic!("{key:?}: {other:?}"),
                    }
                }
                won
            }
        });
        let mut won: Vec<_> = join_all(callers).await.into_iter().flatten().collect();
        won.sort();
        let expected: Vec<_> = keys.iter().map(|key| (key.clone(), floor)).collect();
        assert_eq!(won, expected);
        share.void(&keys.iter().map(void).collect::<Vec<_>>()).await.and_then(whole).unwrap();
    }
}

/// Loads and voids run against one another: whatever was loaded before a void is never read after it.
pub(crate) async fn a_void_is_never_overtaken_by_a_load(share: Arc<dyn TierShare>) {
    let key = [Bytes::from_static(b"raced")];
    let store = std::sync::atomic::AtomicU64::new(1);
    let load = async || {
        for _ in 0..300 {
            let token = Token::random();
            let claim = Claim { token, lease: LEASE, over: Over::Nothing };
            if let Found::Claimed { .. } =
                share.read(&key, Some(claim)).await.and_then(whole).unwrap().remove(0)
            {
                let seen = store.load(std::sync::atomic::Ordering::SeqCst);
                tokio::task::yield_now().await;
                let bytes = Bytes::copy_from_slice(&seen.to_be_bytes());
                let settlement = Settlement::Value { bytes, lifetime: LIFE };
                share.settle(&[(key[0].clone(), token, settlement)]).await.and_then(whole).unwrap();
            }
        }
    };
    let write = async || {
        for _ in 0..300 {
            let version = store.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
            let voiding = Voiding { key: key[0].clone(), version: Version(version), how: Void::Remove };
            share.void(&[voiding]).await.and_then(whole).unwrap();
            if let Found::Value(payload) = share.read(&key, None).await.and_then(whole).unwrap().remove(0) {
                let seen = u64::from_be_bytes(payload.bytes[..].try_into().unwrap());
                assert!(seen >= version, "read {seen} after {version} was written and voided");
            }
        }
    };
    tokio::join!(load(), load(), load(), write());
}

/// Callers that go away in the middle of anything leave a share that works, and answers that are not mixed up.
pub(crate) async fn dropped_calls_leave_nothing_behind(share: Arc<dyn TierShare>) {
    let put = |number: u32| Put {
        key: Bytes::from(format!("dropped {number}")),
        version: Version(1),
        bytes: Bytes::from(format!("value {number}")),
        lifetime: LIFE,
    };
    let puts: Vec<Put> = (0..50).map(put).collect();
    share.put(&puts).await.and_then(whole).unwrap();
    for round in 0..200usize {
        let keys = [puts[round % 50].key.clone(), puts[(round + 7) % 50].key.clone()];
        let mut call = share.read(&keys, None);
        // Polled as often as the round says, then dropped.
        for _ in 0..round % 5 {
            if futures_util::poll!(&mut call).is_ready() {
                call = share.read(&keys, None);
            }
            tokio::task::yield_now().await;
        }
        drop(call);
        let found = share.read(&keys[..1], None).await.and_then(whole).unwrap();
        assert!(matches!(&found[0], Found::Value(payload) if payload.bytes == puts[round % 50].bytes));
    }
}
