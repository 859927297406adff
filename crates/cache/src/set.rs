//! The verbs that put a value in the place of whatever is cached, of one key or of many. In three steps, whichever it is: what can
//! be said of each value before anybody is told, the order that blocks the shared tiers and has them and the others told, and the
//! value's place on this node. What they return can be awaited, as of the verbs that void. Called through `Cache`.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;

use crate::{
    Cache, CacheKey, Confirmation, SetRefused, Version, Write,
    backplane::Mark,
    codec::{SealedFields, TAGS_MAX},
    flight::shard_of,
    hash::{Probe, hash_of},
    invalidation::KeyOrder,
    keeper::keeps,
    life::{Life, Span},
    local::{Idle, Traits},
    outbox::Putting,
    recent::Bar,
    spans,
    stats::count,
    store::Setting,
    tags::{Tag, name_of},
    tier::Void,
    write_behind::{Room, Waiting},
};

/// A value of which nobody has been told yet.
struct Prepared<K, V> {
    key: K,
    hash: u64,
    /// Empty without anybody to share with.
    key_bytes: Bytes,
    value: V,
    version: Version,
    tags: Box<[Arc<Tag>]>,
    span: Span,
    set_us: u64,
    put: Option<Putting>,
    /// Under `Write::Behind`.
    room: Option<Room<K, V>>,
    /// What had been voided near the key before.
    voids: u64,
}

impl<K, V> Prepared<K, V> {
    fn order(&self) -> (KeyOrder, Option<Putting>) {
        let order = KeyOrder { key: self.key_bytes.clone(), how: Void::Remove, version: self.version };
        (order, self.put.clone())
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
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
    pub fn set_tagged(
        &self,
        key: K,
        value: V,
        version: Version,
        tags: &[&str],
    ) -> Result<Confirmation, SetRefused> {
        let prepared = self.prepared(key, value, version, tags)?;
        let trace = spans::invalidate(&self.store.name, 1, 0);
        let number = self.store.fleet.order(vec![prepared.order()], vec![]);
        self.install(prepared)?;
        Ok(Confirmation::of(self, number, trace))
    }

    /// As [`set`](Self::set) for each value, in their order, each with its own version and its own outcome: one that is refused keeps
    /// no other from its place. A key that is named twice is set twice.
    ///
    /// They are told to the tiers and the other nodes together: one call of each tier and one announcement for up to 512 of them and
    /// 256 KiB. Awaiting the confirmation of any of them takes until all of them have got so far. It is no transaction: who reads
    /// meanwhile may see some of them.
    ///
    /// All of them are pending at once. Over [`pending_keys_max`](crate::CacheBuilder::pending_keys_max) everything shared becomes
    /// void, and over 8 MiB, keys and encoded values together, no value is put into a tier, and their keys are void there: of more
    /// give it some thousands at a time, and await one confirmation of each part.
    ///
    /// ```
    /// # use paystrata_cache::{Cache, SetRefused, Version};
    /// let rates: Cache<u64, u64> = Cache::builder("rates").build();
    /// drop(rates.invalidate_many([&8], Version(50)));
    /// let set = rates.set_many([(7, 70, Version(42)), (8, 80, Version(42))]);
    /// assert!(set[0].is_ok());
    /// assert_eq!(set[1].as_ref().err(), Some(&SetRefused::Overtaken));
    /// assert_eq!((rates.get(&7), rates.get(&8)), (Some(70), None));
    /// ```
    pub fn set_many(
        &self,
        values: impl IntoIterator<Item = (K, V, Version)>,
    ) -> Vec<Result<Confirmation, SetRefused>> {
        // All of it first: it is the caller's code, and what is prepared is told at once.
        let values: Vec<(K, V, Version)> = values.into_iter().collect();
        let prepared: Vec<Result<Prepared<K, V>, SetRefused>> =
            values.into_iter().map(|(key, value, version)| self.prepared(key, value, version, &[])).collect();
        let orders: Vec<_> = prepared.iter().flatten().map(Prepared::order).collect();
        let trace = spans::invalidate(&self.store.name, orders.len(), 0);
        let number = self.store.fleet.order(orders, vec![]);
        // Each that takes its place voids something near the others of its shard, which has overtaken none of them.
        let mut own_voids: HashMap<usize, u64> = HashMap::new();
        let mut install = |mut prepared: Prepared<K, V>| {
            let own = own_voids.entry(shard_of(prepared.hash)).or_default();
            prepared.voids += *own;
            *own += 1;
            self.install(prepared)
        };
        let confirmed = |()| Confirmation::of(self, number, trace.clone());
        prepared.into_iter().map(|prepared| prepared.and_then(&mut install).map(confirmed)).collect()
    }

    /// What can be said of the value before anything is done, and whether there is room for it.
    fn prepared(
        &self,
        key: K,
        value: V,
        version: Version,
        tags: &[&str],
    ) -> Result<Prepared<K, V>, SetRefused> {
        let store = &self.store;
        let room = self.room(&key, &value)?;
        let (span, set_us, mark) =
            (Span::of_value(&self.policy, None), store.clock.now_us(), store.fleet.horizon.mark());
        let (hash, tags) = (hash_of(&key), self.distinct(tags));
        let key_bytes = if store.fleet.is_shared() { key.encode() } else { Bytes::new() };
        let prepared =
            Prepared { key, hash, key_bytes, value, version, tags, span, set_us, put: None, room, voids: 0 };
        let put = if self.is_put(&prepared, mark) { self.sealed(&prepared, mark) } else { None };
        let voids = store.flights.voids(hash);
        Ok(Prepared { put, voids, ..prepared })
    }

    /// How the value is judged by changes of its key.
    fn bar(&self) -> Bar {
        if self.policy.write == Write::Behind { Bar::Numbered } else { Bar::Any }
    }

    /// Whether the shared tiers are given the value.
    fn is_put(&self, prepared: &Prepared<K, V>, mark: Mark) -> bool {
        let Prepared { key, hash, version, tags, set_us, .. } = prepared;
        let store = &self.store;
        let probe = Probe { key, hash: *hash };
        // After the mark was taken: what is announced later cuts the value off, what was announced before is known here,
        // whether or not the tier could be told of it.
        let is_newest =
            tags.len() <= TAGS_MAX && store.is_newest(&probe, *version, tags, self.bar(), *set_us);
        let is_believed = mark.incarnation != 0 || store.fleet.line.is_none();
        let is_put = is_newest && is_believed && !store.floors.is_blind_to_sweeps(*set_us);
        is_put && self.policy.write != Write::Void
    }

    /// Gives the value its place on this node, and among those that are to be written. The others have been ordered to be told.
    fn install(&self, prepared: Prepared<K, V>) -> Result<(), SetRefused> {
        let (store, policy) = (&self.store, &self.policy);
        let Prepared { key, value, version, tags, span, set_us, put, room, voids, .. } = prepared;
        let writing = room.map(|room| {
            let (bytes, is_met) = (room.bytes, AtomicBool::new(false));
            (room, Waiting { value: value.clone(), version, tags: tags.clone(), put, bytes, is_met })
        });
        let life = Life::begin(policy, span, set_us, set_us, store.fleet.sweeps.stamp());
        let traits = Traits { version, tags, idle: Idle::under(policy, set_us), validator: None };
        let is_kept = keeps(policy.refresh_every);
        store.put(&key, Setting { value, traits, life, bar: self.bar(), voids, is_kept }, writing)
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
        names.into_iter().map(|name| self.store.fleet.sweeps.tags.intern(&name_of(name))).collect()
    }

    /// As it is put into shared tiers, if it can be.
    fn sealed(&self, prepared: &Prepared<K, V>, mark: Mark) -> Option<Putting> {
        let Prepared { span, set_us, .. } = *prepared;
        if span.shared.is_zero() {
            return None;
        }
        let lifetime = span.shared.saturating_add(span.grace);
        let tags: Vec<Arc<str>> = prepared.tags.iter().map(|tag| Arc::clone(&tag.name)).collect();
        let fields = SealedFields {
            key: &prepared.key_bytes,
            incarnation: mark.incarnation,
            stamp: mark.sequence,
            version: prepared.version,
            grace: span.grace,
            lifetime: Some(lifetime),
            tags: &tags,
            ..SealedFields::default()
        };
        let bytes = self.store.seal(&fields, Some(&prepared.value))?;
        let tiers = &self.store.fleet.tiers;
        // Nobody would take it, and on its way it would take the room of others.
        if tiers.iter().all(|tier| bytes.len() > tier.options.value_bytes_max) {
            tiers.iter().for_each(|tier| count(&tier.counters.oversize));
            return None;
        }
        Some(Putting { bytes, lifetime, grace: span.grace, set_us })
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
