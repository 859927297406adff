//! What a record of a shared tier is worth to this node: whether it can be read, is of the order that this node judges by,
//! has been swept, and how long it may live in process. Refuses to know who asks and what becomes of the answer.
//! Called by `consult`, `scout` and `explain`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    CacheKey, Policy,
    answer::{Answer, Origin},
    backplane::Mark,
    clock::micros,
    codec::Opened,
    epoch::Left,
    fleet::Fleet,
    life::{Life, Span, State},
    local::{Idle, Traits},
    store::Store,
    tags::Tag,
    tier::Payload,
};

/// On whose behalf a tier was asked, and when.
pub(crate) struct Asker<'a> {
    pub(crate) key: &'a Bytes,
    pub(crate) policy: &'a Policy,
    /// What the fleet had announced, and this node heard, before it asked.
    pub(crate) mark: Mark,
    /// The last sweep of this node before it asked.
    pub(crate) stamp: u64,
    pub(crate) asked_us: u64,
    /// The number of the tier.
    pub(crate) tier: usize,
}

/// What bytes from a tier are.
pub(crate) enum Judged<V> {
    Fresh(Answer<V>, Terms),
    /// Past its lifetime or expired by a sweep; if it may be extended as it is, the terms that it was stored under.
    Fallback(Answer<V>, Option<Terms>),
    /// They cannot be read.
    Poison,
    /// A sweep has voided it, or what it says of sweeps cannot be judged.
    Swept,
    /// Past its lifetime, and no fallback.
    Void,
}

/// What a record says of its life: another cannot be given to it where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) grace: Duration,
    /// All of it, if it says so.
    pub(crate) lifetime: Option<Duration>,
}

impl Terms {
    /// True if a record under these terms says nothing untrue once it is given a life under others, but for what chance makes of
    /// two lives under one policy.
    pub(crate) fn are_those_of(&self, others: &Self, jitter: f64) -> bool {
        // As precise as a record is.
        let fresh =
            |terms: &Self| terms.lifetime.map(|lifetime| lifetime.saturating_sub(terms.grace).as_millis());
        let is_within = |one: u128, other: u128| {
            let longest = one.min(other) as f64 * (1.0 + jitter.clamp(0.0, 1.0)) + 2.0;
            one.max(other) as f64 <= longest
        };
        let is_as_long = fresh(self).zip(fresh(others)).is_none_or(|(one, other)| is_within(one, other));
        is_as_long && self.grace.as_millis() == others.grace.as_millis()
    }
}

/// Of values that are given more than this nobody knows how old they are: memcached keeps none for longer than 30 days.
const AGE_MAX: Duration = Duration::from_secs(29 * 86_400);

/// What a server may count more of a life than it was given, by whole seconds.
const LIFE_MORE: Duration = Duration::from_secs(2);

/// True if more is left of a life than can have been given to it: the clock by which the tier counts was set back, and how old
/// the value is nobody knows.
pub(crate) fn is_longer_than_given(remaining: Duration, given: Option<Duration>) -> bool {
    // Another life may have been given to it since, of which chance made up to twice as much.
    let longest = |given: Duration| given.saturating_mul(2).saturating_add(LIFE_MORE);
    given.filter(|given| *given <= AGE_MAX).is_some_and(|given| remaining > longest(given))
}

/// Judges what a tier gave. `idle` is that of the entry in process.
pub(crate) fn judge<K: CacheKey, V: Clone + Send + Sync + 'static>(
    store: &Store<K, V>,
    asker: &Asker<'_>,
    payload: &Payload,
    idle: Option<Idle>,
) -> Judged<V> {
    let Some(codec) = &store.codec else { return Judged::Void };
    let Ok(opened) = codec.open(asker.key, &payload.bytes) else { return Judged::Poison };
    let horizon = &store.fleet.horizon;
    let tags: Box<[_]> = opened.tags.iter().map(|tag| store.fleet.sweeps.tags.intern(tag)).collect();
    let left = store.fleet.left_of(asker.key, &tags, &opened, asker.mark);
    if left == Left::Nothing {
        return Judged::Swept;
    }
    if is_longer_than_given(payload.remaining, opened.lifetime) {
        return Judged::Void;
    }
    let traits = Traits { tags, version: opened.version, validator: opened.validator.clone(), idle };
    let fresh_left = payload.remaining.saturating_sub(opened.grace);
    let is_fresh = left == Left::Whole && !fresh_left.is_zero();
    let life = life_of(asker, &opened, fresh_left, payload.remaining);
    // What the tier took of its lifetime may be less than it was given: by its options, or because it keeps nothing for so long.
    let options = &store.fleet.tiers[asker.tier].options;
    let terms = Terms { grace: opened.grace, lifetime: opened.lifetime };
    let lifetime = opened.lifetime.map(|given| given.min(options.ttl.saturating_add(opened.grace)));
    let lifetime = lifetime.filter(|lifetime| *lifetime <= AGE_MAX);
    let age_us = lifetime.map_or(0, |lifetime| micros(lifetime.saturating_sub(payload.remaining)));
    let loaded_us = asker.asked_us.saturating_sub(age_us);
    // It was judged by what had been announced when the line was heard last.
    let loaded_us = match &store.fleet.line {
        Some(_) => loaded_us.min(horizon.vouched_us()),
        None => loaded_us,
    };
    let life = Life { loaded_us, ..life };
    let life = if is_fresh { life } else { life.as_fallback(0) };
    let answer = Answer {
        value: opened.value,
        life,
        traits: traits.shared(),
        origin: Origin::Tier(asker.tier),
        is_stale: !is_fresh,
    };
    if is_fresh {
        return Judged::Fresh(answer, terms);
    }
    // The knowledge that nothing is there is no fallback.
    if answer.value.is_none() || opened.grace.is_zero() {
        return Judged::Void;
    }
    Judged::Fallback(answer, (left == Left::Whole).then_some(terms))
}

impl Fleet {
    /// What the sweeps that this node knows of have left of a record, if it knows all that matter: those of the record's own
    /// order, as it was heard when the tier was asked.
    pub(crate) fn left_of<V>(&self, key: &Bytes, tags: &[Arc<Tag>], opened: &Opened<V>, mark: Mark) -> Left {
        let order = self.horizon.order();
        let left = self.sweeps.left_there(key, tags, opened.stamp);
        // By then they may be those of another order, or half of them, which says nothing of this value.
        let is_of_one_order = (mark.incarnation, order) == (order.1, self.horizon.order());
        // Without a line each node is its own order: one that has swept nothing believes them all.
        let has_swept_nothing = self.line.is_none() && order.1 == 0;
        let is_ours = is_of_one_order && (opened.incarnation == order.1 || has_swept_nothing);
        if is_ours { left } else { Left::Nothing }
    }
}

/// The life in process of a value of a tier: never beyond what the tier has left of it.
fn life_of<V>(asker: &Asker<'_>, opened: &Opened<V>, fresh_left: Duration, remaining: Duration) -> Life {
    let Asker { policy, asked_us, stamp, .. } = *asker;
    let span = Span::of_record(policy, opened.value.is_some(), fresh_left, opened.grace);
    let life = Life::begin(policy, span, asked_us, asked_us, stamp);
    let ends_us = asked_us.saturating_add(micros(remaining));
    Life { grace_ends_us: life.grace_ends_us.min(ends_us).max(life.expires_us), state: State::Good, ..life }
}
