//! Whether what a cache shares with other nodes is there: the shared tiers, and the line. For a process that begins, and waits
//! a moment rather than load what the others have loaded.
//! Refuses to keep anybody from reading meanwhile: without either a cache is slower, and no less right. Asks no server: those
//! who keep the connections up know, and the horizon knows what was heard.

use std::{fmt, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{Cache, CacheKey, fleet::Fleet, tier_side::TierSide};

/// Between two looks, because a connection that comes up tells no cache of it. A look is a few loads of atomics, and a hundredth
/// of a second is nothing to a process that starts.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// What a cache shares with other nodes, and whether it is there. Spelled `redis tier up, redis line down`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Readiness {
    /// The shared tiers, in the order in which they are read.
    pub tiers: Vec<RemotePart>,
    /// The line, if the cache has one.
    pub line: Option<RemotePart>,
}

/// A shared tier, or the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemotePart {
    /// What the tier is called ([`TierOptions::name`](crate::TierOptions::name)); of the line what it is made of.
    pub name: &'static str,
    /// What it is made of: `redis`, `memcached`, `postgres`.
    pub kind: &'static str,
    /// Of a tier: there is a connection (to one of its servers, where there are several), and its breaker has not left it
    /// alone. Of the line: there is a connection, this node knows where the order of announcements stands, and one of its
    /// pulses has gone round within [`max_stale`](crate::Policy::max_stale).
    pub is_up: bool,
}

/// Something was not up in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not ready in time: {0}")]
pub struct NotReady(pub Readiness);

impl Readiness {
    /// True if all of it is up; of a cache that shares nothing, always.
    pub fn is_ready(&self) -> bool {
        self.tiers.iter().chain(&self.line).all(|part| part.is_up)
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tiers = self.tiers.iter().map(|part| (part, "tier"));
        let parts = tiers.chain(self.line.iter().map(|part| (part, "line")));
        for (place, (part, role)) in parts.enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            let state = if part.is_up { "up" } else { "down" };
            write!(formatter, "{comma}{} {role} {state}", part.name)?;
        }
        Ok(())
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// Whether the shared tiers and the line are up now. Asks no server.
    pub fn readiness(&self) -> Readiness {
        self.store.fleet.readiness()
    }

    /// Waits until every shared tier and the line are up, for `limit` at most, and looks every 10 ms. A cache that shares nothing
    /// is ready at once, and so is one whose parts are up.
    ///
    /// From then on what other nodes have loaded is read from the tiers, and what is loaded here is not dropped because the
    /// line comes up after it. Nobody has to wait for it: until then reads go to their loader, and changes are told later. It
    /// says nothing of what goes away afterwards. Dropped, it leaves nothing behind.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use paystrata_cache::Cache;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let users: Cache<u64, String> = Cache::builder("users").build();
    /// if let Err(missing) = users.ready(Duration::from_secs(2)).await {
    ///     println!("begin all the same: {missing}");
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`NotReady`] once `limit` is over, with what was up then and what was not. The cache works all the same.
    ///
    /// # Panics
    ///
    /// If there is something to wait for, outside of a Tokio runtime.
    pub async fn ready(&self, limit: Duration) -> Result<(), NotReady> {
        let begun = Instant::now();
        loop {
            let readiness = self.readiness();
            if readiness.is_ready() {
                return Ok(());
            }
            let left = limit.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(NotReady(readiness));
            }
            sleep(left.min(LOOK_EVERY)).await;
        }
    }
}

impl Fleet {
    fn readiness(&self) -> Readiness {
        let of_tier =
            |tier: &TierSide| RemotePart { name: tier.name(), kind: tier.kind(), is_up: tier.is_up() };
        let line = self.line.as_ref().map(|(line, _)| {
            let (kind, is_up) = (line.kind(), line.is_up() && self.hears());
            RemotePart { name: kind, kind, is_up }
        });
        Readiness { tiers: self.tiers.iter().map(of_tier).collect(), line }
    }

    /// True if this node hears what is announced, and can judge by it what lies in the shared tiers.
    fn hears(&self) -> bool {
        let is_in_order = self.horizon.mark().incarnation != 0;
        is_in_order && self.clock.now_us() < self.horizon.trusted_until_us()
    }
}
