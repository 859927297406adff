//! How long entries live, in process and in shared tiers.

use std::{sync::Arc, time::Duration};

use paystrata_cache::{Cache, Clock, LoadContext, Lookup, Policy, Version, testkit::Site};
use tokio::time::{advance, sleep};

use crate::kit::{Broken, SECOND, Teller, alone, node, trips};

// T10
#[tokio::test(start_paused = true)]
async fn lifetime_of_zero_stores_nothing_and_an_endless_one_does_not_overflow() {
    let teller = Teller::default();
    let none = alone(Policy { ttl: Duration::ZERO, ..Policy::default() });
    teller.value(&none, "k", 1).await;
    assert_eq!((none.get("k"), none.stats().entries), (None, 0));
    let endless = alone(Policy { ttl: Duration::MAX, l1_ttl: Duration::MAX, ..Policy::default() });
    teller.value(&endless, "k", 1).await;
    advance(86_400 * 3_650 * SECOND).await;
    assert_eq!(endless.get("k"), Some(1));
}

// T11, H7
#[tokio::test(start_paused = true)]
async fn copy_in_process_ends_with_what_the_shared_tier_has_left() {
    let site = Site::new(1);
    let policy = || Policy { ttl: 60 * SECOND, l1_ttl: 60 * SECOND, ..Policy::default() };
    let ((one, _), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
    let teller = Teller::default();
    let load = |context: LoadContext<u64>| async move {
        context.version(Version(7));
        Ok::<_, Broken>(Some(1))
    };
    one.get_or_load("k", load).await.unwrap();
    sleep(53 * SECOND).await;
    assert_eq!(teller.value(&other, "k", 2).await, 1);
    let copy = other.explain("k").await.local.unwrap();
    assert_eq!(copy.version, Version(7), "that of the value's making");
    assert!(copy.remaining <= 7 * SECOND, "{copy:?}");
    sleep(8 * SECOND).await;
    assert_eq!(other.get("k"), None);
    assert_eq!(teller.value(&other, "k", 3).await, 3);
}

// T12
#[tokio::test(start_paused = true)]
async fn copy_in_process_that_ends_earlier_is_read_again_from_the_shared_tier() {
    let site = Site::new(2);
    let policy = Policy { ttl: 10 * SECOND, l1_ttl: SECOND, ..Policy::default() };
    let ((one, _), teller) = (node(&site, policy).await, Teller::default());
    teller.value(&one, "k", 1).await;
    trips().await;
    sleep(SECOND).await;
    assert_eq!(one.get("k"), None);
    assert_eq!((teller.value(&one, "k", 2).await, teller.calls()), (1, 1));
}

// T14: lifetimes are lengthened by chance, never shortened.
#[tokio::test(start_paused = true)]
async fn keys_stored_together_do_not_expire_together_and_none_before_its_time() {
    let policy = Policy { ttl: 10 * SECOND, l1_ttl: 10 * SECOND, jitter: 0.5, ..Policy::default() };
    let cache: Cache<u64, u64> = Cache::builder("spread").policy(policy).clock(Clock::tokio()).build();
    for key in 0..200 {
        cache.get_or_load(&key, move |_| async move { Ok::<_, Broken>(Some(key)) }).await.unwrap();
    }
    let left = || (0..200).filter(|key| cache.get(key).is_some()).count();
    advance(9_999 * SECOND / 1_000).await;
    assert_eq!(left(), 200);
    advance(2_500 * SECOND / 1_000).await;
    let half = left();
    assert!((20..180).contains(&half), "{half}");
    advance(3 * SECOND).await;
    assert_eq!(left(), 0);
}

#[tokio::test(start_paused = true)]
async fn absence_has_its_own_lifetime_in_every_tier() {
    let site = Site::new(3);
    let policy = || Policy { negative_ttl: 5 * SECOND, ..Policy::default() };
    let ((one, _), (other, _)) = (node(&site, policy()).await, node(&site, policy()).await);
    let teller = Teller::default();
    assert_eq!(teller.read(&one, "k", Ok(None)).await.unwrap().value, None);
    trips().await;
    assert_eq!(teller.read(&other, "k", Ok(Some(1))).await.unwrap().value, None);
    assert_eq!((other.lookup("k"), teller.calls()), (Lookup::Absent, 1));
    sleep(5 * SECOND).await;
    assert_eq!(teller.value(&other, "k", 2).await, 2);
}

// T77
#[tokio::test(start_paused = true)]
async fn scan_of_ten_times_the_room_leaves_the_hot_keys() {
    let policy = Policy { l1_bytes_max: 256 << 10, ..Policy::default() };
    let cache: Cache<u64, Arc<[u8]>> = Cache::builder("scan")
        .policy(policy)
        .clock(Clock::tokio())
        .weigher(|_, value: &Arc<[u8]>| value.len())
        .build();
    let load = |_| async { Ok::<_, Broken>(Some(Arc::from([0_u8; 256]))) };
    for _ in 0..20 {
        for key in 0..50 {
            cache.get_or_load(&key, load).await.unwrap();
        }
    }
    for key in 1_000..9_000 {
        cache.get_or_load(&key, load).await.unwrap();
    }
    let kept = (0..50).filter(|key| cache.get(key).is_some()).count();
    assert!(kept >= 40, "{kept} of 50");
}

// T68
#[tokio::test(start_paused = true)]
async fn value_too_large_is_given_and_not_kept_and_counted() {
    let policy = Policy { l1_value_bytes_max: 100, ..Policy::default() };
    let cache: Cache<u64, Arc<[u8]>> =
        Cache::builder("large").policy(policy).weigher(|_, value: &Arc<[u8]>| value.len()).build();
    let load = |_| async { Ok::<_, Broken>(Some(Arc::from([0_u8; 101]))) };
    assert!(cache.get_or_load(&1, load).await.unwrap().is_some());
    assert_eq!((cache.get(&1), cache.stats().oversize), (None, 1));
}
