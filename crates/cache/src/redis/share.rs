//! One cache's records in Redis. Each is a key of its own, spread over all slots of a cluster.
//! Refuses to let what failed for some keys of a read keep the others from their answers.
//! Given to caches by `RedisTier`.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{
    Owner,
    exec::{run, run_one},
    keys::{Keys, Slots},
    reads::{Claimed, Inspect, Look, Take, Way},
    writes::{Order, Write},
};
use crate::tier::{
    Answers, Claim, Found, Over, Put, Remnant, Settlement, Stored, TierError, TierFuture, TierShare, Token,
    Voiding,
};

/// Of a key without a value, when nothing was claimed.
const NOTHING: Claimed = Claimed::Found(Found::Nothing);

pub(super) struct RedisShare {
    owner: Arc<Owner>,
    /// Goes before each key.
    prefix: Vec<u8>,
}

impl fmt::Debug for RedisShare {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = String::from_utf8_lossy(&self.prefix);
        formatter.debug_struct("RedisShare").field("prefix", &prefix).finish_non_exhaustive()
    }
}

impl RedisShare {
    /// `name` is that of namespace and cache, escaped.
    pub(super) fn new(owner: Arc<Owner>, name: &str) -> Self {
        Self { owner, prefix: format!("{name}:").into_bytes() }
    }

    fn keys<'a>(&self, keys: impl Iterator<Item = &'a Bytes> + Clone) -> Keys {
        let slots = if self.owner.router.is_cluster() { Slots::Needed } else { Slots::Unused };
        Keys::new(&self.prefix, slots, keys.map(|key| &key[..]))
    }

    async fn look(&self, keys: &Keys, otherwise: Claimed) -> Answers<Claimed> {
        run(&self.owner.router, keys, &Look { keys, otherwise }).await
    }

    /// Takes what is no value; what the server has no room to take is looked at.
    ///
    /// Measured over loopback with 64 callers: single keys by `SET .. NX GET`, sent together, come at about
    /// the rate of bare `GET`. Of batches, both that and a script make half of what `MGET` makes; the cache reads
    /// a batch without a claim first.
    async fn claim(&self, keys: &Keys, claim: Claim) -> Answers<Claimed> {
        let script = &self.owner.scripts.claim;
        let take = Take { keys, claim, script, way: Way::Script };
        let mut claimed = run(&self.owner.router, keys, &take).await;
        let unclaimed = without_room(keys, &claimed);
        if !unclaimed.keys.is_empty() {
            let answers = self.look(&unclaimed.keys, NOTHING).await;
            unclaimed.members.iter().zip(answers).for_each(|(member, answer)| claimed[*member] = answer);
        }
        claimed
    }

    async fn read(&self, keys: &[Bytes], claim: Option<Claim>) -> Answers<Found> {
        let keys = self.keys(keys.iter());
        let found = match claim {
            None => self.look(&keys, NOTHING).await,
            Some(claim) => self.claim(&keys, claim).await,
        };
        found.into_iter().map(|found| found.map(found_by)).collect()
    }

    /// As `read`, of one key.
    async fn read_one(&self, key: &Bytes, claim: Option<Claim>) -> Result<Found, TierError> {
        let (keys, router) = (self.keys(std::iter::once(key)), &self.owner.router);
        let look = Look { keys: &keys, otherwise: NOTHING };
        let Some(claim) = claim else { return run_one(router, &keys, &look).await.map(found_by) };
        let script = &self.owner.scripts.claim;
        let take = |way| Take { keys: &keys, claim, script, way };
        // Many look with one command, and those who find nothing claim then.
        if claim.over == Over::Nothing && router.is_crowded() {
            let found = run_one(router, &keys, &look).await?;
            if let Claimed::Found(Found::Value(_)) = found {
                return Ok(found_by(found));
            }
        }
        let way = if claim.over == Over::Nothing { Way::Shortest } else { Way::Script };
        let mut claimed = run_one(router, &keys, &take(way)).await?;
        if claimed == Claimed::Again {
            claimed = run_one(router, &keys, &take(Way::Script)).await?;
        }
        if claimed == Claimed::NoRoom {
            claimed = run_one(router, &keys, &look).await?;
        }
        Ok(found_by(claimed))
    }

    async fn write<T: Order>(
        &self,
        keys: Keys,
        orders: &[T],
        script: &super::scripts::Script,
    ) -> Answers<Stored> {
        run(&self.owner.router, &keys, &Write { keys: &keys, orders, script }).await
    }
}

fn found_by(claimed: Claimed) -> Found {
    match claimed {
        Claimed::Found(found) => found,
        Claimed::Again | Claimed::NoRoom => Found::Nothing,
    }
}

/// Some of the keys, and their numbers among all.
struct Picked {
    keys: Keys,
    members: Vec<usize>,
}

fn without_room(keys: &Keys, claimed: &[Result<Claimed, TierError>]) -> Picked {
    let is_it = |member: &usize| claimed[*member] == Ok(Claimed::NoRoom);
    let members: Vec<usize> = (0..keys.len()).filter(is_it).collect();
    Picked { keys: keys.select(&members), members }
}

impl TierShare for RedisShare {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn is_up(&self) -> bool {
        self.owner.router.is_up()
    }

    fn read<'a>(&'a self, keys: &'a [Bytes], claim: Option<Claim>) -> TierFuture<'a, Answers<Found>> {
        Box::pin(async move { Ok(self.read(keys, claim).await) })
    }

    fn read_one<'a>(&'a self, key: &'a Bytes, claim: Option<Claim>) -> TierFuture<'a, Found> {
        Box::pin(self.read_one(key, claim))
    }

    fn inspect<'a>(&'a self, key: &'a Bytes) -> TierFuture<'a, Option<Remnant>> {
        Box::pin(async move {
            let keys = self.keys(std::iter::once(key));
            run_one(&self.owner.router, &keys, &Inspect { keys: &keys }).await
        })
    }

    fn settle<'a>(&'a self, claims: &'a [(Bytes, Token, Settlement)]) -> TierFuture<'a, Answers<Stored>> {
        Box::pin(async move {
            let keys = self.keys(claims.iter().map(|(key, ..)| key));
            Ok(self.write(keys, claims, &self.owner.scripts.settle).await)
        })
    }

    fn void<'a>(&'a self, keys: &'a [Voiding]) -> TierFuture<'a, Answers<()>> {
        Box::pin(async move {
            let names = self.keys(keys.iter().map(|voiding| &voiding.key));
            let voided = self.write(names, keys, &self.owner.scripts.void).await;
            Ok(voided.into_iter().map(|result| result.map(drop)).collect())
        })
    }

    fn put<'a>(&'a self, values: &'a [Put]) -> TierFuture<'a, Answers<Stored>> {
        Box::pin(async move {
            let keys = self.keys(values.iter().map(|put| &put.key));
            Ok(self.write(keys, values, &self.owner.scripts.put).await)
        })
    }
}
