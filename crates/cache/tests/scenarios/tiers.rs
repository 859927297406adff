//! Shared tiers that are down, slow, full of garbage, or two.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use paystrata_cache::{
    Cache, Clock, Load, LoadContext, Origin, Policy, TierOptions, Version,
    testkit::{Link, Site},
};
use tokio::time::{Instant, sleep};

use crate::kit::{Broken, Gate, Numbers, SECOND, Teller, exact, node, node_over_two, trips, wait_for};

// T53, T57, H19
#[tokio::test(start_paused = true)]
async fn tier_that_hangs_costs_its_time_limit_a_few_times_and_is_then_left_alone_until_it_answers() {
    let site = Site::new(1);
    let ((cache, link), teller) = (node(&site, Policy::default()).await, Teller::default());
    teller.value(&cache, "hit", 1).await;
    // Slower than any time limit; the line too, but within `max_stale`.
    link.faults.delay(3_600 * SECOND);
    let begun = Instant::now();
    for key in 0..6 {
        teller.value(&cache, &key.to_string(), key).await;
    }
    let waited = begun.elapsed();
    assert!(waited <= 5 * TierOptions::default().timeout, "readers waited for {waited:?}");
    let stats = &cache.stats().tiers[0];
    // Its fifth failure opens the breaker; a claim whose answer was lost may be on its way back by then.
    assert!(!stats.is_up && stats.opened == 1 && (5..=6).contains(&stats.errors), "{stats:?}");
    assert_eq!(stats.misses, 1, "an outage is no miss");
    assert_eq!(cache.get("hit"), Some(1));
    link.faults.delay(Duration::from_millis(1));
    wait_for(|| cache.stats().tiers[0].is_up).await;
    sleep(2 * SECOND).await;
    teller.value(&cache, "again", 1).await;
    assert!(cache.stats().tiers[0].is_up);
}

// T66, T58, H12
#[tokio::test(start_paused = true)]
async fn bytes_that_cannot_be_read_are_a_counted_miss_and_are_overwritten() {
    let site = Site::new(2);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    for key in 0..10 {
        teller.value(&one, &key.to_string(), key).await;
    }
    trips().await;
    site.shelf.poison("numbers", &Bytes::from_static(b"garbage"));
    for key in 0..10 {
        assert_eq!(teller.value(&other, &key.to_string(), key + 100).await, key + 100);
    }
    trips().await;
    let stats = &other.stats().tiers[0];
    assert_eq!((stats.poisoned, stats.opened, stats.is_up), (10, 0, true));
    let (third, _) = node(&site, Policy::default()).await;
    assert_eq!(teller.value(&third, "3", 7).await, 103);
}

fn two_tiers(one: &Link, other: &Link) -> Numbers {
    Cache::builder("numbers")
        .policy(exact(Policy { l1_ttl: SECOND, ..Policy::default() }))
        .clock(Clock::tokio())
        .tier(Arc::new(one.clone()))
        .tier_with(Arc::new(other.clone()), TierOptions { ttl: 30 * SECOND, ..TierOptions::default() })
        .backplane(Arc::new(one.clone()))
        .build()
}

#[tokio::test(start_paused = true)]
async fn tier_with_a_life_of_its_own_keeps_a_value_fresh_for_so_long_and_then_for_its_grace() {
    let site = Site::new(29);
    let node = async || {
        let link = Arc::new(site.link());
        let policy = exact(Policy { ttl: 60 * SECOND, grace: 600 * SECOND, ..Policy::default() });
        let options = TierOptions { ttl: 30 * SECOND, ..TierOptions::default() };
        let builder = Cache::builder("numbers").policy(policy).clock(Clock::tokio());
        let cache: Numbers = builder.tier_with(Arc::<Link>::clone(&link), options).backplane(link).build();
        wait_for(|| cache.stats().backplane_silence.is_some()).await;
        cache
    };
    let (teller, first) = (Teller::default(), node().await);
    teller.value(&first, "loaded", 1).await;
    drop(first.set("set".to_owned(), 1, Version(1)));
    trips().await;
    for key in ["loaded", "set"] {
        assert_eq!(teller.value(&node().await, key, 2).await, 1, "{key}");
    }
    sleep(31 * SECOND).await;
    for key in ["loaded", "set"] {
        let found = teller.read(&node().await, key, Err(Broken)).await.unwrap();
        assert_eq!((found.value, found.is_stale), (Some(1), true), "{key}");
    }
}

// H3
#[tokio::test(start_paused = true)]
async fn removal_that_reaches_the_lower_tier_late_is_undone_by_no_reader() {
    let (near, far) = (Site::new(43), Site::new(44));
    let (writer, _, to_far) = node_over_two(&near, &far, Policy::default()).await;
    let (reader, ..) = node_over_two(&near, &far, Policy::default()).await;
    let teller = Teller::default();
    let moments = || (0..60).map(|moment| (Duration::from_millis(moment), format!("k{moment}")));
    for (_, key) in moments() {
        teller.value(&writer, &key, 1).await;
    }
    trips().await;
    to_far.faults.delay(Duration::from_millis(30));
    for (moment, key) in moments() {
        let removing = writer.invalidate(&key);
        sleep(moment).await;
        // Who was not told yet may see either.
        teller.value(&reader, &key, 2).await;
        let _reach = removing.await;
        trips().await;
        let (late, ..) = node_over_two(&near, &far, Policy::default()).await;
        for cache in [&reader, &late] {
            assert_eq!(teller.value(cache, &key, 2).await, 2, "{key}");
        }
    }
}

// T57
#[tokio::test(start_paused = true)]
async fn either_tier_can_be_lost_and_what_one_has_is_taken_up_by_the_one_above() {
    let (near, far) = (Site::new(3), Site::new(4));
    let (one, other) = (near.link(), far.link());
    let (cache, teller) = (two_tiers(&one, &other), Teller::default());
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    teller.value(&cache, "k", 1).await;
    trips().await;
    assert_eq!((near.shelf.values("numbers"), far.shelf.values("numbers")), (1, 1));
    near.shelf.restart();
    sleep(SECOND).await;
    let found = teller.read(&cache, "k", Ok(Some(2))).await.unwrap();
    assert_eq!((found.value, found.origin), (Some(1), Origin::Tier(1)));
    trips().await;
    assert_eq!(near.shelf.values("numbers"), 1, "taken up");
    other.faults.set_down(true);
    sleep(SECOND).await;
    let found = teller.read(&cache, "k", Ok(Some(2))).await.unwrap();
    assert_eq!((found.value, found.origin), (Some(1), Origin::Tier(0)));
    // What the far tier could not be told is believed by nobody.
    drop(cache.invalidate_many(["k"], Version(5)));
    assert_eq!(teller.value(&cache, "k", 3).await, 3);
    other.faults.set_down(false);
    wait_for(|| cache.stats().pending_invalidations == 0).await;
}

// T57
#[tokio::test(start_paused = true)]
async fn near_tier_that_hangs_or_is_away_leaves_what_the_far_one_has() {
    for hangs in [true, false] {
        let (near, far) = (Site::new(36), Site::new(37));
        let (one, other) = (near.link(), far.link());
        // The line is the far site's: that of the near one would be gone as well.
        let cache: Numbers = Cache::builder("numbers")
            .policy(exact(Policy { l1_ttl: SECOND, ..Policy::default() }))
            .clock(Clock::tokio())
            .tier(Arc::new(one.clone()))
            .tier(Arc::new(other.clone()))
            .backplane(Arc::new(other.clone()))
            .build();
        let teller = Teller::default();
        wait_for(|| cache.stats().backplane_silence.is_some()).await;
        teller.value(&cache, "k", 1).await;
        trips().await;
        if hangs {
            one.faults.delay(3_600 * SECOND);
        } else {
            one.faults.set_down(true);
        }
        let mut slowest = Duration::ZERO;
        for round in 0..20 {
            sleep(2 * SECOND).await;
            let begun = Instant::now();
            let found = teller.read(&cache, "k", Ok(Some(2))).await.unwrap();
            assert_eq!((found.value, found.origin), (Some(1), Origin::Tier(1)), "round {round}");
            slowest = slowest.max(begun.elapsed());
        }
        let limit = 4 * TierOptions::default().timeout;
        assert!(slowest < limit, "{slowest:?}");
        assert!(!hangs || cache.stats().tiers[0].opened > 0, "it is left alone after a few times");
        assert_eq!(teller.calls(), 1);
    }
}

// T50 in shared tiers, H21
#[tokio::test(start_paused = true)]
async fn expired_value_is_a_fallback_from_the_shared_tier_too_and_a_removed_one_is_not() {
    for (expire, left) in [(true, Some(1)), (false, None)] {
        for by_tag in [true, false] {
            let site = Site::new(5);
            let policy = || Policy { grace: 60 * SECOND, ..Policy::default() };
            let ((one, _), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
            let tagged = |context: LoadContext<u64>| async move {
                context.tag("t");
                Ok::<_, Broken>(Some(1))
            };
            one.get_or_load("k", tagged).await.unwrap();
            trips().await;
            match (by_tag, expire) {
                (true, true) => one.tag("t").expire().await,
                (true, false) => one.tag("t").remove().await,
                (false, true) => one.expire("k").await,
                (false, false) => one.invalidate("k").await,
            };
            trips().await;
            let found = Teller::default().read(&other, "k", Err(Broken)).await;
            let found = found.ok().map(|loaded| (loaded.value, loaded.is_stale));
            assert_eq!(found, left.map(|value| (Some(value), true)), "{expire} {by_tag}");
        }
    }
}

fn with_grace() -> Policy {
    Policy { ttl: 10 * SECOND, l1_ttl: 10 * SECOND, grace: 60 * SECOND, ..Policy::default() }
}

/// Two nodes, of which the first has loaded a value that is past its lifetime now.
async fn pair_past_its_lifetime(site: &Site) -> (Numbers, Numbers) {
    let ((one, _), (other, _)) = (node(site, with_grace()).await, node(site, with_grace()).await);
    let load = |context: LoadContext<u64>| async move {
        context.validator("etag-1");
        Ok::<_, Broken>(Some(1))
    };
    one.get_or_load("k", load).await.unwrap();
    sleep(11 * SECOND).await;
    (one, other)
}

// T35 in shared tiers, T36
#[tokio::test(start_paused = true)]
async fn unchanged_value_lives_anew_in_the_shared_tier_without_being_written_again() {
    let site = Site::new(6);
    let (one, other) = pair_past_its_lifetime(&site).await;
    // The other node has never had it: what it is shown comes from the tier.
    let unchanged = |context: LoadContext<u64>| async move {
        assert_eq!(context.stale().unwrap().validator.as_deref(), Some("etag-1"));
        Ok::<_, Broken>(Load::<u64>::NotModified)
    };
    assert_eq!(other.get_or_load("k", unchanged).await.unwrap(), Some(1));
    trips().await;
    let teller = Teller::default();
    let found = teller.read(&one, "k", Ok(Some(2))).await.unwrap();
    assert_eq!((found.value, found.is_stale, teller.calls()), (Some(1), false, 0));
}

// H7: a record says itself how much of its life is grace.
#[tokio::test(start_paused = true)]
async fn unchanged_value_with_another_grace_is_fresh_for_its_ttl() {
    for grace in [3_600 * SECOND, Duration::ZERO] {
        let site = Site::new(26);
        let (_one, other) = pair_past_its_lifetime(&site).await;
        let unchanged = move |context: LoadContext<u64>| async move {
            context.grace(grace);
            Ok::<_, Broken>(Load::<u64>::NotModified)
        };
        assert_eq!(other.get_or_load("k", unchanged).await.unwrap(), Some(1));
        trips().await;
        let (third, _) = node(&site, with_grace()).await;
        assert_eq!(Teller::default().value(&third, "k", 2).await, 1, "it is fresh");
        sleep(11 * SECOND).await;
        let (fourth, _) = node(&site, with_grace()).await;
        assert_eq!(Teller::default().value(&fourth, "k", 2).await, 2, "it is fresh no more");
    }
}

// T68
#[tokio::test(start_paused = true)]
async fn value_too_large_for_the_tier_is_given_and_kept_in_process_only() {
    let site = Site::new(7);
    let link = Arc::new(site.link());
    let cache: Cache<String, String> = Cache::builder("texts")
        .clock(Clock::tokio())
        .tier_with(
            Arc::<Link>::clone(&link),
            TierOptions { value_bytes_max: 1_000, ..TierOptions::default() },
        )
        .backplane(link)
        .build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    cache.get_or_load("k", |_| async { Ok::<_, Broken>(Some("x".repeat(2_000))) }).await.unwrap();
    trips().await;
    assert_eq!((cache.stats().tiers[0].oversize, site.shelf.values("texts")), (1, 0));
    assert!(cache.get("k").is_some());
}

// T68 in process: the room is shared out among shards, and none holds more than its part.
#[tokio::test(start_paused = true)]
async fn value_too_heavy_for_its_part_of_the_room_is_counted() {
    let policy = Policy { l1_bytes_max: 1 << 20, ..Policy::default() };
    let weigher = |_: &String, bytes: &u64| usize::try_from(*bytes).expect("a small number");
    let cache = Cache::builder("numbers").policy(policy).clock(Clock::tokio()).weigher(weigher).build();
    let (heavy, light) = (900 << 10, 1 << 10);
    drop(cache.set("heavy".to_owned(), heavy, Version::NONE));
    drop(cache.set("light".to_owned(), light, Version::NONE));
    assert_eq!((cache.get("heavy"), cache.get("light")), (None, Some(light)));
    assert_eq!(cache.stats().oversize, 1);
}

// T72
#[tokio::test(start_paused = true)]
async fn any_key_works_through_a_shared_tier() {
    let site = Site::new(8);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let long = "x".repeat(300);
    let keys = ["", "a b", "a\nb", "*", "{a}b", "\u{e9}\u{1f980}", long.as_str()];
    let teller = Teller::default();
    for (value, key) in (0_u64..).zip(keys) {
        teller.value(&one, key, value).await;
    }
    trips().await;
    for (value, key) in (0_u64..).zip(keys) {
        assert_eq!(teller.value(&other, key, 99).await, value, "{key:?}");
    }
}

// T80
#[tokio::test(start_paused = true)]
async fn what_went_wrong_and_how_old_values_were_is_told() {
    let site = Site::new(10);
    let policy = Policy { ttl: SECOND, l1_ttl: SECOND, grace: 60 * SECOND, ..Policy::default() };
    let ((cache, link), gate, teller) = (node(&site, policy).await, Gate::default(), Teller::default());
    let slow = |_| async {
        sleep(SECOND / 4).await;
        Ok::<_, Broken>(Some(1))
    };
    cache.get_or_load("k", slow).await.unwrap();
    let took = cache.stats().load_times.sum();
    assert!(took >= SECOND / 4 && took < SECOND, "{took:?}");
    sleep(SECOND / 2).await;
    (0..10_000).for_each(|_| assert_eq!(cache.get("k"), Some(1)));
    let ages = cache.stats().served_ages;
    assert!(ages.count() > 0 && ages.max() >= SECOND / 2 && ages.max() < SECOND, "{ages:?}");
    sleep(SECOND).await;
    assert!(teller.read(&cache, "k", Err(Broken)).await.unwrap().is_stale);
    teller.read(&cache, "none", Ok(None)).await.unwrap();
    assert_eq!(cache.lookup("none"), paystrata_cache::Lookup::Absent);
    let overtaken = gate.read(&cache, "overtaken", Ok(Some(1)));
    gate.begun.notified().await;
    drop(cache.invalidate_many(["overtaken"], Version(5)));
    gate.go.notify_one();
    overtaken.await.unwrap().unwrap();
    link.deafen();
    site.restart();
    link.mend();
    wait_for(|| cache.stats().gaps > 0).await;
    let stats = cache.stats();
    assert_eq!((stats.stale, stats.absent_hits, stats.refused_stale_sets), (1, 1, 1));
    assert_eq!((stats.load_failures, stats.gaps), (1, 1));
}

// T80
#[tokio::test(start_paused = true)]
async fn hits_and_misses_are_all_the_calls() {
    let site = Site::new(9);
    let ((cache, _), teller) = (node(&site, Policy::default()).await, Teller::default());
    for round in 0..3 {
        for key in 0..10_u64 {
            let told = if key % 3 == 0 { None } else { Some(key) };
            teller.read(&cache, &key.to_string(), Ok(told)).await.unwrap();
        }
        let stats = cache.stats();
        assert_eq!(stats.hits + stats.absent_hits + stats.misses, (round + 1) * 10);
        assert_eq!((stats.misses, stats.loads), (10, 10));
    }
    assert!((cache.stats().hit_ratio() - 2.0 / 3.0).abs() < 1e-9);
}
