//! One load, on a task of its own: the loader, then L1 and those who wait, then the shared tiers.
//! On a task of its own, so that a caller who goes away takes nothing from those who wait with it.
//! Bounded by the policy's `load_abandon` and by the tiers' time limits. Spawned by `read`, and shared by `batch`.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use crate::{
    CacheKey, Load, LoadContext, LoadEnd, Stale, Version,
    answer::{Answer, Origin},
    clock::micros,
    codec::{CodecError, SealedFields},
    consult::{Plan, Record},
    context::{Edits, Keep},
    extend::Extension,
    flight::{Flight, Outcome, Waiter},
    invalidation::KeyOrder,
    judge::Terms,
    lead::{Lead, Purpose, Storing},
    life::{Life, Span},
    local::Traits,
    places::place,
    spans,
    stats::count,
    store::Store,
    tier::{Settlement, Void},
    write_back::{Writing, write_back},
};

/// How a loader ended, without the type of its error.
pub(crate) enum Ending<V> {
    Answered(Load<V>),
    Failed(Arc<dyn Any + Send + Sync>),
    TimedOut,
    Panicked,
    /// It was asked, and said nothing about this key.
    Unanswered,
}

/// How a call of the loader went for one key, or for all keys of a batch.
pub(crate) struct Called<V> {
    pub(crate) ending: Ending<V>,
    /// By the cache's clock, which the life of what was loaded is reckoned by.
    pub(crate) begun_us: u64,
    /// As precise as the system has it.
    pub(crate) took: Duration,
}

/// Runs one load on a task of its own; gives its end. Not aborted with the caller: the load is bounded by the policy.
pub(crate) fn spawn<K, V, F, Fut, A, E>(lead: Lead<K, V>, plan: Plan<V>, load: F) -> Waiter<V>
where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
    F: FnOnce(LoadContext<V>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<A, E>> + Send + 'static,
    A: Into<Load<V>> + Send + 'static,
    E: Send + Sync + 'static,
{
    let waiter = lead.waiter();
    lead.hand_over();
    lead.offer_fallback(&plan);
    let span = spans::load(&lead.store.name, lead.purpose, 1);
    drop(tokio::spawn(run(lead, plan, span, load)));
    waiter
}

/// Runs one load to its end. `trace` is the span of the loader's call, made where the load was asked for.
pub(crate) async fn run<K, V, F, Fut, A, E>(
    mut lead: Lead<K, V>,
    plan: Plan<V>,
    trace: tracing::Span,
    load: F,
) where
    K: CacheKey,
    V: Clone + Send + Sync + 'static,
    F: FnOnce(LoadContext<V>) -> Fut,
    Fut: Future<Output = Result<A, E>>,
    A: Into<Load<V>>,
    E: Send + Sync + 'static,
{
    let store = Arc::clone(&lead.store);
    let context = LoadContext::new(plan.floor, [plan.fallback.as_ref().and_then(stale_of)]);
    let (begun_us, begun) = (store.clock.now_us(), Instant::now());
    let told = context.clone();
    let work = async move { load(told).await.map(Into::into) };
    let ending = match call(&store, &lead, &[&*lead.flight], work.instrument(trace.clone())).await {
        Ok(Ok(load)) => Ending::Answered(load),
        Ok(Err(error)) => Ending::Failed(Arc::new(error)),
        Err(ending) => ending,
    };
    let called = Called { ending, begun_us, took: begun.elapsed() };
    let writing = finish(&mut lead, &plan, &context.edits_of(0), called, &trace);
    let writing = writing.filter(|writing| !writing.is_empty());
    let after = writing.as_ref().map(|_| spans::write_back(&store.name, &trace));
    // The caller's trace ends with the load; the shared tiers' trip is none of its business.
    drop(trace);
    if let (Some(writing), Some(after)) = (writing, after) {
        write_back(&store.fleet, vec![writing]).instrument(after).await;
    }
}

/// What of a fallback the loader is shown.
pub(crate) fn stale_of<V: Clone>(answer: &Answer<V>) -> Option<Stale<V>> {
    Some(Stale {
        value: answer.value.clone()?,
        validator: answer.traits.as_ref().and_then(|traits| traits.validator.clone()),
        version: answer.version(),
    })
}

/// Runs what a loader does when it is its turn, within the time limit. Ends these flights: that of `lead`, or those of its batch.
pub(crate) async fn call<K: CacheKey, V: Clone, T>(
    store: &Store<K, V>,
    lead: &Lead<K, V>,
    flights: &[&Flight<V>],
    work: impl Future<Output = T>,
) -> Result<T, Ending<V>> {
    let limit = lead.policy.load_abandon.max(lead.policy.load_timeout);
    let begun = Instant::now();
    let attempt = async {
        let _place = place(&store.loads, &lead.within, flights).await;
        count(&store.counters.loads);
        if lead.purpose.is_ahead() {
            count(&store.counters.refreshes);
        }
        lead.within.run(&store.loads, AssertUnwindSafe(work).catch_unwind()).await
    };
    let ended = match timeout(limit, attempt).await {
        Ok(Ok(given)) => Ok(given),
        Ok(Err(_panic)) => Err(Ending::Panicked),
        Err(_elapsed) => Err(Ending::TimedOut),
    };
    store.counters.load_times.record(begun.elapsed());
    ended
}

/// Tells everyone how the load of one key ended, and gives what is to be done in the shared tiers.
pub(crate) fn finish<K: CacheKey, V: Clone + Send + Sync + 'static>(
    lead: &mut Lead<K, V>,
    plan: &Plan<V>,
    edits: &Edits,
    called: Called<V>,
    trace: &tracing::Span,
) -> Option<Writing> {
    let store = Arc::clone(&lead.store);
    let Called { ending, begun_us, took } = called;
    let end = match &ending {
        Ending::Answered(Load::Found(_)) => LoadEnd::Found,
        Ending::Answered(Load::Nothing) => LoadEnd::Absent,
        Ending::Answered(Load::NotModified) => LoadEnd::NotModified,
        Ending::Failed(_) => LoadEnd::Failed,
        Ending::TimedOut => LoadEnd::TimedOut,
        Ending::Panicked => LoadEnd::Panicked,
        Ending::Unanswered => LoadEnd::Failed,
    };
    spans::load_ended(trace, end);
    store.observer.load_ended(&store.name, end, took);
    let (value, is_modified) = match ending {
        Ending::Answered(Load::Found(value)) => (Some(value), true),
        Ending::Answered(Load::Nothing) => (None, true),
        Ending::Answered(Load::NotModified) => match plan.fallback.as_ref().and_then(|old| old.value.clone())
        {
            Some(value) => {
                count(&store.counters.load_unmodified);
                (Some(value), false)
            }
            None => return failed(lead, plan, Outcome::Unanswered),
        },
        Ending::Failed(error) => return failed(lead, plan, Outcome::Failed(error)),
        Ending::TimedOut => return failed(lead, plan, Outcome::TimedOut),
        Ending::Panicked => return failed(lead, plan, Outcome::Panicked),
        Ending::Unanswered => return failed(lead, plan, Outcome::Unanswered),
    };
    let old = plan.fallback.as_ref().filter(|_| !is_modified).and_then(|old| old.traits.as_deref());
    let span = span_of(lead, edits, value.as_ref());
    let answer = answer(lead, edits, old, value, span, begun_us);
    let storing = match edits.keep {
        Keep::Yes => Storing::Yes,
        Keep::No => Storing::Nothing,
        Keep::Overtagged => {
            store.unstorable(&CodecError::TooManyTags);
            Storing::Nothing
        }
    };
    // With other tags, or another version, the record that lies in a tier is not what was answered.
    let is_as_it_was = !is_modified && says_the_same(old, answer.traits.as_deref());
    let shared = if storing == Storing::Yes { span } else { span.unshared() };
    let sealed = seal(lead, &answer, shared, plan.lies_in.filter(|_| is_as_it_was));
    let extension = old.filter(|_| is_as_it_was);
    let extension = extension.and_then(|old| Extension::of(&lead.key_bytes, Some(old), span));
    // The waiters first: the shared tiers' trip is none of their business.
    let version = answer.version();
    let is_newest = lead.settle(answer, storing);
    if lead.purpose == Purpose::Reload && is_newest {
        void_unclaimed(lead, version);
    }
    let settlement = sealed.filter(|_| is_newest).unwrap_or(Settlement::Outdate);
    let extension = extension.filter(|_| is_newest && storing == Storing::Yes);
    Some(Writing::of(lead, settlement, span.grace).extending(extension))
}

/// Voids the key in every tier if one of them was not claimed: somebody else has claimed it there, and what is loaded under
/// that claim may be older.
fn void_unclaimed<K: CacheKey, V: Clone + Send + Sync + 'static>(lead: &Lead<K, V>, version: Version) {
    let fleet = &lead.store.fleet;
    if lead.held.len() < fleet.tiers.len() {
        let order = KeyOrder { key: lead.key_bytes.clone(), how: Void::Remove, version };
        fleet.order(vec![(order, None)], vec![]);
    }
}

/// True if whoever has the one has all that a loader says with the other.
fn says_the_same(old: Option<&Traits>, new: Option<&Traits>) -> bool {
    let nothing = Traits::default();
    let (old, new) = (old.unwrap_or(&nothing), new.unwrap_or(&nothing));
    let names = |traits: &Traits| traits.tags.iter().map(|tag| Arc::clone(&tag.name)).collect::<Vec<_>>();
    new.version == old.version && new.validator == old.validator && names(new) == names(old)
}

fn span_of<K: CacheKey, V: Clone>(lead: &Lead<K, V>, edits: &Edits, value: Option<&V>) -> Span {
    let span = match value {
        Some(_) => Span::of_value(&lead.policy, edits.ttl),
        None => Span::of_nothing(&lead.policy, edits.ttl),
    };
    match (value, edits.grace) {
        (Some(_), Some(grace)) => span.with_grace(grace),
        _ => span,
    }
}

fn answer<K: CacheKey, V: Clone>(
    lead: &Lead<K, V>,
    edits: &Edits,
    old: Option<&Traits>,
    value: Option<V>,
    span: Span,
    begun_us: u64,
) -> Answer<V> {
    let store = &lead.store;
    let intern = |tag: &Arc<str>| store.fleet.sweeps.tags.intern(tag);
    let tags: Box<[_]> = match old {
        Some(old) if edits.tags.is_empty() => old.tags.clone(),
        _ => edits.tags.iter().map(intern).collect(),
    };
    let validator = edits.validator.clone().or_else(|| old.and_then(|old| old.validator.clone()));
    let version = edits.version.max(old.map_or_else(Default::default, |old| old.version));
    let traits = Traits { tags, version, validator, idle: lead.idle() };
    let life = if span.local.is_zero() {
        Life { grace_ends_us: 0, ..Life::begin(&lead.policy, span, begun_us, begun_us, lead.flight.stamp) }
    } else {
        Life::begin(&lead.policy, span, begun_us, store.clock.now_us(), lead.flight.stamp)
    };
    Answer { value, life, traits: traits.shared(), origin: Origin::Loader, is_stale: false }
}

/// For how long a tier is told at least that there is nothing.
const GONE: Duration = Duration::from_millis(1);

/// What the shared tiers are to store, if anything.
fn seal<K: CacheKey, V: Clone>(
    lead: &Lead<K, V>,
    answer: &Answer<V>,
    span: Span,
    lies_in: Option<Record>,
) -> Option<Settlement> {
    // That there is nothing replaces what was there, though nobody is to remember it.
    let shared = if answer.value.is_none() { span.shared.max(GONE) } else { span.shared };
    if lead.held.is_empty() || shared.is_zero() {
        return None;
    }
    let lifetime = shared.saturating_add(span.grace);
    // Of what another tier has under its claim nothing is known; and how long its life is stands in the record.
    let terms = Terms { grace: span.grace, lifetime: Some(lifetime) };
    let needs_only_life = |record: Record| {
        let is_as_said = record.terms.are_those_of(&terms, lead.policy.jitter);
        is_as_said && lead.held.iter().all(|held| held.tier == record.tier)
    };
    if lies_in.is_some_and(needs_only_life) {
        return Some(Settlement::Extend { lifetime });
    }
    let traits = answer.traits.as_deref();
    // What is to be gone at once needs no tags.
    let tagged = traits.filter(|_| !span.shared.is_zero());
    let tags: Vec<Arc<str>> =
        tagged.map_or_else(Vec::new, |traits| traits.tags.iter().map(|tag| Arc::clone(&tag.name)).collect());
    let fields = SealedFields {
        key: &lead.key_bytes,
        incarnation: lead.mark.incarnation,
        stamp: lead.mark.sequence,
        version: answer.version(),
        grace: span.grace,
        lifetime: Some(lifetime),
        tags: &tags,
        validator: traits.and_then(|traits| traits.validator.as_deref()),
    };
    let bytes = lead.store.seal(&fields, answer.value.as_ref())?;
    Some(Settlement::Value { bytes, lifetime })
}

/// A load that gave nothing: the fallback takes its place if there is one that may be used.
fn failed<K: CacheKey, V: Clone + Send + Sync + 'static>(
    lead: &mut Lead<K, V>,
    plan: &Plan<V>,
    outcome: Outcome<V>,
) -> Option<Writing> {
    let store = Arc::clone(&lead.store);
    count(&store.counters.load_failures);
    let release = Writing::of(lead, Settlement::Release, Duration::ZERO);
    if lead.purpose == Purpose::Reload {
        // Who ordered it wants the error, and it is no reason to refuse others what is there.
        lead.fail(outcome, Duration::ZERO);
        return Some(release);
    }
    let usable = plan.fallback.as_ref().filter(|answer| store.is_usable(&lead.key, answer));
    match usable {
        // It goes on being served as it is.
        Some(answer) if lead.purpose.is_ahead() && store.is_good_still(&lead.key, answer) => {
            lead.settle(answer.clone(), Storing::No);
        }
        Some(answer) => {
            let rested_us = || store.clock.now_us().saturating_add(micros(lead.policy.grace_backoff));
            // It does not rest where errors are not remembered either, for the same reason. An instant of now would be packed
            // to a later one.
            let retry_us = if plan.is_wished { 0 } else { rested_us() };
            let life = answer.life.as_fallback(retry_us.min(answer.life.grace_ends_us));
            lead.settle(Answer { life, is_stale: true, ..answer.clone() }, Storing::Yes);
        }
        None => {
            let remembered = match outcome {
                // For a version that somebody brought along others may well be answered, by a load without it.
                Outcome::Failed(_) if !plan.is_wished => lead.policy.error_ttl,
                _ => Duration::ZERO,
            };
            lead.fail(outcome, remembered);
        }
    }
    Some(release)
}
