//! Reads, and claims what can be claimed. A key that is not there is claimed by the very read (`mg N`);
//! one that is voided, or has a value to be claimed over, by a second exchange that the CAS number fences.
//! Called through `TierShare`.

use bytes::Bytes;

use super::{
    claims::{Held, Remains},
    record::{Record, vivify_s},
    share::{MemcachedShare, ROUNDS_MAX, Target, Turn, store},
    wire::{Command, Item, Reply, When},
};
use crate::{
    Version,
    tier::{Answers, Claim, Found, Over, Remnant, TierError},
};

/// What a reply means for the key.
enum Next {
    Answer(Found),
    /// It can be claimed, if it still is as it was read.
    Attempt {
        record: Record,
        cas: u64,
    },
}

/// A claim that is being tried.
struct Attempt {
    index: usize,
    target: Target,
    record: Record,
}

impl MemcachedShare {
    pub(super) async fn look_up(
        &self,
        keys: &[Bytes],
        claim: Option<Claim>,
    ) -> Result<Answers<Found>, TierError> {
        let turn = self.turn().await?;
        // Who keeps losing races is answered as by a race lost: somebody else has it, nothing is known.
        let lost = Found::Held { floor: Version::LATEST, fallback: None };
        let mut answers: Answers<Found> = vec![Ok(lost); keys.len()];
        let mut open: Vec<usize> = (0..keys.len()).collect();
        for _round in 0..ROUNDS_MAX {
            let targets: Vec<(usize, Target)> = open
                .drain(..)
                .filter_map(|index| match self.target(&keys[index]) {
                    Ok(target) => Some((index, target)),
                    Err(down) => {
                        answers[index] = Err(down);
                        None
                    }
                })
                .collect();
            let attempts = self.look(&turn, targets, claim, &mut answers).await;
            if let Some(claim) = claim {
                open = self.attempt(&turn, attempts, claim, &mut answers).await;
            }
            if open.is_empty() {
                break;
            }
        }
        Ok(answers)
    }

    /// What lies under a key that has no value. Claims nothing.
    pub(super) async fn inspect_one(&self, key: &Bytes) -> Result<Option<Remnant>, TierError> {
        let turn = self.turn().await?;
        let target = self.target(key)?;
        let command = Command::Get { key: target.key.clone(), vivify_s: None };
        let reply = turn.exchange(vec![(target.connection, command)]).await.pop();
        match reply.unwrap_or(Err(TierError::Failed))? {
            Reply::Item(item) => Ok(Record::open(&item).remnant()),
            _ => Ok(None),
        }
    }

    /// Reads each key, answers those that can be, and gives the rest with the claim that would be made.
    async fn look(
        &self,
        turn: &Turn<'_>,
        targets: Vec<(usize, Target)>,
        claim: Option<Claim>,
        answers: &mut [Result<Found, TierError>],
    ) -> Vec<(Attempt, u64)> {
        let vivify_s = claim.map(|claim| vivify_s(claim.lease));
        let commands = targets.iter().map(|(_, target)| {
            (target.connection.clone(), Command::Get { key: target.key.clone(), vivify_s })
        });
        let mut attempts = Vec::new();
        for ((index, target), reply) in targets.iter().zip(turn.exchange(commands.collect()).await) {
            let item = match reply {
                Ok(Reply::Item(item)) => item,
                Ok(_) => {
                    answers[*index] = Ok(Found::Nothing);
                    continue;
                }
                Err(error) => {
                    answers[*index] = Err(error);
                    continue;
                }
            };
            match self.judge(target, &item, claim) {
                Next::Answer(found) => answers[*index] = Ok(found),
                Next::Attempt { record, cas } => {
                    attempts.push((Attempt { index: *index, target: target.clone(), record }, cas));
                }
            }
        }
        attempts
    }

    fn judge(&self, target: &Target, item: &Item, claim: Option<Claim>) -> Next {
        let mut record = Record::open(item);
        let Some(claim) = claim else {
            return Next::Answer(record.value().map_or(Found::Nothing, Found::Value));
        };
        if item.is_won {
            let held = Held::new(claim.token, claim.lease, target.connection.clone(), item.cas);
            self.claims.remember(target.key.clone(), held);
            return Next::Answer(Found::Claimed { floor: target.floor(Version::NONE), fallback: None });
        }
        let (floor, fallback) = (target.floor(record.floor()), record.fallback());
        if let (Some(value), Over::Nothing) = (record.value(), claim.over) {
            return Next::Answer(Found::Value(value));
        }
        if let Some(lease) = record.claim {
            // A claim made by a call whose answer was lost is found again.
            let is_own = self.claims.holds(&target.key, claim.token, item.cas);
            if lease.token == claim.token && !is_own {
                self.keep(target, &record, claim, item.cas);
            }
            let is_own = is_own || lease.token == claim.token;
            return Next::Answer(if is_own {
                Found::Claimed { floor, fallback }
            } else {
                Found::Held { floor, fallback }
            });
        }
        if claim.over == Over::Poison {
            record.kept = None;
        }
        record.claim(claim);
        Next::Attempt { record, cas: item.cas }
    }

    /// Makes the claims, and gives the keys that changed meanwhile.
    async fn attempt(
        &self,
        turn: &Turn<'_>,
        attempts: Vec<(Attempt, u64)>,
        claim: Claim,
        answers: &mut [Result<Found, TierError>],
    ) -> Vec<usize> {
        let mut tried = Vec::with_capacity(attempts.len());
        let mut commands = Vec::with_capacity(attempts.len());
        for (attempt, cas) in attempts {
            let Some(sealed) = attempt.record.seal() else { continue };
            let command = store(attempt.target.key.clone(), When::Unchanged(cas), sealed);
            commands.push((attempt.target.connection.clone(), command));
            tried.push(attempt);
        }
        let mut changed = Vec::new();
        for (attempt, reply) in tried.into_iter().zip(turn.exchange(commands).await) {
            let Attempt { index, target, record } = attempt;
            answers[index] = match reply {
                Ok(Reply::Done { cas }) => {
                    self.keep(&target, &record, claim, cas);
                    Ok(Found::Claimed { floor: target.floor(record.floor()), fallback: record.fallback() })
                }
                Ok(Reply::Unmet) => {
                    changed.push(index);
                    continue;
                }
                // No room for the claim: nothing may be stored, and the loader is asked.
                Ok(_) => Ok(Found::Nothing),
                Err(error) => Err(error),
            };
        }
        changed
    }

    fn keep(&self, target: &Target, record: &Record, claim: Claim, cas: u64) {
        let mut held = Held::new(claim.token, claim.lease, target.connection.clone(), cas);
        held.floor = record.floor;
        let is_bare = record.floor.is_none() && record.kept.is_none();
        held.remains = if is_bare { Remains::Nothing } else { Remains::Something };
        self.claims.remember(target.key.clone(), held);
    }
}
