//! The short way of a read of many keys: what the first shared tier has is taken without leading a load of each, and only
//! what it does not have goes the long way. Keeps nobody from reading the same at the same time; calls no loader, claims
//! nothing. Stores in L1 only what no key of its shard was voided under since before the tier was asked.
//! Called by `batch`.

use bytes::Bytes;

use crate::{
    CacheKey, Policy,
    answer::Answer,
    backplane::Mark,
    hash::{Probe, hash_of},
    judge::{Asker, Judged, judge},
    keeper::keeps,
    lead::Purpose,
    life::ENDLESS,
    local::{Displaced, Idle},
    store::{Look, Standing, Store},
    tier::Found,
};

/// What the short way came to. The numbers are those that the caller gave the keys.
pub(crate) struct Scouted<K, V> {
    pub(crate) found: Vec<(usize, Answer<V>)>,
    /// To be read the long way.
    pub(crate) left: Vec<(usize, K)>,
    /// The first tier that the long way should ask: not the one that has just failed.
    pub(crate) next_tier: usize,
}

/// A key on the short way.
struct Sought<K> {
    number: usize,
    key: K,
    hash: u64,
    /// Of its shard, before the tier was asked.
    voids: u64,
    /// Where it ends among the spelled ones.
    end: usize,
}

/// The tier that is asked.
const FIRST: usize = 0;

/// What a key is spelled with at most, as a rule.
const KEY_BYTES: usize = 32;

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Store<K, V> {
    /// Asks the first tier about all of `wanted` in one trip.
    pub(crate) async fn scout(&self, policy: &Policy, wanted: Vec<(usize, K)>) -> Scouted<K, V> {
        let mut scouted = Scouted { found: Vec::new(), left: Vec::new(), next_tier: FIRST };
        // A single key is read and claimed in one trip the long way. Nobody else waits for this trip, or ends it early.
        let is_short = wanted.len() > 1 && policy.load_timeout >= self.fleet.trips_max(policy.lease_wait);
        let tier = self.fleet.tiers.first().filter(|tier| is_short && tier.is_up());
        let Some(tier) = tier else { return Scouted { left: wanted, ..scouted } };
        let (stamp, mark) = (self.fleet.sweeps.stamp(), self.fleet.horizon.mark());
        let mut spelled = Vec::with_capacity(wanted.len() * KEY_BYTES);
        let mut sought = Vec::with_capacity(wanted.len());
        for (number, key) in wanted {
            let hash = hash_of(&key);
            // Before the question whether the tier is trusted: an invalidation begins with that, and voids then.
            let voids = self.flights.voids(hash);
            let is_unwritten = self.writes.as_ref().is_some_and(|writes| writes.has(&key));
            // Who has something to fall back on waits no longer than `soft_timeout`.
            let is_patient =
                policy.soft_timeout >= ENDLESS || matches!(self.peek(&Probe { key: &key, hash }), Look::Miss);
            if !is_unwritten && is_patient {
                key.encode_into(&mut spelled);
                sought.push(Sought { number, key, hash, voids, end: spelled.len() });
            } else {
                scouted.left.push((number, key));
            }
        }
        let (sought, keys) = self.trusted(sought, spelled, mark, &mut scouted.left);
        if sought.is_empty() {
            return scouted;
        }
        let asked_us = self.clock.now_us();
        let answers = tier.read(&keys, None).await;
        if answers.iter().any(Result::is_err) {
            self.observer.tier_failed(&self.name, tier.name());
        }
        if answers.iter().all(Result::is_err) {
            scouted.next_tier = FIRST + 1;
        }
        scouted.found.reserve(sought.len());
        for ((sought, key), answer) in sought.into_iter().zip(&keys).zip(answers) {
            let asker = Asker { key, policy, mark, stamp, asked_us, tier: FIRST };
            let judged = match answer {
                Ok(Found::Value(payload)) => judge(self, &asker, &payload, Idle::under(policy, asked_us)),
                Ok(Found::Nothing | Found::Claimed { .. } | Found::Held { .. }) | Err(_) => Judged::Void,
            };
            // What else there is to say of the record is counted where it is met again.
            match judged {
                Judged::Fresh(answer, _) => {
                    tier.counters.hit(answer.value.as_ref());
                    self.keep(policy, &sought, &answer);
                    scouted.found.push((sought.number, answer));
                }
                Judged::Fallback(..) | Judged::Poison | Judged::Swept | Judged::Void => {
                    scouted.left.push((sought.number, sought.key));
                }
            }
        }
        scouted
    }

    /// Those that the tiers are trusted with, and how each is spelled. The others are left.
    fn trusted(
        &self,
        sought: Vec<Sought<K>>,
        spelled: Vec<u8>,
        mark: Mark,
        left: &mut Vec<(usize, K)>,
    ) -> (Vec<Sought<K>>, Vec<Bytes>) {
        let (spelled, trust) = (Bytes::from(spelled), self.fleet.trust(mark));
        let (mut trusted, mut keys) = (Vec::with_capacity(sought.len()), Vec::with_capacity(sought.len()));
        let mut begin = 0;
        for sought in sought {
            let key = spelled.slice(begin..sought.end);
            begin = sought.end;
            if trust.as_ref().is_some_and(|trust| trust.extends_to(&key)) {
                trusted.push(sought);
                keys.push(key);
            } else {
                left.push((sought.number, sought.key));
            }
        }
        (trusted, keys)
    }

    /// Stores it in L1, unless something there is newer or may be.
    fn keep(&self, policy: &Policy, sought: &Sought<K>, answer: &Answer<V>) {
        let Some((found, life, traits)) = self.storable(&sought.key, answer) else { return };
        let probe = Probe { key: &sought.key, hash: sought.hash };
        let mut displaced = Displaced::default();
        let shard = self.flights.lock(sought.hash);
        let there = self.peek(&probe);
        // A load that ended meanwhile has stored what is newer than a record that was there before.
        let is_free = matches!(
            there,
            Look::Miss | Look::Doubt(_, Standing::Fallback | Standing::Resting | Standing::Silent)
        );
        let may_store = is_free && shard.is_untouched_since(sought.voids);
        let is_kept = may_store && found.is_some() && keeps(policy.refresh_every);
        if may_store {
            self.local.install(&probe, found, life, traits, &mut displaced);
        }
        drop(shard);
        if let (true, Some(keeper)) = (is_kept, &self.keeper) {
            keeper.note(&sought.key, Purpose::Read, self.clock.now_us());
        }
    }
}
