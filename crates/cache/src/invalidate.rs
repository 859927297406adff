//! The verbs that void or replace what is cached. Each does its part on this node before it returns, without awaiting
//! anything; what it returns can be awaited to learn how far it got. Dropping that takes nothing back: the other nodes
//! are told by the courier in any case.

use std::{
    future::IntoFuture,
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};

use crate::{
    Cache, CacheKey, Invalidation, SetRefused, Version, Write,
    backplane::Swath,
    codec::{SealedFields, TAGS_MAX},
    cutoffs,
    fleet::Fleet,
    hash::Probe,
    invalidation::{KeyOrder, SweepOrder},
    keeper::keeps,
    life::{Life, Span},
    local::{Idle, Traits},
    outbox::Putting,
    patterns,
    recent::Bar,
    spans,
    stats::count,
    store::{KeyForm, Setting},
    tags::Tag,
    tier::Void,
    wire::Unreadable,
    write_behind::{Room, Waiting},
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
    fn of<K, V>(cache: &Cache<K, V>, number: Option<u64>, span: tracing::Span) -> Self {
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
        Covered { cache: self, swath: Swath::Tag(Arc::from(tag.as_ref())), version: Version::NONE }
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

    /// Puts a value that the caller has just written as `version` into this node's L1 and, as the policy says, into the
    /// shared tiers; the other nodes drop what they have of it. Under [`Write::Behind`] setting it is the write: when this
    /// returns `Ok`, the value waits for the [`Writer`](crate::Writer), and reads on this node see it until it is written.
    ///
    /// It is judged by what this node knows of this very key: by its own changes of the last minute at least, and by
    /// sweeps over it. Changes of other keys refuse nothing. A change of this key that nobody has numbered
    /// ([`invalidate`](Self::invalidate)) refuses values for a minute, because nobody knows which is newer, unless they have
    /// [`Version::LATEST`] or setting them is the write. A value without a version ([`Version::NONE`]) is older than any
    /// numbered change of its key. Of two values without a number no tier can tell which is newer: one that could not be put
    /// within 100 ms is not put at all, and its key is void there.
    ///
    /// # Errors
    ///
    /// [`SetRefused`]: nothing was stored, nor will be written. It says whether the key was voided instead.
    pub fn set(&self, key: K, value: V, version: Version) -> Result<Confirmation, SetRefused> {
        self.set_tagged(key, value, version, &[])
    }

    /// As [`set`](Self::set), with tags on the value, at most 64.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set).
    #[expect(clippy::needless_pass_by_value, reason = "an entry's key is given away, as to any map")]
    pub fn set_tagged(
        &self,
        key: K,
        value: V,
        version: Version,
        tags: &[&str],
    ) -> Result<Confirmation, SetRefused> {
        let (store, policy) = (&self.store, &self.policy);
        // Before anything is done.
        let room = self.room(&key, &value)?;
        let bar = if policy.write == Write::Behind { Bar::Numbered } else { Bar::Any };
        let trace = spans::invalidate(&store.name, 1, 0);
        let (span, now_us, mark) =
            (Span::of_value(policy, None), store.clock.now_us(), store.fleet.horizon.mark());
        let tags = self.distinct(tags);
        let key_bytes = if store.fleet.is_shared() { key.encode() } else { Bytes::new() };
        // After the mark was taken: what is announced later cuts the value off, what was announced before is known here,
        // whether or not the tier could be told of it.
        let is_newest =
            tags.len() <= TAGS_MAX && store.is_newest(&Probe::of(&key), version, &tags, bar, now_us);
        let is_believed = mark.incarnation != 0 || store.fleet.line.is_none();
        let is_put = is_newest && is_believed && !store.floors.is_blind_to_sweeps(now_us);
        let put = (is_put && policy.write != Write::Void).then(|| {
            let tags: Vec<Arc<str>> = tags.iter().map(|tag| Arc::clone(&tag.name)).collect();
            let fields = SealedFields {
                key: &key_bytes,
                incarnation: mark.incarnation,
                stamp: mark.sequence,
                version,
                grace: span.grace,
                tags: &tags,
                ..SealedFields::default()
            };
            self.sealed(&fields, &value, span)
        });
        let put = put.flatten();
        let order = KeyOrder { key: key_bytes, how: Void::Remove, version };
        let voids = store.flights.voids(Probe::of(&key).hash);
        let number = store.fleet.order(vec![(order, put.clone())], vec![]);
        let writing = room.map(|room| {
            let bytes = room.bytes;
            (
                room,
                Waiting {
                    value: value.clone(),
                    version,
                    tags: tags.clone(),
                    put,
                    bytes,
                    is_met: AtomicBool::new(false),
                },
            )
        });
        let life = Life::begin(policy, span, now_us, now_us, store.fleet.sweeps.stamp());
        let traits = Traits { version, tags, idle: Idle::under(policy, now_us), validator: None };
        let is_kept = keeps(policy.refresh_every);
        store.put(&key, Setting { value, traits, life, bar, voids, is_kept }, writing)?;
        Ok(Confirmation::of(self, number, trace))
    }

    /// Room for the value among those that are to be written, if it is to be.
    fn room(&self, key: &K, value: &V) -> Result<Option<Room<K, V>>, SetRefused> {
        match (self.policy.write, &self.store.writes) {
            (Write::Behind, Some(writes)) => {
                let bytes = self.store.weight(key, value).ok_or(SetRefused::Full)?;
                writes.room(key, bytes).map(Some)
            }
            (Write::Behind, None) => Err(SetRefused::NoWriter),
            (Write::Through | Write::Void, _) => Ok(None),
        }
    }

    fn distinct(&self, tags: &[&str]) -> Box<[Arc<Tag>]> {
        let mut names = tags.to_vec();
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(|name| self.store.fleet.sweeps.tags.intern(name)).collect()
    }

    /// As it is put into shared tiers, if it can be.
    fn sealed(&self, fields: &SealedFields<'_>, value: &V, span: Span) -> Option<Putting> {
        if span.shared.is_zero() {
            return None;
        }
        let lifetime = span.shared.saturating_add(span.grace);
        let bytes = self.store.seal(&SealedFields { lifetime: Some(lifetime), ..*fields }, Some(value))?;
        let tiers = &self.store.fleet.tiers;
        // Nobody would take it, and on its way it would take the room of others.
        if tiers.iter().all(|tier| bytes.len() > tier.options.value_bytes_max) {
            tiers.iter().for_each(|tier| count(&tier.counters.oversize));
            return None;
        }
        Some(Putting { bytes, lifetime, grace: span.grace, set_us: self.store.clock.now_us() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn newest_value_does_not_come_back_over_what_was_voided_after_it_was_ordered() {
        let cache: Cache<u64, u64> = Cache::builder("numbers").build();
        let store = &cache.store;
        let put = |voids: u64| {
            let (span, now_us) = (Span::of_value(&cache.policy, None), store.clock.now_us());
            let life = Life::begin(&cache.policy, span, now_us, now_us, store.fleet.sweeps.stamp());
            let traits = Traits { version: Version::LATEST, ..Traits::default() };
            let setting = Setting { value: 5, traits, life, bar: Bar::Any, voids, is_kept: false };
            store.put(&1, setting, None)
        };
        let voids = || store.flights.voids(Probe::of(&1_u64).hash);
        let ordered = voids();
        drop(cache.invalidate(&1));
        put(ordered).unwrap();
        assert_eq!(cache.get(&1), None);
        put(voids()).unwrap();
        assert_eq!(cache.get(&1), Some(5));
    }
}
