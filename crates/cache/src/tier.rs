//! What the cache asks of a tier that all nodes share: Redis, memcached, a table. A tier keeps one
//! record per key and moves it between its states atomically:
//!
//! ```text
//! nothing     never stored, or forgotten (a tier may forget anything at any time)
//! value       payload with a life
//! free        voided: a floor, and perhaps the old payload as a fallback
//! claimed     somebody loads: token, floor, and perhaps the old payload as a fallback
//! ahead       a value that somebody loads anew: token, floor, and the payload, which is still the value
//! ```
//! Refuses to know what a payload means, and to judge whether a value may be served: payloads are
//! bytes here. Implemented by `redis`, `memcached`, `postgres` and the test kit; called by `consult`,
//! `write_back` and `courier`, which stand behind its breaker, timeout and concurrency bound.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::Version;

/// Names one claim. Random, so that no two nodes and no two loads ever hold the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

impl Token {
    /// A new one.
    pub fn random() -> Self {
        Self(rand::random())
    }
}

/// The wish to load what is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Names the claim.
    pub token: Token,
    /// After this long without a `settle` anybody may claim the key again.
    pub lease: Duration,
    /// What a value that is there does to the claim.
    pub over: Over,
}

/// What may be claimed. Asked again under one's own token, whose answer was lost, a tier may leave the record as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Only what is not a value. Taken in the round trip of the read.
    Nothing,
    /// A value too, which stays the value for everybody else until the claim is exchanged: it is loaded ahead of time.
    Ahead,
    /// A value too, which is a fallback from then on: it will not do.
    Value,
    /// A value too, which is thrown away: its bytes are no good.
    Poison,
}

/// Bytes of a value and what is left of their life by the tier's own clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// As they were stored.
    pub bytes: Bytes,
    /// Rounded down.
    pub remaining: Duration,
}

/// What a read found under one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A value.
    Value(Payload),
    /// No value; and no claim was wished for, or none could be made (there is no room): then the key is loaded and not
    /// stored here.
    Nothing,
    /// No value (or one that was claimed over). The claim stands; what is loaded must reflect `floor`.
    Claimed { floor: Version, fallback: Option<Payload> },
    /// Somebody else has claimed the key, and it has no value, or it was to be claimed over.
    Held { floor: Version, fallback: Option<Payload> },
}

/// What lies under a key that has no value: a record that was voided, or that somebody loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remnant {
    /// What is loaded must reflect it; [`Version::NONE`] if there is none.
    pub floor: Version,
    /// Somebody loads the key.
    pub is_claimed: bool,
    /// What is kept for loads that fail.
    pub fallback: Option<Payload>,
}

impl Remnant {
    /// None of a record of which nothing counts.
    #[must_use]
    pub fn of(floor: Version, is_claimed: bool, fallback: Option<Payload>) -> Option<Self> {
        let is_any = floor != Version::NONE || is_claimed || fallback.is_some();
        is_any.then_some(Self { floor, is_claimed, fallback })
    }
}

/// What a claim is exchanged for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// What was loaded.
    Value { bytes: Bytes, lifetime: Duration },
    /// The fallback, which is as good as new, with another life.
    Extend { lifetime: Duration },
    /// Nothing: the load failed. The next reader may try; a value and a fallback stay what they were.
    Release,
    /// Nothing, though something was loaded: what is there is older, and a fallback from now on. The next reader may try.
    Outdate,
}

impl Settlement {
    /// Of the value.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Value { bytes, .. } => bytes.len(),
            Self::Extend { .. } | Self::Release | Self::Outdate => 0,
        }
    }
}

/// Whether a write was still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It was.
    Yes,
    /// The claim was voided or has run out, or something newer is there.
    Refused,
}

/// How a record is voided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Void {
    /// Nobody reads the old value again.
    Remove,
    /// The old value is kept as a fallback for loads that fail.
    Expire,
}

/// One key's order to be voided: claims end, the floor rises to `version` and never falls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voiding {
    /// Of the record.
    pub key: Bytes,
    /// Of the write behind it.
    pub version: Version,
    /// How much is left of it.
    pub how: Void,
}

/// A value that its writer puts in place without having claimed the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Of the record.
    pub key: Bytes,
    /// Of the write. Below the record's floor, or below the version put last, it is refused.
    pub version: Version,
    /// What is put.
    pub bytes: Bytes,
    /// From now.
    pub lifetime: Duration,
}

/// The tier did not do what it was asked, as far as this node can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TierError {
    /// There is no connection; nothing was sent.
    #[error("not connected")]
    Down,
    /// Whether it was done is not known.
    #[error("no answer in time")]
    TimedOut,
    /// An answer that is none, or an error.
    #[error("refused or broken")]
    Failed,
}

/// What a call about many keys gives: for each an answer, or why there is none. Servers fail one by one: what failed for some
/// keys keeps the others from nothing. An error of the whole call is one of each key.
pub type Answers<T> = Vec<Result<T, TierError>>;

/// What a tier gives for an asynchronous call.
pub type TierFuture<'a, T> = BoxFuture<'a, Result<T, TierError>>;

/// A tier to which caches are attached by name.
pub trait Tier: Send + Sync + fmt::Debug {
    /// The share of the cache with this name. Keys of two names never meet.
    fn share(&self, cache: &str) -> Arc<dyn TierShare>;
}

/// One cache's share of a tier. Futures may be dropped at any point: what was sent may have been done.
///
/// Batches keep their order: answer `i` belongs to key `i`. Keys of one batch are distinct.
pub trait TierShare: Send + Sync + fmt::Debug {
    /// For figures and spans: `redis`, `memcached`, `postgres`.
    fn kind(&self) -> &'static str;

    /// False while there is no point in asking.
    fn is_up(&self) -> bool;

    /// Reads, and claims what can be claimed. One round trip for a batch without claims, and for
    /// one whose claims are `Over::Nothing` (a record that is `free` may take a second one).
    fn read<'a>(&'a self, keys: &'a [Bytes], claim: Option<Claim>) -> TierFuture<'a, Answers<Found>>;

    /// As `read`, of one key. For tiers that can do it at less cost.
    fn read_one<'a>(&'a self, key: &'a Bytes, claim: Option<Claim>) -> TierFuture<'a, Found> {
        Box::pin(async move {
            let found = self.read(std::slice::from_ref(key), claim).await?;
            found.into_iter().next().unwrap_or(Err(TierError::Failed))
        })
    }

    /// What lies under a key that has no value, for a person who asks: `None` if nothing does, or a value. Claims nothing. A tier
    /// that cannot tell has no need to: the default is `None`.
    fn inspect<'a>(&'a self, key: &'a Bytes) -> TierFuture<'a, Option<Remnant>> {
        let _ = key;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Exchanges claims, each fenced by its token.
    fn settle<'a>(&'a self, claims: &'a [(Bytes, Token, Settlement)]) -> TierFuture<'a, Answers<Stored>>;

    /// Voids. Done again it does nothing worse: the courier repeats it, for the keys that failed, until it succeeds.
    fn void<'a>(&'a self, keys: &'a [Voiding]) -> TierFuture<'a, Answers<()>>;

    /// Puts values without a claim, ending claims there are. For [`FLOOR_LIFE`](crate::FLOOR_LIFE) after it may have
    /// forgotten floors a tier voids the record instead and answers `Refused`: it cannot tell whether the value was
    /// overtaken. A value that is refused for any other reason leaves nothing older than itself in its place: a
    /// fallback is taken away, and with it the claim of whoever was shown it; and where a change without a number is what
    /// refuses it, whatever is there, as it may be older.
    fn put<'a>(&'a self, values: &'a [Put]) -> TierFuture<'a, Answers<Stored>>;
}
