//! Loads that fail or are slow: fallbacks, time limits, and errors that are remembered.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use paystrata_cache::{
    Cache, CacheError, Clock, LoadContext, LoadEnd, Observer, Origin, Policy, testkit::Site,
};
use tokio::time::{advance, sleep};

use crate::kit::{Answer, Broken, Gate, Numbers, SECOND, Teller, alone, exact, node, settle, trips};

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

fn panicking() -> Result<Option<u64>, Broken> {
    panic!("loader bug")
}

/// Reads with a loader that panics once it is let go.
fn read_panicking(cache: &Numbers, gate: &Gate) -> tokio::task::JoinHandle<Answer> {
    let (cache, gate) = (cache.clone(), gate.clone());
    let load = |_: LoadContext<u64>| async move {
        gate.pass(Ok(None)).await?;
        panicking()
    };
    tokio::spawn(async move { cache.get_or_load_entry("k", load).await })
}

// T4, H14
#[tokio::test(start_paused = true)]
async fn panic_of_the_loader_is_an_error_for_all_who_wait_and_leaves_the_key_free() {
    let (cache, gate) = (alone(Policy::default()), Gate::default());
    let readers: Vec<_> = (0..100).map(|_| read_panicking(&cache, &gate)).collect();
    gate.begun.notified().await;
    settle().await;
    gate.go.notify_one();
    for reader in readers {
        assert!(matches!(reader.await.unwrap(), Err(CacheError::Panicked)));
    }
    assert_eq!((gate.calls(), cache.stats().load_failures), (1, 1));
    assert_eq!(Teller::default().value(&cache, "k", 2).await, 2);
}

#[derive(Debug, Default)]
struct Witness(Mutex<Vec<LoadEnd>>);

impl Observer for Witness {
    fn load_ended(&self, _cache: &str, end: LoadEnd, _elapsed: Duration) {
        self.0.lock().unwrap().push(end);
    }
}

// T24
#[tokio::test(start_paused = true)]
async fn failure_and_panic_behind_the_caller_are_told_to_the_observer() {
    let witness = Arc::new(Witness::default());
    let policy = Policy { load_timeout: SECOND, error_ttl: Duration::ZERO, ..Policy::default() };
    let builder = Cache::builder("numbers").policy(exact(policy)).clock(Clock::tokio());
    let cache = builder.observer(Arc::<Witness>::clone(&witness)).build();
    let gate = Gate::default();
    assert!(matches!(gate.read(&cache, "k", Err(Broken)).await.unwrap(), Err(CacheError::Timeout { .. })));
    gate.go.notify_one();
    settle().await;
    assert!(matches!(read_panicking(&cache, &gate).await.unwrap(), Err(CacheError::Timeout { .. })));
    gate.go.notify_one();
    settle().await;
    assert_eq!(Teller::default().value(&cache, "k", 3).await, 3);
    assert_eq!(*witness.0.lock().unwrap(), [LoadEnd::Failed, LoadEnd::Panicked, LoadEnd::Found]);
}

// T5, H13
#[tokio::test(start_paused = true)]
async fn error_of_one_load_is_shared_by_all_who_waited_for_it_and_by_who_comes_right_after() {
    let (cache, gate) = (alone(Policy { error_ttl: SECOND, ..Policy::default() }), Gate::default());
    let waiting: Vec<_> = (0..100).map(|_| gate.read(&cache, "k", Err(Broken))).collect();
    gate.begun.notified().await;
    settle().await;
    gate.go.notify_one();
    let mut errors = Vec::new();
    for reader in waiting {
        errors.push(reader.await.unwrap().unwrap_err());
    }
    advance(SECOND / 2).await;
    errors.push(gate.read(&cache, "k", Ok(Some(1))).await.unwrap().unwrap_err());
    let CacheError::Load(first) = errors[0].clone() else { panic!("{errors:?}") };
    let is_first =
        |error: &CacheError<Broken>| matches!(error, CacheError::Load(error) if Arc::ptr_eq(error, &first));
    assert!(errors.iter().all(is_first), "{errors:?}");
    assert_eq!((gate.calls(), errors.len()), (1, 101));
}

// T6
#[tokio::test(start_paused = true)]
async fn who_waits_for_the_load_of_another_gets_the_fallback_at_the_limit_and_else_an_error_and_calls_no_loader()
 {
    for (has_fallback, limit) in [(true, 50), (false, 1_000)] {
        let policy = Policy { soft_timeout: SECOND / 20, load_timeout: SECOND, ..graceful() };
        let (cache, gate) = (alone(policy), Gate::default());
        if has_fallback {
            Teller::default().value(&cache, "k", 1).await;
            advance(SECOND).await;
        }
        let begun = tokio::time::Instant::now();
        let leader = gate.read(&cache, "k", Ok(Some(2)));
        gate.begun.notified().await;
        advance(SECOND / 50).await;
        let waiter = gate.read(&cache, "k", Ok(Some(3))).await.unwrap();
        assert_eq!(begun.elapsed().as_millis(), limit);
        match waiter {
            Ok(loaded) => assert_eq!((has_fallback, loaded.value, loaded.is_stale), (true, Some(1), true)),
            Err(error) => assert!(!has_fallback && matches!(error, CacheError::Timeout { .. }), "{error}"),
        }
        assert_eq!((gate.calls(), leader.await.unwrap().is_ok()), (1, has_fallback));
    }
}

// T14
#[tokio::test(start_paused = true)]
async fn fallback_that_is_served_again_rests_exactly_as_long_as_the_policy_says() {
    let policy = Policy { jitter: 1.0, l1_ttl: SECOND, ..graceful() };
    let cache: Cache<u64, u64> = Cache::builder("numbers").policy(policy).clock(Clock::tokio()).build();
    let load = |told: Result<Option<u64>, Broken>| move |_| async move { told };
    for key in 0..50 {
        cache.get_or_load_entry(&key, load(Ok(Some(key)))).await.unwrap();
    }
    advance(2 * SECOND).await;
    for key in 0..50 {
        assert!(cache.get_or_load_entry(&key, load(Err(Broken))).await.unwrap().is_stale);
    }
    advance(10 * SECOND - Duration::from_millis(1)).await;
    for key in 0..50 {
        assert!(cache.get_or_load_entry(&key, load(Ok(Some(7)))).await.unwrap().is_stale);
    }
    advance(Duration::from_millis(1)).await;
    for key in 0..50 {
        assert_eq!(cache.get_or_load_entry(&key, load(Ok(Some(7)))).await.unwrap().value, Some(7));
    }
}

// T20
#[tokio::test(start_paused = true)]
async fn value_that_came_after_the_soft_limit_is_in_every_tier_and_on_the_other_nodes() {
    let site = Site::new(1);
    let policy = || Policy { soft_timeout: SECOND / 20, ..graceful() };
    let ((one, _), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
    let teller = Teller::default();
    teller.value(&one, "k", 1).await;
    trips().await;
    assert_eq!(teller.value(&other, "k", 9).await, 1);
    advance(SECOND).await;
    let slow = |_| async {
        sleep(Duration::from_millis(300)).await;
        Ok::<_, Broken>(Some(2))
    };
    let begun = tokio::time::Instant::now();
    let stale = one.get_or_load_entry("k", slow).await.unwrap();
    assert_eq!((stale.value, stale.is_stale, begun.elapsed().as_millis()), (Some(1), true, 50));
    sleep(Duration::from_millis(300)).await;
    trips().await;
    assert_eq!(one.get("k"), Some(2));
    let found = teller.read(&other, "k", Ok(Some(9))).await.unwrap();
    assert_eq!((found.value, found.is_stale, found.origin), (Some(2), false, Origin::Tier(0)));
    assert_eq!(teller.calls(), 1);
}

/// Whoever asks the tiers first waits for them no longer than the others do, alone or in a batch.
#[tokio::test(start_paused = true)]
async fn limits_of_a_wait_hold_while_the_shared_tier_hangs() {
    let site = Site::new(2);
    let policy = Policy { soft_timeout: SECOND / 50, load_timeout: SECOND / 20, ..graceful() };
    let (cache, link) = node(&site, policy).await;
    let teller = Teller::default();
    for key in ["old", "older"] {
        teller.value(&cache, key, 1).await;
    }
    trips().await;
    advance(SECOND).await;
    // Slower than the tier's time limit of 100 ms.
    link.faults.delay(3_600 * SECOND);
    let load = |keys: Vec<String>, _: LoadContext<u64>| async move {
        Ok::<_, Broken>(keys.iter().map(|_| Ok::<_, Broken>(Some(2))).collect())
    };
    let begun = tokio::time::Instant::now();
    let stale = teller.read(&cache, "old", Ok(Some(2))).await.unwrap();
    assert_eq!((stale.value, stale.is_stale, begun.elapsed().as_millis()), (Some(1), true, 20));
    let late = teller.read(&cache, "new", Ok(Some(2))).await;
    assert!(matches!(late, Err(CacheError::Timeout { .. })), "{late:?}");
    assert_eq!(begun.elapsed().as_millis(), 70);

    let begun = tokio::time::Instant::now();
    let many = cache.get_or_load_many_entries(["older", "newer"], load).await;
    assert_eq!(begun.elapsed().as_millis(), 50);
    let stale = many[0].as_ref().unwrap();
    assert_eq!((stale.value, stale.is_stale), (Some(1), true));
    assert!(matches!(many[1], Err(CacheError::Timeout { .. })), "{many:?}");

    sleep(SECOND / 2).await;
    for key in ["old", "new", "older", "newer"] {
        assert_eq!(cache.get(key), Some(2), "the load of {key} went on");
    }
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
