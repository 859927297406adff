//! The verbs that void or replace what is cached. Each does its part on this node before it
//! returns, without awaiting anything; what it returns can be awaited to learn how far it got.
//! Dropping that takes nothing back: the other nodes are told by the courier in any case.

use std::{future::IntoFuture, sync::Arc};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};

use crate::{
    Cache, CacheKey, Version,
    remote::{courier::Outbound, outbox::Pushed},
    stats::count,
    store::Store,
};

/// How far a change has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// This node, and there is no other: the cache has no remote tier.
    Node,
    /// The remote tier has it and has sent it to every node that listens.
    Fleet,
    /// This node only, so far. The remote tier did not confirm it in time; it is told again until it
    /// does, and this node does not trust it with these keys until then.
    Queued,
}

/// A change that has been made on this node and is on its way to the others.
///
/// Awaiting it takes until the remote tier confirms, and at most a few of its command timeouts.
/// A caller that need not know can drop it.
#[derive(Debug)]
pub struct Confirmation {
    pending: Option<(Arc<Outbound>, Vec<Bytes>)>,
}

impl Confirmation {
    async fn reach(self) -> Reach {
        match self.pending {
            None => Reach::Node,
            Some((outbound, keys)) if outbound.is_confirmed(&keys).await => Reach::Fleet,
            Some(_) => Reach::Queued,
        }
    }
}

impl IntoFuture for Confirmation {
    type Output = Reach;
    type IntoFuture = BoxFuture<'static, Reach>;

    fn into_future(self) -> Self::IntoFuture {
        self.reach().boxed()
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// Voids `key`: when this returns, awaited or not, no read that starts later on this node sees a
    /// value loaded before. Loads under way may still answer those who wait for them, but store nothing.
    ///
    /// The write behind it has no number here, so loads are told to read from the authoritative
    /// store ([`Version::LATEST`]) for a while; [`invalidate_many`](Self::invalidate_many) with the
    /// version of the write spares that.
    pub fn invalidate<Q>(&self, key: &Q) -> Confirmation
    where
        Q: ToOwned<Owned = K> + ?Sized,
    {
        self.invalidate_many([key], Version::LATEST)
    }

    /// Voids every key of `keys` because of the write `version`: as [`invalidate`](Self::invalidate),
    /// and loads of these keys, on any node that has been told, must reflect that write.
    pub fn invalidate_many<'key, Q>(
        &self,
        keys: impl IntoIterator<Item = &'key Q>,
        version: Version,
    ) -> Confirmation
    where
        Q: ToOwned<Owned = K> + ?Sized + 'key,
    {
        let store = &*self.store;
        let keys: Vec<K> = keys.into_iter().map(ToOwned::to_owned).collect();
        let confirmation = announce(store, &keys, version);
        let now_us = store.clock.now_us();
        for key in &keys {
            count(&store.counters.invalidations);
            store.void(key, version, now_us);
        }
        confirmation
    }

    /// Voids every key. Raises no floor: it is an operator's order, not the mark of a write.
    pub fn clear(&self) -> Confirmation {
        let store = &*self.store;
        let pending = store.remote.as_ref().map(|side| {
            side.outbound.outbox.push_clear(Version::NONE);
            (Arc::clone(&side.outbound), Vec::new())
        });
        store.void_all(Version::NONE, store.clock.now_us());
        Confirmation { pending }
    }

    /// Puts a value that the caller has just written as `version` into this node's L1, and voids
    /// what the other nodes and the remote tier have of it.
    ///
    /// If something newer than `version` is known here, nothing is stored (and it is counted as a
    /// refused stale set): then this is an invalidation.
    pub fn set(&self, key: K, value: V, version: Version) -> Confirmation {
        let store = &*self.store;
        let confirmation = announce(store, std::slice::from_ref(&key), version);
        store.put(key, value, version);
        confirmation
    }
}

/// Blocks the keys' remote copies, before anything is voided, and has the other nodes told.
fn announce<K: CacheKey, V>(store: &Store<K, V>, keys: &[K], version: Version) -> Confirmation {
    let pending = store.remote.as_ref().map(|side| {
        let keys: Vec<Bytes> = keys.iter().map(CacheKey::encode).collect();
        if side.outbound.outbox.push(&keys, version) == Pushed::Overflowed {
            tracing::warn!(cache = %store.name, "too many invalidations pending, remote tier will be emptied");
            store.observer.pending_overflowed(&store.name);
        }
        (Arc::clone(&side.outbound), keys)
    });
    Confirmation { pending }
}
