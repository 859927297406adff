//! One cache's share of the table: each verb is one statement for the whole batch. Reads that lost a race
//! for a claim are asked again, for the keys that lost it. Called through `TierShare`.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio_postgres::{Row, types::ToSql};

use super::Owner;
use crate::{
    FLOOR_LIFE, Version,
    tier::{
        Answers, Claim, Found, Over, Payload, Put, Remnant, Settlement, Stored, TierError, TierFuture,
        TierShare, Token, Void, Voiding,
    },
};

/// Longer keys are kept by their beginning and their SHA-256: an index entry has to fit a third of a page.
const KEY_BYTES_MAX: usize = 1_000;

/// Times that a key is asked for again because it changed between being read and being claimed.
const ROUNDS_MAX: usize = 8;

/// No record lives longer: the arithmetic of timestamps must not overflow.
const LIFE_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

#[derive(Debug)]
pub(super) struct PostgresShare {
    owner: Arc<Owner>,
    cache: String,
}

impl PostgresShare {
    pub(super) fn new(owner: Arc<Owner>, cache: &str) -> Self {
        Self { owner, cache: cache.to_owned() }
    }

    fn limit(&self) -> Duration {
        self.owner.options.command_timeout
    }

    async fn read_plain(&self, keys: &[Bytes]) -> Result<Vec<Found>, TierError> {
        let turn = self.owner.turn().await?;
        let names = names(keys);
        let names = slices(&names);
        let session = &turn.session;
        let rows = session.query(self.limit(), &session.statements.read, &[&self.cache, &names]).await?;
        let mut found = vec![Found::Nothing; keys.len()];
        for row in rows {
            *place(&mut found, &row)? = payload(&row, 1)?.map_or(Found::Nothing, Found::Value);
        }
        Ok(found)
    }

    async fn inspect_one(&self, key: &Bytes) -> Result<Option<Remnant>, TierError> {
        let turn = self.owner.turn().await?;
        let (session, key) = (&turn.session, name(key));
        let key: &[u8] = &key;
        let parameters: [&(dyn ToSql + Sync); 2] = [&self.cache, &key];
        let rows = session.query(self.limit(), &session.statements.inspect, &parameters).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let floor: Option<i64> = row.try_get(0).map_err(|_| TierError::Failed)?;
        let is_claimed: bool = row.try_get(1).map_err(|_| TierError::Failed)?;
        Ok(Remnant::of(floor.map_or(Version::NONE, version), is_claimed, payload(row, 2)?))
    }

    async fn read_or_claim(&self, keys: &[Bytes], claim: Claim) -> Result<Vec<Found>, TierError> {
        let turn = self.owner.turn().await?;
        let session = &turn.session;
        let names = names(keys);
        let over: i16 = match claim.over {
            Over::Nothing => 0,
            Over::Value => 1,
            Over::Poison => 2,
            Over::Ahead => 3,
        };
        // Who keeps losing races is answered as by a race lost: somebody else has it, nothing is known.
        let lost = Found::Held { floor: Version::LATEST, fallback: None };
        let mut found = vec![lost; keys.len()];
        let mut open: Vec<usize> = (0..keys.len()).collect();
        for _round in 0..ROUNDS_MAX {
            let asked: Vec<&[u8]> = open.iter().map(|index| &names[*index][..]).collect();
            let (token, lease_ms) = (claim.token.0.cast_signed(), milliseconds(claim.lease).max(1));
            let rows = session
                .query(
                    self.limit(),
                    &session.statements.claim,
                    &[&self.cache, &asked, &token, &lease_ms, &over],
                )
                .await?;
            let mut changed = Vec::new();
            for row in rows {
                let index = *place(&mut open, &row)?;
                match answer(&row)? {
                    Some(answer) => found[index] = answer,
                    None => changed.push(index),
                }
            }
            open = changed;
            if open.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    async fn settle_all(&self, claims: &[(Bytes, Token, Settlement)]) -> Result<Vec<Stored>, TierError> {
        let turn = self.owner.turn().await?;
        let session = &turn.session;
        let names: Vec<_> = claims.iter().map(|(key, ..)| name(key)).collect();
        let names = slices(&names);
        let tokens: Vec<i64> = claims.iter().map(|(_, token, _)| token.0.cast_signed()).collect();
        let max = self.owner.options.value_bytes_max;
        let (mut kinds, mut payloads, mut lives_ms) = (Vec::new(), Vec::new(), Vec::new());
        for (.., settlement) in claims {
            let (kind, payload, life_ms) = match settlement {
                Settlement::Value { bytes, lifetime } => (0, Some(&bytes[..]), milliseconds(*lifetime)),
                Settlement::Extend { lifetime } => (1, None, milliseconds(*lifetime)),
                Settlement::Release => (RELEASE, None, 0),
                Settlement::Outdate => (OUTDATE, None, 0),
            };
            let fits = payload.is_none_or(|payload| payload.len() <= max);
            // What has no life, or no room, leaves the key to the next reader.
            let is_nothing = kind != RELEASE && (life_ms == 0 || !fits);
            kinds.push(if is_nothing { OUTDATE } else { kind });
            payloads.push(payload.filter(|_| fits));
            lives_ms.push(life_ms);
        }
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&self.cache, &names, &tokens, &kinds, &payloads, &lives_ms];
        let rows = session.query(self.limit(), &session.statements.settle, &parameters).await?;
        let mut stored = vec![Stored::Refused; claims.len()];
        for row in rows {
            *place(&mut stored, &row)? = Stored::Yes;
        }
        for ((.., settlement), stored) in claims.iter().zip(&mut stored) {
            if matches!(settlement, Settlement::Value { bytes, .. } if bytes.len() > max) {
                *stored = Stored::Refused;
            }
        }
        Ok(stored)
    }

    async fn void_all(&self, voidings: &[Voiding]) -> Result<(), TierError> {
        let turn = self.owner.turn().await?;
        let session = &turn.session;
        let names: Vec<_> = voidings.iter().map(|voiding| name(&voiding.key)).collect();
        let names = slices(&names);
        let versions: Vec<i64> = voidings.iter().map(|voiding| ordered(voiding.version)).collect();
        let marks: Vec<Option<i64>> =
            voidings.iter().map(|voiding| (voiding.how == Void::Expire).then_some(0)).collect();
        let floor_ms = milliseconds(FLOOR_LIFE);
        let parameters: [&(dyn ToSql + Sync); 5] = [&self.cache, &names, &versions, &marks, &floor_ms];
        session.execute(self.limit(), &session.statements.void, &parameters).await.map(|_rows| ())
    }

    async fn put_all(&self, values: &[Put]) -> Result<Vec<Stored>, TierError> {
        let mut stored = vec![Stored::Refused; values.len()];
        let max = self.owner.options.value_bytes_max;
        let fit: Vec<usize> = (0..values.len()).filter(|index| values[*index].bytes.len() <= max).collect();
        // What is put and has no room is voided: it was written, and what is there is older.
        let void = |put: &Put| Voiding { key: put.key.clone(), version: put.version, how: Void::Remove };
        let unfit: Vec<Voiding> = values.iter().filter(|put| put.bytes.len() > max).map(void).collect();
        if !unfit.is_empty() {
            self.void_all(&unfit).await?;
        }
        let turn = self.owner.turn().await?;
        let session = &turn.session;
        let names: Vec<_> = fit.iter().map(|index| name(&values[*index].key)).collect();
        let names = slices(&names);
        let versions: Vec<i64> = fit.iter().map(|index| ordered(values[*index].version)).collect();
        let payloads: Vec<&[u8]> = fit.iter().map(|index| &values[*index].bytes[..]).collect();
        let lives_ms: Vec<i64> = fit.iter().map(|index| milliseconds(values[*index].lifetime)).collect();
        let floor_ms = milliseconds(FLOOR_LIFE);
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&self.cache, &names, &versions, &payloads, &lives_ms, &floor_ms];
        let mut places = fit;
        for row in session.query(self.limit(), &session.statements.put, &parameters).await? {
            stored[*place(&mut places, &row)?] = Stored::Yes;
        }
        Ok(stored)
    }
}

/// The kinds of settlements that leave nothing new.
const RELEASE: i16 = 2;
const OUTDATE: i16 = 3;

impl TierShare for PostgresShare {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn is_up(&self) -> bool {
        self.owner.table.is_up()
    }

    fn read<'a>(&'a self, keys: &'a [Bytes], claim: Option<Claim>) -> TierFuture<'a, Answers<Found>> {
        match claim {
            Some(claim) => Box::pin(async move { all(self.read_or_claim(keys, claim).await?) }),
            None => Box::pin(async move { all(self.read_plain(keys).await?) }),
        }
    }

    fn inspect<'a>(&'a self, key: &'a Bytes) -> TierFuture<'a, Option<Remnant>> {
        Box::pin(self.inspect_one(key))
    }

    fn settle<'a>(&'a self, claims: &'a [(Bytes, Token, Settlement)]) -> TierFuture<'a, Answers<Stored>> {
        Box::pin(async move { all(self.settle_all(claims).await?) })
    }

    fn void<'a>(&'a self, keys: &'a [Voiding]) -> TierFuture<'a, Answers<()>> {
        Box::pin(async move {
            self.void_all(keys).await?;
            all(vec![(); keys.len()])
        })
    }

    fn put<'a>(&'a self, values: &'a [Put]) -> TierFuture<'a, Answers<Stored>> {
        Box::pin(async move { all(self.put_all(values).await?) })
    }
}

/// There is one server: it answers about every key or about none.
fn all<T>(answers: Vec<T>) -> Result<Answers<T>, TierError> {
    Ok(answers.into_iter().map(Ok).collect())
}

/// What a row of a read with a claim says. `None` if the key changed meanwhile.
fn answer(row: &Row) -> Result<Option<Found>, TierError> {
    let found: i16 = row.try_get(1).map_err(|_| TierError::Failed)?;
    let floor: Option<i64> = row.try_get(2).map_err(|_| TierError::Failed)?;
    let floor = floor.map_or(Version::NONE, version);
    let payload = payload(row, 3)?;
    Ok(match found {
        0 => payload.map(Found::Value),
        1 => Some(Found::Claimed { floor, fallback: payload }),
        2 => Some(Found::Held { floor, fallback: payload }),
        _ => None,
    })
}

/// The payload in this column, and what the next one says is left of it.
fn payload(row: &Row, column: usize) -> Result<Option<Payload>, TierError> {
    let bytes: Option<&[u8]> = row.try_get(column).map_err(|_| TierError::Failed)?;
    let left_ms: Option<i64> = row.try_get(column + 1).map_err(|_| TierError::Failed)?;
    let Some((bytes, left_ms)) = bytes.zip(left_ms) else { return Ok(None) };
    let remaining = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
    Ok(Some(Payload { bytes: Bytes::copy_from_slice(bytes), remaining }))
}

/// What stands where the row's first column points: it counts from one.
fn place<'a, T>(all: &'a mut [T], row: &Row) -> Result<&'a mut T, TierError> {
    let number: i64 = row.try_get(0).map_err(|_| TierError::Failed)?;
    let index = usize::try_from(number - 1).map_err(|_| TierError::Failed)?;
    all.get_mut(index).ok_or(TierError::Failed)
}

fn names(keys: &[Bytes]) -> Vec<Cow<'_, [u8]>> {
    keys.iter().map(|key| name(key)).collect()
}

fn slices<'a>(names: &'a [Cow<'_, [u8]>]) -> Vec<&'a [u8]> {
    names.iter().map(|name| &name[..]).collect()
}

/// The key as the table has it. One that was shortened is longer than any that was not.
fn name(key: &Bytes) -> Cow<'_, [u8]> {
    if key.len() <= KEY_BYTES_MAX {
        return Cow::Borrowed(key);
    }
    let digest = Sha256::digest(key);
    Cow::Owned([&key[..KEY_BYTES_MAX], &digest[..]].concat())
}

/// A version as a number that compares likewise in the table.
fn ordered(version: Version) -> i64 {
    (version.0 ^ (1 << 63)).cast_signed()
}

fn version(ordered: i64) -> Version {
    Version(ordered.cast_unsigned() ^ (1 << 63))
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.min(LIFE_MAX).as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_keep_their_order_and_come_back() {
        let versions =
            [0, 1, u64::from(u32::MAX), (1 << 63) - 1, 1 << 63, u64::MAX - 1, u64::MAX].map(Version);
        assert!(versions.is_sorted_by_key(|version| ordered(*version)));
        for given in versions {
            assert_eq!(version(ordered(given)), given);
        }
        assert_eq!(ordered(Version::NONE), i64::MIN);
    }

    #[test]
    fn long_keys_are_shortened_and_do_not_meet() {
        let (long, longer) =
            (Bytes::from(vec![b'x'; KEY_BYTES_MAX + 1]), Bytes::from(vec![b'x'; KEY_BYTES_MAX + 2]));
        let limit = Bytes::from(vec![b'x'; KEY_BYTES_MAX]);
        assert_eq!(name(&limit), &limit[..]);
        assert_ne!(name(&long), name(&longer));
        assert!(name(&long).len() > KEY_BYTES_MAX);
    }
}
