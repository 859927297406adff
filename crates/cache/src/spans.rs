//! The spans of a cache, for whoever collects `tracing`: names and fields as OpenTelemetry's conventions for databases and
//! general attributes have them, and few enough of each to be grouped by.
//! Refuses keys, values, tags and errors' texts: what is cached may be secret. There is none on a hit.
//!
//! ```text
//! cache.get_or_load   a read that L1 could not answer, of one key or of many: cache.name, cache.keys, cache.outcome, error.type
//! cache.load          one call of the loader: cache.name, cache.trigger, cache.keys, cache.outcome, error.type
//! cache.refresh       a load ahead of time, in no caller's trace; linked to the one that brought it about
//! cache.write_back    what a load leaves to be done in the shared tiers; linked to that load
//! cache.tier.*        one call of a shared tier (read, settle, void, put, inspect): cache.name, cache.tier, db.system.name,
//!                     db.operation.name, db.operation.batch.size, error.type, otel.kind = client
//! cache.invalidate    a change, from the verb to its confirmation: cache.name, cache.keys, cache.sweeps, cache.reach
//! cache.announce      one batch of changes on its way to the tiers and the other nodes: cache.name, cache.keys, ..
//! cache.maintain      one walk that drops what is over, in no caller's trace: cache.name, cache.keys
//! ```

use tracing::{Span, debug_span, field::Empty};

use crate::{
    CacheError, LoadEnd, Reach,
    answer::{Answer, Origin},
    lead::Purpose,
    tier::TierError,
};

/// A read past L1.
pub(crate) fn read(cache: &str, keys: usize) -> Span {
    debug_span!(
        "cache.get_or_load",
        cache.name = cache,
        cache.keys = keys,
        cache.outcome = Empty,
        "error.type" = Empty,
    )
}

/// How a read of one key ended.
pub(crate) fn read_ended<V, E>(span: &Span, ended: &Result<Answer<V>, CacheError<E>>) {
    read_many_ended(span, std::iter::once(ended));
}

/// How a read of many keys ended: as that of each if all ended alike. Of the errors, the last is what is seen.
pub(crate) fn read_many_ended<'a, V: 'a, E: 'a>(
    span: &Span,
    ended: impl Iterator<Item = &'a Result<Answer<V>, CacheError<E>>>,
) {
    let outcome = |ended: &'a Result<Answer<V>, CacheError<E>>| match ended {
        Ok(answer) => outcome_of(answer),
        Err(error) => {
            span.record("error.type", error.kind());
            "error"
        }
    };
    if !span.is_disabled() {
        all_ended(span, ended.map(outcome));
    }
}

/// How a read without a loader ended, of so many keys.
pub(crate) fn peek_ended<'a, V: 'a>(
    span: &Span,
    keys: usize,
    found: impl ExactSizeIterator<Item = &'a Answer<V>>,
) {
    if !span.is_disabled() {
        let missing = (found.len() < keys).then_some("nothing");
        all_ended(span, found.map(outcome_of).chain(missing));
    }
}

fn outcome_of<V>(answer: &Answer<V>) -> &'static str {
    match answer.origin {
        _ if answer.is_stale => "stale",
        Origin::Local => "local",
        Origin::Tier(_) => "tier",
        Origin::Loader => "loader",
    }
}

fn all_ended(span: &Span, outcomes: impl Iterator<Item = &'static str>) {
    let outcome = outcomes.reduce(|one, other| if one == other { one } else { "mixed" });
    if let Some(outcome) = outcome {
        span.record("cache.outcome", outcome);
    }
}

/// One call of a loader; a child of whatever span is current.
pub(crate) fn load(cache: &str, purpose: Purpose, keys: usize) -> Span {
    let trigger = match purpose {
        Purpose::Read | Purpose::Peek | Purpose::Reflect => "read",
        Purpose::Refresh => "refresh",
        Purpose::Reload => "reload",
        Purpose::Renew | Purpose::Adopt => "schedule",
    };
    debug_span!(
        "cache.load",
        cache.name = cache,
        cache.trigger = trigger,
        cache.keys = keys,
        cache.outcome = Empty,
        "error.type" = Empty,
        "otel.status_code" = Empty,
    )
}

/// How the load of a key ended. Of a batch, the last failure is what is seen.
pub(crate) fn load_ended(span: &Span, end: LoadEnd) {
    span.record("cache.outcome", end.name());
    if end.is_failure() {
        span.record("error.type", end.name());
        span.record("otel.status_code", "ERROR");
    }
}

/// A load that no caller waits for. In a trace of its own, so that it does not lengthen the caller's.
pub(crate) fn refresh(cache: &str) -> Span {
    let span = debug_span!(parent: None, "cache.refresh", cache.name = cache);
    span.follows_from(Span::current());
    span
}

/// What is left to do in the shared tiers once a load has ended: nobody waits for it.
pub(crate) fn write_back(cache: &str, after: &Span) -> Span {
    let span = debug_span!(parent: None, "cache.write_back", cache.name = cache);
    span.follows_from(after);
    span
}

/// One call of a shared tier.
macro_rules! tier_span {
    ($verb:literal, $tier:expr, $keys:expr) => {
        tracing::debug_span!(
            concat!("cache.tier.", $verb),
            cache.name = &*$tier.cache,
            cache.tier = $tier.name(),
            db.system.name = $crate::spans::system($tier.kind()),
            db.operation.name = $verb,
            db.operation.batch.size = $keys,
            otel.kind = "client",
            "error.type" = tracing::field::Empty,
            "otel.status_code" = tracing::field::Empty,
        )
    };
}
pub(crate) use tier_span;

/// As OpenTelemetry names it.
pub(crate) fn system(kind: &'static str) -> &'static str {
    match kind {
        "postgres" => "postgresql",
        kind => kind,
    }
}

/// A call of a tier or of the line has failed.
pub(crate) fn failed(span: &Span, error: TierError) {
    let kind = match error {
        TierError::Down => "not_connected",
        TierError::TimedOut => "timeout",
        TierError::Failed => "failed",
    };
    span.record("error.type", kind);
    span.record("otel.status_code", "ERROR");
}

/// A change made here.
pub(crate) fn invalidate(cache: &str, keys: usize, sweeps: usize) -> Span {
    debug_span!(
        "cache.invalidate",
        cache.name = cache,
        cache.keys = keys,
        cache.sweeps = sweeps,
        cache.reach = Empty,
    )
}

/// How far a change had got when its caller asked.
pub(crate) fn reached(span: &Span, reach: Reach) {
    let reach = match reach {
        Reach::Node => "node",
        Reach::Fleet => "fleet",
        Reach::Queued => "queued",
    };
    span.record("cache.reach", reach);
}

/// Changes on their way to the others.
pub(crate) fn announce(cache: &str, keys: usize, sweeps: usize) -> Span {
    debug_span!(
        "cache.announce",
        cache.name = cache,
        cache.keys = keys,
        cache.sweeps = sweeps,
        "error.type" = Empty,
        "otel.status_code" = Empty,
    )
}

/// A walk through L1. In a trace of its own, because it may take longer than whatever asked for it by hand.
pub(crate) fn maintain(cache: &str) -> Span {
    let span = debug_span!(parent: None, "cache.maintain", cache.name = cache, cache.keys = Empty);
    span.follows_from(Span::current());
    span
}
