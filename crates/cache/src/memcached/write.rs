//! Voids, and puts without a claim: read the record, change it, store it if it has not changed meanwhile,
//! else again. Ends whatever claim there is, because the CAS number changes. A server that has no room for
//! the new record loses the old one too. Called through `TierShare`.

use bytes::Bytes;

use super::{
    record::Record,
    share::{MemcachedShare, ROUNDS_MAX, Target, Turn, store},
    wire::{Command, Reply, When},
};
use crate::{
    Version,
    tier::{Answers, Put, Stored, TierError, Void, Voiding},
};

/// What became of one key.
type Outcome = Result<Stored, TierError>;

impl MemcachedShare {
    pub(super) async fn end_all(&self, voidings: &[Voiding]) -> Result<Answers<()>, TierError> {
        let keys: Vec<_> = voidings.iter().map(|voiding| &voiding.key).collect();
        let change = |index: usize, _target: &Target, record: &mut Record| {
            let voiding: &Voiding = &voidings[index];
            record.raise(voiding.version);
            record.claim = None;
            match voiding.how {
                Void::Remove => record.kept = None,
                Void::Expire => record.degrade(),
            }
            Stored::Yes
        };
        let stored = self.revise(&keys, change).await?;
        Ok(stored.into_iter().map(|outcome| outcome.map(drop)).collect())
    }

    pub(super) async fn put_all(&self, values: &[Put]) -> Result<Answers<Stored>, TierError> {
        let keys: Vec<_> = values.iter().map(|put| &put.key).collect();
        let change = |index: usize, target: &Target, record: &mut Record| {
            let put: &Put = &values[index];
            if target.connection.is_blind() {
                // It cannot be told whether this value was overtaken.
                record.raise(put.version);
                (record.claim, record.kept) = (None, None);
                return Stored::Refused;
            }
            if put.version < record.floor() {
                // What is there as a fallback was overtaken by this value, whatever has overtaken that. Of a value that
                // came after a change without a number it cannot be told whether it was.
                let is_overtaken = record.value().is_none() && record.kept.is_some();
                if is_overtaken || record.floor() == Version::LATEST {
                    (record.claim, record.kept) = (None, None);
                }
                return Stored::Refused;
            }
            record.raise(put.version);
            record.keep_floor_for(put.lifetime);
            record.fill(put.bytes.clone(), put.lifetime);
            Stored::Yes
        };
        self.revise(&keys, change).await
    }

    /// Changes each record atomically. Every key is tried even if others fail.
    async fn revise(
        &self,
        keys: &[&Bytes],
        change: impl Fn(usize, &Target, &mut Record) -> Stored,
    ) -> Result<Answers<Stored>, TierError> {
        let turn = self.turn().await?;
        let mut outcomes: Vec<Outcome> = vec![Err(TierError::Failed); keys.len()];
        let mut open: Vec<usize> = (0..keys.len()).collect();
        for _round in 0..ROUNDS_MAX {
            let mut targets = Vec::with_capacity(open.len());
            for index in open.drain(..) {
                match self.target(keys[index]) {
                    Ok(target) => targets.push((index, target)),
                    Err(down) => outcomes[index] = Err(down),
                }
            }
            open = self.revise_once(&turn, targets, &change, &mut outcomes).await;
            if open.is_empty() {
                break;
            }
        }
        Ok(outcomes)
    }

    /// One round. Gives the keys that changed between being read and being written.
    async fn revise_once(
        &self,
        turn: &Turn<'_>,
        targets: Vec<(usize, Target)>,
        change: &impl Fn(usize, &Target, &mut Record) -> Stored,
        outcomes: &mut [Outcome],
    ) -> Vec<usize> {
        let gets = targets.iter().map(|(_, target)| {
            (target.connection.clone(), Command::Get { key: target.key.clone(), vivify_s: None })
        });
        let read = turn.exchange(gets.collect()).await;
        let (mut written, mut commands) = (Vec::new(), Vec::new());
        for ((index, target), reply) in targets.into_iter().zip(read) {
            let (before, cas) = match reply {
                Ok(Reply::Item(item)) => (Record::open(&item), Some(item.cas)),
                Ok(_) => (Record::default(), None),
                Err(error) => {
                    outcomes[index] = Err(error);
                    continue;
                }
            };
            let mut record = before.clone();
            outcomes[index] = Ok(change(index, &target, &mut record));
            if (outcomes[index] == Ok(Stored::Yes) || record != before)
                && let Some(command) = self.replace(&target, &record, cas, &mut outcomes[index])
            {
                commands.push((target.connection.clone(), command));
                written.push((index, target));
            }
        }
        let replies = turn.exchange(commands).await;
        self.conclude(turn, written, replies, outcomes).await
    }

    /// The command that puts `record` where an item with this CAS number, or nothing, was read.
    fn replace(
        &self,
        target: &Target,
        record: &Record,
        cas: Option<u64>,
        outcome: &mut Outcome,
    ) -> Option<Command> {
        let key = target.key.clone();
        let when = cas.map_or(When::Absent, When::Unchanged);
        let Some(sealed) = record.seal() else {
            return cas.map(|cas| Command::Delete { key, cas: Some(cas) });
        };
        if self.fits(target, &sealed.payload) {
            return Some(store(key, when, sealed));
        }
        // The old value is void all the same; the floor stays.
        *outcome = Ok(Stored::Refused);
        let bare = Record { floor: record.floor, ..Record::default() };
        match (bare.seal(), cas) {
            (Some(sealed), _) => Some(store(key, when, sealed)),
            (None, Some(cas)) => Some(Command::Delete { key, cas: Some(cas) }),
            (None, None) => None,
        }
    }

    async fn conclude(
        &self,
        turn: &Turn<'_>,
        written: Vec<(usize, Target)>,
        replies: Vec<Result<Reply, TierError>>,
        outcomes: &mut [Outcome],
    ) -> Vec<usize> {
        let (mut changed, mut refused) = (Vec::new(), Vec::new());
        for ((index, target), reply) in written.into_iter().zip(replies) {
            match reply {
                Ok(Reply::Done { .. }) => {}
                Ok(Reply::Refused) => refused.push((index, target)),
                Ok(_) => {
                    outcomes[index] = Err(TierError::Failed);
                    changed.push(index);
                }
                Err(error) => outcomes[index] = Err(error),
            }
        }
        // No room for the record: what must not be read any more is taken away, its floor with it.
        let deletes = refused.iter().map(|(_, target)| {
            (target.connection.clone(), Command::Delete { key: target.key.clone(), cas: None })
        });
        let deleted = turn.exchange(deletes.collect()).await;
        for ((index, _), reply) in refused.iter().zip(deleted) {
            outcomes[*index] = match reply {
                Ok(Reply::Done { .. } | Reply::Unmet) => Ok(Stored::Refused),
                Ok(_) => Err(TierError::Failed),
                Err(error) => Err(error),
            };
        }
        changed
    }
}
