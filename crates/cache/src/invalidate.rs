//! The verbs that void what is cached; those that put a value in its place are in `set`. Each does its part on this node before
//! it returns, without awaiting anything; what it returns can be awaited to learn how far it got. Dropping that takes nothing
//! back: the other nodes are told by the courier in any case.

use std::{future::IntoFuture, sync::Arc};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};

use crate::{
    Cache, CacheKey, Invalidation, Version,
    backplane::Swath,
    cutoffs,
    fleet::Fleet,
    hash::Probe,
    invalidation::{KeyOrder, SweepOrder},
    patterns, spans,
    stats::count,
    store::KeyForm,
    tags::name_of,
    tier::Void,
    wire::Unreadable,
};

/// How far a change has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// This node, and there is nobody else to be told.
    Node,
    /// It was announced to every node that listens. The shared tiers have it, or the announcement said that what they
    /// have of it is not to be believed.
    Fleet,
    /// This node only, so far. It was not confirmed in time; the others are told again until they are, and this node
    /// does not trust the shared tiers with it until then. Without a line it is also said of changes that were given up
    /// because more were pending than there is room for: this node believes nothing in the tiers from before them, and
    /// others are not told. It waits for all that was ordered before it: while a tier without a line is down, in whole or in
    /// part, nothing is confirmed.
    Queued,
}

/// A change that has been made on this node and is on its way to the others.
///
/// Awaiting it takes until they have it, and two seconds at most. A caller that need not know can drop it.
#[derive(Debug)]
pub struct Confirmation {
    pending: Option<(Arc<Fleet>, u64)>,
    span: tracing::Span,
}

impl Confirmation {
    pub(crate) fn of<K, V>(cache: &Cache<K, V>, number: Option<u64>, span: tracing::Span) -> Self {
        Self { pending: number.map(|number| (Arc::clone(&cache.store.fleet), number)), span }
    }

    /// Of a change of which nobody has to be told.
    pub(crate) fn of_nobody() -> Self {
        Self { pending: None, span: tracing::Span::none() }
    }

    async fn reach(self) -> Reach {
        let reach = match self.pending {
            None => Reach::Node,
            Some((fleet, number)) if fleet.is_done(number).await => Reach::Fleet,
            Some(_) => Reach::Queued,
        };
        spans::reached(&self.span, reach);
        reach
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
    /// Voids `key`: when this returns, awaited or not, no read that starts later on this node sees a value loaded
    /// before. Loads under way may still answer those who wait for them, but store nothing.
    ///
    /// The write behind it has no number here, so loads are told to read from the authoritative store
    /// ([`Version::LATEST`]) for a while; [`invalidate_many`](Self::invalidate_many) with the version of the write
    /// spares that.
    pub fn invalidate<Q: KeyForm<K> + ?Sized>(&self, key: &Q) -> Confirmation {
        self.invalidate_many([key], Version::LATEST)
    }

    /// Voids every key of `keys` because of the write `version`: as [`invalidate`](Self::invalidate), and loads of these
    /// keys, on any node that has been told, must reflect that write.
    pub fn invalidate_many<'key, Q: KeyForm<K> + ?Sized + 'key>(
        &self,
        keys: impl IntoIterator<Item = &'key Q>,
        version: Version,
    ) -> Confirmation {
        self.void_keys(&keys.into_iter().map(ToOwned::to_owned).collect::<Vec<K>>(), Void::Remove, version)
    }

    /// As [`invalidate`](Self::invalidate), but the old value stays as a fallback for loads that fail or are slow, here
    /// and in the shared tiers, if it was stored with a grace.
    pub fn expire<Q: KeyForm<K> + ?Sized>(&self, key: &Q) -> Confirmation {
        self.expire_many([key], Version::LATEST)
    }

    /// As [`invalidate_many`](Self::invalidate_many), but the old values stay as fallbacks.
    pub fn expire_many<'key, Q: KeyForm<K> + ?Sized + 'key>(
        &self,
        keys: impl IntoIterator<Item = &'key Q>,
        version: Version,
    ) -> Confirmation {
        self.void_keys(&keys.into_iter().map(ToOwned::to_owned).collect::<Vec<K>>(), Void::Expire, version)
    }

    /// Voids every entry in this node's L1 that is meant, as [`invalidate`](Self::invalidate) does key by key: here, in
    /// the shared tiers and on the other nodes. Loads under way on this node store nothing, whatever their keys, because
    /// nobody can ask about a value that is not there yet.
    ///
    /// It does not see what only a shared tier or another node has: give such entries a [tag](Self::tag) or their keys a
    /// [prefix](Self::prefix). In a cache that shares nothing it sees all. That there is no such thing, which loaders say of
    /// keys, is left as it is.
    ///
    /// Costs a walk over L1 that clones each key, and nothing is locked while `is_meant` runs.
    pub fn invalidate_if(&self, is_meant: impl Fn(&K, &V) -> bool) -> Confirmation {
        let store = &*self.store;
        let now_us = store.clock.now_us();
        // Before the walk: whatever is stored during it was loaded after this was called.
        store.flights.void_where(|key| {
            store.floors.raise_for_loads(Probe::of(key).hash, Version::LATEST, now_us);
            true
        });
        let meant = store.local.iter().filter(|kept| is_meant(&kept.key, kept.packed.value()));
        let keys: Vec<K> = meant.map(|kept| kept.key).collect();
        let confirmation = self.void_keys(&keys, Void::Remove, Version::LATEST);
        // After it: a thread may have a copy of what L1 let go of before it was walked.
        store.local.fronts.all_changed();
        confirmation
    }

    /// The entries with this tag.
    pub fn tag(&self, tag: impl AsRef<str>) -> Covered<'_, K, V> {
        Covered { cache: self, swath: Swath::Tag(name_of(tag.as_ref()).into()), version: Version::NONE }
    }

    /// The entries whose key, as [`CacheKey::encode`] spells it, begins so.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Covered<'_, K, V> {
        let prefix = Bytes::copy_from_slice(prefix.as_ref());
        Covered { cache: self, swath: Swath::Prefix(prefix), version: Version::NONE }
    }

    /// The entries whose key, as [`CacheKey::encode`] spells it, looks so: `*` stands for any bytes, `?` for any one, and `\\`
    /// takes the next one as it is. As with prefixes nothing is listed or walked, whatever the tiers hold: it is an epoch that
    /// every read of a key compares. Of prefixes and patterns 64 are told apart; more void more than they say.
    ///
    /// ```
    /// # use paystrata_cache::{Cache, Version};
    /// let names: Cache<String, String> = Cache::builder("names").build();
    /// drop(names.set("user:7:name".to_owned(), "Ada".to_owned(), Version(1)));
    /// drop(names.set("user:7:mail".to_owned(), "ada@example.org".to_owned(), Version(1)));
    /// drop(names.pattern("user:*:name").remove());
    /// assert_eq!((names.get("user:7:name"), names.get("user:7:mail").is_some()), (None, true));
    /// ```
    pub fn pattern(&self, pattern: impl AsRef<[u8]>) -> Covered<'_, K, V> {
        Covered { cache: self, swath: patterns::swath_of(pattern.as_ref()), version: Version::NONE }
    }

    /// Voids every key. Raises no floor: it is an operator's order, not the mark of a write.
    pub fn clear(&self) -> Confirmation {
        self.sweep(&Swath::All, Void::Remove, Version::NONE)
    }

    /// As [`clear`](Self::clear), but the old values stay as fallbacks.
    pub fn expire_all(&self) -> Confirmation {
        self.sweep(&Swath::All, Void::Expire, Version::NONE)
    }

    /// Changes nothing: tells how far all that was changed on this node before has got. Costs nothing where nothing is
    /// pending, and says [`Reach::Fleet`] then, whether or not anybody could be told of a change now
    /// ([`Reach::Node`] if the cache shares nothing).
    pub fn confirm(&self) -> Confirmation {
        let fleet = &self.store.fleet;
        let number = fleet.is_shared().then(|| fleet.outbox.last_number());
        Confirmation::of(self, number, tracing::Span::none())
    }

    /// Does what `change` says, as if it had been asked for here and now.
    pub fn invalidate_by(&self, change: &Invalidation) -> Confirmation {
        let span = spans::invalidate(&self.store.name, change.keys.len(), change.sweeps.len());
        // Other nodes are to take it for this node's: it does its own part here.
        let keys = change.keys.iter().map(|order| (order.clone(), None)).collect();
        // Floors first of all: a load that begins once others are told must find them.
        let now_us = self.store.clock.now_us();
        let raise =
            |key: &K, order: &KeyOrder| self.store.floors.raise(Probe::of(key).hash, order.version, now_us);
        let unread = change.read_keys::<K>(raise);
        change.sweeps.iter().for_each(|order| self.store.raise_for_sweep(&order.swath, order.version));
        // The tiers are voided by this: nothing need be cut off.
        let is_of_keys = |order: &&SweepOrder| cutoffs::digest_of(&order.swath).is_none();
        let mut sweeps: Vec<_> = change.sweeps.iter().filter(is_of_keys).cloned().collect();
        if unread.keys > 0 {
            self.store.raise_for_sweep(&Swath::All, unread.version);
            // They are told of bytes under which no record of ours lies. A sweep is also kept for nodes still to come.
            if !self.store.fleet.tiers.is_empty() {
                sweeps.push(SweepOrder { swath: Swath::All, how: Void::Remove, version: unread.version });
            }
        }
        let number = self.store.fleet.order(keys, sweeps);
        self.store.void_by(change);
        Confirmation::of(self, number, span)
    }

    /// Does what the bytes of an [`Invalidation`] say: those of an outbox row, or of a notification that the database
    /// sent with a commit. Applied twice it does nothing worse.
    ///
    /// # Errors
    ///
    /// If the bytes are none. Nothing was done then.
    pub fn apply(&self, bytes: &[u8]) -> Result<Confirmation, Unreadable> {
        Invalidation::decode(bytes).map(|change| self.invalidate_by(&change))
    }

    fn void_keys(&self, keys: &[K], how: Void, version: Version) -> Confirmation {
        let store = &*self.store;
        let span = spans::invalidate(&store.name, keys.len(), 0);
        let order = |key: &K| (KeyOrder { key: key.encode(), how, version }, None);
        let orders = if store.fleet.is_shared() { keys.iter().map(order).collect() } else { vec![] };
        // Floors first of all: a load that another node begins once it is told must find them here too.
        let now_us = store.clock.now_us();
        keys.iter().for_each(|key| store.floors.raise(Probe::of(key).hash, version, now_us));
        let number = store.fleet.order(orders, vec![]);
        for key in keys {
            count(&store.counters.invalidations);
            store.void(key, how, version, 0);
        }
        Confirmation::of(self, number, span)
    }

    fn sweep(&self, swath: &Swath, how: Void, version: Version) -> Confirmation {
        let store = &*self.store;
        let span = spans::invalidate(&store.name, 0, 1);
        let order = SweepOrder { swath: swath.clone(), how, version };
        // Floors first of all, as of keys.
        store.raise_for_sweep(swath, version);
        let number = store.fleet.order(vec![], vec![order]);
        store.sweep(swath, how, version, 0);
        Confirmation::of(self, number, span)
    }
}

/// Many entries at once, whether they are there or not, to be removed or expired. Costs the same however many they are.
#[derive(Debug)]
#[must_use = "nothing is done until it is told to remove or to expire"]
pub struct Covered<'a, K, V> {
    cache: &'a Cache<K, V>,
    swath: Swath,
    version: Version,
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Covered<'_, K, V> {
    /// Because of this write: loads must reflect it, those of all keys, because nobody knows which ones these are.
    pub fn at(self, version: Version) -> Self {
        Self { version, ..self }
    }

    /// Voids them: when this returns, awaited or not, no read that starts later on this node sees one loaded before.
    pub fn remove(self) -> Confirmation {
        self.cache.sweep(&self.swath, Void::Remove, self.version)
    }

    /// As [`remove`](Self::remove), but the old values stay as fallbacks, if they were stored with a grace.
    pub fn expire(self) -> Confirmation {
        self.cache.sweep(&self.swath, Void::Expire, self.version)
    }
}
