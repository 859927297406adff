//! What is refused, by which names, and what is taken although it is at the edge. All by way of the builder, so that each
//! setting is seen to arrive.

use std::{convert::Infallible, sync::Arc};

use futures_util::future::{BoxFuture, FutureExt};

use super::*;
use crate::{
    Cache, CacheBuilder, SetRefused, Version, WriteFailed, Writer, codec::Codec, local::slot_bytes,
    testkit::Site,
};

const SECOND: Duration = Duration::from_secs(1);

type Building = CacheBuilder<u64, String>;

struct Nobody;

impl Writer<u64, String> for Nobody {
    fn write<'a>(&'a self, _: &'a [(u64, String, Version)]) -> BoxFuture<'a, Result<(), WriteFailed>> {
        async { Ok(()) }.boxed()
    }
}

fn building() -> Building {
    Cache::builder("checked")
}

fn under(change: impl FnOnce(&mut Policy)) -> Building {
    let mut policy = Policy::default();
    change(&mut policy);
    building().policy(policy)
}

fn over(change: impl FnOnce(&mut TierOptions)) -> Building {
    let mut options = TierOptions::default();
    change(&mut options);
    tiered(building(), options)
}

fn tiered(building: Building, options: TierOptions) -> Building {
    building.tier_with_codec(Arc::new(Site::new(1).link()), options, Codec::raw())
}

fn hearing(building: Building, change: impl FnOnce(&mut LineOptions)) -> Building {
    let mut options = LineOptions::default();
    change(&mut options);
    building.backplane_with(Arc::new(Site::new(1).link()), options)
}

fn behind(change: impl FnOnce(&mut WriterOptions)) -> Building {
    let mut options = WriterOptions::default();
    change(&mut options);
    under(|policy| policy.write = Write::Behind).writer_with(Arc::new(Nobody), options)
}

fn fresh(building: Building) -> Building {
    building.keep_fresh(|_key, _context| async { Ok::<_, Infallible>(Some(String::new())) })
}

/// The fields that a refusal names; none if the cache is built.
#[track_caller]
fn check(building: Building, expected: &[&str]) {
    let named = match building.try_build() {
        Ok(_built) => vec![],
        Err(BuildError::NoCodec) => vec!["codec"],
        Err(BuildError::OutOfRange { field, .. }) => vec![field],
        Err(BuildError::Contradiction { field, other, .. }) => vec![field, other],
    };
    assert_eq!(named, expected);
}

#[tokio::test]
async fn time_or_bound_of_zero_is_refused_by_its_name() {
    check(under(|policy| policy.tti = Duration::ZERO), &["Policy::tti"]);
    check(under(|policy| policy.load_timeout = Duration::ZERO), &["Policy::load_timeout"]);
    check(under(|policy| policy.loads_max = 0), &["Policy::loads_max"]);
    check(under(|policy| policy.negative_entries_max = 0), &["Policy::negative_entries_max"]);
    check(under(|policy| policy.l1_bytes_max = 0), &["Policy::l1_bytes_max"]);
    check(over(|tier| tier.ttl = Duration::ZERO), &["TierOptions::ttl"]);
    check(over(|tier| tier.timeout = Duration::ZERO), &["TierOptions::timeout"]);
    check(over(|tier| tier.breaker_pause = Duration::ZERO), &["TierOptions::breaker_pause"]);
    check(over(|tier| tier.breaker_failures = 0), &["TierOptions::breaker_failures"]);
    check(over(|tier| tier.calls_max = 0), &["TierOptions::calls_max"]);
    check(over(|tier| tier.value_bytes_max = 0), &["TierOptions::value_bytes_max"]);
    let second = TierOptions { calls_max: 0, ..TierOptions::default() };
    check(tiered(over(|_| {}), second), &["TierOptions::calls_max"]);
    check(hearing(building(), |line| line.timeout = Duration::ZERO), &["LineOptions::timeout"]);
    check(hearing(building(), |line| line.heartbeat = Duration::ZERO), &["LineOptions::heartbeat"]);
    check(behind(|writer| writer.timeout = Duration::ZERO), &["WriterOptions::timeout"]);
    check(behind(|writer| writer.pending_max = 0), &["WriterOptions::pending_max"]);
    check(behind(|writer| writer.pending_bytes_max = 0), &["WriterOptions::pending_bytes_max"]);
    check(building().pending_keys_max(0), &["CacheBuilder::pending_keys_max"]);
    check(building().maintain_every(Duration::ZERO), &["CacheBuilder::maintain_every"]);
    check(fresh(under(|policy| policy.refresh_every = Duration::ZERO)), &["Policy::refresh_every"]);
    let silent = under(|policy| policy.max_stale = Duration::from_millis(19));
    check(hearing(silent, |_| {}), &["Policy::max_stale"]);
}

#[tokio::test]
async fn room_in_which_no_entry_fits_is_refused_and_the_least_in_which_one_does_is_taken() {
    let room = |l1_bytes_max| under(move |policy| policy.l1_bytes_max = l1_bytes_max);
    let slot = slot_bytes::<u64, String>() as u64;
    check(room(slot), &["Policy::l1_bytes_max"]);
    let least = (slot..2 * slot).find(|bytes| room(*bytes).try_build().is_ok()).unwrap();
    let cache = room(least).build();
    drop(cache.set(7, String::new(), Version(1)).unwrap());
    assert_eq!(cache.stats().entries, 1, "{least} bytes for {slot}");
}

#[tokio::test]
async fn name_that_another_caches_schedule_has_in_a_tier_is_refused() {
    let named = |name: &str| Cache::<u64, String>::builder(name);
    check(tiered(named("rates#turns"), TierOptions::default()), &["Cache::builder"]);
    check(tiered(named("rates#turn"), TierOptions::default()), &[]);
    check(named("rates#turns"), &[]);
}

#[tokio::test]
async fn part_that_is_none_of_one_is_refused_by_its_name() {
    for part in [-0.1, 1.1, 80.0, f64::INFINITY, f64::NAN] {
        check(under(|policy| policy.jitter = part), &["Policy::jitter"]);
        check(under(|policy| policy.refresh_at = part), &["Policy::refresh_at"]);
    }
    check(under(|policy| policy.refresh_at = 1.0), &["Policy::refresh_at"]);
}

#[tokio::test]
async fn setting_that_another_makes_do_nothing_is_refused_by_both_names() {
    let limits =
        |soft_timeout| under(|policy| (policy.soft_timeout, policy.load_timeout) = (soft_timeout, SECOND));
    check(limits(SECOND), &["Policy::soft_timeout", "Policy::load_timeout"]);
    check(limits(SECOND - Duration::from_millis(1)), &[]);
    check(limits(Duration::MAX), &[]);

    check(under(|policy| policy.l1_ttl = Duration::ZERO), &["Policy::l1_ttl", "CacheBuilder::tier"]);

    // A loader may lengthen the life of what it gives.
    check(under(|policy| (policy.ttl, policy.tti) = (SECOND, 2 * SECOND)), &[]);

    let due = |tti| under(|policy| (policy.refresh_at, policy.tti) = (0.8, tti));
    check(due(SECOND), &["Policy::refresh_at", "Policy::tti"]);
    check(due(Duration::MAX), &[]);
    let due = fresh(under(|policy| (policy.refresh_at, policy.refresh_every) = (0.8, SECOND)));
    check(due, &["Policy::refresh_at", "Policy::refresh_every"]);
}

#[tokio::test]
async fn schedule_and_its_loader_come_together_and_its_period_is_the_shorter() {
    let both = &["Policy::refresh_every", "CacheBuilder::keep_fresh"];
    check(under(|policy| policy.refresh_every = SECOND), both);
    check(fresh(building()), both);
    check(fresh(under(|policy| policy.refresh_every = SECOND)), &[]);
    let lives = |ttl, l1_ttl| {
        let policy = Policy { refresh_every: SECOND, ttl, l1_ttl, ..Policy::default() };
        fresh(building().policy(policy))
    };
    check(lives(SECOND, Duration::MAX), &[]);
    // Turned off, the schedule with it.
    check(lives(Duration::ZERO, SECOND), &[]);
    check(lives(60 * SECOND, SECOND), &["Policy::refresh_every", "Policy::l1_ttl"]);
    check(lives(60 * SECOND, 2 * SECOND), &[]);
}

#[tokio::test]
async fn write_behind_takes_a_writer_and_a_writer_may_be_for_some_calls() {
    check(under(|policy| policy.write = Write::Behind), &["Policy::write", "CacheBuilder::writer"]);
    for write in [Write::Through, Write::Void] {
        check(under(|policy| policy.write = write).writer(Arc::new(Nobody)), &[]);
    }
    check(behind(|_| {}), &[]);
}

#[tokio::test]
async fn zero_that_turns_something_off_is_taken() {
    check(under(|policy| policy.ttl = Duration::ZERO), &[]);
    check(
        under(|policy| (policy.ttl, policy.l1_ttl, policy.tti) = (Duration::ZERO, Duration::ZERO, SECOND)),
        &[],
    );
    let elsewhere = under(|policy| policy.l1_ttl = Duration::ZERO);
    check(tiered(elsewhere, TierOptions::default()), &[]);
    check(under(|policy| policy.negative_ttl = Duration::ZERO), &[]);
    check(under(|policy| policy.error_ttl = Duration::ZERO), &[]);
    check(under(|policy| policy.grace_backoff = Duration::ZERO), &[]);
    check(under(|policy| policy.soft_timeout = Duration::ZERO), &[]);
    check(under(|policy| policy.loads_queued_max = 0), &[]);
    check(under(|policy| policy.lease_wait = Duration::ZERO), &[]);
    check(under(|policy| policy.l1_value_bytes_max = 0), &[]);
    // Nobody is heard, so it bounds nothing.
    check(under(|policy| policy.max_stale = Duration::ZERO), &[]);
    check(under(|policy| (policy.jitter, policy.refresh_at) = (0.0, 0.0)), &[]);
    check(under(|policy| (policy.jitter, policy.refresh_at) = (1.0, 0.999)), &[]);
    check(behind(|writer| writer.flush = Duration::ZERO), &[]);
}

#[tokio::test]
async fn refusal_says_what_was_given_and_what_would_be_taken() {
    let said = |building: Building| building.try_build().unwrap_err().to_string();
    assert_eq!(
        said(under(|policy| policy.refresh_at = 80.0)),
        "`Policy::refresh_at` is 80.0: expected a part of 1, above 0.0 and below 1.0, or 0.0 for none"
    );
    assert_eq!(
        said(fresh(building())),
        "`Policy::refresh_every` is without end, and `CacheBuilder::keep_fresh` is given: expected both or neither"
    );
    assert_eq!(
        said(under(|policy| policy.soft_timeout = 5 * SECOND)),
        "`Policy::soft_timeout` is 5s, and `Policy::load_timeout` is 5s: expected a soft limit below the hard one, or \
         `Duration::MAX` for none"
    );
}

#[tokio::test]
#[should_panic(expected = "cache `checked`: `Policy::loads_max` is 0: expected at least 1")]
async fn build_says_which_cache_cannot_be_built() {
    drop(under(|policy| policy.loads_max = 0).build());
}

#[tokio::test]
async fn policy_that_is_edited_for_a_call_is_not_checked() {
    let cache = building().build();
    let edited =
        cache.with(|policy| (policy.write, policy.jitter, policy.refresh_at) = (Write::Behind, 7.0, 80.0));
    assert_eq!(edited.set(7, "x".to_owned(), Version(1)).err(), Some(SetRefused::NoWriter));
    assert!(cache.set(7, "x".to_owned(), Version(1)).is_ok());
    assert_eq!(edited.get(&7).as_deref(), Some("x"));
}
