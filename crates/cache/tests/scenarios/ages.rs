//! How old a value is, and how long it lives, as far as nodes can tell that did not load it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use paystrata_cache::{Cache, Clock, Load, LoadContext, Origin, Policy, Version, testkit::Site};
use tokio::time::{advance, sleep};

use crate::kit::{Broken, SECOND, Teller, exact, node, trips, wait_for};

#[tokio::test(start_paused = true)]
async fn value_from_a_tier_is_as_old_as_its_load() {
    let site = Site::new(61);
    let policy = || Policy { ttl: 60 * SECOND, grace: 60 * SECOND, ..Policy::default() };
    let (one, other) = (node(&site, policy()).await.0, node(&site, policy()).await.0);
    Teller::default().value(&one, "k", 1).await;
    trips().await;
    sleep(50 * SECOND).await;
    let read = Teller::default().read(&other, "k", Ok(Some(2))).await.unwrap();
    assert_eq!((read.value, read.origin), (Some(1), Origin::Tier(0)));
    let expected = 50 * SECOND..51 * SECOND;
    assert!(expected.contains(&read.age), "{:?}", read.age);
    assert!(expected.contains(&other.explain("k").await.local.unwrap().age));
    for _ in 0..1_000 {
        assert_eq!(other.get("k"), Some(1));
    }
    let ages = other.stats().served_ages;
    assert!(ages.quantile(0.5) >= 45 * SECOND, "{ages:?}");
    sleep(5 * SECOND).await;
    let again = Teller::default().read(&other, "k", Ok(Some(2))).await.unwrap();
    assert!(again.age >= 55 * SECOND && again.age < 56 * SECOND, "{:?}", again.age);
}

#[tokio::test(start_paused = true)]
async fn of_values_that_live_for_ever_nobody_knows_how_old_they_are_and_their_copies_live_as_long_as_they_should()
 {
    let site = Site::new(62);
    let policy = || Policy { ttl: Duration::MAX, l1_ttl: 2 * SECOND, ..Policy::default() };
    let (one, other) = (node(&site, policy()).await.0, node(&site, policy()).await.0);
    Teller::default().value(&one, "k", 1).await;
    trips().await;
    let read = Teller::default().read(&other, "k", Ok(Some(2))).await.unwrap();
    assert!(read.value == Some(1) && read.age < SECOND, "{read:?}");
    advance(2 * SECOND - Duration::from_millis(100)).await;
    assert_eq!(other.get("k"), Some(1));
    advance(Duration::from_millis(100)).await;
    assert_eq!(other.get("k"), None, "no longer than that");
}

// T35
#[tokio::test(start_paused = true)]
async fn value_found_unchanged_is_as_old_as_that_whatever_life_it_was_given_then() {
    for (number, ttl) in [10 * SECOND, 20 * SECOND, 5 * SECOND].into_iter().enumerate() {
        let site = Site::new(66 + number as u64);
        let policy = || Policy { ttl: 10 * SECOND, grace: 60 * SECOND, ..Policy::default() };
        let (one, other) = (node(&site, policy()).await.0, node(&site, policy()).await.0);
        let first = |context: LoadContext<u64>| async move {
            context.validator("e");
            Ok::<_, Broken>(Some(1))
        };
        one.get_or_load("k", first).await.unwrap();
        trips().await;
        sleep(11 * SECOND).await;
        let unchanged = move |context: LoadContext<u64>| async move {
            context.ttl(ttl);
            Ok::<_, Broken>(Load::<u64>::NotModified)
        };
        assert_eq!(one.get_or_load("k", unchanged).await.unwrap(), Some(1));
        trips().await;
        sleep(3 * SECOND).await;
        let read = Teller::default().read(&other, "k", Ok(Some(2))).await.unwrap();
        assert_eq!((read.value, read.is_stale, read.origin), (Some(1), false, Origin::Tier(0)));
        assert!(read.age >= 3 * SECOND && read.age < 4 * SECOND, "{ttl:?}: {:?}", read.age);
    }
}

#[tokio::test(start_paused = true)]
async fn value_with_an_endless_grace_is_fresh_in_a_tier_while_it_is() {
    let site = Site::new(63);
    let policy = || Policy { ttl: 10 * SECOND, grace: Duration::MAX, ..Policy::default() };
    let (one, other) = (node(&site, policy()).await.0, node(&site, policy()).await.0);
    Teller::default().value(&one, "k", 1).await;
    trips().await;
    let read = Teller::default().read(&other, "k", Ok(Some(2))).await.unwrap();
    assert_eq!((read.value, read.is_stale, read.origin), (Some(1), false, Origin::Tier(0)));
}

// H11
#[tokio::test(start_paused = true)]
async fn value_that_lives_shorter_than_the_policy_says_is_loaded_ahead_by_one_node_for_all() {
    let site = Site::new(64);
    let build = || {
        let link = Arc::new(site.link());
        // With chance: the lives of what nodes read differ by it.
        let policy = Policy { refresh_at: 0.8, ..Policy::default() };
        Cache::<String, u64>::builder("numbers")
            .policy(policy)
            .clock(Clock::tokio())
            .tier(link.clone())
            .backplane(link)
            .build()
    };
    let (one, other) = (build(), build());
    wait_for(|| [&one, &other].iter().all(|cache| cache.stats().backplane_silence.is_some())).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let load = || {
        let calls = calls.clone();
        move |context: LoadContext<u64>| async move {
            context.ttl(10 * SECOND);
            calls.fetch_add(1, SeqCst);
            Ok::<_, Broken>(Some(1))
        }
    };
    let read = async || {
        for cache in [&one, &other] {
            cache.get_or_load("k", load()).await.unwrap();
            trips().await;
        }
    };
    read().await;
    for _ in 0..300 {
        sleep(Duration::from_millis(100)).await;
        read().await;
    }
    // 90 s of lives of 10 to 11, each replaced at eight tenths of it.
    let loads = calls.load(SeqCst);
    assert!((8..=13).contains(&loads), "{loads}");
}

// H9
#[tokio::test(start_paused = true)]
async fn sweep_of_a_node_without_a_line_leaves_the_tier_to_both() {
    let site = Site::new(65);
    let build = || {
        let link = Arc::new(site.link());
        Cache::<String, u64>::builder("numbers")
            .policy(exact(Policy::default()))
            .clock(Clock::tokio())
            .tier(link)
            .build()
    };
    let (one, other) = (build(), build());
    Teller::default().value(&other, "k", 1).await;
    trips().await;
    drop(one.tag("t").remove());
    let teller = Teller::default();
    assert_eq!(teller.value(&one, "k", 2).await, 2, "it believes nothing from before");
    trips().await;
    drop(other.invalidate_if(|_, _| false));
    let third = build();
    for cache in [&one, &third] {
        assert_eq!(teller.value(cache, "k", 3).await, 2, "what it has stored since is believed by all");
    }
    assert_eq!(teller.calls(), 1);
}

// H2
#[tokio::test(start_paused = true)]
async fn node_that_finds_the_order_gone_has_loads_read_from_the_primary() {
    let site = Site::new(66);
    let (cache, _) = node(&site, Policy::default()).await;
    Teller::default().value(&cache, "k", 1).await;
    trips().await;
    // As FLUSHALL: the floors in the tier are gone, and the server is the same.
    site.restart();
    wait_for(|| cache.stats().gaps > 0).await;
    trips().await;
    let floor = Arc::new(Mutex::new(None));
    let seen = floor.clone();
    let load = move |context: LoadContext<u64>| async move {
        *seen.lock().unwrap() = Some(context.floor());
        Ok::<_, Broken>(Some(2))
    };
    cache.get_or_load("k", load).await.unwrap();
    assert_eq!(*floor.lock().unwrap(), Some(Version::LATEST));
}
