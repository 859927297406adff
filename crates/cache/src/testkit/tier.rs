//! A shared tier in memory: the states and moves that every tier has, on Tokio's clock.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::faults::{Dice, Faults};
use crate::{
    FLOOR_LIFE, Version,
    flight::lock,
    tier::{
        Answers, Claim, Found, Over, Payload, Put, Remnant, Settlement, Stored, TierError, TierFuture,
        TierShare, Token, Void, Voiding,
    },
};

/// The records of all caches.
#[derive(Debug, Clone)]
pub struct Shelf {
    records: Arc<Mutex<Records>>,
    dice: Arc<Dice>,
}

#[derive(Debug, Default)]
struct Records {
    by_key: HashMap<(Arc<str>, Bytes), Record>,
    /// Until when floors may have been forgotten.
    forgetful_until: Option<Instant>,
}

#[derive(Debug, Clone, Default)]
struct Record {
    floor: Version,
    floor_until: Option<Instant>,
    put: Version,
    payload: Option<(Bytes, Instant)>,
    state: State,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum State {
    #[default]
    Free,
    Claimed(Token, Instant),
    /// A value that is loaded anew.
    Ahead(Token, Instant),
    Value,
}

impl State {
    fn is_value(self) -> bool {
        matches!(self, Self::Value | Self::Ahead(..))
    }

    fn claim(self, now: Instant) -> Option<Token> {
        match self {
            Self::Claimed(token, until) | Self::Ahead(token, until) if until > now => Some(token),
            _ => None,
        }
    }
}

impl Shelf {
    /// An empty one.
    pub fn new(seed: u64) -> Self {
        Self { records: Arc::default(), dice: Arc::new(Dice::new(seed)) }
    }

    /// Loses everything, floors too: loads are told to read the latest until any floor would have ended.
    pub fn restart(&self) {
        let mut records = lock(&self.records);
        records.by_key.clear();
        records.forgetful_until = Some(Instant::now() + FLOOR_LIFE);
    }

    /// Overwrites every value of a cache with these bytes.
    pub fn poison(&self, cache: &str, bytes: &Bytes) {
        for ((name, _), record) in &mut lock(&self.records).by_key {
            if let (true, Some((payload, _))) = (**name == *cache, &mut record.payload) {
                *payload = bytes.clone();
            }
        }
    }

    /// How many records of a cache hold a value that is read.
    pub fn values(&self, cache: &str) -> usize {
        let records = lock(&self.records);
        records
            .by_key
            .iter()
            .filter(|((name, _), record)| **name == *cache && record.state.is_value())
            .count()
    }

    pub(crate) fn share(&self, cache: &str, faults: &Arc<Faults>) -> Share {
        Share { shelf: self.clone(), cache: Arc::from(cache), faults: Arc::clone(faults) }
    }
}

/// One cache's records, by one node's way.
#[derive(Debug)]
pub(crate) struct Share {
    shelf: Shelf,
    cache: Arc<str>,
    faults: Arc<Faults>,
}

impl Record {
    fn floor(&self, forgetful_until: Option<Instant>, now: Instant) -> Version {
        let own = if self.floor_until.is_some_and(|until| until > now) { self.floor } else { Version::NONE };
        if forgetful_until.is_some_and(|until| until > now) { Version::LATEST } else { own }
    }

    fn payload(&self, now: Instant) -> Option<Payload> {
        let (bytes, until) = self.payload.as_ref().filter(|(_, until)| *until > now)?;
        Some(Payload { bytes: bytes.clone(), remaining: *until - now })
    }

    fn read(&mut self, claim: Option<Claim>, forgetful_until: Option<Instant>, now: Instant) -> Found {
        let floor = self.floor(forgetful_until, now);
        let payload = self.payload(now);
        let is_value = self.state.is_value() && payload.is_some();
        let over = claim.map_or(Over::Nothing, |claim| claim.over);
        if let (true, Over::Nothing, Some(payload)) = (is_value, over, &payload) {
            return Found::Value(payload.clone());
        }
        let Some(claim) = claim else { return Found::Nothing };
        // Its own, after an answer that was lost, is taken again.
        if self.state.claim(now).is_some_and(|held| held != claim.token) {
            return Found::Held { floor, fallback: payload };
        }
        if over == Over::Poison {
            self.payload = None;
        }
        let until = end(now, claim.lease);
        let is_ahead = is_value && over == Over::Ahead;
        self.state =
            if is_ahead { State::Ahead(claim.token, until) } else { State::Claimed(claim.token, until) };
        Found::Claimed { floor, fallback: self.payload(now) }
    }

    fn remnant(&self, now: Instant) -> Option<Remnant> {
        let payload = self.payload(now);
        if self.state.is_value() && payload.is_some() {
            return None;
        }
        Remnant::of(self.floor(None, now), self.state.claim(now).is_some(), payload)
    }

    fn settle(&mut self, token: Token, settlement: &Settlement, now: Instant) -> Stored {
        if self.state.claim(now) != Some(token) {
            return Stored::Refused;
        }
        match settlement {
            Settlement::Value { bytes, lifetime } => {
                self.payload = Some((bytes.clone(), end(now, *lifetime)));
                self.state = State::Value;
            }
            Settlement::Extend { lifetime } => {
                let Some((_, until)) = &mut self.payload else {
                    self.state = State::Free;
                    return Stored::Refused;
                };
                *until = end(now, *lifetime);
                self.state = State::Value;
            }
            Settlement::Release if self.state.is_value() => self.state = State::Value,
            Settlement::Release | Settlement::Outdate => self.state = State::Free,
        }
        Stored::Yes
    }

    fn void(&mut self, voiding: &Voiding, now: Instant) {
        self.floor = self.floor(None, now).max(voiding.version);
        self.floor_until = Some(now + FLOOR_LIFE);
        self.state = State::Free;
        if voiding.how == Void::Remove {
            self.payload = None;
        }
    }

    fn put(&mut self, put: &Put, forgetful_until: Option<Instant>, now: Instant) -> Stored {
        if forgetful_until.is_some_and(|until| until > now) {
            self.void(&Voiding { key: put.key.clone(), version: put.version, how: Void::Remove }, now);
            return Stored::Refused;
        }
        if put.version < self.floor(None, now).max(self.put) {
            // What is there as a fallback was overtaken by this value, whatever has overtaken that. Of a value that came
            // after a change without a number it cannot be told whether it was.
            let is_overtaken = !self.state.is_value() && self.payload(now).is_some();
            if is_overtaken || self.floor(None, now) == Version::LATEST {
                self.payload = None;
                self.state = State::Free;
            }
            return Stored::Refused;
        }
        // LATEST is no number: its floor ends.
        if put.version != Version::LATEST {
            self.put = put.version;
        }
        self.floor = put.version;
        self.floor_until = Some(now + FLOOR_LIFE);
        self.payload = Some((put.bytes.clone(), end(now, put.lifetime)));
        self.state = State::Value;
        Stored::Yes
    }
}

/// What a tier said of all keys: the first error, if any of them has one.
///
/// # Errors
///
/// That one.
pub fn whole<T>(answers: Answers<T>) -> Result<Vec<T>, TierError> {
    answers.into_iter().collect()
}

/// A hundred years are for ever, and fit an instant.
fn end(now: Instant, lifetime: Duration) -> Instant {
    now + lifetime.min(Duration::from_secs(86_400 * 36_500))
}

impl Share {
    fn records(&self) -> MutexGuard<'_, Records> {
        lock(&self.shelf.records)
    }

    fn each<T>(
        &self,
        keys: impl Iterator<Item = Bytes>,
        mut act: impl FnMut(usize, &mut Record, Option<Instant>, Instant) -> T,
    ) -> Answers<T> {
        let now = Instant::now();
        let mut records = self.records();
        let forgetful_until = records.forgetful_until;
        let mut named = HashSet::new();
        keys.enumerate()
            .map(|(index, key)| {
                assert!(named.insert(key.clone()), "{key:?} is in one batch twice");
                if let Some(error) = self.faults.of_key(&key) {
                    return Err(error);
                }
                let record = records.by_key.entry((Arc::clone(&self.cache), key)).or_default();
                Ok(act(index, record, forgetful_until, now))
            })
            .collect()
    }
}

impl TierShare for Share {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn is_up(&self) -> bool {
        !self.faults.is_tier_down()
    }

    fn read<'a>(&'a self, keys: &'a [Bytes], claim: Option<Claim>) -> TierFuture<'a, Answers<Found>> {
        Box::pin(self.faults.call_tier(&self.shelf.dice, move || {
            self.each(keys.iter().cloned(), |_, record, forgetful, now| record.read(claim, forgetful, now))
        }))
    }

    fn inspect<'a>(&'a self, key: &'a Bytes) -> TierFuture<'a, Option<Remnant>> {
        let look = move || self.each(std::iter::once(key.clone()), |_, record, _, now| record.remnant(now));
        Box::pin(async move {
            let told = self.faults.call_tier(&self.shelf.dice, look).await?;
            told.into_iter().next().unwrap_or(Err(TierError::Failed))
        })
    }

    fn settle<'a>(&'a self, claims: &'a [(Bytes, Token, Settlement)]) -> TierFuture<'a, Answers<Stored>> {
        Box::pin(self.faults.call_tier(&self.shelf.dice, move || {
            let keys = claims.iter().map(|(key, _, _)| key.clone());
            self.each(keys, |index, record, _, now| {
                let (_, token, settlement) = &claims[index];
                record.settle(*token, settlement, now)
            })
        }))
    }

    fn void<'a>(&'a self, keys: &'a [Voiding]) -> TierFuture<'a, Answers<()>> {
        let void = move || {
            let names = keys.iter().map(|voiding| voiding.key.clone());
            self.each(names, |index, record, _, now| record.void(&keys[index], now))
        };
        Box::pin(async move {
            self.faults.carry_voids(keys.len()).await;
            self.faults.call_tier(&self.shelf.dice, void).await
        })
    }

    fn put<'a>(&'a self, values: &'a [Put]) -> TierFuture<'a, Answers<Stored>> {
        Box::pin(self.faults.call_tier(&self.shelf.dice, move || {
            let keys = values.iter().map(|put| put.key.clone());
            self.each(keys, |index, record, forgetful, now| record.put(&values[index], forgetful, now))
        }))
    }
}
