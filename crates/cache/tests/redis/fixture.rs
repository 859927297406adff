//! What the tests have in common: a tier that is up, keys, claims, and a listener that keeps what it hears.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use paystrata_cache::{
    RedisOptions, RedisServers, RedisTier, Version, YoungServer,
    backplane::{Announcement, Backplane, Heard, Interruption, Line, Listener, Mark, Swath},
    testkit::whole,
    tier::{Claim, Found, Over, Payload, Put, Settlement, Stored, Tier, TierShare, Token, Void, Voiding},
};

use super::server::Server;

pub(crate) const LEASE: Duration = Duration::from_secs(60);
pub(crate) const LIFE: Duration = Duration::from_secs(3_600);

/// Commands may take long on a busy test machine; no test but those about it should time out.
pub(crate) fn patient() -> RedisOptions {
    RedisOptions {
        namespace: "test".to_owned(),
        command_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(5),
        heartbeat: Duration::from_millis(50),
        young_server: YoungServer::Trusted,
    }
}

/// A cache's share and line, as a node has them.
pub(crate) struct Node {
    pub(crate) tier: RedisTier,
    pub(crate) share: Arc<dyn TierShare>,
    pub(crate) line: Arc<dyn Line>,
}

impl Node {
    pub(crate) async fn on(server: &Server) -> Self {
        Self::up(&RedisServers::Single { url: server.url() }, patient()).await
    }

    pub(crate) async fn up(servers: &RedisServers, options: RedisOptions) -> Self {
        let node = Self::new(servers, options);
        node.is_up().await;
        node
    }

    pub(crate) fn new(servers: &RedisServers, options: RedisOptions) -> Self {
        let tier = RedisTier::open(servers, options).unwrap();
        let (share, line) = (tier.share("numbers"), tier.line("numbers"));
        Self { tier, share, line }
    }

    pub(crate) async fn is_up(&self) {
        eventually("the tier is up", async || self.share.is_up() && self.line.is_up()).await;
    }

    /// Waits until every shard of a cluster takes writes.
    pub(crate) async fn settled(&self) {
        let put = |number| Put {
            key: bytes(&format!("probe {number}")),
            version: Version::NONE,
            bytes: bytes("p"),
            lifetime: LIFE,
        };
        let puts: Vec<_> = (0..100).map(put).collect();
        eventually("every shard answers", async || self.share.put(&puts).await.and_then(whole).is_ok()).await;
    }

    pub(crate) async fn look(&self, key: &str) -> Found {
        self.share.read(&[bytes(key)], None).await.and_then(whole).unwrap().pop().unwrap()
    }

    pub(crate) async fn take(&self, key: &str, claim: Claim) -> Found {
        self.share.read(&[bytes(key)], Some(claim)).await.and_then(whole).unwrap().pop().unwrap()
    }

    pub(crate) async fn settle(&self, key: &str, token: u64, settlement: Settlement) -> Stored {
        self.share
            .settle(&[(bytes(key), Token(token), settlement)])
            .await
            .and_then(whole)
            .unwrap()
            .pop()
            .unwrap()
    }

    pub(crate) async fn void(&self, key: &str, version: u64, how: Void) {
        self.share
            .void(&[Voiding { key: bytes(key), version: Version(version), how }])
            .await
            .and_then(whole)
            .unwrap();
    }

    pub(crate) async fn put(&self, key: &str, version: u64, value: &str) -> Stored {
        let put = Put { key: bytes(key), version: Version(version), bytes: bytes(value), lifetime: LIFE };
        self.share.put(&[put]).await.and_then(whole).unwrap().pop().unwrap()
    }

    /// Claims and settles.
    pub(crate) async fn store(&self, key: &str, text: &str) {
        let found = self.take(key, claim(7_777)).await;
        assert!(matches!(found, Found::Claimed { .. }), "{found:?}");
        assert_eq!(self.settle(key, 7_777, value(text)).await, Stored::Yes);
    }

    /// Claims under a floor that is known, and settles.
    pub(crate) async fn store_at_floor(&self, key: &str, floor: u64, text: &str) {
        assert_eq!(self.take(key, claim(7_777)).await, claimed(floor, None));
        assert_eq!(self.settle(key, 7_777, value(text)).await, Stored::Yes);
    }

    pub(crate) async fn announce(&self, body: &str, sweeps: &[(Swath, Void)]) -> Mark {
        let announcement =
            Announcement { body: bytes(body), sweeps: sweeps.to_vec(), version: Version::NONE };
        self.line.announce(&announcement).await.unwrap()
    }

    /// Listens from now on.
    pub(crate) async fn ears(&self) -> Arc<Ears> {
        let ears = Arc::new(Ears::default());
        let listener: Arc<dyn Listener> = ears.clone();
        self.line.listen(Arc::downgrade(&listener));
        eventually("the listener hears", async || ears.interruptions().contains(&Interruption::Subscribed))
            .await;
        ears
    }
}

pub(crate) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub(crate) fn claim(token: u64) -> Claim {
    Claim { token: Token(token), lease: LEASE, over: Over::Nothing }
}

pub(crate) fn over(token: u64, over: Over) -> Claim {
    Claim { over, ..claim(token) }
}

pub(crate) fn value(text: &str) -> Settlement {
    Settlement::Value { bytes: bytes(text), lifetime: LIFE }
}

/// What was found, without the life that is left: that is for tests of its own.
pub(crate) fn timeless(found: Found) -> Found {
    let timeless = |payload: Payload| Payload { remaining: Duration::ZERO, ..payload };
    match found {
        Found::Value(payload) => Found::Value(timeless(payload)),
        Found::Claimed { floor, fallback } => Found::Claimed { floor, fallback: fallback.map(timeless) },
        Found::Held { floor, fallback } => Found::Held { floor, fallback: fallback.map(timeless) },
        Found::Nothing => Found::Nothing,
    }
}

pub(crate) fn payload(text: &str) -> Payload {
    Payload { bytes: bytes(text), remaining: Duration::ZERO }
}

pub(crate) fn claimed(floor: u64, fallback: Option<&str>) -> Found {
    Found::Claimed { floor: Version(floor), fallback: fallback.map(payload) }
}

pub(crate) fn held(floor: u64, fallback: Option<&str>) -> Found {
    Found::Held { floor: Version(floor), fallback: fallback.map(payload) }
}

/// Keeps what it hears.
#[derive(Debug, Default)]
pub(crate) struct Ears {
    heard: Mutex<Vec<Heard>>,
    interruptions: Mutex<Vec<Interruption>>,
    /// Held by a test that wants the subscription to stand still.
    pub(crate) gate: Mutex<()>,
}

impl Ears {
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    pub(crate) fn interruptions(&self) -> Vec<Interruption> {
        self.interruptions.lock().unwrap().clone()
    }

    /// Announcements heard, by number and body.
    pub(crate) fn announcements(&self) -> Vec<(u64, Bytes)> {
        let announcement = |heard| match heard {
            Heard::Announcement { mark, body } => Some((mark.sequence, body)),
            _ => None,
        };
        self.heard().into_iter().filter_map(announcement).collect()
    }
}

impl Listener for Ears {
    fn heard(&self, heard: Heard) {
        drop(self.gate.lock().unwrap());
        self.heard.lock().unwrap().push(heard);
    }

    fn interrupted(&self, cause: Interruption) {
        self.interruptions.lock().unwrap().push(cause);
    }
}

/// Waits for a condition that must come true, and fails with its name if it does not.
pub(crate) async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}
