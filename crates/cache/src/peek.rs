//! Reads that call no loader: of one key or many, from L1, from loads under way and from the shared tiers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use tracing::Instrument;

use crate::{
    Cache, CacheKey, Loaded, Policy,
    answer::Answer,
    batch::ROUND_MAX,
    consult::{Verdict, consult},
    flight::Outcome,
    hash::{BuildAsGiven, Probe, Stored},
    lead::{Boarding, Lead, Purpose, Storing},
    read::Landed,
    spans,
    stats::count,
    store::{KeyForm, Store},
};

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// The value of `key` from L1, from a load that is under way, or from the shared tiers. Calls no loader; `None` if
    /// nobody knows of a value.
    pub async fn read<Q: KeyForm<K> + ?Sized>(&self, key: &Q) -> Option<Loaded<V>> {
        let probe = Probe::of(key);
        if let Some(answer) = self.looked_at(&probe) {
            return Some(self.loaded(answer));
        }
        let answer = Box::pin(self.store.peek_slow(key.to_owned(), &self.policy)).await?;
        Some(self.loaded(answer))
    }

    /// As [`read`](Self::read), of many keys, in their order: one trip to each tier for all that L1 does not have, up to 512
    /// of them at a time. A key that is named several times is looked up once.
    pub async fn read_many<'key, Q>(&self, keys: impl IntoIterator<Item = &'key Q>) -> Vec<Option<Loaded<V>>>
    where
        Q: KeyForm<K> + ?Sized + 'key,
    {
        let keys: Vec<K> = keys.into_iter().map(ToOwned::to_owned).collect();
        let mut known: HashMap<Stored<K>, Option<Answer<V>>, BuildAsGiven> = HashMap::default();
        let mut missing = Vec::new();
        for key in &keys {
            known.entry(Stored(key.clone())).or_insert_with(|| {
                let answer = self.looked_at(&Probe::of(key));
                if answer.is_none() {
                    missing.push(key.clone());
                }
                answer
            });
        }
        let rounds = missing.chunks(ROUND_MAX).map(|round| {
            let (span, keys) = (spans::read(&self.store.name, round.len()), round.len());
            let reading = self.store.peek_many(round.to_vec(), &self.policy).instrument(span.clone());
            reading.inspect(move |found| {
                spans::peek_ended(&span, keys, found.iter().map(|(_, answer)| answer));
            })
        });
        let found = join_all(rounds).await.into_iter().flatten();
        known.extend(found.map(|(key, answer)| (Stored(key), Some(answer))));
        keys.into_iter()
            .map(|key| known.get(&Stored(key)).cloned().flatten().map(|answer| self.loaded(answer)))
            .collect()
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Store<K, V> {
    /// Reads `key` in L1, loads under way and the shared tiers; calls no loader.
    pub(crate) async fn peek_slow(self: &Arc<Self>, key: K, policy: &Arc<Policy>) -> Option<Answer<V>> {
        let span = spans::read(&self.name, 1);
        let found = self.peek_past(key, policy).instrument(span.clone()).await;
        spans::peek_ended(&span, 1, found.iter());
        found
    }

    async fn peek_past(self: &Arc<Self>, key: K, policy: &Arc<Policy>) -> Option<Answer<V>> {
        loop {
            let waiter = match self.board(&key, policy, Purpose::Peek, None) {
                Boarding::Found(look) => return self.settled_by(look).map(|(answer, _)| answer),
                Boarding::Full => return None,
                Boarding::Joined(waiter) => {
                    count(&self.counters.joins);
                    waiter
                }
                Boarding::Lead(mut lead) => {
                    return match self.asked_tiers(&mut lead).await {
                        Verdict::Found(answer) => {
                            lead.settle(answer.clone(), Storing::Yes);
                            Some(answer)
                        }
                        _ => {
                            lead.fail(Outcome::NotLoaded, Duration::ZERO);
                            None
                        }
                    };
                }
            };
            match self.landed::<()>(&key, policy, waiter).await {
                Landed::Answered(answer) => return Some(answer),
                Landed::Refused(_) | Landed::Nothing => return None,
                Landed::Again => {}
            }
        }
    }

    /// What is known of these keys, each of which is there once.
    async fn peek_many(self: &Arc<Self>, keys: Vec<K>, policy: &Arc<Policy>) -> Vec<(K, Answer<V>)> {
        let (mut found, mut leads, mut joined) = (Vec::new(), Vec::new(), Vec::new());
        for key in keys {
            match self.board(&key, policy, Purpose::Peek, None) {
                Boarding::Found(look) => found.extend(self.settled_by(look).map(|(answer, _)| (key, answer))),
                Boarding::Full => {}
                Boarding::Joined(waiter) => {
                    count(&self.counters.joins);
                    joined.push((key, waiter));
                }
                Boarding::Lead(lead) => leads.push(lead),
            }
        }
        leads.iter().for_each(Lead::take_in_hand);
        let verdicts = consult(&mut leads, 0).await;
        for (mut lead, verdict) in leads.into_iter().zip(verdicts) {
            if let Verdict::Found(answer) = verdict {
                lead.settle(answer.clone(), Storing::Yes);
                found.push((lead.key.clone(), answer));
            } else {
                lead.fail(Outcome::NotLoaded, Duration::ZERO);
            }
        }
        let landed = joined.into_iter().map(|(key, waiter)| async move {
            let answer = match self.landed::<()>(&key, policy, waiter).await {
                Landed::Answered(answer) => Some(answer),
                Landed::Refused(_) | Landed::Nothing => None,
                Landed::Again => Box::pin(self.peek_past(key.clone(), policy)).await,
            };
            answer.map(|answer| (key, answer))
        });
        found.extend(join_all(landed).await.into_iter().flatten());
        found
    }
}
