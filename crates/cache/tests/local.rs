//! A cache without a remote tier: single flight, limits, and invalidation against loads under way.
//! Gates and the paused clock instead of sleeps.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test, in shared functions too")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use paystrata_cache::{Cache, CacheError, Clock, LoadContext, Lookup, Policy, Reach, SetRefused, Version};
use tokio::{sync::Notify, task::JoinHandle};

type Numbers = Cache<String, u64>;
type Answer = Result<Option<u64>, CacheError<Broken>>;

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("source is broken")]
struct Broken;

fn cache(mut policy: Policy) -> Numbers {
    policy.jitter = 0.0;
    policy.error_ttl = Duration::ZERO;
    Cache::builder("numbers").policy(policy).clock(Clock::tokio()).build()
}

/// A loader that says when it has begun, and ends when it is let go.
#[derive(Clone, Default)]
struct Gate {
    calls: Arc<AtomicUsize>,
    begun: Arc<Notify>,
    go: Arc<Notify>,
}

impl Gate {
    fn read(&self, cache: &Numbers, key: &str, found: Result<Option<u64>, Broken>) -> JoinHandle<Answer> {
        let (gate, cache, key) = (self.clone(), cache.clone(), key.to_owned());
        tokio::spawn(async move { cache.get_or_load(key.as_str(), |_| gate.pass(found)).await })
    }

    async fn pass(self, found: Result<Option<u64>, Broken>) -> Result<Option<u64>, Broken> {
        self.calls.fetch_add(1, SeqCst);
        self.begun.notify_one();
        self.go.notified().await;
        found
    }

    fn calls(&self) -> usize {
        self.calls.load(SeqCst)
    }
}

async fn read_now(cache: &Numbers, key: &str, value: u64) -> Option<u64> {
    cache.get_or_load(key, move |_| async move { Ok::<_, Broken>(Some(value)) }).await.unwrap()
}

/// Lets every spawned task run until it waits.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn thousand_readers_of_a_cold_key_cause_one_load() {
    let (cache, gate) = (cache(Policy::default()), Gate::default());
    let readers: Vec<_> = (0..1_000).map(|_| gate.read(&cache, "k", Ok(Some(7)))).collect();
    gate.begun.notified().await;
    settle().await;
    gate.go.notify_one();
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap(), Some(7));
    }
    let stats = cache.stats();
    assert_eq!((gate.calls(), stats.loads, stats.joins, stats.misses), (1, 1, 999, 1_000));
    assert_eq!(cache.get("k"), Some(7));
}

#[tokio::test]
async fn error_is_shared_by_all_who_waited_and_not_stored() {
    let (cache, gate) = (cache(Policy::default()), Gate::default());
    let first = gate.read(&cache, "k", Err(Broken));
    gate.begun.notified().await;
    let second = gate.read(&cache, "k", Err(Broken));
    settle().await;
    gate.go.notify_one();
    let errors = (first.await.unwrap().unwrap_err(), second.await.unwrap().unwrap_err());
    let (CacheError::Load(first), CacheError::Load(second)) = errors else { panic!("{errors:?}") };
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(gate.calls(), 1);
    assert_eq!(read_now(&cache, "k", 8).await, Some(8));
}

#[tokio::test]
async fn waiter_with_another_error_type_is_told_so() {
    let (cache, gate) = (cache(Policy::default()), Gate::default());
    let leader = gate.read(&cache, "k", Err(Broken));
    gate.begun.notified().await;
    let waiter = tokio::spawn({
        let cache = cache.clone();
        async move { cache.get_or_load("k", |_| async { Ok::<_, std::fmt::Error>(None) }).await }
    });
    settle().await;
    gate.go.notify_one();
    assert!(matches!(waiter.await.unwrap(), Err(CacheError::LoadElsewhere)));
    assert!(matches!(leader.await.unwrap(), Err(CacheError::Load(_))));
}

#[tokio::test]
async fn dropped_leader_takes_nothing_from_those_who_wait() {
    let (cache, gate) = (cache(Policy::default()), Gate::default());
    let leader = gate.read(&cache, "k", Ok(Some(7)));
    gate.begun.notified().await;
    let waiter = gate.read(&cache, "k", Ok(Some(8)));
    settle().await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    gate.go.notify_one();
    assert_eq!(waiter.await.unwrap().unwrap(), Some(7));
    assert_eq!(gate.calls(), 1);
}

fn panicking() -> Result<Option<u64>, Broken> {
    panic!("loader bug")
}

#[tokio::test]
async fn panicking_loader_leaves_an_error_and_no_stuck_key() {
    let cache = cache(Policy::default());
    let panicked = cache.get_or_load("k", |_| async { panicking() }).await;
    assert!(matches!(panicked, Err(CacheError::Panicked)));
    fn panics_before_its_future(_: LoadContext<u64>) -> std::future::Ready<Result<Option<u64>, Broken>> {
        panic!("loader bug")
    }
    assert!(matches!(cache.get_or_load("k", panics_before_its_future).await, Err(CacheError::Panicked)));
    assert_eq!(read_now(&cache, "k", 8).await, Some(8));
    assert_eq!(cache.stats().load_failures, 2);
}

#[tokio::test(start_paused = true)]
async fn slow_loader_is_dropped_in_the_end_and_the_key_is_free_again() {
    let limit = Duration::from_millis(100);
    let cache = cache(Policy { load_timeout: limit, load_abandon: limit * 3, ..Policy::default() });
    let gate = Gate::default();
    let slow = gate.read(&cache, "k", Ok(Some(7))).await.unwrap();
    assert!(matches!(slow, Err(CacheError::Timeout { after }) if after == limit));
    // The loader goes on, and nobody else is called meanwhile.
    let late = gate.read(&cache, "k", Ok(Some(7))).await.unwrap();
    assert!(matches!(late, Err(CacheError::Timeout { .. })));
    assert_eq!((gate.calls(), Arc::strong_count(&gate.go)), (1, 2));
    tokio::time::sleep(limit * 3).await;
    assert_eq!(Arc::strong_count(&gate.go), 1, "it was dropped");
    assert_eq!(read_now(&cache, "k", 8).await, Some(8));
}

#[tokio::test]
async fn loads_over_the_bound_are_refused_at_once_and_places_are_given_back() {
    let cache = cache(Policy { loads_max: 1, loads_queued_max: 1, ..Policy::default() });
    let gate = Gate::default();
    let running = gate.read(&cache, "a", Ok(Some(1)));
    gate.begun.notified().await;
    let queued = gate.read(&cache, "b", Ok(Some(2)));
    settle().await;
    assert_eq!(gate.calls(), 1, "only one may run at once");
    let refused = gate.read(&cache, "c", Ok(Some(3))).await.unwrap();
    assert!(matches!(&refused, Err(error @ CacheError::Overloaded) if error.is_retryable()));

    gate.go.notify_one();
    gate.begun.notified().await;
    gate.go.notify_one();
    assert_eq!((running.await.unwrap().unwrap(), queued.await.unwrap().unwrap()), (Some(1), Some(2)));
    settle().await;
    assert_eq!(read_now(&cache, "c", 3).await, Some(3));
    assert_eq!(cache.stats().overloads, 1);
}

/// While "k" is loading 1, `change` happens; afterwards L1 must hold `left` for "k".
async fn check_change_during_load(change: impl FnOnce(&Numbers), left: Option<u64>) {
    let (cache, gate) = (cache(Policy::default()), Gate::default());
    let early = gate.read(&cache, "k", Ok(Some(1)));
    gate.begun.notified().await;
    change(&cache);
    if left.is_none() {
        // One who comes after the change does not join the load from before it.
        assert_eq!(read_now(&cache, "k", 2).await, Some(2));
    }
    gate.go.notify_one();
    assert_eq!(early.await.unwrap().unwrap(), Some(1), "one who came before may see it");
    assert_eq!(cache.get("k"), left.or(Some(2)));
    assert_eq!(cache.stats().refused_stale_sets, 1);
}

#[tokio::test]
async fn change_during_a_load_wins() {
    check_change_during_load(|cache| drop(cache.invalidate("k")), None).await;
    check_change_during_load(|cache| drop(cache.invalidate_many(["x", "k"], Version(5))), None).await;
    check_change_during_load(|cache| drop(cache.clear()), None).await;
    check_change_during_load(|cache| drop(cache.set("k".to_owned(), 9, Version(5))), Some(9)).await;
}

#[tokio::test]
async fn loader_is_told_the_version_it_must_reflect() {
    let cache = cache(Policy::default());
    let floor_of = async |key: &'static str| {
        let floor = |context: LoadContext<u64>| async move { Ok::<_, Broken>(Some(context.floor().0)) };
        cache.get_or_load(key, floor).await.unwrap().map(Version)
    };
    assert_eq!(cache.invalidate_many(["a"], Version(5)).await, Reach::Node);
    assert_eq!(cache.invalidate_many(["a"], Version(3)).await, Reach::Node);
    assert_eq!(floor_of("a").await, Some(Version(5)));
    cache.invalidate("b").await;
    assert_eq!(floor_of("b").await, Some(Version::LATEST));
}

#[tokio::test]
async fn set_of_an_older_version_than_the_last_invalidation_stores_nothing() {
    let cache = cache(Policy::default());
    cache.set("k".to_owned(), 5, Version(5)).unwrap().await;
    assert_eq!(cache.get("k"), Some(5));
    assert_eq!(cache.set("k".to_owned(), 4, Version(4)).err(), Some(SetRefused::Overtaken));
    assert_eq!(cache.get("k"), None);
    cache.invalidate_many(["k"], Version(7)).await;
    assert_eq!(cache.set("k".to_owned(), 6, Version(6)).err(), Some(SetRefused::Overtaken));
    assert_eq!(cache.get("k"), None);
    cache.set("k".to_owned(), 8, Version(8)).unwrap().await;
    assert_eq!(cache.get("k"), Some(8));
    assert_eq!(cache.stats().refused_stale_sets, 2);
}

#[tokio::test(start_paused = true)]
async fn absence_is_remembered_for_its_own_time() {
    let cache = cache(Policy { negative_ttl: Duration::from_secs(1), ..Policy::default() });
    let nothing = |_| async { Ok::<_, Broken>(None) };
    assert_eq!(cache.get_or_load("k", nothing).await.unwrap(), None);
    assert_eq!((cache.lookup("k"), cache.lookup("other")), (Lookup::Absent, Lookup::Miss));
    assert_eq!(read_now(&cache, "k", 1).await, None);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(read_now(&cache, "k", 1).await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn value_lives_exactly_as_long_as_the_policy_says() {
    let ttl = |ttl| Policy { ttl, l1_ttl: ttl, ..Policy::default() };
    let second = cache(ttl(Duration::from_secs(1)));
    read_now(&second, "k", 1).await;
    tokio::time::advance(Duration::from_millis(999)).await;
    assert_eq!(second.get("k"), Some(1));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!((second.get("k"), second.stats().entries), (None, 0));

    let none = cache(ttl(Duration::ZERO));
    assert_eq!((read_now(&none, "k", 1).await, none.get("k")), (Some(1), None));

    let endless = cache(ttl(Duration::MAX));
    read_now(&endless, "k", 1).await;
    tokio::time::advance(Duration::from_secs(86_400 * 365)).await;
    assert_eq!(endless.get("k"), Some(1));
}

#[tokio::test]
async fn every_read_is_counted_once() {
    let cache = cache(Policy::default());
    assert_eq!(cache.get_many(["a", "b"]), [None, None]);
    read_now(&cache, "a", 1).await;
    read_now(&cache, "a", 1).await;
    cache.get_or_load("b", |_| async { Ok::<_, Broken>(None) }).await.unwrap();
    assert_eq!(cache.get_many(["a", "b", "a"]), [Some(1), None, Some(1)]);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.absent_hits, stats.misses), (3, 1, 4));
    assert_eq!((stats.loads, stats.entries), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn readers_dropped_at_any_point_leave_no_load_behind() {
    let cache = cache(Policy { loads_max: 4, loads_queued_max: 4, ..Policy::default() });
    for round in 0..200_u64 {
        let slow = |_| async {
            tokio::time::sleep(Duration::from_millis(7)).await;
            Ok::<_, Broken>(Some(1))
        };
        let key = format!("k{}", round % 5);
        let read = cache.get_or_load(key.as_str(), slow);
        let _left = tokio::time::timeout(Duration::from_millis(round % 9), read).await;
        if round % 3 == 0 {
            drop(cache.invalidate(&key));
        }
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    // Every place is free again: as many as there are can be taken at once.
    let gate = Gate::default();
    let readers: Vec<_> = (0..8).map(|n| gate.read(&cache, &format!("free{n}"), Ok(Some(n)))).collect();
    settle().await;
    assert_eq!(gate.calls(), 4);
    for _ in 0..8 {
        gate.go.notify_one();
        settle().await;
    }
    for reader in readers {
        reader.await.unwrap().unwrap();
    }
}
