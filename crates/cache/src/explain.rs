//! What is known of one key, for a person who asks why a read gave what it gave: here, in every shared tier, on the way
//! to the other nodes, and who voided it last. Changes nothing that is cached and claims nothing. Its reads of the tiers count as
//! calls of theirs.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    Cache, CacheKey, Version,
    backplane::{Mark, Swath},
    codec::Poisoned,
    epoch::Left,
    flight::lock,
    hash::Probe,
    judge::is_longer_than_given,
    life::Life,
    local::Traits,
    patterns::glob_of,
    store::{KeyForm, Standing, Store},
    tier::{Found, Remnant, TierError, Void},
    tier_side::TierSide,
};

/// What is known of one key. Spelled in a line for each place and each change, with the names of tags, prefixes and patterns.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// What this process holds.
    pub local: Option<LocalState>,
    /// What the shared tiers say, in their order.
    pub tiers: Vec<TierState>,
    /// True if a load is under way, or its failure is remembered.
    pub is_loading: bool,
    /// True if this node has changed the key and the others have not been told yet.
    pub is_pending: bool,
    /// What a load must at least reflect, by what this node has heard of the key. One that begins while it hears nothing, or soon
    /// after it had, is told [`Version::LATEST`].
    pub floor: Version,
    /// The last invalidation of this key by name that this node knows of. Forgotten once another key is voided that shares its slot,
    /// of which there are 1,024.
    pub invalidated: Option<LastInvalidation>,
    /// The last sweep that went over this key, of the last 64 that this node has made or heard: those from before it joined the others
    /// are not among them. By tag: as far as the tags of what
    /// it or a tier still has of the key tell.
    pub swept: Option<LastSweep>,
    /// How far this node has heard.
    pub mark: Mark,
}

/// An entry of this process.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LocalState {
    /// `fresh`, `due` for refresh, `fallback`, `resting` while the loader is left alone, `unvouched` or `silent` because
    /// the line is, or `over`.
    pub standing: &'static str,
    /// True if there is a value, false if it is known that there is none.
    pub has_value: bool,
    /// Since its load began.
    pub age: Duration,
    /// Until its time to live ends; zero if it has.
    pub remaining: Duration,
    /// Until it is no fallback any more.
    pub grace: Duration,
    /// As its loader said.
    pub version: Version,
    /// As its loader said.
    pub tags: Vec<Arc<str>>,
    /// As its loader said.
    pub validator: Option<Arc<str>>,
}

/// A record of a shared tier.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TierState {
    /// What the tier is called ([`TierOptions::name`](crate::TierOptions::name)).
    pub name: &'static str,
    /// What it is made of.
    pub kind: &'static str,
    /// `fresh`, `past its lifetime`, `of unknown age`, `swept`, `unreadable`, `nothing`, `not trusted`; or why it did not
    /// say: `down` if it was not asked, because there is no connection or it is left alone, `timed out`, or `failed` if
    /// it refused or its answer was none.
    pub state: &'static str,
    /// Why what it has is not given to those who read. None if it is, or if the tier has nothing, or does not say.
    pub why: Option<Unusable>,
    /// True if its record has a value, false if it says that there is none, or if there is no record to be read.
    pub has_value: bool,
    /// What the tier says is left of its life, its grace included.
    pub remaining: Duration,
    /// As its loader said.
    pub version: Version,
    /// As its loader said.
    pub tags: Vec<Arc<str>>,
}

/// Why a record of a shared tier is not given to those who read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unusable {
    /// The key was voided, or what was loaded could not be stored: what is loaded next must reflect the floor.
    Voided {
        /// [`Version::NONE`] if there is none.
        floor: Version,
        /// The old value is kept for loads that fail.
        has_fallback: bool,
    },
    /// Somebody loads it, or has died with the claim.
    Claimed {
        /// As above.
        floor: Version,
        /// As above.
        has_fallback: bool,
    },
    /// A sweep has gone over it: the last one over it that this node knows by name. None: one from before those, or an
    /// announcement that could not be told to the tier.
    Swept(Option<String>),
    /// It is of another order of announcements than this node judges by: the store behind the line has lost its own since, or it
    /// was written without a line.
    OtherOrder,
    /// Its lifetime has ended. It is a fallback for loads that fail.
    PastLifetime,
    /// More is left of its life than can have been given to it: the tier's clock was set back.
    UnknownAge,
    /// Its bytes are no value of this cache: another release or type wrote them ([`Poisoned::Schema`]), or they are damaged.
    Unreadable(Poisoned),
}

impl Unusable {
    fn of(remnant: &Remnant) -> Self {
        let (floor, has_fallback) = (remnant.floor, remnant.fallback.is_some());
        if remnant.is_claimed {
            Self::Claimed { floor, has_fallback }
        } else {
            Self::Voided { floor, has_fallback }
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = |has_fallback: &bool| if *has_fallback { ", old value kept" } else { "" };
        match self {
            Self::Voided { floor, has_fallback } => {
                write!(formatter, "void, {floor:?}{}", kept(has_fallback))
            }
            Self::Claimed { floor, has_fallback } => {
                write!(formatter, "somebody loads it, {floor:?}{}", kept(has_fallback))
            }
            Self::Swept(Some(by)) => write!(formatter, "swept by {by}"),
            Self::Swept(None) => formatter.write_str("swept"),
            Self::OtherOrder => formatter.write_str("of another order of announcements"),
            Self::PastLifetime => formatter.write_str("a fallback"),
            Self::UnknownAge => formatter.write_str("the tier's clock was set back"),
            Self::Unreadable(poisoned) => fmt::Display::fmt(poisoned, formatter),
        }
    }
}

/// An invalidation of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastInvalidation {
    /// What it left.
    pub how: Void,
    /// Of the write behind it.
    pub version: Version,
    /// Who announced it; zero: this node, or whoever wrote it to an outbox.
    pub origin: u64,
    /// How long ago this node did its part.
    pub ago: Duration,
}

/// A sweep over one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSweep {
    /// What it went over: `everything`, or a `tag`, `prefix` or `pattern` with its name.
    pub swath: String,
    /// What it left.
    pub how: Void,
    /// Of the write behind it, if that was said.
    pub version: Version,
    /// Who announced it; zero: this node, or whoever wrote it to an outbox, or somebody whose announcement could not be
    /// read.
    pub origin: u64,
    /// How long ago this node did its part.
    pub ago: Duration,
}

/// The last sweeps, oldest first.
#[derive(Debug, Default)]
pub(crate) struct SweepLog(Mutex<VecDeque<SweepNote>>);

#[derive(Debug)]
struct SweepNote {
    swath: Swath,
    how: Void,
    version: Version,
    origin: u64,
    at_us: u64,
}

const SWEEPS_MAX: usize = 64;

impl SweepLog {
    pub(crate) fn note(&self, swath: &Swath, how: Void, version: Version, origin: u64, at_us: u64) {
        let mut notes = lock(&self.0);
        if notes.len() == SWEEPS_MAX {
            notes.pop_front();
        }
        notes.push_back(SweepNote { swath: swath.clone(), how, version, origin, at_us });
    }

    fn last(&self, key: &[u8], tags: &[Arc<str>], now_us: u64) -> Option<LastSweep> {
        let notes = lock(&self.0);
        let note = notes.iter().rev().find(|note| goes_over(&note.swath, key, tags))?;
        let ago = Duration::from_micros(now_us.saturating_sub(note.at_us));
        Some(LastSweep {
            swath: spelled(&note.swath),
            how: note.how,
            version: note.version,
            origin: note.origin,
            ago,
        })
    }
}

fn goes_over(swath: &Swath, key: &[u8], tags: &[Arc<str>]) -> bool {
    match (swath, glob_of(swath)) {
        (_, Some(glob)) => glob.covers(key),
        (Swath::All, _) => true,
        (Swath::Prefix(prefix), _) => key.starts_with(prefix),
        (Swath::Tag(tag), _) => tags.contains(tag),
    }
}

fn spelled(swath: &Swath) -> String {
    match (swath, glob_of(swath)) {
        (_, Some(glob)) => format!("pattern {}", glob.pattern().escape_ascii()),
        (Swath::All, _) => "everything".to_owned(),
        (Swath::Prefix(prefix), _) => format!("prefix {}", prefix.escape_ascii()),
        (Swath::Tag(tag), _) => format!("tag {}", given(Arc::clone(tag))),
    }
}

/// A tag as the caller gave it: undoes `tags::name_of`.
fn given(name: Arc<str>) -> Arc<str> {
    match name.strip_prefix("\0=") {
        Some(given) => Arc::from(given),
        None => name,
    }
}

/// The last invalidations, by slots that keys share by hash.
#[derive(Debug)]
pub(crate) struct Chronicle(Box<[Mutex<Option<Note>>]>);

#[derive(Debug, Clone, Copy)]
struct Note {
    hash: u64,
    how: Void,
    version: Version,
    origin: u64,
    at_us: u64,
}

/// 1,024 x 56 bytes.
const SLOTS: u64 = 1_024;

impl Chronicle {
    pub(crate) fn new() -> Self {
        Self((0..SLOTS).map(|_| Mutex::default()).collect())
    }

    pub(crate) fn note(&self, hash: u64, how: Void, version: Version, origin: u64, at_us: u64) {
        *lock(self.slot(hash)) = Some(Note { hash, how, version, origin, at_us });
    }

    fn last(&self, hash: u64, now_us: u64) -> Option<LastInvalidation> {
        let note = (*lock(self.slot(hash))).filter(|note| note.hash == hash)?;
        let ago = Duration::from_micros(now_us.saturating_sub(note.at_us));
        Some(LastInvalidation { how: note.how, version: note.version, origin: note.origin, ago })
    }

    fn slot(&self, hash: u64) -> &Mutex<Option<Note>> {
        &self.0[usize::try_from((hash >> 20) % SLOTS).unwrap_or(0)]
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Cache<K, V> {
    /// What is known of `key`, here and in the shared tiers. Costs a read of each tier, and another call of one that has no value.
    pub async fn explain<Q: KeyForm<K> + ?Sized>(&self, key: &Q) -> Explanation {
        let store = &*self.store;
        let key = key.to_owned();
        let (probe, bytes, now_us) = (Probe::of(&key), key.encode(), store.clock.now_us());
        // Peeked at: who asks why is no reader whom an entry should be kept for.
        let local = match (store.local.peek(&probe), store.local.absences.peek(&probe)) {
            (Some(entry), _) => Some(store.local_state(&bytes, true, &entry.life, entry.traits.as_deref())),
            (_, Some(entry)) => Some(store.local_state(&bytes, false, &entry.life, entry.traits.as_deref())),
            (None, None) => None,
        };
        let mut tiers = Vec::new();
        for tier in &store.fleet.tiers {
            tiers.push(store.tier_state(tier, &bytes).await);
        }
        // By the names that the cache has for them, as they are in sweeps.
        let in_tiers = tiers.iter().flat_map(|tier| &tier.tags);
        let tags: Vec<_> = local.iter().flat_map(|local| &local.tags).chain(in_tiers).cloned().collect();
        let swept = store.sweep_log.last(&bytes, &tags, now_us);
        let shown = |tags: Vec<Arc<str>>| tags.into_iter().map(given).collect();
        Explanation {
            local: local.map(|local| LocalState { tags: shown(local.tags), ..local }),
            tiers: tiers.into_iter().map(|tier| TierState { tags: shown(tier.tags), ..tier }).collect(),
            swept,
            is_loading: store.flights.lock(probe.hash).find(&key, now_us).is_some(),
            is_pending: store.fleet.outbox.blocks(&bytes)
                || store.fleet.sweeps.pending().is_over(&bytes)
                || tags.iter().any(|tag| store.fleet.sweeps.tags.intern(tag).epoch.is_pending()),
            floor: store.floors.floor(probe.hash, now_us),
            invalidated: store.chronicle.last(probe.hash, now_us),
            mark: store.fleet.horizon.mark(),
        }
    }
}

impl<K: CacheKey, V: Clone + Send + Sync + 'static> Store<K, V> {
    fn local_state(&self, key: &Bytes, has_value: bool, life: &Life, traits: Option<&Traits>) -> LocalState {
        let now_us = self.clock.now_us();
        let until = |us: u64| Duration::from_micros(us.saturating_sub(now_us));
        let standing = match self.standing(|| key.clone(), life, traits) {
            Standing::Fresh => "fresh",
            Standing::Due => "due",
            Standing::Unvouched => "unvouched",
            Standing::Resting => "resting",
            Standing::Fallback => "fallback",
            Standing::Silent => "silent",
            Standing::Over => "over",
        };
        LocalState {
            standing,
            has_value,
            age: Duration::from_micros(now_us.saturating_sub(life.loaded_us)),
            remaining: until(life.expires_us),
            grace: until(life.grace_ends_us),
            version: traits.map_or_else(Default::default, |traits| traits.version),
            tags: traits.map_or_else(Vec::new, |traits| {
                traits.tags.iter().map(|tag| Arc::clone(&tag.name)).collect()
            }),
            validator: traits.and_then(|traits| traits.validator.clone()),
        }
    }

    async fn tier_state(&self, tier: &TierSide, key: &Bytes) -> TierState {
        let state = |state| TierState {
            name: tier.name(),
            kind: tier.kind(),
            state,
            why: None,
            has_value: false,
            remaining: Duration::ZERO,
            version: Version::NONE,
            tags: vec![],
        };
        let mark = self.fleet.horizon.mark();
        if !self.fleet.trusts_tiers_with(key, mark) {
            return state("not trusted");
        }
        let payload = match tier.read_one(key, None).await {
            Ok(Found::Value(payload)) => payload,
            Ok(_) => {
                // A tier that does not answer now has said that it has no value.
                let remnant = tier.inspect(key).await.ok().flatten();
                return TierState { why: remnant.as_ref().map(Unusable::of), ..state("nothing") };
            }
            Err(TierError::Down) => return state("down"),
            Err(TierError::TimedOut) => return state("timed out"),
            Err(TierError::Failed) => return state("failed"),
        };
        let opened = match self.codec.as_ref().map(|codec| codec.open(key, &payload.bytes)) {
            Some(Ok(opened)) => opened,
            unread => {
                let why = unread.and_then(Result::err).map(Unusable::Unreadable);
                return TierState { why, ..state("unreadable") };
            }
        };
        let tags: Vec<_> = opened.tags.iter().map(|tag| self.fleet.sweeps.tags.intern(tag)).collect();
        let (stands, why) = match self.fleet.left_of(key, &tags, &opened, mark) {
            // Without a line each sweep begins another order.
            Left::Nothing if self.fleet.line.is_some() && opened.incarnation != mark.incarnation => {
                ("swept", Some(Unusable::OtherOrder))
            }
            Left::Nothing | Left::Fallback => {
                let last = self.sweep_log.last(key, &opened.tags, self.clock.now_us());
                ("swept", Some(Unusable::Swept(last.map(|sweep| sweep.swath))))
            }
            Left::Whole if payload.remaining <= opened.grace => {
                ("past its lifetime", Some(Unusable::PastLifetime))
            }
            Left::Whole if is_longer_than_given(payload.remaining, opened.lifetime) => {
                ("of unknown age", Some(Unusable::UnknownAge))
            }
            Left::Whole => ("fresh", None),
        };
        TierState {
            why,
            has_value: opened.value.is_some(),
            remaining: payload.remaining,
            version: opened.version,
            tags: opened.tags,
            ..state(stands)
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.local {
            Some(local) => write!(formatter, "here: {local}")?,
            None => formatter.write_str("here: nothing")?,
        }
        for tier in &self.tiers {
            write!(formatter, "\n{tier}")?;
        }
        if self.is_loading {
            formatter.write_str("\na load is under way, or has just failed")?;
        }
        if self.is_pending {
            formatter.write_str("\nothers have yet to be told of a change")?;
        }
        if self.floor != Version::NONE {
            write!(formatter, "\nloads must reflect {:?}", self.floor)?;
        }
        if let Some(LastInvalidation { how, version, ago, .. }) = &self.invalidated {
            write!(formatter, "\nvoided by name: {how:?}, {version:?}, {ago:?} ago")?;
        }
        if let Some(LastSweep { swath, how, version, ago, .. }) = &self.swept {
            write!(formatter, "\nlast sweep: {swath}, {how:?}, {version:?}, {ago:?} ago")?;
        }
        Ok(())
    }
}

impl fmt::Display for LocalState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { standing, age, remaining, version, .. } = self;
        let what = if self.has_value { "a value" } else { "no such thing" };
        write!(formatter, "{standing}, {what}, {version:?}, {age:?} old, {remaining:?} left")
    }
}

impl fmt::Display for TierState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.name, self.state)?;
        if self.has_value {
            write!(formatter, ", {:?}, {:?} left", self.version, self.remaining)?;
        }
        match &self.why {
            Some(why) => write!(formatter, " ({why})"),
            None => Ok(()),
        }
    }
}
