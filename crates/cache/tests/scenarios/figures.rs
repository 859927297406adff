//! What `stats()` says, and what an observer is told besides.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use paystrata_cache::{Cache, Clock, Observer, Policy, TierCall, Version, testkit::Site, tier::TierError};
use tokio::time::{advance, sleep};

use crate::kit::{Broken, Numbers, SECOND, Teller, alone, exact, node, settle, trips, wait_for};

// T80
#[tokio::test(start_paused = true)]
async fn every_read_is_a_hit_an_absent_hit_or_a_miss() {
    let policy = Policy { grace: 60 * SECOND, refresh_at: 0.5, ttl: 10 * SECOND, ..Policy::default() };
    let (cache, teller) = (alone(policy), Teller::default());
    let mut calls = 0;
    let mut asked = |times: u64| {
        calls += times;
        assert_eq!(cache.stats().calls(), calls);
    };
    for told in [Ok(Some(1)), Ok(Some(1)), Err(Broken)] {
        teller.read(&cache, "k", told).await.unwrap();
    }
    teller.read(&cache, "absent", Ok(None)).await.unwrap();
    teller.read(&cache, "absent", Ok(None)).await.unwrap();
    teller.read(&cache, "broken", Err(Broken)).await.unwrap_err();
    asked(6);
    // Fresh, due, past its lifetime with a fallback, and resting after a load that failed.
    for wait in [0, 6, 5, 0] {
        advance(wait * SECOND).await;
        cache.get("k");
        cache.get_with("k", |_| ());
        cache.lookup("k");
        cache.get_stale("k");
        cache.read("k").await;
        cache.get_many(["k", "absent", "nothing"]);
        teller.read(&cache, "k", Err(Broken)).await.unwrap();
        asked(9);
        let load = |keys: Vec<String>, _| async move {
            Ok::<_, Broken>(vec![Err::<Option<u64>, _>(Broken); keys.len()])
        };
        cache.get_or_load_many(["k", "nothing", "k"], load).await;
        asked(2);
        settle().await;
    }
    let stats = cache.stats();
    assert!(stats.hits > 0 && stats.absent_hits > 0 && stats.misses > 0 && stats.stale > 0, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn loads_are_timed() {
    let cache = alone(Policy::default());
    for key in 0..10_u64 {
        let slow = move |_| async move {
            sleep(Duration::from_millis(10 * key)).await;
            Ok::<_, Broken>(key)
        };
        cache.get_or_load(key.to_string().as_str(), slow).await.unwrap();
    }
    let times = cache.stats().load_times;
    assert_eq!(
        (times.count(), times.sum(), times.max()),
        (10, Duration::from_millis(450), Duration::from_millis(90))
    );
    let median = times.quantile(0.5);
    assert!((40..=45).contains(&median.as_millis()), "{median:?}");
}

#[tokio::test(start_paused = true)]
async fn ages_of_served_values_are_sampled() {
    let (cache, teller) = (alone(Policy::default()), Teller::default());
    teller.value(&cache, "k", 1).await;
    advance(30 * SECOND).await;
    (0..1_000).for_each(|_| assert_eq!(cache.get("k"), Some(1)));
    let ages = cache.stats().served_ages;
    assert!((2..=5).contains(&ages.count()), "{ages:?}");
    assert_eq!((ages.mean(), ages.quantile(0.5)), (30 * SECOND, 30 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn ages_of_stale_answers_are_sampled_too() {
    let policy = Policy { ttl: SECOND, grace: 60 * SECOND, ..Policy::default() };
    let (cache, teller) = (alone(policy), Teller::default());
    teller.value(&cache, "k", 1).await;
    advance(30 * SECOND).await;
    assert!(teller.read(&cache, "k", Err(Broken)).await.unwrap().is_stale);
    let ages = cache.stats().served_ages;
    assert_eq!((ages.count(), ages.max()), (1, 30 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn that_a_tier_knows_of_nothing_is_told_apart_from_values() {
    let site = Site::new(28);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    teller.read(&one, "none", Ok(None)).await.unwrap();
    trips().await;
    assert_eq!(teller.read(&other, "none", Ok(Some(1))).await.unwrap().value, None);
    let tier = &other.stats().tiers[0];
    assert_eq!((tier.hits, tier.absent_hits), (1, 1));
    let told = &other.explain("none").await.tiers[0];
    assert_eq!((told.state, told.has_value), ("fresh", false));
}

#[derive(Debug, Default)]
struct Ear(Mutex<Vec<TierCall>>);

impl Observer for Ear {
    fn tier_called(&self, cache: &str, call: &TierCall) {
        assert_eq!(cache, "numbers");
        self.0.lock().unwrap().push(*call);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_tier_are_timed_and_told() {
    let (site, ear) = (Site::new(1), Arc::new(Ear::default()));
    let link = site.link();
    let tier = Arc::new(link.clone());
    let cache: Numbers = Cache::builder("numbers")
        .policy(exact(Policy::default()))
        .clock(Clock::tokio())
        .observer(Arc::<Ear>::clone(&ear))
        .tier(Arc::<paystrata_cache::testkit::Link>::clone(&tier))
        .backplane(tier)
        .build();
    wait_for(|| cache.stats().backplane_silence.is_some()).await;
    Teller::default().value(&cache, "k", 1).await;
    trips().await;
    // The answer is lost, so that the call is made and fails.
    link.faults.lose_answers(100);
    Teller::default().value(&cache, "other", 1).await;
    let calls = ear.0.lock().unwrap().clone();
    let told: Vec<_> = calls.iter().map(|call| (call.verb, call.keys, call.error)).collect();
    assert_eq!(told, [("read", 1, None), ("settle", 1, None), ("read", 1, Some(TierError::TimedOut))]);
    let times = cache.stats().tiers[0].trip_times.clone();
    assert_eq!(times.sum(), calls.iter().map(|call| call.took).sum::<Duration>());
    assert_eq!(cache.stats().tiers[0].round_trips, 3);
}

// T80: what a node refused, missed and dropped is counted.
#[tokio::test(start_paused = true)]
async fn gap_is_counted_and_so_is_the_silence_of_the_line() {
    let site = Site::new(2);
    let ((one, link), (other, _)) =
        (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    link.deafen();
    drop(other.invalidate("k"));
    trips().await;
    site.wire.forget_log();
    link.mend_hearing();
    wait_for(|| one.stats().gaps == 1).await;
    assert!(one.stats().backplane_silence.is_some_and(|silence| silence < 5 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn bytes_are_counted_where_they_go() {
    let site = Site::new(71);
    let ((one, _), (other, _)) = (node(&site, Policy::default()).await, node(&site, Policy::default()).await);
    let teller = Teller::default();
    teller.value(&one, "k", 1).await;
    trips().await;
    let written = one.stats().tiers[0].bytes_written;
    assert!(written > 0 && one.stats().tiers[0].bytes_read == 0);
    teller.value(&other, "k", 2).await;
    assert_eq!((other.stats().tiers[0].bytes_read, other.stats().tiers[0].bytes_written), (written, 0));
    one.set("k".to_owned(), 2, Version(2)).unwrap().await;
    assert_eq!(one.stats().tiers[0].bytes_written, 2 * written);
}
