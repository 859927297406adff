//! Loads that fail or are slow: fallbacks, time limits, and errors that are remembered.

use std::time::Duration;

use paystrata_cache::{CacheError, Origin, Policy};
use tokio::time::{advance, sleep};

use crate::kit::{Broken, Gate, SECOND, Teller, alone, settle};

fn graceful() -> Policy {
    Policy {
        ttl: SECOND,
        l1_ttl: SECOND,
        grace: 60 * SECOND,
        grace_backoff: 10 * SECOND,
        ..Policy::default()
    }
}

// T17
#[tokio::test(start_paused = true)]
async fn expired_value_is_served_flagged_while_the_loader_fails_and_the_loader_is_left_alone_for_a_while() {
    let (cache, teller) = (alone(graceful()), Teller::default());
    teller.value(&cache, "k", 1).await;
    advance(SECOND).await;
    let stale = teller.read(&cache, "k", Err(Broken)).await.unwrap();
    assert_eq!((stale.value, stale.is_stale, teller.calls()), (Some(1), true, 2));
    advance(9 * SECOND).await;
    assert!(teller.read(&cache, "k", Ok(Some(2))).await.unwrap().is_stale);
    assert_eq!(teller.calls(), 2, "not asked again within the backoff");
    advance(2 * SECOND).await;
    assert_eq!(teller.value(&cache, "k", 2).await, 2);
    assert_eq!(cache.stats().stale, 2);
}

// T18
#[tokio::test(start_paused = true)]
async fn error_surfaces_once_the_grace_is_over() {
    let (cache, teller) = (alone(graceful()), Teller::default());
    teller.value(&cache, "k", 1).await;
    advance(61 * SECOND).await;
    assert!(matches!(teller.read(&cache, "k", Err(Broken)).await, Err(CacheError::Load(_))));
}

// T19
#[tokio::test(start_paused = true)]
async fn value_stored_without_grace_is_no_fallback_for_who_wishes_one_later() {
    let (cache, teller) = (alone(Policy { grace: Duration::ZERO, ..graceful() }), Teller::default());
    teller.value(&cache, "k", 1).await;
    advance(SECOND).await;
    let wishing = cache.with(|policy| policy.grace = 60 * SECOND);
    assert!(teller.read(&wishing, "k", Err(Broken)).await.is_err());
}

// T20, T23
#[tokio::test(start_paused = true)]
async fn slow_load_gives_the_fallback_after_the_soft_limit_and_the_new_value_later_with_one_loader_for_all() {
    let policy = Policy { soft_timeout: Duration::from_millis(50), ..graceful() };
    let (cache, gate) = (alone(policy), Gate::default());
    Teller::default().value(&cache, "k", 1).await;
    advance(SECOND).await;
    let begun = tokio::time::Instant::now();
    let stale = gate.read(&cache, "k", Ok(Some(2))).await.unwrap().unwrap();
    assert_eq!((stale.value, stale.is_stale), (Some(1), true));
    assert_eq!(begun.elapsed().as_millis(), 50);
    for _ in 0..100 {
        assert!(gate.read(&cache, "k", Ok(Some(3))).await.unwrap().unwrap().is_stale);
    }
    assert_eq!(gate.calls(), 1);
    gate.go.notify_one();
    settle().await;
    assert_eq!(cache.get("k"), Some(2));
}

// T21
#[tokio::test(start_paused = true)]
async fn slow_load_without_a_fallback_is_waited_for() {
    let policy = Policy { soft_timeout: Duration::from_millis(50), ..graceful() };
    let (cache, gate) = (alone(policy), Gate::default());
    let reader = gate.read(&cache, "k", Ok(Some(2)));
    sleep(Duration::from_millis(300)).await;
    assert!(!reader.is_finished());
    gate.go.notify_one();
    assert_eq!(reader.await.unwrap().unwrap().value, Some(2));
}

// T22
#[tokio::test(start_paused = true)]
async fn load_beyond_the_hard_limit_is_an_error_and_its_value_is_stored_all_the_same() {
    let (cache, gate) = (alone(Policy { load_timeout: SECOND, ..Policy::default() }), Gate::default());
    let late = gate.read(&cache, "k", Ok(Some(2))).await.unwrap();
    assert!(matches!(late, Err(CacheError::Timeout { after: SECOND })));
    gate.go.notify_one();
    settle().await;
    assert_eq!(cache.get("k"), Some(2));
}

// T24
#[tokio::test(start_paused = true)]
async fn load_that_fails_behind_the_caller_frees_the_key_and_is_counted() {
    let policy = Policy { load_timeout: SECOND, error_ttl: Duration::ZERO, ..Policy::default() };
    let (cache, gate) = (alone(policy), Gate::default());
    assert!(gate.read(&cache, "k", Err(Broken)).await.unwrap().is_err());
    gate.go.notify_one();
    settle().await;
    assert_eq!(cache.stats().load_failures, 1);
    assert_eq!(Teller::default().value(&cache, "k", 3).await, 3);
}

// T26
#[tokio::test(start_paused = true)]
async fn plain_get_gives_a_stale_value_only_to_who_asks_for_one() {
    let (cache, teller) = (alone(graceful()), Teller::default());
    teller.value(&cache, "k", 1).await;
    advance(SECOND).await;
    assert_eq!(cache.get("k"), None);
    let stale = cache.get_stale("k").unwrap();
    assert_eq!((stale.value, stale.is_stale, stale.age), (Some(1), true, SECOND));
    teller.read(&cache, "k", Err(Broken)).await.unwrap();
    assert_eq!(cache.get("k"), None, "nor while the loader is left alone");
}

// T5
#[tokio::test(start_paused = true)]
async fn error_is_remembered_briefly_and_given_to_whoever_asks() {
    let (cache, teller) = (alone(Policy { error_ttl: SECOND, ..Policy::default() }), Teller::default());
    for _ in 0..100 {
        assert!(matches!(teller.read(&cache, "k", Err(Broken)).await, Err(CacheError::Load(_))));
    }
    assert_eq!(teller.calls(), 1);
    advance(SECOND).await;
    assert_eq!(teller.value(&cache, "k", 1).await, 1);
}

#[tokio::test(start_paused = true)]
async fn answer_tells_its_origin_and_age() {
    let (cache, teller) = (alone(Policy::default()), Teller::default());
    let first = teller.read(&cache, "k", Ok(Some(1))).await.unwrap();
    assert_eq!((first.origin, first.is_stale), (Origin::Loader, false));
    advance(7 * SECOND).await;
    let second = teller.read(&cache, "k", Ok(Some(2))).await.unwrap();
    assert_eq!((second.origin, second.age), (Origin::Local, 7 * SECOND));
}
