//! What the cache asks of a tier that all nodes share, whatever it is made of. The tier keeps, per
//! key, one of: nothing, a value, a tombstone, or a lease; and it moves between them atomically.
//! Refuses to know what a value means: payloads are bytes here. Implemented by `redis`, and in
//! memory for the model tests; called by `consult` and `courier`.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::Version;

pub(crate) mod backplane;
pub(crate) mod courier;
pub(crate) mod envelope;
pub(crate) mod message;
pub(crate) mod outbox;
pub(crate) mod peers;

#[cfg(test)]
pub(crate) mod double;

/// Names one lease. Random, so that no two nodes and no two loads ever hold the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) u64);

impl Token {
    pub(crate) fn random() -> Self {
        Self(rand::random())
    }
}

/// What a read does with a value that it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnValue {
    Return,
    /// Takes it for a miss, because its bytes are no good.
    Discard,
}

/// A read that becomes a claim to load when there is nothing to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) token: Token,
    pub(crate) lease: Duration,
    pub(crate) on_value: OnValue,
}

/// What a read found.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A value with this much of its life left.
    Value { payload: Bytes, remaining: Duration },
    /// Nothing; the lease is the asker's, and what it loads must reflect `floor`.
    Leased { floor: Version },
    /// Nothing, and somebody else is loading.
    Held { floor: Version },
}

/// What a lease is exchanged for.
#[derive(Debug, Clone)]
pub(crate) enum WriteBack {
    Value {
        payload: Bytes,
        lifetime: Duration,
    },
    /// Nothing: the load failed, the next reader may try.
    Release,
}

/// Whether the lease still stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    Stored,
    Refused,
}

/// What is done to the tier and told to all nodes, in one step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dispatch<'a> {
    /// A tombstone for each key, voiding its value and its lease.
    Tombstones(&'a [(Bytes, Version)]),
    /// All entries of the cache are void; loads must reflect the version.
    NewEpoch(Version),
    /// Nothing is done.
    Tell,
}

/// The remote tier did not do what it was asked, as far as this node can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RemoteError {
    #[error("not connected")]
    Down,
    #[error("no answer in time")]
    TimedOut,
    #[error("refused or broken")]
    Failed,
}

/// A tier, to which caches are attached by name.
pub(crate) trait Tier: Send + Sync + fmt::Debug {
    /// The share of the cache with this name.
    fn remote(&self, cache: &str) -> Arc<dyn Remote>;

    /// Lets the listener hear what other nodes say about its cache, until it is dropped.
    fn listen(&self, listener: Weak<dyn backplane::Listener>);

    fn timing(&self) -> courier::Timing;

    /// How many invalidated keys may wait for the tier.
    fn pending_keys_max(&self) -> usize;
}

/// One cache's share of a tier that all nodes share. Futures may be dropped at any point.
pub(crate) trait Remote: Send + Sync + fmt::Debug {
    /// False while there is no point in asking.
    fn is_up(&self) -> bool;

    fn read<'a>(&'a self, key: &'a Bytes, ask: Ask) -> BoxFuture<'a, Result<Answer, RemoteError>>;

    fn write<'a>(
        &'a self,
        key: &'a Bytes,
        token: Token,
        write: WriteBack,
    ) -> BoxFuture<'a, Result<Written, RemoteError>>;

    fn dispatch<'a>(
        &'a self,
        dispatch: Dispatch<'a>,
        message: Bytes,
    ) -> BoxFuture<'a, Result<(), RemoteError>>;
}
