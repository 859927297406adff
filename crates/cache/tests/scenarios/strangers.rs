//! Code of others: callers who stop polling, and keys, weighers and observers that panic. None of it may keep anybody else
//! from an answer, or end a task of the cache's own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use paystrata_cache::{
    Cache, CacheError, CacheKey, Clock, GapCause, Invalidation, LoadEnd, Observer, Origin, Policy,
    SetRefused, Version, Write, testkit::Site,
};
use tokio::time::{Instant, sleep};

use crate::{
    behind::Table,
    kit::{Broken, Gate, SECOND, Teller, exact, node, trips, wait_for},
};

// H14
#[tokio::test(start_paused = true)]
async fn caller_who_is_no_longer_polled_keeps_nobody_waiting() {
    let site = Site::new(51);
    let (cache, _) = node(&site, Policy::default()).await;
    let load = |_| async { Ok::<_, Broken>(Some(1)) };
    let mut parked = Box::pin(cache.get_or_load("k", load));
    assert!((&mut parked).now_or_never().is_none(), "it asks the tier, and is left there");

    let begun = Instant::now();
    let teller = Teller::default();
    let others = join_all((0..100).map(|_| teller.read(&cache, "k", Ok(Some(2))))).await;
    assert!(
        others.iter().all(|other| other.as_ref().is_ok_and(|other| other.value == Some(2))),
        "{others:?}"
    );
    assert_eq!(teller.calls(), 1, "one of them loads for all");
    assert!(begun.elapsed() < cache.policy().load_timeout, "{:?}", begun.elapsed());
    assert!(parked.await.unwrap().is_some(), "and it is answered when it is polled again");
    assert_eq!(cache.get("k"), Some(2), "what it read before the others did is not stored");
}

#[tokio::test(start_paused = true)]
async fn batch_that_is_no_longer_polled_keeps_nobody_waiting() {
    let site = Site::new(52);
    let (cache, _) = node(&site, Policy::default()).await;
    let load =
        |keys: Vec<String>, _| async move { Ok::<_, Broken>(vec![Ok::<_, Broken>(Some(1)); keys.len()]) };
    let mut parked = Box::pin(cache.get_or_load_many(["a", "b"], load));
    // As far as to the question in which it claims what it did not find.
    while cache.stats().tiers[0].round_trips < 1 {
        assert!((&mut parked).now_or_never().is_none());
        sleep(Duration::from_micros(100)).await;
    }
    assert!(cache.explain("a").await.is_loading && cache.explain("b").await.is_loading);
    let teller = Teller::default();
    let (a, b) = tokio::join!(teller.value(&cache, "a", 2), teller.value(&cache, "b", 2));
    assert_eq!((a, b), (2, 2));
    assert_eq!(parked.await.len(), 2);
}

// H14
#[tokio::test(start_paused = true)]
async fn readers_of_little_patience_wait_for_nobody_who_is_not_polled() {
    let short = || Policy { load_timeout: SECOND / 20, ..Policy::default() };
    let falls_back =
        || Policy { ttl: SECOND, grace: 60 * SECOND, soft_timeout: SECOND / 20, ..Policy::default() };
    for (number, (policy, pause)) in
        [(short(), false), (short(), true), (falls_back(), false), (falls_back(), true)]
            .into_iter()
            .enumerate()
    {
        let site = Site::new(60 + number as u64);
        let has_fallback = !policy.grace.is_zero();
        let (cache, _) = node(&site, policy).await;
        if has_fallback {
            Teller::default().value(&cache, "k", 1).await;
            trips().await;
            sleep(2 * SECOND).await;
        }
        let mut parked = Box::pin(cache.read("k"));
        assert!((&mut parked).now_or_never().is_none(), "it asks the tier, and is left there");
        if pause {
            sleep(SECOND / 10).await;
        }
        let teller = Teller::default();
        let first = teller.read(&cache, "k", Ok(Some(2))).await;
        match first {
            Ok(answer) if has_fallback => {
                assert!(answer.value == Some(1) || answer.value == Some(2), "{answer:?}");
            }
            Ok(answer) => assert_eq!(answer.value, Some(2)),
            Err(CacheError::Timeout { .. }) => assert!(!has_fallback && !pause, "{number}"),
            Err(error) => panic!("{number}: {error}"),
        }
        trips().await;
        let next = teller.read(&cache, "k", Ok(Some(2))).await.unwrap();
        assert_eq!(
            (next.value, next.is_stale),
            (Some(2), false),
            "{number}: somebody has loaded it meanwhile, or does now"
        );
        assert_eq!(teller.calls(), 1, "{number}");
        parked.await;
        assert_eq!(cache.get("k"), Some(2), "{number}");
        assert_eq!(cache.stats().refused_stale_sets, 0, "{number}: nobody has overtaken anything");
    }
}

// H10
#[tokio::test(start_paused = true)]
async fn refusals_are_counted_one_by_one_and_fallbacks_are_none() {
    let site = Site::new(65);
    let few = |load_timeout| Policy {
        ttl: SECOND,
        grace: 60 * SECOND,
        loads_max: 1,
        loads_queued_max: 0,
        load_timeout,
        lease_wait: Duration::ZERO,
        ..Policy::default()
    };
    // Of the second the tiers are asked by a task, which takes its place among the loads before.
    for load_timeout in [5 * SECOND, SECOND / 10] {
        let (cache, _) = node(&site, few(load_timeout)).await;
        let (teller, gate) = (Teller::default(), Gate::default());
        teller.value(&cache, "old", 1).await;
        trips().await;
        sleep(2 * SECOND).await;
        let busy = gate.read(&cache, "busy", Ok(Some(3)));
        gate.begun.notified().await;
        let old = teller.read(&cache, "old", Ok(Some(2))).await.unwrap();
        assert_eq!((old.value, old.is_stale, cache.stats().overloads), (Some(1), true, 0));
        let new = join_all((0..3).map(|_| teller.read(&cache, "new", Ok(Some(2))))).await;
        assert!(new.iter().all(|new| matches!(new, Err(CacheError::Overloaded))), "{new:?}");
        assert_eq!(cache.stats().overloads, 3, "as many as were refused");
        gate.go.notify_one();
        drop(busy.await.unwrap());
        trips().await;
        cache.clear().await;
    }
}

// H10
#[tokio::test(start_paused = true)]
async fn values_of_a_warm_tier_need_no_room_among_the_loads() {
    let site = Site::new(53);
    let few =
        || Policy { loads_max: 2, loads_queued_max: 1, lease_wait: Duration::ZERO, ..Policy::default() };
    let (warm, _) = node(&site, Policy::default()).await;
    let keys: Vec<String> = (0..100).map(|key| key.to_string()).collect();
    for key in &keys {
        Teller::default().value(&warm, key, 7).await;
    }
    trips().await;
    let (cold, _) = node(&site, few()).await;
    let teller = Teller::default();
    let read = join_all(keys.iter().map(|key| teller.read(&cold, key, Ok(Some(8))))).await;
    assert!(
        read.iter().all(|read| matches!(read, Ok(loaded) if loaded.origin == Origin::Tier(0))),
        "{read:?}"
    );
    assert_eq!((teller.calls(), cold.stats().overloads), (0, 0));

    // What the tier does not have is bounded as ever: three have a seat, and the others are told at once.
    let slow = |_| async {
        sleep(SECOND).await;
        Ok::<_, Broken>(Some(9))
    };
    let fresh: Vec<String> = (0..20).map(|key| format!("new {key}")).collect();
    let read = join_all(fresh.iter().map(|key| cold.get_or_load(key, slow))).await;
    let refused = read.iter().filter(|read| matches!(read, Err(CacheError::Overloaded))).count();
    assert_eq!((refused, cold.stats().overloads), (17, 17));
    assert_eq!(read.iter().filter(|read| matches!(read, Ok(Some(9)))).count(), 3);
    // Their claims were given back.
    trips().await;
    let (next, _) = node(&site, Policy::default()).await;
    assert_eq!(Teller::default().value(&next, "new 19", 3).await, 3);
}

/// A key whose author did not think of other releases.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Rash(u64);

impl CacheKey for Rash {
    fn encode(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self(u64::from_be_bytes(bytes[..8].try_into().ok()?)))
    }
}

// H25
#[tokio::test(start_paused = true)]
async fn key_of_another_release_that_panics_when_it_is_read_deafens_nobody() {
    let site = Site::new(54);
    let link = Arc::new(site.link());
    let rash: Cache<Rash, u64> = Cache::builder("numbers")
        .clock(Clock::tokio())
        .backplane(link)
        .policy(exact(Policy::default()))
        .build();
    wait_for(|| rash.stats().backplane_silence.is_some()).await;
    let (other, _) = node(&site, Policy::default()).await;
    rash.get_or_load(&Rash(1), |_| async { Ok::<_, Broken>(Some(1)) }).await.unwrap();

    other.invalidate("short").await;
    wait_for(|| rash.get(&Rash(1)).is_none()).await;
    rash.get_or_load(&Rash(1), |_| async { Ok::<_, Broken>(Some(2)) }).await.unwrap();
    let same = String::from_utf8(Rash(1).encode().to_vec()).expect("zeros and a one");
    other.invalidate_many([same.as_str()], Version(5)).await;
    wait_for(|| rash.get(&Rash(1)).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn values_that_cannot_be_weighed_are_answered_and_kept_nowhere_in_process() {
    let build = |weigher: fn(&String, &u64) -> usize| {
        Cache::<String, u64>::builder("numbers")
            .policy(exact(Policy { write: Write::Behind, ..Policy::default() }))
            .clock(Clock::tokio())
            .weigher(weigher)
            .writer(Arc::new(Table::default()))
            .build()
    };
    for cache in [
        build(|_, value| if *value == 13 { panic!("on purpose") } else { 8 }),
        build(|_, value| if *value == 13 { usize::MAX } else { 8 }),
    ] {
        assert_eq!(Teller::default().value(&cache, "k", 13).await, 13);
        assert_eq!((cache.get("k"), cache.stats().oversize), (None, 1));
        for _ in 0..3 {
            assert_eq!(cache.set("k".to_owned(), 13, Version(1)).err(), Some(SetRefused::Full));
        }
        drop(cache.set("k".to_owned(), 7, Version(2)).unwrap());
        assert_eq!(Teller::default().value(&cache, "k", 9).await, 7);
        wait_for(|| cache.stats().pending_writes == 0).await;
    }
}

// H25
#[tokio::test(start_paused = true)]
async fn key_of_another_release_that_panics_leaves_no_part_of_a_change_undone() {
    let site = Site::new(58);
    let rash: Cache<Rash, u64> = Cache::builder("numbers")
        .clock(Clock::tokio())
        .backplane(Arc::new(site.link()))
        .policy(exact(Policy::default()))
        .build();
    wait_for(|| rash.stats().backplane_silence.is_some()).await;
    rash.get_or_load(&Rash(1), |_| async { Ok::<_, Broken>(Some(1)) }).await.unwrap();
    let change = Invalidation::at(Version(5)).remove(&"short".to_owned()).remove(&Rash(1));
    rash.apply(&change.encode()).expect("a change").await;
    assert_eq!(rash.get(&Rash(1)), None, "whatever the other key was");
}

/// Counts what it is told, and panics each time.
#[derive(Debug, Default)]
struct Touchy {
    told: AtomicUsize,
}

impl Touchy {
    fn told(&self) {
        self.told.fetch_add(1, SeqCst);
        panic!("on purpose");
    }
}

impl Observer for Touchy {
    fn load_ended(&self, _cache: &str, _end: LoadEnd, _elapsed: Duration) {
        self.told();
    }

    fn gap_noticed(&self, _cache: &str, _cause: GapCause) {
        self.told();
    }

    fn voided_elsewhere(&self, _cache: &str, _keys: usize, _sweeps: usize) {
        self.told();
    }
}

#[tokio::test(start_paused = true)]
async fn observer_that_panics_ends_neither_loads_nor_tasks() {
    let site = Site::new(55);
    let (touchy, link) = (Arc::new(Touchy::default()), Arc::new(site.link()));
    let cache: Cache<String, u64> = Cache::builder("numbers")
        .clock(Clock::tokio())
        .tier(link.clone())
        .backplane(link.clone())
        .observer(touchy.clone())
        .build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    let (other, _) = node(&site, Policy::default()).await;
    for version in 1..4 {
        assert_eq!(Teller::default().value(&cache, "k", version).await, version);
        other.invalidate_many(["k"], Version(version)).await;
        wait_for(|| cache.get("k").is_none()).await;
    }
    assert!(touchy.told.load(SeqCst) >= 6, "of loads and of changes");
    site.restart();
    wait_for(|| cache.stats().gaps > 0).await;
    trips().await;
    other.invalidate_many(["k"], Version(9)).await;
    assert_eq!(Teller::default().value(&cache, "k", 9).await, 9);
}
